"""Recorded events replayed on an allocator: each decision is worked out, compared, and then followed.

    events   int64   NR_TAPE_COLUMNS rows of one length: what each row of the tape says
    marks    int64   a word a row: MARK_FORCE | MARK_TAKEN | MARK_HOLD | MARK_ASYNC, how to treat it
    found    int64   NR_FOUND_COLUMNS rows: what the model would have done, and NOTE_* bits
    handles  int64   handle of each recorded chunk, 0 while the model has none
    script   int64   the rows in the order they were decided in: what is behind `pos` is done
    reg      int64   REG_*: why a run stopped, and what is not in the arrays of the allocator

A row is a recorded event, or something that leaves no event and was found out: pages that were populated, space that
was in use before the recording, a chunk that had been parked.

What differs between the allocators is in `Rules`, functions that are handed down to those here; replay_areamap.py and
replay_bitmap.py hold one set each, the step made with it, and what Python calls.

Invariants, whatever the recording says:
 1. a row that does not agree changes nothing: it stops the run, and may be forced;
 2. a forced row always succeeds: areas in its place are freed first, and counted as lost frees;
 3. a chunk is created and destroyed by its event only; what would have created one is remembered in REG_WANT.

Source: mm/percpu.c of Linux v4.13 and v6.12 by their behavioural specifications; the method is described in review/.
"""

from typing import Any, NamedTuple

from . import layout as L
from ._jit import shared
from .backing import depopulate_all, pcpu_chunk_populated, pcpu_destroy_chunk, pcpu_next_run
from .lists import list_del
from .locks import mutex_lock, mutex_unlock, spin_lock, spin_unlock
from .page import PAGE_SHIFT, PAGE_SIZE, PCPU_MIN_UNIT_SIZE
from .request import pcpu_schedule_balance_work, room

# --- rows of the tape; the event codes of layout.py, then what leaves no event -------------
(
    ROW_IN_USE,  # [off, off + size) was in use, whatever the model has there
    ROW_POPULATE,  # the pages of [off, off + size) had been populated
    ROW_DEPOPULATE,  # the empty ones of them had been given back
    ROW_PARK,  # the chunk had been put into slot 0
    ROW_ISOLATE,  # the chunk had been taken out of use, and waited for its pages to be given back
    ROW_SIDELINE,  # it had been taken out of use, and served only if no other did
    ROW_REINTEGRATE,  # the chunk had been taken back into use
    ROW_BALANCE,  # the balance work ran
    ROW_EXTEND,  # area map: the map of the chunk had been made longer
    ROW_SHORTEN,  # area map: it had not been made longer
    ROW_HEAD,  # the chunk stood at the head of its list
    ROW_FREED,  # what lies in [off, off + size) had been freed
    ROW_BOOT,  # an event of the boot, which is done already
) = range(L.NR_EVENTS, L.NR_EVENTS + 13)
(
    TAPE_EVENT,
    TAPE_CHUNK,  # number of the recorded chunk
    TAPE_OFF,  # failure: REASON_* that the kernel log gives, 0 if it gives none
    TAPE_SIZE,  # creation: of the request that needed the chunk, 0 for balance work; destruction: 1 if not the last
    TAPE_ALIGN,
    TAPE_FLAGS,  # FLAG_RESERVED | FLAG_ATOMIC
    TAPE_DUE,  # the row behind which the CPU has time for work that this row asked for
    TAPE_DESTROYED,  # the row of the last destruction by work that this row may ask for, 0 if none comes soon;
    # -1: work that ran behind this row has destroyed nothing
    NR_TAPE_COLUMNS,
) = range(9)
MARK_FORCE, MARK_TAKEN, MARK_HOLD, MARK_ASYNC = 1, 2, 4, 8
(
    FOUND_CHUNK,  # ordinal of the chunk the model chose, NO_CHUNK if none
    FOUND_OFF,
    FOUND_NOTE,
    FOUND_LOST,  # areas in the way, whose frees must have been lost
    FOUND_PAGES,  # populated pages a unit behind this row
    FOUND_REASON,  # failure: REASON_* that the model sees
    NR_FOUND_COLUMNS,
) = range(7)
NOTE_BALANCED = 1  # the balance work ran behind this row
NOTE_FORESEEN = 2  # creation, destruction: the model saw a reason
NOTE_UNMATCHED = 4  # free: no area in use begins there
NOTE_RECLAIMED = 8  # the balance work gave pages back
NOTE_NO_CHUNK = 16  # the recorded chunk is not known
NOTE_FULL = 32  # failure: no chunk has room
REG_STATUS, REG_POS, REG_WANT, REG_CHUNK, REG_OFF, REG_DUE, REG_RECLAIMED, REG_UNDER_WAY, NR_REGISTERS = range(9)
(
    REPLAY_OK,
    REPLAY_OTHER_PLACE,  # the model allocates elsewhere: REG_CHUNK, REG_OFF
    REPLAY_NO_PLACE,  # the model finds no place
    REPLAY_SERVED,  # the model serves a request that failed: REG_CHUNK, REG_OFF
    REPLAY_NO_CHUNK,  # the recorded chunk is not known
    REPLAY_NEED_ROOM,  # nothing was done: chunk rows must grow first
) = range(6)
RUN_FORWARD, RUN_SCRIPT = -2, -1


class Rules(NamedTuple):
    """What an allocator decides, for the steps below; `c` is the handle of a chunk, 0 for none, sizes are in bytes.

    Args:
        predict: (s, size, align, flags) -> (c, off): where a request would be served; changes nothing.
        request: (s, size, align, flags): decide on a request as pcpu_alloc does.
        force: (s, c, off, size) -> areas that were in the way: allocate a place, whatever is there.
        is_legal: (size, align): pcpu_alloc lets such a request pass; a damaged trace may say anything.
        is_served: (s, c, off, size): the place lies in the part of the chunk that requests may get.
        begins_area: (s, c, off): an area in use begins there.
        free: (s, c, off): free it, as free_percpu does.
        why_failed: (s, c, off, size, align, flags, logged) -> REASON_*: why a request fails that `predict` found c and
            off for; REASON_NONE if it does not. `logged` is what the kernel said.
        has_spare: (s): there is a chunk that is wholly free.
        create: (s) -> c: create a chunk.
        clear: (s, c, off, size) -> how many areas in use lie there; free them. The caller holds pcpu_lock.
        retire: (s, c) -> whether it is the chunk that the balance work keeps: take a chunk out of what is to come.
        balance: (s) -> (pages wanted still, whether pages were given back): the work without creating and destroying.
        populate: (s) -> pages wanted still: what the work does behind a creation.
        is_to_destroy: (s): the work would begin with destroying a chunk.
        is_destroyed_late: (s, c): the work destroys the chunk, if at all, behind giving pages back and populating.
        silent: (s, kind, c, off, size): do what left no event.
    """

    predict: Any
    request: Any
    force: Any
    is_legal: Any
    is_served: Any
    begins_area: Any
    free: Any
    why_failed: Any
    has_spare: Any
    create: Any
    clear: Any
    retire: Any
    balance: Any
    populate: Any
    is_to_destroy: Any
    is_destroyed_late: Any
    silent: Any


# --- what both allocators share --------------------------------------------------------------


@shared
def is_power_in(align, low, high):
    """Say whether an alignment is a power of two from low to high."""
    return low <= align <= high and align & (align - 1) == 0


@shared
def is_legal_size(size, granule):
    return 0 < size <= PCPU_MIN_UNIT_SIZE and size & (granule - 1) == 0


@shared
def page_end(off, size):
    return (off + size + PAGE_SIZE - 1) >> PAGE_SHIFT


@shared
def lacks_pages(s, c, off, size):
    """Say whether a page of a place is not populated."""
    end = page_end(off, size)
    start, _ = pcpu_next_run(s, c, off >> PAGE_SHIFT, end, 0)
    return s.g[L.BACKING_KM] == 0 and start < end


@shared
def populate_pages(s, c, start, end):
    """Populate those of the pages [start, end) that are not."""
    spin_lock(s)
    for page in range(start, end):
        if s.chunk[c + L.POPULATED + page] == 0:
            pcpu_chunk_populated(s, c, page, page + 1)
    spin_unlock(s)


@shared
def make_chunk(s, create_chunk, relocate):
    mutex_lock(s)
    c = create_chunk(s)
    spin_lock(s)
    relocate(s, c, -1)
    spin_unlock(s)
    mutex_unlock(s)
    return c


@shared
def has_two(s, slot):
    """Say whether there is more than one chunk in a slot."""
    head = slot * s.g[L.ROW_WORDS]
    first = s.chunk[head + L.LIST_NEXT]
    return first != head and s.chunk[first + L.LIST_NEXT] != head


@shared
def note(found, n, row, c, ordinal, off, bits):
    found[FOUND_CHUNK * n + row] = ordinal if c != 0 else L.NO_CHUNK
    found[FOUND_OFF * n + row] = off
    found[FOUND_NOTE * n + row] = bits


# --- requests --------------------------------------------------------------------------------


@shared
def fault_of(s, reason):
    """Name the kind of memory that was short, as a word of the globals; 0 if it was none."""
    if reason == L.REASON_EXTEND or reason == L.REASON_EXTEND_RESERVED:
        return L.FAULT_LEFT_MEM
    if reason == L.REASON_NEW_CHUNK:
        return L.FAULT_LEFT_VM if s.g[L.BACKING_KM] == 0 else L.FAULT_LEFT_PAGE
    return L.FAULT_LEFT_PAGE if reason == L.REASON_POPULATE else 0


@shared
def fail(rules, s, size, align, flags, reason):
    """Let a request fail by the fault that the kernel must have met: what it did up to there, the model does, too."""
    if reason == L.REASON_NONE:  # forced: the model would serve it
        if flags & L.FLAG_ATOMIC:
            s.g[L.ATOMIC_ALLOC_FAILED] = 1
            pcpu_schedule_balance_work(s)
        return
    fault = fault_of(s, reason)
    if fault != 0:
        s.g[fault] = 1
    rules.request(s, size, align, flags)
    if fault != 0:
        s.g[fault] = 0


# --- rows ------------------------------------------------------------------------------------


@shared
def step_alloc(rules, s, events, n, row, mark, found, handles, reg):
    c = handles[events[TAPE_CHUNK * n + row]]
    off = events[TAPE_OFF * n + row]
    size = events[TAPE_SIZE * n + row]
    align = events[TAPE_ALIGN * n + row]
    flags = events[TAPE_FLAGS * n + row]
    if c == 0 or not rules.is_legal(size, align) or not rules.is_served(s, c, off, size):
        if mark & MARK_FORCE == 0:
            return REPLAY_NO_CHUNK
        found[FOUND_NOTE * n + row] = NOTE_NO_CHUNK
        return REPLAY_OK
    if mark & MARK_FORCE:
        found[FOUND_NOTE * n + row] = 0
        found[FOUND_LOST * n + row] = rules.force(s, c, off, size)
        return REPLAY_OK
    place, place_off = rules.predict(s, size, align, flags)
    if place != c or place_off != off:
        reg[REG_CHUNK] = s.chunk[place + L.ORDINAL] if place != 0 else L.NO_CHUNK
        reg[REG_OFF] = place_off
        return REPLAY_OTHER_PLACE if place != 0 else REPLAY_NO_PLACE
    note(found, n, row, c, s.chunk[c + L.ORDINAL], off, 0)
    rules.request(s, size, align, flags)
    return REPLAY_OK


@shared
def step_free(rules, s, events, n, row, found, handles):
    c = handles[events[TAPE_CHUNK * n + row]]
    off = events[TAPE_OFF * n + row]
    if c == 0 or not rules.is_served(s, c, off, 4) or not rules.begins_area(s, c, off):
        found[FOUND_NOTE * n + row] = NOTE_UNMATCHED
        return REPLAY_OK
    found[FOUND_NOTE * n + row] = 0
    rules.free(s, c, off)
    return REPLAY_OK


@shared
def step_fail(rules, s, events, n, row, mark, found, reg):
    """Let a request fail, if the model fails there, too; note what GFP_KERNEL would have got."""
    size = events[TAPE_SIZE * n + row]
    align = events[TAPE_ALIGN * n + row]
    flags = events[TAPE_FLAGS * n + row]
    if not rules.is_legal(size, align):
        return REPLAY_OK
    place, off = rules.predict(s, size, align, flags)
    reason = rules.why_failed(s, place, off, size, align, flags, events[TAPE_OFF * n + row])
    if reason == L.REASON_NONE and mark & MARK_FORCE == 0:
        reg[REG_CHUNK] = s.chunk[place + L.ORDINAL]
        reg[REG_OFF] = off
        return REPLAY_SERVED
    found[FOUND_REASON * n + row] = reason
    bits = 0 if place != 0 else NOTE_FORESEEN
    would_get = place
    if flags & L.FLAG_ATOMIC and place == 0:
        would_get, off = rules.predict(s, size, align, flags & ~L.FLAG_ATOMIC)
        bits |= NOTE_FULL if would_get == 0 else 0
    elif rules.has_spare(s):
        bits |= NOTE_FULL
    note(found, n, row, would_get, s.chunk[would_get + L.ORDINAL], off, bits)
    fail(rules, s, size, align, flags, reason)
    return REPLAY_OK


@shared
def step_create(rules, s, events, n, row, found, handles, reg):
    """Create the chunk; if the balance work did, let it go on with populating."""
    size = events[TAPE_SIZE * n + row]
    align = events[TAPE_ALIGN * n + row]
    flags = events[TAPE_FLAGS * n + row]
    bits = begin_balance(rules, s, reg) if size == 0 else 0
    if size == 0 and reg[REG_WANT] > 0:
        bits |= NOTE_FORESEEN
    elif rules.is_legal(size, align):
        place, _ = rules.predict(s, size, align, flags)
        if place == 0 and not rules.has_spare(s):
            bits |= NOTE_FORESEEN
        if bits & NOTE_FORESEEN:  # it searched in vain, which leaves better hints
            fail(rules, s, size, align, flags, L.REASON_NEW_CHUNK)
    c = rules.create(s)
    handles[events[TAPE_CHUNK * n + row]] = c
    if size == 0:
        mutex_lock(s)
        reg[REG_WANT] = rules.populate(s)
        mutex_unlock(s)
    note(found, n, row, c, s.chunk[c + L.ORDINAL], 0, bits)
    return REPLAY_OK


@shared
def step_destroy(rules, s, events, n, row, found, handles, reg):
    c = handles[events[TAPE_CHUNK * n + row]]
    found[FOUND_NOTE * n + row] = NOTE_NO_CHUNK
    if c == 0 or s.chunk[c + L.IMMUTABLE] != 0:
        return REPLAY_OK
    bits = begin_balance(rules, s, reg) if rules.is_destroyed_late(s, c) else 0
    spin_lock(s)
    lost = rules.clear(s, c, 0, s.chunk[c + L.NR_PAGES] << PAGE_SHIFT)
    is_spare = rules.retire(s, c)
    list_del(s.chunk, L.LIST_NEXT, c)
    spin_unlock(s)
    bits |= 0 if lost > 0 or is_spare else NOTE_FORESEEN
    note(found, n, row, c, s.chunk[c + L.ORDINAL], 0, bits)
    found[FOUND_LOST * n + row] = lost
    mutex_lock(s)
    depopulate_all(s, c)
    pcpu_destroy_chunk(s, c)
    mutex_unlock(s)
    if events[TAPE_SIZE * n + row] == 0 and reg[REG_UNDER_WAY] == 0:
        s.g[L.BALANCE_PENDING] = 1  # the same work goes on with populating
    handles[events[TAPE_CHUNK * n + row]] = 0
    return REPLAY_OK


@shared
def step_silent(rules, s, events, n, row, found, handles, reg):
    kind = events[TAPE_EVENT * n + row]
    c = handles[events[TAPE_CHUNK * n + row]]
    off = events[TAPE_OFF * n + row]
    size = events[TAPE_SIZE * n + row]
    if kind == ROW_BOOT:
        return REPLAY_OK
    if kind == ROW_BALANCE:
        found[FOUND_NOTE * n + row] = run_balance(rules, s, reg)
    elif c == 0:
        return REPLAY_NO_CHUNK
    elif kind == ROW_POPULATE:
        populate_pages(s, c, off >> PAGE_SHIFT, page_end(off, size))
    elif kind == ROW_FREED:
        free_areas(rules, s, c, off, size)
    elif kind == ROW_IN_USE and not rules.is_served(s, c, off, size):
        return REPLAY_NO_CHUNK
    else:
        rules.silent(s, kind, c, off, size)
    return REPLAY_OK


@shared
def free_areas(rules, s, c, off, size):
    if rules.is_served(s, c, off, size):
        if rules.begins_area(s, c, off):
            rules.free(s, c, off)
        spin_lock(s)
        rules.clear(s, c, off, size)
        spin_unlock(s)


@shared
def run_balance(rules, s, reg):
    """Do what the balance work does but create and destroy chunks -> NOTE_BALANCED, perhaps NOTE_RECLAIMED."""
    s.g[L.BALANCE_PENDING] = 0
    mutex_lock(s)
    want, reclaimed = rules.balance(s)
    mutex_unlock(s)
    reg[REG_WANT] = want
    reg[REG_RECLAIMED] += 1 if reclaimed else 0
    return NOTE_BALANCED | NOTE_RECLAIMED if reclaimed else NOTE_BALANCED


@shared
def begin_balance(rules, s, reg):
    """Do the same for the work that an event tells to be under way, if it was only pending -> the same, or 0."""
    if s.g[L.BALANCE_PENDING] == 0:
        return 0
    reg[REG_UNDER_WAY] = 1
    return run_balance(rules, s, reg)


# --- runs ----------------------------------------------------------------------------------------


@shared
def step(rules, s, events, row, marks, found, handles, reg):
    """Replay one row -> REPLAY_OK, or why it does not agree, in which case nothing was done."""
    n = len(marks)
    mark = marks[row]
    kind = events[TAPE_EVENT * n + row]
    was_pending = s.g[L.BALANCE_PENDING]
    if mark & MARK_ASYNC:
        s.g[L.ASYNC_ENABLED] = 1
    if kind == L.EVENT_ALLOC:
        status = step_alloc(rules, s, events, n, row, mark, found, handles, reg)
    elif kind == L.EVENT_FREE:
        status = step_free(rules, s, events, n, row, found, handles)
    elif kind == L.EVENT_FAIL:
        status = step_fail(rules, s, events, n, row, mark, found, reg)
    elif kind == L.EVENT_CREATE:
        if room(s) == L.STATUS_NEED_ROWS:
            return REPLAY_NEED_ROOM
        status = step_create(rules, s, events, n, row, found, handles, reg)
    elif kind == L.EVENT_DESTROY:
        status = step_destroy(rules, s, events, n, row, found, handles, reg)
    else:
        status = step_silent(rules, s, events, n, row, found, handles, reg)
    if status == REPLAY_OK and kind < L.NR_EVENTS and s.g[L.BALANCE_PENDING] != 0:
        if was_pending == 0:
            reg[REG_UNDER_WAY] = 0
            reg[REG_DUE] = events[TAPE_DUE * n + row]
            if rules.is_to_destroy(s):
                reg[REG_DUE] = max(reg[REG_DUE], events[TAPE_DESTROYED * n + row])
        would_show = events[TAPE_DESTROYED * n + row] < 0 and rules.is_to_destroy(s)
        if row >= reg[REG_DUE] and mark & MARK_HOLD == 0 and not would_show:
            found[FOUND_NOTE * n + row] |= run_balance(rules, s, reg)
    found[FOUND_PAGES * n + row] = s.g[L.NR_POPULATED_TOTAL]
    return status


@shared
def agrees(rules, s, events, n, row, handles):
    """Say whether the model would do now what the row says: allocate there, or fail."""
    size = events[TAPE_SIZE * n + row]
    align = events[TAPE_ALIGN * n + row]
    flags = events[TAPE_FLAGS * n + row]
    if not rules.is_legal(size, align):
        return False
    place, off = rules.predict(s, size, align, flags)
    if events[TAPE_EVENT * n + row] == L.EVENT_FAIL:
        logged = events[TAPE_OFF * n + row]
        return rules.why_failed(s, place, off, size, align, flags, logged) != L.REASON_NONE
    c = handles[events[TAPE_CHUNK * n + row]]
    return c != 0 and place == c and off == events[TAPE_OFF * n + row]


@shared
def run(rules, s, events, marks, found, handles, reg, script, start, stop, row, hits):
    """Replay rows -> where it stopped; REG_STATUS tells why. One function for all, for it holds all the others.

    Args:
        script: what to replay, [start, stop) of it.
        row: RUN_SCRIPT, or RUN_FORWARD: replay the rows [start, stop) of the tape that are not taken, and write them
            to the end of the script; or a row: hits[k] = 1 where it would agree before script[start + k].
    """
    reg[REG_STATUS] = REPLAY_OK
    at = start
    while True:
        if row >= 0:
            hits[at - start] = 1 if agrees(rules, s, events, len(marks), row, handles) else 0
        if at == stop:
            return at
        this = at if row == RUN_FORWARD else script[at]
        if row != RUN_FORWARD or marks[at] & MARK_TAKEN == 0:
            status = step(rules, s, events, this, marks, found, handles, reg)
            if status != REPLAY_OK:
                reg[REG_STATUS] = status
                return at
            if row == RUN_FORWARD:
                script[reg[REG_POS]] = at
                reg[REG_POS] += 1
        at += 1
