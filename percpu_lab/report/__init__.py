"""One page about a recording: the verdict, pictures, answers and odd lines. It needs nothing but a browser.

Review ──▶ Subject ──▶ a Section a question ──▶ page.html (Jinja2, everything escaped)
           RecordedRun ──▶ views, drawn once, as PNG within the page

What cannot be answered or drawn leaves its error in its place, and the rest of the page as it is.
"""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import questions as q
from ..errors import LabError
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
        more: command that shows all of it.
        answer: of percpu_lab.questions; None if the question could not be answered.
        picture: PNG in base 64; empty without one.
        problem: why there is no answer, or no picture.
    """

    anchor: str
    question: str
    more: str
    answer: Answer | None = None
    picture: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """The page, and what of it could not be made.

    Args:
        html: all of it.
        problems: a line for each question without an answer; they stand in the page, too.
    """

    html: str
    problems: tuple[str, ...]


def report(subject: Any) -> Page:
    """Write the page about a recording, as HTML; a question that cannot be answered leaves the others alone.

    Args:
        subject: a Recording or a Review of one.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    whole = Subject.of(subject)
    environment = Environment(
        loader=PackageLoader("percpu_lab", "report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, finalize=_visible,
    )  # fmt: skip
    verdict = _made(("verdict", "What does the recording show?", partial(q.verdict, whole), "review PATH"))
    sections = [_made(asked) for asked in _asked(whole)]
    views = _views(whole)
    html = environment.get_template("page.html").render(
        name=whole.recording.name if whole.recording is not None else "trace",
        verdict=verdict,
        sections=sections,
        views=views,
        odd_lines=list(_odd_lines(whole)),
        nr_odd=len(_oddities(whole)),
        rows=_ROWS,
    )
    parts = [(part.question, part.problem) for part in (verdict, *sections)]
    parts += [(view.question, view.problem) for view in views]
    return Page(html, tuple(f"{question} {problem}" for question, problem in parts if problem))


def _visible(value: Any) -> Any:
    """Let text show what would move a cursor; jinja2 escapes it then."""
    return one_line(value) if isinstance(value, str) and not value.isprintable() else value


_Asked = tuple[str, str, Callable[[], Answer], str]  # anchor, question, what answers it, command


def _asked(whole: Subject) -> Iterator[_Asked]:
    """Walk the questions of the page."""
    key = whole.best_key
    yield "trust", "Can the recording be trusted?", partial(q.consistency, whole), "consistency PATH"
    yield "top", "Who holds the most at the end?", partial(q.top, whole, key), "top PATH"
    ever = partial(q.top, whole, key, live=False)
    yield "ever", "Who asked for the most, freed or not?", ever, "top PATH --all"
    yield "leaks", "Who leaks, and what is only backlog?", partial(q.leaks, whole), "leaks PATH"
    short = "Who asks for memory only to give it back at once?"
    yield "lifetimes", short, partial(q.lifetimes, whole), "lifetimes PATH"
    failed = "Which requests failed, and why?"
    yield "failures", failed, partial(q.failures, whole), "failures PATH; why-failed PATH ROW"
    lost = "What is lost to rounding, alignment, holes and empty pages?"
    yield "waste", lost, partial(q.waste, whole), "waste PATH"
    cost = "What would it cost on other numbers of CPUs?"
    yield "cost", cost, partial(q.cost, whole), "cost PATH --cpus N"
    yield "reserved", "What does the reserved chunk hold?", partial(q.reserved, whole), "reserved PATH"
    phases = "What happened from marker to marker?"
    yield "phases", phases, partial(q.phases, whole), "phases PATH; around PATH MARKER"
    yield from _asked_of_model(whole)
    yield from _asked_of_one(whole)
    yield from _asked_of_readings(whole)


def _asked_of_model(whole: Subject) -> Iterator[_Asked]:
    """Walk the questions that need the model of a review."""
    if whole.recording is not None and whole.review.is_reviewed:
        title = "Are the decisions those of the algorithm?"
        yield "decisions", title, partial(q.decisions, whole), "decisions PATH; explain PATH ROW"
        yield "slots", "Which chunks stand in which slot?", partial(q.slots, whole), "slots PATH --at WHEN"


def _asked_of_one(whole: Subject) -> Iterator[_Asked]:
    """Walk the questions about single failures and chunks."""
    for row in _or_none(_failed_rows, whole):
        question = f"Why did the request at row {row:,} fail?"
        yield f"row{row}", question, partial(q.why_failed, whole, row), f"why-failed PATH {row}"
    for chunk in _or_none(_pinned_chunks, whole):
        question = f"Why is chunk {chunk} not freed?"
        yield f"chunk{chunk}", question, partial(q.why_not_freed, whole, chunk), f"why-not-freed PATH {chunk}"


def _asked_of_readings(whole: Subject) -> Iterator[_Asked]:
    """Walk the questions about percpu_stats."""
    readings = whole.recording.stats if whole.recording is not None else ()
    if readings:
        title = f"Do the numbers of percpu_stats agree with each other ({readings[-1].file})?"
        yield "lint", title, partial(q.lint, readings[-1]), "stats FILE"
    if len(readings) > 1:
        title = f"What changed from {readings[0].file} to {readings[-1].file}?"
        yield "diff", title, partial(q.diff, readings[0], readings[-1]), "stats FILE FILE2"


def _made(asked: _Asked) -> Section:
    """Answer a question of the page; its error costs no more than its own place."""
    anchor, question, ask, more = asked
    section = Section(anchor, question, more)
    try:
        section = replace(section, answer=ask())
        return replace(section, picture=_png(section.answer.picture() if section.answer else None))
    except LabError as error:
        return replace(section, problem=str(error))


def _or_none(find: Callable[[Subject], list[int]], whole: Subject) -> list[int]:
    """Find what is asked about one by one; nothing where the question about all of them has no answer either."""
    try:
        return find(whole)
    except LabError:
        return []


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


def _drawn(whole: Subject) -> Iterator[tuple[str, Callable[[], Picture]]]:
    """The three views at the end, and the area map when most was live."""
    from ..columns import take
    from ..recorded_run import RecordedRun
    from ..views.static import picture

    if whole.recording is None or whole.rebuilt is None:
        return
    run = RecordedRun.of(whole.recording)
    yield "At the end of the recording", lambda: picture(take(run))
    counters = whole.rebuilt.counters.live_bytes[-len(whole.trace) - 1 :]
    peak = int(np.argmax(counters))
    if peak < len(whole.trace):

        def at_peak() -> Picture:
            run.seek(int(whole.trace.op[peak]))
            return picture(take(run), ["area_map"])

        yield f"When most was live: before row {peak:,}{_when(whole, peak)}", at_peak


def _views(whole: Subject) -> list[Section]:
    try:
        return [_view(*drawn) for drawn in _drawn(whole)]
    except LabError as error:
        return [Section("views", "Where the areas lie", "", problem=str(error))]


def _view(title: str, draw: Callable[[], Picture]) -> Section:
    """Draw a picture of the areas; its error costs no more than its own place."""
    try:
        return Section("views", title, "", picture=_png(draw()))
    except LabError as error:
        return Section("views", title, "", problem=str(error))


def _when(whole: Subject, row: int) -> str:
    seconds = whole.ledger.seconds
    if not len(seconds):
        return ""
    return f", {format_seconds(float(seconds[row] - seconds[0]))} after the first event"


def _png(picture: Picture | None) -> str:
    if picture is None:
        return ""
    file = io.BytesIO()
    with warnings.catch_warnings():
        # names in a trace may have letters that no font has; the warning would carry them to the terminal
        warnings.filterwarnings("ignore", r"Glyph \d+", UserWarning)
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
