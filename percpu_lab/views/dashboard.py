"""Allocator or recorded run, its views, and the controls: what `percpu_lab.watch` shows.

buttons, taps ──ask──▶ queue ──safe point──▶ Session, Allocator        the only place that changes anything
                                                  │
browser ◀── LiveFigure ◀── Publisher ◀── one Frame of all views         on the publisher's thread, reads only
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import ipywidgets as widgets
import numpy as np
from bokeh.layouts import column
from bokeh.model import Model
from bokeh.models import InlineStyleSheet, LayoutDOM
from bokeh.models.widgets import PreText

from ..allocator import Allocator, RunResult
from ..columns import EARLY, Columns, Snapshot, take
from ..engine import Engine
from ..errors import LabError, RequestError
from ..geometry.info import shown
from ..kept import Kept
from ..ops import Ops
from ..plain import count
from ..player import Player
from ..pointers import PercpuPtr
from ..recorded_run import RecordedRun
from ..runs import open_run
from ..session import Selection, Session
from ..traces.recording import Recording
from ..units import format_bytes
from ..workloads import WORKLOADS, Workload
from . import static
from ._words import aligned, harmless, moment_word, notes_status
from .area_map import AreaMap
from .controls import Message, RecordingControls, RequestControls, WorkloadControls
from .fragmentation import Fragmentation
from .live import FigureEvent, Frame, Json, LiveFigure, Publisher, close_tree
from .pump import Pump
from .shared import News, Shared, merged
from .timeline import Timeline

if TYPE_CHECKING:
    from ..events import Events
    from .static import Picture

TAIL_EVENTS = 6
PRACTICE_ALLOCS = (1000, 30_000, 30_000)  # areas drawn one by one, then pictures
PRACTICE_BYTES = 64
SUMMARY_LINES, TAIL_LINES = 2, 1 + TAIL_EVENTS
# A line that is longer than the page is wide is reached by scrolling. All lines have room from the start: when a text
# grows, Bokeh lays out the whole board anew.
_TEXT_CSS = """
:host { color: var(--jp-ui-font-color1, inherit); }
.bk-clearfix { width: 100%%; }
pre { overflow-x: auto; margin: 4px 0; scrollbar-width: thin; height: calc(%dlh + 9px); contain: strict; }
"""


class View(Protocol):
    """A view: one file, nothing else changes when one is added."""

    def build(self, shared: Shared, /) -> LayoutDOM:
        """Make the figure, empty."""

    def update(self, columns: Columns, /) -> Frame:
        """Draw the newest columns."""

    def handle(self, event: FigureEvent, /) -> Selection | None:
        """Take an event of the browser; gives what a tap has picked."""


VIEWS: dict[str, Callable[[], View]] = {
    "area_map": lambda: AreaMap(height=250),
    "fragmentation": lambda: Fragmentation(height=250),
    "timeline": lambda: Timeline(height=240),
}


class _Drawing:
    """All of a board that is painted.

    Args:
        view_names: out of VIEWS, from top to bottom.
        moment: what texts call a place on the time axis.
    """

    def __init__(self, view_names: Sequence[str], moment: str) -> None:
        self._moment = moment
        self._shared, self._news, self._kept = Shared(moment=moment), News(), Kept()
        self._views = [VIEWS[name]() for name in view_names]
        self._summary, self._tail = plain_text(SUMMARY_LINES), plain_text(TAIL_LINES)
        roots = [view.build(self._shared) for view in self._views]
        for name, root in zip(view_names, roots, strict=True):
            root.name = name
        self.root = column(self._summary, *roots, self._tail, sizing_mode="stretch_width")
        models = {id(model): model for model in self.root.references()}
        self._practising = copy.deepcopy((self._shared, self._views), models)  # draw into the same models

    def picked(self, event: FigureEvent) -> list[Selection]:
        """Take an event of the browser; gives what a tap has picked."""
        parts: tuple[Shared | View, ...] = (self._shared, *self._views)
        selections = [part.handle(event) for part in parts]
        return [selection for selection in selections if selection is not None]

    def frame(self, source: Any, selection: Selection) -> Frame:
        """Draw the newest state."""
        self._shared.select(selection)
        columns = take(source, self._kept)
        frames = [self._shared.update(columns), *(self._news.of(view.update(columns)) for view in self._views)]
        newest = source.events(columns.events.next_seq - TAIL_EVENTS, TAIL_EVENTS)
        texts: dict[Model, dict[str, Json]] = {
            self._summary: {"text": summary(columns, selection)},
            self._tail: {"text": tail(newest, columns.is_tracing, self._moment)},
        }
        return merged(*frames, Frame({}, texts))

    def practice(self, engine: Engine) -> Iterator[Frame]:
        """Draw an engine that nobody watches, after ops that need all kinds of drawing; the real state stays drawn.

        Args:
            engine: a new one.
        """
        shared, views = self._practising
        ids = np.zeros(sum(PRACTICE_ALLOCS), np.int64)
        nr_done = 0
        for nr_ops in PRACTICE_ALLOCS[: None if engine.is_compiled else 1]:
            allocs = Ops.alloc(np.arange(nr_done, nr_done + nr_ops), PRACTICE_BYTES)
            nr_done += nr_ops
            engine.run(Ops.concat([allocs, Ops.free(np.arange(nr_done - nr_ops, nr_done, 8))]), ids)
            columns = take(engine)
            yield merged(shared.update(columns), *(view.update(columns) for view in views))


class Dashboard:
    """A widget that shows an allocator or a recorded run while it moves.

    >>> from percpu_lab import Allocator
    >>> Dashboard(Allocator(jit="off"), views=["area_map"])
    <Dashboard of 'x86-64, 4 CPUs': area_map>

    Args:
        subject: what to watch.
        views: names out of VIEWS, from top to bottom.
        controls: show buttons and sliders too.
        window_ops: show only so many last ops on the time axis.

    Raises:
        RequestError: no such view, or nothing that can be watched.
    """

    def __init__(
        self,
        subject: Allocator | RecordedRun | Recording,
        *,
        views: Sequence[str] = tuple(VIEWS),
        controls: bool = True,
        window_ops: int | None = None,
    ) -> None:
        check_views(views)
        if not isinstance(subject, (Allocator, RecordedRun, Recording)):
            remedy = "give an Allocator, a recorded run, or what open_trace gives"
            raise RequestError(f"{shown(subject)} cannot be watched", where="watch", remedy=remedy)
        subject = open_run(subject) if isinstance(subject, Recording) else subject
        self.subject = subject
        self.view_names = tuple(views)
        self._source: Any = subject.engine if isinstance(subject, Allocator) else subject
        self._player: Player | None = None
        self._made: list[PercpuPtr] = []
        self._commands: deque[Callable[[], None]] = deque()
        self.session = Session(self._source, self._step if isinstance(subject, Allocator) else None)
        self._moment = moment_word(subject.annotations() if isinstance(subject, RecordedRun) else None)
        self._drawing: _Drawing | None = _Drawing(self.view_names, self._moment)
        practice = self._practice if isinstance(subject, Allocator) else None  # recordings move between cells
        self.figure = LiveFigure(self._drawing.root, note=repr(self), practice=practice)
        self._build_controls(controls)
        self._pump = Pump(self._safe_point)
        self.session.on_post(self._pump.wake)
        self.publisher: Publisher | None = None

    def _build_controls(self, wanted: bool) -> None:
        self.message = Message()
        self._recording_controls: RecordingControls | None = None
        parts: list[widgets.Widget] = []
        if wanted and isinstance(self.subject, RecordedRun):
            run = self.subject
            self._recording_controls = RecordingControls(self, run.first_op, run.last_op, run.now, self._moment)
            parts = [self._recording_controls]
        elif wanted:
            self.requests, self.workloads = RequestControls(self), WorkloadControls(self)
            parts = [self.requests, self.workloads, self.message]
        box = self._box = widgets.VBox([*parts, self.figure])
        self.figure.on_close(self.session.pause)
        self.figure.on_close(lambda: close_tree(box))
        self.figure.on_close(self._let_go)

    # --- display ------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"<Dashboard of {self.subject.name!r}: {', '.join(self.view_names)}>"

    @property
    def widget(self) -> widgets.VBox:
        """The whole as an ipywidget, to be put into others; frames are sent from the first use on."""
        if self.publisher is None:
            visit = getattr(self._source, "visit", None)  # a recording changes between two cells only
            self.publisher = Publisher(self.figure, self._frame, version=lambda: self.session.version, visit=visit)
        return self._box

    def _flush(self) -> None:
        if self.publisher is not None:
            self.publisher.flush()

    def _repr_mimebundle_(self, **options: Any) -> Any:
        bundle = self.widget._repr_mimebundle_(**options)
        data, *rest = bundle if isinstance(bundle, tuple) else (bundle,)
        data = {**(data or {}), "text/plain": repr(self)}
        return (data, *rest) if rest else data

    def snapshot(self) -> Picture:
        """Make a static picture of the views, which stays in a saved notebook."""
        return static.picture(take(self._source), self.view_names)

    def close(self) -> None:
        """End the threads and take the widget off the page."""
        self.figure.close()

    # --- one frame, on the publisher's thread ------------------------------------------

    def _frame(self) -> Frame | None:
        drawing = self._drawing
        if drawing is None:
            return None
        for event in self.figure.drain():
            for selection in drawing.picked(event):
                self.session.post("select", selection.chunk, selection.area)
        return drawing.frame(self._source, self.session.selection)

    def _practice(self) -> Iterator[Frame]:
        drawing, engine = self._drawing, self._source
        if drawing is None:
            return iter(())
        jit = "auto" if engine.is_compiled else "off"  # nothing is compiled for it
        return drawing.practice(Engine(engine.geometry, kernel=engine.model.name, jit=jit))

    def _let_go(self) -> None:
        """Leave what was drawn to the garbage collector: `Out` of a notebook keeps every board that was ever shown."""
        self._drawing = None

    # --- commands: asked for anywhere, done at the safe point ----------------------------

    def ask(self, command: Callable[[], None]) -> None:
        """Have a command done at the next safe point; from any thread."""
        self._commands.append(command)
        self._pump.wake()

    def _safe_point(self) -> float | None:
        while self._commands:
            self._try(self._commands.popleft())
        delay: float | None = self._try(self.session.pump)
        self._show_position()
        return delay

    def _show_position(self) -> None:
        if self._recording_controls is not None:
            self._recording_controls.show(self.session.now)

    def _try(self, command: Callable[[], Any]) -> Any:
        try:
            return command()
        except LabError as error:
            self.session.pause()
            self.message.say(str(error), is_error=True)
        return None

    def alloc(self, size: int, align: int, gfp: int, reserved: bool) -> None:
        """Allocate as the buttons say, and tell what came of it."""
        ptr = self._allocator.alloc_percpu(size, align, gfp, reserved)
        if ptr:
            self._made.append(ptr)
            self.session.select(ptr.ordinal, ptr.op)
        self.message.say(
            f"alloc_percpu({size}, {align}, {gfp!r}) = {ptr!r}" + (f": {ptr.reason}" if not ptr else ""),
            is_error=not ptr,
        )

    def free_selected(self) -> None:
        """Free the selected area."""
        birth = self.session.selection.area
        columns = take(self._source)
        row = columns.snapshot.find(birth) if birth is not None else None
        if row is None:
            raise RequestError(
                "no area in use is selected", where="free", remedy="click one in the area map or the timeline"
            )
        areas, chunks = columns.snapshot.areas, columns.snapshot.chunks
        self._free(self._source.pointer(int(chunks.ordinal[areas.chunk[row]]), int(areas.off_bytes[row])))

    def free_last(self) -> None:
        """Free what the buttons allocated last and is still live."""
        while self._made and not self._made[-1].is_live:
            self._made.pop()
        if not self._made:
            raise RequestError("nothing is left of what these buttons allocated", where="free", remedy="allocate first")
        self._free(self._made.pop().value)

    def _free(self, value: int) -> None:
        self._allocator.free_percpu(value)
        self.message.say(f"free_percpu({value:#x})")

    def balance(self) -> None:
        """Run the balance work if it is pending."""
        self.message.say("balance work done" if self._allocator.balance() else "no balance work is pending")

    def load(self, workload: str, seed: int) -> None:
        """Take a workload to be played from its start."""
        known = WORKLOADS[workload]
        self._load(known.build(seed=seed) if "seed" in known.parameters else known.build())
        self.message.say(f"{workload} is loaded: {len(self._player.ops) if self._player else 0:,} ops")

    def play(self, pace: float) -> None:
        """Go on by itself, at a pace in ops per second."""
        self._be_ready()
        if isinstance(self.subject, RecordedRun) and self.session.now == self.subject.last_op:
            self.session.seek(self.subject.first_op)
        self.session.play(pace)

    def pause(self) -> None:
        """Stop playing."""
        self.session.pause()

    def step(self, nr_ops: int) -> None:
        """Go on by some ops; a recording goes back by negative ones."""
        self._be_ready()
        self.session.pause()
        if not self.session.step(nr_ops):
            self.message.say("the workload is at its end: load it again, or another")

    def seek(self, op: int) -> None:
        """Go to an op of a recording.

        Raises:
            LabError: a live allocator cannot go back.
        """
        self.session.seek(op)
        self._show_position()

    # --- in a cell ----------------------------------------------------------------------

    def run(self, script: Ops | Workload | None = None, *, pace: float | None = None) -> RunResult | None:
        """Run a script on the allocator, or a recording from its start, while the views move.

        Args:
            script: what to run; none for a recording.
            pace: ops per second; as fast as it goes without it.

        Raises:
            RequestError: an allocator needs a script, a recording takes none.
        """
        if isinstance(self.subject, Allocator) != (script is not None):
            raise RequestError("a script goes with an allocator, and only with one", where="run", remedy="see watch()")
        if script is None:
            self.session.seek(self.subject.first_op)  # type: ignore[union-attr]
            self.session.run(pace or max(self.subject.last_op / 10, 1))  # type: ignore[union-attr]
            self._show_position()
            self._flush()
            return None
        player = self._load(script if isinstance(script, Ops) else script.build())
        if pace is None:
            player.step(len(player.ops))
        else:
            self.session.run(pace)
        self._flush()
        return RunResult(self._allocator, player.position, player.nr_failed, player.ids)

    # --- helpers --------------------------------------------------------------------------

    @property
    def _allocator(self) -> Allocator:
        if not isinstance(self.subject, Allocator):
            raise RequestError("a recorded run cannot be changed", where=repr(self), remedy="watch an Allocator")
        return self.subject

    def _load(self, ops: Ops) -> Player:
        self.session.pause()
        self._player = Player(self._allocator, ops)
        return self._player

    def _be_ready(self) -> None:
        """Load what the controls show, where nothing has been loaded yet."""
        if isinstance(self.subject, Allocator) and self._player is None:
            self.load(self.workloads.workload.value, self.workloads.seed.value)

    def _step(self, nr_ops: int) -> int:
        return self._player.step(nr_ops) if self._player else 0


def summary(columns: Columns, selection: Selection) -> str:
    """Say what the views do not: the machine, spare pages, pending work, and the selected area.

    >>> from percpu_lab import Allocator
    >>> print(summary(take(Allocator("UP, km", jit="off").engine), Selection()))
    op 0  ·  1 CPU, unit 32 KiB  ·  8 empty populated pages
    click an area to follow it
    """
    unit, totals = columns.snapshot.unit, columns.snapshot.totals
    cpus = f"{unit.nr_cpus} CPU{'s' * (unit.nr_cpus > 1)}" if unit.nr_cpus else "CPUs unknown"
    moment = moment_word(columns.annotations)
    parts = [f"{moment} {columns.snapshot.op:,}", f"{cpus}, unit {format_bytes(unit.unit_size)}"]
    if totals.nr_empty_pop_pages >= 0:
        parts.append(f"{totals.nr_empty_pop_pages:,} empty populated pages")
    if totals.balance_pending > 0:
        parts.append("balance work is pending")
    parts += notes_status(columns.annotations)
    followed = selected_area(columns.snapshot, selection.area, moment) or "click an area to follow it"
    if columns.annotations is not None and selection.area is not None:
        followed += f", for {harmless(columns.annotations.origins.text(selection.area))}"
    return "  ·  ".join(parts) + "\n" + followed


def selected_area(snap: Snapshot, birth: int | None, moment: str = "op") -> str:
    """Describe the area that was allocated by an op; nothing for None."""
    if birth is None:
        return ""
    row = snap.find(birth)
    if row is None:
        return f"selected: area {birth:,}, freed since"
    when = f"by {moment} {birth:,}, {count(snap.op - birth, moment)} ago" if birth > EARLY else "before the trace"
    areas = snap.areas
    ordinal = int(snap.chunks.ordinal[areas.chunk[row]])
    chunk = {-1: "the reserved chunk", 0: "the first chunk"}.get(ordinal, f"chunk {ordinal}")
    asked = int(areas.requested_bytes[row])
    size = int(areas.size_bytes[row])
    return (
        f"selected: area {birth:,}, {size:,} B"
        + (f" ({asked:,} asked for)" if asked != size else "")
        + f" at {int(areas.off_bytes[row]):,} in {chunk}, allocated {when}"
    )


def tail(events: Events, is_tracing: bool = True, moment: str = "op") -> str:
    """Write the last events as text, the newest last; shown as text, never as markup.

    >>> from percpu_lab import Allocator
    >>> tail(Allocator(jit="off").engine.events(1))
    'no events yet'
    """
    if not is_tracing:
        return "tracing is off: no events"
    heading = "by op" if moment == "op" else moment
    newest = list(events)
    lines = aligned([str(event) for event in newest])
    ops = [f"{event.op:,}" if event.op >= 0 else "boot" for event in newest]
    shown = [f"{op:>9}  {line}" for op, line in zip(ops, lines, strict=True)]
    return "\n".join([f"{heading:>9}  the last events", *shown]) if shown else "no events yet"


def plain_text(nr_lines: int) -> PreText:
    """Make a piece of text that is shown as it is, never as markup, with room for some lines."""
    return PreText(text="", stylesheets=[InlineStyleSheet(css=_TEXT_CSS % nr_lines)], sizing_mode="stretch_width")


def picture(subject: Allocator | RecordedRun | Recording, views: Sequence[str] = tuple(VIEWS)) -> Picture:
    """Make a static picture of an allocator or a recorded run as it stands, which stays in a saved notebook.

    >>> from percpu_lab import Allocator
    >>> drawn = picture(Allocator(jit="off"), ["area_map"])

    Args:
        subject: what to draw.
        views: names out of VIEWS, from top to bottom.

    Raises:
        RequestError: no such view, or nothing that can be drawn.
    """
    check_views(views)
    source = open_run(subject) if isinstance(subject, Recording) else getattr(subject, "engine", subject)
    if not hasattr(source, "events"):
        remedy = "give an Allocator, a recorded run, or what open_trace gives"
        raise RequestError(f"{shown(subject)} cannot be drawn", where="picture", remedy=remedy)
    return static.picture(take(source), tuple(views))


def check_views(names: Sequence[str]) -> None:
    """Refuse names that are no views.

    Raises:
        RequestError: one is not in VIEWS, or there is none.
    """
    unknown = [name for name in names if name not in VIEWS]
    if unknown or not names:
        raise RequestError(f"no view {unknown or names!r}", where="views", remedy=f"choose from {', '.join(VIEWS)}")


def watch(subject: Allocator | RecordedRun | Recording, **options: Any) -> Dashboard:
    """Show an allocator or a recorded run in live views; see Dashboard for the options."""
    return Dashboard(subject, **options)
