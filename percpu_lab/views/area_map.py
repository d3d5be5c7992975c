"""The area map: each chunk a strip as long as its unit, in the order of percpu_stats.

                    slot  free       contig_hint
    first chunk    |static|reserved|####..##|.......|   9   2.5 KiB   2.5 KiB
    chunk 1        |####.###.##|........|///////////|  12  24 KiB    32 KiB, really 20 KiB
                   0       offset in the unit      64 KiB        / no page

Areas are drawn one by one up to BUDGET in sight; more of them are a picture, until the user zooms in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from bokeh.models import (
    AdaptiveTicker,
    ColumnDataSource,
    CustomJS,
    CustomJSHover,
    CustomJSTickFormatter,
    FixedTicker,
    Grid,
    HoverTool,
    LinearAxis,
    LinearColorMapper,
    SingleIntervalTicker,
)
from bokeh.models.annotations import Label

from ..columns import IN_USE, NR_KINDS, UNKNOWN, Columns, Ints, Snapshot, unpopulated
from ..raster import CODE_NOTHING, LiveUnits
from ..session import Selection
from ..spans import served_bytes
from ..units import KIB, PAGE_SIZE
from . import _style
from ._words import AREA_WORDS, NO_CHUNK_YET, NO_PAGE_WORDS, area_map_status, chunk_label, has_hints, text_columns
from .live import FigureEvent, Frame
from .shared import ORIGIN, FollowedRange, Shared, add_outlines, labelled, on_hover, on_tap, origin_columns

BUDGET = 4000  # areas drawn one by one
MAX_BINS, MIN_BINS, MAX_PIXELS = 640, 320, 100_000  # of a picture
STRIP_PIXELS = 5  # of a picture, the last one a gap
MAX_LABELS = 16  # rows that are told apart
MAX_TEXTS = 11  # lines of text that have room beside them
MAX_GRID_PAGES = 64  # in sight, or the grid would be a grey
EDGE_BYTES = 1 / 160  # of the width in sight: wide enough for an outline
LEAST_ROWS = 4  # room for chunks to come
HALF = 0.40  # of a row that a strip fills, up and down
HEADING = 0.9  # rows above the first

_AREAS = (
    "id",
    "ordinal",
    "off",
    "size",
    "requested",
    "age",
    "death",
    "kind",
    "paint",
    "row",
    "left",
    "right",
    "top",
    "bottom",
    "edge",
)
_BOX = ("left", "right", "top", "bottom")
_TEXTS = ("text0", "text1", "text2")  # columns beside the strips: see text_columns
_ROWS = ("ordinal", "name", *_TEXTS, "base_high", "base_low")


class AreaMap:
    """The view of what is where at this moment.

    Args:
        height: of the figure in pixels.
    """

    def __init__(self, *, height: int = 400) -> None:
        self._height = height
        self._x = FollowedRange(0, 64)
        self._y = FollowedRange(LEAST_ROWS, -HEADING)
        self._ordinals: list[int] = []
        self._pictured: Snapshot | None = None  # whose areas are not drawn one by one
        self._end_bytes = 0

    # --- building -----------------------------------------------------------------

    def build(self, shared: Shared) -> _style.Plot:
        """Make the figure, empty."""
        self._shared = shared
        self._areas = _source(*_AREAS)
        self._rows, self._headings = _source(*_ROWS), _source(*_TEXTS)
        self._cpus = _source("cpu", "offset")
        self._image = _source("image", "x", "y", "dw", "dh")
        self._units = LiveUnits()
        self._no_page = _source(*_BOX)
        self._search = _source("x", "y")
        plot = _style.make_figure(
            "Area map: every chunk's unit, byte by byte (all CPUs' units look alike)", height=self._height,
            x_range=self._x.model, y_range=self._y.model, x_label="offset in the unit (KiB)", y_label="",
        )  # fmt: skip
        plot.tags = shared.models
        self.figure = plot
        self._status = _style.add_status(plot)
        self._empty = Label(x=32, y=LEAST_ROWS / 2, text=NO_CHUNK_YET, text_align="center", text_font_size="16px")
        plot.add_layout(self._empty)
        self._add_grid(plot)
        self._add_labels(plot, shared)
        self._add_glyphs(plot)
        add_outlines(plot, shared, self._rows, _OUTLINE)
        plot.add_tools(self._hover(shared))
        plot.js_on_event("tap", on_tap(self._areas, self._rows, shared))
        return plot

    def _add_grid(self, plot: _style.Plot) -> None:
        """A line each page while there are not too many in sight, decided in the browser."""
        plot.xgrid.visible = False
        plot.xaxis.ticker = AdaptiveTicker(base=2, mantissas=[1], min_interval=1 / KIB)
        pages = Grid(
            dimension=0,
            ticker=SingleIntervalTicker(interval=PAGE_SIZE // KIB),
            grid_line_color=_style.NOTE,
            grid_line_alpha=0.25,
        )
        pages.level = "guide"  # upon the areas; overlays are a canvas of their own, which the page is composed of
        plot.add_layout(pages)
        code = f"pages.visible = Math.abs(x.end - x.start) <= {MAX_GRID_PAGES * PAGE_SIZE // KIB}"
        callback = CustomJS(args={"pages": pages, "x": plot.x_range}, code=code)
        plot.x_range.js_on_change("start", callback)
        plot.x_range.js_on_change("end", callback)

    def _add_labels(self, plot: _style.Plot, shared: Shared) -> None:
        """Text beside the strips, as ticks of axes: the name on the left, three numbers on the right."""
        self._ticker = FixedTicker(ticks=[-HEADING / 2])
        plot.yaxis.ticker = self._ticker
        args = {"names": self._rows, "focus": shared.focus, "heading": "", "width": 14}
        plot.yaxis.formatter = CustomJSTickFormatter(args=args, code=_style.NAME)
        for name in _TEXTS:
            args = {"rows": self._rows, "headings": self._headings, "name": name}
            axis = LinearAxis()
            axis.update(ticker=self._ticker, formatter=CustomJSTickFormatter(args=args, code=_TEXT))
            plot.add_layout(axis, "right")
        for axis in plot.yaxis:
            _style.make_column(axis)
        shared.focus.js_on_change("data", CustomJS(args={"ticker": self._ticker}, code="ticker.change.emit()"))

    def _add_glyphs(self, plot: _style.Plot) -> None:
        codes = LinearColorMapper(palette=_style.unit_palette(), low=-0.5, high=255.5)
        plot.image(
            "image", x="x", y="y", dw="dw", dh="dh", source=self._image, color_mapper=codes, origin="bottom_left"
        )
        paint = LinearColorMapper(palette=_style.area_palette(), low=-0.5, high=NR_KINDS + 0.5)
        self._quads = plot.quad(
            *_BOX, source=self._areas, line_color="white", line_width=0.6, line_alpha="edge",
            fill_color={"field": "paint", "transform": paint},
        )  # fmt: skip
        hatch = {"hatch_pattern": "/", "hatch_color": _style.NO_PAGE, "hatch_scale": 8}
        plot.quad(*_BOX, source=self._no_page, line_color=None, fill_color=_style.NO_PAGE_FILL, **hatch)
        triangle = {"marker": "triangle", "size": 8, "color": _style.NOTE, "line_color": "white"}
        plot.scatter("x", "y", source=self._search, **triangle)
        no_page = _style.add_sample(plot, _style.NO_PAGE_FILL, **hatch)
        search = plot.scatter([np.nan], [np.nan], **_style.UNSEEN, **triangle)
        samples = [_style.add_sample(plot, colour) for colour in _style.AREA_COLOURS]
        entries = list(zip(AREA_WORDS, samples, strict=True))
        entries = [entries[kind] for kind in _style.LEGEND_KINDS]
        entries += [(NO_PAGE_WORDS, no_page), ("first_free: where a search begins", search)]
        self._unrecorded = _style.add_legend(plot, entries, columns_of=4)[-2:]

    def _hover(self, shared: Shared) -> HoverTool:
        args: dict[str, Any] = {"areas": self._areas, "rows": self._rows, "cpus": self._cpus}
        args |= {"origins": shared.origins, "moment": shared.moment}
        return HoverTool(
            renderers=[self._quads],
            tooltips=[(name, f"@id{{{name}}}") for name in ("what", "place", "size", "allocated", "address")],
            formatters={"@id": CustomJSHover(args=args, code=ORIGIN + _TOOLTIP)},
            callback=on_hover(self._areas, shared),
        )  # fmt: skip

    # --- events -------------------------------------------------------------------

    def handle(self, event: FigureEvent) -> Selection | None:
        """Take an event of the browser; gives what a tap has picked."""
        self._x.handle(event)
        self._y.handle(event)
        if event.kind != "tap" or event.model not in (self.figure, self._areas):
            return None
        row = int(np.floor(event.y))
        chunk = self._ordinals[row] if 0 <= row < len(self._ordinals) else None
        area = int(event.ids[-1]) if event.ids and int(event.ids[-1]) != UNKNOWN else None
        if self._pictured is not None and chunk is not None:
            area = self._pictured.area_at(row, event.x * KIB)
        return Selection(chunk, area)

    # --- updating -----------------------------------------------------------------

    def update(self, columns: Columns) -> Frame:
        """Draw the newest snapshot, as much of it as is in sight."""
        snap = columns.snapshot
        nr_rows = len(snap.chunks)
        self._ordinals = snap.chunks.ordinal.tolist()
        height = max(nr_rows, LEAST_ROWS)
        heading = HEADING * max(height / 8, 1)
        # what lies behind the end of all chunks is nobody's: of boot chunks alone it would be nearly all of the map
        self._end_bytes = int(served_bytes(snap)[1].max(initial=0)) or snap.unit.unit_size
        props = self._x.extend(0, self._end_bytes / KIB) | self._y.extend(height, -heading)
        rows = self._rows_in_sight(nr_rows)
        texts = labelled(_regular(rows), self._focus(snap, rows))
        visible = self._areas_in_sight(snap, rows)
        self._pictured = snap if len(visible) > BUDGET else None
        drawn = np.asarray([] if self._pictured else visible, np.intp)
        sources: dict[ColumnDataSource, Any] = {
            self._areas: self._area_columns(snap, drawn, rows) | origin_columns(columns, snap.areas.birth[drawn]),
            self._image: self._image_columns(snap, rows, is_needed=self._pictured is not None),
            self._rows: _row_columns(snap, texts),
            self._headings: _heading_columns(snap),
            self._cpus: _cpu_columns(columns),
            self._no_page: _no_page_columns(snap),
            self._search: _search_columns(snap, rows),
        }
        props |= {item: {"visible": has_hints(snap.chunks)} for item in self._unrecorded}
        props[self._status] = {"text": area_map_status(snap, len(visible), len(drawn), self._shared.moment)}
        props[self._ticker] = {"ticks": [-heading / 2, *(row + 0.5 for row in texts)]}
        props[self._empty] = {"visible": nr_rows == 0, "x": self._end_bytes / KIB / 2}
        return Frame(sources, props)

    def _rows_in_sight(self, nr_rows: int) -> slice:
        low, high = sorted(self._y.shown)
        return slice(int(np.clip(np.floor(low), 0, nr_rows)), int(np.clip(np.ceil(high), 0, nr_rows)))

    def _focus(self, snap: Snapshot, rows: slice) -> int | None:
        chunk = self._shared.selection.chunk
        row = None if chunk is None else snap.row_of(chunk)
        return row if row is not None and rows.start <= row < rows.stop else None

    def _areas_in_sight(self, snap: Snapshot, rows: slice) -> Ints | range:
        areas = snap.areas
        first, last = areas.begin([rows.start, max(rows.stop, rows.start)])
        start, end = (edge * KIB for edge in sorted(self._x.shown))
        off = areas.off_bytes[first:last]
        if start <= 0 and end >= self._end_bytes:
            return range(first, last)
        return np.asarray(first + np.flatnonzero((off < end) & (off + areas.size_bytes[first:last] > start)))

    def _area_columns(self, snap: Snapshot, drawn: Ints, rows: slice) -> dict[str, Ints]:
        areas = snap.areas
        row, off, size = areas.chunk[drawn], areas.off_bytes[drawn], areas.size_bytes[drawn]
        birth, kind = areas.birth[drawn], areas.kind[drawn]
        is_in_use = kind == IN_USE
        start, end = self._x.shown
        has_edge = (size > EDGE_BYTES * KIB * abs(end - start)) & (rows.stop - rows.start <= MAX_LABELS * 3)
        columns = (
            birth, snap.chunks.ordinal[row], off, size, areas.requested_bytes[drawn],
            np.where(is_in_use, snap.op - birth, 0), np.full(len(drawn), -1, np.int8), kind,
            np.where(is_in_use & (birth & 1 == 1), np.uint8(NR_KINDS), kind), row,
            (off / KIB).astype(np.float32), ((off + size) / KIB).astype(np.float32),
            (row + 0.5 - HALF).astype(np.float32), (row + 0.5 + HALF).astype(np.float32),
            np.where(has_edge, np.float32(0.9), np.float32(0)),
        )  # fmt: skip
        return dict(zip(_AREAS, columns, strict=True))

    def _image_columns(self, snap: Snapshot, rows: slice, *, is_needed: bool) -> dict[str, Any]:
        nr_rows = rows.stop - rows.start
        if not is_needed or nr_rows == 0:
            return {name: [] for name in ("image", "x", "y", "dw", "dh")}
        start = max(min(self._x.shown), 0.0)
        end = min(max(self._x.shown), snap.unit.unit_size / KIB)
        nr_bins = int(np.clip(MAX_PIXELS // nr_rows, MIN_BINS, MAX_BINS))
        codes = self._units.image(snap, nr_bins, start * KIB, end * KIB, rows)
        if nr_rows * STRIP_PIXELS <= self._height / 2:  # else some gaps would fall between pixels, others not
            codes = np.repeat(codes, STRIP_PIXELS, axis=0)
            codes[STRIP_PIXELS - 1 :: STRIP_PIXELS] = CODE_NOTHING
        return {"image": codes, "x": [start], "y": [rows.start], "dw": [end - start], "dh": [nr_rows]}


def _source(*names: str) -> ColumnDataSource:
    return ColumnDataSource({name: [] for name in names})


def _row_columns(snap: Snapshot, texts: Sequence[int]) -> dict[str, Any]:
    """Numbers of all chunks, text of those that have room for it."""
    chunks = snap.chunks
    high, low = (chunks.base_addr >> np.uint64(32)).astype(np.uint32), chunks.base_addr.astype(np.uint32)
    text = {name: [""] * len(chunks) for name in ("name", *_TEXTS)}
    beside = dict(zip(_TEXTS, text_columns(chunks), strict=True))
    for row in texts:
        text["name"][row] = chunk_label(int(chunks.ordinal[row]))
        for name, column in beside.items():
            text[name][row] = _fitted(name, column.words(row), column.width)
    return {"ordinal": chunks.ordinal, **text, "base_high": high, "base_low": low}


def _heading_columns(snap: Snapshot) -> dict[str, list[str]]:
    beside = zip(_TEXTS, text_columns(snap.chunks), strict=True)
    return {name: [_fitted(name, column.heading, column.width)] for name, column in beside}


def _fitted(name: str, words: str, width: int) -> str:
    """Fill text up to the width of its column, so that columns do not move; the last one begins on the left."""
    return f"  {words}".ljust(width) if name == _TEXTS[-1] else words.rjust(width)


def _no_page_columns(snap: Snapshot) -> dict[str, Ints]:
    gaps = unpopulated(snap)
    kib = PAGE_SIZE / KIB
    top = gaps.chunk + (0.5 - HALF)
    return {"left": gaps.first_page * kib, "right": gaps.end_page * kib, "top": top, "bottom": top + 2 * HALF}


def _cpu_columns(columns: Columns) -> dict[str, Ints]:
    """Where each CPU's unit lies; nothing where a recording has hashed its addresses."""
    units = columns.snapshot.unit.unit_offsets
    if columns.annotations is not None and not columns.annotations.has_addresses:
        units = {}
    return {"cpu": np.array(list(units), np.int64), "offset": np.array(list(units.values()), np.int64)}


def _search_columns(snap: Snapshot, rows: slice) -> dict[str, Ints]:
    """Where the next search of each chunk begins, while there is room to show it."""
    row = np.arange(rows.start, rows.stop)
    row = row[snap.chunks.first_free_off[row] != UNKNOWN] if len(row) <= MAX_LABELS else row[:0]
    return {"x": snap.chunks.first_free_off[row] / KIB, "y": row + 0.5 + HALF}


def _regular(rows: slice) -> range:
    """The rows that get text: all, or every so many, the first as far from the heading as from the next."""
    step = max(-(-(rows.stop - rows.start) // MAX_TEXTS), 1)
    return range(rows.start + step // 2, rows.stop, step)


_TEXT = "return (tick < 0 ? headings.data[name][0] : rows.data[name][Math.floor(tick)]) ?? ''"
_OUTLINE = """
const row = Array.from(rows.data.ordinal).indexOf(area.ordinal);
if (row < 0) return null;
return {left: area.off / 1024, right: (area.off + area.size) / 1024, top: row + 0.1, bottom: row + 0.9};
"""
_TOOLTIP = """
const i = special_vars.index, at = (name) => areas.data[name][i], n = (x) => x.toLocaleString("en");
const used = at("id") !== -1;
const kinds = ["free area", "hole: a free area", "area", "static: variables of the kernel", "reserved: for modules",
  "not managed by this chunk"];
const address = (cpu) => {
  const row = at("row"), base = BigInt(rows.data.base_high[row]) << 32n | BigInt(rows.data.base_low[row]);
  const sum = base + BigInt(cpus.data.offset[cpu]) + BigInt(at("off"));
  return `CPU ${cpus.data.cpu[cpu]} 0x${BigInt.asUintN(64, sum).toString(16)}`;
};
switch (format) {
  case "what": return used ? `area ${at("id") < 0 ? "" : n(at("id"))} in use` : kinds[at("kind")];
  case "place": return `offset ${n(at("off"))} in chunk ${at("ordinal") < 0 ? "reserved" : at("ordinal")}`;
  case "size": return `${n(at("size"))} bytes` + (used ? `, ${n(at("requested"))} asked for` : "");
  case "allocated": return used ? since(at("id"), n(at("age"))) + origin(i) : "-";
  case "address": if (cpus.data.cpu.length === 0) return "not recorded";
    return Array.from(cpus.data.cpu, (_, cpu) => cpu).slice(0, 2).map(address).join(", ")
    + (cpus.data.cpu.length > 2 ? `, and ${cpus.data.cpu.length - 2} more` : "");
}
"""
