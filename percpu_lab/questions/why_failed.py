"""Why did a request get NULL?

illegal                  size or alignment no kernel grants: no event, a line in the kernel log
reserved exhausted       the reserved chunk has no room
no populated page        there is room, but no page behind it, and an atomic request cannot wait for one
no area                  no chunk has room, and an atomic request cannot make one
no new chunk, no page    a request that may sleep: memory was short
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core import layout as L
from ..errors import RequestError
from ..geometry.info import PCPU_MIN_UNIT_SIZE
from ..plain import count
from ..rich import Rich
from ..units import PAGE_SIZE
from ..views._words import chunk_label
from .answer import Answer
from .subject import Notes, Subject

if TYPE_CHECKING:
    from ..review import Explanation, Failure

_ALLOCATOR = ("__alloc_percpu", "__alloc_reserved_percpu", "pcpu_alloc", "dump_stack", "show_stack", "__dump_stack")
_SAME_SECONDS = 0.05  # between an event and its line in the log
_UNKNOWN = "not known: the events alone do not tell"


@dataclass(frozen=True, slots=True)
class FailureGroup(Rich):
    """Failed requests that are alike.

    Args:
        reason: what was lacking.
        nr: requests.
        request_bytes, align, is_atomic, is_reserved: of each request.
        first_row, first_line: of the first in the trace; an illegal request has no row, and the line of the log.
        logged: what the kernel log says.
    """

    reason: str
    nr: int
    request_bytes: int
    align: int
    is_atomic: bool
    is_reserved: bool
    first_row: int | None
    first_line: int | None
    logged: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Failures(Answer):
    """All failed requests in groups, the most frequent first.

    Args:
        nr_failed, nr_explained: requests with an event, and those whose failure the algorithm explains.
        nr_illegal: requests without an event: the kernel log tells of them.
    """

    nr_failed: int
    nr_explained: int
    nr_illegal: int

    def headline(self) -> str:
        """Give the answer in one sentence."""
        illegal = f"{count(self.nr_illegal, 'request')} illegal" if self.nr_illegal else ""
        if not self.nr_failed:
            return illegal or "no request failed"
        first = self.rows[0]
        kind = "atomic" if first.is_atomic else "GFP_KERNEL"
        what = f"{first.nr:,} {kind} of {first.request_bytes:,} bytes: {first.reason}"
        return f"{count(self.nr_failed, 'request')} failed, {self.nr_explained:,} explained; most: {what}" + (
            f"; {illegal}" if illegal else ""
        )


@dataclass(frozen=True, slots=True)
class Refusal(Rich):
    """A chunk that the request came to.

    Args:
        slot: its list; None for the reserved chunk.
        chunk: its name.
        why: it refused.
    """

    slot: int | None
    chunk: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class WhyFailed(Answer):
    """Why one request failed; the rows are the chunks it came to, in that order.

    Args:
        row, line: of the trace; the line is None for a simulated run.
        task: that asked, with its CPU.
        asked_by: the function, from the stack in the kernel log; empty without one.
        size_bytes, align, is_atomic, is_reserved: of the request.
        reason: what was lacking.
        is_explained: the model fails there, too.
        would_get: what GFP_KERNEL would have got.
        logged: the reason in the kernel log; empty if it is not there.
        first_slot: where the search began: chunks in lower slots have no room; None if that is not known.
    """

    row: int
    line: int | None
    task: str
    asked_by: str
    size_bytes: int
    align: int
    is_atomic: bool
    is_reserved: bool
    reason: str
    is_explained: bool
    would_get: str
    logged: str
    first_slot: int | None

    def headline(self) -> str:
        """Give the answer in one sentence."""
        kind = "reserved" if self.is_reserved else "atomic" if self.is_atomic else "GFP_KERNEL"
        place = f" (line {self.line:,})" if self.line else ""
        asked = f"{kind} request for {self.size_bytes:,} bytes at row {self.row:,}{place}"
        by = f" by {self.asked_by}" if self.asked_by else ""
        return f"{asked}{by}: {self.reason}" + (f"; {self.would_get}" if self.would_get else "")


def failures(subject: Any) -> Failures:
    """Say which requests failed and why, those that are alike together.

    >>> from percpu_lab.allocator import Allocator
    >>> a = Allocator()
    >>> p = a.alloc_percpu(16384, reserved=True)
    >>> print(failures(a).headline())
    1 request failed, 1 explained; most: 1 GFP_KERNEL of 16,384 bytes: alloc from reserved chunk failed

    Args:
        subject: a Recording, a Review, a trace or an Allocator.
    """
    whole = Subject.of(subject)
    found = list(_failures(whole))
    groups: dict[tuple[Any, ...], list[Failure]] = {}
    for failure in found:
        key = (failure.reason, failure.size, failure.align, failure.is_atomic, failure.is_reserved)
        groups.setdefault(key, []).append(failure)
    rows = [
        FailureGroup(
            reason, len(alike), size, align, is_atomic, is_reserved, alike[0].row, whole.line(alike[0].row),
            alike[0].logged,
        )
        for (reason, size, align, is_atomic, is_reserved), alike in groups.items()
    ]  # fmt: skip
    rows.sort(key=lambda row: -row.nr)
    illegal = list(_illegal(whole))
    nr_explained = sum(failure.is_explained for failure in found)
    return Failures(
        rows=(*rows, *illegal), nr_failed=len(found), nr_explained=nr_explained, nr_illegal=len(illegal),
        **_notes(whole),
    )  # fmt: skip


def why_failed(subject: Any, event: int | None = None) -> WhyFailed:
    """Say why a request failed: the recording is replayed to the moment, and the request tried again.

    >>> from percpu_lab.allocator import Allocator
    >>> a = Allocator()
    >>> p = a.alloc_percpu(16384, reserved=True)
    >>> print(why_failed(a).headline())
    reserved request for 16,384 bytes at row 1: alloc from reserved chunk failed

    Args:
        subject: a Recording, a Review, a trace or an Allocator.
        event: row of the failure in the trace; the first failure by default.

    Raises:
        RequestError: the row is no failure, or nothing failed.

    Source: pcpu_alloc (spec bitmap 3.1 to 3.12).
    """
    whole = Subject.of(subject)
    failure = _chosen(whole, event)
    explained = whole.review.explain(failure.row) if _is_replayed(whole) else None
    rows = tuple(_refusals(explained))
    return WhyFailed(
        rows=rows,
        first_slot=explained.first_slot if explained is not None and explained.first_slot >= 0 else None,
        row=failure.row,
        line=whole.line(failure.row),
        task=_task(whole, failure.row),
        asked_by=_asked_by(whole, failure),
        size_bytes=failure.size,
        align=failure.align,
        is_atomic=failure.is_atomic,
        is_reserved=failure.is_reserved,
        reason=failure.reason,
        is_explained=failure.is_explained,
        would_get=failure.would_get,
        logged=failure.logged,
        **_notes(whole),
    )


def _chosen(whole: Subject, event: int | None) -> Failure:
    found = list(_failures(whole))
    for failure in found:
        if event is None or failure.row == event:
            return failure
    if not found:
        raise RequestError(
            "no request failed", where="why_failed", remedy="the verb failures tells what could hide some"
        )
    rows = ", ".join(f"{failure.row}" for failure in found[:8])
    raise RequestError(f"row {event} is no failed request", where="why_failed", remedy=f"failed rows: {rows}")


def _failures(whole: Subject) -> Iterator[Failure]:
    """Those of the review; of a run, or where nothing could be replayed, those of the events."""
    if _is_replayed(whole):
        yield from whole.review.failures
    elif whole.trace is not None:
        yield from _by_events(whole)


def _by_events(whole: Subject) -> Iterator[Failure]:
    from ..review import Failure

    trace, logged = whole.trace, _logged(whole)
    for row in np.flatnonzero(trace.event == L.EVENT_FAIL).tolist():
        request = int(trace.size[row]), int(trace.align[row]), bool(trace.is_atomic[row])
        in_log = logged.get(request, "")
        reason = L.REASONS[int(trace.reason[row])] if whole.engine is not None else in_log or _UNKNOWN
        is_explained = whole.engine is not None
        yield Failure(row, *request, bool(trace.reserved[row]), is_explained, reason, in_log, "")


def _illegal(whole: Subject) -> Iterator[FailureGroup]:
    """Requests that no kernel grants: they get no event."""
    dmesg = whole.recording.dmesg if whole.recording is not None else None
    for line in dmesg.illegal if dmesg else ():
        logged = f"dmesg line {line.line}" + (f", by {who}" if (who := _caller(line.stack)) else "")
        reason = f"illegal: {illegal_reason(line.size, line.align)}"
        yield FailureGroup(reason, 1, line.size, line.align, False, False, None, line.line, logged)


def illegal_reason(size: int, align: int) -> str:
    """Say which rule for requests is broken; sizes in bytes.

    >>> illegal_reason(40000, 8), illegal_reason(8, 12), illegal_reason(64, 64)
    ('more than 32,768 bytes', 'the alignment is no power of two', 'none is broken')

    Source: pcpu_alloc (spec bitmap 3.1).
    """
    if size <= 0:
        return "no size"
    if size > PCPU_MIN_UNIT_SIZE:
        return f"more than {PCPU_MIN_UNIT_SIZE:,} bytes"
    if align > PAGE_SIZE:
        return "the alignment is more than a page"
    return "the alignment is no power of two" if align & (align - 1) else "none is broken"


def _asked_by(whole: Subject, failure: Failure) -> str:
    """The caller of a failed request, if the log shows it at that time, or only one request like it."""
    dmesg = whole.recording.dmesg if whole.recording is not None else None
    alike = [
        line for line in (dmesg.failures if dmesg else ())
        if (line.size, line.align, line.is_atomic) == (failure.size, failure.align, failure.is_atomic)
    ]  # fmt: skip
    if len(whole.ledger.seconds) and len(alike) > 1:
        second = float(whole.ledger.seconds[failure.row])
        alike = [line for line in alike if line.time is not None and abs(line.time - second) < _SAME_SECONDS]
    return _caller(alike[0].stack) if len(alike) == 1 else ""


def _caller(stack: Sequence[str]) -> str:
    return next((name for name in stack if not name.startswith(_ALLOCATOR)), "")


def _logged(whole: Subject) -> dict[tuple[int, int, bool], str]:
    dmesg = whole.recording.dmesg if whole.recording is not None else None
    return {(line.size, line.align, line.is_atomic): line.reason for line in (dmesg.failures if dmesg else ())}


def _is_replayed(whole: Subject) -> bool:
    return whole.recording is not None and whole.review.is_reviewed


def _refusals(explained: Explanation | None) -> Iterator[Refusal]:
    if explained is None:
        return
    for tried in explained.tried:
        yield Refusal(tried.slot if tried.slot >= 0 else None, chunk_label(tried.chunk), tried.why)
    if not explained.tried:
        yield Refusal(explained.first_slot, "none", "no chunk stands in this slot or above: none has such a free run")


def _task(whole: Subject, row: int) -> str:
    trace = whole.trace
    if not hasattr(trace, "task"):
        return ""
    cpu = f" on CPU {trace.cpu[row]}" if trace.cpu[row] >= 0 else ""
    return f"{trace.task[row]}{cpu}"


def _notes(whole: Subject) -> Notes:
    if whole.engine is not None:
        return {"certain": ("the engine itself failed so",), "inferred": ()}
    certain = ("a fail event fires for every legal request that gets NULL; illegal ones show in the kernel log alone",)
    if not _is_replayed(whole):
        problem = whole.review.problem if whole.recording is not None else "a trace alone has no geometry"
        return {"certain": certain, "inferred": (f"the decisions could not be replayed: {problem}",)}
    return {"certain": certain, "inferred": ("reasons are those of the model that replays the recorded calls",)}
