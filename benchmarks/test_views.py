"""How long a frame takes with 100,000 areas in use: the columns, then each view and all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from percpu_lab.columns import Columns, snapshot, take
from percpu_lab.engine import Engine
from percpu_lab.geometry import Geometry
from percpu_lab.ops import Ops
from percpu_lab.views.area_map import AreaMap
from percpu_lab.views.fragmentation import Fragmentation
from percpu_lab.views.shared import Shared
from percpu_lab.views.timeline import Timeline

NR_AREAS = 100_000


@pytest.fixture(scope="module", params=[131072, 65536], ids=["121 chunks", "240 chunks"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Areas of about 150 bytes, a third of them freed and allocated again in another order."""
    choice = np.random.default_rng(1)
    engine = Engine(Geometry.simple(unit_size=request.param, static_size=16384, reserved_size=8192, nr_cpus=4))
    ids, sizes = np.zeros(2 * NR_AREAS, np.int64), choice.integers(75, 225, 2 * NR_AREAS)
    again = NR_AREAS // 3
    engine.run(Ops.alloc(np.arange(NR_AREAS), sizes[:NR_AREAS], 8), ids)
    engine.run(Ops.free(choice.permutation(NR_AREAS)[:again]), ids)
    engine.run(Ops.alloc(np.arange(NR_AREAS, NR_AREAS + again), sizes[NR_AREAS : NR_AREAS + again]), ids)
    return engine


def built(columns: Columns, *views: Any) -> list[Any]:
    shared = Shared()
    for view in views:
        view.build(shared)
    shared.update(columns)
    return list(views)


def test_snapshot(benchmark: BenchmarkFixture, engine: Engine) -> None:
    assert benchmark(snapshot, engine).nr_in_use == NR_AREAS


def test_take(benchmark: BenchmarkFixture, engine: Engine) -> None:
    benchmark(take, engine)


@pytest.mark.parametrize("view", [AreaMap, Fragmentation, Timeline])
def test_update(benchmark: BenchmarkFixture, engine: Engine, view: Any) -> None:
    columns = take(engine)
    benchmark(built(columns, view())[0].update, columns)


def test_all_updates(benchmark: BenchmarkFixture, engine: Engine) -> None:
    columns = take(engine)
    views = built(columns, AreaMap(), Fragmentation(), Timeline())
    benchmark(lambda: [view.update(columns) for view in views])
