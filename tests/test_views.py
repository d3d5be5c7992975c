from __future__ import annotations

import gc
import re
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bokeh.layouts import column
from bokeh.models import CustomJSHover, Div, HoverTool, PreText, Tooltip
from fake_engine import FakeEngine
from hypothesis import given, settings
from hypothesis import strategies as st

from percpu_lab import Allocator, compare
from percpu_lab.columns import HOLE, IN_USE, Columns, Unit, snapshot, take
from percpu_lab.core import layout as L
from percpu_lab.engine import Engine
from percpu_lab.errors import RequestError
from percpu_lab.geometry import Geometry, preset
from percpu_lab.ops import Ops
from percpu_lab.recorded_run import RecordedRun
from percpu_lab.session import Selection
from percpu_lab.spans import lifetimes
from percpu_lab.trace import Trace
from percpu_lab.traces.read import read_golden_trace, read_trace_text
from percpu_lab.traces.recording import open_trace
from percpu_lab.views import _style, area_map, dashboard, static, timeline
from percpu_lab.views._wire import encode
from percpu_lab.views.area_map import AreaMap
from percpu_lab.views.fragmentation import Fragmentation
from percpu_lab.views.live import FigureEvent, Frame, LiveFigure
from percpu_lab.views.shared import FollowedRange, Shared, merged, put_in_place
from percpu_lab.views.timeline import Timeline


class Desk:
    """All views of one figure, as a dashboard puts them together."""

    def __init__(self, *views: Any) -> None:
        self.shared = Shared()
        self.views = list(views) or [AreaMap(), Fragmentation(), Timeline()]
        self.root = column(*(view.build(self.shared) for view in self.views))

    def update(self, source: Any) -> Frame:
        columns = source if isinstance(source, Columns) else take(source)
        return merged(self.shared.update(columns), *(view.update(columns) for view in self.views))

    def handle(self, event: FigureEvent) -> list[Selection]:
        picked = [part.handle(event) for part in (self.shared, *self.views)]
        return [selection for selection in picked if selection is not None]


REAL = Path(__file__).parent / "data" / "real" / "folders" / "pcs-smp3-boot"


def engine_after(nr_ops: int, seed: int = 1, *, sizes: tuple[int, int] = (1, 4000), **options: Any) -> Engine:
    choice, engine = np.random.default_rng(seed), Engine(preset("x86-64, 4 CPUs"), jit="off", **options)
    live: list[int] = []
    for _ in range(nr_ops):
        if live and choice.random() < 0.4:
            engine.free(live.pop(int(choice.integers(len(live)))))
        elif ptr := engine.alloc(
            int(choice.integers(*sizes)), 8, bool(choice.random() < 0.1), bool(choice.random() < 0.2)
        ):
            live.append(ptr)
    return engine


def crowded(*, free_every: int = 10**6) -> Engine:
    """More areas than are drawn one by one."""
    engine, ids = Engine(Geometry.simple(), jit="off"), np.arange(area_map.BUDGET + 500)
    engine.run(Ops.concat([Ops.alloc(ids, 16), Ops.free(ids[free_every::free_every])]), np.zeros_like(ids))
    return engine


def texts(frame: Frame) -> str:
    return " | ".join(attrs["text"] for attrs in frame.props.values() if "text" in attrs)  # type: ignore[misc]


def length(frame: Frame, source: Any) -> int:
    return len(next(iter(frame.sources[source].values())))


# --- frames ------------------------------------------------------------------------------


@settings(max_examples=25)
@given(st.integers(0, 1 << 30), st.integers(0, 150))
def test_a_frame_has_all_columns_of_each_source_in_one_length(seed: int, nr_ops: int) -> None:
    desk = Desk()
    frame = desk.update(engine_after(nr_ops, seed))
    for source, data in frame.sources.items():
        assert set(data) == set(source.data)
        encode(data)  # raises if the lengths differ


NOTHING_YET: dict[str, Callable[[], Any]] = {
    "no op done": lambda: Engine(preset("x86-64, 4 CPUs"), jit="off"),
    "without SMP": lambda: Engine(Geometry.up(), jit="off"),
    "no chunk": lambda: Columns(
        snapshot(FakeEngine(65536, [])), Engine(Geometry.simple(), jit="off").events(9), _no_history()
    ),  # type: ignore[arg-type]
    "empty recording": lambda: RecordedRun(read_golden_trace(""), Unit(65536, 8192, 0, 57344, {0: 0})),
}


def _no_history() -> dict[str, Any]:
    return {name: values[:0] for name, values in Engine(Geometry.simple(), jit="off").history().items()}


@pytest.mark.parametrize("name", NOTHING_YET)
def test_with_nothing_to_show_every_view_says_so(name: str) -> None:
    desk, source = Desk(), NOTHING_YET[name]()
    frame = desk.update(source)
    put_in_place(frame)
    assert "Nothing has happened yet" in texts(frame)
    assert frame.props[desk.views[0]._empty]["visible"] == (name == "no chunk")


@pytest.mark.parametrize("view", [AreaMap, Fragmentation, Timeline])
def test_each_view_works_alone_in_a_live_figure(view: Callable[[], Any]) -> None:
    desk = Desk(view())
    live = LiveFigure(desk.root)
    desk.shared.select(Selection(0, 3))
    frame = desk.update(engine_after(30))
    assert live.frame(frame.sources, frame.props) == 1
    live.close()


def test_the_areas_drawn_are_those_of_the_snapshot() -> None:
    engine, desk = engine_after(120), Desk()
    areas, snap = desk.update(engine).sources[desk.views[0]._areas], snapshot(engine)
    used = np.asarray(areas["kind"]) == IN_USE
    assert np.asarray(areas["id"])[used].tolist() == snap.areas.birth[snap.areas.kind == IN_USE].tolist()
    assert set(np.asarray(areas["id"])[~used].tolist()) == {-1}
    np.testing.assert_array_equal(np.asarray(areas["left"]) * 1024, snap.areas.off_bytes)
    np.testing.assert_array_equal(np.asarray(areas["right"]) * 1024, snap.areas.off_bytes + snap.areas.size_bytes)


def test_a_stale_hint_is_told_from_the_truth() -> None:
    engine, desk = Engine(Geometry.simple(unit_size=32768), jit="off"), Desk()
    engine.alloc(24570, 2, False, False)  # the hint stays at 24,576 though only 6 bytes are left (spec 11.7)
    frame = desk.update(engine)
    assert [text.strip() for text in frame.sources[desk.views[0]._rows]["text2"]] == ["24 KiB ⚠ really 6 B"]  # type: ignore[union-attr]


def test_the_chunk_in_focus_gets_lines_of_its_own() -> None:
    engine, desk = engine_after(200), Desk()
    lines = desk.views[1]._chosen
    assert length(desk.update(engine), lines) == 0
    desk.shared.select(Selection(0, None))
    frame = desk.update(engine)
    assert length(frame, lines) > 0
    assert "first chunk" in texts(frame)


# --- much at once ---------------------------------------------------------------------------


def test_too_many_areas_become_a_picture_until_the_user_zooms_in() -> None:
    desk, engine = Desk(), crowded()
    view: AreaMap = desk.views[0]
    frame = desk.update(engine)
    assert (length(frame, view._areas), length(frame, view._image) > 0) == (0, True)
    assert "zoom in to point" in texts(frame)
    desk.handle(FigureEvent("range", view._x.model, start=10.0, end=14.0))
    frame = desk.update(engine)
    assert 0 < length(frame, view._areas) <= area_map.BUDGET
    assert np.all(np.asarray(frame.sources[view._areas]["right"]) > 10)
    assert len(frame.sources[view._image]["image"]) == 0


def test_too_many_lifetimes_become_a_picture_until_the_user_zooms_in() -> None:
    desk, engine = Desk(), crowded()
    view: Timeline = desk.views[2]
    assert (length(desk.update(engine), view._areas), length(desk.update(engine), view._image) > 0) == (0, True)
    desk.handle(FigureEvent("range", desk.shared.time.model, start=0.0, end=300.0))
    frame = desk.update(engine)
    assert 0 < length(frame, view._areas) <= 301
    assert len(frame.sources[view._image]["image"]) == 0


def test_of_very_many_marks_every_so_many_is_drawn_and_the_view_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "MAX_MARKS", 10)
    engine, desk = Engine(Geometry.simple(), jit="off"), Desk(Timeline())
    for _ in range(25):
        engine.set_fault("mem", 1)
        engine.set_fault("vm", 1)
        engine.alloc(32768, 4096, False, True)
    frame = desk.update(engine)
    nr_failed = int(np.count_nonzero(engine.events(0).event == L.EVENT_FAIL))
    assert nr_failed > 10
    assert length(frame, desk.views[0]._marks[L.EVENT_FAIL]) <= 10
    assert "% of the marks are drawn" in texts(frame)


# --- what is missing is said ------------------------------------------------------------------


def test_lost_events_are_said() -> None:
    engine = engine_after(200, ring_capacity=32)
    lost = int(engine.g[L.RING_HEAD]) - 32
    assert f"{lost:,} earlier events were lost" in texts(Desk().update(engine))


def test_tracing_switched_off_is_said() -> None:
    columns = take(engine_after(50))
    off = Columns(columns.snapshot, columns.events, columns.history, is_tracing=False)
    assert "tracing is off" in texts(Desk().update(off))


def test_what_a_recording_cannot_tell_is_said() -> None:
    engine = engine_after(50)
    run = RecordedRun(engine.events(0), Unit.of(engine.geometry.info))
    desk = Desk()
    frame = desk.update(run)
    assert "pages and hints unknown" in texts(frame)
    assert length(frame, desk.views[0]._no_page) == 0
    headings = frame.sources[desk.views[0]._headings]
    assert [heading.strip() for name in headings for heading in headings[name]] == ["areas", "free", "largest free"]  # type: ignore[union-attr]
    legend = {item.label["value"] for item in desk.views[0]._unrecorded if not frame.props[item]["visible"]}
    assert legend == {"free, no page behind it yet", "first_free: where a search begins"}
    assert not any("-" in text for name in headings for text in frame.sources[desk.views[0]._rows][name])  # type: ignore[union-attr]


def test_an_area_map_of_boot_chunks_ends_where_they_do() -> None:
    geometry = Geometry.simple(unit_size=65536, static_size=4096, reserved_size=4096, dyn_size=20480)
    engine, desk = Engine(geometry, jit="off"), Desk()
    view: AreaMap = desk.views[0]
    desk.update(engine)
    assert view._x.shown == (0, 28)
    engine.alloc(32768, 8, False, False)
    desk.update(engine)
    assert view._x.shown == (0, 64)


def test_a_picture_explains_what_is_in_it() -> None:
    def words(engine: Engine) -> list[str]:
        legend = static.picture(take(engine), ["area_map"]).figure.axes[0].get_legend()
        return [text.get_text().partition(":")[0] for text in legend.get_texts()]

    engine = Engine(Geometry.simple(), jit="off")
    assert words(engine) == ["free", "static"]
    freed = engine.alloc(64, 8, False, False)
    engine.alloc(64, 8, False, False)
    engine.free(freed)
    assert words(engine) == ["in use", "free", "hole", "static"]


def test_the_tail_puts_fields_of_an_event_below_each_other() -> None:
    engine = Engine(Geometry.simple(), jit="off")
    for size in (8, 4000, 16):
        engine.alloc(size, 8, False, False)
    events = engine.events(1)
    heading, *lines = dashboard.tail(events).splitlines()
    assert heading.split() == ["by", "op", "the", "last", "events"]
    for field in ("align=", "base_addr=", "off=", "ptr="):
        assert len({line.index(f" {field}") for line in lines}) == 1
    assert [line.split() for line in lines] == [[str(op), *str(event).split()] for op, event in enumerate(events)]


@pytest.mark.parametrize("nr_chunks", [1, 11, 12, 60, 100, 500])
def test_the_heading_is_as_far_from_the_first_label_as_labels_from_each_other(nr_chunks: int) -> None:
    engine, desk = Engine(Geometry.simple(unit_size=32768), jit="off"), Desk()
    for _ in range(nr_chunks):
        engine.alloc(32768, 8, False, False)
    ticks = desk.update(engine).props[desk.views[0]._ticker]["ticks"]
    gaps = np.diff(ticks)
    assert gaps[0] >= 0.9 * gaps.max()
    assert len(ticks) <= 1 + area_map.MAX_TEXTS


@pytest.mark.parametrize("nr_chunks", [11, 60, 500])
def test_the_selected_chunk_has_its_name_however_many_there_are(nr_chunks: int) -> None:
    engine, desk = Engine(Geometry.simple(unit_size=32768), jit="off"), Desk()
    for _ in range(nr_chunks):
        engine.alloc(32768, 8, False, False)
    chunks = snapshot(engine).chunks.ordinal.tolist()
    for ordinal in (0, 5, nr_chunks // 2, nr_chunks // 2 + 1, nr_chunks // 2 + 2):
        desk.shared.select(Selection(ordinal, None))
        frame = desk.update(engine)
        for view, row in (desk.views[0], chunks.index(ordinal)), (desk.views[2], ordinal):
            names = frame.sources[view._rows if view is desk.views[0] else view._band_rows]["name"]
            assert "chunk" in names[row] and (ordinal == 0 or str(ordinal) in names[row])
            ticks = frame.props[view._ticker]["ticks"]
            assert row + 0.5 in ticks
            assert np.diff(ticks).min() >= 0.7 * np.median(np.diff(ticks))


# --- pointing and selecting ---------------------------------------------------------------------


def test_a_tap_on_an_area_picks_it_and_its_chunk() -> None:
    engine, desk = engine_after(100), Desk()
    desk.update(engine)
    view, snap = desk.views[0], snapshot(engine)
    row = int(np.flatnonzero(snap.areas.kind == IN_USE)[-1])
    y = float(snap.areas.chunk[row]) + 0.5
    birth, ordinal = int(snap.areas.birth[row]), int(snap.chunks.ordinal[snap.areas.chunk[row]])
    assert desk.handle(FigureEvent("tap", view._areas, ids=(birth,), y=y)) == [Selection(ordinal, birth)]
    assert desk.handle(FigureEvent("tap", view._areas, ids=(-1,), y=y)) == [Selection(ordinal, None)]
    assert desk.handle(FigureEvent("tap", view.figure, y=-0.5)) == [Selection(None, None)]


def test_a_tap_on_a_lifetime_picks_its_area() -> None:
    engine, desk = engine_after(60), Desk()
    desk.update(engine)
    assert desk.handle(FigureEvent("tap", desk.views[2]._areas, ids=(7,), y=0.5)) == [Selection(-1, 7)]


def test_a_tap_on_a_picture_picks_the_area_in_its_place() -> None:
    engine, desk = crowded(free_every=7), Desk()
    desk.update(engine)
    view, snap = desk.views[0], snapshot(engine)
    for kind in (IN_USE, HOLE):
        area = int(np.flatnonzero(snap.areas.kind == kind)[-1])
        row, birth = int(snap.areas.chunk[area]), int(snap.areas.birth[area])
        middle = float(snap.areas.off_bytes[area]) + float(snap.areas.size_bytes[area]) / 2
        event = FigureEvent("tap", view.figure, x=middle / 1024, y=row + 0.5)
        picked = Selection(int(snap.chunks.ordinal[row]), birth if kind == IN_USE else None)
        assert desk.handle(event) == [picked]
    assert desk.handle(FigureEvent("tap", view.figure, x=1.0, y=-0.5)) == [Selection(None, None)]


def test_a_tap_on_a_picture_of_lifetimes_picks_the_area_that_lived_there() -> None:
    engine, desk = crowded(free_every=7), Desk()
    desk.update(engine)
    view, lives = desk.views[2], lifetimes(engine.events(0), snapshot(engine))
    bottom, height = lives.places(slice(None))
    for row in (0, len(lives) - 1):  # a freed area, and one in use
        birth, band = int(lives.birth[row]), int(lives.band[row])
        place = {"x": (birth + float(lives.death[row])) / 2, "y": float(bottom[row] + height[row] / 2)}
        assert desk.handle(FigureEvent("tap", view.figure, **place)) == [Selection(int(lives.bands[band]), birth)]
    beside = {"x": float(engine.now) + 1, "y": 0.5}
    assert desk.handle(FigureEvent("tap", view.figure, **beside)) == [Selection(int(lives.bands[0]), None)]


def test_a_selected_area_that_is_freed_gets_its_end() -> None:
    engine, desk = Engine(Geometry.simple(), jit="off"), Desk()
    ptr = engine.alloc(64, 8, False, False)
    desk.shared.select(Selection(0, 0))
    assert desk.update(engine).sources[desk.shared.selected]["death"] == [-1]
    assert desk.shared.selected not in desk.update(engine).sources, "sent again though nothing has changed"
    engine.free(ptr)
    assert desk.update(engine).sources[desk.shared.selected]["death"] == [1]


def test_an_area_nobody_knows_any_more_is_not_marked() -> None:
    desk = Desk()
    desk.shared.select(Selection(None, 123456))
    assert desk.update(engine_after(5)).sources[desk.shared.selected]["area"] == []


def test_a_range_follows_until_the_user_picks_a_part_and_again_after_a_reset() -> None:
    followed = FollowedRange(0, 10)
    assert followed.extend(0, 20) == {followed.model: {"reset_start": 0, "reset_end": 20, "start": 0, "end": 20}}
    assert followed.extend(0, 20) == {}
    followed.handle(FigureEvent("range", followed.model, start=5.0, end=6.0))
    assert followed.extend(0, 30) == {followed.model: {"reset_start": 0, "reset_end": 30}}
    assert followed.shown == (5, 6)
    followed.handle(FigureEvent("range", followed.model, start=0.0, end=30.0))
    assert followed.extend(0, 40)[followed.model]["end"] == 40


# --- what comes from elsewhere is never markup ------------------------------------------------------

HOSTILE = "<script>alert(1)</script>"


def hostile_run() -> RecordedRun:
    line = (
        f"  {HOSTILE[:15]}-1 [000] .... 1.000001: percpu_alloc_percpu: call_site={HOSTILE} reserved=0 is_atomic=0 "
        "size=64 align=8 base_addr=0000000000001000 off=9000 ptr=0000000000002328 "
        f"bytes_alloc=64 gfp_flags={HOSTILE}$$x$$\n"
    )
    return RecordedRun(read_trace_text(line), Unit(65536, 8192, 0, 57344, {0: 0}))


def test_hostile_text_in_a_trace_reaches_no_view() -> None:
    desk = Desk()
    run = hostile_run()
    frame = desk.update(run)
    assert run.snapshot().nr_in_use == 1
    sent = repr([list(data.values()) for data in frame.sources.values()]) + repr(list(frame.props.values()))
    assert "<" not in sent
    assert "$$" not in sent


def test_no_view_has_a_place_where_text_would_be_markup() -> None:
    for model in Desk().root.references():
        assert not isinstance(model, (Div, PreText, Tooltip))
        if isinstance(model, HoverTool):
            assert "safe" not in repr(model.tooltips)


# --- one look ------------------------------------------------------------------------------------------


def test_each_meaning_has_a_colour_of_its_own() -> None:
    roles = [
        _style.IN_USE,
        _style.FREE,
        _style.HOLE,
        _style.NO_PAGE,
        _style.STATIC,
        _style.RESERVED,
        _style.FAILURE,
        _style.CHUNK,
    ]
    assert len({colour[:7] for colour in roles}) == len(roles)
    assert _style.area_palette()[IN_USE] == _style.IN_USE
    assert _style.area_palette()[HOLE] == _style.HOLE


def test_palettes_begin_and_end_with_pure_colours() -> None:
    assert (_style.unit_palette()[0], _style.unit_palette()[230]) == (_style.FREE, _style.IN_USE)
    assert all(re.fullmatch("#[0-9a-f]{8}", colour) for colour in _style.unit_palette() + _style.lifetime_palette())


# --- pictures that stay ----------------------------------------------------------------------------------


def test_on_a_recording_all_texts_count_events_as_the_time_axis_does() -> None:
    board = dashboard.Dashboard(open_trace(REAL))
    board.session.post("select", 0, 300)
    frame = board._frame()
    said = [text for model in board.figure._models.values() for text in words_of(model, frame)]
    assert "event 336" in " ".join(said) and any("events of the trace" in text for text in said)
    assert not [text for text in said if re.search(r"\bops?\b(?!\{)", text.replace("@op", ""))]


def words_of(model: Any, frame: Frame) -> list[str]:
    """What a model shows of moments: its text as the frame has it, its tips, what its hover is told."""
    said = [str(value) for name, value in frame.props.get(model, {}).items() if name in ("text", "axis_label")]
    if isinstance(model, HoverTool):
        said += [word for tip in model.tooltips for word in tip]
    return [*said, model.args["moment"]] if isinstance(model, CustomJSHover) and "moment" in model.args else said


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_picture_is_a_png_with_a_name_that_does_not_change(theme: Any) -> None:
    shown = static.picture(take(engine_after(40)), theme=theme)._repr_mimebundle_()
    assert shown["image/png"].startswith(b"\x89PNG")
    assert shown["text/plain"] == "<Picture: area_map, fragmentation, timeline at op 40>"


@pytest.mark.parametrize("name", [*NOTHING_YET, "crowded", "hostile"])
def test_a_picture_can_be_made_of_anything(name: str) -> None:
    sources = {**NOTHING_YET, "crowded": crowded, "hostile": hostile_run}
    source = sources[name]()
    columns = source if isinstance(source, Columns) else take(source)
    assert static.picture(columns, chunk=0)._repr_png_()


def test_time_runs_alike_in_all_views_of_a_picture() -> None:
    shown = static.picture(take(engine_after(40)))
    assert shown._repr_png_()  # draws, so that places are known
    area_map_axes, *time_axes = shown.figure.axes
    assert len({(round(axes.get_position().x0, 6), round(axes.get_position().x1, 6)) for axes in time_axes}) == 1
    assert len({axes.get_xlim() for axes in time_axes}) == 1
    assert area_map_axes.get_position().x0 == pytest.approx(time_axes[0].get_position().x0)


def test_a_picture_is_saved_by_the_ending_of_its_name(tmp_path: Path) -> None:
    shown = static.picture(take(engine_after(40)), ["timeline"])
    for ending, begin in ((".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")):
        shown.save(tmp_path / f"now{ending}")
        assert (tmp_path / f"now{ending}").read_bytes().startswith(begin)
    with pytest.raises(RequestError, match=r"end it with \.png"):
        shown.save(tmp_path / "now.docx")


def test_an_unknown_view_or_theme_is_refused() -> None:
    columns = take(engine_after(1))
    with pytest.raises(RequestError, match="choose views from area_map"):
        static.picture(columns, ["map"])
    with pytest.raises(RequestError, match="theme from light"):
        static.picture(columns, theme="sepia")  # type: ignore[arg-type]


def test_a_picture_leaves_pyplot_alone() -> None:
    code = (
        "import sys; from percpu_lab.views import static; assert 'matplotlib' not in sys.modules; "
        "from percpu_lab.columns import take; from percpu_lab.engine import Engine; "
        "from percpu_lab.geometry import Geometry; "
        "static.picture(take(Engine(Geometry.simple(), jit='off')))._repr_png_(); "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "make",
    [lambda: dashboard.Dashboard(Allocator(jit="off")), lambda: compare("reserved", jit="off").watch()],
    ids=["Dashboard", "CompareBoard"],
)
def test_a_closed_board_that_is_kept_keeps_nothing_that_was_drawn(make: Callable[[], Any]) -> None:
    board = make()
    assert board.widget is not None  # from here on a thread draws it
    gone, text = weakref.ref(board._drawing), repr(board)
    board.close()
    deadline = time.monotonic() + 30
    while gone() is not None and time.monotonic() < deadline:
        time.sleep(0.05)
        gc.collect()
    assert gone() is None
    assert repr(board) == text
    assert board._frame() is None


@pytest.mark.parametrize("nr_chunks", [1, 11, 12, 13, 60, 100, 111, 500])
def test_the_label_of_failures_lies_upon_no_other(nr_chunks: int) -> None:
    engine, desk = Engine(Geometry.simple(unit_size=32768), jit="off"), Desk()
    for _ in range(nr_chunks):
        engine.alloc(32768, 8, False, False)
    gaps = np.diff(desk.update(engine).props[desk.views[2]._ticker]["ticks"])
    assert gaps.min() >= 0.85 * gaps[0]
    assert gaps.max() < 2 * gaps[0]


def test_on_a_run_all_texts_count_ops(tmp_path: Path) -> None:
    engine = engine_after(30)
    trace = "".join(f"{event}\n" for event in Trace(engine).text(style="golden").splitlines())
    board = dashboard.Dashboard(RecordedRun(read_golden_trace(trace), Unit(65536, 8192, 0, 57344, {0: 0})))
    frame = board._frame()
    assert frame is not None
    said = " ".join(text for model in board.figure._models.values() for text in words_of(model, frame))
    assert "ops done" in said and "op 30" in said
    assert "event 30" not in said and "events of the trace" not in said


def test_one_op_ago_is_said_in_the_singular() -> None:
    engine = Engine(Geometry.simple(), jit="off")
    engine.alloc(64, 8, False, False)
    assert dashboard.selected_area(snapshot(engine), 0).endswith("allocated by op 0, 1 op ago")


@pytest.mark.parametrize("kernel", ["v4.13-areamap", "v6.12-bitmap"])
def test_what_a_page_practises_on_fits_the_board_and_leaves_it_as_it_is(kernel: str) -> None:
    allocator = Allocator(engine=kernel, jit="wait")
    allocator.alloc_percpu(64)
    board = dashboard.watch(allocator)
    practised = list(board._practice())
    for frame in practised:
        board.figure._encoded(frame)  # refuses models of others
    drawn = [max(len(data.get("requested", ())) for data in frame.sources.values()) for frame in practised]
    pictures = [sum(len(data.get("image", ())) > 0 for data in frame.sources.values()) for frame in practised]
    assert drawn[0] > 500
    assert pictures == ([0, 2, 2] if allocator.engine.is_compiled else [0])
    assert allocator.engine.now == 1
    fresh = dashboard.watch(allocator)
    texts = [sorted(str(attrs) for attrs in one._frame().props.values()) for one in (board, fresh)]
    assert texts[0] == texts[1]
    board.close()
    fresh.close()


def test_a_closed_board_and_a_recording_have_nothing_to_practise_on() -> None:
    board = dashboard.watch(Allocator(jit="off"))
    board.close()
    assert list(board._practice()) == []
    recording = dashboard.watch(open_trace(REAL))
    assert recording.figure._practises is False
    recording.close()
