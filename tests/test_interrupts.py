"""Ctrl-C, or the stop button: whatever it hits, an allocator stays whole and goes on."""

from __future__ import annotations

import importlib.util
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

import percpu_lab
from percpu_lab.allocator import Allocator
from percpu_lab.core import layout as L
from percpu_lab.engine import Engine
from percpu_lab.geometry import Geometry
from percpu_lab.interrupts import deferred_interrupt
from percpu_lab.ops import Ops
from percpu_lab.validate import validate_engine
from percpu_lab.workloads import percpu_test

HAS_NUMBA = importlib.util.find_spec("numba") is not None
PACKAGE = str(Path(percpu_lab.__file__).parent)


@pytest.fixture(params=["off", pytest.param("wait", marks=pytest.mark.skipif(not HAS_NUMBA, reason="needs numba"))])
def jit(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def _default_handler() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class InterruptAt:
    """Sends SIGINT at the n-th place of a block where Python looks for signals: calls, and returns from C."""

    def __init__(self, n: int) -> None:
        self.left = n

    def __enter__(self) -> InterruptAt:
        sys.setprofile(self._profile)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)

    def _profile(self, frame: FrameType, event: str, _argument: Any) -> None:
        if event in ("call", "c_return") and frame.f_code.co_filename.startswith(PACKAGE):
            self.left -= 1
            if self.left == 0:
                sys.setprofile(None)
                signal.raise_signal(signal.SIGINT)


def assert_whole(engine: Engine) -> None:
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    free: list[bool] = []
    other = threading.Thread(target=lambda: free.append(engine.lock.acquire(blocking=False)))
    other.start()
    other.join()
    assert free == [True], "the lock is still held"
    engine.lock = threading.RLock()  # the thread took it with it
    engine._use(engine._functions)
    validate_engine(engine)


def interrupt_everywhere(make: Callable[[], tuple[Engine, Callable[[], object]]], step: int = 1) -> int:
    """Interrupt an action at each place in turn -> number of places; each time the allocator is whole and usable."""
    places = 0
    while True:
        places += step
        engine, action = make()
        try:
            with InterruptAt(places) as interrupt:
                action()
        except KeyboardInterrupt:
            pass
        else:
            assert interrupt.left > 0, "an interrupt was swallowed"
            return places
        assert_whole(engine)
        assert engine.alloc(16, 8, False, False)
        validate_engine(engine)


def small_engine(jit: str) -> Engine:
    return Engine(Geometry.simple(unit_size=32768), jit=jit, ring_capacity=16)


def test_interrupt_anywhere_in_an_allocation(jit: str) -> None:
    def make() -> tuple[Engine, Callable[[], object]]:
        engine = small_engine(jit)
        engine.alloc(24576, 8, False, False)
        return engine, lambda: engine.alloc(100, 64, False, False)

    assert interrupt_everywhere(make) > 3


def test_interrupt_anywhere_in_a_free(jit: str) -> None:
    def make() -> tuple[Engine, Callable[[], object]]:
        engine = small_engine(jit)
        ptrs = [engine.alloc(16, 8, False, False) for _ in range(3)]
        return engine, lambda: engine.free(ptrs[1])

    assert interrupt_everywhere(make) > 3


def test_interrupt_anywhere_in_the_balance_work(jit: str) -> None:
    def make() -> tuple[Engine, Callable[[], object]]:
        engine = small_engine(jit)
        for ptr in [engine.alloc(size, 8, False, False) for size in (24576, 32768, 32768, 32768)][1:]:
            engine.free(ptr)
        return engine, engine.balance

    assert interrupt_everywhere(make) > 3


def test_interrupt_anywhere_in_a_script(jit: str) -> None:
    ops = percpu_test(2, nr_objects=12, size=4000, observe=False)

    def make() -> tuple[Engine, Callable[[], object]]:
        engine = small_engine(jit)
        return engine, lambda: engine.run(ops, np.zeros(ops.nr_ids, np.int64))

    assert interrupt_everywhere(make, step=7) > 3


@pytest.mark.parametrize("action", [lambda e: e.set_fault("mem", 1), lambda e: e.tick(), lambda e: e.dmesg()])
def test_interrupt_anywhere_in_the_small_calls(jit: str, action: Callable[[Engine], object]) -> None:
    def make() -> tuple[Engine, Callable[[], object]]:
        engine = small_engine(jit)
        engine.alloc(0, 8, False, False)
        return engine, lambda: action(engine)

    interrupt_everywhere(make)


def test_interrupt_anywhere_while_arrays_grow(jit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("percpu_lab.engine_arrays._RESERVE_BYTES", 0)

    def make() -> tuple[Engine, Callable[[], object]]:
        engine = small_engine(jit)
        while engine.scalar(L.NR_FREE_ROWS) >= L.SPARE_ROWS:
            engine.alloc(32768, 8, False, False)
        return engine, lambda: engine.alloc(32768, 8, False, False)

    assert interrupt_everywhere(make, step=3) > 10


def test_interrupt_anywhere_leaves_no_memory_unzeroed(jit: str) -> None:
    n = 0
    while True:
        n += 1
        a = Allocator(Geometry.simple(unit_size=32768), jit=jit)
        p = a.alloc_percpu(64)
        a.this_cpu_ptr(p).view()[:] = 7
        a.free_percpu(p)
        try:
            with InterruptAt(n):
                a.alloc_percpu(64)
        except KeyboardInterrupt:
            assert_whole(a.engine)
            q = a.alloc_percpu(64)
            assert not a.this_cpu_ptr(q).view().any()
            for value in range(8192, 8192 + 128, 64):
                born = a.engine.born(value)
                if born >= 0:
                    assert not a.memory.units[0][:, value : value + 64].any()
        else:
            break
    assert n > 5


def test_interrupt_of_a_running_script_can_be_gone_on_from() -> None:
    ops, engine = percpu_test(1, nr_objects=500, size=64, observe=False), small_engine("off")
    ids = np.zeros(ops.nr_ids, np.int64)
    for n in (1000, 5000, 20000):
        try:
            with InterruptAt(n):
                engine.run(ops, ids, engine.now)
        except KeyboardInterrupt:
            assert_whole(engine)
    engine.run(ops, ids, engine.now)
    undisturbed = small_engine("off")
    undisturbed.run(ops, np.zeros(ops.nr_ids, np.int64))
    assert engine.events(0).text() == undisturbed.events(0).text()
    assert np.array_equal(engine.map, undisturbed.map)


@pytest.mark.skipif(not HAS_NUMBA, reason="needs numba")
def test_interrupt_during_a_compiled_run_stops_it_between_two_slices() -> None:
    ops, engine = percpu_test(1, nr_objects=200_000, size=16, observe=False), small_engine("wait")
    ids = np.zeros(ops.nr_ids, np.int64)
    main = threading.main_thread().ident
    assert main is not None

    def interrupt_when_it_runs() -> None:
        while engine.now == 0:
            pass
        signal.pthread_kill(main, signal.SIGINT)

    sender = threading.Thread(target=interrupt_when_it_runs)
    sender.start()

    def run_until_interrupted() -> None:
        engine.run(ops, ids)
        while True:  # the run was over before the signal came
            pass

    with pytest.raises(KeyboardInterrupt):
        run_until_interrupted()
    sender.join()
    assert_whole(engine)
    engine.run(ops, ids, engine.now)
    assert engine.scalar(L.NR_CUR_ALLOC) == 0


# --- deferred_interrupt itself --------------------------------------------------------


def interrupted_block(done: list[str]) -> None:
    with deferred_interrupt():
        with deferred_interrupt():
            signal.raise_signal(signal.SIGINT)
            done.append("inner")
        done.append("outer")


def interrupted_block_that_fails() -> None:
    with deferred_interrupt():
        signal.raise_signal(signal.SIGINT)
        raise ValueError("mine")


def test_interrupt_comes_at_the_end_of_the_outermost_block() -> None:
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        interrupted_block(done)
    assert done == ["inner", "outer"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_error_of_the_block_is_not_lost_to_the_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt) as caught:
        interrupted_block_that_fails()
    assert isinstance(caught.value.__context__, ValueError)


def test_ignored_interrupts_stay_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with deferred_interrupt():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_other_threads_are_left_alone() -> None:
    seen: list[object] = []

    def work() -> None:
        with deferred_interrupt():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]


def test_ops_of_two_threads_do_not_mix_up_the_handler() -> None:
    engine = small_engine("off")
    ops = Ops.concat([Ops.alloc(np.arange(200), 16), Ops.free(np.arange(200))])
    runs = [threading.Thread(target=lambda: engine.run(ops, np.zeros(200, np.int64))) for _ in range(3)]
    for thread in runs:
        thread.start()
    engine.run(ops, np.zeros(200, np.int64))
    for thread in runs:
        thread.join()
    assert engine.now == 4 * len(ops)
    assert_whole(engine)
