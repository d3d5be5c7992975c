"""Which decisions are those of the algorithm, and how did one of them come about?

exact        in the order of the trace              learned    space in use since before the trace was learned
reordered    once in the order of the decisions     forced     not explained: the place was taken as recorded
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core import layout as L
from ..errors import RequestError
from ..rich import Rich
from ..views._words import chunk_label
from .answer import Answer
from .subject import Subject

if TYPE_CHECKING:
    from ..review import Review

_FORCED = "forced"
_WORDS = {
    "exact": "the place that the model predicts",
    "earlier": "decided before others whose events fired first",
    "later": "others, whose events fired later, were decided before it",
    "learned": "the model had first to learn what was in use before the trace",
    "balance": "balance work had run just before",
    "populated": "its page had been populated before",
    "parked": "the chunk that the model wanted was parked in slot 0",
    "isolated": "the chunk that the model wanted was isolated",
}


@dataclass(frozen=True, slots=True)
class DecisionGroup(Rich):
    """Decisions of one verdict and cause; one that is not explained stands alone.

    Args:
        verdict: exact, reordered, learned or forced.
        cause: what it took, or what speaks against it.
        nr: decisions.
        first_row, first_line: of the first in the trace; an early call has a negative row and no line.
    """

    verdict: str
    cause: str
    nr: int
    first_row: int
    first_line: int | None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Decisions(Answer):
    """All decisions by verdict, those that are not explained first.

    Args:
        nr_decisions, nr_exact, nr_reordered, nr_learned, nr_forced: placements reviewed, by verdict.
    """

    nr_decisions: int
    nr_exact: int
    nr_reordered: int
    nr_learned: int
    nr_forced: int

    def headline(self) -> str:
        """Give the answer in one sentence."""
        parts = [f"{self.nr_exact:,} in the order of the trace"]
        parts += [f"{self.nr_reordered:,} once reordered"] if self.nr_reordered else []
        parts += [f"{self.nr_learned:,} once the start was learned"] if self.nr_learned else []
        how = f"are what the algorithm decides ({', '.join(parts)})"
        nr, forced = self.nr_decisions, self.nr_forced
        if not forced:
            return f"all {nr:,} placements {how}"
        return f"{nr - forced:,} of {nr:,} placements {how}; {forced:,} {'is' if forced == 1 else 'are'} not explained"


@dataclass(frozen=True, slots=True)
class Step(Rich):
    """A chunk that a request came to.

    Args:
        slot: its list; None for the reserved chunk.
        chunk: its name.
        off: offset it serves the request at; None if it refuses.
        why: it refuses, or how it serves.
    """

    slot: int | None
    chunk: str
    off: int | None
    why: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Explained(Answer):
    """One decision opened; the rows are the chunks the request came to, in that order.

    Args:
        row, line: of the trace; an early call has a negative row and no line.
        request: in words.
        first_slot: where the search began.
        decided, recorded: chunk and offset by the algorithm and in the trace; None for NULL.
        verdict: of the review.
    """

    row: int
    line: int | None
    request: str
    first_slot: int
    decided: tuple[int, int] | None
    recorded: tuple[int, int] | None
    verdict: str

    def headline(self) -> str:
        """Give the answer in one sentence."""
        place = f" (line {self.line:,})" if self.line else ""
        asked = f"{self.request} at row {self.row:,}{place}"
        return f"{asked}: recorded {_place(self.recorded)}, decided {_place(self.decided)}; {self.verdict}"


def _place(place: tuple[int, int] | None) -> str:
    return "NULL" if place is None else _at(chunk_label(place[0]), place[1])


def _at(chunk: str, off: int) -> str:
    return f"offset {off:,} of {chunk}"


def decisions(subject: Any) -> Decisions:
    """Say which decisions of a recording are those of the algorithm, and list those that are not.

    Args:
        subject: a Recording, which is reviewed first, or a Review.

    Raises:
        RequestError: the decisions could not be replayed.
    """
    whole = Subject.of(subject)
    review = _replayed(whole, "decisions")
    counts = review.counts
    inferred = ("which of several equivalent orders the decisions were made in",)
    certain = ("offsets, live bytes and fragmentation follow from the events alone",)
    return Decisions(
        rows=tuple(_groups(whole, review)), nr_decisions=counts["allocs"], nr_exact=counts["exact"],
        nr_reordered=counts["reordered"], nr_learned=counts["learned"], nr_forced=counts[_FORCED],
        certain=certain, inferred=inferred,
    )  # fmt: skip


def explain(subject: Any, row: int) -> Explained:
    """Open one decision: which chunks were tried in which order, and why each was refused.

    Args:
        subject: a Recording, which is reviewed first, or a Review.
        row: of an allocation or a failure in the trace; early calls have negative ones.

    Raises:
        RequestError: the row is no request, or the decisions could not be replayed.
    """
    whole = Subject.of(subject)
    found = _replayed(whole, "explain").explain(row)
    rows = tuple(
        Step(tried.slot if tried.slot >= 0 else None, chunk_label(tried.chunk), tried.off, tried.why)
        for tried in found.tried
    )
    return Explained(
        rows=rows, row=row, line=whole.line(row), request=found.request, first_slot=found.first_slot,
        decided=found.chosen, recorded=found.recorded, verdict=found.verdict,
        inferred=("the state before the decision is that of the model that replays the recorded calls",),
    )  # fmt: skip


def _replayed(whole: Subject, where: str) -> Review:
    review = whole.review
    if not review.is_reviewed:
        remedy = "open the folder of the recording, with dmesg.txt in it"
        raise RequestError(f"the decisions could not be replayed: {review.problem}", where=where, remedy=remedy)
    return review


def _groups(whole: Subject, review: Review) -> list[DecisionGroup]:
    from ..review import VERDICTS

    found = review.decisions
    groups = []
    for verdict in reversed(range(len(VERDICTS))):
        rows = np.flatnonzero(found.verdict == verdict)
        if VERDICTS[verdict] == _FORCED:
            groups += [_group(whole, _FORCED, _wanted(found, k), found.row[[k]]) for k in rows.tolist()]
            continue
        for cause in np.unique(found.cause[rows]).tolist():
            name = found.causes[cause]
            mine = found.row[rows[found.cause[rows] == cause]]
            groups.append(_group(whole, VERDICTS[verdict], _WORDS.get(name, name), mine))
    return groups


def _wanted(found: Any, k: int) -> str:
    """What the model wanted in place of a decision that is not explained."""
    chunk, off = int(found.predicted_chunk[k]), int(found.predicted_off[k])
    recorded = _at(chunk_label(int(found.chunk[k])), int(found.off[k]))
    wanted = "no place" if chunk == L.NO_CHUNK else _at(chunk_label(chunk), off)
    return f"recorded {recorded}, the model wants {wanted}"


def _group(whole: Subject, verdict: str, cause: str, rows: Any) -> DecisionGroup:
    first = int(rows[0])
    return DecisionGroup(verdict, cause, len(rows), first, whole.line(first))
