"""What events that were lost must have done, as far as later events tell.

    row      10      20 lost 25            40
    free     --------|//////|------F       freed, and nobody got it: an allocation was lost, in use from row 25 on
    in use   ####A---|//////|------A###    handed out again: its free was lost, free from row 25 on
    chunk            |//////|--A           named by nobody who created it: its creation was lost

A ring loses events of its own processor, while those of others go on: the lost ones happened somewhere between the last
event before and the first one behind. They are put behind, where all of them are done; a decision in between that needs
one earlier tells so itself.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from ..core import layout as L
from ..core import replay as R
from ..core.page import PCPU_MIN_UNIT_SIZE
from ..traces.recorded import Loss
from .tape import Tape

__all__ = ["Gap", "Lost", "gaps_of", "lost_events"]

_MOST_GAP = 16  # bytes never handed out, too few to be


@dataclass(frozen=True, slots=True)
class Gap:
    """Rows of a tape: events between the first and the one before the last were lost."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Lost:
    """An event that must have been, or a place that was in use.

    Args:
        kind: ROW_IN_USE, ROW_FREED or EVENT_CREATE.
        chunk: its number on the tape.
        off, size: of the area in bytes; a size that no event tells is the largest that fits.
        after, before: rows between which it was.
        at: row before which it is put; `before` if no gap tells more.
    """

    kind: int
    chunk: int
    off: int
    size: int
    after: int
    before: int
    at: int


def gaps_of(tape: Tape, losses: Sequence[Loss]) -> list[Gap]:
    """Find between which rows events were lost, in the order in which the gaps end."""
    gaps = []
    for loss in losses:
        last = min(tape.nr_early + loss.row, tape.nr_rows)
        own = np.flatnonzero(tape.cpu[:last] == loss.cpu) if loss.cpu >= 0 else np.zeros(0, np.int64)
        if loss.row:
            gaps.append(Gap(max(int(own[-1]) + 1, tape.nr_early) if len(own) else last, last))
    return sorted(gaps, key=lambda gap: gap.last)


def lost_events(tape: Tape, gaps: Sequence[Gap]) -> list[Lost]:
    """Work out what the lost events must have done, in the order of the rows they are put before.

    The chunks whose creation was lost count as created from now on.
    """
    if not gaps and _alternates(tape):
        return []
    lost = [*_of_chunks(tape, gaps)]
    tape.is_created[[one.chunk for one in lost]] = True
    kind, number, off, size = tape.events[:4, : tape.nr_rows]
    rows = np.flatnonzero((kind <= L.EVENT_FREE) & (off >= 0) & (size >= 0))
    rows = rows[np.argsort(number[rows], kind="stable")]
    for own in np.split(rows, np.flatnonzero(np.diff(number[rows])) + 1) if len(rows) else ():
        lost += _joined([*_Chunk(tape, int(number[own[0]]), gaps).lost(own.tolist())], tape, own)
    return sorted(lost, key=lambda one: (one.at, one.kind != L.EVENT_CREATE, one.kind != R.ROW_FREED))


def _alternates(tape: Tape) -> bool:
    """Tell whether at each offset areas are handed out and freed in turn, as they are where nothing was lost."""
    kind, chunk, off = tape.events[:3, : tape.nr_rows]
    rows = np.flatnonzero(kind <= L.EVENT_FREE)
    rows = rows[np.lexsort((off[rows], chunk[rows]))]
    same = (np.diff(chunk[rows]) == 0) & (np.diff(off[rows]) == 0)
    twice = same & (np.diff(kind[rows]) == 0)
    first = rows[~np.append(False, same)]
    known = tape.is_created | np.array([tape.is_known_at_start(number) for number in range(tape.nr_chunks)], np.bool_)
    return not twice.any() and not ((kind[first] == L.EVENT_FREE) & known[chunk[first]]).any()


def _last_gap(gaps: Sequence[Gap], after: int, before: int) -> int:
    """Give the row that something between two rows is put before, in the last gap that allows it."""
    return next((min(gap.last, before) for gap in reversed(gaps) if gap.first < before and gap.last > after), before)


def _first_gap(gaps: Sequence[Gap], after: int, before: int) -> int:
    return next((min(gap.last, before) for gap in gaps if gap.first < before and gap.last > after), before)


def _of_chunks(tape: Tape, gaps: Sequence[Gap]) -> Iterator[Lost]:
    """Find the chunks whose creation was lost."""
    kind, number = tape.column(R.TAPE_EVENT), tape.column(R.TAPE_CHUNK)
    named = kind != L.EVENT_FAIL
    for chunk in np.flatnonzero(~tape.is_created).tolist() if gaps and tape.from_boot else ():
        rows = np.flatnonzero(named & (number == chunk))
        if chunk in (tape.first, tape.reserved) or not len(rows) or rows[0] < gaps[0].first:
            continue
        yield Lost(L.EVENT_CREATE, chunk, 0, 0, -1, int(rows[0]), _last_gap(gaps, -1, int(rows[0])))


@dataclass(slots=True)
class _Area:
    """An area in use: bytes [off, end), handed out by a row."""

    off: int
    end: int
    row: int


class _Chunk:
    """The areas of a chunk, row by row.

    starts    0     96      400        offsets of areas in use, rising; areas holds each by its offset
    """

    def __init__(self, tape: Tape, chunk: int, gaps: Sequence[Gap]) -> None:
        self._tape, self._chunk, self._gaps = tape, chunk, gaps
        self._starts: list[int] = []
        self._areas: dict[int, _Area] = {}
        self._freed: dict[int, int] = {}  # the last row that freed an area at this offset
        self._is_known = bool(tape.is_created[chunk]) or tape.is_known_at_start(chunk)
        self._given: set[int] = set()
        self._rows: list[int] = []

    def lost(self, rows: list[int]) -> Iterator[Lost]:
        """Follow the rows of the chunk -> what was lost."""
        self._rows = rows
        kinds, _, offs, sizes = self._tape.events[:4, rows].tolist()
        for row, kind, off, size in zip(rows, kinds, offs, sizes, strict=True):
            if kind == L.EVENT_ALLOC:
                yield from self._hand_out(row, off, off + size)
            elif off in self._areas:
                self._drop(off)
            else:
                yield from self._freed_unseen(row, off)

    def _hand_out(self, row: int, off: int, end: int) -> Iterator[Lost]:
        for area in self._overlapping(off, end):
            at = _last_gap(self._gaps, area.row, row)
            yield Lost(R.ROW_FREED, self._chunk, area.off, area.end - area.off, area.row, row, at)
            self._drop(area.off)
        self._starts.insert(bisect_left(self._starts, off), off)
        self._areas[off] = _Area(off, end, row)

    def _overlapping(self, off: int, end: int) -> list[_Area]:
        first = bisect_right(self._starts, off) - 1
        last = bisect_left(self._starts, end)
        found = [self._areas[start] for start in self._starts[max(first, 0) : last]]
        return [area for area in found if area.end > off or area.off == off]

    def _drop(self, off: int) -> None:
        del self._areas[off]
        del self._starts[bisect_left(self._starts, off)]

    def _freed_unseen(self, row: int, off: int) -> Iterator[Lost]:
        """An area that nobody got was freed: its allocation was lost, or it was in use before the recording."""
        if any(area.end > off for area in self._overlapping(off, off + 1)):
            return  # in the midst of another: a damaged number
        after = self._last_touch(row, off)
        if after < 0 and not self._is_known:
            return  # start.py knows
        at = _first_gap(self._gaps, after, row)
        size = self._size_of(row, off, at)
        yield Lost(R.ROW_IN_USE, self._chunk, off, size, after, row, at)

    def _last_touch(self, row: int, off: int) -> int:
        """Find the last row before one that handed a byte out; its free was behind it, and was no later than this."""
        kind, _, at, size = self._tape.events[:4, self._before(row)]
        touched = (kind == L.EVENT_ALLOC) & (at <= off) & (at + size > off)
        found = np.flatnonzero(touched)
        if not len(found):
            return -1
        rows = self._before(row)
        freed = np.flatnonzero((kind == L.EVENT_FREE) & (at == at[found[-1]]))
        last = max(int(found[-1]), int(freed[-1]) if len(freed) else -1)
        return int(rows[last])

    def _before(self, row: int) -> np.ndarray:
        return np.array(self._rows[: bisect_left(self._rows, row)], np.int64)

    def _size_of(self, row: int, off: int, at: int) -> int:
        """Find how far an area may reach that was in use from one row to another: no row in between got more of it."""
        following = bisect_right(self._starts, off)
        end = self._starts[following] if following < len(self._starts) else off + PCPU_MIN_UNIT_SIZE
        rows = np.array(self._rows, np.int64)
        kind, _, start, size = self._tape.events[:4, rows]
        is_near = (kind == L.EVENT_ALLOC) & (start + size > off) & (start < end)
        inside = is_near & (rows >= at) & (rows < row)
        if inside.any():
            end = min(end, max(int(start[inside].min()), off + self._tape.granule))
        later = [
            (int(s), int(s + n))
            for s, n in zip(start[is_near & (rows > row)], size[is_near & (rows > row)], strict=True)
        ]
        return _reach(off, end, later, self._tape.granule) - off


def _joined(lost: list[Lost], tape: Tape, rows: np.ndarray) -> list[Lost]:
    """Let areas of one gap reach up to the next one: allocations that follow each other lie side by side."""
    in_use = sorted((one for one in lost if one.kind == R.ROW_IN_USE), key=lambda one: (one.at, one.off))
    kind, _, off, size = tape.events[:4, rows]
    joined = {}
    for one, following in pairwise(in_use):
        end = one.off + one.size
        between = (kind == L.EVENT_ALLOC) & (off < following.off) & (off + size > end) & (rows < one.before)
        if one.at == following.at and end < following.off <= one.off + PCPU_MIN_UNIT_SIZE and not between.any():
            joined[one] = replace(one, size=following.off - one.off)
    return [joined.get(one, one) for one in lost]


def _reach(off: int, end: int, later: list[tuple[int, int]], granule: int) -> int:
    """Follow places handed out later from an offset on, over gaps too short to be handed out."""
    at = off + granule
    for start, stop in sorted(later):
        if start > at + _MOST_GAP:
            break
        at = max(at, stop)
    return min(at, end)
