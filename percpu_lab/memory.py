"""The memory behind percpu pointers: made when somebody looks, zeroed at each allocation.

chunk k:   unit of cpu 0 |....pppp....|      one row a possible CPU, unit_size bytes each;
           unit of cpu 1 |....pppp....|      an allocation is the same range of every row
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .core import layout as L
from .engine import Engine
from .errors import RequestError, UseAfterFreeError
from .plain import count
from .pointers import PercpuPtr
from .rich import Rich
from .units import format_bytes


class PercpuMemory(Rich):
    """The bytes of every chunk that was looked into; the others cost nothing.

    >>> from percpu_lab import Allocator
    >>> a = Allocator(jit="off")
    >>> a.this_cpu_ptr(a.alloc_percpu(8)).view()[0] = 1
    >>> a.memory
    <PercpuMemory: 1 chunk looked into, 256 KiB for 4 CPUs>

    Args:
        engine: its areas are zeroed here as it allocates them.
    """

    _shown = ("nr_cpus", "nr_bytes", "chunks")

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._cpus = {cpu: row for row, cpu in enumerate(engine.geometry.info.possible_cpus)}
        self.units: dict[int, np.ndarray] = {}  # by chunk ordinal
        engine.zero_area = self._zero
        engine.keep_memory = self.kept

    def __repr__(self) -> str:
        looked_into = count(len(self.units), "chunk")
        return f"<PercpuMemory: {looked_into} looked into, {format_bytes(self.nr_bytes)} for {self.nr_cpus} CPUs>"

    @property
    def nr_cpus(self) -> int:
        """CPUs that have a copy of each area."""
        return len(self._cpus)

    @property
    def nr_bytes(self) -> int:
        """Bytes that are held for the chunks that were looked into, all CPUs together."""
        return sum(units.nbytes for units in self.units.values())

    @property
    def chunks(self) -> tuple[int, ...]:
        """The numbers of the chunks that were looked into."""
        return tuple(self.units)

    def view(self, ptr: PercpuPtr, cpu: int, dtype: np.dtype) -> np.ndarray:
        """Give one CPU's copy of an allocation as an array.

        Raises:
            UseAfterFreeError: the area was freed.
            RequestError: the size is no multiple of the element size, or the type has none.
        """
        if not ptr.is_live:
            raise UseAfterFreeError(
                "this allocation has been freed", where=repr(ptr), remedy="keep the pointer only while it is live"
            )
        if dtype.hasobject or not dtype.itemsize:
            raise RequestError(f"{dtype} has no bytes of its own", where=repr(ptr), remedy="use a type of numbers")
        if ptr.size % dtype.itemsize:
            raise RequestError(
                f"{ptr.size} bytes are no whole number of {dtype}",
                where=repr(ptr),
                remedy=f"use a type of 1 byte, or allocate a multiple of {dtype.itemsize}",
            )
        ordinal, off = self._engine.place(ptr.value)
        units = self._open(ordinal)
        off += self._engine.unit_start(ordinal)
        self._engine.drain_zero()
        return units[self._cpus[cpu], off : off + ptr.size].view(dtype)

    def _open(self, ordinal: int) -> np.ndarray:
        key = max(ordinal, 0)  # the reserved chunk lies in the first chunk's units
        units = self.units.get(key)
        if units is None:
            self.drop_destroyed()
            self._engine.watch_memory(ordinal)  # first: an interrupt must leave no memory that is not zeroed
            units = self.units[key] = np.zeros((len(self._cpus), self._engine.scalar(L.UNIT_SIZE)), np.uint8)
        return units

    def kept(self) -> Callable[[], None]:
        """Copy all bytes; what it gives puts them back, for an engine that stands again where it stood."""
        copies = {key: units.copy() for key, units in self.units.items()}

        def put_back() -> None:
            self.drop_destroyed()
            for key in {**self.units, **copies}:
                self._engine.watch_memory(key)
                units = self.units.setdefault(key, copies.get(key, np.zeros(0, np.uint8)))
                units[:] = copies.get(key, 0)  # in place: somebody may hold a view

        return put_back

    def drop_destroyed(self) -> None:
        """Forget the memory of chunks that are gone."""
        for ordinal in [k for k in self.units if not self._engine.handle(k)]:
            del self.units[ordinal]

    def _zero(self, ordinal: int, off: int, size: int) -> None:
        units = self.units.get(max(ordinal, 0))
        if units is not None:
            off += self._engine.unit_start(ordinal)
            units[:, off : off + size] = 0
