"""Who leaks, and what is only backlog?

live areas of a call site over the trace, in eighths; the lowest level of each

grows     2  4  5  8  9 11 14 16     never falls, and rises to the end: may be a leak
backlog   0  0  3  0  1  0  0  0     was low again lately: frees come late, but they come
kept      5  5  5  5  5  5  5  5     made once, and held
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..plain import count
from ..rich import Rich
from ..units import format_bytes
from .answer import Answer
from .ledger import Bools, Floats, Ints, Ledger, is_before_tracing
from .subject import At, Notes, Subject

if TYPE_CHECKING:
    from ..views.static import Picture

Verdict = Literal["grows", "kept", "backlog", "before tracing"]
_ORDER: tuple[Verdict, ...] = ("grows", "kept", "backlog", "before tracing")
_NR_PARTS = 8
_LEAST_RISES = 5
_LEAST_AREAS = 4
_LEAST_SHARE = 0.25  # of the growth in the second half of the time: what is set up at the start comes before


@dataclass(frozen=True, slots=True)
class Suspect(Rich):
    """What a call site still holds, and how it came to that.

    Args:
        who: the call site, or the task where call sites say nothing.
        verdict: grows, kept, backlog, or before tracing.
        nr_live, live_bytes: areas at the end, and their size on one CPU.
        oldest_seconds, median_seconds: their age; None without a clock.
        growth: areas gained between the lowest level of the first eighth and that of the last.
        lows: lowest level in each eighth of the time since the first allocation; of the events without a clock.
    """

    who: str
    verdict: Verdict
    nr_live: int
    live_bytes: int
    oldest_seconds: float | None
    median_seconds: float | None
    growth: int
    lows: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Leaks(Answer):
    """Call sites with live areas: those that grow first.

    Args:
        moment: the row of the trace they were looked at.
        curves: live areas over the rows of those that grow: names, rows, levels.
    """

    moment: int
    curves: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = ()

    def growing(self) -> tuple[Suspect, ...]:
        """Give the call sites that grow."""
        return tuple(row for row in self.rows if row.verdict == "grows")

    def headline(self) -> str:
        """Give the answer in one sentence."""
        growing = self.growing()
        if not growing:
            backlog = sum(row.nr_live for row in self.rows if row.verdict == "backlog")
            late = f"; {count(backlog, 'live area')} look like backlog: lately there were half as many"
            return f"nobody holds more and more{late if backlog else ''}"
        first = growing[0]
        held = f"{count(first.nr_live, 'live area')}, {format_bytes(first.live_bytes)} per CPU"
        others = f", and {len(growing) - 1} more" if len(growing) > 1 else ""
        return f"{first.who} holds more and more ({held}){others}"

    def picture(self) -> Picture | None:
        """Draw the live areas of the call sites that grow, or hold most."""
        from .pictures import steps

        return steps("Live areas over the trace", self.curves, "row of the trace", "live areas")


def leaks(subject: Any, *, at: At = None, older_than: float = 0.0) -> Leaks:
    """Tell who holds more and more from who keeps a level, and from backlog.

    By call site; by task on kernels whose call sites say nothing.

    >>> from percpu_lab.allocator import Allocator
    >>> a = Allocator()
    >>> kept = [a.alloc_percpu(64) for _ in range(100)]
    >>> print(leaks(a).headline())
    ? holds more and more (100 live areas, 6.2 KiB per CPU)

    Args:
        subject: a Recording, a trace, or an Allocator.
        at: the moment, as a row of the trace or a text in a marker; the end by default.
        older_than: seconds; younger areas are not counted.
    """
    whole = Subject.of(subject)
    ledger, moment = whole.ledger, whole.moment(at)
    live = ledger.live_at(moment)
    age = ledger.age_at(moment)
    if older_than:
        live &= age >= older_than
    old = live & is_before_tracing(ledger.born)
    found = [_before_tracing(ledger, old, age)] if old.any() else []
    recent = live & ~old
    names = ledger.task if whole.best_key == "task" else ledger.site
    curves = {}
    for who in np.unique(names.code[recent]).tolist():
        chosen = (names.code == who) & (ledger.born >= 0)
        rows, levels = _curve(ledger.born[chosen], ledger.died[chosen], moment)
        curves[names.names[who]] = rows, levels
        lows = [_lows(rows, levels, edges) for edges in _edges(ledger, int(rows[0]), moment)]
        nr_freed = int((levels[1:] < levels[:-1]).sum())
        found.append(_suspect(ledger, names.names[who], recent & chosen, age, nr_freed, lows))
    found.sort(key=lambda row: (_ORDER.index(row.verdict), -row.live_bytes))
    shown = [row.who for row in found if row.who in curves][:5]
    kept = tuple(
        (name, (*curves[name][0].tolist(), moment), (*curves[name][1].tolist(), int(curves[name][1][-1])))
        for name in shown
    )
    return Leaks(rows=tuple(found), moment=moment, curves=kept, **_notes(whole.notes(), found))


def _curve(born: Ints, died: Ints, moment: int) -> tuple[Ints, Ints]:
    """Rows at which the level changed, and the level from there on."""
    born, died = np.sort(born[born < moment]), np.sort(died[died < moment])
    rows = np.concatenate([born, died])
    order = np.argsort(rows, kind="stable")
    step = np.repeat([1, -1], [len(born), len(died)])
    return rows[order], np.cumsum(step[order])


def _edges(ledger: Ledger, first: int, moment: int) -> list[Ints]:
    """Rows that part the trace from a row to a moment in eighths: of the time, if there is a clock, and of the rows."""
    edges = [np.linspace(first, moment, _NR_PARTS + 1).astype(np.int64)]
    if len(ledger.seconds):
        start, end = ledger.second_of(np.array([first, moment - 1])).tolist()
        inner = np.searchsorted(ledger.seconds, np.linspace(start, end, _NR_PARTS + 1)[1:-1])
        edges.insert(0, np.concatenate([[first], np.clip(inner, first, moment), [moment]]))
    return edges


def _lows(rows: Ints, levels: Ints, edges: Ints) -> tuple[int, ...]:
    """The lowest level between edges; the first part begins with the first allocation."""
    places = np.searchsorted(rows, edges)
    lows = []
    for start, end in pairwise(places.tolist()):
        entering = levels[start - 1 : start] if start else levels[:1]
        lows.append(int(np.concatenate([entering, levels[start:end]]).min()))
    return tuple(lows)


def _suspect(
    ledger: Ledger, who: str, chosen: Bools, age: Floats, nr_freed: int, lows: list[tuple[int, ...]]
) -> Suspect:
    nr_live = int(chosen.sum())
    size = int(ledger.size[chosen].sum())
    shown = lows[0]
    verdict = _verdict(lows, nr_live, nr_freed)
    return Suspect(who, verdict, nr_live, size, *_ages(age[chosen]), shown[-1] - shown[0], shown)


def _verdict(lows: list[tuple[int, ...]], nr_live: int, nr_freed: int) -> Verdict:
    if all(map(_is_growing, lows)):
        return "grows"
    was_low = any(2 * min(part[_NR_PARTS // 2 :]) <= nr_live for part in lows)
    return "backlog" if was_low and nr_freed >= nr_live else "kept"


def _is_growing(lows: tuple[int, ...]) -> bool:
    rises = sum(later > earlier for earlier, later in pairwise(lows))
    falls = sum(later < earlier for earlier, later in pairwise(lows))
    growth = lows[-1] - lows[0]
    lately = lows[-1] - lows[len(lows) // 2]
    return not falls and rises >= _LEAST_RISES and growth >= _LEAST_AREAS and lately >= _LEAST_SHARE * growth


def _before_tracing(ledger: Ledger, chosen: Bools, age: Floats) -> Suspect:
    nr_live = int(chosen.sum())
    words = "(calls before tracing)"
    return Suspect(words, "before tracing", nr_live, int(ledger.size[chosen].sum()), *_ages(age[chosen]), 0, ())


def _ages(age: Floats) -> tuple[float | None, float | None]:
    if not len(age) or np.isnan(age).any():
        return None, None
    return float(age.max()), float(np.median(age))


def _notes(notes: Notes, found: list[Suspect]) -> Notes:
    likely = notes["inferred"]
    if any(row.verdict == "grows" for row in found):
        likely += ("growth is no proof of a leak: what a machine sets up for good while traced grows likewise",)
    return {"certain": notes["certain"], "inferred": likely}
