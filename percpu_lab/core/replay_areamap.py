"""The area-map allocator of Linux v4.13 replayed: what replay.py leaves to an allocator, and what Python calls.

Source: Linux v4.13 mm/percpu.c by its behavioural specification, sections 3 to 5.
"""

from . import layout as L
from . import replay as R
from ._jit import cold, entry, kernel
from .areamap import (
    ATOMIC_NEED,
    PCPU_ATOMIC_MAP_MARGIN_HIGH,
    PCPU_DFL_MAP_ALLOC,
    PCPU_EMPTY_POP_PAGES_HIGH,
    PCPU_EMPTY_POP_PAGES_LOW,
    SMALL,
    extend_queued_maps,
    find_area,
    insert_entries,
    op_alloc,
    other_chunk_in_last_slot,
    pages_wanted,
    pcpu_chunk_relocate,
    pcpu_chunk_slot,
    pcpu_count_occupied_pages,
    pcpu_create_chunk,
    pcpu_fit_in_area,
    pcpu_free_area,
    pcpu_size_to_slot,
    take_area,
)
from .backing import depopulate_run, populate_some
from .counters import pcpu_stats_area_alloc, pcpu_update_empty_pages
from .lists import list_add, list_del, list_empty
from .locks import mutex_lock, mutex_unlock, spin_lock, spin_unlock
from .page import PAGE_SHIFT, PAGE_SIZE
from .request import pcpu_schedule_balance_work
from .slots import raw_slot
from .state import State

GRANULE = 2  # bytes that sizes are rounded up to, and the least alignment

# --- what the model would do -------------------------------------------------------------


@kernel
def fit_in_chunk(s, c, size, align, is_atomic):
    """Find where a chunk would serve a request -> offset in bytes, or less than 0; leaves hints as they are."""
    if size > s.chunk[c + L.CONTIG_HINT]:
        return -1
    if is_atomic and s.chunk[c + L.MAP_ALLOC] < s.chunk[c + L.MAP_USED] + ATOMIC_NEED:
        return -1
    base = s.chunk[c + L.MAP]
    end = base + s.chunk[c + L.MAP_USED]
    at = base + s.chunk[c + L.FIRST_FREE]
    while at < end:
        this = s.map[at]
        if this & 1 == 0:
            length = (s.map[at + 1] & ~1) - this
            if length >= size:
                head = pcpu_fit_in_area(s, c, this, length, size, align, is_atomic)
                if head >= 0:
                    return this + head
        at += 1
    return -1


@cold
def predict(s, size, align, flags):
    """Find where a request would be served, changing nothing -> (handle or 0, offset)."""
    is_atomic = (flags & L.FLAG_ATOMIC) >> 1
    reserved = s.g[L.RESERVED_CHUNK]
    if flags & L.FLAG_RESERVED and reserved != 0:
        off = fit_in_chunk(s, reserved, size, align, is_atomic)
        return (reserved, off) if off >= 0 else (0, 0)
    slot = pcpu_size_to_slot(s, size)
    while slot < s.g[L.NR_SLOTS]:
        head = slot * s.g[L.ROW_WORDS]
        c = s.chunk[head + L.LIST_NEXT]
        while c != head:
            off = fit_in_chunk(s, c, size, align, is_atomic)
            if off >= 0:
                return c, off
            c = s.chunk[c + L.LIST_NEXT]
        slot += 1
    return 0, 0


@kernel
def is_served(s, c, off, size):
    base = s.chunk[c + L.MAP]
    low = 0
    if s.chunk[c + L.HAS_RESERVED] != 0:
        low = s.map[base + 1] & ~1
    return low <= off and off + size <= s.map[base + s.chunk[c + L.MAP_USED]] & ~1 and (off | size) & (GRANULE - 1) == 0


@kernel
def is_legal(size, align):
    return R.is_legal_size(size, GRANULE) and R.is_power_in(align, GRANULE, PAGE_SIZE)


@kernel
def begins_area(s, c, off):
    return find_area(s, c, off) >= s.chunk[c + L.HAS_RESERVED]


@kernel
def has_spare(s):
    return not list_empty(s.chunk, L.LIST_NEXT, last_slot(s) * s.g[L.ROW_WORDS])


@kernel
def last_slot(s):
    return s.g[L.NR_SLOTS] - 1


@kernel
def is_map_short(s, c):
    """Say whether a sleeping request would first make the map of a chunk longer."""
    return s.chunk[c + L.MAP_ALLOC] < s.chunk[c + L.MAP_USED] + PCPU_ATOMIC_MAP_MARGIN_HIGH


@cold
def must_extend(s, size, place):
    """Say whether a search comes to a chunk whose map must first become longer, before it ends at `place`."""
    slot = pcpu_size_to_slot(s, size)
    while slot < s.g[L.NR_SLOTS]:
        head = slot * s.g[L.ROW_WORDS]
        c = s.chunk[head + L.LIST_NEXT]
        while c != head:
            if size <= s.chunk[c + L.CONTIG_HINT] and is_map_short(s, c):
                return True
            if c == place:
                return False
            c = s.chunk[c + L.LIST_NEXT]
        slot += 1
    return False


@cold
def why_failed_reserved(s, place, size, is_atomic, logged):
    c = s.g[L.RESERVED_CHUNK]
    is_tried = size <= s.chunk[c + L.CONTIG_HINT]
    if is_atomic:
        is_short = s.chunk[c + L.MAP_ALLOC] < s.chunk[c + L.MAP_USED] + ATOMIC_NEED
    else:
        is_short = is_map_short(s, c) and (place != 0 or logged == L.REASON_EXTEND_RESERVED)
    if is_tried and is_short:
        return L.REASON_EXTEND_RESERVED
    return L.REASON_RESERVED if place == 0 else L.REASON_NONE


@cold
def why_failed_atomic(s, size, align):
    """Tell a chunk that has room and pages, but no entries to spare in its map, from want of pages or of room."""
    c, off = predict(s, size, align, 0)
    if c == 0 or R.lacks_pages(s, c, off, size):
        return L.REASON_ATOMIC
    is_short = s.chunk[c + L.MAP_ALLOC] < s.chunk[c + L.MAP_USED] + ATOMIC_NEED
    return L.REASON_EXTEND if is_short else L.REASON_ATOMIC


@cold
def why_failed(s, c, off, size, align, flags, logged):
    """Say what a request lacked; where two kinds of memory may have been short, the kernel log decides."""
    is_atomic = (flags & L.FLAG_ATOMIC) >> 1
    if flags & L.FLAG_RESERVED and s.g[L.RESERVED_CHUNK] != 0:
        if is_atomic and c != 0:
            return L.REASON_NONE
        return why_failed_reserved(s, c, size, is_atomic, logged)
    if is_atomic:
        return why_failed_atomic(s, size, align) if c == 0 else L.REASON_NONE
    may_extend = must_extend(s, size, c)
    if may_extend and logged == L.REASON_EXTEND:
        return L.REASON_EXTEND
    if c == 0:
        return L.REASON_NEW_CHUNK
    if R.lacks_pages(s, c, off, size):
        return L.REASON_POPULATE
    return L.REASON_EXTEND if may_extend and logged != L.REASON_POPULATE else L.REASON_NONE


# --- what was recorded ----------------------------------------------------------------------


@cold
def request(s, size, align, flags):
    s.g[L.STATUS] = L.STATUS_BUG_WALK
    while s.g[L.STATUS] == L.STATUS_BUG_WALK:  # the chunk that led the walk astray is in slot 0 now
        op_alloc(s.g, s.chunk, s.map, s.birth, s.ring, s.order, size, align, flags)


@kernel
def free(s, c, off):
    spin_lock(s)
    free_place(s, c, off)
    if s.chunk[c + L.FREE_SIZE] == s.g[L.UNIT_SIZE] and other_chunk_in_last_slot(s, c):
        pcpu_schedule_balance_work(s)
    spin_unlock(s)


@kernel
def free_place(s, c, off):
    pcpu_update_empty_pages(s, c, pcpu_free_area(s, c, off))


@kernel
def area_at(s, c, off):
    """Find the index of the area that byte `off` lies in."""
    base = s.chunk[c + L.MAP]
    low = 0
    high = s.chunk[c + L.MAP_USED]
    while high - low > 1:
        middle = (low + high) >> 1
        if s.map[base + middle] & ~1 <= off:
            low = middle
        else:
            high = middle
    return low


@kernel
def free_end(s, c, off):
    """Find where the free stretch ends that byte `off` lies in; `off` if it is in use."""
    at = s.chunk[c + L.MAP] + area_at(s, c, off)
    return s.map[at + 1] & ~1 if s.map[at] & 1 == 0 else off


@cold
def clear(s, c, off, size):
    count = 0
    first = s.chunk[c + L.HAS_RESERVED]
    at = off
    while at < off + size and at < s.map[s.chunk[c + L.MAP] + s.chunk[c + L.MAP_USED]] & ~1:
        k = area_at(s, c, at)
        this = s.map[s.chunk[c + L.MAP] + k]
        at = s.map[s.chunk[c + L.MAP] + k + 1] & ~1
        if this & 1 and k >= first:
            free_place(s, c, this & ~1)
            count += 1
    return count


@cold
def carve(s, c, off, size):
    """Take [off, off + size), which is free, out of use, wherever it lies in its area; the caller holds pcpu_lock."""
    old_slot = pcpu_chunk_slot(s, c)
    lengthen_map(s, c)
    k = area_at(s, c, off)
    at = s.chunk[c + L.MAP] + k
    head = off - s.map[at]
    if head >= SMALL or (head > 0 and s.map[at] & (PAGE_SIZE - 1) == 0):  # aligned requests leave none there
        insert_entries(s, c, at + 1, 1)
        s.map[at + 1] = off
        k += 1
        head = 0
    # what lies before was not looked at: hints stay on the safe side
    _, k = take_area(s, c, k, head, size, s.chunk[c + L.CONTIG_HINT], True)
    pcpu_update_empty_pages(s, c, -pcpu_count_occupied_pages(s, c, k))
    pcpu_chunk_relocate(s, c, old_slot)


@kernel
def lengthen_map(s, c):
    while s.chunk[c + L.MAP_ALLOC] < s.chunk[c + L.MAP_USED] + ATOMIC_NEED:
        s.chunk[c + L.MAP_ALLOC] *= 2


@cold
def force(s, c, off, size):
    spin_lock(s)
    lost = clear(s, c, off, size)
    carve(s, c, off, size)
    pcpu_stats_area_alloc(s, c, size)
    spin_unlock(s)
    R.populate_pages(s, c, 0, R.page_end(off, size))  # populated pages are always a run from page 0
    if s.g[L.NR_EMPTY_POP_PAGES] < PCPU_EMPTY_POP_PAGES_LOW:
        pcpu_schedule_balance_work(s)
    return lost


@cold
def create(s):
    return R.make_chunk(s, pcpu_create_chunk, pcpu_chunk_relocate)


@kernel
def retire(s, c):
    if s.chunk[c + L.EXTEND_NEXT] != -1:
        list_del(s.chunk, L.EXTEND_NEXT, c)
    return not other_chunk_in_last_slot(s, c)


# --- what leaves no event ---------------------------------------------------------------------


@cold
def silent(s, kind, c, off, size):
    if kind == R.ROW_DEPOPULATE:
        depopulate_empty(s, c, off >> PAGE_SHIFT, R.page_end(off, size))
        return
    spin_lock(s)
    if kind == R.ROW_IN_USE:
        clear(s, c, off, size)
        carve(s, c, off, size)
    elif kind == R.ROW_EXTEND:
        set_map_alloc(s, c, PCPU_ATOMIC_MAP_MARGIN_HIGH)
    elif kind == R.ROW_SHORTEN:
        set_map_alloc(s, c, 0)
    elif kind == R.ROW_HEAD:
        head = pcpu_chunk_slot(s, c) * s.g[L.ROW_WORDS]
        list_del(s.chunk, L.LIST_NEXT, c)
        list_add(s.chunk, L.LIST_NEXT, c, head)
    spin_unlock(s)
    if kind == R.ROW_IN_USE:
        R.populate_pages(s, c, 0, R.page_end(off, size))


@kernel
def set_map_alloc(s, c, margin):
    """Give the map of a chunk the length that it has once `margin` entries are to be spare."""
    length = PCPU_DFL_MAP_ALLOC
    while length <= s.chunk[c + L.MAP_USED] or length < s.chunk[c + L.MAP_USED] + margin:
        length *= 2
    s.chunk[c + L.MAP_ALLOC] = length


@kernel
def is_page_free(s, c, page):
    k = area_at(s, c, page << PAGE_SHIFT)
    at = s.chunk[c + L.MAP] + k
    return s.map[at] & 1 == 0 and s.map[at + 1] & ~1 >= (page + 1) << PAGE_SHIFT


@cold
def depopulate_empty(s, c, start, end):
    """Take back those of the pages [start, end) that are populated and wholly free: the work had not run yet."""
    mutex_lock(s)
    for page in range(start, end):
        if s.chunk[c + L.POPULATED + page] != 0 and is_page_free(s, c, page):
            depopulate_run(s, c, page, page + 1)
    mutex_unlock(s)


# --- balance work ------------------------------------------------------------------------------


@cold
def balance(s):
    extend_queued_maps(s)
    want = PCPU_EMPTY_POP_PAGES_HIGH
    if s.g[L.ATOMIC_ALLOC_FAILED] == 0:
        want = pages_wanted(s)
    s.g[L.ATOMIC_ALLOC_FAILED] = 0
    return populate_some(s, want, raw_slot(PAGE_SIZE), s.g[L.NR_SLOTS]), False


@kernel
def populate(s):
    return populate_some(s, pages_wanted(s), raw_slot(PAGE_SIZE), s.g[L.NR_SLOTS])


@kernel
def is_to_destroy(s):
    return R.has_two(s, last_slot(s))


@kernel
def is_destroyed_late(s, c):
    return False


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
