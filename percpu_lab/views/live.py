"""The only way from Python to the browser and back: one message a frame, newest wins, user events queued.

    view.produce() -> Frame -> Publisher (throttle) -> LiveFigure.frame -> comm -> live.js -> BokehJS
    FigureEvent <- LiveFigure.drain() <- queue <- comm <- live.js <- mouse
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import anywidget
import numpy as np
from bokeh.model import Model
from bokeh.models import ColumnDataSource, LayoutDOM

from ..session import Clock

Column = np.ndarray[Any, Any] | Sequence[str] | Sequence[float] | Sequence[np.ndarray[Any, Any]]
Json = None | bool | int | float | str | Sequence[Any] | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Frame:
    """All that one update of a figure changes in the browser.

    Args:
        sources: columns per source, all of a source's columns; a 2-D array (or a list of them) is a column of images;
            integers of 8 bytes travel as 4 bytes where they fit, else as doubles. Arrays must not be changed afterwards.
        props: attributes per model (start and end of a range, text of a title, location of a span), JSON values.
    """

    sources: Mapping[ColumnDataSource, Mapping[str, Column]]
    props: Mapping[Model, Mapping[str, Json]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FigureEvent:
    """What a user did in the browser.

    Args:
        kind: what was done.
        model: the source (select, hover, tap that hit), the figure (tap beside everything) or the range.
        ids: values of the source's column "id" in the rows meant, empty without such a column.
        indices: the rows meant, in the columns the browser showed at that moment.
        x, y: place of a tap in data units.
        start, end: new bounds of a range in data units.
    """

    kind: Literal["select", "tap", "hover", "range"]
    model: Model
    ids: tuple[int | float | str, ...] = ()
    indices: tuple[int, ...] = ()
    x: float = 0.0
    y: float = 0.0
    start: float = 0.0
    end: float = 0.0


class LiveFigure(anywidget.AnyWidget):
    """A Bokeh figure or layout as a notebook widget that is painted while a cell runs.

    Closed by itself when every cell that made or showed it has been run again or deleted.

    Args:
        root: the figure or layout; use Range1d, give sources an "id" column for selections that survive a frame.
        note: plain text shown where widgets cannot be (a saved notebook without kernel).
    """

    def __init__(self, root: LayoutDOM, *, note: str = "") -> None:
        super().__init__()

    def frame(
        self,
        sources: Mapping[ColumnDataSource, Mapping[str, Column]],
        props: Mapping[Model, Mapping[str, Json]] | None = None,
        seq: int | None = None,
    ) -> int:
        """Send one frame from any thread; returns its sequence number."""
        raise NotImplementedError

    def show_error(self, text: str) -> None:
        """Show a text under the figure in every view; an empty text takes it away."""
        raise NotImplementedError

    def drain(self) -> list[FigureEvent]:
        """Take the events that came from the browser since the last call, oldest first; any thread."""
        raise NotImplementedError

    @property
    def nr_events(self) -> int:
        """Count all events that ever came from the browser."""
        raise NotImplementedError

    @property
    def acked(self) -> int:
        """Sequence number of the newest frame that a browser has painted, -1 before the first."""
        raise NotImplementedError

    @property
    def closed(self) -> bool:
        """Whether the figure has been closed."""
        raise NotImplementedError


class Publisher:
    """Sends a figure's newest state when it has changed, at a bounded rate and a bounded cost.

    A daemon thread asks; `produce` therefore runs on that thread (or on the caller's of flush), never on two at once,
    and must hold the engine's lock while it reads arrays. It is also asked after an event came in, so it is
    the place to `figure.drain()`.

    Args:
        figure: where frames go; the thread ends when it is closed.
        produce: makes the frame of the newest state, or None if there is nothing to send.
        version: any value that changes when `produce` would make something new; must be cheap.
        interval: shortest time between two frames in seconds.
        clock: the time.
    """

    def __init__(
        self,
        figure: LiveFigure,
        produce: Callable[[], Frame | None],
        *,
        version: Callable[[], object],
        interval: float = 1 / 15,
        clock: Clock | None = None,
    ) -> None:
        raise NotImplementedError

    def flush(self) -> None:
        """Send the newest state now, whatever the throttle says; any thread, never blocks on a running produce."""
        raise NotImplementedError

    def close(self) -> None:
        """End the thread; the figure stays."""
        raise NotImplementedError


class Pump:
    """Calls a function on the kernel's main loop, that is between two cells: the safe point of a Session.

    `session.on_post(Pump(session.pump).wake)`

    Args:
        call: returns the seconds after which it wants to be called again, None to wait for `wake`.
    """

    def __init__(self, call: Callable[[], float | None]) -> None:
        raise NotImplementedError

    def wake(self) -> None:
        """Have the function called soon; any thread."""
        raise NotImplementedError
