"""The whole recording in ten lines: what it is, whether it can be trusted, what was decided, what stands out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..plain import count, format_seconds, one_line
from ..rebuild import Rebuilt
from ..rich import Rich
from ..units import format_bytes
from .answer import Answer
from .consistency import consistency
from .decided import decisions
from .leaks import leaks
from .subject import Subject
from .top import top
from .why_failed import failures

if TYPE_CHECKING:
    from ..review import Review


@dataclass(frozen=True, slots=True)
class Line(Rich):
    """One line of a verdict.

    Args:
        about: what it is about, in a word or two.
        text: the finding.
    """

    about: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Verdict(Answer):
    """A recording in ten lines.

    Args:
        name: of the recording.
    """

    name: str

    def headline(self) -> str:
        """Give the answer in one sentence."""
        return f"{self.name}: {self.rows[0].text}" if self.rows else self.name

    def text(self, limit: int = 12) -> str:
        """Write the lines for a terminal."""
        width = max(len(line.about) for line in self.rows)
        lines = [f"{line.about.ljust(width)}  {one_line(line.text)}" for line in self.rows[:limit]]
        return "\n".join([one_line(self.name), *lines])


def verdict(subject: Any) -> Verdict:
    """Say in ten lines what a recording shows; its decisions are reviewed for that.

    >>> from percpu_lab.traces.read import read_trace_text
    >>> print(verdict(read_trace_text("percpu_create_chunk: base_addr=00000000118f8f08\\n")).rows[0].text)
    1 event

    Args:
        subject: a Recording, a Review or a trace.
    """
    whole = Subject.of(subject)
    lines = [
        Line("kernel", _kernel(whole)),
        Line("recording", consistency(whole).headline()),
        *_decided(whole),
        Line("live at the end", _live(whole)),
        Line("holds the most", _most(whole)),
        Line("leaks", leaks(whole).headline()),
    ]
    name = whole.recording.name if whole.recording is not None else "trace"
    return Verdict(rows=tuple(lines), name=name)


def _kernel(whole: Subject) -> str:
    recording, info, seconds = whole.recording, whole.info, whole.ledger.seconds
    parts = [recording.release or "kernel unknown"] if recording is not None else []
    if info is not None:
        parts.append(f"{count(info.nr_cpus, 'CPU')}, unit {format_bytes(info.unit_size)}")
    parts.append(count(whole.ledger.nr_rows, "event"))
    if len(seconds):
        parts.append(f"over {format_seconds(float(seconds[-1] - seconds[0]))}")
    return ", ".join(parts)


def _decided(whole: Subject) -> list[Line]:
    if whole.recording is None:
        return []
    review = whole.review
    if not review.is_reviewed:
        found = failures(whole)
        failed = [Line("failures", found.headline())] if found.rows else []
        return [Line("decisions", f"not reviewed: {review.problem}"), *failed]
    lines = [Line("decisions", decisions(whole).headline())]
    if review.failures:
        lines.append(Line("failures", _failures(review)))
    if review.chunks:
        lines.append(Line("chunks", _chunks(review)))
    if review.checks:
        lines.append(Line("the kernel's own numbers", _checks(whole)))
    return lines


def _failures(review: Review) -> str:
    nr_explained = sum(failure.is_explained for failure in review.failures)
    reasons = Counter(failure.reason.split(":")[0] for failure in review.failures if failure.is_explained)
    why = ", ".join(f"{reason} {nr:,}" for reason, nr in reasons.most_common())
    return f"{count(len(review.failures), 'request')} failed, {nr_explained:,} explained" + (f": {why}" if why else "")


def _chunks(review: Review) -> str:
    parts = []
    for is_created, word in ((True, "created"), (False, "destroyed")):
        found = [chunk for chunk in review.chunks if chunk.is_created == is_created]
        parts.append(f"{len(found):,} {word} ({sum(chunk.is_foreseen for chunk in found):,} foreseen)")
    trusted = review.trusted_until
    until = "to the end" if trusted is None else f"until row {trusted:,}"
    known = f"page population known {until}" if trusted != 0 else "page population not certain"
    return f"{', '.join(parts)}; {known}"


def _checks(whole: Subject) -> str:
    review, parts = whole.review, []
    for kind, word in (("stats", "percpu_stats"), ("meminfo", "meminfo")):
        found = [check for check in review.checks if check.kind == kind]
        if found:
            parts.append(f"{sum(check.is_equal for check in found)} of {len(found)} readings of {word} equal the model")
    text = ", ".join(parts)
    if all(check.is_equal for check in review.checks) or review.recording.early is not None:
        return text
    return f"{text}; {whole.unseen()}"


def _live(whole: Subject) -> str:
    ledger = whole.ledger
    live = ledger.live_at(ledger.nr_rows)
    size = int(ledger.size[live].sum())
    text = f"{count(int(live.sum()), 'area')}, {format_bytes(size)} per CPU"
    if whole.info is not None:
        text += f", {format_bytes(size * whole.info.nr_cpus)} on {count(whole.info.nr_cpus, 'CPU')}"
    return f"{text}; {_peak(whole.rebuilt)}" if whole.rebuilt is not None else text


def _peak(rebuilt: Rebuilt) -> str:
    most = int(np.max(rebuilt.counters.live_bytes, initial=0))
    return f"at most {format_bytes(most)} per CPU at one time"


def _most(whole: Subject) -> str:
    rows = top(whole, whole.best_key).rows
    shown = [f"{row.who} {format_bytes(row.size_bytes)} ({row.share:.0%})" for row in rows[:3]]
    return ", ".join(shown) or "nobody"
