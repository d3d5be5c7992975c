"""Why is this chunk not freed: who pins it, and which rule is not met?

destroyed         by balance work, when the chunk is wholly free and another wholly free one is kept as spare
pages given back  (from v5.14) when the chunk has empty populated pages, a quarter of its pages at least,
                  and the other chunks together have more than 4 of them
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core import layout as L
from ..core.bitmap import PCPU_EMPTY_POP_PAGES_HIGH
from ..errors import RequestError
from ..models import BITMAP
from ..plain import count
from ..rebuild import BEFORE, NEVER
from ..rich import Rich
from ..units import PAGE_SIZE, format_bytes
from ..views._words import chunk_label
from .answer import Answer
from .subject import At, Notes, Subject

if TYPE_CHECKING:
    from ..views.static import Picture

_BOOT = (0, -1)
_PAGES = "pages given back"


@dataclass(frozen=True, slots=True)
class Pin(Rich):
    """Who holds areas in the chunk.

    Args:
        call_site, task: who asked.
        nr_areas, size_bytes: live in the chunk, of one CPU.
        nr_pages: pages they lie in.
        oldest_row: row of the oldest allocation; negative if before the trace.
    """

    call_site: str
    task: str
    nr_areas: int
    size_bytes: int
    nr_pages: int
    oldest_row: int


@dataclass(frozen=True, slots=True)
class Rule(Rich):
    """A condition for giving memory back.

    Args:
        name: what would be done.
        is_met: whether the condition holds.
        text: the condition, with the numbers.
    """

    name: str
    is_met: bool
    text: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class WhyNotFreed(Answer):
    """Who pins a chunk; those with the most bytes first.

    Args:
        chunk: its ordinal: 0 is the first, -1 the reserved one.
        nr_areas, used_bytes: live in it, of one CPU.
        unit_bytes: what the chunk takes of the address space of one CPU; None if unknown.
        nr_pages: pages in which areas lie.
        nr_populated: pages populated; None if unknown.
        rules: what would have to hold.
    """

    chunk: int
    nr_areas: int
    used_bytes: int
    unit_bytes: int | None
    nr_pages: int
    nr_populated: int | None
    rules: tuple[Rule, ...]

    def headline(self) -> str:
        """Give the answer in one sentence."""
        name = chunk_label(self.chunk)
        if not self.rows:
            to_destroy = [rule for rule in self.rules if not rule.name.startswith(_PAGES)]
            telling = next((rule for rule in to_destroy if not rule.is_met), to_destroy[-1])
            return f"{name} holds no area: {telling.text}"
        held = (
            f"{count(self.nr_areas, 'area')}, {format_bytes(self.used_bytes)} per CPU in {count(self.nr_pages, 'page')}"
        )
        if self.chunk in _BOOT:
            return f"{name} is never freed; it holds {held}"
        first = self.rows[0]
        return f"{name} is pinned by {held}, most by {first.call_site} ({format_bytes(first.size_bytes)})"

    def picture(self) -> Picture | None:
        """Draw who pins the chunk."""
        from .pictures import bars

        pins = self.rows[:12]
        title = f"Who pins {chunk_label(self.chunk)}"
        return bars(title, [f"{pin.call_site} ({pin.task})" for pin in pins], [pin.size_bytes for pin in pins])

    def text(self, limit: int = 12) -> str:
        """Write the answer for a terminal, the rules below the table."""
        lines = [f"  {'yes' if rule.is_met else 'no '}  {rule.name}: {rule.text}" for rule in self.rules]
        return "\n".join([Answer.text(self, limit), *(["", "rules met:", *lines] if lines else [])])


def why_not_freed(subject: Any, chunk: int, *, at: At = None) -> WhyNotFreed:
    """Say who pins a chunk, and which rule of balance or reclaim is not met.

    >>> from percpu_lab.allocator import Allocator
    >>> a = Allocator(engine="v6.12-bitmap")
    >>> kept = [a.alloc_percpu(32768) for _ in range(2)]
    >>> print(why_not_freed(a, 1).headline())
    chunk 1 is pinned by 2 areas, 64 KiB per CPU in 16 pages, most by ? (64 KiB)

    Args:
        subject: an Allocator, a Review, a Recording or a trace.
        chunk: its ordinal: 0 is the first chunk, -1 the reserved one, others as the column `chunk` of the trace.
        at: the moment, as a row of the trace or a text in a marker; the end by default.

    Raises:
        RequestError: there is no such chunk at that moment.

    Source: pcpu_balance_workfn, pcpu_should_reclaim_chunk (spec bitmap 4.6 and 5).
    """
    whole = Subject.of(subject)
    snap = whole.snapshot(at)
    row = snap.row_of(chunk)
    if row is None:
        known = ", ".join(map(str, snap.chunks.ordinal.tolist()[:12]))
        what = f"there is no chunk {chunk} at that moment{_span(whole, chunk)}"
        raise RequestError(what, where="chunk", remedy=f"there are: {known}")
    ledger = whole.ledger
    held = np.flatnonzero(ledger.live_at(whole.moment(at)) & (ledger.chunk == chunk))
    rules, nr_populated = _rules(whole, chunk, at, len(held))
    return WhyNotFreed(
        rows=_pins(whole, held), chunk=chunk, nr_areas=len(held), used_bytes=int(ledger.size[held].sum()),
        unit_bytes=snap.unit.unit_size if whole.info is not None else None, nr_pages=len(_pages(whole, held)),
        nr_populated=nr_populated, rules=tuple(rules), **_notes(whole),
    )  # fmt: skip


def _span(whole: Subject, chunk: int) -> str:
    """Say when a chunk was there that is not there now."""
    if whole.rebuilt is None:
        return ""
    chunks = whole.rebuilt.chunks
    for row in np.flatnonzero(chunks.ordinal == chunk).tolist():
        created, destroyed = int(chunks.created[row]), int(chunks.destroyed[row])
        made = "it was made before the recording" if created == BEFORE else f"it was made at row {created:,}"
        gone = "" if destroyed == NEVER else f", and destroyed at row {destroyed:,}"
        return f"; {made}{gone}"
    return ""


def _pages(whole: Subject, held: Any) -> set[int]:
    ledger = whole.ledger
    first = ledger.off[held] // PAGE_SIZE
    last = (ledger.off[held] + ledger.size[held] - 1) // PAGE_SIZE
    return {p for start, end in zip(first.tolist(), last.tolist(), strict=True) for p in range(start, end + 1)}


def _pins(whole: Subject, held: Any) -> tuple[Pin, ...]:
    ledger = whole.ledger
    nr_tasks = len(ledger.task.names)
    groups = ledger.site.code[held] * nr_tasks + ledger.task.code[held]
    pins = []
    for group in np.unique(groups).tolist():
        mine = held[groups == group]
        site, task = ledger.site.names[group // nr_tasks], ledger.task.names[group % nr_tasks]
        size = int(ledger.size[mine].sum())
        pins.append(Pin(site, task, len(mine), size, len(_pages(whole, mine)), int(ledger.born[mine].min())))
    return tuple(sorted(pins, key=lambda pin: -pin.size_bytes))


def _rules(whole: Subject, chunk: int, at: At, nr_areas: int) -> tuple[list[Rule], int | None]:
    """What balance and reclaim ask for, and the pages populated."""
    if chunk in _BOOT:
        return [Rule("destroyed", False, "the first and the reserved chunk are immutable: they stay for ever")], None
    left = "wholly free" if not nr_areas else f"{count(nr_areas, 'area')} must be freed first"
    rules = [Rule("wholly free", not nr_areas, left)]
    engine = whole.engine_at(at)
    state = None if engine is None else _state_of(whole, engine, chunk)
    if engine is None or state is None:
        return rules, None
    chunks = engine.chunks()
    if not nr_areas:
        spare = [other for other in chunks if other.free_bytes == engine.geometry.info.unit_size]
        rules += _spare_rules(spare, state, bool(engine.scalar(L.BALANCE_PENDING)))
    if engine.model is BITMAP and engine.geometry.backing == "vm":
        rules += _reclaim_rules(engine, state)
    return rules, int(state.nr_populated)


def _state_of(whole: Subject, engine: Any, chunk: int) -> Any:
    # the model may number chunks otherwise, where the recording begins in the middle
    ordinal = chunk if whole.engine is not None or chunk <= 0 else whole.review.chunk_of(chunk)
    return next((state for state in engine.chunks() if state.ordinal == ordinal), None)


def _spare_rules(spare: list[Any], state: Any, is_pending: bool) -> list[Rule]:
    is_spare = bool(spare) and spare[0].ordinal == state.ordinal
    text = "it is kept: the first wholly free chunk is the spare" if is_spare else "another wholly free chunk is kept"
    pending = "balance work is pending, and will destroy it" if is_pending else "no balance work is pending"
    return [Rule("not the spare", not is_spare, text), Rule("balance work", is_pending, pending)]


def _reclaim_rules(engine: Any, state: Any) -> list[Rule]:
    nr_empty, total = state.nr_empty_pop_pages, engine.scalar(L.NR_EMPTY_POP_PAGES)
    others = total if state.isolated else total - nr_empty
    quarter = state.nr_pages // 4
    enough = f"{count(nr_empty, 'empty page')} in it, {quarter} are needed"
    beside = f"{count(others, 'empty page')} elsewhere, more than {PCPU_EMPTY_POP_PAGES_HIGH} are needed"
    return [
        Rule(f"{_PAGES}: enough empty pages in it", nr_empty >= quarter and nr_empty > 0, enough),
        Rule(f"{_PAGES}: enough elsewhere", others > PCPU_EMPTY_POP_PAGES_HIGH, beside),
    ]


def _notes(whole: Subject) -> Notes:
    notes = whole.notes()
    if whole.engine is not None:
        return notes
    inferred = notes["inferred"] + ("the rules are looked at in the model that replays the recorded calls",)
    return {
        "certain": (*notes["certain"], "who holds areas in the chunk follows from the events alone"),
        "inferred": inferred,
    }
