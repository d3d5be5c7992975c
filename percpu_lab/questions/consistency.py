"""Can the recording itself be trusted?

damage    events lost, frees without allocation, memory handed out twice, two boots     answers may be wrong
note      clocks that step back, phases without an end, lines that were skipped         good to know
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..plain import count, format_seconds
from ..rich import Rich
from ..traces.recording import CHOSEN_ADDRESSES
from .answer import Answer
from .subject import Subject

Weight = Literal["damage", "note"]
# remarks of the readers that say that events are missing, or are not of one run
_DAMAGE = (
    "another boot", "boots", "damaged", "header", "incomplete", "left out", "limit", "mix", "payload", "release",
    "ring", "unreadable",
)  # fmt: skip
_UNMATCHED = "unmatched frees"
# remarks that say that less, or more, than one recording was read, and how the answer says so; {} is the place
_ENDS = {
    "mix": "the file holds more than one recording, and only the first was read, before {}",
    "boots": "the file holds events of more than one boot, another from {}; all were read as one",
    "damaged": "a file is damaged, and only what stands before {} was read",
    "limit": "more than the limit allows, and only those before {} were kept",
    "incomplete": "the header ({}) tells of more entries than there are",
    "cut": "{} may be cut, and what followed it be missing",
}
_OWN = ("time", "twice")  # steps of the clock and lost frees are counted here, all of them


@dataclass(frozen=True, slots=True)
class Finding(Rich):
    """One thing that is odd about a recording.

    Args:
        weight: damage, if answers may be wrong; else note.
        kind: in a word or two.
        nr: how often.
        file: in the folder, where it is not the trace that the question is about; else None.
        line: of the file, where it was first seen; None if it has none.
        text: what it is.
    """

    weight: Weight
    kind: str
    nr: int
    file: str | None
    line: int | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Consistency(Answer):
    """What is odd about a recording, damage first.

    Args:
        nr_events: events of the trace.
        nr_lost: events that the trace, or the statistics of its ring, report lost.
    """

    nr_events: int
    nr_lost: int

    @property
    def is_sound(self) -> bool:
        """Whether nothing was found that makes answers wrong."""
        return not any(row.weight == "damage" for row in self.rows)

    def headline(self) -> str:
        """Give the answer in one sentence."""
        events = count(self.nr_events, "event")
        ends = [_ENDS[row.kind].format(_place(row)) for row in self.rows if row.kind in _ENDS and row.line]
        events = "; ".join([events, *dict.fromkeys(ends)])
        if self.is_sound:
            older = sum(row.nr for row in self.rows if row.kind == _UNMATCHED)
            before = f"; {count(older, 'free')} of areas from before it" if older else ""
            if ends:
                return f"{events}; what was read is consistent{before}"
            return f"{events}, nothing missing that shows: the recording is consistent{before}"
        kinds = ", ".join(f"{row.nr:,} {row.kind}" for row in self.rows if row.weight == "damage")
        return f"{events}{';' if ends else ', and'} damage: {kinds}"


def _place(row: Finding) -> str:
    return f"line {row.line:,}" if row.file is None else f"line {row.line:,} of {row.file}"


def consistency(subject: Any) -> Consistency:
    """Say what is missing, contradictory or strange in a recording.

    >>> from percpu_lab.traces.read import read_trace_text
    >>> trace = read_trace_text("percpu_free_percpu: base_addr=00000000118f8f08 off=64 ptr=00000000757e4265\\n")
    >>> print(consistency(trace).headline())
    1 event, nothing missing that shows: the recording is consistent; 1 free of areas from before it

    Args:
        subject: a Recording or a trace.

    Raises:
        RequestError: no events were kept.
    """
    whole = Subject.of(subject)
    trace = whole.events("consistency").trace
    found = [
        *_lost(trace),
        *_contradictions(whole),
        *_layout(whole),
        *_clock(whole),
        *_phases(trace),
        *_oddities(whole),
    ]
    found.sort(key=lambda row: (row.weight != "damage", -row.nr))
    nr_lost = trace.lost
    certain = ("frees fire under the allocator's lock, so each must find its allocation before it",)
    silent = "events can be lost without a trace of it, such as when the ring is resized"
    assumed = whole.recording.assumptions if whole.recording is not None else ()
    inferred = (silent, *(f"assumed: {text}" for text in assumed if text != CHOSEN_ADDRESSES))
    return Consistency(rows=tuple(found), nr_events=len(trace), nr_lost=nr_lost, certain=certain, inferred=inferred)


def _lost(trace: Any) -> Iterator[Finding]:
    by_how: dict[str, list[Any]] = {}
    for loss in getattr(trace, "losses", ()):
        by_how.setdefault(loss.how, []).append(loss)
    for how, losses in by_how.items():
        nr = sum(loss.nr_events or 0 for loss in losses)
        places = count(len(losses), "place")
        yield Finding("damage", "events lost", nr, None, losses[0].line, f"the trace says so in {places} ({how})")


def _contradictions(whole: Subject) -> Iterator[Finding]:
    rebuilt, trace = whole.events("consistency"), whole.trace
    chunks = rebuilt.chunks
    cases = (
        (rebuilt.unmatched_frees, _UNMATCHED, "their areas were allocated before the recording, or unseen"),
        (rebuilt.lost_frees.row, "lost frees", "memory was handed out again, or its chunk destroyed, before its free"),
        (rebuilt.lost_destroys, "lost destructions", "a chunk appeared at an address where another still stood"),
        (chunks.created[chunks.is_creation_lost], "lost creations", "a chunk is used that was never created"),
    )
    for rows, kind, text in cases:
        if len(rows):
            weight: Weight = "note" if kind == _UNMATCHED and not trace.lost else "damage"
            yield Finding(weight, kind, len(rows), None, whole.line(int(rows[0])), text)


def _layout(whole: Subject) -> Iterator[Finding]:
    rows = whole.events("consistency").outside_rows
    if len(rows):
        text = "areas that no kernel hands out: their lines are damaged; they were left out"
        yield Finding("damage", "outside", len(rows), None, whole.line(int(rows[0])), text)
    if whole.info is not None and whole.guess:
        yield Finding("damage", "another layout", 1, None, None, f"{whole.guess}: is it of another boot?")


def _clock(whole: Subject) -> Iterator[Finding]:
    trace = whole.trace
    digits = getattr(trace, "time_digits", None)
    if not digits or len(trace) < 2:
        return
    step = np.diff(trace.time) / 10.0**digits
    back = np.flatnonzero(step < 0)
    if len(back):
        text = f"clocks of the CPUs differ, by {format_seconds(-float(step.min()))} at most; file order is kept"
        yield Finding("note", "steps back", len(back), None, whole.line(int(back[0]) + 1), text)


def _phases(trace: Any) -> Iterator[Finding]:
    open_: Counter[str] = Counter()
    for marker in getattr(trace, "markers", ()):
        word, _, rest = marker.text.partition(" ")
        name = f"{word.removesuffix('BEGIN').removesuffix('END')}{rest.split(' ')[0]}"
        if word.endswith("BEGIN"):
            open_[name] += 1
        elif word.endswith("END") and open_[name]:
            open_[name] -= 1
    left = [name for name, nr in open_.items() if nr]
    if left:
        yield Finding(
            "note", "phases open", len(left), None, None, f"markers with BEGIN but no END: {', '.join(left[:5])}"
        )


def _oddities(whole: Subject) -> Iterator[Finding]:
    by_kind: dict[str, list[Any]] = {}
    found = whole.recording.oddities if whole.recording is not None else getattr(whole.trace, "oddities", ())
    for oddity in found:
        by_kind.setdefault(oddity.kind, []).append(oddity)
    for kind in _OWN:
        by_kind.pop(kind, None)
    for kind, oddities in by_kind.items():
        weight: Weight = "damage" if kind in _DAMAGE else "note"
        first = oddities[0]
        yield Finding(weight, kind, len(oddities), getattr(first, "file", None), first.line, first.text)
