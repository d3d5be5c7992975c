"""What lived where at any row: against a naive model, and against what recorded kernels said of themselves."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from golden_cases import BITMAP_CASES, recorded
from hypothesis import given
from hypothesis import strategies as st
from tiny_traces import alloc, free
from tiny_traces import trace as trace_of

from percpu_lab.columns import IN_USE, RESERVED_ORDINAL, Snapshot, Unit
from percpu_lab.core import layout as L
from percpu_lab.engine import Engine
from percpu_lab.errors import GeometryError, RequestError
from percpu_lab.geometry import Geometry
from percpu_lab.kernels import V4_13, V6_12
from percpu_lab.questions import consistency
from percpu_lab.rebuild import BEFORE, CHUNK_DESTROYED, FREE_LOST, FREED, LIVE, NEVER, Rebuilt, Space
from percpu_lab.rebuild.blocks import blocks
from percpu_lab.rebuild.matching import match
from percpu_lab.rebuild.space import damaged_rows
from percpu_lab.runs import open_run
from percpu_lab.stats import PercpuStats
from percpu_lab.stats.values import labels
from percpu_lab.traces.read import read_golden_trace, read_trace_text
from percpu_lab.traces.recorded import RecordedTrace
from percpu_lab.traces.recording import open_trace

REAL = Path(__file__).parent / "data" / "real"
UNIT = Unit(32768, 4096, 0, 28672, {0: 0})
GRANULE = 4

Call = tuple[str, int, int, int]  # event, base address, offset, size


def text_of(calls: list[Call]) -> str:
    """The trace of some calls, as a kernel would have written it."""
    lines = []
    for row, (event, base, off, size) in enumerate(calls):
        place = f"base_addr={base:#x} off={off} ptr=0x0"
        words = {
            "alloc": f"percpu_alloc_percpu: reserved=0 is_atomic=0 size={size} align=4 {place}",
            "free": f"percpu_free_percpu: {place}",
            "create": f"percpu_create_chunk: base_addr={base:#x}",
            "destroy": f"percpu_destroy_chunk: base_addr={base:#x}",
            "fail": f"percpu_alloc_percpu_fail: reserved=0 is_atomic=1 size={size} align=4",
        }
        lines.append(f"{row}\t{words[event]}\n")
    return "".join(lines)


def rebuilt_from(calls: list[Call], unit: Unit | None = UNIT) -> Rebuilt:
    return Rebuilt.of(read_golden_trace(text_of(calls)), unit, V6_12)


# --- a naive model --------------------------------------------------------------------------------------


@dataclass
class Naive:
    """Areas by base address and offset, kept up event by event."""

    live: dict[int, dict[int, tuple[int, int]]] = field(default_factory=dict)  # base -> off -> size, birth
    unmatched: list[int] = field(default_factory=list)
    lost: list[tuple[int, int]] = field(default_factory=list)  # row that shows it, birth

    def do(self, row: int, call: Call) -> None:
        event, base, off, size = call
        if event == "fail":
            return
        areas = self.live.setdefault(base, {})
        end = off + -(-size // GRANULE) * GRANULE
        if event == "alloc":
            for other, (length, birth) in list(areas.items()):
                if other < end and off < other + length:
                    self.lost.append((row, birth))
                    del areas[other]
            areas[off] = (end - off, row)
        elif event == "free" and areas.pop(off, None) is None:
            self.unmatched.append(row)
        elif event in ("create", "destroy"):
            self.lost += [(row, birth) for _, birth in areas.values()]
            areas.clear()

    def areas(self) -> set[tuple[int, int, int, int]]:
        return {(base, off, *area) for base, areas in self.live.items() for off, area in areas.items()}


calls = st.lists(
    st.tuples(
        st.sampled_from(["alloc", "alloc", "alloc", "free", "free", "create", "destroy", "fail"]),
        st.sampled_from([0x1000, 0x2000, 0x3000]),
        st.integers(0, 15).map(lambda k: 8 * k),
        st.integers(1, 40),
    ),
    max_size=40,
)


def in_use(snap: Snapshot) -> set[tuple[int, int, int, int]]:
    areas = snap.areas
    used = areas.kind == IN_USE
    base = snap.chunks.base_addr[areas.chunk[used]]
    columns = (base, areas.off_bytes[used], areas.size_bytes[used], areas.birth[used])
    return set(zip(*(column.tolist() for column in columns), strict=True))


@given(calls)
def test_every_row_shows_what_a_naive_model_shows(calls: list[Call]) -> None:
    rebuilt, naive = rebuilt_from(calls), Naive()
    for row, call in enumerate(calls):
        assert in_use(rebuilt.snapshot(row)) == naive.areas()
        naive.do(row, call)
    assert in_use(rebuilt.snapshot(len(calls))) == naive.areas()
    assert rebuilt.unmatched_frees.tolist() == naive.unmatched
    births = rebuilt.areas.birth[rebuilt.lost_frees.area].tolist()
    assert sorted(zip(rebuilt.lost_frees.row.tolist(), births, strict=True)) == sorted(naive.lost)


@given(calls)
def test_free_and_used_bytes_fill_every_chunk_and_tiles_meet(calls: list[Call]) -> None:
    rebuilt = rebuilt_from(calls)
    for row in range(len(calls) + 1):
        snap = rebuilt.snapshot(row)
        areas, chunks = snap.areas, snap.chunks
        used = np.bincount(areas.chunk, areas.size_bytes * (areas.kind == IN_USE), len(chunks))
        sizes = [rebuilt.space.size_of(ordinal) for ordinal in chunks.ordinal.tolist()]
        assert (chunks.free_bytes + used).tolist() == sizes
        ends = areas.off_bytes + areas.size_bytes
        meets = np.where(np.diff(areas.chunk) == 0, areas.off_bytes[1:] == ends[:-1], areas.off_bytes[1:] == 0)
        assert meets.all()
        assert (chunks.largest_free_bytes <= chunks.free_bytes).all()
        assert int(used.sum()) == rebuilt.live_bytes(row)


@given(calls, st.randoms(use_true_random=False))
def test_rows_in_any_order_show_the_same(calls: list[Call], choice) -> None:  # type: ignore[no-untyped-def]
    rebuilt = rebuilt_from(calls)
    forwards = [(in_use(rebuilt.snapshot(row)), rebuilt.totals(row)) for row in range(len(calls) + 1)]
    rows = list(range(len(calls) + 1))
    choice.shuffle(rows)
    for row in [*rows, *reversed(range(len(calls) + 1))]:
        assert (in_use(rebuilt.snapshot(row)), rebuilt.totals(row)) == forwards[row]


@given(calls)
def test_counters_are_those_of_counting_again(calls: list[Call]) -> None:
    rebuilt = rebuilt_from(calls)
    most = 0
    for row in range(len(calls) + 1):
        totals, snap = rebuilt.totals(row), rebuilt.snapshot(row)
        done = Counter(call[0] for call in calls[:row])
        sizes = [-(-size // GRANULE) * GRANULE for event, _, _, size in calls[:row] if event == "alloc"]
        most = max(most, snap.nr_in_use)
        assert (totals.nr_alloc, totals.nr_dealloc) == (done["alloc"], done["free"])
        assert (totals.nr_cur_alloc, totals.nr_max_alloc) == (snap.nr_in_use, most)
        assert totals.nr_chunks == len(snap.chunks)
        if sizes:
            assert (totals.min_alloc_size, totals.max_alloc_size) == (min(sizes), max(sizes))


@given(calls)
def test_each_event_names_the_area_it_made_or_freed(calls: list[Call]) -> None:
    rebuilt = rebuilt_from(calls)
    for row, area in enumerate(rebuilt.event_area.tolist()):
        event = calls[row][0]
        if event == "alloc":
            assert rebuilt.areas.birth[area] == row
        elif event == "free" and area >= 0:
            assert (rebuilt.areas.death[area], rebuilt.areas.end[area]) == (row, FREED)
        else:
            assert area == -1


# --- what is missing --------------------------------------------------------------------------------------


def test_an_allocation_over_a_live_area_says_that_its_free_was_lost() -> None:
    rebuilt = rebuilt_from([("alloc", 0x1000, 0, 64), ("alloc", 0x1000, 128, 8), ("alloc", 0x1000, 32, 16)])
    assert rebuilt.lost_frees.row.tolist() == [2]
    lost = rebuilt.lost_frees.area[0]
    assert (rebuilt.areas.birth[lost], rebuilt.areas.death[lost], rebuilt.areas.end[lost]) == (0, 2, FREE_LOST)
    assert sorted(rebuilt.areas.end.tolist()) == [LIVE, LIVE, FREE_LOST]


def test_a_destroyed_chunk_takes_its_areas_along() -> None:
    rebuilt = rebuilt_from(
        [("alloc", 0x1000, 0, 8), ("create", 0x2000, 0, 0), ("alloc", 0x2000, 0, 64), ("destroy", 0x2000, 0, 0)]
    )
    assert rebuilt.areas.end[rebuilt.lost_frees.area].tolist() == [CHUNK_DESTROYED]
    assert rebuilt.snapshot(4).chunks.ordinal.tolist() == [0]
    assert rebuilt.chunks.destroyed.tolist() == [NEVER, 3]


def test_an_address_used_again_is_another_chunk() -> None:
    calls = [("alloc", 0x1000, 0, 8), ("create", 0x2000, 0, 0), ("destroy", 0x2000, 0, 0), ("create", 0x2000, 0, 0)]
    rebuilt = rebuilt_from(calls)
    assert [rebuilt.snapshot(row).chunks.ordinal.tolist() for row in range(5)] == [[0], [0], [0, 1], [0], [0, 2]]
    assert not rebuilt.chunks.is_creation_lost.any()


def test_a_creation_of_a_chunk_that_is_there_says_that_its_destruction_was_lost() -> None:
    rebuilt = rebuilt_from([("alloc", 0x1000, 0, 8), ("create", 0x2000, 0, 0), ("create", 0x2000, 0, 0)])
    assert rebuilt.lost_destroys.tolist() == [2]
    assert rebuilt.snapshot(3).chunks.ordinal.tolist() == [0, 2]


def test_an_event_on_a_destroyed_chunk_says_that_a_creation_was_lost() -> None:
    calls = [("alloc", 0x1000, 0, 8), ("create", 0x2000, 0, 0), ("destroy", 0x2000, 0, 0), ("alloc", 0x2000, 0, 8)]
    rebuilt = rebuilt_from(calls)
    assert rebuilt.chunks.is_creation_lost.tolist() == [False, False, True]
    assert rebuilt.snapshot(4).chunks.ordinal.tolist() == [0, 2]


LINE = "  ip-7   [001] .....    1.{:06d}: percpu_{}\n"
ALLOC = "alloc_percpu: call_site={}+0x18/0x30 reserved={} is_atomic=0 size={} align=4 base_addr={:016x} off={} " \
        "ptr=0000000000000000 bytes_alloc={} gfp_flags=GFP_KERNEL"  # fmt: skip


def alloc_line(row: int, base: int, off: int, size: int = 16, site: str = "f", reserved: int = 0) -> str:
    return LINE.format(row, ALLOC.format(site, reserved, size, base, off, 6 * size))


def test_a_chunk_first_met_behind_lost_events_was_not_there_before_them() -> None:
    text = (
        alloc_line(1, 0x1000, 0)
        + alloc_line(2, 0x1000, 16)
        + "CPU:2 [LOST 147 EVENTS]\n"
        + alloc_line(3, 0x9000, 20480)
    )
    rebuilt = Rebuilt.of(read_trace_text(text), Unit(65536, 4096, 0, 16384, {0: 0}))
    assert [len(rebuilt.snapshot(row).chunks) for row in range(4)] == [1, 1, 1, 2]


def test_without_losses_a_chunk_that_was_never_created_was_there_from_the_start() -> None:
    text = alloc_line(1, 0x1000, 0) + alloc_line(2, 0x9000, 20480)
    rebuilt = Rebuilt.of(read_trace_text(text), Unit(65536, 4096, 0, 16384, {0: 0}))
    assert [len(rebuilt.snapshot(row).chunks) for row in range(3)] == [2, 2, 2]
    assert rebuilt.chunks.created.tolist() == [BEFORE, BEFORE]


# --- which chunk is which ------------------------------------------------------------------------------------


def test_the_first_chunk_is_the_one_that_was_never_created_and_whose_areas_fit_in_it() -> None:
    text = (
        alloc_line(1, 0x9000, 40960)
        + alloc_line(2, 0x1000, 64)
        + LINE.format(3, "create_chunk: base_addr=0000000000005000")
    )
    rebuilt = Rebuilt.of(read_trace_text(text), Unit(65536, 4096, 0, 16384, {0: 0}))
    chunks = rebuilt.snapshot(3).chunks
    assert dict(zip(chunks.base_addr.tolist(), chunks.ordinal.tolist(), strict=True)) == {
        0x1000: 0,
        0x9000: 1,
        0x5000: 2,
    }


def test_a_reserved_chunk_that_is_met_late_takes_no_number_of_a_chunk() -> None:
    text = (
        alloc_line(1, 0x1000, 8192)
        + LINE.format(2, "create_chunk: base_addr=0000000000005000")
        + alloc_line(3, 0x7000, 64, reserved=1)
        + LINE.format(4, "create_chunk: base_addr=0000000000009000")
        + alloc_line(5, 0xB000, 40960)
    )
    rebuilt = Rebuilt.of(read_trace_text(text), Unit(65536, 4096, 4096, 16384, {0: 0}))
    assert rebuilt.event_ordinal.tolist() == [0, 2, RESERVED_ORDINAL, 3, 1]  # the last one was there before


def test_the_reserved_chunk_serves_reserved_requests_alone() -> None:
    unit = Unit(65536, 4096 + 808, 8192, 16384, {0: 0})
    text = alloc_line(1, 0x7000, 808, reserved=1) + alloc_line(2, 0x1000, 820, reserved=0)
    rebuilt = Rebuilt.of(read_trace_text(text), unit)
    assert rebuilt.event_ordinal.tolist() == [RESERVED_ORDINAL, 0]
    assert rebuilt.snapshot(2).chunks.free_bytes.tolist() == [8192 - 16, 16384 - 16]


def test_without_a_reserved_chunk_reserved_requests_go_to_the_first() -> None:
    rebuilt = Rebuilt.of(read_trace_text(alloc_line(1, 0x7000, 64, reserved=1)), UNIT)
    assert rebuilt.snapshot(1).chunks.ordinal.tolist() == [0]


def test_v4_13_prints_one_base_for_both_boot_chunks() -> None:
    space = Space.of(Unit(65536, 4096, 8192, 16384, {0: 0}), V4_13)
    assert (space.reserved, space.first, space.shares_base) == ((4096, 12288), (12288, 28672), True)
    calls: list[Call] = [("alloc", 0x1000, 4096, 16), ("alloc", 0x1000, 12288, 16), ("free", 0x1000, 4096, 0)]
    rebuilt = Rebuilt.of(read_golden_trace(text_of(calls)), space.unit, V4_13)
    assert rebuilt.event_ordinal.tolist() == [RESERVED_ORDINAL, 0, RESERVED_ORDINAL]
    assert rebuilt.snapshot(3).chunks.nr_alloc.tolist() == [0, 1]


def test_boot_chunks_in_one_page_share_a_base_in_the_bitmap_too() -> None:
    space = Space.of(Unit(32768, 8193, 100, 24475, {0: 0}), V6_12)
    assert (space.reserved, space.first, space.shares_base) == ((4, 104), (104, 104 + 24472), True)


def test_a_geometry_that_is_not_known_is_inferred_and_said() -> None:
    rebuilt = rebuilt_from([("alloc", 0x1000, 100, 64), ("create", 0x2000, 0, 0), ("alloc", 0x2000, 99_000, 64)], None)
    assert rebuilt.space.unit.unit_size == 131072
    assert rebuilt.space.first == (0, 4096)
    assert "geometry unknown" in rebuilt.space.guess
    assert rebuilt.snapshot(3).chunks.free_bytes.tolist() == [4096 - 64, 131072 - 64]


def test_a_unit_that_is_too_small_is_refused_with_the_area() -> None:
    with pytest.raises(GeometryError, match="area at offset 60,000, 64 bytes"):
        rebuilt_from([("create", 0x2000, 0, 0), ("alloc", 0x2000, 60_000, 64)])


def test_an_offset_that_no_unit_can_have_is_refused() -> None:
    with pytest.raises(GeometryError, match="lies in no unit"):
        rebuilt_from([("alloc", 0x1000, 1 << 30, 64)], None)


def test_a_trace_without_events_is_a_first_chunk_that_is_free() -> None:
    rebuilt = rebuilt_from([])
    assert (rebuilt.first_row, rebuilt.last_row) == (0, 0)
    assert rebuilt.snapshot(0).chunks.free_bytes.tolist() == [28672]


# --- who holds it ---------------------------------------------------------------------------------------------


def test_holders_are_those_of_adding_up_by_hand() -> None:
    text = "".join(
        [
            alloc_line(1, 0x1000, 0, 10, "small"),
            alloc_line(2, 0x1000, 64, 100, "big"),
            alloc_line(3, 0x1000, 256, 20, "small"),
            LINE.format(4, "free_percpu: base_addr=0000000000001000 off=0 ptr=0000000000000000"),
        ]
    )
    rebuilt = Rebuilt.of(read_trace_text(text), UNIT)
    held = rebuilt.holders(4)
    assert held.name == ("big+0x18/0x30", "small+0x18/0x30")
    assert (held.nr_live.tolist(), held.live_bytes.tolist()) == ([1, 1], [100, 20])
    assert (held.bytes_alloc.tolist(), held.nr_alloc.tolist(), held.nr_dealloc.tolist()) == ([600, 120], [1, 2], [0, 1])
    assert rebuilt.holders(1).name == ("small+0x18/0x30",)
    assert rebuilt.holders(3).live_bytes.tolist() == [100, 32]
    assert (rebuilt.holders(4, "task").name, rebuilt.holders(4, "task").live_bytes.tolist()) == (("ip",), [120])


def test_areas_have_no_other_names() -> None:
    with pytest.raises(RequestError, match="choose from call_site, task"):
        rebuilt_from([]).holders(0, "colour")


@pytest.fixture(scope="module")
def boot() -> Rebuilt:
    return Rebuilt(open_trace(REAL / "folders" / "pcs-smp3-boot"))


def test_call_sites_of_a_real_boot_add_up(boot: Rebuilt) -> None:
    trace, early = boot.trace, boot.early
    assert isinstance(trace, RecordedTrace) and isinstance(early, RecordedTrace)
    for row in (0, 100, boot.last_row):
        held = boot.holders(row)
        sites = Counter(early.call_site[early.event == L.EVENT_ALLOC].tolist())
        sites += Counter(trace.call_site[:row][trace.event[:row] == L.EVENT_ALLOC].tolist())
        assert dict(zip(held.name, held.nr_alloc.tolist(), strict=True)) == sites
        assert held.live_bytes.sum() == boot.live_bytes(row)
        assert held.nr_live.sum() == boot.totals(row).nr_cur_alloc


def test_calls_before_the_trace_have_negative_rows(boot: Rebuilt) -> None:
    assert boot.first_row == -70
    assert boot.totals(-70).nr_alloc == 0
    assert (boot.totals(-69).nr_alloc, boot.totals(0).nr_alloc) == (1, 70)
    assert boot.areas.birth.min() == -70
    assert len(boot.unmatched_frees) == len(boot.lost_frees) == 0


# --- golden cases ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", BITMAP_CASES, ids=lambda case: case.name)
def test_events_of_a_golden_case_give_its_percpu_stats(case: Path) -> None:
    run = open_run(case)
    for op, text in readings(recorded(case, "stats.txt")):
        stats = PercpuStats.from_text(text)
        ours = blocks(run.rebuilt, run.row_at(op + 1), np.zeros(0, np.int64))
        for block, reported in match(ours, [(c.kind, {k: getattr(c, k) for k in labels(c)}) for c in stats.chunks]):
            assert block is not None and reported is not None
            left_out = HINTS if case.name in POPULATION_FAILS else HINTS[:2]
            determined = {label: value for label, value in block.values.items() if label not in left_out}
            assert {label: reported[label] for label in determined} == determined


HINTS = ("first_bit", "contig_bytes", "max_alloc_size")  # the last where a failed request had been placed
POPULATION_FAILS = ("fault_page", "fault_page_hole", "rnd_faults")


def readings(text: str) -> list[tuple[int, str]]:
    """The readings of a golden stats.txt: `@op` above each, the last op by then."""
    parts = [part.partition("\n") for part in text.split("@") if part]
    return [(int(op), body) for op, _, body in parts]


# --- which of them is the first chunk, where a recording begins in the middle -------------------------------------


def test_true_addresses_tell_the_first_chunk_from_one_that_was_met_before_it() -> None:
    place = "base_addr={:016x} off={} ptr={:016x}"
    text = "".join(
        LINE.format(row, "alloc_percpu: reserved=0 is_atomic=0 size=16 align=4 " + place.format(base, 64, begin + 64))
        for row, (base, begin) in enumerate([(0xFFFFEDBAFFC00000, 0x60B505E00000), (0xFFFF8D05F9E36000, 0x36000)])
    )
    rebuilt = Rebuilt.of(read_trace_text(text))
    assert rebuilt.event_ordinal.tolist() == [1, 0]
    assert rebuilt.first_is_certain


def test_where_no_chunk_can_be_the_first_it_is_there_and_nothing_is_guessed() -> None:
    rebuilt = Rebuilt.of(read_trace_text(alloc_line(1, 0x9000, 20480)), Unit(65536, 4096, 0, 16384, {0: 0}))
    assert rebuilt.event_ordinal.tolist() == [1]
    assert rebuilt.snapshot(1).chunks.ordinal.tolist() == [0, 1]
    assert rebuilt.first_is_certain


def test_hashed_addresses_of_a_recording_that_begins_in_the_middle_leave_the_first_chunk_a_guess() -> None:
    text = alloc_line(1, 0x1234, 0) + alloc_line(2, 0x5678, 0)
    assert not Rebuilt.of(read_trace_text(text)).first_is_certain
    assert Rebuilt(open_trace(REAL / "folders" / "deb61-smp4-boot")).first_is_certain


@given(calls)
def test_free_space_is_that_of_all_chunks_but_the_reserved_one(calls: list[Call]) -> None:
    rebuilt = rebuilt_from(calls)
    chunks, space = rebuilt.snapshot(len(calls)).chunks, rebuilt.free_space(len(calls))
    assert (space.free_bytes, space.sum_frag) == (chunks.free_bytes.sum(), chunks.sum_frag.sum())
    assert (space.largest_free_bytes, space.max_frag) == (chunks.largest_free_bytes.max(), chunks.max_frag.max())


def test_free_space_leaves_the_reserved_chunk_out() -> None:
    assert Rebuilt.of(read_golden_trace(""), Unit(65536, 4096, 8192, 16384, {0: 0})).free_space(0).free_bytes == 16384


@given(calls)
def test_samples_over_time_are_those_of_snapshots(calls: list[Call]) -> None:
    rebuilt = rebuilt_from(calls)
    rows = np.arange(len(calls) + 1)
    history = rebuilt.history(rows)
    for row in rows.tolist():
        chunks, chosen = rebuilt.snapshot(row).chunks, history["op"] == row
        for name in ("ordinal", "free_bytes", "largest_free_bytes", "sum_frag", "max_frag", "nr_alloc"):
            assert history[name][chosen].tolist() == getattr(chunks, name).tolist()


@pytest.mark.parametrize("kernel", [V4_13.name, V6_12.name])
def test_reserved_areas_of_an_engine_stay_in_the_reserved_chunk(kernel: str) -> None:
    engine = Engine(Geometry.simple(reserved_size=8192), kernel=kernel, jit="off")
    for reserved in (True, False, True):
        assert engine.alloc(64, 8, reserved, False)
    rebuilt = Rebuilt.of(engine.events(0), Unit.of(engine.geometry.info), engine.geometry.kernel)
    alloc = engine.events(0).event == L.EVENT_ALLOC
    assert rebuilt.event_ordinal[alloc].tolist() == [RESERVED_ORDINAL, 0, RESERVED_ORDINAL]
    assert not (rebuilt.chunks.ordinal > 0).any()


# --- damage -----------------------------------------------------------------------------------


def test_rows_that_no_kernel_writes_are_damaged() -> None:
    lines = [alloc(64 * k, 60, float(k)) for k in range(8)]
    lines[1] = lines[1].replace("align=8", "align=3")
    lines[2] = lines[2].replace("align=8", "align=131072")
    lines[3] = lines[3].replace("size=60", "size=0")
    lines[4] = lines[4].replace("off=256", "off=260")
    lines += [free(0, 8.0), free(65, 9.0)]
    events = trace_of(*lines)
    assert damaged_rows(events, None).tolist() == [1, 2, 3, 4, 9]
    assert damaged_rows(events, Unit(65536, 8192, 0, 57344, {0: 0})).tolist() == [1, 2, 3, 4, 9]


@pytest.mark.parametrize("geometry", [None, "s212992 r8192 d28672 u524288 cpus=4"])
def test_a_damaged_number_costs_its_own_line_only(geometry: str | None, tmp_path: Path) -> None:
    lines = [alloc(64 * k, 60, float(k)) for k in range(40)]
    lines[7] = lines[7].replace("size=60", "size=6000000000000")
    lines[9] = lines[9].replace("off=576", "off=2000000000" if geometry is None else "off=2000000")
    path = tmp_path / "trace.txt"
    path.write_text("\n".join([*lines, free(64 * 7, 41.0), free(0, 42.0), ""]))
    rebuilt = Rebuilt(open_trace(path, geometry=geometry))
    assert rebuilt.outside_rows.tolist() == ([7, 9, 40] if geometry is None else [7, 40])
    assert rebuilt.unmatched_frees.tolist() == []  # the free of a line that was left out is, too
    assert int(rebuilt.counters.nr_live[-1]) == (37 if geometry is None else 38)
    found = {(row.kind, row.line) for row in consistency(open_trace(path, geometry=geometry)).rows}
    assert ("outside", 8) in found
