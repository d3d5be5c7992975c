"""Calls made before the tracepoints were on, if a kernel kept them: percpu_early.txt.

    # percpu operations while the tracepoints were off: 70
    percpu_alloc_percpu: call_site=... base_addr=ffff8bc67b22e000 off=816 ptr=000000000002e330 ...

The addresses are true ones. Those of the trace may be hashed: then the chunk that both know, the first, gets its hashed
address here, so that one identity is one number in both. Chunks are numbered as in the trace.
"""

from __future__ import annotations

import copy
from collections import Counter

import numpy as np

from ..core import layout as L
from .recorded import RecordedTrace

__all__ = ["early_calls", "first_base", "with_columns"]


def with_columns(trace: RecordedTrace, **columns: np.ndarray) -> RecordedTrace:
    """Give a trace with other values in some of its columns; the trace itself stays as it is."""
    changed = copy.copy(trace)
    for name, column in columns.items():
        changed._keep(name, column, getattr(trace, name).dtype)
    return changed


def with_lost(trace: RecordedTrace, nr_lost: int) -> RecordedTrace:
    """Give the trace with as many lost events as the ring's own statistics count.

    They count those again that the text tells of; where in the trace the others are missing is not known.
    """
    if nr_lost <= trace.lost:
        return trace
    changed = copy.copy(trace)
    object.__setattr__(changed, "lost", nr_lost)
    return changed


def first_base(trace: RecordedTrace) -> int | None:
    """Find the base address of the first chunk: of those without a create event the one that serves most.

    The reserved chunk has a base address of its own and no create event either, but serves reserved requests only.
    """
    created = set(trace.base_addr[trace.event == L.EVENT_CREATE].tolist())
    serves = (trace.event == L.EVENT_ALLOC) & ~trace.reserved
    counts = Counter(trace.base_addr[serves].tolist())
    found = [(count, base) for base, count in counts.items() if base not in created]
    return max(found)[1] if found else None


def early_calls(early: RecordedTrace, trace: RecordedTrace) -> tuple[RecordedTrace, str | None]:
    """Give the early calls the identities of the trace -> the calls, and what could not be done.

    Args:
        early: as read.
        trace: what was recorded behind it.
    """
    problem = None
    bases = set(early.base_addr.tolist()) - {0}
    if len(trace) and not bases & set(trace.base_addr.tolist()):
        ours, theirs = first_base(early), first_base(trace)
        if ours is None or theirs is None or len(bases) > 1:
            problem = "its addresses are not those of the trace, which are hashed: the chunks cannot be matched"
        else:
            base_addr = np.where(early.base_addr == np.uint64(ours), np.uint64(theirs), early.base_addr)
            early = with_columns(early, base_addr=base_addr)
    return with_columns(early, chunk=_chunks_as_in(trace, early)), problem


def _chunks_as_in(trace: RecordedTrace, early: RecordedTrace) -> np.ndarray:
    """Number the chunks of the early calls by the first appearance of their address in the trace."""
    bases, first = np.unique(trace.base_addr, return_index=True)
    numbers = dict(zip(bases.tolist(), trace.chunk[first].tolist(), strict=True))
    unknown = int(trace.chunk.max(initial=-1)) + 1
    chunks = []
    for base in early.base_addr.tolist():
        if base and base not in numbers:
            numbers[base] = unknown
            unknown += 1
        chunks.append(numbers[base] if base else L.NO_CHUNK)
    return np.array(chunks, np.int64)
