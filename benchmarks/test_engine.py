"""How fast the engine is, compiled and plain. BENCH_ARGS=--benchmark-autosave keeps a run for --benchmark-compare."""

from __future__ import annotations

import importlib.util

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from percpu_lab import WORKLOADS, Allocator

HAS_NUMBA = importlib.util.find_spec("numba") is not None
COMPILED = pytest.param("wait", id="compiled", marks=pytest.mark.skipif(not HAS_NUMBA, reason="numba is not installed"))
BULK = ("percpu_test1", "percpu_test2", "percpu_test3", "kernel_mix", "uniform")


@pytest.fixture(params=[pytest.param("off", id="plain"), COMPILED])
def jit(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("name", BULK)
def test_bulk(benchmark: BenchmarkFixture, name: str, jit: str) -> None:
    ops = WORKLOADS[name].build()
    benchmark.extra_info["nr_ops"] = len(ops)
    benchmark.pedantic(lambda a: a.run(ops), setup=lambda: ((Allocator(jit=jit),), {}), rounds=5)


def test_alloc_and_free_one_by_one(benchmark: BenchmarkFixture, jit: str) -> None:
    a = Allocator(jit=jit)
    benchmark(lambda: a.free_percpu(a.alloc_percpu(64)))
