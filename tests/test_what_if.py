"""The same requests on other machines: what they cost there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import percpu_lab as lab
from percpu_lab.columns import snapshot
from percpu_lab.comparison import WhatIf, what_if
from percpu_lab.comparison.machines import changed
from percpu_lab.comparison.pages import boot, functions_for
from percpu_lab.core import bitmap
from percpu_lab.errors import GeometryError, RequestError
from percpu_lab.ops import Ops
from percpu_lab.traces.recording import open_trace
from percpu_lab.workloads import cgroup_churn, random_mix

AREA_MAP, BITMAP = "v4.13-areamap", "v6.12-bitmap"
FOLDERS = Path(__file__).parent / "data" / "real" / "folders"
GUEST = lab.Geometry.embed(212_992, cpus=4, atom_size=2 << 20)


@pytest.fixture(scope="module")
def answer() -> WhatIf:
    return what_if(random_mix(nr_ops=3000, live=300, seed=2), cpus=[1, 4, 1024], engine=BITMAP, jit="off")


def test_the_machine_as_it_was_comes_first_then_every_combination() -> None:
    result = what_if(Ops.from_text("alloc 0 64 8 0 0\n"), cpus=[2, 3], engine=[AREA_MAP, BITMAP], jit="off")
    names = [
        "as it was",
        "2 CPUs, v4.13-areamap",
        "2 CPUs, v6.12-bitmap",
        "3 CPUs, v4.13-areamap",
        "3 CPUs, v6.12-bitmap",
    ]
    assert [cost.name for cost in result.costs] == names


def test_every_possible_cpu_pays(answer: WhatIf) -> None:
    one, many = answer["1 CPU, v6.12-bitmap"], answer["1,024 CPUs, v6.12-bitmap"]
    assert one.outcome.final_pages == many.outcome.final_pages
    assert many.total_pages == 1024 * one.total_pages
    assert many.total_waste_bytes == 1024 * one.total_waste_bytes
    assert many.total_bytes == many.total_pages * 4096


def test_pages_hold_what_was_asked_for_the_static_part_and_the_waste(answer: WhatIf) -> None:
    for cost in answer.costs:
        assert cost.waste_bytes >= 0
        assert cost.final_bytes == cost.info.static_size + cost.outcome.live_bytes + cost.waste_bytes


def test_units_without_a_cpu_cost_as_much_as_others() -> None:
    ops = Ops.from_text("alloc 0 64 8 0 0\n")
    cost = what_if(ops, cpus=12, atom_size=1 << 20, machine=lab.Geometry.embed(70_000, cpus=4), jit="off").costs[1]
    assert cost.info.nr_units > cost.nr_cpus == 12
    assert cost.total_pages == cost.outcome.final_pages * cost.info.nr_units


def test_a_larger_reserve_serves_what_failed() -> None:
    ops = Ops.alloc(np.arange(10), 2048, 8, reserved=True)
    result = what_if(ops, reserved_size=[0, 32768], jit="off")
    failed = {cost.name: cost.outcome.nr_failed for cost in result.costs}
    # of 8 KiB four fit; without a reserve they are requests like any other
    assert failed == {"as it was": 6, "reserve 0 B": 0, "reserve 32 KiB": 0}


def test_larger_units_make_fewer_chunks() -> None:
    ops = Ops.alloc(np.arange(500), 1024)
    result = what_if(ops, unit_size=[65536, 262144], jit="off")
    small, large = (cost.outcome.nr_chunks for cost in result.costs[1:])
    assert small > large > 1


def test_a_recording_is_asked_on_its_own_machine() -> None:
    recording = open_trace(FOLDERS / "pcs-smp3-boot")
    result = what_if(recording, cpus=1024, jit="off")
    base, many = result.costs
    assert recording.geometry is not None
    assert base.info == recording.geometry.info
    assert base.nr_cpus == 3
    assert "requests from before the trace" in result.text
    assert many.total_bytes > 100 * base.total_bytes


def test_the_pages_of_a_recorded_boot_are_those_that_meminfo_showed() -> None:
    recording = open_trace(FOLDERS / "pcs-smp3-boot")
    shown = [reading.percpu_kib for reading in recording.proc if reading.percpu_kib is not None]
    assert what_if(recording, jit="off").costs[0].total_bytes // 1024 == shown[-1]


# --- pages of other sizes ------------------------------------------------------------------------


def test_a_page_of_64_kib_is_a_block_of_16384_bits() -> None:
    large = functions_for("bitmap", 65536)
    assert (large.PCPU_BITMAP_BLOCK_BITS, bitmap.PCPU_BITMAP_BLOCK_BITS) == (16384, 1024)
    assert large is functions_for("bitmap", 65536)


@given(st.sampled_from([AREA_MAP, BITMAP]), st.sampled_from([16384, 65536]), st.integers(0, 1 << 32))
@settings(deadline=None, max_examples=8)
def test_engines_with_large_pages_keep_areas_apart_and_on_populated_pages(kernel: str, page: int, seed: int) -> None:
    geometry = changed(GUEST, page_size=page)
    engine = boot(geometry, kernel=kernel, auto_balance=True, jit="off")
    ops = random_mix(nr_ops=150, live=60, seed=seed, atomic_share=0.3)
    engine.run(ops, np.zeros(max(ops.nr_ids, 1), np.int64))
    for chunk in engine.chunks():
        pages = {number for first, end in chunk.populated for number in range(first, end)}
        assert len(pages) <= geometry.info.unit_size // page
    snap = snapshot(engine)
    live = snap.areas.birth >= 0
    end = snap.areas.off_bytes + snap.areas.size_bytes
    runs = snap.populated
    for row, off, stop in zip(snap.areas.chunk[live], snap.areas.off_bytes[live], end[live], strict=True):
        mine = runs.chunk == row
        inside = (runs.first_page[mine] * page <= off) & (stop <= runs.end_page[mine] * page)
        assert inside.any()


def test_large_pages_pin_more_and_reclaim_less() -> None:
    result = what_if(cgroup_churn(nr_groups=330), page_size=[4096, 65536], machine=GUEST, engine=BITMAP, jit="off")
    small, large = result.costs[1:]
    assert small.final_bytes < small.peak_bytes
    assert large.final_bytes == large.peak_bytes  # a group in every page
    assert large.waste_bytes > small.waste_bytes


def test_the_first_chunk_of_a_machine_with_large_pages_is_whole_pages() -> None:
    info = changed(GUEST, page_size=65536).info
    assert info.size_sum % 65536 == 0
    assert info.unit_pages == info.unit_size // 65536


# --- errors and the table ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [({"page_size": 5000}, "no pages of 5000"), ({"cpus": []}, "cpus: no value"), ({"engine": "v5"}, "no engine")],
)
def test_a_value_that_is_none_is_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        what_if(Ops.from_text("alloc 0 8 8 0 0\n"), jit="off", **change)  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [{"cpus": 0}, {"unit_size": 4096}, {"unit_size": 70_001}, {"reserved_size": -1}])
def test_a_machine_that_no_kernel_boots_on_is_refused(change: dict[str, int]) -> None:
    with pytest.raises(GeometryError):
        what_if(Ops.from_text("alloc 0 8 8 0 0\n"), jit="off", **change)


def test_the_answer_is_a_table_of_text_of_markup_and_a_frame(answer: WhatIf) -> None:
    lines = answer.text.splitlines()
    assert lines[1].split()[:2] == ["CPUs", "chunks"]
    assert [line.split("  ")[0] for line in lines[2:]] == [cost.name for cost in answer.costs]
    assert "<table>" in answer._repr_html_()
    frame = answer.frame()
    assert frame.index.tolist() == [cost.name for cost in answer.costs]
    assert frame["total_pages"].tolist() == [cost.total_pages for cost in answer.costs]
    assert frame["page_size"].tolist() == [4096] * 4
    assert repr(answer) == "<WhatIf: 3,000 ops on 4 machines>"
