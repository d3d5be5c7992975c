"""What a review knows of the area map of v4.13: its chunks read, its decisions opened, what it cannot know mended.

Pages are populated by requests that may sleep and by the balance work, and given back with their chunk alone; maps
become longer in the same way. So what is uncertain in a whole recording is when the work ran; a decision that needs
it otherwise tells how it was.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ..core import layout as L
from ..core import replay as R
from ..core import replay_areamap as REPLAY
from ..core.areamap import (
    ATOMIC_NEED,
    PCPU_ATOMIC_MAP_MARGIN_HIGH,
    PCPU_DFL_MAP_ALLOC,
    pcpu_chunk_slot,
    pcpu_fit_in_area,
    pcpu_size_to_slot,
)
from ..core.state import State
from ..engine import Engine
from ..models import AREA_MAP, ChunkState
from ..units import PAGE_SIZE
from .causes import EXTENDED, LEARNED, POPULATED, Mended

if TYPE_CHECKING:
    from .search import Search

__all__ = ["MODEL", "REPLAY", "areas", "map_words", "mend", "searched", "served", "try_chunk"]

MODEL = AREA_MAP

# --- chunks ----------------------------------------------------------------------


def map_words(engine: Engine, rows: Any) -> int:
    """Give how many words of the map of a chunk are in use at most."""
    return int(rows[:, L.MAP_USED].max()) + 1


def served(engine: Engine, c: int) -> tuple[int, int]:
    """Give where the part of a chunk begins that requests may get, and its length."""
    row = engine.chunk[c : c + L.MAP + 1].tolist()
    entries = engine.map[row[L.MAP] : row[L.MAP] + row[L.MAP_USED] + 1].tolist()
    low = entries[1] & ~1 if row[L.HAS_RESERVED] else 0
    return low, (entries[-1] & ~1) - low


def areas(chunk: ChunkState) -> list[tuple[int, int]]:
    """List the areas in use as (offset, size)."""
    entries = chunk.map.tolist()
    found = [(this & ~1, (following & ~1) - (this & ~1)) for this, following in pairwise(entries) if this & 1]
    return found[int(chunk.has_reserved) :]


# --- decisions ---------------------------------------------------------------------


def searched(engine: Engine, size: int) -> tuple[int, int]:
    """Give the first and the last slot that a request comes to."""
    return int(pcpu_size_to_slot(engine.plain_state(), size)), engine.scalar(L.NR_SLOTS) - 1


def try_chunk(s: State, chunk: ChunkState, size: int, align: int, is_atomic: bool) -> tuple[int | None, str]:
    """Try a chunk as pcpu_alloc and pcpu_alloc_area do."""
    if size > chunk.contig_hint:
        return None, f"its largest free area is {chunk.contig_hint:,} bytes at most (contig_hint)"
    spare = chunk.map_alloc - chunk.map_used
    if is_atomic and spare < ATOMIC_NEED:
        text = f"its map has {spare} of {chunk.map_alloc} entries to spare, {ATOMIC_NEED} are needed"
        return None, f"{text}, and an atomic request cannot make it longer"
    off = int(REPLAY.fit_in_chunk(s, chunk.handle, size, align, is_atomic))
    if off < 0:
        return None, _refusal(s, chunk, size, align, is_atomic)
    seen = sum(not entry & 1 for entry in chunk.map[:-1].tolist() if entry & ~1 <= off)
    text = f"serves it at offset {off:,}, in the {_ordinal(seen)} free area of its map"
    return off, text + ("" if is_atomic or spare >= PCPU_ATOMIC_MAP_MARGIN_HIGH else "; its map is made longer first")


def _ordinal(number: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(number, f"{number}th")


def _refusal(s: State, chunk: ChunkState, size: int, align: int, is_atomic: bool) -> str:
    entries = chunk.map.tolist()
    free = [(this, (following & ~1) - this) for this, following in pairwise(entries) if not this & 1]
    largest = max((length for _, length in free), default=0)
    if largest < size:
        return f"its largest free area, {largest:,} bytes, is too short; the hint said {chunk.contig_hint:,}"
    fits = any(pcpu_fit_in_area(s, chunk.handle, off, length, size, align, 0) >= 0 for off, length in free)
    if is_atomic and fits:
        return "there is room, but in pages that are not populated, and the request is atomic"
    return "no free area is long enough once aligned"


# --- what cannot be known ----------------------------------------------------------


def mend(search: Search, row: int) -> Mended | None:
    """Say what must have been different for a row to agree."""
    machine, tape = search.machine, search.tape
    kind, chunk, off, size, _, flags = tape.events[:6, row].tolist()
    wanted, at = -1, int(machine.reg[R.REG_OFF])
    if machine.status in (R.REPLAY_OTHER_PLACE, R.REPLAY_SERVED):
        wanted = search.recorded_chunk(int(machine.reg[R.REG_CHUNK]))
    is_alloc = kind == L.EVENT_ALLOC
    if is_alloc and flags & L.FLAG_ATOMIC and (found := _as_recorded(search, chunk, off, size)):
        return found
    if wanted >= 0 and (flags & L.FLAG_ATOMIC or not is_alloc) and (found := _not_yet(search, wanted, at)):
        return found
    return _other_order(search, chunk, wanted) if kind == L.EVENT_ALLOC else None


def _as_recorded(search: Search, chunk: int, off: int, size: int) -> Mended | None:
    """Let the place that was used have its pages, and its chunk a map with room."""
    engine, c = search.machine.engine, int(search.machine.handles[chunk])
    if not c:
        return None
    pages = range(off // PAGE_SIZE, -(-(off + size) // PAGE_SIZE))
    if any(not engine.chunk[c + L.POPULATED + page] for page in pages):
        return POPULATED, R.ROW_POPULATE, chunk, 0, off + size  # populated pages are always a run from page 0
    if engine.chunk[c + L.MAP_ALLOC] < engine.chunk[c + L.MAP_USED] + ATOMIC_NEED:
        return EXTENDED, R.ROW_EXTEND, chunk, 0, 0
    return None


def _not_yet(search: Search, chunk: int, at: int) -> Mended | None:
    """Let the empty pages of the place that was passed over not be there yet, or its map not be longer yet."""
    engine, c = search.machine.engine, int(search.machine.handles[chunk])
    if engine.chunk[c + L.IMMUTABLE] == 0 and engine.geometry.backing == "vm":
        pages = range(at // PAGE_SIZE, engine.scalar(L.UNIT_PAGES))
        state = engine.plain_state()
        populated = [page for page in pages if state.chunk[c + L.POPULATED + page]]
        if populated and all(REPLAY.is_page_free(state, c, page) for page in populated[populated[0] == pages[0] :]):
            return POPULATED, R.ROW_DEPOPULATE, chunk, at, len(pages) * PAGE_SIZE
    used, length = int(engine.chunk[c + L.MAP_USED]), int(engine.chunk[c + L.MAP_ALLOC])
    shortest = max(1 << used.bit_length(), PCPU_DFL_MAP_ALLOC)
    if shortest < min(length, used + ATOMIC_NEED):
        return EXTENDED, R.ROW_SHORTEN, chunk, 0, 0
    return None


def _other_order(search: Search, chunk: int, wanted: int) -> Mended | None:
    """Let the chunk that was used stand before the one that was passed over, if the order at the start is unknown."""
    machine = search.machine
    c, passed_over = int(machine.handles[chunk]), int(machine.handles[wanted]) if wanted >= 0 else 0
    if (search.tape.from_boot and not search.is_behind_a_loss) or not c or not passed_over or c == passed_over:
        return None
    state = machine.engine.plain_state()
    if int(pcpu_chunk_slot(state, c)) != int(pcpu_chunk_slot(state, passed_over)):
        return None
    return LEARNED, R.ROW_HEAD, chunk, 0, 0
