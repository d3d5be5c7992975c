"""Playing a case: its ops run on the engine of its kernel, what happens is written down as the kernel's files.

    trace.txt     op number, event      in the order the tracepoints fired
    stats.txt     @op number, then the percpu_stats file, for every `stats` op
    state.jsonl   every field of every chunk, a line for every `state` op
    printk.txt    op number, text       the kernel's log
"""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from .cases import Case
from .core import layout as L
from .engine import Engine
from .errors import BadFreeError, KernelBugError
from .models import BITMAP, AnyChunkState, BitmapChunkState
from .stats import read_stats

#: events the ring of an engine keeps while a case is played
RING_CAPACITY = 1 << 17
#: events an op may cause, but for the chunks that balance destroys: two chunks made and the op's own
EVENTS_PER_OP = 3

_FILES = ("trace.txt", "stats.txt", "state.jsonl", "printk.txt")
#: the order in which a state names the fault counters
_STATE_FAULTS = ("page", "vm", "mem", "ptmap")
#: the lists of v6.12 behind those of the sizes, counted from the end
_EXTRA_SLOTS = {"sidelined_slot": 3, "to_depopulate_slot": 1, "free_slot": 2}


@dataclass(frozen=True, slots=True)
class Played:
    """How long a case took.

    Args:
        name: of the case.
        nr_ops: how many ops were done.
        engine_seconds: spent in the engine, without reading the case and writing the files.
    """

    name: str
    nr_ops: int
    engine_seconds: float


def play(case: Case, out_dir: str | Path, *, jit: str | None = None) -> Played:
    """Run a case and write what the kernel would have shown.

    Args:
        case: what to run.
        out_dir: folder for the four files; made if it is not there, older files are overwritten.
        jit: how to run, as for Engine.

    Raises:
        KernelBugError, BadFreeError: the case leads the kernel itself into a crash; names the line of the script, and
            the files tell of everything before it.
        OSError: a file cannot be written.
    """
    engine = Engine(case.geometry, ring_capacity=RING_CAPACITY, history=False, jit=jit)
    with ExitStack() as stack:
        recorder = _Recorder(engine, Path(out_dir), stack)
        return Played(case.name, len(case.ops), _run(case, engine, recorder))


def _run(case: Case, engine: Engine, recorder: _Recorder) -> float:
    ids = np.zeros(case.ops.nr_ids, np.int64)
    at, engine_seconds = 0, 0.0
    while at < len(case.ops):
        stop = min(len(case.ops), at + _slice_ops(engine))
        started = perf_counter()
        try:
            at = engine.run(case.ops, ids, at, stop)
        except (KernelBugError, BadFreeError) as error:
            error.where = re.sub(r"^op (\d+)", lambda op: f"{case.script} line {int(op[1]) + 1}", error.where)
            raise
        finally:
            engine_seconds += perf_counter() - started
            recorder.drain()
        if at < stop:
            recorder.observe(int(case.ops.array[L.OPS_KIND, at]), at)
            engine.tick()
            at += 1
    return engine_seconds


def _slice_ops(engine: Engine) -> int:
    """Say how many ops can run before the ring must be drained.

    Balance destroys at most the chunks that were there before and those made meanwhile; the latter count twice.
    """
    return max(1, (RING_CAPACITY - engine.scalar(L.NR_CHUNKS)) // (2 * EVENTS_PER_OP))


class _Recorder:
    """Writes the four files of one run as it goes."""

    def __init__(self, engine: Engine, folder: Path, stack: ExitStack) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._engine = engine
        self._trace, self._stats, self._state, self._printk = (
            stack.enter_context((folder / name).open("w", encoding="utf-8", newline="\n")) for name in _FILES
        )
        self._next_event = 0
        self._nr_logged = 0
        self.drain()

    def drain(self) -> None:
        """Write the events and log lines that came since."""
        batch = self._engine.events(self._next_event)
        if batch.lost:
            raise RuntimeError(f"{batch.lost} events were lost between two slices")
        self._next_event = batch.first_seq + len(batch)
        self._trace.write(batch.text("golden"))
        self._engine.drain_log()
        for op, text in self._engine.log[self._nr_logged :]:
            self._printk.write(f"{op}\t{text}\n")
        self._nr_logged = len(self._engine.log)

    def observe(self, kind: int, op: int) -> None:
        """Do what an op asks of the host: write the statistics, or the state."""
        if kind == L.OP_STATS:
            self._stats.write(f"@{op}\n{read_stats(self._engine).text()}")
        else:
            self._state.write(json.dumps(state_document(self._engine, op), separators=(",", ":")) + "\n")


def state_document(engine: Engine, op: int) -> dict[str, Any]:
    """Give every field of every chunk as a state op records it, ready for JSON.

    Args:
        engine: what to look at.
        op: number of the op that asks.
    """
    with engine.lock:
        reserved = engine.reserved_chunk()
        return {
            "op": op,
            "balance_pending": engine.scalar(L.BALANCE_PENDING),
            "nr_empty_pop_pages": engine.scalar(L.NR_EMPTY_POP_PAGES),
            "atomic_alloc_failed": engine.scalar(L.ATOMIC_ALLOC_FAILED),
            "nr_slots": engine.scalar(L.NR_SLOTS),
            **_state_of_kernel(engine),
            "reserved_chunk": None if reserved is None else _chunk_document(reserved),
            "chunks": [_chunk_document(chunk) for chunk in engine.chunks()],
        }


def _state_of_kernel(engine: Engine) -> dict[str, Any]:
    faults = {"faults": {kind: _fault_counters(engine, L.FAULT_KINDS.index(kind)) for kind in _STATE_FAULTS}}
    if engine.model is not BITMAP:
        return faults | {"map_extend_chunks": engine.map_extend_chunks()}
    slots = {name: engine.scalar(L.NR_SLOTS) - behind for name, behind in _EXTRA_SLOTS.items()}
    return slots | {"nr_populated": engine.scalar(L.NR_POPULATED_TOTAL)} | faults


def _fault_counters(engine: Engine, kind: int) -> list[int]:
    return [engine.scalar(L.FAULT_LEFT_MEM + kind), engine.scalar(L.FAULT_SKIP_MEM + kind)]


def _chunk_document(chunk: AnyChunkState) -> dict[str, Any]:
    common = {
        "ordinal": chunk.ordinal,
        "slot": chunk.slot,
        "base_addr": f"{chunk.base_addr:#x}",
        "nr_alloc": chunk.nr_alloc,
        "max_alloc_size": chunk.max_alloc_size,
        "immutable": int(chunk.immutable),
        "nr_populated": chunk.nr_populated,
    }
    if isinstance(chunk, BitmapChunkState):
        return common | _bitmap_document(chunk)
    return common | {
        "free_size": chunk.free_size,
        "contig_hint": chunk.contig_hint,
        "first_free": chunk.first_free,
        "has_reserved": int(chunk.has_reserved),
        "map_used": chunk.map_used,
        "map_alloc": chunk.map_alloc,
        "on_map_extend_list": int(chunk.on_map_extend_list),
        "populated": [list(run) for run in chunk.populated],
        "map": chunk.map.tolist(),
    }


def _bitmap_document(chunk: BitmapChunkState) -> dict[str, Any]:
    return {
        "free_bytes": chunk.free_bytes,
        "isolated": int(chunk.isolated),
        "start_offset": chunk.start_offset,
        "end_offset": chunk.end_offset,
        "nr_pages": chunk.nr_pages,
        "nr_empty_pop_pages": chunk.nr_empty_pop_pages,
        "chunk_md": chunk.chunk_md._asdict(),
        "populated": [list(run) for run in chunk.populated],
        "alloc_map": chunk.alloc_map.tolist(),
        "bound_map": chunk.bound_map.tolist(),
        "md_blocks": [list(block) for block in chunk.md_blocks],
    }
