"""Where the chunks of a recorded machine have room for areas, in the offsets that its events print.

v4.13          0        static   +reserved  +dyn      unit_size
reserved       | static | served |  not managed        |     both chunks share one base
first chunk    | static |reserved| served   | not m... |

from v4.14     page of the first byte served is the base of its own
reserved       |..| served |         ..  the bytes of its neighbour in that page: hidden
first chunk    |..| served     |

any other      | served                                |
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..columns import OUTSIDE, RESERVED, RESERVED_ORDINAL, STATIC, Ints, Unit
from ..core import layout as L
from ..errors import GeometryError
from ..events import Bools, Events
from ..geometry.info import MAX_UNIT_SIZE, PCPU_MIN_UNIT_SIZE
from ..kernels import V6_12, KernelVersion
from ..rich import Rich
from ..units import PAGE_SIZE, format_bytes, round_up

_DAMAGE_IS_RARE = 100  # one event in so many, at most
_MAX_PAGE_SIZE = 1 << 16  # of any machine
_LEAST_ALIGN = 2  # that any kernel gives

Piece = tuple[int, int, int]  # offset, size, kind of area


@dataclass(frozen=True, slots=True)
class Space(Rich):
    """The served part of each kind of chunk, as offsets from the base that its events print.

    >>> space = Space.of(Unit(524288, 181032, 8192, 31960, {}), V6_12)
    >>> space.first, space.reserved, space.shares_base
    ((808, 32768), (808, 9000), False)

    Args:
        unit: the geometry; inferred from events where `guess` says so.
        least_size: granule in bytes that sizes are rounded up to.
        first, reserved: offsets at which the served part begins and ends; (0, 0) without a reserved chunk.
        shares_base: the first and the reserved chunk print the same base_addr.
        guess: what was not known but inferred, in words; empty if the geometry is known.

    Source: spec bitmap 2.1 and 2.2, area map 1.6.
    """

    unit: Unit
    least_size: int
    first: tuple[int, int]
    reserved: tuple[int, int]
    shares_base: bool
    guess: str = ""

    @classmethod
    def of(cls, unit: Unit, kernel: KernelVersion | None = None) -> Space:
        """Lay out the chunks of a geometry as a kernel does; as the newest without one."""
        kernel = kernel or V6_12
        if kernel.allocator == "areamap":
            limit = unit.static_size + unit.reserved_size
            first, reserved = (limit, limit + unit.dyn_size), (unit.static_size, limit)
            return cls(unit, kernel.least_size, first, reserved if unit.reserved_size else (0, 0), True)
        static = round_up(unit.static_size, kernel.least_size)
        dyn_size = unit.dyn_size - (static - unit.static_size)
        low, high = static % PAGE_SIZE, (static + unit.reserved_size) % PAGE_SIZE
        shares_base = static // PAGE_SIZE == (static + unit.reserved_size) // PAGE_SIZE
        served = (low, low + unit.reserved_size) if unit.reserved_size else (0, 0)
        return cls(unit, kernel.least_size, (high, high + dyn_size), served, shares_base)

    @classmethod
    def inferred(cls, top: int, first_end: int, reserved_end: int, kernel: KernelVersion | None = None) -> Space:
        """Infer what is not known: units as large as every area needs, boot chunks up to the page of their last area.

        >>> Space.inferred(40000, 20000, 0).unit.unit_size, Space.inferred(40000, 20000, 0).first
        (65536, (0, 20480))

        Args:
            top, first_end, reserved_end: offset behind the highest area of all, of the first and of the reserved chunk.
        """
        unit_size = max(PCPU_MIN_UNIT_SIZE, 1 << max(top - 1, 0).bit_length())
        dyn_size = min(round_up(first_end, PAGE_SIZE) or unit_size, unit_size)
        reserved_size = round_up(reserved_end, PAGE_SIZE)
        least_size = (kernel or V6_12).least_size
        guess = f"geometry unknown: units taken as {format_bytes(unit_size)}, from the highest offset"
        unit = Unit(unit_size, 0, reserved_size, dyn_size, {})
        return cls(unit, least_size, (0, dyn_size), (0, reserved_size), False, guess)

    def bounds(self, ordinal: int) -> tuple[int, int]:
        """Give the offsets at which the served part of a chunk begins and ends."""
        return {0: self.first, RESERVED_ORDINAL: self.reserved}.get(ordinal, (0, self.unit.unit_size))

    def size_of(self, ordinal: int) -> int:
        """Give the bytes that a chunk can serve."""
        start, end = self.bounds(ordinal)
        return end - start

    def fixed(self, ordinal: int) -> list[Piece]:
        """List what lies before and behind the served part of a chunk, as offset, size and kind of area."""
        start, end = self.bounds(ordinal)
        static = min(start, self.unit.static_size)
        behind = (end, self.unit.unit_size - end, OUTSIDE)
        pieces = [(0, static, STATIC), (static, start - static, RESERVED), behind]
        return [piece for piece in pieces if piece[1] > 0]


def is_outside(events: Events, unit_size: int) -> Bools:
    """Tell which events are of areas that lie in no unit of a size in bytes."""
    ends_in = (events.off >= 0) & (events.size >= 0) & (events.off <= unit_size - events.size)
    return np.asarray((events.event <= L.EVENT_FREE) & ~ends_in, np.bool_)


def damaged_rows(events: Events, unit: Unit | None) -> Ints:
    """Find the rows of areas that no kernel hands out: their lines are damaged.

    They lie in no unit: of the geometry if they are few, else of any machine, for many say that the geometry is another
    one. Or they have no bytes, or are aligned to what is no power of two, or above a page, or are not so aligned.
    """
    outside = is_outside(events, MAX_UNIT_SIZE if unit is None else unit.unit_size)
    if unit is not None and outside.sum() > max(len(events) // _DAMAGE_IS_RARE, 1):
        outside = is_outside(events, MAX_UNIT_SIZE)
    wrong_align = (events.align & (events.align - 1) != 0) | (events.align > _MAX_PAGE_SIZE)
    wrong_size = (events.event == L.EVENT_ALLOC) & (events.size <= 0)
    wrong_off = events.off & (np.maximum(events.align, _LEAST_ALIGN) - 1) != 0
    return np.flatnonzero(outside | (events.event <= L.EVENT_FREE) & (wrong_align | wrong_size | wrong_off))


def highest_end(events: Events) -> int:
    """Give the offset behind the highest area of a trace, in bytes.

    Raises:
        GeometryError: an offset that no unit can have.
    """
    bad = is_outside(events, MAX_UNIT_SIZE)
    if bad.any():
        at = int(bad.argmax())
        raise GeometryError(
            f"an area at offset {int(events.off[at]):,} of {int(events.size[at]):,} bytes lies in no unit",
            where=f"event {at:,}",
            remedy="check that the file is whole",
        )
    return int((events.off + events.size)[events.event <= L.EVENT_FREE].max(initial=0))
