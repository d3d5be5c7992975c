"""Failed requests and the life of chunks, with the reason the model sees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..core import layout as L
from ..core import replay as R
from ..events import Int64s
from ..traces.recording import Recording
from .causes import FORCED
from .search import Search

__all__ = ["ChunkVerdict", "Failure", "chunk_verdicts", "failures"]

_ORDER_MICROSECONDS = 1_000_000


@dataclass(frozen=True, slots=True)
class Failure:
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
class ChunkVerdict:
    """A chunk that was created or destroyed.

    Args:
        row: of the trace.
        chunk: its ordinal in the model.
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
    logged = _logged(recording)
    for row in np.flatnonzero(tape.column(R.TAPE_EVENT) == L.EVENT_FAIL).tolist():
        _, _, _, size, align, flags = tape.events[:6, row].tolist()
        is_atomic, is_reserved = bool(flags & L.FLAG_ATOMIC), bool(flags & L.FLAG_RESERVED)
        is_explained = bool(search.cause[row] != FORCED)
        chunk, off, note = found[:3, row].tolist()
        reason, would_get = _reason(chunk, off, note, is_atomic, is_reserved, is_explained)
        text = logged.pop((size, align, is_atomic), "") if logged else ""
        yield Failure(row - tape.nr_early, size, align, is_atomic, is_reserved, is_explained, reason, text, would_get)


def _logged(recording: Recording) -> dict[tuple[int, int, bool], str]:
    failures = recording.dmesg.failures if recording.dmesg else ()
    return {(f.size, f.align, f.is_atomic): f.reason for f in reversed(failures)}


def _reason(chunk: int, off: int, note: int, is_atomic: bool, is_reserved: bool,
            is_explained: bool) -> tuple[str, str]:  # fmt: skip
    """Say what was lacking, and what GFP_KERNEL would have got."""
    has_place = chunk != L.NO_CHUNK
    place = f"GFP_KERNEL would have got offset {off} of chunk {chunk}" if has_place else ""
    if not is_explained:
        return "not explained: the model serves it", place
    if is_reserved and not has_place:
        return "the reserved chunk has no room", "GFP_KERNEL would have failed, too"
    if not is_atomic:
        if has_place:
            return "failed to populate: no memory for its pages", f"it had been given offset {off} of chunk {chunk}"
        return "failed to allocate new chunk", "it is a GFP_KERNEL request"
    if has_place:
        return "no populated page: there is room, but in pages that are not populated", place
    return (
        "no area: no chunk has room, and an atomic request creates none",
        "GFP_KERNEL would have got a new chunk",
    )


def chunk_verdicts(search: Search, ordinals: Int64s) -> Iterator[ChunkVerdict]:
    """Give each creation and destruction of a recording."""
    tape, found = search.tape, search.machine.found
    kind = tape.column(R.TAPE_EVENT)
    for row in np.flatnonzero((kind == L.EVENT_CREATE) | (kind == L.EVENT_DESTROY)).tolist():
        is_created = bool(kind[row] == L.EVENT_CREATE)
        by = "balance work" if not is_created or tape.events[R.TAPE_SIZE, row] == 0 else "an allocation"
        foreseen = bool(found[R.FOUND_NOTE, row] & R.NOTE_FORESEEN)
        chunk = int(ordinals[tape.events[R.TAPE_CHUNK, row]])
        yield ChunkVerdict(row - tape.nr_early, chunk, is_created, foreseen, by)
