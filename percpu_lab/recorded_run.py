"""A recorded trace as something to move through: the same columns as a live engine, at any op of the recording.

Rebuilt: what lived where before each row ──▶ RecordedRun: a cursor, and the columns of views at it

op       number of the op an event belongs to; of a trace of a real kernel the row of the event
area     named by the op of its allocation; a call before the trace has no op, its names count down from EARLY
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .annotations import Annotations, Notes, Origins
from .columns import EARLY, Columns, Ints, Snapshot, Unit
from .core import layout as L
from .events import ALL_ROWS, RING_COLUMNS, Events, Uint64s
from .kernels import V4_13, KernelVersion
from .rebuild import BEFORE, Rebuilt
from .rich import Rich
from .tracepoints import Event, Style
from .traces.recorded import UNKNOWN_BIRTH, RecordedTrace
from .units import PAGE_SIZE

if TYPE_CHECKING:
    from .traces.recording import Recording

_NR_SAMPLES = 200


@dataclass(frozen=True, slots=True, eq=False, repr=False, init=False)
class RunEvents(Events):
    """Events of a recording: some of its rows, with the reserved chunk told from the first."""

    base_addr: Uint64s
    ptr: Uint64s
    whole: Events
    rows: slice

    def __init__(self, whole: Events, chunk: Ints, birth: Ints, rows: slice, first_seq: int) -> None:
        columns = {name: getattr(whole, name)[rows] for name in RING_COLUMNS}
        lost = whole.lost
        if isinstance(whole, RecordedTrace):  # what was lost between events stands among the notes
            lost = sum(loss.nr_events or 0 for loss in whole.losses if loss.row == 0)
        Events.__init__(self, columns | {"chunk": chunk[rows], "birth": birth[rows]}, first_seq, lost)
        self._keep("base_addr", whole.base_addr[rows], np.uint64)
        self._keep("ptr", whole.ptr[rows], np.uint64)
        object.__setattr__(self, "whole", whole)
        object.__setattr__(self, "rows", rows)

    def __iter__(self) -> Iterator[Event]:
        """Walk the events with all fields that the recording has."""
        return iter(self.whole._made(self.rows, self.whole._events))

    def _lines(self, style: Style, rows: slice = ALL_ROWS) -> list[str]:
        first, (start, stop, _) = self.rows.start or 0, rows.indices(len(self))
        return self.whole._lines(style, slice(first + start, first + stop))


class RecordedRun(Rich):
    """A recording with a cursor; stands at its end at first.

    >>> from percpu_lab.columns import FREE, IN_USE, STATIC
    >>> from percpu_lab.traces.read import read_golden_trace
    >>> trace = read_golden_trace("0\\tpercpu_alloc_percpu: reserved=0 is_atomic=0 size=64 align=8 "
    ...                           "base_addr=0x1000 off=8192 ptr=0x2000\\n")
    >>> run = RecordedRun(trace, Unit(32768, 8192, 0, 24576, {0: 0}))
    >>> run.snapshot().areas.kind.tolist() == [STATIC, IN_USE, FREE]
    True
    >>> run.seek(0)
    >>> run.snapshot().areas.kind.tolist() == [STATIC, FREE]
    True

    Args:
        trace: a RecordedTrace or an EventBatch, ascending by op.
        unit: the geometry it was recorded with; inferred without it.
        kernel: that recorded it.

    Raises:
        GeometryError: an area of the trace does not fit in the unit.
    """

    def __init__(self, trace: Events, unit: Unit | None = None, kernel: KernelVersion = V4_13) -> None:
        self._set_up(Rebuilt.of(trace, unit, kernel), "")

    @classmethod
    def of(cls, recording: Recording) -> RecordedRun:
        """Move through a recording of a real kernel."""
        self = cls.__new__(cls)
        self._set_up(Rebuilt(recording), recording.name)
        return self

    def _set_up(self, rebuilt: Rebuilt, name: str) -> None:
        self.lock = threading.RLock()
        self.name = name or "a recorded run"
        self.rebuilt = rebuilt
        self.unit = rebuilt.space.unit
        self._op = op = rebuilt.trace.op
        self._names = self._area_names()
        is_free, area = rebuilt.trace.event == L.EVENT_FREE, rebuilt.event_area
        self._birth = np.where(is_free, UNKNOWN_BIRTH, rebuilt.trace.birth)
        known = is_free & (area >= 0)
        self._birth[known] = self._names[area[known]]
        self._history: dict[str, Ints] | None = None
        self._known = _annotations(rebuilt, self._names)
        self.first_op = max(int(op[0]), 0) if len(op) else 0
        self.last_op = max(int(op[-1]) + 1, self.first_op) if len(op) else 0
        self.now = self.last_op
        self.version = 0

    def _area_names(self) -> Ints:
        """The op of each area's allocation."""
        birth, rebuilt = self.rebuilt.areas.birth, self.rebuilt
        names: Ints = np.append(self._op, 0)[np.clip(birth, 0, None)]
        told = np.flatnonzero(birth == BEFORE)
        names[told] = rebuilt.trace.birth[rebuilt.areas.position[told] + rebuilt.first_row]
        is_early = (birth < 0) & (birth > BEFORE)
        names[is_early] = birth[is_early] + (EARLY + 1)
        return names

    def __repr__(self) -> str:
        name = f" {self.name!r}" if self._known else ""
        return f"<RecordedRun{name}: {len(self._op):,} events, op {self.now:,} of {self.last_op:,}>"

    def _html_fields(self) -> list[tuple[str, object]]:
        known = self._known
        caution = [("caution", known.caution)] if known and known.caution else []
        return [("events", len(self._op)), ("op", f"{self.now:,} of {self.last_op:,}"), *caution]

    def seek(self, op: int) -> None:
        """Go to the moment when so many ops had been done, clamped to first_op .. last_op."""
        with self.lock:
            self.now = min(max(op, self.first_op), self.last_op)
            self.version += 1

    def row_at(self, op: int) -> int:
        """Give the number of events that had happened when so many ops had been done."""
        return int(np.searchsorted(self._op, op))

    def events(self, since: int = 0, limit: int | None = None) -> RunEvents:
        """Give the events numbered `since` and up that had happened at the cursor, at most `limit` of them."""
        end = self.row_at(self.now)
        first = min(max(since, 0), end)
        part = slice(first, end if limit is None else min(end, first + limit))
        return RunEvents(self.rebuilt.trace, self.rebuilt.event_ordinal, self._birth, part, first)

    def columns(self) -> Columns:
        """Give everything a view needs, at the cursor."""
        with self.lock:
            return Columns(self.snapshot(), self.events(), self.history(), annotations=self.annotations())

    def annotations(self) -> Annotations | None:
        """Give who asked for areas, what was noted up to the cursor, and its time; None where a trace says nothing."""
        if self._known is None:
            return None
        return replace(self._known, notes=self._known.notes.until(self.now), when=self._when(self.row_at(self.now) - 1))

    def _when(self, row: int) -> str:
        """The time of an event, in words."""
        trace = self.rebuilt.trace
        if row < 0 or not isinstance(trace, RecordedTrace) or trace.time_digits is None or trace.time[row] < 0:
            return ""
        digits = trace.time_digits
        return f"{trace.time[row] / 10**digits:.{digits}f} s" if digits else f"clock {trace.time[row]:,}"

    def history(self) -> dict[str, Ints]:
        """Give samples of all chunks up to the cursor, in the columns of Engine.history()."""
        if self._history is None:
            self._history = self._sampled()
        end = int(np.searchsorted(self._history["op"], self.now, side="right"))
        return {name: column[:end] for name, column in self._history.items()}

    def _sampled(self) -> dict[str, Ints]:
        ops = np.unique(np.linspace(self.first_op, self.last_op, _NR_SAMPLES).astype(np.int64))
        rows, at = np.unique(np.searchsorted(self._op, ops), return_index=True)
        history = self.rebuilt.history(rows)
        return history | {"op": ops[at][np.searchsorted(rows, history["op"])]}

    def snapshot(self) -> Snapshot:
        """Give the state at the cursor."""
        return self.rebuilt.snapshot_of(self.row_at(self.now), self._names, self.now, self.version)


def _annotations(rebuilt: Rebuilt, names: Ints) -> Annotations | None:
    """What a trace says beside its events, up to its end; None if events have no origin."""
    trace = rebuilt.trace
    if not isinstance(trace, RecordedTrace) or trace.time_digits is None:
        return None
    is_aligned = bool((rebuilt.chunks.base_addr % PAGE_SIZE == 0).all())  # a hashed address would be by chance
    return Annotations(_origins(rebuilt, names), _notes(trace), caution=_caution(rebuilt), has_addresses=is_aligned)


def _origins(rebuilt: Rebuilt, names: Ints) -> Origins:
    sites, tasks = rebuilt.names("call_site"), rebuilt.names("task")
    pairs, code = np.unique(sites.code * len(tasks.names) + tasks.code, return_inverse=True)
    texts = [
        f"{sites.names[pair // len(tasks.names)]} in {tasks.names[pair % len(tasks.names)]}" for pair in pairs.tolist()
    ]
    order = np.argsort(names, kind="stable")
    return Origins(names[order], code[order], _seconds(rebuilt)[order], tuple(texts))


def _seconds(rebuilt: Rebuilt) -> npt.NDArray[np.float64]:
    """The time of each area's allocation; that of a call before the trace is not known."""
    trace, birth = rebuilt.trace, rebuilt.areas.birth
    digits = trace.time_digits if isinstance(trace, RecordedTrace) else None
    if not digits or not isinstance(trace, RecordedTrace):
        return np.full(len(birth), np.nan)
    time = np.append(trace.time, -1)[np.clip(birth, -1, None)]
    return np.where(time < 0, np.nan, time / 10**digits)


def _notes(trace: RecordedTrace) -> Notes:
    """Markers and losses, by row."""
    notes = [(marker.row, False, marker.text) for marker in trace.markers]
    for loss in trace.losses:
        count = "an unknown number of" if loss.nr_events is None else f"{loss.nr_events:,}"
        where = "" if loss.cpu < 0 else f" on CPU {loss.cpu}"
        notes.append((loss.row, True, f"{count} events lost{where} ({loss.how})"))
    notes.sort(key=lambda note: note[0])
    op = np.array([note[0] for note in notes], np.int64)
    return Notes(op, np.array([note[1] for note in notes], np.bool_), tuple(note[2] for note in notes))


def _caution(rebuilt: Rebuilt) -> str:
    """What a person who looks at the pictures has to know."""
    counts = {"frees unmatched": len(rebuilt.unmatched_frees), "frees lost": len(rebuilt.lost_frees)}
    first = "" if rebuilt.first_is_certain else "which chunk is the first is a guess"
    parts = [rebuilt.space.guess, first, *(f"{words}: {count:,}" for words, count in counts.items() if count)]
    return "  ·  ".join(part for part in parts if part)
