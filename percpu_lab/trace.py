"""The trace of an engine: which events it records, what it recorded, and who is told.

engine ──▶ mask ──▶ filter ──▶ ring of `size` events ──▶ columns(), text(), tail(), frame(), iteration
           enable   set_filter     oldest overwritten  └▶ hooks, a batch at a time
           disable                 first: `overrun`
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Iterator
from html import escape
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from .core import layout as L
from .engine import Engine
from .errors import HookError, RequestError
from .events import EventBatch
from .geometry.info import shown
from .interrupts import deferred_interrupt
from .rich import Rich
from .tracefilter import EventFilter
from .tracepoints import TRACEPOINTS, Event, Style, tracepoint
from .traces.recorded import RingCounts

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Hook", "Subscription", "Trace"]

Hook = Callable[[EventBatch], object]
_ROWS_SHOWN = 20


class Subscription(Rich):
    """A hook that is told of new events until `unsubscribe()`: what Trace.subscribe gives."""

    __slots__ = ("_trace", "batch", "hook", "next_seq")
    _shown = ("hook", "batch", "next_seq")

    def __init__(self, trace: Trace, hook: Hook, batch: int, next_seq: int) -> None:
        self._trace = trace
        self.hook = hook
        self.batch = batch
        self.next_seq = next_seq

    def __repr__(self) -> str:
        return f"<Subscription of {_name(self.hook)}, {self.batch:,} events at a time>"

    def unsubscribe(self) -> None:
        """Tell the hook nothing any more; does nothing the second time."""
        self._trace._drop(self)


class Trace:
    """The face of an engine's ring of events.

    >>> from percpu_lab.geometry import Geometry
    >>> engine = Engine(Geometry.simple(), jit="off")
    >>> trace = Trace(engine)
    >>> ptr = engine.alloc(60, 8, False, False)
    >>> print(trace.tail(1), end="")
          percpu_lab-1     [000] ....            0: percpu_alloc_percpu: reserved=0 is_atomic=0 size=60 align=8 ...
    >>> trace
    <Trace: 2 events in a ring of 65,536; 5 of 5 tracepoints on>

    Args:
        engine: whose events these are.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._filters: dict[str, EventFilter] = {}
        self._subscriptions: tuple[Subscription, ...] = ()
        self._gate = threading.Lock()
        self._deliverer: object = None  # who delivers now

    # --- what is recorded -----------------------------------------------------------

    @property
    def enabled(self) -> tuple[str, ...]:
        """The names of the tracepoints that are on."""
        mask = self._engine.scalar(L.EVENT_MASK)
        return tuple(point.name for point in TRACEPOINTS if mask >> point.event & 1)

    def enable(self, *names: str) -> None:
        """Record these events from now on; without a name all.

        Raises:
            RequestError: no such tracepoint; nothing was changed.
        """
        with self._engine.lock:
            self._engine.g[L.EVENT_MASK] |= _mask(names)

    def disable(self, *names: str) -> None:
        """Record these events no more; without a name none.

        Raises:
            RequestError: no such tracepoint; nothing was changed.
        """
        with self._engine.lock:
            self._engine.g[L.EVENT_MASK] &= ~_mask(names)

    @property
    def filters(self) -> dict[str, str]:
        """The filter texts by tracepoint, as a copy."""
        return {name: found.text for name, found in self._filters.items()}

    def set_filter(self, name: str, text: str | None) -> None:
        """Record only those events of a tracepoint that pass a filter (tracefs events/percpu/NAME/filter).

        >>> from percpu_lab.geometry import Geometry
        >>> trace = Trace(Engine(Geometry.simple(), jit="off"))
        >>> trace.set_filter("percpu_alloc_percpu", "size >= 1024 || is_atomic == 1")

        Args:
            name: the tracepoint.
            text: the filter; `0`, as in tracefs, nothing or None takes it away.

        Raises:
            RequestError: no such tracepoint.
            FilterError: shows the column; the filter before stays.
        """
        point = tracepoint(name)
        wanted = None
        if text is not None and str(text).strip() not in ("", "0"):
            wanted = EventFilter.from_text(name, text, later=bool(self._engine.model.kernel.alloc_fields))
        words = wanted.words() if wanted else []
        at = L.FILTER_TABLE + point.event * L.FILTER_WORDS
        with self._engine.lock, deferred_interrupt():
            self._engine.g[at : at + 1 + len(words)] = [len(words), *words]
            others = {key: kept for key, kept in self._filters.items() if key != point.name}
            self._filters = others | ({point.name: wanted} if wanted else {})

    # --- what was recorded -------------------------------------------------------------

    @property
    def size(self) -> int:
        """Events the ring can hold."""
        return self._engine.scalar(L.RING_CAPACITY)

    @property
    def entries_written(self) -> int:
        """Events written since the last clear, overwritten ones too."""
        return self._engine.scalar(L.RING_HEAD) - self._engine.scalar(L.RING_START)

    @property
    def overrun(self) -> int:
        """Events since the last clear that newer ones have overwritten."""
        return max(self.entries_written - self.size, 0)

    @property
    def filtered(self) -> int:
        """Events that a filter kept out, ever."""
        return self._engine.scalar(L.NR_FILTERED)

    def clear(self) -> None:
        """Forget all events; hooks get theirs first."""
        try:
            self.flush()
        finally:
            with self._engine.lock:
                self._engine.g[L.RING_START] = self._engine.g[L.RING_HEAD]

    def __len__(self) -> int:
        return min(self.entries_written, self.size)

    def __iter__(self) -> Iterator[Event]:
        return iter(self.columns())

    def events(self, since: int = 0) -> EventBatch:
        """Give the events numbered `since` and up that the ring still holds, as columns that stay as they are.

        Raises:
            RequestError: not a whole number.
        """
        return self._engine.events(_whole(since, "events(since)"))

    def columns(self) -> EventBatch:
        """Give all events in the ring as columns; how many went before is in `lost`."""
        return self.events()

    def frame(self) -> pd.DataFrame:
        """Give all events in the ring as a pandas data frame.

        Raises:
            LabError: pandas is not installed.
        """
        return self.columns().frame()

    def text(self, *, header: bool = True, style: Style = "ftrace") -> str:
        """Write the ring as a kernel's trace file, with op numbers as time (tracefs file trace).

        Args:
            header: begin with the counts of the ring and the heads of the columns; in style `ftrace` only.
            style: see EventBatch.text.
        """
        with self._engine.lock:
            batch, written = self.columns(), self.entries_written
        counts = RingCounts(len(batch), written, self._engine.scalar(L.NR_CPUS))
        return (counts.header() if header and style == "ftrace" else "") + batch.text(style)

    def tail(self, n: int = _ROWS_SHOWN) -> str:
        """Write the last n events as lines of a trace file.

        Raises:
            RequestError: not a whole number, or below 0.
        """
        return self._last(_whole(n, "tail(n)")).text()

    def save(self, path: str | PathLike[str], *, style: Style = "ftrace") -> Path:
        """Write the ring to a file, and give its path.

        Args:
            path: is overwritten.
            style: `ftrace`, with header, or `golden` or `plain`.

        Raises:
            OSError: the file cannot be written.
        """
        target = Path(path)
        target.write_text(self.text(style=style), encoding="utf-8", newline="\n")
        return target

    def _last(self, n: int) -> EventBatch:
        if n < 0:
            raise RequestError(f"there are no {n} events", where="tail(n)", remedy="give 0 or more")
        with self._engine.lock:
            return self.events(self._engine.scalar(L.RING_HEAD) - n)

    # --- who is told ----------------------------------------------------------------------

    @property
    def has_hooks(self) -> bool:
        """Tell whether anybody waits for events; if not, nobody need call deliver()."""
        return bool(self._subscriptions)

    def subscribe(self, hook: Hook, *, batch: int = 1) -> Subscription:
        """Call a hook with the new events each time enough have gathered.

        It is called behind the operation that wrote them, on the same thread, with an EventBatch whose `lost` says how
        many were overwritten before it could get them. A hook may allocate and free: what that writes comes next time.
        A hook that raises is unsubscribed.

        >>> from percpu_lab.geometry import Geometry
        >>> engine = Engine(Geometry.simple(), jit="off")
        >>> trace, seen = Trace(engine), []
        >>> subscription = trace.subscribe(seen.extend)
        >>> ptr = engine.alloc(60, 8, False, False)
        >>> trace.deliver()
        >>> [event.name for event in seen]
        ['percpu_alloc_percpu']

        Args:
            hook: takes an EventBatch.
            batch: events to wait for; fewer come only with flush().

        Raises:
            RequestError: the hook cannot be called, or the batch is no positive number.
        """
        if not callable(hook):
            raise RequestError(f"{hook!r:.80} cannot be called", where="hook", remedy="give a function of a batch")
        if type(batch) is not int or batch < 1:
            raise RequestError(f"{batch!r:.80} is no number of events", where="batch", remedy="give 1 or more")
        subscription = Subscription(self, hook, batch, self._engine.scalar(L.RING_HEAD))
        self._subscriptions += (subscription,)
        return subscription

    def deliver(self) -> None:
        """Give the hooks their batches, where these are full.

        Raises:
            HookError: a hook raised; the others got theirs.
        """
        self._deliver(flush=False)

    def flush(self) -> None:
        """Give the hooks all new events, however few.

        Raises:
            HookError: a hook raised; the others got theirs.
        """
        self._deliver(flush=True)

    def _deliver(self, flush: bool) -> None:
        # Called by a hook, or on another thread while hooks run: those events come with the next delivery. To wait
        # here could lock up two threads, one in a hook that allocates, one that allocates and delivers.
        me, errors = object(), list[HookError]()
        try:
            with self._gate:
                self._deliverer = self._deliverer or me
            if self._deliverer is not me:
                return
            batches: dict[int, EventBatch] = {}  # hooks that stand at one place share a batch
            for subscription in self._subscriptions:
                if subscription not in self._subscriptions:
                    continue  # a hook before it has ended it
                nr_new = self._engine.scalar(L.RING_HEAD) - subscription.next_seq
                if nr_new >= (1 if flush else subscription.batch):
                    since = subscription.next_seq
                    if since not in batches:
                        batches[since] = self.events(since)
                    errors += self._call(subscription, batches[since])
        finally:
            # Python handles an interrupt behind a call: there is none here, so nobody is left to deliver for ever.
            if self._deliverer is me:
                self._deliverer = None
        if errors:
            for other in errors[1:]:
                errors[0].add_note(str(other))
            raise errors[0]

    def _call(self, subscription: Subscription, batch: EventBatch) -> list[HookError]:
        subscription.next_seq = batch.first_seq + len(batch)
        try:
            subscription.hook(batch)
        except Exception as cause:
            subscription.unsubscribe()
            what = f"{_name(subscription.hook)} raised {type(cause).__name__}: {_said(cause)}"
            error = HookError(what, where="trace hook", remedy="the hook was unsubscribed; mend it and subscribe again")
            error.__cause__ = cause
            return [error]
        return []

    def _drop(self, subscription: Subscription) -> None:
        self._subscriptions = tuple(s for s in self._subscriptions if s is not subscription)

    # --- in a notebook --------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"<Trace: {self._summary()}>"

    def _summary(self) -> str:
        overrun = f", {self.overrun:,} overwritten" if self.overrun else ""
        filters = f", {len(self._filters)} with a filter" if self._filters else ""
        on = f"{len(self.enabled)} of {len(TRACEPOINTS)} tracepoints on{filters}"
        return f"{len(self):,} event{'s' * (len(self) != 1)} in a ring of {self.size:,}{overrun}; {on}"

    def _repr_html_(self) -> str:
        with self._engine.lock:
            summary, last = self._summary(), self._last(_ROWS_SHOWN)
        rows = "".join(_html_row(event) for event in last)
        head = "<tr><th>op</th><th style='text-align:left'>event</th><th style='text-align:left'>fields</th></tr>"
        filters = "".join(f"<br>filter of {name}: <code>{escape(text)}</code>" for name, text in self.filters.items())
        return f"<div><b>Trace</b>: {escape(summary)}{filters}<table>{head}{rows}</table></div>"


def _html_row(event: Event) -> str:
    name, _, fields = str(event).partition(": ")
    cells = "".join(f"<td style='text-align:left'><code>{escape(text)}</code></td>" for text in (name, fields))
    return f"<tr><td>{event.op}</td>{cells}</tr>"


def _whole(value: object, where: str) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise RequestError(f"{shown(value)} is no whole number", where=where, remedy="give an int")
    return operator.index(value)


def _mask(names: tuple[str, ...]) -> int:
    points = [tracepoint(name) for name in names] or TRACEPOINTS
    return sum({1 << point.event for point in points})


def _name(hook: Hook) -> str:
    return str(getattr(hook, "__qualname__", type(hook).__name__))


def _said(cause: Exception) -> str:
    """The text of an error, whose own code may fail, too."""
    try:
        return str(cause)
    except Exception:
        return "(its text cannot be made)"
