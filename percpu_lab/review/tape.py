"""A recording laid out for the replay: every call that was recorded, one row each, in the order of the files.

    early calls | events of the trace | room for what leaves no event
    0 .. e-1    | e .. e+n-1          | e+n ..                              row of the trace = row of the tape - e

A chunk is one number from its creation to its destruction. Of those without a create event, which were there before
the first row, one is the first chunk, and one perhaps the reserved chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..core import layout as L
from ..core import replay as R
from ..events import Bools, Int64s
from ..geometry import Geometry
from ..traces.recorded import RecordedTrace
from ..traces.recording import Recording
from ..units import PAGE_SIZE, round_up

__all__ = ["NO_TASK", "Tape"]

NO_TASK = -(1 << 40)
_IRQ_MARKS = "hHsSzZ"
_WINDOW_SECONDS = 0.25
_SPARE_ROWS = 4096
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
        first_loss: row before which events were lost for the first time; behind the last if none were.
        used: rows in use.
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

    @property
    def nr_chunks(self) -> int:
        """Count the chunks that are named."""
        return len(self.is_created)

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
        trace = recording.trace
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
        events[R.TAPE_FLAGS] &= L.FLAG_RESERVED | L.FLAG_ATOMIC
        is_created = np.zeros(int(chunk.max(initial=-1)) + 1, bool)
        is_created[chunk[events[R.TAPE_EVENT, :rows] == L.EVENT_CREATE]] = True
        cpu, pid = _joined(parts, "cpu"), _joined(parts, "pid")
        is_irq = np.array([_is_irq(text) for part, count in parts for text in part.context[:count].tolist()], bool)
        who = np.where(is_irq | (pid == 0), np.where(cpu < 0, NO_TASK, -2 - cpu), np.where(pid < 0, NO_TASK, pid))
        digits = trace.time_digits
        tape = cls(
            nr_early=nr_early, nr_rows=rows, events=events, marks=np.zeros(events.shape[1], np.int64), who=who, cpu=cpu,
            is_irq=is_irq, time=_joined(parts, "time"), window=int(_WINDOW_SECONDS * 10**digits) if digits else 0,
            is_created=is_created, first=-1, reserved=-1, used=rows,
            has_early=recording.early is not None,
            from_boot=recording.early is not None or _begins_at_boot(pid),
            first_loss=nr_early + min((loss.row for loss in trace.losses if loss.row), default=rows),
        )  # fmt: skip
        tape._find_boot_chunks(geometry)
        tape._name_creators(pid)
        second = 10**digits if digits else 0
        tape._join_destructions(second)
        tape._find_time_for_work(second)
        tape._enable_async(pid)
        return tape

    def _find_boot_chunks(self, geometry: Geometry) -> None:
        """Find the reserved chunk by its requests, and the first chunk by where its areas can lie."""
        info = geometry.info
        start = round_up(info.static_size, 4) + info.reserved_size
        end = start % PAGE_SIZE + info.dyn_size
        kind, chunk, off, size, _, flags = self.events[:6, : self.nr_rows]
        best = 0
        for number in np.flatnonzero(~self.is_created).tolist():
            mine = (chunk == number) & ((kind == L.EVENT_ALLOC) | (kind == L.EVENT_FREE))
            allocs = mine & (kind == L.EVENT_ALLOC)
            if info.reserved_size and allocs.any() and (flags[allocs] & L.FLAG_RESERVED).all():
                self.reserved = number
                continue
            fits = mine & (off >= start % PAGE_SIZE) & (off + size <= end)
            if fits.sum() > max(best, _MOST_STRAY * mine.sum()):
                self.first, best = number, int(fits.sum())

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
        return int((~self.is_created).sum() + change.cumsum().max(initial=0))


def _joined(parts: Sequence[tuple[RecordedTrace, int]], name: str) -> Int64s:
    return np.concatenate([np.asarray(getattr(part, name)[:count], np.int64) for part, count in parts])


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
        for event, base in zip(part.event[:length].tolist(), part.base_addr[:length].tolist(), strict=True):
            if event == L.EVENT_FAIL:
                result.append(-1)
                continue
            if event == L.EVENT_CREATE or base not in number:
                number[base] = count
                count += 1
            result.append(number[base])
    return np.array(result, np.int64)
