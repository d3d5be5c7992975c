"""Fragmentation over ops: how much is free, and how much of it in one piece.

KiB  | ──── free, all areas together           %  |   1 - largest free / free
     | ─ ─  largest free area                     |  ╱╲__
     | ──── holes together (sum_frag)             |_╱
     | ─ ─  largest hole (max_frag)               +--------- ops
"""

from __future__ import annotations

from typing import Any

import numpy as np
from bokeh.layouts import column
from bokeh.models import BasicTicker, Column, ColumnDataSource, CustomJS, FixedTicker, HoverTool, NumeralTickFormatter
from bokeh.models.annotations import Label

from ..columns import Columns, Ints
from ..session import Selection
from ..spans import Series, fragmentation_series, with_now
from ..units import KIB
from . import _style
from ._words import BETWEEN, NO_HISTORY_YET, fragmentation_status, time_label
from .live import FigureEvent, Frame
from .shared import FollowedRange, Shared

MAX_POINTS = 800
UPPER_SHARE = 54  # percent of the height
_COLUMNS = ("op", "free_bytes", "largest_free_bytes", "sum_frag", "max_frag", "external")


class Fragmentation:
    """The view of free space and its fragmentation over ops, of all chunks and of the one in focus.

    Args:
        height: of both figures together in pixels.
    """

    def __init__(self, *, height: int = 420) -> None:
        self._height = height
        self._bytes = FollowedRange(0, 1)

    def build(self, shared: Shared) -> Column:
        """Make the two figures, empty, one above the other."""
        self._shared = shared
        self._total = ColumnDataSource({name: [] for name in _COLUMNS})
        self._chosen = ColumnDataSource({name: [] for name in _COLUMNS})
        upper = _style.make_figure(
            "Fragmentation: free bytes over time, per CPU", height=self._height * UPPER_SHARE // 100,
            x_range=shared.time.model, y_range=self._bytes.model, x_label="", y_label="KiB",
        )  # fmt: skip
        self._percent = FollowedRange(0, 100)
        lower = _style.make_figure(
            "External fragmentation: share of the free bytes outside the largest free area",
            height=self._height * (100 - UPPER_SHARE) // 100,
            x_range=shared.time.model, y_range=self._percent.model, x_label="ops done", y_label="%",
        )  # fmt: skip
        upper.tags = shared.models
        self._time_axis = lower.xaxis[0]
        upper.xaxis.update(major_label_text_font_size="0px", major_label_standoff=0)  # the figure below has them
        upper.yaxis.ticker = BasicTicker(desired_num_ticks=4)
        upper.yaxis.formatter = NumeralTickFormatter(format="0,0.[0]")
        self._status = _style.add_status(upper)
        self._status.standoff = lower.title.standoff = 8  # above the number at the top of the axis
        self._empty = Label(x=0.5, y=0.5, text=NO_HISTORY_YET, text_align="center", text_font_size="16px")
        upper.add_layout(self._empty)
        self._add_lines(upper, lower)
        for plot in (upper, lower):
            _style.show_ops(plot)
            self._add_marks(plot, shared)
        return column(upper, lower, sizing_mode="stretch_width", spacing=0)

    def _add_lines(self, upper: _style.Plot, lower: _style.Plot) -> None:
        entries = []
        for name, words, colour, dash in _style.LINES:
            line = {"mode": "after", "line_color": colour, "line_dash": dash}
            upper.step("op", name, source=self._total, line_width=2.4, **line)
            upper.step("op", name, source=self._chosen, line_width=1, **line)
            entries.append((words, upper.step([np.nan], [np.nan], line_width=2.4, **_style.UNSEEN, **line)))
        share = {"mode": "after", "line_color": _style.FRAGMENTED}
        lower.step("op", "external", source=self._total, line_width=2.4, **share)
        lower.step("op", "external", source=self._chosen, line_width=1, **share)
        lower.yaxis.ticker = FixedTicker(ticks=[0, 50, 100])
        _style.add_legend(upper, entries)
        points = upper.line("op", "free_bytes", source=self._total, **_style.UNSEEN)
        tips = [
            (self._shared.moment, "@op{0,0}"),
            *((words, f"@{name}{{0,0.0}} KiB") for name, words, _, _ in _style.LINES),
            ("external", "@external{0.0} %"),
        ]
        upper.add_tools(HoverTool(renderers=[points], tooltips=tips, mode="vline", line_policy="prev"))  # as steps go

    def _add_marks(self, plot: _style.Plot, shared: Shared) -> None:
        """The life of the area pointed at or selected, as a strip that the browser moves."""
        for marked, alpha in ((shared.pointed, 0.15), (shared.selected, 0.25)):
            place = ColumnDataSource({"x0": [], "x1": []})
            plot.vstrip("x0", "x1", source=place, fill_color=_style.NOTE, fill_alpha=alpha, line_color=_style.NOTE)
            callback = CustomJS(args={"marked": marked, "place": place, "time": shared.time.model}, code=_MARK)
            marked.js_on_change("data", callback)
            shared.time.model.js_on_change("end", callback)

    def handle(self, event: FigureEvent) -> Selection | None:
        """Take an event of the browser; nothing is picked here."""
        self._bytes.handle(event)
        return None

    def update(self, columns: Columns) -> Frame:
        """Draw the history up to now, as much of it as is in sight."""
        ordinal = self._shared.selection.chunk
        history = with_now(columns.history, columns.snapshot)
        window = self._shared.window
        total = _thinned(fragmentation_series(history), window)
        chosen = _thinned(fragmentation_series(history, ordinal), window) if ordinal is not None else None
        data = _line_columns(total)
        most = max(
            (float(part[name].max(initial=0)) for part in (data,) for name in ("free_bytes", "largest_free_bytes")),
            default=0,
        )
        props = self._bytes.extend(0, max(most * 1.08, 1))
        hint = "" if ordinal is not None else BETWEEN + "click a chunk to add its lines"
        props[self._status] = {"text": fragmentation_status(total, ordinal, self._shared.moment) + hint}
        middle = {"x": sum(window) / 2, "y": sum(self._bytes.shown) / 2}
        props[self._empty] = {"visible": True, **middle} if len(total) < 2 else {"visible": False}
        props[self._time_axis] = {"axis_label": time_label(columns.annotations)}
        return Frame({self._total: data, self._chosen: _line_columns(chosen) if chosen else _no_line()}, props)


def _thinned(series: Series, window: tuple[int, int]) -> Series:
    """The part in sight, and of too many points every so many and the last."""
    first = max(int(np.searchsorted(series.op, window[0], side="right")) - 1, 0)
    last = int(np.searchsorted(series.op, window[1], side="right"))
    step = max(-(-(last - first) // MAX_POINTS), 1)
    rows: slice | Ints = slice(first, last)
    if step > 1:
        rows = np.append(np.arange(first, last - 1, step), last - 1)
    return Series(*(getattr(series, name)[rows] for name in Series.__slots__))


def _line_columns(series: Series) -> dict[str, np.ndarray[Any, Any]]:
    sizes = (series.free_bytes, series.largest_free_bytes, series.sum_frag, series.max_frag)
    kib = (size / KIB for size in sizes)
    # half the bytes, and exact to 64 MiB: sizes are multiples of four bytes
    values = (column.astype(np.float32) for column in (*kib, series.external * 100))
    return dict(zip(_COLUMNS, (series.op, *values), strict=True))


def _no_line() -> dict[str, np.ndarray[Any, Any]]:
    return {name: np.zeros(0) for name in _COLUMNS}


_MARK = """
const {area, death} = marked.data, shown = area.length > 0;
place.data = {x0: shown ? [area[0]] : [], x1: shown ? [death[0] < 0 ? Math.max(time.end, area[0]) : death[0]] : []};
"""
