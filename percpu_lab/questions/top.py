"""Who holds the most?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..errors import RequestError
from ..plain import count
from ..rich import Rich
from ..units import format_bytes
from ..views._words import chunk_label
from .answer import Answer
from .ledger import Ints, Ledger
from .subject import At, Subject

if TYPE_CHECKING:
    from ..views.static import Picture

By = Literal["call_site", "task", "size", "chunk"]
_BY = ("call_site", "task", "size", "chunk")


@dataclass(frozen=True, slots=True)
class Holder(Rich):
    """One who holds memory.

    Args:
        who: the call site, task, size or chunk.
        nr_areas: live areas, or all it ever got.
        size_bytes: of one CPU.
        bytes_alloc: as events have it: all CPUs, and what accounting takes; None where the trace has no such field.
        share: of the size_bytes of all.
    """

    who: str
    nr_areas: int
    size_bytes: int
    bytes_alloc: int | None
    share: float


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Top(Answer):
    """Holders, the greatest first.

    Args:
        by: what they are told apart by.
        is_live: what is held at the moment; else all that was ever allocated.
        nr_areas, size_bytes: of all holders together.
    """

    by: By
    is_live: bool
    nr_areas: int
    size_bytes: int

    def headline(self) -> str:
        """Give the answer in one sentence."""
        what = "live" if self.is_live else "allocated"
        if not self.rows:
            return f"nothing is {what}"
        first = self.rows[0]
        most = f"{first.who} has the most, {format_bytes(first.size_bytes)} ({first.share:.0%})"
        return f"{count(self.nr_areas, 'area')} {what}, {format_bytes(self.size_bytes)} per CPU; {most}"

    def picture(self) -> Picture | None:
        """Draw the greatest holders as bars."""
        from .pictures import bars

        chosen = self.rows[:12]
        return bars(
            f"Who {'holds' if self.is_live else 'asked for'} the most, by {self.by.replace('_', ' ')}",
            [row.who for row in chosen],
            [row.size_bytes for row in chosen],
        )


def top(subject: Any, by: By = "call_site", *, live: bool = True, at: At = None) -> Top:
    """Say who holds the most memory.

    >>> from percpu_lab.allocator import Allocator
    >>> a = Allocator()
    >>> kept = [a.alloc_percpu(64), a.alloc_percpu(64), a.alloc_percpu(256)]
    >>> top(a, "size").rows[0]
    Holder(who='256 bytes', nr_areas=1, size_bytes=256, bytes_alloc=None, share=0.6666666666666666)

    Args:
        subject: a Recording, a trace, or an Allocator.
        by: "call_site", "task", "size" or "chunk".
        live: what is held at the moment; False for all that was allocated before it.
        at: the moment, as a row of the trace or a text in a marker; the end by default.

    Raises:
        RequestError: `by` is none of these, or there is no such moment.
    """
    if by not in _BY:
        raise RequestError(f"nothing is told apart by {by!r}", where="top", remedy=f"choose from {', '.join(_BY)}")
    whole = Subject.of(subject)
    ledger, moment = whole.ledger, whole.moment(at)
    chosen = np.flatnonzero(ledger.live_at(moment) if live else ledger.born < moment)
    names, code = _keys(ledger, by)
    rows = _holders(ledger, chosen, names, code[chosen])
    size_bytes = int(ledger.size[chosen].sum())
    return Top(rows=rows, by=by, is_live=live, nr_areas=len(chosen), size_bytes=size_bytes, **whole.notes())


def _keys(ledger: Ledger, by: By) -> tuple[tuple[str, ...], Ints]:
    if by == "call_site":
        return ledger.site.names, ledger.site.code
    if by == "task":
        return ledger.task.names, ledger.task.code
    if by == "chunk":
        values, code = np.unique(ledger.chunk, return_inverse=True)
        return tuple(chunk_label(value) for value in values.tolist()), code
    values, code = np.unique(ledger.size, return_inverse=True)
    return tuple(count(value, "byte") for value in values.tolist()), code


def _holders(ledger: Ledger, chosen: Ints, names: tuple[str, ...], code: Ints) -> tuple[Holder, ...]:
    areas, size = (np.bincount(code, weights, len(names)) for weights in (None, ledger.size[chosen]))
    total = np.bincount(code, ledger.bytes_alloc[chosen], len(names))
    is_unknown = np.bincount(code, ledger.bytes_alloc[chosen] < 0, len(names)) > 0
    whole = max(int(size.sum()), 1)
    order = [k for k in np.lexsort((-areas, -size)).tolist() if areas[k]]
    return tuple(
        Holder(names[k], int(areas[k]), int(size[k]), None if is_unknown[k] else int(total[k]), float(size[k] / whole))
        for k in order
    )
