"""The bitmap allocator of Linux v6.12.

A chunk is one range of granules of 4 bytes, backed once for every CPU; one bit a granule:

    alloc_map   1 1 1 1 0 0 1 1 0 0 ...      1 = in use, or hidden (what lies before and behind a boot chunk)
    bound_map   1 0 1 0 1 0 1 0 1 0 ...      1 = an area begins or ends here: [0, 2), [2, 4), [6, 8) are in use

A page of 1024 bits is a block. What is known of its free runs is a record of 8 words (md), all in bits from the
block's beginning; another such record, from the chunk's beginning, speaks of the whole chunk:

    ###....####..######............####...      #  in use
       ^scan_hint       ^contig_hint            contig_hint  the largest run that is known
       ^first_free                     ^right_free           scan_hint    a smaller one before it, 0 if none

    >>> from percpu_lab.core.bitmap import PCPU_BITMAP_BLOCK_BITS, PCPU_MIN_ALLOC_SIZE
    >>> PCPU_BITMAP_BLOCK_BITS * PCPU_MIN_ALLOC_SIZE
    4096

Invariants of a chunk, checked by validate_bitmap():
 1. free_bytes is 4 for each clear bit of alloc_map (less up to 3 where a hidden end is no whole granule);
 2. a contig run and a scan run that are not 0 are free, in each block and in the chunk;
 3. first_free of the chunk is its first clear bit; that of a block too, or lower where the block is full;
 4. in each record scan_hint <= contig_hint, and a scan run behind the contig run is as long;
 5. contig_hint of the chunk is at most its largest free run (often less: pcpu_block_update_hint_free); left_free of a
    block is exact, its right_free too or 0, and its contig_hint is all bits exactly if it is wholly free;
 6. nr_populated counts the populated pages, nr_empty_pop_pages those that are wholly free; areas lie on populated ones;
 7. every area in use begins and ends at a bit of bound_map;
 8. an isolated chunk is on the list of the sidelined or of the to_depopulate chunks, any other on neither.

Source: Linux v6.12 mm/percpu.c by its behavioural specification, sections 3 to 7.
"""

from ..errors import LockdepError
from . import layout as L
from ._jit import cold, ctz, entry, kernel
from .backing import (
    announce_chunk,
    create_backing,
    depopulate_all,
    depopulate_run,
    init_heads,
    pcpu_destroy_chunk,
    pcpu_next_run,
    populate_area,
    populate_some,
    take_row,
)
from .births import birth_index
from .bits import bitmap_clear, bitmap_set, find_last_bit, find_next_bit, find_next_zero_bit, set_bit
from .counters import pcpu_stats_area_alloc, pcpu_stats_area_dealloc, pcpu_update_empty_pages
from .lists import list_add, list_add_tail, list_del, list_empty
from .locks import mutex_lock, mutex_unlock, spin_lock, spin_unlock
from .page import PAGE_SHIFT, PAGE_SIZE, PCPU_MIN_UNIT_SIZE
from .request import fail, hand_out, pcpu_schedule_balance_work, refuse, room, take_back
from .ring import trace_event
from .slots import raw_slot
from .state import State

PCPU_MIN_ALLOC_SHIFT = 2
PCPU_MIN_ALLOC_SIZE = 1 << PCPU_MIN_ALLOC_SHIFT
PCPU_BITMAP_BLOCK_SHIFT = PAGE_SHIFT - PCPU_MIN_ALLOC_SHIFT
PCPU_BITMAP_BLOCK_BITS = 1 << PCPU_BITMAP_BLOCK_SHIFT
BLOCK_WORDS = PCPU_BITMAP_BLOCK_BITS // 64
PCPU_SLOT_FAIL_THRESHOLD = 3
PCPU_EMPTY_POP_PAGES_LOW = 2
PCPU_EMPTY_POP_PAGES_HIGH = 4
RECORD_CALLS = 4  # kernel memory requests for a new chunk: its record, alloc_map, bound_map, md_blocks
WARN_LIMIT = 10

# the lists behind the slots of sizes: sidelined, free, to_depopulate
NR_EXTRA_SLOTS = 3

# what history costs, in words read: a row, a free run
ROW_WORK = 16
RUN_WORK = 6


@kernel
def sidelined_slot(s):
    return s.g[L.NR_SLOTS] - 3


@kernel
def free_slot(s):
    return s.g[L.NR_SLOTS] - 2


@kernel
def to_depopulate_slot(s):
    return s.g[L.NR_SLOTS] - 1


# --- slots (spec 1.5, 5.4, 6) ------------------------------------------------------


@kernel
def pcpu_size_to_slot(s, size):
    if size == s.g[L.UNIT_SIZE]:
        return free_slot(s)
    return raw_slot(size)


@kernel
def pcpu_chunk_slot(s, c):
    contig_hint = s.chunk[c + L.CHUNK_MD + L.MD_CONTIG_HINT]
    if s.chunk[c + L.FREE_SIZE] < PCPU_MIN_ALLOC_SIZE or contig_hint == 0:
        return 0
    return pcpu_size_to_slot(s, contig_hint << PCPU_MIN_ALLOC_SHIFT)


@kernel
def pcpu_chunk_move(s, c, slot, to_front):
    if s.chunk[c + L.LIST_NEXT] != -1:
        list_del(s.chunk, L.LIST_NEXT, c)
    head = slot * s.g[L.ROW_WORDS]
    if to_front:
        list_add(s.chunk, L.LIST_NEXT, c, head)
    else:
        list_add_tail(s.chunk, L.LIST_NEXT, c, head)


@kernel
def pcpu_chunk_relocate(s, c, old_slot):
    """Move the chunk to the list of its slot: to the front if it can hold more than before, to the tail if less."""
    slot = pcpu_chunk_slot(s, c)
    if slot == old_slot or s.chunk[c + L.ISOLATED] != 0 or c == s.g[L.RESERVED_CHUNK]:
        return
    pcpu_chunk_move(s, c, slot, old_slot < slot)


@kernel
def pcpu_isolate_chunk(s, c):
    """Take a chunk out of use, for its empty pages to be given back."""
    if s.g[L.PCPU_LOCK] == 0:
        raise LockdepError("pcpu_isolate_chunk: pcpu_lock must be held")
    if s.chunk[c + L.ISOLATED] == 0:
        s.chunk[c + L.ISOLATED] = 1
        s.g[L.NR_EMPTY_POP_PAGES] -= s.chunk[c + L.CHUNK_NR_EMPTY_POP_PAGES]
    pcpu_chunk_move(s, c, to_depopulate_slot(s), True)


@kernel
def pcpu_reintegrate_chunk(s, c):
    if s.g[L.PCPU_LOCK] == 0:
        raise LockdepError("pcpu_reintegrate_chunk: pcpu_lock must be held")
    if s.chunk[c + L.ISOLATED] != 0:
        s.chunk[c + L.ISOLATED] = 0
        s.g[L.NR_EMPTY_POP_PAGES] += s.chunk[c + L.CHUNK_NR_EMPTY_POP_PAGES]
        pcpu_chunk_relocate(s, c, -1)


# --- records of free runs (spec 3.5, 3.7, 3.9, 3.10) -----------------------------------


@kernel
def pcpu_region_overlap(a, b, x, y):
    """Say whether [a, b) meets [x, y); an empty range strictly inside the other does."""
    return a < y and x < b


@kernel
def pcpu_init_md_block(chunk, md, nr_bits):
    chunk[md + L.MD_SCAN_HINT] = 0
    chunk[md + L.MD_CONTIG_HINT] = nr_bits
    chunk[md + L.MD_LEFT_FREE] = nr_bits
    chunk[md + L.MD_RIGHT_FREE] = nr_bits
    chunk[md + L.MD_FIRST_FREE] = 0
    chunk[md + L.MD_NR_BITS] = nr_bits


@kernel
def set_scan_hint(chunk, md, start, length):
    chunk[md + L.MD_SCAN_HINT_START] = start
    chunk[md + L.MD_SCAN_HINT] = length


@kernel
def pcpu_block_update(chunk, md, start, end):
    """Let a record know of the free run [start, end)."""
    contig = end - start
    chunk[md + L.MD_FIRST_FREE] = min(chunk[md + L.MD_FIRST_FREE], start)
    if start == 0:
        chunk[md + L.MD_LEFT_FREE] = contig
    if end == chunk[md + L.MD_NR_BITS]:
        chunk[md + L.MD_RIGHT_FREE] = contig
    contig_hint = chunk[md + L.MD_CONTIG_HINT]
    contig_start = chunk[md + L.MD_CONTIG_HINT_START]
    scan_hint = chunk[md + L.MD_SCAN_HINT]
    scan_start = chunk[md + L.MD_SCAN_HINT_START]
    if contig > contig_hint:
        if start <= contig_start:
            chunk[md + L.MD_SCAN_HINT] = 0
        elif contig_hint > scan_hint:
            set_scan_hint(chunk, md, contig_start, contig_hint)
        elif start < scan_start:
            chunk[md + L.MD_SCAN_HINT] = 0
        chunk[md + L.MD_CONTIG_HINT_START] = start
        chunk[md + L.MD_CONTIG_HINT] = contig
    elif contig == contig_hint:
        if contig_start != 0 and (start == 0 or ctz(start) > ctz(contig_start)):
            # better aligned; the old place is forgotten
            chunk[md + L.MD_CONTIG_HINT_START] = start
            if start < scan_start and contig_hint > scan_hint:
                chunk[md + L.MD_SCAN_HINT] = 0
        elif start > scan_start or contig_hint > scan_hint:
            set_scan_hint(chunk, md, start, contig)
    elif start < contig_start and (contig > scan_hint or (contig == scan_hint and start > scan_start)):
        set_scan_hint(chunk, md, start, contig)


@kernel
def begin_refresh(chunk, md, keep_scan):
    """Forget the contig run of a record -> the bit from which to look for free runs.

    The scan run, if there is one, becomes the contig run: nothing before its end is larger.

    Args:
        keep_scan: look at everything.
    """
    scan_hint = chunk[md + L.MD_SCAN_HINT]
    if scan_hint == 0 or keep_scan:
        chunk[md + L.MD_CONTIG_HINT] = 0
        return chunk[md + L.MD_FIRST_FREE]
    start = chunk[md + L.MD_SCAN_HINT_START]
    chunk[md + L.MD_CONTIG_HINT_START] = start
    chunk[md + L.MD_CONTIG_HINT] = scan_hint
    chunk[md + L.MD_SCAN_HINT] = 0
    return start + scan_hint


@kernel
def pcpu_block_refresh_hint(s, c, md, block_map):
    """Read the free runs of a block off its part of alloc_map.

    Args:
        md: the block's record.
        block_map: its first word in s.map.
    """
    chunk = s.chunk
    start = begin_refresh(chunk, md, False)
    s.g[L.BITS_SCANNED] += PCPU_BITMAP_BLOCK_BITS - start
    chunk[md + L.MD_RIGHT_FREE] = 0
    start = find_next_zero_bit(s.map, block_map, PCPU_BITMAP_BLOCK_BITS, start)
    while start < PCPU_BITMAP_BLOCK_BITS:
        end = find_next_bit(s.map, block_map, PCPU_BITMAP_BLOCK_BITS, start + 1)
        pcpu_block_update(chunk, md, start, end)
        start = find_next_zero_bit(s.map, block_map, PCPU_BITMAP_BLOCK_BITS, end + 1)


@kernel
def pcpu_next_md_free_region(s, c, off):
    """Find the next free run that the blocks' records tell of, from bit `off` on -> (start, length)."""
    chunk = s.chunk
    block = off >> PCPU_BITMAP_BLOCK_SHIFT
    block_off = off & (PCPU_BITMAP_BLOCK_BITS - 1)
    length = 0
    while block < chunk[c + L.NR_PAGES]:
        md = chunk[c + L.MD_BLOCKS] + block * L.NR_MD_WORDS
        start = block << PCPU_BITMAP_BLOCK_SHIFT
        s.g[L.BLOCKS_SCANNED] += 1
        if length > 0:
            left_free = chunk[md + L.MD_LEFT_FREE]
            length += left_free
            if left_free != PCPU_BITMAP_BLOCK_BITS:
                return off, length
        else:
            contig_hint = chunk[md + L.MD_CONTIG_HINT]
            contig_start = chunk[md + L.MD_CONTIG_HINT_START]
            if contig_hint != 0 and contig_start >= block_off and contig_hint + contig_start < PCPU_BITMAP_BLOCK_BITS:
                return start + contig_start, contig_hint
            block_off = 0
            length = chunk[md + L.MD_RIGHT_FREE]
            off = start + PCPU_BITMAP_BLOCK_BITS - length
        block += 1
    return off, length


@cold
def pcpu_chunk_refresh_hint(s, c, full_scan):
    """Read the free runs of a chunk off the records of its blocks."""
    chunk = s.chunk
    md = c + L.CHUNK_MD
    off = begin_refresh(chunk, md, full_scan)
    nr_bits = chunk[md + L.MD_NR_BITS]
    while True:
        off, length = pcpu_next_md_free_region(s, c, off)
        if off >= nr_bits:
            return
        pcpu_block_update(chunk, md, off, off + length)
        off += length + 1


@kernel
def pcpu_next_hint(chunk, md, bits):
    """Say where in a block or chunk to begin a search: behind the scan run if that is too small."""
    scan_hint = chunk[md + L.MD_SCAN_HINT]
    scan_start = chunk[md + L.MD_SCAN_HINT_START]
    if scan_hint != 0 and chunk[md + L.MD_CONTIG_HINT_START] > scan_start and bits > scan_hint:
        return scan_start + scan_hint
    return chunk[md + L.MD_FIRST_FREE]


@kernel
def alignment_gap(start, align):
    return ((start + align - 1) & -align) - start


@kernel
def pcpu_next_fit_region(s, c, bits, align, off):
    """Find the next run that by the blocks' records takes a request -> (start, length); start = all bits if none."""
    chunk = s.chunk
    block = off >> PCPU_BITMAP_BLOCK_SHIFT
    block_off = off & (PCPU_BITMAP_BLOCK_BITS - 1)
    length = 0
    while block < chunk[c + L.NR_PAGES]:
        md = chunk[c + L.MD_BLOCKS] + block * L.NR_MD_WORDS
        start = block << PCPU_BITMAP_BLOCK_SHIFT
        s.g[L.BLOCKS_SCANNED] += 1
        block += 1
        if length > 0:
            left_free = chunk[md + L.MD_LEFT_FREE]
            length += left_free
            if length >= bits:
                return off, length
            if left_free == PCPU_BITMAP_BLOCK_BITS:
                continue
        contig_hint = chunk[md + L.MD_CONTIG_HINT]
        contig_start = chunk[md + L.MD_CONTIG_HINT_START]
        gap = alignment_gap(contig_start, align)
        if contig_hint != 0 and contig_start >= block_off and contig_hint >= gap + bits:
            hint = pcpu_next_hint(chunk, md, bits)
            return start + hint, gap + bits + contig_start - hint
        block_off = 0
        right = (PCPU_BITMAP_BLOCK_BITS - chunk[md + L.MD_RIGHT_FREE] + align - 1) & -align
        length = PCPU_BITMAP_BLOCK_BITS - right
        off = start + right
        if length >= bits:
            return off, length
    return chunk[c + L.CHUNK_MD + L.MD_NR_BITS], 0


@kernel
def pcpu_is_populated(s, c, start, length):
    """Say where to search on, in bits, because a page of the run is not populated; -1 if all are."""
    page_end = (start + length + PCPU_BITMAP_BLOCK_BITS - 1) >> PCPU_BITMAP_BLOCK_SHIFT
    hole_start, hole_end = pcpu_next_run(s, c, start >> PCPU_BITMAP_BLOCK_SHIFT, page_end, 0)
    if hole_start >= page_end:
        return -1
    return hole_end << PCPU_BITMAP_BLOCK_SHIFT


@kernel
def pcpu_find_block_fit(s, c, bits, align, pop_only):
    """Find the bit from which to search the map for a request; -1 if the records promise nothing.

    Args:
        pop_only: use populated pages only.
    """
    chunk = s.chunk
    md = c + L.CHUNK_MD
    gap = alignment_gap(chunk[md + L.MD_CONTIG_HINT_START], align)
    if gap + bits > chunk[md + L.MD_CONTIG_HINT]:
        return -1
    start = pcpu_next_hint(chunk, md, bits)
    while True:
        off, length = pcpu_next_fit_region(s, c, bits, align, start)
        if off >= chunk[md + L.MD_NR_BITS]:
            return -1
        start = -1
        if pop_only:
            start = pcpu_is_populated(s, c, off, length)
        if start < 0:
            return off


# --- areas (spec 3.6 to 3.8, 4.2, 4.3) -----------------------------------------------------


@kernel
def pcpu_find_zero_area(words, at, limit, start, bits, align):
    """Find the first aligned free run of `bits` below limit -> (bit, start and length of the largest run passed over).

    The bit is limit or more if there is none.
    """
    skipped = 0
    skipped_bits = 0
    while True:
        area = (find_next_zero_bit(words, at, limit, start) + align - 1) & -align
        end = area + bits
        if end > limit:
            return end, skipped, skipped_bits
        used = find_next_bit(words, at, end, area)
        if used >= end:
            return area, skipped, skipped_bits
        length = used - area
        is_better_aligned = skipped != 0 and (area == 0 or ctz(area) > ctz(skipped))
        if length > skipped_bits or (length == skipped_bits and is_better_aligned):
            skipped = area
            skipped_bits = length
        start = used + 1


@kernel
def next_zero_bit(s, at, size, start):
    """Find the first clear bit in [start, size), and count the bits passed over."""
    bit = find_next_zero_bit(s.map, at, size, start)
    s.g[L.BITS_SCANNED] += bit - start
    return bit


@kernel
def next_bit(s, at, size, start):
    """Find the first set bit in [start, size), and count the bits passed over."""
    bit = find_next_bit(s.map, at, size, start)
    s.g[L.BITS_SCANNED] += bit - start
    return bit


@kernel
def previous_run_start(s, at, end):
    """Find where the clear bits begin that end before bit `end`, and count the bits passed over."""
    used = find_last_bit(s.map, at, end)
    start = 0 if used == end else used + 1
    s.g[L.BITS_SCANNED] += end - start
    return start


@cold
def pcpu_block_update_scan(s, c, off, bits):
    """Let the block know of the largest run that a search passed over."""
    start = off & (PCPU_BITMAP_BLOCK_BITS - 1)
    end = start + bits
    if end > PCPU_BITMAP_BLOCK_BITS:
        return
    block = off >> PCPU_BITMAP_BLOCK_SHIFT
    run_start = previous_run_start(s, s.chunk[c + L.MAP] + block * BLOCK_WORDS, start)
    pcpu_block_update(s.chunk, s.chunk[c + L.MD_BLOCKS] + block * L.NR_MD_WORDS, run_start, end)


@kernel
def pcpu_alloc_area(s, c, bits, align, start):
    """Allocate the first run that fits, from bit `start` on -> offset in bytes; -1, with nothing changed, if none."""
    chunk = s.chunk
    words = s.map
    alloc_map = chunk[c + L.MAP]
    md = c + L.CHUNK_MD
    nr_bits = chunk[md + L.MD_NR_BITS]
    old_slot = pcpu_chunk_slot(s, c)
    limit = min(start + bits + PCPU_BITMAP_BLOCK_BITS, nr_bits)
    bit, skipped, skipped_bits = pcpu_find_zero_area(words, alloc_map, limit, start, bits, align)
    s.g[L.BITS_SCANNED] += min(bit + bits, limit) - start
    if bit >= limit:
        return -1
    if skipped_bits > 0:
        pcpu_block_update_scan(s, c, skipped, skipped_bits)
    bitmap_set(words, alloc_map, bit, bit + bits)
    mark_bounds(words, chunk[c + L.BOUND_MAP], bit, bit + bits)
    chunk[c + L.FREE_SIZE] -= bits << PCPU_MIN_ALLOC_SHIFT
    chunk[c + L.CHANGED] = s.g[L.NOW]
    if bit == chunk[md + L.MD_FIRST_FREE]:
        chunk[md + L.MD_FIRST_FREE] = next_zero_bit(s, alloc_map, nr_bits, bit + bits)
    pcpu_block_update_hint_alloc(s, c, bit, bits)
    pcpu_chunk_relocate(s, c, old_slot)
    return bit << PCPU_MIN_ALLOC_SHIFT


@kernel
def mark_bounds(words, bound_map, start, end):
    set_bit(words, bound_map, start)
    bitmap_clear(words, bound_map, start + 1, end)
    set_bit(words, bound_map, end)


@kernel
def pcpu_block_update_hint_alloc(s, c, bit, bits):
    """Bring the records up to date after bits [bit, bit + bits) were set."""
    chunk = s.chunk
    first = bit >> PCPU_BITMAP_BLOCK_SHIFT
    last = (bit + bits - 1) >> PCPU_BITMAP_BLOCK_SHIFT
    start = bit & (PCPU_BITMAP_BLOCK_BITS - 1)
    end = ((bit + bits - 1) & (PCPU_BITMAP_BLOCK_BITS - 1)) + 1
    nr_empty = update_first_block(s, c, first, start, bits, end if first == last else PCPU_BITMAP_BLOCK_BITS)
    if first != last:
        nr_empty += update_later_blocks(s, c, first, last, end)
    if nr_empty != 0:
        pcpu_update_empty_pages(s, c, -nr_empty)
    md = c + L.CHUNK_MD
    scan_start = chunk[md + L.MD_SCAN_HINT_START]
    if pcpu_region_overlap(scan_start, scan_start + chunk[md + L.MD_SCAN_HINT], bit, bit + bits):
        chunk[md + L.MD_SCAN_HINT] = 0
    contig_start = chunk[md + L.MD_CONTIG_HINT_START]
    if pcpu_region_overlap(contig_start, contig_start + chunk[md + L.MD_CONTIG_HINT], bit, bit + bits):
        pcpu_chunk_refresh_hint(s, c, False)


@kernel
def first_free_behind(s, block_map, end):
    """Find the first clear bit of a block from bit `end` on, which may lie behind it; all bits if there is none."""
    if end >= PCPU_BITMAP_BLOCK_BITS:
        return PCPU_BITMAP_BLOCK_BITS
    return next_zero_bit(s, block_map, PCPU_BITMAP_BLOCK_BITS, end)


@kernel
def update_first_block(s, c, block, start, bits, end):
    """Take a new area out of the record of the block it begins in -> whether the block was wholly free.

    Args:
        start, bits: of the area, which may go on behind the block; from the block's beginning.
        end: of the area within the block.
    """
    chunk = s.chunk
    md = chunk[c + L.MD_BLOCKS] + block * L.NR_MD_WORDS
    block_map = chunk[c + L.MAP] + block * BLOCK_WORDS
    was_free = 1 if chunk[md + L.MD_CONTIG_HINT] == PCPU_BITMAP_BLOCK_BITS else 0
    if start == chunk[md + L.MD_FIRST_FREE]:
        chunk[md + L.MD_FIRST_FREE] = first_free_behind(s, block_map, start + bits)
    scan_start = chunk[md + L.MD_SCAN_HINT_START]
    if pcpu_region_overlap(scan_start, scan_start + chunk[md + L.MD_SCAN_HINT], start, start + bits):
        chunk[md + L.MD_SCAN_HINT] = 0
    contig_start = chunk[md + L.MD_CONTIG_HINT_START]
    if pcpu_region_overlap(contig_start, contig_start + chunk[md + L.MD_CONTIG_HINT], start, start + bits):
        if start == 0:
            chunk[md + L.MD_LEFT_FREE] = 0
        pcpu_block_refresh_hint(s, c, md, block_map)
    else:
        chunk[md + L.MD_LEFT_FREE] = min(chunk[md + L.MD_LEFT_FREE], start)
        chunk[md + L.MD_RIGHT_FREE] = min(chunk[md + L.MD_RIGHT_FREE], PCPU_BITMAP_BLOCK_BITS - end)
    return was_free


@cold
def update_later_blocks(s, c, first, last, end):
    """Take a new area out of the records of all blocks but the first -> how many were wholly free."""
    chunk = s.chunk
    md = chunk[c + L.MD_BLOCKS] + last * L.NR_MD_WORDS
    block_map = chunk[c + L.MAP] + last * BLOCK_WORDS
    was_free = 1 if chunk[md + L.MD_CONTIG_HINT] == PCPU_BITMAP_BLOCK_BITS else 0
    chunk[md + L.MD_FIRST_FREE] = first_free_behind(s, block_map, end)
    full_end = last
    if end == PCPU_BITMAP_BLOCK_BITS:
        full_end += 1
    else:
        if end > chunk[md + L.MD_SCAN_HINT_START]:
            chunk[md + L.MD_SCAN_HINT] = 0
        chunk[md + L.MD_LEFT_FREE] = 0
        if end > chunk[md + L.MD_CONTIG_HINT_START]:
            pcpu_block_refresh_hint(s, c, md, block_map)
        else:
            chunk[md + L.MD_RIGHT_FREE] = min(chunk[md + L.MD_RIGHT_FREE], PCPU_BITMAP_BLOCK_BITS - end)
    for block in range(first + 1, full_end):
        md = chunk[c + L.MD_BLOCKS] + block * L.NR_MD_WORDS
        chunk[md + L.MD_SCAN_HINT] = 0
        chunk[md + L.MD_CONTIG_HINT] = 0
        chunk[md + L.MD_LEFT_FREE] = 0
        chunk[md + L.MD_RIGHT_FREE] = 0
    return was_free + last - first - 1


@kernel
def pcpu_free_area(s, c, off):
    """Free the area in use at off."""
    if s.g[L.PCPU_LOCK] == 0:
        raise LockdepError("pcpu_free_area: pcpu_lock must be held")
    chunk = s.chunk
    pcpu_stats_area_dealloc(s, c)
    old_slot = pcpu_chunk_slot(s, c)
    bit = off >> PCPU_MIN_ALLOC_SHIFT
    md = c + L.CHUNK_MD
    end = next_bit(s, chunk[c + L.BOUND_MAP], chunk[md + L.MD_NR_BITS], bit + 1)
    bitmap_clear(s.map, chunk[c + L.MAP], bit, end)
    chunk[c + L.FREE_SIZE] += (end - bit) << PCPU_MIN_ALLOC_SHIFT
    chunk[c + L.CHANGED] = s.g[L.NOW]
    chunk[md + L.MD_FIRST_FREE] = min(chunk[md + L.MD_FIRST_FREE], bit)
    pcpu_block_update_hint_free(s, c, bit, end - bit)
    pcpu_chunk_relocate(s, c, old_slot)


@kernel
def pcpu_block_update_hint_free(s, c, bit, bits):
    """Bring the records up to date after bits [bit, bit + bits) were cleared."""
    chunk = s.chunk
    first = bit >> PCPU_BITMAP_BLOCK_SHIFT
    last = (bit + bits - 1) >> PCPU_BITMAP_BLOCK_SHIFT
    end = ((bit + bits - 1) & (PCPU_BITMAP_BLOCK_BITS - 1)) + 1
    start = free_run_start(s, c, first, bit & (PCPU_BITMAP_BLOCK_BITS - 1))
    end = free_run_end(s, c, last, end)
    nr_empty = 0
    first_end = end if first == last else PCPU_BITMAP_BLOCK_BITS
    if start == 0 and first_end == PCPU_BITMAP_BLOCK_BITS:
        nr_empty = 1
    pcpu_block_update(chunk, chunk[c + L.MD_BLOCKS] + first * L.NR_MD_WORDS, start, first_end)
    if first != last:
        nr_empty += free_later_blocks(s, c, first, last, end)
    if nr_empty != 0:
        pcpu_update_empty_pages(s, c, nr_empty)
    if first != last or end - start >= PCPU_BITMAP_BLOCK_BITS:
        pcpu_chunk_refresh_hint(s, c, True)
    else:
        # the kernel mixes a position in the chunk with one in the block: from block 1 on the run has
        # a negative length, and the chunk does not learn of it (spec 4.3)
        pcpu_block_update(chunk, c + L.CHUNK_MD, (first << PCPU_BITMAP_BLOCK_SHIFT) + start, end)


@kernel
def free_run_start(s, c, block, start):
    """Find where the free run begins that ends with bit `start` of a block."""
    md = s.chunk[c + L.MD_BLOCKS] + block * L.NR_MD_WORDS
    contig_start = s.chunk[md + L.MD_CONTIG_HINT_START]
    if start == contig_start + s.chunk[md + L.MD_CONTIG_HINT]:
        return contig_start
    return previous_run_start(s, s.chunk[c + L.MAP] + block * BLOCK_WORDS, start)


@kernel
def free_run_end(s, c, block, end):
    """Find where the free run ends that begins with bit `end` of a block."""
    md = s.chunk[c + L.MD_BLOCKS] + block * L.NR_MD_WORDS
    contig_start = s.chunk[md + L.MD_CONTIG_HINT_START]
    if end == contig_start:
        return contig_start + s.chunk[md + L.MD_CONTIG_HINT]
    return next_bit(s, s.chunk[c + L.MAP] + block * BLOCK_WORDS, PCPU_BITMAP_BLOCK_BITS, end)


@cold
def free_later_blocks(s, c, first, last, end):
    """Let all blocks of a freed area but the first know of it -> how many became wholly free."""
    chunk = s.chunk
    pcpu_block_update(chunk, chunk[c + L.MD_BLOCKS] + last * L.NR_MD_WORDS, 0, end)
    for block in range(first + 1, last):
        md = chunk[c + L.MD_BLOCKS] + block * L.NR_MD_WORDS
        pcpu_init_md_block(chunk, md, PCPU_BITMAP_BLOCK_BITS)
        chunk[md + L.MD_CONTIG_HINT_START] = 0
    return last - first - 1 + (1 if end == PCPU_BITMAP_BLOCK_BITS else 0)


# --- chunks (spec 2.2, 7) --------------------------------------------------------------------


@cold
def pcpu_create_chunk(s):
    """Create a chunk, on no list yet -> handle, or 0 without memory."""
    if s.g[L.ALLOC_MUTEX] == 0 or s.g[L.PCPU_LOCK] != 0:
        raise LockdepError("pcpu_create_chunk: pcpu_alloc_mutex must be held, pcpu_lock must not")
    c = create_backing(s, RECORD_CALLS)
    if c == 0:
        return 0
    init_maps(s, c, s.g[L.UNIT_SIZE])
    announce_chunk(s, c)
    return c


@kernel
def init_maps(s, c, free_bytes):
    """Make all bits and records of a chunk those of wholly free space."""
    chunk = s.chunk
    at = chunk[c + L.MAP]
    for word in range(at, at + s.g[L.MAP_STRIDE]):
        s.map[word] = 0
    chunk[c + L.BOUND_MAP] = at + s.g[L.UNIT_PAGES] * BLOCK_WORDS
    chunk[c + L.MD_BLOCKS] = c + L.POPULATED + s.g[L.UNIT_PAGES]
    pcpu_init_md_block(chunk, c + L.CHUNK_MD, chunk[c + L.NR_PAGES] << PCPU_BITMAP_BLOCK_SHIFT)
    for block in range(chunk[c + L.NR_PAGES]):
        pcpu_init_md_block(chunk, chunk[c + L.MD_BLOCKS] + block * L.NR_MD_WORDS, PCPU_BITMAP_BLOCK_BITS)
    chunk[c + L.FREE_SIZE] = free_bytes
    chunk[c + L.CHANGED] = s.g[L.NOW]


@cold
def pcpu_alloc_first_chunk(s, start, size):
    """Make the first or the reserved chunk, for the bytes [start, start + size) of the first unit."""
    chunk = s.chunk
    c = take_row(s)
    base = start & -PAGE_SIZE
    start_offset = start - base
    region = (start_offset + size + PAGE_SIZE - 1) & -PAGE_SIZE
    nr_pages = region >> PAGE_SHIFT
    chunk[c + L.BASE] = base
    chunk[c + L.NR_PAGES] = nr_pages
    chunk[c + L.START_OFFSET] = start_offset
    chunk[c + L.END_OFFSET] = region - start_offset - size
    chunk[c + L.IMMUTABLE] = 1
    init_maps(s, c, size)
    for page in range(nr_pages):
        chunk[c + L.POPULATED + page] = 1
    chunk[c + L.NR_POPULATED] = nr_pages
    chunk[c + L.CHUNK_NR_EMPTY_POP_PAGES] = nr_pages
    hide_ends(s, c, start_offset + size)
    return c


@kernel
def hide_ends(s, c, end_byte):
    """Make the bits before and behind the served bytes of a boot chunk count as in use."""
    chunk = s.chunk
    nr_bits = chunk[c + L.CHUNK_MD + L.MD_NR_BITS]
    hidden = chunk[c + L.START_OFFSET] >> PCPU_MIN_ALLOC_SHIFT
    if hidden > 0:
        bitmap_set(s.map, chunk[c + L.MAP], 0, hidden)
        set_bit(s.map, chunk[c + L.BOUND_MAP], 0)
        set_bit(s.map, chunk[c + L.BOUND_MAP], hidden)
        chunk[c + L.CHUNK_MD + L.MD_FIRST_FREE] = hidden
        pcpu_block_update_hint_alloc(s, c, 0, hidden)
    hidden = chunk[c + L.END_OFFSET] >> PCPU_MIN_ALLOC_SHIFT
    if hidden > 0:
        bitmap_set(s.map, chunk[c + L.MAP], nr_bits - hidden, nr_bits)
        set_bit(s.map, chunk[c + L.BOUND_MAP], end_byte >> PCPU_MIN_ALLOC_SHIFT)
        set_bit(s.map, chunk[c + L.BOUND_MAP], nr_bits)
        pcpu_block_update_hint_alloc(s, c, nr_bits - hidden, hidden)


@entry
def pcpu_setup_first_chunk(g, chunk, map_, birth, ring, order, static_size, reserved_size, dyn_size):
    """Make the first chunk and, if asked for, the reserved one; sizes in bytes (spec 2.1)."""
    s = State(g, chunk, map_, birth, ring, order)
    g[L.NOW] = -1
    init_heads(s)
    g[L.MIN_ALLOC_SIZE] = g[L.UNIT_SIZE]
    g[L.WARN_LIMIT] = WARN_LIMIT
    start = (static_size + PCPU_MIN_ALLOC_SIZE - 1) & -PCPU_MIN_ALLOC_SIZE
    size = dyn_size - (start - static_size)
    if reserved_size > 0:
        c = pcpu_alloc_first_chunk(s, start, reserved_size)
        chunk[c + L.ORDINAL] = -1
        g[L.RESERVED_CHUNK] = c
        g[L.RESERVED_LIMIT] = start + reserved_size
    c = pcpu_alloc_first_chunk(s, start + reserved_size, size)
    g[L.FIRST_CHUNK] = c
    g[L.NR_EMPTY_POP_PAGES] = chunk[c + L.CHUNK_NR_EMPTY_POP_PAGES]
    pcpu_chunk_relocate(s, c, -1)
    g[L.NR_POPULATED_TOTAL] = (static_size + reserved_size + dyn_size) >> PAGE_SHIFT
    g[L.MAX_POPULATED] = g[L.NR_POPULATED_TOTAL]
    if g[L.STATS_ON] != 0:
        g[L.NR_CHUNKS] = 1
        g[L.NR_MAX_CHUNKS] = 1
    trace_event(s, L.EVENT_CREATE, c, 0, 0, 0, 0, 0)
    g[L.ASYNC_ENABLED] = 1
    g[L.NOW] = 0


# --- allocation (spec 3) ------------------------------------------------------------------------


@kernel
def try_chunk(s, c, bits, align, is_atomic):
    """Allocate in a chunk if its records promise a fit -> offset in bytes, -1 if they do not, -2 if they were wrong."""
    start = pcpu_find_block_fit(s, c, bits, align, is_atomic)
    if start < 0:
        return -1
    off = pcpu_alloc_area(s, c, bits, align, start)
    return off if off >= 0 else -2


@kernel
def search_slots(s, size, align, is_atomic):
    """Walk the slots for a chunk that takes the request -> (handle or 0, offset)."""
    chunk = s.chunk
    bits = size >> PCPU_MIN_ALLOC_SHIFT
    bit_align = align >> PCPU_MIN_ALLOC_SHIFT
    slot = pcpu_size_to_slot(s, size)
    while slot <= free_slot(s):
        head = slot * s.g[L.ROW_WORDS]
        c = chunk[head + L.LIST_NEXT]
        while c != head:
            following = chunk[c + L.LIST_NEXT]
            s.g[L.CHUNKS_SCANNED] += 1
            off = try_chunk(s, c, bits, bit_align, is_atomic)
            if off >= 0:
                pcpu_reintegrate_chunk(s, c)
                return c, off
            if off == -1 and slot < PCPU_SLOT_FAIL_THRESHOLD:
                pcpu_chunk_move(s, c, 0, True)
            c = following
        slot += 1
    return 0, 0


@cold
def search_reserved(s, size, align, is_atomic):
    """Try the reserved chunk, the only one for its requests -> offset, or less than 0."""
    return try_chunk(
        s, s.g[L.RESERVED_CHUNK], size >> PCPU_MIN_ALLOC_SHIFT, align >> PCPU_MIN_ALLOC_SHIFT, is_atomic
    )


@kernel
def search_all(s, size, align, is_atomic):
    """Search and create chunks until the request is served -> (handle, offset, reason)."""
    while True:
        c, off = search_slots(s, size, align, is_atomic)
        if c != 0:
            return c, off, L.REASON_NONE
        if is_atomic:
            return 0, 0, L.REASON_ATOMIC
        if not add_empty_chunk(s):
            return 0, 0, L.REASON_NEW_CHUNK


@cold
def add_empty_chunk(s):
    """Make sure that the free slot has a chunk -> whether it has."""
    if not list_empty(s.chunk, L.LIST_NEXT, free_slot(s) * s.g[L.ROW_WORDS]):
        return True
    spin_unlock(s)
    c = pcpu_create_chunk(s)
    spin_lock(s)
    if c == 0:
        return False
    pcpu_chunk_relocate(s, c, -1)
    return True


@kernel
def pcpu_alloc(s, size, align, reserved, is_atomic):
    """Serve a request -> percpu pointer, or 0 with the reason in g[REASON]; sizes in bytes."""
    g = s.g
    g[L.REASON] = L.REASON_NONE
    if 0 <= align < PCPU_MIN_ALLOC_SIZE:
        align = PCPU_MIN_ALLOC_SIZE
    size = (size + PCPU_MIN_ALLOC_SIZE - 1) & -PCPU_MIN_ALLOC_SIZE
    # numbers of 2^63 and more come as negative ones
    if size <= 0 or size > PCPU_MIN_UNIT_SIZE or align < 0 or align > PAGE_SIZE or align & (align - 1):
        return refuse(s, size, align, is_atomic)
    if not is_atomic:
        mutex_lock(s)
    spin_lock(s)
    if reserved and g[L.RESERVED_CHUNK] != 0:
        c = g[L.RESERVED_CHUNK]
        off = search_reserved(s, size, align, is_atomic)
        reason = L.REASON_NONE if off >= 0 else L.REASON_RESERVED
    else:
        c, off, reason = search_all(s, size, align, is_atomic)
    if reason == L.REASON_NONE:
        pcpu_stats_area_alloc(s, c, size)
        if not is_atomic and not populate_unlocked(s, c, off, size):
            reason = L.REASON_POPULATE
    if reason != L.REASON_NONE:
        return fail(s, size, align, reserved, is_atomic, reason)
    spin_unlock(s)
    if not is_atomic:
        mutex_unlock(s)
    if g[L.NR_EMPTY_POP_PAGES] < PCPU_EMPTY_POP_PAGES_LOW:
        pcpu_schedule_balance_work(s)
    return hand_out(s, c, off, size, align, reserved, is_atomic)


@kernel
def populate_unlocked(s, c, off, size):
    """Populate the pages of a fresh area with pcpu_lock dropped meanwhile, or free it -> whether it worked."""
    spin_unlock(s)
    done = populate_area(s, c, off, size)
    spin_lock(s)
    if not done:
        undo_area(s, c, off)
    return done


@cold
def undo_area(s, c, off):
    pcpu_free_area(s, c, off)


# --- free (spec 4.1, 4.6) ---------------------------------------------------------------------------


@kernel
def serves(s, c, address):
    """Say whether a relative address lies in the served part of a chunk."""
    off = address - s.chunk[c + L.BASE]
    end = (s.chunk[c + L.NR_PAGES] << PAGE_SHIFT) - s.chunk[c + L.END_OFFSET]
    return s.chunk[c + L.START_OFFSET] <= off < end


@kernel
def pcpu_chunk_addr_search(s, address):
    """Find the chunk of a relative address -> handle, or 0."""
    g = s.g
    if serves(s, g[L.FIRST_CHUNK], address):
        return g[L.FIRST_CHUNK]
    if g[L.RESERVED_CHUNK] != 0 and serves(s, g[L.RESERVED_CHUNK], address):
        return g[L.RESERVED_CHUNK]
    number = (address - g[L.AREA_BASE]) // g[L.AREA_STRIDE]
    if number < 0 or number >= g[L.NR_ORDER]:
        return 0
    c = s.order[number]
    return c if c != 0 and serves(s, c, address) else 0


@kernel
def check_free(s, c, address, born):
    """Say why a free of this address must not be tried; STATUS_OK if it may."""
    if c == 0:
        first = s.g[L.FIRST_CHUNK]
        is_static = 0 <= address < s.chunk[first + L.BASE] + s.chunk[first + L.START_OFFSET]
        return L.STATUS_STATIC if is_static else L.STATUS_NO_CHUNK
    off = address - s.chunk[c + L.BASE]
    if off & (PCPU_MIN_ALLOC_SIZE - 1):
        return L.STATUS_BAD_FREE
    birth = s.birth[birth_index(s.chunk[c + L.BIRTH], s.g[L.BIRTH_STRIDE], off)]
    if birth == 0:
        return L.STATUS_BAD_FREE
    if born >= 0 and birth >> 16 != born:
        return L.STATUS_STALE
    return L.STATUS_OK


@kernel
def pcpu_should_reclaim_chunk(s, c):
    """Say whether so much of a chunk is empty pages that they should be given back."""
    g = s.g
    if g[L.BACKING_KM] != 0 or s.chunk[c + L.IMMUTABLE] != 0 or g[L.NO_RECLAIM] != 0:
        return False
    nr_empty = s.chunk[c + L.CHUNK_NR_EMPTY_POP_PAGES]
    if s.chunk[c + L.ISOLATED] != 0:
        return nr_empty != 0
    return (
        g[L.NR_EMPTY_POP_PAGES] > PCPU_EMPTY_POP_PAGES_HIGH + nr_empty and nr_empty >= s.chunk[c + L.NR_PAGES] // 4
    )


@kernel
def other_chunk_in_free_slot(s, c):
    head = free_slot(s) * s.g[L.ROW_WORDS]
    first = s.chunk[head + L.LIST_NEXT]
    return first != head and (first != c or s.chunk[first + L.LIST_NEXT] != head)


@kernel
def needs_balance(s, c):
    """Decide what a free that left the chunk like this leads to; isolate the chunk if that is it."""
    if s.chunk[c + L.ISOLATED] == 0 and s.chunk[c + L.FREE_SIZE] == s.g[L.UNIT_SIZE]:
        return other_chunk_in_free_slot(s, c)
    if pcpu_should_reclaim_chunk(s, c):
        pcpu_isolate_chunk(s, c)
        return True
    return False


@kernel
def free_percpu(s, ptr, born):
    """Free the area of a percpu pointer; 0 is NULL. Sets g[STATUS] and changes nothing if the pointer is bad.

    Args:
        born: number of the op that allocated it, or -1 if the caller does not know.
    """
    if ptr == 0:
        return
    address = ptr - s.g[L.PTR_BIAS]
    spin_lock(s)
    c = pcpu_chunk_addr_search(s, address)
    s.g[L.STATUS] = check_free(s, c, address, born)
    if s.g[L.STATUS] == L.STATUS_OK:
        off = address - s.chunk[c + L.BASE]
        nr_bits = s.g[L.BITS_SCANNED]
        nr_blocks = s.g[L.BLOCKS_SCANNED]
        pcpu_free_area(s, c, off)
        s.g[L.FREE_BITS_SCANNED] += s.g[L.BITS_SCANNED] - nr_bits
        s.g[L.FREE_BLOCKS_SCANNED] += s.g[L.BLOCKS_SCANNED] - nr_blocks
        if needs_balance(s, c):
            pcpu_schedule_balance_work(s)
        take_back(s, c, off)
    spin_unlock(s)


# --- balance work (spec 5) ------------------------------------------------------------------------------


@cold
def pcpu_balance_workfn(s):
    """Destroy spare chunks, give empty pages of isolated ones back, top up empty populated pages."""
    mutex_lock(s)
    pcpu_balance_free(s, False)
    pcpu_reclaim_populated(s)
    pcpu_balance_populated(s)
    pcpu_balance_free(s, True)
    mutex_unlock(s)


@kernel
def pcpu_balance_free(s, empty_only):
    """Destroy the wholly free chunks but the first of their list, in reverse order of the list.

    Args:
        empty_only: only those without a populated page.
    """
    chunk = s.chunk
    head = free_slot(s) * s.g[L.ROW_WORDS]
    to_free = L.EXTEND_HEAD_ROW * s.g[L.ROW_WORDS]  # a list head that no slot uses
    spin_lock(s)
    spared = chunk[head + L.LIST_NEXT]
    c = spared
    while c != head:
        following = chunk[c + L.LIST_NEXT]
        # without SMP the first chunk can be wholly free; a kernel would warn, destroy it, and crash later
        is_spared = c == spared or chunk[c + L.IMMUTABLE] != 0
        if not is_spared and (not empty_only or chunk[c + L.CHUNK_NR_EMPTY_POP_PAGES] == 0):
            list_del(chunk, L.LIST_NEXT, c)
            list_add(chunk, L.LIST_NEXT, c, to_free)
        c = following
    spin_unlock(s)
    while not list_empty(chunk, L.LIST_NEXT, to_free):
        c = chunk[to_free + L.LIST_NEXT]
        list_del(chunk, L.LIST_NEXT, c)
        depopulate_all(s, c)
        pcpu_destroy_chunk(s, c)


@kernel
def pcpu_reclaim_populated(s):
    """Depopulate empty pages of the isolated chunks, as long as enough remain elsewhere."""
    chunk = s.chunk
    head = to_depopulate_slot(s) * s.g[L.ROW_WORDS]
    while not list_empty(chunk, L.LIST_NEXT, head):
        c = chunk[head + L.LIST_NEXT]
        reintegrate = reclaim_pages(s, c)
        spin_lock(s)
        if reintegrate or chunk[c + L.FREE_SIZE] == s.g[L.UNIT_SIZE]:
            pcpu_reintegrate_chunk(s, c)
        else:
            pcpu_chunk_move(s, c, sidelined_slot(s), False)
        spin_unlock(s)


@kernel
def reclaim_pages(s, c):
    """Depopulate the runs of empty pages of a chunk from its end -> whether that stopped for lack of empty pages."""
    chunk = s.chunk
    end = -1
    page = chunk[c + L.NR_PAGES] - 1
    while page >= 0:
        if chunk[c + L.CHUNK_NR_EMPTY_POP_PAGES] == 0:
            return False
        if s.g[L.NR_EMPTY_POP_PAGES] < PCPU_EMPTY_POP_PAGES_HIGH:
            return True
        md = chunk[c + L.MD_BLOCKS] + page * L.NR_MD_WORDS
        is_empty = chunk[md + L.MD_CONTIG_HINT] == PCPU_BITMAP_BLOCK_BITS and chunk[c + L.POPULATED + page] != 0
        if is_empty and end < 0:
            end = page
        if is_empty and page == 0:
            page = -1
        if (not is_empty or page < 0) and end >= 0:
            depopulate_run(s, c, page + 1, end + 1)
            end = -1
        page -= 1
    return False


@kernel
def pcpu_balance_populated(s):
    """Populate pages until there are enough empty ones, in new chunks if need be."""
    want = PCPU_EMPTY_POP_PAGES_HIGH
    if s.g[L.ATOMIC_ALLOC_FAILED] == 0:
        want = pages_wanted(s)
    s.g[L.ATOMIC_ALLOC_FAILED] = 0
    want = populate_some(s, want, raw_slot(PAGE_SIZE), free_slot(s) + 1)
    while want > 0:
        c = pcpu_create_chunk(s)
        if c == 0:
            return
        spin_lock(s)
        pcpu_chunk_relocate(s, c, -1)
        spin_unlock(s)
        want = populate_some(s, pages_wanted(s), raw_slot(PAGE_SIZE), free_slot(s) + 1)


@kernel
def pages_wanted(s):
    return min(max(PCPU_EMPTY_POP_PAGES_HIGH - s.g[L.NR_EMPTY_POP_PAGES], 0), PCPU_EMPTY_POP_PAGES_HIGH)


# --- history (spec 8.3) --------------------------------------------------------------------------


@kernel
def last_area_end(s, c):
    """Find the bit behind the last area in use as percpu_stats does; 0 if it sees none.

    The kernel leaves the last bit out, unless no other is set.
    """
    at = s.chunk[c + L.MAP]
    nr_bits = s.chunk[c + L.CHUNK_MD + L.MD_NR_BITS] - (s.chunk[c + L.END_OFFSET] >> PCPU_MIN_ALLOC_SHIFT) - 1
    last = find_last_bit(s.map, at, nr_bits)
    return last + 1 if find_next_bit(s.map, at, last + 1, last) == last else 0


@kernel
def measure_chunk(s, c):
    """Bring largest free area, sum_frag and max_frag of a chunk up to date -> words and runs read."""
    chunk = s.chunk
    if chunk[c + L.SAMPLED] > chunk[c + L.CHANGED]:
        return 0
    at = chunk[c + L.MAP]
    nr_bits = chunk[c + L.CHUNK_MD + L.MD_NR_BITS]
    last = last_area_end(s, c)
    largest = 0
    sum_frag = 0
    max_frag = 0
    work = nr_bits >> 6
    start = find_next_zero_bit(s.map, at, nr_bits, 0)
    while start < nr_bits:
        end = find_next_bit(s.map, at, nr_bits, start)
        largest = max(largest, end - start)
        if start < last:
            sum_frag += end - start
            max_frag = largest
        work += RUN_WORK
        start = find_next_zero_bit(s.map, at, nr_bits, end)
    chunk[c + L.LARGEST_FREE] = largest << PCPU_MIN_ALLOC_SHIFT
    chunk[c + L.SUM_FRAG] = sum_frag << PCPU_MIN_ALLOC_SHIFT
    chunk[c + L.MAX_FRAG] = max_frag << PCPU_MIN_ALLOC_SHIFT
    chunk[c + L.SAMPLED] = s.g[L.NOW]
    return work


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
            s, ops[L.OPS_SIZE * nr_ops + i], ops[L.OPS_ALIGN * nr_ops + i],
            flags & L.FLAG_RESERVED, (flags & L.FLAG_ATOMIC) >> 1,
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
        if g[L.STATUS] != L.STATUS_OK:
            return i
        end_op(s)
        i += 1
    g[L.STATUS] = L.STATUS_OK
    return i
