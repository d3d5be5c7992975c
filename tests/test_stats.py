"""percpu_stats: the numbers, the file out and in, and what is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from statistics import median_low

import pytest
from golden_cases import CASES, recorded
from hypothesis import given
from hypothesis import strategies as st

from percpu_lab.engine import Engine
from percpu_lab.errors import LabError, TraceFormatError
from percpu_lab.geometry import Geometry
from percpu_lab.stats import (
    AllocInfoStats,
    ChunkStats,
    GlobalStats,
    MapStatistics,
    PercpuStats,
    map_statistics,
    read_stats,
)

U64 = st.integers(0, (1 << 64) - 1)
GOOD = """\
Percpu Memory Statistics
Allocation Info:
----------------------------------------
  unit_size               :    32768
  static_size             :     8192
  reserved_size           :     4096
  dyn_size                :    20480
  atom_size               :     4096
  alloc_size              :    32768

Global Stats:
----------------------------------------
  nr_alloc          :              9
  nr_dealloc        :              6
  nr_cur_alloc      :              3
  nr_max_alloc      :              7
  nr_chunks         :              1
  nr_max_chunks     :              1
  min_alloc_size    :             30
  max_alloc_size    :            600

Per Chunk Stats:
----------------------------------------
Chunk: <- Reserved Chunk
  nr_alloc                :        2
  max_alloc_size          :      600
  free_size               :     3368
  contig_hint             :     4096
  sum_frag                :      192
  max_frag                :      128
  cur_min_alloc           :      128
  cur_med_alloc           :      128
  cur_max_alloc           :      600

Chunk: <- First Chunk
  nr_alloc                :        1
  max_alloc_size          :      100
  free_size               :    20380
  contig_hint             :    20480
  sum_frag                :      208
  max_frag                :      208
  cur_min_alloc           :      100
  cur_med_alloc           :      100
  cur_max_alloc           :      100

"""


def recorded_stats() -> Iterator[str]:
    for case in CASES:
        for block in recorded(case, "stats.txt").split("@")[1:]:
            yield block.partition("\n")[2]


# --- map statistics ---------------------------------------------------------------


def area_map(lengths: list[tuple[int, bool]]) -> list[int]:
    entries, offset = [], 0
    for length, in_use in lengths:
        entries.append(offset | in_use)
        offset += length
    return [*entries, offset | 1]


def naive_statistics(lengths: list[tuple[int, bool]], has_reserved: bool) -> MapStatistics:
    """The specification read literally, on lists."""
    areas = lengths[1:] if has_reserved else lengths
    while areas and not areas[-1][1]:
        areas = areas[:-1]
    used, free = ([length for length, in_use in areas if in_use is wanted] for wanted in (True, False))
    if not used:
        return MapStatistics(0, 0, 0, 0, 0)
    return MapStatistics(sum(free), max(free, default=0), min(used), median_low(used), max(used))


@given(st.lists(st.tuples(st.integers(1, 2000).map(lambda n: 2 * n), st.booleans()), min_size=1), st.booleans())
def test_map_statistics_agree_with_a_naive_count(lengths: list[tuple[int, bool]], has_reserved: bool) -> None:
    assert map_statistics(area_map(lengths), has_reserved) == naive_statistics(lengths, has_reserved)


def test_median_of_an_even_number_of_areas_is_the_lower_one() -> None:
    entries = [8192 + k for k in (1, 16, 49, 96, 161, 241, 336)]  # 16, 48, 80, 96 in use; 32 and 64 free
    assert map_statistics([1, *entries, 32769], True).cur_med_alloc == 48


def test_free_space_behind_the_last_used_area_is_no_fragment() -> None:
    assert map_statistics([1, 64, 4097], False) == MapStatistics(0, 0, 64, 64, 64)


def test_an_untouched_chunk_has_five_zeros() -> None:
    assert map_statistics([0, 32769], False) == (0, 0, 0, 0, 0)


def test_a_prefix_of_length_zero_is_not_counted() -> None:
    assert map_statistics([1, 1, 8, 32769], True) == MapStatistics(0, 0, 8, 8, 8)


# --- the file -----------------------------------------------------------------------


def test_every_recorded_file_reads_and_writes_to_the_byte() -> None:
    files = list(recorded_stats())
    assert len(files) > 100
    for text in files:
        assert PercpuStats.from_text(text).text() == text


@given(st.lists(U64, min_size=23, max_size=23), st.booleans(), st.integers(0, 3))
def test_any_numbers_survive_text_and_back(numbers: list[int], has_reserved: bool, nr_plain: int) -> None:
    info, counters, rest = AllocInfoStats(*numbers[:6]), GlobalStats(*numbers[6:14]), numbers[14:]
    kinds = ["reserved"] * has_reserved + ["plain"] * nr_plain + ["first"]
    stats = PercpuStats(info, counters, tuple(ChunkStats(kind, *rest) for kind in kinds))  # type: ignore[arg-type]
    assert PercpuStats.from_text(stats.text()) == stats


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("Percpu Memory", "percpu memory", 1),
        ("  atom_size               :     4096\n", "", 8),
        ("  atom_size               :     4096", "  atom_size               :     4k96", 8),
        ("  atom_size               :     4096", "  atom_size               :    04096", 8),
        ("  atom_size               :     4096", "  atom_size               :     ٤٠٩٦", 8),
        ("  nr_alloc          :              9", "  nr_alloc          : " + "9" * 5000, 13),
        ("  nr_alloc          :              9", "  nr_alloc          : 18446744073709551616", 13),
        ("  nr_dealloc        :", "  nr_frees          :", 14),
        ("Per Chunk Stats:", "Per Chunk Stats", 22),
        ("Chunk: <- Reserved Chunk", "Chunk: <- First Chunk", 35),
        ("Chunk: <- First Chunk", "Chunk: <- Reserved Chunk", 35),
        ("Chunk: <- First Chunk", "Chunk:", 46),
        ("Chunk: <- First Chunk", "Chunk: <- Best Chunk", 35),
        ("  nr_alloc                :        1", "  nr_alloc                :        1\n" * 2, 37),
        ("Allocation Info:\n---", "Allocation Info:\n-- ", 3),
    ],
)
def test_damage_is_refused_by_line(old: str, new: str, line: int) -> None:
    assert old in GOOD
    with pytest.raises(TraceFormatError) as caught:
        PercpuStats.from_text(GOOD.replace(old, new, 1), where="stats.txt")
    assert caught.value.where == f"stats.txt line {line}"


@given(st.integers(0, len(GOOD.rstrip()) - 1))
def test_a_file_cut_off_anywhere_is_refused(length: int) -> None:
    with pytest.raises(TraceFormatError):
        PercpuStats.from_text(GOOD[:length])


@given(st.text())
def test_any_other_text_is_refused_and_nothing_worse(text: str) -> None:
    with pytest.raises(TraceFormatError, match="line 1"):
        PercpuStats.from_text(text)


def test_values_cannot_be_changed() -> None:
    stats = PercpuStats.from_text(GOOD)
    with pytest.raises(dataclasses.FrozenInstanceError):
        stats.global_stats.nr_alloc = 0  # type: ignore[misc]


def test_repr_counts_and_html_escapes() -> None:
    stats = PercpuStats.from_text(GOOD)
    assert repr(stats) == "<PercpuStats: 3 live areas, 2 chunks, 23,748 bytes free>"
    hostile = dataclasses.replace(stats.chunks[0], kind="<script>")  # type: ignore[arg-type]
    html = dataclasses.replace(stats, chunks=(hostile,))._repr_html_()
    assert html.count("<table") == 2
    assert "<script>" not in html
    assert "color" not in html.replace("currentColor", "")


def test_frame_has_a_row_a_chunk() -> None:
    pytest.importorskip("pandas")
    frame = PercpuStats.from_text(GOOD).frame()
    assert frame["kind"].tolist() == ["reserved", "first"]
    assert frame["free_size"].sum() == 23748


# --- of an engine --------------------------------------------------------------------


def test_stats_of_a_fresh_engine_say_nothing_was_asked() -> None:
    engine = Engine(Geometry.simple(), jit="off")
    stats = read_stats(engine)
    assert stats.global_stats == GlobalStats(0, 0, 0, 0, 1, 1, engine.geometry.info.unit_size, 0)
    assert stats.chunks[0].kind == "first"
    assert stats.chunks[0].free_size == engine.geometry.info.dyn_size


def test_stats_count_what_was_asked_not_what_was_taken() -> None:
    engine = Engine(Geometry.simple(), jit="off")
    first = engine.alloc(12, 4, False, False)
    engine.alloc(100, 4, False, False)
    engine.free(first)
    engine.alloc(10, 2, False, False)  # absorbs the 2 bytes behind it
    stats = read_stats(engine)
    assert (stats.global_stats.min_alloc_size, stats.chunks[0].cur_min_alloc) == (10, 12)
    assert stats.global_stats.nr_cur_alloc == stats.chunks[0].nr_alloc == 2


def test_an_engine_without_statistics_says_so() -> None:
    engine = Engine(Geometry.simple(), stats=False, jit="off")
    with pytest.raises(LabError, match="CONFIG_PERCPU_STATS=n"):
        read_stats(engine)
