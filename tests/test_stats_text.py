"""percpu_stats of every kernel, out and in, and what becomes of it in mails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from percpu_lab.errors import RequestError, TraceFormatError
from percpu_lab.kernels import KERNEL_VERSIONS, STATS_LAYOUTS
from percpu_lab.stats import AllocInfoStats, ChunkStatsV5, PercpuStats, UnknownLine, read_stats_texts
from percpu_lab.stats.values import types_of

REAL = Path(__file__).parent / "data" / "real"
FILES = sorted([*(REAL / "stats").glob("pcs-*.txt"), *(REAL / "folders").glob("*/stats/*.txt")])
U64 = st.integers(0, (1 << 64) - 1)
S64 = st.integers(-(1 << 63), (1 << 63) - 1)


def numbers(kind: type, values: st.SearchStrategy[int], *before: Any) -> st.SearchStrategy[Any]:
    labels = [name for name in kind.__dataclass_fields__ if name != "kind"]
    return st.lists(values, min_size=len(labels), max_size=len(labels)).map(lambda found: kind(*before, *found))


@st.composite
def any_stats(draw: st.DrawFn) -> PercpuStats:
    layout = STATS_LAYOUTS[draw(st.sampled_from(sorted(STATS_LAYOUTS)))]
    global_, chunk = types_of(layout)
    others = ["plain"] if layout.name == "v4.13" else ["plain", "sidelined", "to_depopulate"]
    kinds = ["reserved"] * draw(st.integers(0, 1)) + ["first"] + draw(st.lists(st.sampled_from(others), max_size=4))
    chunks = tuple(draw(numbers(chunk, S64, kind)) for kind in kinds)
    return PercpuStats(draw(numbers(AllocInfoStats, S64)), draw(numbers(global_, U64)), chunks, layout.name)


@given(any_stats())
def test_numbers_of_every_layout_survive_text_and_back(stats: PercpuStats) -> None:
    text = stats.text()
    assert PercpuStats.from_text(text) == stats
    assert PercpuStats.from_text(text).text() == text


@given(any_stats(), any_stats(), st.sampled_from(["", "> ", ">> ", "> > ", ">"]), st.integers(0, 4))
def test_quotes_shifted_columns_and_titles_of_a_mail_do_not_matter(
    one: PercpuStats, other: PercpuStats, quote: str, shift: int
) -> None:
    mail = f"Hello,\n\nbefore:\n{one.text()}\n\nAfter the test\n\n{other.text()}\nthanks\n"
    lines = (line.replace("  ", " " * (2 + shift), 1) if line.startswith("  ") else line for line in mail.split("\n"))
    found = read_stats_texts("\r\n".join(quote + line for line in lines))
    assert [text.stats for text in found] == [one, other]
    assert [text.title for text in found] == ["before:", "After the test"]
    assert [text.line for text in found] == [4, mail[: mail.index(other.text(), len(one.text()))].count("\n") + 1]


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.parent.name}-{path.stem}")
def test_files_of_real_kernels_are_written_to_the_byte(path: Path) -> None:
    text = path.read_text()
    assert PercpuStats.from_text(text).text() == text


def test_a_quoted_mail_has_both_its_files() -> None:
    before, after = read_stats_texts((REAL / "stats" / "later-before-and-after-quoted.txt").read_text())
    assert (before.title, after.title) == ("BEFORE", "AFTER")
    assert (before.stats.layout, len(before.stats.chunks), len(after.stats.chunks)) == ("v5.9", 3, 11)
    assert [chunk.kind for chunk in after.stats.chunks[-2:]] == ["sidelined", "sidelined"]
    assert [chunk.memcg_aware for chunk in before.stats.chunks if isinstance(chunk, ChunkStatsV5)] == [0, 0, 1]


def test_two_files_are_not_taken_for_one() -> None:
    text = (REAL / "stats" / "later-before-and-after-quoted.txt").read_text()
    with pytest.raises(TraceFormatError, match="mail line 70: a second percpu_stats"):
        PercpuStats.from_text(text, where="mail")


def test_text_behind_a_file_does_not_matter_even_if_it_speaks_of_chunks() -> None:
    text = FILES[0].read_text()
    assert PercpuStats.from_text(f"{text}Chunks are few.\n-- \nA. Person\n") == PercpuStats.from_text(text)


def test_a_file_from_a_mail_is_written_as_the_kernel_did() -> None:
    stats = PercpuStats.from_text((REAL / "stats" / "patched-after.txt").read_text())
    assert "  unit_size           :       655360\n" in stats.text()
    assert "\n  memcg_aware         :            1\n\n" in stats.text()


@given(
    st.sampled_from([path for path in FILES if "pcs-smp4-medium" in path.stem]),
    st.lists(st.tuples(st.from_regex(r"new_[a-z]{1,12}", fullmatch=True), S64), max_size=3, unique_by=lambda x: x[0]),
    st.data(),
)
def test_unknown_labels_are_kept_in_their_places(path: Path, more: list[tuple[str, int]], data: st.DataObject) -> None:
    lines = path.read_text().split("\n")
    for label, value in more:
        places = [k for k, line in enumerate(lines) if line.startswith("  ")]
        lines.insert(data.draw(st.sampled_from(places)), f"  {label:<20}: {value:12d}")
    stats = PercpuStats.from_text("\n".join(lines))
    assert {(unknown.label, unknown.value) for unknown in stats.unknown} == set(more)
    assert stats.text() == "\n".join(lines)


def test_an_unknown_label_says_where_it_stood() -> None:
    line = "  nr_huge             :            7\n"
    text = FILES[0].read_text().replace("  empty_pop_pages", f"{line}  empty_pop_pages", 1)
    stats = PercpuStats.from_text(text)
    assert stats.unknown == (UnknownLine(-1, 8, "nr_huge", 7),)


def test_titles_of_isolated_chunks_are_those_of_the_kernel() -> None:
    text = FILES[0].read_text()
    block = text[text.index("Chunk: <- First Chunk\n") :].replace("Chunk: <- First Chunk", "Chunk (sidelined):")
    text += block + block.replace("(sidelined):", "(to_depopulate)")
    stats = PercpuStats.from_text(text)
    assert [chunk.kind for chunk in stats.chunks][-2:] == ["sidelined", "to_depopulate"]
    assert stats.text() == text


def test_every_row_of_the_table_has_a_layout_that_reads_back() -> None:
    for row in KERNEL_VERSIONS:
        global_, chunk = types_of(row.stats)
        info = AllocInfoStats(524288, 181032, 8192, 31960, 2097152, 2097152)
        first: Any = chunk("first", *range(len(row.stats.chunk)))  # type: ignore[arg-type]
        stats = PercpuStats(info, global_(*range(len(row.stats.global_))), (first,), row.stats.name)
        assert PercpuStats.from_text(stats.text()) == stats


@pytest.mark.parametrize("text", [None, 5, b"Percpu Memory Statistics"])
def test_what_is_no_text_is_refused(text: Any) -> None:
    with pytest.raises(RequestError, match=r"^percpu_stats: .* is no text; give a str"):
        PercpuStats.from_text(text)
