"""The same requests through several allocators: what is counted, what is shown, and the cursor that moves all runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import percpu_lab as lab
from percpu_lab.columns import Unit, snapshot
from percpu_lab.comparison import Comparison, Requests, Setting, compare, plans, requests_of
from percpu_lab.comparison.pages import boot
from percpu_lab.core import layout as L
from percpu_lab.engine import Engine
from percpu_lab.errors import RequestError
from percpu_lab.geometry import preset
from percpu_lab.ops import Ops
from percpu_lab.recorded_run import RecordedRun
from percpu_lab.session import Recording as Seekable
from percpu_lab.traces.read import read_golden_trace
from percpu_lab.traces.recording import open_trace
from percpu_lab.validate import validate_engine
from percpu_lab.validate_bitmap import validate_bitmap_engine
from percpu_lab.workloads import WORKLOADS, cgroup_churn, percpu_test, random_mix

AREA_MAP, BITMAP = "v4.13-areamap", "v6.12-bitmap"
REAL = Path(__file__).parent / "data" / "real"
#: a 4-CPU x86-64 guest, as its kernel log describes it
GUEST = lab.Geometry.embed(212_992, cpus=4, atom_size=2 << 20)

mixes = st.builds(
    random_mix,
    nr_ops=st.integers(1, 200),
    live=st.integers(1, 40),
    atomic_share=st.just(0.0),  # else what is served depends on when the balance work ran
    seed=st.integers(0, 1 << 32),
    sizes=st.sampled_from(["kernel", "uniform", "loguniform", "bimodal"]),
    balance_every=st.integers(0, 9),
)


@pytest.fixture(scope="module")
def lifo() -> Comparison:
    return compare("lifo", jit="off")


# --- requests ---------------------------------------------------------------------------------


def test_requests_of_a_trace_are_those_that_were_made() -> None:
    a = lab.Allocator(jit="off")
    p, q = a.alloc_percpu(64), a.alloc_percpu(8, 4, lab.GFP_ATOMIC)
    a.free_percpu(p)
    r = a.alloc_percpu(32, reserved=True)
    a.free_percpu(r)
    a.free_percpu(q)
    text = "alloc 0 64 8 0 0\nalloc 1 8 4 0 1\nfree 0\nalloc 2 32 8 1 0\nfree 2\nfree 1\n"
    for subject in (a, a.trace, a.trace.columns(), RecordedRun(a.trace.columns(), snapshot(a.engine).unit)):
        assert requests_of(subject).ops.to_text() == text


def test_a_request_that_failed_is_made_again() -> None:
    text = "0\tpercpu_alloc_percpu_fail: reserved=1 is_atomic=1 size=100 align=8\n"
    requests = requests_of(read_golden_trace(text))
    assert requests.ops.to_text() == "alloc 0 100 8 1 1\n"
    assert requests.notes == ("1 requests had failed when they were recorded; they are made again",)


def test_a_free_of_what_nobody_saw_allocated_is_left_out_and_counted() -> None:
    text = "5\tpercpu_free_percpu: base_addr=0x1000 off=64 ptr=0x40\n"
    requests = requests_of(read_golden_trace(text))
    assert (len(requests.ops), requests.nr_unmatched_frees) == (0, 1)
    assert "nobody saw" in requests.notes[0]


def test_early_calls_of_a_recording_come_first_and_their_areas_can_be_freed_later() -> None:
    recording = open_trace(REAL / "folders" / "pcs-smp3-boot")
    assert recording.early is not None
    requests = requests_of(recording)
    events = np.concatenate([recording.early.event, recording.trace.event])
    kinds = requests.ops.array[L.OPS_KIND]
    assert requests.nr_early == len(recording.early)
    assert (kinds == L.OP_ALLOC).sum() == (events == L.EVENT_ALLOC).sum() + requests.nr_failed
    assert (kinds == L.OP_FREE).sum() + requests.nr_unmatched_frees == (events == L.EVENT_FREE).sum()


@given(mixes)
@settings(deadline=None, max_examples=12)
def test_the_trace_of_a_run_asks_for_the_same_again(ops: Ops) -> None:
    a = lab.Allocator(jit="off")
    a.run(ops)
    again = requests_of(a).ops
    b = lab.Allocator(jit="off")
    b.run(again)
    assert snapshot(b.engine).areas.requested_bytes.sum() == snapshot(a.engine).areas.requested_bytes.sum()
    assert requests_of(b).ops.to_text() == again.to_text()


@pytest.mark.parametrize("subject", ["no such workload", 5, None, b"alloc"])
def test_what_asks_for_nothing_is_refused(subject: object) -> None:
    with pytest.raises(RequestError):
        requests_of(subject)


# --- settings ---------------------------------------------------------------------------------


def test_settings_are_named_by_what_differs() -> None:
    made = plans([BITMAP, Setting(BITMAP, reclaim=False), Setting(BITMAP, "UP, km")], "x86-64, 4 CPUs")
    assert [plan.name for plan in made] == ["4 CPUs, unit 64 KiB", "4 CPUs, unit 64 KiB, no reclaim", "UP, km"]


def test_two_settings_that_look_alike_need_names() -> None:
    with pytest.raises(RequestError, match="two settings are called"):
        plans([BITMAP, BITMAP], "UP, km")
    assert [plan.name for plan in plans([BITMAP, Setting(BITMAP, name="again")], "UP, km")] == [BITMAP, "again"]


@pytest.mark.parametrize("setting", ["v5.4", 3, Setting("v5.4")])
def test_a_setting_that_is_none_is_refused(setting: object) -> None:
    with pytest.raises(RequestError, match=AREA_MAP):
        plans([setting], "UP, km")


def test_nothing_to_compare_is_refused() -> None:
    with pytest.raises(RequestError, match="nothing to compare"):
        compare("lifo", [])


# --- counts -------------------------------------------------------------------------------------


def work(ops: Ops, kernel: str) -> dict[str, int]:
    outcome = compare(ops, [kernel], jit="off").outcomes[0]
    names = [name for name in type(outcome).__slots__ if "scanned" in name or "moved" in name]
    return {name: outcome.counts(name) or 0 for name in names}


def test_a_free_of_the_area_map_moves_every_entry_behind_it() -> None:
    made = "".join(f"alloc {k} 64 8 0 0\n" for k in range(100))
    apart, joined = (work(Ops.from_text(made + frees), AREA_MAP) for frees in ("free 10\n", "free 10\nfree 11\n"))
    assert apart["free_entries_moved"] == 0
    # behind area 11: areas 12 to 99, the free area behind them, and the end
    assert joined["free_entries_moved"] == 90


def test_a_free_of_the_bitmap_looks_at_the_bits_of_its_area_and_of_its_free_neighbours() -> None:
    made = "".join(f"alloc {k} 64 8 0 0\n" for k in range(100))
    apart, joined = (work(Ops.from_text(made + frees), BITMAP) for frees in ("free 10\n", "free 10\nfree 11\n"))
    granules = 64 // 4
    assert apart["free_bits_scanned"] == granules - 1  # to the bound behind it
    # the second area, and the free run before it that the block knows
    assert joined["free_bits_scanned"] - apart["free_bits_scanned"] == granules - 1


@given(mixes)
@settings(deadline=None, max_examples=12)
def test_engines_serve_the_same_bytes_and_count_what_they_did(ops: Ops) -> None:
    result = compare(ops, jit="off")
    one, other = result.outcomes
    assert (one.error, other.error) == ("", "")
    if one.nr_failed == other.nr_failed == 0:
        # v4.13 rounds to 2 bytes, v6.12 to 4
        assert 0 <= other.live_bytes - one.live_bytes <= 2 * one.nr_live
        assert one.nr_live == other.nr_live
    for run in result.runs:
        outcome = run.outcome
        assert outcome.nr_chunks == 1 + outcome.chunks_created - outcome.chunks_destroyed
        assert outcome.peak_pages >= outcome.final_pages
        assert outcome.free_entries_moved <= outcome.entries_moved
        assert outcome.free_bits_scanned <= outcome.bits_scanned
        assert (
            f"nr_chunks           : {outcome.nr_chunks:>10}"
            in " ".join(line for line in outcome.stats_text.splitlines())
            or str(outcome.nr_chunks) in outcome.stats_text
        )
        (validate_engine if outcome.engine == AREA_MAP else validate_bitmap_engine)(run.engine)


def test_counts_are_the_same_compiled_and_plain() -> None:
    pytest.importorskip("numba")
    ops = random_mix(nr_ops=4000, live=300, seed=5)
    plain, compiled = (compare(ops, jit=jit) for jit in ("off", "wait"))
    assert plain.text == compiled.text
    assert plain.stats_text == compiled.stats_text


def test_pages_are_those_of_the_history_and_of_the_chunks(lifo: Comparison) -> None:
    for run in lifo.runs:
        op, pages = run.populated()
        assert pages.max() <= run.outcome.peak_pages
        boot_pages = run.plan.geometry.info.size_sum // 4096
        chunks = snapshot(run.engine).chunks
        assert run.outcome.final_pages == boot_pages + chunks.nr_populated[chunks.ordinal > 0].sum()
        assert (np.diff(op) > 0).all()


def test_freeing_small_objects_shows_why_the_bitmap_was_made() -> None:
    # 6,000 objects fill little more than the first chunk: a map of some 6,000 entries
    for number, least in ((1, 2_000), (2, 1_000), (3, 0.9)):
        ops = percpu_test(number, nr_objects=6_000, size=4, observe=False)
        old, new = compare(ops, jit="off").outcomes
        moved, bits = old.free_entries_moved / old.nr_frees, new.free_bits_scanned / new.nr_frees
        assert moved > least
        assert bits < 64


@pytest.mark.parametrize("fill", [2, 4])
@pytest.mark.parametrize("number", [5, 6])
def test_fill_levels_are_compared(number: int, fill: int) -> None:
    ops = percpu_test(number, nr_objects=600, size=16, fill=fill, observe=False)
    old, new = compare(ops, jit="off").outcomes
    assert old.nr_live == new.nr_live == 0
    assert old.nr_allocs == new.nr_allocs == 600 + 600 // fill


def test_a_run_that_the_modelled_kernel_does_not_survive_tells_where_it_ended() -> None:
    # holes of 2 bytes and nothing else: v4.13 walks astray
    text = "".join(f"alloc {k} 2 2 0 0\n" for k in range(9)) + "".join(f"free {k}\n" for k in range(0, 9, 2))
    text += "".join(f"alloc {k} 32768 2 0 0\n" for k in range(20, 22)) + "alloc 30 4 4 0 0\n"
    result = compare(Ops.from_text(text), [AREA_MAP, BITMAP], machine="x86-64, 4 CPUs", jit="off")
    for outcome in result.outcomes:
        assert outcome.nr_ops == len(result.requests.ops) or outcome.error in result.text


def test_failed_requests_are_counted() -> None:
    result = compare(Ops.from_text("alloc 0 0 8 0 0\nalloc 1 99999 8 0 0\nalloc 2 64 8 0 0\nfree 0\n"), jit="off")
    assert [outcome.nr_failed for outcome in result.outcomes] == [2, 2]
    assert [outcome.nr_live for outcome in result.outcomes] == [1, 1]


# --- the choice to do without partial depopulation ----------------------------------------------------


@pytest.mark.parametrize("nr_groups", [330, 1100])
def test_reclaim_gives_back_the_pages_between_the_groups_that_stay(nr_groups: int) -> None:
    ways = [AREA_MAP, Setting(BITMAP, reclaim=False, name="without"), BITMAP]
    old, without, reclaimed = compare(cgroup_churn(nr_groups=nr_groups), ways, machine=GUEST, jit="off").outcomes
    assert old.final_pages == old.peak_pages == without.final_pages == without.peak_pages
    assert reclaimed.final_pages < without.final_pages * 0.7
    assert reclaimed.live_bytes == without.live_bytes
    assert reclaimed.nr_chunks == without.nr_chunks  # what stays is in all of them


def test_reclaim_cannot_give_back_a_page_in_which_something_lives() -> None:
    run = compare(cgroup_churn(nr_groups=330), [BITMAP], machine=GUEST, jit="off").runs[0]
    areas, runs = run.columns().snapshot.areas, run.columns().snapshot.populated
    populated = {(row, page) for row, first, end in zip(runs.chunk.tolist(), runs.first_page.tolist(),
                 runs.end_page.tolist(), strict=True) for page in range(first, end)}  # fmt: skip
    live = areas.birth >= 0
    for row, off in zip(areas.chunk[live].tolist(), areas.off_bytes[live].tolist(), strict=True):
        ordinal = int(run.columns().snapshot.chunks.ordinal[row])
        assert ordinal <= 0 or (row, off // 4096) in populated


# --- what is shown ---------------------------------------------------------------------------------------


def test_the_table_leaves_blank_what_an_engine_does_not_have(lifo: Comparison) -> None:
    rows = {line[:30].strip(): line.split()[-2:] for line in lifo.text.splitlines()[2:]}
    assert rows["map entries moved"][1] == rows["bits scanned"][0] == "–"
    assert rows["requests"] == ["5,414", "5,414"]
    assert lifo[AREA_MAP].counts("bits_scanned") is None
    assert repr(lifo) == "<Comparison of 'v4.13-areamap', 'v6.12-bitmap': 10,000 ops>"


def test_the_frame_has_a_row_a_setting(lifo: Comparison) -> None:
    frame = lifo.frame()
    assert frame.index.tolist() == [AREA_MAP, BITMAP]
    assert frame["nr_allocs"].tolist() == [5414, 5414]
    assert frame["entries_moved"].isna().tolist() == [False, True]
    assert frame["peak_pages"].tolist() == [outcome.peak_pages for outcome in lifo.outcomes]


def test_fragmentation_over_time_is_a_table_too(lifo: Comparison) -> None:
    table = lifo.curves()
    assert table["setting"].unique().tolist() == [AREA_MAP, BITMAP]
    last = table.groupby("setting").last()
    assert last["free_bytes"].tolist() == pytest.approx([o.free_bytes for o in lifo.outcomes], rel=0.2)
    assert (table["nr_populated"] <= table["setting"].map({o.name: o.peak_pages for o in lifo.outcomes})).all()


def test_percpu_stats_stand_side_by_side(lifo: Comparison) -> None:
    lines = lifo.stats_side_by_side.splitlines()
    assert lines[0].split() == [AREA_MAP, BITMAP]
    assert lines[1].split() == ["Percpu", "Memory", "Statistics"] * 2
    assert "percpu_stats at the end" in lifo._repr_html_()


def test_a_recording_without_a_machine_says_which_is_assumed() -> None:
    trace = read_golden_trace(
        "0\tpercpu_alloc_percpu: reserved=0 is_atomic=0 size=64 align=8 base_addr=0x1000 off=8192 ptr=0x2000\n"
    )
    assert "that of x86-64, 4 CPUs is assumed" in compare(trace, jit="off").text
    assert "assumed" not in compare(trace, machine="UP, km", jit="off").text
    assert "assumed" not in compare("lifo", [BITMAP], jit="off").text


def test_a_recorded_run_is_compared_on_its_own_machine() -> None:
    a = lab.Allocator("8 CPUs, 256 KiB", engine=BITMAP, jit="off")
    a.run(random_mix(nr_ops=200, live=20))
    run = RecordedRun(a.trace.columns(), Unit.of(a.geometry.info), a.geometry.kernel)
    info = compare(run, [BITMAP], jit="off").outcomes[0].geometry.info
    assert (info.nr_cpus, info.unit_size) == (8, 256 << 10)


def test_the_state_of_a_very_large_run_is_made_again_when_it_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    small = compare("lifo", [BITMAP], jit="off").runs[0]
    monkeypatch.setattr("percpu_lab.comparison.run.KEPT_BYTES", 0)
    large = compare("lifo", [BITMAP], jit="off").runs[0]
    assert (large._booted.now, large.now) == (0, 10_000)
    assert states(large.engine) == states(small.engine)


def test_a_name_that_is_none_is_answered_with_those_there_are(lifo: Comparison) -> None:
    with pytest.raises(RequestError, match=r"there are: v4\.13-areamap; v6\.12-bitmap"):
        lifo["v5.4"]


def test_time_stands_apart(lifo: Comparison) -> None:
    assert set(lifo.seconds) == {AREA_MAP, BITMAP}
    assert "seconds" not in lifo.text
    assert "seconds" not in lifo.frame().columns


def test_names_never_become_markup() -> None:
    result = compare(Requests(Ops.from_text("alloc 0 8 8 0 0\n"), "<b>t"), [Setting(name="<i>x")], jit="off")
    text = result._repr_html_()
    assert "<i>x" not in text and "<b>t" not in text
    assert "&lt;i&gt;x" in text and "&lt;b&gt;t" in text


def test_the_picture_stays(lifo: Comparison) -> None:
    picture = lifo.picture()
    assert picture._repr_png_()[:4] == b"\x89PNG"
    assert repr(picture) == "<Picture: comparison of v4.13-areamap, v6.12-bitmap>"
    upper, lower = picture.figure.axes
    assert [line.get_label() for line in lower.lines] == [AREA_MAP, BITMAP]
    assert upper.lines[0].get_ydata()[-1] == pytest.approx(100 * lifo[AREA_MAP].external, abs=5)


# --- the cursor --------------------------------------------------------------------------------------------


def states(engine: Engine) -> tuple[object, ...]:
    snap = snapshot(engine)
    return snap.op, snap.areas.off_bytes.tolist(), snap.areas.kind.tolist(), snap.chunks.slot.tolist()


@given(mixes, st.lists(st.integers(0, 300), min_size=1, max_size=6))
@settings(deadline=None, max_examples=10)
def test_a_run_moved_to_an_op_is_what_a_run_up_to_there_is(ops: Ops, places: list[int]) -> None:
    run = compare(ops, [BITMAP], auto_balance=False, jit="off").runs[0]
    assert isinstance(run, Seekable)
    for place in places:
        run.seek(place)
        engine = boot(preset("x86-64, 4 CPUs"), kernel=BITMAP, auto_balance=False, jit="off")
        ids = np.zeros(max(ops.nr_ids, 1), np.int64)
        engine.run(ops, ids, 0, min(place, len(ops)))
        assert states(run.engine) == states(engine)
        assert run.now == min(place, len(ops))


def test_a_script_with_stats_and_state_ops_runs_to_its_end() -> None:
    run = compare("percpu_test1", [BITMAP], jit="off").runs[0]
    assert run.last_op == len(run.ops) == 8007


def test_history_ends_at_the_cursor(lifo: Comparison) -> None:
    run = lifo.runs[1]
    run.seek(5000)
    assert run.columns().history["op"].max() <= 5000
    assert run.columns().events.op.max() < 5000
    run.seek(run.last_op)
    assert run.columns().history["op"].max() > 5000


def test_one_cursor_moves_all_runs(lifo: Comparison) -> None:
    board = lifo.watch()
    try:
        board.seek(1234)
        board.seek(77)
        board._safe_point()
        assert [run.now for run in lifo.runs] == [77, 77]
        assert board._slider.op.value == 77
        board.step(-7)
        assert [run.now for run in lifo.runs] == [70, 70]
        board.play(1000)
        assert board.session.playing
        board.pause()
        assert repr(board) == "<CompareBoard of 'v4.13-areamap', 'v6.12-bitmap'>"
    finally:
        board.close()


def test_an_area_selected_in_one_run_is_marked_in_each_where_it_lies_there() -> None:
    ops = Ops.from_text("".join(f"alloc {k} 24000 8 0 0\n" for k in range(4)) + "alloc 9 16 256 0 0\n")
    result = compare(ops, jit="off")
    board = result.watch()
    try:
        board.session.select(0, 4)
        board._frame()
        marks = [shared._sent for shared in board._drawing._shared]
        assert [mark[1][0] for mark in marks] == [4, 4]
        wanted = []
        for run in result.runs:
            snap = run.columns().snapshot
            row = snap.find(4)
            wanted.append((int(snap.chunks.ordinal[snap.areas.chunk[row]]), int(snap.areas.off_bytes[row])))
        assert [mark[1][1:3] for mark in marks] == wanted
        assert wanted[0] != wanted[1]
    finally:
        board.close()


def test_every_workload_can_be_compared_by_name() -> None:
    for name in ("kernel_mix", "atomic", "reserved", "cgroup_churn"):
        assert name in WORKLOADS
    result = compare("reserved", jit="off")
    assert all(outcome.nr_failed > 0 for outcome in result.outcomes)
