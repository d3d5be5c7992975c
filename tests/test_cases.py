"""Loading a case folder: what is read, and that every kind of damage is one clear error."""

from __future__ import annotations

import errno
import gzip
import json
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from golden_cases import AREAMAP, BITMAP_CASES, CASES, nr_ops
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


LINES = "".join(f"alloc {i} {i * 7919 % 4096} 8 0 0\n" for i in range(3000))


def _packed(folder: Path, data: bytes) -> CaseError:
    (folder / "ops.txt").unlink(missing_ok=True)
    (folder / "ops.txt.gz").write_bytes(data)
    return failure(folder)


def _lines_of_prefix(data: bytes) -> int:
    return zlib.decompressobj(wbits=31).decompress(data).count(b"\n")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.77, 0.9999])
def test_a_packed_script_that_was_cut_off_is_named_by_the_line_it_breaks_off(folder: Path, share: float) -> None:
    data = gzip.compress(LINES.encode())
    data = data[: int(len(data) * share) or 1]
    error = _packed(folder, data)
    assert error.where == f"{folder}/ops.txt.gz line {_lines_of_prefix(data) + 1}"
    assert "not a whole gzip file" in error.what


def test_a_packed_script_with_damage_inside_is_named_by_the_line_it_breaks_off(folder: Path) -> None:
    data = bytearray(gzip.compress(LINES.encode(), 0))  # stored as it is, in blocks: the header of the second is hit
    at = 10 + 5 + int.from_bytes(data[11:13], "little")
    data[at] = 0xFF
    error = _packed(folder, bytes(data))
    assert error.where == f"{folder}/ops.txt.gz line {_lines_of_prefix(bytes(data[:at])) + 1}"


def test_a_packed_script_with_a_wrong_checksum_is_read_to_its_end(folder: Path) -> None:
    data = bytearray(gzip.compress(LINES.encode()))
    data[-8] ^= 1
    assert _packed(folder, bytes(data)).where == f"{folder}/ops.txt.gz line 3001"


def test_of_several_packed_files_in_one_all_lines_count(folder: Path) -> None:
    data = gzip.compress(LINES.encode()) + gzip.compress(b"state\n" * 50)
    assert _packed(folder, data[:-4]).where == f"{folder}/ops.txt.gz line 3051"


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


def _members(value: Any, path: str = "") -> list[str]:
    """The paths of all that a case.json holds, written as in an error."""
    if isinstance(value, dict):
        steps = [(f"{path}.{key}" if path else key, inner) for key, inner in value.items()]
    else:
        steps = [(f"{path}[{i}]", inner) for i, inner in enumerate(value)] if isinstance(value, list) else []
    return [found for step, inner in steps for found in (step, *_members(inner, step))]


EMBED = AREAMAP / "embed_numa"
_UNREAD = ("name",)  # what a case may call itself is no concern of ours


@pytest.mark.parametrize("path", _members(json.loads((EMBED / "case.json").read_text())))
@pytest.mark.parametrize("wrong", ["NaN", "-1", "[[]]", "{}", '"?"', "1e9", "99999999999999999999"])
def test_a_wrong_value_is_named_by_its_own_line(tmp_path: Path, path: str, wrong: str) -> None:
    folder = tmp_path / "case"
    shutil.copytree(EMBED, folder)
    holder: Any = document(folder)
    whole = holder
    steps = path.replace("]", "").replace("[", ".").split(".")
    for step in steps[:-1]:
        holder = holder[int(step) if step.isdigit() else step]
    holder[int(steps[-1]) if steps[-1].isdigit() else steps[-1]] = "@"
    text = json.dumps(whole, indent=1)
    line = text[: text.index('"@"')].count("\n") + 1
    (folder / "case.json").write_text(text.replace('"@"', wrong))
    error = load_error(folder)
    if path in _UNREAD or (path, wrong) == ("what", '"?"'):
        assert error is None
    else:
        assert error
        assert error.where.startswith(f"{folder}/case.json line {line}, {path}")  # or what is wrong inside it


def test_a_missing_key_is_named_by_the_line_of_what_lacks_it(folder: Path) -> None:
    loaded = document(folder)
    del loaded["alloc_info"]["groups"][0]["base_offset"]
    (folder / "case.json").write_text(text := json.dumps(loaded, indent=1))
    line = text[: text.index('"groups": [')].count("\n") + 2
    assert failure(folder).where == f"{folder}/case.json line {line}, alloc_info.groups[0].base_offset"


def test_a_key_that_stands_twice_is_refused(folder: Path) -> None:
    text = json.dumps(document(folder), indent=1).replace('"backend"', '"page_size": 4096, "backend"')
    (folder / "case.json").write_text(text)
    line = text[: text.rindex('"page_size"')].count("\n") + 1
    assert failure(folder).where == f"{folder}/case.json line {line}, page_size"


def _in_alloc_info(folder: Path, **changed: object) -> str:
    """Change a layout -> the place the error names, without its line."""
    rewrite(folder, alloc_info=document(folder)["alloc_info"] | changed)
    return failure(folder).where.partition("line 1, ")[2]


def test_what_the_kernel_refuses_names_the_key_that_it_refuses(folder: Path) -> None:
    assert _in_alloc_info(folder, static_size=0) == "alloc_info.static_size"


def test_an_unusable_allocation_size_names_its_key(folder: Path) -> None:
    assert _in_alloc_info(folder, alloc_size=4096) == "alloc_info.alloc_size"


def test_a_cpu_in_two_units_names_the_second(folder: Path) -> None:
    cpus = document(folder)["possible_cpus"]
    group = {"nr_units": len(cpus) + 1, "base_offset": 0, "cpu_map": [*cpus, cpus[0]]}
    assert _in_alloc_info(folder, groups=[group], nr_groups=1) == f"alloc_info.groups[0].cpu_map[{len(cpus)}]"


def test_groups_on_the_same_memory_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "case"
    shutil.copytree(AREAMAP / "numa_groups", folder)
    groups = document(folder)["alloc_info"]["groups"]
    groups[1]["base_offset"] = groups[0]["base_offset"] + 4096
    assert _in_alloc_info(folder, groups=groups) == "alloc_info.groups[1].base_offset"


def test_what_only_the_engine_of_a_kernel_refuses_is_named_too(tmp_path: Path) -> None:
    folder = tmp_path / "case"
    shutil.copytree(next(path for path in BITMAP_CASES if document(path)["setup"] == "first_chunk"), folder)
    info = document(folder)["alloc_info"]
    assert _in_alloc_info(folder, dyn_size=info["unit_size"] - info["static_size"] - info["reserved_size"] - 1)
    assert "make dyn_size a multiple of 4" in failure(folder).remedy


def test_boot_memory_at_no_address_names_the_key_of_the_boot(tmp_path: Path) -> None:
    folder = tmp_path / "case"
    shutil.copytree(EMBED, folder)
    rewrite(folder, embed=document(folder)["embed"] | {"node_base": "0x0", "node_stride": 0})
    assert failure(folder).where == f"{folder}/case.json line 1, embed.node_base"


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


def test_ops_that_go_on_after_the_last_are_noticed(folder: Path) -> None:
    nr_lines = nr_ops(folder)
    with (folder / "ops.txt").open("a") as file:
        file.write("state\n")
    error = failure(folder)
    assert "nr_ops" in error.where
    assert f"goes on at line {nr_lines + 1}" in error.what


@pytest.mark.parametrize(
    ("counts", "named"),
    [
        ({"alloc": 1, "free": 2, "state": 1}, "op_counts.free"),
        ({"alloc": 1, "state": 1}, "op_counts"),
        ({"alloc": 1, "free": 1, "state": 1, "stats": 1}, "op_counts.stats"),
        ({"alloc": 1, "free": 1, "state": 1, "jump": 1}, "op_counts.jump"),
        ({"alloc": True, "free": 1, "state": 1}, "op_counts.alloc"),
        ({"alloc": "1", "free": 1, "state": 1}, "op_counts.alloc"),
        ({}, "op_counts"),
        ([], "op_counts"),
    ],
)
def test_counts_that_contradict_the_script_are_named(folder: Path, counts: object, named: str) -> None:
    (folder / "ops.txt").write_text("alloc 1 16 8 0 0\nfree 1\nstate\n")
    loaded = document(folder) | {"nr_ops": 3, "op_counts": counts}
    (folder / "case.json").write_text(text := json.dumps(loaded, indent=1))
    line = text[: text.index(f'"{named.split(".")[-1]}"')].count("\n") + 1
    assert failure(folder).where.startswith(f"{folder}/case.json line {line}, {named}")


def test_counts_may_name_kinds_that_are_not_there(folder: Path) -> None:
    rewrite(folder, op_counts={"fault": 0} | document(folder)["op_counts"])
    assert Case.load(folder)


@pytest.mark.parametrize("key", ["nr_ops", "op_counts", "what", "name"])
def test_a_case_may_do_without_what_only_repeats(folder: Path, key: str) -> None:
    loaded = document(folder)
    del loaded[key]
    (folder / "case.json").write_text(json.dumps(loaded))
    assert len(Case.load(folder).ops) == nr_ops(AREAMAP / "coalesce")


def test_lines_may_end_as_on_windows(folder: Path) -> None:
    text = (folder / "ops.txt").read_text()
    (folder / "ops.txt").write_bytes(text.replace("\n", "\r\n").encode())
    assert Case.load(folder).ops.to_text() == text


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
