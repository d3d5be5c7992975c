"""Which chunk of a trace each block of percpu_stats is about: the file names neither base nor ordinal."""

from __future__ import annotations

from collections.abc import Iterator

from ..columns import RESERVED_ORDINAL
from .blocks import Block

_MATCHED = ("nr_alloc", "free_bytes", "free_size", "max_alloc_size", "sum_frag", "max_frag", "cur_min_alloc",
            "cur_med_alloc", "cur_max_alloc", "first_bit", "contig_bytes", "contig_hint")  # fmt: skip
Match = tuple[Block | None, dict[str, int] | None]


def match(ours: list[Block], reported: list[tuple[str, dict[str, int]]]) -> Iterator[Match]:
    """Find which chunk each block of a file is: boot chunks by their title, others by the numbers that agree.

    A block goes to the chunk with which it shares most numbers, nr_alloc and free bytes first; what is left
    over has no partner.
    """
    boot = {"first": 0, "reserved": RESERVED_ORDINAL}
    left = {block.ordinal: block for block in ours}
    plain: list[dict[str, int]] = []
    for kind, values in reported:
        if kind in boot:
            yield left.pop(boot[kind], None), values
        else:
            plain.append(values)
    rest = [block for block in left.values() if block.ordinal > 0]
    pairs = sorted(
        ((_agreement(block.values, values), -i, -k) for i, values in enumerate(plain) for k, block in enumerate(rest)),
        reverse=True,
    )
    done: set[int] = set()
    taken: set[int] = set()
    for _, i, k in pairs:
        if -i not in done and -k not in taken:
            done.add(-i)
            taken.add(-k)
            yield rest[-k], plain[-i]
    yield from ((None, values) for i, values in enumerate(plain) if i not in done)
    yield from ((block, None) for k, block in enumerate(rest) if k not in taken)


def _agreement(ours: dict[str, int], reported: dict[str, int]) -> tuple[bool, int]:
    same = [label for label in _MATCHED if label in ours and ours[label] == reported.get(label)]
    return "nr_alloc" in same and bool({"free_bytes", "free_size"} & set(same)), len(same)
