"""A trace that was recorded elsewhere, with the same columns as the events of an engine and more.

    line  event  base_addr           off   size | chunk  birth     op = row; chunk and birth are worked out in link.py
    12    ALLOC  0x00000000bbe89090  368   260  | 0      0
    13    FREE   0x00000000bbe89090  368   260  | 0      0         260 and 0 are those of the allocation in row 0
    markers   what programs wrote between the events: row = number of events before
    losses    events that the text says are missing;  oddities: lines that were skipped, repaired or are strange

Chunks are told apart by base address alone. The first chunk and the reserved one lie in the same memory: v6.12 gives
each its own base address and so a number of its own, v4.13 gives both the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..core import layout as L
from ..events import ALL_ROWS, Events, Int64s, Uint64s
from ..rich import Rich
from ..tracepoints import Event, EventField, Style, Tracepoint, extra_text
from .kept import KeptText

__all__ = ["MORE_COLUMNS", "UNKNOWN_BIRTH", "Loss", "Marker", "Oddity", "RecordedTrace", "RingCounts"]

UNKNOWN_BIRTH = -2  # of a free whose area was allocated before the recording began


@dataclass(frozen=True, slots=True)
class Marker(Rich):
    """What a program wrote into the trace (trace_marker), `row` events having come before; time as in the trace."""

    row: int
    line: int
    text: str
    time: int = -1
    task: str = ""
    pid: int = -1
    cpu: int = -1


@dataclass(frozen=True, slots=True)
class Loss(Rich):
    """Events that the text says are missing before an event.

    Args:
        row: number of events before.
        line: where it says so, 1 for the first.
        cpu: whose ring lost them, -1 for all.
        nr_events: how many, None if it does not say.
        how: `LOST` (a reader too slow), `DROPPED` (the same, as trace-cmd says it) or `overwritten`.
    """

    row: int
    line: int
    cpu: int
    nr_events: int | None
    how: str


@dataclass(frozen=True, slots=True)
class Oddity(Rich):
    """A line that was skipped, repaired or is strange: its number, a word for the kind, and what is odd."""

    line: int
    kind: str
    text: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.text}"


@dataclass(frozen=True, slots=True)
class RingCounts(Rich):
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
MORE_COLUMNS: dict[str, tuple[Any, Any]] = {
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
    "line": (np.int64, 0),
}


@dataclass(frozen=True, slots=True, eq=False, repr=False, init=False)
class RecordedTrace(Events):
    """A recorded trace, in the order of its lines.

    What the text does not say is worked out from the events before: `chunk` numbers the base addresses in the order
    they appear (a new number for each create event), and `size`, `align` and `birth` of a free are those of its
    allocation (0, 0 and UNKNOWN_BIRTH if that was not recorded).

    Args:
        columns: arrays named as in RING_COLUMNS, and base_addr, ptr (uint64), bytes_alloc, time, cpu, pid (int64, -1
            where the text does not say), call_site, gfp_flags (str or None), task, context (the marks before the time),
            line (of the source, 1 for the first).
        extra: unknown fields, by row.
        time_digits: digits behind the point of the times: 6 says that `time` is in microseconds, 0 that it counts
            something; None if the text has no times.
        counts: of the ring, if the text had a header.
        nr_other: lines of other events.
        markers, losses, oddities: what else the text says, in its order.
        header: the comment lines that it begins with.
        layout: of the lines: "ftrace", "ftrace latency", "ftrace verbose", "ftrace without context", "trace-cmd",
            "perf script", "golden"; more than one joined by " + ".
        source: name of the file.
        pointer_bytes: 8 or 4 as the width of the addresses shows, None if it does not.
        kept: the text as it came in, None if it is not kept.
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
    line: Int64s
    extra: Mapping[int, tuple[tuple[str, str], ...]]
    time_digits: int | None
    counts: RingCounts | None
    nr_other: int
    markers: tuple[Marker, ...]
    losses: tuple[Loss, ...]
    oddities: tuple[Oddity, ...]
    header: tuple[str, ...]
    layout: str
    source: str
    pointer_bytes: int | None
    kept: KeptText | None

    def __init__(
        self,
        columns: Mapping[str, Any],
        *,
        extra: Mapping[int, tuple[tuple[str, str], ...]],
        time_digits: int | None = None,
        counts: RingCounts | None = None,
        nr_other: int = 0,
        markers: tuple[Marker, ...] = (),
        losses: tuple[Loss, ...] = (),
        oddities: tuple[Oddity, ...] = (),
        header: tuple[str, ...] = (),
        layout: str = "",
        source: str = "",
        pointer_bytes: int | None = None,
        kept: KeptText | None = None,
    ) -> None:
        Events.__init__(self, columns, lost=sum(loss.nr_events or 0 for loss in losses))
        for name, (dtype, _) in MORE_COLUMNS.items():
            self._keep(name, columns[name], dtype)
        more = {
            "extra": extra, "time_digits": time_digits, "counts": counts, "nr_other": nr_other, "markers": markers,
            "losses": losses, "oddities": oddities, "header": header, "layout": layout, "source": source,
            "pointer_bytes": pointer_bytes, "kept": kept,
        }  # fmt: skip
        for name, value in more.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        told = (
            (len(self.markers), "marker", "markers"),
            (self.lost, "lost event", "lost events"),
            (len(self.oddities), "odd line", "odd lines"),
        )
        more = "".join(f", {number:,} {one if number == 1 else many}" for number, one, many in told if number)
        return f"<{type(self).__name__}: {len(self):,} events{more}>"

    @property
    def tells_bytes_alloc(self) -> bool:
        """Whether an allocation says what it took on all CPUs together, as those of later kernels do."""
        return bool(((self.event == L.EVENT_ALLOC) & (self.bytes_alloc >= 0)).any())

    def __iter__(self) -> Iterator[Event]:
        for row, event in enumerate(Events.__iter__(self)):
            yield replace(event, extra=self.extra[row]) if row in self.extra else event

    def text(self, style: Style | None = None) -> str:
        """Write the trace as text: as it came in, to the byte, or in a style.

        >>> from percpu_lab.traces.read import read_trace_text
        >>> line = "  ip-136   [003] .....    86.889221: percpu_create_chunk:   base_addr=00000000118f8f08\\r\\n"
        >>> read_trace_text(line).text() == line
        True
        >>> read_trace_text(line).text("plain")
        'percpu_create_chunk: base_addr=00000000118f8f08\\n'

        Args:
            style: None: as it came in (a data file: as its program printed it), with what was not read, such as
                another recording behind this one; bytes that are no UTF-8 as `surrogateescape` has them. Where that
                is not kept (events were chosen while reading, or it was too long) as `ftrace`. Otherwise the events
                anew, one a line; `ftrace` with the header, if there was one.
        """
        if style is None and self.kept is not None:
            return self.kept.text()
        header = self.counts.header() if self.counts and style in (None, "ftrace") else ""
        return header + Events.text(self, style or "ftrace")

    def _lines(self, style: Style, rows: slice = ALL_ROWS) -> list[str]:
        lines = Events._lines(self, style, rows)
        first = rows.start or 0
        for row, extra in self.extra.items():
            if first <= row < first + len(lines):
                lines[row - first] += extra_text(extra)
        return lines

    def _frame_columns(self) -> tuple[str, ...]:
        return (*Events._frame_columns(self), *list(MORE_COLUMNS)[2:])

    def _prefix(self, style: Style) -> tuple[str, list[np.ndarray]]:
        if style != "ftrace" or self.time_digits is None:
            return Events._prefix(self, style)
        columns = [self.task, self.pid, self.cpu, self.context, _time_texts(self.time, self.time_digits)]
        return self._prefix_template(), columns

    def _prefix_template(self) -> str:
        """The column of the pid is wider where a fifth mark tells of migration: both came with v5.11."""
        is_new = bool(len(self)) and len(self.context[0]) == 5
        return f"%16s-%-{7 if is_new else 5}d [%03d] %s %12s: "

    def _with_fields(self, point: Tracepoint, index: Int64s) -> Iterator[tuple[tuple[EventField, ...], Int64s]]:
        optional = [f for f in point.fields if f.optional]
        marks = np.zeros(len(index), np.int64)
        for k, known in enumerate(optional):
            column, missing = getattr(self, known.name), MORE_COLUMNS[known.name][1]
            marks |= np.not_equal(column[index], missing).astype(np.int64) << k
        for mark in np.unique(marks).tolist():
            fields = tuple(f for f in point.fields if not f.optional or mark >> optional.index(f) & 1)
            yield fields, index[marks == mark]


def _time_texts(time: Int64s, digits: int) -> np.ndarray:
    """Write times with a number of digits behind the point."""
    scale = 10**digits
    texts = [f"{t // scale}.{t % scale:0{digits}d}" if digits else str(t) for t in time.tolist()]
    return np.array(texts, object)
