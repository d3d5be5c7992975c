"""Playing a case: what is written, how, and what happens where the kernel itself would crash."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from percpu_lab.cases import Case
from percpu_lab.engine import Engine
from percpu_lab.errors import BadFreeError, KernelBugError
from percpu_lab.geometry import Addresses, AllocInfo, Geometry, GroupInfo
from percpu_lab.kernels import V6_12
from percpu_lab.ops import Ops
from percpu_lab.play import play, state_document

INFO = AllocInfo(8192, 0, 24576, 32768, 4096, 32768, (GroupInfo(2, 0, (0, 1)),), (0, 1))
GEOMETRY = Geometry.from_info(INFO, Addresses(0xFFFF888100000000, 0xFFFFE8F000000000, 65536))


def case(*ops: str) -> Case:
    return Case("made up", "", "v4.13-areamap", GEOMETRY, Ops.from_text("".join(f"{op}\n" for op in ops)))


def played(folder: Path, *ops: str) -> dict[str, str]:
    play(case(*ops), folder, jit="off")
    return {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}


def test_a_case_without_ops_still_boots(tmp_path: Path) -> None:
    files = played(tmp_path)
    assert files["trace.txt"] == "-1\tpercpu_create_chunk: base_addr=0xffff888100000000\n"
    assert files["printk.txt"].startswith("-1\tpcpu-alloc: s8192 r0 d24576 u32768")
    assert files["stats.txt"] == files["state.jsonl"] == ""


def test_the_output_folder_is_made(tmp_path: Path) -> None:
    assert len(played(tmp_path / "not" / "yet" / "there")) == 4


def test_line_ends_are_those_of_the_kernel_everywhere(tmp_path: Path) -> None:
    play(case("alloc 0 16 8 0 0", "stats", "state"), tmp_path, jit="off")
    assert not any(b"\r" in path.read_bytes() for path in tmp_path.iterdir())


def test_ops_that_the_host_does_count_as_ops(tmp_path: Path) -> None:
    files = played(tmp_path, "stats", "state", "stats", "alloc x 10 4 0 1")
    assert [line for line in files["stats.txt"].splitlines() if line.startswith("@")] == ["@0", "@2"]
    assert json.loads(files["state.jsonl"])["op"] == 1
    assert files["trace.txt"].splitlines()[-1].startswith("3\tpercpu_alloc_percpu: reserved=0 is_atomic=1 size=10")


def test_time_is_that_of_the_engine_and_ops_are_counted(tmp_path: Path) -> None:
    result = play(case("alloc x 16 8 0 0", "state", "free x"), tmp_path, jit="off")
    assert (result.name, result.nr_ops) == ("made up", 3)
    assert result.engine_seconds > 0


def test_state_tells_of_injected_faults(tmp_path: Path) -> None:
    files = played(tmp_path, "fault page 3 5", "fault vm 1", "state")
    assert json.loads(files["state.jsonl"])["faults"] == {"page": [3, 5], "vm": [1, 0], "mem": [0, 0], "ptmap": [0, 0]}


def test_state_leaves_the_engine_as_it_was() -> None:
    engine = Engine(GEOMETRY, jit="off")
    engine.alloc(60, 8, False, False)
    assert state_document(engine, 1) == state_document(engine, 1)
    assert engine.now == 1


def test_what_came_before_a_crash_of_the_kernel_is_written(tmp_path: Path) -> None:
    tiny = [f"alloc {name} 2 2 0 0" for name in "abcdef"]
    full = ["alloc head 64 8 0 0", *tiny, "alloc rest 24500 2 0 0", "free head", "alloc head2 64 8 0 0"]
    only_holes_of_2_bytes = ["free a", "free c"]
    with pytest.raises(KernelBugError) as caught:
        play(case(*full, *only_holes_of_2_bytes, "alloc walk 4 2 0 0"), tmp_path, jit="off")
    assert caught.value.where == "ops line 13"
    last = (tmp_path / "trace.txt").read_text().splitlines()[-1]
    assert last == "11\tpercpu_free_percpu: base_addr=0xffff888100000000 off=8260 ptr=0x2044"


def test_a_free_that_would_crash_a_kernel_is_named_by_its_line(tmp_path: Path) -> None:
    info = AllocInfo(8192, 3, 24576, 65536, 4096, 65536, (GroupInfo(2, 0, (0, 1)),), (0, 1))  # 3 bytes: no kernel's
    geometry = Geometry.from_info(info, kernel=V6_12)
    script = Ops.from_text("state\nalloc a 4096 4096 0 0\nfree a\n")
    with pytest.raises(BadFreeError) as caught:
        play(Case("odd", "", V6_12.name, geometry, script, "odd/ops.txt"), tmp_path, jit="off")
    assert caught.value.where == "odd/ops.txt line 3: free_percpu(0x2000)"
    assert (tmp_path / "state.jsonl").read_text().count("\n") == 1
