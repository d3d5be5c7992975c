"""The area-map allocator of Linux v4.13.

A chunk is one range of offsets, backed once for every CPU. Its area map lists the
borders of the areas in that range; bit 0 of an entry tells whether the area
that begins there is in use. The last entry, the sentinel, is the end:

    map: 1, 64, 97, 4097        offset | in_use
         │   │   │   └ sentinel: the usable space ends at 4096
         │   │   └ area 2: [96, 4096) in use
         │   └ area 1: [64, 96) free
         └ area 0: [0, 64) in use

    >>> from percpu_lab.core.areamap import decode_map
    >>> decode_map([1, 64, 97, 4097])
    [(0, 64, True), (64, 32, False), (96, 4000, True)]

Invariants of a chunk between any two operations, checked by validate_area_map():
 1. offsets are even and rise strictly, from 0 to the sentinel, whose bit 0 is set and which is at unit_size in all
    but the boot chunks (of a UP first chunk alone the prefix has length 0);
 2. no two free areas are neighbours;
 3. free_size is the sum of the free areas, less nothing: padding counts as in use;
 4. contig_hint is at least the largest free area, and may be larger;
 5. no free area has a smaller index than first_free;
 6. map_used + 3 <= map_alloc before every insertion, map_used < map_alloc always;
 7. the chunk is on the list of its slot: 0 if free_size or contig_hint is under 4, the last only if wholly free;
 8. the populated pages are one run from page 0, counted by nr_populated (km counts those of all units);
 9. every area in use has all its pages.

Source: Linux v4.13 mm/percpu.c by its behavioural specification, sections 1.4, 3, 4 and 5.
"""

from ..errors import LockdepError
from . import layout as L
from ._jit import cold, entry, kernel, memmove
from .backing import (
    announce_chunk,
    create_backing,
    depopulate_all,
    init_heads,
    pcpu_destroy_chunk,
    pcpu_next_run,
    populate_area,
    populate_some,
    take_row,
)
from .births import birth_index
from .counters import pcpu_stats_area_alloc, pcpu_stats_area_dealloc, pcpu_update_empty_pages
from .lists import list_add, list_add_tail, list_del, list_empty
from .locks import mutex_lock, mutex_unlock, spin_lock, spin_unlock
from .page import PAGE_SHIFT, PAGE_SIZE, PCPU_MIN_UNIT_SIZE
from .request import fail, hand_out, pcpu_schedule_balance_work, refuse, room, take_back, unlock_all
from .ring import first_fault, trace_event
from .slots import raw_slot
from .state import State

PCPU_DFL_MAP_ALLOC = 16
PCPU_ATOMIC_MAP_MARGIN_LOW = 32
PCPU_ATOMIC_MAP_MARGIN_HIGH = 64
PCPU_EMPTY_POP_PAGES_LOW = 2
PCPU_EMPTY_POP_PAGES_HIGH = 4
PERCPU_DYNAMIC_EARLY_SLOTS = 128
SMALL = 4  # sizeof(int): the smallest head or tail worth keeping
ATOMIC_NEED = 3  # map entries an atomic request must find spare
RECORD_CALLS = 2  # kernel memory requests for a new chunk: its record, its map
WARN_LIMIT = 10

ROW_WORK = 16  # what writing a history row costs, in map entries read

# what search_slots answers instead of a chunk
NOTHING_FOUND = 0
SEARCH_AGAIN = -1
EXTEND_FAILED = -2
WALK_ASTRAY = -3


def decode_map(entries):
    """List the areas of a map as (offset, size in bytes, in use).

    >>> decode_map([0, 32769])
    [(0, 32768, False)]

    Args:
        entries: map[0..map_used] as stored, the sentinel last.
    """
    offsets = [int(e) & ~1 for e in entries]
    return [(offsets[k], offsets[k + 1] - offsets[k], bool(entries[k] & 1)) for k in range(len(offsets) - 1)]


# --- slots (spec 1.5) ----------------------------------------------------------


@kernel
def pcpu_size_to_slot(s, size):
    if size == s.g[L.UNIT_SIZE]:
        return s.g[L.NR_SLOTS] - 1
    return raw_slot(size)


@kernel
def pcpu_chunk_slot(s, c):
    free_size = s.chunk[c + L.FREE_SIZE]
    if free_size < SMALL or s.chunk[c + L.CONTIG_HINT] < SMALL:
        return 0
    return pcpu_size_to_slot(s, free_size)


@kernel
def pcpu_chunk_relocate(s, c, old_slot):
    """Move the chunk to the list of its slot: to the head if it became emptier, to the tail if fuller."""
    slot = pcpu_chunk_slot(s, c)
    if c == s.g[L.RESERVED_CHUNK] or slot == old_slot:
        return
    head = slot * s.g[L.ROW_WORDS]
    if old_slot >= 0:
        list_del(s.chunk, L.LIST_NEXT, c)
    if slot > old_slot:
        list_add(s.chunk, L.LIST_NEXT, c, head)
    else:
        list_add_tail(s.chunk, L.LIST_NEXT, c, head)


# --- the area map (spec 1.8, 3.2 to 3.5, 4.2) ------------------------------------


@kernel
def pcpu_count_occupied_pages(s, c, k):
    """Count the pages that would be wholly free if area k were free."""
    entries = s.map
    at = s.chunk[c + L.MAP] + k
    start = entries[at] & ~1
    end = entries[at + 1] & ~1
    mask = PAGE_SIZE - 1
    if start & mask and k > 0:
        prev = entries[at - 1]
        if not prev & 1 and prev <= start & ~mask:
            start &= ~mask
    if end & mask and k + 1 < s.chunk[c + L.MAP_USED] and not entries[at + 1] & 1:
        page_end = (end + mask) & ~mask
        if entries[at + 2] & ~1 >= page_end:
            end = page_end
    return max((end >> PAGE_SHIFT) - ((start + mask) >> PAGE_SHIFT), 0)


@kernel
def pcpu_need_to_extend(s, c, is_atomic):
    """Say how long the map must become before an area may be allocated; 0 if it is long enough."""
    if s.g[L.PCPU_LOCK] == 0:
        raise LockdepError("pcpu_need_to_extend: pcpu_lock must be held")
    map_used = s.chunk[c + L.MAP_USED]
    map_alloc = s.chunk[c + L.MAP_ALLOC]
    margin = PCPU_ATOMIC_MAP_MARGIN_HIGH
    if is_atomic:
        margin = ATOMIC_NEED
        if map_alloc < map_used + PCPU_ATOMIC_MAP_MARGIN_LOW and s.chunk[c + L.EXTEND_NEXT] == -1:
            list_add_tail(s.chunk, L.EXTEND_NEXT, c, L.EXTEND_HEAD_ROW * s.g[L.ROW_WORDS])
            pcpu_schedule_balance_work(s)
    if map_alloc >= map_used + margin:
        return 0
    length = PCPU_DFL_MAP_ALLOC
    while length < map_used + margin:
        length *= 2
    return length


@cold
def pcpu_extend_area_map(s, c, length):
    """Give the map room for `length` entries -> 0, or -1 without memory."""
    if s.g[L.ALLOC_MUTEX] == 0:
        raise LockdepError("pcpu_extend_area_map: pcpu_alloc_mutex must be held")
    if first_fault(s, L.FAULT_MEM, 1) >= 0:
        return -1
    s.chunk[c + L.MAP_ALLOC] = max(s.chunk[c + L.MAP_ALLOC], length)
    return 0


@kernel
def pcpu_fit_in_area(s, c, off, length, size, align, pop_only):
    """Say how many bytes of padding let a request fit into a free area; -1 if it does not.

    Args:
        off, length: the area, in bytes.
        pop_only: use populated pages only.
    """
    candidate = off
    while True:
        head = ((candidate + align - 1) & -align) - off
        if length < head + size:
            return -1
        if not pop_only:
            return head
        page_end = (off + length + PAGE_SIZE - 1) >> PAGE_SHIFT
        hole_start, hole_end = pcpu_next_run(s, c, (off + head) >> PAGE_SHIFT, page_end, 0)
        if hole_start >= (off + head + size + PAGE_SIZE - 1) >> PAGE_SHIFT:
            return head
        candidate = hole_end << PAGE_SHIFT


@kernel
def insert_entries(s, c, at, count):
    """Make room for `count` entries before map index `at` (an index into s.map)."""
    end = s.chunk[c + L.MAP] + s.chunk[c + L.MAP_USED] + 1
    memmove(s.map, at + count, at, end - at)
    s.chunk[c + L.MAP_USED] += count
    s.g[L.ENTRIES_MOVED] += end - at


@kernel
def remove_entry(s, c, at):
    end = s.chunk[c + L.MAP] + s.chunk[c + L.MAP_USED] + 1
    memmove(s.map, at, at + 1, end - at - 1)
    s.chunk[c + L.MAP_USED] -= 1
    s.g[L.ENTRIES_MOVED] += end - at - 1


@kernel
def pcpu_alloc_area(s, c, size, align, pop_only):
    """Allocate the first area that fits -> (offset, whole pages it occupies), or (-1, 0).

    A scan sees every free area from first_free on, and leaves better hints
    even where it fails.
    """
    chunk = s.chunk
    entries = s.map
    old_slot = pcpu_chunk_slot(s, c)
    base = chunk[c + L.MAP]
    first = base + chunk[c + L.FIRST_FREE]
    end = base + chunk[c + L.MAP_USED]
    largest = 0
    free_seen = False
    at = first
    while at < end:
        this = entries[at]
        if this & 1:
            at += 1
            continue
        length = (entries[at + 1] & ~1) - this
        head = -1
        if length >= size:
            head = pcpu_fit_in_area(s, c, this, length, size, align, pop_only)
        if head >= 0:
            s.g[L.ENTRIES_SCANNED] += at - first + 1
            off, k = take_area(s, c, at - base, head, size, largest, free_seen)
            occ_pages = pcpu_count_occupied_pages(s, c, k)
            pcpu_chunk_relocate(s, c, old_slot)
            return off, occ_pages
        if not free_seen:
            chunk[c + L.FIRST_FREE] = at - base
            free_seen = True
        largest = max(largest, length)
        at += 1
    s.g[L.ENTRIES_SCANNED] += max(end - first, 0)
    chunk[c + L.CONTIG_HINT] = largest
    pcpu_chunk_relocate(s, c, old_slot)
    return -1, 0


@kernel
def take_area(s, c, k, head, size, largest, free_seen):
    """Cut a request out of free area k -> (offset, index of the area in use).

        |<- head ->|<----- size ----->|<- tail ->|      head, tail under 4 bytes stay with a neighbour
                                                        or with the area: nobody could use them

    Args:
        head: bytes of padding before the request.
        largest: the largest free area this scan has seen so far, in bytes.
        free_seen: the scan has set first_free already.
    """
    chunk = s.chunk
    entries = s.map
    at = chunk[c + L.MAP] + k
    if head > 0 and (head < SMALL or not entries[at - 1] & 1):
        largest = max(largest, give_head_to_previous(s, c, at, head))
        head = 0
    length = (entries[at + 1] & ~1) - entries[at]
    tail = length - head - size
    if tail < SMALL:
        size = length - head
        tail = 0
    if head > 0 or tail > 0:
        insert_entries(s, c, at + 1, (head > 0) + (tail > 0))
    if head > 0:
        entries[at + 1] = entries[at] + head
        if not free_seen:
            chunk[c + L.FIRST_FREE] = k
            free_seen = True
        largest = max(largest, head)
        at += 1
        k += 1
    if tail > 0:
        entries[at + 1] = entries[at] + size
        largest = max(largest, tail)
    if not free_seen:
        chunk[c + L.FIRST_FREE] = k + 1
    if k + 1 == chunk[c + L.MAP_USED]:
        chunk[c + L.CONTIG_HINT] = largest  # every free area was seen
    else:
        chunk[c + L.CONTIG_HINT] = max(chunk[c + L.CONTIG_HINT], largest)
    chunk[c + L.FREE_SIZE] -= size
    chunk[c + L.CHANGED] = s.g[L.NOW]
    off = entries[at]
    entries[at] = off | 1
    return off, k


@kernel
def give_head_to_previous(s, c, at, head):
    """Move the border before free area `at` up by `head` bytes -> size of the area before it if it is free, else 0."""
    entries = s.map
    entries[at] += head
    if entries[at - 1] & 1:
        s.chunk[c + L.FREE_SIZE] -= head
        return 0
    return entries[at] - entries[at - 1]


@kernel
def find_area(s, c, off):
    """Find the index of the area in use that begins at off; -1 if there is none."""
    base = s.chunk[c + L.MAP]
    lo = 0
    hi = s.chunk[c + L.MAP_USED]
    key = off | 1
    while lo < hi:
        mid = (lo + hi) >> 1
        this = s.map[base + mid]
        s.g[L.ENTRIES_SCANNED] += 1
        if this == key:
            return mid
        if this < key:
            lo = mid + 1
        else:
            hi = mid
    return -1


@kernel
def pcpu_free_area(s, c, off):
    """Free the area in use at off -> whole pages it occupied; -1, with nothing changed, if there is none."""
    if s.g[L.PCPU_LOCK] == 0:
        raise LockdepError("pcpu_free_area: pcpu_lock must be held")
    chunk = s.chunk
    entries = s.map
    k = find_area(s, c, off)
    if k < 0:
        return -1
    old_slot = pcpu_chunk_slot(s, c)
    pcpu_stats_area_dealloc(s, c)
    chunk[c + L.FIRST_FREE] = min(chunk[c + L.FIRST_FREE], k)
    chunk[c + L.CHANGED] = s.g[L.NOW]
    at = chunk[c + L.MAP] + k
    entries[at] = off
    chunk[c + L.FREE_SIZE] += (entries[at + 1] & ~1) - off
    occ_pages = pcpu_count_occupied_pages(s, c, k)
    at = merge_neighbours(s, c, k)
    chunk[c + L.CONTIG_HINT] = max(chunk[c + L.CONTIG_HINT], entries[at + 1] - entries[at] - 1)
    pcpu_chunk_relocate(s, c, old_slot)
    return occ_pages


@kernel
def merge_neighbours(s, c, k):
    """Join free area k with free neighbours -> index into s.map of the joined area."""
    entries = s.map
    at = s.chunk[c + L.MAP] + k
    if not entries[at + 1] & 1:
        if k > 0 and not entries[at - 1] & 1:
            end = s.chunk[c + L.MAP] + s.chunk[c + L.MAP_USED] + 1
            memmove(entries, at, at + 2, end - at - 2)
            s.chunk[c + L.MAP_USED] -= 2
            s.g[L.ENTRIES_MOVED] += end - at - 2
            return at - 1
        remove_entry(s, c, at + 1)
    elif k > 0 and not entries[at - 1] & 1:
        remove_entry(s, c, at)
        return at - 1
    return at


# --- chunks (spec 1.3, 6) ------------------------------------------------------------


@cold
def pcpu_create_chunk(s):
    """Create a chunk, on no list yet -> handle, or 0 without memory."""
    if s.g[L.ALLOC_MUTEX] == 0 or s.g[L.PCPU_LOCK] != 0:
        raise LockdepError("pcpu_create_chunk: pcpu_alloc_mutex must be held, pcpu_lock must not")
    c = create_backing(s, RECORD_CALLS)
    if c == 0:
        return 0
    set_map(s, c, 0, 0, s.g[L.UNIT_SIZE], PCPU_DFL_MAP_ALLOC)
    announce_chunk(s, c)
    return c


@kernel
def set_map(s, c, has_reserved, start, end, map_alloc):
    """Write the first map of a chunk: an optional prefix [0, start), then one free area [start, end)."""
    chunk = s.chunk
    at = chunk[c + L.MAP]
    if has_reserved:
        s.map[at] = 1
        at += 1
    if end > start:
        s.map[at] = start
        at += 1
    s.map[at] = end | 1
    chunk[c + L.MAP_USED] = at - chunk[c + L.MAP]
    chunk[c + L.MAP_ALLOC] = map_alloc
    chunk[c + L.HAS_RESERVED] = has_reserved
    chunk[c + L.FREE_SIZE] = end - start
    chunk[c + L.CONTIG_HINT] = end - start
    chunk[c + L.CHANGED] = s.g[L.NOW]


@kernel
def make_boot_chunk(s, start, end):
    """Make the first or the reserved chunk: all pages there from the beginning."""
    c = take_row(s)
    set_map(s, c, 1, start, end, PERCPU_DYNAMIC_EARLY_SLOTS)
    s.chunk[c + L.IMMUTABLE] = 1
    s.chunk[c + L.NR_POPULATED] = s.g[L.UNIT_PAGES]
    for page in range(s.g[L.UNIT_PAGES]):
        s.chunk[c + L.POPULATED + page] = 1
    return c


@entry
def pcpu_setup_first_chunk(g, chunk, map_, birth, ring, order, static_size, reserved_size, dyn_size):
    """Make the first chunk and, if asked for, the reserved one; sizes in bytes (spec 2.3)."""
    s = State(g, chunk, map_, birth, ring, order)
    g[L.NOW] = -1
    init_heads(s)
    g[L.MIN_ALLOC_SIZE] = g[L.UNIT_SIZE]
    g[L.WARN_LIMIT] = WARN_LIMIT
    limit = static_size + reserved_size
    if reserved_size > 0:
        c = make_boot_chunk(s, static_size, limit)
        chunk[c + L.ORDINAL] = -1
        g[L.RESERVED_CHUNK] = c
        g[L.RESERVED_LIMIT] = limit
    c = make_boot_chunk(s, limit, limit + dyn_size)
    g[L.FIRST_CHUNK] = c
    pcpu_update_empty_pages(s, c, pcpu_count_occupied_pages(s, c, 1))
    pcpu_chunk_relocate(s, c, -1)
    if g[L.STATS_ON] != 0:
        g[L.NR_CHUNKS] = 1
        g[L.NR_MAX_CHUNKS] = 1
    trace_event(s, L.EVENT_CREATE, c, 0, 0, 0, 0, 0)
    g[L.NR_POPULATED_TOTAL] = (static_size + reserved_size + dyn_size) >> PAGE_SHIFT  # as later kernels count
    g[L.MAX_POPULATED] = g[L.NR_POPULATED_TOTAL]
    g[L.ASYNC_ENABLED] = 1
    g[L.NOW] = 0


# --- allocation (spec 3.1) -------------------------------------------------------------


@kernel
def search_slots(s, size, align, is_atomic):
    """Walk the slots for a chunk that takes the request -> (handle or verdict, offset, whole pages)."""
    g = s.g
    chunk = s.chunk
    slot = pcpu_size_to_slot(s, size)
    while slot < g[L.NR_SLOTS]:
        head = slot * g[L.ROW_WORDS]
        c = chunk[head + L.LIST_NEXT]
        while c != head:
            g[L.CHUNKS_SCANNED] += 1
            if size <= chunk[c + L.CONTIG_HINT]:
                length = pcpu_need_to_extend(s, c, is_atomic)
                if length == 0:
                    off, occ_pages = pcpu_alloc_area(s, c, size, align, is_atomic)
                    if off >= 0:
                        return c, off, occ_pages
                    if pcpu_chunk_slot(s, c) != slot:
                        return WALK_ASTRAY, 0, 0
                elif not is_atomic:
                    return extend_and_retry(s, c, length), 0, 0
            c = chunk[c + L.LIST_NEXT]
        slot += 1
    return NOTHING_FOUND, 0, 0


@cold
def extend_and_retry(s, c, length):
    spin_unlock(s)
    failed = pcpu_extend_area_map(s, c, length) < 0
    spin_lock(s)
    return EXTEND_FAILED if failed else SEARCH_AGAIN


@kernel
def search_reserved(s, size, align, is_atomic):
    """Try the reserved chunk, the only one for its requests -> (reason of failure or 0, offset)."""
    c = s.g[L.RESERVED_CHUNK]
    if size > s.chunk[c + L.CONTIG_HINT]:
        return L.REASON_RESERVED, 0
    while True:
        length = pcpu_need_to_extend(s, c, is_atomic)
        if length == 0:
            break
        if is_atomic or extend_and_retry(s, c, length) == EXTEND_FAILED:
            return L.REASON_EXTEND_RESERVED, 0
    off, _ = pcpu_alloc_area(s, c, size, align, is_atomic)
    if off < 0:
        return L.REASON_RESERVED, 0
    return 0, off


@kernel
def search_all(s, size, align, is_atomic):
    """Search, extend maps and create chunks until the request is served -> (handle or 0, offset, pages, reason)."""
    while True:
        c, off, occ_pages = search_slots(s, size, align, is_atomic)
        if c > 0:
            return c, off, occ_pages, L.REASON_NONE
        if c == EXTEND_FAILED:
            return 0, 0, 0, L.REASON_EXTEND
        if c == WALK_ASTRAY:
            s.g[L.STATUS] = L.STATUS_BUG_WALK
            return 0, 0, 0, L.REASON_NONE
        if c == NOTHING_FOUND:
            if is_atomic:
                return 0, 0, 0, L.REASON_ATOMIC
            if not add_empty_chunk(s):
                return 0, 0, 0, L.REASON_NEW_CHUNK


@kernel
def add_empty_chunk(s):
    """Make sure that the last slot has a chunk -> whether it has."""
    spin_unlock(s)
    c = 0
    present = not list_empty(s.chunk, L.LIST_NEXT, (s.g[L.NR_SLOTS] - 1) * s.g[L.ROW_WORDS])
    if not present:
        c = pcpu_create_chunk(s)
    spin_lock(s)
    if c != 0:
        pcpu_chunk_relocate(s, c, -1)
    return present or c != 0


@kernel
def pcpu_alloc(s, size, align, reserved, is_atomic):
    """Serve a request -> percpu pointer, or 0 with the reason in g[REASON]; sizes in bytes."""
    g = s.g
    g[L.REASON] = L.REASON_NONE
    if 0 <= align < 2:
        align = 2
    size = (size + 1) & ~1
    # numbers of 2^63 and more come as negative ones
    if size <= 0 or size > PCPU_MIN_UNIT_SIZE or align < 0 or align > PAGE_SIZE or align & (align - 1):
        return refuse(s, size, align, is_atomic)
    if not is_atomic:
        mutex_lock(s)
    spin_lock(s)
    occ_pages = 0
    if reserved and g[L.RESERVED_CHUNK] != 0:
        c = g[L.RESERVED_CHUNK]
        reason, off = search_reserved(s, size, align, is_atomic)
    else:
        c, off, occ_pages, reason = search_all(s, size, align, is_atomic)
    if g[L.STATUS] == L.STATUS_BUG_WALK:
        unlock_all(s, is_atomic)
        return 0
    if reason != L.REASON_NONE:
        return fail(s, size, align, reserved, is_atomic, reason)
    pcpu_stats_area_alloc(s, c, size)
    spin_unlock(s)
    if not is_atomic:
        if not populate_area(s, c, off, size):
            spin_lock(s)
            pcpu_free_area(s, c, off)
            return fail(s, size, align, reserved, is_atomic, L.REASON_POPULATE)
        mutex_unlock(s)
    pcpu_update_empty_pages(s, c, -occ_pages)
    if g[L.NR_EMPTY_POP_PAGES] < PCPU_EMPTY_POP_PAGES_LOW:
        pcpu_schedule_balance_work(s)
    return hand_out(s, c, off, size, align, reserved, is_atomic)


# --- free (spec 4.1) ---------------------------------------------------------------------


@kernel
def pcpu_chunk_addr_search(s, address):
    """Find the chunk of a relative address -> handle, or 0."""
    g = s.g
    if 0 <= address < g[L.UNIT_SIZE]:
        return g[L.RESERVED_CHUNK] if address < g[L.RESERVED_LIMIT] else g[L.FIRST_CHUNK]
    number = (address - g[L.AREA_BASE]) // g[L.AREA_STRIDE]
    if number < 0 or number >= g[L.NR_ORDER]:
        return 0
    c = s.order[number]
    if c != 0 and address - s.chunk[c + L.BASE] >= g[L.UNIT_SIZE]:
        return 0
    return c


@kernel
def check_free(s, c, off, born):
    """Say why a free of this address must not be tried; STATUS_OK if it may."""
    if c == 0:
        return L.STATUS_NO_CHUNK
    if off & 1:
        return L.STATUS_BAD_FREE
    if s.chunk[c + L.HAS_RESERVED] != 0 and off < s.map[s.chunk[c + L.MAP] + 1] & ~1:
        return L.STATUS_STATIC
    birth = s.birth[birth_index(s.chunk[c + L.BIRTH], s.g[L.BIRTH_STRIDE], off)]
    if birth == 0:
        return L.STATUS_BAD_FREE
    if born >= 0 and birth >> 16 != born:
        return L.STATUS_STALE
    return L.STATUS_OK


@kernel
def free_percpu(s, ptr, born):
    """Free the area of a percpu pointer; 0 is NULL. Sets g[STATUS] and changes nothing if the pointer is bad.

    Args:
        born: number of the op that allocated it, or -1 if the caller does not know.
    """
    g = s.g
    if ptr == 0:
        return
    address = ptr - g[L.PTR_BIAS]
    spin_lock(s)
    c = pcpu_chunk_addr_search(s, address)
    off = address
    if c != 0:
        off = address - s.chunk[c + L.BASE]
    g[L.STATUS] = check_free(s, c, off, born)
    if g[L.STATUS] == L.STATUS_OK:
        nr_scanned = g[L.ENTRIES_SCANNED]
        nr_moved = g[L.ENTRIES_MOVED]
        occ_pages = pcpu_free_area(s, c, off)
        g[L.FREE_ENTRIES_SCANNED] += g[L.ENTRIES_SCANNED] - nr_scanned
        g[L.FREE_ENTRIES_MOVED] += g[L.ENTRIES_MOVED] - nr_moved
        pcpu_update_empty_pages(s, c, occ_pages)
        if s.chunk[c + L.FREE_SIZE] == g[L.UNIT_SIZE] and other_chunk_in_last_slot(s, c):
            pcpu_schedule_balance_work(s)
        take_back(s, c, off)
    spin_unlock(s)


@kernel
def other_chunk_in_last_slot(s, c):
    head = (s.g[L.NR_SLOTS] - 1) * s.g[L.ROW_WORDS]
    first = s.chunk[head + L.LIST_NEXT]
    return first != head and (first != c or s.chunk[first + L.LIST_NEXT] != head)


# --- balance work (spec 5) -----------------------------------------------------------------


@cold
def pcpu_balance_workfn(s):
    """Destroy spare chunks, extend maps, top up empty populated pages."""
    mutex_lock(s)
    destroy_empty_chunks(s)
    extend_queued_maps(s)
    want = PCPU_EMPTY_POP_PAGES_HIGH
    if s.g[L.ATOMIC_ALLOC_FAILED] == 0:
        want = pages_wanted(s)
    s.g[L.ATOMIC_ALLOC_FAILED] = 0
    want = populate_some(s, want, raw_slot(PAGE_SIZE), s.g[L.NR_SLOTS])
    while want > 0:
        c = pcpu_create_chunk(s)
        if c == 0:
            break
        spin_lock(s)
        pcpu_chunk_relocate(s, c, -1)
        spin_unlock(s)
        want = populate_some(s, pages_wanted(s), raw_slot(PAGE_SIZE), s.g[L.NR_SLOTS])
    mutex_unlock(s)


@kernel
def pages_wanted(s):
    return min(max(PCPU_EMPTY_POP_PAGES_HIGH - s.g[L.NR_EMPTY_POP_PAGES], 0), PCPU_EMPTY_POP_PAGES_HIGH)


@kernel
def destroy_empty_chunks(s):
    """Destroy the wholly free chunks but the first of their list, in reverse order of the list."""
    chunk = s.chunk
    head = (s.g[L.NR_SLOTS] - 1) * s.g[L.ROW_WORDS]
    # the row of map_extend_chunks uses its EXTEND links only: its LIST links hold the chunks to free
    to_free = L.EXTEND_HEAD_ROW * s.g[L.ROW_WORDS]
    spin_lock(s)
    c = chunk[chunk[head + L.LIST_NEXT] + L.LIST_NEXT]
    while not list_empty(chunk, L.LIST_NEXT, head) and c != head:
        following = chunk[c + L.LIST_NEXT]
        # Without SMP the first chunk can be wholly free and not the first here. A kernel warns, then frees boot memory
        # that is not its to free; here the chunk stays, a deviation.
        if chunk[c + L.IMMUTABLE] == 0:
            list_del(chunk, L.LIST_NEXT, c)
            if chunk[c + L.EXTEND_NEXT] != -1:
                list_del(chunk, L.EXTEND_NEXT, c)
            list_add(chunk, L.LIST_NEXT, c, to_free)
        c = following
    spin_unlock(s)
    while not list_empty(chunk, L.LIST_NEXT, to_free):
        c = chunk[to_free + L.LIST_NEXT]
        list_del(chunk, L.LIST_NEXT, c)
        depopulate_all(s, c)
        pcpu_destroy_chunk(s, c)


@kernel
def extend_queued_maps(s):
    chunk = s.chunk
    head = L.EXTEND_HEAD_ROW * s.g[L.ROW_WORDS]
    while not list_empty(chunk, L.EXTEND_NEXT, head):
        spin_lock(s)
        c = chunk[head + L.EXTEND_NEXT]
        list_del(chunk, L.EXTEND_NEXT, c)
        length = pcpu_need_to_extend(s, c, 0)
        spin_unlock(s)
        if length != 0:
            pcpu_extend_area_map(s, c, length)  # without memory the map stays short; nobody tries again


# --- what Python calls ------------------------------------------------------------------------


@kernel
def run_pending_work(s):
    if s.g[L.BALANCE_PENDING] != 0:
        s.g[L.BALANCE_PENDING] = 0
        pcpu_balance_workfn(s)


@kernel
def end_op(s):
    if s.g[L.AUTO_BALANCE] != 0:
        run_pending_work(s)
    s.g[L.NOW] += 1


@entry
def op_alloc(g, chunk, map_, birth, ring, order, size, align, flags):
    """Run one alloc op -> percpu pointer or 0."""
    s = State(g, chunk, map_, birth, ring, order)
    status = room(s)
    g[L.STATUS] = status
    if status != L.STATUS_OK:
        return 0
    ptr = pcpu_alloc(s, size, align, flags & L.FLAG_RESERVED, (flags & L.FLAG_ATOMIC) >> 1)
    end_op(s)
    return ptr


@entry
def op_free(g, chunk, map_, birth, ring, order, ptr, born):
    """Run one free op; STATUS tells if room was lacking or the pointer is bad, which is no op."""
    s = State(g, chunk, map_, birth, ring, order)
    g[L.STATUS] = room(s)
    if g[L.STATUS] == L.STATUS_OK:
        free_percpu(s, ptr, born)
    if g[L.STATUS] == L.STATUS_OK:
        end_op(s)


@entry
def op_balance(g, chunk, map_, birth, ring, order):
    """Run the balance work if it is pending -> whether it was; STATUS tells if room was lacking."""
    s = State(g, chunk, map_, birth, ring, order)
    g[L.STATUS] = room(s)
    if g[L.STATUS] != L.STATUS_OK:
        return 0
    pending = g[L.BALANCE_PENDING]
    run_pending_work(s)
    g[L.NOW] += 1
    return pending


@kernel
def run_op(s, ops, ids, i, nr_ops):
    """Run op i of a script."""
    g = s.g
    kind = ops[i]
    if kind == L.OP_ALLOC:
        flags = ops[L.OPS_FLAGS * nr_ops + i]
        ids[ops[L.OPS_ID * nr_ops + i]] = pcpu_alloc(
            s,
            ops[L.OPS_SIZE * nr_ops + i],
            ops[L.OPS_ALIGN * nr_ops + i],
            flags & L.FLAG_RESERVED,
            (flags & L.FLAG_ATOMIC) >> 1,
        )
    elif kind == L.OP_FREE:
        free_percpu(s, ids[ops[L.OPS_ID * nr_ops + i]], -1)
        if g[L.STATUS] == L.STATUS_OK:
            ids[ops[L.OPS_ID * nr_ops + i]] = 0
    elif kind == L.OP_BALANCE:
        run_pending_work(s)
    elif kind == L.OP_FAULT:
        fault = ops[L.OPS_ID * nr_ops + i]
        g[L.FAULT_LEFT_MEM + fault] = ops[L.OPS_SIZE * nr_ops + i]
        g[L.FAULT_SKIP_MEM + fault] = ops[L.OPS_ALIGN * nr_ops + i]


@entry
def run_ops(g, chunk, map_, birth, ring, order, ops, ids, start, stop):
    """Run ops [start, stop) of a script -> index it stopped at; STATUS tells why.

    Args:
        ops: the flattened array of an Ops, NR_OPS_COLUMNS rows.
        ids: the percpu pointer of each id, 0 for NULL.
    """
    s = State(g, chunk, map_, birth, ring, order)
    nr_ops = len(ops) // L.NR_OPS_COLUMNS
    i = start
    while i < stop:
        status = room(s)
        kind = ops[i]
        if status == L.STATUS_OK and (kind == L.OP_STATS or kind == L.OP_STATE):
            status = L.STATUS_HOST
        if status == L.STATUS_OK and g[L.NOW] >= g[L.NEXT_SAMPLE]:
            status = L.STATUS_SAMPLE
        g[L.STATUS] = status
        if status != L.STATUS_OK:
            return i
        run_op(s, ops, ids, i, nr_ops)
        if g[L.STATUS] != L.STATUS_OK and g[L.STATUS] != L.STATUS_BUG_WALK:
            return i
        end_op(s)
        i += 1
        if g[L.STATUS] != L.STATUS_OK:
            return i
    g[L.STATUS] = L.STATUS_OK
    return i


# --- history (spec 8.3) --------------------------------------------------------------------------


@kernel
def measure_chunk(s, c):
    """Bring largest free area, sum_frag and max_frag of a chunk up to date -> entries read."""
    chunk = s.chunk
    if chunk[c + L.SAMPLED] > chunk[c + L.CHANGED]:
        return 0
    entries = s.map
    at = chunk[c + L.MAP]
    end = at + chunk[c + L.MAP_USED]
    largest = 0
    sum_frag = 0
    max_frag = 0
    free_sum = 0
    while at < end:
        this = entries[at]
        if this & 1:
            # free space counts as a fragment only where an area in use lies behind it
            sum_frag = free_sum
            max_frag = largest
        else:
            length = (entries[at + 1] & ~1) - this
            free_sum += length
            largest = max(largest, length)
        at += 1
    chunk[c + L.LARGEST_FREE] = largest
    chunk[c + L.SUM_FRAG] = sum_frag
    chunk[c + L.MAX_FRAG] = max_frag
    chunk[c + L.SAMPLED] = s.g[L.NOW]
    return chunk[c + L.MAP_USED]


@kernel
def sample_chunk(s, c, history, capacity, at):
    work = measure_chunk(s, c) + ROW_WORK
    chunk = s.chunk
    history[L.HIST_OP * capacity + at] = s.g[L.NOW]
    history[L.HIST_ORDINAL * capacity + at] = chunk[c + L.ORDINAL]
    history[L.HIST_FREE_BYTES * capacity + at] = chunk[c + L.FREE_SIZE]
    history[L.HIST_LARGEST_FREE_BYTES * capacity + at] = chunk[c + L.LARGEST_FREE]
    history[L.HIST_SUM_FRAG * capacity + at] = chunk[c + L.SUM_FRAG]
    history[L.HIST_MAX_FRAG * capacity + at] = chunk[c + L.MAX_FRAG]
    history[L.HIST_NR_ALLOC * capacity + at] = chunk[c + L.CHUNK_NR_ALLOC]
    history[L.HIST_NR_POPULATED * capacity + at] = chunk[c + L.NR_POPULATED]
    return work


@entry
def sample_history(g, chunk, map_, birth, ring, order, history):
    """Write a row a chunk into the history -> entries read, or -1, with nothing written, if it is full.

    Args:
        history: int64, NR_HIST_COLUMNS rows of the same length, flattened.
    """
    s = State(g, chunk, map_, birth, ring, order)
    capacity = len(history) // L.NR_HIST_COLUMNS
    at = g[L.HIST_USED]
    work = 0
    c = g[L.RESERVED_CHUNK]
    if c != 0 and at < capacity:
        work += sample_chunk(s, c, history, capacity, at)
        at += 1
    for slot in range(g[L.NR_SLOTS]):
        head = slot * g[L.ROW_WORDS]
        c = chunk[head + L.LIST_NEXT]
        while c != head:
            if at >= capacity:
                return -1
            work += sample_chunk(s, c, history, capacity, at)
            at += 1
            c = chunk[c + L.LIST_NEXT]
    g[L.HIST_USED] = at
    return work
