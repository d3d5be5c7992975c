"""One allocator as arrays, and the functions that work on them."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any

import numpy as np

from . import compiled
from .core import layout as L
from .core.request import room
from .core.state import State
from .errors import DoubleFreeError, ForeignPointerError, KernelBugError, LabError, RequestError
from .events import EventBatch
from .geometry import Geometry
from .geometry.info import shown
from .interrupts import deferred_interrupt
from .models import MODELS, booted_by, model_named
from .models import ChunkState as ChunkState
from .ops import Ops

_MASK64 = (1 << 64) - 1
_NEVER = 1 << 62
_RESERVE_BYTES = 1 << 28  # address space set aside for each table; pages never touched cost nothing
_MIN_ROWS = 16
_SLICE_OPS_PLAIN = 1_000
_SLICE_OPS_COMPILED = 20_000
_HISTORY_ROWS = 1 << 16
_LARGE_UNIT = 1 << 19  # bytes; a row of births of a larger one does not fill pages of 2 MiB
_BLOCK = 512  # words that are copied together when an array grows

_WALK_TEXT = (
    "the v4.13 kernel would loop for ever here: a failing scan found no hole of 4 bytes, moved the chunk to slot 0, "
    "and the walk of its old slot ran on into slot 0's list head, taking it for a chunk"
)


def to_signed(value: int) -> int:
    """Give the signed number with the bit pattern of an unsigned 64-bit one.

    >>> to_signed(0xffff_ffff_ffff_fffe)
    -2
    """
    value &= _MASK64
    return value - (1 << 64) if value >> 63 else value


class _PlainGuard(deferred_interrupt):
    """The engine's lock, with interrupts held back: plain functions can be cut anywhere."""

    __slots__ = ("_lock",)

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock

    # an interrupt may come as soon as acquire() returns: only a `with` statement gives the lock back then
    def __enter__(self) -> None:
        with self._lock:
            super().__enter__()
            self._lock.acquire()

    def __exit__(self, *error: Any) -> None:
        with self._lock:
            self._lock.release()
            super().__exit__(*error)


def exercise(module: ModuleType) -> None:
    """Call every entry of a compiled engine once, on an allocator that is thrown away, so that numba compiles it."""
    kernel = next(name for name, model in MODELS.items() if module.__name__.endswith(f".{model.module_name}"))
    engine = Engine(Geometry.simple(), kernel=kernel, jit="off", ring_capacity=16)
    engine._use(module)
    ptr = engine.alloc(16, 8, False, False)
    engine.free(ptr)
    engine.balance()
    engine._sample(1)
    engine.run(Ops.from_text("alloc 0 16 8 0 0\nfree 0\n"), np.zeros(1, np.int64))


class Engine:
    """A kernel's allocator on arrays that plain and compiled functions share.

    >>> engine = Engine(Geometry.simple(), jit="off")
    >>> ptr = engine.alloc(16, 8, False, False)
    >>> engine.free(ptr)
    >>> engine.now
    2

    Args:
        geometry: layout, addresses and backing.
        kernel: whose decisions to make, one of models.MODELS; the geometry knows by default.
        stats: keep percpu_stats (CONFIG_PERCPU_STATS).
        ring_capacity: events the ring holds, rounded up to a power of two.
        history: sample the state of all chunks as ops go by.
        auto_balance: run the balance work at the end of the op that made it pending, not only when called.
        jit: a policy of compiled.py; the environment decides by default.

    Raises:
        GeometryError: the kernel would refuse to boot with this geometry.
        RequestError: there is no model of this kernel.
    """

    def __init__(
        self,
        geometry: Geometry,
        *,
        kernel: str | None = None,
        stats: bool = True,
        ring_capacity: int = 1 << 16,
        history: bool = True,
        auto_balance: bool = False,
        jit: str | None = None,
    ) -> None:
        self.model = model_named(kernel or geometry.kernel.name)
        self.geometry = geometry = booted_by(geometry, self.model.kernel)
        self.lock = threading.RLock()
        self.log: list[tuple[int, str]] = [(-1, line) for line in geometry.boot_log]
        self._make_arrays(geometry, stats, ring_capacity)
        self._history = np.zeros((L.NR_HIST_COLUMNS, _HISTORY_ROWS if history else 0), np.int64)
        self._stride = 1
        self.zero_area: Any = None  # called with (chunk ordinal, off, size) for memory somebody looks at
        self._use(self.model.plain)
        info = geometry.info
        with deferred_interrupt():
            self._functions.pcpu_setup_first_chunk(*self._arrays, info.static_size, info.reserved_size, info.dyn_size)
        self._g[L.AUTO_BALANCE] = auto_balance
        self._policy = compiled.policy(jit)
        self._change_over()
        if history:
            self._sample(1, 0)
        else:
            self._g[L.NEXT_SAMPLE] = _NEVER

    def __repr__(self) -> str:
        return f"<Engine {self.model.name}: {self.now:,} ops, {len(self.chunks())} chunks>"

    # --- arrays ---------------------------------------------------------------

    def _make_arrays(self, geometry: Geometry, stats: bool, ring_capacity: int) -> None:
        info, addresses = geometry.info, geometry.addresses
        self.g = np.zeros(L.NR_GLOBAL_WORDS, np.int64)
        g = self.g
        g[L.UNIT_SIZE] = info.unit_size
        g[L.UNIT_PAGES] = info.unit_pages
        g[L.NR_CPUS] = info.nr_cpus
        g[L.BACKING_KM] = geometry.backing == "km"
        g[L.AREA_BASE] = to_signed(
            addresses.area_base - info.groups[0].base_offset * (geometry.backing == "km") - addresses.first_chunk
        )
        g[L.AREA_STRIDE] = addresses.area_stride
        g[L.FIRST_BASE] = to_signed(addresses.first_chunk)
        g[L.PTR_BIAS] = to_signed(addresses.first_chunk) if info.up else 0
        self.model.set_sizes(g, info)
        g[L.BIRTH_STRIDE] = info.unit_size // 2
        g[L.RING_CAPACITY] = 1 << max(ring_capacity - 1, 1).bit_length()
        g[L.STATS_ON] = stats
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
        zeros = _sparse_zeros if g[L.UNIT_SIZE] > _LARGE_UNIT else np.zeros
        self.map = _extended(self.map, (rows - L.NR_LIST_HEADS) * int(g[L.MAP_STRIDE]), zeros)
        self.birth = _extended(self.birth, (rows - L.NR_LIST_HEADS) * int(g[L.BIRTH_STRIDE]), zeros)
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

    def adopt(self, arrays: tuple[np.ndarray, ...]) -> None:
        """Go on with other arrays: copies that were made of arrays() earlier."""
        self.g, self.chunk, self.map, self.birth, self.ring, self.order = arrays
        self._use(self._functions)

    def _use(self, module: ModuleType) -> None:
        """Run the functions of this module from now on, on arrays as it wants them."""
        arrays = self.arrays()
        self._g = memoryview(self.g)
        self._functions = module
        self._is_plain = module is self.model.plain
        self._arrays: tuple[Any, ...] = tuple(memoryview(a) for a in arrays) if self._is_plain else arrays
        # no interrupt gets into a compiled call
        self._guard: AbstractContextManager[object] = _PlainGuard(self.lock) if self._is_plain else self.lock
        self._op_alloc, self._op_free = module.op_alloc, module.op_free

    def _change_over(self) -> None:
        """Change to the compiled functions as soon as they are there."""
        if self._is_plain and self._policy != "off":
            module = compiled.request(self.model.module_name, wait=self._policy == "wait")
            if module is not None:
                self._use(module)

    @property
    def is_compiled(self) -> bool:
        """Tell whether the compiled functions serve now."""
        return not self._is_plain

    # --- what a stopped call asks for ---------------------------------------------

    def _serve(self, status: int) -> None:
        """Do what a call asked for before it can go on.

        Raises:
            KernelBugError: nothing helps; the op is over.
        """
        with deferred_interrupt():
            if status == L.STATUS_NEED_ROWS:
                if self._g[L.NR_FREE_ROWS] < L.SPARE_ROWS:
                    self._grow(len(self.chunk) // int(self.g[L.ROW_WORDS]) - L.NR_LIST_HEADS)
                else:
                    self._grow_order()
                self._use(self._functions)
            elif status == L.STATUS_NEED_LOG:
                self.drain_log()
            elif status == L.STATUS_NEED_ZERO:
                self.drain_zero()
            elif status == L.STATUS_BUG_WALK:
                raise KernelBugError(_WALK_TEXT, where=f"op {self.now - 1}", remedy="make no requests of 2 bytes")

    def make_room(self) -> None:
        """Grow and drain until an op can run, as each op does of itself."""
        while (status := room(State(*[memoryview(array) for array in self.arrays()]))) != L.STATUS_OK:
            self._serve(status)

    def drain_log(self) -> None:
        """Turn the log table into lines of the kernel log."""
        rows = (
            self.g[L.LOG_TABLE : L.LOG_TABLE + int(self.g[L.LOG_USED]) * L.LOG_WORDS].reshape(-1, L.LOG_WORDS).tolist()
        )
        self._g[L.LOG_USED] = 0
        self.log += [(row[L.LOG_OP], _log_text(row)) for row in rows]

    def drain_zero(self) -> None:
        """Have the areas zeroed that were allocated in chunks with memory behind them."""
        with self.lock, deferred_interrupt():
            end = L.ZERO_TABLE + int(self._g[L.ZERO_USED]) * L.ZERO_WORDS
            rows = self.g[L.ZERO_TABLE : end].reshape(-1, L.ZERO_WORDS).tolist()
            self._g[L.ZERO_USED] = 0
            for handle, off, size in rows:
                self.zero_area(int(self.chunk[handle + L.ORDINAL]), off, size)

    # --- history -----------------------------------------------------------------

    def _sample(self, work_per_op: int, most: int = _NEVER) -> None:
        """Take a history sample, and put the next one off so that sampling stays a small part of the work.

        Args:
            work_per_op: map entries that may be read for each op.
            most: longest distance to the next sample, in ops.
        """
        with deferred_interrupt():
            work = self._functions.sample_history(*self._arrays, self._history_words())
            while work < 0:
                self._make_history_room()
                work = self._functions.sample_history(*self._arrays, self._history_words())
        distance = (work + _SAMPLE_STOP_WORK) // work_per_op
        self._g[L.NEXT_SAMPLE] = self.now + max(self._stride, min(distance, most))

    def _history_words(self) -> Any:
        words = self._history.reshape(-1)
        return memoryview(words) if self._is_plain else words

    def _make_history_room(self) -> None:
        """Drop every second sample; where one alone fills half of the room, double the room."""
        used = int(self._g[L.HIST_USED])
        rows = self._history[:, :used]
        number = np.cumsum(np.diff(rows[L.HIST_OP], prepend=rows[L.HIST_OP, :1]) != 0)
        if number[-1] < 3:
            self._history = np.concatenate([self._history, np.zeros_like(self._history)], axis=1)
            return
        kept = rows[:, number % 2 == 0]
        self._history = np.zeros_like(self._history)  # who has read the old one may go on reading it
        self._history[:, : kept.shape[1]] = kept
        self._g[L.HIST_USED] = kept.shape[1]
        self._stride *= 2

    def history(self) -> dict[str, np.ndarray]:
        """Give the samples: a row a chunk and sample, in the order of ops; sizes in bytes."""
        with self.lock:
            rows = self._history[:, : int(self._g[L.HIST_USED])]  # written once: no copy is needed
        rows.flags.writeable = False
        return dict(zip(HISTORY_COLUMNS, rows, strict=True))

    # --- ops ---------------------------------------------------------------------

    @property
    def now(self) -> int:
        """Count the ops done: the number of the next one."""
        return int(self._g[L.NOW])

    version = now

    def scalar(self, index: int) -> int:
        """Read one of the globals of layout.py."""
        return int(self._g[index])

    def alloc(self, size: int, align: int, reserved: bool, atomic: bool) -> int:
        """Run one allocation -> percpu pointer, unsigned; 0 is NULL (pcpu_alloc).

        Args:
            size, align: in bytes, as asked for, 0 to 2^64 - 1.

        Raises:
            KernelBugError: the modelled kernel would loop for ever.
            RequestError: a number of more than 64 bits.
        """
        return self.request(size, align, reserved * L.FLAG_RESERVED | atomic * L.FLAG_ATOMIC)[0]

    def request(self, size: int, align: int, flags: int) -> tuple[int, int, int]:
        """Run one allocation -> (percpu pointer, number of the op, REASON_* of a NULL); see alloc.

        Args:
            flags: FLAG_RESERVED | FLAG_ATOMIC.
        """
        if size > _NEVER or align > _NEVER:
            if size > _MASK64 or align > _MASK64:
                raise RequestError(f"{shown(max(size, align))} does not fit a size_t", remedy="give 0 to 2^64 - 1")
            size, align = to_signed(size), to_signed(align)
        g = self._g
        with self._guard:
            ptr = self._op_alloc(*self._arrays, size, align, flags)
            while g[L.STATUS] != L.STATUS_OK:
                self._serve(g[L.STATUS])
                ptr = self._op_alloc(*self._arrays, size, align, flags)
            op = g[L.NOW] - 1
            reason = g[L.REASON]
            if g[L.NOW] >= g[L.NEXT_SAMPLE] or self._is_plain:
                self._after_op()
            return int(ptr) & _MASK64, op, reason

    def free(self, ptr: int, born: int = -1) -> None:
        """Free a percpu pointer (free_percpu); 0 is allowed and does nothing.

        Args:
            ptr: unsigned.
            born: number of the op that allocated it, to tell a stale pointer from its successor; -1 if unknown.

        Raises:
            DoubleFreeError, ForeignPointerError: the kernel would crash or be corrupted; nothing was changed.
        """
        with self._guard:
            self._op_free(*self._arrays, to_signed(ptr), born)
            while self._g[L.STATUS] != L.STATUS_OK:
                if self._g[L.STATUS] in _BAD_FREE:
                    raise bad_free(self._g[L.STATUS], ptr)
                self._serve(self._g[L.STATUS])
                self._op_free(*self._arrays, to_signed(ptr), born)
            self._after_op()

    def balance(self) -> bool:
        """Run the balance work if it is pending -> whether it was (pcpu_balance_workfn)."""
        with self._guard:
            ran = self._functions.op_balance(*self._arrays)
            while self._g[L.STATUS] != L.STATUS_OK:
                self._serve(self._g[L.STATUS])
                ran = self._functions.op_balance(*self._arrays)
            self._after_op()
            return bool(ran)

    def _after_op(self) -> None:
        if self._g[L.NOW] >= self._g[L.NEXT_SAMPLE]:
            self._sample(_SAMPLE_WORK_SINGLE, self.now // _SAMPLES)
        if self._is_plain:
            self._change_over()

    def set_fault(self, kind: str, count: int, skip: int = 0) -> None:
        """Let `skip` calls of a kind succeed, then fail the next `count`.

        Args:
            kind: mem, vm, page or ptmap.

        Raises:
            RequestError: no such kind, or no whole number from 0.
        """
        if kind not in L.FAULT_KINDS:
            raise RequestError(f"unknown kind of fault {kind!r}", remedy=f"use one of {', '.join(L.FAULT_KINDS)}")
        numbers: dict[str, object] = {"count": count, "skip": skip}
        for name, value in numbers.items():
            if not isinstance(value, (int, np.integer)) or not 0 <= value <= _NEVER:
                raise RequestError(
                    f"{value!r:.40} is no number of calls",
                    where=f"fault {kind}, {name}",
                    remedy="give 0 or more; a count of 0 clears the fault",
                )
        with self._guard:
            self._g[L.FAULT_LEFT_MEM + L.FAULT_KINDS.index(kind)] = count
            self._g[L.FAULT_SKIP_MEM + L.FAULT_KINDS.index(kind)] = skip
            self._g[L.NOW] += 1

    def tick(self) -> None:
        """Let an op pass that does nothing to the allocator."""
        with self.lock:
            self._g[L.NOW] += 1

    def run(self, ops: Ops, ids: np.ndarray, start: int = 0, stop: int | None = None) -> int:
        """Run ops [start, stop) -> the op it stopped before; less than stop where a stats or state op is next.

        Args:
            ops: the script.
            ids: int64, the percpu pointer of each id as a signed number; read and written.

        Raises:
            BadFreeError, KernelBugError: at the op its text names; the ops before it are done.
            RequestError: there are no such ops, or the table does not fit them; nothing was done.
        """
        end = len(ops) if stop is None else stop
        _check_run(ops, ids, start, end)
        words = ops.array.reshape(-1)
        i = start
        while i < end:
            with self._guard:
                if self._is_plain:
                    self._change_over()
                i = self._run_slice(words, ids, i, end)
                status = self._g[L.STATUS]
                if status == L.STATUS_HOST:
                    return i
                if status == L.STATUS_SAMPLE:
                    self._sample(_SAMPLE_WORK_BULK, (end - start) // _SAMPLES)
                elif status in _BAD_FREE:
                    raise bad_free(status, int(ids[ops.array[L.OPS_ID, i]]) & _MASK64, where=f"op {i}")
                else:
                    self._serve(status)
        return i

    def _run_slice(self, words: np.ndarray, ids: np.ndarray, start: int, end: int) -> int:
        if self._is_plain:
            stop = min(end, start + _SLICE_OPS_PLAIN)
            return int(self._functions.run_ops(*self._arrays, memoryview(words), memoryview(ids), start, stop))
        return int(self._functions.run_ops(*self._arrays, words, ids, start, min(end, start + _SLICE_OPS_COMPILED)))

    # --- reading -------------------------------------------------------------------

    def dmesg(self) -> list[tuple[int, str]]:
        """Give the kernel log as (op, text), boot lines with op -1."""
        with self.lock, deferred_interrupt():
            self.drain_log()
            return list(self.log)

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
            return (int(self.birth[self.chunk[c + L.BIRTH] + (off >> 1)]) >> 16) if c and self._is_live(c, off) else -1

    def _is_live(self, c: int, off: int) -> bool:
        return off >= 0 and not off & 1 and bool(self.birth[self.chunk[c + L.BIRTH] + (off >> 1)])

    def watch_memory(self, ordinal: int) -> None:
        """Report areas of a chunk to `zero_area` from now on (the first and the reserved chunk share their memory)."""
        for c in (self.handle(0), self.handle(-1)) if ordinal <= 0 else (self.handle(ordinal),):
            if c:
                self.chunk[c + L.HAS_MEMORY] = 1

    def base_addr(self, c: int) -> int:
        """Give the base address of a chunk handle, unsigned."""
        return int(self._g[L.FIRST_BASE] + self.chunk[c + L.BASE]) & _MASK64

    def events(self, since: int, limit: int | None = None) -> EventBatch:
        """Give the events numbered `since` and up that the ring still holds, at most `limit` of them."""
        with self.lock:
            head, capacity = self.scalar(L.RING_HEAD), self.scalar(L.RING_CAPACITY)
            first = max(since, head - capacity, self.scalar(L.RING_START))
            last = head if limit is None else min(head, first + limit)
            start, count = first & (capacity - 1), max(last - first, 0)
            rows = self.ring.reshape(L.NR_RING_COLUMNS, capacity)
            columns = np.hstack([rows[:, start : start + count], rows[:, : max(start + count - capacity, 0)]])
        lost = max(first - max(since, self.scalar(L.RING_START)), 0)
        boot_bases = int(self.chunk[self.handle(0) + L.BASE]), int(self.chunk[self.handle(-1) + L.BASE])
        nr_cpus = self.geometry.info.nr_cpus if self.model.has_call_site else 0
        return EventBatch(
            dict(zip(RING_NAMES, columns, strict=True)),
            first,
            lost,
            self.geometry.addresses,
            self.scalar(L.PTR_BIAS),
            boot_bases=boot_bases,
            nr_cpus=nr_cpus,
        )


RING_NAMES = ("op", "event", "chunk", "off", "size", "align", "flags", "birth")
HISTORY_COLUMNS = (
    "op",
    "ordinal",
    "free_bytes",
    "largest_free_bytes",
    "sum_frag",
    "max_frag",
    "nr_alloc",
    "nr_populated",
)
_SAMPLES = 256  # a run should leave at least so many
_SAMPLE_STOP_WORK = 8000  # what it costs to stop for a sample, in map entries read
_SAMPLE_WORK_SINGLE = 16
_SAMPLE_WORK_BULK = 4
_BAD_FREE = (L.STATUS_BAD_FREE, L.STATUS_NO_CHUNK, L.STATUS_STATIC, L.STATUS_STALE)


def _check_run(ops: Ops, ids: np.ndarray, start: int, end: int) -> None:
    """Check what compiled code takes on trust."""
    if start < 0 or end > len(ops):
        raise RequestError(
            f"the script has ops 0 to {len(ops) - 1}", where=f"ops [{start}, {end})", remedy="stay inside"
        )
    if ids.dtype != np.int64 or ids.ndim != 1 or not (ids.flags.c_contiguous and ids.flags.writeable):
        raise RequestError(f"not a table of pointers: {ids!r:.60}", where="ids", remedy="give np.zeros(n, np.int64)")
    if ops.nr_ids > len(ids):
        raise RequestError(
            f"the script uses {ops.nr_ids} ids, the table has {len(ids)}", where="ids", remedy="give a longer table"
        )


def bad_free(status: int, ptr: int, where: str = "") -> LabError:
    """Explain a refused free.

    >>> print(bad_free(L.STATUS_NO_CHUNK, 0x1000))
    free_percpu(0x1000): no chunk is at this address; free what this allocator handed out
    """
    where = f"{where}: free_percpu({ptr:#x})" if where else f"free_percpu({ptr:#x})"
    if status == L.STATUS_NO_CHUNK:
        return ForeignPointerError(
            "no chunk is at this address", where=where, remedy="free what this allocator handed out"
        )
    if status == L.STATUS_STATIC:
        return ForeignPointerError(
            "static per-CPU variables stand here, not an allocation",
            where=where,
            remedy="free what alloc_percpu returned",
        )
    if status == L.STATUS_STALE:
        return DoubleFreeError(
            "freed before, and its area belongs to a later allocation now",
            where=where,
            remedy="free each pointer once; nothing was changed (a kernel would free the other's memory)",
        )
    return DoubleFreeError(
        "no live area begins here: freed before, or a pointer into the middle of one",
        where=where,
        remedy="free each pointer once; nothing was changed (a kernel would BUG here)",
    )


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


def _log_text(row: list[int]) -> str:
    size, align = row[L.LOG_SIZE] & _MASK64, row[L.LOG_ALIGN] & _MASK64
    if row[L.LOG_CODE] == L.LOG_ILLEGAL:
        return f"WARN: illegal size ({size}) or align ({align}) for percpu allocation"
    if row[L.LOG_CODE] == L.LOG_LIMIT:
        return "percpu: limit reached, disable warning"
    reason = L.REASONS[row[L.LOG_REASON]]
    return f"percpu: allocation failed, size={size} align={align} atomic={row[L.LOG_ATOMIC]}, {reason}"
