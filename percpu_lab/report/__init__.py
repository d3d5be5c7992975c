"""One page about a recording: the verdict, pictures, answers and odd lines. It needs nothing but a browser.

Review ──▶ Subject ──▶ a Section a question ──▶ page.html (Jinja2, everything escaped)
           RecordedRun ──▶ views, drawn once, as PNG within the page
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import questions as q
from ..plain import count, format_seconds, one_line
from ..questions import Answer, Subject

if TYPE_CHECKING:
    from ..views.static import Picture

_ROWS = 12
_ODD_LINES = 200
_KINDS_OF_FAILURE = 3
_DPI = 90


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page: a question, and what answers it.

    Args:
        anchor: its name within the page.
        question: in words.
        answer: of percpu_lab.questions.
        picture: PNG in base 64; empty without one.
        more: command that shows all of it.
    """

    anchor: str
    question: str
    answer: Answer
    picture: str
    more: str


@dataclass(frozen=True, slots=True)
class View:
    """A picture of the areas.

    Args:
        title: what it shows.
        picture: PNG in base 64.
    """

    title: str
    picture: str


def report(subject: Any) -> str:
    """Write the page about a recording, as HTML.

    Args:
        subject: a Recording or a Review of one.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    whole = Subject.of(subject)
    environment = Environment(
        loader=PackageLoader("percpu_lab", "report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, finalize=_visible,
    )  # fmt: skip
    return environment.get_template("page.html").render(
        verdict=q.verdict(whole),
        sections=list(_sections(whole)),
        views=list(_views(whole)),
        odd_lines=list(_odd_lines(whole)),
        nr_odd=len(_oddities(whole)),
        rows=_ROWS,
    )


def _visible(value: Any) -> Any:
    """Let text show what would move a cursor; jinja2 escapes it then."""
    return one_line(value) if isinstance(value, str) and not value.isprintable() else value


def _sections(whole: Subject) -> Iterator[Section]:
    asked: Sequence[tuple[str, str, Callable[[Subject], Answer], str]] = (
        ("trust", "Can the recording be trusted?", q.consistency, "consistency PATH"),
        ("top", "Who holds the most at the end?", partial(q.top, by=whole.best_key), "top PATH"),
        (
            "ever",
            "Who asked for the most, freed or not?",
            partial(q.top, by=whole.best_key, live=False),
            "top PATH --all",
        ),
        ("leaks", "Who leaks, and what is only backlog?", q.leaks, "leaks PATH"),
        ("lifetimes", "Who asks for memory only to give it back at once?", q.lifetimes, "lifetimes PATH"),
        ("failures", "Which requests failed, and why?", q.failures, "failures PATH; why-failed PATH ROW"),
        ("waste", "What is lost to rounding, alignment, holes and empty pages?", q.waste, "waste PATH"),
        ("cost", "What would it cost on other numbers of CPUs?", q.cost, "cost PATH --cpus N"),
        ("reserved", "What does the reserved chunk hold?", q.reserved, "reserved PATH"),
        ("phases", "What happened from marker to marker?", q.phases, "phases PATH; around PATH MARKER"),
    )
    for anchor, question, ask, more in asked:
        yield _section(anchor, question, ask(whole), more)
    if whole.recording is not None and whole.review.is_reviewed:
        title = "Are the decisions those of the algorithm?"
        yield _section("decisions", title, q.decisions(whole), "decisions PATH; explain PATH ROW")
        yield _section("slots", "Which chunks stand in which slot?", q.slots(whole), "slots PATH --at WHEN")
    for row in _failed_rows(whole):
        question = f"Why did the request at row {row:,} fail?"
        yield _section(f"row{row}", question, q.why_failed(whole, row), f"why-failed PATH {row}")
    for chunk in _pinned_chunks(whole):
        question = f"Why is chunk {chunk} not freed?"
        yield _section(f"chunk{chunk}", question, q.why_not_freed(whole, chunk), f"why-not-freed PATH {chunk}")
    readings = whole.recording.stats if whole.recording is not None else ()
    if readings:
        title = f"Do the numbers of percpu_stats agree with each other ({readings[-1].file})?"
        yield _section("lint", title, q.lint(readings[-1]), "stats FILE")
    if len(readings) > 1:
        title = f"What changed from {readings[0].file} to {readings[-1].file}?"
        yield _section("diff", title, q.diff(readings[0], readings[-1]), "stats FILE FILE2")


def _section(anchor: str, question: str, answer: Answer, more: str) -> Section:
    return Section(anchor, question, answer, _png(answer.picture()), more)


def _failed_rows(whole: Subject) -> list[int]:
    """The first failure of each of the most frequent kinds, of each reason one."""
    first: dict[str, int] = {}
    for group in q.failures(whole).rows:
        if group.first_row is not None:
            first.setdefault(group.reason, group.first_row)
    return list(first.values())[:_KINDS_OF_FAILURE]


def _pinned_chunks(whole: Subject) -> list[int]:
    """Chunks made while the machine ran that are still there at the end; the three with the most free space."""
    chunks = whole.snapshot().chunks
    plain = np.flatnonzero(chunks.ordinal > 0)
    order = plain[np.argsort(-chunks.free_bytes[plain], kind="stable")]
    return [int(ordinal) for ordinal in chunks.ordinal[order[:3]]]


def _views(whole: Subject) -> Iterator[View]:
    """The three views at the end, and the area map when most was live."""
    from ..columns import take
    from ..recorded_run import RecordedRun
    from ..views.static import picture

    if whole.recording is None or whole.rebuilt is None:
        return
    run = RecordedRun.of(whole.recording)
    yield View("At the end of the recording", _png(picture(take(run))))
    counters = whole.rebuilt.counters.live_bytes[-len(whole.trace) - 1 :]
    peak = int(np.argmax(counters))
    if peak < len(whole.trace):
        run.seek(int(whole.trace.op[peak]))
        when = _when(whole, peak)
        yield View(f"When most was live: before row {peak:,}{when}", _png(picture(take(run), ["area_map"])))


def _when(whole: Subject, row: int) -> str:
    seconds = whole.ledger.seconds
    if not len(seconds):
        return ""
    return f", {format_seconds(float(seconds[row] - seconds[0]))} after the first event"


def _png(picture: Picture | None) -> str:
    if picture is None:
        return ""
    file = io.BytesIO()
    picture.figure.savefig(file, format="png", dpi=_DPI, facecolor="white")
    return base64.b64encode(file.getvalue()).decode("ascii")


def _oddities(whole: Subject) -> list[Any]:
    return list(whole.recording.oddities if whole.recording is not None else getattr(whole.trace, "oddities", ()))


def _odd_lines(whole: Subject) -> Iterator[tuple[str, str, str]]:
    """File and line, kind, and text of what was skipped, lost or strange."""
    for oddity in _oddities(whole)[:_ODD_LINES]:
        file = getattr(oddity, "file", "trace")
        place = f"{file} line {oddity.line:,}" if oddity.line else str(file)
        yield place, oddity.kind, oddity.text
    for loss in getattr(whole.trace, "losses", ())[:_ODD_LINES]:
        nr = "an unknown number of events" if loss.nr_events is None else count(loss.nr_events, "event")
        yield f"trace line {loss.line:,}", "lost", f"{nr} ({loss.how})"
