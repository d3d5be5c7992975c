"""What a kernel or a program asked for, as an op script that any allocator can be given.

early calls ─┐
trace ───────┴─ alloc, fail ──▶ alloc ID        the id is the number of the request
                free ─────────▶ free ID         by the birth of the area, never by its address
                create, destroy, and frees of areas that nobody saw allocated: left out, the last counted
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..allocator import Allocator
from ..core import layout as L
from ..errors import RequestError
from ..events import Events
from ..ops import Ops
from ..recorded_run import RecordedRun
from ..rich import Rich
from ..trace import Trace
from ..traces.recording import Recording
from ..workloads import WORKLOADS, Workload

_Place = tuple[int, int]  # base address of a chunk, offset in bytes


@dataclass(frozen=True, slots=True, eq=False)
class Requests(Rich):
    """An op script, and what could not be made part of it.

    Args:
        ops: the script.
        title: what it is, for headings.
        nr_early: requests from before the trace.
        nr_unmatched_frees: frees of areas that were allocated before the recording began.
        nr_failed: requests that failed when they were recorded; they are made again.
        assumption: what is taken for granted of the machine.
    """

    ops: Ops
    title: str
    nr_early: int = 0
    nr_unmatched_frees: int = 0
    nr_failed: int = 0
    assumption: str = ""

    def __repr__(self) -> str:
        return f"<Requests of {self.title}: {len(self.ops):,} ops>"

    @property
    def notes(self) -> tuple[str, ...]:
        """Say what a reader of the results must know."""
        notes = [
            (self.nr_early, "requests from before the trace come first"),
            (self.nr_unmatched_frees, "frees were left out: nobody saw their areas allocated"),
            (self.nr_failed, "requests had failed when they were recorded; they are made again"),
        ]
        counted = tuple(f"{number:,} {words}" for number, words in notes if number)
        return (*counted, self.assumption) if self.assumption else counted

    @property
    def has_balance(self) -> bool:
        """Tell whether the script says itself when the balance work runs."""
        return bool((self.ops.array[L.OPS_KIND] == L.OP_BALANCE).any())


def requests_of(subject: Any) -> Requests:
    """Take the requests of whatever has some.

    >>> requests_of("percpu_test1")
    <Requests of percpu_test1: 8,007 ops>

    Args:
        subject: an Ops, a Workload or its name, a trace, an Allocator with one, a RecordedRun, or a Recording.

    Raises:
        RequestError: there is no such workload, or nothing that asks for anything.
    """
    if isinstance(subject, Requests):
        return subject
    if isinstance(subject, str):
        if subject not in WORKLOADS:
            raise RequestError(f"no workload {subject!r}", where="subject", remedy=f"one of {', '.join(WORKLOADS)}")
        subject = WORKLOADS[subject]
    if isinstance(subject, Workload):
        return Requests(subject.build(), subject.name)
    if isinstance(subject, Ops):
        return Requests(subject, "an op script")
    trace, early, title = _events_of(subject)
    return _from_events(trace, early, title)


def _events_of(subject: Any) -> tuple[Events, Events | None, str]:
    """Find the events: of a Recording with its early calls, of a RecordedRun, of an Allocator."""
    if isinstance(subject, Events):
        return subject, None, "a trace"
    if isinstance(subject, Recording):
        return subject.trace, subject.early, subject.name
    if isinstance(subject, RecordedRun):
        return subject.rebuilt.trace, subject.rebuilt.early, subject.name
    if isinstance(subject, Allocator):
        return subject.trace.columns(), None, subject.name
    if isinstance(subject, Trace):
        return subject.columns(), None, "a trace"
    raise RequestError(
        f"{type(subject).__name__} asks for nothing",
        where="subject",
        remedy="give an op script, a workload or its name, a trace or a recording",
    )


class _Script:
    """Joins early calls and a trace: each area gets the number of its request as its id."""

    def __init__(self) -> None:
        self.parts: list[np.ndarray] = []
        self.nr_ids = 0
        self.live: dict[_Place, int] = {}
        self.nr_unmatched = 0

    def add(self, events: Events) -> None:
        wants = (events.event == L.EVENT_ALLOC) | (events.event == L.EVENT_FAIL)
        is_free = events.event == L.EVENT_FREE
        ids = self.nr_ids + np.cumsum(wants) - 1
        owner = self._owners(events, wants, ids)
        free_ids = np.where(is_free, owner, -1)
        for row in np.flatnonzero(is_free & (owner < 0)).tolist():
            free_ids[row] = self.live.pop(_place(events, row), -1)
        self.nr_unmatched += int((is_free & (free_ids < 0)).sum())
        chosen = wants | (free_ids >= 0)
        array = np.zeros((L.NR_OPS_COLUMNS, len(events)), np.int64)
        array[L.OPS_KIND] = np.where(wants, L.OP_ALLOC, L.OP_FREE)
        array[L.OPS_ID] = np.where(wants, ids, free_ids)
        array[L.OPS_SIZE], array[L.OPS_ALIGN] = np.where(wants, events.size, 0), np.where(wants, events.align, 0)
        array[L.OPS_FLAGS] = np.where(wants, events.flags & (L.FLAG_RESERVED | L.FLAG_ATOMIC), 0)
        self.parts.append(array[:, chosen])
        self.nr_ids += int(wants.sum())
        self._remember(events, wants & (events.event == L.EVENT_ALLOC), ids, free_ids[is_free])

    def _owners(self, events: Events, wants: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """The id of each free's area by the birth of the event; -1 where no allocation of that op was recorded."""
        born = np.flatnonzero(wants & (events.event == L.EVENT_ALLOC))
        order = born[np.argsort(events.op[born], kind="stable")]
        ops = events.op[order]
        at = np.searchsorted(ops, events.birth)
        found = np.append(ops, -1)[at] == events.birth
        return np.where(found & (events.birth >= 0), np.append(ids[order], -1)[at], -1)

    def _remember(self, events: Events, made: np.ndarray, ids: np.ndarray, freed: np.ndarray) -> None:
        """Keep where the areas lie that are still live: a later trace knows them by their place only."""
        still = made & ~np.isin(ids, freed)
        for row in np.flatnonzero(still).tolist():
            self.live[_place(events, row)] = int(ids[row])


def _place(events: Events, row: int) -> _Place:
    return int(events.base_addr[row]), int(events.off[row])


def _from_events(trace: Events, early: Events | None, title: str) -> Requests:
    script = _Script()
    for part in (early, trace):
        if part is not None:
            script.add(part)
    nr_early = script.parts[0].shape[1] if early is not None else 0
    nr_failed = int((trace.event == L.EVENT_FAIL).sum())
    ops = Ops(np.concatenate(script.parts, axis=1))
    return Requests(ops, title, nr_early, script.nr_unmatched, nr_failed)
