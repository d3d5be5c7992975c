"""What the views of one figure have in common: the time axis, what is pointed at, and what is selected.

    hover, tap in one view ──▶ pointed, selected (a row in a source each) ──▶ an outline in every view

All of this happens in the browser, so it works while a cell runs. Python hears of a tap too, and then keeps the
selected row true: an area that is freed gets its end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from bokeh.model import Model
from bokeh.models import ColumnDataSource, CustomJS, Range1d

from ..columns import Columns, Ints, Snapshot
from ..core import layout as L
from ..session import Selection
from ..spans import default_window
from ._words import harmless
from .live import FigureEvent, Frame

MARK_COLUMNS = ("area", "ordinal", "off", "size", "death")  # no column "id": a mark is never pointed at itself
STILL_IN_USE = -1
LEAST_OPS = 10  # on the time axis


def merged(*frames: Frame) -> Frame:
    """Join frames to one message."""
    sources: dict[ColumnDataSource, Mapping[str, Any]] = {}
    props: dict[Model, Mapping[str, Any]] = {}
    for frame in frames:
        sources |= frame.sources
        for model, attrs in frame.props.items():
            props[model] = {**props.get(model, {}), **attrs}
    return Frame(sources, props)


class News:
    """Leaves out of frames what has not changed since the last one: the browser need not paint it again.

    It is not for sources that the browser changes, too: those must be sent to be put right.
    """

    def __init__(self) -> None:
        self._sent: dict[ColumnDataSource, Mapping[str, Any]] = {}

    def of(self, frame: Frame) -> Frame:
        """Give the sources of a frame that have changed, and all properties."""
        news = {source: data for source, data in frame.sources.items() if not _same(data, self._sent.get(source, {}))}
        self._sent |= news
        return Frame(news, frame.props)


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one.keys() == other.keys() and all(_equal(one[name], other[name]) for name in one)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    return bool(one == other)


def put_in_place(frame: Frame) -> None:
    """Apply a frame to Bokeh's models themselves: for a document that is saved, not for one that is live."""
    for source, data in frame.sources.items():
        source.data = {name: [column] if _is_image(column) else column for name, column in data.items()}
    for model, attrs in frame.props.items():
        model.update(**attrs)


def labelled(rows: range, focus: int | None) -> list[int]:
    """Choose the rows that get text: every so many of them, but the one in focus in place of those next to it.

    >>> labelled(range(0, 20, 4), 6), labelled(range(0, 20, 4), None)
    ([0, 6, 12, 16], [0, 4, 8, 12, 16])
    """
    chosen = list(rows)
    if focus is None or focus in rows:
        return chosen
    return sorted([focus, *(row for row in chosen if abs(row - focus) >= rows.step)])


def _is_image(column: Any) -> bool:
    return isinstance(column, np.ndarray) and column.ndim == 2


class FollowedRange:
    """An axis range that shows all there is until the user picks a part, and again after a reset."""

    def __init__(self, start: float, end: float) -> None:
        self.model = Range1d(start=start, end=end, reset_start=start, reset_end=end)
        self._all = (start, end)
        self._picked: tuple[float, float] | None = None

    @property
    def shown(self) -> tuple[float, float]:
        """The ends of what the browser shows, as far as Python knows."""
        return self._picked or self._all

    def extend(self, start: float, end: float) -> dict[Model, dict[str, Any]]:
        """Say what there is to show; gives the attributes to send."""
        if (start, end) == self._all:
            return {}
        self._all = (start, end)
        attrs: dict[str, Any] = {"reset_start": start, "reset_end": end}
        return {self.model: attrs if self._picked else attrs | {"start": start, "end": end}}

    def handle(self, event: FigureEvent) -> None:
        """Take a change of the range by the user."""
        if event.kind == "range" and event.model is self.model:
            self._picked = None if (event.start, event.end) == self._all else (event.start, event.end)


class Shared:
    """The time axis, pointed and selected area, and chunk in focus of one set of views.

    Args:
        window_ops: show only so many last ops; all that is known without it.
        moment: what texts call a place on the time axis: "op" or "event".
    """

    def __init__(self, *, window_ops: int | None = None, moment: str = "op") -> None:
        self.moment = moment
        self.time = FollowedRange(0, LEAST_OPS)
        self.window_ops = window_ops
        self.pointed = ColumnDataSource({name: [] for name in MARK_COLUMNS}, name="pointed")
        self.selected = ColumnDataSource({name: [] for name in MARK_COLUMNS}, name="selected")
        self.focus = ColumnDataSource({"ordinal": []}, name="focus")
        self.origins = ColumnDataSource({"text": []}, name="origins")
        self.selection = Selection()
        self._sent: object = None
        self._sent_origins: object = None

    @property
    def models(self) -> list[Model]:
        """What every view carries, whichever views are shown."""
        return [self.time.model, self.pointed, self.selected, self.focus]

    @property
    def window(self) -> tuple[int, int]:
        """First op and op behind the last that the time axis shows."""
        start, end = self.time.shown
        return max(int(np.floor(min(start, end))), 0), int(np.ceil(max(start, end)))

    def select(self, selection: Selection) -> None:
        """Select an area, a chunk, or nothing; the next frame shows it."""
        self.selection = selection

    def handle(self, event: FigureEvent) -> Selection | None:
        """Take an event of the browser; nothing is selected by the time axis."""
        self.time.handle(event)
        return None

    def update(self, columns: Columns) -> Frame:
        """Show the newest ops, and the selection as it is now; to be called before the views are updated."""
        first, end = default_window(columns.events, columns.snapshot)
        if self.window_ops is not None:
            first = max(first, end - self.window_ops)
        room = max((end - first) // 50, 1)  # to see what happens at the end
        sources = self._selection_sources(columns) | self._origin_sources(columns)
        return Frame(sources, self.time.extend(first, max(end + room, first + LEAST_OPS)))

    def _origin_sources(self, columns: Columns) -> dict[ColumnDataSource, dict[str, Any]]:
        """Who can have asked: the same texts in every frame of a recording, so they are sent once."""
        texts = columns.annotations.origins.texts if columns.annotations is not None else ()
        if texts is self._sent_origins or not texts:
            return {}
        self._sent_origins = texts
        return {self.origins: {"text": [harmless(text) for text in texts]}}

    def _selection_sources(self, columns: Columns) -> dict[ColumnDataSource, dict[str, Any]]:
        row = self._selected_row(columns)
        news = (self.selection, row)
        if news == self._sent:
            return {}
        self._sent = news
        chunk = self.selection.chunk
        return {
            self.selected: {
                name: [] if row is None else [value]
                for name, value in zip(MARK_COLUMNS, row or MARK_COLUMNS, strict=True)
            },
            self.focus: {"ordinal": [] if chunk is None else [chunk]},
        }

    def _selected_row(self, columns: Columns) -> tuple[int, ...] | None:
        birth = self.selection.area
        if birth is None:
            return None
        return _area_in_use(columns.snapshot, birth) or _freed_area(columns.events, birth)


def _area_in_use(snap: Snapshot, birth: int) -> tuple[int, ...] | None:
    row = snap.find(birth)
    if row is None:
        return None
    areas = snap.areas
    ordinal = int(snap.chunks.ordinal[areas.chunk[row]])
    return birth, ordinal, int(areas.off_bytes[row]), int(areas.size_bytes[row]), STILL_IN_USE


def _freed_area(events: Any, birth: int) -> tuple[int, ...] | None:
    rows = np.flatnonzero((events.event == L.EVENT_FREE) & (events.birth == birth))
    if not len(rows):
        return None
    row = rows[0]
    return birth, int(events.chunk[row]), int(events.off[row]), int(events.size[row]), int(events.op[row])


def origin_columns(columns: Columns, birth: Ints) -> dict[str, Any]:
    """Say of each area who asked for it, as a row of the shared source `origins`, and when; nothing of an engine."""
    if columns.annotations is None:
        return {}
    origins = columns.annotations.origins
    row = origins.find(birth)
    return {
        "origin": np.where(row < 0, -1, np.append(origins.code, -1)[row]),
        "seconds": np.append(origins.seconds, np.nan)[row],
    }


# what a hover says of an area's allocation: `moment` is "op" or "event", `origins` the shared source, `areas` has the
# columns of origin_columns
ORIGIN = """
const since = (id, ago) => id < -1 ? "before the trace" :
  `by ${moment} ${id.toLocaleString("en")}, ${ago} ${moment}${ago === "1" ? "" : "s"} ago`;
const origin = (i) => {
  const k = areas.data.origin === undefined ? -1 : areas.data.origin[i];
  if (k < 0) return "";
  const seconds = areas.data.seconds[i];
  return `, for ${origins.data.text[k]}` + (Number.isNaN(seconds) ? "" : ` at ${seconds.toFixed(6)} s`);
};
"""


def on_hover(areas: ColumnDataSource, shared: Shared) -> CustomJS:
    """Make the callback of a hover tool that points at an area in all views."""
    return CustomJS(args={"areas": areas, "pointed": shared.pointed}, code=_POINT)


def on_tap(areas: ColumnDataSource, rows: ColumnDataSource, shared: Shared) -> CustomJS:
    """Make the callback of a tap on a figure that selects the area under it, and the chunk of its row."""
    args = {"areas": areas, "rows": rows, "selected": shared.selected, "focus": shared.focus}
    return CustomJS(args=args, code=_SELECT)


def add_outlines(plot: Any, shared: Shared, rows: ColumnDataSource, place_of: str) -> None:
    """Add the outlines of the pointed and the selected area: black in white, dashed once the area has been freed.

    Args:
        rows: the view's source that says where chunks are.
        place_of: body of a function of `area` (one row of MARK_COLUMNS) and `rows` that gives a box, or null.
    """
    for marked, width in ((shared.pointed, 1.0), (shared.selected, 2.0)):
        place = ColumnDataSource({name: [] for name in ("left", "right", "top", "bottom", "dash")})
        for colour, line_width in (("white", 2 * width + 2), ("black", width + 0.5)):
            plot.quad(
                "left", "right", "top", "bottom", source=place, fill_color=None, line_color=colour,
                line_width=line_width, line_dash="dash" if colour == "black" else "solid",
            )  # fmt: skip
        callback = CustomJS(args={"marked": marked, "rows": rows, "place": place}, code=_OUTLINE % place_of)
        marked.js_on_change("data", callback)
        rows.js_on_change("data", callback)
    names = list(MARK_COLUMNS)
    leave = CustomJS(args={"pointed": shared.pointed, "names": names}, code=_POINT_AT_NOTHING)
    plot.js_on_event("mouseleave", leave)


_OUTLINE = """
const placeOf = (area) => {%s};
const data = marked.data, shown = data.area.length > 0;
const area = Object.fromEntries(Object.entries(data).map(([name, values]) => [name, values[0]]));
const box = shown ? placeOf(area) : null;
const at = (name) => box ? [box[name]] : [];
const dash = box ? [area.death < 0 ? "solid" : "dashed"] : [];
place.data = {left: at("left"), right: at("right"), top: at("top"), bottom: at("bottom"), dash};
"""
_POINT_AT_NOTHING = "if (pointed.data.area.length) pointed.data = Object.fromEntries(names.map((name) => [name, []]))"
_POINT = """
const i = cb_data.index.indices.find((k) => areas.data.id[k] !== -1);
const area = i === undefined ? -1 : areas.data.id[i];
if ((pointed.data.area[0] ?? -1) === area) return;
const row = (name) => i === undefined ? [] : [areas.data[name][i]];
pointed.data = {area: row("id"), ordinal: row("ordinal"), off: row("off"), size: row("size"), death: row("death")};
"""

# of the areas under the pointer the last is on top; where none are drawn one by one Python finds out which it is
_SELECT = """
const {left, right, top, bottom, id} = areas.data;
const {x, y} = cb_obj;
let hit = -1;
for (let k = 0; k < id.length; k++)
  if (id[k] !== -1 && left[k] <= x && x <= right[k] && (top[k] - y) * (bottom[k] - y) <= 0) hit = k;
const row = (name) => hit < 0 ? [] : [areas.data[name][hit]];
if (id.length)
  selected.data = {area: row("id"), ordinal: row("ordinal"), off: row("off"), size: row("size"), death: row("death")};
const ordinal = rows.data.ordinal[Math.floor(y)];
focus.data = {ordinal: y < 0 || ordinal === undefined ? [] : [ordinal]};
"""
