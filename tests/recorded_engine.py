"""A recording made by an engine: its events as the trace of a kernel, with tasks, times and processors."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path

from percpu_lab.core import layout as L
from percpu_lab.engine import Engine
from percpu_lab.geometry import Geometry
from percpu_lab.kernels import V6_12, KernelVersion
from percpu_lab.traces.read import read_golden_trace, read_trace
from percpu_lab.traces.recording import Recording

KWORKER = 9999
STEP_MICROSECONDS = 25_000


def geometry(kernel: KernelVersion = V6_12) -> Geometry:
    """Four CPUs and units of 128 KiB: chunks come and go after some hundred requests."""
    return Geometry.embed(28672, cpus=4, atom_size=131072, kernel=kernel)


def engine_lines(seed: int, nr_ops: int = 400, *, sizes: Sequence[int] = (4, 16, 64, 256, 1024, 8192, 24576),
                 atomic: float = 0.0, reserved: float = 0.0, kernel: KernelVersion = V6_12) -> list[str]:  # fmt: skip
    """Run random requests of three tasks through an engine -> the lines of its trace."""
    rng = random.Random(seed)
    engine = Engine(geometry(kernel), kernel=kernel.name, jit="off", history=False, auto_balance=True)
    live: list[int] = []
    tasks = []
    for _ in range(nr_ops):
        tasks.append(rng.choice((101, 102, 103)))
        if live and rng.random() < 0.42:
            engine.free(live.pop(rng.randrange(len(live))))
        else:
            align = rng.choice((4, 8, 64))
            is_reserved = reserved > 0 and rng.random() < reserved
            ptr = engine.alloc(rng.choice(sizes), align, is_reserved, rng.random() < atomic)
            live += [ptr] * bool(ptr)
    return _lines(engine, tasks)


def _lines(engine: Engine, tasks: Sequence[int]) -> list[str]:
    lines = []
    events = engine.events(0)
    texts = events.text("golden").splitlines()
    for row, text in enumerate(texts):
        op, body = text.split("\t", 1)
        if int(op) < 0:
            continue
        pid = tasks[int(op)]
        event, chunk = int(events.event[row]), int(events.chunk[row])
        if event == L.EVENT_DESTROY:
            pid = KWORKER
        if event == L.EVENT_CREATE:
            following = [k for k in range(row + 1, len(texts)) if events.op[k] == events.op[row]]
            by_request = any(events.event[k] == L.EVENT_ALLOC and events.chunk[k] == chunk for k in following)
            pid = pid if by_request else KWORKER
        lines.append(f"{pid}|{int(op)}|{body}")
    return lines


def trace_text(lines: Sequence[str]) -> str:
    """Write lines as a kernel does; the times follow the order of the lines."""
    out = []
    for number, line in enumerate(lines):
        pid, _, body = line.split("|", 2)
        time = 1_000_000 + STEP_MICROSECONDS * number
        cpu = int(pid) % 4
        task = "kworker/0:1" if int(pid) == KWORKER else "task"
        out.append(f"{task:>16}-{pid:<7} [{cpu:03}] ..... {time // 1000000:5}.{time % 1000000:06}: {body}\n")
    return "".join(out)


def delayed(lines: Sequence[str], seed: int, share: float = 0.2, most: int = 8) -> list[str]:
    """Let some allocations be recorded late, as kernels do: before the next line of their task, and their free."""
    rng = random.Random(seed)
    result = list(lines)
    for k in range(len(result) - 2, -1, -1):
        if "alloc_percpu:" not in result[k] or rng.random() >= share:
            continue
        stop = k + 1
        while stop < min(k + 1 + rng.randint(1, most), len(result)) and _may_pass(result[k], result[stop]):
            stop += 1
        result.insert(stop - 1, result.pop(k))
    return result


def _may_pass(line: str, other: str) -> bool:
    is_free = "free_percpu:" in other and field(other, "ptr") == field(line, "ptr")
    is_destroy = "destroy_chunk:" in other and field(other, "base_addr") == field(line, "base_addr")
    return line.split("|")[0] != other.split("|")[0] and not is_free and not is_destroy


def recording(lines: Sequence[str], tmp_path: Path, *, whole: bool = True, kernel: KernelVersion = V6_12) -> Recording:
    """Make a recording of lines, with the geometry of the engine; whole: nothing was before them."""
    path = tmp_path / "trace.txt"
    path.write_text(trace_text(lines), encoding="utf-8")
    early = read_golden_trace("") if whole else None
    return Recording("simulated", path, read_trace(path), early=early, kernel=kernel, geometry=geometry(kernel))


def field(line: str, name: str) -> str:
    """Give the value of a field of a line; "" without it."""
    found = re.search(rf"\b{name}=(\S+)", line)
    return found[1] if found else ""
