"""The two backings of chunks: vm (pages mapped one by one) and km (one block of pages for a whole chunk).

Only decisions are modelled: which calls are made, in which order, and what is
counted when one fails. Source: v4.13, spec sections 6 and 12.
"""

from ..errors import LockdepError
from . import layout as L
from ._jit import cold, kernel
from .counters import pcpu_stats_chunk_alloc, pcpu_stats_chunk_dealloc, pcpu_update_empty_pages
from .lists import list_init
from .locks import assert_may_sleep, spin_lock, spin_unlock
from .page import PAGE_SHIFT, PAGE_SIZE
from .ring import first_fault, trace_event


@kernel
def pcpu_chunk_populated(s, c, page_start, page_end):
    if s.g[L.PCPU_LOCK] == 0:
        raise LockdepError("pcpu_chunk_populated: pcpu_lock must be held")
    _mark_pages(s, c, page_start, page_end, 1)


@kernel
def pcpu_chunk_depopulated(s, c, page_start, page_end):
    if s.g[L.PCPU_LOCK] == 0:
        raise LockdepError("pcpu_chunk_depopulated: pcpu_lock must be held")
    _mark_pages(s, c, page_start, page_end, 0)


@kernel
def _mark_pages(s, c, page_start, page_end, populated):
    change = (page_end - page_start) * (2 * populated - 1)
    for page in range(page_start, page_end):
        s.chunk[c + L.POPULATED + page] = populated
    s.chunk[c + L.NR_POPULATED] += change
    s.g[L.NR_POPULATED_TOTAL] += change
    s.g[L.MAX_POPULATED] = max(s.g[L.MAX_POPULATED], s.g[L.NR_POPULATED_TOTAL])
    pcpu_update_empty_pages(s, c, change)


@kernel
def pcpu_next_run(s, c, page, page_end, populated):
    """Find the first run of pages in a state, from `page` on -> (start, end); start = page_end if there is none."""
    pages = c + L.POPULATED
    start = page
    while start < page_end and s.chunk[pages + start] != populated:
        start += 1
    end = start
    while end < page_end and s.chunk[pages + end] == populated:
        end += 1
    return start, end


@kernel
def pcpu_get_pages(s):
    """Make sure of the temporary page array -> 0, or -1 without memory."""
    if s.g[L.ALLOC_MUTEX] == 0:
        raise LockdepError("pcpu_get_pages: pcpu_alloc_mutex must be held")
    if s.g[L.TEMP_PAGES_READY] == 0:
        if first_fault(s, L.FAULT_MEM, 1) >= 0:
            return -1
        s.g[L.TEMP_PAGES_READY] = 1
    return 0


@cold
def pcpu_populate_chunk(s, c, page_start, page_end):
    """Back pages [page_start, page_end) of every unit -> 0, or -1 with nothing changed."""
    assert_may_sleep(s)
    if s.g[L.BACKING_KM] != 0:
        return 0
    if pcpu_get_pages(s) < 0:
        return -1
    nr_cpus = s.g[L.NR_CPUS]
    if first_fault(s, L.FAULT_PAGE, nr_cpus * (page_end - page_start)) >= 0:
        return -1
    if first_fault(s, L.FAULT_PTMAP, nr_cpus) >= 0:
        return -1
    return 0


@kernel
def populate_area(s, c, off, size):
    """Populate the pages of a fresh area -> whether it worked; on failure earlier runs stay."""
    page_end = (off + size + PAGE_SIZE - 1) >> PAGE_SHIFT
    start, end = pcpu_next_run(s, c, off >> PAGE_SHIFT, page_end, 0)
    while start < page_end:
        if pcpu_populate_chunk(s, c, start, end) < 0:
            return False
        spin_lock(s)
        pcpu_chunk_populated(s, c, start, end)
        spin_unlock(s)
        start, end = pcpu_next_run(s, c, end, page_end, 0)
    return True


@kernel
def populate_some(s, want, slot, end_slot):
    """Populate up to `want` pages, in one chunk a slot, slots [slot, end_slot) -> pages still wanted."""
    while slot < end_slot and want > 0:
        spin_lock(s)
        c = _first_unpopulated_chunk(s, slot)
        spin_unlock(s)
        if c != 0:
            want = _populate_runs(s, c, want)
        slot += 1
    return want


@kernel
def _first_unpopulated_chunk(s, slot):
    head = slot * s.g[L.ROW_WORDS]
    c = s.chunk[head + L.LIST_NEXT]
    while c != head:
        # a km chunk of v4.13 counts the pages of all its units, so this may differ though no page is missing
        if s.chunk[c + L.NR_POPULATED] != s.chunk[c + L.NR_PAGES]:
            return c
        c = s.chunk[c + L.LIST_NEXT]
    return 0


@kernel
def _populate_runs(s, c, want):
    nr_pages = s.chunk[c + L.NR_PAGES]
    start, end = pcpu_next_run(s, c, 0, nr_pages, 0)
    while start < nr_pages and want > 0:
        count = min(end - start, want)
        if pcpu_populate_chunk(s, c, start, start + count) < 0:
            return 0
        spin_lock(s)
        pcpu_chunk_populated(s, c, start, start + count)
        spin_unlock(s)
        want -= count
        start, end = pcpu_next_run(s, c, start + count, nr_pages, 0)
    return want


@kernel
def depopulate_run(s, c, start, end):
    pcpu_depopulate_chunk(s, c, start, end)
    spin_lock(s)
    pcpu_chunk_depopulated(s, c, start, end)
    spin_unlock(s)


@cold
def depopulate_all(s, c):
    nr_pages = s.chunk[c + L.NR_PAGES]
    start, end = pcpu_next_run(s, c, 0, nr_pages, 1)
    while start < nr_pages:
        depopulate_run(s, c, start, end)
        start, end = pcpu_next_run(s, c, end, nr_pages, 1)


@kernel
def pcpu_depopulate_chunk(s, c, page_start, page_end):
    """Give pages [page_start, page_end) of every unit back; cannot fail."""
    assert_may_sleep(s)
    if s.g[L.BACKING_KM] == 0:
        pcpu_get_pages(s)


@cold
def take_row(s):
    """Take an unused chunk row and clear it -> handle. The caller of the op has made sure of room."""
    g = s.g
    chunk = s.chunk
    c = g[L.FREE_ROW]
    g[L.FREE_ROW] = chunk[c + L.LIST_NEXT]
    g[L.NR_FREE_ROWS] -= 1
    row = c // g[L.ROW_WORDS]
    for word in range(c, c + g[L.ROW_WORDS]):
        chunk[word] = 0
    chunk[c + L.LIST_NEXT] = -1
    chunk[c + L.LIST_PREV] = -1
    chunk[c + L.EXTEND_NEXT] = -1
    chunk[c + L.EXTEND_PREV] = -1
    chunk[c + L.ROW] = row
    chunk[c + L.MAP] = (row - L.NR_LIST_HEADS) * g[L.MAP_STRIDE]
    chunk[c + L.BIRTH] = (row - L.NR_LIST_HEADS) * g[L.BIRTH_STRIDE]
    chunk[c + L.SAMPLED] = -1
    chunk[c + L.NR_PAGES] = g[L.UNIT_PAGES]
    return c


@kernel
def give_row(s, c):
    g = s.g
    s.chunk[c + L.LIST_NEXT] = g[L.FREE_ROW]
    g[L.FREE_ROW] = c
    g[L.NR_FREE_ROWS] += 1


@cold
def create_backing(s, record_calls):
    """Get the records, then the address range or block, of a new chunk -> handle, or 0 without memory.

    Args:
        record_calls: kernel memory requests of the engine for one chunk.
    """
    g = s.g
    for _ in range(record_calls):
        if first_fault(s, L.FAULT_MEM, 1) >= 0:
            return 0
    kind = L.FAULT_VM if g[L.BACKING_KM] == 0 else L.FAULT_PAGE
    if first_fault(s, kind, 1) >= 0:
        return 0
    c = take_row(s)
    number = g[L.NR_ORDER]
    s.order[number] = c
    g[L.NR_ORDER] = number + 1
    s.chunk[c + L.ORDINAL] = number + 1
    s.chunk[c + L.BASE] = g[L.AREA_BASE] + number * g[L.AREA_STRIDE]
    return c


@cold
def announce_chunk(s, c):
    """Populate a km chunk at birth, count the chunk, tell the trace."""
    g = s.g
    if g[L.BACKING_KM] != 0:
        spin_lock(s)
        _mark_pages(s, c, 0, g[L.UNIT_PAGES], 1)
        # v4.13 counts the pages of the whole group here, not of one unit
        more = g[L.GROUP_PAGES] - g[L.UNIT_PAGES]
        s.chunk[c + L.NR_POPULATED] += more
        pcpu_update_empty_pages(s, c, more)
        spin_unlock(s)
    pcpu_stats_chunk_alloc(s)
    trace_event(s, L.EVENT_CREATE, c, 0, 0, 0, 0, 0)


@cold
def pcpu_destroy_chunk(s, c):
    """Destroy a chunk that is on no list and has no live area."""
    assert_may_sleep(s)
    pcpu_stats_chunk_dealloc(s)
    trace_event(s, L.EVENT_DESTROY, c, 0, 0, 0, 0, 0)
    s.order[s.chunk[c + L.ORDINAL] - 1] = 0
    give_row(s, c)


@kernel
def init_heads(s):
    for row in range(L.NR_LIST_HEADS):
        head = row * s.g[L.ROW_WORDS]
        list_init(s.chunk, L.LIST_NEXT, head)
        list_init(s.chunk, L.EXTEND_NEXT, head)
