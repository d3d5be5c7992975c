"""What was in use when a recording began, as far as hindsight tells.

    chunk     |####|..A..|####|B...|......            # never handed out below the last touched byte: in use all along
                     ^ handed out while recorded      B freed without having been allocated: in use until then
                                                      . behind the last touched byte: unknown, taken for free

What is learned later, because the kernel skipped a place that is never handed out, is added by the search, and counted
apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..core import layout as L
from ..events import Int64s
from .tape import Tape

__all__ = ["NEVER", "ChunkStart", "chunk_starts"]

NEVER = 1 << 62
_MOST_GAP = 4  # granules
_SMALL = 4  # bytes; the area map never hands less out by itself: it belongs to a neighbour


@dataclass(frozen=True, slots=True, eq=False)
class ChunkStart:
    """What is known of a chunk that was there before the first row.

    Args:
        chunk: its number.
        granule: bytes that sizes are rounded up to.
        given: for each granule the first row that hands it out; NEVER if none does.
        limit: bytes up to the end of the last touched granule.
        in_use: (off, size) of what was in use at the start, in bytes.
    """

    chunk: int
    granule: int
    given: Int64s
    limit: int
    in_use: tuple[tuple[int, int], ...]

    def is_unknown(self, off: int, end: int, row: int) -> bool:
        """Tell whether some of [off, end) was not handed out up to a row: it may have been in use until then."""
        return bool((self.given[off // self.granule : -(-end // self.granule)] > row).any())


def chunk_starts(tape: Tape, nr_bytes: int) -> Iterator[ChunkStart]:
    """Work out the start of each chunk that no row creates.

    Args:
        tape: the rows.
        nr_bytes: of the largest chunk.
    """
    for chunk in np.flatnonzero(~tape.is_created).tolist():
        kind, number, off, size = tape.events[:4, : tape.nr_rows]
        rows = np.flatnonzero((number == chunk) & ((kind == L.EVENT_ALLOC) | (kind == L.EVENT_FREE)))
        rows = rows[(off[rows] >= 0) & (off[rows] + size[rows] <= nr_bytes)]
        yield _start(tape, chunk, rows, nr_bytes // tape.granule)


def _start(tape: Tape, chunk: int, rows: Int64s, nr_bits: int) -> ChunkStart:
    granule = tape.granule
    given = np.full(nr_bits, NEVER, np.int64)
    orphans: dict[int, int] = {}
    live: set[int] = set()
    limit = 0
    for row in rows.tolist():
        kind, _, off, size = tape.events[:4, row].tolist()
        bit = off // granule
        end = bit + max(size // granule, 1)
        if kind == L.EVENT_ALLOC:
            given[bit:end] = np.minimum(given[bit:end], row)
            live.add(bit)
        elif bit in live:
            live.discard(bit)
        elif given[bit] == NEVER:
            orphans.setdefault(bit, row)
        limit = max(limit, end)
    in_use = [(start * granule, (end - start) * granule) for start, end in _in_use(given, orphans, limit)]
    kept = tuple(area for area in in_use if area[1] >= _SMALL or area[0] // granule in orphans)
    return ChunkStart(chunk, granule, given, limit * granule, kept)


def _in_use(given: Int64s, orphans: dict[int, int], limit: int) -> Iterator[tuple[int, int]]:
    """List the stretches that were in use: what is freed without having been allocated, what is never handed out."""
    in_use = given[:limit] == NEVER
    owner = np.zeros(limit, np.int64)  # which area a granule in use belongs to; 0: somebody's for ever
    for number, bit in enumerate(sorted(orphans), 1):
        end = _end_of_area(given, orphans, limit, bit)
        in_use[bit:end] = True
        owner[bit:end] = number
    edges = np.flatnonzero(_edges(in_use, owner))
    for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if in_use[start]:
            yield start, end


def _end_of_area(given: Int64s, orphans: dict[int, int], limit: int, bit: int) -> int:
    """Find where an area ends that is freed without having been allocated: its size is in no event.

    What is handed out only behind its free may have been its own, and so may a few bytes between, too short to be
    handed out ever.
    """
    end = at = bit + 1
    while at < limit and at - end < _MOST_GAP and at not in orphans and orphans[bit] < given[at]:
        at += 1
        end = at if given[at - 1] < NEVER else end
    return end


def _edges(in_use: np.ndarray, owner: Int64s) -> np.ndarray:
    """Mark where one area or stretch ends and the next begins."""
    state = np.where(in_use, owner + 1, 0)
    return np.asarray(np.diff(state, prepend=-1, append=-1) != 0)
