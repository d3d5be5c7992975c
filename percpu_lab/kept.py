"""What one reading of an engine leaves for the next, which then reads only what is new.

KeptEvents   the events of the ring but allocations        KeptAreas   the areas of chunks that have not changed since
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from .columns import AreaColumns, Ints
from .core import layout as L
from .errors import LabError
from .events import RING_COLUMNS, Events, Int64s

if TYPE_CHECKING:
    from .engine import Engine


@dataclass(frozen=True, slots=True, eq=False, repr=False, init=False)
class EventsShown(Events):
    """The events of a ring that views need: all but allocations, of which the areas in use tell.

    Args:
        seq: sequence number of each.
        columns, lost: as for Events.
        first_op: op of the oldest event in the ring, of whichever kind.
        next_seq: sequence number of the next event to come.
    """

    _seq: Int64s
    _first_op: int
    _next_seq: int

    def __init__(self, seq: Int64s, columns: Mapping[str, Ints], lost: int, first_op: int, next_seq: int) -> None:
        Events.__init__(self, columns, int(seq[0]) if len(seq) else next_seq, lost)
        self._keep("_seq", seq, np.int64)
        object.__setattr__(self, "_first_op", first_op)
        object.__setattr__(self, "_next_seq", next_seq)

    @property
    def seq(self) -> Int64s:
        """Sequence number of each event."""
        return self._seq

    @property
    def base_addr(self) -> NoReturn:
        """Refused: views name chunks and areas by number."""
        raise LabError("events kept for views have no addresses", where="base_addr, ptr", remedy="read Trace.events()")

    ptr = base_addr

    @property
    def first_op(self) -> int:
        """The op of the oldest event in the ring, of whichever kind; 0 if it is empty."""
        return self._first_op

    @property
    def next_seq(self) -> int:
        """Sequence number of the next event to come."""
        return self._next_seq

    def _frame_columns(self) -> tuple[str, ...]:
        return ("seq", *RING_COLUMNS, "reason")


class KeptEvents:
    """The events of an engine's ring that views need, of which each reading looks at the new ones only.

    numbers   |..... gone .....|......... shown .........| room |    new ones go behind; when the room is used up,
    columns   |..... gone .....|......... shown .........| room |    those shown move to new arrays, and old readings
                                                                     stay whole
    """

    def __init__(self) -> None:
        self._past = 0  # of the engine
        self._seq = np.zeros(0, np.int64)
        self._columns = np.zeros((len(RING_COLUMNS), 0), np.int64)
        self._shown = slice(0, 0)
        self._next = 0

    def read(self, engine: Engine) -> EventsShown:
        """Give what lifetimes and marks are made of."""
        with engine.lock:
            head, first = engine.scalar(L.RING_HEAD), engine.first_event
            lost, oldest = first - engine.scalar(L.RING_START), engine.ring_parts(first, min(first + 1, head))[0]
            first_op = int(oldest[L.RING_OP, 0]) if oldest.size else 0
            if engine.past != self._past:  # some of them never were
                self._past, self._next, self._shown = engine.past, 0, slice(self._shown.stop, self._shown.stop)
            seq = max(self._next, first)
            for part in engine.ring_parts(seq, head):
                rows = np.flatnonzero(part[L.RING_EVENT] != L.EVENT_ALLOC)
                self._append(seq + rows, part[:, rows])
                seq += part.shape[1]
        self._next = head
        start, end = self._shown.start, self._shown.stop
        self._shown = slice(start + int(np.searchsorted(self._seq[start:end], first)), end)
        columns = dict(zip(RING_COLUMNS, self._columns[:, self._shown], strict=True))
        return EventsShown(self._seq[self._shown], columns, lost, first_op, head)

    def _append(self, seq: Ints, columns: Ints) -> None:
        start, end = self._shown.start, self._shown.stop
        if end + len(seq) > len(self._seq):
            room = 2 * (end - start + len(seq))
            kept = self._seq[start:end], self._columns[:, start:end]
            self._seq, self._columns = np.empty(room, np.int64), np.empty((len(RING_COLUMNS), room), np.int64)
            start, end = 0, end - start
            self._seq[:end], self._columns[:, :end] = kept
        self._seq[end : end + len(seq)], self._columns[:, end : end + len(seq)] = seq, columns
        self._shown = slice(start, end + len(seq))


class KeptAreas:
    """The areas of an engine at its last reading, of which those of unchanged chunks serve again.

        kept   | chunk 0 | chunk 1 | chunk 2 |      new   | chunk 1 |
                    |         ╳         |                    |
        joined | chunk 2 | chunk 0 | chunk 1 |      in the order that the chunks stand in now

    Invariant: a chunk is unchanged if its last change came in an op before the reading, by the word CHANGED of its row.
    """

    def __init__(self) -> None:
        self._past = 0  # of the engine
        self._op = 0
        self._ordinals = np.zeros(0, np.int64)
        self._bounds = np.zeros(1, np.int64)  # of the chunks in the columns
        self._areas: AreaColumns | None = None

    def is_new(self, engine: Engine, head: Ints) -> Ints:
        """Say which chunks must be read, by their rows."""
        if self._areas is None or self._past != engine.past:
            return np.ones(len(head), np.bool_)
        return np.asarray((head[:, L.CHANGED] >= self._op) | (self._rows(head[:, L.ORDINAL]) < 0))

    def _rows(self, ordinals: Ints) -> Ints:
        """Where chunks stood at the last reading; -1 for those that were not there."""
        order = np.argsort(self._ordinals)
        at = order[np.minimum(np.searchsorted(self._ordinals, ordinals, sorter=order), len(order) - 1)]
        return np.where(self._ordinals[at] == ordinals, at, -1)

    def joined(self, engine: Engine, op: int, ordinals: Ints, is_new: Ints, new: AreaColumns) -> AreaColumns:
        """Give the areas of all chunks, and keep them for the next reading.

        Args:
            op: ops done at this reading.
            ordinals: of all chunks, in their order now.
            is_new: which of them were read.
            new: the areas of these, numbered among themselves.
        """
        bounds = new.begin(np.arange(np.count_nonzero(is_new) + 1))
        if self._areas is not None and not is_new.all():
            new, bounds = self._merged(self._areas, ordinals, is_new, new, bounds)
        self._past, self._op, self._ordinals, self._bounds, self._areas = engine.past, op, ordinals, bounds, new
        return new

    def _merged(
        self, old: AreaColumns, ordinals: Ints, is_new: Ints, new: AreaColumns, bounds: Ints
    ) -> tuple[AreaColumns, Ints]:
        start, count = np.zeros((2, len(ordinals)), np.int64)
        behind = len(old) + 1  # where `new` is said to begin: never one piece with the old
        start[is_new], count[is_new] = bounds[:-1] + behind, np.diff(bounds)
        row = self._rows(ordinals[~is_new])
        start[~is_new], count[~is_new] = self._bounds[row], np.diff(self._bounds)[row]
        end = start + count
        last = np.append(np.flatnonzero(start[1:] != end[:-1]), len(end) - 1)  # chunks that stand together go together
        first = np.append(0, last[:-1] + 1)
        pieces = list(zip(start[first].tolist(), end[last].tolist(), strict=True))

        def column(name: str) -> Ints:
            kept, read = getattr(old, name), getattr(new, name)
            return np.concatenate([read[a - behind : b - behind] if a >= behind else kept[a:b] for a, b in pieces])

        names = ("off_bytes", "size_bytes", "requested_bytes", "birth", "kind")
        chunk = np.repeat(np.arange(len(count), dtype=np.int32), count)
        return AreaColumns(chunk, *(column(name) for name in names)), np.append(0, np.cumsum(count))


@dataclass(frozen=True, slots=True)
class Kept:
    """What a reader of an engine keeps of it: see columns.take."""

    events: KeptEvents = field(default_factory=KeptEvents)
    areas: KeptAreas = field(default_factory=KeptAreas)
