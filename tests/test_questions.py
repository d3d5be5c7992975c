"""Questions about who holds memory and how long: each answer is worked out by hand, or by pandas from the events."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_traces import BASE, alloc, free, marker, trace

import percpu_lab as lab
from percpu_lab.errors import RequestError
from percpu_lab.questions import Answer, Subject, cost, leaks, lifetimes, reserved, top, waste
from percpu_lab.questions.leaks import Suspect
from percpu_lab.traces.read import read_trace_text
from percpu_lab.traces.recording import Recording

FOLDERS = Path(__file__).parent / "data" / "real" / "folders"


@pytest.fixture(scope="module", params=["deb61-smp4-boot", "pcs-smp3-boot"])
def boot(request: pytest.FixtureRequest) -> Recording:
    return lab.open_trace(FOLDERS / request.param)


def events_of(recording: Recording) -> pd.DataFrame:
    """All recorded allocations as pandas sees them, each with the row of its free."""
    parts = [part.frame() for part in (recording.early, recording.trace) if part is not None]
    events = pd.concat(parts, ignore_index=True)
    made = events[events.event == "percpu_alloc_percpu"].copy()
    freed = events[events.event == "percpu_free_percpu"]
    made["died"] = -1
    for row, gone in freed.iterrows():
        mine = made[(made.base_addr == gone.base_addr) & (made.off == gone.off) & (made.index < row)]
        made.loc[mine.index[-1], "died"] = row
    return made


# --- top ----------------------------------------------------------------------------


TWO_SITES = trace(
    alloc(0, 64, 1.0, site="a+0x1/0x2"),
    alloc(64, 64, 1.1, site="a+0x1/0x2", task="ip-9"),
    alloc(128, 512, 1.2, site="b+0x1/0x2"),
    free(0, 1.3),
)


def test_top_adds_up_what_is_live_by_call_site() -> None:
    rows = top(TWO_SITES).rows
    assert [(row.who, row.nr_areas, row.size_bytes, row.bytes_alloc) for row in rows] == [
        ("b+0x1/0x2", 1, 512, 2048),
        ("a+0x1/0x2", 1, 64, 256),
    ]
    assert rows[0].share == 512 / 576


def test_top_can_count_what_was_freed_too() -> None:
    assert [row.size_bytes for row in top(TWO_SITES, live=False).rows] == [512, 128]


def test_top_can_look_at_an_earlier_moment() -> None:
    assert top(TWO_SITES, at=2).size_bytes == 128
    assert top(TWO_SITES, at=0).headline() == "nothing is live"


@pytest.mark.parametrize(
    ("by", "who"),
    [("task", ["task", "ip"]), ("size", ["512 bytes", "64 bytes"]), ("chunk", ["first chunk"])],
)
def test_top_tells_holders_apart_by_task_size_or_chunk(by: Any, who: list[str]) -> None:
    assert [row.who for row in top(TWO_SITES, by).rows] == who


@pytest.mark.parametrize("by", ["call_site", "task"])
def test_top_agrees_with_pandas(boot: Recording, by: Any) -> None:
    made = events_of(boot)
    live = made[made.died < 0]
    wanted = live.groupby(by)["size"].agg(["count", "sum"])
    found = {row.who: (row.nr_areas, row.size_bytes) for row in top(boot, by).rows}
    if by == "task":
        found = {who: pair for who, pair in found.items() if who != "(not recorded)"}
        wanted = wanted.drop(index="", errors="ignore")
    assert found == {name: tuple(pair) for name, pair in wanted.iterrows()}


def test_top_says_when_call_sites_are_only_wrappers() -> None:
    lines = [alloc(8 * k, 8, 1.0, site="__alloc_percpu+0x14/0x20") for k in range(3)]
    assert "tasks tell who asked" in " ".join(top(trace(*lines)).certain)
    assert "tasks tell" not in " ".join(top(TWO_SITES).certain)


def test_questions_can_be_asked_of_a_recorded_run(boot: Recording) -> None:
    run = lab.RecordedRun.of(boot)
    assert top(run).rows == top(boot).rows
    assert leaks(run).rows == leaks(boot).rows


def test_top_refuses_another_key_and_a_moment_that_is_not_there() -> None:
    with pytest.raises(RequestError, match="choose from call_site"):
        top(TWO_SITES, "colour")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="give 0 to 4"):
        top(TWO_SITES, at=5)
    with pytest.raises(RequestError, match="no marker has 'nets'"):
        top(TWO_SITES, at="nets")


def test_questions_are_a_part_of_the_package_that_needs_no_import() -> None:
    assert lab.questions.top is top
    assert "questions" in dir(lab)


def test_questions_refuse_what_has_no_areas() -> None:
    with pytest.raises(RequestError, match="no question can be asked of 'int'"):
        top(3)


# --- leaks --------------------------------------------------------------------------


def leak_and_churn() -> str:
    """A site that keeps one of two areas, one that frees all late, and one that holds four from the start."""
    lines = [alloc(8 * k, 8, 0.001 * k, site="kept+0x0/0x1") for k in range(4)]
    for k in range(80):
        t = 1.0 + k
        lines += [alloc(1000 + 16 * k, 16, t, site="leak+0x0/0x1"), alloc(9000, 16, t, site="leak+0x0/0x1")]
        lines += [free(9000, t + 0.1)]
    for burst in range(4):
        lines += [alloc(20000 + 8 * k, 8, 10.0 * burst + 100, site="late+0x0/0x1") for k in range(10)]
        lines += [free(20000 + 8 * k, 10.0 * burst + 105) for k in range(10 if burst < 3 else 4)]
    return "\n".join(sorted(lines, key=lambda line: float(line.split("..... ")[1].split(":")[0])))


def by_site(rows: tuple[Suspect, ...]) -> dict[str, Suspect]:
    return {row.who.split("+")[0]: row for row in rows}


def test_leaks_tells_backlog_from_what_is_kept() -> None:
    found = by_site(leaks(read_trace_text(leak_and_churn())).rows)
    assert (found["late"].verdict, found["late"].nr_live) == ("backlog", 6)
    assert found["kept"].verdict == "kept"


def test_leaks_sees_a_steady_leak_while_it_runs() -> None:
    found = leaks(read_trace_text(leak_and_churn()), at=244)
    assert found.rows[0].who == "leak+0x0/0x1"
    assert found.rows[0].verdict == "grows"
    assert (found.rows[0].nr_live, found.rows[0].live_bytes) == (80, 1280)
    assert found.rows[0].lows == tuple(sorted(found.rows[0].lows))
    assert by_site(found.rows)["kept"].verdict == "kept"
    assert "growth is no proof" in " ".join(found.inferred)


def test_leaks_tells_tasks_apart_where_call_sites_say_nothing() -> None:
    lines = [alloc(8 * k, 8, 1.0 + k, site="__alloc_percpu+0x14/0x20", task=f"ip{k % 2}-9") for k in range(6)]
    assert [row.who for row in leaks(trace(*lines)).rows] == ["ip0", "ip1"]


def test_leaks_counts_the_age_of_areas() -> None:
    lines = [alloc(0, 8, 1.0), alloc(8, 8, 3.0), alloc(16, 8, 5.0)]
    found = leaks(trace(*lines))
    assert (found.rows[0].oldest_seconds, found.rows[0].median_seconds) == (4.0, 2.0)
    assert leaks(trace(*lines), older_than=1.0).rows[0].nr_live == 2


def test_leaks_keeps_calls_before_tracing_apart() -> None:
    rows = leaks(lab.open_trace(FOLDERS / "pcs-smp3-boot")).rows
    early = [row for row in rows if row.verdict == "before tracing"]
    assert [row.nr_live for row in early] == [70]
    assert sum(row.nr_live for row in rows) == 354  # nr_cur_alloc of stats/001-boot-end.txt


def test_areas_from_before_tracing_are_counted_by_percpu_stats_where_their_calls_were_not_kept(tmp_path: Path) -> None:
    folder = tmp_path / "boot"
    shutil.copytree(FOLDERS / "pcs-smp3-boot", folder)
    (folder / "percpu_early.txt").unlink()
    assert "percpu_stats counts 70 areas more" in " ".join(top(lab.open_trace(folder)).inferred)
    assert "still held are not seen" in " ".join(top(TWO_SITES).inferred)
    assert top(lab.open_trace(FOLDERS / "pcs-smp3-boot")).inferred == ()


def test_a_boot_is_no_leak(boot: Recording) -> None:
    assert leaks(boot).growing() == ()


# --- lifetimes ----------------------------------------------------------------------


def test_lifetimes_counts_short_lives_by_call_site() -> None:
    lines = []
    for k in range(10):
        lines += [alloc(0, 8, k, site="churn+0x0/0x1"), free(0, k + (0.001 if k < 7 else 0.5))]
    lines += [alloc(64, 8, 11.0, site="stay+0x0/0x1")]
    found = lifetimes(trace(*lines))
    assert (found.nr_areas, found.nr_freed, found.nr_short) == (11, 10, 7)
    row = found.rows[0]
    assert (row.call_site, row.nr_short, row.share_short) == ("churn+0x0/0x1", 7, 0.7)
    assert row.median_seconds == pytest.approx(0.001)
    assert row.longest_seconds == pytest.approx(0.5)
    assert row.median_events == 1
    assert (found.rows[1].nr_freed, found.rows[1].median_seconds) == (0, None)
    assert lifetimes(trace(*lines), short_seconds=1.0).nr_short == 10


def test_lifetimes_without_a_clock_count_events() -> None:
    a = lab.Allocator()
    for _ in range(3):
        a.free_percpu(a.alloc_percpu(8))
    found = lifetimes(a)
    assert (found.nr_short, found.unit, found.limit) == (3, "events", "100 events")


def test_lifetimes_agree_with_pandas(boot: Recording) -> None:
    made = events_of(boot)
    nr_early = 0 if boot.early is None else len(boot.early)
    freed = made[(made.died >= 0) & (made.index >= nr_early)]
    times = boot.trace.frame()["time"].to_numpy() / 1e6
    life = times[freed.died - nr_early] - times[freed.index - nr_early]
    assert lifetimes(boot).nr_short == int((life < 0.01).sum())


# --- waste --------------------------------------------------------------------------


def test_waste_of_an_allocator_is_exact() -> None:
    a = lab.Allocator(engine="v6.12-bitmap")
    p, q = a.alloc_percpu(64), a.alloc_percpu(4)
    r = a.alloc_percpu(64, align=64)
    a.free_percpu(p)
    lost = {row.way: row for row in waste(a).rows}
    gap = r.value - q.value - 4
    assert lost["alignment gaps"].per_cpu_bytes == gap
    assert lost["other holes between areas"].per_cpu_bytes == 64
    assert lost["alignment gaps"].all_cpus_bytes == 4 * gap
    chunks = a.stats().chunks
    free_bytes = sum(row.per_cpu_bytes or 0 for row in lost.values() if "free" in row.way or "hole" in row.way)
    assert free_bytes + gap == sum(chunk.free_bytes for chunk in chunks)
    assert lost["empty populated pages"].nr == sum(chunk.empty_pop_pages for chunk in chunks)  # type: ignore[union-attr]


def test_waste_of_a_boot_agrees_with_percpu_stats() -> None:
    recording = lab.open_trace(FOLDERS / "pcs-smp3-boot")
    found = {row.way: row for row in waste(recording).rows}
    stats = recording.stats[-1].stats
    assert sum(chunk.sum_frag for chunk in stats.chunks) == (
        (found["alignment gaps"].per_cpu_bytes or 0) + (found["other holes between areas"].per_cpu_bytes or 0)
    )
    assert found["empty populated pages"].nr == sum(chunk.empty_pop_pages for chunk in stats.chunks)  # type: ignore[union-attr]


def test_waste_without_geometry_says_what_it_does_not_know() -> None:
    found = {row.way: row for row in waste(TWO_SITES).rows}
    assert found["empty populated pages"].nr is None
    assert found["free behind the last area"].all_cpus_bytes is None
    assert found["free behind the last area"].known == "inferred"
    assert "geometry unknown" in " ".join(waste(TWO_SITES).inferred)


# --- cost ---------------------------------------------------------------------------


def test_cost_is_size_times_possible_cpus(boot: Recording) -> None:
    found = cost(boot, 100)
    live = top(boot).size_bytes
    assert (found.size_bytes, found.rows[0].areas_bytes) == (live, 100 * live)


def test_cost_on_the_own_machine_is_bytes_alloc() -> None:
    recording = lab.open_trace(FOLDERS / "deb61-smp4-boot")
    row = cost(recording, 4).rows[0]
    total = sum(holder.bytes_alloc or 0 for holder in top(recording).rows)
    assert row.areas_bytes + (row.accounting_bytes or 0) == total


def test_cost_of_percpu_pages_is_that_of_meminfo_on_the_own_machine(boot: Recording) -> None:
    assert boot.geometry is not None
    own = cost(boot, boot.geometry.info.nr_units).rows[0].percpu_bytes
    assert own == (boot.proc[-1].percpu_kib or 0) * 1024


@pytest.mark.parametrize("cpus", [0, -1, 100_000])
def test_cost_refuses_impossible_numbers_of_cpus(cpus: int) -> None:
    with pytest.raises(RequestError, match=r"give 1 to 8,192"):
        cost(TWO_SITES, cpus)


def test_cost_refuses_an_area_of_no_size() -> None:
    with pytest.raises(RequestError, match="are no area"):
        cost(TWO_SITES, 4, size=0)


# --- reserved -----------------------------------------------------------------------


def test_reserved_shows_the_areas_of_modules() -> None:
    a = lab.Allocator(engine="v6.12-bitmap")
    a.alloc_percpu(64)
    p, q = (a.alloc_percpu(size, reserved=True) for size in (96, 32))
    found = reserved(a)
    assert [row.size_bytes for row in found.rows] == [96, 32]
    assert (found.used_bytes, found.capacity_bytes, found.free_bytes) == (128, 8192, 8192 - 128)
    a.free_percpu(p)
    a.free_percpu(q)
    assert reserved(a).rows == ()
    assert a.alloc_percpu(16384, reserved=True).reason
    assert reserved(a).nr_fail == 1


@pytest.mark.parametrize("engine", ["v4.13-areamap", "v6.12-bitmap"])
def test_the_reserved_chunk_is_told_from_the_first_in_every_kernel(engine: str) -> None:
    a = lab.Allocator(engine=engine)
    kept = [a.alloc_percpu(64, reserved=True), a.alloc_percpu(32)]
    assert {row.who: row.size_bytes for row in top(a, "chunk").rows} == {"reserved": 64, "first chunk": 32}
    assert reserved(a).used_bytes == 64
    assert kept


def test_reserved_of_a_boot_is_empty(boot: Recording) -> None:
    found = reserved(boot)
    assert (found.rows, found.capacity_bytes, found.free_bytes) == ((), 8192, 8192)


# --- what all answers share ------------------------------------------------------------

ASKED = (top, leaks, lifetimes, waste, cost, reserved)


@pytest.mark.parametrize("ask", ASKED)
def test_answers_print_show_and_become_json(ask: Any, boot: Recording) -> None:
    answer: Answer = ask(boot)
    assert answer.text().splitlines()[0] == answer.headline() == str(answer).splitlines()[0]
    assert len(answer.frame()) == len(answer.rows)
    again = json.loads(json.dumps(answer.as_json()))
    assert again["answer"] == answer.headline()
    assert len(again["rows"]) == len(answer.rows)
    assert answer.headline().replace("&", "&amp;").replace("'", "&#x27;").split("<")[0] in answer._repr_html_()
    assert answer.certain or answer.inferred


@pytest.mark.parametrize("ask", ASKED)
def test_answers_never_make_markup_or_control_characters_of_names(ask: Any) -> None:
    bad = "<img/src=x>&\x1b[2J"
    answer: Answer = ask(trace(alloc(0, 8, 1.0, site=bad, task="<b>-1"), alloc(8, 8, 2.0, site=bad, task="<b>-1")))
    assert "<img" not in answer._repr_html_()
    assert "\x1b" not in answer._repr_html_()
    assert all(char.isprintable() for char in answer.text().replace("\n", ""))


@pytest.mark.parametrize("ask", ASKED)
def test_answers_can_be_asked_of_a_simulated_run_whose_ring_was_too_small(ask: Any) -> None:
    a = lab.Allocator(engine="v6.12-bitmap", trace_events=16)
    kept = [a.alloc_percpu(64) for _ in range(100)]
    answer: Answer = ask(a)
    assert "ring" in " ".join(answer.certain) or ask is cost
    assert len(kept) == top(a).nr_areas


@pytest.mark.parametrize("ask", [top, leaks, lifetimes, waste, cost])
def test_pictures_are_drawn_where_they_help(ask: Any, boot: Recording) -> None:
    picture = ask(boot).picture()
    assert picture._repr_png_().startswith(b"\x89PNG")


@given(st.lists(st.tuples(st.integers(0, 15), st.booleans()), max_size=60))
def test_top_agrees_with_a_dictionary_whatever_happens(steps: list[tuple[int, bool]]) -> None:
    live: dict[int, int] = {}
    lines = [alloc(4096, 8, 0.0)]
    for k, (place, wants_free) in enumerate(steps):
        if place in live and wants_free:
            lines.append(free(64 * place, k))
            del live[place]
        elif place not in live:
            live[place] = 4 * (1 + k % 16)
            lines.append(alloc(64 * place, live[place], k, site=f"site{place % 3}+0x0/0x1"))
    found = {row.who: row.size_bytes for row in top(trace(*lines)).rows}
    wanted: dict[str, int] = {"f+0x1/0x2": 8}
    for place, size in live.items():
        name = f"site{place % 3}+0x0/0x1"
        wanted[name] = wanted.get(name, 0) + size
    assert found == wanted


def test_ledger_is_in_the_order_of_birth(boot: Recording) -> None:
    ledger = Subject.of(boot).ledger
    assert (np.diff(ledger.born) > 0).all()
    assert (ledger.died > ledger.born).all()
    assert BASE not in ledger.chunk


@pytest.fixture(params=[0, 8192])
def read_early_and_late(tmp_path: Path, request: pytest.FixtureRequest) -> Recording:
    """Pages are populated between a reading of meminfo and another at the end; 2 are empty at each."""
    (tmp_path / "snap").mkdir()
    (tmp_path / "snap" / "001-a.txt").write_text("Percpu: 240 kB\n")
    (tmp_path / "meminfo.txt").write_text("Percpu: 272 kB\n")
    calls = [
        alloc(12288, 64, 1.0),
        marker("SNAP_BEGIN 001 a", 1.1),
        marker("SNAP_END 001 a", 1.2),
        *(alloc(16384 + 4096 * k, 64, 1.3 + k / 100) for k in range(2)),
    ]
    (tmp_path / "trace.txt").write_text("\n".join([*calls, ""]))
    return lab.open_trace(tmp_path, geometry=f"s49152 r{request.param} d65536 u524288 cpus=4", release="6.12.0")


def test_empty_pages_are_those_of_a_reading_less_what_lived_at_its_own_row(read_early_and_late: Recording) -> None:
    pages = {at: next(row for row in waste(read_early_and_late, at=at).rows if row.way.startswith("empty")).nr
             for at in (1, 2, None)}  # fmt: skip
    assert pages == {1: 2, 2: 2, None: 2}


def test_cost_takes_the_last_reading_of_meminfo_up_to_the_moment(read_early_and_late: Recording) -> None:
    found = {at: cost(read_early_and_late, 4, at=at) for at in (1, 2, None)}
    assert {at: each.rows[0].percpu_bytes for at, each in found.items()} == {1: 245760, 2: 245760, None: 278528}
    assert "at row 1, 1 row before" in found[2].inferred[-1]
