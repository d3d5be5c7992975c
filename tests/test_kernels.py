"""The table of kernels: one source for everything that differs between them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from percpu_lab import stats, tracepoints
from percpu_lab.cases import PLAYABLE
from percpu_lab.engine import Engine
from percpu_lab.geometry import Geometry
from percpu_lab.kernels import KERNEL_VERSIONS, KERNELS, STATS_LAYOUTS, kernel_for_release
from percpu_lab.models import MODELS


def test_rows_stand_by_rising_release_and_have_names_of_their_own() -> None:
    numbers = [row.number for row in KERNEL_VERSIONS]
    assert numbers == sorted(set(numbers))
    assert list(KERNELS) == [f"{row.release}-{row.allocator}" for row in KERNEL_VERSIONS]


def test_the_releases_asked_for_have_rows() -> None:
    assert {"v4.13", "v4.14", "v6.1", "v6.12"} <= {row.release for row in KERNEL_VERSIONS}
    assert any(row.release.startswith("v5.") for row in KERNEL_VERSIONS)


def test_a_commit_is_known_by_its_first_twelve_digits_or_not_at_all() -> None:
    commits = [row.commit for row in KERNEL_VERSIONS if row.commit is not None]
    assert all(re.fullmatch("[0-9a-f]{12}", commit) for commit in commits)
    assert len(set(commits)) == len(commits)


def test_what_differs_between_rows_is_what_the_kernels_do() -> None:
    assert [row.release for row in KERNEL_VERSIONS if row.logs_base] == ["v4.13", "v4.14"]
    assert {row.release for row in KERNEL_VERSIONS if row.dynamic_early_size == 20480} == {"v6.2", "v6.6", "v6.12"}
    assert {row.release for row in KERNEL_VERSIONS if row.logs_atomic_failures} == {"v6.6", "v6.12"}
    assert {row.dynamic_early_size for row in KERNEL_VERSIONS} == {12288, 20480}


def test_an_engine_is_claimed_for_no_release_but_those_it_was_checked_against() -> None:
    assert {row.release: row.engine for row in KERNEL_VERSIONS if row.engine} == {
        "v4.13": "v4.13-areamap",
        "v6.12": "v6.12-bitmap",
    }
    assert set(MODELS) == set(PLAYABLE) == {row.name for row in KERNEL_VERSIONS if row.engine}
    assert {row.replayed_by for row in KERNEL_VERSIONS} - {None} == set(MODELS)


@pytest.mark.parametrize(
    ("release", "row"),
    [
        ("4.13.0", "v4.13"),
        ("4.14.336", "v4.14"),
        ("4.19.0-27-amd64", "v4.14"),
        ("5.0.21", "v4.14"),
        ("5.1.0", "v5.1"),
        ("5.2.0", "v5.2"),
        ("5.8.18", "v5.2"),
        ("5.10.0-28-amd64", "v5.9"),
        ("5.12.0-rc6", "v5.9"),
        ("5.15.0-91-generic", "v5.14"),
        ("6.0.0", "v5.19"),
        ("6.1.0-53-cloud-amd64", "v6.1"),
        ("6.1.192-pcpustats", "v6.1"),
        ("6.2.0-39-generic", "v6.2"),
        ("6.6.9", "v6.6"),
        ("6.12.117+deb12-cloud-amd64", "v6.12"),
        ("v7.0", "v6.12"),
    ],
)
def test_a_release_has_the_row_of_the_last_change_before_it(release: str, row: str) -> None:
    found = kernel_for_release(release)
    assert found is not None
    assert found.release == row


@pytest.mark.parametrize("release", ["", "4.12.14", "3.10.0-1160.el7", "linux", "6"])
def test_what_is_older_or_no_release_has_no_row(release: str) -> None:
    assert kernel_for_release(release) is None


@given(st.text(max_size=40))
def test_any_text_is_a_release_or_not(text: str) -> None:
    assert kernel_for_release(text) in (None, *KERNEL_VERSIONS)


def test_every_layout_of_percpu_stats_has_its_types() -> None:
    for layout in STATS_LAYOUTS.values():
        global_, chunk = stats.values.types_of(layout)
        assert tuple(stats.values.labels(global_)) == layout.global_
        assert tuple(stats.values.labels(chunk)) == layout.chunk


def test_memcg_aware_is_printed_from_5_9_to_5_13_only() -> None:
    assert [row.release for row in KERNEL_VERSIONS if "memcg_aware" in row.stats.chunk] == ["v5.9"]


def test_fields_of_the_alloc_event_are_optional_as_the_table_says() -> None:
    alloc = tracepoints.tracepoint("percpu_alloc_percpu")
    newest = KERNEL_VERSIONS[-1]
    assert {field.name for field in alloc.fields if field.optional} == set(newest.alloc_fields)
    assert {field.since for field in alloc.fields} == {"v4.13", "v5.19"}


@pytest.mark.parametrize("name", MODELS)
def test_an_engine_prints_the_fields_and_statistics_of_its_row(name: str) -> None:
    engine = Engine(Geometry.simple(dyn_size=24576), kernel=name, jit="off")
    engine.alloc(64, 8, False, False)
    row = KERNELS[name]
    text = engine.events(0).text("plain")
    assert all((f"{field}=" in text) == (field in row.alloc_fields) for field in KERNEL_VERSIONS[-1].alloc_fields)
    assert stats.read_stats(engine).layout == row.stats.name


@pytest.mark.parametrize("name", MODELS)
def test_an_engine_logs_atomic_failures_as_its_row_says(name: str) -> None:
    engine = Engine(Geometry.simple(dyn_size=24576), kernel=name, jit="off")
    while engine.alloc(16384, 8, False, True):
        pass
    assert any("atomic=1" in line for _, line in engine.dmesg()) == KERNELS[name].logs_atomic_failures


@pytest.mark.parametrize("name", MODELS)
def test_a_first_chunk_below_the_least_of_the_row_is_refused(name: str) -> None:
    row = KERNELS[name]
    info = Geometry.simple(static_size=8192, dyn_size=row.dynamic_early_size).info
    assert Geometry.from_info(info, kernel=row).info == info


def test_the_engine_that_replays_a_release_keeps_the_rules_of_its_first_chunk() -> None:
    geometry = Geometry.page(181032, cpus=4, kernel=KERNELS["v6.1-bitmap"])
    assert geometry.info.dyn_size < KERNELS["v6.12-bitmap"].dynamic_early_size
    engine = Engine(geometry, kernel="v6.12-bitmap", jit="off")
    assert engine.model.name == "v6.12-bitmap"
    assert engine.geometry.info == geometry.info
