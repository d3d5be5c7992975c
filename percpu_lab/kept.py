"""What one reading of an engine leaves for the next, which then reads only what is new.

KeptEvents   the events of the ring        KeptAreas   the areas of chunks that have not changed since
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .columns import AreaColumns, Ints
from .core import layout as L
from .events import RING_COLUMNS, Events

if TYPE_CHECKING:
    from .engine import Engine


class KeptEvents:
    """The events an engine's ring holds, of which each reading copies only the new ones.

    columns   |......... shown .........| room |      new events go behind; when the room is used up, the
                                                      newest move to a new array, and old readings stay whole
    """

    def __init__(self) -> None:
        self._columns = np.zeros((len(RING_COLUMNS), 0), np.int64)
        self._used = 0
        self._next = 0
        self._size = 0  # of the ring

    def read(self, engine: Engine) -> Events:
        """Give the same events as engine.events(0)."""
        with engine.lock:
            self._size, start = engine.scalar(L.RING_CAPACITY), engine.scalar(L.RING_START)
            new = engine.events(self._next, room=self._room)
        self._next = new.first_seq + len(new)
        first = max(self._next - min(self._used, self._size), start)
        shown = self._columns[:, self._used - (self._next - first) : self._used]
        return new.with_columns(dict(zip(RING_COLUMNS, shown, strict=True)), first, first - start)

    def _room(self, first: int, count: int) -> Ints:
        """Where new events go: behind the older ones, which still count if none was lost or cleared in between."""
        if first != self._next:
            self._used = 0
        if self._used + count > self._columns.shape[1]:
            kept = self._columns[:, max(self._used - max(self._size - count, 0), 0) : self._used]
            self._columns = np.empty((len(RING_COLUMNS), 2 * self._size), np.int64)
            self._columns[:, : kept.shape[1]] = kept
            self._used = kept.shape[1]
        self._used += count
        return self._columns[:, self._used - count : self._used]


class KeptAreas:
    """The areas of an engine at its last reading, of which those of unchanged chunks serve again.

        kept   | chunk 0 | chunk 1 | chunk 2 |      new   | chunk 1 |
                    |         ╳         |                    |
        joined | chunk 2 | chunk 0 | chunk 1 |      in the order that the chunks stand in now

    Invariant: a chunk is unchanged if its last change came in an op before the reading, by the word CHANGED of its row.
    """

    def __init__(self) -> None:
        self._arrays: object = None  # of the engine: other arrays may tell another past
        self._op = 0
        self._ordinals = np.zeros(0, np.int64)
        self._bounds = np.zeros(1, np.int64)  # of the chunks in the columns
        self._areas: AreaColumns | None = None

    def is_new(self, engine: Engine, head: Ints) -> Ints:
        """Say which chunks must be read, by their rows."""
        if self._arrays is not engine.g:
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
        bounds = np.searchsorted(new.chunk, np.arange(np.count_nonzero(is_new) + 1))
        if self._areas is not None and not is_new.all():
            new, bounds = self._merged(self._areas, ordinals, is_new, new, bounds)
        self._arrays, self._op, self._ordinals, self._bounds, self._areas = engine.g, op, ordinals, bounds, new
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
        columns = AreaColumns(np.repeat(np.arange(len(count)), count), *(column(name) for name in names))
        return columns, np.append(0, np.cumsum(count))


@dataclass(frozen=True, slots=True)
class Kept:
    """What a reader of an engine keeps of it: see columns.take."""

    events: KeptEvents = field(default_factory=KeptEvents)
    areas: KeptAreas = field(default_factory=KeptAreas)
