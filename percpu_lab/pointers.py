"""What alloc_percpu hands out, and the memory it leads to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .errors import RequestError
from .rich import Rich

if TYPE_CHECKING:
    from .allocator import Allocator


class PercpuPtr(Rich):
    """A percpu pointer: one allocation, a copy for each CPU.

    It is not an address: add a CPU's offset with `per_cpu_ptr`. NULL is falsy and knows its reason.

    >>> from percpu_lab import Allocator
    >>> p = Allocator(jit="off").alloc_percpu(60)
    >>> p.size, bool(p), p.ordinal
    (60, True, 0)
    """

    __slots__ = ("_owner", "align", "op", "reason", "size", "value")

    def _html_fields(self) -> list[tuple[str, object]]:
        shown: list[tuple[str, object]] = [("value", str(self))]
        shown += [(name, getattr(self, name)) for name in ("size", "align", "op")]
        if not self:
            return [*shown, ("reason", self.reason)]
        place = [("chunk", self.ordinal), ("off", self.off)] if self.is_live else []
        return [*shown, *place, ("is_live", self.is_live)]

    def __init__(self, owner: Allocator, value: int, size: int, align: int, op: int, reason: str = "") -> None:
        self._owner = owner
        self.value = value
        self.size = size
        self.align = align
        self.op = op
        self.reason = reason

    def __bool__(self) -> bool:
        return self.value != 0

    def __index__(self) -> int:
        return self.value

    def __eq__(self, other: object) -> bool:
        if isinstance(other, PercpuPtr):
            return self.value == other.value and (self._owner is other._owner or not self.value)
        return isinstance(other, int) and self.value == other

    def __hash__(self) -> int:
        return hash(self.value)

    def __repr__(self) -> str:
        if not self:
            return "NULL"
        state = "" if self.is_live else ", freed"
        return f"<percpu {self.value:#x}: {self.size} B at chunk {self.ordinal} + {self.off}{state}>"

    def __str__(self) -> str:
        return hex(self.value) if self else "NULL"

    @property
    def owner(self) -> Allocator:
        """The allocator that handed it out."""
        return self._owner

    @property
    def is_live(self) -> bool:
        """Tell whether the area has not been freed."""
        return bool(self) and self._owner.engine.born(self.value) == self.op

    @property
    def ordinal(self) -> int:
        """Number of the chunk: 0 the first chunk, -1 the reserved one, k the k-th created."""
        return self._owner.engine.place(self.value)[0]

    @property
    def off(self) -> int:
        """Offset in the unit, in bytes."""
        return self._owner.engine.place(self.value)[1]


class PerCpuAddress(Rich):
    """The address of one CPU's copy of an allocation, and the memory there.

    >>> from percpu_lab import Allocator
    >>> a = Allocator(jit="off")
    >>> p = a.alloc_percpu(16)
    >>> a.per_cpu_ptr(p, 2).view(np.int64)[0] = 7
    >>> [int(a.per_cpu_ptr(p, cpu).view(np.int64)[0]) for cpu in range(4)]
    [0, 0, 7, 0]
    """

    __slots__ = ("_ptr", "address", "cpu")
    _shown = ("address", "cpu", "ptr")

    def __init__(self, ptr: PercpuPtr, cpu: int, address: int) -> None:
        self._ptr = ptr
        self.cpu = cpu
        self.address = address

    @property
    def ptr(self) -> PercpuPtr:
        """The allocation whose copy this is."""
        return self._ptr

    def __index__(self) -> int:
        return self.address

    def __repr__(self) -> str:
        return f"<{self.address:#x}: {self._ptr.size} B of CPU {self.cpu}>"

    def view(self, dtype: npt.DTypeLike = np.uint8) -> np.ndarray:
        """Give the bytes of this copy as an array that writes through.

        Args:
            dtype: element type; its size must divide the size of the allocation.

        Raises:
            UseAfterFreeError: the allocation has been freed.
            RequestError: no such type, or the size is no multiple of the element size.
        """
        try:
            kind = np.dtype(dtype)
        except TypeError as error:
            what, remedy = f"no type of elements: {error}", 'give one of NumPy\'s, such as "int64"'
            raise RequestError(what, where=repr(self), remedy=remedy) from None
        return self._ptr.owner.memory.view(self._ptr, self.cpu, kind)
