"""What changed between two percpu_stats files, two moments of a trace, two recordings or two runs?

percpu_stats     counters, then chunk by chunk: taken for the same where their numbers are nearest
all others       live areas and bytes, chunks; then call site by call site
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import RequestError
from ..plain import count
from ..rich import Rich
from ..stats import Findings, PercpuStats, StatsDiff
from ..stats import diff as diff_stats
from ..stats import lint as lint_stats
from ..units import format_bytes
from .answer import Answer
from .subject import At, Subject

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Moment(Rich):
    """A moment of a recording, as something to compare.

    Args:
        subject: a Recording, a trace or an Allocator.
        at: a row of its trace, or a text in a marker; None is the end.
    """

    subject: Any
    at: At = None


@dataclass(frozen=True, slots=True)
class Change(Rich):
    """A number before and after.

    Args:
        where: "total", "layout", the chunk, or the call site.
        what: the number.
        before, after: its values; None where there is none.
        change: how much more; None if one of the two is missing.
    """

    where: str
    what: str
    before: int | None
    after: int | None
    change: int | None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Difference(Answer):
    """What changed, the totals first.

    Args:
        nr_same: chunks or call sites in which nothing changed.
    """

    nr_same: int

    def headline(self) -> str:
        """Give the answer in one sentence."""
        if not self.rows:
            return "nothing changed"
        shown = [_sentence(row) for row in self.rows[:_SHOWN]]
        more = len(self.rows) - _SHOWN
        return ", ".join(shown) + (f"; {count(more, 'more change')}" if more > 0 else "")


def _sentence(row: Change) -> str:
    place = "" if row.where == "total" else f"{row.where} "
    return f"{place}{row.what} {_number(row.before)} -> {_number(row.after)}"


def _number(value: int | None) -> str:
    return "none" if value is None else f"{value:,}"


def diff(before: Any, after: Any) -> Difference:
    """Say what changed from one state to another.

    >>> from percpu_lab.allocator import Allocator
    >>> a, b = Allocator(), Allocator()
    >>> p = b.alloc_percpu(64)
    >>> print(diff(a, b).headline())
    areas 0 -> 1, bytes 0 -> 64, ? areas 0 -> 1; 1 more change

    Args:
        before, after: two PercpuStats or readings of it; or two of Recording, trace, Allocator and Moment.

    Raises:
        RequestError: only one of them is a percpu_stats.
    """
    stats = [_stats(side) for side in (before, after)]
    if stats[0] is not None and stats[1] is not None:
        return _of_stats(diff_stats(stats[0], stats[1]))
    if stats[0] is not None or stats[1] is not None:
        raise RequestError("a percpu_stats has no areas", where="diff", remedy="compare it with another percpu_stats")
    return _of_moments(*(side if isinstance(side, Moment) else Moment(side) for side in (before, after)))


def _stats(side: Any) -> PercpuStats | None:
    if isinstance(side, PercpuStats):
        return side
    found = getattr(side, "stats", None)
    return found if isinstance(found, PercpuStats) else None


def _of_stats(found: StatsDiff) -> Difference:
    rows = [Change("layout", c.label, c.before, c.after, c.change) for c in found.info]
    rows += [Change("total", c.label, c.before, c.after, c.change) for c in found.counters]
    for chunk in found.chunks:
        name = f"{chunk.kind} chunk {chunk.after if chunk.after is not None else chunk.before}"
        if chunk.before is None or chunk.after is None:
            here = chunk.after is not None
            rows.append(Change(name, "listed", int(not here), int(here), 1 if here else -1))
        rows += [Change(name, c.label, c.before, c.after, c.change) for c in chunk.changes]
    inferred = ["which chunk is which: percpu_stats names none, so those with the nearest numbers were paired"]
    if found.is_backwards or found.info:
        inferred.insert(0, "these are readings of two boots, or swapped: counters fell, or the layout differs")
    return Difference(rows=tuple(rows), nr_same=found.nr_same_chunks, inferred=tuple(inferred))


def _of_moments(before: Moment, after: Moment) -> Difference:
    sides = [_held(side) for side in (before, after)]
    rows = [
        Change("total", what, old, new, new - old)
        for what, old, new in zip(("areas", "bytes", "chunks"), sides[0][0], sides[1][0], strict=True)
        if old != new
    ]
    by_site = []
    for name in dict.fromkeys((*sides[0][1], *sides[1][1])):
        old, new = (side[1].get(name, (0, 0)) for side in sides)
        by_site.append(
            [
                Change(name, what, old[k], new[k], new[k] - old[k])
                for k, what in enumerate(("areas", "bytes"))
                if old[k] != new[k]
            ]
        )
    by_site.sort(key=lambda changes: -max((abs(row.change or 0) for row in changes), default=0))
    changed = [row for changes in by_site for row in changes]
    nr_same = sum(not changes for changes in by_site)
    notes = [Subject.of(side.subject).notes() for side in (before, after)]
    joined = {name: tuple(dict.fromkeys(notes[0][name] + notes[1][name])) for name in notes[0]}
    return Difference(rows=(*rows, *changed), nr_same=nr_same, **joined)


def _held(moment: Moment) -> tuple[tuple[int, int, int], dict[str, tuple[int, int]]]:
    """Live areas, bytes and chunks at a moment; areas and bytes by call site."""
    whole = Subject.of(moment.subject)
    ledger, live = whole.ledger, whole.ledger.live_at(whole.moment(moment.at))
    code, nr = ledger.site.code[live], len(ledger.site.names)
    areas, size = np.bincount(code, minlength=nr), np.bincount(code, ledger.size[live], nr)
    by_site = {name: (int(areas[k]), int(size[k])) for k, name in enumerate(ledger.site.names) if areas[k]}
    nr_chunks = len(whole.snapshot(moment.at).chunks)
    return (int(live.sum()), int(ledger.size[live].sum()), nr_chunks), by_site


@dataclass(frozen=True, slots=True)
class Broken(Rich):
    """A rule of percpu_stats that does not hold.

    Args:
        rule: its name.
        severity: "error" if numbers contradict each other, "warning" if the file does not show all.
        chunk: block of the file; None for the whole.
        text: what contradicts what.
    """

    rule: str
    severity: str
    chunk: int | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Lint(Answer):
    """Whether the numbers of a percpu_stats agree with each other.

    Args:
        nr_live, nr_chunks, free_bytes: what the file says, of listed chunks.
    """

    nr_live: int
    nr_chunks: int
    free_bytes: int

    def headline(self) -> str:
        """Give the answer in one sentence."""
        what = f"{count(self.nr_live, 'live area')}, {count(self.nr_chunks, 'chunk')} listed"
        free = f"{format_bytes(self.free_bytes)} free in them"
        if not self.rows:
            return f"{what}, {free}: the numbers agree with each other"
        return f"{what}, {free}: {count(len(self.rows), 'finding')}: {self.rows[0].text}"


def lint(stats: Any) -> Lint:
    """Check the conservation laws of one percpu_stats.

    >>> from percpu_lab.allocator import Allocator
    >>> print(lint(Allocator().stats()).headline())
    0 live areas, 2 chunks listed, 36 KiB free in them: the numbers agree with each other

    Args:
        stats: a PercpuStats or a reading of it.

    Raises:
        RequestError: it is none.
    """
    found = _stats(stats)
    if found is None:
        raise RequestError(f"{type(stats).__name__} is no percpu_stats", where="lint", remedy="give PercpuStats")
    findings: Findings = lint_stats(found)
    rows = tuple(Broken(one.rule, one.severity, one.chunk, one.text) for one in findings)
    free = sum(chunk.free_bytes for chunk in found.chunks)
    return Lint(rows=rows, nr_live=found.global_stats.nr_cur_alloc, nr_chunks=len(found.chunks), free_bytes=free)
