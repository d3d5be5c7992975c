"""Sizes and their conversions: the only place where bytes become pages or text."""

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
KIB = 1 << 10
MIB = 1 << 20


def round_up(value: int, multiple: int) -> int:
    """Round a value up to a multiple.

    >>> round_up(4097, 4096)
    8192

    Args:
        value: any non-negative quantity.
        multiple: positive, in the same unit; need not be a power of two.
    """
    return -(-value // multiple) * multiple


def round_down(value: int, multiple: int) -> int:
    """Round a value down to a multiple.

    >>> round_down(4097, 4096)
    4096
    """
    return value // multiple * multiple


def bytes_to_pages(size_bytes: int) -> int:
    """Count the pages that hold a number of bytes, the last one perhaps in part.

    >>> bytes_to_pages(4097)
    2
    """
    return -(-size_bytes // PAGE_SIZE)


def pages_to_bytes(nr_pages: int) -> int:
    """Give the size of whole pages.

    >>> pages_to_bytes(2)
    8192
    """
    return nr_pages * PAGE_SIZE


def format_bytes(size_bytes: float) -> str:
    """Write a size for people, with a binary unit and at most one decimal.

    >>> format_bytes(60), format_bytes(65536), format_bytes(1 << 21), format_bytes(1536)
    ('60 B', '64 KiB', '2 MiB', '1.5 KiB')
    """
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB"):
        if abs(value) < 1024:
            break
        value /= 1024
    else:
        unit = "GiB"
    return f"{value:.1f}".removesuffix(".0") + f" {unit}"
