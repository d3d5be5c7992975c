"""The event timeline: when each area lived, and what else happened.

    failed      |          ×
    chunk 1     |      +▆▆▆▆▆▆▆▆▆▆▆     time across in ops; in a chunk's band offsets go up, over all that it serves
    first chunk | ▆▆▆▆░░░▆▆▆▆▆▆▆▆▆▆|    + chunk made, - chunk given back, × allocation failed, | now

Lifetimes are drawn one by one up to BUDGET in sight; more of them are a picture, until the user zooms in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from bokeh.models import (
    ColumnDataSource,
    CustomJS,
    CustomJSHover,
    CustomJSTickFormatter,
    FixedTicker,
    HoverTool,
    LinearColorMapper,
)
from bokeh.models.annotations import Label, Span

from ..annotations import Annotations
from ..columns import Columns, Ints
from ..core import layout as L
from ..raster import LiveSteps, lifetime_image, steady_form
from ..session import Selection
from ..spans import Lifetimes, lifetimes
from . import _style
from ._words import (
    NOTHING_YET,
    TIMELINE_TITLE,
    band_label,
    harmless,
    note_labels,
    nothing_happened,
    time_label,
    timeline_status,
)
from .live import FigureEvent, Frame
from .shared import (
    ORIGIN,
    STILL_IN_USE,
    FollowedRange,
    Shared,
    add_outlines,
    labelled,
    on_hover,
    on_tap,
    origin_columns,
)

BUDGET = 4000
MOST_BINS = 512  # of a picture
MAX_LABELS = 11  # lines of text that have room beside the bands
MAX_MARKS = 2000  # of a kind
MAX_EDGES, MAX_LARGE_MARKS = 48, 60  # more would hide what they frame
FAILED_LANE = 0.8  # bands high
NEAREST_LABEL = 0.85  # to that of the lane, in distances of labels

_AREAS = ("id", "ordinal", "off", "size", "death", "paint", "left", "right", "top", "bottom")
_BOX = ("left", "right", "top", "bottom")
_BANDS = ("ordinal", "name", "left", "right", "top", "bottom", "now", "base", "span", "edge")
_MARKS = ("op", "y", "ordinal", "size", "reason", "pixels")
_NOTES = ("op", "y", "text", "label", "colour", "plate")
_SYMBOLS = {L.EVENT_FAIL: "x", L.EVENT_CREATE: "cross", L.EVENT_DESTROY: "dash"}


class Timeline:
    """The view of what happened over ops.

    Args:
        height: of the figure in pixels.
    """

    def __init__(self, *, height: int = 400) -> None:
        self._height = height
        self._y = FollowedRange(0, 1 + FAILED_LANE)
        self._bands: list[int] = []
        self._pictured: Lifetimes | None = None  # which are not drawn one by one
        self._steps = LiveSteps()

    # --- building -----------------------------------------------------------------

    def build(self, shared: Shared) -> _style.Plot:
        """Make the figure, empty."""
        self._shared = shared
        self._areas = _source(*_AREAS)
        self._band_rows = _source(*_BANDS)
        self._image = _source("image", "x", "y", "dw", "dh")
        self._marks = {event: _source(*_MARKS) for event in _SYMBOLS}
        self._notes = _source(*_NOTES)
        plot = _style.make_figure(
            TIMELINE_TITLE,
            height=self._height, x_range=shared.time.model, y_range=self._y.model,
            x_label="ops done", y_label="",
        )  # fmt: skip
        plot.tags = shared.models
        self.figure = plot
        self._status = _style.add_status(plot)
        self._empty = Label(x=0.5, y=0.9, text=NOTHING_YET, text_align="center", text_font_size="16px")
        plot.add_layout(self._empty)
        _style.show_ops(plot)
        self._add_labels(plot, shared)
        self._add_glyphs(plot)
        add_outlines(plot, shared, self._band_rows, _OUTLINE)
        plot.add_tools(self._hover(shared), *self._mark_tips)
        plot.js_on_event("tap", on_tap(self._areas, self._band_rows, shared))
        return plot

    def _add_labels(self, plot: _style.Plot, shared: Shared) -> None:
        self._ticker = FixedTicker(ticks=[])
        args = {"names": self._band_rows, "focus": shared.focus, "heading": "failed", "width": 20}
        plot.yaxis.ticker = self._ticker
        plot.yaxis.formatter = CustomJSTickFormatter(args=args, code=_style.NAME)
        _style.make_column(plot.yaxis[0])
        shared.focus.js_on_change("data", CustomJS(args={"ticker": self._ticker}, code="ticker.change.emit()"))

    def _add_glyphs(self, plot: _style.Plot) -> None:
        plot.quad(*_BOX, source=self._band_rows, fill_color=_style.FREE, line_color=_style.NOTE, line_alpha="edge")
        codes = LinearColorMapper(palette=_style.lifetime_palette(), low=-0.5, high=255.5)
        plot.image(
            "image", x="x", y="y", dw="dw", dh="dh", source=self._image, color_mapper=codes, origin="bottom_left"
        )
        paint = LinearColorMapper(palette=[_style.FREED, _style.IN_USE, _style.IN_USE_ALTERNATE], low=-0.5, high=2.5)
        self._quads = plot.quad(
            *_BOX, source=self._areas, line_color=None, fill_color={"field": "paint", "transform": paint}
        )
        now = Span(location=0, dimension="height", line_color=_style.NOTE, line_width=2, line_dash="dotted")
        plot.add_layout(now)
        self._now = now
        in_use, freed, free = (_style.add_sample(plot, colour) for colour in (_style.IN_USE, _style.FREED, _style.FREE))
        entries = [("in use now", in_use), ("freed since", [free, freed]), ("free", free)]
        self._mark_tips = []
        words = {
            L.EVENT_FAIL: "allocation failed",
            L.EVENT_CREATE: "chunk made",
            L.EVENT_DESTROY: "chunk given back",
        }
        for event, marker in _SYMBOLS.items():
            colour = _style.FAILURE if event == L.EVENT_FAIL else _style.CHUNK
            look = {"marker": marker, "line_width": 2.5, "color": colour}
            glyph = plot.scatter("op", "y", source=self._marks[event], size="pixels", **look)
            sample = plot.scatter([np.nan], [np.nan], size=11, **_style.UNSEEN, **look | {"line_width": 1.5})
            entries.append((words[event], sample))
            self._mark_tips.append(_mark_hover(glyph, event, words[event], self._shared.moment))
        self._mark_tips.append(self._add_notes(plot))
        for colour, what in ((_style.NOTE, "marker"), (_style.FAILURE, "events lost")):
            look = {"size": 8, "marker": "inverted_triangle", "color": colour}
            entries.append((what, plot.scatter([np.nan], [np.nan], **_style.UNSEEN, **look)))
        self._note_items = _style.add_legend(plot, entries)[-2:]

    def _add_notes(self, plot: _style.Plot) -> HoverTool:
        """Markers of a recording and places where events are missing, at the top; in words where there is room."""
        colour = {"field": "colour"}
        glyph = plot.scatter("op", "y", source=self._notes, marker="inverted_triangle", size=7, color=colour)
        plot.text(
            "op", "y", "label", source=self._notes, angle=-np.pi / 2, x_offset=3, y_offset=6, text_font_size="10px",
            text_color=_style.LABEL_TEXT, background_fill_color={"field": "plate"}, border_radius=2,
            padding=2, text_baseline="bottom",
        )  # fmt: skip
        return HoverTool(renderers=[glyph], tooltips=[("note", "@text"), (f"before {self._shared.moment}", "@op{0,0}")])

    def _hover(self, shared: Shared) -> HoverTool:
        args: dict[str, Any] = {"areas": self._areas, "bands": self._band_rows, "origins": shared.origins}
        args["moment"] = shared.moment
        return HoverTool(
            renderers=[self._quads],
            tooltips=[("area", "@id{area}"), ("place", "offset @off{0,0} in chunk @ordinal"),
                      ("size", "@size{0,0} bytes"),                       ("life", "@id{life}")],
            formatters={"@id": CustomJSHover(args=args, code=ORIGIN + _LIFE)},
            callback=on_hover(self._areas, shared),
        )  # fmt: skip

    # --- events -------------------------------------------------------------------

    def handle(self, event: FigureEvent) -> Selection | None:
        """Take an event of the browser; gives what a tap has picked."""
        self._y.handle(event)
        if event.kind != "tap" or event.model not in (self.figure, self._areas):
            return None
        band = int(np.floor(event.y))
        chunk = self._bands[band] if 0 <= band < len(self._bands) else None
        area = int(event.ids[-1]) if event.ids else None
        if self._pictured is not None and chunk is not None:
            area = self._pictured.area_at(event.x, event.y)
        return Selection(chunk, area)

    # --- updating -----------------------------------------------------------------

    def update(self, columns: Columns) -> Frame:
        """Draw what happened in the ops in sight."""
        snap, window = columns.snapshot, self._shared.window
        lives = lifetimes(columns.events, snap, window)
        self._bands = lives.bands.tolist()
        nr_bands = max(len(self._bands), 1)
        lane_height = FAILED_LANE * max(nr_bands / 8, 1)
        lane = nr_bands + lane_height / 2
        props = self._y.extend(0, nr_bands + lane_height)
        step = max(-(-nr_bands // MAX_LABELS), 1)
        chunk = self._shared.selection.chunk
        focus = self._bands.index(chunk) if chunk in self._bands else None
        texts = labelled(range(0, len(self._bands), step), focus)
        texts = [band for band in texts if lane - band - 0.5 >= NEAREST_LABEL * step]
        rows = self._rows_in_sight(lives)
        is_picture = rows is None
        self._pictured = lives if is_picture else None
        sources: dict[ColumnDataSource, Any] = {
            self._areas: self._area_columns(columns, lives, rows),
            self._notes: _note_columns(columns.annotations, window, nr_bands + lane_height),
            self._band_rows: _band_columns(lives, texts),
            self._image: self._image_columns(lives, is_needed=is_picture),
        }
        for event, source in self._marks.items():
            sources[source] = _mark_columns(lives, event, lane)
        props[self._ticker] = {"ticks": [*(band + 0.5 for band in texts), lane]}
        props[self._now] = {"location": snap.op}
        props[self.figure.xaxis[0]] = {"axis_label": time_label(columns.annotations)}
        props |= {item: {"visible": columns.annotations is not None} for item in self._note_items}
        nothing = nothing_happened(lives, is_tracing=columns.is_tracing, moment=self._shared.moment)
        marks_drawn = sum(len(sources[source]["op"]) for source in self._marks.values()) / max(len(lives.marks), 1)
        status = timeline_status(
            lives,
            is_tracing=columns.is_tracing,
            is_picture=is_picture,
            marks_drawn=marks_drawn or 1,
            moment=self._shared.moment,
        )
        props[self._status] = {"text": status}
        where = {"text": nothing, "x": sum(window) / 2, "y": nr_bands / 2}
        props[self._empty] = {"visible": True, **where} if nothing else {"visible": False}
        return Frame(sources, props)

    def _rows_in_sight(self, lives: Lifetimes) -> Ints | None:
        """Rows of the lifetimes to be drawn one by one, None if they are too many."""
        low, high = sorted(self._y.shown)
        if low <= 0 and high >= len(lives.bands):
            return np.arange(len(lives)) if len(lives) <= BUDGET else None
        bottom, height = lives.places(slice(None))
        rows = np.flatnonzero((bottom < high) & (bottom + height > low))
        return rows if len(rows) <= BUDGET else None

    def _area_columns(self, columns: Columns, lives: Lifetimes, rows: Ints | None) -> dict[str, Any]:
        if rows is None:
            return {name: [] for name in _AREAS}
        return _area_columns(lives, rows) | origin_columns(columns, lives.birth[rows])

    def _image_columns(self, lives: Lifetimes, *, is_needed: bool) -> dict[str, Any]:
        if not is_needed:
            return {name: [] for name in ("image", "x", "y", "dw", "dh")}
        most_rows = self._height * 2 // 3  # about the pixels that there are
        form = steady_form(lives, MOST_BINS, most_rows, min(self._y.shown), max(self._y.shown))
        codes = lifetime_image(lives, form, self._steps)
        place = {"x": form.start, "y": form.bottom, "dw": form.end - form.start, "dh": form.top - form.bottom}
        return {"image": codes, **{name: [value] for name, value in place.items()}}


def _source(*names: str) -> ColumnDataSource:
    return ColumnDataSource({name: [] for name in names})


def _area_columns(lives: Lifetimes, part: Ints) -> dict[str, Ints]:
    birth, off, size = lives.birth[part], lives.off_bytes[part], lives.size_bytes[part]
    is_live = part >= lives.nr_freed
    death = np.full(len(part), lives.now)
    death[~is_live] = lives.freed.freed_at[part[~is_live]]
    bottom, height = lives.places(part)
    columns = (
        birth, lives.bands[lives.band[part]], off, size, np.where(is_live, STILL_IN_USE, death),
        np.where(is_live, 1 + (birth & 1), 0).astype(np.uint8), birth, death, bottom + height, bottom,
    )  # fmt: skip
    return dict(zip(_AREAS, columns, strict=True))


def _band_columns(lives: Lifetimes, texts: Sequence[int]) -> dict[str, Any]:
    """Numbers of all bands, names of those that have room for it."""
    nr_bands = len(lives.bands)
    row = np.arange(nr_bands)
    names = [""] * nr_bands
    for band in texts:
        names[band] = band_label(int(lives.bands[band]), int(lives.span_bytes[band]))
    edge = np.full(nr_bands, 0.4 if nr_bands <= MAX_EDGES else 0.0, np.float32)
    columns = (
        lives.bands, names, lives.band_birth, lives.band_death, row + 1, row,
        np.full(nr_bands, lives.now), lives.base_bytes, lives.span_bytes, edge,
    )  # fmt: skip
    return dict(zip(_BANDS, columns, strict=True))


def _mark_columns(lives: Lifetimes, event: int, lane: float) -> dict[str, Ints]:
    marks = lives.marks
    rows = np.flatnonzero(marks.event == event)
    rows = rows[:: max(-(-len(rows) // MAX_MARKS), 1)]
    ordinal = marks.ordinal[rows]
    y = np.full(len(rows), lane) if event == L.EVENT_FAIL else np.searchsorted(lives.bands, ordinal) + 0.5
    pixels = np.full(len(rows), 11 if len(rows) <= MAX_LARGE_MARKS else 4, np.float32)
    columns = (marks.op[rows], y, ordinal, marks.size_bytes[rows], marks.reason[rows], pixels)
    return dict(zip(_MARKS, columns, strict=True))


def _note_columns(annotations: Annotations | None, window: tuple[int, int], y: float) -> dict[str, Any]:
    if annotations is None:
        return {name: [] for name in _NOTES}
    notes = annotations.notes
    rows = np.flatnonzero((notes.op >= window[0]) & (notes.op <= window[1]))[:MAX_MARKS]
    labels = note_labels(notes, rows, window)
    return {
        "op": notes.op[rows],
        "y": np.full(len(rows), y),
        "text": [harmless(notes.text[row]) for row in rows.tolist()],
        "label": [labels.get(row, "") for row in rows.tolist()],
        "colour": [_style.FAILURE if notes.is_loss[row] else _style.NOTE for row in rows.tolist()],
        "plate": [_plate(labels.get(row), notes.is_loss[row]) for row in rows.tolist()],
    }


def _plate(label: str | None, is_loss: bool) -> str:
    """The colour behind the words of a note; none where there are no words."""
    if not label:
        return _style.NOTHING
    return _style.LOSS_LABEL if is_loss else _style.NOTE_LABEL


def _mark_hover(glyph: Any, event: int, words: str, moment: str) -> HoverTool:
    code = CustomJSHover(args={"reasons": list(L.REASONS)}, code="return reasons[value] || 'not told'")
    what = [("chunk", "@ordinal")] if event != L.EVENT_FAIL else [("size", "@size{0,0} bytes"), ("why", "@reason{why}")]
    return HoverTool(
        renderers=[glyph], tooltips=[(words, f"by {moment} @op{{0,0}}"), *what], formatters={"@reason": code}
    )


_OUTLINE = """
const {ordinal, now, base, span} = rows.data, k = Array.from(ordinal).indexOf(area.ordinal);
if (k < 0) return null;
const right = area.death < 0 ? now[k] : area.death, bottom = k + (area.off - base[k]) / span[k];
return {left: area.area, right, top: bottom + area.size / span[k], bottom};
"""
_LIFE = """
const {id, death} = areas.data, i = special_vars.index;
const n = (x) => x.toLocaleString("en");
if (format === "area") return n(value);
const from = id[i] < -1 ? "before the trace" : `${moment} ${n(id[i])}`;
return (death[i] < 0 ? `since ${from}, still in use`
  : `${from} to ${n(death[i])}: ${n(death[i] - Math.max(id[i], 0))} ${moment}s`) + origin(i);
"""
