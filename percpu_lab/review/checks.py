"""What the kernel said of itself while it was recorded, compared with the model field by field.

    reading    nr_alloc 368, nr_dealloc 23   ->  the places of the script with just these counts   ->  every field there

A reading is placed by its counts: the markers around it only say where to look, for work may go on meanwhile. Where
several places have the counts, the one that agrees best is meant. Without the early calls a constant number of
allocations is missing; it is taken from the first reading.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core import layout as L
from ..core import replay as R
from ..events import Int64s
from ..rich import Rich
from ..stats import PercpuStats, read_stats
from ..traces.recording import ProcReading, Recording, StatsReading
from ..units import KIB, PAGE_SIZE

if TYPE_CHECKING:
    from .result import Replayed

__all__ = ["Check", "Difference", "check_readings"]

_REACH = 2000  # rows before and behind the markers
_MOST_PLACES = 24
_OF_AREAS = ("min_alloc_size", "max_alloc_size", "cur_min_alloc", "cur_med_alloc", "cur_max_alloc")
_PERCPU = "Percpu, KiB"
_OF_PAGES = ("empty_pop_pages", "nr_populated", _PERCPU)
_UNSEEN = "areas from before the recording are known as stretches, not one by one"


@dataclass(frozen=True, slots=True)
class Difference(Rich):
    """A field that the model and the kernel do not agree on.

    Args:
        field: such as "chunk 2: contig_bytes".
        kernel, model: the two values; None where one has no such field.
        why: what explains it; "" if nothing does.
    """

    field: str
    kernel: Any
    model: Any
    why: str = ""

    def __str__(self) -> str:
        return f"{self.field}: kernel {self.kernel}, model {self.model}{f' ({self.why})' if self.why else ''}"


@dataclass(frozen=True, slots=True)
class Check(Rich):
    """A reading compared with the model.

    Args:
        kind: "stats" (percpu_stats) or "meminfo".
        file: that was read.
        row: of the trace, before which the model has the counts of the reading; None if it never has.
        nr_fields: fields compared.
        differences: those that are not equal.
    """

    kind: str
    file: str
    row: int | None
    nr_fields: int
    differences: tuple[Difference, ...]

    @property
    def is_equal(self) -> bool:
        """Tell whether all fields are equal."""
        return self.row is not None and not self.differences

    @property
    def is_of_other_pages(self) -> bool:
        """Tell whether other pages were populated than the model has."""
        return any(difference.field.endswith(_OF_PAGES) for difference in self.differences)

    @property
    def is_explained(self) -> bool:
        """Tell whether all fields are equal, or known to be beyond what the recording can tell."""
        return self.row is not None and all(difference.why for difference in self.differences)

    def __str__(self) -> str:
        if self.row is None:
            return f"{self.file}: the counts of the reading never occur"
        if not self.differences:
            return f"{self.file}: all {self.nr_fields} fields equal"
        return f"{self.file}: {len(self.differences)} of {self.nr_fields} fields differ: {self.differences[0]}"


def check_readings(recording: Recording, replayed: Replayed) -> Iterator[Check]:
    """Compare all readings of a recording, those of percpu_stats first."""
    counted = _Counted(replayed)
    nr_trace = replayed.tape.nr_rows - replayed.tape.nr_early
    for stats in recording.stats:
        if stats.rows is None or stats.rows[0] <= nr_trace:
            yield counted.check(stats)
    for proc in recording.proc:
        if proc.percpu_kib is not None and (proc.rows is None or proc.rows[0] <= nr_trace):
            yield _check_meminfo(proc, proc.percpu_kib, replayed)


class _Counted:
    """Allocations and frees done before each place of the script."""

    def __init__(self, replayed: Replayed) -> None:
        self._replayed = replayed
        tape = replayed.tape
        kind = tape.events[R.TAPE_EVENT, replayed.script]
        failed = kind == L.EVENT_FAIL  # one whose pages could not be populated counts as allocated and freed
        undone = failed & (replayed.machine.found[R.FOUND_REASON, replayed.script] == L.REASON_POPULATE)
        self._allocs = np.append(0, np.cumsum((kind == L.EVENT_ALLOC) | undone))
        self._frees = np.append(0, np.cumsum((kind == L.EVENT_FREE) | undone))
        self._missing: int | None = 0 if tape.has_early else None

    def check(self, reading: StatsReading) -> Check:
        """Compare a reading where it agrees best."""
        best: tuple[int, list[Difference], int] | None = None
        for place in self._places(reading)[:_MOST_PLACES].tolist():
            self._replayed.go_to(place)
            model = read_stats(self._replayed.machine.engine)
            differences, nr_fields = _compare(reading.stats, model, self._missing or 0)
            if best is None or len(differences) < len(best[1]):
                best = place, differences, nr_fields
            if not differences:
                break
        if best is None:
            return Check("stats", reading.file, None, 0, ())
        row = self._replayed.row_behind(best[0])
        return Check("stats", reading.file, row, best[2], tuple(best[1]))

    def _places(self, reading: StatsReading) -> Int64s:
        """Find the places of the script that have the counts of a reading, latest first."""
        low, high = self._replayed.places_of(reading.rows, _REACH)
        counts = reading.stats.global_stats
        freed = self._frees[low : high + 1] == counts.nr_dealloc
        if self._missing is None and freed.any():
            inner = self._replayed.places_of(reading.rows, 0)
            at = np.flatnonzero(self._frees[inner[0] : inner[1] + 1] == counts.nr_dealloc) + inner[0]
            at = at if len(at) else np.flatnonzero(freed) + low
            self._missing = int(counts.nr_alloc - self._allocs[at[-1]])
        fits = freed & (self._allocs[low : high + 1] + (self._missing or 0) == counts.nr_alloc)
        return np.asarray(np.flatnonzero(fits)[::-1] + low)


def _compare(kernel: PercpuStats, model: PercpuStats, missing: int) -> tuple[list[Difference], int]:
    """Compare all fields -> those that differ, and how many were compared."""
    ours, theirs = dict(_values(model)), dict(_values(kernel))
    if missing:
        first = next((k for k, chunk in enumerate(model.chunks) if chunk.kind == "first"), 0)
        for name in ("nr_alloc", "nr_cur_alloc", "nr_max_alloc", f"chunk {first}: nr_alloc"):
            ours[name] = ours.get(name, 0) + missing
    names = list(theirs) + [name for name in ours if name not in theirs]
    differences = [
        Difference(name, theirs.get(name), ours.get(name), _UNSEEN if missing and name.endswith(_OF_AREAS) else "")
        for name in names
        if theirs.get(name) != ours.get(name)
    ]
    return differences, len(names)


def _values(stats: PercpuStats) -> Iterator[tuple[str, Any]]:
    for part in (stats.alloc_info, stats.global_stats):
        yield from ((f.name, getattr(part, f.name)) for f in fields(part))
    for number, chunk in enumerate(stats.chunks):
        yield from ((f"chunk {number}: {f.name}", getattr(chunk, f.name)) for f in fields(chunk))


def _check_meminfo(reading: ProcReading, percpu_kib: int, replayed: Replayed) -> Check:
    """Compare the Percpu line of meminfo: populated pages x units."""
    info = replayed.machine.engine.geometry.info
    page_kib = info.nr_units * PAGE_SIZE // KIB
    low, high = replayed.places_of(reading.rows, 0)
    pages = replayed.pages[low : high + 1]
    equal = np.flatnonzero(pages * page_kib == percpu_kib)
    if len(equal):
        return Check("meminfo", reading.file, replayed.row_behind(low + int(equal[-1])), 1, ())
    difference = Difference(_PERCPU, percpu_kib, int(pages[-1]) * page_kib)
    return Check("meminfo", reading.file, replayed.row_behind(high), 1, (difference,))
