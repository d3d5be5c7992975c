"""The search for an order in which the allocator decides what was recorded.

A free is recorded under the lock, an allocation later: behind the lock, and behind the population of its pages. So the
order of the file is not the order of the decisions. Where the model disagrees with a row, these are tried in turn:

    learn       no later row hands out the place that was passed over, which may have been in use all along; or what the
                model has in the place that was used must have been freed
    earlier     the row was decided earlier, but after its task's row before
    later       up to six later rows of other tasks were decided before it
    learn       the place that was passed over may have been in use since before the recording, or since a loss
    balance     the balance work ran now, or ran later than the model has it
    populated   an atomic request: the pages of its place had been populated, or those passed over had not
    parked      the chunk that was passed over had been parked in slot 0
    isolated    the chunk that was passed over had been taken out of use, or the one used had not (after a reclaim)
    extended    an atomic request: the area map of its chunk had been made longer, or that passed over had not
    forced      none of these: the row is followed, and counts as not explained

Each attempt is verified: every row between the place of a move and the present must agree as well. An attempt that
fails leaves no trace.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..core import layout as L
from ..core import replay as R
from .causes import BALANCE, EARLIER, EXACT, FORCED, LATER, LEARNED
from .hindsight import Lost
from .machine import Machine, Snapshot
from .tape import NO_TASK

__all__ = ["Search"]

_SLICE = 128  # rows between snapshots, if they are small
_SNAPSHOT_BYTES = 1 << 27
_REACH = 4096  # rows that an allocation may be moved over
_SHORT_REACH = 12  # the same while out of step
_MOST_PLACES = 24  # places of one row that are verified
_MOST_LATER = 6
_MOST_MENDED = 8
_MOST_LEARNED = 256  # stretches, which a burst of lost allocations leaves
_STEPS, _STEPS_PER_ROW = 500_000, 40  # of all searches; recordings take up to 4 a row
_OUT_OF_STEP = 20  # rows forced in a row
_IN_STEP = 50  # rows that agree in a row


@dataclass(frozen=True, slots=True)
class _Saved:
    """What an attempt may change, to be put back."""

    snapshot: Snapshot
    base: int
    script: np.ndarray
    snapshots: tuple[Snapshot, ...]
    used: int
    row: int
    taken: int


class Search:
    """A machine, and what has been found out about its tape.

    Args:
        machine: at its start.
        end: row to stop before.
        lost: what lost events must have done, in the order of the rows they are put before.
    """

    def __init__(self, machine: Machine, end: int, lost: Sequence[Lost] = ()) -> None:
        self.machine = machine
        self._lost = lost
        self._told_of_free = {one.before for one in lost if one.kind == R.ROW_FREED}  # rows whose own place tells of it
        self.tape = machine.tape
        self.end = end
        self.cause = np.zeros(len(self.tape.marks), np.int8)
        self.wrong = np.full((2, len(self.tape.marks)), L.NO_CHUNK, np.int64)  # what the model wanted instead
        self.start = machine.begin()
        self.nr_seeds = self.tape.used - self.tape.nr_rows
        self._snapshots: deque[Snapshot] = deque([machine.snapshot()])
        self._taken: list[int] = []
        self._distance = max(_SLICE, _REACH * self._snapshots[0].nbytes // _SNAPSHOT_BYTES)
        self._most_steps = _STEPS + _STEPS_PER_ROW * end
        self._in_a_row = 0
        self._last_forced = -1
        self._chunk_of: dict[int, int] = {}

    def run(self, progress: Callable[[int, int], object] | None = None) -> None:
        """Follow the tape to its end."""
        machine = self.machine
        row, done = 0, 0
        while row < self.end:
            machine.change_over()
            done = self._put_lost(row, done)
            stop = min(row + _SLICE, self.end, self._lost[done].at if done < len(self._lost) else self.end)
            row = machine.forward(row, stop)
            if machine.status != R.REPLAY_OK:
                self._resolve(row)
                row += 1
            if machine.pos - self._snapshots[-1].pos >= self._distance:
                self._keep_snapshot()
            if progress is not None:
                progress(row, self.end)

        told = [row for row in self._told_of_free if row < self.end and self.cause[row] == EXACT]
        self.cause[told] = LEARNED

    def _put_lost(self, row: int, done: int) -> int:
        """Do what lost events did before a row -> how many of all are done."""
        while done < len(self._lost) and self._lost[done].at <= row:
            one = self._lost[done]
            self._silent(one.kind, one.chunk, one.off, -1 if one.kind == L.EVENT_CREATE else one.size)
            done += 1
        return done

    def _keep_snapshot(self) -> None:
        snapshots, machine = self._snapshots, self.machine
        snapshots.append(machine.snapshot())
        while len(snapshots) > 2 and snapshots[1].pos < machine.pos - _REACH:
            snapshots.popleft()

    # --- one row that does not agree ------------------------------------------------------

    @property
    def was_reclaimed(self) -> bool:
        """Tell whether the balance work gave pages back so far, as far as the model knows."""
        return int(self.machine.reg[R.REG_RECLAIMED]) > 0

    @property
    def is_behind_a_loss(self) -> bool:
        """Tell whether events were lost before what is done last."""
        done = self.machine.script[: self.machine.pos][-_SLICE:]
        return bool(((done >= self.tape.first_loss) & (done < self.tape.nr_rows)).any())

    @property
    def is_out_of_step(self) -> bool:
        """Tell whether so much was forced, or searched, that a long search is not worth it."""
        return self._in_a_row >= _OUT_OF_STEP or self.machine.steps > self._most_steps

    def _resolve(self, row: int) -> None:
        machine = self.machine
        self.wrong[:, row] = machine.reg[[R.REG_CHUNK, R.REG_OFF]] if machine.status not in _NO_PLACE else L.NO_CHUNK
        if row - self._last_forced > _IN_STEP:
            self._in_a_row = 0
        saved = self._save(row)
        attempts = (self._learn, self._learn_free, self._earlier, self._later, self._learn_place, self._balance_now,
                    self._balance_later, self._mend)  # fmt: skip
        for attempt in attempts if machine.status != R.REPLAY_NO_CHUNK else ():
            cause = attempt(row)
            if cause:
                self._note(row, cause)
                return
            self._put_back(saved)
        self._force(row)

    def _note(self, row: int, cause: int) -> None:
        if cause != EXACT_ROW:
            self.cause[row] = cause
        self._keep_snapshot()

    def _force(self, row: int) -> None:
        self.tape.marks[row] |= R.MARK_FORCE
        self.machine.run_rows([row])
        self.cause[row] = FORCED
        self._in_a_row += 1
        self._last_forced = row

    # --- attempts: each gives the cause, or 0 ----------------------------------------------

    def _learn(self, row: int) -> int:
        """Take out of use what was passed over, if it is never handed out, or a lost event had handed it out."""
        return self._take_out(row, self._unknown_place)

    def _learn_place(self, row: int) -> int:
        """Take out of use what was passed over, if it may have been in use until it was handed out."""
        return self._take_out(row, self._any_unknown_place)

    def _take_out(self, row: int, find: Callable[[int], tuple[int, int, int, int] | None]) -> int:
        """Take out of use what `find` gives until the row agrees; in its own chunk all lower places count."""
        nr_elsewhere = 0
        for _ in range(_MOST_MENDED if self.is_out_of_step else _MOST_LEARNED):
            place = find(row)
            nr_elsewhere += place is not None and place[1] != self.tape.events[R.TAPE_CHUNK, row]
            if place is None or nr_elsewhere > _MOST_MENDED or not self._silent(*place):
                return 0
            if self._agrees_now(row):
                return LEARNED
        return 0

    def _learn_free(self, row: int) -> int:
        """Free what the model has in the place that was used: its free was lost, or it was learned and is over."""
        machine = self.machine
        kind, chunk, off, size = self.tape.events[:4, row].tolist()
        may_be = row in self._told_of_free or self._is_unknown(row, chunk)
        if kind != L.EVENT_ALLOC or not may_be or machine.free_end(chunk, off) >= off + size:
            return 0
        for _ in range(_MOST_MENDED):
            if not self._silent(R.ROW_FREED, chunk, off, size):
                return 0
            if self._agrees_now(row):
                return LEARNED
            place = self._any_unknown_place(row)
            if place is None or not self._silent(*place):
                return 0
            if self._agrees_now(row):
                return LEARNED
        return 0

    def _earlier(self, row: int) -> int:
        return EARLIER if self._move_back(row) else 0

    def _later(self, row: int) -> int:
        """Let the row that is recorded later, and has the place the model wants, come first; up to six of them."""
        came_first: list[int] = []
        for _ in range(_MOST_LATER):
            first = self._has_place_later(row)
            if first < 0 or not (self._agrees_now(first) or self._move_back(first)):
                break
            came_first.append(first)
            self._take(first)
            if self._agrees_now(row) or self._move_back(row):
                self.cause[came_first] = LATER
                return EXACT_ROW
        return 0

    def _balance_now(self, row: int) -> int:
        machine = self.machine
        if not machine.engine.scalar(L.BALANCE_PENDING):
            return 0
        return BALANCE if self._silent(R.ROW_BALANCE, 0, 0, 0) and self._agrees_now(row) else 0

    def _balance_later(self, row: int) -> int:
        """Hold the balance work back that ran last."""
        machine, tape = self.machine, self.tape
        low = max(machine.pos - _REACH, self._snapshots[0].pos) if tape.is_simulated else self._lowest(row)
        script = machine.script[low : machine.pos]
        ran = np.flatnonzero(machine.found[R.FOUND_NOTE, script] & R.NOTE_BALANCED)
        if not len(ran):
            return 0
        place = low + int(ran[-1])
        pos = machine.pos
        held = machine.script[place:pos]
        if tape.is_simulated:  # up to where it may run again
            held = np.append(held, np.arange(row, min(int(tape.events[R.TAPE_DUE, row]), self.end)))
        held = held[tape.marks[held] & R.MARK_HOLD == 0]
        tape.marks[held] |= R.MARK_HOLD
        if self._go_to(place) and machine.run(place, pos):
            machine.pos = pos
            if self._agrees_now(row):
                self._drop_snapshots(place)
                return BALANCE
        tape.marks[held] &= ~R.MARK_HOLD
        return 0

    def _mend(self, row: int) -> int:
        """Put right what the model cannot know: pages after a reclaim, and which chunks are out of use."""
        cause = 0
        for _ in range(_MOST_MENDED):
            what = self.machine.allocator.mend(self, row)
            if what is None:
                return 0
            cause = cause or what[0]
            if not self._silent(*what[1:]):
                return 0
            if self._agrees_now(row):
                return cause
        return 0

    def _silent(self, kind: int, chunk: int, off: int, size: int) -> bool:
        """Write a row for what leaves no event, and replay it -> whether there was room for it."""
        row = self.tape.add(kind, chunk, off, size)
        return row >= 0 and self.machine.run_rows([row])

    def _wanted_place(self, row: int) -> tuple[int, int, int] | None:
        """Give the place that the model wants for a row, and something may be unknown of -> chunk, offset, end."""
        machine, tape = self.machine, self.tape
        if tape.events[R.TAPE_EVENT, row] != L.EVENT_ALLOC or machine.status != R.REPLAY_OTHER_PLACE:
            return None
        chunk, off = self.recorded_chunk(int(machine.reg[R.REG_CHUNK])), int(machine.reg[R.REG_OFF])
        return (chunk, off, off + int(tape.events[R.TAPE_SIZE, row])) if chunk >= 0 else None

    def _unknown_place(self, row: int) -> tuple[int, int, int, int] | None:
        """Find what must have been in use of the place that the model wants."""
        wanted = self._wanted_place(row)
        if wanted is None:
            return None
        chunk, off, end = wanted
        for one in self._lost:
            is_now = one.kind == R.ROW_IN_USE and one.chunk == chunk and one.after < row < one.at
            if is_now and one.off < end and off < one.off + one.size:
                return R.ROW_IN_USE, chunk, one.off, one.size
        if not self._is_unknown(row, chunk):
            return None
        found = self._never_given(chunk, off, end, row if row >= self.tape.first_loss else 0)
        return None if found is None else (R.ROW_IN_USE, chunk, *found)

    def _any_unknown_place(self, row: int) -> tuple[int, int, int, int] | None:
        """Find what may have been in use of the place that the model wants: all of it at worst."""
        wanted, found = self._wanted_place(row), self._unknown_place(row)
        if found is not None or wanted is None or not self._is_unknown(row, wanted[0]):
            return found
        chunk, off, end = wanted
        may_be = row >= self.tape.first_loss or self.machine.starts[chunk].is_unknown(off, end, row)
        return (R.ROW_IN_USE, chunk, off, end - off) if may_be else None

    def _is_unknown(self, row: int, chunk: int) -> bool:
        """Tell whether something may be in use in a chunk, or not, that no event told of."""
        tape = self.tape
        return row >= tape.first_loss or (chunk in self.machine.starts and not tape.is_known_at_start(chunk))

    def _never_given(self, chunk: int, off: int, end: int, since: int) -> tuple[int, int] | None:
        """Find the first stretch of a place that no row from one on hands out, as far as it is free -> offset, size."""
        machine, tape = self.machine, self.tape
        kind, number, at, size = tape.events[:4, since : tape.nr_rows]
        limit = machine.free_end(chunk, off)
        given = (kind == L.EVENT_ALLOC) & (number == chunk) & (at < limit) & (at + size > off)
        starts, ends = at[given], (at + size)[given]
        for place in sorted(zip(starts.tolist(), ends.tolist(), strict=True)):
            if place[0] > off:
                break
            off = max(off, place[1])
        if off >= end:
            return None
        behind = starts[starts > off]
        return off, min(limit, int(behind.min(initial=limit))) - off

    def _agrees_now(self, row: int) -> bool:
        return self.machine.run_rows([row])

    def _move_back(self, row: int) -> bool:
        """Put the row where it agrees in what is done, everything behind it too; latest places first.

        Where it agrees nowhere the model stands again where it stood, before the row that does not agree.
        """
        pos, low = self.machine.pos, self._lowest(row)
        if low >= pos:
            return False
        if self._agrees_before(row, low, pos):
            return True
        self._go_to(pos)
        self._agrees_now(row)
        return False

    def _agrees_before(self, row: int, low: int, pos: int) -> bool:
        machine = self.machine
        if not self._go_to(low):
            return False
        hits = machine.probe(low, pos, row)
        behind = machine.script[low:pos].copy()
        for place in _choose(np.flatnonzero(hits[:-1]) + low):
            machine.script[low:pos] = behind
            if not self._go_to(place):
                return False
            machine.script[place] = row
            machine.script[place + 1 : pos + 1] = behind[place - low :]
            if machine.run(place, pos + 1):
                machine.pos = pos + 1
                self._drop_snapshots(place)
                return True
        machine.script[low:pos] = behind
        return False

    def _lowest(self, row: int) -> int:
        """Find the first place of the script that the row could have been decided at."""
        tape, machine = self.tape, self.machine
        reach = _SHORT_REACH if self.is_out_of_step else _REACH
        low = max(machine.pos - reach, self._snapshots[0].pos)
        script = machine.script[low : machine.pos]
        recorded = script < tape.nr_rows
        rows = np.where(recorded, script, 0)
        barred = np.zeros(len(script), bool)
        if tape.who[row] != NO_TASK:
            own = tape.who[rows] == tape.who[row]
            barred |= recorded & own & (~tape.is_irq[rows] | tape.is_irq[row])
        if tape.window and tape.time[row] >= 0:
            barred |= recorded & (tape.time[rows] >= 0) & (tape.time[rows] < tape.time[row] - tape.window)
        barred |= rows < tape.nr_early
        last = np.flatnonzero(barred)
        return low + int(last[-1]) + 1 if len(last) else low

    def _has_place_later(self, row: int) -> int:
        """Find the next row of another task that is recorded to have got the place the model wants now; -1 if none."""
        tape, machine = self.tape, self.machine
        if machine.status in _NO_PLACE:
            return -1
        chunk = self.recorded_chunk(int(machine.reg[R.REG_CHUNK]))
        off = int(machine.reg[R.REG_OFF])
        stop = min(row + 1 + (_SHORT_REACH if self.is_out_of_step else _REACH), self.end)
        kind, number, at, size = tape.events[:4, row + 1 : stop]
        fits = (kind == L.EVENT_ALLOC) & (number == chunk) & (at < off + tape.events[R.TAPE_SIZE, row])
        fits &= (at + size > off) & (tape.marks[row + 1 : stop] & R.MARK_TAKEN == 0)
        if tape.who[row] != NO_TASK:
            fits &= tape.who[row + 1 : stop] != tape.who[row]  # which hides nobody else
        if tape.window:
            fits &= tape.time[row + 1 : stop] <= tape.time[row] + tape.window
        found = np.flatnonzero(fits)
        if not len(found):
            return -1
        first = row + 1 + int(found[0])
        who = tape.who[first]
        if who == NO_TASK:
            return first
        before = np.flatnonzero((tape.who[row + 1 : first] == who) & (tape.marks[row + 1 : first] & R.MARK_TAKEN == 0))
        if len(before):  # what its task did before comes before it
            first = row + 1 + int(before[0])
        return first if tape.events[R.TAPE_EVENT, first] == L.EVENT_ALLOC else -1

    def recorded_chunk(self, ordinal: int) -> int:
        """Find the number of a chunk on the tape by the model's."""
        live = np.flatnonzero(self.machine.handles)
        chunk = self.machine.engine.chunk
        for number in live.tolist():
            if chunk[self.machine.handles[number] + L.ORDINAL] == ordinal:
                return int(number)
        return -1

    # --- going back -------------------------------------------------------------------------------

    def _go_to(self, place: int) -> bool:
        """Bring the model to a place of the script."""
        machine = self.machine
        snapshot = next(s for s in reversed(self._snapshots) if s.pos <= place)
        machine.restore(snapshot)
        done = machine.run(snapshot.pos, place)
        machine.pos = place
        return done

    def _drop_snapshots(self, place: int) -> None:
        """Forget what was copied behind a place that has changed."""
        while self._snapshots[-1].pos > place:
            self._snapshots.pop()

    def _take(self, row: int) -> None:
        self.tape.marks[row] |= R.MARK_TAKEN
        self._taken.append(row)

    def _save(self, row: int) -> _Saved:
        base = self._snapshots[0].pos
        machine = self.machine
        script = machine.script[base : machine.pos].copy()
        return _Saved(machine.snapshot(), base, script, tuple(self._snapshots), self.tape.used, row, len(self._taken))

    def _put_back(self, saved: _Saved) -> None:
        machine = self.machine
        machine.restore(saved.snapshot)
        machine.script[saved.base : saved.base + len(saved.script)] = saved.script
        self._snapshots = deque(saved.snapshots)
        self.tape.used = saved.used
        for row in self._taken[saved.taken :]:
            self.tape.marks[row] &= ~R.MARK_TAKEN
        del self._taken[saved.taken :]


EXACT_ROW = -1  # the row agrees where it stands, once others came first
_NO_PLACE = (R.REPLAY_NO_PLACE, R.REPLAY_NO_CHUNK)


def _choose(places: np.ndarray) -> list[int]:
    """Choose which places to verify: the ends of each stretch of neighbours, latest first."""
    if not len(places):
        return []
    gaps = np.flatnonzero(np.diff(places) > 1)
    ends = np.concatenate([places[gaps], places[-1:], places[gaps + 1], places[:1]])
    return [int(place) for place in np.unique(ends)[::-1][:_MOST_PLACES]]
