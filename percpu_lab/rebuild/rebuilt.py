"""A recording rebuilt: what lived where, in which chunk, and who had asked for it, at any row of the trace.

    events ──walk──▶ AreaTable   birth, death, place, size      moment before row r = areas with birth < r <= death
                     ChunkTable  created, destroyed             gaps between them are free
                     Counters    one value a row

The tables are ordered by place, so a moment is a mask over them: no replay, no checkpoint, no direction.
What no event tells stays UNKNOWN: hints, slots, populated pages.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ..columns import (
    RESERVED_ORDINAL,
    UNKNOWN,
    ChunkColumns,
    Ints,
    RunColumns,
    Snapshot,
    Totals,
    Unit,
    free_sums,
)
from ..core import layout as L
from ..errors import GeometryError
from ..events import Events
from ..kernels import KernelVersion
from ..rich import Rich, RichColumns
from ..traces.early import with_columns
from ..units import format_bytes
from .holders import Holders, Names, holders, names_of
from .log import check_fit, cuts, join
from .space import Space, damaged_rows, highest_end
from .tables import area_table, chunk_table, counters
from .tiles import InUse, free_areas, tiled
from .walk import NEVER, Walk

if TYPE_CHECKING:
    from ..traces.recorded import RecordedTrace
    from ..traces.recording import Recording

__all__ = ["FreeSpace", "LostFrees", "Rebuilt"]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class LostFrees(RichColumns):
    """Areas whose free was not recorded, and the row that shows it: an allocation on their place, or a destruction.

    Args:
        row: that shows it.
        area: row of the AreaTable.
    """

    row: Ints
    area: Ints

    def __len__(self) -> int:
        return len(self.row)


@dataclass(frozen=True, slots=True)
class FreeSpace(Rich):
    """What all chunks but the reserved one have free at a moment, in bytes on each CPU.

    Args:
        largest_free_bytes: largest free area of any chunk.
        sum_frag, max_frag: of all holes, and of the largest: free space before the last area of a chunk.
    """

    free_bytes: int
    largest_free_bytes: int
    sum_frag: int
    max_frag: int


def _without(events: RecordedTrace, rows: Ints) -> RecordedTrace:
    """Take rows for events that have no area."""
    if not len(rows):
        return events
    event = events.event.copy()
    event[rows] = L.EVENT_FAIL
    return with_columns(events, event=event)


class Rebuilt(Rich):
    """The state of a recorded machine at any row of its trace, from its events alone.

    >>> from percpu_lab.traces.read import read_golden_trace
    >>> line = "{}\\tpercpu_alloc_percpu: reserved=0 is_atomic=0 size=60 align=8 base_addr=0x1000 off={} ptr=0x0\\n"
    >>> trace = read_golden_trace(line.format(0, 0) + line.format(1, 64))
    >>> rebuilt = Rebuilt.of(trace, Unit(65536, 8192, 0, 57344, {0: 0}))
    >>> rebuilt
    <Rebuilt: rows 0 to 2, 2 areas live at the end, 1 chunk>
    >>> rebuilt.snapshot(1).nr_in_use, rebuilt.snapshot(2).nr_in_use
    (1, 2)

    Args:
        recording: from open_trace. Rows of areas that no kernel hands out, being damaged, are left out: outside_rows.
    """

    trace: Events
    early: Events | None

    def __init__(self, recording: Recording) -> None:
        unit = None if recording.geometry is None else Unit.of(recording.geometry.info)
        self.outside_rows = damaged_rows(recording.trace, unit)
        trace = _without(recording.trace, self.outside_rows)
        early = recording.early
        early = early if early is None else _without(early, damaged_rows(early, unit))
        try:
            self._set_up(trace, unit, recording.kernel, early)
        except GeometryError as error:
            self._set_up(trace, None, recording.kernel, early)
            self.space: Space = replace(
                self.space, guess=f"{self.space.guess}; the geometry that was given {error.what}"
            )
        self.trace, self.early = recording.trace, recording.early

    @classmethod
    def of(
        cls,
        trace: Events,
        unit: Unit | None = None,
        kernel: KernelVersion | None = None,
        early: Events | None = None,
    ) -> Rebuilt:
        """Rebuild what events tell, without the rest of a recording.

        Args:
            trace: ascending by op.
            unit: the geometry; inferred without it.
            kernel: that recorded it; the newest without it.
            early: calls before the trace.

        Raises:
            GeometryError: an area does not fit in the unit.
        """
        self = cls.__new__(cls)
        self.outside_rows = np.zeros(0, np.int64)
        self._set_up(trace, unit, kernel, early)
        return self

    def _set_up(self, trace: Events, unit: Unit | None, kernel: KernelVersion | None, early: Events | None) -> None:
        self.trace, self.early, self.kernel = trace, early, kernel
        space = Space.of(unit, kernel) if unit else None
        parts = (trace,) if early is None else (early, trace)
        top = max(map(highest_end, parts))
        log = join(trace, early, space)
        if unit is not None and top > unit.unit_size:
            check_fit(np.full(len(log), 1), log, Space.of(unit, kernel))
        if space is None:
            first_end, reserved_end = (
                int((log.off + log.size)[log.identity == k].max(initial=0)) for k in (log.first, log.reserved)
            )
            space = Space.inferred(top, first_end, reserved_end, kernel)
        self.space, self._log = space, log
        losses = tuple(loss.row for loss in getattr(trace, "losses", ()))
        walk = Walk(space.least_size, space.unit.unit_size, sorted(cuts(log, losses)))
        walk.run(log.event.tolist(), log.identity.tolist(), log.off.tolist(), log.size.tolist())
        self._keep(walk)

    def _keep(self, walk: Walk) -> None:
        log, space = self._log, self.space
        self.chunks, row_of_chunk = chunk_table(log, walk, has_reserved=space.reserved[1] > 0)
        self.areas = area_table(log, walk, row_of_chunk, space.least_size)
        self.counters = counters(log, walk, self.chunks, self.areas)
        chunk = np.array(walk.chunk, np.int64)
        met = chunk != L.NO_CHUNK
        chunk[met] = self.chunks.ordinal[row_of_chunk[chunk[met]]]
        self._event_ordinal = chunk
        check_fit(self._event_ordinal, log, space)
        self._area_of_birth = np.full(len(log), -1, np.int64)
        self._area_of_birth[self.areas.position] = np.arange(len(self.areas))
        self._walk_area = np.array(walk.area, np.int64)
        self.unmatched_frees = np.array(walk.unmatched, np.int64) - log.nr_early
        at, area = np.array(walk.lost_frees, np.int64).reshape(-1, 2).T
        born = np.array(walk.birth, np.int64)[area]
        self.lost_frees = LostFrees(at - log.nr_early, self._area_of_birth[born])
        self.lost_destroys = np.array(walk.lost_destroys, np.int64) - log.nr_early

    def __repr__(self) -> str:
        nr_chunks = int(self.counters.nr_chunks[-1])
        live = int(self.counters.nr_live[-1])
        return (
            f"<Rebuilt: rows {self.first_row:,} to {self.last_row:,}, {live:,} areas live at the end, "
            f"{nr_chunks:,} chunk{'s' * (nr_chunks != 1)}>"
        )

    def _html_fields(self) -> list[tuple[str, object]]:
        row, free = self.last_row, self.free_space(self.last_row)
        totals = self.totals(row)
        left_out = {
            "frees without their allocation": len(self.unmatched_frees),
            "frees that are missing": len(self.lost_frees),
            "chunks whose end is missing": len(self.lost_destroys),
            "damaged rows left out": len(self.outside_rows),
        }
        return [
            ("rows", f"{self.first_row:,} to {row:,}"),
            ("areas live at the end", f"{totals.nr_cur_alloc:,}, at most {totals.nr_max_alloc:,}"),
            ("bytes live at the end", f"{format_bytes(self.live_bytes(row))} per CPU"),
            ("chunks at the end", f"{totals.nr_chunks:,}, at most {totals.nr_max_chunks:,}"),
            ("free at the end", f"{format_bytes(free.free_bytes)} per CPU"),
            ("largest free area", f"{format_bytes(free.largest_free_bytes)} per CPU"),
            ("in holes between areas", f"{format_bytes(free.sum_frag)} per CPU"),
            *((name, number) for name, number in left_out.items() if number),
            *([("layout", self.space.guess)] if self.space.guess else []),
        ]

    # --- rows -------------------------------------------------------------------------

    @property
    def first_row(self) -> int:
        """The row before which nothing was recorded: 0, or minus the number of calls before the trace."""
        return -self._log.nr_early

    @property
    def last_row(self) -> int:
        """The row behind the last event."""
        return len(self._log) - self._log.nr_early

    @property
    def first_is_certain(self) -> bool:
        """Tell whether addresses, or a recording that begins at boot, say which chunk is the first."""
        return self._log.first_is_certain

    def position(self, row: int) -> int:
        """Give the number of events recorded before a row, the calls before the trace included; clamped."""
        return min(max(row - self.first_row, 0), len(self._log))

    @property
    def event_ordinal(self) -> Ints:
        """The chunk of each event of the trace: 0 the first, -1 the reserved one, NO_CHUNK of a failure."""
        return self._event_ordinal[self._log.nr_early :]

    @property
    def event_area(self) -> Ints:
        """The row of the AreaTable that each event of the trace made or freed; -1 for none."""
        return self._area_of_event()[self._log.nr_early :]

    def _area_of_event(self) -> Ints:
        """By position: walks number areas by allocation, the table by place."""
        by_number = np.append(self._area_of_birth[np.flatnonzero(self._log.event == L.EVENT_ALLOC)], -1)
        areas = by_number[self._walk_area]
        lone = self.areas.position[self._log.event[self.areas.position] == L.EVENT_FREE]
        areas[lone] = self._area_of_birth[lone]
        return areas

    # --- one moment -----------------------------------------------------------------------

    def live(self, row: int) -> Ints:
        """Give the rows of the AreaTable that are live before a row of the trace, ordered by chunk and offset."""
        areas = self.areas
        return np.flatnonzero((areas.birth < row) & (areas.death >= row))

    def chunks_at(self, row: int) -> Ints:
        """Give the rows of the ChunkTable that exist before a row of the trace."""
        return np.flatnonzero((self.chunks.created < row) & (self.chunks.destroyed >= row))

    def snapshot(self, row: int) -> Snapshot:
        """Give the state before a row of the trace as views take it; areas are named by the row of their allocation."""
        return self.snapshot_of(row, self.areas.birth, row)

    def snapshot_of(self, row: int, names: Ints, op: int, version: int = 0) -> Snapshot:
        """Give the state before a row, under other names.

        Args:
            names: of each row of the AreaTable.
            op, version: of the Snapshot.
        """
        alive = self.chunks_at(row)
        ordinals = self.chunks.ordinal[alive]
        in_use = self._in_use(row, alive, names)
        areas = tiled(self.space, ordinals.tolist(), in_use)
        free, largest, sum_frag, max_frag = free_sums(areas.chunk, areas.size_bytes, areas.kind, len(alive))
        unknown = np.full(len(alive), UNKNOWN, np.int64)
        chunks = ChunkColumns(
            ordinals,
            self.chunks.kind[alive],
            slot=unknown,
            position=unknown,
            base_addr=self.chunks.base_addr[alive],
            free_bytes=free,
            contig_hint=unknown,
            largest_free_bytes=largest,
            first_free_off=unknown,
            nr_alloc=np.bincount(in_use.chunk, minlength=len(alive)),
            nr_populated=unknown,
            sum_frag=sum_frag,
            max_frag=max_frag,
            changed=unknown,
        )
        nothing = np.zeros(0, np.int64)
        pages = RunColumns(nothing, nothing, nothing)
        return Snapshot(op, version, self.space.unit, chunks, areas, pages, self.totals(row))

    def _in_use(self, row: int, alive: Ints, names: Ints) -> InUse:
        """What is live before a row, by rows of the chunks that exist then."""
        table, live = self.areas, self.live(row)
        place = np.full(len(self.chunks), -1)
        place[alive] = np.arange(len(alive))
        chunk = place[table.chunk[live]]
        return InUse(chunk, table.off[live], table.size[live], table.requested[live], names[live])

    def totals(self, row: int) -> Totals:
        """Count what was recorded before a row; calls that were not recorded are missing."""
        at, count = self.position(row), self.counters
        least = int(count.min_size[at])
        return Totals(
            nr_alloc=int(count.nr_alloc[at]),
            nr_dealloc=int(count.nr_dealloc[at]),
            nr_cur_alloc=int(count.nr_live[at]),
            nr_max_alloc=int(count.nr_max_live[at]),
            nr_chunks=int(count.nr_chunks[at]),
            nr_max_chunks=int(count.nr_max_chunks[at]),
            min_alloc_size=UNKNOWN if least == NEVER else least,
            max_alloc_size=int(count.max_size[at]) if least != NEVER else UNKNOWN,
        )

    def live_bytes(self, row: int) -> int:
        """Give the bytes in use on each CPU before a row of the trace."""
        return int(self.counters.live_bytes[self.position(row)])

    def free_space(self, row: int) -> FreeSpace:
        """Sum up the free space of all chunks before a row of the trace; snapshot() has it chunk by chunk."""
        ordinals, free, largest, sum_frag, max_frag, _, _ = self._sample(row)
        normal = ordinals != RESERVED_ORDINAL
        return FreeSpace(
            int(free[normal].sum()),
            int(largest[normal].max(initial=0)),
            int(sum_frag[normal].sum()),
            int(max_frag[normal].max(initial=0)),
        )

    # --- who holds it ---------------------------------------------------------------------

    def names(self, by: str) -> Names:
        """Give the call site or the task of every row of the AreaTable.

        Args:
            by: "call_site" or "task".

        Raises:
            RequestError: any other.
        """
        return names_of(self._log, self.areas, by)

    def holders(self, row: int, by: str = "call_site") -> Holders:
        """Say who holds what before a row of the trace; who holds the most comes first.

        Args:
            by: "call_site" or "task".
        """
        return holders(self, self.names(by), row)

    # --- over time ------------------------------------------------------------------------

    def history(self, rows: Ints) -> dict[str, Ints]:
        """Give samples of all chunks, in the columns of Engine.history(), `op` being the row.

        Args:
            rows: of the trace, ascending.
        """
        samples = [self._sample(row) for row in rows.tolist()]
        names = ("ordinal", "free_bytes", "largest_free_bytes", "sum_frag", "max_frag", "nr_alloc", "nr_populated")
        columns = map(np.concatenate, zip(*samples, strict=True))
        return {"op": np.repeat(rows, [len(sample[0]) for sample in samples])} | dict(zip(names, columns, strict=True))

    def _sample(self, row: int) -> tuple[Ints, ...]:
        """A snapshot's numbers of chunks, without its areas."""
        alive = self.chunks_at(row)
        ordinals = self.chunks.ordinal[alive]
        in_use = self._in_use(row, alive, self.areas.birth)
        chunk, _, size, kind = free_areas(self.space, ordinals.tolist(), in_use)
        nr_alloc = np.bincount(in_use.chunk, minlength=len(alive))
        return ordinals, *free_sums(chunk, size, kind, len(alive)), nr_alloc, np.full(len(alive), UNKNOWN)
