"""What happened over a span of ops: lifetimes of areas, failures, chunks made and destroyed, fragmentation.

op        0    5    10   15
chunk 1        +████████░░░░      one rectangle an area: birth .. death, off .. off + size
chunk 0   ███████      ××         marks: + created, - destroyed, × an allocation failed
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from .columns import (
    EARLY,
    IN_USE,
    OUTSIDE,
    RESERVED,
    RESERVED_ORDINAL,
    STATIC,
    AreaColumns,
    Frozen,
    Ints,
    Snapshot,
    Unit,
)
from .core import layout as L
from .events import Events
from .rich import RichColumns


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Marks(RichColumns, Frozen):
    """Failures, creations and destructions: EVENT_*, the chunk's ordinal, bytes asked for and REASON_* of a failure."""

    op: Ints
    event: Ints
    ordinal: Ints
    size_bytes: Ints
    reason: Ints

    def __len__(self) -> int:
        return len(self.op)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Freed(RichColumns, Frozen):
    """Areas that were freed: op of the allocation and of the free, band of the chunk, place in its unit."""

    birth: Ints
    freed_at: Ints
    band: Ints
    off_bytes: Ints
    size_bytes: Ints

    def __len__(self) -> int:
        return len(self.birth)


@dataclass(frozen=True, eq=False)
class Lifetimes(Frozen):
    """Areas that lived within a span of ops, one row an area, and what else happened in it.

        rows   | freed ........ | live: rows of areas of the snapshot |     columns are joined when they are asked for:
               0                nr_freed                                    a picture needs few of those of areas in use

    Args:
        window: first op and op behind the last.
        now: ops done.
        past: of the snapshot.
        freed: the areas that are not in use now.
        areas, nr_live: all areas of the snapshot, and how many of those that are in use began before the window's end.
        chunk_band, changed: of each chunk of the snapshot, its band, and the op of its last change (see ChunkColumns).
        bands: ordinals of the chunks met, ascending.
        band_birth, band_death: ops in which each of these chunks was created and destroyed, clipped to the window.
        nr_lost: events that were overwritten before anyone looked.
        nr_unknown: frees, within the window, of areas of which nothing is known.
        base_bytes, span_bytes: offset and length of what the chunk of each band serves; its band is as high as that.
    """

    window: tuple[int, int]
    now: int
    past: int
    unit: Unit
    freed: Freed
    areas: AreaColumns
    nr_live: int
    chunk_band: Ints
    changed: Ints
    bands: Ints
    band_birth: Ints
    band_death: Ints
    marks: Marks
    nr_lost: int
    nr_unknown: int
    base_bytes: Ints
    span_bytes: Ints

    def __len__(self) -> int:
        return len(self.freed) + self.nr_live

    @property
    def nr_freed(self) -> int:
        """Count the areas that are not in use now."""
        return len(self.freed)

    @cached_property
    def live(self) -> Ints:
        """The rows of the snapshot's areas that are in use."""
        if self.nr_live == 0:
            return np.zeros(0, np.intp)
        return np.flatnonzero(_is_live(self.areas, self.now, self.window))

    @cached_property
    def birth(self) -> Ints:
        """The op of each area's allocation; names the area."""
        return _joined(self.freed.birth, self.areas.birth.take(self.live), np.int64)

    @cached_property
    def band(self) -> Ints:
        """Of each area's chunk, an index to bands."""
        return _joined(self.freed.band, self.chunk_band.take(self.areas.chunk.take(self.live)))

    @cached_property
    def off_bytes(self) -> Ints:
        """Offset of each area in the unit."""
        return _joined(self.freed.off_bytes, self.areas.off_bytes.take(self.live))

    @cached_property
    def size_bytes(self) -> Ints:
        """Size of each area."""
        return _joined(self.freed.size_bytes, self.areas.size_bytes.take(self.live))

    @property
    def is_live(self) -> npt.NDArray[np.bool_]:
        """Whether each area is in use now."""
        return np.arange(len(self)) >= self.nr_freed

    @property
    def death(self) -> Ints:
        """The op of each area's free; of an area in use the number of ops done."""
        return np.concatenate([self.freed.freed_at, np.full(self.nr_live, self.now)])

    @property
    def ordinal(self) -> Ints:
        """The ordinal of each area's chunk."""
        return np.asarray(self.bands[self.band])

    def places(self, rows: slice | Ints, per_band: float = 1, dtype: type = np.float64) -> tuple[Ints, Ints]:
        """Give where areas begin, counted upwards in bands, and how high they are.

        Args:
            rows: the areas.
            per_band: units of the result in a band.
            dtype: of the result.
        """
        return self.placed(self.band[rows], self.off_bytes[rows], self.size_bytes[rows], per_band, dtype)

    def area_at(self, op: float, height: float) -> int | None:
        """Name the area that lived at an op in a place, counted upwards in bands, or give None if none did."""
        bottom, tall = self.places(slice(None))
        is_there = (bottom <= height) & (height < bottom + tall) & (self.birth <= op) & (op < self.death)
        rows = np.flatnonzero(is_there)
        return int(self.birth[rows[-1]]) if len(rows) else None

    def placed(
        self, band: Ints, off: Ints, size: Ints, per_band: float = 1, dtype: type = np.float64
    ) -> tuple[Ints, Ints]:
        """Give the same of areas by their band, offset and size."""
        scale = per_band / self.unit.unit_size
        low = np.multiply(off, scale, dtype=dtype)
        low += np.multiply(band, per_band, dtype=dtype)
        height = np.multiply(size, scale, dtype=dtype)
        # only the boot chunks, which come first, serve less than their unit: few areas, so all others go by one scale
        nr_partial = int(np.searchsorted(self.bands, 0, side="right"))
        partial = np.flatnonzero(band < nr_partial)
        at = band[partial]
        low[partial] = ((off[partial] - self.base_bytes[at]) / self.span_bytes[at] + at) * per_band
        height[partial] *= self.unit.unit_size / self.span_bytes[at]
        return low, height


def lifetimes(events: Events, snap: Snapshot, window: tuple[int, int] | None = None) -> Lifetimes:
    """Join areas freed (from events) and areas in use (from a snapshot) into lifetimes.

    >>> from percpu_lab.columns import snapshot
    >>> from percpu_lab.engine import Engine
    >>> from percpu_lab.geometry import Geometry
    >>> engine = Engine(Geometry.simple(), jit="off")
    >>> ptr = engine.alloc(16, 8, False, False)
    >>> _ = engine.alloc(32, 8, False, False)
    >>> engine.free(ptr)
    >>> lives = lifetimes(engine.events(0), snapshot(engine))
    >>> list(zip(lives.birth.tolist(), lives.death.tolist(), lives.is_live.tolist()))
    [(0, 2, False), (1, 3, True)]

    Args:
        window: first op and op behind the last; all that events tell of without it.
    """
    start, end = window if window is not None else default_window(events, snap)
    seen = slice(*np.searchsorted(events.op, [start, snap.op]))  # ops rise
    op, birth, ordinal = events.op[seen], events.birth[seen], events.chunk[seen]
    freed = np.flatnonzero((events.event[seen] == L.EVENT_FREE) & (birth < end))
    is_known = (birth[freed] >= 0) | (birth[freed] <= EARLY)
    known, unknown = freed[is_known], freed[~is_known]
    areas = snap.areas
    nr_live = int(np.count_nonzero(_is_live(areas, snap.op, (start, end)))) if snap.op >= start else 0
    marks = _marks(events, seen, end)
    bands, freed_band, chunk_band = _bands(ordinal[known], snap.chunks.ordinal, marks.ordinal)
    base, span = _served_bands(snap, bands)
    return Lifetimes(
        (start, end),
        snap.op,
        snap.past,
        snap.unit,
        freed=Freed(birth[known], op[known], freed_band, events.off[seen][known], events.size[seen][known]),
        areas=areas,
        nr_live=nr_live,
        chunk_band=chunk_band.astype(np.int32),
        changed=snap.chunks.changed,
        bands=bands,
        band_birth=np.clip(_ops_of(L.EVENT_CREATE, events, snap, bands, start), start, end),
        band_death=np.clip(_ops_of(L.EVENT_DESTROY, events, snap, bands, snap.op), start, end),
        marks=marks,
        nr_lost=events.lost,
        nr_unknown=int(np.count_nonzero(op[unknown] < end)),
        base_bytes=base,
        span_bytes=span,
    )


def _is_live(areas: AreaColumns, now: int, window: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Whether each area of a snapshot is in use, and began before the window's end."""
    is_in_use = areas.kind == IN_USE
    return np.asarray(is_in_use & (areas.birth < window[1]) if now > window[1] else is_in_use)


def served_bytes(snap: Snapshot) -> tuple[Ints, Ints]:
    """Give the offsets at which the part of its unit begins and ends that each chunk allocates from.

    >>> from percpu_lab.columns import snapshot
    >>> from percpu_lab.engine import Engine
    >>> from percpu_lab.geometry import preset
    >>> start, end = served_bytes(snapshot(Engine(preset("x86-64, 4 CPUs"), jit="off")))
    >>> list(zip(start.tolist(), end.tolist()))  # the reserved chunk and the first
    [(28672, 36864), (36864, 65536)]
    """
    areas = snap.areas
    begin = areas.begin(np.arange(len(snap.chunks) + 1))
    first, last = begin[:-1], begin[1:] - 1
    start = np.zeros(len(first), np.int64)
    for _ in range(2):  # a prefix is static, reserved, or the one behind the other
        is_prefix = (areas.kind[first] == STATIC) | (areas.kind[first] == RESERVED)
        start = np.where(is_prefix, areas.off_bytes[first] + areas.size_bytes[first], start)
        first = np.minimum(first + is_prefix, last)
    end = areas.off_bytes[last] + np.where(areas.kind[last] == OUTSIDE, 0, areas.size_bytes[last])
    return start, np.maximum(end, start)


def _served_bands(snap: Snapshot, bands: Ints) -> tuple[Ints, Ints]:
    """What the chunks of bands serve, as offset and length; of a chunk that has gone all of its unit."""
    base, span = np.zeros(len(bands), np.int64), np.full(len(bands), snap.unit.unit_size, np.int64)
    start, end = served_bytes(snap)
    for band in np.flatnonzero(bands <= 0).tolist():
        row = snap.row_of(int(bands[band]))
        if row is not None:
            base[band], span[band] = start[row], max(int(end[row] - start[row]), 1)
    return base, span


def _bands(freed: Ints, chunks: Ints, marks: Ints) -> tuple[Ints, Ints, Ints]:
    """Ordinals met, ascending, and the places of the first two among them; by a table, as ordinals are dense."""
    met = [part - RESERVED_ORDINAL for part in (freed, chunks, marks[marks != L.NO_CHUNK])]
    is_met = np.zeros(max(int(part.max(initial=0)) for part in met) + 1, np.bool_)
    for part in met:
        is_met[part] = True
    place = np.cumsum(is_met) - 1
    return np.flatnonzero(is_met) + RESERVED_ORDINAL, place[met[0]], place[met[1]]


def _joined(freed: Ints, live: Ints, dtype: type = np.int32) -> Ints:
    """One column that cannot be changed, of what fits in 32 bits if not said otherwise: half the time."""
    column: Ints = np.concatenate([freed, live], dtype=dtype, casting="same_kind")
    column.setflags(write=False)
    return column


def _marks(events: Events, seen: slice, end: int) -> Marks:
    chosen = seen.start + np.flatnonzero((events.event[seen] >= L.EVENT_FAIL) & (events.op[seen] < end))
    columns = (events.op, events.event, events.chunk, events.size, events.reason)
    return Marks(*(column[chosen] for column in columns))


def default_window(events: Events, snap: Snapshot) -> tuple[int, int]:
    """Give the span of ops that events tell of, up to now; at least one op long."""
    first = events.first_op if events.lost else 0
    return min(max(first, 0), snap.op), max(snap.op, 1)


def _ops_of(event: int, events: Events, snap: Snapshot, bands: Ints, otherwise: int) -> Ints:
    """The op that created or destroyed each chunk, within the window or not."""
    ops = np.full(len(bands), otherwise, np.int64)
    rows = np.flatnonzero((events.event == event) & (events.op < snap.op))
    rows = rows[np.isin(events.chunk[rows], bands)]
    ops[np.searchsorted(bands, events.chunk[rows])] = events.op[rows]
    return ops


# --- fragmentation over time --------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Series(RichColumns, Frozen):
    """Free space and its fragmentation over ops.

    Args:
        external: 1 - largest free area / free bytes; 0 with nothing free.
    """

    op: Ints
    free_bytes: Ints
    largest_free_bytes: Ints
    sum_frag: Ints
    max_frag: Ints
    external: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.op)


def fragmentation_series(history: Mapping[str, Ints], ordinal: int | None = None) -> Series:
    """Sum up samples of chunks: of one chunk, or of all but the reserved one, which normal requests cannot use.

    >>> history = {"op": [0, 0], "ordinal": [0, 1], "free_bytes": [96, 32], "largest_free_bytes": [64, 32],
    ...            "sum_frag": [32, 0], "max_frag": [32, 0]}
    >>> series = fragmentation_series({name: np.array(values) for name, values in history.items()})
    >>> series.free_bytes.tolist(), series.largest_free_bytes.tolist(), series.external.tolist()
    ([128], [64], [0.5])

    Args:
        history: columns of Engine.history(), ascending by op.
        ordinal: the chunk, RESERVED_ORDINAL for the reserved one.
    """
    is_chosen = history["ordinal"] != RESERVED_ORDINAL if ordinal is None else history["ordinal"] == ordinal
    chosen = np.flatnonzero(is_chosen)
    ops = history["op"].take(chosen)
    starts = np.append(0, np.flatnonzero(ops[1:] != ops[:-1]) + 1) if len(ops) else np.zeros(0, np.int64)

    def reduced(name: str, by: np.ufunc) -> Ints:
        column: Ints = history[name].take(chosen)
        return np.asarray(by.reduceat(column, starts)) if len(starts) else column[:0]

    free, largest = reduced("free_bytes", np.add), reduced("largest_free_bytes", np.maximum)
    return Series(
        ops[starts],
        free,
        largest,
        reduced("sum_frag", np.add),
        reduced("max_frag", np.maximum),
        external_fragmentation(free, largest),
    )


def with_now(history: Mapping[str, Ints], snap: Snapshot) -> dict[str, Ints]:
    """Give the history with a snapshot as its last sample.

    >>> from percpu_lab.columns import take
    >>> from percpu_lab.engine import Engine
    >>> from percpu_lab.geometry import Geometry
    >>> columns = take(Engine(Geometry.simple(), jit="off"))
    >>> with_now(columns.history, columns.snapshot)["op"].tolist()
    [0]
    """
    names = ("ordinal", "free_bytes", "largest_free_bytes", "sum_frag", "max_frag")
    past = slice(int(np.searchsorted(history["op"], snap.op)))  # ops rise
    now = {"op": np.full(len(snap.chunks), snap.op)} | {name: getattr(snap.chunks, name) for name in names}
    return {name: np.concatenate([history[name][past], now[name]]) for name in now}


def external_fragmentation(free_bytes: Ints, largest_free_bytes: Ints) -> npt.NDArray[np.float64]:
    """Give the share of the free bytes that lies outside the largest free area.

    >>> external_fragmentation(np.array([100, 0]), np.array([75, 0])).tolist()
    [0.25, 0.0]
    """
    return np.where(free_bytes > 0, 1 - largest_free_bytes / np.maximum(free_bytes, 1), 0.0)
