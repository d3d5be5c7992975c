"""What the kernel's own code did, to the byte: see data/golden/README.md."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from golden_cases import BITMAP_CASES, CASES, OUTPUTS, first_difference, nr_ops, recorded

import percpu_lab.play
from percpu_lab.cases import Case
from percpu_lab.play import play

LONGEST_IN_PLAIN_PYTHON = 4_000
ALL_CASES = [*CASES, *BITMAP_CASES]
needs_numba = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba is not installed")


def case_id(case: Path) -> str:
    return f"{case.parent.name}/{case.name}"


def assert_same_outputs(case: Path, made: Path) -> None:
    for name in OUTPUTS:
        assert first_difference(recorded(case, name), (made / name).read_text(encoding="utf-8")) == "", name


def test_there_are_recorded_cases() -> None:
    assert len(CASES) > 60
    assert len(BITMAP_CASES) > 60


@pytest.mark.parametrize("case", [c for c in ALL_CASES if nr_ops(c) <= LONGEST_IN_PLAIN_PYTHON], ids=case_id)
def test_plain_python_does_what_the_kernel_did(case: Path, tmp_path: Path) -> None:
    play(Case.load(case), tmp_path, jit="off")
    assert_same_outputs(case, tmp_path)


@needs_numba
@pytest.mark.parametrize("case", ALL_CASES, ids=case_id)
def test_compiled_code_does_what_the_kernel_did(case: Path, tmp_path: Path) -> None:
    play(Case.load(case), tmp_path, jit="wait")
    assert_same_outputs(case, tmp_path)


@pytest.mark.parametrize("name", ["destroy_keep_one", "multi_chunk_frag", "rnd_short_dense", "warn_limit"])
def test_a_ring_that_holds_few_events_is_emptied_often_enough(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (case,) = (case for case in CASES if case.name == name)
    monkeypatch.setattr(percpu_lab.play, "RING_CAPACITY", 64)
    play(Case.load(case), tmp_path, jit="off")
    assert_same_outputs(case, tmp_path)


def test_events_lost_from_the_ring_are_never_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (case,) = (case for case in CASES if case.name == "destroy_keep_one")
    monkeypatch.setattr(percpu_lab.play, "RING_CAPACITY", 2)
    with pytest.raises(RuntimeError, match="events were lost"):
        play(Case.load(case), tmp_path, jit="off")


def test_playing_twice_over_older_output_gives_the_same_files(tmp_path: Path) -> None:
    for name in OUTPUTS:
        (tmp_path / name).write_text("left over from before\n" * 10_000)
    case = next(case for case in CASES if case.name == "coalesce")
    play(Case.load(case), tmp_path, jit="off")
    assert_same_outputs(case, tmp_path)


def test_every_chunk_field_of_a_state_is_compared() -> None:
    case = next(case for case in CASES if case.name == "reserved_basic")
    state = json.loads(recorded(case, "state.jsonl").splitlines()[0])
    assert len(state["chunks"][0]) == len(state["reserved_chunk"]) == 16
