"""What a review knows of the bitmap of v6.12: its chunks read, its decisions opened, what it cannot know mended.

Once pages were given back, it is not certain which pages are populated and which chunks are out of use: both depend on
when the balance work ran. A decision that needs them otherwise tells how they were.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ..core import layout as L
from ..core import replay as R
from ..core import replay_bitmap as REPLAY
from ..core.bitmap import (
    PCPU_BITMAP_BLOCK_BITS,
    PCPU_MIN_ALLOC_SIZE,
    PCPU_SLOT_FAIL_THRESHOLD,
    alignment_gap,
    pcpu_chunk_slot,
    pcpu_find_block_fit,
    pcpu_find_zero_area,
    pcpu_size_to_slot,
)
from ..core.state import State
from ..engine import Engine
from ..models import BITMAP, BitmapChunkState
from ..units import PAGE_SIZE
from .causes import ISOLATED, PARKED, POPULATED, Mended

if TYPE_CHECKING:
    from .search import Search

__all__ = ["MODEL", "REPLAY", "areas", "map_words", "mend", "searched", "served", "try_chunk"]

MODEL = BITMAP
_END = 1 << 40  # behind every chunk

# --- chunks ----------------------------------------------------------------------


def map_words(engine: Engine, rows: Any) -> int:
    """Give how many words of the map of a chunk are in use at most."""
    return engine.scalar(L.MAP_STRIDE)


def served(engine: Engine, c: int) -> tuple[int, int]:
    """Give where the part of a chunk begins that requests may get, and its length."""
    row = engine.chunk[c : c + L.END_OFFSET + 1].tolist()
    low = row[L.START_OFFSET]
    return low, row[L.NR_PAGES] * PAGE_SIZE - row[L.END_OFFSET] - low


def areas(chunk: BitmapChunkState) -> list[tuple[int, int]]:
    """List the areas in use as (offset, size)."""
    bounds, found = chunk.bound_map, []
    for start, end in chunk.alloc_map.tolist():
        cuts = [start, *bounds[(bounds > start) & (bounds < end)].tolist(), end]
        found += [(4 * bit, 4 * (stop - bit)) for bit, stop in pairwise(cuts)]
    end = (chunk.nr_pages << 12) - chunk.end_offset
    return [area for area in found if chunk.start_offset <= area[0] < end]


# --- decisions ---------------------------------------------------------------------


def searched(engine: Engine, size: int) -> tuple[int, int]:
    """Give the first and the last slot that a request comes to."""
    return int(pcpu_size_to_slot(engine.plain_state(), size)), engine.scalar(L.NR_SLOTS) - 2


def try_chunk(s: State, chunk: BitmapChunkState, size: int, align: int, is_atomic: bool) -> tuple[int | None, str]:
    """Try a chunk as pcpu_find_block_fit and pcpu_alloc_area do."""
    bits, bit_align = size // PCPU_MIN_ALLOC_SIZE, align // PCPU_MIN_ALLOC_SIZE
    start = pcpu_find_block_fit(s, chunk.handle, bits, bit_align, is_atomic)
    if start >= 0:
        limit = min(start + bits + PCPU_BITMAP_BLOCK_BITS, chunk.chunk_md.nr_bits)
        bit, _, _ = pcpu_find_zero_area(s.map, s.chunk[chunk.handle + L.MAP], limit, start, bits, bit_align)
        if bit < limit:
            off = bit * PCPU_MIN_ALLOC_SIZE
            return off, f"serves it at offset {off:,}, searched from {start * 4:,}"
        return None, f"its hints promised room from {start * 4:,} on, but there is none"
    return None, _refusal(s, chunk, bits, bit_align, is_atomic)


def _refusal(s: State, chunk: BitmapChunkState, bits: int, align: int, is_atomic: bool) -> str:
    md = chunk.chunk_md
    run = f"its largest known free run, {md.contig_hint * 4:,} bytes at {md.contig_hint_start * 4:,}"
    gap = alignment_gap(md.contig_hint_start, align)
    if bits > md.contig_hint:
        return f"{run}, is too short"
    if gap + bits > md.contig_hint:
        return f"{run}, is too short once aligned (contig_hint)"
    if is_atomic and pcpu_find_block_fit(s, chunk.handle, bits, align, False) >= 0:
        return "there is room, but in pages that are not populated, and the request is atomic"
    return "the records of its blocks promise no run that fits"


# --- what cannot be known ----------------------------------------------------------


def mend(search: Search, row: int) -> Mended | None:
    """Say what must have been different for a row to agree -> cause and row to add; None if nothing is known."""
    machine, tape = search.machine, search.tape
    kind, chunk, off, size, _, flags = tape.events[:6, row].tolist()
    wanted = -1
    if machine.status in (R.REPLAY_OTHER_PLACE, R.REPLAY_SERVED):
        wanted = search.recorded_chunk(int(machine.reg[R.REG_CHUNK]))
    at = int(machine.reg[R.REG_OFF])
    if kind == L.EVENT_FAIL:
        return _not_populated(search, wanted, at, _END - at)
    if flags & L.FLAG_ATOMIC:
        if _pages(search, chunk, off, size, populated=False):
            return POPULATED, R.ROW_POPULATE, chunk, off, size
        if found := _not_populated(search, wanted, at, (off if wanted == chunk and off > at else _END) - at):
            return found
    return _other_chunk(search, chunk, wanted) if wanted != chunk else None


def _not_populated(search: Search, chunk: int, off: int, size: int) -> Mended | None:
    """Let the empty pages of a place be given back, if it has any."""
    if chunk < 0:
        return None
    c = int(search.machine.handles[chunk])
    if search.machine.engine.chunk[c + L.IMMUTABLE]:
        return None
    size = min(size, int(search.machine.engine.chunk[c + L.NR_PAGES]) * PAGE_SIZE - off)
    if not _pages(search, chunk, off, size, populated=True):
        return None
    return POPULATED, R.ROW_DEPOPULATE, chunk, off, size


def _pages(search: Search, chunk: int, off: int, size: int, *, populated: bool) -> int:
    """Count the pages of a place that are not populated, or that are populated and wholly free."""
    engine, c = search.machine.engine, int(search.machine.handles[chunk])
    count = 0
    for page in range(off // PAGE_SIZE, -(-(off + size) // PAGE_SIZE)) if c else ():
        md = int(engine.chunk[c + L.MD_BLOCKS]) + page * L.NR_MD_WORDS
        is_free = bool(engine.chunk[md + L.MD_CONTIG_HINT] == PCPU_BITMAP_BLOCK_BITS)
        is_populated = bool(engine.chunk[c + L.POPULATED + page])
        count += is_populated == populated and (is_free or not populated)
    return count


def _other_chunk(search: Search, chunk: int, wanted: int) -> Mended | None:
    """Let the chunk that was used be in use, or the one that was passed over not."""
    machine = search.machine
    engine = machine.engine
    c, passed_over = int(machine.handles[chunk]), int(machine.handles[wanted]) if wanted >= 0 else 0
    if c and engine.chunk[c + L.ISOLATED] and search.was_reclaimed:
        return ISOLATED, R.ROW_REINTEGRATE, chunk, 0, 0
    if not passed_over or engine.chunk[passed_over + L.IMMUTABLE]:
        return None
    slot = int(pcpu_chunk_slot(engine.plain_state(), passed_over))
    if slot < PCPU_SLOT_FAIL_THRESHOLD:
        return PARKED, R.ROW_PARK, wanted, 0, 0
    nr_empty = int(engine.chunk[passed_over + L.CHUNK_NR_EMPTY_POP_PAGES])
    nr_pages, nr_populated = (int(engine.chunk[passed_over + word]) for word in (L.NR_PAGES, L.NR_POPULATED))
    if not search.was_reclaimed or (nr_empty < nr_pages // 4 and nr_populated == nr_pages):
        return None  # it never had so many empty pages
    kind = R.ROW_ISOLATE if engine.chunk[passed_over + L.ISOLATED] else R.ROW_SIDELINE
    return ISOLATED, kind, wanted, 0, 0
