"""Questions that need the allocator itself: slots, why a request failed, why a chunk stays, ten lines of verdict."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_traces import alloc, create, fail, trace

import percpu_lab as lab
from percpu_lab.core import layout as L
from percpu_lab.errors import RequestError
from percpu_lab.questions import (
    Subject,
    decisions,
    explain,
    failures,
    slots,
    top,
    verdict,
    waste,
    why_failed,
    why_not_freed,
)
from percpu_lab.review import Review, review
from percpu_lab.traces.early import with_columns
from percpu_lab.traces.recorded import RecordedTrace

ROOT = Path(__file__).parent
BOOT = ROOT / "data" / "real" / "folders" / "pcs-smp3-boot"
ATOMIC = ROOT.parent / "notebooks" / "data" / "deb61-smp4-fail-atomic"
ENGINE = "v6.12-bitmap"


@pytest.fixture(scope="module")
def reviewed() -> Review:
    return review(lab.open_trace(ATOMIC), jit="off")


@pytest.fixture(scope="module")
def boot() -> Subject:
    return Subject.of(review(lab.open_trace(BOOT), jit="off"))


# --- slots ------------------------------------------------------------------------------


def test_slots_are_those_of_percpu_stats() -> None:
    a = lab.Allocator(engine=ENGINE)
    kept = [a.alloc_percpu(32768) for _ in range(3)]
    found = slots(a)
    stats = a.stats()
    assert [row.free_bytes for row in found.rows] == [chunk.free_bytes for chunk in stats.chunks]
    assert [row.contig_hint_bytes for row in found.rows] == [chunk.contig_bytes for chunk in stats.chunks]  # type: ignore[union-attr]
    assert [row.nr_areas for row in found.rows] == [chunk.nr_alloc for chunk in stats.chunks]
    assert found.rows[0].slot is None
    assert kept


def test_slots_of_a_recording_come_from_its_replay(boot: Subject) -> None:
    assert boot.recording is not None
    found = slots(boot)
    stats = boot.recording.stats[-1].stats
    assert [row.free_bytes for row in found.rows] == [chunk.free_bytes for chunk in stats.chunks]
    assert found.nr_empty_pop_pages == stats.global_stats.empty_pop_pages  # type: ignore[attr-defined]


def test_slots_of_the_past_of_a_run_are_not_known() -> None:
    a = lab.Allocator()
    a.alloc_percpu(8)
    with pytest.raises(RequestError, match="do not tell slots"):
        slots(a, at=1)


def test_slots_of_events_alone_are_not_known() -> None:
    with pytest.raises(RequestError, match="give a Recording, or an Allocator"):
        slots(trace(alloc(0, 8, 1.0)))


def test_waste_of_a_reviewed_recording_counts_the_pages_of_the_model(boot: Subject) -> None:
    (empty,) = (row for row in waste(boot).rows if row.way == "empty populated pages")
    assert boot.recording is not None
    chunks = boot.recording.stats[-1].stats.chunks
    assert empty.nr == sum(chunk.empty_pop_pages for chunk in chunks)  # type: ignore[union-attr]
    assert empty.known == "exact"
    assert waste(boot, at=0).rows[-1].nr is not None


# --- why_not_freed --------------------------------------------------------------------------


def test_the_first_chunk_is_never_freed() -> None:
    found = why_not_freed(lab.Allocator(engine=ENGINE), 0)
    assert found.rules[0].text == "the first and the reserved chunk are immutable: they stay for ever"
    assert "holds no area" in found.headline()


def test_a_chunk_with_one_area_is_pinned_by_it() -> None:
    a = lab.Allocator(engine=ENGINE)
    kept = [a.alloc_percpu(32768) for _ in range(4)]
    (chunk,) = {row.chunk for row in slots(a).rows if row.chunk == "chunk 1"}
    found = why_not_freed(a, 1)
    assert found.nr_areas == sum(row.nr_areas for row in slots(a).rows if row.chunk == chunk)
    assert found.rows[0].size_bytes == found.used_bytes
    assert found.nr_pages == found.used_bytes // 4096
    assert [rule.is_met for rule in found.rules if rule.name == "wholly free"] == [False]
    assert kept


def test_a_wholly_free_chunk_is_the_spare() -> None:
    a = lab.Allocator(engine=ENGINE)
    kept = [a.alloc_percpu(32768) for _ in range(3)]
    for ptr in kept:
        a.free_percpu(ptr)
    a.balance()
    found = why_not_freed(a, 1)
    assert found.rows == ()
    assert "the first wholly free chunk is the spare" in found.headline()


def test_the_rule_of_reclaim_is_shown_with_its_numbers() -> None:
    a = lab.Allocator(engine=ENGINE)
    kept = [a.alloc_percpu(4096, 4096) for _ in range(40)]
    for ptr in kept[10:16]:
        a.free_percpu(ptr)
    chunk = next(c for c in a.chunks if c.ordinal == 1)
    found = why_not_freed(a, 1)
    (rule,) = (rule for rule in found.rules if rule.name.endswith("enough empty pages in it"))
    assert rule.is_met == (chunk.nr_empty_pop_pages >= chunk.nr_pages // 4 and chunk.nr_empty_pop_pages > 0)
    assert f"{chunk.nr_empty_pop_pages} empty page" in rule.text
    assert f"{chunk.nr_pages // 4} are needed" in rule.text


def test_who_pins_a_recorded_chunk_is_told_by_call_site_and_task(boot: Subject) -> None:
    found = why_not_freed(boot, 0)
    assert found.nr_areas == sum(row.nr_areas for row in found.rows) == 354
    assert found.used_bytes == sum(row.size_bytes for row in found.rows)
    assert found.rows[0].size_bytes >= found.rows[-1].size_bytes
    assert found.picture() is not None


def test_the_older_engine_gives_nothing_back_but_whole_chunks() -> None:
    a = lab.Allocator(engine="v4.13-areamap")
    kept = [a.alloc_percpu(32768) for _ in range(3)]
    found = why_not_freed(a, 1)
    assert [rule.name for rule in found.rules] == ["wholly free"]
    for ptr in kept:
        a.free_percpu(ptr)
    assert why_not_freed(a, 1).headline() == "chunk 1 holds no area: balance work is pending, and will destroy it"
    a.balance()
    (left,) = (chunk.ordinal for chunk in a.chunks if chunk.ordinal > 0)
    assert "is the spare" in why_not_freed(a, left).headline()
    assert [row.nr_empty for row in slots(a).rows if row.chunk == f"chunk {left}"] == [None]


def test_a_chunk_that_is_not_there_is_refused() -> None:
    with pytest.raises(RequestError, match="there is no chunk 9"):
        why_not_freed(lab.Allocator(), 9)


# --- why_failed -----------------------------------------------------------------------------


def test_failures_of_a_recording_are_grouped(reviewed: Review) -> None:
    found = failures(reviewed)
    trace = reviewed.recording.trace
    assert found.nr_failed == int((trace.event == L.EVENT_FAIL).sum()) == 740
    assert sum(row.nr for row in found.rows) == 740
    assert found.nr_explained == sum(failure.is_explained for failure in reviewed.failures)
    assert {row.request_bytes for row in found.rows} == {512, 2048, 8192, 32760}
    assert [row.nr for row in found.rows] == sorted((row.nr for row in found.rows), reverse=True)


@pytest.mark.parametrize("word", ["no populated page", "no area"])
def test_an_atomic_failure_is_replayed_to_its_moment(reviewed: Review, word: str) -> None:
    group = next(row for row in failures(reviewed).rows if row.reason.startswith(word))
    found = why_failed(reviewed, group.first_row)
    assert (found.row, found.line, found.size_bytes) == (group.first_row, group.first_line, group.request_bytes)
    assert found.is_explained
    assert found.is_atomic
    assert found.would_get.startswith("GFP_KERNEL would have got")
    wanted = "not populated" if word == "no populated page" else ""
    assert found.rows
    assert all(wanted in row.why for row in found.rows)
    assert found.task.startswith("wl on CPU")


def test_the_model_agrees_that_gfp_kernel_would_have_got_it(reviewed: Review) -> None:
    group = next(row for row in failures(reviewed).rows if row.reason.startswith("no populated page"))
    engine = reviewed.state_at(group.first_row)
    assert engine.request(group.request_bytes, group.align, L.FLAG_ATOMIC)[0] == 0
    assert engine.request(group.request_bytes, group.align, 0)[0] != 0


def test_failures_of_a_simulated_run_have_the_engines_reason() -> None:
    a = lab.Allocator(engine=ENGINE)
    kept = a.alloc_percpu(16384, reserved=True)
    found = failures(a)
    assert [(row.reason, row.nr, row.is_reserved) for row in found.rows] == [(kept.reason, 1, True)]
    assert why_failed(a).reason == kept.reason


def test_without_a_geometry_the_reason_is_not_known() -> None:
    found = why_failed(trace(alloc(0, 8, 1.0), fail(64, 2.0)))
    assert (found.row, found.line, found.is_explained) == (1, 2, False)
    assert "not known" in found.headline()
    assert "could not be replayed" in found.inferred[0]


LOG = """\
[    1.900000] percpu: allocation failed, size=64 align=8 atomic=0, alloc from reserved chunk failed
[    1.900001] CPU: 1 PID: 7 Comm: modprobe
[    1.900002] Call Trace:
[    1.900003]  <TASK>
[    1.900004]  dump_stack_lvl+0x44/0x5c
[    1.900005]  pcpu_alloc+0x3c1/0x7e0
[    1.900006]  load_module+0xd80/0x1c00
[    2.500000] illegal size (40000) or align (8) for percpu allocation
[    2.500001] WARNING: CPU: 0 PID: 9 at mm/percpu.c:1749 pcpu_alloc+0x6c4/0x7e0
"""


def test_the_kernel_log_tells_who_asked_and_what_was_illegal(tmp_path: Path) -> None:
    (tmp_path / "trace.txt").write_text("\n".join([alloc(0, 8, 1.0), fail(64, 1.9, atomic=0, reserved=1), ""]))
    (tmp_path / "dmesg.txt").write_text(LOG)
    recording = lab.open_trace(tmp_path)
    found = failures(recording)
    assert (found.nr_failed, found.nr_illegal) == (1, 1)
    assert found.rows[1].reason == "illegal: more than 32,768 bytes"
    assert (found.rows[1].first_row, found.rows[1].first_line) == (None, 8)
    why = why_failed(recording)
    assert why.reason == "alloc from reserved chunk failed"
    assert why.asked_by == "load_module+0xd80/0x1c00"


def test_a_row_that_did_not_fail_is_refused() -> None:
    with pytest.raises(RequestError, match="failed rows: 1"):
        why_failed(trace(alloc(0, 8, 1.0), fail(64, 2.0)), 0)
    with pytest.raises(RequestError, match="no request failed"):
        why_failed(trace(alloc(0, 8, 1.0)))


# --- decisions --------------------------------------------------------------------------------


def test_decisions_add_up(reviewed: Review, boot: Subject) -> None:
    for subject, nr in ((reviewed, 4862), (boot, 380)):
        found = decisions(subject)
        assert found.nr_decisions == nr == sum(row.nr for row in found.rows)
        assert found.nr_exact + found.nr_reordered + found.nr_learned + found.nr_forced == nr
        for row in found.rows:
            assert row.nr == 1 or row.verdict != "forced"


def test_one_that_is_not_explained_is_listed_with_what_the_model_wants(boot: Subject) -> None:
    assert boot.recording is not None
    broken = replace(boot.recording, early=None, trace=_moved(boot.recording.trace))
    found = decisions(review(broken, jit="off"))
    forced = [row for row in found.rows if row.verdict == "forced"]
    assert len(forced) == found.nr_forced > 0
    assert "the model wants" in forced[0].cause
    assert "not explained" in found.headline()


def _moved(recorded: RecordedTrace) -> RecordedTrace:
    """The same trace with its last area at a place that no allocator would choose."""
    last = int(np.flatnonzero(recorded.event == L.EVENT_ALLOC)[-1])
    off = recorded.off.copy()
    off[last] = 30000
    return with_columns(recorded, off=off)


def test_a_decision_is_opened(boot: Subject) -> None:
    assert boot.recording is not None
    trace = boot.recording.trace
    row = int(np.flatnonzero(trace.event == L.EVENT_ALLOC)[-1])
    found = explain(boot, row)
    assert found.recorded == (0, int(trace.off[row])) == found.decided
    assert (found.row, found.line) == (row, int(trace.line[row]))
    assert found.rows[-1].off == trace.off[row]
    assert explain(boot, -70).line is None


def test_a_free_is_no_decision(boot: Subject) -> None:
    assert boot.recording is not None
    row = int(np.flatnonzero(boot.recording.trace.event == L.EVENT_FREE)[0])
    with pytest.raises(RequestError, match="is no request"):
        explain(boot, row)


# --- verdict ------------------------------------------------------------------------------


def test_a_verdict_has_ten_lines_at_most(boot: Subject, reviewed: Review) -> None:
    for subject in (boot, reviewed, trace(alloc(0, 8, 1.0))):
        assert len(verdict(subject).text().splitlines()) <= 11
        assert len(verdict(subject).rows) <= 10


def test_a_verdict_says_what_matters(boot: Subject) -> None:
    text = verdict(boot).text()
    assert "6.1.192-pcpustats, 3 CPUs, unit 512 KiB" in text
    assert "380" in text
    assert "2 of 2 readings of percpu_stats equal" in text
    assert "354 areas" in text


def test_a_verdict_says_what_percpu_stats_cannot_agree_on(boot: Subject) -> None:
    assert boot.recording is not None
    found = verdict(review(replace(boot.recording, early=None), jit="off"))
    assert "percpu_stats counts 70 areas more" in found.text()


@pytest.mark.parametrize(
    "ask", [slots, failures, verdict, decisions, lambda s: explain(s, 3), lambda s: why_not_freed(s, 0)]
)
def test_these_answers_print_and_become_json(ask: Any, boot: Subject) -> None:
    answer = ask(boot)
    assert json.loads(json.dumps(answer.as_json()))["answer"] == answer.headline()
    assert len(answer.frame()) == len(answer.rows)
    assert answer.text()


def test_why_not_freed_takes_the_chunk_that_it_names_where_a_trace_meets_another_before_the_first(
    tmp_path: Path,
) -> None:
    (tmp_path / "dmesg.txt.gz").write_bytes((BOOT / "dmesg.txt.gz").read_bytes())
    calls = [alloc(49152, 8, 1.0, base=0x90000), alloc(8192, 64, 1.1, base=0x10000), alloc(49160, 8, 1.2, base=0x90000)]
    (tmp_path / "trace.txt").write_text("\n".join([*calls, ""]))
    whole = Subject.of(review(lab.open_trace(tmp_path), jit="off"))
    assert whole.rebuilt is not None
    assert whole.trace.chunk.tolist() == [0, 1, 0]
    named = whole.rebuilt.event_ordinal.tolist()
    assert named[1] == 0
    assert named[0] == named[2] == 1
    found = why_not_freed(whole, named[0])
    assert found.nr_populated is not None
    assert found.nr_areas == 2
    assert why_not_freed(whole, 0).rules[0].text.startswith("the first and the reserved chunk are immutable")


def test_all_answers_give_a_chunk_one_number(tmp_path: Path) -> None:
    (tmp_path / "dmesg.txt.gz").write_bytes((BOOT / "dmesg.txt.gz").read_bytes())
    (tmp_path / "uname.txt").write_bytes((BOOT / "uname.txt").read_bytes())
    calls = [
        alloc(8192, 64, 1.0, base=0x10000),
        alloc(4096, 64, 1.1, base=0x20000, reserved=1),
        alloc(40960, 64, 1.2, base=0x90000),
        create(1.3, 0xA0000),
        alloc(0, 32_768, 1.4, base=0xA0000),
        alloc(32_768, 8, 1.5, base=0xA0000),
        alloc(49152, 8, 1.6, base=0x80000),
        alloc(49160, 8, 1.7, base=0x80000),
        alloc(49168, 8, 1.8, base=0x80000),
    ]
    (tmp_path / "trace.txt").write_text("\n".join([*calls, ""]))
    whole = Subject.of(review(lab.open_trace(tmp_path), jit="off"))
    recorded = {row.who: row.nr_areas for row in top(whole, by="chunk").rows}
    assert recorded == {"reserved": 1, "first chunk": 1, "chunk 1": 1, "chunk 2": 3, "chunk 3": 2}
    seen = {row.chunk: row for row in slots(whole).rows}
    assert set(seen) == set(recorded)
    assert seen["chunk 3"].nr_areas == 2
    assert whole.rebuilt is not None
    for row, ordinal in enumerate(whole.rebuilt.event_ordinal.tolist()):
        if whole.trace.event[row] == L.EVENT_ALLOC:
            opened = explain(whole, row).recorded
            assert opened is not None
            assert opened[0] == ordinal
    for chunk in (1, 2, 3):
        assert why_not_freed(whole, chunk).nr_areas == recorded[f"chunk {chunk}"]
