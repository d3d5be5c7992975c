"""The verbs about recordings: text for people, JSON for programs, one line for each error, never a traceback."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_traces import alloc, create, destroy, fail, free, marker

import percpu_lab
from percpu_lab.__main__ import main
from percpu_lab.verbs.common import Progress

DATA = Path(__file__).parent / "data" / "real"
BOOT = str(DATA / "folders" / "pcs-smp3-boot")
STATS = [str(DATA / "stats" / f"patched-{when}.txt") for when in ("before", "after")]
TINY = "\n".join([
    alloc(0, 64, 1.0, site="kept+0x0/0x1"), marker("BEGIN x", 1.5), alloc(64, 64, 2.0), free(64, 3.0), fail(32, 4.0),
    marker("END x", 5.0), "",
])  # fmt: skip
# each verb that needs a path alone, or with more words behind it
ON_A_BOOT = [
    ["review"], ["consistency"], ["top"], ["top", "--by", "task", "--all"], ["leaks"], ["lifetimes"], ["waste"],
    ["cost", "--cpus", "8", "64"], ["reserved"], ["failures"], ["why-not-freed", "0"], ["why-not-freed", "-1"],
    ["decisions"], ["explain", "7"], ["explain", "-70"], ["slots"], ["phases"], ["around", "boot-end"], ["diff"],
]  # fmt: skip


@pytest.fixture(autouse=True)
def plain_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERCPU_LAB_JIT", "off")


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    path = tmp_path / "tiny.txt"
    path.write_text(TINY)
    return str(path)


def words(verb: list[str], path: str) -> list[str]:
    return [verb[0], path, *verb[1:]]


def run_json(capsys: pytest.CaptureFixture[str], *argv: str) -> Any:
    assert main([*argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


# --- questions ----------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ON_A_BOOT, ids=" ".join)
def test_every_verb_answers_in_text_and_in_json(verb: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(verb, BOOT)) == 0
    text, errors = capsys.readouterr()
    assert text.strip()
    assert errors == ""
    assert all(char.isprintable() for char in text.replace("\n", ""))
    answer = run_json(capsys, *words(verb, BOOT))
    assert ("rows" in answer and "answer" in answer) or verb == ["review"]


def test_why_failed_names_the_row(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = run_json(capsys, "why-failed", tiny)
    assert (found["row"], found["line"], found["size_bytes"]) == (3, 5, 32)
    assert main(["why-failed", tiny, "3"]) == 0
    assert capsys.readouterr().out.startswith("atomic request for 32 bytes at row 3 (line 5)")


def test_a_moment_is_a_row_or_a_marker(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    by_row, by_marker = (run_json(capsys, "top", tiny, "--at", when) for when in ("2", "END x"))
    assert (by_row["nr_areas"], by_marker["nr_areas"]) == (2, 1)


def test_diff_compares_moments_or_recordings(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert [row["change"] for row in run_json(capsys, "diff", tiny)["rows"] if row["where"] == "total"][:2] == [1, 64]
    assert run_json(capsys, "diff", tiny, "--from", "BEGIN", "--to", "END")["rows"] == []
    assert run_json(capsys, "diff", tiny, tiny)["rows"] == []


def test_rows_says_how_long_the_table_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", BOOT, "--rows", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("B " in line and "%" in line for line in lines[2:]) == 3
    assert any(line.strip().startswith("... and") for line in lines)


# --- review ------------------------------------------------------------------------------


def test_review_counts_the_losses_of_the_ring(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(shutil.copytree(BOOT, tmp_path / "recording"))
    (folder / "ringbuffer-stats.txt").write_text("== cpu0\noverrun: 512\ncommit overrun: 3\ndropped events: 7\n")
    assert run_json(capsys, "review", str(folder))["lost"] == {"reported": 522, "inferred": 0}


def test_review_json_has_all_that_programs_rely_on(capsys: pytest.CaptureFixture[str]) -> None:
    found = run_json(capsys, "review", BOOT)
    assert found["kernel"] == "v6.12-bitmap"
    assert found["events"]["percpu_alloc_percpu"] == 310
    assert found["events"]["percpu_free_percpu"] == 26
    assert found["allocs"] == 380  # with 70 early calls
    assert found["exact"] + found["reordered"] + found["learned"] + found["forced"] == found["allocs"]
    assert found["lost"] == {"reported": 0, "inferred": 0}
    assert found["fails"] == {"total": 0, "explained": 0}
    assert found["chunks"] == {"created": 0, "destroyed": 0}
    assert found["unmatched_frees"] == 0
    assert found["live"]["areas"] == 354
    assert found["checks"]["stats_files"] == found["checks"]["stats_equal"] == 2
    assert found["checks"]["meminfo_equal"] == [2, 2]
    sites = found["by_call_site"]
    assert set(sites[0]) == {"call_site", "allocs", "frees", "live", "live_bytes"}
    assert sum(site["live"] for site in sites) == found["live"]["areas"]
    assert sum(site["live_bytes"] for site in sites) == found["live"]["bytes"]
    assert sum(site["allocs"] for site in sites) == 380


def test_review_without_a_geometry_counts_and_says_so(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = run_json(capsys, "review", tiny)
    assert found["events"]["percpu_alloc_percpu_fail"] == 1
    assert (found["allocs"], found["exact"]) == (0, 0)
    assert main(["review", tiny]) == 0
    assert "not reviewed: the geometry is not known" in capsys.readouterr().out


# --- stats -------------------------------------------------------------------------------


def test_stats_json_has_all_that_programs_rely_on(capsys: pytest.CaptureFixture[str]) -> None:
    found = run_json(capsys, "stats", STATS[1])
    assert found["alloc_info"]["unit_size"] == 655360
    assert found["global"]["nr_chunks"] == 48
    assert [chunk["kind"] for chunk in found["chunks"]] == ["first", "plain", "plain", "plain", "plain"]
    (finding,) = found["findings"]
    assert finding["rule"] == "hidden-chunks"
    assert finding["text"].startswith("43 of 48 chunks are not listed")
    assert "diff" not in found


def test_stats_of_two_files_tells_what_changed(capsys: pytest.CaptureFixture[str]) -> None:
    found = run_json(capsys, "stats", *STATS)
    assert len(found["others"]) == 1
    changes = {row["what"]: row["change"] for row in found["diff"]["rows"] if row["where"] == "total"}
    assert changes["nr_chunks"] == found["others"][0]["global"]["nr_chunks"] - found["global"]["nr_chunks"]
    assert main(["stats", *STATS]) == 0
    text = capsys.readouterr().out
    assert "43 of 48 chunks are not listed" in text
    assert f"from {STATS[0]} to {STATS[1]}" in text


def test_stats_reads_a_mail_with_two_readings(capsys: pytest.CaptureFixture[str]) -> None:
    found = run_json(capsys, "stats", str(DATA / "stats" / "later-before-and-after-quoted.txt"))
    assert [len(found["chunks"]), len(found["others"][0]["chunks"])] == [3, 11]


def test_stats_reads_the_folder_of_a_recording(capsys: pytest.CaptureFixture[str]) -> None:
    found = run_json(capsys, "stats", BOOT)
    assert found["file"].endswith("stats/000-00-init-first.txt")
    assert [row["change"] for row in found["diff"]["rows"] if row["what"] == "nr_cur_alloc"] == [12]


def test_stats_reads_gzip_and_standard_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = tmp_path / "stats.gz"
    packed.write_bytes(gzip.compress(Path(STATS[1]).read_bytes()))
    one = run_json(capsys, "stats", str(packed))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(Path(STATS[1]).read_bytes())))
    other = run_json(capsys, "stats", "-")
    assert one["global"] == other["global"]


# --- bad input ----------------------------------------------------------------------------


BAD_FILES = [
    ("empty", b""),
    ("binary", bytes(range(256)) * 64),
    ("gzip.gz", gzip.compress(bytes(range(256)) * 50)[:-200]),
    ("no percpu event", b"  ip-1  [000] .....  1.000000: sched_switch: prev_comm=x\n" * 20),
    ("words", b"these are\nno events\n"),
    ("escape \x1b[2J\nname", b"nothing"),
]


@pytest.mark.parametrize(("name", "data"), BAD_FILES, ids=["empty", "binary", "gzip", "other", "words", "name"])
@pytest.mark.parametrize("verb", ["review", "top", "stats", "consistency"])
def test_a_file_that_cannot_be_used_is_one_line(
    verb: str, name: str, data: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    assert main([verb, str(path)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("percpu_lab: ")
    assert err.rstrip("\n").isprintable()
    assert ";" in err  # what to do


@pytest.mark.parametrize(
    "argv",
    [
        ["top", "{gone}"], ["stats", "{gone}"], ["review", "{empty}"], ["report", "{gone}", "-o", "{empty}/x.html"],
        ["stats", STATS[0], STATS[0], STATS[0]], ["stats", "{empty}"], ["top", "{tiny}", "--at", "99"],
        ["around", "{tiny}", "nothing like it"], ["why-failed", "{tiny}", "0"], ["why-not-freed", "{tiny}", "77"],
        ["slots", "{tiny}"], ["decisions", "{tiny}"], ["explain", BOOT, "1000000"],
        ["cost", "{tiny}", "--cpus", "0"], ["report", "{tiny}", "-o", "{empty}"],
    ],
    ids=lambda argv: " ".join(argv[:1] + argv[2:])[:30],
)  # fmt: skip
def test_what_cannot_be_done_is_one_line(
    argv: list[str], tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    filled = [word.format(gone=tmp_path / "gone", empty=empty, tiny=tiny) for word in argv]
    assert main(filled) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert (err.count("\n"), err.startswith("percpu_lab: ")) == (1, True)


def test_a_damaged_end_keeps_what_came_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cut.txt"
    path.write_text(TINY[:-70])
    found = run_json(capsys, "consistency", str(path))
    assert found["nr_events"] >= 3


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(
    cuts=st.lists(st.tuples(st.integers(0, len(TINY)), st.binary(max_size=12)), max_size=4),
    verb=st.sampled_from(
        ["consistency", "top", "leaks", "lifetimes", "waste", "phases", "failures", "reserved", "diff"]
    ),
)
def test_whatever_stands_in_a_file_there_is_an_answer_or_one_line(
    cuts: list[tuple[int, bytes]], verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = TINY.encode()
    for at, more in cuts:
        data = data[:at] + more + data[at + len(more) // 2 :]
    path = tmp_path / "damaged.txt"
    path.write_bytes(data)
    status = main([verb, str(path)])
    out, err = capsys.readouterr()
    assert (status, bool(out), err.count("\n")) in ((0, True, 0), (1, False, 1))


@pytest.mark.parametrize("verb", [["top"], ["review"], ["phases"]], ids=" ".join)
def test_standard_input_is_a_path(
    verb: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(TINY.encode())))
    assert main([*words(verb, "-")]) == 0
    assert "standard input" in capsys.readouterr().out or verb != ["review"]


def run(*argv: str, more: dict[str, str] | None = None, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PERCPU_LAB_JIT": "off", "PYTHONPATH": str(Path(percpu_lab.__file__).parent.parent)}
    environment |= more or {}
    command = [sys.executable, "-m", "percpu_lab", *argv]
    return subprocess.run(command, env=environment, text=True, check=False, **options)


def test_a_pipe_can_be_read_and_may_close_early(tiny: str) -> None:
    with Path(tiny).open() as stdin:
        found = run("phases", "-", stdin=stdin, capture_output=True)
    assert (found.returncode, found.stderr) == (0, "")
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stdout:
        gone = run("review", tiny, "--json", stdout=stdout, stderr=subprocess.PIPE)
    assert (gone.returncode, gone.stderr) == (1, "")


def test_the_process_ends_well_while_the_engine_is_still_being_compiled(tmp_path: Path) -> None:
    found = run("review", BOOT, capture_output=True, more={"PERCPU_LAB_JIT": "auto", "NUMBA_CACHE_DIR": str(tmp_path)})
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.splitlines()[0] == "pcs-smp3-boot"


def test_progress_is_shown_to_people_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream, is_shown in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr("sys.stderr", stream)
        with Progress("a\nb") as progress:
            progress.reading(1 << 20, 4 << 20)
            progress.working(5, 10)
        assert bool(stream.getvalue()) == is_shown
        if is_shown:
            assert "reading a\\nb: 25%" in stream.getvalue()
            assert stream.getvalue().endswith("\r")


def test_the_package_has_a_verb_for_every_question() -> None:
    from percpu_lab import questions

    asked = {name for name in questions.__all__ if name.islower()} - {"verdict", "lint"}  # review and stats say them
    listed = run("-h", capture_output=True).stdout.replace("-", "_")
    assert [name for name in asked if f"\n    {name}" not in listed] == []


# --- a trace that has no folder around it -----------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [["--dmesg", f"{BOOT}/dmesg.txt.gz"], ["--stats", f"{BOOT}/stats/001-boot-end.txt", "--geometry", "cpus=3"],
     ["--geometry", "s181032 r8192 d31960 u524288 cpus=3"]],
    ids=["log", "stats", "words"],
)  # fmt: skip
def test_a_trace_alone_is_reviewed_once_its_layout_is_given(
    given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    found = run_json(capsys, "review", f"{BOOT}/trace-nohashptr.txt.gz", *given)
    assert (found["kernel"], found["forced"]) == ("v6.12-bitmap", 0)
    assert found["exact"] + found["reordered"] + found["learned"] == found["allocs"] > 0


def test_a_trace_without_layout_says_how_to_give_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["review", f"{BOOT}/trace.txt.gz"]) == 0
    text = capsys.readouterr().out
    for remedy in ("--dmesg FILE", "--stats FILE --geometry cpus=4", '--geometry "s212992'):
        assert remedy in text


def test_events_of_an_old_kernel_are_not_taken_for_new_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "trace.txt"
    old = re.sub(r"call_site=\S+ | bytes_alloc=.*", "", alloc(0, 8, 1.0))
    path.write_text(f"{old}\n")
    assert main(["review", str(path), "--geometry", "s212992 r8192 d28672 u524288 cpus=4"]) == 0
    assert "not reviewed: its events have no bytes_alloc, so the kernel is older than v" in capsys.readouterr().out


def test_words_that_are_no_layout_are_one_line_of_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", f"{BOOT}/trace.txt.gz", "--geometry", "s1\x1b[2J"]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("percpu_lab: geometry: not a word of a boot line")
    assert errors.count("\n") == 1
    assert "\x1b" not in errors


def test_the_headline_names_every_cause_of_an_early_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "trace.txt.gz"
    packed = gzip.compress(f"{TINY}{alloc(8, 8, 9.0)}".encode())
    path.write_bytes(packed[:-12])
    assert main(["consistency", str(path)]) == 0
    first = capsys.readouterr().out.partition("\n")[0]
    assert "a file is damaged" in first
    assert "may be cut" in first


def test_a_long_trace_is_kept_up_to_a_limit(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["consistency", BOOT, "--limit", "100"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("100 events; more than the limit allows, and only those before line 113 of ")
    assert "allow more (--limit)" in text
    assert main(["consistency", BOOT, "--limit", "0"]) == 1
    assert capsys.readouterr().err == "percpu_lab: limit: a limit of 0 events; give 1 or more\n"


def test_percpu_stats_is_no_trace_and_says_who_reads_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["review", STATS[0]]) == 1
    assert "percpu_stats, not a trace; nothing was kept; read it with the verb stats" in capsys.readouterr().err


def test_a_chunk_that_has_gone_is_told_with_its_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "trace.txt"
    path.write_text("\n".join([alloc(0, 8, 1.0), create(2.0, 0x50000), destroy(3.0, 0x50000), ""]))
    assert main(["why-not-freed", str(path), "1"]) == 1
    assert "it was made at row 1, and destroyed at row 2" in capsys.readouterr().err


@pytest.mark.parametrize("way", ["gzip", "input", "mark"])
def test_percpu_stats_is_read_packed_from_a_pipe_and_behind_a_byte_order_mark(
    way: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Path(STATS[0]).read_bytes()
    path = tmp_path / "stats"
    path.write_bytes(gzip.compress(data) if way == "gzip" else b"\xef\xbb\xbf" + data)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(gzip.compress(data))))
    assert main(["stats", "-" if way == "input" else str(path)]) == 0
    assert "2,046 live areas" in capsys.readouterr().out


def test_damaged_files_of_percpu_stats_are_one_line_of_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "stats.gz"
    packed = bytearray(gzip.compress(Path(STATS[0]).read_bytes()))
    for at in range(12, len(packed), 37):
        damaged = packed[:at] + b"\xff\x00\xff" + packed[at + 3 :]
        path.write_bytes(damaged)
        assert main(["stats", str(path)]) == 1
        assert capsys.readouterr().err.count("\n") == 1
    path.write_bytes(Path(STATS[0]).read_text().encode("utf-16"))
    assert main(["stats", str(path)]) == 1
    assert f"{path} line 1: text in UTF-16; nothing was kept; make it UTF-8" in capsys.readouterr().err


def test_damage_names_the_file_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "recording"
    shutil.copytree(BOOT, folder)
    log = folder / "dmesg.txt.gz"
    log.write_bytes(log.read_bytes()[:300])
    assert main(["consistency", str(folder)]) == 0
    assert "of dmesg.txt.gz was read" in capsys.readouterr().out.partition("\n")[0]
