"""The memory behind a pointer: one copy a CPU, zeroed when it is handed out, gone when it is freed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from percpu_lab.allocator import Allocator
from percpu_lab.core import layout as L
from percpu_lab.errors import RequestError, UseAfterFreeError
from percpu_lab.geometry import Geometry
from percpu_lab.gfp import GFP_ATOMIC
from percpu_lab.ops import Ops
from percpu_lab.pointers import PercpuPtr


@pytest.fixture(params=["off", "wait"], ids=["plain", "compiled"])
def jit(request: pytest.FixtureRequest) -> str:
    if request.param == "wait":
        pytest.importorskip("numba")
    return str(request.param)


@pytest.fixture(params=["v4.13-areamap", "v6.12-bitmap"])
def a(jit: str, request: pytest.FixtureRequest) -> Allocator:
    geometry = Geometry.simple(unit_size=65536, static_size=8192, reserved_size=8192, nr_cpus=3)
    return Allocator(geometry, engine=request.param, jit=jit)


def copies(a: Allocator, p: PercpuPtr, dtype: Any = np.uint8) -> list[np.ndarray]:
    return [a.per_cpu_ptr(p, cpu).view(dtype) for cpu in a.geometry.info.possible_cpus]


def fill(a: Allocator, p: PercpuPtr, value: int) -> None:
    for copy in copies(a, p):
        copy[:] = value


def is_filled(a: Allocator, p: PercpuPtr, value: int) -> bool:
    return all((copy == value).all() for copy in copies(a, p))


def test_each_cpu_has_a_copy_of_its_own(a: Allocator) -> None:
    p = a.alloc_percpu(64)
    for cpu, copy in enumerate(copies(a, p, np.int64)):
        assert copy.tolist() == [0] * 8
        copy[:] = cpu + 1
    assert [copy.tolist() for copy in copies(a, p, np.int64)] == [[1] * 8, [2] * 8, [3] * 8]


def test_current_cpu_writes_to_its_own_copy(a: Allocator) -> None:
    counter = a.alloc_percpu(8)
    for cpu in (0, 1, 1, 2, 2, 2):
        with a.on_cpu(cpu):
            a.this_cpu_ptr(counter).view(np.int64)[0] += 1
    assert [int(copy[0]) for copy in copies(a, counter, np.int64)] == [1, 2, 3]


def test_views_of_one_copy_are_the_same_memory(a: Allocator) -> None:
    p = a.alloc_percpu(8)
    a.per_cpu_ptr(p, 1).view(np.uint32)[:] = [0x04030201, 0x08070605]
    assert a.per_cpu_ptr(p, 1).view().tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    record = np.dtype([("hits", "<i4"), ("misses", "<i4")])
    assert a.per_cpu_ptr(p, 1).view(record)["misses"].tolist() == [0x08070605]


@pytest.mark.parametrize("size", [2, 6, 60, 4096, 32768])
def test_view_ends_where_the_allocation_ends(a: Allocator, size: int) -> None:
    before, p, behind = (a.alloc_percpu(n, 2) for n in (16, size, 16))
    fill(a, before, 1)
    fill(a, behind, 3)
    fill(a, p, 2)
    assert [len(copy) for copy in copies(a, p)] == [size] * 3
    assert is_filled(a, before, 1) and is_filled(a, behind, 3)


def test_odd_size_has_exactly_the_bytes_asked_for(a: Allocator) -> None:
    p = a.alloc_percpu(7)
    assert len(a.this_cpu_ptr(p).view()) == 7
    with pytest.raises(RequestError, match="7 bytes are no whole number of int16"):
        a.this_cpu_ptr(p).view(np.int16)


@pytest.mark.parametrize("dtype", [object, np.dtype("S0"), np.dtype([("x", object)]), np.dtype([])])
def test_type_without_bytes_of_its_own_is_refused(a: Allocator, dtype: Any) -> None:
    p = a.alloc_percpu(64)
    with pytest.raises(RequestError, match="has no bytes of its own"):
        a.this_cpu_ptr(p).view(dtype)


def test_what_is_no_type_of_elements_is_refused(a: Allocator) -> None:
    with pytest.raises(RequestError, match="no type of elements"):
        a.per_cpu_ptr(a.alloc_percpu(8), 0).view("nope")


def test_freed_memory_is_zeroed_when_it_is_handed_out_again(a: Allocator) -> None:
    p = a.alloc_percpu(64)
    fill(a, p, 7)
    a.free_percpu(p)
    q = a.alloc_percpu(64)
    assert q.value == p.value
    assert is_filled(a, q, 0)


def test_only_the_size_asked_for_is_zeroed(jit: str) -> None:
    a = Allocator(Geometry.simple(unit_size=32768), jit=jit)
    p = a.alloc_percpu(12, 4)
    a.alloc_percpu(8, 4)
    fill(a, p, 7)
    units = a.memory.units[0]
    a.free_percpu(p)
    q = a.alloc_percpu(10, 2)  # the 2 bytes behind it are absorbed
    assert q.value == p.value
    assert units[0, q.off : q.off + 12].tolist() == [0] * 10 + [7, 7]


def test_memory_nobody_ever_looked_at_is_zero_too(a: Allocator) -> None:
    ptrs = [a.alloc_percpu(32768) for _ in range(4)]
    assert a.memory.units == {}
    assert all(is_filled(a, p, 0) for p in ptrs)
    assert len(a.memory.units) == len({p.ordinal for p in ptrs})


def test_script_that_reuses_memory_zeroes_it(a: Allocator) -> None:
    p = a.alloc_percpu(4096, 4096)
    fill(a, p, 7)
    a.free_percpu(p)
    ids = np.zeros(400, np.int64)
    a.run(Ops.alloc(np.arange(400), 8), ids=ids)  # more than the queue of areas to be zeroed holds
    live = {int(ptr) for ptr in ids}
    a.engine.drain_zero()
    units = a.memory.units[max(p.ordinal, 0)]
    start = p.off + a.engine.unit_start(p.ordinal)
    base = p.value - p.off
    for off in range(0, 4096, 8):
        wanted = 0 if base + p.off + off in live else 7
        assert units[:, start + off : start + off + 8].tolist() == [[wanted] * 8] * 3
    assert a.engine.scalar(L.ZERO_USED) == 0


def test_view_of_an_area_that_a_script_reused_is_zero(a: Allocator) -> None:
    p = a.alloc_percpu(64)
    fill(a, p, 7)
    a.free_percpu(p)
    ids = np.zeros(1, np.int64)
    a.run(Ops.concat([Ops.alloc(np.zeros(1, np.int64), 64), Ops.free(np.zeros(1, np.int64))]), ids=ids)
    q = a.alloc_percpu(64)
    assert q.value == p.value and is_filled(a, q, 0)
    fill(a, q, 5)
    assert is_filled(a, q, 5)


def test_pages_given_back_by_balance_come_back_zero(jit: str) -> None:
    a = Allocator(Geometry.simple(unit_size=32768), jit=jit)
    a.alloc_percpu(24576)
    p, q = a.alloc_percpu(32768), a.alloc_percpu(32768)
    for ptr in (p, q):
        fill(a, ptr, 7)
    a.free_percpu(p)
    a.free_percpu(q)
    a.balance()
    assert set(a.memory.units) == {2}
    ptrs = [a.alloc_percpu(32768), a.alloc_percpu(32768)]
    assert [ptr.ordinal for ptr in ptrs] == [2, 3]
    assert all(is_filled(a, ptr, 0) for ptr in ptrs)


def test_freed_allocation_cannot_be_looked_at(a: Allocator) -> None:
    p = a.alloc_percpu(64)
    copy = a.this_cpu_ptr(p)
    copy.view()[:] = 1
    a.free_percpu(p)
    with pytest.raises(UseAfterFreeError, match="has been freed"):
        copy.view()
    q = a.alloc_percpu(64)
    assert q.value == p.value
    with pytest.raises(UseAfterFreeError):
        copy.view()
    assert is_filled(a, q, 0)


def test_allocation_in_a_destroyed_chunk_cannot_be_looked_at(jit: str) -> None:
    a = Allocator(Geometry.simple(unit_size=32768), auto_balance=True, jit=jit)
    a.alloc_percpu(24576)
    ptrs = [a.alloc_percpu(32768) for _ in range(3)]
    addresses = [a.per_cpu_ptr(p, 1) for p in ptrs]
    old = addresses[0].view()
    old[:] = 7
    for p in ptrs:
        a.free_percpu(p)
    assert len([c for c in a.chunks if c.ordinal > 0]) == 1
    for address in addresses:
        with pytest.raises(UseAfterFreeError):
            address.view()
    assert old.tolist() == [7] * 32768  # an array in hand keeps its memory, and harms nobody


def test_reserved_and_dynamic_areas_lie_in_the_same_units(a: Allocator) -> None:
    p, q = a.alloc_percpu(64, reserved=True), a.alloc_percpu(64)
    fill(a, p, 1)
    fill(a, q, 2)
    assert set(a.memory.units) == {0}
    units = a.memory.units[0]
    assert np.flatnonzero(units[0] == 1)[[0, -1]].tolist() == [p.value, p.value + 63]
    assert np.flatnonzero(units[2] == 2)[[0, -1]].tolist() == [q.value, q.value + 63]
    a.free_percpu(p)
    r = a.alloc_percpu(64, reserved=True)
    assert r.value == p.value and is_filled(a, r, 0) and is_filled(a, q, 2)


def test_impossible_cpus_have_no_memory() -> None:
    a = Allocator(Geometry.embed(8192, cpus=[1, 4]), jit="off")
    p = a.alloc_percpu(8)
    a.per_cpu_ptr(p, 4).view()[:] = 4
    assert a.memory.units[0].shape == (2, a.geometry.info.unit_size)
    assert a.per_cpu_ptr(p, 1).view().tolist() == [0] * 8


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("alloc"), st.integers(1, 3000), st.sampled_from([1, 8, 64]), st.booleans()),
        st.tuples(st.just("free"), st.integers(0, 99), st.just(0), st.just(False)),
        st.tuples(st.just("script"), st.integers(1, 90), st.integers(1, 500), st.booleans()),
        st.tuples(st.just("balance"), st.just(0), st.just(0), st.just(False)),
    ),
    max_size=40,
)


@settings(max_examples=60)
@given(STEPS)
def test_whoever_holds_memory_finds_in_it_what_he_wrote(steps: list[tuple[str, int, int, bool]]) -> None:
    a = Allocator(Geometry.simple(unit_size=32768, reserved_size=4096), jit="off")
    live: dict[PercpuPtr, int] = {}
    for number, (what, n, m, flag) in enumerate(steps, 1):
        if what == "alloc" and (p := a.alloc_percpu(n, m, reserved=flag)):
            assert is_filled(a, p, 0)
            fill(a, p, number)
            live[p] = number
        elif what == "free" and live:
            p = list(live)[n % len(live)]
            del live[p]
            a.free_percpu(p)
        elif what == "script":
            result = a.run(Ops.alloc(np.arange(n), m))
            if flag:
                result.free_all()
        elif what == "balance":
            a.balance()
    assert all(is_filled(a, p, number) for p, number in live.items())


def undo(a: Allocator, lock: str, act: Callable[[], object]) -> None:
    """Do something in a block that is undone."""
    with a.kernel_functions.holding(lock):
        act()
        raise ZeroDivisionError


def test_memory_looked_into_in_a_block_that_is_undone_is_zeroed_at_the_next_allocation() -> None:
    a = Allocator(jit="off")
    p = a.alloc_percpu(64)
    with pytest.raises(ZeroDivisionError):
        undo(a, "pcpu_lock", lambda: a.per_cpu_ptr(p, 0).view())
    fill(a, p, 255)
    a.free_percpu(p)
    again = a.alloc_percpu(64)
    assert again == p
    assert all(not copy.any() for copy in copies(a, again))


def test_what_is_undone_leaves_the_bytes_as_they_were() -> None:
    a = Allocator(jit="off")
    p = a.alloc_percpu(64)
    fill(a, p, 9)
    view = a.per_cpu_ptr(p, 1).view()

    def use_again() -> None:
        a.free_percpu(p)
        a.alloc_percpu(64, gfp=GFP_ATOMIC)
        assert not view.any()

    with pytest.raises(ZeroDivisionError):
        undo(a, "pcpu_alloc_mutex", use_again)
    assert p.is_live
    assert all((copy == 9).all() for copy in [view, *copies(a, p)])


def test_memory_whose_making_was_interrupted_is_zeroed_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    a = Allocator(jit="off")
    p = a.alloc_percpu(64)
    watch = a.engine.watch_memory

    def interrupted(ordinal: int) -> None:
        monkeypatch.undo()
        watch(ordinal)
        raise KeyboardInterrupt

    monkeypatch.setattr(a.engine, "watch_memory", interrupted)
    with pytest.raises(KeyboardInterrupt):
        a.per_cpu_ptr(p, 0).view()
    assert a.memory.chunks == ()
    fill(a, p, 255)
    a.free_percpu(p)
    assert all(not copy.any() for copy in copies(a, a.alloc_percpu(64)))
