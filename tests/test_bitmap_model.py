"""The bitmap engine decides as a naive model does that follows the specification step by step (naive_bitmap.py)."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from golden_cases import BITMAP_CASES, first_difference, nr_ops, recorded
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_bitmap import NaiveBitmap

from percpu_lab import compiled
from percpu_lab.engine import Engine
from percpu_lab.geometry import AllocInfo, Geometry, GroupInfo
from percpu_lab.kernels import V6_12
from percpu_lab.ops import Ops
from percpu_lab.play import state_document
from percpu_lab.validate_bitmap import validate_bitmap_engine

LONGEST = 150
needs_numba = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba is not installed")


def run_model(model: NaiveBitmap, lines: list[str]) -> list[str]:
    """Do what a script says -> a state for each `state` op."""
    ptrs: dict[str, int] = {}
    states = []
    for line in lines:
        match line.split():
            case ["alloc", name, *numbers]:
                size, align, reserved, atomic = map(int, numbers)
                ptrs[name] = model.alloc(size, align, bool(reserved), bool(atomic))
            case ["free", name]:
                model.free(ptrs.pop(name, 0))
            case ["balance"]:
                model.balance()
            case ["fault", kind, count, *skip]:
                model.fault(kind, int(count), *map(int, skip))
            case [what]:
                states += [json.dumps(model.document(), separators=(",", ":"))] if what == "state" else []
                model.op += 1
    return states


@pytest.mark.parametrize("case", [c for c in BITMAP_CASES if nr_ops(c) <= LONGEST], ids=lambda case: case.name)
def test_the_model_does_what_the_kernel_did(case: Path) -> None:
    model = NaiveBitmap(Geometry.from_case(json.loads((case / "case.json").read_text()), where=case.name))
    states = run_model(model, recorded(case, "ops.txt").splitlines())
    assert first_difference(recorded(case, "trace.txt"), "".join(f"{event}\n" for event in model.events)) == ""
    assert first_difference(recorded(case, "state.jsonl"), "".join(f"{state}\n" for state in states)) == ""
    log = [line for line in recorded(case, "printk.txt").splitlines() if not line.startswith("-1")]
    assert log == [f"{op}\t{text}" for op, text in model.log]


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    backing = draw(st.sampled_from(["vm", "vm", "vm", "km"]))
    unit_size = draw(st.sampled_from([32768, 32768, 36864, 65536]))
    static = draw(st.sampled_from([8192, 4, 5002, 8193]))
    reserved = draw(st.sampled_from([0, 0, 4096, 1000, 100]))
    room = unit_size - static - reserved
    shift = -static % 4  # the served bytes must not end just before a page does
    dyn = min(room // 4 * 4 + shift, draw(st.sampled_from([1 << 20, 20480 + shift, 23000 + shift])))
    cpus = tuple(range(draw(st.sampled_from([1, 2, 4]))))
    group = GroupInfo(len(cpus), 0, cpus)
    if dyn < 20480 or dyn > room:
        static, reserved, dyn = 8192, 0, 24576
    info = AllocInfo(static, reserved, dyn, unit_size, 4096, unit_size, (group,), cpus)
    return Geometry.from_info(info, backing=backing, kernel=V6_12)


SIZES = (
    st.integers(1, 16)
    | st.integers(1, 300)
    | st.integers(1, 8).map(lambda n: 4096 * n)
    | st.integers(1, 32768)
    | st.sampled_from([0, 32769, 24576, 4092, 4100])
)
ALIGNS = st.sampled_from([1, 4, 4, 4, 8, 8, 64, 256, 1024, 4096, 6])
KINDS = st.sampled_from(["alloc"] * 6 + ["many"] * 2 + ["free"] * 4 + ["free_some"] * 2 + ["balance"] * 2 + ["fault"])


@st.composite
def scripts(draw: st.DrawFn) -> list[str]:
    """Requests of all kinds, with a state behind each."""
    lines: list[str] = []
    live: list[int] = []
    next_id = 0
    for kind in draw(st.lists(KINDS, min_size=5, max_size=60)):
        if kind in ("alloc", "many"):
            flags = draw(st.sampled_from(["0 0", "0 0", "0 1", "1 0", "1 1"]))
            request = f"{draw(SIZES)} {draw(ALIGNS)} {flags}"
            for _ in range(1 if kind == "alloc" else draw(st.integers(2, 20))):
                lines.append(f"alloc {next_id} {request}")
                live.append(next_id)
                next_id += 1
        elif kind == "free" and live:
            lines.append(f"free {live.pop(draw(st.integers(0, len(live) - 1)))}")
        elif kind == "free_some" and live:
            step = draw(st.integers(1, 3))
            lines += [f"free {number}" for number in live[::step]]
            live = [number for k, number in enumerate(live) if k % step]
        elif kind == "fault":
            name = draw(st.sampled_from(["mem", "vm", "page", "ptmap"]))
            lines.append(f"fault {name} {draw(st.integers(0, 3))} {draw(st.integers(0, 4))}")
        elif kind == "balance":
            lines.append("balance")
        lines.append("state")
    return lines


def check(geometry: Geometry, lines: list[str], is_compiled: bool) -> None:
    model = NaiveBitmap(geometry)
    engine = Engine(geometry, jit="off")
    if is_compiled:
        module = compiled.request("bitmap", wait=True)
        assert module is not None
        engine._use(module)
    ops = Ops.from_text("".join(f"{line}\n" for line in lines))
    ids = np.zeros(max(ops.nr_ids, 1), np.int64)
    states, at = [], 0
    while (at := engine.run(ops, ids, at)) < len(ops):
        states.append(json.dumps(state_document(engine, at), separators=(",", ":")))
        validate_bitmap_engine(engine)
        engine.tick()
        at += 1
    assert first_difference("\n".join(run_model(model, lines)), "\n".join(states)) == ""
    assert first_difference("".join(f"{event}\n" for event in model.events), engine.events(0).text("golden")) == ""
    assert model.log == [line for line in engine.dmesg() if line[0] >= 0]


@settings(max_examples=15)
@given(geometries(), scripts())
def test_plain_python_decides_as_the_model(geometry: Geometry, lines: list[str]) -> None:
    check(geometry, lines, is_compiled=False)


@needs_numba
@settings(max_examples=40)
@given(geometries(), scripts())
def test_compiled_code_decides_as_the_model(geometry: Geometry, lines: list[str]) -> None:
    check(geometry, lines, is_compiled=True)
