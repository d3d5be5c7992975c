"""What a new process pays: importing, the first allocation without and with compiled code, memory."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

HAS_NUMBA = importlib.util.find_spec("numba") is not None
needs_numba = pytest.mark.skipif(not HAS_NUMBA, reason="numba is not installed")

FIRST_ALLOCATION = """
import percpu_lab
percpu_lab.Allocator(jit={jit!r}).alloc_percpu(64)
"""
# ru_maxrss of a child begins with what its parent had; Linux keeps a mark of its own for each program
PEAK_MEMORY = """
import pathlib, resource
{what}
status = pathlib.Path("/proc/self/status")
lines = status.read_text().splitlines() if status.exists() else []
marks = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
print(*marks or [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss])
"""
BULK = """
import percpu_lab
percpu_lab.Allocator(jit="wait").run(percpu_lab.WORKLOADS[{name!r}].build({parameters}))
"""


def run(code: str, **environment: str) -> str:
    env = {**os.environ, **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env).stdout


@pytest.mark.parametrize(
    "code",
    ["pass", "import percpu_lab", "import percpu_lab; percpu_lab.Allocator", "import percpu_lab.views"],
    ids=["python alone", "import percpu_lab", "with the allocator", "with the views"],
)
def test_start(benchmark: BenchmarkFixture, code: str) -> None:
    benchmark.pedantic(run, (code,), rounds=5, warmup_rounds=1)


@needs_numba
def test_first_allocation_with_an_empty_cache_does_not_wait_for_the_compiler(
    benchmark: BenchmarkFixture, tmp_path: Path
) -> None:
    caches = iter(range(100))
    benchmark.pedantic(
        lambda cache: run(FIRST_ALLOCATION.format(jit="auto") + "import os; os._exit(0)", NUMBA_CACHE_DIR=cache),
        setup=lambda: ((str(tmp_path / str(next(caches))),), {}),
        rounds=3,
    )


@needs_numba
def test_first_compiled_allocation_with_an_empty_cache(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    benchmark.pedantic(run, (FIRST_ALLOCATION.format(jit="wait"),), {"NUMBA_CACHE_DIR": str(tmp_path)}, rounds=1)


@needs_numba
def test_first_compiled_allocation_from_the_cache(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    code, cache = FIRST_ALLOCATION.format(jit="wait"), {"NUMBA_CACHE_DIR": str(tmp_path)}
    run(code, **cache)
    benchmark.pedantic(run, (code,), cache, rounds=3)


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("python alone", ""),
        ("allocator", "import percpu_lab; percpu_lab.Allocator(jit='off').alloc_percpu(64)"),
        ("percpu_test1", BULK.format(name="percpu_test1", parameters="nr_objects=1_000_000, size=16")),
        ("benchmark", BULK.format(name="benchmark", parameters="")),
    ],
    ids=["python alone", "an allocator", "1,000,000 objects of 16 B", "random mix of 1,000,000 ops"],
)
def test_peak_memory(benchmark: BenchmarkFixture, what: str, code: str) -> None:
    if what in ("percpu_test1", "benchmark") and not HAS_NUMBA:
        pytest.skip("numba is not installed")
    kib = int(benchmark.pedantic(run, (PEAK_MEMORY.format(what=code),), rounds=1))
    benchmark.extra_info["peak_memory_mib"] = kib // 1024
    print(f"\npeak memory, {what}: {kib // 1024:,} MiB")
