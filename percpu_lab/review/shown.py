"""What a notebook shows of a review: what the algorithm explains, what it was compared with, and what is left open.

decisions       380: 379 exact, 1 reordered
failures        740: 740 explained
chunks          12 created, 11 destroyed: 23 foreseen
readings        16 of 16 equal in all 712 fields
pages           known to the end
open            what is not explained, the first of each kind with its row
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from ..core import layout as L
from ..plain import count
from .verdicts import FORCED, VERDICTS

if TYPE_CHECKING:
    from .result import Decisions, Review

__all__ = ["decision_rows", "review_rows"]

_ROWS = 5  # rows of the trace that are named
_HEADS = ("row", "verdict", "cause", "chunk", "offset", "predicted chunk", "predicted offset")


def review_rows(review: Review) -> Iterator[tuple[str, object]]:
    """Give the rows of the table: name and value."""
    yield "recording", repr(review.recording)
    yield "decided by", review.kernel
    yield "decisions", review.text().replace(" decisions:", ":") if review.is_reviewed else review.text()
    if not review.is_reviewed:
        return
    yield from _outcomes(review)
    yield from _readings(review)
    until = review.trusted_until
    yield "populated pages", "known to the end" if until is None else f"known up to row {until:,}"
    yield from (("left open", text) for text in _left_open(review) or ["nothing"])


def decision_rows(decisions: Decisions) -> tuple[Sequence[str], Iterable[Sequence[object]], int]:
    """Give the table of the decisions: heads, rows as far as they are wanted, and how many there are."""
    return _HEADS, (_decision(decisions, k) for k in range(len(decisions))), len(decisions)


def _decision(decisions: Decisions, k: int) -> Sequence[object]:
    columns = (decisions.chunk, decisions.off, decisions.predicted_chunk, decisions.predicted_off)
    chunk, off, wanted_chunk, wanted_off = (int(column[k]) for column in columns)
    wanted = ("none", "-") if wanted_chunk == L.NO_CHUNK else (_chunk(wanted_chunk), wanted_off)
    verdict, cause = VERDICTS[int(decisions.verdict[k])], decisions.causes[int(decisions.cause[k])]
    return int(decisions.row[k]), verdict, cause, _chunk(chunk), off, *wanted


def _chunk(ordinal: int) -> str:
    return {-1: "reserved", 0: "first", L.NO_CHUNK: "unknown"}.get(ordinal, str(ordinal))


def _outcomes(review: Review) -> Iterator[tuple[str, object]]:
    failures, chunks = review.failures, review.chunks
    if failures:
        nr_explained = sum(failure.is_explained for failure in failures)
        yield "failures", f"{count(len(failures), 'request')} failed: {nr_explained:,} explained"
    if chunks:
        nr_created = sum(chunk.is_created for chunk in chunks)
        nr_foreseen = sum(chunk.is_foreseen for chunk in chunks)
        text = f"{nr_created:,} created, {len(chunks) - nr_created:,} destroyed: {nr_foreseen:,} foreseen"
        yield "chunks", text


def _readings(review: Review) -> Iterator[tuple[str, object]]:
    for kind in ("stats", "meminfo"):
        checks = [check for check in review.checks if check.kind == kind]
        if not checks:
            continue
        equal = sum(check.is_equal for check in checks)
        fields = sum(check.nr_fields for check in checks)
        name = "percpu_stats" if kind == "stats" else "meminfo"
        yield name, f"{equal:,} of {count(len(checks), 'reading')} equal the model, {count(fields, 'field')} in all"


def _left_open(review: Review) -> list[str]:
    """Say what the model does not explain; empty if it explains all."""
    forced = review.decisions.where(FORCED).tolist()
    failed = [failure.row for failure in review.failures if not failure.is_explained]
    unforeseen = [chunk.row for chunk in review.chunks if not chunk.is_foreseen]
    differ = [each for check in review.checks for each in check.differences]
    unexplained = [str(each) for each in differ if not each.why]
    unplaced = [check.file for check in review.checks if check.row is None]
    parts = (
        ("placement", forced, ", ".join(f"{cause} {nr:,}" for cause, nr in review.forced_causes().items())),
        ("failure", failed, ""),
        ("chunk made or gone unforeseen", unforeseen, ""),
    )
    texts = [_rows(what, rows, why) for what, rows, why in parts if rows]
    texts += [f"{count(len(unplaced), 'reading')} that the model never matches: {_first(unplaced)}"] if unplaced else []
    texts += [f"{count(len(unexplained), 'field')} of readings: {_first(unexplained)}"] if unexplained else []
    nr_explained = len(differ) - len(unexplained)
    texts += [f"{count(nr_explained, 'field')} of readings differ for a known reason"] if nr_explained else []
    return texts


def _rows(what: str, rows: Sequence[int], why: str) -> str:
    plural = {"chunk made or gone unforeseen": "chunks made or gone unforeseen"}.get(what, "")
    shown = _first([f"{row:,}" for row in rows])
    return f"{count(len(rows), what, plural)}, row{'s' * (len(rows) > 1)} {shown}{f' ({why})' if why else ''}"


def _first(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - _ROWS:,} more" if len(texts) > _ROWS else ""
    return ", ".join(texts[:_ROWS]) + more
