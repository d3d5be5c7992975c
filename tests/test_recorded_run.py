from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from percpu_lab import columns as C
from percpu_lab import spans as S
from percpu_lab.core import layout as L
from percpu_lab.engine import Engine
from percpu_lab.errors import GeometryError
from percpu_lab.geometry import Geometry
from percpu_lab.recorded_run import RecordedRun
from percpu_lab.runs import open_run
from percpu_lab.traces.read import read_golden_trace, read_trace_text
from percpu_lab.traces.recorded import RecordedTrace
from percpu_lab.traces.recording import open_trace

REAL = Path(__file__).parent / "data" / "real" / "folders"
GOLDEN_BITMAP = Path(__file__).parent / "data" / "golden" / "bitmap"
GEOMETRY = Geometry.simple(unit_size=32768, static_size=4096, reserved_size=4096, dyn_size=20480)
UNIT = C.Unit.of(GEOMETRY.info)


def recorded(engine: Engine) -> RecordedRun:
    """The run as its trace text alone tells it."""
    return RecordedRun(read_golden_trace(engine.events(0).text("golden")), C.Unit.of(engine.geometry.info))


@st.composite
def engine_runs(draw: st.DrawFn) -> tuple[Engine, list[C.Snapshot]]:
    """A run with sizes that leave no small rests, and its snapshots after each op."""
    engine, live, snaps = Engine(GEOMETRY, jit="off"), [], []
    for _ in range(draw(st.integers(0, 40))):
        snaps.append(C.snapshot(engine))
        what = draw(st.integers(0, 9))
        if what == 0:
            engine.balance()
        elif live and what < 5:
            engine.free(live.pop(draw(st.integers(0, len(live) - 1))))
        elif ptr := engine.alloc(8 * draw(st.integers(1, 4096)), 8, draw(st.integers(0, 4)) == 0, False):
            live.append(ptr)
    return engine, [*snaps, C.snapshot(engine)]


def rows(snap: C.Snapshot) -> set[tuple[int, ...]]:
    areas = snap.areas
    parts = (
        snap.chunks.ordinal[areas.chunk],
        areas.off_bytes,
        areas.size_bytes,
        areas.requested_bytes,
        areas.birth,
        areas.kind,
    )
    return set(zip(*(part.tolist() for part in parts), strict=True))


def sums(snap: C.Snapshot) -> set[tuple[int, ...]]:
    names = ("ordinal", "kind", "base_addr", "free_bytes", "largest_free_bytes", "nr_alloc", "sum_frag", "max_frag")
    return set(zip(*(getattr(snap.chunks, name).tolist() for name in names), strict=True))


@given(engine_runs())
def test_a_recording_shows_at_every_op_what_the_engine_showed(run: tuple[Engine, list[C.Snapshot]]) -> None:
    engine, snaps = run
    replay = recorded(engine)
    for snap in snaps[replay.first_op : replay.last_op + 1]:
        replay.seek(snap.op)
        assert rows(replay.snapshot()) == rows(snap)
        assert sums(replay.snapshot()) == sums(snap)


@given(engine_runs())
def test_lifetimes_of_a_recording_are_those_of_the_engine(run: tuple[Engine, list[C.Snapshot]]) -> None:
    engine, _ = run
    replay = recorded(engine)
    ours = S.lifetimes(replay.events(0), replay.snapshot())
    theirs = S.lifetimes(engine.events(0), C.snapshot(engine))
    for name in ("birth", "ordinal", "off_bytes", "size_bytes", "is_live"):
        assert sorted(getattr(ours, name).tolist()) == sorted(getattr(theirs, name).tolist())
    assert ours.bands.tolist() == theirs.bands.tolist()


def test_the_cursor_hides_what_comes_later() -> None:
    engine = Engine(GEOMETRY, jit="off")
    for _ in range(30):
        engine.alloc(800, 8, False, False)
    replay = recorded(engine)
    replay.seek(10)
    assert (
        replay.now,
        replay.snapshot().op,
        len(replay.snapshot().areas.birth[replay.snapshot().areas.kind == C.IN_USE]),
    ) == (10, 10, 10)
    assert replay.events(0).op.max() == 9
    assert replay.history()["op"].max() <= 10
    replay.seek(10_000)
    assert replay.now == replay.last_op == 30


def test_what_a_trace_cannot_tell_is_unknown() -> None:
    snap = recorded(Engine(GEOMETRY, jit="off")).snapshot()
    assert set(snap.chunks.contig_hint.tolist() + snap.chunks.nr_populated.tolist() + snap.chunks.slot.tolist()) == {
        C.UNKNOWN
    }
    assert (len(snap.populated), snap.totals.nr_empty_pop_pages) == (0, C.UNKNOWN)


def test_an_area_allocated_before_the_recording_is_shown_up_to_its_free_if_the_free_knows_it() -> None:
    engine = Engine(GEOMETRY, jit="off", ring_capacity=4)
    early = engine.alloc(64, 8, False, False)
    for _ in range(3):
        engine.free(engine.alloc(128, 8, False, False))
    engine.free(early)
    run = RecordedRun(engine.events(0), UNIT)
    run.seek(run.last_op - 1)
    assert run.snapshot().find(0) is not None
    run.seek(run.last_op)
    assert run.snapshot().find(0) is None


def test_a_free_of_an_unknown_area_is_passed_over() -> None:
    line = "5\tpercpu_free_percpu: base_addr=0xffff888100000000 off=12288 ptr=0x3000\n"
    snap = RecordedRun(read_golden_trace(line), UNIT).snapshot()
    assert snap.areas.kind[snap.areas.kind == C.IN_USE].tolist() == []


def test_an_allocation_on_a_place_still_live_ends_what_lived_there() -> None:
    text = "".join(
        f"{op}\tpercpu_alloc_percpu: reserved=0 is_atomic=0 size=64 align=8 base_addr=0x1000 off={off} ptr=0x0\n"
        for op, off in ((0, 12288), (1, 12320), (2, 12288))
    )
    snap = RecordedRun(read_golden_trace(text), UNIT).snapshot()
    assert snap.areas.birth[snap.areas.kind == C.IN_USE].tolist() == [2]
    assert (snap.areas.size_bytes > 0).all()


def test_a_unit_too_small_for_the_trace_is_refused() -> None:
    text = "0\tpercpu_alloc_percpu: reserved=0 is_atomic=0 size=64 align=8 base_addr=0x1000 off=60000 ptr=0x0\n"
    with pytest.raises(GeometryError, match="area at offset 60,000"):
        RecordedRun(read_golden_trace(text), UNIT)


def test_an_empty_trace_is_a_first_chunk_without_areas() -> None:
    run = RecordedRun(read_golden_trace(""), UNIT)
    assert (run.first_op, run.last_op, len(run.events())) == (0, 0, 0)
    assert run.snapshot().chunks.ordinal.tolist() == [C.RESERVED_ORDINAL, 0]
    assert {len(column) for column in run.history().values()} == {2}


def test_columns_of_a_recording_are_read_only() -> None:
    run = recorded(Engine(GEOMETRY, jit="off"))
    with pytest.raises(ValueError, match="read-only"):
        run.events().op[0] = 5
    assert np.all(run.events().event == L.EVENT_CREATE)


# --- recordings of real kernels ------------------------------------------------------------------------------


@pytest.fixture
def boot() -> RecordedRun:
    """A boot with 70 calls made before the trace."""
    return open_run(REAL / "pcs-smp3-boot")


def test_a_recording_is_opened_by_folder_or_as_open_trace_gave_it() -> None:
    by_folder, given = open_run(REAL / "deb61-smp4-boot"), open_run(open_trace(REAL / "deb61-smp4-boot"))
    assert repr(by_folder) == repr(given) == "<RecordedRun 'deb61-smp4-boot': 416 events, op 416 of 416>"
    assert open_run(GOLDEN_BITMAP / "reserved_basic").rebuilt.space.least_size == 4


def test_ops_of_a_real_trace_are_its_rows(boot: RecordedRun) -> None:
    boot.seek(200)
    snap = boot.snapshot()
    trace = boot.rebuilt.trace
    made = (trace.event == L.EVENT_ALLOC)[:200].sum() + 70
    freed = (trace.event == L.EVENT_FREE)[:200].sum()
    assert (snap.op, snap.nr_in_use) == (200, made - freed)
    assert boot.row_at(200) == 200


def test_areas_from_before_the_trace_have_names_of_their_own(boot: RecordedRun) -> None:
    boot.seek(0)
    births = boot.snapshot().areas.birth[boot.snapshot().areas.kind == C.IN_USE]
    assert sorted(births.tolist()) == list(range(C.EARLY - 69, C.EARLY + 1))
    assert all(boot.snapshot().find(birth) is not None for birth in births.tolist())


def test_a_free_of_an_area_from_before_the_trace_names_it() -> None:
    recording = open_trace(REAL / "pcs-smp3-boot")
    trace, early = recording.trace, recording.early
    assert early is not None
    line = f"percpu_free_percpu: base_addr={early.base_addr[-1]:016x} off={early.off[-1]} ptr=0000000000000000\n"
    later = read_trace_text(f"  init-1   [000] .....     9.000000: {line}")
    run = RecordedRun.of(replace(recording, trace=later))
    assert run.events().birth.tolist() == [C.EARLY]
    lives = S.lifetimes(run.events(), run.snapshot())
    assert (lives.nr_freed, lives.nr_unknown, lives.birth[0]) == (1, 0, C.EARLY)
    assert len(trace) > 1


def test_who_asked_and_when_is_found_by_the_name_of_an_area(boot: RecordedRun) -> None:
    known = boot.annotations()
    assert known is not None
    trace = boot.rebuilt.trace
    assert isinstance(trace, RecordedTrace)
    row = int(np.flatnonzero(trace.event == L.EVENT_ALLOC)[-1])
    seconds = trace.time[row] / 10**6
    assert known.origins.text(row) == f"{trace.call_site[row]} in {trace.task[row]} at {seconds:.6f} s"
    assert known.origins.text(C.EARLY).startswith("__kmem_cache_create+")
    assert known.origins.text(10**9) == "not recorded"
    assert known.origins.find(np.array([row, 10**9, C.UNKNOWN])).tolist()[1:] == [-1, -1]


def test_the_cursor_hides_later_notes_and_tells_its_time() -> None:
    text = (
        "    wl-9       [001] .....     1.000000: tracing_mark_write: BEGIN work\n"
        "    wl-9       [001] .....     1.500000: percpu_create_chunk: base_addr=0000000000001000\n"
        "CPU:2 [LOST 147 EVENTS]\n"
        "    wl-9       [001] .....     2.500000: percpu_destroy_chunk: base_addr=0000000000001000\n"
    )
    run = RecordedRun(read_trace_text(text), UNIT)
    told = []
    for op in (0, 1, 2):
        run.seek(op)
        known = run.annotations()
        assert known is not None
        told.append((known.notes.text, known.notes.is_loss.tolist(), known.when))
    lost = "147 events lost on CPU 2 (LOST)"
    assert told == [
        (("BEGIN work",), [False], ""),
        (("BEGIN work", lost), [False, True], "1.500000 s"),
        (("BEGIN work", lost), [False, True], "2.500000 s"),
    ]


def test_only_events_lost_before_the_first_are_missing_before_it() -> None:
    line = "    wl-9   [001] .....     1.500000: percpu_create_chunk: base_addr=0000000000001000\n"
    runs = [
        RecordedRun(read_trace_text(text))
        for text in (f"CPU:2 [LOST 147 EVENTS]\n{line}", f"{line}CPU:2 [LOST 147 EVENTS]\n{line}")
    ]
    assert [run.events().lost for run in runs] == [147, 0]


def test_what_was_inferred_is_said() -> None:
    free = "percpu_free_percpu: base_addr=0000000000001000 off=64 ptr=0000000000000000"
    text = f"    wl-9   [001] .....     1.500000: {free}\n"
    known = RecordedRun(read_trace_text(text)).annotations()
    assert known is not None
    assert known.caution == (
        "geometry unknown: units taken as 32 KiB, from the highest offset  ·  which chunk is the first is a guess  ·  "
        "frees unmatched: 1"
    )


def test_addresses_are_shown_only_where_they_are_true(boot: RecordedRun) -> None:
    line = "    wl-9   [001] .....     1.500000: percpu_create_chunk: base_addr=000000005a55ad8f\n"
    hashed, true = RecordedRun(read_trace_text(line)).annotations(), boot.annotations()
    assert hashed is not None and true is not None
    assert (hashed.has_addresses, true.has_addresses) == (False, True)


def test_a_run_of_an_engine_has_no_annotations() -> None:
    assert recorded(Engine(GEOMETRY, jit="off")).columns().annotations is None


def test_events_are_written_with_all_their_fields(boot: RecordedRun) -> None:
    boot.seek(5)
    trace = boot.rebuilt.trace
    assert [str(event) for event in boot.events(3)] == [str(event) for event in trace][3:5]
    assert "call_site=alloc_desc" in str(next(iter(boot.events(3))))


def test_bands_of_the_boot_chunks_are_as_high_as_what_they_serve(boot: RecordedRun) -> None:
    lives = S.lifetimes(boot.events(), boot.snapshot())
    unit = boot.unit
    start = (unit.static_size + unit.reserved_size) % 4096
    at = lives.bands.tolist().index(0)
    assert (lives.base_bytes[at], lives.span_bytes[at]) == (start, unit.dyn_size)
    bottom, height = lives.places(slice(None))
    first = lives.band == at
    assert bottom[first].min() == at + (lives.off_bytes[first].min() - start) / unit.dyn_size
    assert at < (bottom + height)[first].max() <= at + 1
    assert (lives.span_bytes[lives.bands > 0] == unit.unit_size).all()


@pytest.mark.parametrize("folder", ["pcs-smp3-boot", "deb61-smp4-boot"])
def test_every_view_draws_a_recording(folder: str) -> None:
    from percpu_lab.views.dashboard import Dashboard, picture

    recording = open_trace(REAL / folder)
    board = Dashboard(recording, controls=False)
    assert repr(board) == f"<Dashboard of {folder!r}: area_map, fragmentation, timeline>"
    assert picture(recording)._repr_png_().startswith(b"\x89PNG")
    frame = board._frame()
    origins = [data["origin"] for data in frame.sources.values() if "origin" in data]
    assert len(origins) == 2 and all((column >= -1).all() for column in origins)
    texts = next(data["text"] for source, data in frame.sources.items() if source.name == "origins")
    assert max(column.max() for column in origins) < len(texts)
    board.close()


@pytest.mark.parametrize("folder", sorted(path.name for path in REAL.iterdir() if path.is_dir()))
def test_events_of_a_run_are_written_with_all_that_the_trace_has(folder: str) -> None:
    recording = open_trace(REAL / folder)
    run = open_run(recording)
    run.seek(run.last_op)
    events, whole = run.events(0), recording.trace
    assert len(events) > 0
    for style in ("plain", "golden", "ftrace"):
        written = whole._lines(style)
        assert events._lines(style) == written
        assert run.events(len(events) - 3, 2)._lines(style) == written[-3:-1]
    assert run.events(5, 3).text("plain") == "".join(f"{line}\n" for line in whole._lines("plain")[5:8])
    extra = [event.extra for event in list(whole)[5:8]]
    if not any(extra):
        assert [str(event) for event in run.events(5, 3)] == whole._lines("plain")[5:8]
