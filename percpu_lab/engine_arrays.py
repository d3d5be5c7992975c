"""The arrays of one allocator: made, grown and read; the functions that change them are elsewhere.

g       one word a global, as core/layout.py numbers them        ring    columns of events, behind each other
chunk   list heads, then a row a chunk; a handle is its start    order   handle of each chunk ever created
map     a stretch a chunk, as its model keeps free space         birth   a word for each place an area can begin at
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from .core import layout as L
from .core.births import NR_BIRTH_COLUMNS, birth_index
from .core.state import State
from .engine_messages import bad_free
from .events import RING_COLUMNS, EventBatch
from .geometry import Addresses, Geometry
from .models import Model

_MASK64 = (1 << 64) - 1
_RESERVE_BYTES = 1 << 28  # address space set aside for each table; pages never touched cost nothing
_MIN_ROWS = 16
_BLOCK = 512  # words that are copied together when an array grows


def to_signed(value: int) -> int:
    """Give the signed number with the bit pattern of an unsigned 64-bit one.

    >>> to_signed(0xffff_ffff_ffff_fffe)
    -2
    """
    value &= _MASK64
    return value - (1 << 64) if value >> 63 else value


class EngineArrays:
    """An allocator as arrays.

    Args:
        geometry: layout, addresses and backing.
        model: the kernel's allocator.
        stats: keep percpu_stats (CONFIG_PERCPU_STATS).
        ring_capacity: events the ring holds, rounded up to a power of two.
    """

    def __init__(self, geometry: Geometry, model: Model, stats: bool, ring_capacity: int) -> None:
        self.geometry = geometry
        self.model = model
        self.lock = threading.RLock()
        self._make_arrays(geometry, stats, ring_capacity)

    def _make_arrays(self, geometry: Geometry, stats: bool, ring_capacity: int) -> None:
        info = geometry.info
        self._addresses = addresses = _chunk_addresses(geometry)
        self.g = g = np.zeros(L.NR_GLOBAL_WORDS, np.int64)
        self._g = memoryview(g)  # quicker to read one word of
        g[L.UNIT_SIZE] = info.unit_size
        g[L.UNIT_PAGES] = info.unit_pages
        g[L.NR_CPUS] = info.nr_cpus
        g[L.BACKING_KM] = geometry.backing == "km"
        g[L.AREA_BASE] = to_signed(addresses.area_base - addresses.first_chunk)
        g[L.AREA_STRIDE] = addresses.area_stride
        g[L.FIRST_BASE] = to_signed(addresses.first_chunk)
        g[L.PTR_BIAS] = to_signed(addresses.first_chunk) if info.up else 0
        self.model.set_sizes(g, info)
        g[L.BIRTH_STRIDE] = info.unit_size // 2
        g[L.RING_CAPACITY] = 1 << max(ring_capacity - 1, 1).bit_length()
        g[L.STATS_ON] = stats
        g[L.LOGS_ATOMIC_FAILURES] = geometry.kernel.logs_atomic_failures
        g[L.EVENT_MASK] = (1 << L.NR_EVENTS) - 1
        self.chunk = np.zeros(L.NR_LIST_HEADS * int(g[L.ROW_WORDS]), np.int64)
        self.map = np.zeros(0, self.model.map_type)
        self.birth = np.zeros(0, np.int64)
        self.order = np.zeros(0, np.int64)
        self.ring = np.zeros(L.NR_RING_COLUMNS * int(g[L.RING_CAPACITY]), np.int64)
        self._grow(max(_MIN_ROWS, _RESERVE_BYTES // (8 * int(g[L.BIRTH_STRIDE]))))

    def _grow(self, new_rows: int) -> None:
        """Add chunk rows, and room for as many creations more."""
        g = self.g
        words = int(g[L.ROW_WORDS])
        old_rows = len(self.chunk) // words
        rows = old_rows + new_rows
        self.map = _extended(self.map, (rows - L.NR_LIST_HEADS) * int(g[L.MAP_STRIDE]), _sparse_zeros)
        self.birth = _extended(self.birth, (rows - L.NR_LIST_HEADS) * int(g[L.BIRTH_STRIDE]), _sparse_zeros)
        self.chunk = _extended(self.chunk, rows * words)
        handles = np.arange(old_rows, rows) * words
        self.chunk[handles[:-1] + L.LIST_NEXT] = handles[1:]
        self.chunk[handles[-1] + L.LIST_NEXT] = g[L.FREE_ROW]
        g[L.FREE_ROW] = handles[0]
        g[L.NR_FREE_ROWS] += new_rows
        self._grow_order()

    def _grow_order(self) -> None:
        self.order = _extended(self.order, max(1024, 2 * len(self.order)))
        self.g[L.ORDER_CAPACITY] = len(self.order)

    def arrays(self) -> tuple[np.ndarray, ...]:
        """Give the arrays of layout.py as they are now, in the order of State."""
        return self.g, self.chunk, self.map, self.birth, self.ring, self.order

    # --- reading -------------------------------------------------------------------

    def scalar(self, index: int) -> int:
        """Read one of the globals of layout.py."""
        return int(self._g[index])

    def _list(self, link: int, head_row: int) -> Iterator[int]:
        head = head_row * int(self._g[L.ROW_WORDS])
        c = int(self.chunk[head + link])
        while c != head:
            yield c
            c = int(self.chunk[c + link])

    def handles(self) -> list[tuple[int, int]]:
        """List (handle, slot) of every chunk on a slot list, slot 0 up, head to tail."""
        return [(c, slot) for slot in range(int(self._g[L.NR_SLOTS])) for c in self._list(L.LIST_NEXT, slot)]

    def chunks(self) -> list[Any]:
        """Give every chunk but the reserved one, slot 0 up, head to tail."""
        with self.lock:
            return [self.model.read_chunk(self, c, slot) for c, slot in self.handles()]

    def reserved_chunk(self) -> Any:
        """Give the reserved chunk, if there is one."""
        with self.lock:
            c = int(self._g[L.RESERVED_CHUNK])
            return self.model.read_chunk(self, c, -1) if c else None

    def map_extend_chunks(self) -> list[int]:
        """List the ordinals of the chunks that wait for a longer map, in order; -1 is the reserved chunk."""
        with self.lock:
            return [int(self.chunk[c + L.ORDINAL]) for c in self._list(L.EXTEND_NEXT, L.EXTEND_HEAD_ROW)]

    def handle(self, ordinal: int) -> int:
        """Find a chunk by its ordinal -> handle, or 0 once it is destroyed."""
        if ordinal <= 0:
            return self.scalar(L.RESERVED_CHUNK if ordinal else L.FIRST_CHUNK)
        return int(self.order[ordinal - 1]) if ordinal <= self.scalar(L.NR_ORDER) else 0

    def place(self, ptr: int) -> tuple[int, int]:
        """Find where a percpu pointer leads -> (chunk ordinal, offset in bytes), whether anything lives there or not.

        Raises:
            ForeignPointerError: no chunk ever was at this address.
        """
        address = to_signed(ptr - self.scalar(L.PTR_BIAS))
        if 0 <= address < self.scalar(L.UNIT_SIZE):
            ordinal = -1 if address < self.scalar(L.RESERVED_LIMIT) else 0
            return ordinal, address - int(self.chunk[self.handle(ordinal) + L.BASE])
        number, off = divmod(address - self.scalar(L.AREA_BASE), self.scalar(L.AREA_STRIDE))
        if not 0 <= number < self.scalar(L.NR_ORDER) or off >= self.scalar(L.UNIT_SIZE):
            raise bad_free(L.STATUS_NO_CHUNK, ptr)
        return number + 1, off

    def pointer(self, ordinal: int, off: int) -> int:
        """Give the percpu pointer, unsigned, of an offset in a chunk that is there."""
        return int(self.chunk[self.handle(ordinal) + L.BASE]) + off + self.scalar(L.PTR_BIAS) & _MASK64

    def unit_start(self, ordinal: int) -> int:
        """Give where in a CPU's unit a chunk begins, in bytes: a boot chunk of v6.12 at the page of its first byte."""
        return int(self.chunk[self.handle(ordinal) + L.BASE]) if ordinal <= 0 else 0

    def born(self, ptr: int) -> int:
        """Give the number of the op that allocated the area at a percpu pointer; -1 if no live area begins there."""
        with self.lock:
            ordinal, off = self.place(ptr)
            c = self.handle(ordinal)
            if not c or off < 0 or off & 1:
                return -1
            word = int(self.birth[birth_index(int(self.chunk[c + L.BIRTH]), self.scalar(L.BIRTH_STRIDE), off)])
            return word >> 16 if word else -1

    def births(self, c: int) -> np.ndarray:
        """Give the words of `birth` of a chunk handle, row off >> 4, column off >> 1 & 7; changes write through."""
        at, stride = int(self.chunk[c + L.BIRTH]), self.scalar(L.BIRTH_STRIDE)
        return self.birth[at : at + stride].reshape(NR_BIRTH_COLUMNS, -1).T

    def watch_memory(self, ordinal: int) -> None:
        """Report areas of a chunk to `zero_area` from now on (the first and the reserved chunk share their memory)."""
        for c in (self.handle(0), self.handle(-1)) if ordinal <= 0 else (self.handle(ordinal),):
            if c:
                self.chunk[c + L.HAS_MEMORY] = 1

    def base_addr(self, c: int) -> int:
        """Give the base address of a chunk handle, unsigned."""
        return (int(self._g[L.FIRST_BASE]) + int(self.chunk[c + L.BASE])) & _MASK64

    def plain_state(self) -> State:
        """Give the arrays as plain functions of the core want them."""
        return State(*[memoryview(array) for array in self.arrays()])

    def events(self, since: int, limit: int | None = None) -> EventBatch:
        """Give the events numbered `since` and up that the ring still holds, at most `limit` of them."""
        with self.lock:
            head = self.scalar(L.RING_HEAD)
            first = max(since, self.first_event)
            last = head if limit is None else min(head, first + limit)
            columns = np.concatenate(self.ring_parts(first, last), axis=1)
        lost = max(first - max(since, self.scalar(L.RING_START)), 0)
        boot_bases = int(self.chunk[self.handle(0) + L.BASE]), int(self.chunk[self.handle(-1) + L.BASE])
        nr_cpus = self.geometry.info.nr_cpus if self.model.kernel.alloc_fields else 0
        return EventBatch(
            dict(zip(RING_COLUMNS, columns, strict=True)),
            first,
            lost,
            self._addresses,
            self.scalar(L.PTR_BIAS),
            boot_bases=boot_bases,
            nr_cpus=nr_cpus,
        )

    @property
    def first_event(self) -> int:
        """Number of the oldest event that the ring holds."""
        return max(self.scalar(L.RING_HEAD) - self.scalar(L.RING_CAPACITY), self.scalar(L.RING_START))

    def ring_parts(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Give events that the ring holds where they stand, up to its end and round it; to be read under the lock."""
        rows = self.ring.reshape(L.NR_RING_COLUMNS, -1)
        count, start = max(last - first, 0), first & (rows.shape[1] - 1)
        before_end = rows[:, start : start + count]
        return before_end, rows[:, : count - before_end.shape[1]]


def _chunk_addresses(geometry: Geometry) -> Addresses:
    """Give where the chunks begin: a km chunk's memory is group 0's, which may lie behind the base address."""
    addresses = geometry.addresses
    if geometry.backing != "km":
        return addresses
    return replace(addresses, area_base=addresses.area_base - geometry.info.groups[0].base_offset)


def _extended(array: np.ndarray, length: int, zeros: Callable[[int, np.dtype], np.ndarray] = np.zeros) -> np.ndarray:
    """Copy into a longer array, zeroed behind; what was never written to costs nothing, nor does its copy."""
    result = zeros(length, array.dtype)
    whole = len(array) // _BLOCK * _BLOCK
    blocks, copies = array[:whole].reshape(-1, _BLOCK), result[:whole].reshape(-1, _BLOCK)
    used = blocks.any(axis=1)
    copies[used] = blocks[used]
    result[whole : len(array)] = array[whole:]
    return result


def _sparse_zeros(length: int, dtype: np.dtype) -> np.ndarray:
    """Make an array of zeros in small pages; np.zeros asks for those of 2 MiB, each of which a word would fill."""
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    return np.frombuffer(mmap.mmap(-1, max(length * dtype.itemsize, 1), **private), dtype, length)
