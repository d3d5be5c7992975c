"""percpu_stats read back from text: the kernel's file, or what became of it in a mail.

    >> BEFORE                                 a title: the last line before the file
    >> Percpu Memory Statistics               the heading begins a file
    >> Allocation Info:                       a section, a rule, lines `label : number`
    >>    unit_size           :       655360  shifted by a column
    ...
    >> Chunk (sidelined):                     a chunk, until an empty line or the next title

Which kernel printed it follows from the labels. A label that none prints is kept. A label that is missing, a number
that is none, and a file that is cut off are refused, with the line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from ..errors import RequestError, TraceFormatError
from ..kernels import STATS_LAYOUTS, StatsLayout
from ..rich import Rich
from .values import HEADING, TITLES, AllocInfoStats, ChunkKind, PercpuStats, UnknownLine, types_of

__all__ = ["StatsText", "read_one", "read_stats_texts"]

_QUOTES = re.compile(r"^\s{0,3}(?:>\s?)+")
_VALUE = re.compile(r"(\w{1,40})\s*:\s*(0|-?[1-9][0-9]{0,19})")
_RULE = re.compile(r"-{20,60}")
_LEAST = -(1 << 63)
_LIMIT = 1 << 64
_KINDS: dict[str, ChunkKind] = {title: kind for kind, title in TITLES.items()}
_Lines = list[tuple[int, str]]  # number and text, without quotes and indentation
_Values = list[tuple[int, str, int]]  # line, label, value


@dataclass(frozen=True, slots=True)
class StatsText(Rich):
    """A percpu_stats file found in a text.

    Args:
        title: the last line before it, without quotes; empty if there is none.
        line: where it begins, from 1.
        stats: what stands in it.
    """

    title: str
    line: int
    stats: PercpuStats


def read_stats_texts(text: str, *, where: str = "percpu_stats") -> tuple[StatsText, ...]:
    """Read every percpu_stats file of a text, such as a mail with one from before and one from after.

    Args:
        text: with at least one file in it.
        where: the name of the text in error messages.

    Raises:
        TraceFormatError: there is none, or one is damaged; names the line.
        RequestError: what is given is no text.
    """
    if not isinstance(text, str):
        raise RequestError(f"{text!r:.60} is no text", where=where, remedy="give a str: Path(name).read_text()")
    lines = [(number, _QUOTES.sub("", line).strip()) for number, line in enumerate(text.split("\n"), 1)]
    starts = [at for at, (_, line) in enumerate(lines) if line == HEADING]
    if not starts:
        what = f"no percpu_stats: the line {HEADING!r} is missing; it begins {lines[0][1][:80]!r}"
        raise TraceFormatError(what, where=f"{where} line 1", remedy="copy the whole file as the kernel printed it")
    found = []
    title_from = 0
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        title = next((line for _, line in reversed(lines[title_from:start]) if line), "")
        reader = _Reader(lines[start:end], where)
        found.append(StatsText(title, lines[start][0], reader.stats()))
        title_from = start + reader.at
    _check_end(text, lines, found[-1].stats, where)
    return tuple(found)


def read_one(text: str, where: str) -> PercpuStats:
    """Read a text with one percpu_stats file in it.

    Raises:
        TraceFormatError: there is none, there are several, or it is damaged; names the line.
    """
    found = read_stats_texts(text, where=where)
    if len(found) > 1:
        what = f"a second percpu_stats begins here, and the text has {len(found)}"
        raise TraceFormatError(what, where=f"{where} line {found[1].line}", remedy="use read_stats_texts")
    return found[0].stats


def _check_end(text: str, lines: _Lines, stats: PercpuStats, where: str) -> None:
    """Refuse a text that ends within a number: a kernel's lines have a least width."""
    last = lines[-1][1]
    match = _VALUE.fullmatch(last)
    if match:
        form = STATS_LAYOUTS[stats.layout].chunk_line
        if len(last) < len((form % (match[1], int(match[2]))).strip()):
            remedy = "copy the whole file as the kernel printed it"
            raise TraceFormatError(f"the text ends within {last[:80]!r}", where=f"{where} line {lines[-1][0]}",
                                   remedy=remedy)  # fmt: skip


class _Reader:
    """Goes through the lines of a percpu_stats file, and knows which one it is at."""

    def __init__(self, lines: _Lines, where: str) -> None:
        self._lines = lines
        self._where = where
        self.at = 1  # behind the heading

    def stats(self) -> PercpuStats:
        info = self._section("Allocation Info:")
        counters = self._section("Global Stats:")
        self._expect("Per Chunk Stats:")
        chunks = list(self._chunks())
        layout = _layout(counters, chunks[0][1])
        global_, chunk_type = types_of(layout)
        unknown: list[UnknownLine] = []
        return PercpuStats(
            AllocInfoStats(*self._numbers(info, layout.info, -2, unknown)),
            global_(*self._numbers(counters, layout.global_, -1, unknown)),
            tuple(
                chunk_type(kind, *self._numbers(values, layout.chunk, number, unknown))
                for number, (kind, values) in enumerate(chunks)
            ),
            layout.name,
            tuple(unknown),
        )

    def _section(self, title: str) -> _Values:
        self._expect(title)
        return self._values()

    def _expect(self, title: str) -> None:
        """Go over a title and the rule below it."""
        self._skip_empty()
        line = self._line()
        if line != title:
            self._fail(f"{line[:80]!r} found where {title!r} should be")
        self.at += 1
        if not _RULE.fullmatch(self._line()):
            self._fail(f"{self._line()[:80]!r} found where a rule should be")
        self.at += 1

    def _values(self) -> _Values:
        """Read the lines of a block; something else than a value ends it."""
        values: _Values = []
        seen: set[str] = set()
        while self.at < len(self._lines) and self._lines[self.at][1]:
            number, line = self._lines[self.at]
            if line.startswith(("Chunk", "Global Stats:", "Per Chunk Stats:")):
                break
            match = _VALUE.fullmatch(line)
            if match is None or not _LEAST <= int(match[2]) < _LIMIT:
                self._fail(f"{line[:80]!r} found where a value should be")
            if match[1] in seen:
                self._fail(f"a second value of {match[1]}")
            seen.add(match[1])
            values.append((number, match[1], int(match[2])))
            self.at += 1
        return values

    def _chunks(self) -> Iterator[tuple[ChunkKind, _Values]]:
        seen: list[ChunkKind] = []
        while True:
            self._skip_empty()
            if self.at >= len(self._lines) or not self._is_title(self._line(), seen):
                break
            kind = self._kind(seen)
            seen.append(kind)
            self.at += 1
            yield kind, self._values()
        if "first" not in seen:
            self._fail(f"{TITLES['first']!r} is missing")

    def _is_title(self, line: str, seen: list[ChunkKind]) -> bool:
        """Tell a chunk, or what may have been one, from text behind the file."""
        return line.startswith(("Chunk:", "Chunk (")) or _VALUE.fullmatch(line) is not None or not seen

    def _kind(self, seen: list[ChunkKind]) -> ChunkKind:
        title = self._line()
        kind = _KINDS.get(title) or _KINDS.get(f"{title}:") or _KINDS.get(title.removesuffix(":"))
        if kind is None:
            self._fail(f"{title[:80]!r} found where the title of a chunk should be")
        if kind == "reserved" and seen:
            self._fail("the reserved chunk is not the first block")
        if kind == "first" and "first" in seen:
            self._fail("a second first chunk")
        return kind

    def _numbers(self, values: _Values, names: tuple[str, ...], block: int, unknown: list[UnknownLine]) -> Any:
        """Bring the values of a block into the order of their labels, and keep those of unknown labels apart."""
        found = {label: value for _, label, value in values}
        for position, name in enumerate(names):
            if name not in found:
                line = values[min(position, len(values) - 1)][0] + (position >= len(values)) if values else None
                self._fail(f"{name} is missing", line=line)
        unknown += (
            UnknownLine(block, position, label, value)
            for position, (_, label, value) in enumerate(values)
            if label not in names
        )
        return [found[name] for name in names]

    def _skip_empty(self) -> None:
        while self.at < len(self._lines) and not self._lines[self.at][1]:
            self.at += 1

    def _line(self) -> str:
        if self.at >= len(self._lines):
            self._fail("the text ends in the middle")
        return self._lines[self.at][1]

    def _fail(self, what: str, *, line: int | None = None) -> NoReturn:
        number = line or self._lines[min(self.at, len(self._lines) - 1)][0]
        remedy = "copy the whole file as the kernel printed it"
        raise TraceFormatError(what, where=f"{self._where} line {number}", remedy=remedy)


def _layout(counters: _Values, chunk: _Values) -> StatsLayout:
    """Choose the layout whose labels agree best with those found; the newer one if two do."""
    labels = {label for _, label, _ in counters} | {f"chunk {label}" for _, label, _ in chunk}

    def disagreement(layout: StatsLayout) -> int:
        return len(labels ^ {*layout.global_, *(f"chunk {label}" for label in layout.chunk)})

    return min(STATS_LAYOUTS.values(), key=disagreement)
