"""The worked examples of the v6.12 specification, section 10, compiled and plain alike.

Chunk 0 is the first chunk, 1, 2, ... those created later. The usual geometry: a unit of 32768 bytes, 8192 of them
static, 24576 dynamic, two CPUs; so chunk 0 has 6 blocks, bits 0 to 6143, 6 empty pages, and slot 12.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest

from percpu_lab import compiled
from percpu_lab.columns import FREE as FREE_AREA
from percpu_lab.columns import IN_USE, OUTSIDE, STATIC, Snapshot, snapshot
from percpu_lab.core import layout as L
from percpu_lab.engine import Engine
from percpu_lab.geometry import AllocInfo, Geometry, GroupInfo
from percpu_lab.kernels import V6_12
from percpu_lab.models import BitmapChunkState, BlockMd
from percpu_lab.stats import ChunkStatsV6, PercpuStats, read_stats
from percpu_lab.tracepoints import PercpuAllocPercpu
from percpu_lab.validate_bitmap import validate_bitmap_engine

SIDELINED, FREE, TO_DEPOPULATE = 14, 15, 16
ALL = 24576  # all of chunk 0
PAGE = 4096
Place = tuple[int, int]  # ordinal of a chunk, offset in it


class Machine:
    """An engine whose areas are named by chunk and offset."""

    def __init__(
        self,
        *,
        is_compiled: bool,
        nr_cpus: int = 2,
        static: int = 8192,
        reserved: int = 0,
        dyn: int = ALL,
        km: bool = False,
    ) -> None:
        group = GroupInfo(nr_cpus, 0, tuple(range(nr_cpus)))
        info = AllocInfo(static, reserved, dyn, 32768, PAGE, 32768, (group,), tuple(range(nr_cpus)))
        self.engine = Engine(Geometry.from_info(info, backing="km" if km else "vm", kernel=V6_12), jit="off")
        if is_compiled:
            module = compiled.request("bitmap", wait=True)
            assert module is not None
            self.engine._use(module)

    def alloc(self, size: int, align: int = 4, *, reserved: bool = False, atomic: bool = False) -> Place | None:
        ptr = self.engine.alloc(size, align, reserved, atomic)
        return self.engine.place(ptr) if ptr else None

    def allocs(self, *sizes: int) -> list[Place]:
        places = [self.alloc(size) for size in sizes]
        assert None not in places
        return [place for place in places if place]

    def pages(self, count: int) -> list[Place]:
        places = [self.alloc(PAGE, PAGE) for _ in range(count)]
        return [place for place in places if place]

    def free(self, *places: Place | None) -> None:
        for place in places:
            assert place is not None
            self.engine.free(self.engine.pointer(*place))

    def balance(self) -> None:
        assert self.engine.balance()

    def chunk(self, ordinal: int = 0) -> BitmapChunkState:
        if ordinal < 0:
            return self.engine.reserved_chunk()
        return next(chunk for chunk in self.engine.chunks() if chunk.ordinal == ordinal)

    def slot(self, number: int) -> list[int]:
        return [chunk.ordinal for chunk in self.engine.chunks() if chunk.slot == number]

    @property
    def nr_empty(self) -> int:
        return self.engine.scalar(L.NR_EMPTY_POP_PAGES)

    @property
    def messages(self) -> list[str]:
        return [text for op, text in self.engine.dmesg() if op >= 0]

    def events(self) -> list[str]:
        return self.engine.events(0).text("plain").splitlines()


def hints(md: BlockMd) -> tuple[str, str]:
    """scan and contig run as length@start."""
    scan = f"{md.scan_hint}@{md.scan_hint_start}" if md.scan_hint else "0"
    return scan, f"{md.contig_hint}@{md.contig_hint_start}" if md.contig_hint else "0"


needs_numba = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba is not installed")
KINDS = ["plain", pytest.param("compiled", marks=needs_numba)]


@pytest.fixture(params=KINDS)
def is_compiled(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "compiled")


@pytest.fixture
def m(is_compiled: bool) -> Iterator[Machine]:
    machine = Machine(is_compiled=is_compiled)
    yield machine
    validate_bitmap_engine(machine.engine)


def test_usual_first_chunk(m: Machine) -> None:
    chunk = m.chunk()
    assert (chunk.slot, chunk.nr_pages, chunk.free_bytes, m.nr_empty) == (12, 6, ALL, 6)
    assert hints(chunk.chunk_md) == ("0", "6144@0")
    assert chunk.base_addr == m.engine.geometry.addresses.first_chunk + 8192


def test_01_a_free_inside_a_later_block_is_invisible(m: Machine) -> None:
    m.pages(5)
    small = [m.alloc(64) for _ in range(64)]
    assert m.chunk().slot == 0
    m.free(small[10])
    assert small[10] == (0, 21120)
    chunk = m.chunk()
    assert (chunk.free_bytes, chunk.chunk_md.first_free, chunk.contig_bytes, chunk.slot) == (64, 5280, 0, 0)
    assert m.alloc(64) == (1, 0)


def test_01_a_free_that_completes_a_page_is_seen(m: Machine) -> None:
    halves = m.allocs(*[2048] * 12)
    m.free(halves[2])
    assert hints(m.chunk().chunk_md)[1] == "0"
    m.free(halves[3])
    assert (hints(m.chunk().chunk_md)[1], m.chunk().slot) == ("1024@1024", 10)
    m.free(halves[4])
    assert hints(m.chunk().chunk_md)[1] == "1024@1024"


def test_02_each_boot_chunk_counts_offsets_from_its_own_page(is_compiled: bool) -> None:
    m = Machine(is_compiled=is_compiled, static=8193, reserved=100, dyn=24475)
    assert m.alloc(3) == (0, 104)
    assert m.alloc(3, 3, reserved=True) == (-1, 4)
    base = m.engine.geometry.addresses.first_chunk
    created, first, reserved = m.engine.events(0)
    assert created.text().endswith(f"base_addr={base:016x}")
    assert isinstance(first, PercpuAllocPercpu)
    assert isinstance(reserved, PercpuAllocPercpu)
    assert (first.size, first.align, first.off, first.ptr, first.base_addr) == (4, 4, 104, 0x2068, base + 8192)
    assert (reserved.align, reserved.off, reserved.ptr, reserved.base_addr) == (4, 4, 0x2004, base + 8192)


def test_02_hidden_bytes_of_the_boot_chunks(is_compiled: bool) -> None:
    m = Machine(is_compiled=is_compiled, static=8193, reserved=100, dyn=24475)
    reserved, first = m.chunk(-1), m.chunk(0)
    assert (reserved.start_offset, reserved.end_offset, reserved.nr_pages, reserved.free_bytes) == (4, 3992, 1, 100)
    assert (reserved.alloc_map.tolist(), reserved.bound_map.tolist()) == ([[0, 1], [26, 1024]], [0, 1, 26, 1024])
    assert (hints(reserved.chunk_md), reserved.nr_empty_pop_pages) == (("0", "25@1"), 0)
    assert (first.start_offset, first.end_offset, first.nr_pages, first.free_bytes) == (104, 0, 6, 24472)
    assert hints(first.chunk_md)[1] == "6118@26"
    assert (first.chunk_md.left_free, first.chunk_md.right_free, first.nr_empty_pop_pages) == (6144, 6118, 5)
    validate_bitmap_engine(m.engine)


def test_03_illegal_requests_warn_and_leave_no_event(m: Machine) -> None:
    assert [m.alloc(*request) for request in ((0, 4), (32769, 4), (8, 6), (8, 8192))] == [None] * 4
    assert m.messages[1] == "WARN: illegal size (32772) or align (4) for percpu allocation"
    assert len(m.messages) == 4
    assert len(m.events()) == 1
    assert m.alloc(32766) == (1, 0)


def test_04_the_scan_run_says_where_to_begin(m: Machine) -> None:
    areas = m.allocs(*[64] * 8)
    m.free(areas[1], areas[4], areas[5])
    assert hints(m.chunk().chunk_md) == ("32@64", "6016@128")
    assert hints(m.chunk().md_blocks[0]) == ("32@64", "896@128")
    assert m.chunk().md_blocks[0].first_free == 16
    assert m.alloc(100) == (0, 256)
    assert m.alloc(160) == (0, 512)
    assert hints(m.chunk().md_blocks[0]) == ("16@16", "856@168")
    assert m.chunk().chunk_md.scan_hint == 0
    assert m.alloc(64) == (0, 64)


def test_05_the_largest_run_passed_over_becomes_the_scan_run(m: Machine) -> None:
    areas = m.allocs(*[64] * 8)
    m.free(areas[1], areas[4])
    assert hints(m.chunk().md_blocks[0])[0] == "16@64"
    assert m.alloc(64, 256) == (0, 256)
    assert hints(m.chunk().md_blocks[0])[0] == "0"
    assert m.alloc(100) == (0, 512)
    assert hints(m.chunk().md_blocks[0])[0] == "16@16"


def test_06_among_equal_runs_the_better_aligned_is_kept(m: Machine) -> None:
    areas = m.allocs(4, *[60] * 60, 492)
    m.free((0, 451 * 4))
    assert hints(m.chunk().md_blocks[0])[1] == "15@451"
    m.free((0, 241 * 4))
    assert hints(m.chunk().md_blocks[0]) == ("15@241", "15@451")
    m.free((0, 676 * 4))
    assert hints(m.chunk().md_blocks[0]) == ("15@241", "15@676")
    assert hints(m.chunk().chunk_md) == ("15@676", "5120@1024")
    assert len(areas) == 62


def test_07_a_scan_run_may_lie_inside_the_contig_run(m: Machine) -> None:
    small = m.allocs(*[4] * 16)
    m.allocs(ALL - 64)
    m.free(small[1], small[3], small[5], small[7])
    assert hints(m.chunk().md_blocks[0]) == ("1@7", "1@1")
    m.free(small[8])
    assert hints(m.chunk().md_blocks[0]) == ("1@7", "2@7")
    m.free(small[9], small[10], small[11])
    assert hints(m.chunk().md_blocks[0]) == ("0", "5@7")


def test_08_a_promoted_scan_run_loses_the_right_edge(m: Machine) -> None:
    areas = m.allocs(*[1024] * 4)
    m.free(areas[1], areas[3])
    block = m.chunk().md_blocks[0]
    assert (hints(block), block.right_free) == (("256@768", "256@256"), 256)
    assert m.alloc(100) == (0, 1024)
    block = m.chunk().md_blocks[0]
    assert (hints(block), block.right_free) == (("0", "256@768"), 0)
    assert m.alloc(21000) == (1, 0)


def test_09_a_chunk_parked_in_slot_0_stays_until_its_slot_changes(m: Machine) -> None:
    small = m.allocs(*[4] * 16)
    m.allocs(ALL - 64)
    m.free(small[1], small[3], small[5])
    assert m.chunk().slot == 1
    assert m.alloc(8) == (1, 0)
    assert m.chunk().slot == 0
    assert m.alloc(4) == (1, 8)
    for k in (7, 8, 9):
        m.free(small[k])
        assert m.chunk().slot == 0
    m.free(small[10])
    assert m.chunk().slot == 2


def test_10_a_chunk_is_refused_by_the_alignment_of_its_contig_run(m: Machine) -> None:
    areas = m.allocs(4096, 4, 4092, 4096, 4, 4800, 7484)
    m.free(areas[3], areas[5])
    assert hints(m.chunk().chunk_md) == ("1024@2048", "1200@3073")
    assert m.alloc(4096, 4096) == (1, 0)


def test_11_hints_decide_where_a_chunk_is_searched(m: Machine) -> None:
    areas = m.allocs(*[2048] * 12)
    m.free(*(areas[off // 2048] for off in (0, 6144, 12288, 14336, 16384)))
    assert hints(m.chunk().chunk_md) == ("512@1536", "1024@3072")
    assert m.alloc(2052) == (0, 12288)
    assert [m.alloc(2048) for _ in range(3)] == [(0, 0), (0, 6144), (0, 14340)]


def test_12_blocks_in_between_keep_their_first_free(m: Machine) -> None:
    assert m.alloc(32768) == (1, 0)
    blocks = m.chunk(1).md_blocks
    assert [block.first_free for block in blocks] == [1024, 0, 0, 0, 0, 0, 0, 1024]
    assert {block.contig_hint for block in blocks} == {0}


def sideline(m: Machine) -> None:
    """Chunk 1 with its first half in use and its pages 4 to 7 given back, chunk 2 with 28672 bytes free."""
    m.alloc(ALL)
    first, second = m.pages(8), m.pages(8)
    m.free(*second[1:])
    m.free(*first[4:])
    m.balance()
    assert m.slot(SIDELINED) == [1]
    assert (m.chunk(1).contig_bytes, m.chunk(1).populated) == (16384, ((0, 4),))


def test_13_sidelined_chunks_come_behind_all_active_ones(m: Machine) -> None:
    sideline(m)
    assert m.alloc(28672) == (2, 4096)
    assert m.alloc(6000) == (1, 16384)
    assert (m.chunk(1).isolated, m.chunk(1).populated) == (False, ((0, 6),))


def test_13_a_sidelined_chunk_too_small_stays_sidelined(m: Machine) -> None:
    sideline(m)
    m.alloc(28672)
    assert m.alloc(30000) == (3, 0)
    assert m.slot(SIDELINED) == [1]


def test_14_a_chunk_is_isolated_when_enough_empty_pages_remain(m: Machine) -> None:
    m.alloc(ALL)
    first, second = m.pages(8), m.pages(8)
    m.free(*second[1:])
    assert (m.nr_empty, m.chunk(2).isolated) == (7, False)
    m.free(first[7])
    assert (m.nr_empty, m.chunk(1).isolated) == (8, False)
    m.free(first[6])
    assert (m.nr_empty, m.chunk(1).isolated, m.slot(TO_DEPOPULATE)) == (7, True, [1])
    m.free(first[5], first[4])
    assert m.nr_empty == 7
    m.balance()
    assert (m.chunk(1).populated, m.slot(SIDELINED)) == (((0, 4),), [1])


def test_15_reclaim_gives_up_when_few_empty_pages_remain(m: Machine) -> None:
    m.alloc(ALL)
    first, second = m.pages(8), m.pages(8)
    m.free(*second[1:])
    m.free(first[7], first[6])
    assert m.alloc(16384, 4096) == (2, 4096)
    assert m.nr_empty == 3
    m.balance()
    assert (m.nr_empty, m.chunk(1).isolated, m.chunk(1).populated) == (5, False, ((0, 8),))
    assert m.slot(m.chunk(1).slot)[0] == 1


def test_16_pages_populated_in_a_sidelined_chunk_do_not_count(m: Machine) -> None:
    sideline(m)
    m.alloc(28672)
    assert m.nr_empty == 0
    m.balance()
    assert (m.nr_empty, m.chunk(1).populated, m.chunk(1).isolated) == (0, ((0, 8),), True)
    assert not m.slot(FREE)
    assert m.alloc(100, atomic=True) == (1, 16384)
    assert m.nr_empty == 3


def test_17_the_first_free_chunk_is_spared_the_others_go_from_the_end(m: Machine) -> None:
    m.alloc(ALL)
    m.free(*m.allocs(*[32768] * 4))
    assert m.slot(FREE) == [4, 3, 2, 1]
    seen = len(m.events())
    m.balance()
    destroyed = [event for event in m.engine.events(seen) if event.name == "percpu_destroy_chunk"]
    assert len(destroyed) == 3
    assert m.engine.events(seen).chunk.tolist() == [1, 2, 3]
    assert m.slot(FREE) == [4]


def test_18_a_free_chunk_that_was_isolated_becomes_the_spare(m: Machine) -> None:
    m.alloc(ALL)
    first, second = m.pages(8), m.pages(8)
    m.free(*second)
    m.free(*first)
    assert m.chunk(1).isolated
    m.balance()
    assert m.slot(FREE) == [1, 2]
    assert (m.chunk(1).nr_populated, m.chunk(2).nr_populated, m.nr_empty) == (0, 8, 8)


def test_19_an_atomic_failure_has_four_pages_populated(m: Machine) -> None:
    m.alloc(ALL, atomic=True)
    assert m.alloc(8, atomic=True) is None
    m.balance()
    assert m.chunk(1).populated == ((0, 4),)
    assert m.alloc(8, atomic=True) == (1, 0)
    assert m.alloc(20000, atomic=True) is None
    assert m.nr_empty == 3
    m.balance()
    assert (m.chunk(1).populated, m.nr_empty) == (((0, 8),), 7)


def test_20_a_failed_population_is_undone_but_counted(m: Machine) -> None:
    m.alloc(ALL)
    areas = m.pages(3)
    m.free(areas[1])
    before, nr_empty, seen = m.chunk(1), m.nr_empty, len(m.events())
    stats = read_stats(m.engine).global_stats
    m.engine.set_fault("page", 1)
    assert m.alloc(16384, 4096) is None
    after, now = m.chunk(1), read_stats(m.engine).global_stats
    assert (after.chunk_md, after.md_blocks[:3], m.nr_empty) == (before.chunk_md, before.md_blocks[:3], nr_empty)
    assert (now.nr_alloc, now.nr_dealloc) == (stats.nr_alloc + 1, stats.nr_dealloc + 1)
    assert [event.name for event in m.engine.events(seen)] == ["percpu_alloc_percpu_fail"]
    assert m.messages[-1].endswith("atomic=0, failed to populate")


def block(m: Machine) -> ChunkStatsV6:
    stats = read_stats(m.engine).chunks[0]
    assert isinstance(stats, ChunkStatsV6)
    return stats


def test_21_statistics_lose_the_last_bit(m: Machine) -> None:
    m.alloc(ALL)
    assert (block(m).cur_min_alloc, block(m).cur_med_alloc, block(m).cur_max_alloc) == (24572,) * 3
    m.free((0, 0))
    first, _ = m.allocs(24572, 4)
    assert (block(m).nr_alloc, block(m).cur_min_alloc, block(m).cur_max_alloc) == (2, 24572, 24572)
    m.free(first)
    assert (block(m).sum_frag, block(m).max_frag) == (24572, 24572)
    assert (block(m).cur_min_alloc, block(m).cur_max_alloc) == (4, 4)


def test_22_the_median_is_the_middle_of_the_areas(m: Machine) -> None:
    areas = m.allocs(8, 16, 24, 32, 40)
    m.free(areas[1])
    stats = block(m)
    assert (stats.cur_min_alloc, stats.cur_med_alloc, stats.cur_max_alloc, stats.sum_frag) == (8, 24, 40, 16)


def test_23_atomic_failures_use_the_limit_of_warnings_up_too(m: Machine) -> None:
    m.engine.set_fault("vm", 100)
    m.alloc(ALL)
    for k in range(12):
        assert m.alloc(64, atomic=k < 6) is None
    assert len(m.messages) == 11
    assert m.messages[0] == "percpu: allocation failed, size=64 align=4 atomic=1, atomic alloc failed, no space left"
    assert m.messages[-1] == "percpu: limit reached, disable warning"
    assert sum("percpu_alloc_percpu_fail" in event for event in m.events()) == 12


def test_24_km_chunks_are_whole_from_the_beginning(is_compiled: bool) -> None:
    m = Machine(is_compiled=is_compiled, nr_cpus=3, km=True)
    assert m.engine.dmesg()[0][1] == "percpu: wasting 8 pages per chunk"
    m.alloc(ALL)
    m.balance()
    assert (m.slot(FREE), m.nr_empty) == ([1], 8)
    big = m.alloc(32768)
    assert (big, m.nr_empty) == ((1, 0), 0)
    assert m.alloc(8) == (2, 0)
    assert m.nr_empty == 7
    m.engine.balance()
    m.free(big)
    assert m.nr_empty == 15
    assert not m.engine.scalar(L.BALANCE_PENDING)
    validate_bitmap_engine(m.engine)


def test_25_an_odd_dynamic_size_loses_bytes(is_compiled: bool) -> None:
    m = Machine(is_compiled=is_compiled, static=8193, reserved=100, dyn=20480)
    chunk = m.chunk()
    assert (chunk.start_offset, chunk.end_offset, chunk.free_bytes) == (104, 3995, 20477)
    assert (chunk.bound_map.tolist(), chunk.alloc_map.tolist()) == ([0, 26, 5145, 6144], [[0, 26], [5146, 6144]])
    m.alloc(100)
    assert (m.chunk().free_bytes, m.chunk().contig_bytes) == (20377, 20380)
    validate_bitmap_engine(m.engine)


def test_26_a_page_stops_being_empty_once(m: Machine) -> None:
    m.alloc(8)
    assert m.nr_empty == 5
    assert m.alloc(4096) == (0, 8)
    assert m.nr_empty == 4


def test_27_a_chunk_to_be_depopulated_is_out_of_reach(m: Machine) -> None:
    sideline(m)
    m.free((1, 8192))
    assert m.slot(TO_DEPOPULATE) == [1]
    m.alloc(28672)
    assert m.alloc(2000, atomic=True) is None


def test_28_atomic_requests_pass_over_pages_that_are_not_populated(m: Machine) -> None:
    m.alloc(ALL, atomic=True)
    m.alloc(8)  # chunk 1, page 0
    hole = m.alloc(12288, 4096)
    m.engine.set_fault("page", 1)
    assert hole == (1, 4096)
    assert m.alloc(8192) is None
    far = m.alloc(4096, 4096)
    assert far == (1, 16384)
    assert m.chunk(1).populated == ((0, 5),)
    m.free(hole)
    assert m.alloc(12288, 4096, atomic=True) == (1, 4096)
    assert m.alloc(4100, atomic=True) is None


# --- what views are given -----------------------------------------------------------


def shown(snap: Snapshot, ordinal: int) -> list[tuple[int, int, int]]:
    """Kind, offset and size of each area of a chunk."""
    areas, rows = snap.areas, snap.areas.chunk == snap.row_of(ordinal)
    columns = (areas.kind[rows].tolist(), areas.off_bytes[rows].tolist(), areas.size_bytes[rows].tolist())
    return list(zip(*columns, strict=True))


def test_a_snapshot_shows_every_area_of_every_chunk(is_compiled: bool) -> None:
    m = Machine(is_compiled=is_compiled, static=8196, reserved=100, dyn=24400)
    areas = m.allocs(60, 60, 8, 4096, 100, 30000)
    m.free(areas[1], areas[3])
    assert m.alloc(20, reserved=True) == (-1, 4)
    snap = snapshot(m.engine)
    assert shown(snap, -1) == [(STATIC, 0, 4), (IN_USE, 4, 20), (FREE_AREA, 24, 80), (OUTSIDE, 104, 32664)]
    assert shown(snap, 1) == [(IN_USE, 0, 30000), (FREE_AREA, 30000, 2768)]
    in_use = [(off, size) for kind, off, size in shown(snap, 0) if kind == IN_USE]
    assert in_use == [(areas[0][1], 60), (areas[2][1], 8), (areas[4][1], 100)]
    assert snap.areas.requested_bytes[snap.areas.kind == IN_USE].tolist() == [20, 30000, 60, 8, 100]
    assert snap.areas.birth[snap.areas.kind == IN_USE].tolist() == [8, 5, 0, 2, 4]


def test_a_snapshot_has_the_numbers_of_each_chunk(m: Machine) -> None:
    areas = m.allocs(60, 60, 8, 4096, 100, 30000)
    m.free(areas[1], areas[3])
    columns, chunks = snapshot(m.engine).chunks, m.engine.chunks()
    assert columns.ordinal.tolist() == [chunk.ordinal for chunk in chunks]
    assert columns.free_bytes.tolist() == [chunk.free_bytes for chunk in chunks]
    assert columns.contig_hint.tolist() == [chunk.contig_bytes for chunk in chunks]
    assert columns.first_free_off.tolist() == [4 * chunk.chunk_md.first_free for chunk in chunks]
    assert columns.base_addr.tolist() == [chunk.base_addr for chunk in chunks]
    assert columns.nr_populated.tolist() == [chunk.nr_populated for chunk in chunks]


def test_history_has_the_fragments_of_percpu_stats(m: Machine) -> None:
    areas = m.allocs(*[100] * 40)
    m.free(*areas[::3])
    m.engine._sample(1)
    history, stats = m.engine.history(), block(m)
    assert (history["sum_frag"][-1], history["max_frag"][-1]) == (stats.sum_frag, stats.max_frag)
    assert history["free_bytes"][-1] == stats.free_bytes
    assert history["largest_free_bytes"][-1] == ALL - 3900


def test_percpu_stats_can_be_read_back(m: Machine) -> None:
    sideline(m)
    stats = read_stats(m.engine)
    assert [chunk.kind for chunk in stats.chunks] == ["first", "plain", "sidelined"]
    assert PercpuStats.from_text(stats.text()) == stats
