"""Questions about change: markers, differences, percpu_stats, and whether the recording itself is sound."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_traces import alloc, create, destroy, fail, free, marker, trace

import percpu_lab as lab
from percpu_lab.errors import RequestError
from percpu_lab.questions import Moment, around, consistency, diff, lint, phases
from percpu_lab.stats import PercpuStats, read_stats_texts
from percpu_lab.traces.read import read_trace

DATA = Path(__file__).parent / "data" / "real"
NEW = 0x50000

STORY = trace(
    alloc(0, 64, 1.0, site="before+0x0/0x1"),
    marker("BEGIN nets 8", 2.0),
    alloc(64, 100, 2.1, site="net+0x0/0x1"),
    alloc(256, 100, 2.2, site="net+0x0/0x1"),
    marker("SNAP_BEGIN 001 mid", 2.3),
    create(2.4, NEW),
    alloc(0, 8, 2.5, site="net+0x0/0x1", base=NEW),
    free(0, 2.6),
    fail(512, 2.7),
    marker("END nets", 3.0),
    free(0, 3.1, base=NEW),
    destroy(3.2, NEW),
)


# --- markers ----------------------------------------------------------------------------


def test_phases_count_the_events_from_marker_to_marker() -> None:
    rows = phases(STORY).rows
    assert [row.marker for row in rows] == ["(start)", "BEGIN nets 8", "SNAP_BEGIN 001 mid", "END nets"]
    assert [(row.nr_alloc, row.nr_free, row.nr_fail, row.nr_create, row.nr_destroy) for row in rows] == [
        (1, 0, 0, 0, 0), (2, 0, 0, 0, 0), (1, 1, 1, 1, 0), (0, 1, 0, 0, 1),
    ]  # fmt: skip
    assert [row.live_change for row in rows] == [1, 2, 0, -1]
    assert [row.live_change_bytes for row in rows] == [64, 200, 8 - 64, -8]
    assert [row.line for row in rows] == [None, 2, 5, 10]


def test_phases_end_where_the_trace_ends() -> None:
    rows = phases(STORY).rows
    assert sum(row.nr_alloc + row.nr_free + row.nr_fail + row.nr_create + row.nr_destroy for row in rows) == len(STORY)
    assert rows[1].span_seconds == pytest.approx(0.3)


def test_around_goes_from_a_begin_to_its_end() -> None:
    found = around(STORY, "BEGIN nets")
    assert (found.row, found.after, found.before, found.end_marker) == (1, (1, 7), (0, 1), "END nets")
    assert (found.live_change, found.live_change_bytes) == (2, 144)
    assert found.peak_change == 3
    assert (found.nr_create, found.nr_destroy, found.nr_fail) == (1, 0, 1)
    assert [(row.call_site, row.live_change, row.live_change_bytes) for row in found.rows] == [
        ("net+0x0/0x1", 3, 208),
        ("before+0x0/0x1", -1, -64),
    ]
    assert found.rows[1].before_alloc == 1


def test_around_another_marker_goes_to_the_next_one() -> None:
    assert around(STORY, "SNAP_BEGIN").after == (3, 7)
    assert around(STORY, "END nets").after == (7, 9)
    assert around(STORY, "END nets").end_marker == ""


def test_around_an_unknown_marker_names_those_there_are() -> None:
    with pytest.raises(RequestError, match=r"no marker has 'disk' in it.*'BEGIN nets 8'"):
        around(STORY, "disk")


@pytest.mark.parametrize("ask", [phases, consistency, lambda s: around(s, "x"), lambda s: diff(Moment(s, 1), s)])
def test_the_past_of_a_run_whose_ring_was_too_small_is_refused(ask: Any) -> None:
    a = lab.Allocator(trace_events=16)
    kept = [a.alloc_percpu(8) for _ in range(40)]
    with pytest.raises(RequestError, match=r"no marker|trace_events larger"):
        ask(a)
    assert kept


# --- differences --------------------------------------------------------------------------


def test_diff_of_two_moments_names_call_sites() -> None:
    found = diff(Moment(STORY, 1), Moment(STORY, "END nets"))
    rows = [(row.where, row.what, row.before, row.after, row.change) for row in found.rows]
    assert rows == [
        ("total", "areas", 1, 3, 2),
        ("total", "bytes", 64, 208, 144),
        ("total", "chunks", 1, 2, 1),
        ("net+0x0/0x1", "areas", 0, 3, 3),
        ("net+0x0/0x1", "bytes", 0, 208, 208),
        ("before+0x0/0x1", "areas", 1, 0, -1),
        ("before+0x0/0x1", "bytes", 64, 0, -64),
    ]


def test_diff_of_a_moment_with_itself_is_empty() -> None:
    found = diff(Moment(STORY, 4), Moment(STORY, 4))
    assert (found.rows, found.nr_same, found.headline()) == ((), 2, "nothing changed")


def test_diff_of_two_runs() -> None:
    one, other = lab.Allocator(), lab.Allocator()
    kept = other.alloc_percpu(32)
    found = diff(one, other)
    assert [(row.what, row.change) for row in found.rows if row.where == "total"] == [("areas", 1), ("bytes", 32)]
    assert kept


def test_diff_of_percpu_stats_pairs_chunks_by_their_numbers() -> None:
    a = lab.Allocator(engine="v6.12-bitmap")
    before = a.stats()
    kept = [a.alloc_percpu(64) for _ in range(3)]
    found = diff(before, a.stats())
    assert ("total", "nr_alloc", 0, 3) in [(row.where, row.what, row.before, row.after) for row in found.rows]
    assert ("first chunk 1", "nr_alloc", 0, 3) in [(row.where, row.what, row.before, row.after) for row in found.rows]
    assert kept


def test_diff_of_a_mail_with_two_readings_tells_new_chunks() -> None:
    texts = read_stats_texts((DATA / "stats" / "later-before-and-after-quoted.txt").read_text())
    found = diff(texts[0].stats, texts[1].stats)
    assert sum(row.what == "listed" and row.after == 1 for row in found.rows) == 8
    assert "paired" in " ".join(found.inferred)


def test_diff_refuses_to_mix_stats_with_traces() -> None:
    with pytest.raises(RequestError, match="compare it with another percpu_stats"):
        diff(lab.Allocator().stats(), STORY)


# --- lint -------------------------------------------------------------------------------


def test_lint_flags_the_chunks_that_are_not_listed() -> None:
    stats = PercpuStats.from_text((DATA / "stats" / "patched-after.txt").read_text())
    found = lint(stats)
    assert [row.rule for row in found.rows] == ["hidden-chunks"]
    assert "43 of 48 chunks are not listed" in found.headline()
    assert "45 of the 61 empty populated pages" in found.rows[0].text


def test_lint_agrees_with_a_sound_file() -> None:
    found = lint(PercpuStats.from_text((DATA / "stats" / "patched-before.txt").read_text()))
    assert found.rows == ()
    assert "the numbers agree with each other" in found.headline()


def test_lint_refuses_anything_else() -> None:
    with pytest.raises(RequestError, match="is no percpu_stats"):
        lint(STORY)


# --- consistency --------------------------------------------------------------------------


def kinds(subject: Any) -> dict[str, tuple[str, int, int | None]]:
    return {row.kind: (row.weight, row.nr, row.line) for row in consistency(subject).rows}


def test_a_sound_trace_has_nothing_to_report() -> None:
    found = consistency(STORY)
    assert found.is_sound
    assert {row.kind for row in found.rows} == {"phases open"}  # SNAP_BEGIN has no SNAP_END


def test_consistency_counts_frees_without_an_allocation() -> None:
    found = trace(alloc(0, 8, 1.0), free(64, 2.0), free(128, 3.0))
    assert kinds(found)["unmatched frees"] == ("note", 2, 2)


def test_consistency_counts_memory_that_was_handed_out_twice() -> None:
    found = consistency(trace(alloc(0, 64, 1.0), alloc(32, 64, 2.0)))
    assert not found.is_sound
    assert [(row.kind, row.nr, row.line) for row in found.rows] == [("lost frees", 1, 2)]


def test_consistency_counts_areas_that_went_with_their_chunk() -> None:
    found = trace(create(1.0, NEW), alloc(0, 8, 2.0, base=NEW), destroy(3.0, NEW))
    assert kinds(found)["lost frees"][:2] == ("damage", 1)


def test_consistency_repeats_what_the_trace_says_is_lost() -> None:
    found = trace(alloc(0, 8, 1.0), "CPU:2 [LOST 147 EVENTS]", alloc(8, 8, 2.0))
    assert kinds(found)["events lost"] == ("damage", 147, 2)
    assert consistency(found).nr_lost == 147


def test_consistency_tells_small_steps_of_clocks_from_a_second_boot() -> None:
    assert kinds(trace(alloc(0, 8, 5.0), alloc(8, 8, 4.9995)))["steps back"] == ("note", 1, 2)
    found = kinds(trace(alloc(0, 8, 50.0), alloc(8, 8, 51.0), alloc(16, 8, 0.5), alloc(24, 8, 0.6)))
    assert found["mix"] == ("damage", 1, 3)
    assert "steps back" not in found


def test_consistency_names_phases_without_an_end() -> None:
    found = consistency(trace(marker("BEGIN bpf 3", 0.5), alloc(0, 8, 1.0), marker("SNAP_BEGIN 001 x", 2.0)))
    (row,) = (row for row in found.rows if row.kind == "phases open")
    assert (row.nr, row.weight) == (2, "note")
    assert "bpf" in row.text


@pytest.mark.parametrize("name", ["lost-trace_pipe", "tiny-overwrite"])
def test_consistency_of_recordings_with_losses(name: str) -> None:
    recorded = read_trace(DATA / "traces" / f"{name}.txt.gz")
    found = consistency(recorded)
    assert not found.is_sound
    assert found.nr_lost == recorded.lost > 0


@pytest.mark.parametrize("ask", [phases, consistency, lambda s: around(s, "BEGIN"), lambda s: diff(s, s)])
def test_these_answers_print_and_become_json(ask: Any) -> None:
    answer = ask(STORY)
    assert answer.text().startswith(answer.headline())
    assert json.loads(json.dumps(answer.as_json()))["answer"] == answer.headline()
    assert len(answer.frame()) == len(answer.rows)


@pytest.mark.parametrize(
    ("calls", "end"),
    [
        (
            [create(2.0, NEW), create(0.5, NEW)],
            "; the file holds more than one recording, and only the first was read, before line 2; damage: 1 mix",
        ),
        (
            [create(2.0, NEW), alloc(0, 8, 3.0, base=NEW)[:90]],
            "; line 2 may be cut, and what followed it be missing; what was read is consistent",
        ),
    ],
    ids=["two recordings", "cut"],
)
def test_headline_says_where_reading_ended_before_the_file_did(calls: list[str], end: str) -> None:
    assert consistency(trace(*calls)).headline() == f"1 event{end}"
