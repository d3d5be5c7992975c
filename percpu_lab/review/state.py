"""An engine of one's own, as the model stands."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..core import layout as L
from ..core import replay as R
from ..engine import Engine
from .machine import Machine

__all__ = ["engine_at"]


def engine_at(machine: Machine) -> Engine:
    """Copy the model as it is into an engine that can be run, read and checked like any other.

    The ops of the engine go on from the length of the script; an area bears the place of its allocation in it.
    """
    source = machine.engine
    engine = Engine(source.geometry, kernel=source.model.name, jit="off", history=False)
    g = source.g.copy()
    for word in (L.RING_CAPACITY, L.NEXT_SAMPLE, L.WARN_LIMIT):
        g[word] = engine.g[word]
    g[L.EVENT_MASK] = (1 << L.NR_EVENTS) - 1
    g[L.NOW] = machine.pos
    birth = np.zeros(len(source.birth), np.int64)
    arrays = (g, source.chunk.copy(), source.map.copy(), birth, engine.ring, source.order.copy())
    engine.adopt(arrays)
    _note_births(engine, machine)
    return engine


def _note_births(engine: Engine, machine: Machine) -> None:
    """Let each area know of its allocation, which frees are checked against."""
    born = _births(machine)
    number = {int(c): k for k, c in enumerate(machine.handles.tolist()) if c}
    for chunk in [*engine.chunks(), *filter(None, [engine.reserved_chunk()])]:
        births = engine.births(chunk.handle)
        areas = machine.allocator.areas(chunk)
        for off, size in areas:
            op, asked = born.get((number.get(chunk.handle, -1), off), (0, size))
            births.flat[off // 2] = op << 16 | min(asked, 0xFFFF)
        _count_areas(engine, chunk.handle, areas)
    _count_all(engine)


def _count_areas(engine: Engine, c: int, areas: Sequence[tuple[int, int]]) -> None:
    """Count the areas that were in use before the recording: the kernel had counted them, too."""
    row = engine.chunk[c : c + L.CHUNK_MAX_ALLOC_SIZE + 1]
    if row[L.CHUNK_NR_ALLOC] != len(areas):
        row[L.CHUNK_NR_ALLOC] = len(areas)
        sizes = [size for _, size in areas]
        row[L.CHUNK_MAX_ALLOC_SIZE] = max([int(row[L.CHUNK_MAX_ALLOC_SIZE]), *sizes])
        engine.g[L.MIN_ALLOC_SIZE] = min([engine.scalar(L.MIN_ALLOC_SIZE), *sizes])
        engine.g[L.MAX_ALLOC_SIZE] = max([engine.scalar(L.MAX_ALLOC_SIZE), *sizes])


def _count_all(engine: Engine) -> None:
    g = engine.g
    live = sum(chunk.nr_alloc for chunk in [*engine.chunks(), *filter(None, [engine.reserved_chunk()])])
    g[L.NR_ALLOC] += live - g[L.NR_CUR_ALLOC]
    g[L.NR_CUR_ALLOC] = live
    g[L.NR_MAX_ALLOC] = max(g[L.NR_MAX_ALLOC], live)


def _births(machine: Machine) -> dict[tuple[int, int], tuple[int, int]]:
    """Find what began last at each place of each chunk: its place in the script, 0 for what was learned; its size."""
    tape, script = machine.tape, machine.script[: machine.pos]
    kind, chunk, off, size = tape.events[:4, script]
    is_placed = (kind == L.EVENT_ALLOC) & (machine.found[R.FOUND_NOTE, script] & R.NOTE_NO_CHUNK == 0)
    at = np.flatnonzero(is_placed | (kind == R.ROW_IN_USE))
    ops = np.where(is_placed, np.arange(len(script)), 0)[at]
    places = zip(chunk[at].tolist(), off[at].tolist(), strict=True)
    return dict(zip(places, zip(ops.tolist(), size[at].tolist(), strict=True), strict=True))
