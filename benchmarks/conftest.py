"""What the benchmarks share, and the table at the end: nanoseconds an op, beside the kernel's own code."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

HAS_NUMBA = importlib.util.find_spec("numba") is not None
COMPILED = pytest.param("wait", id="compiled", marks=pytest.mark.skipif(not HAS_NUMBA, reason="numba is not installed"))
PLAIN = pytest.param("off", id="plain")

#: the kernel's own mm/percpu.c in user space, gcc -O2, 1,000,000 objects of 16 bytes, nanoseconds an op; see README.md
KERNEL_NS = {
    ("percpu_test1", "64 KiB"): 117,
    ("percpu_test2", "64 KiB"): 83,
    ("percpu_test3", "64 KiB"): 48,
    ("percpu_test1", "256 KiB"): 336,
    ("percpu_test2", "256 KiB"): 191,
    ("percpu_test3", "256 KiB"): 52,
    ("percpu_test1, v6.12", "64 KiB"): 101,
    ("percpu_test2, v6.12", "64 KiB"): 89,
    ("percpu_test3, v6.12", "64 KiB"): 112,
    ("benchmark, v6.12", "64 KiB"): 275,
    ("percpu_test1, v6.12", "256 KiB"): 109,
    ("percpu_test2, v6.12", "256 KiB"): 113,
    ("percpu_test3, v6.12", "256 KiB"): 109,
    ("benchmark, v6.12", "256 KiB"): 310,
}
#: the same for a random mix of 1,000,000 ops with 20,000 live, of sizes that were not noted down
KERNEL_MIX_NS = {"64 KiB": 2416, "256 KiB": 3368}


@dataclass(frozen=True)
class Row:
    what: str
    unit: str
    how: str
    ns_per_op: float
    note: str = ""


ROWS = pytest.StashKey[list[Row]]()


@pytest.fixture(params=[COMPILED, PLAIN])
def jit(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def report(request: pytest.FixtureRequest, benchmark: BenchmarkFixture) -> Callable[..., None]:
    """Put the benchmark that has just run into the table: the median of its rounds, divided by the ops of a round."""

    def add(what: str, unit: str, jit: str, nr_ops: int, note: str = "") -> None:
        benchmark.extra_info["nr_ops"] = nr_ops
        if benchmark.stats is not None:
            ns = benchmark.stats.stats.median / nr_ops * 1e9
            row = Row(what, unit, "compiled" if jit == "wait" else "plain", ns, note)
            request.config.stash.setdefault(ROWS, []).append(row)

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = config.stash.get(ROWS, [])
    if not rows:
        return
    terminalreporter.section("nanoseconds an op (median of the rounds)")
    terminalreporter.write_line(f"{'':34}{'unit':>8} {'':9}{'ns/op':>10}{'kernel':>9}{'ratio':>8}")
    for row in rows:
        kernel = KERNEL_NS.get((row.what, row.unit))
        beside = f"{kernel:>9,}{row.ns_per_op / kernel:>8.2f}" if kernel else " " * 17
        line = f"{row.what:34}{row.unit:>8} {row.how:9}{row.ns_per_op:>10,.0f}{beside}  {row.note}"
        terminalreporter.write_line(line.rstrip())
    mix = ", ".join(f"{ns:,} ({unit})" for unit, ns in KERNEL_MIX_NS.items())
    terminalreporter.write_line(
        f"kernel: its own code in user space, gcc -O2, measured elsewhere; a random mix of v4.13: {mix}"
    )
