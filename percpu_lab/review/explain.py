"""A decision opened: which chunks were tried in which order, and why each was refused.

slot 5    chunk 2    its largest known free run, 60 bytes, is too short for 64
slot 9    chunk 0    the pages at 24,576 are not populated, and the request is atomic
slot 12   chunk 1    chosen: offset 8,192
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..core import layout as L
from ..engine import Engine
from ..errors import RequestError
from ..rich import Rich
from .allocators import ALLOCATORS

if TYPE_CHECKING:
    from .result import Review

__all__ = ["Explanation", "Tried", "explain"]

_SHOWN = 20  # chunks


@dataclass(frozen=True, slots=True)
class Tried(Rich):
    """A chunk that a request came to.

    Args:
        slot: its list; -1 for the reserved chunk.
        chunk: its ordinal in the recording.
        off: where it serves the request, in bytes; None if it refuses.
        why: it refuses, or how it serves.
    """

    slot: int
    chunk: int
    off: int | None
    why: str

    def __str__(self) -> str:
        return f"slot {self.slot:<3} chunk {self.chunk:<4} {self.why}"


@dataclass(frozen=True, slots=True, repr=False)
class Explanation(Rich):
    """How the algorithm decides on a request; sizes in bytes.

    Args:
        row: of the trace.
        request: the request in words.
        first_slot: where the search begins; the slots below hold no chunk with room enough.
        tried: the chunks it came to, in that order.
        chosen: ordinal of the chunk in the recording, and offset; None if nothing served it.
        recorded: the same as the trace has it; None for a failure.
        verdict: of the review.
    """

    row: int
    request: str
    first_slot: int
    tried: tuple[Tried, ...]
    chosen: tuple[int, int] | None
    recorded: tuple[int, int] | None
    verdict: str

    def __repr__(self) -> str:
        return f"<Explanation of row {self.row:,}: {self.request}; {self.verdict}>"

    def _html_fields(self) -> list[tuple[str, object]]:
        return [
            ("first_slot", self.first_slot),
            *(("tried", str(tried)) for tried in self.tried[:_SHOWN]),
            ("decided", _place("", self.chosen) if self.chosen else "no chunk serves it"),
            ("recorded", _place("", self.recorded) if self.recorded else "NULL"),
            ("verdict", self.verdict),
        ]

    def text(self) -> str:
        """Say it line by line."""
        lines = [f"row {self.row}: {self.request}; the search begins in slot {self.first_slot}"]
        lines += [f"  {tried}" for tried in self.tried]
        lines.append("  " + (_place("decided", self.chosen) if self.chosen else "no chunk serves it"))
        lines.append("  " + (_place("recorded", self.recorded) if self.recorded else "recorded: NULL"))
        return "\n".join([*lines, f"  verdict: {self.verdict}"])

    __str__ = text


def _place(word: str, place: tuple[int, int]) -> str:
    return f"{word}: offset {place[1]:,} of chunk {place[0]}"


def explain(review: Review, engine: Engine, row_words: Sequence[int], row: int) -> Explanation:
    """Walk the slots of an engine as pcpu_alloc does.

    Args:
        review: for the verdict.
        engine: as it stood before the decision.
        row_words: the row of the tape.
        row: of the trace.

    Raises:
        RequestError: the row is no request.
    """
    kind, _, off, size, align, flags = row_words
    if kind not in (L.EVENT_ALLOC, L.EVENT_FAIL):
        raise RequestError(f"row {row} is no request", where="explain", remedy="take an allocation or a failure")
    is_atomic, is_reserved = bool(flags & L.FLAG_ATOMIC), bool(flags & L.FLAG_RESERVED)
    walk = _walk(engine, size, align, is_atomic, is_reserved)
    tried = tuple(replace(step, chunk=review.recorded_ordinal(step.chunk)) for step in walk)
    chosen = next(((t.chunk, t.off) for t in tried if t.off is not None), None)
    words = f"{size} bytes aligned to {align}, {'atomic' if is_atomic else 'GFP_KERNEL'}"
    recorded, verdict = review.recorded_place(row, off), review.verdict_text(row)
    first = (
        -1
        if is_reserved and engine.scalar(L.RESERVED_CHUNK)
        else ALLOCATORS[engine.model.name].searched(engine, size)[0]
    )
    return Explanation(row, words + ", reserved" * is_reserved, first, tried, chosen, recorded, verdict)


def _walk(engine: Engine, size: int, align: int, is_atomic: bool, is_reserved: bool) -> Iterator[Tried]:
    allocator = ALLOCATORS[engine.model.name]
    state = engine.plain_state()
    chunks = [(chunk.slot, chunk) for chunk in engine.chunks()]
    if is_reserved and (reserved := engine.reserved_chunk()) is not None:
        chunks = [(-1, reserved)]
    first, last = allocator.searched(engine, size)
    for slot, chunk in chunks:
        if slot >= 0 and not first <= slot <= last:
            continue
        off, why = allocator.try_chunk(state, chunk, size, align, is_atomic)
        yield Tried(slot, chunk.ordinal, off, why)
        if off is not None:
            return
