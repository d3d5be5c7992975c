"""Pictures that stay: the views from the same columns, drawn by matplotlib, for saved notebooks and for files.

picture(take(engine))                                all three, one above the other
picture(take(run), ["timeline"], theme="dark")       one of them, on a dark page
picture(take(engine)).save("now.svg")
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from ..annotations import Notes
from ..columns import IN_USE, NR_KINDS, Columns, Snapshot, unpopulated
from ..core import layout as L
from ..errors import RequestError
from ..raster import CODE_NOTHING, PictureForm, lifetime_image, unit_image
from ..spans import Lifetimes, Series, default_window, fragmentation_series, lifetimes, served_bytes, with_now
from ..units import KIB, PAGE_SIZE
from . import _style, _words

Theme = Literal["light", "dark"]
_TEXT = {"light": "#303030", "dark": "#e4e4e4"}
_PAGE = {"light": "#ffffff", "dark": "#111111"}
_DPI = 100
_WIDTH_INCHES = 11.0
_BUDGET = 4000  # areas drawn one by one
_MAX_LABELS = 14
_NR_BINS, _NR_ROWS = 1200, 300
_HALF = 0.4
_LANE = 0.8
_MARKS = {
    L.EVENT_FAIL: ("x", _style.FAILURE, "allocation failed"),
    L.EVENT_CREATE: ("+", _style.CHUNK, "chunk made"),
    L.EVENT_DESTROY: ("_", _style.CHUNK, "chunk given back"),
}
_NOTES = {False: ("v", _style.NOTE, "marker"), True: ("*", _style.FAILURE, "events lost")}
_MAX_EDGES, _MAX_LARGE_MARKS = 40, 60  # more would hide what they frame
_FILES = (".png", ".svg", ".pdf")


class Picture:
    """A picture of some views; its PNG is what a saved notebook keeps.

    Args:
        figure: a matplotlib Figure.
        title: what it shows.
    """

    def __init__(self, figure: Any, title: str) -> None:
        self.figure = figure
        self._title = title
        self._png: bytes | None = None

    def __repr__(self) -> str:
        return f"<Picture: {self._title}>"

    def _repr_png_(self) -> bytes:
        if self._png is None:
            file = io.BytesIO()
            self._write(file, "png")
            self._png = file.getvalue()
        return self._png

    def _repr_mimebundle_(self, **_options: Any) -> dict[str, Any]:
        return {"image/png": self._repr_png_(), "text/plain": repr(self)}

    def save(self, path: str | Path) -> None:
        """Write the picture to a file; its ending says how.

        Raises:
            RequestError: an ending other than .png, .svg or .pdf.
        """
        ending = Path(path).suffix.lower()
        if ending not in _FILES:
            raise RequestError(
                f"no picture is written as {ending!r}", where="path", remedy=f"end it with {', '.join(_FILES)}"
            )
        self._write(path, ending[1:])

    def _write(self, file: Any, kind: str) -> None:
        self.figure.savefig(file, format=kind, dpi=_DPI)


def picture(
    columns: Columns,
    views: Sequence[str] = ("area_map", "fragmentation", "timeline"),
    *,
    chunk: int | None = None,
    theme: Theme = "light",
) -> Picture:
    """Draw views of columns, one above the other.

    >>> from percpu_lab.columns import take
    >>> from percpu_lab.engine import Engine
    >>> from percpu_lab.geometry import Geometry
    >>> picture(take(Engine(Geometry.simple(), jit="off")), ["area_map"])
    <Picture: area_map at op 0>

    Args:
        columns: from columns.take().
        views: names out of VIEWS.
        chunk: ordinal of a chunk that gets lines of its own in the fragmentation view.
        theme: "light" or "dark".

    Raises:
        RequestError: no such view or theme.
    """
    from matplotlib.figure import Figure

    unknown = [name for name in views if name not in VIEWS]
    if unknown or not views or theme not in _PAGE:
        remedy = f"choose views from {', '.join(VIEWS)}, theme from {', '.join(_PAGE)}"
        raise RequestError(f"cannot draw {unknown or views!r}, theme {theme!r}", where="picture", remedy=remedy)
    heights = [VIEWS[name].heights(columns) for name in views]
    total = sum(map(sum, heights)) + sum(VIEWS[name].margin for name in views)
    figure = Figure(figsize=(_WIDTH_INCHES, total), facecolor=_PAGE[theme], layout="constrained")
    for name, parts in zip(views, _parts(figure, columns, views, heights), strict=True):
        VIEWS[name].draw(parts, columns, chunk)
    for axes in figure.axes:
        _finish(axes, _TEXT[theme])
    return Picture(figure, f"{', '.join(views)} at {_words.moment_word(columns.annotations)} {columns.snapshot.op:,}")


def _parts(
    figure: Any, columns: Columns, views: Sequence[str], heights: Sequence[Sequence[float]]
) -> Iterator[list[Any]]:
    """Axes of each view, in one grid, so that time runs alike in all of them; at the right is room for text."""
    rows = [height for part in heights for height in part]
    widths = (2.6 if _words.has_hints(columns.snapshot.chunks) else 3.5, 1)
    grid = figure.add_gridspec(len(rows), 2, height_ratios=rows, width_ratios=widths)
    row = 0
    for name, part in zip(views, heights, strict=True):
        across = 0 if VIEWS[name].has_text else slice(None)
        yield [figure.add_subplot(grid[row + k, across]) for k in range(len(part))]
        row += len(part)


def _finish(axes: Any, text: str) -> None:
    """Give axes the colours of the page."""
    axes.set_facecolor("none")
    axes.tick_params(colors=text, labelsize=8)
    for item in (
        *filter(lambda child: hasattr(child, "get_text"), axes.get_children()),
        axes.xaxis.label,
        axes.yaxis.label,
    ):
        item.set_color(text)
    for spine in axes.spines.values():
        spine.set_color(_style.NOTE)
    legend = axes.get_legend()
    for words in legend.get_texts() if legend else ():
        words.set_color(text)


def _heading(axes: Any, title: str, status: str, width: int = 145) -> None:
    lines = [title, *textwrap.wrap(status, width, break_long_words=False)]
    # a dollar sign would begin a formula
    axes.set_title("\n".join(lines).replace("$", r"\$"), loc="left", fontsize=9)


def _legend(axes: Any, handles: Sequence[Any], ncols: int, *, points_below: float = 34) -> None:
    """Put a legend below axes; a handle may be several that lie upon each other, of which the last has the words."""
    from matplotlib.transforms import ScaledTranslation

    down = ScaledTranslation(0, -points_below / 72, axes.get_figure(root=True).dpi_scale_trans)
    words = [(handle[-1] if isinstance(handle, tuple) else handle).get_label() for handle in handles]
    axes.legend(
        handles, words, loc="upper left", bbox_to_anchor=(0, 0), bbox_transform=axes.transAxes + down, ncols=ncols,
        fontsize=8, frameon=False, borderaxespad=0, handlelength=1.6, columnspacing=1.4, borderpad=0,
    )  # fmt: skip


def _patch(colour: str, words: str, **more: Any) -> Any:
    from matplotlib.patches import Patch

    return Patch(facecolor=colour, label=words, **more)


def _boxes(axes: Any, left: Any, bottom: Any, right: Any, top: Any, colours: Any, **more: Any) -> None:
    from matplotlib.collections import PolyCollection

    corners: Any = np.stack([left, bottom, right, bottom, right, top, left, top], axis=-1).reshape(-1, 4, 2)
    axes.add_collection(PolyCollection(corners, facecolors=colours, **more), autolim=False)


def _rgba(palette: Sequence[str], codes: Any) -> Any:
    """Colours of codes; one code gives one row of four values between 0 and 1."""
    table = np.array([list(bytes.fromhex(colour[1:])) for colour in palette]) / 255
    return table[codes]


# --- area map -------------------------------------------------------------------------


def _area_map(parts: Sequence[Any], columns: Columns, _chunk: int | None) -> None:
    snap, (axes,), moment = columns.snapshot, parts, _words.moment_word(columns.annotations)
    nr_rows, nr_areas = len(snap.chunks), len(snap.areas)
    end_bytes = int(served_bytes(snap)[1].max(initial=0)) or snap.unit.unit_size
    axes.set(xlim=(0, end_bytes / KIB), ylim=(max(nr_rows, 1), 0), xlabel="offset in the unit (KiB)")
    axes.xaxis.set_major_locator(_power_of_two_ticks(end_bytes))
    if nr_areas > _BUDGET:
        codes = np.repeat(unit_image(snap, _NR_BINS, 0, end_bytes), 10, axis=0)
        codes[::10] = codes[9::10] = CODE_NOTHING  # between the strips
        extent = (0, end_bytes / KIB, nr_rows, 0)
        axes.imshow(_rgba(_style.unit_palette(), codes), extent=extent, aspect="auto", interpolation="nearest")
    else:
        _draw_areas(axes, snap)
    gaps = unpopulated(snap)
    page, top = PAGE_SIZE / KIB, gaps.chunk + 0.5 - _HALF
    no_page = {"hatch": "////", "edgecolor": _style.NO_PAGE, "linewidth": 0}
    _boxes(axes, gaps.first_page * page, top, gaps.end_page * page, top + 2 * _HALF, _style.NO_PAGE_FILL, **no_page)
    _label_chunks(axes, snap)
    _heading(
        axes,
        "Area map: every chunk's unit, byte by byte (all CPUs' units look alike)",
        _words.BETWEEN.join(
            [_words.area_map_status(snap, nr_areas, nr_areas, moment), *_words.notes_status(columns.annotations)]
        ),
        width=105,  # room for the headings of the columns on the right
    )
    if not nr_rows:
        axes.text(0.5, 0.5, _words.NO_CHUNK_YET, transform=axes.transAxes, ha="center")
    shown = np.bincount(snap.areas.kind[snap.areas.off_bytes < end_bytes], minlength=NR_KINDS)
    patches = [
        _patch(_style.AREA_COLOURS[kind], _words.AREA_WORDS[kind]) for kind in _style.LEGEND_KINDS if shown[kind]
    ]
    if len(gaps):
        patches.append(_patch(_style.NO_PAGE_FILL, _words.NO_PAGE_WORDS, **no_page | {"linewidth": 1}))
    _legend(axes, patches, len(patches) if len(patches) < 6 else 4)


def _draw_areas(axes: Any, snap: Snapshot) -> None:
    areas = snap.areas
    paint = np.where((areas.kind == IN_USE) & (areas.birth & 1 == 1), NR_KINDS, areas.kind)
    top, off = areas.chunk + 0.5 - _HALF, areas.off_bytes / KIB
    right = off + areas.size_bytes / KIB
    _boxes(axes, off, top, right, top + 2 * _HALF, _rgba(_style.area_palette(), paint), linewidth=0)


def _power_of_two_ticks(end_bytes: int) -> Any:
    from matplotlib.ticker import MultipleLocator

    return MultipleLocator(max(2 ** ((end_bytes // KIB).bit_length() - 4), 1))


def _label_chunks(axes: Any, snap: Snapshot) -> None:
    chunks = snap.chunks
    rows = range(0, len(chunks), max(-(-len(chunks) // _MAX_LABELS), 1))
    axes.set_yticks([row + 0.5 for row in rows], [_words.chunk_label(int(chunks.ordinal[row])) for row in rows])
    text = {"textcoords": "offset points", "fontsize": 8, "in_layout": False}
    beside = axes.get_yaxis_transform()
    for place, column in zip((8, 40, 92), _words.text_columns(chunks), strict=True):
        axes.annotate(column.heading, (1, 1), (place, 5), xycoords="axes fraction", **text)
        for row in rows:
            axes.annotate(column.words(row), (1, row + 0.5), (place, 0), xycoords=beside, va="center", **text)


# --- fragmentation ----------------------------------------------------------------------


def _fragmentation(parts: Sequence[Any], columns: Columns, chunk: int | None) -> None:
    upper, lower = parts
    upper.sharex(lower)
    upper.tick_params(labelbottom=False)
    history = with_now(columns.history, columns.snapshot)
    total = fragmentation_series(history)
    chosen = fragmentation_series(history, chunk) if chunk is not None else None
    lines = []
    for name, words, colour, dash in _style.LINES:
        line = {"color": colour, "linestyle": dash}
        lines += upper.step(total.op, getattr(total, name) / KIB, where="post", label=words, linewidth=1.8, **line)
        if chosen is not None:
            upper.step(chosen.op, getattr(chosen, name) / KIB, where="post", linewidth=0.8, **line)
    _draw_share(lower, total, 1.8)
    if chosen is not None:
        _draw_share(lower, chosen, 0.8)
    upper.set(ylabel="KiB", ylim=(0, None))
    lower.set(ylabel="%", ylim=(0, 100), xlabel=_words.time_label(columns.annotations), xlim=_window(columns))
    upper.yaxis.set_major_formatter("{x:,.0f}")
    _show_ops(lower)
    status = _words.fragmentation_status(total, chunk, _words.moment_word(columns.annotations))
    _heading(upper, "Fragmentation: free bytes over time, per CPU", status)
    _heading(lower, "External fragmentation: share of the free bytes outside the largest free area", "")
    if len(total) < 2:
        upper.text(0.5, 0.5, _words.NO_HISTORY_YET, transform=upper.transAxes, ha="center")
    _legend(upper, lines, 4, points_below=6)


def _draw_share(axes: Any, series: Series, width: float) -> None:
    axes.step(series.op, series.external * 100, where="post", color=_style.FRAGMENTED, linewidth=width)


# --- timeline ---------------------------------------------------------------------------


def _timeline(parts: Sequence[Any], columns: Columns, _chunk: int | None) -> None:
    (axes,) = parts
    lives = lifetimes(columns.events, columns.snapshot, _window(columns))
    nr_bands = max(len(lives.bands), 1)
    lane = nr_bands + _LANE * max(nr_bands / 8, 1) / 2
    axes.set(xlim=lives.window, ylim=(0, 2 * lane - nr_bands), xlabel=_words.time_label(columns.annotations))
    _show_ops(axes)
    row = np.arange(len(lives.bands))
    _boxes(
        axes,
        lives.band_birth,
        row,
        lives.band_death,
        row + 1,
        _style.FREE,
        edgecolor=_style.NOTE,
        linewidth=0.5 if nr_bands <= _MAX_EDGES else 0,
    )
    is_picture = len(lives) > _BUDGET
    (_draw_lifetime_image if is_picture else _draw_lifetimes)(axes, lives)
    _draw_marks(axes, lives, lane)
    marks = [_mark_sample(*style) for style in _MARKS.values()]
    if columns.annotations is not None:
        marks += _draw_notes(axes, columns.annotations.notes, lives.window)
    axes.axvline(lives.now, color=_style.NOTE, linestyle="dotted")
    shown = range(0, len(lives.bands), max(-(-nr_bands // _MAX_LABELS), 1))
    labels = [_words.band_label(int(lives.bands[band]), int(lives.span_bytes[band])) for band in shown]
    axes.set_yticks([*(band + 0.5 for band in shown), lane], [*labels, "failed"])
    is_tracing, moment = columns.is_tracing, _words.moment_word(columns.annotations)
    status = _words.timeline_status(lives, is_tracing=is_tracing, is_picture=False, moment=moment)
    _heading(axes, _words.TIMELINE_TITLE, status)
    nothing = _words.nothing_happened(lives, is_tracing=is_tracing, moment=moment)
    axes.text(0.5, 0.5, nothing, transform=axes.transAxes, ha="center")
    free = _patch(_style.FREE, "free")
    freed = (free, _patch(_style.FREED, "freed since"))  # as it is seen: upon what is free
    _legend(axes, [_patch(_style.IN_USE, "in use now"), freed, free, *marks], 8)


def _show_ops(axes: Any) -> None:
    """Number the x axis in whole ops."""
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.xaxis.set_major_formatter("{x:,.0f}")


def _window(columns: Columns) -> tuple[int, int]:
    """The span of the time axis: all that is known, and some room at the end."""
    start, end = default_window(columns.events, columns.snapshot)
    return start, end + max((end - start) // 50, 1)


def _draw_lifetimes(axes: Any, lives: Lifetimes) -> None:
    bottom, height = lives.places(slice(None))
    paint = np.where(lives.is_live, 1 + (lives.birth & 1), 0)
    colours = _rgba([_style.FREED, _style.IN_USE, _style.IN_USE_ALTERNATE], paint)
    _boxes(axes, lives.birth, bottom, lives.death, bottom + height, colours, linewidth=0)


def _draw_lifetime_image(axes: Any, lives: Lifetimes) -> None:
    codes = lifetime_image(lives, PictureForm.of(lives, _NR_BINS, _NR_ROWS))
    extent = (*lives.window, 0, len(lives.bands))
    limits = axes.get_ylim()
    place = {"extent": extent, "aspect": "auto", "interpolation": "nearest", "origin": "lower"}
    axes.imshow(_rgba(_style.lifetime_palette(), codes), zorder=1.5, **place)  # upon the bands
    axes.set_ylim(limits)


def _draw_marks(axes: Any, lives: Lifetimes, lane: float) -> None:
    for event, (marker, colour, _) in _MARKS.items():
        rows = lives.marks.event == event
        place = np.searchsorted(lives.bands, lives.marks.ordinal[rows]) + 0.5
        y = np.full(len(place), lane) if event == L.EVENT_FAIL else place
        size, width = (48, 1.8) if len(y) <= _MAX_LARGE_MARKS else (9, 0.8)
        axes.scatter(lives.marks.op[rows], y, marker=marker, color=colour, s=size, linewidths=width, zorder=3)


def _draw_notes(axes: Any, notes: Notes, window: tuple[int, int]) -> list[Any]:
    """Mark where something was noted or lost, in words where there is room; gives samples for the legend."""
    top = axes.get_ylim()[1]
    samples = []
    for is_loss, (marker, colour, words) in _NOTES.items():
        rows = np.flatnonzero((notes.is_loss == is_loss) & (notes.op >= window[0]))
        if not len(rows):
            continue
        samples.append(_mark_sample(marker, colour, words))
        axes.scatter(
            notes.op[rows], np.full(len(rows), top), marker=marker, color=colour, s=20, clip_on=False, zorder=4
        )
        place = {"rotation": 90, "va": "top", "ha": "left", "fontsize": 6.5, "color": colour, "parse_math": False}
        place["bbox"] = {
            "facecolor": axes.get_figure(root=True).get_facecolor(),
            "alpha": 0.8,
            "linewidth": 0,
            "pad": 0.8,
        }
        for row, label in _words.note_labels(notes, rows, window).items():
            axes.text(notes.op[row], top * 0.985, label, **place)
    return samples


def _mark_sample(marker: str, colour: str, words: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], linestyle="none", marker=marker, color=colour, label=words, markeredgewidth=1.8)


class _View(NamedTuple):
    """How a view is drawn, on axes of how many inches, and what it takes beside for titles, ticks and legends."""

    draw: Callable[[Sequence[Any], Columns, int | None], None]
    heights: Callable[[Columns], tuple[float, ...]]
    margin: float
    has_text: bool = False


def _map_heights(columns: Columns) -> tuple[float]:
    return (0.3 * min(max(len(columns.snapshot.chunks), 2), 8),)


VIEWS = {
    "area_map": _View(_area_map, _map_heights, 1.45, has_text=True),
    "fragmentation": _View(_fragmentation, lambda _: (1.5, 1.0), 1.55),
    "timeline": _View(_timeline, lambda _: (2.6,), 1.25),
}
