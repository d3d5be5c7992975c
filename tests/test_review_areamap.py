"""Reviewing the area map of v4.13: recorded cases opened as recordings, and what an engine itself decided."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_cases import BITMAP_CASES, CASES, recorded
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recorded_engine import delayed, engine_lines, field, geometry, recording, trace_text

from percpu_lab.cases import Case
from percpu_lab.core import layout as L
from percpu_lab.kernels import V4_13
from percpu_lab.play import play, state_document
from percpu_lab.questions import slots, waste, why_failed, why_not_freed
from percpu_lab.review import FORCED, VERDICTS, Review, review
from percpu_lab.traces.early import with_columns
from percpu_lab.traces.recording import open_trace
from percpu_lab.validate import validate_engine

seeds = st.integers(0, 10_000)
few = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

# what depends on when the balance work ran, which the events need not tell
TIMED = {"balance_pending", "nr_empty_pop_pages", "atomic_alloc_failed", "map_extend_chunks"}
TIMED_OF_CHUNKS = {"populated", "nr_populated", "map_alloc", "on_map_extend_list"}
REASONS = {
    "failed to populate": "failed to populate",
    "failed to allocate new chunk": "failed to allocate new chunk",
    "failed to extend area map": "failed to extend area map",
    "alloc from reserved chunk failed": "the reserved chunk has no room",
}


@cache
def reviewed(case: Path) -> Review:
    return review(open_trace(case), jit="off")


def is_replayable(done: Review) -> bool:
    search, replayed = done._search, done._replayed
    assert search is not None
    search.machine.restore(search.start)
    return search.machine.run(search.machine.pos, replayed.length)


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@pytest.fixture(params=BITMAP_CASES, ids=lambda case: case.name)
def bitmap_case(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


# --- recorded cases ------------------------------------------------------------------------


def test_every_decision_of_a_recorded_case_is_exact(case: Path) -> None:
    done = reviewed(case)
    assert done.kernel == "v4.13-areamap"
    assert done.as_json()["kernel"] == "v4.13-areamap"
    assert done.counts["exact"] == done.counts["allocs"] == recorded(case, "trace.txt").count("alloc_percpu:")


def test_every_failure_is_explained_as_the_log_says(case: Path) -> None:
    for failure in reviewed(case).failures:
        assert failure.is_explained, failure
        if failure.logged in REASONS:
            assert failure.reason.startswith(REASONS[failure.logged])


def test_readings_of_percpu_stats_are_equal_in_every_field(case: Path) -> None:
    checks = reviewed(case).checks
    assert len(checks) == recorded(case, "stats.txt").count("Percpu Memory Statistics")
    assert [str(check) for check in checks if not check.is_equal] == []


def test_every_chunk_is_foreseen(case: Path) -> None:
    assert all(chunk.is_foreseen for chunk in reviewed(case).chunks)


def untimed(document: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in document.items():
        if name in ("chunks", "reserved_chunk"):
            chunks = value if isinstance(value, list) else [value or {}]
            yield name, [{key: chunk[key] for key in chunk if key not in TIMED_OF_CHUNKS} for chunk in chunks]
        elif name not in TIMED | {"faults"}:
            yield name, value


def test_maps_hints_slots_and_the_order_of_chunks_are_those_of_the_kernel_at_every_state(case: Path) -> None:
    done = reviewed(case)
    for line in recorded(case, "state.jsonl").splitlines()[:12]:
        wanted = json.loads(line)
        row = int(np.searchsorted(done.recording.trace.op, wanted["op"]))
        engine = done.state_at(row)
        validate_engine(engine)
        assert dict(untimed(json.loads(json.dumps(state_document(engine, wanted["op"]))))) == dict(untimed(wanted))


def test_the_script_that_was_found_gives_every_decision_again(case: Path) -> None:
    assert is_replayable(reviewed(case))


def named(name: str) -> Path:
    return next(case for case in CASES if case.name == name)


def test_a_case_tells_its_machine() -> None:
    done = reviewed(named("km_smp"))
    made = done.recording.geometry
    assert made == Case.load(named("km_smp")).geometry
    assert (done.recording.release, done.recording.kernel, made.backing) == ("4.13", V4_13, "km")  # type: ignore[union-attr]
    assert done.recording.oddities == ()


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ('{"kernel": 3', 1, "not JSON"),
        ('{\n "kernel": 3}', 2, "kernel: "),
        ('{\n "kernel": 3,\n "kernel": 4}', 3, "kernel: stands here a second time"),
        ("\n[1]", 2, "not a JSON object"),
        ("[" * 100_000, 1, "not JSON that a case could hold"),
    ],
)
def test_a_damaged_case_json_is_told_and_the_log_serves(tmp_path: Path, text: str, line: int, what: str) -> None:
    folder = tmp_path / "case"
    shutil.copytree(named("fault_mem"), folder)
    (folder / "case.json").write_text(text)
    opened = open_trace(folder)
    told = opened.oddities[0]
    assert (told.file, told.line) == ("case.json", line) and told.text.startswith(what)
    assert (opened.kernel, opened.geometry is not None) == (V4_13, True)


def test_what_play_wrote_opens_without_its_case(tmp_path: Path) -> None:
    play(Case.load(named("rnd_atomic")), tmp_path / "out", jit="off")
    opened = open_trace(tmp_path / "out")
    assert "the kernel is v4.13: the fields of its events tell" in opened.assumptions
    done = review(opened, jit="off")
    assert done.kernel == "v4.13-areamap"
    assert done.counts == reviewed(named("rnd_atomic")).counts
    assert len(opened.stats) == 4
    assert all(check.is_equal for check in done.checks)


def test_the_other_kernel_is_told_by_its_events_too(tmp_path: Path) -> None:
    bitmap = named("rnd_gen").parent.parent / "bitmap" / "rnd_gen"
    play(Case.load(bitmap), tmp_path / "out", jit="off")
    done = review(open_trace(tmp_path / "out"), jit="off")
    assert done.kernel == "v6.12-bitmap"
    assert done.counts["exact"] == done.counts["allocs"]


def test_compiled_and_plain_review_alike() -> None:
    for name in ("rnd_atomic", "rnd_faults", "km_smp"):
        assert review(open_trace(named(name)), jit="wait").as_json() == reviewed(named(name)).as_json()


def test_every_decision_of_a_case_of_the_bitmap_is_exact(bitmap_case: Path) -> None:
    done = reviewed(bitmap_case)
    counts = done.counts
    assert done.kernel == "v6.12-bitmap"
    assert counts["forced"] == 0
    assert counts["allocs"] - counts["exact"] <= (bitmap_case.name == "rnd_faults")  # memory lacked, and no event tells
    assert all(failure.is_explained for failure in done.failures)
    assert all(chunk.is_foreseen for chunk in done.chunks)
    assert is_replayable(done)


# allocations that are not exact where nothing tells in which op the balance work ran, and gave pages back
UNASKED = {"rnd_big": 3, "rnd_bimodal_fifo": 5, "rnd_faults": 2, "rnd_uniform": 1}


def test_a_case_of_the_bitmap_is_explained_without_what_was_asked(bitmap_case: Path, tmp_path: Path) -> None:
    for path in bitmap_case.iterdir():
        if not path.name.startswith("ops.txt"):
            shutil.copy(path, tmp_path / path.name)
    done = reviewed(tmp_path)
    assert done.counts["forced"] == 0
    assert done.counts["allocs"] - done.counts["exact"] <= UNASKED.get(bitmap_case.name, 0)
    assert all(failure.is_explained for failure in done.failures)
    assert is_replayable(done)


# --- opened ------------------------------------------------------------------------------------


def test_an_opened_decision_says_why_chunks_refused() -> None:
    done = reviewed(named("map_extend_async"))
    texts = [done.explain(failure.row).text() for failure in done.failures]
    assert any("entries to spare, 3 are needed, and an atomic request cannot make it longer" in text for text in texts)
    failure = next(f for f in done.failures if "area map of the chunk is full" in f.reason)
    assert failure.would_get.startswith("GFP_KERNEL would have got offset")


def test_an_opened_decision_ends_with_the_place_that_was_recorded() -> None:
    done = reviewed(named("rnd_kernel_mix"))
    decisions = done.decisions
    for k in range(0, len(decisions), 97):
        opened = done.explain(int(decisions.row[k]))
        assert opened.chosen == opened.recorded == (decisions.chunk[k], decisions.off[k])
        assert all(tried.off is None for tried in opened.tried[:-1])


def test_questions_are_answered_by_the_model_of_that_kernel() -> None:
    opened = open_trace(named("destroy_keep_one"))
    assert "chunk" in slots(opened).headline()
    assert "it is kept: the first wholly free chunk is the spare" in why_not_freed(opened, 4, at=8).headline()
    assert "balance work is pending, and will destroy it" in why_not_freed(opened, 4, at=18).headline()
    empty = next(row for row in waste(reviewed(named("atomic_unpopulated"))).rows if "empty" in row.way)
    assert empty.nr is not None
    failed = why_failed(open_trace(named("atomic_unpopulated")))
    assert failed.is_explained
    assert failed.rows


# --- traces as kernels write them ------------------------------------------------------------------


@few
@given(seed=seeds, atomic=st.sampled_from([0.0, 0.5]), reserved=st.sampled_from([0.0, 0.2]))
def test_decisions_in_order_are_all_exact(seed: int, atomic: float, reserved: float, tmp_path: Path) -> None:
    lines = engine_lines(seed, sizes=(2, 6, 16, 64, 1000, 8192), atomic=atomic, reserved=reserved, kernel=V4_13)
    done = review(recording(lines, tmp_path, kernel=V4_13), jit="off")
    assert done.counts["exact"] == done.counts["allocs"] > 0
    assert all(failure.is_explained for failure in done.failures)
    assert all(chunk.is_foreseen for chunk in done.chunks)
    validate_engine(done.state_at(len(done.recording.trace)))


@few
@given(seed=seeds)
def test_allocations_recorded_late_are_put_in_order(seed: int, tmp_path: Path) -> None:
    lines = delayed(engine_lines(seed, atomic=0.2, kernel=V4_13), seed)
    done = review(recording(lines, tmp_path, kernel=V4_13), jit="off")
    assert done.counts["forced"] <= 0.05 * done.counts["allocs"]
    assert is_replayable(done)
    validate_engine(done.state_at(len(done.recording.trace)))


@few
@given(seed=seeds)
def test_a_recording_from_the_midst_is_followed(seed: int, tmp_path: Path) -> None:
    lines = engine_lines(seed, 300, sizes=(16, 64, 256), kernel=V4_13)
    done = review(recording(lines[len(lines) // 2 :], tmp_path, whole=False, kernel=V4_13), jit="off")
    counts = done.counts
    assert counts["exact"] + counts["learned"] + counts["reordered"] > 0.5 * counts["allocs"]
    assert done.trusted_until == 0
    validate_engine(done.state_at(len(done.recording.trace)))


def test_a_false_place_is_not_explained_and_does_not_spoil_what_follows(tmp_path: Path) -> None:
    lines = engine_lines(7, sizes=(64,), kernel=V4_13)
    k = next(k for k in range(100, len(lines)) if "alloc_percpu:" in lines[k])
    off, ptr = int(field(lines[k], "off")), field(lines[k], "ptr")
    false = off + 16_384
    lines[k] = lines[k].replace(f"off={off} ", f"off={false} ")
    freed = next((n for n, line in enumerate(lines) if n > k and field(line, "ptr") == ptr), None)
    if freed is not None:
        lines[freed] = lines[freed].replace(f"off={off} ", f"off={false} ")
    done = review(recording(lines, tmp_path, kernel=V4_13), jit="off")
    assert k in done.decisions.where(FORCED)
    assert done.counts["exact"] > 0.9 * done.counts["allocs"]


@few
@given(seed=seeds, column=st.sampled_from(["off", "size", "align", "base_addr"]), value=st.integers(-5, 70_000))
def test_damaged_numbers_do_no_harm(seed: int, column: str, value: int, tmp_path: Path) -> None:
    made = recording(engine_lines(seed, 120, atomic=0.3, kernel=V4_13), tmp_path, kernel=V4_13)
    values = getattr(made.trace, column).copy()
    values[seed % 7 :: 7] = max(value, 0) if column == "base_addr" else value
    damaged = replace(made, trace=with_columns(made.trace, **{column: values}))
    done = review(damaged, jit="off")
    assert sum(done.counts[verdict] for verdict in VERDICTS) == done.counts["allocs"]
    validate_engine(done.state_at(len(damaged.trace)))


def test_a_folder_of_a_4_13_kernel_is_reviewed(tmp_path: Path) -> None:
    (tmp_path / "trace.txt.gz").write_bytes(gzip.compress(trace_text(engine_lines(3, kernel=V4_13)).encode()))
    log = ["Linux version 4.13.16-300.fc27.x86_64", *geometry(V4_13).boot_log]
    (tmp_path / "dmesg.txt").write_text("".join(f"[    0.000000] {line}\n" for line in log))
    opened = open_trace(tmp_path)
    assert (opened.kernel, opened.release) == (V4_13, "4.13.16-300.fc27.x86_64")
    assert opened.geometry is not None
    assert (opened.trace.bytes_alloc == -1).all()
    done = review(opened, jit="off")
    assert done.kernel == "v4.13-areamap"
    assert done.counts["exact"] > 0.9 * done.counts["allocs"]
    assert (opened.trace.event == L.EVENT_CREATE).any()
