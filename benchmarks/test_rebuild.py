"""How long it takes to rebuild 500,000 events, to go to any row, and to draw a frame there: 60 chunks of 512 KiB."""

from __future__ import annotations

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from percpu_lab.columns import Columns, Unit
from percpu_lab.core import layout as L
from percpu_lab.kernels import V6_12
from percpu_lab.rebuild import Rebuilt
from percpu_lab.recorded_run import RecordedRun
from percpu_lab.traces.recorded import MORE_COLUMNS, RecordedTrace
from percpu_lab.views.area_map import AreaMap
from percpu_lab.views.fragmentation import Fragmentation
from percpu_lab.views.shared import Shared, merged
from percpu_lab.views.timeline import Timeline

NR_EVENTS, NR_CHUNKS, NR_LIVE = 500_000, 60, 40_000
AREA_BYTES, PLACE_BYTES = 160, 256
UNIT = Unit(512 * 1024, 180_224, 8192, 28_672, {cpu: cpu << 19 for cpu in range(4)})


@pytest.fixture(scope="module")
def trace() -> RecordedTrace:
    """60 created chunks, and areas in random places that live for as long as 40,000 others are allocated."""
    choice = np.random.default_rng(1)
    per_chunk = UNIT.unit_size // PLACE_BYTES
    nr_areas = (NR_EVENTS - NR_CHUNKS + NR_LIVE) // 2
    places = np.resize(choice.permutation(NR_CHUNKS * per_chunk), nr_areas)  # used again long after they are freed
    birth = np.arange(nr_areas) * 2
    at = np.concatenate(
        [birth, birth[: nr_areas - NR_LIVE] + 2 * NR_LIVE + 1]
    )  # frees follow 40,000 allocations behind
    area = np.concatenate([np.arange(nr_areas), np.arange(nr_areas - NR_LIVE)])[np.argsort(at)]
    event = np.repeat([L.EVENT_ALLOC, L.EVENT_FREE], [nr_areas, nr_areas - NR_LIVE])[np.argsort(at)]
    chunk, place = np.divmod(places[area], per_chunk)
    made = np.arange(NR_CHUNKS)
    return recorded(
        event=np.concatenate([np.full(NR_CHUNKS, L.EVENT_CREATE), event]),
        base_addr=np.concatenate([made, chunk]) * (1 << 21) + (1 << 40),
        off=np.concatenate([0 * made, place * PLACE_BYTES]),
        size=np.concatenate([0 * made, np.where(event == L.EVENT_ALLOC, AREA_BYTES, 0)]),
    )


def recorded(**columns: np.ndarray) -> RecordedTrace:
    count = len(columns["event"])
    missing = {name: np.zeros(count, np.int64) for name in ("chunk", "align", "flags", "birth")}
    more = {name: np.full(count, value, dtype) for name, (dtype, value) in MORE_COLUMNS.items()}
    sites = np.array([f"site_{k}+0x10/0x20" for k in range(300)], object)[np.arange(count) % 300]
    rows = {"op": np.arange(count), "call_site": sites, "time": np.arange(count) * 50}
    return RecordedTrace(missing | more | rows | columns, extra={}, time_digits=6)


@pytest.fixture(scope="module")
def run(trace: RecordedTrace) -> RecordedRun:
    run = RecordedRun(trace, UNIT, V6_12)
    run.history()
    return run


def test_rebuild(benchmark: BenchmarkFixture, trace: RecordedTrace) -> None:
    rebuilt = benchmark(Rebuilt.of, trace, UNIT, V6_12)
    assert len(rebuilt.areas) > 200_000 and not len(rebuilt.unmatched_frees)


def test_seek_and_snapshot(benchmark: BenchmarkFixture, run: RecordedRun) -> None:
    rows = iter(np.random.default_rng(2).integers(100_000, len(run.rebuilt.trace), 100_000).tolist())
    assert benchmark(lambda: run.rebuilt.snapshot(next(rows))).nr_in_use > NR_LIVE // 2


def test_holders(benchmark: BenchmarkFixture, run: RecordedRun) -> None:
    assert len(benchmark(run.rebuilt.holders, 400_000)) == 300


def test_history(benchmark: BenchmarkFixture, run: RecordedRun) -> None:
    benchmark(run.rebuilt.history, np.linspace(0, len(run.rebuilt.trace), 200).astype(np.int64))


def test_frame(benchmark: BenchmarkFixture, run: RecordedRun) -> None:
    shared, views = Shared(), [AreaMap(), Fragmentation(), Timeline()]
    for view in views:
        view.build(shared)
    rows = iter(np.random.default_rng(3).integers(100_000, len(run.rebuilt.trace), 100_000).tolist())

    def frame() -> Columns:
        run.seek(next(rows))
        columns = run.columns()
        merged(shared.update(columns), *(view.update(columns) for view in views))
        return columns

    assert len(benchmark(frame).snapshot.chunks) == NR_CHUNKS + 2
