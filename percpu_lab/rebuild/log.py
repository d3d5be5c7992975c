"""All that was recorded as one log: the calls before tracing, then the trace, and which chunk each event means.

    position   0 .. nr_early - 1 | nr_early ..                 row = position - nr_early: rows of the trace count from 0
    identity   of the chunk: its base address, or its ordinal where an engine wrote the events

A base address says which chunk is meant, not which kind of chunk. The first and the reserved chunk have no create
event of their own (the one at boot comes before op 0), so they are found among those that were never created.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..columns import RESERVED_ORDINAL, Ints
from ..core import layout as L
from ..errors import GeometryError
from ..events import EventBatch, Events
from ..geometry.info import MAX_UNIT_SIZE
from ..units import PAGE_SIZE, round_down
from .space import Space

_NOBODY = -1  # an identity that no event has
_LEAST_TRUE_ADDRESS = 1 << 32  # of 64 bits; a hashed one has 32
Identities = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Log:
    """Columns over all positions.

    Args:
        parts: the events themselves, in order.
        nr_early: positions before row 0.
        event: EVENT_* code.
        identity: dense number of the chunk's identity.
        off, size: in bytes, of the request.
        is_reserved: the request was for the reserved chunk.
        base_addr: of each identity.
        first, reserved: identity of the boot chunks, or -1.
        first_is_certain: nothing else could be the first chunk.
    """

    parts: tuple[Events, ...]
    nr_early: int
    event: Ints
    identity: Identities
    off: Ints
    size: Ints
    base_addr: npt.NDArray[np.uint64]
    first: int
    reserved: int
    first_is_certain: bool

    def __len__(self) -> int:
        return len(self.event)

    def column(self, name: str) -> np.ndarray:
        """Join a column of the parts."""
        return np.concatenate([getattr(part, name) for part in self.parts])


def join(trace: Events, early: Events | None, space: Space | None) -> Log:
    """Join what was recorded, and find the boot chunks.

    Args:
        space: where chunks have room; None where the geometry is not known.
    """
    parts = (trace,) if early is None else (early, trace)
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in ("event", "off", "size")}
    values, identity = np.unique(np.concatenate([_identities(part) for part in parts]), return_inverse=True)
    base_addr = np.zeros(len(values) + 1, np.uint64)
    base_addr[identity] = np.concatenate([part.base_addr for part in parts])
    finder = _Boot(parts, identity, columns, space)
    first, reserved, is_certain = finder.found()
    if first == _NOBODY and finder.at_boot.any():
        first = int(identity[finder.at_boot][0])
    is_told = reserved != _NOBODY or first == _NOBODY  # an engine's events tell the two apart by their ordinals
    if not is_told and space is not None and space.shares_base and space.reserved != (0, 0):
        reserved = len(values)
        base_addr[reserved] = base_addr[first]
        moved = (identity == first) & (columns["event"] <= L.EVENT_FREE) & (columns["off"] < space.first[0])
        identity = np.where(moved, reserved, identity)
    identity[finder.at_boot] = first
    nr_early = 0 if early is None else len(early)
    return Log(parts, nr_early, columns["event"], identity, columns["off"], columns["size"], base_addr, first, reserved,
               is_certain)  # fmt: skip


def _identities(events: Events) -> Ints:
    if isinstance(events, EventBatch):
        return events.chunk.astype(np.uint64)
    return events.base_addr


class _Boot:
    """Tells the first and the reserved chunk from the others."""

    def __init__(
        self, parts: tuple[Events, ...], identity: Ints, columns: dict[str, Ints], space: Space | None
    ) -> None:
        self.parts, self.identity, self.space = parts, identity, space
        self.event, self.off, self.size = (columns[name] for name in ("event", "off", "size"))
        op = np.concatenate([part.op for part in parts])
        self.base_addr = np.concatenate([part.base_addr for part in parts])
        early = len(parts[0]) if len(parts) > 1 else 0
        self.at_boot = (self.event == L.EVENT_CREATE) & (op < 0) & (np.arange(len(op)) >= early)
        self.nr = int(identity.max(initial=-1)) + 1

    def found(self) -> tuple[int, int, bool]:
        """Give the identities of the first and the reserved chunk, -1 for none, and whether the first is certain."""
        if isinstance(self.parts[-1], EventBatch):
            return self._of_ordinal(0), self._of_ordinal(RESERVED_ORDINAL), True
        unborn = self._unborn()
        reserved = next((k for k in unborn if self._is_reserved(k)), _NOBODY)
        candidates = [k for k in unborn if k != reserved and self._fits_first(k)]
        exact = [k for k in candidates if self._has_first_address(k)]
        is_certain = not candidates or len(exact) == 1 or (not exact and self._begins_at_boot())
        return next(iter(exact or candidates), _NOBODY), reserved, is_certain

    def _of_ordinal(self, ordinal: int) -> int:
        chosen = np.flatnonzero(self.parts[-1].chunk == ordinal)
        return int(self.identity[len(self.identity) - len(self.parts[-1]) + chosen[0]]) if len(chosen) else _NOBODY

    def _unborn(self) -> list[int]:
        """Identities whose first event is no creation, by first appearance."""
        used = np.flatnonzero((self.event != L.EVENT_FAIL) & ~self.at_boot)
        met, at = np.unique(self.identity[used], return_index=True)
        is_unborn = self.event[used[at]] != L.EVENT_CREATE
        order: list[int] = met[is_unborn][np.argsort(at[is_unborn])].tolist()
        return order

    def _rows(self, identity: int) -> Ints:
        return np.flatnonzero((self.identity == identity) & (self.event <= L.EVENT_FREE))

    def _is_reserved(self, identity: int) -> bool:
        """Whether a chunk serves reserved requests alone; without a reserved chunk they are served as any other."""
        if self.space is not None and self.space.reserved == (0, 0):
            return False
        rows = self._rows(identity)
        flags = np.concatenate([part.flags for part in self.parts])[rows[self.event[rows] == L.EVENT_ALLOC]]
        return len(flags) > 0 and bool((flags & L.FLAG_RESERVED).all())

    def _fits_first(self, identity: int) -> bool:
        """Whether all areas of a chunk lie where the first chunk has room, and it was never destroyed."""
        if (self.event[self.identity == identity] == L.EVENT_DESTROY).any():
            return False
        if self.space is None:
            return True
        rows, space = self._rows(identity), self.space
        low = min(space.first[0], space.reserved[0]) if space.shares_base and space.reserved[1] else space.first[0]
        return bool((self.off[rows] >= low).all() and (self.off[rows] + self.size[rows] <= space.first[1]).all())

    def _has_first_address(self, identity: int) -> bool:
        """Whether percpu pointers tell that a chunk begins where the first one does: true addresses, 64 bits.

        There the first chunk's pointers begin right behind its static and reserved part, near 0.
        """
        rows = self._rows(identity)
        if not len(rows) or self.base_addr[rows].min() < _LEAST_TRUE_ADDRESS:
            return False
        begin = np.unique(np.concatenate([part.ptr for part in self.parts])[rows] - self.off[rows].astype(np.uint64))
        if len(begin) > 1:
            return False
        if self.space is None or self.space.shares_base:
            return bool(begin[0] < MAX_UNIT_SIZE)
        return int(begin[0]) == round_down(self.space.unit.static_size + self.space.unit.reserved_size, PAGE_SIZE)

    def _begins_at_boot(self) -> bool:
        """Whether nothing can have come before: calls before the trace are there, or its clock has not begun."""
        if len(self.parts) > 1 or self.at_boot.any():
            return True
        time: Ints = getattr(self.parts[0], "time", np.zeros(0, np.int64))
        return bool((time[:1] == 0).any())


def cuts(log: Log, losses: tuple[int, ...]) -> Iterator[int]:
    """Give the positions before which events were lost."""
    return (row + log.nr_early for row in losses)


def check_fit(ordinal: Ints, log: Log, space: Space) -> None:
    """Refuse a geometry that the areas of a log do not fit in.

    Args:
        ordinal: of the chunk, at each position.

    Raises:
        GeometryError: names the first area that does not fit.
    """
    unit_size = space.unit.unit_size
    kinds = [ordinal == 0, ordinal == RESERVED_ORDINAL]
    low = np.select(kinds, [space.first[0], space.reserved[0]], 0)
    high = np.select(kinds, [space.first[1], space.reserved[1]], unit_size)
    bad = (log.event <= L.EVENT_FREE) & ((log.off < low) | (log.off + log.size > high))
    if bad.any():
        at = int(bad.argmax())
        raise GeometryError(
            f"does not fit in {int(low[at]):,} .. {int(high[at]):,} of a unit of {unit_size:,} bytes",
            where=f"area at offset {int(log.off[at]):,}, {int(log.size[at]):,} bytes",
            remedy="give the unit_size of the recorded machine",
        )
