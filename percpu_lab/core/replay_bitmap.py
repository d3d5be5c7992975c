"""The bitmap allocator of Linux v6.12 replayed: what replay.py leaves to an allocator, and what Python calls.

Source: Linux v6.12 mm/percpu.c by its behavioural specification.
"""

from . import layout as L
from . import replay as R
from ._jit import cold, entry, kernel
from .backing import depopulate_run, populate_some
from .bitmap import (
    PCPU_BITMAP_BLOCK_BITS,
    PCPU_EMPTY_POP_PAGES_HIGH,
    PCPU_EMPTY_POP_PAGES_LOW,
    PCPU_MIN_ALLOC_SHIFT,
    PCPU_MIN_ALLOC_SIZE,
    free_slot,
    needs_balance,
    op_alloc,
    other_chunk_in_free_slot,
    pages_wanted,
    pcpu_alloc_area,
    pcpu_chunk_move,
    pcpu_chunk_relocate,
    pcpu_create_chunk,
    pcpu_find_block_fit,
    pcpu_find_zero_area,
    pcpu_free_area,
    pcpu_isolate_chunk,
    pcpu_reclaim_populated,
    pcpu_reintegrate_chunk,
    pcpu_size_to_slot,
    sidelined_slot,
)
from .bits import find_last_bit, find_next_bit
from .counters import pcpu_stats_area_alloc
from .lists import list_empty
from .locks import mutex_lock, mutex_unlock, spin_lock, spin_unlock
from .page import PAGE_SHIFT, PAGE_SIZE
from .request import pcpu_schedule_balance_work
from .slots import raw_slot
from .state import State

# --- what the model would do -------------------------------------------------------------


@kernel
def fit_in_chunk(s, c, bits, align, is_atomic):
    """Find where a chunk would serve a request -> offset in bytes, or less than 0."""
    start = pcpu_find_block_fit(s, c, bits, align, is_atomic)
    if start < 0:
        return -1
    limit = min(start + bits + PCPU_BITMAP_BLOCK_BITS, s.chunk[c + L.CHUNK_MD + L.MD_NR_BITS])
    bit, _, _ = pcpu_find_zero_area(s.map, s.chunk[c + L.MAP], limit, start, bits, align)
    return bit << PCPU_MIN_ALLOC_SHIFT if bit < limit else -1


@cold
def predict(s, size, align, flags):
    """Find where a request would be served, changing nothing -> (handle or 0, offset)."""
    bits = size >> PCPU_MIN_ALLOC_SHIFT
    bit_align = align >> PCPU_MIN_ALLOC_SHIFT
    is_atomic = (flags & L.FLAG_ATOMIC) >> 1
    reserved = s.g[L.RESERVED_CHUNK]
    if flags & L.FLAG_RESERVED and reserved != 0:
        off = fit_in_chunk(s, reserved, bits, bit_align, is_atomic)
        return (reserved, off) if off >= 0 else (0, 0)
    slot = pcpu_size_to_slot(s, size)
    while slot <= free_slot(s):
        head = slot * s.g[L.ROW_WORDS]
        c = s.chunk[head + L.LIST_NEXT]
        while c != head:
            off = fit_in_chunk(s, c, bits, bit_align, is_atomic)
            if off >= 0:
                return c, off
            c = s.chunk[c + L.LIST_NEXT]
        slot += 1
    return 0, 0


@kernel
def is_served(s, c, off, size):
    end = (s.chunk[c + L.NR_PAGES] << PAGE_SHIFT) - s.chunk[c + L.END_OFFSET]
    return s.chunk[c + L.START_OFFSET] <= off and off + size <= end and (off | size) & (PCPU_MIN_ALLOC_SIZE - 1) == 0


@kernel
def is_legal(size, align):
    return R.is_legal_size(size, PCPU_MIN_ALLOC_SIZE) and R.is_power_in(align, PCPU_MIN_ALLOC_SIZE, PAGE_SIZE)


@kernel
def begins_area(s, c, off):
    bit = off >> PCPU_MIN_ALLOC_SHIFT
    in_use = find_next_bit(s.map, s.chunk[c + L.MAP], bit + 1, bit) == bit
    return in_use and find_next_bit(s.map, s.chunk[c + L.BOUND_MAP], bit + 1, bit) == bit


@cold
def why_failed(s, c, off, size, align, flags, logged):
    if c != 0:
        is_short = flags & L.FLAG_ATOMIC == 0 and R.lacks_pages(s, c, off, size)
        return L.REASON_POPULATE if is_short else L.REASON_NONE
    if flags & L.FLAG_RESERVED and s.g[L.RESERVED_CHUNK] != 0:
        return L.REASON_RESERVED
    return L.REASON_ATOMIC if flags & L.FLAG_ATOMIC else L.REASON_NEW_CHUNK


@kernel
def has_spare(s):
    return not list_empty(s.chunk, L.LIST_NEXT, free_slot(s) * s.g[L.ROW_WORDS])


# --- what was recorded ----------------------------------------------------------------------


@cold
def request(s, size, align, flags):
    op_alloc(s.g, s.chunk, s.map, s.birth, s.ring, s.order, size, align, flags)
    s.g[L.STATUS] = L.STATUS_OK


@kernel
def end_alloc(s, c, off, size):
    """Count a new area, populate its pages, and ask for balance work as pcpu_alloc does."""
    pcpu_stats_area_alloc(s, c, size)
    spin_unlock(s)
    R.populate_pages(s, c, off >> PAGE_SHIFT, R.page_end(off, size))
    if s.g[L.NR_EMPTY_POP_PAGES] < PCPU_EMPTY_POP_PAGES_LOW:
        pcpu_schedule_balance_work(s)


@kernel
def free_end(s, c, off):
    """Find where the free stretch ends that byte `off` lies in; `off` if it is in use."""
    end = ((s.chunk[c + L.NR_PAGES] << PAGE_SHIFT) - s.chunk[c + L.END_OFFSET]) >> PCPU_MIN_ALLOC_SHIFT
    return find_next_bit(s.map, s.chunk[c + L.MAP], end, off >> PCPU_MIN_ALLOC_SHIFT) << PCPU_MIN_ALLOC_SHIFT


@cold
def clear(s, c, off, size):
    count = 0
    alloc_map = s.chunk[c + L.MAP]
    bound_map = s.chunk[c + L.BOUND_MAP]
    end = (off + size) >> PCPU_MIN_ALLOC_SHIFT
    bit = find_next_bit(s.map, alloc_map, end, off >> PCPU_MIN_ALLOC_SHIFT)
    while bit < end:
        start = find_last_bit(s.map, bound_map, bit + 1)
        pcpu_free_area(s, c, start << PCPU_MIN_ALLOC_SHIFT)
        count += 1
        bit = find_next_bit(s.map, alloc_map, end, bit)
    return count


@cold
def force(s, c, off, size):
    spin_lock(s)
    lost = clear(s, c, off, size)
    pcpu_alloc_area(s, c, size >> PCPU_MIN_ALLOC_SHIFT, 1, off >> PCPU_MIN_ALLOC_SHIFT)
    pcpu_reintegrate_chunk(s, c)
    end_alloc(s, c, off, size)
    return lost


@kernel
def free(s, c, off):
    spin_lock(s)
    pcpu_free_area(s, c, off)
    if needs_balance(s, c):
        pcpu_schedule_balance_work(s)
    spin_unlock(s)


@cold
def create(s):
    return R.make_chunk(s, pcpu_create_chunk, pcpu_chunk_relocate)


@kernel
def retire(s, c):
    return s.chunk[c + L.ISOLATED] == 0 and not other_chunk_in_free_slot(s, c)


# --- what leaves no event ---------------------------------------------------------------------


@cold
def silent(s, kind, c, off, size):
    if kind == R.ROW_IN_USE:
        set_in_use(s, c, off, size)
    elif kind == R.ROW_DEPOPULATE:
        depopulate_empty(s, c, off >> PAGE_SHIFT, R.page_end(off, size))
    else:
        move_chunk(s, c, kind)


@kernel
def set_in_use(s, c, off, size):
    """Take [off, off + size) out of use: somebody had it, and no event told."""
    spin_lock(s)
    clear(s, c, off, size)
    pcpu_alloc_area(s, c, size >> PCPU_MIN_ALLOC_SHIFT, 1, off >> PCPU_MIN_ALLOC_SHIFT)
    spin_unlock(s)
    R.populate_pages(s, c, off >> PAGE_SHIFT, R.page_end(off, size))


@cold
def depopulate_empty(s, c, start, end):
    """Give back those of the pages [start, end) that are populated and wholly free."""
    mutex_lock(s)
    for page in range(start, end):
        md = s.chunk[c + L.MD_BLOCKS] + page * L.NR_MD_WORDS
        is_free = s.chunk[md + L.MD_CONTIG_HINT] == PCPU_BITMAP_BLOCK_BITS
        if is_free and s.chunk[c + L.POPULATED + page] != 0:
            depopulate_run(s, c, page, page + 1)
    mutex_unlock(s)


@cold
def move_chunk(s, c, kind):
    spin_lock(s)
    if kind == R.ROW_PARK:
        pcpu_chunk_move(s, c, 0, True)
    elif kind in (R.ROW_ISOLATE, R.ROW_SIDELINE):
        pcpu_isolate_chunk(s, c)
        if kind == R.ROW_SIDELINE:
            pcpu_chunk_move(s, c, sidelined_slot(s), False)
    elif kind == R.ROW_REINTEGRATE:
        pcpu_reintegrate_chunk(s, c)
    spin_unlock(s)


# --- balance work ------------------------------------------------------------------------------


@cold
def balance(s):
    populated = s.g[L.NR_POPULATED_TOTAL]
    pcpu_reclaim_populated(s)
    reclaimed = s.g[L.NR_POPULATED_TOTAL] < populated
    want = PCPU_EMPTY_POP_PAGES_HIGH
    if s.g[L.ATOMIC_ALLOC_FAILED] == 0:
        want = pages_wanted(s)
    s.g[L.ATOMIC_ALLOC_FAILED] = 0
    return populate_some(s, want, raw_slot(PAGE_SIZE), free_slot(s) + 1), reclaimed


@kernel
def populate(s):
    return populate_some(s, pages_wanted(s), raw_slot(PAGE_SIZE), free_slot(s) + 1)


@kernel
def is_to_destroy(s):
    return R.has_two(s, free_slot(s))


@kernel
def is_destroyed_late(s, c):
    is_free = s.chunk[c + L.FREE_SIZE] == s.g[L.UNIT_SIZE]
    return is_free and (s.chunk[c + L.ISOLATED] != 0 or not other_chunk_in_free_slot(s, c))


# --- what Python calls ------------------------------------------------------------------------------

RULES = R.Rules(predict, request, force, is_legal, is_served, begins_area, free, why_failed, has_spare, create,
                clear, retire, balance, populate, is_to_destroy, is_destroyed_late, silent)  # fmt: skip


@entry
def replay(
    g, chunk, map_, birth, ring, order, events, marks, found, handles, reg, script, start, stop, row, hits
):  # fmt: skip
    """Replay rows of a tape; see replay.run."""
    s = State(g, chunk, map_, birth, ring, order)
    return R.run(RULES, s, events, marks, found, handles, reg, script, start, stop, row, hits)
