"""What a kernel said of itself while it was traced, against what its events tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from percpu_lab.core import layout as L
from percpu_lab.rebuild import Comparison, ReadingCheck, Rebuilt, check_readings
from percpu_lab.rebuild.blocks import blocks
from percpu_lab.stats.values import labels
from percpu_lab.traces.recording import Recording, StatsReading, open_trace

REAL = Path(__file__).parent / "data" / "real"


@pytest.fixture(scope="module")
def recording() -> Recording:
    return open_trace(REAL / "rebuild" / "pcs-smp4-pagefc-small")


@pytest.fixture(scope="module")
def rebuilt(recording: Recording) -> Rebuilt:
    return Rebuilt(recording)


def check_of(recording: Recording, rebuilt: Rebuilt, reading: StatsReading) -> ReadingCheck:
    """The check of one reading put in the place of the one with its number, beside all others."""
    stats = tuple(reading if each.number == reading.number else each for each in recording.stats)
    return check_readings(replace(recording, stats=stats), rebuilt).stats[reading.number]


def with_globals(reading: StatsReading, change: Callable[[int], int], *names: str) -> StatsReading:
    """A reading with other counters."""
    counters = reading.stats.global_stats
    changed = replace(counters, **{name: change(getattr(counters, name)) for name in names})
    return replace(reading, stats=replace(reading.stats, global_stats=changed))


# --- whole recordings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("folder", "nr_files"), [("rebuild/pcs-smp4-pagefc-small", 20), ("folders/pcs-smp3-boot", 2)])
def test_every_number_that_events_determine_is_equal_in_every_file(folder: str, nr_files: int) -> None:
    recording = open_trace(REAL / folder)
    checks = check_readings(recording, Rebuilt(recording))
    assert (len(checks.stats), checks.nr_stats_equal, checks.missing) == (nr_files, nr_files, (0, 0))
    assert all(not check.different for check in (*checks.stats, *checks.proc))
    for check in checks.stats:
        fields = {(each.chunk, each.field) for each in check.comparisons if each.verdict == "equal"}
        for name in ("nr_alloc", "nr_dealloc", "nr_cur_alloc", "nr_max_alloc", "nr_chunks", "min_alloc_size"):
            assert (None, name) in fields
        for name in ("nr_alloc", "free_bytes", "max_alloc_size", "sum_frag", "max_frag", "cur_med_alloc"):
            assert (0, name) in fields and (-1, name) in fields


def test_every_field_of_every_file_is_compared(recording: Recording, rebuilt: Rebuilt) -> None:
    checks = check_readings(recording, rebuilt)
    for reading, check in zip(recording.stats, checks.stats, strict=True):
        assert len(check.comparisons) == 6 + 9 + 11 * len(reading.stats.chunks)
        assert {each.chunk for each in check.comparisons} == {None, -1, *range(len(reading.stats.chunks) - 1)}


def test_what_is_no_more_than_a_hint_or_a_page_is_explained(recording: Recording, rebuilt: Rebuilt) -> None:
    checks = check_readings(recording, rebuilt)
    explained = [each for check in checks.stats for each in check.comparisons if each.verdict == "explained"]
    assert {each.field for each in explained} == {"empty_pop_pages", "contig_bytes", "first_bit"}
    assert all(each.why for each in explained)


def test_a_file_is_placed_between_its_markers(recording: Recording, rebuilt: Rebuilt) -> None:
    for reading, check in zip(recording.stats, check_readings(recording, rebuilt).stats, strict=True):
        assert reading.rows is not None and check.row is not None
        assert reading.rows[0] <= check.row <= reading.rows[1]


def test_a_file_without_markers_finds_its_row_by_its_counts(recording: Recording, rebuilt: Rebuilt) -> None:
    reading = recording.stats[11]
    check = check_of(recording, rebuilt, replace(reading, rows=None))
    assert check.is_equal
    assert reading.rows is not None and check.row == reading.rows[0]


# --- calls before the recording ----------------------------------------------------------------------------


def test_calls_that_are_missing_are_found_as_a_number_that_stays_the_same(recording: Recording) -> None:
    without = replace(recording, early=None)
    checks = check_readings(without, Rebuilt(without))
    assert checks.missing == (70, 0)
    assert checks.nr_stats_equal == 0
    assert checks.nr_stats_agreeing == 20
    assert "not recorded, the same in all files: 70 allocations, 0 frees" in checks.text()
    first = [each for each in checks.stats[-1].comparisons if (each.chunk, each.field) == (0, "nr_alloc")]
    assert "70 areas from before the recording, as in the files before" in first[0].why


# --- what does not agree -----------------------------------------------------------------------------------


def test_a_counter_that_cannot_be_is_different(recording: Recording, rebuilt: Rebuilt) -> None:
    check = check_of(recording, rebuilt, with_globals(recording.stats[5], lambda n: n + 1, "nr_max_alloc"))
    assert [(each.field, each.reported - (each.rebuilt or 0)) for each in check.different] == [("nr_max_alloc", 1)]
    assert not check.is_equal


@pytest.mark.parametrize("field", ["free_bytes", "sum_frag", "max_alloc_size", "cur_max_alloc", "nr_alloc"])
def test_a_chunk_that_cannot_be_is_different(recording: Recording, rebuilt: Rebuilt, field: str) -> None:
    reading = recording.stats[5]
    chunks = [replace(c, **{field: getattr(c, field) + 4}) if c.kind == "first" else c for c in reading.stats.chunks]
    check = check_of(recording, rebuilt, replace(reading, stats=replace(reading.stats, chunks=tuple(chunks))))
    assert [(each.chunk, each.field) for each in check.different] == [(0, field)]


def test_a_chunk_that_the_file_does_not_list_is_different(recording: Recording, rebuilt: Rebuilt) -> None:
    reading = recording.stats[5]
    check = check_of(
        recording, rebuilt, replace(reading, stats=replace(reading.stats, chunks=reading.stats.chunks[:-1]))
    )
    assert [each.why for each in check.different] == ["a chunk that the file does not list"]


def test_more_empty_pages_than_can_be_free_are_different(recording: Recording, rebuilt: Rebuilt) -> None:
    check = check_of(recording, rebuilt, with_globals(recording.stats[5], lambda n: n + 5000, "empty_pop_pages"))
    assert [each.field for each in check.different] == ["empty_pop_pages"]


def test_counts_that_no_row_has_lie_between_the_markers_or_are_different(
    recording: Recording, rebuilt: Rebuilt
) -> None:
    reading = recording.stats[4]
    assert reading.rows is not None
    rows = (reading.rows[0] - 300, reading.rows[1] + 300)
    few, many = (rebuilt.totals(row) for row in rows)
    assert few.nr_alloc < many.nr_alloc and few.nr_dealloc < many.nr_dealloc
    odd = with_globals(replace(reading, rows=rows), lambda _: few.nr_alloc, "nr_alloc")
    odd = with_globals(odd, lambda _: many.nr_dealloc, "nr_dealloc")  # later than the allocations
    odd = with_globals(odd, lambda n: n + 5000, "nr_max_alloc")
    check = check_of(recording, rebuilt, odd)
    verdicts = {each.field: each.verdict for each in check.comparisons}
    assert check.row is None
    assert (verdicts["nr_alloc"], verdicts["nr_max_alloc"]) == ("explained", "different")


# --- events that come late, failures that had been placed ---------------------------------------------------


def test_an_allocation_whose_event_comes_late_is_counted_with_the_file(recording: Recording, rebuilt: Rebuilt) -> None:
    event = rebuilt.trace.event
    for reading in recording.stats:
        assert reading.rows is not None
        row = reading.rows[0]
        if row == reading.rows[1] and event[row - 1] == L.EVENT_ALLOC:
            check = check_of(recording, rebuilt, replace(reading, rows=(row - 1, row - 1)))
            assert (check.row, check.nr_late, check.is_equal) == (row - 1, 1, True)
            break
    else:
        pytest.fail("no reading comes right after an allocation")


def reading_at(recording: Recording, rebuilt: Rebuilt, row: int) -> StatsReading:
    """What percpu_stats would have said at a row, by the events before it."""
    model = recording.stats[-1]
    totals = rebuilt.totals(row)
    counted = {name: getattr(totals, name) for name in labels(model.stats.global_stats) if hasattr(totals, name)}
    counters = replace(model.stats.global_stats, empty_pop_pages=0, **counted)
    kinds = {0: "first", -1: "reserved"}
    chunks = tuple(
        replace(model.stats.chunks[0], kind=kinds.get(block.ordinal, "plain"), **block.values)
        for block in blocks(rebuilt, row, np.zeros(0, np.int64))
    )
    return replace(model, stats=replace(model.stats, global_stats=counters, chunks=chunks), rows=(row, row))


def test_an_allocation_whose_event_comes_behind_those_of_others_is_found(
    recording: Recording, rebuilt: Rebuilt
) -> None:
    trace = recording.trace
    is_alloc = trace.event == L.EVENT_ALLOC
    row = next(
        row for row in range(2000, len(trace) - 3)
        if is_alloc[row : row + 3].all() and len(set(trace.size[row : row + 3].tolist())) == 3
    )  # fmt: skip
    reading = replace(reading_at(recording, rebuilt, row + 1), rows=(row, row))
    order = np.arange(len(trace))
    order[row : row + 3] = [row + 1, row + 2, row]
    names = [name for name in trace.__dataclass_fields__ if hasattr(getattr(trace, name), "dtype")]
    late = replace_trace(recording, {name: np.array(getattr(trace, name))[order] for name in names})
    check = check_of(late, Rebuilt(late), reading)
    assert (check.row, check.nr_late, check.is_equal) == (row, 1, True)


def test_a_failed_request_that_had_been_placed_explains_a_pair_of_counts(recording: Recording) -> None:
    trace = recording.trace
    last = int(np.flatnonzero(trace.event == L.EVENT_FREE)[-1])
    names = {
        name: np.array(getattr(trace, name))
        for name in trace.__dataclass_fields__
        if hasattr(getattr(trace, name), "dtype")
    }
    names["event"][last], names["size"][last] = L.EVENT_FAIL, 40  # one free less, one failure more
    failing = replace_trace(recording, names)
    reading = failing.stats[-1]
    odd = with_globals(reading, lambda n: n, "nr_alloc")
    rebuilt = Rebuilt(failing)
    assert rebuilt.totals(rebuilt.last_row).nr_dealloc == odd.stats.global_stats.nr_dealloc - 1
    more = with_globals(odd, lambda n: n + 1, "nr_alloc")
    check = check_of(failing, rebuilt, more)
    assert check.row is not None
    said = {each.field: each for each in check.comparisons if each.chunk is None}
    assert isinstance(said["nr_dealloc"], Comparison)
    assert said["nr_alloc"].verdict == said["nr_dealloc"].verdict == "explained"
    assert "1 failed requests that had been placed" in said["nr_dealloc"].why


def replace_trace(recording: Recording, columns: dict[str, np.ndarray]) -> Recording:
    """The same recording with other columns."""
    trace = type(recording.trace)(
        columns, extra={}, time_digits=recording.trace.time_digits, markers=recording.trace.markers
    )
    return replace(recording, trace=trace)


# --- /proc ----------------------------------------------------------------------------------------------------


def test_meminfo_lies_within_what_chunks_and_areas_allow(recording: Recording, rebuilt: Rebuilt) -> None:
    kib = [c for check in check_readings(recording, rebuilt).proc for c in check.comparisons if "Percpu" in c.field]
    assert len(kib) == 20 and {each.verdict for each in kib} == {"explained"}
    proc = tuple(replace(each, percpu_kib=100_000) for each in recording.proc)
    wrong = check_readings(replace(recording, proc=proc), rebuilt).proc
    assert all("Percpu (KiB)" in [each.field for each in check.different] for check in wrong)


def test_vmallocinfo_has_an_area_for_each_created_chunk(recording: Recording, rebuilt: Rebuilt) -> None:
    checks = check_readings(recording, rebuilt).proc
    areas = [each for check in checks for each in check.comparisons if "vmalloc" in each.field]
    assert [each.verdict for each in areas].count("equal") == 19
    missed = next(each for each in areas if each.verdict != "equal")
    assert (missed.reported, missed.rebuilt) == (0, 1)
    assert missed.why == "the files before and after list what is missing in this one"


def test_an_area_too_many_in_vmallocinfo_is_different(recording: Recording, rebuilt: Rebuilt) -> None:
    proc = tuple(replace(each, vmalloc_areas=each.vmalloc_areas * 2) for each in recording.proc)
    wrong = check_readings(replace(recording, proc=proc), rebuilt).proc
    assert all(check.different for check in wrong[:4])
