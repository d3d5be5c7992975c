"""How long it takes to review decisions, to compare readings, and to go to any of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from percpu_lab.review import review
from percpu_lab.traces.recording import Recording, open_trace

DATA = Path(__file__).parents[1] / "tests" / "data" / "real" / "review"
NAMES = ("pcs-smp4-medium-begin", "deb61-smp4-fail-begin", "deb61-i686-smp1-begin")
NR_MOMENTS = 16


@pytest.fixture(scope="module", params=NAMES)
def recording(request: pytest.FixtureRequest) -> Recording:
    return open_trace(DATA / request.param)


def test_review(benchmark: BenchmarkFixture, recording: Recording, jit: str, report: Callable[..., None]) -> None:
    review(recording, jit=jit, until=100)  # compiles
    done = benchmark(review, recording, jit=jit)
    report(f"review {recording.name}", "", jit, len(recording.trace), f"{done.nr_steps:,} steps")


def test_state_at(benchmark: BenchmarkFixture, recording: Recording, report: Callable[..., None]) -> None:
    done = review(recording, jit="wait")
    rows = [len(recording.trace) * k // NR_MOMENTS for k in range(NR_MOMENTS)]

    def seek() -> None:
        for row in rows:
            done.state_at(row)

    benchmark(seek)
    report(f"state at a row, {recording.name}", "", "wait", NR_MOMENTS)
