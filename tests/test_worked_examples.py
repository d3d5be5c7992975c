"""The worked examples of the specification, section 11, on the engine and on the naive model at once.

c0 is the first chunk, c1, c2, ... are those created later. The usual geometry: a unit of 32768 bytes, 8192 of them
static, 24576 dynamic, two CPUs. So c0 starts as map [1, 8192, 32769] in slot 12, with 6 empty pages.
"""

from __future__ import annotations

import pytest
from twin import Twin, make_geometry

from percpu_lab.core import layout as L
from percpu_lab.errors import KernelBugError
from percpu_lab.geometry import Geometry
from percpu_lab.stats import ChunkStats, read_stats

ALL = 24576  # all of c0
LAST = -1  # slot


def usual(nr_cpus: int = 2) -> Twin:
    return Twin(make_geometry(32768, 8192, 0, 24576, [list(range(nr_cpus))]))


@pytest.fixture
def t() -> Twin:
    return usual()


def offset(t: Twin, ptr: int) -> tuple[int, int]:
    """Ordinal of the chunk, offset in it."""
    return t.engine.place(ptr)


def pages(t: Twin, ordinal: int) -> tuple[tuple[int, int], ...]:
    return t.chunk(ordinal).populated


def chunk_stats(t: Twin, index: int) -> ChunkStats:
    chunk = read_stats(t.engine).chunks[index]
    assert isinstance(chunk, ChunkStats)
    return chunk


def test_usual_first_chunk(t: Twin) -> None:
    assert t.map(0) == [1, 8192, 32769]
    chunk = t.chunk(0)
    assert (chunk.free_size, chunk.contig_hint, chunk.first_free, chunk.slot) == (24576, 24576, 0, 12)
    assert t.nr_empty_pop_pages == 6


def test_01_sizes_become_even_and_alignments_two_in_events_and_warnings_too(t: Twin) -> None:
    assert [t.alloc(1, 1), t.alloc(3, 1), t.alloc(5, 0)] == [8192, 8194, 8198]
    assert t.map(0) == [1, 8193, 8195, 8199, 8204, 32769]
    assert (t.chunk(0).map_used, t.chunk(0).first_free) == (5, 4)
    batch = t.engine.events(1)
    assert (batch.size.tolist(), batch.align.tolist()) == ([2, 4, 6], [2, 2, 2])
    assert t.alloc(32769) == t.alloc(0, 3) == 0
    assert [text for _, text in t.engine.dmesg()[-2:]] == [
        "WARN: illegal size (32770) or align (8) for percpu allocation",
        "WARN: illegal size (0) or align (3) for percpu allocation",
    ]
    t.compare()


def test_02_padding_under_4_bytes_goes_to_the_static_prefix_for_good() -> None:
    t = Twin(make_geometry(32768, 5002, 0, 20000, [[0, 1]]))
    assert t.map(0) == [1, 5002, 25003]
    ptr = t.alloc(8, 4)
    assert (ptr, t.map(0), t.chunk(0).free_size) == (5004, [1, 5005, 5012, 25003], 19990)
    t.free(ptr)
    assert (t.map(0), t.chunk(0).free_size, t.chunk(0).contig_hint) == ([1, 5004, 25003], 19998, 20000)


def test_03_padding_of_4_bytes_becomes_a_free_area_and_first_free(t: Twin) -> None:
    first = t.alloc(20, 4)
    assert (first, t.alloc(16, 64)) == (8192, 8256)
    assert (t.map(0), t.chunk(0).first_free) == ([1, 8193, 8212, 8257, 8272, 32769], 2)
    assert t.alloc(8, 8) == 8216
    assert (t.map(0), t.chunk(0).first_free) == ([1, 8193, 8212, 8217, 8224, 8257, 8272, 32769], 2)
    t.free(first)
    assert (t.map(0), t.chunk(0).first_free) == ([1, 8192, 8217, 8224, 8257, 8272, 32769], 1)


def test_04_absorbed_tail_changes_free_size_but_not_the_reported_size(t: Twin) -> None:
    first = t.alloc(12, 4)
    t.alloc(100, 4)
    t.free(first)
    ptr = t.alloc(10, 2)
    assert (ptr, t.map(0), t.chunk(0).free_size) == (8192, [1, 8193, 8205, 8304, 32769], 24464)
    assert t.engine.events(0).size.tolist()[-1] == 10
    assert read_stats(t.engine).global_stats.min_alloc_size == 10
    assert chunk_stats(t, 0).cur_min_alloc == 12
    t.free(ptr)
    assert t.chunk(0).free_size == 24464 + 12


def test_05_hint_falls_only_if_the_last_area_was_taken_or_nothing_fitted(t: Twin) -> None:
    first = t.alloc(64)
    t.alloc(64)
    t.alloc(24448)
    chunk = t.chunk(0)
    assert (t.map(0), chunk.contig_hint, chunk.free_size, chunk.slot) == ([1, 8193, 8257, 8321, 32769], 0, 0, 0)
    t.free(first)
    chunk = t.chunk(0)
    assert (chunk.contig_hint, chunk.slot, chunk.first_free) == (64, 4, 1)
    assert t.alloc(64, 128) == 8192
    chunk = t.chunk(0)
    assert (chunk.free_size, chunk.slot, chunk.contig_hint) == (0, 0, 64)


def test_06_alignment_failure_leaves_a_stale_hint_that_costs_a_scan_then_a_new_chunk(t: Twin) -> None:
    t.alloc(20476, 4)
    t.free(t.alloc(4100, 4))
    assert (t.map(0), t.chunk(0).contig_hint) == ([1, 8193, 28668, 32769], 4100)
    assert t.alloc(64, 4096) == 28672
    assert t.map(0) == [1, 8193, 28668, 28673, 28736, 32769]
    assert (t.chunk(0).contig_hint, t.chunk(0).slot) == (4100, 9)
    assert offset(t, t.alloc(4050, 4096)) == (1, 0)
    assert (t.chunk(0).contig_hint, t.chunk(0).free_size, t.chunk(0).slot) == (4032, 4036, 9)


def test_07_nearly_full_chunk_with_a_stale_hint_is_in_slot_1(t: Twin) -> None:
    t.alloc(24570)
    chunk = t.chunk(0)
    assert (t.map(0), chunk.free_size, chunk.contig_hint, chunk.slot) == ([1, 8193, 32762, 32769], 6, 24576, 1)
    assert t.alloc(4, 4) == 32764
    chunk = t.chunk(0)
    assert (t.map(0), chunk.free_size, chunk.contig_hint, chunk.slot) == ([1, 8193, 32765, 32769], 0, 0, 0)


def test_08_fuller_goes_to_the_tail_and_emptier_to_the_head(t: Twin) -> None:
    t.alloc(ALL)
    one, two, three = (t.alloc(30000) for _ in range(3))
    assert t.slot(9) == [1, 2, 3]
    for ptr in (two, one, three):
        t.free(ptr)
    assert t.slot(LAST) == [3, 1, 2]
    assert offset(t, t.alloc(32768)) == (3, 0)
    assert t.balance()
    assert t.slot(LAST) == [1]
    assert [event for event in t.events() if event == "destroy_chunk"] == ["destroy_chunk"]


def test_09_balance_keeps_the_first_empty_chunk_and_destroys_the_others_from_the_end(t: Twin) -> None:
    t.alloc(ALL)
    for ptr in [t.alloc(32768) for _ in range(4)]:
        t.free(ptr)
    assert t.slot(LAST) == [4, 3, 2, 1]
    assert t.balance()
    assert t.slot(LAST) == [4]
    batch = t.engine.events(0)
    assert batch.chunk[batch.event == L.EVENT_DESTROY].tolist() == [1, 2, 3]


def test_10_failed_population_is_an_allocation_and_a_deallocation_without_a_free_event(t: Twin) -> None:
    t.alloc(ALL)
    for _ in range(3):
        t.alloc(4096)
    before = t.nr_empty_pop_pages
    t.fault("page", 1)
    assert t.alloc(12288) == 0
    assert t.reason == "failed to populate"
    counters = read_stats(t.engine).global_stats
    assert (counters.nr_alloc, counters.nr_dealloc, counters.nr_cur_alloc, counters.nr_max_alloc) == (5, 1, 4, 5)
    assert (t.chunk(1).max_alloc_size, counters.max_alloc_size) == (12288, 24576)
    assert (t.map(1), t.nr_empty_pop_pages) == ([1, 4097, 8193, 12288, 32769], before)
    assert t.events()[-1] == "alloc_percpu_fail" and "free_percpu" not in t.events()


def test_10_failed_population_that_empties_a_chunk_schedules_no_balance(t: Twin) -> None:
    t.alloc(ALL)
    t.balance()
    assert t.slot(LAST) == [1]
    t.fault("page", 1)
    assert t.alloc(32768) == 0
    assert t.slot(LAST) == [1]
    assert not t.pending


def test_11_map_is_extended_when_64_entries_are_no_longer_spare(t: Twin) -> None:
    seen = []
    for count in range(1, 65):
        t.alloc(4, 4)
        if count >= 62:
            seen.append((t.chunk(0).map_used, t.chunk(0).map_alloc))
    assert seen == [(64, 128), (65, 128), (66, 256)]


def test_11_map_of_the_reserved_chunk_is_extended_by_the_same_rule() -> None:
    t = Twin(make_geometry(40960, 8192, 4096, 28672, [[0, 1]]))
    for _ in range(63):
        t.alloc(4, 4, reserved=True)
    assert (t.chunk(-1).map_used, t.chunk(-1).map_alloc) == (65, 128)
    t.fault("mem", 1)
    assert (t.alloc(4, 4, reserved=True), t.reason) == (0, "failed to extend area map of reserved chunk")
    assert t.alloc(4, 4, reserved=True)
    assert (t.chunk(-1).map_used, t.chunk(-1).map_alloc) == (66, 256)


def test_12_new_chunk_whose_map_cannot_be_extended_is_used_by_the_next_request(t: Twin) -> None:
    t.alloc(ALL)
    t.fault("mem", 1, 2)
    assert (t.alloc(8), t.reason) == (0, "failed to extend area map")
    assert t.events()[-2:] == ["create_chunk", "alloc_percpu_fail"]
    assert (t.slot(LAST), t.map(1), t.chunk(1).map_alloc) == ([1], [0, 32769], 16)
    assert offset(t, t.alloc(8)) == (1, 0)
    assert t.events().count("create_chunk") == 2  # c0 and c1


def with_atomic_chunk(t: Twin) -> None:
    """Leave c1 as the balance work makes it after an atomic failure: map of 16, pages [0, 4)."""
    t.alloc(ALL)
    assert t.alloc(8, atomic=True) == 0
    assert t.balance()
    assert (t.chunk(1).map_alloc, pages(t, 1)) == (16, ((0, 4),))


def test_13_atomic_requests_skip_chunks_without_three_spare_entries(t: Twin) -> None:
    with_atomic_chunk(t)
    t.alloc(8, atomic=True)
    assert t.engine.map_extend_chunks() == [1]
    for _ in range(12):
        t.alloc(8, atomic=True)
    assert (t.chunk(1).map_used, t.chunk(1).free_size) == (14, 32664)
    assert t.alloc(8, atomic=True) == 0
    assert t.balance()
    assert (t.chunk(1).map_alloc, pages(t, 1)) == (128, ((0, 8),))
    assert offset(t, t.alloc(8, atomic=True)) == (1, 104)


def test_13_atomic_request_queues_the_first_chunk_early_and_still_succeeds(t: Twin) -> None:
    for _ in range(95):
        t.alloc(4, 4, atomic=True)
    assert (t.engine.map_extend_chunks(), t.pending) == ([], False)
    assert t.alloc(4, 4, atomic=True)
    assert (t.engine.map_extend_chunks(), t.pending, t.chunk(0).map_used) == ([0], True, 98)


def test_14_failing_atomic_scan_lowers_the_hint_and_the_chunk_stays_queued(t: Twin) -> None:
    with_atomic_chunk(t)
    assert offset(t, t.alloc(100, atomic=True)) == (1, 0)
    assert (t.map(1), t.chunk(1).contig_hint, t.engine.map_extend_chunks()) == ([1, 100, 32769], 32768, [1])
    assert t.alloc(20000, atomic=True) == 0
    assert t.chunk(1).contig_hint == 32668
    t.alloc(8)
    assert (t.chunk(1).map_alloc, t.engine.map_extend_chunks()) == (128, [1])
    assert t.balance()
    assert (t.chunk(1).map_alloc, t.engine.map_extend_chunks()) == (128, [])


def test_15_atomic_failure_counts_for_one_round_of_balance_only() -> None:
    t = usual(nr_cpus=1)
    t.alloc(12288)
    assert t.nr_empty_pop_pages == 3
    assert t.alloc(28000, atomic=True) == 0
    assert t.balance()
    assert pages(t, 1) == ((0, 1),)


def test_16_balance_populates_one_chunk_a_slot_and_pass() -> None:
    t = usual(nr_cpus=1)
    t.alloc(ALL)
    t.alloc(20000)
    t.alloc(20000)
    assert (t.slot(11), pages(t, 1), pages(t, 2), t.nr_empty_pop_pages) == ([1, 2], ((0, 5),), ((0, 5),), 0)
    created = t.events().count("create_chunk")
    assert t.balance()
    assert [pages(t, ordinal) for ordinal in (1, 2, 3)] == [((0, 8),), ((0, 6),), ()]
    assert (t.nr_empty_pop_pages, t.events().count("create_chunk")) == (4, created + 1)


def test_17_pages_used_in_part_are_not_empty(t: Twin) -> None:
    ptrs, counts = [], []
    for size in (100, 3996, 4096, 4):
        ptrs.append(t.alloc(size))
        counts.append(t.nr_empty_pop_pages)
        if size == 3996:
            assert t.map(0) == [1, 8193, 8292, 8297, 12292, 32769]
    assert (ptrs, counts) == ([8192, 8296, 12296, 16392], [5, 4, 3, 3])
    counts = []
    for ptr in (ptrs[1], ptrs[0], ptrs[2]):
        t.free(ptr)
        counts.append(t.nr_empty_pop_pages)
    assert counts == [3, 4, 5]
    t.compare()


def test_18_reserved_requests_never_fall_back_and_never_touch_the_page_count() -> None:
    t = Twin(make_geometry(40960, 8192, 4096, 28672, [[0, 1]]))
    assert (t.map(-1), t.map(0), t.nr_empty_pop_pages) == ([1, 8192, 12289], [1, 12288, 40961], 7)
    assert (t.alloc(100, reserved=True), t.nr_empty_pop_pages) == (8192, 7)
    assert (t.alloc(100), t.nr_empty_pop_pages) == (12288, 6)
    assert t.chunk(-1).contig_hint == 4096
    assert (t.alloc(4096, reserved=True), t.reason) == (0, "alloc from reserved chunk failed")
    assert t.chunk(-1).contig_hint == 3996


def test_18_without_a_reserved_area_a_reserved_request_is_an_ordinary_one(t: Twin) -> None:
    assert t.alloc(100, reserved=True) == 8192
    assert t.engine.events(1).reserved.tolist() == [True]
    t.compare()


def with_2_byte_holes(t: Twin, stale_hint: bool) -> list[int]:
    """Fill c0 but for two 2-byte areas -> live pointers."""
    first = t.alloc(64)
    small = [t.alloc(2, 2) for _ in range(6)]
    rest = t.alloc(24500, 2)
    if stale_hint:
        t.free(first)
        assert t.alloc(64) == first
        assert t.chunk(0).contig_hint == 64
    t.free(small[1])
    t.free(small[3])
    return [first, small[0], small[2], small[4], small[5], rest]


def test_19_scan_that_moves_the_chunk_off_the_list_being_walked_is_the_bug_of_v4_13(t: Twin) -> None:
    live = with_2_byte_holes(t, stale_hint=True)
    counters = read_stats(t.engine).global_stats
    with pytest.raises(KernelBugError, match=r"^op 12: the v4\.13 kernel would loop for ever"):
        t.alloc(4, 2)
    assert (t.chunk(0).slot, t.chunk(0).contig_hint) == (0, 2)
    assert read_stats(t.engine).global_stats == counters
    assert t.engine.now == 13
    assert offset(t, t.alloc(4, 2)) == (1, 0)
    assert offset(t, t.alloc(2, 2)) == (1, 4)  # nobody searches slot 0
    for ptr in live:
        t.free(ptr)
    t.balance()
    t.compare()


def test_19_bug_in_a_script_names_the_op_and_leaves_the_rest_to_be_run(t: Twin) -> None:
    with_2_byte_holes(t, stale_hint=True)
    ptrs = t.alloc_many(3, 4, 2)
    assert [offset(t, ptr) for ptr in ptrs] == [(1, 0), (1, 4)]
    t.compare()


def test_19_with_a_hint_below_4_the_chunk_is_in_slot_0_and_nothing_bad_happens(t: Twin) -> None:
    with_2_byte_holes(t, stale_hint=False)
    assert t.chunk(0).slot == 0
    assert offset(t, t.alloc(4, 2)) == (1, 0)
    t.compare()


def test_20_km_chunk_counts_the_pages_of_all_units_and_takes_back_those_of_one() -> None:
    t = Twin(make_geometry(32768, 8192, 0, 24576, [[0, 1, 2, 3]], backing="km"))
    t.alloc(ALL)
    t.free(t.alloc(8))
    t.alloc(8)
    assert (t.chunk(1).nr_populated, t.nr_empty_pop_pages) == (32, 31)
    t = Twin(make_geometry(32768, 8192, 0, 24576, [[0, 1, 2, 3]], backing="km"))
    t.alloc(ALL)
    for ptr in [t.alloc(32768), t.alloc(32768)]:
        t.free(ptr)
    assert t.nr_empty_pop_pages == 64
    assert t.balance()
    assert t.nr_empty_pop_pages == 56
    t.compare()


def test_21_request_of_exactly_the_unit_size_starts_in_the_last_slot(t: Twin) -> None:
    t.alloc(ALL)
    t.alloc(8)
    assert offset(t, t.alloc(32768)) == (2, 0)
    t = Twin(make_geometry(40960, 8192, 0, 32768, [[0, 1]]))
    t.alloc(32768)
    assert offset(t, t.alloc(4096)) == (1, 0)
    assert t.slot(13) == [1]
    assert offset(t, t.alloc(32768)) == (1, 4096)


def test_22_slot_1_ends_at_15_bytes(t: Twin) -> None:
    t.alloc(24556)
    chunk = t.chunk(0)
    assert (t.map(0), chunk.free_size, chunk.contig_hint, chunk.slot) == ([1, 8193, 32748, 32769], 20, 24576, 2)
    assert offset(t, t.alloc(24)) == (1, 0)
    assert t.chunk(0).contig_hint == 20


def test_23_median_of_the_areas_in_use(t: Twin) -> None:
    ptrs = [t.alloc(size) for size in range(16, 113, 16)]
    for k in (1, 3, 6):
        t.free(ptrs[k])
    assert t.map(0) == [1, 8193, 8208, 8241, 8288, 8353, 8433, 8528, 32769]
    chunk = t.chunk(0)
    assert chunk_stats(t, 0) == ChunkStats("first", 4, 112, chunk.free_size, chunk.contig_hint, 96, 64, 16, 48, 96)
    for k in (0, 2, 4, 5):
        t.free(ptrs[k])
    assert chunk_stats(t, 0) == ChunkStats("first", 0, 112, 24576, 24576, 0, 0, 0, 0, 0)


def test_24_before_any_allocation_min_alloc_size_is_the_unit_size(t: Twin) -> None:
    counters = read_stats(t.engine).global_stats
    assert (counters.min_alloc_size, counters.max_alloc_size) == (32768, 0)


def test_25_without_smp_the_area_at_offset_0_is_found_behind_the_empty_prefix() -> None:
    t = Twin(Geometry.up())
    assert t.map(0) == [1, 0, 32769]
    assert t.slot(LAST) == [0]
    ptr = t.alloc(8)
    assert t.map(0) == [1, 1, 8, 32769]
    t.free(ptr)
    assert t.map(0) == [1, 0, 32769]


def test_26_success_that_leaves_fewer_than_two_empty_pages_makes_balance_pending(t: Twin) -> None:
    ptr = t.alloc(16384)
    assert (t.nr_empty_pop_pages, t.pending) == (2, False)
    t.alloc(8)
    assert (t.nr_empty_pop_pages, t.pending) == (1, True)
    assert t.balance()
    assert not t.pending
    t.free(ptr)
    assert not t.pending


def test_26_success_of_a_reserved_request_makes_it_pending_too() -> None:
    t = Twin(make_geometry(40960, 8192, 4096, 28672, [[0, 1]]))
    t.alloc(28672)
    t.fault("vm", 1)
    assert t.balance()
    assert (t.nr_empty_pop_pages, t.pending) == (0, False)
    t.alloc(8, reserved=True)
    assert t.pending


@pytest.mark.parametrize("kind", ["vm", "page"])
def test_26_balance_that_cannot_create_or_populate_is_not_tried_again(t: Twin, kind: str) -> None:
    t.alloc(ALL)
    t.fault(kind, 1)
    assert t.balance()
    assert not t.pending
    assert not t.balance()
    t.compare()


def test_27_ten_failures_of_sleeping_requests_are_logged_and_then_silence(t: Twin) -> None:
    t.fault("vm", 100)
    t.alloc(ALL)
    for _ in range(12):
        t.alloc(8, atomic=True)
        t.alloc(8)
    lines = [text for op, text in t.engine.dmesg() if op >= 0]
    message = "percpu: allocation failed, size=8 align=8 atomic=0, failed to allocate new chunk"
    assert lines == [message] * 10 + ["percpu: limit reached, disable warning"]
    ops = [op for op, _ in t.engine.dmesg() if op >= 0]
    assert ops[-1] == ops[-2]
    t.compare()


def test_28_map_is_extended_before_it_is_scanned(t: Twin) -> None:
    for _ in range(64):
        t.alloc(4, 4, atomic=True)
    t.alloc(24300, 4, atomic=True)
    chunk = t.chunk(0)
    assert (chunk.map_used, chunk.map_alloc, chunk.free_size, chunk.contig_hint) == (67, 128, 20, 24576)
    t.fault("mem", 1)
    assert (t.alloc(24), t.reason) == (0, "failed to extend area map")
    assert (t.chunk(0).contig_hint, len(t.engine.chunks())) == (24576, 1)
    assert offset(t, t.alloc(24)) == (1, 0)
    assert (t.chunk(0).map_alloc, t.chunk(0).contig_hint) == (256, 20)


def test_29_group_ids_in_the_boot_log_are_as_wide_as_the_number_of_groups() -> None:
    geometry = make_geometry(32768, 8192, 0, 24576, [[cpu] for cpu in range(10)])
    text = "".join(geometry.boot_log[1:])
    assert [f"[{group:02}] {group:02} " in text for group in range(10)] == [True] * 10


# --- between the examples: what altered code got past all of the above -----------------------------------------


def test_areas_passed_over_count_for_the_hint_where_padding_went_to_the_neighbour(t: Twin) -> None:
    first = t.alloc(64)
    t.alloc(2, 2)
    t.free(first)
    assert t.alloc(24508, 4) == 8260
    assert (t.map(0), t.chunk(0).contig_hint) == ([1, 8192, 8257, 8261, 32769], 64)


# --- section 12: which calls to its environment an operation makes ------------------------------------------------

SKIPPED = 1000


def calls(t: Twin, *action: object) -> dict[str, int]:
    """Run an action -> calls it made of each kind, as faults that are far off count them."""
    for kind in L.FAULT_KINDS:
        t.fault(kind, 1, SKIPPED)
    name, *args = action
    getattr(t, str(name))(*args)
    t.compare()
    left = [t.engine.scalar(L.FAULT_SKIP_MEM + number) for number in range(L.NR_FAULT_KINDS)]
    made = {kind: SKIPPED - skip for kind, skip in zip(L.FAULT_KINDS, left, strict=True) if skip != SKIPPED}
    for kind in L.FAULT_KINDS:
        t.fault(kind, 0)
    return made


def test_calls_of_a_request_that_creates_extends_and_populates(t: Twin) -> None:
    assert calls(t, "alloc", ALL) == {}
    assert calls(t, "alloc", 8192) == {"mem": 4, "vm": 1, "page": 2 * 2, "ptmap": 2}  # record, map, longer map, pages
    assert calls(t, "alloc", 4096) == {"page": 2, "ptmap": 2}
    assert calls(t, "free", t.alloc(8)) == {}


def test_calls_of_a_request_to_km_chunks() -> None:
    t = Twin(make_geometry(32768, 8192, 0, 24576, [[0, 1, 2, 3]], backing="km"))
    t.alloc(ALL)
    assert calls(t, "alloc", 8192) == {"mem": 3, "page": 1}
    assert calls(t, "alloc", 8192) == {}


@pytest.mark.parametrize("backing", ["vm", "km"])
def test_destroying_chunks_makes_no_call_that_could_fail(backing: str) -> None:
    t = Twin(make_geometry(32768, 8192, 0, 24576, [[0, 1]], backing=backing))
    t.alloc(ALL)
    for ptr in [t.alloc(32768) for _ in range(3)]:
        t.free(ptr)
    assert calls(t, "balance") == {}
    assert t.events().count("destroy_chunk") == 2


def test_balance_extends_queued_maps_then_populates_then_creates(t: Twin) -> None:
    with_atomic_chunk(t)
    t.alloc(8, atomic=True)
    assert calls(t, "balance") == {"mem": 1, "page": 2, "ptmap": 2}
    t = usual()
    t.alloc(ALL)
    assert calls(t, "balance") == {"mem": 3, "vm": 1, "page": 2 * 4, "ptmap": 2}


@pytest.mark.parametrize("skip", [0, 1, 5])
def test_calls_before_a_failing_one_are_used_up_and_those_behind_are_not_made(t: Twin, skip: int) -> None:
    t.alloc(ALL)
    t.fault("page", 2, skip)
    assert (t.alloc(12288), t.reason) == (0, "failed to populate")
    assert t.model.faults["page"] == [1, 0]
    t.compare()
    assert t.chunk(1).nr_populated == 0
    t.fault("ptmap", 1, 1)
    t.fault("page", 0)
    assert t.alloc(12288) == 0
    t.compare()


def test_temporary_page_array_is_asked_for_until_it_is_there(t: Twin) -> None:
    t.alloc(ALL)
    t.fault("mem", 2, 3)
    assert (t.alloc(8), t.reason) == (0, "failed to populate")
    assert t.alloc(8) == 0
    assert calls(t, "alloc", 8) == {"mem": 1, "page": 2, "ptmap": 2}
    assert calls(t, "alloc", 32768) == {"mem": 3, "vm": 1, "page": 16, "ptmap": 2}
