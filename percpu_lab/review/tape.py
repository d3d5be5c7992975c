"""A recording laid out for the replay: every call that was recorded, one row each, in the order of the files.

    early calls | events of the trace | room for what leaves no event
    0 .. e-1    | e .. e+n-1          | e+n ..                              row of the trace = row of the tape - e

A chunk is one number from its creation to its destruction. Of those without a create event, which were there before
the first row, one is the first chunk, and one perhaps the reserved chunk. In v4.13 the two have one base address;
offsets tell them apart.

The events of a simulated run bear the number of their op. Its ops are done one after the other by one task, and a
number that is missing is that of an op without an event: there, and only there, the balance work may have run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..columns import Unit
from ..core import layout as L
from ..core import replay as R
from ..events import Bools, Int64s
from ..geometry import Geometry
from ..rebuild.space import Space, damaged_rows
from ..traces.recorded import RecordedTrace
from ..traces.recording import Recording
from .logged import logged_reasons

__all__ = ["NO_TASK", "Tape"]

NO_TASK = -(1 << 40)
_MISSING = ("left out", "twice")  # oddities: an event that could not be read, or must have been before
_THE_TASK = 1  # of a simulated run
_SIMULATED = "golden"  # the layout whose events bear numbers of ops
_IRQ_MARKS = "hHsSzZ"
_WINDOW_SECONDS = 0.25
_SPARE_ROWS = 4096
_NOWHERE = -1  # offset of an area whose line is damaged
_WORK_MICROSECONDS = 200  # between two rows of a task, for work to run there
_RECORDED_FIRST = (L.EVENT_FREE, L.EVENT_FAIL)  # these ask for work after their event, an allocation before
_WORK_ROWS = 1000  # from a row to the end of the work it asked for
_MOST_STRAY = 0.95  # of the rows of the first chunk must lie in it; others are damaged
_WORK_END_MICROSECONDS = 50_000
_BURST_ROWS = 16  # between two destructions by the same work
_BURST_MICROSECONDS = 20000


@dataclass(slots=True)
class Tape:
    """The rows of a recording; see core/replay.py for events, marks and found.

    Args:
        nr_early, nr_rows: early calls; these and the events of the trace.
        events: NR_TAPE_COLUMNS x capacity.
        marks: how to treat each row.
        who: a number for the task, or for the CPU where an interrupt or an idle task made the call; NO_TASK unknown.
        cpu: of each row, -1 unknown.
        is_irq: made by an interrupt, whose pid is that of the interrupted task.
        time: of each row; window: how far an allocation may be moved, in the same unit, 0 without times.
        is_created: chunks that have a create event.
        first, reserved: number of the first and the reserved chunk, -1 if no row names it.
        has_early: all calls before the trace are there.
        from_boot: the first row is one of the first calls of that kernel.
        first_loss: row before which events were lost for the first time, in the ring or as lines that are damaged;
            behind the last if none were.
        used: rows in use.
        granule: bytes that sizes are rounded up to.
        is_simulated: the rows are of a simulated run: in order, and by one task.
    """

    nr_early: int
    nr_rows: int
    events: np.ndarray
    marks: Int64s
    who: Int64s
    cpu: Int64s
    is_irq: Bools
    time: Int64s
    window: int
    is_created: Bools
    first: int
    reserved: int
    has_early: bool
    from_boot: bool
    first_loss: int
    used: int
    granule: int
    is_simulated: bool

    @property
    def nr_chunks(self) -> int:
        """Count the chunks that are named."""
        return len(self.is_created)

    def is_known_at_start(self, chunk: int) -> bool:
        """Tell whether a chunk held nothing before the first row: one of the boot, where no call is missing."""
        return self.has_early and chunk in (self.first, self.reserved)

    def column(self, name: int) -> Int64s:
        """Give a column of the recorded rows."""
        return np.asarray(self.events[name, : self.nr_rows])

    def add(self, kind: int, chunk: int, off: int, size: int) -> int:
        """Write a row for something that left no event -> its number, or -1 when there is no room."""
        if self.used == len(self.marks):
            return -1
        row = self.used
        self.used += 1
        self.events[:, row] = kind, chunk, off, size, 4, 0, 0, 0
        return row

    @classmethod
    def of(cls, recording: Recording, geometry: Geometry, until: int | None = None) -> Tape:
        """Lay a recording out.

        Args:
            recording: with or without early calls.
            geometry: tells the first chunk from others.
            until: leave the trace out from this row on.
        """
        trace, kernel = recording.trace, recording.kernel or geometry.kernel
        nr_trace = len(trace) if until is None else min(max(until, 0), len(trace))
        parts = [(trace, nr_trace)]
        if recording.early is not None:
            parts.insert(0, (recording.early, len(recording.early)))
        nr_early = sum(count for _, count in parts) - nr_trace
        chunk = _chunks(parts)
        rows = nr_early + nr_trace
        events = np.zeros((R.NR_TAPE_COLUMNS, rows + _SPARE_ROWS + rows // 8), np.int64)
        for column, name in ((R.TAPE_EVENT, "event"), (R.TAPE_OFF, "off"), (R.TAPE_SIZE, "size"),
                             (R.TAPE_ALIGN, "align"), (R.TAPE_FLAGS, "flags")):  # fmt: skip
            events[column, :rows] = _joined(parts, name)
        events[R.TAPE_CHUNK, :rows] = np.maximum(chunk, 0)
        unit = Unit.of(geometry.info)
        _displace(events, parts, unit)
        events[R.TAPE_FLAGS] &= L.FLAG_RESERVED | L.FLAG_ATOMIC
        is_boot = _is_boot(events[R.TAPE_EVENT, :rows], _joined(parts, "op"))
        events[R.TAPE_EVENT, :rows][is_boot] = R.ROW_BOOT
        is_whole = recording.early is not None or bool(is_boot.any())
        ops = _ops(trace, nr_trace) if trace.layout == _SIMULATED else None
        is_created = np.zeros(int(chunk.max(initial=-1)) + 1, bool)
        is_created[chunk[events[R.TAPE_EVENT, :rows] == L.EVENT_CREATE]] = True
        cpu, pid = _joined(parts, "cpu"), _joined(parts, "pid")
        is_irq = np.array([_is_irq(text) for part, count in parts for text in part.context[:count].tolist()], bool)
        who = np.where(is_irq | (pid == 0), np.where(cpu < 0, NO_TASK, -2 - cpu), np.where(pid < 0, NO_TASK, pid))
        if ops is not None:
            who[:] = _THE_TASK
        digits = trace.time_digits
        tape = cls(
            nr_early=nr_early, nr_rows=rows, events=events, marks=np.zeros(events.shape[1], np.int64), who=who, cpu=cpu,
            is_irq=is_irq, time=_joined(parts, "time"), window=int(_WINDOW_SECONDS * 10**digits) if digits else 0,
            is_created=is_created, first=-1, reserved=-1, used=rows,
            has_early=is_whole,
            from_boot=is_whole or _begins_at_boot(pid),
            first_loss=nr_early + _first_loss(trace, unit),
            granule=kernel.least_size,
            is_simulated=ops is not None,
        )  # fmt: skip
        tape._find_boot_chunks(Space.of(unit, kernel))
        tape.marks[:rows][is_boot] |= R.MARK_ASYNC
        tape._note_reasons(recording)
        second = 10**digits if digits else 0
        if ops is None:
            tape._name_creators(pid)
            tape._join_destructions(second)
            tape._find_time_for_work(second)
        else:
            _Ops(tape, ops, recording).lay_out()
        tape._enable_async(pid)
        return tape

    def _find_boot_chunks(self, space: Space) -> None:
        """Find the reserved chunk by its requests, and the first chunk by where its areas can lie."""
        kind, chunk, off, size, _, flags = self.events[:6, : self.nr_rows]
        is_shared = space.shares_base and space.reserved[1] > 0
        low, high = min(space.first[0], space.reserved[0]) if is_shared else space.first[0], space.first[1]
        best = 0
        for number in np.flatnonzero(~self.is_created).tolist():
            mine = (chunk == number) & ((kind == L.EVENT_ALLOC) | (kind == L.EVENT_FREE)) & (off != _NOWHERE)
            allocs = mine & (kind == L.EVENT_ALLOC)
            is_reserved = allocs.any() and (flags[allocs] & L.FLAG_RESERVED).all()
            if space.reserved[1] and not is_shared and is_reserved:
                self.reserved = number
                continue
            fits = mine & (off >= low) & (off + size <= high)
            if fits.sum() > max(best, _MOST_STRAY * mine.sum()):
                self.first, best = number, int(fits.sum())
        if is_shared and self.first >= 0:
            self.reserved = self.nr_chunks
            self.is_created = np.append(self.is_created, False)
            chunk[(chunk == self.first) & (kind <= L.EVENT_FREE) & (off < space.first[0])] = self.reserved

    def _note_reasons(self, recording: Recording) -> None:
        """Let each failure bear the reason that the kernel log gives."""
        off = self.events[R.TAPE_OFF, : self.nr_rows]
        off[self.column(R.TAPE_EVENT) == L.EVENT_FAIL] = L.REASON_NONE
        for row, reason in logged_reasons(recording).items():
            if reason in L.REASONS and row + self.nr_early < self.nr_rows:
                off[row + self.nr_early] = L.REASONS.index(reason)

    def _name_creators(self, pid: Int64s) -> None:
        """Let each creation bear the request that needed it: the next one of its task, in that chunk.

        The balance work creates chunks, too; then the size stays 0.
        """
        kind, chunk, _, size, align, flags = self.events[:6]
        for row in np.flatnonzero(self.column(R.TAPE_EVENT) == L.EVENT_CREATE).tolist():
            size[row] = 0
            own = np.flatnonzero((self.who[row + 1 :] == self.who[row]) & ~self.is_irq[row + 1 :])
            if not len(own) or pid[row] < 0:
                continue
            following = row + 1 + int(own[0])
            if kind[following] == L.EVENT_ALLOC and chunk[following] == chunk[row]:
                size[row], align[row], flags[row] = size[following], align[following], flags[following]

    def _join_destructions(self, second: int) -> None:
        """Mark destructions behind which the same work destroys another chunk, and the rows that may ask for it."""
        kind, size = self.column(R.TAPE_EVENT), self.events[R.TAPE_SIZE]
        rows = np.flatnonzero(kind == L.EVENT_DESTROY)
        size[rows] = 0
        follows = (np.diff(rows) < _BURST_ROWS) & (self.who[rows[1:]] == self.who[rows[:-1]])
        if second:
            follows &= np.diff(self.time[rows]) < second * _BURST_MICROSECONDS // 1_000_000
        size[rows[:-1][follows]] = 1
        every, last = np.arange(self.nr_rows), rows[size[rows] == 0]
        following = np.append(last, -1)[np.searchsorted(last, every)]
        soon = (following >= 0) & (following - every < _WORK_ROWS)
        if self.window:
            soon &= self.time[following] - self.time < second * _WORK_END_MICROSECONDS // 1_000_000
        self.events[R.TAPE_DESTROYED, : self.nr_rows] = np.where(soon, following, 0)

    def _find_time_for_work(self, second: int) -> None:
        """Find for each row where its CPU next has time for other work.

        Work runs on the CPU that asked for it: not between two rows of one task there that follow each other at once.

        Args:
            second: in units of the times.
        """
        due = self.events[R.TAPE_DUE]
        due[: self.nr_rows] = np.arange(self.nr_rows)
        gap = second * _WORK_MICROSECONDS // 1_000_000
        for cpu in np.unique(self.cpu[self.cpu >= 0]).tolist() if gap else ():
            rows = np.flatnonzero(self.cpu == cpu)
            goes_on = (np.diff(self.time[rows]) < gap) & (self.who[rows[1:]] == self.who[rows[:-1]])
            last = np.flatnonzero(np.append(~goes_on, True))
            due[rows] = rows[last[np.searchsorted(last, np.arange(len(rows)))]]
        late = np.flatnonzero(~np.isin(self.column(R.TAPE_EVENT), _RECORDED_FIRST))
        due[late] = late

    def _enable_async(self, pid: Int64s) -> None:
        """Mark where work queues are up: with the first call of a task other than the first two of a boot."""
        others = np.flatnonzero(pid[self.nr_early :] > 1)
        if self.from_boot and len(others):
            self.marks[self.nr_early + int(others[0])] |= R.MARK_ASYNC

    def peak_chunks(self) -> int:
        """Count the chunks that are there at once, at most."""
        kind = self.column(R.TAPE_EVENT)
        change = (kind == L.EVENT_CREATE).astype(np.int64) - (kind == L.EVENT_DESTROY)
        return int(self.nr_chunks - (kind == L.EVENT_CREATE).sum() + change.cumsum().max(initial=0))


class _Ops:
    """The rows of a simulated run, told by the numbers of their ops.

    op    11 alloc   12 -       13 free   14 destroy, destroy, create      12 had no event: it may have been the work
    """

    def __init__(self, tape: Tape, ops: Int64s, recording: Recording) -> None:
        self._tape, self._ops = tape, ops
        self._kind = tape.column(R.TAPE_EVENT)
        last = max(ops[-1] + 1, *recording.quiet_ops) if len(ops) else 0
        self._nr_idle = np.diff(ops, append=last + 1) - 1
        quiet = np.searchsorted(ops, recording.quiet_ops) - 1
        np.subtract.at(self._nr_idle, quiet[quiet >= 0], 1)

    def lay_out(self) -> None:
        """Name what needed each chunk, join destructions of one op, and find where the work may have run."""
        events, rows = self._tape.events, self._tape.nr_rows
        request = np.isin(self._kind, (L.EVENT_ALLOC, L.EVENT_FAIL))
        created = self._kind == L.EVENT_CREATE
        events[R.TAPE_SIZE, :rows][created] = 0
        follows = np.append(self._ops[1:] == self._ops[:-1], False)
        for row in np.flatnonzero(created & follows & np.append(request[1:], False)).tolist():
            events[R.TAPE_SIZE : R.TAPE_FLAGS + 1, row] = events[R.TAPE_SIZE : R.TAPE_FLAGS + 1, row + 1]
        destroyed = self._kind == L.EVENT_DESTROY
        is_last = destroyed & ~(follows & np.append(destroyed[1:], False))
        events[R.TAPE_SIZE, :rows][destroyed] = ~is_last[destroyed]
        by_work = destroyed | (created & (events[R.TAPE_SIZE, :rows] == 0))
        begins = by_work & ~np.append(False, follows[:-1])
        self._find_time_for_work(is_last, begins)

    def _find_time_for_work(self, is_last: Bools, begins: Bools) -> None:
        """Find for each row the next one behind which the work may run: not before chunks that it destroys first.

        What it destroys bears the number of the same op: behind other rows it has destroyed nothing.
        """
        events, rows = self._tape.events, self._tape.nr_rows
        destroys = begins & (self._kind == L.EVENT_DESTROY)
        may_run = (self._nr_idle > 0) | is_last | np.append((begins & ~destroys)[1:], False)
        every, last = np.arange(rows), np.append(np.flatnonzero(may_run), rows)
        events[R.TAPE_DUE, :rows] = last[np.searchsorted(last[:-1], every)]
        events[R.TAPE_DESTROYED, :rows] = np.where(is_last, 0, -1)


def _joined(parts: Sequence[tuple[RecordedTrace, int]], name: str) -> Int64s:
    return np.concatenate([np.asarray(getattr(part, name)[:count], np.int64) for part, count in parts])


def _displace(events: Int64s, parts: Sequence[tuple[RecordedTrace, int]], unit: Unit) -> None:
    """Let allocations of damaged lines lie nowhere, so that no model can agree with what no kernel does."""
    start = 0
    for part, count in parts:
        rows = damaged_rows(part, unit)
        rows = start + rows[(rows < count) & (part.event[rows] == L.EVENT_ALLOC)]
        events[R.TAPE_OFF, rows] = _NOWHERE
        start += count


def _first_loss(trace: RecordedTrace, unit: Unit) -> int:
    """Find the first row of a trace before which an event is missing, or is none that a kernel writes."""
    missing = [oddity.line for oddity in trace.oddities if oddity.kind in _MISSING]
    rows = [loss.row for loss in trace.losses if loss.row]
    rows += np.searchsorted(trace.line, missing).tolist() + damaged_rows(trace, unit).tolist()
    return min(rows, default=len(trace))


def _is_boot(kind: Int64s, op: Int64s) -> Bools:
    """Tell which events are of the boot: nothing came before."""
    return np.asarray((kind == L.EVENT_CREATE) & (op < 0))


def _ops(trace: RecordedTrace, length: int) -> Int64s:
    return np.asarray(trace.op[:length])


def _is_irq(context: str) -> bool:
    """Tell whether the marks before the time say that an interrupt made the call."""
    return len(context) > 2 and context[2] in _IRQ_MARKS


def _begins_at_boot(pid: Int64s) -> bool:
    return len(pid) > 0 and int(pid[0]) == 0 and bool((pid[:8] == 0).all())


def _chunks(parts: Sequence[tuple[RecordedTrace, int]]) -> Int64s:
    """Number the chunks of all parts as one: a new number for each create event and each base address."""
    number: dict[int, int] = {}
    result: list[int] = []
    count = 0
    for part, length in parts:
        columns = (part.event, part.base_addr, part.op)
        for event, base, op in zip(*(column[:length].tolist() for column in columns), strict=True):
            if event == L.EVENT_FAIL or (event == L.EVENT_CREATE and op < 0):
                result.append(-1)
                continue
            if event == L.EVENT_CREATE or base not in number:
                number[base] = count
                count += 1
            result.append(number[base])
    return np.array(result, np.int64)
