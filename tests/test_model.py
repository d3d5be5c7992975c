"""The engine decides as a naive model does that was written from the specification alone (naive_model.py)."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from golden_cases import CASES, first_difference, nr_ops, recorded
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from naive_model import NaiveAllocator
from twin import Twin, make_geometry

from percpu_lab.core import layout as L
from percpu_lab.errors import KernelBugError
from percpu_lab.geometry import Geometry
from percpu_lab.validate import validate_engine

needs_numba = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba is not installed")

# --- the model itself ------------------------------------------------------------


@pytest.mark.parametrize("case", [c for c in CASES if nr_ops(c) <= 700], ids=lambda case: case.name)
def test_the_model_does_what_the_kernel_did(case: Path) -> None:
    model = NaiveAllocator(Geometry.from_case(json.loads((case / "case.json").read_text()), where=case.name))
    ptrs: dict[str, int] = {}
    states, stats = [], ""
    for line in recorded(case, "ops.txt").splitlines():
        match line.split():
            case ["alloc", name, *numbers]:
                size, align, reserved, atomic = map(int, numbers)
                ptrs[name] = model.alloc(size, align, bool(reserved), bool(atomic))
            case ["free", name]:
                model.free(ptrs.pop(name, 0))
            case ["balance"]:
                model.balance()
            case ["fault", kind, count, *skip]:
                model.fault(kind, int(count), int(*skip))
            case ["state"]:
                states.append(json.dumps(model.document(), separators=(",", ":")))
                model.op += 1
            case ["stats"]:
                stats += f"@{model.op}\n{model.stats_file()}"
                model.op += 1
    assert first_difference(recorded(case, "trace.txt"), "".join(f"{event}\n" for event in model.events)) == ""
    assert first_difference(recorded(case, "state.jsonl"), "".join(f"{state}\n" for state in states)) == ""
    assert first_difference(recorded(case, "stats.txt"), stats) == ""
    assert first_difference(recorded(case, "printk.txt"), "".join(f"{op}\t{text}\n" for op, text in model.log)) == ""


# --- the engine against the model -------------------------------------------------

CPUS = st.sampled_from([1, 2, 3, 4, 8, 64])
UNITS = st.sampled_from([32768, 32768, 32768, 36864, 40960, 65536, 262144, 1 << 21])


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    """Layouts as a kernel may have them, and some that only its checks allow."""
    backing = draw(st.sampled_from(["vm", "vm", "vm", "km", "up"]))
    if backing == "up":
        return Geometry.up()
    unit_size = draw(UNITS)
    static_size = draw(st.sampled_from([8192, 8192, 12288, 4, 5002, 5003]))
    reserved_size = draw(st.sampled_from([0, 0, 0, 4096, 8192, 3000, 1001]))
    room = unit_size - static_size - reserved_size
    dyn_size = min(room, draw(st.sampled_from([room, 12288, 12289, 20000])))
    cpus: list[int | None] = [*range(draw(CPUS))]
    groups = [[*cpus, *draw(st.sampled_from([[], [], [None]]))]]
    if backing == "vm" and len(cpus) > 1 and draw(st.booleans()):
        groups = [cpus[: len(cpus) // 2], [None, *cpus[len(cpus) // 2 :]]]
    gap_bytes = draw(st.sampled_from([0, 2 * unit_size]))
    return make_geometry(unit_size, static_size, reserved_size, dyn_size, groups, backing=backing, gap_bytes=gap_bytes)


PAGES = st.integers(1, 8).map(lambda n: 4096 * n)
SIZES = st.one_of(
    st.integers(1, 12),
    st.integers(1, 300),
    PAGES,
    PAGES.map(lambda size: size - 2),
    st.integers(1, 32768),
    st.sampled_from([24576, 32766, 32767, 0, 32769, (1 << 63) + 1, (1 << 64) - 1]),
)
ALIGNS = st.one_of(
    st.sampled_from([0, 1, 2, 4, 8, 8, 8, 64, 256, 4096]), st.sampled_from([3, 8192, 1 << 63, (1 << 64) - 1])
)
ATOMIC = st.sampled_from([False, False, True])
RESERVED = st.sampled_from([False, False, False, True])
ANY = st.integers(0, 1 << 16)


class Twins(RuleBasedStateMachine):
    """Requests of all kinds to both; after each rule everything there is to see is the same."""

    is_compiled = False

    def __init__(self) -> None:
        super().__init__()
        self.twin: Twin | None = None
        self.live: list[int] = []

    @initialize(geometry=geometries(), auto_balance=st.sampled_from([False, False, True]))
    def boot(self, geometry: Geometry, auto_balance: bool) -> None:
        self.twin = Twin(geometry, auto_balance=auto_balance, is_compiled=self.is_compiled)

    @rule(size=SIZES, align=ALIGNS, reserved=RESERVED, atomic=ATOMIC)
    def alloc(self, **request: Any) -> None:
        try:
            self.live += filter(None, [self.twin.alloc(request.pop("size"), request.pop("align"), **request)])
        except KernelBugError:
            validate_engine(self.twin.engine)

    @rule(count=st.integers(2, 60), size=st.integers(1, 9000), align=st.sampled_from([2, 4, 64]), atomic=ATOMIC)
    def alloc_many(self, **request: Any) -> None:
        self.live += self.twin.alloc_many(**request)

    @precondition(lambda self: self.live)
    @rule(which=ANY)
    def free(self, which: int) -> None:
        self.twin.free(self.live.pop(which % len(self.live)))

    @precondition(lambda self: len(self.live) > 4)
    @rule(step=st.integers(1, 4), newest_first=st.booleans())
    def free_every(self, step: int, newest_first: bool) -> None:
        freed = self.live[::step]
        self.live = [ptr for k, ptr in enumerate(self.live) if k % step]
        for ptr in reversed(freed) if newest_first else freed:
            self.twin.free(ptr)

    @rule()
    def free_null(self) -> None:
        self.twin.free(0)

    @rule()
    def balance(self) -> None:
        self.twin.balance()

    @rule(kind=st.sampled_from(L.FAULT_KINDS), count=st.integers(0, 3), skip=st.sampled_from([0, 0, 1, 2, 9]))
    def fault(self, kind: str, count: int, skip: int) -> None:
        self.twin.fault(kind, count, skip)

    @invariant()
    def same(self) -> None:
        if self.twin is not None:
            self.twin.compare()


class CompiledTwins(Twins):
    is_compiled = True


# To explain a failure Hypothesis runs it many times more under a tracer, which takes minutes.
PHASES = [phase for phase in Phase if phase is not Phase.explain]


def test_plain_engine_decides_as_the_model() -> None:
    run_state_machine_as_test(Twins, settings=settings(stateful_step_count=40, phases=PHASES))


@needs_numba
def test_compiled_engine_decides_as_the_model() -> None:
    run_state_machine_as_test(CompiledTwins, settings=settings(stateful_step_count=40, phases=PHASES))
