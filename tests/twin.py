"""An engine and the naive model side by side: every request goes to both, every difference is a failure."""

from __future__ import annotations

import numpy as np
from naive_model import NaiveAllocator, WalkedAstray

from percpu_lab import compiled
from percpu_lab.core import layout as L
from percpu_lab.engine import ChunkState, Engine
from percpu_lab.errors import KernelBugError
from percpu_lab.geometry import AllocInfo, Geometry, GroupInfo
from percpu_lab.ops import Ops
from percpu_lab.play import state_document
from percpu_lab.stats import read_stats
from percpu_lab.validate import validate_engine


class Twin:
    def __init__(self, geometry: Geometry, *, auto_balance: bool = False, is_compiled: bool = False) -> None:
        self.engine = Engine(geometry, auto_balance=auto_balance, jit="off")
        if is_compiled:
            module = compiled.request("areamap", wait=True)
            assert module is not None
            self.engine._use(module)
        self.model = NaiveAllocator(geometry, auto_balance=auto_balance)
        self._next_event = 0

    def alloc(self, size: int, align: int = 8, *, reserved: bool = False, atomic: bool = False) -> int:
        try:
            wanted = self.model.alloc(size, align, reserved, atomic)
        except WalkedAstray:
            wanted = None
        try:
            ptr = self.engine.alloc(size, align, reserved, atomic)
        except KernelBugError:
            assert wanted is None
            raise
        assert ptr == wanted
        return ptr

    def free(self, ptr: int) -> None:
        self.engine.free(ptr)
        self.model.free(ptr)

    def balance(self) -> bool:
        ran = self.engine.balance()
        assert ran == self.model.balance()
        return ran

    def fault(self, kind: str, count: int, skip: int = 0) -> None:
        self.engine.set_fault(kind, count, skip)
        self.model.fault(kind, count, skip)

    def alloc_many(self, count: int, size: int, align: int = 4, *, atomic: bool = False) -> list[int]:
        """Allocate in one script, going on where the kernel would hang -> those that succeeded."""
        ops = Ops.alloc(np.arange(count), size, align, atomic=atomic)
        ids = np.zeros(count, np.int64)
        start, hung, at = self.engine.now, set(), 0
        while at < count:
            try:
                at = self.engine.run(ops, ids, at)
            except KernelBugError:
                at = self.engine.now - start
                hung.add(at - 1)
        for k in range(count):
            try:
                assert self.model.alloc(size, align, False, atomic) == int(ids[k]) & (1 << 64) - 1
            except WalkedAstray:
                assert k in hung
        return [int(ptr) & (1 << 64) - 1 for ptr in ids if ptr]

    def compare(self) -> None:
        engine, model = self.engine, self.model
        assert state_document(engine, engine.now) == model.document()
        batch = engine.events(self._next_event)
        new = model.events[self._next_event :]
        assert (batch.lost, batch.text("golden").splitlines()) == (0, new)
        self._next_event += len(new)
        assert engine.dmesg() == model.log
        assert read_stats(engine).text() == model.stats_file()
        validate_engine(engine)

    def chunk(self, ordinal: int) -> ChunkState:
        """A chunk as it stands, after a comparison of everything."""
        self.compare()
        reserved = self.engine.reserved_chunk()
        return next(c for c in [*self.engine.chunks(), *([reserved] if reserved else [])] if c.ordinal == ordinal)

    def map(self, ordinal: int) -> list[int]:
        return [int(entry) for entry in self.chunk(ordinal).map]

    def slot(self, number: int) -> list[int]:
        """Ordinals of the chunks in a slot, head first; -1 is the last slot."""
        self.compare()
        slots: list[list[int]] = [[] for _ in range(self.engine.scalar(L.NR_SLOTS))]
        for chunk in self.engine.chunks():
            slots[chunk.slot].append(chunk.ordinal)
        return slots[number]

    @property
    def nr_empty_pop_pages(self) -> int:
        return self.engine.scalar(L.NR_EMPTY_POP_PAGES)

    @property
    def pending(self) -> bool:
        return bool(self.engine.scalar(L.BALANCE_PENDING))

    @property
    def reason(self) -> str:
        """Why the last request failed."""
        return L.REASONS[self.engine.scalar(L.REASON)]

    def events(self) -> list[str]:
        """The events so far, without op numbers and fields."""
        return [line.split("\t")[1].split(":")[0].removeprefix("percpu_") for line in self.model.events]


def make_geometry(
    unit_size: int,
    static_size: int,
    reserved_size: int,
    dyn_size: int,
    groups: list[list[int | None]],
    *,
    backing: str = "vm",
    gap_bytes: int = 0,
) -> Geometry:
    """A geometry with exactly these sizes; a group is a list of CPU ids, None for an unused unit."""
    infos, offset = [], 0
    for cpus in groups:
        infos.append(GroupInfo(len(cpus), offset, tuple(cpus)))
        offset += len(cpus) * unit_size + gap_bytes
    possible = tuple(sorted(cpu for cpus in groups for cpu in cpus if cpu is not None))
    info = AllocInfo(static_size, reserved_size, dyn_size, unit_size, 4096, unit_size, tuple(infos), possible)
    return Geometry.from_info(info, backing=backing)
