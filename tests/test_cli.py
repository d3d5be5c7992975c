"""The command line: what it prints, with which status it ends, and that a user never meets a traceback."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from golden_cases import AREAMAP, OUTPUTS

import percpu_lab.cases
from percpu_lab import compiled
from percpu_lab.__main__ import main

GOOD = [str(AREAMAP / name) for name in ("coalesce", "km_up")]


def run(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run the program as a user does."""
    environment = {**os.environ, "PERCPU_LAB_JIT": "off", "PYTHONPATH": str(Path(percpu_lab.__file__).parent.parent)}
    command = [sys.executable, "-m", "percpu_lab", *words]
    return subprocess.run(command, env=environment, text=True, check=False, **options)  # type: ignore[call-overload, no-any-return]


def test_play_makes_a_folder_a_case(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["play", *GOOD, "--out", str(tmp_path)]) == 0
    made = {path.name: sorted(file.name for file in path.iterdir()) for path in tmp_path.iterdir()}
    assert made == {"coalesce": sorted(OUTPUTS), "km_up": sorted(OUTPUTS)}
    assert capsys.readouterr() == ("", "")


def test_time_prints_name_ops_and_seconds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERCPU_LAB_JIT", "off")
    assert main(["play", *GOOD, "--out", str(tmp_path), "--time"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["coalesce", "61"], ["km_up", "41"]]
    assert all(re.fullmatch(r"\S+ \d+ \d+\.\d+", line) for line in lines)


def test_a_damaged_case_does_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(GOOD[0], damaged)
    (damaged / "ops.txt").write_text("state\nalloc 1\n")
    out = tmp_path / "out"
    assert main(["play", str(damaged), str(tmp_path / "gone"), GOOD[1], "--out", str(out)]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert errors[0].startswith(f"percpu_lab: {damaged}/ops.txt line 2: alloc takes 5 operands")
    assert errors[1].startswith(f"percpu_lab: {tmp_path}/gone: there is no such case folder")
    assert (out / "km_up" / "trace.txt").stat().st_size > 0


def test_two_cases_of_one_name_do_not_overwrite_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["play", GOOD[0], GOOD[0] + "/", "--out", str(tmp_path)]) == 1
    assert "a second case of the name 'coalesce'" in capsys.readouterr().err


def test_a_case_is_not_played_over_its_own_recording(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(GOOD[0], tmp_path / "coalesce")
    recorded = (tmp_path / "coalesce" / "trace.txt").read_bytes()
    assert main(["play", str(tmp_path / "coalesce"), GOOD[1], "--out", str(tmp_path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"percpu_lab: {tmp_path}/coalesce: a case is there")
    assert (tmp_path / "coalesce" / "trace.txt").read_bytes() == recorded
    assert (tmp_path / "km_up" / "trace.txt").stat().st_size > 0


def test_a_case_that_is_a_link_keeps_the_name_it_was_called_by(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(GOOD[0])
    assert main(["play", str(tmp_path / "link"), GOOD[0], "--out", str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["coalesce", "link"]


def test_a_full_disk_is_one_line_that_names_the_case(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "coalesce").mkdir()
    (tmp_path / "coalesce" / "trace.txt").symlink_to("/dev/full")
    assert main(["play", *GOOD, "--out", str(tmp_path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"percpu_lab: {tmp_path}/coalesce: cannot be written: No space left on device")
    assert (tmp_path / "km_up" / "trace.txt").stat().st_size > 0


def test_output_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    assert main(["play", GOOD[0], "--out", str(tmp_path / "file")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"percpu_lab: {tmp_path}/file")


def test_an_error_is_one_line_whatever_stands_in_the_case(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "line\nbreak \x1b[2J"
    shutil.copytree(GOOD[0], folder)
    (folder / "ops.txt").write_text("allocate \x1b[31m\u202e\n")
    assert main(["play", str(folder), "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.rstrip("\n").isprintable()


def test_a_user_meets_no_traceback(tmp_path: Path) -> None:
    result = run("play", str(tmp_path), "--out", str(tmp_path / "out"), capture_output=True)
    assert (result.returncode, result.stdout) == (1, "")
    remedy = "name a folder with case.json and ops.txt in it"
    assert result.stderr == f"percpu_lab: {tmp_path}: case.json is missing; {remedy}\n"


@pytest.mark.parametrize("words", [[], ["dance"], ["play"], ["play", "x"], ["play", "--out", "y"]])
def test_wrong_arguments_end_with_status_2_and_a_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: percpu_lab")


@pytest.mark.parametrize("words", [["-h"], ["play", "-h"], ["warm", "-h"], ["--version"]])
def test_help_is_there_for_everything(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 0
    assert "percpu_lab" in capsys.readouterr().out


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [["-h"], ["play", *GOOD, "--out", "{out}", "--time"]])
def test_a_reader_who_has_gone_is_no_error_worth_a_word(
    words: list[str], unbuffered: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stdout:
        result = run(*(word.format(out=tmp_path) for word in words), stdout=stdout, stderr=subprocess.PIPE)
    assert result.stderr == ""
    assert result.returncode in (0, 1)  # argparse keeps it to itself when its help cannot be written


def test_an_interrupt_ends_quietly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(percpu_lab.cases.Case, "load", interrupted)
    assert main(["play", GOOD[0], "--out", str(tmp_path)]) == 130
    assert capsys.readouterr().err == ""


def test_warm_says_what_it_did(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("numba")
    assert main(["warm"]) == 0
    line = r"{}: (compiled|found in the cache, loaded) in \d+\.\d s.*\n"
    engine = r"v\d+\.\d+-\w+"
    assert re.fullmatch(line.format(engine) * 2 + line.format(f"review of {engine}") * 2, capsys.readouterr().out)


def test_warm_without_numba_has_nothing_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compiled, "policy", lambda choice=None: "off")
    assert main(["warm"]) == 0
    assert "numba is not installed" in capsys.readouterr().out


def test_warm_reports_a_compiler_that_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compiled, "policy", lambda choice=None: "wait")
    monkeypatch.setattr(compiled, "request", lambda name, wait: None)
    assert main(["warm"]) == 1
    assert capsys.readouterr().err.startswith("percpu_lab: warm: it could not be compiled: v4.13-areamap")
