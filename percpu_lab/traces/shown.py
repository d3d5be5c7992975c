"""What a notebook shows of a recording: which kernel, on which machine, how much of what, and what to beware of.

kernel          6.1.192-pcpustats, 64-bit, bytes_alloc with memcg accounting
geometry        s181032 r8192 d31960 u524288: unit 512 KiB = ...
CPUs            3
percpu_...      events by name, zeros left out
time, lost      from .. to, and whether anything is missing
readings, oddities
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from ..plain import count, format_seconds
from ..tracepoints import TRACEPOINTS
from ..units import format_bytes

if TYPE_CHECKING:
    from .proc import ProcReading
    from .recorded import RecordedTrace
    from .recording import Recording, StatsReading

__all__ = ["proc_rows", "recording_rows", "stats_rows", "when_read"]

_NOTES = 5  # oddities written out


def recording_rows(recording: Recording) -> Iterator[tuple[str, object]]:
    """Give the rows of the table: name and value."""
    yield "kernel", _kernel(recording)
    yield from _machine(recording)
    yield from _events(recording.trace)
    if recording.early is not None:
        yield "calls before the trace", len(recording.early)
    yield from _readings(recording)
    for assumption in recording.assumptions:
        yield "assumed", assumption
    for remark in recording.oddities[:_NOTES]:
        yield "odd", str(remark)
    if len(recording.oddities) > _NOTES:
        yield "odd", f"and {len(recording.oddities) - _NOTES:,} more in oddities"


def _events(trace: RecordedTrace) -> Iterator[tuple[str, object]]:
    """Count the events by name, and say when they happened and what is missing."""
    codes = np.bincount(trace.event, minlength=max(point.event for point in TRACEPOINTS) + 1)
    yield from ((point.name, int(codes[point.event])) for point in TRACEPOINTS if codes[point.event])
    if not len(trace):
        yield "events", 0
    times = trace.time[trace.time >= 0]
    if len(times) and trace.time_digits:
        first, last = (float(time) / 10**trace.time_digits for time in (times[0], times[-1]))
        yield "time", f"{first:,.6f} s to {last:,.6f} s: {format_seconds(last - first)}"
    yield "lost", _lost(trace)
    if trace.markers:
        yield "markers", len(trace.markers)


def stats_rows(reading: StatsReading) -> Iterator[tuple[str, object]]:
    """Give the rows of a reading of percpu_stats: when it was read, and its counters."""
    yield "file", reading.file
    yield "read", when_read(reading.rows)
    counters = reading.stats.global_stats
    yield from ((one.name, getattr(counters, one.name)) for one in fields(counters))
    yield "free, all chunks", f"{format_bytes(sum(chunk.free_bytes for chunk in reading.stats.chunks))} per CPU"


def proc_rows(reading: ProcReading) -> Iterator[tuple[str, object]]:
    """Give the rows of a reading of meminfo and vmallocinfo: when it was read, and what it says."""
    yield "file", reading.file
    yield "read", when_read(reading.rows)
    if reading.percpu_kib is not None:
        yield "Percpu of meminfo", f"{reading.percpu_kib:,} KiB"
    chunks = [area.size_bytes for area in reading.vmalloc_areas if area.is_chunk]
    yield "areas of chunks", f"{len(chunks):,}: {format_bytes(sum(chunks))}" if chunks else "none"
    others = Counter(area.caller.partition("+")[0] for area in reading.vmalloc_areas if not area.is_chunk)
    yield from ((f"areas of {caller}", nr) for caller, nr in others.items())


def when_read(rows: tuple[int, int] | None) -> str:
    """Say between which events a file was read."""
    if rows is None:
        return "at an unknown moment: no markers tell it"
    first, last = rows
    return f"after {count(first, 'event')}" if first == last else f"while events {first:,} to {last:,} came"


def _kernel(recording: Recording) -> str:
    parts = [recording.release or "unknown"]
    parts += [f"{8 * recording.pointer_bytes}-bit"] if recording.pointer_bytes else []
    with_memcg = {True: "bytes_alloc counts memcg's pointers, too", False: "bytes_alloc counts no memcg"}
    parts += [with_memcg[recording.accounts_memcg]] if recording.accounts_memcg is not None else []
    return ", ".join(parts)


def _machine(recording: Recording) -> Iterator[tuple[str, object]]:
    if recording.geometry is None:
        yield "geometry", "unknown: no kernel log or statistics tell it"
        return
    info = recording.geometry.info
    sizes = f"s{info.static_size} r{info.reserved_size} d{info.dyn_size} u{info.unit_size}"
    yield "geometry", f"{sizes} alloc={info.alloc_size // info.atom_size}*{info.atom_size}"
    yield "CPUs", info.nr_cpus


def _lost(trace: RecordedTrace) -> object:
    if not trace.losses and not trace.lost:
        return "no event, as far as the recording says"
    unknown = sum(loss.nr_events is None for loss in trace.losses)
    told = count(int(trace.lost), "event")
    return told + (f", and an unknown number at {count(unknown, 'place')}" if unknown else "")


def _readings(recording: Recording) -> Iterator[tuple[str, object]]:
    kinds = (("percpu_stats", recording.stats), ("meminfo, vmallocinfo", recording.proc))
    yield from ((name, _series(readings)) for name, readings in kinds if readings)
    if recording.dmesg is not None:
        failures = count(len(recording.dmesg.failures), "failed request")
        yield "kernel log", f"{count(len(recording.dmesg.lines), 'line')}, {failures}"


def _series(readings: Sequence[Any]) -> str:
    names = f"{readings[0].file} to {readings[-1].file}" if len(readings) > 1 else readings[0].file
    return f"{count(len(readings), 'reading')}: {names}"
