"""The allocator a notebook holds."""

from __future__ import annotations

import html
import operator
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from .core import layout as L
from .engine import Engine
from .errors import ForeignPointerError, GeometryError, HookError, RequestError
from .geometry import AllocInfo, Geometry, preset
from .geometry.info import shown
from .gfp import GFP_KERNEL, is_atomic
from .kernel_functions import KernelFunctions
from .memory import PercpuMemory
from .ops import Ops
from .plain import count
from .pointers import PerCpuAddress, PercpuPtr
from .rich import Rich, RichTable
from .stats import PercpuStats, read_stats
from .trace import Trace
from .units import format_bytes

if TYPE_CHECKING:
    from .workloads import Workload

Chunk = Any  # models.ChunkState or models.BitmapChunkState, as the engine's kernel has it

_SLICE_OPS = 10_000
_MAX_TRACE_EVENTS = 1 << 26  # 4 GiB


class Log(RichTable, Sequence[str]):
    """Lines of the kernel log, printed as dmesg prints them.

    >>> Log([(-1, "pcpu-alloc: s8192 r0 d24576 u32768 alloc=8*4096")])
    pcpu-alloc: s8192 r0 d24576 u32768 alloc=8*4096
    """

    def __init__(self, lines: Sequence[tuple[int, str]]) -> None:
        self.ops = tuple(op for op, _ in lines)
        self._lines = tuple(text for _, text in lines)

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: Any) -> Any:
        return self._lines[index]

    def __repr__(self) -> str:
        return "\n".join(self._lines)

    def _html_title(self) -> str:
        return f"kernel log, {count(len(self), 'line')}"

    def _html_rows(self) -> tuple[Sequence[str], Iterable[Sequence[object]], int]:
        when = ("boot" if op < 0 else op for op in self.ops)
        return ("by op", "line"), zip(when, self._lines, strict=True), len(self)


@dataclass(frozen=True, slots=True, eq=False)
class AllocatorState(Rich):
    """The allocator's own structures, laid open at one moment, under the kernel's names (patch 2/4 of June 2017).

    Sizes in bytes; chunks as they stand on their lists.
    """

    op: int
    pcpu_stats_ai: AllocInfo
    pcpu_nr_slots: int
    pcpu_slot: tuple[tuple[Chunk, ...], ...]
    pcpu_first_chunk: Chunk
    pcpu_reserved_chunk: Chunk | None
    pcpu_map_extend_chunks: tuple[int, ...]
    pcpu_nr_empty_pop_pages: int
    pcpu_atomic_alloc_failed: bool
    balance_pending: bool

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        """Every chunk in the order of percpu_stats: the reserved one, then slot 0 up."""
        reserved = (self.pcpu_reserved_chunk,) if self.pcpu_reserved_chunk else ()
        return reserved + tuple(chunk for slot in self.pcpu_slot for chunk in slot)

    def _html_fields(self) -> list[tuple[str, object]]:
        numbers = [(slot, [chunk.ordinal for chunk in chunks]) for slot, chunks in enumerate(self.pcpu_slot) if chunks]
        shown: dict[str, object] = dict(Rich._html_fields(self))
        shown["pcpu_slot"] = "; ".join(f"slot {slot}: chunk {', '.join(map(str, found))}" for slot, found in numbers)
        for name in ("pcpu_first_chunk", "pcpu_reserved_chunk"):
            if name in shown:
                shown[name] = f"chunk {getattr(self, name).ordinal}"
        return list(shown.items())

    def __repr__(self) -> str:
        return f"<AllocatorState after {self.op:,} ops: {len(self.chunks)} chunks in {self.pcpu_nr_slots} slots>"


@dataclass(frozen=True, slots=True, eq=False)
class RunResult(Rich):
    """What became of an op script: a pointer for each id that is still live."""

    allocator: Allocator
    nr_ops: int
    nr_failed: int
    ids: np.ndarray
    _shown = ("allocator", "nr_ops", "nr_failed")

    @property
    def pointers(self) -> list[int]:
        """The percpu pointers still live, as numbers, by id."""
        return [int(ptr) & (1 << 64) - 1 for ptr in self.ids if ptr]

    def free_all(self) -> None:
        """Free what the script left live, in the order of its ids."""
        live = np.flatnonzero(self.ids)
        self.allocator.run(Ops.free(live), ids=self.ids)

    def __repr__(self) -> str:
        nr_live = np.count_nonzero(self.ids)
        return f"<{self.nr_ops:,} ops done: {nr_live:,} areas left live, {self.nr_failed:,} requests failed>"


class Allocator:
    """The per-CPU memory allocator of Linux: that of v4.13, or of a later kernel.

    >>> a = Allocator("x86-64, 4 CPUs")
    >>> p = a.alloc_percpu(60)
    >>> a.free_percpu(p)
    >>> a.stats().global_stats.nr_alloc
    1
    >>> Allocator(engine="v6.12-bitmap").engine
    <Engine v6.12-bitmap: 0 ops, 1 chunks>

    Args:
        geometry: a Geometry, an AllocInfo, or the name of a preset (`percpu_lab.PRESETS`).
        engine: the kernel whose decisions it makes, one of models.MODELS; the geometry knows by default.
        stats: keep percpu_stats (CONFIG_PERCPU_STATS).
        trace_events: events the ring holds, rounded up to a power of two, at least 2 (of 64 bytes each).
        auto_balance: run the balance work by itself, at the end of the op that makes it pending, else by `balance()`.
        jit: auto, off or wait (see compiled.py).
        name: shown in titles.

    Raises:
        GeometryError: no geometry, or the kernel would refuse to boot with it.
        RequestError: there is no engine of this kernel, or `trace_events` is no size of a ring.
    """

    def __init__(
        self,
        geometry: Geometry | AllocInfo | str = "x86-64, 4 CPUs",
        *,
        engine: str | None = None,
        stats: bool = True,
        trace_events: int = 1 << 16,
        auto_balance: bool = False,
        jit: str | None = None,
        name: str = "",
    ) -> None:
        if not isinstance(name, str):
            raise RequestError(f"{shown(name)} is no text", where="name", remedy="give a str")
        self.name = name or (geometry if isinstance(geometry, str) else "percpu")
        self.engine = Engine(
            _as_geometry(geometry),
            kernel=engine,
            stats=stats,
            ring_capacity=_checked_ring(trace_events),
            auto_balance=auto_balance,
            jit=jit,
        )
        self.geometry = self.engine.geometry
        self.trace = Trace(self.engine)
        self.memory = PercpuMemory(self.engine)
        self._current_cpu = self.geometry.info.possible_cpus[0]

    # --- requests ---------------------------------------------------------------

    def alloc_percpu(self, size: int, align: int = 8, gfp: int = GFP_KERNEL, reserved: bool = False) -> PercpuPtr:
        """Allocate `size` bytes on every CPU (__alloc_percpu_gfp, __alloc_reserved_percpu).

        >>> Allocator().alloc_percpu(0).reason
        'illegal size or align'

        Args:
            size: bytes for each CPU, at most 32768.
            align: bytes, a power of two up to 4096.
            gfp: GFP_KERNEL may sleep, populate pages and create chunks; anything less is atomic.
            reserved: take it from the reserved chunk.

        Returns:
            A pointer; NULL, with its reason, if the kernel would have returned NULL.

        Raises:
            RequestError: not a number, or not one of 64 bits.
        """
        if type(size) is not int or type(align) is not int or size < 0 or align < 0:
            size, align = _checked_number(size, "size"), _checked_number(align, "align")
        flags = L.FLAG_RESERVED if reserved else 0
        if gfp is not GFP_KERNEL and is_atomic(_checked_number(gfp, "gfp", "GFP_KERNEL, GFP_ATOMIC or another number")):
            flags |= L.FLAG_ATOMIC
        value, op, reason = self.engine.request(size, align, flags)
        if self.memory.units:
            self.engine.drain_zero()
        ptr = PercpuPtr(self, value, size, align, op, L.REASONS[reason])
        if self.trace.has_hooks:
            self._deliver(ptr)
        return ptr

    def free_percpu(self, ptr: PercpuPtr | int | None) -> None:
        """Free an allocation; NULL is allowed and does nothing (free_percpu).

        Args:
            ptr: what alloc_percpu returned, or its number.

        Raises:
            DoubleFreeError: it was freed before; nothing was changed.
            ForeignPointerError: another allocator's, or no pointer at all; nothing was changed.
        """
        if isinstance(ptr, PercpuPtr):
            if ptr.owner is not self and ptr:
                raise ForeignPointerError(
                    f"this pointer belongs to {ptr.owner.name!r}",
                    where=f"free_percpu({ptr})",
                    remedy="free it there; nothing was changed",
                )
            self.engine.free(ptr.value, ptr.op)
        else:
            self.engine.free(0 if ptr is None else _checked_number(ptr, "ptr"))
        if self.trace.has_hooks:
            self._deliver(None)

    def balance(self) -> bool:
        """Run the balance work if it is pending -> whether it was (pcpu_balance_workfn)."""
        ran = self.engine.balance()
        self.memory.drop_destroyed()
        if self.trace.has_hooks:
            self._deliver(None)
        return ran

    def fault(self, kind: str, count: int, skip: int = 0) -> None:
        """Let the next `skip` calls of a kind succeed and fail the `count` calls behind them; count 0 clears it.

        Args:
            kind: mem (kernel memory), vm (address range of a chunk), page or ptmap (mapping of pages).

        Raises:
            RequestError: no such kind, or a negative number.
        """
        self.engine.set_fault(kind, count, skip)

    def run(self, script: Ops | Workload, *, ids: np.ndarray | None = None) -> RunResult:
        """Run an op script or a workload at full speed.

        >>> from percpu_lab.ops import Ops
        >>> Allocator().run(Ops.alloc(np.arange(100), 64))
        <100 ops done: 100 areas left live, 0 requests failed>

        Args:
            script: the ops; stats and state ops pass without effect.
            ids: int64, the pointer of each id; given, a script goes on where another ended.

        Raises:
            BadFreeError, KernelBugError: at the op named; the ops before it are done.
            RequestError: no script, or a table that does not fit it; nothing was done.
        """
        if not isinstance(script, Ops) and not hasattr(script, "build"):
            remedy = "give Ops, as Ops.from_text makes them, or a workload out of WORKLOADS"
            raise RequestError(f"{shown(script)} is no op script", where="run", remedy=remedy)
        ops = script if isinstance(script, Ops) else script.build()
        table = np.zeros(max(ops.nr_ids, 1), np.int64) if ids is None else ids
        failed_before = self.engine.scalar(L.NR_FAILED)
        for start in range(0, len(ops), _SLICE_OPS):
            self.run_slice(ops, table, start, min(start + _SLICE_OPS, len(ops)))
        self.memory.drop_destroyed()
        return RunResult(self, len(ops), self.engine.scalar(L.NR_FAILED) - failed_before, table)

    def run_slice(self, ops: Ops, ids: np.ndarray, start: int, stop: int) -> None:
        """Run ops [start, stop) of a script, then give the hooks what happened.

        Raises:
            BadFreeError, KernelBugError, HookError: the ops before it are done.
        """
        i = start
        while i < stop:
            i = self.engine.run(ops, ids, i, stop)
            if i < stop:  # a stats or state op, which is for whoever reads the script
                self.engine.tick()
                i += 1
        if self.trace.has_hooks:
            self._deliver(None)

    def _deliver(self, result: PercpuPtr | None) -> None:
        """Give the hooks the new events; what a hook raises reaches the caller, together with what the call made."""
        try:
            self.trace.deliver()
        except HookError as error:
            error.result = result
            raise

    # --- memory -------------------------------------------------------------------

    @property
    def current_cpu(self) -> int:
        """The CPU that this_cpu_ptr means."""
        return self._current_cpu

    @contextmanager
    def on_cpu(self, cpu: int) -> Iterator[None]:
        """Run a block on a CPU.

        >>> a = Allocator()
        >>> with a.on_cpu(3):
        ...     a.current_cpu
        3

        Raises:
            RequestError: the CPU is not possible.
        """
        before = self._current_cpu
        self._current_cpu = self._checked_cpu(cpu)
        try:
            yield
        finally:
            self._current_cpu = before

    def per_cpu_ptr(self, ptr: PercpuPtr, cpu: int) -> PerCpuAddress:
        """Give the address of one CPU's copy, and the memory there (per_cpu_ptr; spec section 10).

        Raises:
            RequestError: NULL, no pointer of alloc_percpu, or the CPU is not possible.
            ForeignPointerError: another allocator's pointer.
        """
        if not ptr:
            raise RequestError("NULL has no copies", where="per_cpu_ptr", remedy="check the pointer before you use it")
        if not isinstance(ptr, PercpuPtr):
            remedy = "give what alloc_percpu returned: a number does not say how long the area is"
            raise RequestError(f"{shown(ptr)} is no percpu pointer", where="per_cpu_ptr", remedy=remedy)
        if ptr.owner is not self:
            raise ForeignPointerError(
                f"this pointer belongs to {ptr.owner.name!r}", where=f"per_cpu_ptr({ptr})", remedy="ask it there"
            )
        info, addresses = self.geometry.info, self.geometry.addresses
        cpu = self._checked_cpu(cpu)
        offset = info.unit_offset[cpu]
        bias = self.engine.scalar(L.PTR_BIAS)
        return PerCpuAddress(ptr, cpu, (ptr.value - bias + addresses.first_chunk + offset) & (1 << 64) - 1)

    def this_cpu_ptr(self, ptr: PercpuPtr) -> PerCpuAddress:
        """Give the address of the current CPU's copy (this_cpu_ptr)."""
        return self.per_cpu_ptr(ptr, self._current_cpu)

    def _checked_cpu(self, cpu: int) -> int:
        number = _index(cpu)
        if number is None or number not in self.geometry.info.unit_offset:
            raise RequestError(
                f"CPU {shown(cpu)} is not possible",
                where="cpu",
                remedy=f"choose from {list(self.geometry.info.possible_cpus)}",
            )
        return number

    # --- reading --------------------------------------------------------------------

    def stats(self) -> PercpuStats:
        """Read percpu_stats.

        Raises:
            LabError: the allocator was made with stats=False.
        """
        return read_stats(self.engine)

    def dmesg(self) -> Log:
        """Read the kernel log."""
        return Log(self.engine.dmesg())

    def state(self) -> AllocatorState:
        """Lay the structures open, read-only: slots, chunks, first and reserved chunk, globals."""
        engine, info = self.engine, self.geometry.info
        with engine.lock:
            chunks = engine.chunks()
            nr_slots = engine.scalar(L.NR_SLOTS)
            return AllocatorState(
                op=engine.now,
                pcpu_stats_ai=info,
                pcpu_nr_slots=nr_slots,
                pcpu_slot=tuple(tuple(c for c in chunks if c.slot == slot) for slot in range(nr_slots)),
                pcpu_first_chunk=next(c for c in chunks if c.ordinal == 0),
                pcpu_reserved_chunk=engine.reserved_chunk(),
                pcpu_map_extend_chunks=tuple(engine.map_extend_chunks()),
                pcpu_nr_empty_pop_pages=engine.scalar(L.NR_EMPTY_POP_PAGES),
                pcpu_atomic_alloc_failed=bool(engine.scalar(L.ATOMIC_ALLOC_FAILED)),
                balance_pending=bool(engine.scalar(L.BALANCE_PENDING)),
            )

    @cached_property
    def kernel_functions(self) -> KernelFunctions:
        """The kernel's own functions, to be called one by one, with locks or without."""
        return KernelFunctions(self.engine)

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        """Every chunk as it stands now, in the order of percpu_stats."""
        return self.state().chunks

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        """Refuse to be copied or pickled: two faces of one machine would each miss what the other does."""
        remedy = "run the same ops on an Allocator of the same geometry; state() and stats() can be copied and pickled"
        raise RequestError("an Allocator is one machine, not a value", where="copy, pickle", remedy=remedy)

    def __repr__(self) -> str:
        return f"<Allocator {shown(self.name)}: {self._summary()}>"

    def _summary(self) -> str:
        info, engine = self.geometry.info, self.engine
        nr_chunks = len(engine.handles()) + bool(engine.scalar(L.RESERVED_CHUNK))
        return f"{info.nr_cpus} CPUs, unit {format_bytes(info.unit_size)}, {nr_chunks} chunks, {engine.now:,} ops"

    def _repr_html_(self) -> str:
        chunks = self.chunks
        head = ("chunk", "slot", "areas in use", "free", "contig_hint", "populated pages")
        rows = [_chunk_cells(c) for c in chunks[:_HTML_CHUNKS]]
        table = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
        more = len(chunks) - _HTML_CHUNKS
        note = f"<p>and {more:,} chunks more</p>" if more > 0 else ""
        names = "".join(f"<th>{name}</th>" for name in head)
        title = f"<b>{html.escape(shown(self.name)[1:-1])}</b>: {html.escape(self._summary())}"
        return f"{title}<table><tr>{names}</tr>{table}</table>{note}"


_HTML_CHUNKS = 12


def _chunk_cells(chunk: Chunk) -> tuple[str, ...]:
    name = {-1: "reserved", 0: "first"}.get(chunk.ordinal, str(chunk.ordinal))
    slot = str(chunk.slot) if chunk.slot >= 0 else "–"
    sizes = (format_bytes(chunk.free_bytes), format_bytes(chunk.contig_bytes))
    return name, slot, f"{chunk.nr_alloc:,}", *sizes, f"{chunk.nr_populated:,}"


def _as_geometry(geometry: Geometry | AllocInfo | str) -> Geometry:
    if isinstance(geometry, AllocInfo):
        return Geometry.from_info(geometry)
    if isinstance(geometry, str):
        return preset(geometry)
    if not isinstance(geometry, Geometry):
        remedy = "give a Geometry, an AllocInfo, or the name of a preset"
        raise GeometryError(f"{shown(geometry)} is no machine", where="geometry", remedy=remedy)
    return geometry


def _index(value: object) -> int | None:
    """Give a whole number, or None for what is none; an array has __index__, too."""
    try:
        return None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def _checked_ring(value: object) -> int:
    nr_events = _index(value)
    if nr_events is None or not 1 <= nr_events <= _MAX_TRACE_EVENTS:
        what = f"{shown(value)} is no number of events that a ring can hold"
        remedy = f"give 1 to {_MAX_TRACE_EVENTS:,}; it is rounded up to a power of two"
        raise RequestError(what, where="trace_events", remedy=remedy)
    return nr_events


def _checked_number(value: object, name: str, what: str = "an int") -> int:
    number = int(value) if isinstance(value, bool) else _index(value)
    if number is None:
        raise RequestError(f"{shown(value)} is not a whole number", where=name, remedy=f"give {what}")
    if not 0 <= number < 1 << 64:
        raise RequestError(f"{shown(number)} does not fit a size_t", where=name, remedy="give 0 to 2^64 - 1")
    return number
