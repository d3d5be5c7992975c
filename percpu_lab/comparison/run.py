"""One setting's run of the requests: what it cost, and the run as something to move through.

    requests ──▶ engine, to the end ──▶ Outcome           counts of operations, pages, texts; time apart
                   │                    history           kept for the views
                   └── seek(op) ──▶ when it is looked at: forward, go on; back, boot anew and run to that op

Runs are repeatable, so no state but the newest is kept, and not even that of a very large run: every moment can be made
again.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..columns import IN_USE, RESERVED_ORDINAL, Columns, Ints, RunColumns, snapshot
from ..core import layout as L
from ..engine import Engine
from ..errors import LabError
from ..geometry import Geometry
from ..kept import Kept
from ..models import AREA_MAP, BITMAP
from ..ops import Ops
from ..rich import Rich
from ..spans import Series, fragmentation_series
from ..stats import read_stats
from ..units import KIB, PAGE_SIZE
from .settings import Plan

#: the state of a larger run is not kept
KEPT_BYTES = 1 << 30

#: what only one of the engines counts
ONLY = {
    AREA_MAP.name: ("entries_scanned", "entries_moved", "free_entries_scanned", "free_entries_moved"),
    BITMAP.name: ("bits_scanned", "blocks_scanned", "free_bits_scanned", "free_blocks_scanned"),
}


@dataclass(frozen=True, slots=True)
class Outcome(Rich):
    """What a setting made of the requests; all counts are exact, and the same at every run.

    Args:
        name, engine: of the setting.
        geometry: of its machine.
        error: where and why the run ended early; empty if it did not.
        nr_ops, nr_allocs, nr_frees: ops of the script, and those of them that allocate and free.
        nr_failed: requests that got NULL.
        chunks_scanned: chunks that searches looked at.
        entries_scanned, entries_moved: of area maps.
        bits_scanned, blocks_scanned: bits passed over, and records of blocks read, of bitmaps.
        free_entries_scanned, free_entries_moved, free_bits_scanned, free_blocks_scanned: what frees did of it.
        chunks_created, chunks_destroyed: while it ran; nr_chunks: at the end.
        peak_pages, final_pages: populated, of one unit.
        live_bytes: asked for and not freed, of one unit; nr_live: in so many areas.
        free_bytes, largest_free_bytes, sum_frag: at the end, of all chunks but the reserved one.
        stats_text: the percpu_stats file at the end.
        seconds: of processor time; depends on the machine and on what else it does.
    """

    name: str
    engine: str
    geometry: Geometry
    error: str
    nr_ops: int
    nr_allocs: int
    nr_frees: int
    nr_failed: int
    chunks_scanned: int
    entries_scanned: int
    entries_moved: int
    bits_scanned: int
    blocks_scanned: int
    free_entries_scanned: int
    free_entries_moved: int
    free_bits_scanned: int
    free_blocks_scanned: int
    chunks_created: int
    chunks_destroyed: int
    nr_chunks: int
    peak_pages: int
    final_pages: int
    nr_live: int
    live_bytes: int
    free_bytes: int
    largest_free_bytes: int
    sum_frag: int
    stats_text: str
    seconds: float

    @property
    def external(self) -> float:
        """Give the share of the free bytes that lies outside the largest free area."""
        return 1 - self.largest_free_bytes / self.free_bytes if self.free_bytes else 0.0

    @property
    def peak_percpu_kib(self) -> int:
        """Give the most that meminfo would have shown as Percpu: populated pages times units."""
        return self._percpu_kib(self.peak_pages)

    @property
    def final_percpu_kib(self) -> int:
        """Give what meminfo would show as Percpu at the end: populated pages times units."""
        return self._percpu_kib(self.final_pages)

    def _percpu_kib(self, nr_pages: int) -> int:
        return nr_pages * self.geometry.info.page_size * self.geometry.info.nr_units // KIB

    def counts(self, name: str) -> int | None:
        """Give a count by its name; None where this engine has nothing of the kind."""
        others = (part for engine, part in ONLY.items() if engine != self.engine)
        return None if any(name in part for part in others) else int(getattr(self, name))

    def __repr__(self) -> str:
        return f"<Outcome of {self.name!r}: {self.nr_ops:,} ops, {self.nr_failed:,} requests failed>"


class ScriptRun(Rich):
    """A script run on one machine, with a cursor: a Recording that a session can seek in, and views can show.

    >>> from percpu_lab.comparison import plans
    >>> run = ScriptRun(plans(["v6.12-bitmap"], "UP, km")[0], Ops.from_text("alloc 0 64 8 0 0\\nfree 0\\n"), jit="off")
    >>> run.seek(1)
    >>> run, run.columns().snapshot.nr_in_use
    (<ScriptRun 'v6.12-bitmap': op 1 of 2>, 1)

    Args:
        plan: the machine.
        ops: the script; it is run to its end at once.
        auto_balance: the balance work runs by itself, not only where the script says.
        jit: auto, off or wait (see compiled.py).
    """

    def __init__(self, plan: Plan, ops: Ops, *, auto_balance: bool = False, jit: str | None = None) -> None:
        self.plan = plan
        self.ops = ops
        self.lock = threading.RLock()
        self._options: dict[str, Any] = {"auto_balance": auto_balance, "jit": jit}
        self.version = 0
        self._boot()
        self.outcome = self._run_to_end()
        self._history = self._booted.history()
        self.first_op, self.last_op = 0, self._booted.now
        self.now = self.last_op
        if _touched_bytes(self.outcome) > KEPT_BYTES:
            self._boot()

    def __repr__(self) -> str:
        return f"<ScriptRun {self.plan.name!r}: op {self.now:,} of {self.last_op:,}>"

    def _html_fields(self) -> list[tuple[str, object]]:
        return [("ops", repr(self.ops)), ("outcome", repr(self.outcome)), ("op", f"{self.now:,} of {self.last_op:,}")]

    @property
    def name(self) -> str:
        """The name of the setting."""
        return self.plan.name

    def _boot(self) -> None:
        self._booted = self.plan.boot(**self._options)
        self._ids = np.zeros(max(self.ops.nr_ids, 1), np.int64)
        self._kept = Kept()

    def _go_on(self, stop: int) -> None:
        engine = self._booted
        while engine.now < stop:
            if engine.run(self.ops, self._ids, engine.now, stop) < stop:
                engine.tick()  # a stats or state op, which asks nothing of an allocator

    @property
    def engine(self) -> Engine:
        """The allocator as it stands at the cursor."""
        with self.lock:
            if self.now < self._booted.now:
                self._boot()
            try:
                self._go_on(self.now)
            except LabError:
                if not self.outcome.error:  # else this is where the run ended
                    raise
            return self._booted

    # --- the run ------------------------------------------------------------------------

    def _run_to_end(self) -> Outcome:
        started, error = time.process_time(), ""
        try:
            self._go_on(len(self.ops))
        except LabError as stopped:
            error = str(stopped)
        return self._outcome(error, time.process_time() - started)

    def _outcome(self, error: str, seconds: float) -> Outcome:
        engine = self._booted
        kinds = self.ops.array[L.OPS_KIND, : engine.now]
        snap = snapshot(engine)
        chunks, areas = snap.chunks, snap.areas
        normal = chunks.ordinal != RESERVED_ORDINAL
        in_use = areas.kind == IN_USE
        nr_made = engine.scalar(L.NR_ORDER)
        nr_there = int(np.count_nonzero(engine.order[:nr_made]))
        return Outcome(
            name=self.plan.name,
            engine=self.plan.engine,
            geometry=self.plan.geometry,
            error=error,
            nr_ops=engine.now,
            nr_allocs=int((kinds == L.OP_ALLOC).sum()),
            nr_frees=int((kinds == L.OP_FREE).sum()),
            nr_failed=engine.scalar(L.NR_FAILED),
            **{name: engine.scalar(getattr(L, name.upper())) for name in _COUNTERS},
            chunks_created=nr_made,
            chunks_destroyed=nr_made - nr_there,
            nr_chunks=1 + nr_there,
            peak_pages=engine.scalar(L.MAX_POPULATED),
            final_pages=engine.scalar(L.NR_POPULATED_TOTAL),
            nr_live=int(in_use.sum()),
            live_bytes=int(areas.requested_bytes[in_use].sum()),
            free_bytes=int(chunks.free_bytes[normal].sum()),
            largest_free_bytes=int(chunks.largest_free_bytes[normal].max(initial=0)),
            sum_frag=int(chunks.sum_frag[normal].sum()),
            stats_text=read_stats(engine).text(),
            seconds=seconds,
        )

    # --- curves ---------------------------------------------------------------------------

    @property
    def fragmentation(self) -> Series:
        """Free space and its fragmentation over the ops of the whole run."""
        return fragmentation_series(self._history)

    def populated(self) -> tuple[Ints, Ints]:
        """Give samples of the whole run: ops done, and pages populated of one unit."""
        op, later = self._history["op"], self._history["ordinal"] > 0
        starts = np.flatnonzero(np.diff(op, prepend=-1))
        info = self.plan.geometry.info
        pages = np.minimum(self._history["nr_populated"], info.unit_pages) * later  # v4.13 counts whole groups of km
        return op[starts], -(-info.size_sum // info.page_size) + np.add.reduceat(pages, starts)

    # --- a source for views -------------------------------------------------------------------

    def seek(self, op: int) -> None:
        """Go to the moment when so many ops had been done, clamped to the ends of the run."""
        with self.lock:
            self.now = min(max(op, self.first_op), self.last_op)
            self.version += 1

    def events(self, since: int = 0, limit: int | None = None) -> Any:
        """Give the events numbered `since` and up that the ring holds at the cursor, at most `limit` of them."""
        with self.lock:
            return self.engine.events(since, limit)

    def history(self) -> dict[str, Ints]:
        """Give the samples of all chunks up to the cursor."""
        end = int(np.searchsorted(self._history["op"], self.now, side="right"))
        return {name: column[:end] for name, column in self._history.items()}

    def columns(self) -> Columns:
        """Give everything a view needs, at the cursor."""
        with self.lock:
            engine = self.engine  # which may be a new one, of which nothing is kept
            snap = snapshot(engine, self._kept.areas)
            snap = replace(snap, populated=_in_small_pages(snap.populated, self.plan.geometry.info.page_size))
            return Columns(snap, self._kept.events.read(engine), self.history())


def _touched_bytes(outcome: Outcome) -> int:
    """Say how much memory an engine holds, nearly: a word for every place where an area can begin."""
    return (1 + outcome.chunks_created) * outcome.geometry.info.unit_size * 4


def _in_small_pages(runs: RunColumns, page_size: int) -> RunColumns:
    """Count runs of populated pages in pages of 4 KiB, as views do."""
    factor = page_size // PAGE_SIZE
    return RunColumns(runs.chunk, runs.first_page * factor, runs.end_page * factor)


_COUNTERS = ("chunks_scanned", *(name for names in ONLY.values() for name in names))
