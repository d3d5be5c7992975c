"""Compares /proc/meminfo and /proc/vmallocinfo with what events tell of chunks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ..traces.proc import check_chunk_areas
from ..units import KIB, PAGE_SIZE
from .comparison import Comparison, ReadingCheck, Verdict

if TYPE_CHECKING:
    from ..traces.recording import ProcReading, Recording
    from .rebuilt import Rebuilt


def check_proc(recording: Recording, rebuilt: Rebuilt, reading: ProcReading, row: int | None) -> ReadingCheck:
    """Compare meminfo and vmallocinfo at the row of the percpu_stats of the same number, else at their own."""
    rows = [row] if row is not None else list(reading.rows or ())
    if recording.geometry is None or not rows:
        return ReadingCheck(reading.file, None, 0, ())
    comparisons = list(_meminfo(recording, rebuilt, reading, rows))
    comparisons += _vmallocinfo(recording, rebuilt, reading, rows)
    return ReadingCheck(reading.file, rows[0], 0, tuple(comparisons))


def _meminfo(recording: Recording, rebuilt: Rebuilt, reading: ProcReading, rows: list[int]) -> Iterator[Comparison]:
    """Populated pages are not in events, but each area has its pages, and no chunk has more than its units."""
    if reading.percpu_kib is None or recording.geometry is None:
        return
    info = recording.geometry.info
    page_kib = info.nr_units * PAGE_SIZE // KIB
    boot_pages = info.size_sum // PAGE_SIZE
    low = (boot_pages + min(_pages_touched(rebuilt, row) for row in rows)) * page_kib
    nr_chunks = max(int(rebuilt.counters.nr_chunks[rebuilt.position(row)]) for row in rows)
    high = (boot_pages + (nr_chunks - 1) * info.unit_pages) * page_kib
    verdict: Verdict = "explained" if low <= reading.percpu_kib <= high else "different"
    why = f"pages are not in events: {low:,} to {high:,} KiB are possible"
    yield Comparison(None, "Percpu (KiB)", reading.percpu_kib, None, verdict, why)


def _pages_touched(rebuilt: Rebuilt, row: int) -> int:
    """Count the pages of created chunks that hold areas."""
    live = rebuilt.live(row)
    areas = rebuilt.areas
    live = live[rebuilt.chunks.ordinal[areas.chunk[live]] > 0]
    pages = rebuilt.space.unit.nr_pages + 1
    steps = np.zeros(len(rebuilt.chunks) * pages + 1, np.int64)
    np.add.at(steps, areas.chunk[live] * pages + areas.off[live] // PAGE_SIZE, 1)
    np.add.at(steps, areas.chunk[live] * pages + -(-(areas.off[live] + areas.size[live]) // PAGE_SIZE), -1)
    return int(np.count_nonzero(np.cumsum(steps)))


def _vmallocinfo(recording: Recording, rebuilt: Rebuilt, reading: ProcReading, rows: list[int]) -> list[Comparison]:
    """Each created chunk has one area a group."""
    if recording.geometry is None or (not reading.vmalloc_areas and not _has_vmallocinfo(recording)):
        return []
    info = recording.geometry.info
    nr_areas = sum(area.is_chunk for area in reading.vmalloc_areas)
    counts = sorted({int(rebuilt.counters.nr_chunks[rebuilt.position(row)]) for row in rows})
    fewest, most = ((nr - 1) * info.nr_groups for nr in (counts[0], counts[-1]))
    wrong = [check_chunk_areas(reading.vmalloc_areas, info, nr) for nr in counts]
    verdict: Verdict = "different"
    why = "; ".join(wrong[-1])
    if not all(wrong):
        verdict, most, why = "equal", nr_areas, ""
    elif fewest <= nr_areas <= most:
        verdict, why = "explained", "read while chunks came and went"
    elif nr_areas + _listed_around(recording, reading) in (fewest, most):
        verdict, why = "explained", "the files before and after list what is missing in this one"
    return [Comparison(None, "areas of chunks in vmalloc", nr_areas, most, verdict, why)]


def _has_vmallocinfo(recording: Recording) -> bool:
    """Tell whether vmallocinfo was recorded at all; with the first chunk alone it has no areas."""
    return any(each.vmalloc_areas for each in recording.proc)


def _listed_around(recording: Recording, reading: ProcReading) -> int:
    """Count the areas of chunks that the readings before and after list and this one does not: lines get lost when
    the list changes while it is read."""
    at = recording.proc.index(reading)
    if not 0 < at < len(recording.proc) - 1:
        return 0
    before, here, after = (
        {area.start for area in each.vmalloc_areas if area.is_chunk} for each in recording.proc[at - 1 : at + 2]
    )
    return len((before & after) - here)
