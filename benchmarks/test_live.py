"""What live views cost the cell that runs: a loop of allocations from Python, alone and watched.

There is no browser here: its painting takes processor time of its own.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from percpu_lab import Allocator
from percpu_lab.views.dashboard import Dashboard

NR_CALLS = 100_000


@pytest.fixture
def allocator() -> Allocator:
    return Allocator("x86-64, 4 CPUs", jit="wait")


@pytest.fixture
def watched(allocator: Allocator) -> Iterator[Dashboard]:
    board = Dashboard(allocator)
    assert board.widget is not None  # frames are sent from here on
    yield board
    board.close()


def allocate(allocator: Allocator) -> None:
    pointers = [allocator.alloc_percpu(64) for _ in range(NR_CALLS)]
    assert len(pointers) == NR_CALLS


def test_loop_alone(benchmark: BenchmarkFixture, allocator: Allocator) -> None:
    benchmark.pedantic(allocate, (allocator,), rounds=5)


def test_loop_watched(benchmark: BenchmarkFixture, allocator: Allocator, watched: Dashboard) -> None:
    benchmark.pedantic(allocate, (allocator,), rounds=5)
    assert watched.publisher is not None
    assert watched.publisher.error is None
