"""What lint finds in one reading of percpu_stats, and what diff finds between two."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from golden_cases import BITMAP_CASES, CASES, recorded
from hypothesis import given
from hypothesis import strategies as st

from percpu_lab.engine import Engine
from percpu_lab.geometry import Geometry
from percpu_lab.stats import PercpuStats, as_json, diff, lint, read_stats, read_stats_texts

REAL = Path(__file__).parent / "data" / "real"
STATS = PercpuStats.from_text((REAL / "stats" / "pcs-smp4-medium-021-final.txt").read_text())


def of_real_kernels() -> list[PercpuStats]:
    paths = [*(REAL / "stats").glob("*.txt"), *(REAL / "folders").glob("*/stats/*.txt")]
    return [found.stats for path in sorted(paths) for found in read_stats_texts(path.read_text())]


def recorded_stats(kernel: str) -> list[PercpuStats]:
    cases = BITMAP_CASES if kernel == "bitmap" else CASES
    blocks = [block for case in cases for block in recorded(case, "stats.txt").split("@")[1:]]
    return [PercpuStats.from_text(block.partition("\n")[2]) for block in blocks]


def with_global(stats: PercpuStats, **values: int) -> PercpuStats:
    return replace(stats, global_stats=replace(stats.global_stats, **values))


def with_chunk(stats: PercpuStats, number: int, **values: Any) -> PercpuStats:
    chunks = list(stats.chunks)
    chunks[number] = replace(chunks[number], **values)
    return replace(stats, chunks=tuple(chunks))


# --- lint -------------------------------------------------------------------------------


def test_healthy_files_of_real_kernels_have_no_finding() -> None:
    read = of_real_kernels()
    assert len(read) == 8
    assert [stats.global_stats.nr_chunks for stats in read if lint(stats)] == [48]  # patched-after.txt, see below


@pytest.mark.parametrize("kernel", ["areamap", "bitmap"])
def test_recorded_files_have_no_finding(kernel: str) -> None:
    found = [lint(stats) for stats in recorded_stats(kernel)]
    assert len(found) > 50
    assert not any(found)


def test_hidden_chunks_are_told_from_one_file_with_what_they_hold() -> None:
    stats = PercpuStats.from_text((REAL / "stats" / "patched-after.txt").read_text())
    (finding,) = lint(stats)
    assert (finding.rule, finding.severity, finding.chunk) == ("hidden-chunks", "warning", None)
    assert "43 of 48 chunks are not listed" in finding.text
    assert "0 areas" in finding.text
    assert "45 of the 61 empty populated pages" in finding.text
    assert "28,180,480 bytes" in finding.text


@pytest.mark.parametrize(
    ("change", "rules"),
    [
        ({"nr_dealloc": 1}, {"counts"}),
        ({"nr_max_alloc": 1}, {"counts"}),
        ({"nr_max_chunks": 0}, {"counts"}),
        ({"max_alloc_size": 2}, {"sizes", "area-sizes"}),
        ({"max_alloc_size": 1 << 20}, {"sizes"}),
        ({"nr_chunks": 5}, {"counts", "hidden-chunks"}),
        ({"nr_chunks": 1}, {"hidden-chunks"}),
        ({"empty_pop_pages": 99}, {"empty-pages"}),
    ],
)
def test_counters_that_contradict_others_are_told(change: dict[str, int], rules: set[str]) -> None:
    assert {finding.rule for finding in lint(with_global(STATS, **change))} == rules


@pytest.mark.parametrize(
    ("number", "change", "rules"),
    [
        (1, {"nr_alloc": 1}, {"live-areas", "used-bytes"}),
        (1, {"nr_alloc": 0}, {"live-areas", "free-bytes", "area-sizes"}),
        (0, {"free_bytes": 8192}, {"free-bytes"}),
        (1, {"free_bytes": 1 << 20}, {"free-bytes", "used-bytes"}),
        (1, {"contig_bytes": 1 << 20}, {"contig"}),
        (1, {"max_frag": 1 << 20}, {"fragments"}),
        (1, {"cur_min_alloc": 1 << 20}, {"area-sizes", "used-bytes"}),
        (1, {"cur_med_alloc": 0}, {"area-sizes"}),
        (1, {"cur_max_alloc": 1 << 14}, {"area-sizes"}),
        (1, {"empty_pop_pages": 50}, {"empty-pages"}),
        (0, {"empty_pop_pages": 50}, set()),
        (2, {"kind": "first"}, {"chunk-kinds", "free-bytes"}),
        (0, {"max_alloc_size": 18}, {"granule"}),
    ],
)
def test_chunks_that_contradict_themselves_are_told(number: int, change: dict[str, Any], rules: set[str]) -> None:
    found = lint(with_chunk(STATS, number, **change))
    assert {finding.rule for finding in found} == rules
    assert {finding.chunk for finding in found} <= {None, number}


def test_a_layout_that_does_not_fit_is_told() -> None:
    found = lint(replace(STATS, alloc_info=replace(STATS.alloc_info, static_size=1 << 20)))
    assert [finding.rule for finding in found] == ["layout"]


def test_a_missing_reserved_chunk_is_told() -> None:
    found = lint(replace(STATS, chunks=STATS.chunks[1:]))
    assert [finding.rule for finding in found] == ["chunk-kinds", "live-areas"]


def test_the_empty_pages_of_isolated_chunks_do_not_count() -> None:
    pages = STATS.chunks[2].empty_pop_pages  # type: ignore[union-attr]
    isolated = with_chunk(STATS, 2, kind="sidelined")
    total = STATS.global_stats.empty_pop_pages - pages  # type: ignore[attr-defined]
    assert not lint(with_global(isolated, empty_pop_pages=total))


REQUESTS = st.lists(st.tuples(st.integers(1, 3000), st.sampled_from([4, 8, 64]), st.booleans()), max_size=60)


@pytest.mark.parametrize(
    ("kernel", "static_size", "dyn_size"),
    [("v4.13-areamap", 8192, 24576), ("v6.12-bitmap", 8192, 24576), ("v6.12-bitmap", 8193, 24475)],
)
@given(requests=REQUESTS, is_atomic=st.booleans(), reserved=st.booleans())
def test_an_engine_gives_no_finding_whatever_is_asked_of_it(
    kernel: str,
    static_size: int,
    dyn_size: int,
    requests: list[tuple[int, int, bool]],
    is_atomic: bool,
    reserved: bool,
) -> None:
    geometry = Geometry.simple(static_size=static_size, reserved_size=4096, dyn_size=dyn_size)
    engine = Engine(geometry, kernel=kernel, jit="off")
    for size, align, then_free in requests:
        pointer = engine.alloc(size, align, reserved, is_atomic)
        if then_free and pointer:
            engine.free(pointer)
    engine.balance()
    assert not lint(read_stats(engine))


def test_findings_print_one_a_line_and_escape_in_html() -> None:
    found = lint(with_global(STATS, nr_dealloc=1, nr_chunks=1))
    assert str(found).splitlines()[0].startswith("error: counts: nr_alloc ")
    assert len(str(found).splitlines()) == len(found)
    assert found._repr_html_().count("<li>") == len(found)
    assert str(lint(STATS)) == "the numbers agree with each other"


def test_json_has_layout_counters_chunks_with_kinds_and_findings() -> None:
    stats = PercpuStats.from_text((REAL / "stats" / "patched-after.txt").read_text())
    document = json.loads(json.dumps(as_json(stats, lint(stats))))
    assert document["alloc_info"]["unit_size"] == 655360
    assert document["global"]["nr_chunks"] == 48
    assert [chunk["kind"] for chunk in document["chunks"]] == ["first", "plain", "plain", "plain", "plain"]
    assert document["chunks"][4]["memcg_aware"] == 1
    assert document["findings"][0]["rule"] == "hidden-chunks"
    assert "43 of 48" in document["findings"][0]["text"]


def test_json_has_the_values_of_unknown_labels() -> None:
    text = STATS.text().replace("  empty_pop_pages", "  nr_huge             :            7\n  empty_pop_pages")
    document = as_json(PercpuStats.from_text(text), lint(STATS))
    assert [document["global"]["nr_huge"], document["chunks"][0]["nr_huge"]] == [7, 7]


# --- diff -------------------------------------------------------------------------------


def test_nothing_changed_between_a_file_and_itself() -> None:
    same = diff(STATS, STATS)
    assert (same.info, same.counters, same.chunks, same.nr_same_chunks) == ((), (), (), len(STATS.chunks))
    assert not same.is_backwards


def test_counters_say_what_was_and_what_is() -> None:
    changed = diff(STATS, with_global(STATS, nr_alloc=STATS.global_stats.nr_alloc + 5))
    assert [str(change).endswith("(+5)") for change in changed.counters] == [True]
    assert changed.counters[0].change == 5


def test_first_and_reserved_chunk_are_the_same_whatever_is_in_them() -> None:
    after = with_chunk(with_chunk(STATS, 0, max_alloc_size=0, nr_alloc=0), 1, nr_alloc=1, free_bytes=4)
    assert [(chunk.before, chunk.after) for chunk in diff(STATS, after).chunks] == [(0, 0), (1, 1)]


@given(st.permutations(range(6)))
def test_chunks_are_found_again_in_another_order(order: list[int]) -> None:
    plain = STATS.chunks[2]
    others = [replace(plain, nr_alloc=10 + k, free_bytes=1000 * (k + 1)) for k in range(6)]
    before = replace(STATS, chunks=(*STATS.chunks[:2], *others))
    after = replace(STATS, chunks=(*STATS.chunks[:2], *(others[k] for k in order)))
    assert diff(before, after).nr_same_chunks == 8


def test_a_chunk_is_not_taken_for_one_that_once_held_more() -> None:
    before = with_chunk(STATS, 2, max_alloc_size=8192)
    after = with_chunk(STATS, 2, max_alloc_size=64)
    assert [(chunk.before, chunk.after) for chunk in diff(before, after).chunks] == [(None, 2), (2, None)]


def test_what_a_mail_told_of_depopulation() -> None:
    before, after = read_stats_texts((REAL / "stats" / "later-before-and-after-quoted.txt").read_text())
    changed = diff(before.stats, after.stats)
    assert [str(change) for change in changed.counters if change.label == "nr_chunks"] == ["nr_chunks 3 -> 11 (+8)"]
    assert sum(chunk.before is None for chunk in changed.chunks) == 8
    assert not any(chunk.after is None for chunk in changed.chunks)
    assert "sidelined chunk (block 9 after): new" in changed.text()


def test_two_boots_or_swapped_files_are_told() -> None:
    before, after = read_stats_texts((REAL / "stats" / "later-before-and-after-quoted.txt").read_text())
    assert diff(after.stats, before.stats).is_backwards
    assert "swapped, or of two boots" in str(diff(after.stats, before.stats))
    assert diff(STATS, before.stats).info
