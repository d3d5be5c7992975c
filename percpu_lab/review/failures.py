"""Failed requests and the life of chunks, with the reason the model sees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..core import layout as L
from ..core import replay as R
from ..events import Int64s
from ..rich import Rich
from ..traces.recording import Recording
from .causes import FORCED
from .logged import logged_reasons
from .search import Search

__all__ = ["ChunkVerdict", "Failure", "chunk_verdicts", "failures"]

_SLEEPING = "it is a GFP_KERNEL request"
_SHORT_OF_MEMORY = {
    L.REASON_EXTEND: "failed to extend area map: no memory for a longer one",
    L.REASON_EXTEND_RESERVED: "failed to extend area map of reserved chunk: no memory for a longer one",
    L.REASON_NEW_CHUNK: "failed to allocate new chunk",
    L.REASON_POPULATE: "failed to populate: no memory for its pages",
}

_ORDER_MICROSECONDS = 1_000_000


@dataclass(frozen=True, slots=True)
class Failure(Rich):
    """A request that got NULL; size and alignment in bytes.

    Args:
        row: of the trace.
        size, align, is_atomic, is_reserved: of the request.
        is_explained: the model fails there, too.
        reason: in words: what was lacking.
        logged: the reason in the kernel log, "" if it is not there.
        would_get: what the same request with GFP_KERNEL would have got.
    """

    row: int
    size: int
    align: int
    is_atomic: bool
    is_reserved: bool
    is_explained: bool
    reason: str
    logged: str
    would_get: str

    def text(self) -> str:
        """Say it in a line."""
        return f"row {self.row}: {self.size} bytes aligned to {self.align}: {self.reason}; {self.would_get}"


@dataclass(frozen=True, slots=True)
class ChunkVerdict(Rich):
    """A chunk that was created or destroyed.

    Args:
        row: of the trace.
        chunk: its ordinal in the recording.
        is_created: created, else destroyed.
        is_foreseen: the model had a reason for it there.
        by: what created it: "an allocation" or "balance work".
    """

    row: int
    chunk: int
    is_created: bool
    is_foreseen: bool
    by: str


def failures(recording: Recording, search: Search) -> Iterator[Failure]:
    """Give each failed request of a recording."""
    tape, found = search.tape, search.machine.found
    logged = logged_reasons(recording)
    for row in np.flatnonzero(tape.column(R.TAPE_EVENT) == L.EVENT_FAIL).tolist():
        _, _, _, size, align, flags = tape.events[:6, row].tolist()
        is_atomic, is_reserved = bool(flags & L.FLAG_ATOMIC), bool(flags & L.FLAG_RESERVED)
        is_explained = bool(search.cause[row] != FORCED)
        chunk, off = found[[R.FOUND_CHUNK, R.FOUND_OFF], row].tolist()
        code = int(found[R.FOUND_REASON, row]) if is_explained else L.REASON_NONE
        reason, would_get = _reason(code, chunk, off, is_atomic)
        at = row - tape.nr_early
        text = logged.get(at, "")
        yield Failure(at, size, align, is_atomic, is_reserved, is_explained, reason, text, would_get)


def _reason(code: int, chunk: int, off: int, is_atomic: bool) -> tuple[str, str]:
    """Say what was lacking, and what GFP_KERNEL would have got."""
    has_place = chunk != L.NO_CHUNK
    place = f"GFP_KERNEL would have got offset {off} of chunk {chunk}" if has_place else ""
    if code == L.REASON_NONE:
        return "not explained: the model serves it", place
    if code in (L.REASON_RESERVED, L.REASON_EXTEND_RESERVED) and not has_place:
        return "the reserved chunk has no room", "GFP_KERNEL would have failed, too"
    if is_atomic and code in (L.REASON_EXTEND, L.REASON_EXTEND_RESERVED):
        return "the area map of the chunk is full, and an atomic request cannot make it longer", place
    if code in _SHORT_OF_MEMORY:
        text = f"it had been given offset {off} of chunk {chunk}" if code == L.REASON_POPULATE else _SLEEPING
        return _SHORT_OF_MEMORY[code], text
    if has_place:
        return "no populated page: there is room, but in pages that are not populated", place
    return (
        "no area: no chunk has room, and an atomic request creates none",
        "GFP_KERNEL would have got a new chunk",
    )


def chunk_verdicts(search: Search, ordinals: Int64s) -> Iterator[ChunkVerdict]:
    """Give each creation and destruction of a recording, its chunk by the model's ordinal."""
    tape, found = search.tape, search.machine.found
    kind = tape.column(R.TAPE_EVENT)
    for row in np.flatnonzero((kind == L.EVENT_CREATE) | (kind == L.EVENT_DESTROY)).tolist():
        is_created = bool(kind[row] == L.EVENT_CREATE)
        by = "balance work" if not is_created or tape.events[R.TAPE_SIZE, row] == 0 else "an allocation"
        foreseen = bool(found[R.FOUND_NOTE, row] & R.NOTE_FORESEEN)
        chunk = int(ordinals[tape.events[R.TAPE_CHUNK, row]])
        yield ChunkVerdict(row - tape.nr_early, chunk, is_created, foreseen, by)
