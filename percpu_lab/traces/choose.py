"""Choosing events while a trace is read: by name, by a filter of tracefs, or by a function."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from ..errors import FilterError, RequestError
from ..events import Bools
from ..tracefilter import EventFilter
from ..tracepoints import TRACEPOINTS, Event, Tracepoint, tracepoint
from .recorded import RecordedTrace

__all__ = ["Choice", "Chooser", "chooser"]

Choice = str | Iterable[str] | EventFilter | Callable[[Event], object]
Chooser = Callable[[RecordedTrace], Bools]


def chooser(events: Choice) -> Chooser:
    """Make the function that tells which events of a block are chosen.

    Args:
        events: names of events (one, some with commas, or a list); or a filter in the syntax of tracefs: as if written
            to events/percpu/filter, so an event that lacks one of its fields passes; or a filter of one tracepoint;
            or a function of a typed event.

    Raises:
        RequestError: no such event.
        FilterError: the filter cannot be read; shows the column.
    """
    if isinstance(events, EventFilter):
        return events.mask
    if callable(events):
        chosen = events
        return lambda trace: np.fromiter((bool(chosen(event)) for event in trace), np.bool_, len(trace))
    if isinstance(events, str) and not all(_is_name(word) for word in events.split(",")):
        return _filter(events)
    names = events.split(",") if isinstance(events, str) else list(events)
    codes = [_tracepoint(name).event for name in names]
    return lambda trace: np.isin(trace.event, codes)


def _is_name(word: str) -> bool:
    return word.strip().replace(":", "_").isidentifier()


def _tracepoint(name: object) -> Tracepoint:
    if not isinstance(name, str):
        raise RequestError(f"no name of an event: {name!r}", where="events", remedy="name events, or give a filter")
    return tracepoint(name.strip())


def _filter(text: str) -> Chooser:
    """Apply a filter to the tracepoints that have its fields; events of the others pass."""
    filters = []
    problem: FilterError | None = None
    for point in TRACEPOINTS:
        try:
            filters.append(EventFilter.from_text(point.name, text, later=True))
        except FilterError as error:
            problem = problem or error  # of the allocation, which has most fields
    if not filters:
        assert problem is not None, "it fits none"
        raise problem

    def choose(trace: RecordedTrace) -> Bools:
        mask = ~np.isin(trace.event, [one.point.event for one in filters])
        for one in filters:
            mask |= one.mask(trace)
        return mask

    return choose
