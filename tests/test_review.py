"""Reviewing real recordings: agreement may only get better."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from percpu_lab.core import layout as L
from percpu_lab.errors import RequestError
from percpu_lab.kernels import kernel_for_release
from percpu_lab.review import EXACT, FORCED, VERDICTS, Review, review
from percpu_lab.traces.early import with_columns
from percpu_lab.traces.recording import Recording, open_trace
from percpu_lab.validate_bitmap import validate_bitmap_engine

DATA = Path(__file__).parent / "data" / "real" / "review"
MADE = Path(__file__).parent / "data" / "made"

# allocations, exact, not explained, readings of percpu_stats equal, of meminfo: each may only get better
GOLDEN = {
    "deb61-smp4-boot": (390, 390, 0, 0, 2),
    "pcs-smp3-boot": (380, 379, 0, 2, 2),
    "pcs-smp4-medium-begin": (6020, 6010, 0, 9, 9),
    "pcs-smp4-pagefc-begin": (2181, 2180, 0, 11, 11),
    "deb61-smp4-fail-begin": (4579, 4576, 0, 0, 2),
    "deb61-i686-smp1-begin": (9515, 9513, 0, 0, 6),
}


@cache
def recorded(name: str) -> Recording:
    return open_trace(DATA / name)


@cache
def reviewed(name: str) -> Review:
    return review(recorded(name), jit="off")


@pytest.fixture(params=GOLDEN)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_recording_is_in_the_table() -> None:
    assert {path.name for path in DATA.iterdir() if path.is_dir()} == set(GOLDEN)


def test_agreement_is_at_least_that_of_the_table(name: str) -> None:
    allocs, exact, forced, _, _ = GOLDEN[name]
    counts = reviewed(name).counts
    assert counts["allocs"] == allocs
    assert counts["exact"] >= exact
    assert counts["forced"] <= forced


def test_verdicts_add_up(name: str) -> None:
    counts = reviewed(name).counts
    assert sum(counts[verdict] for verdict in VERDICTS) == counts["allocs"]


def test_readings_of_the_kernel_are_equal_in_every_field(name: str) -> None:
    checks = reviewed(name).checks
    equal = [check.kind for check in checks if check.is_equal]
    assert (equal.count("stats"), equal.count("meminfo")) == GOLDEN[name][3:]
    assert all("equal" in str(check) for check in checks if check.is_equal)


def test_the_state_at_the_end_is_sound_and_goes_on(name: str) -> None:
    done = reviewed(name)
    engine = done.state_at(len(done.recording.trace))
    validate_bitmap_engine(engine)
    before = engine.scalar(L.NR_CUR_ALLOC)
    assert engine.alloc(64, 8, False, False)
    assert engine.scalar(L.NR_CUR_ALLOC) == before + 1
    assert done.state_at(len(done.recording.trace)).scalar(L.NR_CUR_ALLOC) == before


def test_an_engine_from_before_an_exact_decision_decides_the_same(name: str) -> None:
    done = reviewed(name)
    decisions = done.decisions
    exact = np.flatnonzero((decisions.verdict == EXACT) & (decisions.row >= 0))
    for k in exact[:: max(len(exact) // 12, 1)].tolist():
        row = int(decisions.row[k])
        trace = done.recording.trace
        engine = done.state_at(row)
        engine.alloc(int(trace.size[row]), int(trace.align[row]), bool(trace.reserved[row]), bool(trace.is_atomic[row]))
        chunk = engine.handle(done.chunk_of(int(decisions.chunk[k])))
        assert (engine.scalar(L.HIT_CHUNK), engine.scalar(L.HIT_OFF)) == (chunk, decisions.off[k])


def test_an_opened_decision_ends_with_the_place_that_was_recorded(name: str) -> None:
    done = reviewed(name)
    decisions = done.decisions
    for k in np.flatnonzero(decisions.verdict == EXACT)[::501].tolist():
        opened = done.explain(int(decisions.row[k]))
        assert opened.chosen == opened.recorded == (decisions.chunk[k], decisions.off[k])
        assert all(tried.off is None for tried in opened.tried[:-1])
        assert "verdict: exact" in opened.text()


def test_early_calls_are_reviewed_and_have_negative_rows() -> None:
    decisions = reviewed("pcs-smp3-boot").decisions
    assert decisions.row[:70].tolist() == list(range(-70, 0))
    assert (decisions.verdict[:70] == EXACT).all()


def test_every_failure_is_explained_with_what_was_lacking() -> None:
    failures = reviewed("deb61-smp4-fail-begin").failures
    assert len(failures) == 394
    assert all(failure.is_explained for failure in failures)
    assert {failure.reason.split(":")[0] for failure in failures} == {"no area", "no populated page"}
    lacking = next(failure for failure in failures if failure.reason.startswith("no populated page"))
    assert lacking.would_get.startswith("GFP_KERNEL would have got offset")
    opened = reviewed("deb61-smp4-fail-begin").explain(lacking.row)
    assert opened.chosen is None
    assert "pages that are not populated" in opened.text()


def test_chunks_are_foreseen() -> None:
    chunks = reviewed("deb61-smp4-fail-begin").chunks
    assert sum(chunk.is_created for chunk in chunks) == int(
        (recorded("deb61-smp4-fail-begin").trace.event == L.EVENT_CREATE).sum()
    )
    assert sum(chunk.is_foreseen for chunk in chunks) >= 0.95 * len(chunks)
    assert {chunk.by for chunk in chunks} <= {"an allocation", "balance work"}


def test_population_is_trusted_until_pages_are_given_back() -> None:
    assert reviewed("pcs-smp4-medium-begin").trusted_until is None
    row = reviewed("deb61-i686-smp1-begin").trusted_until
    assert row is not None
    assert 0 < row < 15_700


def test_chunks_are_numbered_as_in_the_recording(name: str) -> None:
    done = reviewed(name)
    decisions, ordinal = done.decisions, done.rebuilt.event_ordinal
    is_traced = decisions.row >= 0
    assert decisions.chunk[is_traced].tolist() == ordinal[decisions.row[is_traced]].tolist()
    assert [chunk.chunk for chunk in done.chunks] == [ordinal[chunk.row] for chunk in done.chunks]
    with pytest.raises(RequestError, match="no event names chunk 12345"):
        done.chunk_of(12345)


def test_until_gives_the_same_beginning() -> None:
    part = review(recorded("pcs-smp4-pagefc-begin"), until=1500, jit="off").decisions
    whole = reviewed("pcs-smp4-pagefc-begin").decisions
    assert part.row[-1] < 1500
    same = part.verdict == whole.verdict[: len(part)]
    assert same[: len(part) - 50].all()  # the last ones may lack what came first


def test_compiled_and_plain_review_alike() -> None:
    compiled = review(recorded("pcs-smp4-pagefc-begin"), jit="wait")
    plain = reviewed("pcs-smp4-pagefc-begin")
    assert compiled.as_json() == plain.as_json()
    assert np.array_equal(compiled.decisions.predicted_off, plain.decisions.predicted_off)


def test_figures_for_programs(name: str) -> None:
    done = reviewed(name)
    figures = json.loads(json.dumps(done.as_json()))
    trace = recorded(name).trace
    assert figures["kernel"] == "v6.12-bitmap"
    assert sum(figures["events"].values()) == len(trace)
    assert figures["chunks"]["created"] == figures["events"]["percpu_create_chunk"]
    assert figures["lost"] == {"reported": 0, "inferred": 0}
    assert figures["unmatched_frees"] == 0
    sites = figures["by_call_site"]
    assert sum(site["allocs"] for site in sites) == figures["allocs"]
    assert sum(site["live"] for site in sites) == figures["live"]["areas"]
    assert sum(site["live_bytes"] for site in sites) == figures["live"]["bytes"]


def test_without_early_calls_readings_differ_only_where_the_start_is_unknown() -> None:
    done = review(replace(recorded("pcs-smp4-medium-begin"), early=None), jit="off")
    stats = [check for check in done.checks if check.kind == "stats"]
    assert len(stats) == 9
    assert not any(check.is_equal for check in stats)
    assert all(check.is_explained for check in stats)
    assert "known as stretches" in str(stats[0])
    assert done.counts["forced"] == 0


def test_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    review(recorded("deb61-smp4-boot"), progress=lambda done, of: told.append((done, of)), jit="off")
    assert told[-1][0] == told[-1][1]
    assert told == sorted(told)


# --- what cannot be reviewed -------------------------------------------------------------------


def test_without_a_geometry_only_events_are_counted() -> None:
    done = review(replace(recorded("deb61-smp4-boot"), geometry=None))
    assert not done.is_reviewed
    assert "geometry is not known" in done.text()
    figures = done.as_json()
    assert (figures["allocs"], figures["events"]["percpu_alloc_percpu"]) == (0, 390)
    assert figures["live"]["areas"] == 365
    assert "not_reviewed" in figures
    for call in (lambda: done.state_at(0), lambda: done.explain(0), lambda: done.chunk_of(0)):
        with pytest.raises(RequestError, match="could not be replayed"):
            call()


@pytest.mark.parametrize(
    ("release", "problem"),
    [("5.10.0-28-amd64", "no engine was checked"), ("4.13.0", "bytes_alloc, which v4.13 does not write")],
)
def test_no_kernel_is_reviewed_whose_engine_was_not_checked(release: str, problem: str) -> None:
    done = review(replace(recorded("deb61-smp4-boot"), kernel=kernel_for_release(release)))
    assert not done.is_reviewed
    assert problem in done.problem


def test_rows_that_are_not_there_are_refused() -> None:
    done = reviewed("deb61-smp4-boot")
    with pytest.raises(RequestError, match="there is no row 100000"):
        done.state_at(100_000)
    free = int(np.flatnonzero(recorded("deb61-smp4-boot").trace.event == L.EVENT_FREE)[0])
    with pytest.raises(RequestError, match="is no request"):
        done.explain(free)


# --- damaged recordings ---------------------------------------------------------------------------


def damaged(tmp_path: Path, name: str, keep: object) -> Recording:
    """A recording whose trace lost the events that `keep` refuses by number."""
    folder = tmp_path / name
    shutil.copytree(DATA / name, folder)
    for path in folder.glob("trace*.txt.gz"):
        lines = gzip.decompress(path.read_bytes()).decode().splitlines(keepends=True)
        kept = [line for number, line in enumerate(lines) if line.startswith("#") or keep(number)]  # type: ignore[operator]
        path.write_bytes(gzip.compress("".join(kept).encode()))
    return open_trace(folder)


def test_lost_frees_are_counted_and_the_review_goes_on(tmp_path: Path) -> None:
    recording = damaged(tmp_path, "pcs-smp4-pagefc-begin", lambda number: not 900 <= number < 1400)
    done = review(recording, jit="off")
    figures = done.as_json()
    assert figures["lost"]["inferred"] > 0
    assert figures["allocs"] == sum(figures[verdict] for verdict in VERDICTS)
    assert figures["learned"] > 0
    validate_bitmap_engine(done.state_at(len(recording.trace)))


def test_a_recording_that_begins_in_the_midst_learns_what_was_in_use(tmp_path: Path) -> None:
    recording = damaged(tmp_path, "deb61-smp4-boot", lambda number: number > 200)
    counts = review(recording, jit="off").counts
    assert counts["forced"] <= 0.05 * counts["allocs"]


def test_the_search_is_bounded_when_everything_disagrees() -> None:
    recording = recorded("pcs-smp4-pagefc-begin")
    trace = recording.trace
    off = np.where(trace.event == L.EVENT_ALLOC, (trace.off * 7 + 4096) % 65536 & ~3, trace.off)
    done = review(replace(recording, trace=_with_off(trace, off)), jit="off")
    assert done.counts["forced"] > 100
    assert done.decisions.where(FORCED).size == done.counts["forced"]
    assert sum(done.forced_causes().values()) == done.counts["forced"]


def _with_off(trace: object, off: np.ndarray) -> object:
    return with_columns(trace, off=off)  # type: ignore[arg-type]


def test_state_stays_by_the_events_where_many_of_them_come_late() -> None:
    recording = open_trace(MADE / "late-events")
    looked_at = review(recording, jit="off")
    assert looked_at.counts["forced"] <= 1
    event, nr_early = recording.trace.event, len(recording.early or ())
    steps = np.where(event == L.EVENT_ALLOC, 1, np.where(event == L.EVENT_FREE, -1, 0))
    live = nr_early + np.append(0, np.cumsum(steps))
    for row in range(0, len(event), 170):
        engine = looked_at.state_at(row)
        counted = engine.scalar(L.NR_ALLOC) - engine.scalar(L.NR_DEALLOC)
        assert abs(counted - live[row]) <= 6, f"row {row}"  # requests under way at one time, on 3 CPUs


def test_pages_are_not_trusted_past_a_reading_that_says_otherwise(tmp_path: Path) -> None:
    folder = tmp_path / "recording"
    shutil.copytree(DATA / "pcs-smp4-medium-begin", folder)
    assert review(open_trace(folder), jit="off").trusted_until is None
    readings = sorted((folder / "snap").iterdir())
    wrong = readings[len(readings) // 2]
    text = wrong.read_text()
    wrong.write_text(re.sub(r"(Percpu: +)([0-9]+)", lambda found: f"{found[1]}{int(found[2]) + 16}", text))
    looked_at = review(open_trace(folder), jit="off")
    contradicting = next(check for check in looked_at.checks if check.is_of_other_pages)
    assert contradicting.file.endswith(wrong.name)
    assert looked_at.trusted_until is not None
    assert 0 < looked_at.trusted_until <= contradicting.row
