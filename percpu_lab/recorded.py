"""Traces that were recorded elsewhere: read from text, with the same columns as the events of an engine.

    golden   3<TAB>percpu_alloc_percpu: reserved=0 ... base_addr=0xffff888100000000 off=8192 ptr=0x2000
    ftrace   ip-136   [003] .....    86.889221: percpu_alloc_percpu: call_site=f+0x18/0x30 ... gfp_flags=GFP_KERNEL
             task-pid  cpu  flags  time         event

Text from elsewhere is never trusted: what is not understood raises, with its line, or is counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .core import layout as L
from .errors import TraceFormatError
from .events import RING_COLUMNS, Events, Int64s, Uint64s
from .tracepoints import Event, EventField, Style, Tracepoint, extra_text, find_event

__all__ = ["UNKNOWN_BIRTH", "RecordedTrace", "RingCounts", "read_ftrace", "read_golden_trace"]

UNKNOWN_BIRTH = -2  # of a free whose area was allocated before the recording began


@dataclass(frozen=True, slots=True)
class RingCounts:
    """What the header of a trace file says of the ring: events in it, events ever written, CPUs."""

    in_buffer: int
    written: int
    nr_cpus: int

    def header(self) -> str:
        """Write the header as a 4.13 kernel does, with the clock `counter`.

        >>> print(RingCounts(325, 374, 4).header().splitlines()[2])
        # entries-in-buffer/entries-written: 325/374   #P:4
        """
        return _HEADER.format(self.in_buffer, self.written, self.nr_cpus)


_HEADER = """\
# tracer: nop
#
# entries-in-buffer/entries-written: {}/{}   #P:{}
#
#                              _-----=> irqs-off
#                             / _----=> need-resched
#                            | / _---=> hardirq/softirq
#                            || / _--=> preempt-depth
#                            ||| /     delay
#           TASK-PID   CPU#  ||||    TIMESTAMP  FUNCTION
#              | |       |   ||||       |         |
"""


# what a recorded event has beyond RING_COLUMNS: type, and the value where the text does not say
_MORE_COLUMNS: dict[str, tuple[Any, Any]] = {
    "base_addr": (np.uint64, 0),
    "ptr": (np.uint64, 0),
    "bytes_alloc": (np.int64, -1),
    "call_site": (object, None),
    "gfp_flags": (object, None),
    "time": (np.int64, -1),
    "cpu": (np.int64, -1),
    "pid": (np.int64, -1),
    "task": (object, ""),
    "context": (object, ""),
}


@dataclass(frozen=True, slots=True, eq=False, repr=False, init=False)
class RecordedTrace(Events):
    """A recorded trace, in the order of its lines.

    What the text does not say is worked out from the events before: `chunk` numbers the base addresses in the order
    they appear (a new number for each create event), and `size`, `align` and `birth` of a free are those of its
    allocation (0, 0 and UNKNOWN_BIRTH if that was not recorded).

    Args:
        columns: arrays named as in RING_COLUMNS, and base_addr, ptr (uint64), bytes_alloc, time, cpu, pid (int64, -1
            where the text does not say), call_site, gfp_flags (str or None), task, context (the marks before the time).
        extra: unknown fields, by row.
        time_digits: digits behind the point of the times: 6 says that `time` is in microseconds, 0 that it counts
            something; None if the text has no times.
        counts: of the ring, if the text had a header.
        lost: events that the text says are missing.
        nr_other: lines of other events; they were left out.
    """

    base_addr: Uint64s
    ptr: Uint64s
    bytes_alloc: Int64s
    call_site: np.ndarray
    gfp_flags: np.ndarray
    time: Int64s
    cpu: Int64s
    pid: Int64s
    task: np.ndarray
    context: np.ndarray
    extra: Mapping[int, tuple[tuple[str, str], ...]]
    time_digits: int | None
    counts: RingCounts | None
    nr_other: int

    def __init__(
        self,
        columns: Mapping[str, Any],
        *,
        extra: Mapping[int, tuple[tuple[str, str], ...]],
        time_digits: int | None = None,
        counts: RingCounts | None = None,
        lost: int = 0,
        nr_other: int = 0,
    ) -> None:
        Events.__init__(self, columns, lost=lost)
        for name, (dtype, _) in _MORE_COLUMNS.items():
            self._keep(name, columns[name], dtype)
        for name, value in (("extra", extra), ("time_digits", time_digits), ("counts", counts), ("nr_other", nr_other)):
            object.__setattr__(self, name, value)

    def __iter__(self) -> Iterator[Event]:
        for row, event in enumerate(Events.__iter__(self)):
            yield replace(event, extra=self.extra[row]) if row in self.extra else event

    def text(self, style: Style = "ftrace") -> str:
        """Write the trace as text, one event a line; `ftrace` with the header, if there was one.

        >>> line = "3\\tpercpu_create_chunk: base_addr=0x1000\\n"
        >>> read_golden_trace(line).text("golden") == line
        True
        """
        header = self.counts.header() if self.counts and style == "ftrace" else ""
        return header + Events.text(self, style)

    def _lines(self, style: Style) -> list[str]:
        lines = Events._lines(self, style)
        for row, extra in self.extra.items():
            lines[row] += extra_text(extra)
        return lines

    def _frame_columns(self) -> tuple[str, ...]:
        return (*Events._frame_columns(self), *list(_MORE_COLUMNS)[2:])

    def _prefix(self, style: Style) -> tuple[str, list[np.ndarray]]:
        if style != "ftrace" or self.time_digits is None:
            return Events._prefix(self, style)
        columns = [self.task, self.pid, self.cpu, self.context, _time_texts(self.time, self.time_digits)]
        return "%16s-%-5d [%03d] %s %12s: ", columns

    def _with_fields(self, point: Tracepoint, index: Int64s) -> Iterator[tuple[tuple[EventField, ...], Int64s]]:
        optional = [f for f in point.fields if f.optional]
        marks = np.zeros(len(index), np.int64)
        for k, known in enumerate(optional):
            column, missing = getattr(self, known.name), _MORE_COLUMNS[known.name][1]
            marks |= np.not_equal(column[index], missing).astype(np.int64) << k
        for mark in np.unique(marks).tolist():
            fields = tuple(f for f in point.fields if not f.optional or mark >> optional.index(f) & 1)
            yield fields, index[marks == mark]


def _time_texts(time: Int64s, digits: int) -> np.ndarray:
    """Write times with a number of digits behind the point."""
    scale = 10**digits
    texts = [f"{t // scale}.{t % scale:0{digits}d}" if digits else str(t) for t in time.tolist()]
    return np.array(texts, object)


# --- readers ---------------------------------------------------------------------


def read_golden_trace(text: str, *, where: str = "trace") -> RecordedTrace:
    """Read the trace of a recorded case: `INDEX<TAB>EVENT: FIELDS`, one event a line.

    >>> trace = read_golden_trace("3\\tpercpu_alloc_percpu_fail: reserved=0 is_atomic=1 size=100 align=8\\n")
    >>> trace.op.tolist(), trace.is_atomic.tolist()
    ([3], [True])

    Args:
        text: the whole text.
        where: its name in error messages.

    Raises:
        TraceFormatError: names the line.
    """
    rows = _Rows()
    _read_lines(text, where, rows.golden_line)
    return RecordedTrace(rows.columns(), extra=rows.extra)


def read_ftrace(text: str, *, where: str = "trace") -> RecordedTrace:
    """Read the text of a kernel's trace file in its default layout, or that of a simulated one.

    >>> trace = read_ftrace("  ip-136   [003] .....    86.889221: percpu_create_chunk: base_addr=00000000118f8f08")
    >>> trace.task.tolist(), trace.cpu.tolist(), trace.time.tolist(), trace.time_digits
    (['ip'], [3], [86889221], 6)

    Args:
        text: the whole text, or any of its lines.
        where: its name in error messages.

    Raises:
        TraceFormatError: names the line.
    """
    rows = _Rows()
    _read_lines(text, where, rows.ftrace_line)
    overwritten = rows.counts.written - rows.counts.in_buffer if rows.counts else 0
    return RecordedTrace(
        rows.columns(),
        extra=rows.extra,
        time_digits=rows.time_digits,
        counts=rows.counts,
        lost=rows.lost + overwritten,
        nr_other=rows.nr_other,
    )


def _read_lines(text: str, where: str, read: Callable[[str], None]) -> None:
    for number, line in enumerate(text.split("\n"), 1):
        try:
            if line:
                read(line.rstrip("\r"))
        except TraceFormatError as error:
            raise TraceFormatError(error.what, where=f"{where} line {number}", remedy=error.remedy) from None


_GOLDEN = re.compile(r"(-?[0-9]{1,18})\t(\w+): (.*)")
_FTRACE = re.compile(
    r"\s{0,32}(\S.{0,15}?)-([0-9]{1,10})\s+"  # task-pid
    r"(?:\(\s*(?:[0-9]+|-+)\)\s+)?"  # (tgid), with the option record-tgid
    r"\[([0-9]{1,5})\]\s+"  # cpu
    r"(?:(\S{4,8})\s+)?"  # irqs-off, need-resched ...; not with noirq-info
    r"(-?[0-9]{1,18})(?:\.([0-9]{1,9}))?: (.*)"  # time
)
_COUNTS = re.compile(r"# entries-in-buffer/entries-written: ([0-9]{1,18})/([0-9]{1,18})\s+#P:([0-9]{1,9})")
_LOST = re.compile(r"CPU:[0-9]+ \[LOST ([0-9]{1,18}) EVENTS\]")


class _Rows:
    """The events read so far, a dictionary each."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.extra: dict[int, tuple[tuple[str, str], ...]] = {}
        self.time_digits: int | None = None
        self.counts: RingCounts | None = None
        self.lost = 0
        self.nr_other = 0

    def golden_line(self, line: str) -> None:
        match = _GOLDEN.fullmatch(line)
        if match is None:
            raise TraceFormatError(f"no trace line: {line[:80]!r}", remedy="a line is: INDEX, a tab, EVENT: FIELDS")
        point, fields = find_event(f"{match[2]}: {match[3]}")
        self._add(point, fields, op=int(match[1]))

    def ftrace_line(self, line: str) -> None:
        match = _FTRACE.fullmatch(line)
        if match is None:
            self._other_line(line)
        elif match[7].startswith("percpu_"):
            task, pid, cpu, context, whole, digits = match.groups("")[:6]
            self._set_digits(len(digits))
            point, fields = find_event(match[7])
            time = int(whole + digits)
            op = time if task == "percpu_lab" and not digits else len(self.rows)
            self._add(point, fields, op=op, task=task, pid=int(pid), cpu=int(cpu), context=context, time=time)
        else:
            self.nr_other += 1

    def _other_line(self, line: str) -> None:
        counts, lost = _COUNTS.match(line), _LOST.match(line)
        if counts:
            self.counts = RingCounts(*map(int, counts.groups()))
        elif lost:
            self.lost += int(lost[1])
        elif not line.startswith(("#", " => ")):  # a comment; a line of a stack
            remedy = "a line is: TASK-PID [CPU] flags TIME: EVENT: FIELDS"
            raise TraceFormatError(f"no trace line: {line[:80]!r}", remedy=remedy)

    def _set_digits(self, digits: int) -> None:
        if self.time_digits not in (None, digits):
            remedy = "read traces of different clocks one by one"
            raise TraceFormatError("the time is written in another way than before", remedy=remedy)
        self.time_digits = digits

    def _add(self, point: Tracepoint, fields: str, **more: Any) -> None:
        values, extra = point.read_fields(fields)
        if extra:
            self.extra[len(self.rows)] = extra
        self.rows.append({"event": point.event, **more, **values})

    def columns(self) -> dict[str, Any]:
        """Turn the rows into columns, and work out what the text does not say."""
        missing: dict[str, Any] = dict.fromkeys((*RING_COLUMNS, "reserved", "is_atomic"), 0)
        missing |= {name: value for name, (_, value) in _MORE_COLUMNS.items()}
        columns: dict[str, Any] = {name: [row.get(name, value) for row in self.rows] for name, value in missing.items()}
        reserved, is_atomic = (np.array(columns.pop(name), np.int64) for name in ("reserved", "is_atomic"))
        columns["flags"] = reserved * L.FLAG_RESERVED + is_atomic * L.FLAG_ATOMIC
        _link_areas(columns)
        return columns


def _link_areas(columns: dict[str, Any]) -> None:
    """Number the chunks, and give each free the size, alignment and op number of its allocation."""
    chunk_of: dict[int, int] = {}
    live: dict[tuple[int, int], tuple[int, int, int]] = {}
    nr_chunks = 0
    op, size, align, birth, off = (columns[name] for name in ("op", "size", "align", "birth", "off"))
    for row, (event, base) in enumerate(zip(columns["event"], columns["base_addr"], strict=True)):
        if event == L.EVENT_FAIL:
            columns["chunk"][row] = L.NO_CHUNK
            continue
        if event == L.EVENT_CREATE or base not in chunk_of:
            chunk_of[base] = nr_chunks
            nr_chunks += 1
        columns["chunk"][row] = chunk_of[base]
        if event == L.EVENT_ALLOC:
            live[base, off[row]] = op[row], size[row], align[row]
        elif event == L.EVENT_FREE:
            birth[row], size[row], align[row] = live.pop((base, off[row]), (UNKNOWN_BIRTH, 0, 0))
