"""Compares what the kernel said of itself while it was traced with what its events tell.

    events      ···a··A··f·│··A··f·a··│····        STATS_BEGIN │ percpu_stats is read here │ STATS_END
    candidates             └─ rows ───┘            the row whose counts are those of the file is the one it was read at

A file is read at one instant, under the allocator's lock. The event of an allocation is written later, out of the
lock, so a file may count allocations whose events follow: they are called late here. Where calls are missing that were
made before the recording, counts differ by a number that stays the same in all files; it is found, and said.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from ..columns import RESERVED_ORDINAL, UNKNOWN, Ints
from ..core import layout as L
from ..stats.values import labels
from .blocks import Block, blocks
from .comparison import Comparison, ReadingCheck, ReadingChecks, bounded, compared, hint
from .matching import match
from .proc_readings import check_proc
from .walk import BEFORE

if TYPE_CHECKING:
    from ..traces.recording import Recording, StatsReading
    from .rebuilt import Rebuilt

__all__ = ["Comparison", "ReadingCheck", "ReadingChecks", "check_readings"]

_HINTS = {"first_bit", "contig_bytes", "contig_hint"}
_MAX_CANDIDATES = 64
_MAX_LATE = 16
_MAX_PLACED = 1 << 30
_MAX_REORDERED, _MAX_FOLLOWING = 3, 10


def check_readings(recording: Recording, rebuilt: Rebuilt) -> ReadingChecks:
    """Compare every reading of a recording with its events, field by field.

    Args:
        recording: with its readings.
        rebuilt: from the same recording.
    """
    losses = sorted(loss.row for loss in recording.trace.losses)
    parts = [bisect_right(losses, reading.rows[0]) if reading.rows else 0 for reading in recording.stats]
    missing = {
        part: _missing([each for each, p in zip(recording.stats, parts, strict=True) if p == part], rebuilt)
        for part in sorted(set(parts))
    }
    unseen: dict[int, tuple[int, int]] = {}
    stats = tuple(
        _StatsCheck(recording, rebuilt, reading, missing[part], unseen).checked()
        for reading, part in zip(recording.stats, parts, strict=True)
    )
    rows = {reading.number: check.row for reading, check in zip(recording.stats, stats, strict=True)}
    proc = tuple(check_proc(recording, rebuilt, each, rows.get(each.number)) for each in recording.proc)
    return ReadingChecks(stats, proc, missing.get(0, (0, 0)))


def _missing(readings: Iterable[StatsReading], rebuilt: Rebuilt) -> tuple[int, int]:
    """Allocations and frees that most files count beyond those recorded; rather none than some.

    Lost events make it another number for the files behind them.
    """
    votes: Counter[tuple[int, int]] = Counter()
    at_rest: Counter[tuple[int, int]] = Counter()
    for reading in readings:
        if reading.rows is None:
            continue
        counted, reported = rebuilt.counters, reading.stats.global_stats
        ends = [
            (reported.nr_alloc - int(counted.nr_alloc[at]), reported.nr_dealloc - int(counted.nr_dealloc[at]))
            for at in map(rebuilt.position, reading.rows)
        ]
        at_rest[ends[0]] += ends[0] == ends[1]
        votes[0, 0] += all(high <= 0 <= low for low, high in zip(*ends, strict=True))
    votes += at_rest
    return max(votes, key=lambda pair: (votes[pair], pair == (0, 0)), default=(0, 0))


class _StatsCheck:
    """Finds the row at which one percpu_stats file was read, and compares it there."""

    def __init__(
        self,
        recording: Recording,
        rebuilt: Rebuilt,
        reading: StatsReading,
        missing: tuple[int, int],
        unseen: dict[int, tuple[int, int]],
    ) -> None:
        self.recording, self.rebuilt, self.reading = recording, rebuilt, reading
        self.missing = missing
        self.unseen = unseen  # of each chunk: areas and bytes from before the recording
        self._placed = 0  # failed requests that the file counts as allocated and freed
        self.rows = reading.rows or (rebuilt.first_row, rebuilt.last_row)

    def checked(self) -> ReadingCheck:
        """Compare at the row that agrees best; between two rows if none has the counts of the file."""
        found = self._best(self._candidates(0)) or self._best(self._candidates(_MAX_PLACED))
        if found is not None and _score(found[2])[0] < 0:
            found = max(found, self._best(self._other_orders()) or found, key=lambda each: _score(each[2]))
        if found is None:
            return ReadingCheck(self.reading.file, None, 0, tuple(self._within()))
        row, late, comparisons = found
        self._learn(row, late)
        return ReadingCheck(self.reading.file, row, len(late), tuple(comparisons))

    def _best(self, candidates: Iterable[tuple[int, Ints]]) -> tuple[int, Ints, list[Comparison]] | None:
        """The first of the candidates that agree best."""
        found = [(row, late, self._comparisons(row, late)) for row, late in candidates]
        return max(found, key=lambda each: _score(each[2]), default=None)

    # --- where it was read ---------------------------------------------------------------

    def _candidates(self, most_placed: int) -> Iterator[tuple[int, Ints]]:
        """Rows with the counts of the file; with allocations whose events come late, if none has them as it is.

        Args:
            most_placed: so many failed requests may have been counted as allocated and freed.
        """
        start, end = (self.rebuilt.position(row) for row in self.rows)
        counted, reported = self.rebuilt.counters, self.reading.stats.global_stats
        placed = reported.nr_dealloc - self.missing[1] - counted.nr_dealloc[start : end + 1]
        late = reported.nr_alloc - self.missing[0] - counted.nr_alloc[start : end + 1] - placed
        is_possible = (placed >= 0) & (placed <= np.minimum(self._nr_failed(start, end), most_placed))
        exact = np.flatnonzero(is_possible & (late == 0))
        behind = np.flatnonzero(is_possible & (late > 0) & (late <= _MAX_LATE))
        for at in (exact if len(exact) else behind[::-1])[:_MAX_CANDIDATES].tolist():
            yield start + at + self.rebuilt.first_row, self._next_areas(start + at, int(late[at]))

    def _other_orders(self) -> Iterator[tuple[int, Ints]]:
        """Rows with the frees of the file, and few allocations whose events come late in an order of their own.

        The event of an allocation may follow those of others that were made later, on other CPUs.
        """
        start, end = (self.rebuilt.position(row) for row in self.rows)
        counted, reported = self.rebuilt.counters, self.reading.stats.global_stats
        is_freed = counted.nr_dealloc[start : end + 1] + self.missing[1] == reported.nr_dealloc
        late = reported.nr_alloc - self.missing[0] - counted.nr_alloc[start : end + 1]
        rows = np.flatnonzero(is_freed & (late > 0) & (late <= _MAX_REORDERED))
        for at in rows[np.unique(late[rows], return_index=True)[1]].tolist():
            following = self._next_areas(start + at, _MAX_FOLLOWING)
            for chosen in combinations(range(len(following)), int(late[at])):
                yield start + at + self.rebuilt.first_row, following[list(chosen)]

    def _nr_failed(self, start: int, end: int) -> Ints:
        """Count the failures recorded before each of some positions."""
        row = np.arange(start, end + 1) + self.rebuilt.first_row
        return np.searchsorted(np.flatnonzero(self.rebuilt.trace.event == L.EVENT_FAIL), row)

    def _next_areas(self, position: int, count: int) -> Ints:
        row = position + self.rebuilt.first_row
        area = self.rebuilt.event_area[max(row, 0) :]
        made = np.flatnonzero(self.rebuilt.trace.event[max(row, 0) :] == L.EVENT_ALLOC)[:count]
        return np.asarray(area[made])

    # --- at one row ---------------------------------------------------------------------

    def _comparisons(self, row: int, late: Ints) -> list[Comparison]:
        stats = self.reading.stats
        ours = blocks(self.rebuilt, row, late)
        result = [*self._alloc_info(), *self._globals(row, late, ours)]
        for block, reported in match(ours, [(c.kind, _values(c)) for c in stats.chunks]):
            result += _missing_block(block, reported) if block is None or reported is None else self._chunk(
                block, reported
            )  # fmt: skip
        return result

    def _alloc_info(self) -> Iterator[Comparison]:
        geometry, info = self.recording.geometry, self.reading.stats.alloc_info
        for label in labels(info):
            known = None if geometry is None else int(getattr(geometry.info, label))
            yield compared(None, label, getattr(info, label), known, "the kernel's log is not there")

    def _globals(self, row: int, late: Ints, ours: list[Block]) -> Iterator[Comparison]:
        reported = self.reading.stats.global_stats
        values = self._counts(row, len(late))
        self._placed = reported.nr_dealloc - values["nr_dealloc"]
        values["nr_alloc"] += self._placed
        values["nr_dealloc"] += self._placed
        sizes = self.rebuilt.areas.size[late]
        totals = self.rebuilt.totals(row)
        least = self.rebuilt.space.unit.unit_size if totals.min_alloc_size == UNKNOWN else totals.min_alloc_size
        values["min_alloc_size"] = min([least, *sizes.tolist()])
        values["max_alloc_size"] = max([totals.max_alloc_size, *sizes.tolist()])
        free_pages = sum(block.nr_free_pages for block in ours if block.ordinal != RESERVED_ORDINAL)
        for label in labels(reported):
            value = int(getattr(reported, label))
            if label == "empty_pop_pages":
                yield bounded(None, label, value, 0, free_pages, "pages are not in events")
            else:
                yield compared(
                    None, label, value, values[label], explained=self._explained(label, value, values[label])
                )

    def _counts(self, row: int, nr_late: int) -> dict[str, int]:
        at, counted = self.rebuilt.position(row), self.rebuilt.counters
        nr_alloc, nr_dealloc = int(counted.nr_alloc[at]) + nr_late, int(counted.nr_dealloc[at])
        current = counted.nr_alloc[: at + 1] - counted.nr_dealloc[: at + 1]
        alloc, dealloc = self.missing
        return {
            "nr_alloc": nr_alloc + alloc,
            "nr_dealloc": nr_dealloc + dealloc,
            "nr_cur_alloc": nr_alloc + alloc - nr_dealloc - dealloc,
            "nr_max_alloc": max(int(current.max()), nr_alloc - nr_dealloc) + alloc - dealloc,
            "nr_chunks": int(counted.nr_chunks[at]),
            "nr_max_chunks": int(counted.nr_max_chunks[at]),
        }

    def _explained(self, label: str, reported: int, rebuilt: int) -> str:
        """Why a number of the whole allocator may differ from the events alone."""
        if self._placed and (label in ("nr_alloc", "nr_dealloc") or self._is_size_of_failure(label, reported, rebuilt)):
            return f"with {self._placed:,} failed requests that had been placed before their pages could not be had"
        if not any(self.missing):
            return ""
        if reported == rebuilt and label in ("nr_alloc", "nr_dealloc", "nr_cur_alloc", "nr_max_alloc"):
            return "with {:,} allocations and {:,} frees from before the recording, as in all files".format(
                *self.missing
            )
        is_possible = reported < rebuilt if label == "min_alloc_size" else reported > rebuilt
        return "reached before the recording" if is_possible and label not in ("nr_alloc", "nr_dealloc") else ""

    def _is_size_of_failure(self, label: str, reported: int, rebuilt: int) -> bool:
        """Whether a failed request can have set the largest size, which is counted when it is placed."""
        trace, granule = self.rebuilt.trace, self.rebuilt.space.least_size
        failed = trace.size[trace.event == L.EVENT_FAIL]
        return label == "max_alloc_size" and reported > rebuilt and reported in -(-failed // granule) * granule

    def _chunk(self, block: Block, reported: dict[str, int]) -> Iterator[Comparison]:
        is_whole = not any(self.missing) and not block.nr_unmatched
        was_there = is_whole or self.rebuilt.chunks.created[block.chunk] > BEFORE
        for label, value in reported.items():
            known = block.values.get(label)
            if known is None or label == "empty_pop_pages":
                yield bounded(block.ordinal, label, value, known, block.nr_free_pages, "pages are not in events")
            elif was_there or value == known:
                why = "the size of a failed request that had been placed" if self._placed else ""
                is_failure = bool(why) and self._is_size_of_failure(label, value, known)
                yield hint(block.ordinal, label, value, known) if label in _HINTS else compared(
                    block.ordinal, label, value, known, explained=why if is_failure else ""
                )  # fmt: skip
            else:
                yield self._with_unseen(block, label, value, known)

    def _with_unseen(self, block: Block, label: str, value: int, known: int) -> Comparison:
        """A number of a chunk that may hold areas from before the recording."""
        areas, nr_bytes = self.unseen.get(block.chunk, (0, 0))
        if block.chunk not in self.unseen:
            why = "learned from this file: what the chunk holds from before the recording"
        elif label == "nr_alloc" and value == known + areas - block.nr_unmatched:
            why = f"with {areas:,} areas from before the recording, as in the files before"
        elif label in ("free_bytes", "free_size") and value == known - nr_bytes and not block.nr_unmatched:
            why = f"with {nr_bytes:,} bytes from before the recording, as in the files before"
        elif label not in ("nr_alloc", "free_bytes", "free_size") or block.nr_unmatched:
            why = "areas from before the recording are not known"
        else:
            why = ""
        return compared(block.ordinal, label, value, known, explained=why)

    def _learn(self, row: int, late: Ints) -> None:
        if not any(self.missing) and not len(self.rebuilt.unmatched_frees):
            return
        ours = blocks(self.rebuilt, row, late)
        for block, reported in match(ours, [(c.kind, _values(c)) for c in self.reading.stats.chunks]):
            if block and reported and block.chunk not in self.unseen:
                free = "free_bytes" if "free_bytes" in reported else "free_size"
                areas = reported["nr_alloc"] - block.values["nr_alloc"] + block.nr_unmatched
                self.unseen[block.chunk] = (areas, block.values[free] - reported[free])

    # --- between two rows ----------------------------------------------------------------

    def _within(self) -> Iterator[Comparison]:
        """No row has the counts of the file: each number lies between those of the rows around it, or differs."""
        low, high = (self._counts(row, 0) for row in self.rows)
        yield from self._alloc_info()
        reported = self.reading.stats.global_stats
        for label in labels(reported):
            value = int(getattr(reported, label))
            if label not in low:
                yield Comparison(None, label, value, None, "explained", "no row of the trace has these counts")
                continue
            is_within = min(low[label], high[label]) <= value <= max(low[label], high[label])
            why = "read while work ran: between the counts at its markers" if is_within else ""
            yield compared(None, label, value, high[label], explained=why)


def _values(chunk: Any) -> dict[str, int]:
    return {label: int(getattr(chunk, label)) for label in labels(chunk)}


def _missing_block(block: Block | None, reported: dict[str, int] | None) -> Iterator[Comparison]:
    nr_alloc = reported["nr_alloc"] if reported else 0
    why = "a chunk that events do not tell of" if block is None else "a chunk that the file does not list"
    yield Comparison(block.ordinal if block else None, "nr_alloc", nr_alloc, None, "different", why)


def _score(comparisons: Iterable[Comparison]) -> tuple[int, int]:
    verdicts = Counter(each.verdict for each in comparisons)
    return -verdicts["different"], verdicts["equal"]
