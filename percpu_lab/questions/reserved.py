"""What does the reserved chunk hold? It serves the per-CPU variables of modules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..columns import RESERVED_CHUNK
from ..core import layout as L
from ..plain import count
from ..rich import Rich
from ..units import format_bytes
from .answer import Answer
from .subject import At, Subject


@dataclass(frozen=True, slots=True)
class ReservedArea(Rich):
    """An area of the reserved chunk.

    Args:
        off: from the base that events print for the chunk, in bytes.
        size_bytes: on one CPU.
        call_site, task: who asked.
        row: of the trace; negative for calls before it.
    """

    off: int
    size_bytes: int
    call_site: str
    task: str
    row: int


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Reserved(Answer):
    """The areas of the reserved chunk, by offset.

    Args:
        capacity_bytes: reserved_size; None if unknown, 0 if there is no reserved chunk.
        used_bytes: in live areas.
        free_bytes, largest_free_bytes: left, and in one piece; None if unknown.
        nr_fail: requests for it that failed.
    """

    capacity_bytes: int | None
    used_bytes: int
    free_bytes: int | None
    largest_free_bytes: int | None
    nr_fail: int

    def headline(self) -> str:
        """Give the answer in one sentence."""
        if self.capacity_bytes == 0:
            return "this kernel has no reserved chunk"
        room = f" of {format_bytes(self.capacity_bytes)}" if self.capacity_bytes else ""
        held = f"the reserved chunk holds {count(len(self.rows), 'area')}, {format_bytes(self.used_bytes)}{room}"
        if self.largest_free_bytes is not None:
            held += f"; the largest free piece is {format_bytes(self.largest_free_bytes)}"
        return f"{held}; {count(self.nr_fail, 'request')} failed" if self.nr_fail else held


def reserved(subject: Any, *, at: At = None) -> Reserved:
    """Say what the reserved chunk holds.

    >>> from percpu_lab.allocator import Allocator
    >>> a = Allocator(engine="v6.12-bitmap")
    >>> p = a.alloc_percpu(64, reserved=True)
    >>> print(reserved(a).headline())
    the reserved chunk holds 1 area, 64 B of 8 KiB; the largest free piece is 7.9 KiB

    Args:
        subject: a Recording, a trace, or an Allocator.
        at: the moment, as a row of the trace or a text in a marker; the end by default.

    Raises:
        RequestError: there is no such moment.
    """
    whole = Subject.of(subject)
    ledger, snap = whole.ledger, whole.snapshot(at)
    chosen = np.flatnonzero(ledger.live_at(whole.moment(at)) & (ledger.chunk == -1))
    chosen = chosen[np.argsort(ledger.off[chosen])]
    row = np.flatnonzero(snap.chunks.kind == RESERVED_CHUNK)
    free, largest = (
        int(column[row[0]]) if len(row) else None for column in (snap.chunks.free_bytes, snap.chunks.largest_free_bytes)
    )
    areas = tuple(
        ReservedArea(int(ledger.off[k]), int(ledger.size[k]), ledger.site.names[ledger.site.code[k]],
                     ledger.task.names[ledger.task.code[k]], int(ledger.born[k]))
        for k in chosen.tolist()
    )  # fmt: skip
    return Reserved(
        rows=areas,
        capacity_bytes=whole.info.reserved_size if whole.info is not None else None,
        used_bytes=int(ledger.size[chosen].sum()),
        free_bytes=free,
        largest_free_bytes=largest,
        nr_fail=_failed(whole),
        **whole.notes(),
    )


def _failed(whole: Subject) -> int:
    if whole.trace is None:
        return 0
    return int(((whole.trace.event == L.EVENT_FAIL) & whole.trace.reserved).sum())
