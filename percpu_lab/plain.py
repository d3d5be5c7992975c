"""Text for people: one line, counts, times, tables. What strangers wrote stays text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .units import format_bytes

_SPANS = ((1e-6, 1e-9, "ns"), (1e-3, 1e-6, "us"), (1.0, 1e-3, "ms"), (120.0, 1.0, "s"), (7200.0, 60.0, "min"))


def one_line(text: Iterable[str]) -> str:
    r"""Show what could move the cursor or break the line as escapes.

    >>> print(one_line("a\nb\x1b[2J"))
    a\nb\x1b[2J
    """
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def count(number: int, word: str, plural: str = "") -> str:
    """Write a number with its word.

    >>> count(1, "area"), count(1200, "area"), count(0, "entry", "entries")
    ('1 area', '1,200 areas', '0 entries')
    """
    return f"{number:,} {word if number == 1 else plural or word + 's'}"


def format_seconds(seconds: float) -> str:
    """Write a span of time with one unit.

    >>> format_seconds(0.00025), format_seconds(12.3456), format_seconds(0), format_seconds(7300)
    ('250 us', '12.3 s', '0 s', '2.03 h')
    """
    if not seconds:
        return "0 s"
    for limit, scale, unit in _SPANS:
        if abs(seconds) < limit:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 3600:.3g} h"


def format_cell(name: str, value: object) -> str:
    """Write a value as the name of its field says: `_bytes`, `_seconds`, `share`, a count or words.

    >>> format_cell("free_bytes", 2048), format_cell("share", 0.25), format_cell("nr_areas", 1234)
    ('2 KiB', '25 %', '1,234')
    >>> format_cell("live_change", 2), format_cell("live_change_bytes", -2048)
    ('+2', '-2 KiB')
    >>> format_cell("nr_areas", None)
    '-'
    """
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return _format_number(name, value)
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _format_number(name: str, value: float) -> str:
    if "change" in name:
        return ("+" if value > 0 else "") + _format_number(name.replace("change", ""), value)
    if name == "request_bytes":
        return f"{value:,} B"
    if name.endswith("_bytes") or name == "bytes_alloc":
        return format_bytes(value)
    if name.endswith("_seconds"):
        return format_seconds(value)
    if name.startswith("share"):
        return f"{value:.0%}".replace("%", " %")
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def heading(name: str) -> str:
    """Write the name of a field as the heading of its column.

    >>> heading("live_bytes"), heading("nr_areas"), heading("median_seconds"), heading("size_bytes")
    ('live bytes', 'areas', 'median', 'size')
    """
    return name.removeprefix("nr_").removesuffix("_seconds").replace("_", " ").replace("size bytes", "size")


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool]) -> list[str]:
    """Lay cells out in columns, numbers to the right.

    >>> text_table(["who", "areas"], [["a", "12"]], [False, True])
    ['who  areas', 'a       12']
    """
    table = [[one_line(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[k]) for row in table) for k in range(len(header))]
    return ["  ".join(_aligned(row, widths, right)).rstrip() for row in table]


def _aligned(row: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> list[str]:
    return [cell.rjust(w) if to_right else cell.ljust(w) for cell, w, to_right in zip(row, widths, right, strict=True)]
