"""The only way from Python to the browser and back: one message a frame, newest wins, user events queued.

    view.produce() -> Frame -> Publisher (throttle) -> LiveFigure.frame -> comm -> live.js -> BokehJS
    FigureEvent <- LiveFigure.drain() <- queue <- comm <- live.js <- mouse

Bokeh's own models stay in Python as they were built: a frame goes past them, so nothing comes back as an echo and no
model is touched by two threads.
"""

import contextlib
import hashlib
import html
import json
import threading
import traceback
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

import anywidget
import bokeh
import ipywidgets
import traitlets
from bokeh.embed import json_item
from bokeh.model import Model
from bokeh.models import ColumnDataSource, LayoutDOM
from ipywidgets.widgets.widget import _instances as _open_widgets

from ..errors import LabError
from ..session import Clock
from . import _cells
from ._bokehjs import scripts_for
from ._wire import Column, Columns, encode

Json = None | bool | int | float | str | Sequence[Any] | Mapping[str, Any]
Kind = Literal["select", "tap", "hover", "range"]

MAX_WAITING_EVENTS = 1000  # of an owner that never drains
MAX_LAG_SECONDS = 1.2  # of the browser, whose acks come twice a second
ACK_TIMEOUT_SECONDS = 0.4  # acks may not come during a cell: the last frame must be out 0.5 s after its end
COST_FACTOR = 6  # at most a sixth of a processor goes into frames
MAX_DELAY_SECONDS = 1.0
MOST_OWED = 2  # frames: a full garbage collection stops a loop for longer than an interval
VISIT_SECONDS = 0.03  # in which a thread that changes the state comes by


@dataclass(frozen=True, slots=True)
class Frame:
    """All that one update of a figure changes in the browser.

    Args:
        sources: columns per source, all of a source's columns; a 2-D array is a column of one image, a list of arrays
            a column of images or lines; integers of 8 bytes travel as 4 bytes where they fit, else as doubles.
        props: attributes per model (start and end of a range, text of a title, location of a span), JSON values.
    """

    sources: Mapping[ColumnDataSource, Mapping[str, Column]]
    props: Mapping[Model, Mapping[str, Json]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FigureEvent:
    """What a user did in the browser.

    Args:
        kind: what was done.
        model: the source (select, hover, a tap that hit), the figure (a tap beside everything) or the range.
        ids: values of the source's column "id" in the rows meant; a source without one reports nothing.
        indices: the rows meant, in the columns the browser showed at that moment.
        x, y: place of a tap in data units.
        start, end: new bounds of a range in data units.
    """

    kind: Kind
    model: Model
    ids: tuple[int | float | str, ...] = ()
    indices: tuple[int, ...] = ()
    x: float = 0.0
    y: float = 0.0
    start: float = 0.0
    end: float = 0.0


def _title_of(root: LayoutDOM) -> str:
    """Find the title of the root, or of the oldest model in it that has one."""
    by_age = sorted(root.references(), key=lambda model: (len(model.id), model.id))
    titles = (getattr(getattr(model, "title", None), "text", "") for model in [root, *by_age])
    return next((title for title in titles if isinstance(title, str) and title), "")


def _stamped(source: str) -> str:
    """Write into the module what tells it from other versions that a page may hold."""
    return source.replace("STAMP", hashlib.sha256(source.encode()).hexdigest()[:16])


class LiveFigure(anywidget.AnyWidget):
    """A Bokeh figure or layout as a notebook widget that is painted while a cell runs.

    It closes itself once every cell that made or showed it has been run again or deleted.

    >>> from bokeh.plotting import figure
    >>> plot = figure(title="area map")
    >>> bars = plot.quad(left=[0], right=[8], bottom=[0], top=[1])
    >>> live = LiveFigure(plot)
    >>> live
    LiveFigure('area map')
    >>> live.frame({bars.data_source: {"left": [0, 8], "right": [8, 64], "bottom": [0, 0], "top": [1, 1]}})
    1
    >>> live.close()

    Args:
        root: the figure or layout; use Range1d, and give a source a column "id" to hear of its rows: a selection then
            stays with the ids from frame to frame.
        note: plain text for places that cannot show widgets (a saved notebook without a kernel).
        practice: makes frames of states that never were, which a page that is idle paints without showing them: the
            browser has compiled then what paints the first frames that count. Asked on the thread of messages.
    """

    _esm = _stamped("\n".join(Path(__file__).with_name(name).read_text("utf-8") for name in ("paint.js", "live.js")))
    _bokeh_version = traitlets.Unicode(bokeh.__version__).tag(sync=True)
    _scripts: traitlets.List[list[str]] = traitlets.List().tag(sync=True)
    _root = traitlets.Unicode().tag(sync=True)
    _practises = traitlets.Bool().tag(sync=True)
    _error = traitlets.Unicode().tag(sync=True)

    def __init__(
        self, root: LayoutDOM, *, note: str = "", practice: Callable[[], Iterable[Frame]] | None = None
    ) -> None:
        self._note = note
        self._practice = practice
        self._title = _title_of(root)
        self._models = {model.id: model for model in root.references()}
        self._lock = threading.Lock()
        self._newest: dict[str, Columns] = {}
        self._props: dict[str, dict[str, Json]] = {}
        self._seq = 0
        self._acked = -1
        self._nr_events = 0
        self._events: deque[FigureEvent] = deque(maxlen=MAX_WAITING_EVENTS)
        self._publisher: Publisher | None = None
        self._on_close: list[Callable[[], None]] = []
        self._closed = False
        document = json.dumps(json_item(root)["doc"])
        super().__init__(_root=document, _scripts=scripts_for(root), _practises=practice is not None)
        self.on_msg(self._receive)
        _let_answers_in(self.comm)
        _cells.made_or_shown(self)

    def frame(
        self,
        sources: Mapping[ColumnDataSource, Mapping[str, Column]],
        props: Mapping[Model, Mapping[str, Json]] | None = None,
        seq: int | None = None,
    ) -> int:
        """Send one frame, from any thread; Bokeh's models in Python do not change. A closed figure takes none.

        Args:
            sources: as in Frame.
            props: as in Frame.
            seq: number of the frame; the next one if left out.

        Returns:
            Number of the frame.

        Raises:
            LabError: a model that is not part of the figure, columns of different lengths, an integer above 2**53.
        """
        encoded, changed = self._encoded(Frame(sources, props or {}))
        with self._lock:
            if self._closed:
                return self._seq
            self._seq = self._seq + 1 if seq is None else seq
            self._newest |= encoded
            for model_id, attrs in changed.items():
                self._props[model_id] = self._props.get(model_id, {}) | attrs
            self._send_frame(encoded, changed)
            return self._seq

    def _encoded(self, frame: Frame) -> tuple[dict[str, Columns], dict[str, dict[str, Json]]]:
        """Columns per source and attributes per model, by id."""
        columns = {self._id_of(source): encode(columns) for source, columns in frame.sources.items()}
        return columns, {self._id_of(model): dict(attrs) for model, attrs in frame.props.items()}

    def _id_of(self, model: Model) -> str:
        if model.id not in self._models and not self._closed:
            raise LabError(f"{model!r} is not part of {self!r}", where="frame", remedy="add it before LiveFigure(root)")
        return cast(str, model.id)

    def _send_frame(
        self, sources: Mapping[str, Columns], props: Mapping[str, Mapping[str, Json]], kind: str = "frame"
    ) -> None:
        specs = [[source_id, encoded.specs] for source_id, encoded in sources.items()]
        # As one buffer: the kernel's sending thread takes the GIL from a running cell once for each of them.
        data = b"".join(buffer for encoded in sources.values() for buffer in encoded.buffers)
        self.send({"type": kind, "seq": self._seq, "sources": specs, "props": props}, [data] if data else [])

    def show_error(self, text: str) -> None:
        """Show a text under the figure in every view; an empty text takes it away."""
        if not self._closed:
            self._error = text

    def drain(self) -> list[FigureEvent]:
        """Take the events that came from the browser since the last call, oldest first; from any thread."""
        events = []
        with contextlib.suppress(IndexError):
            while True:
                events.append(self._events.popleft())
        return events

    @property
    def nr_events(self) -> int:
        """Number of events that ever came from the browser."""
        return self._nr_events

    @property
    def acked(self) -> int:
        """Number of the newest frame that a browser has painted, -1 before the first."""
        return self._acked

    @property
    def closed(self) -> bool:
        """Whether the figure has been closed."""
        return self._closed

    def attach(self, publisher: "Publisher") -> None:
        """Keep a publisher as long as the figure is open, in place of the one before."""
        if self._publisher is not None:
            self._publisher.close()
        self._publisher = publisher

    def flush(self) -> None:
        """Have the publisher, if there is one, send the newest state now."""
        if self._publisher is not None:
            self._publisher.flush()

    def on_close(self, callback: Callable[[], None]) -> None:
        """Call a function when the figure is closed: by its owner, or because its cells have run again.

        `live.on_close(lambda: close_tree(box))` closes what is around the figure with it.
        """
        self._on_close.append(callback)

    def close(self) -> None:
        """Take the figure out of the page and end its publisher; does nothing the second time."""
        if getattr(self, "_closed", True):
            return
        self._closed = True
        if self._publisher is not None:
            self._publisher.close()
        layout = self.layout
        super().close()
        layout.close()  # a widget of its own, which ipywidgets would leave open
        for callback in self._on_close:
            callback()
        self._on_close.clear()
        self._let_go()
        _take_closed_widgets_out_of_boxes()

    def _let_go(self) -> None:
        """Leave the models and what was sent to the garbage collector, whoever keeps the figure."""
        with self._lock:
            self._models = {}
            self._newest, self._props = {}, {}
            self._root = ""

    def _receive(self, _widget: object, content: dict[str, Any], _buffers: object) -> None:
        """Take a message of live.js, perhaps while a cell runs on another thread: touch nothing but the queues."""
        kind = content.get("type")
        if kind == "ack":
            self._acked = max(self._acked, int(content["seq"]))
        elif kind == "events":
            self._events.extend(self._decode(content["events"]))
            self._nr_events += len(content["events"])
        elif kind == "hello":
            with self._lock:
                if self._newest or self._props:
                    self._send_frame(self._newest, self._props)
        elif kind == "practise" and not _cells.is_cell_running():
            self._send_practice()

    def _send_practice(self) -> None:
        """Give the page something to practise on; a message a frame, as in earnest."""
        for frame in self._practice() if self._practice is not None else ():
            if not self._closed:
                self._send_frame(*self._encoded(frame), kind="practice")

    def _decode(self, events: Iterable[dict[str, Any]]) -> list[FigureEvent]:
        models = self._models  # those of an open figure, though it is closed meanwhile
        return [
            FigureEvent(
                kind=event["kind"],
                model=models[event["model"]],
                ids=tuple(event.get("ids", ())),
                indices=tuple(event.get("indices", ())),
                **{name: float(event[name]) for name in ("x", "y", "start", "end") if name in event},
            )
            for event in events
            if event["kind"] in get_args(Kind) and event["model"] in models
        ]

    def __repr__(self) -> str:
        return f"LiveFigure({self._title!r})"

    def _repr_mimebundle_(self, **kwargs: dict[Any, Any]) -> tuple[dict[str, Any], dict[str, Any]] | None:
        _cells.made_or_shown(self)
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle is not None:
            bundle[0]["text/html"] = self._fallback()
        return bundle

    def _fallback(self) -> str:
        """What a page shows that knows no widgets."""
        note = f" {html.escape(self._note)}" if self._note else ""
        return (
            f"<p><code>{html.escape(repr(self))}</code> is a live picture: run this cell with a kernel in "
            f"JupyterLab or Notebook 7, with anywidget installed.{note}</p>"
        )


def close_tree(widget: ipywidgets.Widget) -> None:
    """Close a widget and all widgets in it, with their layouts and styles, which ipywidgets would leave open.

    >>> import ipywidgets
    >>> box = ipywidgets.VBox([ipywidgets.Button()])
    >>> close_tree(box)
    >>> box.comm is None, box.children[0].comm is None
    (True, True)
    """
    if widget.comm is None:
        return
    values = [getattr(widget, name) for name in widget.keys]
    widget.close()
    for value in values:
        for inner in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(inner, ipywidgets.Widget):
                close_tree(inner)


def _take_closed_widgets_out_of_boxes() -> None:
    """Leave no open box with a closed widget in it: a page that is loaded again could not show any of its widgets."""
    # a widget does not know its boxes, and ipywidgets has no public list of those that are open
    for box in list(_open_widgets.values()):
        if isinstance(box, ipywidgets.Box) and any(child.comm is None for child in box.children):
            box.children = tuple(child for child in box.children if child.comm is not None)


def _let_answers_in(comm: object) -> None:
    """Keep ipykernel 7.4 from holding acks and events back until the end of the cell.

    JupyterLab delivers them on a subshell, ipykernel sends them on to the shell that the comm last wrote from.
    """
    if hasattr(comm, "_reply_subshell_for"):
        cast(Any, comm)._reply_subshell_for = lambda _data, asked_for: asked_for


class Publisher:
    """Sends a figure's newest state when it has changed, at a bounded rate and a bounded cost.

    A daemon thread asks; `produce` runs on the thread that changes the state where that can be visited, else on the
    daemon (or on that of a flush), never on two at once, and must hold the engine's lock while it reads arrays. It
    is also asked after an event came in, so it is the place to `figure.drain()`. What it raises is shown under the
    figure and as a warning. After each cell it is asked at once.

    >>> from bokeh.plotting import figure
    >>> plot = figure(title="op 0")
    >>> _ = plot.line([0], [0])
    >>> live = LiveFigure(plot)
    >>> publisher = Publisher(live, lambda: Frame({}, {plot.title: {"text": "op 1"}}), version=lambda: 1)
    >>> publisher.flush()
    >>> live.close()

    Args:
        figure: where frames go, and who keeps the publisher; the thread ends when it is closed or garbage.
        produce: makes the frame of the newest state, or None if there is nothing to send.
        version: any value that changes when `produce` would make something new; must be cheap.
        interval: mean time between two frames in seconds; less only behind one that came late.
        visit: has a function called soon on the thread that changes the state, if one does: a frame made there does
            not take turns with it for the GIL.
        clock: the time.
        start: start the thread; without it nothing happens but in poll and flush.
    """

    def __init__(
        self,
        figure: LiveFigure,
        produce: Callable[[], Frame | None],
        *,
        version: Callable[[], object],
        interval: float = 1 / 10.3,
        visit: Callable[[Callable[[], None]], None] | None = None,
        clock: Clock | None = None,
        start: bool = True,
    ) -> None:
        self._figure = weakref.ref(figure)
        self._produce = produce
        self._version = version
        self._interval = interval
        self._visit = visit
        self._is_called = False  # for a frame that is due
        self._clock = clock or Clock()
        self._building = threading.Lock()
        self._wake = threading.Event()
        self._closed = False
        self._seen: tuple[object, int] | None = None  # the version of the last frame; None: no frame yet
        self._planned_at = 0.0  # at a steady rate
        self._due_at = 0.0
        self._sent_at = 0.0
        self._in_flight: deque[tuple[int, float]] = deque(maxlen=MAX_WAITING_EVENTS)  # frame, time it was sent at
        self._acks_come = False
        self._error: Exception | None = None
        figure.attach(self)
        if start:
            args = (weakref.ref(self), self._wake)
            threading.Thread(target=_tick, args=args, name=f"publisher of {figure!r}", daemon=True).start()

    @property
    def error(self) -> Exception | None:
        """What produce raised when it was last asked."""
        return self._error

    def flush(self) -> None:
        """Send the newest state now, whatever the throttle says; from any thread.

        While another thread is building a frame, that thread sends one more as soon as it is done.
        """
        figure = self._figure()
        if figure is not None and not self._stopped(figure):
            self._due_at = 0.0
            self._acks_come = False
            self._send_if_changed(figure)
            self._wake.set()

    def close(self) -> None:
        """End the thread; the figure stays."""
        self._closed = True
        self._wake.set()

    def poll(self) -> float | None:
        """Send a frame if one is due; returns seconds until the next call, None once figure or publisher are closed."""
        figure = self._figure()
        if figure is None or self._stopped(figure):
            return None
        now = self._clock.now()
        if now < self._due_at or self._must_wait_for_acks(figure, now):
            return self._rest()
        if self._visit is not None and not self._is_called and self._has_moved():
            self._is_called = True
            self._visit(self._come_by)
            return VISIT_SECONDS
        self._is_called = False  # nobody came by
        self._send_if_changed(figure)
        return self._rest()

    def _rest(self) -> float:
        """Seconds until the next frame is due; half an interval where none may be sent yet."""
        seconds = self._due_at - self._clock.now()
        return seconds if seconds > 0 else self._interval / 2

    def _has_moved(self) -> bool:
        return self._seen is not None and self._version() != self._seen[0]

    def _come_by(self) -> None:
        """Make the frame that is due, on the thread that changes the state."""
        figure = self._figure()
        if self._is_called and figure is not None and not self._stopped(figure):
            self._is_called = False
            self._send_if_changed(figure)

    def _stopped(self, figure: LiveFigure) -> bool:
        return self._closed or figure.closed

    def _must_wait_for_acks(self, figure: LiveFigure, now: float) -> bool:
        """Whether the browser lags; acks that do not come at all (a kernel busy with a cell) are not waited for."""
        while self._in_flight and self._in_flight[0][0] <= figure.acked:
            self._in_flight.popleft()
            self._acks_come = True
        if now - self._sent_at >= ACK_TIMEOUT_SECONDS:
            self._acks_come = False
        return self._acks_come and bool(self._in_flight) and now - self._in_flight[0][1] >= MAX_LAG_SECONDS

    def _send_if_changed(self, figure: LiveFigure) -> None:
        if not self._building.acquire(blocking=False):
            return  # waiting could deadlock: the other thread may want a lock that this one holds
        try:
            seen = (self._version(), figure.nr_events)
            if seen != self._seen:
                self._seen = seen
                self._send(figure)
            else:  # no frame is late that nobody had to make
                self._due_at = self._planned_at = self._clock.now() + self._interval / 2
        except Exception as error:
            self._fail(figure, error)
        finally:
            self._building.release()

    def _send(self, figure: LiveFigure) -> None:
        start, cpu_start = self._clock.now(), self._clock.cpu()
        frame = self._produce()
        if frame is not None:
            self._in_flight.append((figure.frame(frame.sources, frame.props), start))
            self._sent_at = start
        # Processor time: waiting for the GIL or a lock costs the running cell nothing.
        cost = self._clock.cpu() - cpu_start
        # A frame that came late is made up for by the next ones, as far as their cost allows.
        planned_at = min(max(self._planned_at, start - MOST_OWED * self._interval), start)
        self._planned_at = planned_at + self._interval
        self._due_at = max(self._planned_at, start + min(COST_FACTOR * cost, MAX_DELAY_SECONDS))
        if self._error is not None:
            self._error = None
            figure.show_error("")

    def _fail(self, figure: LiveFigure, error: Exception) -> None:
        """Keep and show an error; the same one is not warned of again at every frame."""
        known = repr(error) == repr(self._error)
        self._error = error
        self._due_at = self._clock.now() + self._interval
        if not known:
            figure.show_error("".join(traceback.format_exception(error)))
            warn_anyway(f"{figure!r} shows an old state: {type(error).__name__}: {error}")


def warn_anyway(text: str) -> None:
    """Warn from where nobody catches what is raised."""
    with contextlib.suppress(RuntimeWarning):  # where warnings are errors, a thread has nobody to raise to
        warnings.warn(text, RuntimeWarning, stacklevel=2)


def _tick(publisher: "weakref.ref[Publisher]", wake: threading.Event) -> None:
    """Poll as long as there is a publisher; holds it only for the moment of a poll."""
    while True:
        alive = publisher()
        delay = alive.poll() if alive is not None else None
        del alive
        if delay is None:
            return
        wake.wait(delay)
        wake.clear()
