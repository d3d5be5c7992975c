"""What leaves no event and the model cannot know for certain, told by what was decided.

Once pages were given back, it is not certain which pages are populated and which chunks are out of use: both depend on
when the balance work ran. A decision that needs them otherwise tells how they were.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core import layout as L
from ..core import replay as R
from ..core.bitmap import PCPU_BITMAP_BLOCK_BITS, PCPU_SLOT_FAIL_THRESHOLD, pcpu_chunk_slot
from ..core.state import State
from ..units import PAGE_SIZE
from .causes import ISOLATED, PARKED, POPULATED

if TYPE_CHECKING:
    from .search import Search

__all__ = ["mend"]

_END = 1 << 40  # behind every chunk

_Mended = tuple[int, int, int, int, int]  # cause, kind of row, chunk, off, size


def mend(search: Search, row: int) -> _Mended | None:
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


def _not_populated(search: Search, chunk: int, off: int, size: int) -> _Mended | None:
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


def _other_chunk(search: Search, chunk: int, wanted: int) -> _Mended | None:
    """Let the chunk that was used be in use, or the one that was passed over not."""
    machine = search.machine
    engine = machine.engine
    c, passed_over = int(machine.handles[chunk]), int(machine.handles[wanted]) if wanted >= 0 else 0
    if c and engine.chunk[c + L.ISOLATED] and search.was_reclaimed:
        return ISOLATED, R.ROW_REINTEGRATE, chunk, 0, 0
    if not passed_over or engine.chunk[passed_over + L.IMMUTABLE]:
        return None
    slot = int(pcpu_chunk_slot(State(*[memoryview(array) for array in engine.arrays()]), passed_over))
    if slot < PCPU_SLOT_FAIL_THRESHOLD:
        return PARKED, R.ROW_PARK, wanted, 0, 0
    nr_empty = int(engine.chunk[passed_over + L.CHUNK_NR_EMPTY_POP_PAGES])
    nr_pages, nr_populated = (int(engine.chunk[passed_over + word]) for word in (L.NR_PAGES, L.NR_POPULATED))
    if not search.was_reclaimed or (nr_empty < nr_pages // 4 and nr_populated == nr_pages):
        return None  # it never had so many empty pages
    kind = R.ROW_ISOLATE if engine.chunk[passed_over + L.ISOLATED] else R.ROW_SIDELINE
    return ISOLATED, kind, wanted, 0, 0
