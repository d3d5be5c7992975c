"""How fast the allocator is, compiled and plain: in bulk, one by one, and what tracing and history cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from percpu_lab.allocator import Allocator
from percpu_lab.core import layout as L
from percpu_lab.engine import Engine
from percpu_lab.geometry import preset
from percpu_lab.models import MODELS
from percpu_lab.ops import Ops
from percpu_lab.workloads import WORKLOADS, percpu_test

#: the machines of the table, by their unit
MACHINES = {"64 KiB": "x86-64, 4 CPUs", "256 KiB": "8 CPUs, 256 KiB"}
#: how much is done, by policy: plain Python would take minutes for as much
OBJECTS = {"wait": 1_000_000, "off": 5_000}
MIX = {"wait": {}, "off": {"nr_ops": 4_000, "live": 1_000}}
PATTERNS = ("percpu_test1", "percpu_test2", "percpu_test3")
KERNELS = tuple(MODELS)

Report = Callable[..., None]


def run_in_bulk(
    benchmark: BenchmarkFixture, ops: Ops, unit: str, jit: str, *, trace: bool = True, **options: Any
) -> None:
    """Run a script on a fresh engine, three times."""

    def fresh() -> tuple[tuple[Engine, np.ndarray], dict[str, Any]]:
        engine = Engine(preset(MACHINES[unit]), jit=jit, **options)
        if not trace:
            engine.g[L.EVENT_MASK] = 0
        return (engine, np.zeros(max(ops.nr_ids, 1), np.int64)), {}

    benchmark.pedantic(lambda engine, ids: engine.run(ops, ids), setup=fresh, rounds=3)


@pytest.mark.parametrize("unit", MACHINES)
@pytest.mark.parametrize("name", PATTERNS)
def test_pattern(benchmark: BenchmarkFixture, report: Report, name: str, unit: str, jit: str) -> None:
    ops = percpu_test(int(name[-1]), nr_objects=OBJECTS[jit], size=16, observe=False)
    run_in_bulk(benchmark, ops, unit, jit)
    report(name, unit, jit, len(ops), f"{OBJECTS[jit]:,} objects of 16 B")


@pytest.mark.parametrize("unit", MACHINES)
@pytest.mark.parametrize("sizes", ["kernel", "uniform"])
def test_mix(benchmark: BenchmarkFixture, report: Report, sizes: str, unit: str, jit: str) -> None:
    ops = WORKLOADS["benchmark"].build(sizes=sizes, **MIX[jit])
    run_in_bulk(benchmark, ops, unit, jit)
    live = MIX[jit].get("live", 20_000)
    report(f"random mix, {sizes} sizes", unit, jit, len(ops), f"{len(ops):,} ops, {live:,} live")


@pytest.mark.parametrize("unit", MACHINES)
@pytest.mark.parametrize("name", [*PATTERNS, "benchmark"])
def test_bitmap(benchmark: BenchmarkFixture, report: Report, name: str, unit: str) -> None:
    pytest.importorskip("numba")
    parameters = {"nr_objects": OBJECTS["wait"], "size": 16, "observe": False} if name in PATTERNS else {}
    ops = WORKLOADS[name].build(**parameters)
    run_in_bulk(benchmark, ops, unit, "wait", kernel="v6.12-bitmap")
    report(f"{name}, v6.12", unit, "wait", len(ops), f"{len(ops):,} ops")


@pytest.mark.parametrize(
    ("what", "options"),
    [
        ("trace and history", {}),
        ("trace off", {"trace": False}),
        ("history off", {"history": False}),
        ("both off", {"trace": False, "history": False}),
        ("both and statistics off", {"trace": False, "history": False, "stats": False}),
    ],
)
def test_what_recording_costs(
    benchmark: BenchmarkFixture, report: Report, what: str, options: dict[str, bool], jit: str
) -> None:
    ops = percpu_test(1, nr_objects=OBJECTS[jit], size=16, observe=False)
    run_in_bulk(benchmark, ops, "64 KiB", jit, **options)
    report(f"percpu_test1, {what}", "64 KiB", jit, len(ops))


@pytest.mark.parametrize("nr_live", [0, 100_000])
@pytest.mark.parametrize("face", ["Allocator", "Engine"])
def test_one_by_one(benchmark: BenchmarkFixture, report: Report, face: str, nr_live: int, jit: str) -> None:
    if nr_live and jit == "off":
        pytest.skip("making the objects alone takes plain Python too long")
    a = Allocator(jit=jit)
    a.run(Ops.alloc(np.arange(nr_live), 64))
    engine = a.engine
    if face == "Allocator":
        benchmark(lambda: a.free_percpu(a.alloc_percpu(64)))
    else:
        benchmark(lambda: engine.free(engine.alloc(64, 8, False, False)))
    report(f"alloc, free through {face}", "64 KiB", jit, 2, f"one by one, {nr_live:,} live")


@pytest.mark.parametrize("style", ["ftrace", "golden"])
def test_text_of_a_trace(benchmark: BenchmarkFixture, report: Report, style: str) -> None:
    a = Allocator(jit="off")
    a.run(percpu_test(1, nr_objects=3000, size=64, observe=False))
    benchmark.pedantic(lambda: a.trace.text(style=style), rounds=5)
    report(f"text of an event, {style}", "", "off", len(a.trace))


@pytest.mark.parametrize("kernel", KERNELS)
def test_reading_all_chunks(benchmark: BenchmarkFixture, report: Report, kernel: str) -> None:
    a = Allocator(engine=kernel, jit="off")
    a.run(Ops.alloc(np.arange(5000), 64))
    benchmark(a.state)
    report(f"state() of {kernel}", "64 KiB", "off", len(a.chunks), "an op is a chunk; 5,000 areas in use")
