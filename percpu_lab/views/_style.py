"""One look for all views: the meaning of each colour, the words of the legends, light and dark pages.

    IN_USE blue   FREE pale green   HOLE orange   NO_PAGE hatched   STATIC grey   RESERVED pink   FAILURE vermilion

The colours are those of Okabe and Ito, told apart by colour-blind readers. Their strength is chosen to stand out on
white and on black alike, so only text, axes and grid follow the page: by CSS variables of JupyterLab, in the browser.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from bokeh.models import (
    Axis,
    BasicTicker,
    BoxZoomTool,
    InlineStyleSheet,
    NoOverlap,
    NumeralTickFormatter,
    PanTool,
    Range1d,
    ResetTool,
    SaveTool,
    WheelZoomTool,
)
from bokeh.models.annotations import Legend, LegendItem, Title
from bokeh.plotting import figure

from .. import columns, raster

Plot = Any  # a figure: Bokeh's own types lack a part of what glyphs take
Ticks = Any

IN_USE = "#2b83c6ff"
IN_USE_ALTERNATE = "#1c5f96ff"
FREED = "#2b83c680"
FREE = "#009e7350"
HOLE = "#e69f00e0"
NO_PAGE = "#80808090"
NO_PAGE_FILL = "#80808024"
STATIC = "#6f7780c0"
RESERVED = "#cc79a7d0"
OUTSIDE = "#80808028"
FREE_LINE = "#009e73ff"
FRAGMENTED = "#cc7a00ff"
FAILURE = "#d55e00ff"
CHUNK = "#8a63d2ff"
NOTE = "#808080ff"
NOTE_LABEL, LOSS_LABEL = "#4a5058f0", "#a84300f0"  # under white letters: readable on every page and every glyph
LABEL_TEXT = "#ffffff"
NOTHING = "#00000000"

AREA_COLOURS = (FREE, HOLE, IN_USE, STATIC, RESERVED, OUTSIDE)  # by kind in columns.py
LEGEND_KINDS = (columns.IN_USE, columns.FREE, columns.HOLE, columns.STATIC, columns.RESERVED, columns.OUTSIDE)

# of the fragmentation view: column of spans.Series, words, colour, dash
LINES = (
    ("free_bytes", "free: all free areas together", FREE_LINE, "solid"),
    ("largest_free_bytes", "largest free area", FREE_LINE, "dashed"),
    ("sum_frag", "sum_frag: all holes together", HOLE, "solid"),
    ("max_frag", "max_frag: largest hole", HOLE, "dashed"),
)


# Text and lines take the colours of the page; the second value is for pages that name none.
_CSS = """
:host {
  --text: var(--jp-ui-font-color1, var(--vscode-editor-foreground, var(--percpu-lab-text, #303030)));
  --faint: var(--jp-border-color1, var(--vscode-panel-border, #80808080));
  --bk-text-color: var(--text);
  --bk-axis-label-text-color: var(--text);
  --bk-major-label-text-color: var(--text);
  --bk-label-text-color: var(--text);
  --bk-title-text-color: var(--text);
  --bk-axis-line-color: var(--faint);
  --bk-major-tick-line-color: var(--faint);
  --bk-minor-tick-line-color: transparent;
  --bk-outline-line-color: var(--faint);
  container-type: inline-size;
}
"""
_NARROW_PIXELS = (840, 720, 620)  # widths of figures below which letters shrink
LEFT_PIXELS = 152  # room for the longest name of a band, so that the views begin at one place
# Names of rows as ticks, that of the chunk in focus marked; of one width, so that the axis does not move.
NAME = """
const k = Math.floor(tick), name = names.data.name[k];
if (name === undefined) return heading.padStart(width);
return ((focus.data.ordinal[0] === names.data.ordinal[k] ? "\u25b8 " : "") + name).padStart(width);
"""
# A legend reads its colours before it is part of the page. Its entries wrap where the page is narrow, not where its
# plot is: Bokeh 3.10 would cut it off there.
_LEGEND_CSS = f"""
:host {{ max-width: none !important; clip-path: none !important; }}
.bk-grid {{ display: flex !important; flex-wrap: wrap; max-width: calc(100cqw - {LEFT_PIXELS + 8}px); }}
.bk-item {{ display: flex !important; align-items: center; }}
.bk-label {{ color: var(--bk-label-text-color) !important; padding: 0 10px 0 3px; white-space: nowrap; }}
"""
_NO_LINES = {"--bk-axis-line-color": "transparent", "--bk-major-tick-line-color": "transparent"}


def make_figure(title: str, *, height: int, x_range: Range1d, y_range: Range1d, x_label: str, y_label: str) -> Plot:
    """Make an empty figure in the common style; zooming by wheel needs Ctrl, so that a page can be scrolled."""
    zoom = WheelZoomTool(dimensions="width", modifiers="ctrl")
    plot: Plot = figure(
        title=title, height=height, sizing_mode="stretch_width", x_range=x_range, y_range=y_range,
        x_axis_label=x_label, y_axis_label=y_label, tools=[PanTool(), BoxZoomTool(), zoom, ResetTool(), SaveTool()],
        toolbar_location="right", background_fill_color=None, border_fill_color=None, output_backend="canvas",
        stylesheets=[InlineStyleSheet(css=_CSS)], min_border_left=LEFT_PIXELS, min_border_top=2,
        min_border_bottom=2, lod_threshold=None,
        frame_align={"left": True, "right": False, "top": True, "bottom": True},
    )  # fmt: skip
    plot.toolbar.active_scroll = zoom
    plot.toolbar.autohide = True
    plot.toolbar.logo = None
    plot.title.update(text_font_size="15px", standoff=4, **_text_above("15px", "13.5px", "12px", "11px"))
    plot.axis.axis_label_standoff = 2
    plot.xaxis.major_label_policy = NoOverlap(min_distance=6)
    plot.xgrid.grid_line_color = NOTE
    plot.ygrid.grid_line_color = None
    plot.xgrid.grid_line_alpha = 0.25
    plot.axis.axis_label_text_font_style = "normal"
    return plot


def _text_above(*sizes: str) -> dict[str, Any]:
    """Lay a line of text above a figure: from its left edge, in smaller letters where the page is narrow."""
    return {"offset": -LEFT_PIXELS, "stylesheets": [_sizes("--bk-text-font-size", *sizes)]}


def _sizes(variable: str, *sizes: str) -> InlineStyleSheet:
    """Set the size of letters on a wide page and on ever narrower ones."""
    rules = [f":host {{ {variable}: {sizes[0]}; }}"]
    rules += [
        f"@container (max-width: {width}px) {{ :host {{ {variable}: {size}; }} }}"
        for width, size in zip(_NARROW_PIXELS, sizes[1:], strict=True)
    ]
    return InlineStyleSheet(css="\n".join(rules))


def make_column(axis: Axis) -> None:
    """Make an axis a column of text of fixed width: no lines, letters of one width, smaller on a narrow page."""
    axis.update(css_variables=_NO_LINES, major_label_text_font="monospace", major_label_text_font_size="12px")
    axis.stylesheets = [_sizes("--bk-major-label-text-font-size", "12px", "11px", "10px", "8.5px")]
    axis.update(major_label_standoff=4, major_tick_in=0, major_tick_out=0)


def show_ops(plot: Plot) -> None:
    """Number the x axis in whole ops."""
    plot.xaxis.ticker = BasicTicker(min_interval=1)
    plot.xaxis.formatter = NumeralTickFormatter(format="0,0")


#: stands nowhere, or is there to be pointed at only: the tag spares painting it (paint.js)
UNSEEN = {"tags": ["unseen"]}


def add_sample(plot: Plot, colour: str, **hatch: Any) -> Any:
    """Add a glyph that stands nowhere, for a legend."""
    nowhere = [math.nan]
    return plot.quad(nowhere, nowhere, nowhere, nowhere, fill_color=colour, line_color=None, **UNSEEN, **hatch)


def add_status(plot: Plot) -> Title:
    """Add a line of text under the title, to be changed by frames."""
    # not empty: a title without text gets no room, and later text would lie over the plot
    status = Title(text="...", text_font_style="normal", text_font_size="12px", standoff=4)
    status.update(**_text_above("12px", "11px", "10px", "8.5px"))
    plot.add_layout(status, "above")
    return status


def add_legend(plot: Plot, entries: Sequence[tuple[str, Any]], columns_of: int = 0) -> list[LegendItem]:
    """Add a legend below the figure: words and the renderer they stand for, or several that lie upon each other."""
    legend = Legend(
        orientation="horizontal", location="bottom_left", ncols=columns_of or "auto",
        border_line_color=None, background_fill_color=None,
        label_text_font_size="12px", glyph_height=14, glyph_width=18, spacing=4, margin=2,
        stylesheets=[InlineStyleSheet(css=_LEGEND_CSS)],
    )  # fmt: skip
    # these two apart: the types of Bokeh 3.10 know neither as an argument
    items = [
        LegendItem(label=words, renderers=samples if isinstance(samples, list) else [samples])
        for words, samples in entries
    ]
    legend.update(padding=2, items=items)
    plot.add_layout(legend, "below")
    return items


def area_palette() -> list[str]:
    """Give the colours of area kinds by number, then the second shade of those in use."""
    return [*AREA_COLOURS, IN_USE_ALTERNATE]


def unit_palette() -> list[str]:
    """Give the colours of the codes of raster.unit_image."""
    mixed = [_mix({IN_USE: in_use, HOLE: hole, FREE: 1 - in_use - hole}) for in_use, hole in raster.code_shares()]
    return _padded([*mixed, STATIC, RESERVED, OUTSIDE, NOTHING])


def lifetime_palette() -> list[str]:
    """Give the colours of the codes of raster.lifetime_image: in use now, freed, neither."""
    return _padded(
        [_mix({IN_USE: live, FREED: freed, NOTHING: 1 - live - freed}) for live, freed in raster.code_shares()]
    )


def _padded(palette: list[str]) -> list[str]:
    return palette + [NOTHING] * (256 - len(palette))


def _mix(shares: dict[str, float]) -> str:
    """Blend colours `#rrggbbaa` as light does that comes from a pixel's parts."""
    parts = [(share, *bytes.fromhex(colour[1:])) for colour, share in shares.items()]
    alpha = sum(share * a for share, _, _, _, a in parts)
    rgb = [sum(part[0] * part[4] * part[k] for part in parts) / max(alpha, 1e-9) for k in (1, 2, 3)]
    return "#" + bytes(min(round(value), 255) for value in (*rgb, alpha)).hex()
