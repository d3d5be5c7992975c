"""The numbers of the kernel's percpu_stats as values, and the file as text."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from html import escape
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal

from ..errors import LabError
from ..kernels import STATS_LAYOUTS, V4_13, StatsLayout, releases_with
from ..rich import Rich

if TYPE_CHECKING:
    import pandas

ChunkKind = Literal["reserved", "first", "to_depopulate", "sidelined", "plain"]

HEADING = "Percpu Memory Statistics"
RULE = "-" * 40
TITLES: Mapping[ChunkKind, str] = {
    "reserved": "Chunk: <- Reserved Chunk",
    "first": "Chunk: <- First Chunk",
    "to_depopulate": "Chunk (to_depopulate)",
    "sidelined": "Chunk (sidelined):",
    "plain": "Chunk:",
}


@dataclass(frozen=True, slots=True)
class AllocInfoStats(Rich):
    """The layout of the units as percpu_stats prints it; all in bytes.

    Source: struct pcpu_alloc_info.
    """

    unit_size: int
    static_size: int
    reserved_size: int
    dyn_size: int
    atom_size: int
    alloc_size: int


@dataclass(frozen=True, slots=True)
class GlobalStats(Rich):
    """The counters over all chunks, the reserved one included; sizes in bytes, as asked for and rounded to 2.

    Before the first allocation min_alloc_size is the unit size and max_alloc_size is 0.

    Source: struct percpu_stats.
    """

    nr_alloc: int
    nr_dealloc: int
    nr_cur_alloc: int
    nr_max_alloc: int
    nr_chunks: int
    nr_max_chunks: int
    min_alloc_size: int
    max_alloc_size: int


@dataclass(frozen=True, slots=True)
class GlobalStatsV6(GlobalStats):
    """The counters since v4.14: sizes are rounded to 4, and pages that are populated and wholly free are counted."""

    empty_pop_pages: int


@dataclass(frozen=True, slots=True)
class ChunkStats(Rich):
    """One block of percpu_stats: a count of areas, then bytes.

    Source: chunk_map_stats.

    Args:
        kind: which title the block bears: "reserved", "first" or "plain".
    """

    kind: ChunkKind
    nr_alloc: int
    max_alloc_size: int
    free_size: int
    contig_hint: int
    sum_frag: int
    max_frag: int
    cur_min_alloc: int
    cur_med_alloc: int
    cur_max_alloc: int

    @property
    def free_bytes(self) -> int:
        """Free space, under the name that later releases print."""
        return self.free_size


@dataclass(frozen=True, slots=True)
class ChunkStatsV6(Rich):
    """One block of percpu_stats since v4.14: two counts, a position in bits of 4 bytes, then bytes.

    The last 4 bytes of a chunk are not looked at (spec 8.3): an area that ends there is 4 bytes short.

    Source: chunk_map_stats.

    Args:
        kind: which title the block bears: "reserved", "first", "to_depopulate", "sidelined" or "plain".
    """

    kind: ChunkKind
    nr_alloc: int
    max_alloc_size: int
    empty_pop_pages: int
    first_bit: int
    free_bytes: int
    contig_bytes: int
    sum_frag: int
    max_frag: int
    cur_min_alloc: int
    cur_med_alloc: int
    cur_max_alloc: int


@dataclass(frozen=True, slots=True)
class ChunkStatsV5(ChunkStatsV6):
    """One block of percpu_stats of v5.9 to v5.13, where accounted areas had chunks of their own."""

    memcg_aware: int


AnyChunkStats = ChunkStats | ChunkStatsV6


@dataclass(frozen=True, slots=True)
class UnknownLine(Rich):
    """A line of percpu_stats whose label this package does not know.

    Args:
        block: the chunk it stands in, from 0; -1 for the counters, -2 for the allocation info.
        position: the line within its block, from 0.
        label, value: what it says.
    """

    block: int
    position: int
    label: str
    value: int


@dataclass(frozen=True, slots=True)
class PercpuStats:
    """Everything one read of percpu_stats gives.

    >>> info = AllocInfoStats(32768, 8192, 0, 24576, 4096, 32768)
    >>> counters = GlobalStats(1, 0, 1, 1, 1, 1, 64, 64)
    >>> first = ChunkStats("first", 1, 64, 24512, 24576, 0, 0, 64, 64, 64)
    >>> stats = PercpuStats(info, counters, (first,))
    >>> stats
    <PercpuStats: 1 live areas, 1 chunks, 24,512 bytes free>
    >>> print(stats.text().splitlines()[-2])
      cur_max_alloc           :       64
    >>> PercpuStats.from_text(stats.text()) == stats
    True

    Source: percpu_stats_show.

    Args:
        alloc_info: the layout of the units.
        global_stats: the counters.
        chunks: the blocks in the order of the file.
        layout: how a kernel prints it, one of kernels.STATS_LAYOUTS.
        unknown: lines with labels that no known kernel prints, in the order of the file.
    """

    alloc_info: AllocInfoStats
    global_stats: GlobalStats
    chunks: tuple[AnyChunkStats, ...]
    layout: str = "v4.13"
    unknown: tuple[UnknownLine, ...] = ()

    def __repr__(self) -> str:
        free_bytes = sum(chunk.free_bytes for chunk in self.chunks)
        live, nr_chunks = self.global_stats.nr_cur_alloc, len(self.chunks)
        return f"<PercpuStats: {live:,} live areas, {nr_chunks:,} chunks, {free_bytes:,} bytes free>"

    def text(self) -> str:
        """Write the file /sys/kernel/debug/percpu_stats to the byte."""
        layout = STATS_LAYOUTS[self.layout]
        lines = [HEADING, "Allocation Info:", RULE, *self._block(layout.info_line, self.alloc_info, -2)]
        lines += ["Global Stats:", RULE, *self._block(layout.global_line, self.global_stats, -1)]
        lines += ["Per Chunk Stats:", RULE]
        for number, chunk in enumerate(self.chunks):
            lines += [TITLES[chunk.kind], *self._block(layout.chunk_line, chunk, number)]
        return "\n".join(lines) + "\n"

    def _block(self, line: str, values: Any, number: int) -> list[str]:
        """Print the counters of a block and the empty line behind it."""
        lines = [line % (label, getattr(values, label)) for label in labels(values)]
        # the unknown lines stand in the order of the file
        start, end = (bisect(self.unknown, number, key=attrgetter("block")) for bisect in (bisect_left, bisect_right))
        for unknown in self.unknown[start:end]:
            lines.insert(unknown.position, line % (unknown.label, unknown.value))
        return [*lines, ""]

    @classmethod
    def from_text(cls, text: str, *, where: str = "percpu_stats") -> PercpuStats:
        """Read the file back, of any kernel; quotes and indentation of a mail, and text around it, do not matter.

        >>> PercpuStats.from_text("Percpu Memory\\n")
        Traceback (most recent call last):
        percpu_lab.errors.TraceFormatError: percpu_stats line 1: no percpu_stats: ...

        Args:
            text: with one file in it.
            where: the name of the file in error messages.

        Raises:
            TraceFormatError: names the line.
        """
        from .read import read_one  # which makes objects of this class

        return read_one(text, where)

    @property
    def releases(self) -> str:
        """Say in words which kernels print such a file."""
        return releases_with(STATS_LAYOUTS[self.layout])

    def total_bytes(self, chunk: AnyChunkStats) -> int:
        """Give the bytes a chunk can hand out: dyn_size of the first, reserved_size, or the unit."""
        info = self.alloc_info
        # a bitmap begins with a whole granule: what static_size lacks of one is taken from the first chunk
        lost = 0 if self.layout == V4_13.stats.name else -info.static_size % 4
        return {"first": info.dyn_size - lost, "reserved": info.reserved_size}.get(chunk.kind, info.unit_size)

    def frame(self) -> pandas.DataFrame:
        """Give the chunks as a pandas table, a row each, in the order of the file.

        Raises:
            LabError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise LabError("frames need pandas", where="frame()", remedy="pip install pandas") from None
        columns = ["kind", *STATS_LAYOUTS[self.layout].chunk]
        return pandas.DataFrame([astuple(chunk) for chunk in self.chunks], columns=columns)

    def _repr_html_(self) -> str:
        parts = (self.alloc_info, self.global_stats)
        totals = [(label, getattr(part, label)) for part in parts for label in labels(part)]
        names = ["kind", *STATS_LAYOUTS[self.layout].chunk]
        return (
            '<div style="display:flex;flex-wrap:wrap;gap:2em;align-items:flex-start">'
            + table("percpu_stats", ("", ""), totals)
            + table("chunks", names, [astuple(chunk) for chunk in self.chunks])
            + "</div>"
        )


def labels(values: Any) -> Iterator[str]:
    """Walk the labels of a block in the order they are printed in."""
    return (field.name for field in fields(values) if field.name != "kind")


def types_of(layout: StatsLayout) -> tuple[type[GlobalStats], type[ChunkStats] | type[ChunkStatsV6]]:
    """Find the types whose fields are the labels of a layout."""
    global_ = next(kind for kind in (GlobalStats, GlobalStatsV6) if tuple(labels(kind)) == layout.global_)
    kinds: tuple[type[ChunkStats] | type[ChunkStatsV6], ...] = (ChunkStats, ChunkStatsV6, ChunkStatsV5)
    return global_, next(kind for kind in kinds if tuple(labels(kind)) == layout.chunk)


def table(caption: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Write a table in HTML, with everything escaped."""

    # no colours of its own: what the notebook's theme gives is readable in light and dark
    def row(tag: str, cells: Sequence[object]) -> str:
        inner = (f'<{tag} style="text-align:right">{escape(_cell(cell))}</{tag}>' for cell in cells)
        return f"<tr>{''.join(inner)}</tr>"

    head = f"<thead>{row('th', header)}</thead>" if any(header) else ""
    body = "".join(row("td", cells) for cells in rows)
    return f"<table><caption>{escape(caption)}</caption>{head}<tbody>{body}</tbody></table>"


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
