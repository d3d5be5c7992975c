"""Who must hold which lock (specification, section 7), in plain and in compiled code, and from a notebook."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from percpu_lab.allocator import Allocator
from percpu_lab.core import areamap, backing, counters, locks
from percpu_lab.core import layout as L
from percpu_lab.core.state import State
from percpu_lab.engine import Engine
from percpu_lab.errors import InvariantError, LockdepError, RequestError
from percpu_lab.geometry import Geometry
from percpu_lab.gfp import GFP_ATOMIC
from percpu_lab.kernel_functions import RULES, KernelFunctions
from percpu_lab.stats import read_stats
from percpu_lab.validate import validate_engine

MUTEX, LOCK = "pcpu_alloc_mutex", "pcpu_lock"

# Everything the core asserts: name, module, arguments (c for a chunk), what must be held, what must not.
ASSERTED = (
    ("pcpu_free_area", "areamap", ("c", 8192), {LOCK}, set()),
    ("pcpu_need_to_extend", "areamap", ("c", 0), {LOCK}, set()),
    ("pcpu_chunk_populated", "backing", ("c", 0, 0), {LOCK}, set()),
    ("pcpu_chunk_depopulated", "backing", ("c", 0, 0), {LOCK}, set()),
    ("pcpu_stats_area_alloc", "counters", ("c", 8), {LOCK}, set()),
    ("pcpu_stats_area_dealloc", "counters", ("c",), {LOCK}, set()),
    ("pcpu_extend_area_map", "areamap", ("c", 256), {MUTEX}, set()),
    ("pcpu_get_pages", "backing", (), {MUTEX}, set()),
    ("pcpu_populate_chunk", "backing", ("c", 0, 1), {MUTEX}, {LOCK}),
    ("pcpu_depopulate_chunk", "backing", ("c", 0, 1), {MUTEX}, {LOCK}),
    ("pcpu_create_chunk", "areamap", (), {MUTEX}, {LOCK}),
    ("pcpu_stats_chunk_alloc", "counters", (), set(), {LOCK}),
    ("pcpu_stats_chunk_dealloc", "counters", (), set(), {LOCK}),
    ("mutex_lock", "locks", (), set(), {LOCK}),
    ("mutex_lock", "locks", (), set(), {MUTEX}),
    ("mutex_unlock", "locks", (), {MUTEX}, set()),
    ("spin_lock", "locks", (), set(), {LOCK}),
    ("spin_unlock", "locks", (), {LOCK}, set()),
    ("pcpu_balance_workfn", "areamap", (), set(), {MUTEX}),
    ("pcpu_balance_workfn", "areamap", (), set(), {LOCK}),
)
NAMES = [f"{name}{'' if not free else ' without ' + '+'.join(free)}" for name, _, _, _, free in ASSERTED]


@pytest.fixture(autouse=True)
def _few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep arrays small: they are copied and compared again and again."""
    monkeypatch.setattr("percpu_lab.engine_arrays._RESERVE_BYTES", 0)


@pytest.fixture
def engine() -> Engine:
    engine = Engine(Geometry.simple(unit_size=32768), jit="off")
    engine.alloc(16, 8, False, False)
    engine.alloc(24560, 8, False, False)
    engine.alloc(16, 8, False, False)
    return engine


def state(engine: Engine) -> State:
    return State(*[memoryview(array) for array in engine.arrays()])


def set_locks(engine: Engine, held: set[str]) -> None:
    engine.g[L.ALLOC_MUTEX] = MUTEX in held
    engine.g[L.PCPU_LOCK] = LOCK in held


@contextmanager
def nothing_changes(engine: Engine) -> Iterator[None]:
    before = [array.copy() for array in engine.arrays()]
    log = list(engine.log)
    yield
    for array, copy in zip(engine.arrays(), before, strict=True):
        assert np.array_equal(array, copy)
    assert engine.log == log


def violations(needs: set[str], free: set[str]) -> list[set[str]]:
    """Every set of held locks that breaks a rule."""
    sets: list[set[str]] = [set(), {MUTEX}, {LOCK}, {MUTEX, LOCK}]
    return [held for held in sets if not needs <= held or held & free]


# --- what the core asserts --------------------------------------------------------------


@pytest.mark.parametrize(("name", "module", "args", "needs", "free"), ASSERTED, ids=NAMES)
def test_plain_function_objects_to_wrong_locks_and_changes_nothing(
    engine: Engine, name: str, module: str, args: tuple[Any, ...], needs: set[str], free: set[str]
) -> None:
    function = getattr({"areamap": areamap, "backing": backing, "counters": counters, "locks": locks}[module], name)
    values = [engine.handle(0) if arg == "c" else arg for arg in args]
    for held in violations(needs, free):
        set_locks(engine, held)
        with nothing_changes(engine), pytest.raises(LockdepError, match=r"pcpu_lock|pcpu_alloc_mutex"):
            function(state(engine), *values)
    set_locks(engine, needs)
    function(state(engine), *values)


@pytest.fixture(scope="module")
def probe() -> Callable[..., Any]:
    """Compiled: run one of ASSERTED by its number. Functions of the core have no way in from Python of their own."""
    numba = pytest.importorskip("numba")
    importlib.import_module("percpu_lab.core_compiled.areamap")
    lines = ["def probe(which, g, chunk, map_, birth, ring, order, c):"]
    lines += ["    s = State(g, chunk, map_, birth, ring, order)"]
    scope: dict[str, Any] = {"State": State}
    for number, (name, module, args, _, _) in enumerate(ASSERTED):
        scope[name] = getattr(importlib.import_module(f"percpu_lab.core_compiled.{module}"), name)
        lines += [f"    if which == {number}:", f"        {name}({', '.join(map(str, ('s', *args)))})"]
    exec("\n".join(lines), scope)
    return numba.njit(scope["probe"], error_model="numpy")


@pytest.mark.parametrize("number", range(len(ASSERTED)), ids=NAMES)
def test_compiled_function_objects_to_wrong_locks_and_changes_nothing(
    engine: Engine, probe: Callable[..., Any], number: int
) -> None:
    _, _, _, needs, free = ASSERTED[number]
    for held in violations(needs, free):
        set_locks(engine, held)
        with nothing_changes(engine), pytest.raises(LockdepError, match=r"pcpu_lock|pcpu_alloc_mutex"):
            probe(number, *engine.arrays(), engine.handle(0))
    set_locks(engine, needs)
    probe(number, *engine.arrays(), engine.handle(0))


@pytest.mark.parametrize("jit", ["off", "wait"])
@pytest.mark.parametrize(
    ("held", "action"),
    [
        (LOCK, lambda e: e.alloc(8, 8, False, False)),
        (LOCK, lambda e: e.alloc(8, 8, False, True)),
        (MUTEX, lambda e: e.alloc(8, 8, False, False)),
        (LOCK, lambda e: e.free(8192)),
        (LOCK, lambda e: e.balance()),
        (MUTEX, lambda e: e.balance()),
    ],
)
def test_entry_point_that_finds_its_lock_held_would_hang_a_kernel(
    engine: Engine, jit: str, held: str, action: Callable[[Engine], object]
) -> None:
    if jit == "wait":
        pytest.importorskip("numba")
        engine._policy = "wait"
        engine._change_over()
    engine.g[L.BALANCE_PENDING] = 1
    counters_before, now = read_stats(engine).global_stats, engine.now
    set_locks(engine, {held})
    with pytest.raises(LockdepError, match=held):
        action(engine)
    set_locks(engine, set())
    assert (read_stats(engine).global_stats, engine.now) == (counters_before, now)
    validate_engine(engine)
    assert engine.alloc(8, 8, False, False)


def test_interrupt_context_may_allocate_and_free_while_the_mutex_is_held(engine: Engine) -> None:
    engine.balance()
    set_locks(engine, {MUTEX})
    ptr = engine.alloc(8, 8, False, True)
    assert ptr
    engine.free(ptr)


# --- from a notebook -------------------------------------------------------------------


@pytest.fixture
def a() -> Allocator:
    a = Allocator(Geometry.simple(unit_size=32768, reserved_size=4096), jit="off")
    for size in (16, 4000, 64):
        a.alloc_percpu(size)
    return a


@pytest.mark.parametrize("name", sorted(RULES))
def test_every_rule_of_the_table_is_kept_up(a: Allocator, name: str) -> None:
    kernel, rule = a.kernel_functions, RULES[name]
    args = {"c": a.chunks[1], "off": 12288, "size": 8, "align": 8, "old_slot": 12, "length": 256}
    names = getattr(kernel, name).__wrapped__.__code__.co_varnames[
        1 : getattr(kernel, name).__wrapped__.__code__.co_argcount
    ]
    values = [args.get(word, 0) for word in names]
    needs = {lock for lock in (MUTEX, LOCK) if getattr(rule, lock)}
    free = {lock for lock in (MUTEX, LOCK) if getattr(rule, lock) is False}
    assert needs | free
    for held in violations(needs, free):
        with nothing_changes(a.engine), pytest.raises(LockdepError, match=f"^{name}: ") as caught:
            call_under(kernel, held, name, values)
        assert ("the kernel does not check" in str(caught.value)) != rule.asserted


def call_under(kernel: KernelFunctions, held: set[str], name: str, values: list[Any]) -> Any:
    if MUTEX in held:
        with kernel.holding(MUTEX):
            return call_under(kernel, held - {MUTEX}, name, values)
    if LOCK in held:
        with kernel.holding(LOCK):
            return getattr(kernel, name)(*values)
    return getattr(kernel, name)(*values)


def test_area_is_allocated_and_freed_by_hand(a: Allocator) -> None:
    kernel, chunk = a.kernel_functions, a.chunks[1]
    with kernel.holding(LOCK):
        off, occ_pages = kernel.pcpu_alloc_area(chunk, 4096, 4096, 0)
        kernel.pcpu_stats_area_alloc(chunk, 4096)
        kernel.pcpu_update_empty_pages(chunk, -occ_pages)
    assert (off, occ_pages, a.stats().global_stats.nr_cur_alloc) == (16384, 1, 4)
    with kernel.holding(LOCK):
        kernel.pcpu_update_empty_pages(chunk, kernel.pcpu_free_area(chunk, off))
    assert a.stats().global_stats.nr_cur_alloc == 3
    validate_engine(a.engine)


def test_chunk_is_created_and_put_on_its_list_by_hand(a: Allocator) -> None:
    kernel = a.kernel_functions
    with kernel.holding(MUTEX):
        c = kernel.pcpu_create_chunk()
        with kernel.holding(LOCK):
            kernel.pcpu_chunk_relocate(c, -1)
    assert [chunk.ordinal for chunk in a.chunks] == [-1, 0, 1]
    validate_engine(a.engine)


@pytest.mark.parametrize(
    "block",
    [
        lambda kernel, chunk: kernel.pcpu_create_chunk(),
        lambda kernel, chunk: kernel.pcpu_destroy_chunk(chunk),
        lambda kernel, chunk: kernel.pcpu_extend_area_map(chunk, 200),
    ],
)
def test_block_that_leaves_something_half_done_is_undone(a: Allocator, block: Callable[..., object]) -> None:
    def half_a_job() -> None:
        with a.kernel_functions.holding(MUTEX):
            block(a.kernel_functions, a.chunks[1])

    with nothing_changes(a.engine), pytest.raises(InvariantError, match="all was undone"):
        half_a_job()
    assert a.alloc_percpu(8)


def test_a_number_of_an_entry_that_there_is_not_is_refused(a: Allocator) -> None:
    kernel, chunk = a.kernel_functions, a.chunks[1]
    with (
        nothing_changes(a.engine),
        pytest.raises(RequestError, match=r"pcpu_count_occupied_pages: a number of .* none"),
        kernel.holding(LOCK),
    ):
        kernel.pcpu_count_occupied_pages(chunk, 10**9)


def test_block_that_raises_is_undone(a: Allocator) -> None:
    def failing() -> None:
        with a.kernel_functions.holding(LOCK):
            a.kernel_functions.pcpu_free_area(a.chunks[1], 12288)
            raise KeyboardInterrupt

    with nothing_changes(a.engine), pytest.raises(KeyboardInterrupt):
        failing()
    a.free_percpu(12288)


def test_undoing_survives_arrays_that_grew_in_the_block() -> None:
    a = Allocator(Geometry.simple(unit_size=32768), jit="off")

    def make_many() -> None:
        with a.kernel_functions.holding(MUTEX):
            for _ in range(40):
                a.kernel_functions.pcpu_create_chunk()

    with pytest.raises(InvariantError):
        make_many()
    assert len(a.chunks) == 1
    validate_engine(a.engine)
    assert all(a.alloc_percpu(32768) for _ in range(40))


@pytest.mark.parametrize(
    ("order", "complaint"),
    [
        ((LOCK, MUTEX), "pcpu_alloc_mutex taken under pcpu_lock"),
        ((LOCK, LOCK), "pcpu_lock taken twice"),
        ((MUTEX, MUTEX), "pcpu_alloc_mutex taken twice"),
    ],
)
def test_locks_are_taken_in_order_and_once(a: Allocator, order: tuple[str, str], complaint: str) -> None:
    def take() -> None:
        with a.kernel_functions.holding(order[0]), a.kernel_functions.holding(order[1]):
            pass

    with nothing_changes(a.engine), pytest.raises(LockdepError, match=complaint):
        take()


def test_requests_in_a_block_deadlock_as_in_a_kernel(a: Allocator) -> None:
    def sleep_under_spinlock() -> None:
        with a.kernel_functions.holding(LOCK):
            a.alloc_percpu(8)

    with pytest.raises(LockdepError, match="sleeping function called from invalid context"):
        sleep_under_spinlock()
    with a.kernel_functions.holding(MUTEX):
        p = a.alloc_percpu(8, gfp=GFP_ATOMIC)
    assert p.is_live


@pytest.mark.parametrize("value", [3, 0, -1, 1 << 40, 1 << 70, "chunk 1", None, 2.0])
def test_what_is_no_chunk_is_refused(a: Allocator, value: object) -> None:
    with nothing_changes(a.engine), pytest.raises(RequestError, match=r"^pcpu_chunk_slot: "):
        a.kernel_functions.pcpu_chunk_slot(value)


def test_wrong_arguments_names_and_locks_are_refused(a: Allocator) -> None:
    kernel = a.kernel_functions
    with pytest.raises(RequestError, match="it takes c, off"):
        kernel.pcpu_free_area(a.chunks[1])
    with pytest.raises(RequestError, match="size is 'x'"):
        kernel.pcpu_size_to_slot("x")
    with pytest.raises(AttributeError, match="pcpu_frob"):
        _ = kernel.pcpu_frob
    with pytest.raises(RequestError, match="no lock 'mmap_sem'"), kernel.holding("mmap_sem"):
        pass


def test_functions_are_listed_and_keep_their_description(a: Allocator) -> None:
    kernel = a.kernel_functions
    assert set(RULES) <= set(dir(kernel))
    assert "Create a chunk" in (kernel.pcpu_create_chunk.__doc__ or "")
    assert repr(kernel).endswith("functions of v4.13-areamap; held: no lock>")
    with kernel.holding(MUTEX):
        assert repr(kernel).endswith("held: pcpu_alloc_mutex>")
    assert kernel.pcpu_chunk_slot(a.chunks[1]) == a.chunks[1].slot


def test_an_area_of_the_bitmap_is_freed_under_pcpu_lock() -> None:
    a = Allocator(engine="v6.12-bitmap", jit="off")
    p, q = a.alloc_percpu(60), a.alloc_percpu(64)
    with a.kernel_functions.holding("pcpu_lock"):
        a.kernel_functions.pcpu_free_area(a.state().pcpu_first_chunk, p.off)
    assert (p.is_live, q.is_live) == (False, True)


def test_bitmap_has_functions_of_its_own() -> None:
    a = Allocator(engine="v6.12-bitmap", jit="off")
    assert a.kernel_functions.pcpu_chunk_slot(a.chunks[-1]) == a.chunks[-1].slot
    with pytest.raises(AttributeError):
        _ = a.kernel_functions.pcpu_need_to_extend
    with pytest.raises(LockdepError):
        a.kernel_functions.pcpu_free_area(a.chunks[-1], 0)


def test_percpu_stats_takes_the_lock_itself(a: Allocator) -> None:
    def read_under_lock() -> None:
        with a.kernel_functions.holding(LOCK):
            a.stats()

    with nothing_changes(a.engine), pytest.raises(LockdepError, match=r"^percpu_stats_show: pcpu_lock must not be"):
        read_under_lock()
    with a.kernel_functions.holding(MUTEX):
        assert a.stats().global_stats.nr_cur_alloc == 3
