"""What a review found: a verdict for each decision, and the model at any row.

verdict     EXACT       the place is what the algorithm decides there and then
            REORDERED   it is, once rows are in the order they were decided in (or work ran when it did)
            LEARNED     it is, once space is known that was in use since before the recording, or what lost events did
            FORCED      not explained: the place was taken as recorded; `cause` says what spoke against it
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from ..core import layout as L
from ..core import replay as R
from ..engine import Engine
from ..errors import LabError, RequestError
from ..events import Int64s
from ..rebuild import BEFORE, Rebuilt
from ..rich import Rich, RichTable
from ..tracepoints import TRACEPOINTS
from ..traces.recording import Recording
from .causes import CAUSES
from .checks import Check, check_readings
from .explain import Explanation, explain
from .failures import ChunkVerdict, Failure, chunk_verdicts, failures
from .machine import Machine, Snapshot
from .search import Search
from .shown import decision_rows, review_rows
from .state import engine_at
from .verdicts import FORCED, VERDICTS, forced_cause, verdict_of

__all__ = ["Decisions", "Review"]

_CHECKPOINT_BYTES = 1 << 26


@dataclass(frozen=True, slots=True, eq=False)
class Decisions(RichTable):
    """The decisions that were reviewed, as columns, in the order they were recorded in.

    Args:
        row: of the trace; early calls have negative ones, the last of them -1.
        verdict: EXACT, REORDERED, LEARNED or FORCED.
        cause: an index to `causes`.
        chunk, off: where the area was recorded: ordinal of the chunk in the recording (0 the first, -1 the reserved
            one; as in Rebuilt and in all answers), bytes.
        predicted_chunk, predicted_off: where the model wanted it in the order of the file; NO_CHUNK for no place.
        causes: names for the causes.
    """

    row: Int64s
    verdict: np.ndarray
    cause: np.ndarray
    chunk: Int64s
    off: Int64s
    predicted_chunk: Int64s
    predicted_off: Int64s
    causes: tuple[str, ...] = CAUSES

    def __len__(self) -> int:
        return len(self.row)

    def __repr__(self) -> str:
        counts = ", ".join(f"{int((self.verdict == code).sum()):,} {name}" for code, name in enumerate(VERDICTS))
        return f"<Decisions: {counts}>"

    def _html_rows(self) -> tuple[Sequence[str], Iterable[Sequence[object]], int]:
        return decision_rows(self)

    def where(self, verdict: int) -> Int64s:
        """Give the rows of the trace with a verdict."""
        return np.asarray(self.row[self.verdict == verdict])


class Review(Rich):
    """The review of a recording; see review().

    Args:
        recording: that was reviewed.
        search: what was found; None if the decisions could not be reviewed.
        problem: why not.
    """

    def __init__(self, recording: Recording, search: Search | None, problem: str = "") -> None:
        self.recording = recording
        self.problem = problem
        self._search = search
        if search is not None:
            self._replayed = Replayed(search)

    def __repr__(self) -> str:
        return f"<Review of {self.recording.name!r}: {self.text()}>"

    def _html_fields(self) -> list[tuple[str, object]]:
        return list(review_rows(self))

    # --- in short --------------------------------------------------------------------

    @property
    def is_reviewed(self) -> bool:
        """Tell whether there was enough to replay the decisions."""
        return self._search is not None

    @property
    def kernel(self) -> str:
        """Name the engine that decided, or the kernel if none did."""
        kernel = self.recording.kernel
        if self.is_reviewed:
            return self._replayed.machine.engine.model.name
        return kernel.name if kernel else "unknown"

    @cached_property
    def counts(self) -> dict[str, int]:
        """Count the verdicts: allocs, exact, reordered, learned, forced."""
        verdicts = Counter(self._verdicts.tolist())
        return {"allocs": len(self._verdicts)} | {name: verdicts[code] for code, name in enumerate(VERDICTS)}

    def text(self) -> str:
        """Say in a line how many decisions the algorithm explains."""
        if not self.is_reviewed:
            return f"decisions not reviewed: {self.problem}"
        counts = self.counts
        parts = [f"{counts[name]:,} {name}" for name in VERDICTS if counts[name] or name == "exact"]
        return f"{counts['allocs']:,} decisions: {', '.join(parts)}".replace(" forced", " not explained")

    @property
    def nr_steps(self) -> int:
        """Count the rows replayed while searching and comparing: the work of the review."""
        return 0 if self._search is None else self._search.machine.steps

    # --- what was found -----------------------------------------------------------------

    @cached_property
    def decisions(self) -> Decisions:
        """Give the verdict of each allocation that was recorded; none if the decisions could not be reviewed."""
        if self._search is None:
            none = np.zeros(0, np.int64)
            return Decisions(none, self._verdicts, none.astype(np.int8), none, none, none, none)
        search, tape, rows = self._search, self._search.tape, self._decided
        cause = search.cause[rows]
        chunk, off = self._replayed.ordinals[tape.events[R.TAPE_CHUNK, rows]], tape.events[R.TAPE_OFF, rows]
        wanted = np.where(cause == 0, np.stack([chunk, off]), search.wrong[:, rows])
        chunk, wanted_chunk = self._as_recorded(chunk), self._as_recorded(wanted[0])
        return Decisions(rows - tape.nr_early, self._verdicts, cause, chunk, off, wanted_chunk, wanted[1])

    @cached_property
    def _decided(self) -> Int64s:
        """Rows of the tape that hold decisions."""
        return np.flatnonzero(self._reviewed("decisions").tape.column(R.TAPE_EVENT) == L.EVENT_ALLOC)

    @cached_property
    def _verdicts(self) -> np.ndarray:
        if self._search is None:
            return np.zeros(0, np.int8)
        return verdict_of(self._search.cause[self._decided])

    def _as_recorded(self, chunk: Int64s) -> Int64s:
        """Turn the model's ordinals into those of the recording."""
        ordinals, code = np.unique(chunk, return_inverse=True)
        return np.array([self.recorded_ordinal(ordinal) for ordinal in ordinals.tolist()], np.int64)[code]

    @cached_property
    def failures(self) -> tuple[Failure, ...]:
        """Give each failed request with the reason that the model sees."""
        return () if self._search is None else tuple(failures(self.recording, self._search))

    @cached_property
    def chunks(self) -> tuple[ChunkVerdict, ...]:
        """Give each creation and destruction, and whether the model saw it coming."""
        if self._search is None:
            return ()
        verdicts = chunk_verdicts(self._search, self._replayed.ordinals)
        return tuple(replace(verdict, chunk=self.recorded_ordinal(verdict.chunk)) for verdict in verdicts)

    @cached_property
    def trusted_until(self) -> int | None:
        """Give the row up to which it is certain which pages are populated; None if it is to the end.

        Pages may have been given back unseen from there on; or a reading of the kernel says otherwise, and this is the
        last one before it that agrees.
        """
        if self._search is None:
            return 0
        until = self._replayed.trusted_until
        readings = sorted((check.row, check.is_of_other_pages) for check in self.checks if check.row is not None)
        first = next((k for k, (_, is_other) in enumerate(readings) if is_other), None)
        if first is None or (until is not None and until <= readings[first][0]):
            return until
        return readings[first - 1][0] if first else 0

    @cached_property
    def checks(self) -> tuple[Check, ...]:
        """Compare every reading of percpu_stats and meminfo with the model."""
        return () if self._search is None else tuple(check_readings(self.recording, self._replayed))

    @cached_property
    def rebuilt(self) -> Rebuilt:
        """Give what the events alone tell."""
        return Rebuilt(self.recording)

    def forced_causes(self) -> dict[str, int]:
        """Count what spoke against the decisions that are not explained."""
        if self._search is None:
            return {}
        rows = self.decisions.where(FORCED) + self._search.tape.nr_early
        return dict(Counter(forced_cause(self._search, row, self._replayed.ordinals) for row in rows.tolist()))

    # --- one moment ------------------------------------------------------------------------

    def chunk_of(self, chunk: int) -> int:
        """Find a chunk in the engine of state_at by its ordinal in the recording, the one of all answers and views.

        The two differ where a recording begins in the middle. The column `chunk` of the trace is a third number, of
        base addresses; Rebuilt.event_ordinal gives the ordinal of each row.

        Raises:
            RequestError: no event names it, or nothing was replayed.
        """
        self._reviewed("chunk_of")
        if chunk not in self._model_ordinals:
            remedy = "take one of rebuilt.event_ordinal"
            raise RequestError(f"no event names chunk {chunk}", where="chunk_of", remedy=remedy)
        return self._model_ordinals[chunk]

    def recorded_ordinal(self, chunk: int) -> int:
        """Find the ordinal in the recording of a chunk by the model's; one that no event names keeps it."""
        self._reviewed("recorded_ordinal")
        return self._recorded_ordinals.get(chunk, chunk)

    @cached_property
    def _model_ordinals(self) -> dict[int, int]:
        tape = self._replayed.tape
        recorded, row = np.unique(self.rebuilt.event_ordinal[: tape.nr_rows - tape.nr_early], return_index=True)
        model = self._replayed.ordinals[tape.events[R.TAPE_CHUNK, row + tape.nr_early]]
        pairs = zip(recorded.tolist(), model.tolist(), strict=True)
        return {mine: its for mine, its in pairs if mine != L.NO_CHUNK}

    @cached_property
    def _recorded_ordinals(self) -> dict[int, int]:
        return {model: recorded for recorded, model in self._model_ordinals.items() if recorded > 0}

    def state_at(self, row: int) -> Engine:
        """Give an engine as the kernel's allocator stood before a row of the trace; it may be changed at will.

        It has a numbering of its own for chunks: chunk_of finds one of the recording there.

        Args:
            row: of the trace, up to its length; negative for early calls. A row that was decided earlier than it was
                recorded is meant at the moment of its decision.

        Raises:
            RequestError: there is no such row, or nothing was replayed.
        """
        self._reviewed("state_at")
        self._replayed.go_to(self._replayed.place_of(row))
        return engine_at(self._replayed.machine)

    def explain(self, row: int) -> Explanation:
        """Open the decision on a request: what was tried in which order, and why it was refused.

        Args:
            row: of an allocation or a failure.

        Raises:
            RequestError: the row is no request, or nothing was replayed.
        """
        search = self._reviewed("explain")
        return explain(self, self.state_at(row), search.tape.events[:6, row + search.tape.nr_early].tolist(), row)

    def recorded_place(self, row: int, off: int) -> tuple[int, int] | None:
        """Give ordinal of the chunk in the recording and offset that a request got; None if it failed."""
        tape = self._reviewed("recorded_place").tape
        at = row + tape.nr_early
        if tape.events[R.TAPE_EVENT, at] != L.EVENT_ALLOC:
            return None
        return self.recorded_ordinal(int(self._replayed.ordinals[tape.events[R.TAPE_CHUNK, at]])), off

    def verdict_text(self, row: int) -> str:
        """Give verdict and cause of a request in words."""
        cause = CAUSES[int(self._reviewed("verdict_text").cause[row + self._reviewed("").tape.nr_early])]
        return {"exact": "exact", "forced": "not explained"}.get(cause, f"explained: {cause}")

    def _reviewed(self, where: str) -> Search:
        if self._search is None:
            raise RequestError(
                f"the decisions could not be replayed: {self.problem}", where=where,
                remedy="the other questions do not need that",
            )  # fmt: skip
        return self._search

    # --- for programs ------------------------------------------------------------------------

    def as_json(self) -> dict[str, Any]:
        """Give the figures as `review --json` prints them."""
        trace, rebuilt = self.recording.trace, self.rebuilt
        events = {point.name: int((trace.event == point.event).sum()) for point in TRACEPOINTS}
        row = rebuilt.last_row
        inferred = len(rebuilt.lost_frees) + len(rebuilt.lost_destroys)
        explained = sum(int(failure.is_explained) for failure in self.failures)
        created, destroyed = events["percpu_create_chunk"], events["percpu_destroy_chunk"]
        return {
            "kernel": self.kernel,
            "events": events,
            "lost": {"reported": int(trace.lost), "inferred": inferred},
            **self.counts,
            "fails": {"total": events["percpu_alloc_percpu_fail"], "explained": explained},
            "chunks": {"created": created, "destroyed": destroyed},
            "unmatched_frees": len(rebuilt.unmatched_frees),
            "live": {"areas": len(rebuilt.live(row)), "bytes": rebuilt.live_bytes(row)},
            "checks": self._checks_json(),
            "by_call_site": list(self._by_call_site()),
        } | ({} if self.is_reviewed else {"not_reviewed": self.problem})

    def _checks_json(self) -> dict[str, Any]:
        stats = [check for check in self.checks if check.kind == "stats"]
        meminfo = [check for check in self.checks if check.kind == "meminfo"]
        return {
            "stats_files": len(self.recording.stats),
            "stats_equal": sum(check.is_equal for check in stats),
            "meminfo_equal": [sum(check.is_equal for check in meminfo), len(meminfo)],
        }

    def _by_call_site(self) -> Iterator[dict[str, Any]]:
        """Sum up the areas whose allocation was recorded by call site, the most live bytes first."""
        rebuilt = self.rebuilt
        areas, names = rebuilt.areas, rebuilt.names("call_site")
        recorded = areas.birth != BEFORE
        live = np.zeros(len(areas), bool)
        live[rebuilt.live(rebuilt.last_row)] = True
        live &= recorded
        nr = len(names.names)
        nr_alloc = np.bincount(names.code[recorded], minlength=nr)
        nr_live = np.bincount(names.code[live], minlength=nr)
        live_bytes = np.bincount(names.code[live], areas.size[live], nr).astype(np.int64)
        for k in np.lexsort((-nr_alloc, -live_bytes)).tolist():
            if nr_alloc[k]:
                count = int(nr_alloc[k])
                yield {"call_site": names.names[k], "allocs": count, "frees": count - int(nr_live[k]),
                       "live": int(nr_live[k]), "live_bytes": int(live_bytes[k])}  # fmt: skip


class Replayed:
    """The script that was found, replayed once more from its start, with checkpoints to go back to."""

    def __init__(self, search: Search) -> None:
        self.machine: Machine = search.machine
        self.tape = search.tape
        self.length = search.machine.pos
        self.script = search.machine.script[: self.length].copy()
        self._place = np.full(len(self.tape.marks), -1, np.int64)
        self._place[self.script] = np.arange(self.length)
        self._checkpoints = list(self._replay(search.start))
        note = self.machine.found[R.FOUND_NOTE, self.script]
        first_pages = int(search.start.g[L.NR_POPULATED_TOTAL])
        self.pages = np.append(first_pages, self.machine.found[R.FOUND_PAGES, self.script])
        self.ordinals = self._ordinals()
        found_out = self.script >= self.tape.nr_rows + search.nr_seeds
        reclaimed = np.flatnonzero((note & R.NOTE_RECLAIMED != 0) | found_out)
        started = bool(self.tape.is_created.all() or self.tape.from_boot)
        first = self.script[reclaimed[0] :] if len(reclaimed) else self.script[:0]
        first = first[first < self.tape.nr_rows]
        self.trusted_until: int | None = (int(first[0]) - self.tape.nr_early if len(first) else None) if started else 0

    def _replay(self, start: Snapshot) -> Iterator[Snapshot]:
        machine = self.machine
        machine.restore(start)
        distance = max(self.length // max(_CHECKPOINT_BYTES // start.nbytes, 1), 1024)
        yield start
        while machine.pos < self.length:
            self._run(machine.pos, min(machine.pos + distance, self.length))
            yield machine.snapshot()

    def _run(self, start: int, stop: int) -> None:
        """Replay places of the script; what was found must replay, or no answer could be relied on."""
        if not self.machine.run(start, stop):
            raise LabError(
                f"the order of decisions that was found does not replay between its places {start:,} and {stop:,}",
                where="review",
                remedy="this is a fault of percpu_lab: please report it with the recording",
            )
        self.machine.pos = stop

    def _ordinals(self) -> Int64s:
        """The model's ordinal of each chunk of the tape; NO_CHUNK for one it never had."""
        tape, found = self.tape, self.machine.found
        ordinals = np.full(max(tape.nr_chunks, 1), L.NO_CHUNK, np.int64)
        kind = tape.events[R.TAPE_EVENT, : tape.used]
        created = np.flatnonzero(kind == L.EVENT_CREATE)
        ordinals[tape.events[R.TAPE_CHUNK, created]] = found[R.FOUND_CHUNK, created]
        if tape.first >= 0:
            ordinals[tape.first] = 0
        if tape.reserved >= 0:
            ordinals[tape.reserved] = -1
        return ordinals

    def place_of(self, row: int) -> int:
        """Find the place of a row in the script.

        Raises:
            RequestError: there is no such row.
        """
        at = row + self.tape.nr_early
        if at == self.tape.nr_rows:
            return self.length
        if not 0 <= at < self.tape.nr_rows:
            raise RequestError(
                f"there is no row {row}", where="review",
                remedy=f"give {-self.tape.nr_early} to {self.tape.nr_rows - self.tape.nr_early}",
            )  # fmt: skip
        return int(self._place[at])

    def places_of(self, rows: tuple[int, int] | None, reach: int) -> tuple[int, int]:
        """Find between which places of the script rows of the trace lie, and some rows more; all of it for None."""
        if rows is None:
            return 0, self.length
        tape = self.tape
        low = min(max(rows[0] - reach, 0) + tape.nr_early, tape.nr_rows)
        high = min(rows[1] + reach + tape.nr_early, tape.nr_rows)
        places = np.append(self._place[low:high], self.length if high == tape.nr_rows else self._place[high])
        places = places[places >= 0]
        return int(places.min()), int(places.max())

    def row_behind(self, place: int) -> int:
        """Give the row of the trace that comes next at a place of the script."""
        rows = self.script[place:]
        rows = rows[rows < self.tape.nr_rows]
        return int(rows[0] if len(rows) else self.tape.nr_rows) - self.tape.nr_early

    def go_to(self, place: int) -> None:
        """Bring the machine to a place of the script."""
        snapshot = next(s for s in reversed(self._checkpoints) if s.pos <= place)
        self.machine.restore(snapshot)
        self._run(snapshot.pos, place)
