"""What percpu_stats would print of each chunk at a row, as far as events determine it.

determined              nr_alloc, max_alloc_size, free bytes, sum_frag, max_frag, cur_min/med/max_alloc
of the boot chunks too  empty_pop_pages: all their pages are populated
the truth of a hint     first_bit, contig_bytes: what the kernel believes may lag behind
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..columns import PLAIN_CHUNK, Ints
from ..stats import MapStatistics, bitmap_statistics, map_statistics
from ..units import PAGE_SIZE, round_up
from .space import Space

if TYPE_CHECKING:
    from .rebuilt import Rebuilt

_BITMAP_GRANULE = 4


@dataclass(frozen=True, slots=True)
class Block:
    """The values of a chunk at a row.

    Args:
        chunk: row of the ChunkTable.
        nr_unmatched: frees so far of areas from before the recording.
        nr_free_pages: pages without any area: the most that can be empty and populated.
        values: by the label of percpu_stats.
    """

    chunk: int
    ordinal: int
    nr_unmatched: int
    nr_free_pages: int
    values: dict[str, int]


@dataclass(frozen=True, slots=True)
class _Md:
    nr_bits: int


@dataclass(frozen=True, slots=True)
class _Bits:
    """Of a BitmapChunkState what its statistics are worked out from."""

    start_offset: int
    end_offset: int
    chunk_md: _Md
    alloc_map: np.ndarray
    bound_map: np.ndarray


def blocks(rebuilt: Rebuilt, row: int, late: Ints) -> list[Block]:
    """Work out the values of all chunks before a row.

    Args:
        late: rows of the AreaTable that count as live although their events come later.
    """
    alive = rebuilt.chunks_at(row)
    live = np.union1d(rebuilt.live(row), late)
    born = rebuilt.areas.birth < row
    born[late] = True
    unmatched = rebuilt.unmatched_frees[rebuilt.unmatched_frees < row] - rebuilt.first_row
    ordinals = rebuilt.event_ordinal[unmatched + rebuilt.first_row] if len(unmatched) else unmatched
    largest = np.zeros(len(rebuilt.chunks), np.int64)
    np.maximum.at(largest, rebuilt.areas.chunk[born], rebuilt.areas.size[born])
    begin = np.searchsorted(rebuilt.areas.chunk[live], alive)
    end = np.searchsorted(rebuilt.areas.chunk[live], alive, side="right")
    return [
        _block(rebuilt, int(chunk), live[first:last], int(largest[chunk]), ordinals)
        for chunk, first, last in zip(alive, begin, end, strict=True)
    ]


def _block(rebuilt: Rebuilt, chunk: int, live: Ints, max_alloc_size: int, unmatched: Ints) -> Block:
    space, ordinal = rebuilt.space, int(rebuilt.chunks.ordinal[chunk])
    off, size = rebuilt.areas.off[live], rebuilt.areas.size[live]
    start, end = space.bounds(ordinal)
    starts, ends = np.append(start, off + size), np.append(off, end)  # of what is free
    gap = ends - starts
    free_pages = _whole_pages(starts, ends)
    free_bytes, contig = int(gap.sum()), int(gap.max())
    frag = _map_statistics(space, ordinal, off, size)
    is_areamap = space.least_size != _BITMAP_GRANULE
    values = {
        "nr_alloc": len(live),
        "max_alloc_size": max_alloc_size,
        "free_size" if is_areamap else "free_bytes": free_bytes,
        "contig_hint" if is_areamap else "contig_bytes": contig,
        **frag._asdict(),
    }
    if not is_areamap and gap.any():
        values["first_bit"] = int(starts[gap > 0][0]) // _BITMAP_GRANULE
    if not is_areamap and rebuilt.chunks.kind[chunk] != PLAIN_CHUNK:
        values["empty_pop_pages"] = free_pages
    return Block(chunk, ordinal, int(np.count_nonzero(unmatched == ordinal)), free_pages, values)


def _whole_pages(starts: Ints, ends: Ints) -> int:
    """Count the pages that lie wholly in free gaps."""
    return int(np.maximum(ends // PAGE_SIZE - -(-starts // PAGE_SIZE), 0).sum())


def _map_statistics(space: Space, ordinal: int, off: Ints, size: Ints) -> MapStatistics:
    """Let the code that reads an engine's chunk read this one."""
    start, end = space.bounds(ordinal)
    if space.least_size != _BITMAP_GRANULE:
        free = np.setdiff1d(np.append(start, off + size), np.append(off, end))
        entries = np.concatenate([[0 | 1] if start else [], off | 1, free, [end | 1]])
        return map_statistics(np.unique(entries).astype(np.int64), has_reserved=start > 0)
    region = round_up(end, PAGE_SIZE)
    hidden = [piece for piece in ((0, start), (end, region)) if piece[0] < piece[1]]
    runs = np.array([*hidden, *zip(off.tolist(), (off + size).tolist(), strict=True)], np.int64).reshape(-1, 2)
    runs = runs[np.argsort(runs[:, 0])] // _BITMAP_GRANULE
    nothing = np.zeros(0, np.int64)
    bits = _Bits(start, region - end, _Md(region // _BITMAP_GRANULE), runs, nothing)
    return bitmap_statistics(cast(Any, bits))
