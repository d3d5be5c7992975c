"""Traces of real kernels: text in any layout, packed or not, from a file or a pipe, read block by block.

Source ──1 MiB of lines──▶ LineReader ──▶ rows ──▶ arrays ──choose──▶ kept arrays ──▶ link_areas ──▶ RecordedTrace
                                      └──▶ markers, losses, oddities
"""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..core import layout as L
from ..errors import RequestError, TraceFormatError
from ..events import Int64s
from .choose import Choice, Chooser, chooser
from .kept import KeptText
from .layouts import GOLDEN, LAYOUTS
from .lines import MAX_ODDITIES, LineReader
from .link import link_areas
from .one_recording import OneRecording, other_boots
from .recorded import UNKNOWN_BIRTH, Loss, Marker, RecordedTrace
from .rows import Interned, Pointers, Rows
from .source import Progress, Source

__all__ = ["MAX_EVENTS", "read_golden_trace", "read_trace", "read_trace_text"]

MAX_EVENTS = 5_000_000  # 1 GB of columns; an answer over all of them takes 3
_SIMULATED = "percpu_lab"  # the task in the texts of this program: their time is the number of the op


def read_trace(
    source: str | Path | IO[Any],
    *,
    events: Choice | None = None,
    progress: Progress | None = None,
    limit: int = MAX_EVENTS,
) -> RecordedTrace:
    """Read a recorded trace in any layout: ftrace with any options, trace-cmd, perf script, a mail that quotes them.

    What is not understood is skipped and stands in `oddities` with its line.

    >>> import io
    >>> trace = read_trace(io.StringIO(
    ...     "  ip-136   [003] .....    86.889221: percpu_create_chunk: base_addr=00000000118f8f08\\n"
    ...     "CPU:2 [LOST 147 EVENTS]\\n"))
    >>> trace.task.tolist(), trace.cpu.tolist(), trace.time.tolist(), trace.time_digits, trace.lost
    (['ip'], [3], [86889221], 6, 147)

    Args:
        source: path of a text, perhaps with gzip, or of a data file of trace-cmd or perf (if that program is
            installed); "-" for the standard input; or a file open for reading.
        events: what to keep, chosen while reading: names of events, a filter as for events/percpu/filter (events that
            lack one of its fields pass), or a function of a typed event. Chunks and frees are then linked among those.
        progress: called with the bytes read and the bytes there are (None of a pipe).
        limit: of events that are kept; reading stops there with an oddity.

    Raises:
        TraceFormatError: cannot be read, is no text, or holds no percpu event; names file and line.
        RequestError, FilterError: `events` is neither, or `limit` is below 1.
    """
    if limit < 1:
        raise RequestError(f"a limit of {limit:,} events", where="limit", remedy="give 1 or more")
    return _Reading(Source(source, progress), chooser(events) if events is not None else None, limit).trace()


def read_trace_text(text: str, *, where: str = "trace", events: Choice | None = None) -> RecordedTrace:
    """Read the text of a trace, as read_trace does.

    Args:
        text: the whole text, or any of its lines.
        where: its name in error messages.
        events: as for read_trace.

    Raises:
        TraceFormatError: holds no percpu event.
    """
    source = Source(io.StringIO(text))
    source.name = where
    return _Reading(source, chooser(events) if events is not None else None, MAX_EVENTS).trace()


def read_golden_trace(text: str, *, where: str = "trace") -> RecordedTrace:
    """Read the trace of a recorded case: `INDEX<TAB>EVENT: FIELDS`, one event a line, nothing else.

    >>> trace = read_golden_trace("3\\tpercpu_alloc_percpu_fail: reserved=0 is_atomic=1 size=100 align=8\\n")
    >>> trace.op.tolist(), trace.is_atomic.tolist()
    ([3], [True])

    Args:
        text: the whole text.
        where: its name in error messages.

    Raises:
        TraceFormatError: a line is not one of these; names it.
    """
    source = Source(io.StringIO(text))
    source.name = where
    return _Reading(source, None, MAX_EVENTS, is_golden=True).trace()


class _Reading:
    """One walk through a source."""

    def __init__(self, source: Source, choose: Chooser | None, limit: int, *, is_golden: bool = False) -> None:
        self._source = source
        self._choose = choose
        self._limit = limit
        self._is_golden = is_golden
        self._reader = LineReader((GOLDEN,) if is_golden else LAYOUTS)
        self._blocks: list[dict[str, np.ndarray]] = []
        self._extra: dict[int, tuple[tuple[str, str], ...]] = {}
        self._markers: list[Marker] = []
        self._losses: list[Loss] = []
        self._kept = KeptText() if choose is None else None
        self._nr_rows = 0
        self._nr_events = 0
        self._nr_lines = 0
        self._one = OneRecording()
        self._digits: int | None = None
        self._is_stopped = False
        self._is_mixed = False  # stopped because another recording begins

    def trace(self) -> RecordedTrace:
        for data in self._source:
            if self._is_stopped:
                self._keep_rest(data)
            else:
                self._block(data)
            if self._is_stopped and not (self._is_mixed and self._kept is not None):
                break
        if not self._is_stopped:
            self._end()
        self._check_has_events()
        return self._made()

    # --- blocks ---------------------------------------------------------------------

    def _block(self, data: bytes) -> None:
        lines = data.decode("utf-8", "backslashreplace").split("\n")
        if not self._nr_lines:
            lines[0] = lines[0].removeprefix("\ufeff")  # some editors write it before a text
        if not lines[-1]:
            lines.pop()
        reader, first = self._reader, self._nr_lines + 1
        reader.read_block(lines, first)
        self._nr_lines += len(lines)
        self._accept(reader.rows, reader.markers, reader.losses)
        self._check_golden()
        self._keep_text(data, first)
        is_noted = reader.waits or any(oddity.line == self._nr_lines for oddity in reader.log.oddities[-1:])
        if not (data.endswith(b"\n") or self._is_golden or is_noted):
            reader.log.add(self._nr_lines, "cut", "the last line has no end: it was kept, but may be cut")

    def _end(self) -> None:
        self._reader.finish()
        self._accept(self._reader.rows, [], [])
        self._check_golden()
        self._check_header()
        if self._source.damage:
            what = f"{self._source.damage}; the {self._nr_events:,} events before it were kept; fetch the file anew"
            self._reader.log.add(self._nr_lines + 1, "damaged", what)

    def _accept(self, rows: Rows, markers: list[Marker], losses: list[Loss]) -> None:
        """Take over what a block holds, up to where another recording begins, and of that what was chosen."""
        columns = rows.columns()
        nr_rows = self._same_recording(columns)
        chosen = np.ones(len(rows), np.bool_)
        chosen[nr_rows:] = False
        if self._choose is not None and len(rows):
            chosen &= self._choose(RecordedTrace(columns, extra=rows.extra))
        chosen = self._within_limit(chosen, columns["line"])
        last_line = self._nr_lines
        number = np.concatenate([[0], np.cumsum(chosen)]) + self._nr_rows  # of chosen events before each
        self._markers += [replace(one, row=int(number[one.row])) for one in markers if one.line <= last_line]
        self._losses += [replace(one, row=int(number[one.row])) for one in losses if one.line <= last_line]
        self._extra |= {int(number[row]): extra for row, extra in rows.extra.items() if chosen[row]}
        self._blocks.append({name: column[chosen] for name, column in columns.items()})
        self._nr_events += nr_rows
        self._nr_rows += int(chosen.sum())

    def _within_limit(self, chosen: np.ndarray, line: Int64s) -> np.ndarray:
        over = np.flatnonzero(np.cumsum(chosen) + self._nr_rows > self._limit)
        if len(over):
            last = int(line[over[0]])
            what = (
                f"more than {self._limit:,} events: those before this line were kept; allow more (--limit), or "
                "choose events while reading (read_trace, events=)"
            )
            self._stop(last - 1, "limit", what)
            chosen = chosen.copy()
            chosen[over[0] :] = False
        return chosen

    def _same_recording(self, columns: dict[str, np.ndarray]) -> int:
        """Give the number of rows before another recording begins; stop there."""
        timed = np.flatnonzero(columns["digits"] >= 0)
        time, digits, line = (columns[name][timed] for name in ("time", "digits", "line"))
        reader = self._reader
        end, how = self._one.end(time, digits, line, reader.new_header)
        if len(line) and line[-1] > reader.new_header:
            reader.new_header = 0
        if self._is_golden:
            return len(columns["digits"])
        self._note_steps_back(time[:end], line)
        if not how:
            return len(columns["digits"])
        self._stop(int(line[end]) - 1, "mix", how)
        return int(timed[end])

    def _note_steps_back(self, time: Int64s, line: Int64s) -> None:
        for row in np.flatnonzero(np.diff(time) < 0).tolist():
            text = f"the time steps back by {time[row] - time[row + 1]}: clocks of CPUs differ, or lines were moved"
            self._reader.log.add(int(line[row + 1]), "time", text)

    def _stop(self, last_line: int, kind: str, what: str) -> None:
        self._is_stopped, self._is_mixed = True, kind == "mix"
        self._nr_lines = min(self._nr_lines, last_line)
        self._reader.log.drop_after(last_line)
        self._reader.log.add(last_line + 1, kind, what)

    def _keep_text(self, data: bytes, first_line: int) -> None:
        if self._kept is None:
            return
        if self._is_stopped and not self._is_mixed:
            lines = data.split(b"\n")[: self._nr_lines - first_line + 1]
            data = b"".join(line + b"\n" for line in lines)
        self._keep_rest(data)

    def _keep_rest(self, data: bytes) -> None:
        """Keep text, also that of another recording: text out equals text in."""
        if self._kept is not None and not self._kept.add(data):
            self._kept = None
            what = "the text is too long to be kept: text() writes the events only, and anew"
            self._reader.log.add(self._nr_lines, "text", what)

    def _check_header(self) -> None:
        """Compare the number of entries that the header tells of with what was read: lines may have been cut out."""
        reader, counts = self._reader, self._reader.counts
        nr_missing = 0 if counts is None else counts.in_buffer - self._nr_events - len(self._markers) - reader.nr_other
        if counts is not None and nr_missing > 0 and not reader.nr_payloads_lost:
            what = f"the header tells of {counts.in_buffer:,} entries, of which {nr_missing:,} are not in this text"
            reader.log.add(reader.counts_line, "incomplete", what)

    # --- the whole ------------------------------------------------------------------

    def _check_golden(self) -> None:
        """Of a recorded case each line must be an event."""
        if not self._is_golden:
            return
        reader = self._reader
        remedy = "a line is: INDEX, a tab, EVENT: FIELDS"
        for oddity in reader.log.oddities:
            raise TraceFormatError(oddity.text, where=f"{self._source.name} line {oddity.line}", remedy=remedy)

    def _check_has_events(self) -> None:
        reader = self._reader
        is_empty_ring = reader.counts is not None and not reader.counts.written
        if self._nr_events or self._is_golden or is_empty_ring:
            return
        where = f"{self._source.name} line {max(self._nr_lines, 1)}"
        if self._source.damage:
            raise TraceFormatError(
                f"{self._source.damage}; nothing was kept", where=where, remedy="fetch the file anew"
            )
        if reader.nr_payloads_lost:
            what = f"no percpu event can be read: {reader.nr_payloads_lost:,} lines show numbers in place of the fields"
            remedy = "write 0 to options/raw, options/hex and options/bin, and read trace again"
            raise TraceFormatError(what, where=where, remedy=remedy)
        if reader.is_stats:
            what, remedy = (
                "percpu_stats, not a trace; nothing was kept",
                "read it with the verb stats, or read_stats_texts",
            )
            raise TraceFormatError(what, where=where, remedy=remedy)
        others = f", but {reader.nr_other:,} other ones such as {reader.other[:60]}" if reader.nr_other else ""
        raise TraceFormatError(
            f"no percpu event in {self._nr_lines:,} lines{others}; nothing was kept",
            where=where,
            remedy="record with trace_event=percpu:*, or 1 in events/percpu/enable",
        )

    def _made(self) -> RecordedTrace:
        reader = self._reader
        columns = self._columns()
        widths = reader.bases.widths
        is_wide = bool(np.any(columns["base_addr"] >> np.uint64(32)))
        if len(widths) > 1:
            text = f"addresses of {' and '.join(map(str, sorted(widths)))} digits: two machines, or cut lines"
            reader.log.add(self._nr_lines, "address", text)
        return RecordedTrace(
            columns,
            extra=self._extra,
            time_digits=self._digits,
            counts=reader.counts,
            nr_other=reader.nr_other,
            markers=tuple(self._markers),
            losses=tuple(self._losses),
            oddities=reader.log.result(),
            header=tuple(reader.header),
            layout=" + ".join(reader.layouts),
            source=self._source.name,
            pointer_bytes=8 if is_wide else {8: 4, 16: 8}.get(min(widths, default=8 if reader.bases else 0)),
            kept=self._kept,
        )

    def _columns(self) -> dict[str, np.ndarray]:
        """Join the blocks, one column after the other, and work out what the text does not say."""
        if not self._blocks:
            self._blocks.append(Rows(Interned(), Pointers()).columns())
        columns = {name: np.concatenate([block.pop(name) for block in self._blocks]) for name in list(self._blocks[0])}
        self._digits = self._one.digits
        self._number(columns)
        links = link_areas(columns["event"], columns["base_addr"], columns["off"])
        columns["chunk"] = links.chunk
        columns["birth"][columns["event"] == L.EVENT_FREE] = UNKNOWN_BIRTH
        columns["birth"][links.freed] = columns["op"][links.born]
        for name in ("size", "align"):
            columns[name][links.freed] = columns[name][links.born]
        for row in links.twice.tolist():
            text = "an area is handed out that was not freed before: its free was lost, or these are two recordings"
            self._reader.log.add(int(columns["line"][row]), "twice", text)
        for line, what in other_boots(columns["base_addr"], columns["line"], self._reader.header_lines[:MAX_ODDITIES]):
            self._reader.log.add(line, "boots", what)
        return columns

    def _number(self, columns: dict[str, np.ndarray]) -> None:
        """Number the events by their rows; texts of this program have the number of the op in the place of the time."""
        columns["op"] = np.arange(len(columns["line"]))
        if self._digits != 0:
            return
        if list(self._reader.layouts) == [GOLDEN.name]:
            columns["op"], self._digits = columns["time"], None
            columns["time"] = np.full(len(columns["op"]), -1, np.int64)
        elif bool(np.all(columns["task"] == _SIMULATED)):
            columns["op"] = columns["time"]
