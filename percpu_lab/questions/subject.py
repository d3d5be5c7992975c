"""What a question can be asked of, and what all questions need of it.

Recording, trace ──▶ Rebuilt ──▶ ledger, snapshots at any row, notes on what is missing
Allocator        ──▶ Rebuilt of its ring if that lost nothing, else the live areas alone; the engine itself
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from ..allocator import Allocator
from ..columns import Snapshot, Unit, snapshot
from ..engine import Engine
from ..errors import RequestError
from ..events import Events
from ..geometry import AllocInfo
from ..plain import count
from ..rebuild import Rebuilt
from ..rebuild.holders import NOT_RECORDED
from ..units import KIB
from ..views._words import chunk_label
from .ledger import NOBODY, Ledger

if TYPE_CHECKING:
    from ..review import Review
    from ..traces.recording import Recording

Notes = dict[str, tuple[str, ...]]
At = int | str | None
_NOBODY = ("__alloc_percpu", "__alloc_reserved_percpu", "pcpu_alloc", NOT_RECORDED, NOBODY)
_MOST = 0.5


class Populated(NamedTuple):
    """What a reading of meminfo says: behind which row of the trace it was read, and the populated bytes of a CPU."""

    row: int
    cpu_bytes: int


class Subject:
    """A recording, a trace or a simulated allocator, made ready for questions.

    >>> Subject.of(Allocator())
    <Subject: Allocator>

    Args:
        source: what the questions are about.
        rebuilt: its events rebuilt; None where only the live areas are known.
        recording: the recording, where it is one.
        engine: the engine, where it is simulated.
        review: of the recording, if it was made before.
    """

    def __init__(
        self,
        source: Any,
        *,
        rebuilt: Rebuilt | None = None,
        recording: Recording | None = None,
        engine: Engine | None = None,
        review: Review | None = None,
    ) -> None:
        self.source, self.rebuilt, self.recording, self.engine = source, rebuilt, recording, engine
        self._review = review

    def __repr__(self) -> str:
        return f"<Subject: {type(self.source).__name__}>"

    @classmethod
    def of(cls, source: Any) -> Subject:
        """Make anything ready that has areas.

        Raises:
            RequestError: it has none.
        """
        if isinstance(source, Subject):
            return source
        if isinstance(source, Rebuilt):
            return cls(source, rebuilt=source)
        if isinstance(source, Events):
            return cls(source, rebuilt=Rebuilt.of(source))
        if isinstance(source, (Allocator, Engine)):
            return cls._of_engine(source, source.engine if isinstance(source, Allocator) else source)
        if isinstance(getattr(source, "rebuilt", None), Rebuilt):  # a Review, or a RecordedRun
            recording = getattr(source, "recording", None)
            return cls(source, rebuilt=source.rebuilt, recording=recording, review=source if recording else None)
        if isinstance(getattr(source, "trace", None), Events):
            return cls(source, rebuilt=Rebuilt(source), recording=source)
        raise RequestError(
            f"no question can be asked of {type(source).__name__!r}",
            where="subject",
            remedy="give what open_trace returned, a trace, or an Allocator",
        )

    @classmethod
    def _of_engine(cls, source: Any, engine: Engine) -> Subject:
        events = engine.events(0)
        if not events.lost:
            rebuilt = Rebuilt.of(events, Unit.of(engine.geometry.info), engine.geometry.kernel)
            if _is_same(rebuilt.snapshot(rebuilt.last_row), snapshot(engine)):  # no event was filtered
                return cls(source, rebuilt=rebuilt, engine=engine)
        return cls(source, engine=engine)

    @cached_property
    def ledger(self) -> Ledger:
        """The areas."""
        if self.rebuilt is not None:
            return Ledger.of_rebuilt(self.rebuilt)
        assert self.engine is not None
        return Ledger.of_snapshot(snapshot(self.engine))

    @property
    def review(self) -> Review:
        """The review of the recording; made at the first use.

        Raises:
            RequestError: it is no recording.
        """
        if self._review is None:
            if self.recording is None:
                raise RequestError("only a recording can be reviewed", where="review", remedy="open it by open_trace")
            from ..review import review

            self._review = review(self.recording)
        return self._review

    @property
    def is_replayed(self) -> bool:
        """Whether a review was made that has a model of the allocator."""
        return self._review is not None and self._review.is_reviewed

    def engine_at(self, at: At = None) -> Engine | None:
        """Give the allocator as it stood at a moment: the engine itself, or the model that a review replays.

        None if there is no such model, or a simulated past is asked for.
        """
        if self.engine is not None:
            return self.engine if at is None else None
        if self.recording is None or not self.review.is_reviewed:
            return None
        return self.review.state_at(self.moment(at))

    def name_of(self, chunk: int) -> str:
        """Name a chunk of engine_at() as all answers do: by its ordinal in the recording.

        Args:
            chunk: its ordinal in the engine, which counts otherwise where a recording begins in the middle.
        """
        if self.engine is None:
            chunk = self.review.recorded_ordinal(chunk)
        return chunk_label(chunk)

    def meminfo(self, at: At = None) -> Populated | None:
        """Give the last reading of meminfo up to a moment; None if there is none whose moment is known."""
        if self.recording is None or self.info is None:
            return None
        moment = self.moment(at)
        known = [(r.rows[1], r.percpu_kib) for r in self.recording.proc if r.rows and r.percpu_kib is not None]
        row, percpu_kib = max(
            (each for each in known if each[0] <= moment), key=lambda each: each[0], default=(0, None)
        )
        return None if percpu_kib is None else Populated(row, percpu_kib * KIB // self.info.nr_units)

    @property
    def trace(self) -> Any:
        """The events; None where only the live areas are known."""
        return self.rebuilt.trace if self.rebuilt is not None else None

    def events(self, where: str) -> Rebuilt:
        """Give the events rebuilt.

        Raises:
            RequestError: they were not kept.
        """
        if self.rebuilt is None:
            remedy = "make trace_events larger, and leave the tracepoints on"
            raise RequestError("the ring of the trace lost events", where=where, remedy=remedy)
        return self.rebuilt

    @property
    def guess(self) -> str:
        """What was taken for the geometry where that is not known, in words; empty if it is."""
        return self.rebuilt.space.guess if self.rebuilt is not None else ""

    @property
    def info(self) -> AllocInfo | None:
        """The geometry, where it is known."""
        if self.engine is not None:
            return self.engine.geometry.info
        geometry = self.recording.geometry if self.recording is not None else None
        return geometry.info if geometry is not None else None

    @cached_property
    def best_key(self) -> Literal["call_site", "task"]:
        """What tells areas apart best: call sites, or tasks where most call sites say nothing.

        Frame pointers and 32 bit leave only the allocator's own wrapper there; older kernels have no such field.
        """
        names = self.ledger.site.names
        is_empty = np.array([name.startswith(_NOBODY) for name in names], bool)
        mostly = bool(len(self.ledger)) and bool(is_empty[self.ledger.site.code].mean() > _MOST)
        return "task" if mostly and self.engine is None else "call_site"

    @property
    def least_size(self) -> int:
        """Bytes that every size is rounded up to a multiple of."""
        if self.rebuilt is not None:
            return self.rebuilt.space.least_size
        assert self.engine is not None
        return self.engine.geometry.kernel.least_size

    def line(self, row: int) -> int | None:
        """Give the line of a row in the file it was read from; None if there is none."""
        lines = getattr(self.trace, "line", None)
        return int(lines[row]) if lines is not None and 0 <= row < len(lines) else None

    def moment(self, at: At) -> int:
        """Find a moment: a row of the trace, or the first marker with a text in it; None is the end.

        Raises:
            RequestError: the trace has no such row or marker.
        """
        last = self.ledger.nr_rows
        if at is None:
            return last
        if isinstance(at, str):
            row: int = self.marker(at).row
            return row
        if not 0 <= at <= last:
            raise RequestError(f"there is no row {at:,}", where="at", remedy=f"give 0 to {last:,}")
        return at

    def marker(self, text: str) -> Any:
        """Find the first marker with a text in it.

        Raises:
            RequestError: there is none.
        """
        markers = getattr(self.trace, "markers", ())
        for marker in markers:
            if text in marker.text:
                return marker
        known = ", ".join(dict.fromkeys(repr(marker.text) for marker in markers[:8])) or "none"
        raise RequestError(f"no marker has {text!r} in it", where="marker", remedy=f"the first markers are: {known}")

    def snapshot(self, at: At = None) -> Snapshot:
        """Give what is where at a moment."""
        if self.engine is not None and at is None:
            return snapshot(self.engine)
        return self.events("at").snapshot(self.moment(at))

    def unseen(self) -> str:
        """Say what is known of areas from before the recording that were not freed in it."""
        for reading in self.recording.stats if self.recording is not None else ():
            if reading.rows is None:
                continue
            counted = reading.stats.global_stats.nr_cur_alloc
            nr = counted - len(self.events("notes").live(reading.rows[0]))
            return f"percpu_stats counts {count(nr, 'area')} more: made before tracing, and not seen here"
        return "areas made before tracing and still held are not seen: what looks free may be in use"

    def notes(self) -> Notes:
        """Say what the events of the subject prove, and what they leave open."""
        certain, inferred = [], []
        if self.rebuilt is None:
            certain.append("read off the allocator itself; its ring kept no events from before")
        else:
            lost, unmatched = self.rebuilt.trace.lost, len(self.rebuilt.unmatched_frees)
            lost_frees = len(self.rebuilt.lost_frees)
            if lost:
                inferred.append(f"{count(lost, 'event')} lost: areas may be missing, and freed ones seem live")
            if lost_frees:
                certain.append(f"{count(lost_frees, 'free')} not recorded: the memory was handed out again, or went")
            if unmatched:
                inferred.append(
                    f"{count(unmatched, 'free')} of areas from before the recording: others from then are not seen"
                )
            if self.engine is None and self.rebuilt.early is None:
                inferred.append(self.unseen())
            if not (lost or unmatched or lost_frees):
                certain.append("every free belongs to a recorded allocation, and no event is reported lost")
            if self.best_key == "task":
                certain.append("call sites are not told, or name only the allocator's wrapper: tasks tell who asked")
        return {"certain": tuple(certain), "inferred": tuple(inferred)}


def _is_same(rebuilt: Snapshot, real: Snapshot) -> bool:
    """Whether the same number of areas lives in the same chunks."""
    areas = [
        dict(zip(snap.chunks.ordinal.tolist(), snap.chunks.nr_alloc.tolist(), strict=True)) for snap in (rebuilt, real)
    ]
    return areas[0] == areas[1]
