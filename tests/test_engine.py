"""What an engine promises beside the decisions of the kernel: numbers at their limits, room, history, ring."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from percpu_lab.core import layout as L
from percpu_lab.engine import Engine
from percpu_lab.errors import RequestError
from percpu_lab.geometry import Geometry
from percpu_lab.ops import Ops
from percpu_lab.play import state_document
from percpu_lab.stats import read_stats
from percpu_lab.validate import validate_engine
from percpu_lab.workloads import WORKLOADS, percpu_test

KERNEL, ATOMIC = False, True


@pytest.fixture
def engine() -> Engine:
    return Engine(Geometry.simple(unit_size=32768), jit="off")


@pytest.mark.parametrize(
    ("size", "align", "shown"),
    [
        ((1 << 64) - 1, 8, "size (0) or align (8)"),
        ((1 << 64) - 2, 8, "size (18446744073709551614) or align (8)"),
        ((1 << 63) - 1, 8, "size (9223372036854775808) or align (8)"),
        (16, 1 << 63, "size (16) or align (9223372036854775808)"),
        (16, (1 << 64) - 1, "size (16) or align (18446744073709551615)"),
        (16, (1 << 62) + 1, "size (16) or align (4611686018427387905)"),
    ],
)
def test_illegal_numbers_up_to_the_last_of_64_bits_are_refused_and_shown_as_they_are(
    engine: Engine, size: int, align: int, shown: str
) -> None:
    assert engine.alloc(size, align, False, KERNEL) == 0
    assert engine.dmesg()[-1] == (0, f"WARN: illegal {shown} for percpu allocation")


def test_a_km_chunk_has_one_address_in_events_and_state_though_its_group_begins_behind_the_base() -> None:
    plain = Geometry.simple(unit_size=32768, backing="km")
    group = replace(plain.info.groups[0], base_offset=32768)
    engine = Engine(replace(plain, info=replace(plain.info, groups=(group,))), jit="off")
    ptr = engine.alloc(32768, 8, False, KERNEL)
    events = engine.events(0)
    created = engine.chunks()[0].base_addr
    assert created == plain.addresses.area_base - 32768
    assert events.base_addr[events.event == L.EVENT_CREATE].tolist()[-1] == created
    assert events.ptr[events.event == L.EVENT_ALLOC].tolist() == [ptr]


def test_without_smp_the_first_chunk_outlives_a_balance_that_finds_it_empty_behind_another() -> None:
    engine = Engine(Geometry.up(), jit="off")
    filling = engine.alloc(32768, 8, False, KERNEL)
    second = engine.alloc(32768, 8, False, KERNEL)
    engine.free(filling)
    engine.free(second)
    assert [chunk.ordinal for chunk in engine.chunks()] == [1, 0]
    assert engine.balance()
    assert [chunk.ordinal for chunk in engine.chunks()] == [1, 0]
    assert engine.alloc(8, 8, False, KERNEL) == engine.chunks()[0].base_addr


# --- rows and tables that grow --------------------------------------------------------------


@pytest.fixture
def _few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("percpu_lab.engine_arrays._RESERVE_BYTES", 0)


@pytest.fixture(params=["off", "wait"], ids=["plain", "compiled"])
def jit(request: pytest.FixtureRequest) -> str:
    if request.param == "wait":
        pytest.importorskip("numba")
    return str(request.param)


def outcome(engine: Engine) -> tuple[str, list[object]]:
    """Everything the kernel would show."""
    state = state_document(engine, engine.now)
    return engine.events(0).text("golden"), [*state.items(), *engine.dmesg(), read_stats(engine).text()]


def churn() -> Ops:
    """Make, fill, destroy and make again more chunks than there are rows, and more areas than a map holds."""
    chunks = Ops.concat([Ops.alloc(np.arange(60), 30000), Ops.free(np.arange(60)), Ops.single("balance")])
    areas = Ops.alloc(np.arange(60, 2000), 8)
    return Ops.concat([chunks, areas, Ops.alloc(np.arange(2000, 2100), 20000)])


def test_rows_grow_without_a_trace(jit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    roomy = Engine(Geometry.simple(unit_size=32768), jit=jit)
    roomy.run(churn(), np.zeros(2100, np.int64))
    monkeypatch.setattr("percpu_lab.engine_arrays._RESERVE_BYTES", 0)
    engine = Engine(Geometry.simple(unit_size=32768), jit=jit)
    before = len(engine.chunk)
    engine.run(churn(), np.zeros(2100, np.int64))
    assert len(engine.chunk) > 2 * before
    assert outcome(engine) == outcome(roomy)
    assert {name: column.tolist() for name, column in engine.history().items()} == {
        name: column.tolist() for name, column in roomy.history().items()
    }
    validate_engine(engine)


@pytest.mark.usefixtures("_few_rows")
def test_rows_grow_between_single_requests(jit: str) -> None:
    engine = Engine(Geometry.simple(unit_size=32768), jit=jit)
    ptrs = [engine.alloc(32768, 8, False, False) for _ in range(100)]
    assert all(ptrs) and len(set(ptrs)) == 100
    for ptr in ptrs:
        assert engine.born(ptr) == ptrs.index(ptr)
        engine.free(ptr)
    engine.balance()
    validate_engine(engine)


@pytest.mark.usefixtures("_few_rows")
def test_rows_of_destroyed_chunks_are_used_again(jit: str) -> None:
    engine = Engine(Geometry.simple(unit_size=32768), jit=jit)
    rows = len(engine.chunk)
    for _ in range(200):
        for ptr in [engine.alloc(32768, 8, False, False) for _ in range(3)]:
            engine.free(ptr)
        engine.balance()
    assert len(engine.chunk) == rows
    assert engine.scalar(L.NR_ORDER) > 200
    validate_engine(engine)


@pytest.mark.usefixtures("_few_rows")
def test_order_grows_when_chunks_come_and_go(jit: str) -> None:
    engine = Engine(Geometry.simple(unit_size=32768), jit=jit)
    once = Ops.concat([Ops.alloc(np.arange(3), 32768), Ops.free(np.arange(3)), Ops.single("balance")])
    ops = Ops.concat([once] * 700)
    engine.run(ops, np.zeros(3, np.int64))
    assert engine.scalar(L.NR_ORDER) > 1024
    ptr = engine.alloc(8, 8, False, False)
    assert engine.place(ptr) == (0, 8192)
    assert engine.alloc(32768, 8, False, False) == engine.pointer(engine.chunks()[0].ordinal, 0)
    validate_engine(engine)


def test_log_takes_more_lines_than_its_table_holds(jit: str) -> None:
    engine = Engine(Geometry.simple(), jit=jit)
    engine.run(Ops.alloc(np.arange(1000), 0), np.zeros(1000, np.int64))
    for _ in range(100):
        engine.alloc(0, 8, False, False)
    log = [line for line in engine.dmesg() if line[0] >= 0]
    assert [op for op, _ in log] == list(range(1100))
    assert {text for _, text in log} == {
        "WARN: illegal size (0) or align (4) for percpu allocation",
        "WARN: illegal size (0) or align (8) for percpu allocation",
    }


def test_map_holds_as_many_areas_as_fit_a_unit(jit: str) -> None:
    engine = Engine(Geometry.simple(unit_size=32768), jit=jit)
    ids = np.zeros(12288 + 16384, np.int64)
    engine.run(Ops.alloc(np.arange(len(ids)), 2, 2), ids)
    first, second = (next(c for c in engine.chunks() if c.ordinal == k) for k in (0, 1))
    # the prefix, and areas of 2 bytes but for the last, which has absorbed 2 bytes more
    assert (first.map_used, first.free_size, second.map_used, second.free_size) == (12288, 0, 16383, 0)
    assert len(set(ids.tolist())) == len(ids)
    engine.run(Ops.free(np.arange(len(ids))), ids)
    assert {c.map_used for c in engine.chunks()} == {1, 2}
    validate_engine(engine)


# --- history -------------------------------------------------------------------------------


def test_history_has_a_row_a_chunk_from_before_the_first_op(jit: str) -> None:
    engine = Engine(Geometry.simple(unit_size=32768, reserved_size=4096), jit=jit)
    for _ in range(100):
        engine.alloc(64, 8, False, False)
    rows = engine.history()
    assert len(rows["op"]) > 4
    assert rows["op"][::2].tolist() == rows["op"][1::2].tolist()
    assert rows["op"][0] == 0 and np.all(np.diff(rows["op"][::2]) > 0)
    assert (rows["ordinal"][::2].tolist(), rows["ordinal"][1::2].tolist()) == (
        [-1] * (len(rows["op"]) // 2),
        [0] * (len(rows["op"]) // 2),
    )
    assert rows["free_bytes"].tolist()[:2] == [4096, 20480]
    assert rows["free_bytes"].tolist()[-1] == 20480 - 64 * rows["op"].tolist()[-1]
    with pytest.raises(ValueError, match="read-only"):
        rows["op"][0] = 1


def test_history_says_what_the_statistics_say(jit: str) -> None:
    engine = Engine(Geometry.simple(unit_size=32768, reserved_size=4096), jit=jit)
    ops = WORKLOADS["uniform"].build(nr_ops=3000, live=100, seed=5)
    ids, at = np.zeros(ops.nr_ids, np.int64), 0
    for stop in range(100, 3001, 100):
        at = engine.run(ops, ids, at, stop)
        engine._sample(1)
        newest = {name: column[engine.history()["op"] == engine.now] for name, column in engine.history().items()}
        chunks = read_stats(engine).chunks
        assert newest["free_bytes"].tolist() == [c.free_size for c in chunks]
        assert newest["sum_frag"].tolist() == [c.sum_frag for c in chunks]
        assert newest["max_frag"].tolist() == [c.max_frag for c in chunks]
        assert newest["nr_alloc"].tolist() == [c.nr_alloc for c in chunks]
        states = [engine.reserved_chunk(), *engine.chunks()]
        assert newest["nr_populated"].tolist() == [c.nr_populated for c in states]
        largest = [
            max([b - a for a, b in zip(c.map, c.map[1:] & ~1, strict=False) if not a & 1], default=0) for c in states
        ]
        assert newest["largest_free_bytes"].tolist() == largest


def test_history_is_thinned_when_it_is_full_and_stays_in_order(jit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("percpu_lab.engine._HISTORY_ROWS", 64)
    engine = Engine(Geometry.simple(unit_size=32768), jit=jit)
    for _ in range(3000):
        engine.free(engine.alloc(64, 8, False, False))
    ops = engine.history()["op"]
    assert engine._history.shape[1] == 64
    assert 16 <= len(ops) <= 64
    assert ops[0] == 0 and np.all(np.diff(ops) > 0)
    assert ops[-1] > 5000
    assert engine._stride >= 64


def test_history_of_a_long_run_and_of_single_calls_is_thinned_alike(jit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("percpu_lab.engine._HISTORY_ROWS", 256)
    engine = Engine(Geometry.simple(unit_size=1 << 20), jit=jit)
    ids = np.zeros(3000, np.int64)
    engine.run(percpu_test(1, nr_objects=3000, size=16, observe=False), ids)
    end = engine.now
    for _ in range(end // 4):
        engine.free(engine.alloc(64, 8, False, False))
    ops = engine.history()["op"]
    before, behind = np.count_nonzero(ops < end) / end, np.count_nonzero(ops >= end) / (engine.now - end)
    assert before > 0.2 * behind
    assert np.diff(ops).max() < engine.now / 10


def test_history_grows_where_one_sample_alone_fills_it(jit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("percpu_lab.engine._HISTORY_ROWS", 8)
    engine = Engine(Geometry.simple(unit_size=32768), jit=jit)
    for _ in range(40):
        engine.alloc(32768, 8, False, False)
    rows = engine.history()
    assert engine._history.shape[1] >= 64
    assert rows["op"].tolist() == sorted(rows["op"].tolist())
    last = rows["ordinal"][rows["op"] == rows["op"][-1]]
    assert sorted(last.tolist()) == list(range(len(last)))


def test_long_script_leaves_many_samples_and_short_work(jit: str) -> None:
    engine = Engine(Geometry.simple(unit_size=32768), jit=jit)
    engine.run(percpu_test(1, nr_objects=6000, size=16, observe=False), np.zeros(6000, np.int64))
    assert len(np.unique(engine.history()["op"])) > 128


def test_without_history_nothing_is_sampled(jit: str) -> None:
    engine = Engine(Geometry.simple(), history=False, jit=jit)
    engine.run(churn(), np.zeros(2100, np.int64))
    assert engine.history()["op"].tolist() == []


# --- ring, reading, time ----------------------------------------------------------------------


def test_ring_keeps_the_newest_and_counts_what_it_lost(jit: str) -> None:
    small = Engine(Geometry.simple(unit_size=32768), ring_capacity=100, jit=jit)
    large = Engine(Geometry.simple(unit_size=32768), jit=jit)
    ops = percpu_test(2, nr_objects=300, size=100, observe=False)
    for engine in (small, large):
        engine.run(ops, np.zeros(ops.nr_ids, np.int64))
    everything = large.events(0)
    kept = small.events(0)
    assert (len(kept), kept.lost, kept.first_seq) == (128, len(everything) - 128, len(everything) - 128)
    assert kept.text() == large.events(kept.first_seq).text()
    assert len(small.events(len(everything))) == 0
    assert (small.events(kept.first_seq + 5).lost, len(small.events(kept.first_seq + 5))) == (0, 123)
    assert small.events(0, limit=3).seq.tolist() == list(range(kept.first_seq, kept.first_seq + 3))


@pytest.mark.parametrize(("asked", "capacity"), [(0, 2), (1, 2), (2, 2), (3, 4), (1000, 1024)])
def test_ring_has_a_power_of_two_of_places(asked: int, capacity: int) -> None:
    assert Engine(Geometry.simple(), ring_capacity=asked, jit="off").scalar(L.RING_CAPACITY) == capacity


def test_same_requests_give_the_same_arrays(jit: str) -> None:
    ops = WORKLOADS["generational"].build(nr_ops=2000, live=300, seed=9)
    engines = [Engine(Geometry.simple(unit_size=32768), jit=jit) for _ in range(2)]
    for engine in engines:
        engine.run(ops, np.zeros(ops.nr_ids, np.int64))
    for array, other in zip(engines[0].arrays(), engines[1].arrays(), strict=True):
        assert np.array_equal(array, other)


def test_reading_changes_nothing(engine: Engine) -> None:
    ptr = engine.alloc(64, 8, False, False)
    before = [array.copy() for array in engine.arrays()]
    outcome(engine)
    engine.history()
    assert (engine.born(ptr), engine.place(ptr), engine.handle(7), repr(engine)) == (
        0,
        (0, 8192),
        0,
        "<Engine v4.13-areamap: 1 ops, 1 chunks>",
    )
    for array, copy in zip(engine.arrays(), before, strict=True):
        assert np.array_equal(array, copy)


def test_op_that_does_nothing_takes_time(engine: Engine) -> None:
    engine.tick()
    engine.free(0)
    engine.set_fault("vm", 0)
    assert not engine.balance()
    assert engine.now == 4
    assert len(engine.events(0)) == 1


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (("disk", 1), "unknown kind of fault 'disk'"),
        (("mem", -1), "fault mem, count: -1 is no number of calls"),
        (("mem", 1, -1), "fault mem, skip: -1"),
        (("mem", "2"), "fault mem, count: '2'"),
        (("mem", 1 << 63), "fault mem, count: 9223372036854775808"),
        (("mem", 1, None), "fault mem, skip: None"),
    ],
)
def test_fault_that_is_none_is_refused(engine: Engine, args: tuple[Any, ...], complaint: str) -> None:
    with pytest.raises(RequestError, match=complaint):
        engine.set_fault(*args)
    assert engine.now == 0


def test_later_fault_replaces_the_earlier_one(engine: Engine) -> None:
    engine.set_fault("vm", 5, 3)
    engine.set_fault("vm", np.int64(1))
    engine.alloc(24576, 8, False, False)
    assert [bool(engine.alloc(8, 8, False, False)) for _ in range(2)] == [False, True]


def test_visitor_is_received_once_by_the_thread_that_works(jit: str) -> None:
    engine = Engine(Geometry.simple(), jit=jit)
    seen: list[tuple[int, int]] = []

    def visitor() -> None:
        seen.append((engine.now, threading.get_ident()))

    here, script = threading.get_ident(), Ops.alloc(np.arange(5), 8)
    engine.visit(visitor)
    assert seen == []
    ptr = engine.alloc(8, 8, False, False)
    assert seen == [(1, here)]
    engine.free(ptr)
    assert seen == [(1, here)]
    engine.visit(visitor)
    engine.run(script, np.zeros(5, np.int64))
    assert seen[1:] == [(2, here)]


def test_interrupt_waits_for_the_visitor(jit: str) -> None:
    engine = Engine(Geometry.simple(), jit=jit)
    steps: list[str] = []

    def visitor() -> None:
        signal.raise_signal(signal.SIGINT)
        steps.append("done")

    engine.visit(visitor)
    with pytest.raises(KeyboardInterrupt):
        engine.alloc(8, 8, False, False)
    assert (steps, engine.now) == (["done"], 1)
    validate_engine(engine)


def test_readers_in_other_threads_find_whole_states() -> None:
    engine = Engine(Geometry.simple(unit_size=32768), jit="off", ring_capacity=64)
    ops = WORKLOADS["uniform"].build(nr_ops=2500, live=60, seed=2)
    failures: list[BaseException] = []
    done = threading.Event()

    def read() -> None:
        try:
            while not done.is_set():
                validate_engine(engine)
        except BaseException as error:
            failures.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    ids = np.zeros(ops.nr_ids, np.int64)
    for start in range(0, len(ops), 50):
        engine.run(ops, ids, start, start + 50)
    done.set()
    reader.join()
    assert not failures


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_large_units_cost_the_memory_that_is_written_to() -> None:
    code = (
        "import numpy as np; from percpu_lab import Geometry, Ops; from percpu_lab.engine import Engine\n"
        "engine = Engine(Geometry.simple(unit_size=1 << 21), jit='off')\n"
        "engine.run(Ops.alloc(np.arange(64 * 70), 32768), np.zeros(64 * 70, np.int64))\n"
        "print(len(engine.chunks()), open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    nr_chunks, peak_kib = map(int, done.stdout.split())
    assert nr_chunks == 71
    assert peak_kib < 512 << 10  # in pages of 2 MiB it would be twice as much
