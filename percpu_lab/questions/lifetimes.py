"""How long do areas live, and who asks for memory only to give it back at once?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..plain import count, format_seconds
from ..rebuild import NEVER
from ..rich import Rich
from .answer import Answer
from .ledger import Bools, Floats, Ints
from .subject import Subject

if TYPE_CHECKING:
    from ..views.static import Picture

SHORT_SECONDS = 0.01
SHORT_EVENTS = 100


@dataclass(frozen=True, slots=True)
class Lives(Rich):
    """How long the areas of a call site lived.

    Args:
        call_site: who allocated.
        nr_areas, nr_freed: allocated and freed within the trace.
        nr_short: freed sooner than the limit.
        share_short: of the areas.
        median_seconds, longest_seconds: of those freed; None without a clock, or if none was freed.
        median_events: events between allocation and free.
    """

    call_site: str
    nr_areas: int
    nr_freed: int
    nr_short: int
    share_short: float
    median_seconds: float | None
    longest_seconds: float | None
    median_events: int | None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Lifetimes(Answer):
    """Call sites, those with the most short-lived areas first.

    Args:
        nr_areas, nr_freed, nr_short: of all call sites together.
        limit: what counts as short, in words.
        histogram: upper edge of each class and the areas in it, by powers of ten.
        unit: of the edges: "s" or "events".
    """

    nr_areas: int
    nr_freed: int
    nr_short: int
    limit: str
    histogram: tuple[tuple[float, int], ...]
    unit: str

    def headline(self) -> str:
        """Give the answer in one sentence."""
        share = self.nr_short / max(self.nr_areas, 1)
        start = f"{self.nr_short:,} of {count(self.nr_areas, 'area')} ({share:.0%}) were freed within {self.limit}"
        if not self.nr_short:
            return start
        first = self.rows[0]
        return f"{start}; {first.call_site} made {first.nr_short:,} of them"

    def picture(self) -> Picture | None:
        """Draw how many areas lived how long."""
        from .pictures import bars

        words = [format_seconds(edge) if self.unit == "s" else f"{edge:,.0f} events" for edge, _ in self.histogram]
        numbers = [number for _, number in self.histogram]
        return bars("Areas by how long they lived", [f"up to {word}" for word in words], numbers, "areas freed")


def lifetimes(subject: Any, *, short_seconds: float = SHORT_SECONDS) -> Lifetimes:
    """Say how long areas live, by call site, and which are short-lived.

    Without a clock in the trace, less than 100 events apart counts as short.

    >>> from percpu_lab.allocator import Allocator
    >>> a = Allocator()
    >>> for _ in range(10):
    ...     a.free_percpu(a.alloc_percpu(64))
    >>> print(lifetimes(a).headline())
    10 of 10 areas (100%) were freed within 100 events; ? made 10 of them

    Args:
        subject: a Recording, a trace, or an Allocator.
        short_seconds: what counts as short.
    """
    whole = Subject.of(subject)
    ledger = whole.ledger
    mine = ledger.born >= 0
    freed = mine & (ledger.died < NEVER)
    events = np.where(freed, ledger.died - ledger.born, 0)
    has_clock = bool(len(ledger.seconds))
    life = ledger.second_of(ledger.died) - ledger.second_of(ledger.born) if has_clock else events.astype(float)
    short = freed & (life < (short_seconds if has_clock else SHORT_EVENTS))
    rows = [
        _lives(name, chosen, freed & chosen, short & chosen, life if has_clock else None, events)
        for name, chosen in ((name, mine & (ledger.site.code == site)) for site, name in enumerate(ledger.site.names))
        if chosen.any()
    ]
    rows.sort(key=lambda row: (-row.nr_short, -row.nr_areas))
    return Lifetimes(
        rows=tuple(rows),
        nr_areas=int(mine.sum()),
        nr_freed=int(freed.sum()),
        nr_short=int(short.sum()),
        limit=format_seconds(short_seconds) if has_clock else f"{SHORT_EVENTS} events",
        histogram=_histogram(life[freed]),
        unit="s" if has_clock else "events",
        **whole.notes(),
    )


def _lives(name: str, all_: Bools, freed: Bools, short: Bools, life: Floats | None, events: Ints) -> Lives:
    nr_areas, nr_freed, nr_short = (int(chosen.sum()) for chosen in (all_, freed, short))
    median = float(np.median(life[freed])) if nr_freed and life is not None else None
    longest = float(life[freed].max()) if nr_freed and life is not None else None
    median_events = int(np.median(events[freed])) if nr_freed else None
    return Lives(name, nr_areas, nr_freed, nr_short, nr_short / nr_areas, median, longest, median_events)


def _histogram(life: Floats) -> tuple[tuple[float, int], ...]:
    """Count lives by powers of ten."""
    if not len(life):
        return ()
    power = np.ceil(np.log10(np.maximum(life, 1e-6)) - 1e-9).astype(int)
    low, high = int(power.min()), int(power.max())
    counts = np.bincount(power - low, minlength=high - low + 1)
    return tuple((10.0**exponent, int(counts[exponent - low])) for exponent in range(low, high + 1))
