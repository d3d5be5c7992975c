"""Workloads: the scripts they make are legal, repeatable, and what they say they are."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_cases import AREAMAP, recorded
from hypothesis import given
from hypothesis import strategies as st

from percpu_lab.core import layout as L
from percpu_lab.errors import RequestError
from percpu_lab.ops import Ops
from percpu_lab.workloads import (
    CGROUP_REQUESTS,
    LIFETIMES,
    SIZE_MIXES,
    WORKLOADS,
    cgroup_churn,
    percpu_test,
    random_mix,
)

mixes = st.fixed_dictionaries(
    {
        "nr_ops": st.integers(0, 600),
        "live": st.integers(1, 60),
        "seed": st.integers(0, 1 << 64),
        "sizes": st.sampled_from(sorted(SIZE_MIXES)),
        "lifetime": st.sampled_from(sorted(LIFETIMES)),
        "atomic_share": st.floats(0, 1),
        "reserved_share": st.floats(0, 1),
        "balance_every": st.integers(0, 20),
    }
)


def kinds(ops: Ops) -> np.ndarray:
    return ops.array[L.OPS_KIND]


def live_counts(ops: Ops) -> list[int]:
    """Objects live after each op; raises if one is freed that is not."""
    live: set[int] = set()
    counts = []
    for kind, number in ops.array[[L.OPS_KIND, L.OPS_ID]].T.tolist():
        if kind == L.OP_ALLOC:
            assert number not in live
            live.add(number)
        elif kind == L.OP_FREE:
            live.remove(number)
        counts.append(len(live))
    return counts


def lifetimes(ops: Ops) -> list[int]:
    """How many ops each object lived that was freed."""
    born: dict[int, int] = {}
    ages = []
    for at, (kind, number) in enumerate(ops.array[[L.OPS_KIND, L.OPS_ID]].T.tolist()):
        if kind == L.OP_ALLOC:
            born[number] = at
        elif kind == L.OP_FREE:
            ages.append(at - born[number])
    return ages


# --- percpu_test -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "pattern", "numbers"),
    [
        ("pcpu_test1_4", 1, {"nr_objects": 4000, "size": 4}),
        ("pcpu_test1_1024", 1, {"nr_objects": 1500, "size": 1024}),
        ("pcpu_test2_256", 2, {"nr_objects": 3000, "size": 256}),
        ("pcpu_test3_64", 3, {"nr_objects": 4000, "size": 64}),
        ("pcpu_test5_16_fill2", 5, {"nr_objects": 3000, "size": 16, "fill": 2}),
        ("pcpu_test6_64_fill4", 6, {"nr_objects": 3000, "size": 64, "fill": 4}),
    ],
)
def test_percpu_test_makes_the_recorded_scripts(name: str, pattern: int, numbers: dict[str, int]) -> None:
    assert percpu_test(pattern, **numbers).to_text() == recorded(AREAMAP / name, "ops.txt")


@given(st.sampled_from([1, 2, 3, 5, 6]), st.integers(1, 40), st.integers(1, 9), st.booleans())
def test_percpu_test_frees_each_object_once(pattern: int, nr_objects: int, fill: int, observe: bool) -> None:
    ops = percpu_test(pattern, nr_objects=nr_objects, fill=fill, observe=observe)
    counts = live_counts(ops)
    assert (max(counts), counts[-1]) == (nr_objects, 0)
    assert bool((kinds(ops) == L.OP_STATS).any()) is observe


def test_percpu_test_knows_its_patterns() -> None:
    with pytest.raises(RequestError, match="choose from 1, 2, 3, 5, 6"):
        percpu_test(4)


# --- groups ------------------------------------------------------------------------------


@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 4))
def test_cgroup_churn_keeps_one_group_of_so_many(nr_groups: int, keep_every: int, balance_every: int) -> None:
    ops = cgroup_churn(nr_groups=nr_groups, keep_every=keep_every, balance_every=balance_every)
    counts = live_counts(ops)
    assert max(counts) == nr_groups * len(CGROUP_REQUESTS)
    assert counts[-1] == -(-nr_groups // keep_every) * len(CGROUP_REQUESTS)
    assert bool((kinds(ops) == L.OP_BALANCE).any()) is (0 < balance_every <= nr_groups)


def test_a_control_group_asks_for_what_the_recorded_kernel_asked_for() -> None:
    text = (Path(__file__).parent / "data" / "cgroup_mkdir.txt").read_text(encoding="utf-8")
    fields = [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in text.splitlines()]
    assert [(int(event["size"]), int(event["align"])) for event in fields if event] == list(CGROUP_REQUESTS)


# --- random mixes ------------------------------------------------------------------------


@given(mixes)
def test_a_mix_has_the_length_asked_for_and_frees_live_objects_only(choices: dict[str, Any]) -> None:
    ops = random_mix(**choices)
    assert len(ops) == choices["nr_ops"]
    live_counts(ops)


@given(mixes)
def test_the_same_numbers_give_the_same_script(choices: dict[str, Any]) -> None:
    assert np.array_equal(random_mix(**choices).array, random_mix(**choices).array)


@pytest.mark.parametrize(
    ("lifetime", "crc"),
    [("fifo", 0xCC4D2B65), ("lifo", 0x19858567), ("random", 0xFD9A971A), ("generational", 0x4B36782B)],
)
def test_a_seed_gives_the_same_script_for_ever(lifetime: str, crc: int) -> None:
    ops = random_mix(nr_ops=5000, live=200, seed=7, sizes="kernel", lifetime=lifetime)
    assert zlib.crc32(ops.to_text().encode()) == crc


def test_another_seed_gives_another_script() -> None:
    assert not np.array_equal(random_mix(seed=1).array, random_mix(seed=2).array)


@pytest.mark.parametrize("live", [1, 5, 100, 1000])
def test_live_objects_stay_within_a_tenth_of_the_target(live: int) -> None:
    counts = np.array(live_counts(random_mix(nr_ops=20_000, live=live)))[2 * live :]
    spread = max(1, live // 10)
    assert live - spread <= counts.min() < live < counts.max() <= live + spread


@pytest.mark.parametrize("every", [1, 7, 50])
def test_balance_has_its_place_in_the_script(every: int) -> None:
    at = np.flatnonzero(kinds(random_mix(nr_ops=1000, balance_every=every)) == L.OP_BALANCE)
    assert at.tolist() == list(range(every - 1, 1000, every))


def test_no_balance_if_none_is_wanted() -> None:
    assert not (kinds(random_mix(balance_every=0)) == L.OP_BALANCE).any()


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
@pytest.mark.parametrize(("name", "flag"), [("atomic_share", L.FLAG_ATOMIC), ("reserved_share", L.FLAG_RESERVED)])
def test_shares_are_kept(name: str, flag: int, share: float) -> None:
    ops = random_mix(nr_ops=20_000, **{"atomic_share": 0.5, "reserved_share": 0.5, name: share})
    flags = ops.array[L.OPS_FLAGS, kinds(ops) == L.OP_ALLOC]
    assert np.mean(flags & flag != 0) == pytest.approx(share, abs=0.02)


@given(st.sampled_from(sorted(SIZE_MIXES)), st.integers(0, 1000))
def test_every_request_of_a_mix_is_legal(sizes: str, seed: int) -> None:
    ops = random_mix(nr_ops=500, live=400, sizes=sizes, seed=seed)
    size, align = ops.array[L.OPS_SIZE : L.OPS_ALIGN + 1, kinds(ops) == L.OP_ALLOC]
    assert ((size >= 1) & (size <= 32768)).all()
    assert ((align >= 4) & (align <= 4096) & (align & (align - 1) == 0)).all()


def test_fifo_frees_in_the_order_of_allocation() -> None:
    ops = random_mix(lifetime="fifo")
    freed = ops.array[L.OPS_ID, kinds(ops) == L.OP_FREE]
    assert np.array_equal(freed, np.arange(len(freed)))


def test_lifo_frees_the_newest_live_object() -> None:
    stack: list[int] = []
    for kind, number in random_mix(lifetime="lifo").array[[L.OPS_KIND, L.OPS_ID]].T.tolist():
        if kind == L.OP_ALLOC:
            stack.append(number)
        elif kind == L.OP_FREE:
            assert stack.pop() == number


def test_most_die_younger_in_a_generational_mix_than_at_random() -> None:
    young, at_random = (np.median(lifetimes(random_mix(nr_ops=50_000, lifetime=n))) for n in ("generational", "random"))
    assert young < at_random / 2


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("nr_ops", -1),
        ("nr_ops", 1.5),
        ("live", 0),
        ("live", True),
        ("seed", "x"),
        ("balance_every", -1),
        ("nr_ops", 10**30),
        ("atomic_share", 1.1),
        ("reserved_share", float("nan")),
        ("sizes", "huge"),
        ("lifetime", "eternal"),
    ],
)
def test_an_argument_out_of_range_is_named(argument: str, value: Any) -> None:
    with pytest.raises(RequestError) as caught:
        random_mix(**{argument: value})
    assert caught.value.where == argument


# --- the registry -------------------------------------------------------------------------


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_workload_builds_with_its_own_parameters(name: str) -> None:
    workload = WORKLOADS[name]
    sizes = {"nr_ops": 2000, "live": 100, "nr_objects": 100, "nr_groups": 30}
    small = {name: size for name, size in sizes.items() if name in workload.parameters}
    ops = workload.build(**small)
    live_counts(ops)
    assert workload.description
    assert set(small) <= set(workload.parameters)


def test_the_benchmark_has_a_million_ops_around_twenty_thousand_objects() -> None:
    assert dict(WORKLOADS["benchmark"].parameters).items() >= {"nr_ops": 1_000_000, "live": 20_000}.items()


def test_an_unknown_parameter_is_named_with_the_known_ones() -> None:
    with pytest.raises(RequestError, match="there is no 'objects'; choose from nr_objects"):
        WORKLOADS["percpu_test1"].build(objects=5)


def test_what_makes_a_workload_itself_is_no_parameter() -> None:
    assert "sizes" not in WORKLOADS["uniform"].parameters
    assert "pattern" not in WORKLOADS["percpu_test1"].parameters
