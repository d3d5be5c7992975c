"""What a notebook holds: pointers and NULL, refused frees, addresses, two side by side, how it shows itself."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

import percpu_lab as lab
from percpu_lab.allocator import Allocator
from percpu_lab.columns import snapshot
from percpu_lab.core import layout as L
from percpu_lab.errors import (
    BadFreeError,
    DoubleFreeError,
    ForeignPointerError,
    GeometryError,
    HookError,
    KernelBugError,
    LabError,
    RequestError,
)
from percpu_lab.events import EventBatch
from percpu_lab.geometry import Geometry, Topology
from percpu_lab.gfp import GFP_ATOMIC, GFP_KERNEL, GFP_NOFS, GFP_NOIO, GFP_NOWAIT
from percpu_lab.ops import Ops
from percpu_lab.pointers import PercpuPtr
from percpu_lab.validate import validate_engine
from percpu_lab.workloads import WORKLOADS, percpu_test


@pytest.fixture(autouse=True)
def _few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep arrays small: they are copied and compared."""
    monkeypatch.setattr("percpu_lab.engine_arrays._RESERVE_BYTES", 0)


@pytest.fixture(params=["off", "wait"], ids=["plain", "compiled"])
def jit(request: pytest.FixtureRequest) -> str:
    if request.param == "wait":
        pytest.importorskip("numba")
    return str(request.param)


@pytest.fixture
def a(jit: str) -> Allocator:
    return Allocator(Geometry.simple(unit_size=32768, nr_cpus=2), jit=jit)


@contextmanager
def nothing_changes(*allocators: Allocator) -> Iterator[None]:
    """All arrays stay as they are, but for the word that says why a call stopped."""
    before = [[array.copy() for array in a.engine.arrays()] for a in allocators]
    yield
    for a, copies in zip(allocators, before, strict=True):
        copies[0][L.STATUS] = a.engine.scalar(L.STATUS)
        for array, saved in zip(a.engine.arrays(), copies, strict=True):
            assert np.array_equal(array, saved)
        validate_engine(a.engine)


# --- NULL and its reasons -------------------------------------------------------------


def test_null_is_false_zero_and_knows_why(a: Allocator) -> None:
    null = a.alloc_percpu(0)
    assert not null and int(null.__index__()) == 0 and null == 0
    assert (repr(null), str(null), null.is_live) == ("NULL", "NULL", False)
    assert null.reason == "illegal size or align"


def test_pointer_that_is_not_null_has_no_reason(a: Allocator) -> None:
    p = a.alloc_percpu(60)
    assert p and p.reason == "" and (p.size, p.align, p.op, p.off, p.ordinal) == (60, 8, 0, 8192, 0)


@pytest.mark.parametrize(
    ("prepare", "request_", "reason"),
    [
        (lambda a: None, {"size": 32769}, "illegal size or align"),
        (lambda a: None, {"size": 8, "align": 3}, "illegal size or align"),
        (
            lambda a: a.alloc_percpu(4096, reserved=True),
            {"size": 8, "reserved": True},
            "alloc from reserved chunk failed",
        ),
        (
            lambda a: [a.alloc_percpu(4, 4, GFP_ATOMIC, True) for _ in range(120)] and a.fault("mem", 1),
            {"size": 4, "reserved": True},
            "failed to extend area map of reserved chunk",
        ),
        (
            lambda a: [a.alloc_percpu(4, 4, GFP_ATOMIC) for _ in range(120)] and a.fault("mem", 1),
            {"size": 4},
            "failed to extend area map",
        ),
        (lambda a: a.alloc_percpu(20480), {"size": 8, "gfp": GFP_ATOMIC}, "atomic alloc failed, no space left"),
        (lambda a: a.alloc_percpu(20480) and a.fault("vm", 1), {"size": 8}, "failed to allocate new chunk"),
        (lambda a: a.alloc_percpu(20480) and a.fault("page", 1), {"size": 8}, "failed to populate"),
    ],
)
def test_every_reason_can_be_met(jit: str, prepare: Callable[..., Any], request_: dict[str, Any], reason: str) -> None:
    a = Allocator(Geometry.simple(unit_size=32768, reserved_size=4096), jit=jit)
    prepare(a)
    null = a.alloc_percpu(**request_)
    assert (bool(null), null.reason) == (False, reason)
    validate_engine(a.engine)


def test_flags_as_text_are_refused_with_the_names_to_give(a: Allocator) -> None:
    with pytest.raises(RequestError, match="gfp: 'GFP_ATOMIC' is not a whole number; give GFP_KERNEL, GFP_ATOMIC or"):
        a.alloc_percpu(8, gfp="GFP_ATOMIC")  # type: ignore[arg-type]


@pytest.mark.parametrize("gfp", [GFP_ATOMIC, GFP_NOWAIT, GFP_NOFS, GFP_NOIO, 0])
def test_whatever_lacks_a_bit_of_gfp_kernel_is_atomic(a: Allocator, gfp: int) -> None:
    a.alloc_percpu(8, gfp=gfp)
    a.alloc_percpu(8, gfp=GFP_KERNEL | 0x100)
    assert a.trace.columns().is_atomic.tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        (("64",), {}),
        ((64.0,), {}),
        ((None,), {}),
        ((-1,), {}),
        ((1 << 64,), {}),
        ((10**5000,), {}),
        ((64, -8), {}),
        ((64, "8"), {}),
        ((64, 1 << 70), {}),
        ((64,), {"gfp": "GFP_KERNEL"}),
        ((64,), {"gfp": None}),
    ],
)
def test_what_no_kernel_caller_could_pass_is_refused(
    a: Allocator, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    with nothing_changes(a), pytest.raises(RequestError) as caught:
        a.alloc_percpu(*args, **kwargs)
    assert len(str(caught.value)) < 200


def test_numpy_numbers_are_numbers(a: Allocator) -> None:
    p = a.alloc_percpu(np.int64(64), np.uint8(16))
    assert (p.size, p.align, p.off % 16) == (64, 16, 0)


def test_numbers_up_to_the_last_of_a_size_t_reach_the_kernel(a: Allocator) -> None:
    assert a.alloc_percpu((1 << 64) - 1).reason == "illegal size or align"
    assert a.dmesg()[-1] == "WARN: illegal size (0) or align (8) for percpu allocation"


# --- frees that a kernel would not survive ----------------------------------------------


def stale_pointer(a: Allocator) -> PercpuPtr:
    p = a.alloc_percpu(64)
    a.free_percpu(p)
    assert a.alloc_percpu(64).value == p.value
    return p


def freed_pointer(a: Allocator) -> PercpuPtr:
    p = a.alloc_percpu(64)
    a.alloc_percpu(64)
    a.free_percpu(p)
    return p


def pointer_of_a_destroyed_chunk(a: Allocator) -> PercpuPtr:
    a.alloc_percpu(24576)
    p, q = a.alloc_percpu(32768), a.alloc_percpu(32768)
    a.free_percpu(p)
    a.free_percpu(q)
    a.balance()
    assert [c.ordinal for c in a.chunks] == [0, 2]
    return p


def between_the_units(a: Allocator) -> int:
    """The offset of another CPU's unit in a chunk, which no percpu pointer has."""
    a.alloc_percpu(24576)
    return a.alloc_percpu(64).value + 32768


@pytest.mark.parametrize(
    ("make", "error", "what"),
    [
        (freed_pointer, DoubleFreeError, "no live area begins here"),
        (lambda a: freed_pointer(a).value, DoubleFreeError, "no live area begins here"),
        (stale_pointer, DoubleFreeError, "belongs to a later allocation"),
        (pointer_of_a_destroyed_chunk, ForeignPointerError, "no chunk is at this address"),
        (lambda a: a.alloc_percpu(64).value + 2, DoubleFreeError, "no live area begins here"),
        (lambda a: a.alloc_percpu(64).value + 1, DoubleFreeError, "no live area begins here"),
        (lambda a: a.alloc_percpu(64).value + 64, DoubleFreeError, "no live area begins here"),
        (lambda a: 4096, ForeignPointerError, "static per-CPU variables"),
        (lambda a: 8, ForeignPointerError, "static per-CPU variables"),
        (lambda a: 32768, ForeignPointerError, "no chunk is at this address"),
        (between_the_units, ForeignPointerError, "no chunk is at this address"),
        (lambda a: (1 << 64) - 8, ForeignPointerError, "no chunk is at this address"),
        (lambda a: 0xFFFF888100002000, ForeignPointerError, "no chunk is at this address"),
    ],
)
def test_bad_free_raises_says_why_and_changes_nothing(
    a: Allocator, make: Callable[[Allocator], Any], error: type[LabError], what: str
) -> None:
    ptr = make(a)
    with nothing_changes(a), pytest.raises(error, match=what) as caught:
        a.free_percpu(ptr)
    assert isinstance(caught.value, BadFreeError)
    assert f"free_percpu({int(ptr.__index__()):#x})" in str(caught.value)
    assert a.alloc_percpu(64)


def test_pointer_of_another_allocator_is_refused_by_both(jit: str) -> None:
    a, b = (Allocator(Geometry.simple(unit_size=32768), jit=jit, name=name) for name in "ab")
    p, q = a.alloc_percpu(64), b.alloc_percpu(64)
    assert p.value == q.value and p != q
    with nothing_changes(a, b), pytest.raises(ForeignPointerError, match="this pointer belongs to 'b'"):
        a.free_percpu(q)
    with nothing_changes(a, b), pytest.raises(ForeignPointerError, match="this pointer belongs to 'a'"):
        b.per_cpu_ptr(p, 0)
    a.free_percpu(p)
    assert q.is_live


@pytest.mark.parametrize("ptr", ["0x2000", 1.5, [], "", -1, 1 << 64, {}])
def test_what_is_no_number_is_no_pointer(a: Allocator, ptr: Any) -> None:
    with nothing_changes(a), pytest.raises(RequestError, match=r"^ptr: "):
        a.free_percpu(ptr)


def test_null_may_be_freed_in_every_form(a: Allocator) -> None:
    other = Allocator(Geometry.simple(), jit="off")
    for null in (None, 0, a.alloc_percpu(0), other.alloc_percpu(0)):
        a.free_percpu(null)
    assert len(a.trace) == 1  # the first chunk
    assert a.engine.now == 5


def test_number_of_a_pointer_frees_it_too(a: Allocator) -> None:
    p = a.alloc_percpu(64)
    a.free_percpu(p.value)
    assert not p.is_live
    assert repr(p) == "<percpu 0x2000: 64 B at chunk 0 + 8192, freed>"


def test_double_free_in_a_script_stops_before_that_op(a: Allocator) -> None:
    ids = np.zeros(2, np.int64)
    a.run(Ops.alloc(np.arange(2), 64), ids=ids)
    ids[1] = ids[0]
    with pytest.raises(DoubleFreeError, match=r"^op 1: free_percpu\(0x2000\): no live area begins here"):
        a.run(Ops.free(np.array([0, 1, 0])), ids=ids)
    assert (ids.tolist(), a.engine.now) == ([0, 8192], 3)
    validate_engine(a.engine)


# --- pointers, addresses, CPUs -------------------------------------------------------------


def test_pointers_are_equal_by_value_and_allocator(a: Allocator) -> None:
    p = a.alloc_percpu(64)
    assert p == PercpuPtr(a, p.value, 64, 8, 0) and p == 8192 and hash(p) == hash(8192)
    assert p != a.alloc_percpu(64) and p != "0x2000"
    assert a.alloc_percpu(0) == Allocator(jit="off").alloc_percpu(0)
    assert hex(p) == str(p) == "0x2000"


@pytest.mark.parametrize(
    "geometry",
    [
        Geometry.embed(28672, cpus=Topology.numa([0, 1], [2, 3, 4]), atom_size=65536),
        Geometry.embed(70000, cpus=12, reserved_size=0, dyn_size=20480, atom_size=1 << 20),
        Geometry.page(24576, cpus=2, base=0xF8000000, area_base=0xF9000000),
        Geometry.simple(unit_size=32768, nr_cpus=3, backing="km"),
        Geometry.up(),
    ],
    ids=["numa", "unused units", "page", "km", "up"],
)
def test_address_of_a_copy_is_chunk_base_plus_unit_offset_plus_offset(geometry: Geometry, jit: str) -> None:
    a = Allocator(geometry, jit=jit)
    for size in (64, 24000, *[30000] * 8):
        p = a.alloc_percpu(size)
        chunk = next(chunk for chunk in a.chunks if chunk.ordinal == p.ordinal)
        for cpu, unit_offset in geometry.info.unit_offset.items():
            copy = a.per_cpu_ptr(p, cpu)
            assert copy.address == chunk.base_addr + unit_offset + p.off
            assert copy.address == geometry.per_cpu_ptr(p.value, cpu) == int(copy.__index__())
            assert repr(copy) == f"<{copy.address:#x}: {size} B of CPU {cpu}>"
    assert {c.ordinal for c in a.chunks} >= {0, 1, 2}


def test_without_smp_a_pointer_is_the_address_itself() -> None:
    a = Allocator(Geometry.up(), jit="off")
    p = a.alloc_percpu(64)
    assert p.value == a.per_cpu_ptr(p, 0).address == a.geometry.addresses.first_chunk


def test_block_runs_on_its_cpu_and_then_on_the_old_one_again(a: Allocator) -> None:
    p = a.alloc_percpu(8)
    with a.on_cpu(1):
        assert a.this_cpu_ptr(p).cpu == a.current_cpu == 1
        with pytest.raises(RequestError, match="CPU 2 is not possible"), a.on_cpu(2):
            pass
        assert a.current_cpu == 1
    with pytest.raises(ZeroDivisionError), a.on_cpu(1):
        _ = 1 / 0
    assert a.this_cpu_ptr(p).cpu == 0


def test_null_and_impossible_cpus_have_no_copy(a: Allocator) -> None:
    with pytest.raises(RequestError, match="NULL has no copies"):
        a.this_cpu_ptr(a.alloc_percpu(0))
    with pytest.raises(RequestError, match=r"CPU 7 is not possible; choose from \[0, 1\]"):
        a.per_cpu_ptr(a.alloc_percpu(8), 7)


def test_boot_cpu_is_the_lowest_possible_one() -> None:
    a = Allocator(Geometry.embed(8192, cpus=[3, 5]), jit="off")
    assert a.current_cpu == 3


# --- two side by side, scripts ---------------------------------------------------------------


def test_two_allocators_share_nothing(jit: str) -> None:
    a, b = (Allocator(Geometry.simple(unit_size=32768), jit=jit) for _ in range(2))
    ops = WORKLOADS["kernel_mix"].build(nr_ops=2000, live=200, seed=4)
    alone = Allocator(Geometry.simple(unit_size=32768), jit=jit)
    alone.run(ops)
    tables = [np.zeros(ops.nr_ids, np.int64) for _ in range(2)]
    for start in range(0, len(ops), 100):
        a.run_slice(ops, tables[0], start, start + 100)
        b.run_slice(ops, tables[1], start, start + 100)
    for other in (a, b):
        assert other.trace.text(style="golden") == alone.trace.text(style="golden")
        assert other.stats().text() == alone.stats().text()
        validate_engine(other.engine)


def test_script_hands_back_what_is_still_live(a: Allocator) -> None:
    result = a.run(Ops.concat([Ops.alloc(np.arange(5), 64), Ops.free(np.array([1, 3])), Ops.alloc(np.array([5]), 0)]))
    assert repr(result) == "<8 ops done: 3 areas left live, 1 requests failed>"
    assert result.pointers == [8192, 8320, 8448]
    result.free_all()
    result.free_all()
    assert (result.pointers, a.stats().global_stats.nr_cur_alloc) == ([], 0)


def test_stats_and_state_ops_pass_without_effect(a: Allocator) -> None:
    assert a.run(Ops.from_text("stats\nalloc 0 8 8 0 0\nstate\nstate\n")).nr_ops == a.engine.now == 4


def test_script_goes_on_behind_the_bug_of_the_kernel(a: Allocator) -> None:
    lines = ["alloc a 64 8 0 0", *(f"alloc s{k} 2 2 0 0" for k in range(6)), "alloc r 24500 2 0 0", "free a"]
    lines += ["alloc b 64 8 0 0", "free s1", "free s3", "alloc c 4 2 0 0", "alloc d 4 2 0 0"]
    ops = Ops.from_text("\n".join(lines))
    ids = np.zeros(ops.nr_ids, np.int64)
    with pytest.raises(KernelBugError, match=r"^op 12: "):
        a.run(ops, ids=ids)
    validate_engine(a.engine)
    a.run_slice(ops, ids, a.engine.now, len(ops))
    assert a.engine.place(int(ids[-1])) == (1, 0)


def test_balance_may_run_by_itself(jit: str) -> None:
    a = Allocator(Geometry.simple(unit_size=32768), auto_balance=True, jit=jit)
    a.alloc_percpu(24576)
    assert [c.ordinal for c in a.chunks] == [0, 1]
    assert a.chunks[1].nr_populated == 4
    assert not a.balance()
    by_script = Allocator(Geometry.simple(unit_size=32768), auto_balance=True, jit=jit)
    by_script.run(Ops.alloc(np.array([0]), 24576, 8))
    assert by_script.trace.text() == a.trace.text()


# --- hooks --------------------------------------------------------------------------------------


def test_hook_that_raises_takes_nothing_from_the_caller(a: Allocator) -> None:
    def broken(batch: EventBatch) -> None:
        raise ValueError("broken")

    a.trace.subscribe(broken)
    with pytest.raises(HookError, match="broken") as caught:
        a.alloc_percpu(64)
    p = caught.value.result
    assert isinstance(p, PercpuPtr) and p.is_live
    a.trace.subscribe(broken)
    with pytest.raises(HookError) as caught:
        a.free_percpu(p)
    assert caught.value.result is None and not p.is_live
    validate_engine(a.engine)
    assert a.alloc_percpu(64)


def test_hook_may_allocate_and_free(a: Allocator) -> None:
    mine: list[PercpuPtr] = []

    def greedy(batch: EventBatch) -> None:
        if len(mine) < 3:
            mine.append(a.alloc_percpu(8))

    a.trace.subscribe(greedy)
    for _ in range(5):
        a.free_percpu(a.alloc_percpu(64))
    assert len(mine) == 3 and all(p.is_live for p in mine)
    validate_engine(a.engine)


@pytest.mark.parametrize("act", [lambda a: a.balance(), lambda a: a.run(Ops.alloc(np.arange(3), 8))])
def test_hooks_are_told_behind_balance_and_scripts(a: Allocator, act: Callable[[Allocator], object]) -> None:
    a.alloc_percpu(24576)
    seen: list[str] = []
    a.trace.subscribe(lambda batch: seen.extend(event.name for event in batch))
    act(a)
    assert seen


# --- how it shows itself ---------------------------------------------------------------------------


class Tags(HTMLParser):
    """Collects the tags of a text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)


def test_name_never_becomes_markup() -> None:
    a = Allocator(Geometry.simple(), jit="off", name="<script>alert(1)</script>&")
    text = a._repr_html_()
    assert Tags(text).tags == {"b", "table", "tr", "th", "td"}
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&amp;" in text


def test_html_shows_a_dozen_chunks_and_counts_the_rest() -> None:
    a = Allocator(Geometry.simple(unit_size=32768, reserved_size=4096), jit="off")
    for _ in range(20):
        a.alloc_percpu(32768)
    text = a._repr_html_()
    assert text.count("<tr>") == 13
    assert "and 10 chunks more" in text
    assert "<td>reserved</td><td>–</td>" in text


def test_repr_is_one_stable_line(a: Allocator) -> None:
    assert repr(a) == "<Allocator 'percpu': 2 CPUs, unit 32 KiB, 1 chunks, 0 ops>"
    a.alloc_percpu(8)
    assert repr(a.state()) == "<AllocatorState after 1 ops: 1 chunks in 15 slots>"
    assert repr(Allocator("UP, km", jit="off")).startswith("<Allocator 'UP, km': 1 CPUs")


def test_state_is_a_copy_that_stays_as_it_is(a: Allocator) -> None:
    before = a.state()
    entries = before.pcpu_first_chunk.map.tolist()
    a.alloc_percpu(24576)
    assert before.pcpu_first_chunk.map.tolist() == entries
    with pytest.raises(ValueError, match="read-only"):
        before.pcpu_first_chunk.map[0] = 5
    after = a.state()
    assert (after.op, after.pcpu_nr_empty_pop_pages, after.balance_pending) == (1, 0, True)
    assert [len(chunks) for chunks in after.pcpu_slot] == [1] + 14 * [0]
    assert after.pcpu_slot[0] == (after.pcpu_first_chunk,)
    assert (after.pcpu_reserved_chunk, after.pcpu_map_extend_chunks, after.pcpu_atomic_alloc_failed) == (
        None,
        (),
        False,
    )


def test_log_prints_as_dmesg_does(a: Allocator) -> None:
    a.alloc_percpu(0)
    log = a.dmesg()
    assert repr(log) == "\n".join(log)
    assert (len(log), log.ops) == (3, (-1, -1, 0))


# --- how it is made -----------------------------------------------------------------------------------


def test_without_statistics_nothing_else_is_different(jit: str) -> None:
    ops = percpu_test(2, nr_objects=300, size=100, observe=False)
    on, off = (Allocator(Geometry.simple(unit_size=32768), stats=stats, jit=jit) for stats in (True, False))
    for a in (on, off):
        a.run(ops)
    assert on.trace.text() == off.trace.text()
    assert np.array_equal(on.engine.map, off.engine.map)
    assert [c.slot for c in on.chunks] == [c.slot for c in off.chunks]
    assert off.engine.g[L.NR_ALLOC : L.MAX_ALLOC_SIZE].tolist() == [0, 0, 0, 0, 0, 0, 32768]
    with pytest.raises(LabError, match="stats"):
        off.stats()


@pytest.mark.parametrize(
    ("kwargs", "error"),
    [
        ({"geometry": "Amiga"}, GeometryError),
        ({"engine": "v2.6-chunks"}, RequestError),
        ({"jit": "always"}, LabError),
    ],
)
def test_what_cannot_be_made_is_said(kwargs: dict[str, Any], error: type[LabError]) -> None:
    with pytest.raises(error):
        Allocator(**kwargs)


def test_ring_holds_as_many_events_as_asked_for_and_counts_the_rest(jit: str) -> None:
    a = Allocator(Geometry.simple(), trace_events=100, jit=jit)
    a.run(percpu_test(1, nr_objects=500, size=8, observe=False))
    assert (a.trace.size, len(a.trace)) == (128, 128)
    batch = a.trace.columns()
    assert (batch.lost, batch.first_seq) == (a.trace.overrun, a.trace.overrun)
    assert a.trace.overrun == a.trace.entries_written - 128
    assert batch.seq[-1] + 1 == a.trace.entries_written
    assert np.all(np.diff(batch.op) >= 0)


@pytest.mark.parametrize("cpu", [True, 1.0, "1", None, [1], -1, 9, np.arange(2)])
def test_what_is_no_possible_cpu_is_refused(a: Allocator, cpu: Any) -> None:
    p = a.alloc_percpu(8)
    with pytest.raises(RequestError, match="is not possible; choose from"):
        a.per_cpu_ptr(p, cpu)
    with pytest.raises(RequestError, match="is not possible; choose from"), a.on_cpu(cpu):
        pass


def test_number_of_numpy_names_a_cpu(a: Allocator) -> None:
    one = a.per_cpu_ptr(a.alloc_percpu(8), np.int64(1))  # type: ignore[arg-type]
    assert (one.cpu, type(one.cpu)) == (1, int)


@pytest.mark.parametrize("value", [5, "p", 1.5])
def test_what_is_no_percpu_pointer_has_no_copies(a: Allocator, value: Any) -> None:
    with pytest.raises(RequestError, match="is no percpu pointer; give what alloc_percpu returned"):
        a.per_cpu_ptr(value, 0)


@pytest.mark.parametrize("geometry", [None, 5, [1]])
def test_what_is_no_geometry_is_refused(geometry: Any) -> None:
    with pytest.raises(GeometryError, match="is no machine; give a Geometry, an AllocInfo, or the name of a preset"):
        Allocator(geometry)


@pytest.mark.parametrize("repeat", [copy.copy, copy.deepcopy, pickle.dumps])
def test_allocator_is_no_value_but_what_is_read_of_it_is(a: Allocator, repeat: Callable[[Any], Any]) -> None:
    a.alloc_percpu(8)
    with pytest.raises(RequestError, match="is one machine, not a value"):
        repeat(a)
    assert repeat(a.stats()) and repeat(a.state())


@pytest.mark.parametrize("engine", ["v4.13-areamap", "v6.12-bitmap"])
def test_without_statistics_chunks_still_say_how_many_areas_are_in_use(engine: str) -> None:
    a = Allocator(engine=engine, stats=False, jit="off")
    pointers = [a.alloc_percpu(64) for _ in range(5)]
    a.free_percpu(pointers[1])
    assert a.state().pcpu_first_chunk.nr_alloc == 4
    assert snapshot(a.engine).chunks.nr_alloc.tolist() == [0, 4]
    assert "4 areas" in repr(a.chunks[1])


@pytest.mark.parametrize(
    ("mistake", "what"),
    [
        (lambda a: a.trace.tail(None), "None is no whole number"),
        (lambda a: a.trace.events("8"), "'8' is no whole number"),
        (lambda a: a.run(None), "None is no op script"),
        (lambda a: a.run(Ops.alloc(np.arange(2), 8), ids=[]), "not a table of pointers"),
        (lambda _: Allocator(name=5), "5 is no text"),  # type: ignore[arg-type]
        (lambda _: lab.picture(None), "None cannot be drawn"),  # type: ignore[arg-type]
        (lambda _: lab.watch(7), "7 cannot be watched"),  # type: ignore[arg-type]
    ],
)
def test_a_mistyped_argument_gets_one_clear_error(mistake: Callable[[Allocator], object], what: str) -> None:
    a = Allocator(jit="off")
    with pytest.raises(RequestError, match=what):
        mistake(a)
    assert a.engine.now == 0


def test_a_long_name_is_cut_and_its_control_characters_are_shown() -> None:
    a = Allocator(name="n" * 500 + "\x1b", jit="off")
    assert len(repr(a)) < 120
    assert "\x1b" not in repr(a) + a._repr_html_()
