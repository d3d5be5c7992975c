"""One allocator: its arrays, and the functions of a kernel that change them, op by op."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from . import compiled
from .core import layout as L
from .core.request import room
from .engine_arrays import EngineArrays, to_signed
from .engine_messages import WALK_TEXT, bad_free, log_text
from .errors import KernelBugError, RequestError
from .geometry import Geometry
from .geometry.info import shown
from .interrupts import deferred_interrupt
from .models import MODELS, booted_by, model_named
from .models import ChunkState as ChunkState
from .ops import Ops
from .rich import Rich

_MASK64 = (1 << 64) - 1
_NEVER = 1 << 62
_SLICE_OPS_PLAIN = 1_000
_SLICE_OPS_COMPILED = 20_000
_HISTORY_ROWS = 1 << 16


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


class Engine(Rich, EngineArrays):
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

    _shown: ClassVar = ("geometry", "now")

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
        model = model_named(geometry.kernel.name if kernel is None else kernel)
        geometry = booted_by(geometry, model.kernel)
        super().__init__(geometry, model, stats, ring_capacity)
        self.past = 0  # another number, another story; grows by as many ops as are undone
        self.log: list[tuple[int, str]] = [(-1, line) for line in geometry.boot_log]
        self._history = np.zeros((L.NR_HIST_COLUMNS, _HISTORY_ROWS if history else 0), np.int64)
        self._stride = 1
        self.zero_area: Any = None  # called with (chunk ordinal, off, size) for memory somebody looks at
        self.keep_memory: Callable[[], Callable[[], None]] | None = None  # copies it; what that gives puts it back
        self._visitor: Callable[[], None] | None = None
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

    # --- which functions work on the arrays --------------------------------------------

    def adopt(self, arrays: tuple[np.ndarray, ...]) -> None:
        """Go on with other arrays: copies that were made of arrays() earlier."""
        now = self.now
        self.g, self.chunk, self.map, self.birth, self.ring, self.order = arrays
        self._use(self._functions)
        self.past += max(now - self.now, 0) + 1

    def _use(self, module: ModuleType) -> None:
        """Run the functions of this module from now on, on arrays as it wants them."""
        arrays = self.arrays()
        self._g = memoryview(self.g)
        self._functions = module
        self._is_plain = self._has_errand = module is self.model.plain
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
                raise KernelBugError(WALK_TEXT, where=f"op {self.now - 1}", remedy="make no requests of 2 bytes")

    def make_room(self) -> None:
        """Grow and drain until an op can run, as each op does of itself."""
        while (status := room(self.plain_state())) != L.STATUS_OK:
            self._serve(status)

    def drain_log(self) -> None:
        """Turn the log table into lines of the kernel log."""
        rows = (
            self.g[L.LOG_TABLE : L.LOG_TABLE + int(self.g[L.LOG_USED]) * L.LOG_WORDS].reshape(-1, L.LOG_WORDS).tolist()
        )
        self._g[L.LOG_USED] = 0
        self.log += [(row[L.LOG_OP], log_text(row)) for row in rows]

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
        """Keep half of the samples, as far apart in ops as from each other; where three fill the room, double it."""
        used = int(self._g[L.HIST_USED])
        rows = self._history[:, :used]
        ops, number = np.unique(rows[L.HIST_OP], return_inverse=True)
        if len(ops) <= 3:
            self._history = np.concatenate([self._history, np.zeros_like(self._history)], axis=1)
            return
        # the first sample of each span of ops: samples of long runs of ops lie further apart than those of single ones
        span = -(-int(ops[-1] - ops[0] + 1) // (len(ops) // 2))
        is_first = np.diff((ops - ops[0]) // span, prepend=-1) > 0
        kept = rows[:, is_first[number]]
        self._history = np.zeros_like(self._history)  # who has read the old one may go on reading it
        self._history[:, : kept.shape[1]] = kept
        self._g[L.HIST_USED] = kept.shape[1]
        self._stride = max(2 * self._stride, span)

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

    @property
    def version(self) -> int:
        """Grows with every op, also where some were undone before."""
        return self.now + self.past

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
            if g[L.NOW] >= g[L.NEXT_SAMPLE] or self._has_errand:
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
        if self._has_errand:
            self._change_over()
            self._receive()

    # --- a look at the engine from the thread that works ---------------------------------

    def visit(self, visitor: Callable[[], None]) -> None:
        """Call a function once, soon after an op, on the thread that does it; it must not raise.

        What looks at the engine then neither waits for the running thread nor interrupts it.
        """
        self._visitor, self._has_errand = visitor, True

    def _receive(self) -> None:
        visitor, self._visitor, self._has_errand = self._visitor, None, self._is_plain
        if visitor is not None:
            with deferred_interrupt():
                visitor()

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
                if self._has_errand:
                    self._change_over()
                    self._receive()
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

    def dmesg(self) -> list[tuple[int, str]]:
        """Give the kernel log as (op, text), boot lines with op -1."""
        with self.lock, deferred_interrupt():
            self.drain_log()
            return list(self.log)


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


def _check_run(ops: Ops, ids: Any, start: int, end: int) -> None:
    """Check what compiled code takes on trust."""
    if start < 0 or end > len(ops):
        raise RequestError(
            f"the script has ops 0 to {len(ops) - 1}", where=f"ops [{start}, {end})", remedy="stay inside"
        )
    is_table = isinstance(ids, np.ndarray) and ids.dtype == np.int64 and ids.ndim == 1
    if not is_table or not (ids.flags.c_contiguous and ids.flags.writeable):
        raise RequestError(f"not a table of pointers: {ids!r:.60}", where="ids", remedy="give np.zeros(n, np.int64)")
    if ops.nr_ids > len(ids):
        raise RequestError(
            f"the script uses {ops.nr_ids} ids, the table has {len(ids)}", where="ids", remedy="give a longer table"
        )
