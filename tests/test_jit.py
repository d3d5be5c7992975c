"""Plain and compiled functions: chosen by policy, changed between two ops, never different."""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import percpu_lab
from percpu_lab import compiled
from percpu_lab.core import areamap
from percpu_lab.core import layout as L
from percpu_lab.engine import Engine
from percpu_lab.errors import LabError
from percpu_lab.geometry import Geometry
from percpu_lab.ops import Ops
from percpu_lab.validate import validate_engine
from percpu_lab.workloads import WORKLOADS

needs_numba = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba is not installed")
GEOMETRY = Geometry.simple(unit_size=32768, reserved_size=4096)


@pytest.fixture
def _no_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin as a new process does: nothing compiled, nothing being compiled."""
    monkeypatch.setattr(compiled, "_jobs", {})


def mixed_ops() -> Ops:
    mix = WORKLOADS["uniform"].build(nr_ops=1200, live=150, seed=7, atomic_share=0.3, reserved_share=0.1)
    return Ops.concat([mix, Ops.from_text("fault page 2 1\nfault mem 1\n"), mix])


def run(engine: Engine, ops: Ops, modules: Iterator[ModuleType], pieces: int) -> np.ndarray:
    """Run a script in pieces, each with the functions of another module."""
    ids = np.zeros(ops.nr_ids, np.int64)
    for start in range(0, len(ops), pieces):
        engine._use(next(modules))
        engine.run(ops, ids, start, min(start + pieces, len(ops)))
    return ids


@needs_numba
def test_plain_and_compiled_functions_may_change_in_the_middle_of_a_script() -> None:
    module = compiled.request("areamap", wait=True)
    assert module is not None
    ops = mixed_ops()
    patterns = {"plain": [areamap], "compiled": [module], "both": [areamap, module], "other": [module, areamap]}
    results = {}
    for name, modules in patterns.items():
        engine = Engine(GEOMETRY, jit="off")
        ids = run(engine, ops, iter(modules * 10_000), 7)
        results[name] = [array.copy() for array in engine.arrays()] + [ids, *engine.history().values()]
        validate_engine(engine)
    for name, arrays in results.items():
        for array, wanted in zip(arrays, results["plain"], strict=True):
            assert np.array_equal(array, wanted), name


@needs_numba
def test_auto_begins_plain_and_changes_over_between_two_ops(monkeypatch: pytest.MonkeyPatch) -> None:
    module = compiled.request("areamap", wait=True)
    ready: list[ModuleType | None] = [None]
    monkeypatch.setattr(compiled, "request", lambda name, *, wait=False: ready[0])
    engine = Engine(GEOMETRY, jit="auto")
    ptr = engine.alloc(64, 8, False, False)
    assert not engine.is_compiled
    ready[0] = module
    engine.free(ptr)
    assert engine.is_compiled
    assert engine.alloc(64, 8, False, False) == ptr
    validate_engine(engine)


@needs_numba
def test_auto_changes_over_in_the_middle_of_a_script(monkeypatch: pytest.MonkeyPatch) -> None:
    module = compiled.request("areamap", wait=True)
    asked: list[str] = []

    def ready_later(name: str, *, wait: bool = False) -> ModuleType | None:
        asked.append(name)
        return module if len(asked) > 3 else None

    monkeypatch.setattr(compiled, "request", ready_later)
    engine, ops = Engine(GEOMETRY, jit="auto"), Ops.alloc(np.arange(8000), 16)
    assert engine.run(ops, np.zeros(8000, np.int64)) == 8000
    assert engine.is_compiled
    assert asked == ["areamap"] * 4
    validate_engine(engine)


@needs_numba
def test_wait_is_compiled_from_the_first_op_on() -> None:
    assert Engine(GEOMETRY, jit="wait").is_compiled


def test_off_stays_plain() -> None:
    engine = Engine(GEOMETRY, jit="off")
    engine.run(Ops.alloc(np.arange(3000), 16), np.zeros(3000, np.int64))
    assert not engine.is_compiled


@pytest.mark.usefixtures("_no_jobs")
def test_off_asks_for_nothing_to_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERCPU_LAB_JIT", "off")
    engine = Engine(GEOMETRY)
    engine.alloc(64, 8, False, False)
    assert compiled._jobs == {}


@needs_numba
@pytest.mark.parametrize(
    ("choice", "environment", "policy"),
    [
        (None, None, "auto"),
        (None, "", "auto"),
        (None, "off", "off"),
        (None, "wait", "wait"),
        ("off", "wait", "off"),
        ("auto", "off", "auto"),
    ],
)
def test_argument_wins_over_environment(
    monkeypatch: pytest.MonkeyPatch, choice: str | None, environment: str | None, policy: str
) -> None:
    if environment is None:
        monkeypatch.delenv("PERCPU_LAB_JIT", raising=False)
    else:
        monkeypatch.setenv("PERCPU_LAB_JIT", environment)
    assert compiled.policy(choice) == policy


@pytest.mark.parametrize(("choice", "environment"), [("on", "off"), (None, "1"), (None, "OFF"), (b"1", "off")])
def test_unknown_policy_is_refused(monkeypatch: pytest.MonkeyPatch, choice: object, environment: str) -> None:
    monkeypatch.setenv("PERCPU_LAB_JIT", environment)
    with pytest.raises(
        LabError, match=r"PERCPU_LAB_JIT or jit=: unknown policy b?'(on|1|OFF)'; use one of auto, off, wait"
    ):
        Engine(GEOMETRY, jit=choice)


@pytest.mark.parametrize("choice", ["auto", "wait", "off"])
def test_without_numba_every_policy_means_plain(monkeypatch: pytest.MonkeyPatch, choice: str) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "numba" else find_spec(name, *a))
    engine = Engine(GEOMETRY, jit=choice)
    assert engine.alloc(64, 8, False, False)
    assert not engine.is_compiled


@needs_numba
@pytest.mark.usefixtures("_no_jobs")
def test_compiler_that_fails_leaves_the_plain_functions_serving(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import_module = importlib.import_module

    def broken(name: str, *args: Any) -> ModuleType:
        if "core_compiled" in name:
            raise RuntimeError("no such instruction")
        return import_module(name, *args)

    monkeypatch.setattr(importlib, "import_module", broken)
    with caplog.at_level(logging.WARNING, "percpu_lab"):
        engines = [Engine(GEOMETRY, jit="wait") for _ in range(2)]
    for engine in engines:
        assert engine.alloc(64, 8, False, False)
        assert not engine.is_compiled
    assert [record.getMessage() for record in caplog.records] == [
        "the compiled core is not available; running plain Python"
    ]


# --- the cache on disk, in processes of their own ---------------------------------------------

SET_UP_ONCE = """
import importlib, json
import percpu_lab.core.layout as L
from percpu_lab.engine import Engine
from percpu_lab.geometry import Geometry
engine = Engine(Geometry.simple(unit_size=32768), jit="off")
entry = importlib.import_module("percpu_lab.core_compiled.areamap").pcpu_setup_first_chunk
entry(*engine.arrays(), 8192, 0, 24576)
print(json.dumps([int(engine.chunk[engine.handle(0) + L.SAMPLED]), sum(entry.stats.cache_hits.values())]))
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package in a folder of its own."""
    source = Path(percpu_lab.__file__).parent
    shutil.copytree(source, tmp_path / "percpu_lab", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "percpu_lab"


def set_up_once(package: Path, **environment: str) -> list[int]:
    """Run one compiled entry in a new process -> a word that backing.py writes, functions that came from the cache."""
    env = {**os.environ, "PYTHONPATH": str(package.parent), "PYTHONDONTWRITEBYTECODE": "1", **environment}
    command = [sys.executable, "-W", "error", "-c", SET_UP_ONCE]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, cwd=package.parent)
    assert done.returncode == 0, done.stderr
    result: list[int] = json.loads(done.stdout)
    return result


@needs_numba
def test_cache_is_used_until_any_file_of_the_core_changes(package: Path, tmp_path: Path) -> None:
    cache = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    assert set_up_once(package, **cache) == [-1, 0]
    assert set_up_once(package, **cache) == [-1, 1]
    backing = package / "core" / "backing.py"
    text = backing.read_text(encoding="utf-8")
    backing.write_text(text.replace("chunk[c + L.SAMPLED] = -1", "chunk[c + L.SAMPLED] = -7"), encoding="utf-8")
    assert set_up_once(package, **cache) == [-7, 0]


@needs_numba
def test_without_a_folder_for_the_cache_everything_works_uncached(package: Path, tmp_path: Path) -> None:
    for folder in (package / "core", package / "core_compiled"):
        (folder / "__pycache__").write_text("in the way")
    nowhere = str(tmp_path / "file")
    Path(nowhere).write_text("in the way")
    environment = {"NUMBA_CACHE_DIR": "", "HOME": nowhere, "XDG_CACHE_HOME": f"{nowhere}/cache"}
    assert set_up_once(package, **environment) == [-1, 0]
    assert set_up_once(package, **environment) == [-1, 0]


def test_growing_arrays_are_handed_to_whoever_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("percpu_lab.engine_arrays._RESERVE_BYTES", 0)
    engine = Engine(GEOMETRY, jit="off")
    before = len(engine.chunk)
    ids = np.zeros(60, np.int64)
    engine.run(Ops.alloc(np.arange(60), 30000), ids)
    assert len(engine.chunk) > before
    assert engine.scalar(L.NR_CHUNKS) == 61
    validate_engine(engine)
