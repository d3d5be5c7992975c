"""A recorded trace as something to move through: the same columns as a live engine, at any op of the recording.

    events ──▶ areas: birth, death, place, size        snapshot at op t = areas with birth < t <= death
               chunks: created, destroyed              gaps between them are free

What no event tells is UNKNOWN: hints, slots, populated pages. A size is the one that was asked for, so the few bytes
which the allocator left with an area (spec 3.4) count as free here.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from .columns import (
    FIRST_CHUNK,
    FREE,
    HOLE,
    IN_USE,
    OUTSIDE,
    PLAIN_CHUNK,
    RESERVED,
    RESERVED_CHUNK,
    RESERVED_ORDINAL,
    STATIC,
    UNKNOWN,
    AreaColumns,
    ChunkColumns,
    Columns,
    Ints,
    RunColumns,
    Snapshot,
    Totals,
    Unit,
    free_sums,
)
from .core import layout as L
from .errors import GeometryError
from .events import RING_COLUMNS, Events, Uint64s

_NEVER = 1 << 62
_NR_SAMPLES = 200


@dataclass(frozen=True, slots=True, eq=False, repr=False, init=False)
class RunEvents(Events):
    """Events of a recording: some of its rows, with the reserved chunk told from the first."""

    base_addr: Uint64s
    ptr: Uint64s

    def __init__(self, whole: Events, chunk: Ints, rows: slice, first_seq: int) -> None:
        columns = {name: getattr(whole, name)[rows] for name in RING_COLUMNS} | {"chunk": chunk[rows]}
        Events.__init__(self, columns, first_seq, whole.lost)
        self._keep("base_addr", whole.base_addr[rows], np.uint64)
        self._keep("ptr", whole.ptr[rows], np.uint64)


class RecordedRun:
    """A recording with a cursor; stands at its end at first.

    >>> from percpu_lab.recorded import read_golden_trace
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
        unit: the geometry it was recorded with.

    Raises:
        GeometryError: an area of the trace does not fit in the unit.
    """

    def __init__(self, trace: Events, unit: Unit) -> None:
        self.lock = threading.RLock()
        self.unit = unit
        self._events = RunEvents(trace, _with_reserved(trace, unit), slice(None), 0)
        self._find_areas()
        self._find_chunks(trace.base_addr)
        self._history: dict[str, Ints] | None = None
        op = self._events.op
        self.first_op = max(int(op[0]), 0) if len(op) else 0
        self.last_op = max(int(op[-1]) + 1, self.first_op) if len(op) else 0
        self.now = self.last_op
        self.version = 0

    def __repr__(self) -> str:
        return f"<RecordedRun: {len(self._events):,} events, op {self.now:,} of {self.last_op:,}>"

    def seek(self, op: int) -> None:
        """Go to the moment when so many ops had been done, clamped to first_op .. last_op."""
        with self.lock:
            self.now = min(max(op, self.first_op), self.last_op)
            self.version += 1

    def events(self, since: int = 0, limit: int | None = None) -> RunEvents:
        """Give the events numbered `since` and up that had happened at the cursor, at most `limit` of them."""
        end = int(np.searchsorted(self._events.op, self.now))
        first = min(max(since, 0), end)
        part = slice(first, end if limit is None else min(end, first + limit))
        return RunEvents(self._events, self._events.chunk, part, first)

    def columns(self) -> Columns:
        """Give everything a view needs, at the cursor."""
        with self.lock:
            return Columns(self.snapshot(), self.events(), self.history())

    def history(self) -> dict[str, Ints]:
        """Give samples of all chunks up to the cursor, in the columns of Engine.history()."""
        if self._history is None:
            self._history = self._sampled()
        end = int(np.searchsorted(self._history["op"], self.now, side="right"))
        return {name: column[:end] for name, column in self._history.items()}

    def snapshot(self) -> Snapshot:
        """Give the state at the cursor."""
        return self._snapshot_at(self.now)

    # --- what the events tell -------------------------------------------------------

    def _find_areas(self) -> None:
        """One row an area: those whose allocation was recorded, then those known from their free alone."""
        events = self._events
        made = np.flatnonzero(events.event == L.EVENT_ALLOC)
        freed = np.flatnonzero((events.event == L.EVENT_FREE) & (events.birth >= 0))
        born = events.op[made]
        row = np.searchsorted(born, events.birth[freed])
        is_known = np.append(born, _NEVER)[row] == events.birth[freed]
        rest = freed[~is_known]
        rows = np.concatenate([made, rest])
        self._birth = np.concatenate([born, events.birth[rest]])
        self._death = np.full(len(rows), _NEVER, np.int64)
        self._death[row[is_known]] = events.op[freed[is_known]]
        self._death[len(made) :] = events.op[rest]
        self._ordinal, self._off, self._size = events.chunk[rows], events.off[rows], events.size[rows]
        _check_fit(self._off, self._size, self.unit)

    def _find_chunks(self, base_addr: Any) -> None:
        """Created and destroyed ops of each ordinal; what was never created was there before."""
        events = self._events
        fixed = [0] if not self.unit.reserved_size else [RESERVED_ORDINAL, 0]
        met, row = np.unique(events.chunk, return_index=True)
        ordinal = np.union1d(fixed, met[met != L.NO_CHUNK])
        base = dict(zip(met.tolist(), np.asarray(base_addr, np.uint64)[row].tolist(), strict=True))
        first = base.get(0, base.get(RESERVED_ORDINAL, 0))  # the two share the memory
        self._chunk_ordinal = ordinal
        self._chunk_base = np.array([base[k] if k > 0 else first for k in ordinal.tolist()], np.uint64)
        self._created = np.full(len(ordinal), -1, np.int64)
        self._destroyed = np.full(len(ordinal), _NEVER, np.int64)
        for event, ops in ((L.EVENT_CREATE, self._created), (L.EVENT_DESTROY, self._destroyed)):
            chosen = events.event == event
            ops[np.searchsorted(ordinal, events.chunk[chosen])] = events.op[chosen]

    def _sampled(self) -> dict[str, Ints]:
        ops = np.unique(np.linspace(self.first_op, self.last_op, _NR_SAMPLES).astype(np.int64))
        chunks = [self._snapshot_at(op).chunks for op in ops.tolist()]
        names = ("ordinal", "free_bytes", "largest_free_bytes", "sum_frag", "max_frag", "nr_alloc", "nr_populated")
        return {"op": np.repeat(ops, [len(part) for part in chunks])} | {
            name: np.concatenate([getattr(part, name) for part in chunks]) for name in names
        }

    # --- one moment -------------------------------------------------------------------

    def _snapshot_at(self, op: int) -> Snapshot:
        alive = np.flatnonzero((self._created < op) & (self._destroyed >= op))
        ordinal = self._chunk_ordinal[alive]
        live = np.flatnonzero((self._birth < op) & (self._death >= op))
        live = live[np.isin(self._ordinal[live], ordinal)]
        areas = self._tiled(live, ordinal)
        chunks = self._chunks(alive, areas)
        nothing = np.zeros(0, np.int64)
        return Snapshot(
            op,
            self.version,
            self.unit,
            chunks,
            areas,
            RunColumns(nothing, nothing, nothing),
            self._totals(op, len(alive)),
        )

    def _tiled(self, live: Ints, ordinal: Ints) -> AreaColumns:
        """Put the areas in use, the prefixes and the ends of the units in order, and fill the gaps between."""
        piece = _Pieces(
            self.unit,
            ordinal,
            np.searchsorted(ordinal, self._ordinal[live]),
            self._off[live],
            self._size[live],
            self._birth[live],
        )
        return piece.tiled()

    def _chunks(self, alive: Ints, areas: AreaColumns) -> ChunkColumns:
        ordinal = self._chunk_ordinal[alive]
        free, largest, sum_frag, max_frag = free_sums(areas.chunk, areas.size_bytes, areas.kind, len(ordinal))
        kinds = np.select([ordinal == RESERVED_ORDINAL, ordinal == 0], [RESERVED_CHUNK, FIRST_CHUNK], PLAIN_CHUNK)
        unknown = np.full(len(ordinal), UNKNOWN, np.int64)
        nr_alloc = np.bincount(areas.chunk[areas.kind == IN_USE], minlength=len(ordinal))
        return ChunkColumns(
            ordinal,
            kinds.astype(np.uint8),
            slot=unknown,
            position=unknown,
            base_addr=self._chunk_base[alive],
            free_bytes=free,
            contig_hint=unknown,
            largest_free_bytes=largest,
            first_free_off=unknown,
            nr_alloc=nr_alloc,
            nr_populated=unknown,
            sum_frag=sum_frag,
            max_frag=max_frag,
        )

    def _totals(self, op: int, nr_chunks: int) -> Totals:
        """What can be counted from events: those before the recording are missing."""
        events = self._events
        past = slice(0, int(np.searchsorted(events.op, op)))
        step = np.select([events.event[past] == L.EVENT_ALLOC, events.event[past] == L.EVENT_FREE], [1, -1], 0)
        sizes = events.size[past][step > 0]
        nr_dealloc = int((step < 0).sum())
        if not len(sizes):
            return Totals(nr_alloc=0, nr_dealloc=nr_dealloc, nr_cur_alloc=max(-nr_dealloc, 0), nr_chunks=nr_chunks)
        current = np.cumsum(step)
        return Totals(
            nr_alloc=len(sizes),
            nr_dealloc=nr_dealloc,
            nr_cur_alloc=int(current[-1]),
            nr_max_alloc=int(current.max()),
            nr_chunks=nr_chunks,
            min_alloc_size=int(sizes.min()),
            max_alloc_size=int(sizes.max()),
        )


def _with_reserved(trace: Events, unit: Unit) -> Ints:
    """Chunk ordinals; the reserved chunk shares its address with the first, and is told by the offset (spec 4.1)."""
    chunk = np.array(trace.chunk, np.int64)
    if unit.reserved_size:
        limit = unit.static_size + unit.reserved_size
        chunk[(chunk == 0) & (trace.off < limit) & (trace.event <= L.EVENT_FREE)] = RESERVED_ORDINAL
    return chunk


def _check_fit(off: Ints, size: Ints, unit: Unit) -> None:
    bad = np.flatnonzero((off < 0) | (off + size > unit.unit_size))
    if len(bad):
        at = f"area at offset {int(off[bad[0]]):,}, {int(size[bad[0]]):,} bytes"
        what = f"does not fit in a unit of {unit.unit_size:,} bytes"
        raise GeometryError(what, where=at, remedy="give the unit_size of the recorded machine")


class _Pieces:
    """What stands in the units, in order of place, before the gaps are filled."""

    def __init__(self, unit: Unit, ordinal: Ints, chunk: Ints, off: Ints, size: Ints, birth: Ints) -> None:
        self.unit = unit
        fixed = np.array(
            [row for k, value in enumerate(ordinal.tolist()) for row in _fixed(unit, k, value)], np.int64
        ).reshape(-1, 4)
        chunk, off, size = (np.concatenate([mine, fixed[:, k]]) for k, mine in enumerate((chunk, off, size)))
        kind = np.concatenate([np.full(len(birth), IN_USE), fixed[:, 3]])
        birth = np.concatenate([birth, np.full(len(fixed), UNKNOWN)])
        order = np.lexsort((off, chunk))
        self.chunk, self.off, self.size, self.birth, self.kind = (
            part[order] for part in (chunk, off, size, birth, kind)
        )

    def tiled(self) -> AreaColumns:
        """Add a free area for each gap."""
        gap_chunk, gap_off, gap_size, gap_kind = self._gaps()
        chunk, off = np.concatenate([self.chunk, gap_chunk]), np.concatenate([self.off, gap_off])
        size, kind = np.concatenate([self.size, gap_size]), np.concatenate([self.kind, gap_kind])
        birth = np.concatenate([self.birth, np.full(len(gap_chunk), UNKNOWN)])
        order = np.lexsort((off, chunk))
        order = order[size[order] > 0]
        requested = np.where(kind == IN_USE, size, 0)
        return AreaColumns(
            chunk[order], off[order], size[order], requested[order], birth[order], kind[order].astype(np.uint8)
        )

    def _gaps(self) -> tuple[Ints, Ints, Ints, Ints]:
        """Gaps before each piece; areas of a trace in disorder may overlap, so the furthest end counts."""
        start_of_unit = self.chunk * self.unit.unit_size
        reached = np.maximum.accumulate(np.append(0, start_of_unit + self.off + self.size))[:-1]
        before = np.maximum(reached - start_of_unit, 0)
        gap = np.flatnonzero(self.off > before)
        last_in_use = np.zeros(int(self.chunk.max(initial=-1)) + 1, np.int64)
        in_use = self.kind == IN_USE
        np.maximum.at(last_in_use, self.chunk[in_use], self.off[in_use])
        kind = np.where(before[gap] < last_in_use[self.chunk[gap]], HOLE, FREE)
        return self.chunk[gap], before[gap], self.off[gap] - before[gap], kind


def _fixed(unit: Unit, row: int, ordinal: int) -> list[tuple[int, int, int, int]]:
    """The prefixes of a chunk and what lies behind its end, as (row, off, size, kind); at least an empty end marker."""
    limit = unit.static_size + unit.reserved_size
    if ordinal == RESERVED_ORDINAL:
        return [(row, 0, unit.static_size, STATIC), (row, limit, unit.unit_size - limit, OUTSIDE)]
    if ordinal == 0:
        end = limit + unit.dyn_size
        return [
            (row, 0, unit.static_size, STATIC),
            (row, unit.static_size, unit.reserved_size, RESERVED),
            (row, end, unit.unit_size - end, OUTSIDE),
        ]
    return [(row, unit.unit_size, 0, OUTSIDE)]
