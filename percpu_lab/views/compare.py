"""Several runs of the same requests: curves over each other, area maps below each other, one cursor for all.

fragmentation, pages    a line a run over all ops, and where the cursor stands     click: go there
run 1   area map        at the cursor          ┐ an area is known by its op in every run:
run 2   area map        at the cursor          ┘ selected in one, it is marked in all
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import ipywidgets as widgets
import numpy as np
from bokeh.layouts import column
from bokeh.model import Model
from bokeh.models import LayoutDOM, Range1d
from bokeh.models.annotations import Span

from ..columns import Columns, Ints
from ..errors import LabError, RequestError
from ..session import Selection, Session
from ..spans import Series
from . import _style
from .area_map import AreaMap
from .controls import Message, RecordingControls
from .dashboard import SUMMARY_LINES, plain_text, summary
from .live import FigureEvent, Frame, Json, LiveFigure, Publisher, close_tree
from .pump import Pump
from .shared import Shared, merged
from .static import Picture

COLOURS = (_style.IN_USE, _style.FRAGMENTED, _style.FREE_LINE, _style.CHUNK, _style.FAILURE, _style.NOTE)
DASHES = ("solid", "dashed", "dotted", "dashdot")  # lines may lie over each other
MAX_POINTS = 1000  # of a curve
MAP_HEIGHT = 260
CURVE_HEIGHT = 170


class ComparedRun(Protocol):
    """A run that can go to any of its ops."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def now(self) -> int: ...  # noqa: D102
    @property
    def last_op(self) -> int: ...  # noqa: D102
    @property
    def fragmentation(self) -> Series: ...  # noqa: D102

    def populated(self) -> tuple[Ints, Ints]:
        """Give ops, and the pages populated then."""

    def seek(self, op: int) -> None:
        """Go to an op."""

    def columns(self) -> Columns:
        """Give everything a view needs."""


class Compared(Protocol):
    """What is shown: runs of the same requests."""

    @property
    def runs(self) -> Sequence[ComparedRun]: ...  # noqa: D102


class Together:
    """Runs with one cursor: a Recording for a session; a run that ended early stands at its end.

    Args:
        runs: of the same requests.
    """

    def __init__(self, runs: Sequence[ComparedRun]) -> None:
        self.runs = tuple(runs)
        self.lock = threading.RLock()
        self.first_op = 0
        self.last_op = max(run.last_op for run in self.runs)
        self.now = self.last_op
        self.version = 0

    def seek(self, op: int) -> None:
        """Move every run to the moment when so many ops had been done."""
        with self.lock:
            self.now = min(max(op, self.first_op), self.last_op)
            for run in self.runs:
                run.seek(self.now)
            self.version += 1


class _Curves:
    """The whole of every run over its ops, with the cursor: fragmentation above, populated pages below."""

    def __init__(self, runs: Sequence[ComparedRun]) -> None:
        self._runs = runs
        self._clicked: list[Model] = []

    def build(self, last_op: int) -> list[_style.Plot]:
        x_range = Range1d(start=0, end=max(last_op, 1))
        most = max(int(run.populated()[1].max(initial=1)) for run in self._runs)
        self._cursor = [Span(dimension="height", line_color=_style.NOTE, line_width=2) for _ in range(2)]
        plots = []
        for k, (title, y_label, top) in enumerate((
            ("External fragmentation: share of the free bytes outside the largest free area", "%", 100),
            ("Pages populated, per CPU", "pages", most * 1.08),
        )):  # fmt: skip
            plot = _style.make_figure(
                title, height=CURVE_HEIGHT, x_range=x_range, y_range=Range1d(start=0, end=top),
                x_label="ops done" if k else "", y_label=y_label,
            )  # fmt: skip
            plot.name = ("fragmentation", "pages")[k]
            _style.show_ops(plot)
            lines = [_line(plot, number, *curves(run)[k]) for number, run in enumerate(self._runs)]
            self._clicked += [plot, *(line.data_source for line in lines)]
            plot.add_layout(self._cursor[k])
            if k:
                _style.add_legend(plot, [(run.name, line) for run, line in zip(self._runs, lines, strict=True)])
            plots.append(plot)
        return plots

    def handle(self, event: FigureEvent) -> int | None:
        """Give the op that was clicked."""
        return round(event.x) if event.kind == "tap" and event.model in self._clicked else None

    def update(self, now: int) -> Frame:
        return Frame({}, {span: {"location": now} for span in self._cursor})


def curves(run: ComparedRun) -> tuple[tuple[Ints, Any], tuple[Ints, Any]]:
    """Give the curves of a run, ops and values: external fragmentation in percent, pages populated."""
    series = run.fragmentation
    op, pages = run.populated()
    return _thinned(series.op, series.external * 100), _thinned(op, pages)


def _thinned(op: Ints, values: Any) -> tuple[Ints, Any]:
    step = max(-(-len(op) // MAX_POINTS), 1)
    rows = np.unique(np.append(np.arange(0, len(op), step), len(op) - 1))
    return op[rows], values[rows]


def _line(plot: _style.Plot, number: int, op: Ints, values: Any) -> Any:
    return plot.step(
        op.tolist(), values.tolist(), mode="after", line_width=2.2, line_color=COLOURS[number % len(COLOURS)],
        line_dash=DASHES[number % len(DASHES)],
    )  # fmt: skip


class _Drawing:
    """All of a board that is painted.

    Args:
        together: the runs.
    """

    def __init__(self, together: Together) -> None:
        runs = together.runs
        self._curves = _Curves(runs)
        self._shared = [Shared() for _ in runs]
        self._maps = [AreaMap(height=MAP_HEIGHT) for _ in runs]
        self._texts = [plain_text(SUMMARY_LINES) for _ in runs]
        roots: list[LayoutDOM] = list(self._curves.build(together.last_op))
        for number, (view, shared, text) in enumerate(zip(self._maps, self._shared, self._texts, strict=True)):
            root = view.build(shared)
            root.name = f"area_map_{number}"
            roots += [text, root]
        self.root = column(*roots, sizing_mode="stretch_width")

    def clicked(self, event: FigureEvent) -> int | None:
        """Give the op that was clicked in a curve."""
        return self._curves.handle(event)

    def picked(self, event: FigureEvent) -> list[Selection]:
        """Take an event of the browser; gives what a tap has picked."""
        selections = [view.handle(event) for view in self._maps]
        return [selection for selection in selections if selection is not None]

    def frame(self, together: Together, selection: Selection) -> Frame:
        """Draw the moment under the cursor."""
        with together.lock:
            now, moments = together.now, [run.columns() for run in together.runs]
        maps = [self._map(number, run.name, columns, selection)
                for number, (run, columns) in enumerate(zip(together.runs, moments, strict=True))]  # fmt: skip
        return merged(self._curves.update(now), *maps)

    def _map(self, number: int, name: str, columns: Columns, selection: Selection) -> Frame:
        shared, selection = self._shared[number], local_selection(selection, columns)
        shared.select(selection)
        texts: dict[Model, dict[str, Json]] = {
            self._texts[number]: {"text": f"{name}  ·  {summary(columns, selection)}"}
        }
        return merged(shared.update(columns), self._maps[number].update(columns), Frame({}, texts))


class CompareBoard:
    """A widget that shows several runs of the same requests at one moment, which a slider moves.

    Args:
        comparison: what compare() gave.

    Raises:
        RequestError: there is no run.
    """

    def __init__(self, comparison: Compared) -> None:
        if not comparison.runs:
            raise RequestError("there is no run to show", where="watch", remedy="compare at least one setting")
        self.together = Together(comparison.runs)
        self.session = Session(self.together)
        self._commands: deque[Callable[[], None]] = deque()
        self._wanted: int | None = None
        self._drawing: _Drawing | None = _Drawing(self.together)
        self.figure = LiveFigure(self._drawing.root, note=repr(self))
        self.message = Message()
        self._slider = RecordingControls(self, self.together.first_op, self.together.last_op, self.together.now)
        self._box = widgets.VBox([self._slider, self.message, self.figure])
        self._pump = Pump(self._safe_point)
        self.session.on_post(self._pump.wake)
        self.figure.on_close(self.session.pause)
        self.figure.on_close(lambda: close_tree(self._box))
        self.figure.on_close(self._let_go)
        self.publisher: Publisher | None = None

    def __repr__(self) -> str:
        return f"<CompareBoard of {', '.join(repr(run.name) for run in self.together.runs)}>"

    @property
    def widget(self) -> widgets.VBox:
        """The whole as an ipywidget; frames are sent from the first use on."""
        if self.publisher is None:
            self.publisher = Publisher(self.figure, self._frame, version=lambda: self.session.version)
        return self._box

    def _repr_mimebundle_(self, **options: Any) -> Any:
        bundle = self.widget._repr_mimebundle_(**options)
        data, *rest = bundle if isinstance(bundle, tuple) else (bundle,)
        data = {**(data or {}), "text/plain": repr(self)}
        return (data, *rest) if rest else data

    def close(self) -> None:
        """End the threads and take the widget off the page."""
        self.figure.close()

    # --- one frame, on the publisher's thread --------------------------------------------

    def _frame(self) -> Frame | None:
        drawing = self._drawing
        if drawing is None:
            return None
        for event in self.figure.drain():
            self._handle(event, drawing)
        return drawing.frame(self.together, self.session.selection)

    def _handle(self, event: FigureEvent, drawing: _Drawing) -> None:
        op = drawing.clicked(event)
        if op is not None:
            self.session.post("seek", op)
        for selection in drawing.picked(event):
            self.session.post("select", selection.chunk, selection.area)

    def _let_go(self) -> None:
        """Leave what was drawn to the garbage collector: `Out` of a notebook keeps every board that was ever shown."""
        self._drawing = None

    # --- commands: asked for anywhere, done at the safe point ------------------------------

    def ask(self, command: Callable[[], None]) -> None:
        """Have a command done at the next safe point; from any thread."""
        self._commands.append(command)
        self._pump.wake()

    def _safe_point(self) -> float | None:
        delay: float | None = None
        try:
            while self._commands:
                self._commands.popleft()()
            if self._wanted is not None:  # of all places that a drag of the slider passed, the last
                op, self._wanted = self._wanted, None
                self.session.seek(op)
            delay = self.session.pump()
        except LabError as error:
            self.session.pause()
            self.message.say(str(error), is_error=True)
        self._slider.show(self.session.now)
        return delay

    def seek(self, op: int) -> None:
        """Go to an op with all runs; of several asked for at once, to the last."""
        self._wanted = op
        self._pump.wake()

    def play(self, pace: float) -> None:
        """Go on by itself, at a pace in ops per second; from the start, if the cursor is at the end."""
        if self.session.now == self.together.last_op:
            self.session.seek(0)
        self.session.play(pace)

    def pause(self) -> None:
        """Stop playing."""
        self.session.pause()

    def step(self, nr_ops: int) -> None:
        """Go on by some ops, back by negative ones."""
        self.session.pause()
        self.session.step(nr_ops)


def local_selection(selection: Selection, columns: Columns) -> Selection:
    """Say where the selected area lies in a run: the same op gave it another place."""
    row = columns.snapshot.find(selection.area) if selection.area is not None else None
    if row is None:
        return selection
    snap = columns.snapshot
    return Selection(int(snap.chunks.ordinal[snap.areas.chunk[row]]), selection.area)


def picture(comparison: Compared) -> Picture:
    """Draw fragmentation and populated pages of all runs over the ops, for a saved notebook.

    Args:
        comparison: what compare() gave.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 5.0), facecolor="white", layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    for number, run in enumerate(comparison.runs):
        style = {"color": COLOURS[number % len(COLOURS)], "linestyle": DASHES[number % len(DASHES)], "linewidth": 1.9}
        for axes, (op, values) in zip((upper, lower), curves(run), strict=True):
            axes.step(op, values, where="post", label=run.name, **style)
    upper.set(ylabel="%", ylim=(0, 100))
    lower.set(ylabel="pages", ylim=(0, None), xlabel="ops done")
    lower.xaxis.set_major_formatter("{x:,.0f}")
    lower.yaxis.set_major_formatter("{x:,.0f}")
    upper.set_title("External fragmentation: share of the free bytes outside the largest free area", loc="left")
    lower.set_title("Pages populated, per CPU", loc="left")
    lower.legend(frameon=False, ncols=3, loc="upper left", bbox_to_anchor=(0, -0.2))
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", alpha=0.25)
    return Picture(figure, "comparison of " + ", ".join(run.name for run in comparison.runs))
