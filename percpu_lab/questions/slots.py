"""Which chunks stand in which slot, in the order in which the allocator looks at them?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..columns import Snapshot, snapshot
from ..errors import RequestError
from ..plain import count
from ..rich import Rich
from .answer import Answer
from .subject import At, Notes, Subject


@dataclass(frozen=True, slots=True)
class SlotRow(Rich):
    """A chunk in its slot.

    Args:
        slot: number of the slot; None for the reserved chunk, which is in none.
        position: place in the list of the slot, from its head.
        chunk: its name.
        state: "", or "isolated": not to be allocated from, or only when nothing else fits.
        nr_areas: live.
        free_bytes: of the unit.
        contig_hint_bytes: the largest free area as the allocator believes; it decides the slot.
        largest_bytes: the largest free area in truth.
        nr_populated, nr_empty: pages populated, and those of them that are empty (None where the kernel keeps none).
    """

    slot: int | None
    position: int
    chunk: str
    state: str
    nr_areas: int
    free_bytes: int
    contig_hint_bytes: int
    largest_bytes: int
    nr_populated: int
    nr_empty: int | None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Slots(Answer):
    """The chunks in the order of percpu_stats: the reserved one, then slot by slot, head to tail.

    Args:
        moment: row of the trace, or ops done.
        is_run: whether it counts ops.
        nr_empty_pop_pages: what the allocator counts of empty populated pages.
        is_balance_pending: balance work waits to run.
    """

    moment: int
    is_run: bool
    nr_empty_pop_pages: int
    is_balance_pending: bool

    def headline(self) -> str:
        """Give the answer in one sentence."""
        plain = [row for row in self.rows if row.slot is not None]
        pages = count(self.nr_empty_pop_pages, "empty populated page")
        pending = "balance work pending" if self.is_balance_pending else "no balance work pending"
        nr_slots = len({row.slot for row in plain})
        when = f"after {count(self.moment, 'op')}" if self.is_run else f"at row {self.moment:,}"
        return f"{count(len(plain), 'chunk')} in {count(nr_slots, 'slot')} {when}, {pages}, {pending}"


def slots(subject: Any, *, at: At = None) -> Slots:
    """Say which chunks stand in which slot, and in which order.

    >>> from percpu_lab.allocator import Allocator
    >>> print(slots(Allocator(engine="v6.12-bitmap")).headline())
    1 chunk in 1 slot after 0 ops, 7 empty populated pages, no balance work pending

    Args:
        subject: an Allocator, a Review, or a Recording, which is reviewed first.
        at: the moment, as a row of the trace or a text in a marker; the end by default.

    Raises:
        RequestError: there is no model of the allocator at that moment.
    """
    whole = Subject.of(subject)
    engine = whole.engine_at(at)
    if engine is None:
        why = whole.review.problem if whole.recording is not None else "give a Recording, or an Allocator as it is now"
        raise RequestError("the events alone do not tell slots", where="slots", remedy=why)
    snap = snapshot(engine)
    states = {chunk.ordinal: chunk for chunk in engine.chunks()}
    reserved = engine.reserved_chunk()
    if reserved is not None:
        states[reserved.ordinal] = reserved
    rows = tuple(
        _row(snap, k, whole.name_of(ordinal), states.get(ordinal))
        for k, ordinal in enumerate(snap.chunks.ordinal.tolist())
    )
    totals = snap.totals
    return Slots(
        rows=rows, moment=snap.op if whole.engine is not None else whole.moment(at), is_run=whole.engine is not None,
        nr_empty_pop_pages=totals.nr_empty_pop_pages, is_balance_pending=bool(totals.balance_pending),
        **_notes(whole, at),
    )  # fmt: skip


def _row(snap: Snapshot, k: int, name: str, state: Any) -> SlotRow:
    chunks = snap.chunks
    slot = int(chunks.slot[k])
    return SlotRow(
        slot=slot if slot >= 0 else None, position=int(chunks.position[k]), chunk=name,
        state="isolated" if getattr(state, "isolated", False) else "", nr_areas=int(chunks.nr_alloc[k]),
        free_bytes=int(chunks.free_bytes[k]), contig_hint_bytes=int(chunks.contig_hint[k]),
        largest_bytes=int(chunks.largest_free_bytes[k]), nr_populated=int(chunks.nr_populated[k]),
        nr_empty=getattr(state, "nr_empty_pop_pages", None),
    )  # fmt: skip


def _notes(whole: Subject, at: At) -> Notes:
    if whole.engine is not None:
        return {"certain": ("read off the engine",), "inferred": ()}
    until = whole.review.trusted_until
    inferred = "the order within slots and hints are those of the model that replays the recorded calls"
    pages = "populated pages are known" if until is None or whole.moment(at) <= until else "populated pages are likely"
    return {"certain": (), "inferred": (inferred, f"{pages}: until row {until:,}" if until is not None else pages)}
