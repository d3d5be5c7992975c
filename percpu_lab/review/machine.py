"""The model and the tape together: run rows, look ahead, go back.

script   12 13 14 16 15 17 ...   rows in the order they were decided in; row 16 came before row 15
                      ^ pos      what is before it is done
snapshots  |       |       |     copies of the model at places of the script, to go back to
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from .. import compiled
from ..core import layout as L
from ..core import replay as R
from ..engine import Engine
from ..events import Int64s
from ..geometry import Geometry
from ..units import PAGE_SIZE, round_up
from .allocators import ALLOCATORS
from .start import ChunkStart, chunk_starts
from .tape import Tape

__all__ = ["Machine", "Snapshot"]

_HEAD_WORDS = 4  # of a list head


def exercise(module: ModuleType) -> None:
    """Call a compiled replay once, on a tape that is thrown away, so that numba compiles it."""
    name = next(name for name, one in ALLOCATORS.items() if module.__name__.endswith(_module_name(one.REPLAY)))
    machine = Machine(Geometry.simple(), _empty_tape(), name, jit="off")
    machine.use(module)
    machine.run(0, 0)


def _module_name(module: ModuleType) -> str:
    return module.__name__.rpartition(".")[2]


def _empty_tape() -> Tape:
    none = np.zeros(0, np.int64)
    return Tape(0, 0, np.zeros((R.NR_TAPE_COLUMNS, 1), np.int64), np.zeros(1, np.int64), none, none, none.astype(bool),
                none, 0, np.zeros(1, bool), -1, -1, True, True, 1, 1, 4, False)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """The model at a place of the script."""

    pos: int
    g: Int64s
    heads: Int64s
    chunk: Int64s
    map: np.ndarray
    order: Int64s
    handles: Int64s
    reg: Int64s

    @property
    def nbytes(self) -> int:
        """Give about what it takes."""
        return self.chunk.nbytes + self.map.nbytes


class Machine:
    """An engine that follows a tape.

    Args:
        geometry: of the recorded kernel.
        tape: what to follow.
        kernel: the name of the engine, one of ALLOCATORS.
        jit: a policy of compiled.py.
    """

    def __init__(self, geometry: Geometry, tape: Tape, kernel: str, jit: str | None = None) -> None:
        self.allocator = ALLOCATORS[kernel]
        self.engine = Engine(geometry, kernel=kernel, jit="off", history=False, ring_capacity=1)
        self.tape = tape
        self.found = np.zeros((R.NR_FOUND_COLUMNS, len(tape.marks)), np.int64)
        self.found[R.FOUND_CHUNK] = L.NO_CHUNK
        self.handles = np.zeros(tape.nr_chunks + 1, np.int64)  # the last one for a first chunk that no row names
        self.reg = np.zeros(R.NR_REGISTERS, np.int64)
        self.script = np.zeros(len(tape.marks) + 1, np.int64)
        self._hits = np.zeros(1, np.int64)
        self.steps = 0
        self._nr_rows = tape.peak_chunks() + 8
        self._make_room(int(tape.is_created.sum()) + 8)
        self._module: ModuleType = self.allocator.REPLAY
        self._policy = compiled.policy(jit)
        self.use(self._module)
        g = self.engine.g
        g[L.EVENT_MASK] = g[L.WARN_LIMIT] = 0  # nothing is written of what is done again
        g[L.ASYNC_ENABLED] = not tape.from_boot
        self.starts = {start.chunk: start for start in chunk_starts(tape, geometry.info.unit_size)}

    def _make_room(self, nr_chunks: int) -> None:
        engine = self.engine
        if engine.scalar(L.NR_FREE_ROWS) < self._nr_rows + L.SPARE_ROWS:
            engine._grow(self._nr_rows)
            self._nr_rows = len(engine.chunk) // engine.scalar(L.ROW_WORDS) - L.NR_LIST_HEADS  # new rows come first
        while engine.scalar(L.ORDER_CAPACITY) < nr_chunks + len(self.handles) + 2 * L.SPARE_ROWS:
            engine._grow_order()

    # --- the start -----------------------------------------------------------------

    def begin(self) -> Snapshot:
        """Make the chunks that no row creates, and put in use what was so -> the model before all that."""
        tape, engine = self.tape, self.engine
        for chunk in np.flatnonzero(~tape.is_created).tolist():
            if chunk == tape.first:
                self.handles[chunk] = engine.handle(0)
            elif chunk == tape.reserved:
                self.handles[chunk] = engine.handle(-1)
            else:
                self._create(chunk)
        if tape.first < 0 and not tape.from_boot:
            self.handles[-1] = engine.handle(0)
            tape.add(R.ROW_IN_USE, tape.nr_chunks, *self.allocator.served(self.engine, self.handles[-1]))
        before = self.snapshot()
        for start in self.starts.values():
            if not tape.is_known_at_start(start.chunk):
                self._settle(start)
        self.run_rows(list(range(tape.nr_rows, tape.used)))
        return before

    def _create(self, chunk: int) -> None:
        row = self.tape.add(L.EVENT_CREATE, chunk, 0, 0)
        self.tape.events[R.TAPE_SIZE, row] = -1  # neither a request nor the balance work

    def _settle(self, start: ChunkStart) -> None:
        """Write the rows that put in use what was so at the start."""
        tape = self.tape
        c = self.handles[start.chunk]
        low, length = self.allocator.served(self.engine, c) if c else (0, self.engine.scalar(L.UNIT_SIZE))
        high = low + length
        if not c and start.limit:
            tape.add(R.ROW_POPULATE, start.chunk, 0, round_up(start.limit, PAGE_SIZE))
        for off, size in start.in_use:
            begin, end = max(off, low), min(off + size, high)
            if begin < end:
                tape.add(R.ROW_IN_USE, start.chunk, begin, end - begin)

    # --- running ---------------------------------------------------------------------

    def use(self, module: ModuleType) -> None:
        """Run the functions of this module from now on."""
        self._module = module
        arrays = (*self.engine.arrays(), self.tape.events.reshape(-1), self.tape.marks, self.found.reshape(-1),
                  self.handles, self.reg)  # fmt: skip
        self._is_plain = module is self.allocator.REPLAY
        self._arrays: tuple[Any, ...] = tuple(memoryview(a) for a in arrays) if self._is_plain else arrays
        self._set_script()

    def _set_script(self) -> None:
        self._script: Any = memoryview(self.script) if self._is_plain else self.script
        self._hits_as_run: Any = memoryview(self._hits) if self._is_plain else self._hits

    def free_end(self, chunk: int, off: int) -> int:
        """Find where the free stretch of a chunk ends that an offset lies in; the offset itself if it is in use."""
        return int(self.allocator.REPLAY.free_end(self.engine.plain_state(), int(self.handles[chunk]), off))

    def change_over(self) -> None:
        """Change to the compiled functions as soon as they are there."""
        if self._is_plain and self._policy != "off":
            module = compiled.request(_module_name(self.allocator.REPLAY), wait=self._policy == "wait")
            if module is not None:
                self.use(module)

    @property
    def pos(self) -> int:
        """Give the length of the script."""
        return int(self.reg[R.REG_POS])

    @pos.setter
    def pos(self, value: int) -> None:
        self.reg[R.REG_POS] = value

    @property
    def status(self) -> int:
        """Tell why the last run stopped: REPLAY_* of core/replay.py."""
        return int(self.reg[R.REG_STATUS])

    def forward(self, row: int, stop: int) -> int:
        """Replay rows of the tape and write them into the script -> the row it stopped at."""
        self.steps += stop - row
        return self._replay(row, stop, R.RUN_FORWARD)

    def run(self, start: int, stop: int) -> bool:
        """Replay a part of the script -> whether all of it agreed."""
        self.steps += stop - start
        return self._replay(start, stop, R.RUN_SCRIPT) == stop

    def _replay(self, start: int, stop: int, row: int) -> int:
        return int(self._module.replay(*self._arrays, self._script, start, stop, row, self._hits_as_run))

    def run_rows(self, rows: list[int]) -> bool:
        """Replay rows that are not in the script yet, and add them to it -> whether all of them agreed."""
        pos = self.pos
        self.script[pos : pos + len(rows)] = rows
        self.steps += len(rows)
        self.pos = done = self._replay(pos, pos + len(rows), R.RUN_SCRIPT)
        return done == pos + len(rows)

    def probe(self, start: int, stop: int, row: int) -> Int64s:
        """Replay a part of the script -> 1 for each place from start to stop before which `row` would agree."""
        if len(self._hits) < stop - start + 1:
            self._hits = np.zeros(2 * (stop - start + 1), np.int64)
            self._set_script()
        self._hits[:] = 0
        self.steps += 2 * (stop - start)
        self._replay(start, stop, row)
        return self._hits[: stop - start + 1].copy()

    # --- going back --------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """Copy the model as it is at this place of the script."""
        engine = self.engine
        words, stride = engine.scalar(L.ROW_WORDS), engine.scalar(L.MAP_STRIDE)
        nr_heads = L.NR_LIST_HEADS * words
        rows = engine.chunk[nr_heads : nr_heads + self._nr_rows * words].copy()
        nr_words = self.allocator.map_words(engine, rows.reshape(-1, words))
        return Snapshot(
            self.pos,
            engine.g.copy(),
            engine.chunk[:nr_heads].reshape(-1, words)[:, :_HEAD_WORDS].copy(),
            rows,
            engine.map[: self._nr_rows * stride].reshape(-1, stride)[:, :nr_words].copy(),
            engine.order[: engine.scalar(L.NR_ORDER) + 1].copy(),
            self.handles.copy(),
            self.reg.copy(),
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Make the model what it was; the script is cut there."""
        engine = self.engine
        words = engine.scalar(L.ROW_WORDS)
        nr_heads = L.NR_LIST_HEADS * words
        engine.g[:] = snapshot.g
        engine.chunk[:nr_heads].reshape(-1, words)[:, :_HEAD_WORDS] = snapshot.heads
        engine.chunk[nr_heads : nr_heads + len(snapshot.chunk)] = snapshot.chunk
        nr_rows, nr_words = snapshot.map.shape
        stride = engine.scalar(L.MAP_STRIDE)
        engine.map[: nr_rows * stride].reshape(-1, stride)[:, :nr_words] = snapshot.map
        engine.order[: len(snapshot.order)] = snapshot.order
        engine.order[len(snapshot.order) :] = 0
        self.handles[:] = snapshot.handles
        self.reg[:] = snapshot.reg
