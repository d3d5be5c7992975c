"""What changed around a marker?

markers     |BEGIN netns        |SNAP       |END netns        |BEGIN bpf
phases      ├── BEGIN netns ────┼── SNAP ───┼── END netns ────┼── BEGIN bpf ...      each up to the next marker
around      ◀── before: as many rows ──┤ BEGIN netns ──▶ after: up to its END
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from ..core import layout as L
from ..plain import count
from ..rich import Rich
from ..units import format_bytes
from .answer import Answer
from .ledger import Ledger
from .subject import Subject


@dataclass(frozen=True, slots=True)
class Phase(Rich):
    """What happened from one marker to the next.

    Args:
        marker: its text; the start of the recording has none.
        line: of the file; None for the start.
        row: events before it.
        span_seconds: up to the next marker; None without a clock.
        nr_alloc, nr_free, nr_fail, nr_create, nr_destroy: events in it.
        live_change: areas more or less at its end, and
        live_change_bytes: their size on one CPU.
    """

    marker: str
    line: int | None
    row: int
    span_seconds: float | None
    nr_alloc: int
    nr_free: int
    nr_fail: int
    nr_create: int
    nr_destroy: int
    live_change: int
    live_change_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Phases(Answer):
    """The recording from marker to marker."""

    def headline(self) -> str:
        """Give the answer in one sentence."""
        if len(self.rows) < 2:
            return "the recording has no markers"
        most = max(self.rows[1:], key=lambda row: abs(row.live_change_bytes))
        change = _signed(most.live_change_bytes)
        return (
            f"{count(len(self.rows) - 1, 'marker')}; live bytes changed most behind {most.marker!r}: {change} per CPU"
        )


@dataclass(frozen=True, slots=True)
class SiteChange(Rich):
    """What a call site did before and behind a marker.

    Args:
        call_site: who allocated.
        before_alloc, before_free: areas allocated, and of its areas freed, in the rows before.
        after_alloc, after_free: likewise behind.
        live_change: areas it holds more or less at the end than at the marker, and
        live_change_bytes: their size on one CPU.
    """

    call_site: str
    before_alloc: int
    before_free: int
    after_alloc: int
    after_free: int
    live_change: int
    live_change_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Around(Answer):
    """What changed around a marker, by call site; the greatest change of live bytes first.

    Args:
        marker: its text.
        row: events before it.
        before, after: rows compared: [start, row) and [row, end).
        end_marker: what ends the rows behind it; empty for the end of the recording.
        live_change, live_change_bytes: of all call sites.
        peak_change: the most areas live on the way, more than at the marker.
        nr_fail, nr_create, nr_destroy: events behind the marker.
    """

    marker: str
    row: int
    before: tuple[int, int]
    after: tuple[int, int]
    end_marker: str
    live_change: int
    live_change_bytes: int
    peak_change: int
    nr_fail: int
    nr_create: int
    nr_destroy: int

    def headline(self) -> str:
        """Give the answer in one sentence."""
        until = f"until {self.end_marker!r}" if self.end_marker else "until the end"
        parts = [f"{self.live_change:+,} live areas ({_signed(self.live_change_bytes)} per CPU)"]
        parts += [f"{self.peak_change:+,} at most on the way"] if self.peak_change > max(self.live_change, 0) else []
        for nr, word in ((self.nr_create, "chunk made"), (self.nr_destroy, "chunk gone"), (self.nr_fail, "failure")):
            parts += [count(nr, word, word.replace("chunk", "chunks") if "chunk" in word else "")] if nr else []
        return f"from {self.marker!r} {until}: {', '.join(parts)}"


def phases(subject: Any) -> Phases:
    """Say what happened from marker to marker.

    >>> from percpu_lab.traces.read import read_trace_text
    >>> made = "percpu_create_chunk: base_addr=00000000118f8f08\\n"
    >>> [(row.marker, row.nr_create) for row in phases(read_trace_text(f"tracing_mark_write: go\\n{made}")).rows]
    [('(start)', 0), ('go', 1)]

    Args:
        subject: a Recording or a trace.

    Raises:
        RequestError: no events were kept.
    """
    whole = Subject.of(subject)
    whole.events("phases")
    ledger = whole.ledger
    markers = list(getattr(whole.trace, "markers", ()))
    starts = [("(start)", None, 0), *((marker.text, marker.line, marker.row) for marker in markers)]
    edges = [row for _, _, row in starts] + [ledger.nr_rows]
    live, live_bytes = _levels(ledger, edges)
    changes = zip(np.diff(live).tolist(), np.diff(live_bytes).tolist(), strict=True)
    rows = tuple(
        Phase(*begin, _span(ledger, start, end), *_event_counts(whole, start, end), *change)
        for begin, (start, end), change in zip(starts, pairwise(edges), changes, strict=True)
    )
    return Phases(rows=rows, **whole.notes())


def around(subject: Any, marker: str) -> Around:
    """Say what changed around a marker: behind it, until its END or the next marker, and as many rows before it.

    >>> from percpu_lab.traces.read import read_trace_text
    >>> made = "percpu_create_chunk: base_addr=00000000118f8f08\\n"
    >>> print(around(read_trace_text(f"tracing_mark_write: go\\n{made}"), "go").headline())
    from 'go' until the end: +0 live areas (0 B per CPU), 1 chunk made

    Args:
        subject: a Recording or a trace.
        marker: a text in the marker.

    Raises:
        RequestError: no marker has this text in it.
    """
    whole = Subject.of(subject)
    ledger, found = whole.ledger, whole.marker(marker)
    row = found.row
    end, end_marker = _end_of(whole, found)
    start = max(row - (end - row), 0)
    live, live_bytes = _levels(ledger, [row, end])
    _, _, nr_fail, nr_create, nr_destroy = _event_counts(whole, row, end)
    return Around(
        rows=_changes(ledger, start, row, end), marker=found.text, row=row, before=(start, row), after=(row, end),
        end_marker=end_marker, live_change=live[1] - live[0], live_change_bytes=live_bytes[1] - live_bytes[0],
        peak_change=_peak(whole, row, end) - live[0], nr_fail=nr_fail, nr_create=nr_create, nr_destroy=nr_destroy,
        **whole.notes(),
    )  # fmt: skip


def _end_of(whole: Subject, marker: Any) -> tuple[int, str]:
    """The END of a BEGIN, or the next marker behind some event, or the end of the recording."""
    later = [other for other in whole.trace.markers if other.line > marker.line]
    ends = [other for other in later if _is_end_of(other.text.split(), marker.text.split())]
    for other in ends or (other for other in later if other.row > marker.row):
        return other.row, other.text
    return whole.ledger.nr_rows, ""


def _is_end_of(words: list[str], begin: list[str]) -> bool:
    """Whether `END name` ends `BEGIN name more`."""
    if not words or not begin or not begin[0].endswith("BEGIN"):
        return False
    return words[0] == begin[0].removesuffix("BEGIN") + "END" and words[1:] == begin[1 : len(words)]


def _peak(whole: Subject, start: int, end: int) -> int:
    """The most areas live at any moment from one row to another."""
    rebuilt = whole.events("around")
    return int(rebuilt.counters.nr_live[rebuilt.position(start) : rebuilt.position(end) + 1].max())


def _levels(ledger: Ledger, moments: list[int]) -> tuple[list[int], list[int]]:
    """Live areas and their bytes at moments."""
    masks = [ledger.live_at(moment) for moment in moments]
    return [int(mask.sum()) for mask in masks], [int(ledger.size[mask].sum()) for mask in masks]


def _event_counts(whole: Subject, start: int, end: int) -> tuple[int, int, int, int, int]:
    """Allocations, frees, failures, creations and destructions."""
    codes = np.bincount(whole.trace.event[start:end], minlength=5).tolist()
    return codes[L.EVENT_ALLOC], codes[L.EVENT_FREE], codes[L.EVENT_FAIL], codes[L.EVENT_CREATE], codes[L.EVENT_DESTROY]


def _span(ledger: Ledger, start: int, end: int) -> float | None:
    if not len(ledger.seconds):
        return None
    first, last = ledger.second_of(np.array([start, end]))
    return float(last - first)


def _changes(ledger: Ledger, start: int, row: int, end: int) -> tuple[SiteChange, ...]:
    nr, code = len(ledger.site.names), ledger.site.code

    def counted(rows: Any, low: int, high: int, weights: Any = None) -> Any:
        chosen = (rows >= low) & (rows < high)
        return np.bincount(code[chosen], None if weights is None else weights[chosen], nr).astype(int)

    made, gone = counted(ledger.born, row, end), counted(ledger.died, row, end)
    change_bytes = counted(ledger.born, row, end, ledger.size) - counted(ledger.died, row, end, ledger.size)
    before = counted(ledger.born, start, row), counted(ledger.died, start, row)
    active = np.flatnonzero(before[0] + before[1] + made + gone)
    order = sorted(active.tolist(), key=lambda k: (-abs(change_bytes[k]), -made[k] - gone[k]))
    return tuple(
        SiteChange(ledger.site.names[k], int(before[0][k]), int(before[1][k]), int(made[k]), int(gone[k]),
                   int(made[k] - gone[k]), int(change_bytes[k]))
        for k in order
    )  # fmt: skip


def _signed(size_bytes: int) -> str:
    return f"{'+' if size_bytes > 0 else '-' if size_bytes < 0 else ''}{format_bytes(abs(size_bytes))}"
