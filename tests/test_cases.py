"""Loading a case folder: what is read, and that every kind of damage is one clear error."""

from __future__ import annotations

import errno
import gzip
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from golden_cases import AREAMAP, CASES, nr_ops
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import percpu_lab.cases
from percpu_lab.cases import PLAYABLE, Case
from percpu_lab.errors import CaseError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good case that a test may damage."""
    target = tmp_path / "a case"
    shutil.copytree(AREAMAP / "coalesce", target)
    return target


def document(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "case.json").read_text())
    return loaded


def rewrite(folder: Path, **changed: object) -> None:
    (folder / "case.json").write_text(json.dumps(document(folder) | changed))


def load_error(folder: Path) -> CaseError | None:
    try:
        Case.load(folder)
    except CaseError as error:
        return error
    return None


def failure(folder: Path) -> CaseError:
    error = load_error(folder)
    assert error
    assert error.what
    assert error.where.startswith(str(folder))
    assert error.remedy
    return error


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.name)
def test_every_recorded_case_loads(path: Path) -> None:
    case = Case.load(path)
    assert (case.name, len(case.ops)) == (path.name, nr_ops(path))


def test_the_folder_names_the_case_for_what_the_file_says_may_lead_anywhere(folder: Path) -> None:
    rewrite(folder, name="../../etc/passwd")
    assert Case.load(folder).name == "a case"


def test_packed_files_are_as_good_as_plain_ones(folder: Path) -> None:
    plain = Case.load(folder)
    for name in ("case.json", "ops.txt"):
        (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
        (folder / name).unlink()
    packed = Case.load(folder)
    assert packed.ops.to_text() == plain.ops.to_text()
    assert packed.geometry == plain.geometry


def test_an_op_script_without_lines_is_a_case(folder: Path) -> None:
    (folder / "ops.txt").write_text("")
    rewrite(folder, nr_ops=0, op_counts={})
    assert len(Case.load(folder).ops) == 0


def test_an_id_may_be_freed_before_it_is_allocated(folder: Path) -> None:
    (folder / "ops.txt").write_text("free 7\nalloc 7 16 8 0 0\nfree 7\nfree 7\n")
    rewrite(folder, nr_ops=4, op_counts={"alloc": 1, "free": 3})
    assert len(Case.load(folder).ops) == 4


# --- damage: files ----------------------------------------------------------------------


def test_no_folder(tmp_path: Path) -> None:
    assert "no such case folder" in failure(tmp_path / "nowhere").what


def test_a_file_in_place_of_the_folder(folder: Path) -> None:
    assert "no such case folder" in failure(folder / "case.json").what


@pytest.mark.parametrize("name", ["case.json", "ops.txt"])
def test_a_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert failure(folder).what == f"{name} is missing"


@pytest.mark.parametrize("name", ["case.json", "ops.txt"])
def test_a_folder_in_place_of_a_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()
    assert failure(folder).what == "not a regular file"


def test_a_pipe_in_place_of_a_file_does_not_stop_the_program(folder: Path) -> None:
    (folder / "ops.txt").unlink()
    os.mkfifo(folder / "ops.txt")
    assert failure(folder).what == "not a regular file"


def test_an_unreadable_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_options: object) -> None:  # root may read everything: permissions would not do
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(gzip, "open", refuse)
    (folder / "ops.txt").rename(folder / "ops.txt.gz")
    assert failure(folder).what == "cannot be read: Permission denied"


@pytest.mark.parametrize("name", ["case.json", "ops.txt"])
def test_text_that_is_not_utf8_is_named_by_line(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"{\n\xff}\n")
    error = failure(folder)
    assert (error.what, error.where) == ("not UTF-8 text", f"{folder / name} line 2")


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _flip(data: bytes) -> bytes:
    return data[:-8] + bytes(255 - byte for byte in data[-8:])


def _scramble(data: bytes) -> bytes:
    return data[:20] + bytes(255 - byte for byte in data[20:])


@pytest.mark.parametrize("damage", [_cut, _flip, _scramble, lambda data: b"not gzip", lambda data: data + b"junk"])
def test_a_damaged_gzip_file(folder: Path, damage: Callable[[bytes], bytes]) -> None:
    data = gzip.compress((folder / "ops.txt").read_bytes())
    (folder / "ops.txt").unlink()
    (folder / "ops.txt.gz").write_bytes(damage(data))
    assert "not a whole gzip file" in failure(folder).what


def test_a_file_that_unpacks_without_end_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(percpu_lab.cases, "OPS_LIMIT_BYTES", 1000)
    (folder / "ops.txt").unlink()
    (folder / "ops.txt.gz").write_bytes(gzip.compress(b"state\n" * 1_000_000))
    assert "more than 1000 B of text" in failure(folder).what


# --- damage: case.json ---------------------------------------------------------------------

NUMBERS = ("page_size", "nr_cpu_ids", "nr_cpus")


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('{\n "name": "x",\n "kernel": \n}', "case.json line 4"),
        ('{"name": "x"', "case.json line 1"),
        ("", "case.json line 1"),
        ("[" * 100_000, "case.json line 1"),
        ('{"nr_ops": ' + "1" * 5000 + "}", "case.json line 1"),
        ("[]", "case.json line 1"),
        ("null", "case.json line 1"),
    ],
)
def test_json_that_is_none(folder: Path, text: str, where: str) -> None:
    (folder / "case.json").write_text(text)
    assert failure(folder).where == f"{folder}/{where}"


def test_an_unknown_kernel_lists_the_known_ones(folder: Path) -> None:
    rewrite(folder, kernel="v2.6.29")
    error = failure(folder)
    assert "'v2.6.29'" in error.what
    assert all(name in error.remedy for name in PLAYABLE)


@pytest.mark.parametrize("key", ["kernel", *NUMBERS, "backend", "possible_cpus", "setup", "alloc_info", "addresses"])
def test_a_missing_key_is_named(folder: Path, key: str) -> None:
    loaded = document(folder)
    del loaded[key]
    (folder / "case.json").write_text(json.dumps(loaded))
    assert key in str(failure(folder))


@pytest.mark.parametrize("wrong", [None, True, -1, 1.5, [], {}, [[]], 1 << 80])
@pytest.mark.parametrize("key", ["what", "kernel", *NUMBERS, "nr_ops", "backend", "alloc_info", "addresses"])
def test_a_value_of_the_wrong_type_is_named(folder: Path, key: str, wrong: object) -> None:
    rewrite(folder, **{key: wrong})
    assert key in str(failure(folder))


def test_a_layout_that_the_kernel_would_not_boot_with(folder: Path) -> None:
    rewrite(folder, alloc_info=document(folder)["alloc_info"] | {"unit_size": 4096})
    assert "unit_size" in str(failure(folder))


# --- damage: ops --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "",
        "allocate 1 2 3 0 0",
        "alloc 1 16 8 0",
        "alloc 1 16 8 0 0 0",
        "alloc 1 -16 8 0 0",
        "alloc 1 1e3 8 0 0",
        "alloc 1 18446744073709551616 8 0 0",
        "alloc 1 " + "9" * 5000 + " 8 0 0",
        "alloc 1 16 8 2 0",
        "alloc 1 16 8 0 yes",
        "free",
        "free 1 2",
        "fault disk 1",
        "fault mem",
        "fault mem 1 2 3",
        "balance now",
        "x" * 100_000,
    ],
)
def test_a_damaged_op_is_named_by_line(folder: Path, line: str) -> None:
    (folder / "ops.txt").write_text(f"state\n{line}\nstate\n")
    error = failure(folder)
    assert error.where.endswith("ops.txt line 2")
    assert len(str(error)) < 1000


def test_an_id_that_is_allocated_twice_is_named_by_line(folder: Path) -> None:
    (folder / "ops.txt").write_text("alloc a 16 8 0 0\nalloc b 16 8 0 0\nfree b\nalloc b 8 8 0 0\nalloc a 8 8 0 0\n")
    error = failure(folder)
    assert error.where.endswith("ops.txt line 4")
    assert "'b'" in error.what
    assert "IDs are unique" in error.remedy


def test_ops_that_were_cut_off_between_lines_are_noticed(folder: Path) -> None:
    lines = (folder / "ops.txt").read_text().splitlines(keepends=True)
    (folder / "ops.txt").write_text("".join(lines[:-1]))
    assert f"ends at line {len(lines) - 1}" in failure(folder).what


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.data())
def test_random_damage_loads_or_is_a_case_error(folder: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["case.json", "ops.txt"]))
    good = (AREAMAP / "coalesce" / name).read_bytes()
    start = data.draw(st.integers(0, len(good)))
    end = data.draw(st.integers(start, min(start + 20, len(good))))
    (folder / name).write_bytes(good[:start] + data.draw(st.binary(max_size=20)) + good[end:])
    error = load_error(folder)
    (folder / name).write_bytes(good)
    assert error is None or str(folder) in str(error)
