"""Recorded events replayed on the bitmap allocator: each decision is worked out, compared, and then followed.

    events   int64   NR_TAPE_COLUMNS rows of one length: what each row of the tape says
    marks    int64   a word a row: MARK_FORCE | MARK_TAKEN | MARK_HOLD | MARK_ASYNC, how to treat it
    found    int64   NR_FOUND_COLUMNS rows: what the model would have done, and NOTE_* bits
    handles  int64   handle of each recorded chunk, 0 while the model has none
    script   int64   the rows in the order they were decided in: what is behind `pos` is done
    reg      int64   REG_*: why a run stopped, and what is not in the arrays of the allocator

A row is a recorded event, or something that leaves no event and was found out: pages that were populated, space that
was in use before the recording, a chunk that had been parked.

Invariants, whatever the recording says:
 1. a row that does not agree changes nothing: it stops the run, and may be forced;
 2. a forced row always succeeds: areas in its place are freed first, and counted as lost frees;
 3. a chunk is created and destroyed by its event only; what would have created one is remembered in REG_WANT.

Source: Linux v6.12 mm/percpu.c by its behavioural specification; the method is described in review/.
"""

from . import layout as L
from ._jit import cold, entry, kernel
from .backing import depopulate_all, depopulate_run, pcpu_chunk_populated, pcpu_destroy_chunk, populate_some
from .bitmap import (
    PCPU_BITMAP_BLOCK_BITS,
    PCPU_EMPTY_POP_PAGES_HIGH,
    PCPU_EMPTY_POP_PAGES_LOW,
    PCPU_MIN_ALLOC_SHIFT,
    PCPU_MIN_ALLOC_SIZE,
    free_slot,
    needs_balance,
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
    search_reserved,
    search_slots,
    sidelined_slot,
)
from .bits import find_last_bit, find_next_bit
from .counters import pcpu_stats_area_alloc
from .lists import list_del, list_empty
from .locks import mutex_lock, mutex_unlock, spin_lock, spin_unlock
from .page import PAGE_SHIFT, PAGE_SIZE, PCPU_MIN_UNIT_SIZE
from .request import pcpu_schedule_balance_work, room
from .slots import raw_slot
from .state import State

# --- rows of the tape; the event codes of layout.py, then what leaves no event -------------
(
    ROW_IN_USE,  # [off, off + size) was in use before the recording
    ROW_POPULATE,  # the pages of [off, off + size) had been populated
    ROW_DEPOPULATE,  # the empty ones of them had been given back
    ROW_PARK,  # the chunk had been put into slot 0
    ROW_ISOLATE,  # the chunk had been taken out of use, and waited for its pages to be given back
    ROW_SIDELINE,  # it had been taken out of use, and served only if no other did
    ROW_REINTEGRATE,  # the chunk had been taken back into use
    ROW_BALANCE,  # the balance work ran
) = range(L.NR_EVENTS, L.NR_EVENTS + 8)
(
    TAPE_EVENT,
    TAPE_CHUNK,  # number of the recorded chunk
    TAPE_OFF,
    TAPE_SIZE,  # creation: of the request that needed the chunk, 0 for balance work; destruction: 1 if not the last
    TAPE_ALIGN,
    TAPE_FLAGS,  # FLAG_RESERVED | FLAG_ATOMIC
    TAPE_DUE,  # the row behind which the CPU has time for work that this row asked for
    TAPE_DESTROYED,  # the row of the last destruction by work that this row may ask for, 0 if none comes soon
    NR_TAPE_COLUMNS,
) = range(9)
MARK_FORCE, MARK_TAKEN, MARK_HOLD, MARK_ASYNC = 1, 2, 4, 8
(
    FOUND_CHUNK,  # ordinal of the chunk the model chose, NO_CHUNK if none
    FOUND_OFF,
    FOUND_NOTE,
    FOUND_LOST,  # areas in the way, whose frees must have been lost
    FOUND_PAGES,  # populated pages a unit behind this row
    NR_FOUND_COLUMNS,
) = range(6)
NOTE_BALANCED = 1  # the balance work ran behind this row
NOTE_FORESEEN = 2  # creation, destruction: the model saw a reason
NOTE_UNMATCHED = 4  # free: no area in use begins there
NOTE_RECLAIMED = 8  # the balance work gave pages back
NOTE_NO_CHUNK = 16  # the recorded chunk is not known
NOTE_FULL = 32  # failure: no chunk has room
REG_STATUS, REG_POS, REG_WANT, REG_CHUNK, REG_OFF, REG_DUE, REG_RECLAIMED, NR_REGISTERS = range(8)
(
    REPLAY_OK,
    REPLAY_OTHER_PLACE,  # the model allocates elsewhere: REG_CHUNK, REG_OFF
    REPLAY_NO_PLACE,  # the model finds no place
    REPLAY_SERVED,  # the model serves a request that failed: REG_CHUNK, REG_OFF
    REPLAY_NO_CHUNK,  # the recorded chunk is not known
    REPLAY_NEED_ROOM,  # nothing was done: chunk rows must grow first
) = range(6)


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
def note(found, n, row, c, ordinal, off, bits):
    found[FOUND_CHUNK * n + row] = ordinal if c != 0 else L.NO_CHUNK
    found[FOUND_OFF * n + row] = off
    found[FOUND_NOTE * n + row] = bits


# --- what was recorded ----------------------------------------------------------------------


@cold
def populate_pages(s, c, start, end):
    """Populate those of the pages [start, end) that are not."""
    spin_lock(s)
    for page in range(start, end):
        if s.chunk[c + L.POPULATED + page] == 0:
            pcpu_chunk_populated(s, c, page, page + 1)
    spin_unlock(s)


@kernel
def end_alloc(s, c, off, size):
    """Count a new area, populate its pages, and ask for balance work as pcpu_alloc does."""
    pcpu_stats_area_alloc(s, c, size)
    spin_unlock(s)
    populate_pages(s, c, off >> PAGE_SHIFT, (off + size + PAGE_SIZE - 1) >> PAGE_SHIFT)
    if s.g[L.NR_EMPTY_POP_PAGES] < PCPU_EMPTY_POP_PAGES_LOW:
        pcpu_schedule_balance_work(s)


@kernel
def commit_alloc(s, size, align, flags):
    """Serve a request that `predict` found a place for."""
    is_atomic = (flags & L.FLAG_ATOMIC) >> 1
    spin_lock(s)
    c = s.g[L.RESERVED_CHUNK]
    if flags & L.FLAG_RESERVED and c != 0:
        off = search_reserved(s, size, align, is_atomic)
    else:
        c, off = search_slots(s, size, align, is_atomic)
    end_alloc(s, c, off, size)


@cold
def clear_place(s, c, off, size):
    """Free the areas that lie in [off, off + size) -> how many; the caller holds pcpu_lock."""
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


@kernel
def is_served(s, c, off, size):
    """Say whether [off, off + size) lies in the part of a chunk that requests may get."""
    end = (s.chunk[c + L.NR_PAGES] << PAGE_SHIFT) - s.chunk[c + L.END_OFFSET]
    return s.chunk[c + L.START_OFFSET] <= off and off + size <= end and (off | size) & (PCPU_MIN_ALLOC_SIZE - 1) == 0


@kernel
def is_legal(size, align):
    """Say whether pcpu_alloc lets a request pass; a damaged trace may say anything."""
    is_size = 0 < size <= PCPU_MIN_UNIT_SIZE and size & (PCPU_MIN_ALLOC_SIZE - 1) == 0
    return is_size and PCPU_MIN_ALLOC_SIZE <= align <= PAGE_SIZE and align & (align - 1) == 0


@cold
def force_alloc(s, c, off, size):
    """Allocate [off, off + size), whatever is there -> areas that were in the way."""
    spin_lock(s)
    lost = clear_place(s, c, off, size)
    pcpu_alloc_area(s, c, size >> PCPU_MIN_ALLOC_SHIFT, 1, off >> PCPU_MIN_ALLOC_SHIFT)
    pcpu_reintegrate_chunk(s, c)
    end_alloc(s, c, off, size)
    return lost


@kernel
def step_alloc(s, events, n, row, mark, found, handles, reg):
    c = handles[events[TAPE_CHUNK * n + row]]
    off = events[TAPE_OFF * n + row]
    size = events[TAPE_SIZE * n + row]
    align = events[TAPE_ALIGN * n + row]
    flags = events[TAPE_FLAGS * n + row]
    if c == 0 or not is_legal(size, align) or not is_served(s, c, off, size):
        if mark & MARK_FORCE == 0:
            return REPLAY_NO_CHUNK
        found[FOUND_NOTE * n + row] = NOTE_NO_CHUNK
        return REPLAY_OK
    if mark & MARK_FORCE:
        found[FOUND_LOST * n + row] = force_alloc(s, c, off, size)
        return REPLAY_OK
    place, place_off = predict(s, size, align, flags)
    if place != c or place_off != off:
        reg[REG_CHUNK] = s.chunk[place + L.ORDINAL] if place != 0 else L.NO_CHUNK
        reg[REG_OFF] = place_off
        return REPLAY_OTHER_PLACE if place != 0 else REPLAY_NO_PLACE
    note(found, n, row, c, s.chunk[c + L.ORDINAL], off, 0)
    commit_alloc(s, size, align, flags)
    return REPLAY_OK


@kernel
def begins_area(s, c, off):
    bit = off >> PCPU_MIN_ALLOC_SHIFT
    in_use = find_next_bit(s.map, s.chunk[c + L.MAP], bit + 1, bit) == bit
    return in_use and find_next_bit(s.map, s.chunk[c + L.BOUND_MAP], bit + 1, bit) == bit


@kernel
def step_free(s, events, n, row, found, handles):
    c = handles[events[TAPE_CHUNK * n + row]]
    off = events[TAPE_OFF * n + row]
    if c == 0 or not is_served(s, c, off, 4) or not begins_area(s, c, off):
        found[FOUND_NOTE * n + row] = NOTE_UNMATCHED
        return REPLAY_OK
    found[FOUND_NOTE * n + row] = 0
    spin_lock(s)
    pcpu_free_area(s, c, off)
    if needs_balance(s, c):
        pcpu_schedule_balance_work(s)
    spin_unlock(s)
    return REPLAY_OK


@kernel
def step_fail(s, events, n, row, mark, found, reg):
    """Let a request fail, if the model cannot serve it; note what GFP_KERNEL would have got."""
    size = events[TAPE_SIZE * n + row]
    align = events[TAPE_ALIGN * n + row]
    flags = events[TAPE_FLAGS * n + row]
    if not is_legal(size, align):
        return REPLAY_OK
    place, off = predict(s, size, align, flags)
    if place != 0 and mark & MARK_FORCE == 0 and flags & L.FLAG_ATOMIC:
        reg[REG_CHUNK] = s.chunk[place + L.ORDINAL]
        reg[REG_OFF] = off
        return REPLAY_SERVED
    bits = 0 if place != 0 else NOTE_FORESEEN
    if flags & L.FLAG_ATOMIC and place == 0:
        place, off = predict(s, size, align, flags & ~L.FLAG_ATOMIC)
        bits |= NOTE_FULL if place == 0 else 0
    elif not list_empty(s.chunk, L.LIST_NEXT, free_slot(s) * s.g[L.ROW_WORDS]):
        bits |= NOTE_FULL
    note(found, n, row, place, s.chunk[place + L.ORDINAL], off, bits)
    if flags & L.FLAG_ATOMIC:
        s.g[L.ATOMIC_ALLOC_FAILED] = 1
        pcpu_schedule_balance_work(s)
    elif place != 0:
        s.g[L.NR_ALLOC] += 1  # a place was found and given back: its pages could not be populated
        s.g[L.NR_DEALLOC] += 1
    return REPLAY_OK


@cold
def step_create(s, events, n, row, found, handles, reg):
    """Create the chunk; if the balance work did, let it go on with populating."""
    size = events[TAPE_SIZE * n + row]
    bits = 0
    if size == 0 and reg[REG_WANT] > 0:
        bits = NOTE_FORESEEN
    elif is_legal(size, events[TAPE_ALIGN * n + row]):
        place, _ = predict(s, size, events[TAPE_ALIGN * n + row], events[TAPE_FLAGS * n + row])
        if place == 0 and list_empty(s.chunk, L.LIST_NEXT, free_slot(s) * s.g[L.ROW_WORDS]):
            bits = NOTE_FORESEEN
    mutex_lock(s)
    c = pcpu_create_chunk(s)
    spin_lock(s)
    pcpu_chunk_relocate(s, c, -1)
    spin_unlock(s)
    handles[events[TAPE_CHUNK * n + row]] = c
    if size == 0:
        reg[REG_WANT] = populate_some(s, pages_wanted(s), raw_slot(PAGE_SIZE), free_slot(s) + 1)
    mutex_unlock(s)
    note(found, n, row, c, s.chunk[c + L.ORDINAL], 0, bits)
    return REPLAY_OK


@cold
def step_destroy(s, events, n, row, found, handles):
    c = handles[events[TAPE_CHUNK * n + row]]
    found[FOUND_NOTE * n + row] = NOTE_NO_CHUNK
    if c == 0 or s.chunk[c + L.IMMUTABLE] != 0:
        return REPLAY_OK
    spin_lock(s)
    lost = clear_place(s, c, 0, s.chunk[c + L.NR_PAGES] << PAGE_SHIFT)
    is_spare = s.chunk[c + L.ISOLATED] == 0 and not other_chunk_in_free_slot(s, c)
    list_del(s.chunk, L.LIST_NEXT, c)
    spin_unlock(s)
    note(found, n, row, c, s.chunk[c + L.ORDINAL], 0, 0 if lost > 0 or is_spare else NOTE_FORESEEN)
    found[FOUND_LOST * n + row] = lost
    mutex_lock(s)
    depopulate_all(s, c)
    pcpu_destroy_chunk(s, c)
    mutex_unlock(s)
    if events[TAPE_SIZE * n + row] == 0:
        s.g[L.BALANCE_PENDING] = 1  # the same work goes on with populating
    handles[events[TAPE_CHUNK * n + row]] = 0
    return REPLAY_OK


# --- what leaves no event ---------------------------------------------------------------------


@cold
def set_in_use(s, c, off, size):
    """Take [off, off + size), which is free, out of use: somebody had it before the recording began."""
    spin_lock(s)
    pcpu_alloc_area(s, c, size >> PCPU_MIN_ALLOC_SHIFT, 1, off >> PCPU_MIN_ALLOC_SHIFT)
    spin_unlock(s)
    populate_pages(s, c, off >> PAGE_SHIFT, (off + size + PAGE_SIZE - 1) >> PAGE_SHIFT)


@cold
def step_silent(s, events, n, row, found, handles, reg):
    kind = events[TAPE_EVENT * n + row]
    c = handles[events[TAPE_CHUNK * n + row]]
    off = events[TAPE_OFF * n + row]
    size = events[TAPE_SIZE * n + row]
    if kind == ROW_BALANCE:
        found[FOUND_NOTE * n + row] = run_balance(s, reg)
    elif c == 0:
        return REPLAY_NO_CHUNK
    elif kind == ROW_IN_USE:
        set_in_use(s, c, off, size)
    elif kind == ROW_POPULATE:
        populate_pages(s, c, off >> PAGE_SHIFT, (off + size + PAGE_SIZE - 1) >> PAGE_SHIFT)
    elif kind == ROW_DEPOPULATE:
        depopulate_empty(s, c, off >> PAGE_SHIFT, (off + size + PAGE_SIZE - 1) >> PAGE_SHIFT)
    else:
        move_chunk(s, c, kind)
    return REPLAY_OK


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
    if kind == ROW_PARK:
        pcpu_chunk_move(s, c, 0, True)
    elif kind in (ROW_ISOLATE, ROW_SIDELINE):
        pcpu_isolate_chunk(s, c)
        if kind == ROW_SIDELINE:
            pcpu_chunk_move(s, c, sidelined_slot(s), False)
    elif kind == ROW_REINTEGRATE:
        pcpu_reintegrate_chunk(s, c)
    spin_unlock(s)


# --- balance work ------------------------------------------------------------------------------


@cold
def run_balance(s, reg):
    """Do what the balance work does but create and destroy chunks -> NOTE_BALANCED, perhaps NOTE_RECLAIMED."""
    s.g[L.BALANCE_PENDING] = 0
    populated = s.g[L.NR_POPULATED_TOTAL]
    mutex_lock(s)
    pcpu_reclaim_populated(s)
    reclaimed = s.g[L.NR_POPULATED_TOTAL] < populated
    reg[REG_RECLAIMED] += 1 if reclaimed else 0
    want = PCPU_EMPTY_POP_PAGES_HIGH
    if s.g[L.ATOMIC_ALLOC_FAILED] == 0:
        want = pages_wanted(s)
    s.g[L.ATOMIC_ALLOC_FAILED] = 0
    reg[REG_WANT] = populate_some(s, want, raw_slot(PAGE_SIZE), free_slot(s) + 1)
    mutex_unlock(s)
    return NOTE_BALANCED | NOTE_RECLAIMED if reclaimed else NOTE_BALANCED


@kernel
def has_chunk_to_destroy(s):
    """Say whether more than one chunk is wholly free: then the work begins with destroying."""
    head = free_slot(s) * s.g[L.ROW_WORDS]
    first = s.chunk[head + L.LIST_NEXT]
    return first != head and s.chunk[first + L.LIST_NEXT] != head


# --- runs ----------------------------------------------------------------------------------------


@cold
def step(s, events, row, marks, found, handles, reg):
    """Replay one row -> REPLAY_OK, or why it does not agree, in which case nothing was done."""
    n = len(marks)
    mark = marks[row]
    kind = events[TAPE_EVENT * n + row]
    was_pending = s.g[L.BALANCE_PENDING]
    if mark & MARK_ASYNC:
        s.g[L.ASYNC_ENABLED] = 1
    if kind == L.EVENT_ALLOC:
        status = step_alloc(s, events, n, row, mark, found, handles, reg)
    elif kind == L.EVENT_FREE:
        status = step_free(s, events, n, row, found, handles)
    elif kind == L.EVENT_FAIL:
        status = step_fail(s, events, n, row, mark, found, reg)
    elif kind == L.EVENT_CREATE:
        if room(s) == L.STATUS_NEED_ROWS:
            return REPLAY_NEED_ROOM
        status = step_create(s, events, n, row, found, handles, reg)
    elif kind == L.EVENT_DESTROY:
        status = step_destroy(s, events, n, row, found, handles)
    else:
        status = step_silent(s, events, n, row, found, handles, reg)
    if status == REPLAY_OK and kind < L.NR_EVENTS and s.g[L.BALANCE_PENDING] != 0:
        if was_pending == 0:
            reg[REG_DUE] = events[TAPE_DUE * n + row]
            if has_chunk_to_destroy(s):
                reg[REG_DUE] = max(reg[REG_DUE], events[TAPE_DESTROYED * n + row])
        if row >= reg[REG_DUE] and mark & MARK_HOLD == 0:
            found[FOUND_NOTE * n + row] |= run_balance(s, reg)
    found[FOUND_PAGES * n + row] = s.g[L.NR_POPULATED_TOTAL]
    return status


@entry
def replay_forward(g, chunk, map_, birth, ring, order, events, marks, found, handles, reg, script, row, stop):
    """Replay the rows [row, stop) that are not taken, and write them into the script -> the row it stopped at.

    REG_STATUS tells why; REG_POS is the length of the script.
    """
    s = State(g, chunk, map_, birth, ring, order)
    reg[REG_STATUS] = REPLAY_OK
    while row < stop:
        if marks[row] & MARK_TAKEN == 0:
            status = step(s, events, row, marks, found, handles, reg)
            if status != REPLAY_OK:
                reg[REG_STATUS] = status
                return row
            script[reg[REG_POS]] = row
            reg[REG_POS] += 1
        row += 1
    return row


@entry
def replay_script(g, chunk, map_, birth, ring, order, events, marks, found, handles, reg, script, start, stop):
    """Replay the rows script[start:stop] -> the place it stopped at; REG_STATUS tells why."""
    s = State(g, chunk, map_, birth, ring, order)
    reg[REG_STATUS] = REPLAY_OK
    for at in range(start, stop):
        status = step(s, events, script[at], marks, found, handles, reg)
        if status != REPLAY_OK:
            reg[REG_STATUS] = status
            return at
    return stop


@kernel
def agrees(s, events, n, row, handles):
    """Say whether the model would do now what the row says: allocate there, or fail."""
    if not is_legal(events[TAPE_SIZE * n + row], events[TAPE_ALIGN * n + row]):
        return False
    place, off = predict(s, events[TAPE_SIZE * n + row], events[TAPE_ALIGN * n + row], events[TAPE_FLAGS * n + row])
    if events[TAPE_EVENT * n + row] == L.EVENT_FAIL:
        return place == 0
    c = handles[events[TAPE_CHUNK * n + row]]
    return c != 0 and place == c and off == events[TAPE_OFF * n + row]


@entry
def replay_probe(
    g, chunk, map_, birth, ring, order, events, marks, found, handles, reg, script, start, stop, row, hits
):
    """Replay script[start:stop]; hits[k] = 1 where `row` would agree before script[start + k] -> where it stopped."""
    s = State(g, chunk, map_, birth, ring, order)
    n = len(marks)
    reg[REG_STATUS] = REPLAY_OK
    for at in range(start, stop):
        hits[at - start] = 1 if agrees(s, events, n, row, handles) else 0
        status = step(s, events, script[at], marks, found, handles, reg)
        if status != REPLAY_OK:
            reg[REG_STATUS] = status
            return at
    hits[stop - start] = 1 if agrees(s, events, n, row, handles) else 0
    return stop
