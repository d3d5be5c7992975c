"""The kernel's percpu_stats: its numbers as values, its file as text out and in.

    Allocation Info     how the units were laid out           AllocInfoStats
    Global Stats        counters over all chunks              GlobalStats
    Per Chunk Stats     one block a chunk, in this order:     ChunkStats
                        reserved chunk, then slot 0 upwards, each list from its head

The five figures of fragmentation are read off the area map, here of a chunk without a reserved prefix:

    map       0|1      64|0     96|1     160|0     4096|1
    area      64 used  32 free  64 used  3936 free, behind the last used area: not a fragment
    sorted    -32  64  64       sum_frag 32, max_frag 32, cur_min, cur_med and cur_max 64

>>> map_statistics([0 | 1, 64 | 0, 96 | 1, 160 | 0, 4096 | 1], has_reserved=False)
MapStatistics(sum_frag=32, max_frag=32, cur_min_alloc=64, cur_med_alloc=64, cur_max_alloc=64)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from html import escape
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn, TypeVar

import numpy as np

from .core import layout as L
from .errors import LabError, TraceFormatError
from .models import BITMAP, AnyChunkState, BitmapChunkState

if TYPE_CHECKING:
    import pandas

    from .engine import Engine

ChunkKind = Literal["reserved", "first", "to_depopulate", "sidelined", "plain"]
_Values = TypeVar("_Values")


@dataclass(frozen=True, slots=True)
class AllocInfoStats:
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
class GlobalStats:
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
    """The counters of v6.12: sizes are rounded to 4, and the pages that are populated and wholly free are counted."""

    empty_pop_pages: int


class MapStatistics(NamedTuple):
    """What chunk_map_stats reads off an area map, in bytes.

    Free space behind the last area in use is no fragment. The sizes are those of the areas, which may have absorbed
    up to 3 bytes of padding.
    """

    sum_frag: int
    max_frag: int
    cur_min_alloc: int
    cur_med_alloc: int
    cur_max_alloc: int


@dataclass(frozen=True, slots=True)
class ChunkStats:
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
class ChunkStatsV6:
    """One block of percpu_stats of v6.12: two counts, a position in bits of 4 bytes, then bytes.

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
class StatsLayout:
    """How a kernel release prints percpu_stats.

    Args:
        info_line, global_line, chunk_line: how a label and its value are printed, as printf would.
        info, global_, chunk: the types whose fields are the labels, in the order they are printed in.
    """

    info_line: str
    global_line: str
    chunk_line: str
    info: type[AllocInfoStats]
    global_: type[GlobalStats]
    chunk: type[ChunkStats] | type[ChunkStatsV6]


#: every layout that can be read and written, by the release that brought it
LAYOUTS: Mapping[str, StatsLayout] = {
    "v4.13": StatsLayout(
        info_line="  %-24s: %8d",
        global_line="  %-18s: %14d",
        chunk_line="  %-24s: %8d",
        info=AllocInfoStats,
        global_=GlobalStats,
        chunk=ChunkStats,
    ),
    "v6.12": StatsLayout(
        info_line="  %-20s: %12d",
        global_line="  %-20s: %12d",
        chunk_line="  %-20s: %12d",
        info=AllocInfoStats,
        global_=GlobalStatsV6,
        chunk=ChunkStatsV6,
    ),
}

_RULE = "-" * 40
_HEADINGS = ("Percpu Memory Statistics", "Allocation Info:", _RULE)
_TITLES: Mapping[ChunkKind, str] = {
    "reserved": "Chunk: <- Reserved Chunk",
    "first": "Chunk: <- First Chunk",
    "to_depopulate": "Chunk (to_depopulate)",
    "sidelined": "Chunk (sidelined):",
    "plain": "Chunk:",
}
_KINDS = {title: kind for kind, title in _TITLES.items()}
_U64_LIMIT = 1 << 64


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
        layout: the kernel release whose file this is, one of LAYOUTS.
    """

    alloc_info: AllocInfoStats
    global_stats: GlobalStats
    chunks: tuple[ChunkStats, ...] | tuple[ChunkStatsV6, ...]
    layout: str = "v4.13"

    def __repr__(self) -> str:
        free_bytes = sum(chunk.free_bytes for chunk in self.chunks)
        live, nr_chunks = self.global_stats.nr_cur_alloc, len(self.chunks)
        return f"<PercpuStats: {live:,} live areas, {nr_chunks:,} chunks, {free_bytes:,} bytes free>"

    def text(self) -> str:
        """Write the file /sys/kernel/debug/percpu_stats to the byte."""
        layout = LAYOUTS[self.layout]
        lines = [*_HEADINGS, *_block(layout.info_line, self.alloc_info)]
        lines += ["Global Stats:", _RULE, *_block(layout.global_line, self.global_stats)]
        lines += ["Per Chunk Stats:", _RULE]
        for chunk in self.chunks:
            lines += [_TITLES[chunk.kind], *_block(layout.chunk_line, chunk)]
        return "\n".join(lines) + "\n"

    @classmethod
    def from_text(cls, text: str, *, where: str = "percpu_stats", layout: str = "v4.13") -> PercpuStats:
        """Read the file back; what is accepted is exactly what text() writes.

        >>> PercpuStats.from_text("Percpu Memory\\n")
        Traceback (most recent call last):
        percpu_lab.errors.TraceFormatError: percpu_stats line 1: 'Percpu Memory' found where ... should be; ...

        Args:
            text: the whole file.
            where: the name of the file in error messages.
            layout: the kernel release that printed it, one of LAYOUTS.

        Raises:
            TraceFormatError: names the line.
        """
        return _Reader(text, where).stats(layout)

    def frame(self) -> pandas.DataFrame:
        """Give the chunks as a pandas table, a row each, in the order of the file.

        Raises:
            LabError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise LabError("frames need pandas", where="frame()", remedy="pip install pandas") from None
        columns = [field.name for field in fields(LAYOUTS[self.layout].chunk)]
        return pandas.DataFrame([astuple(chunk) for chunk in self.chunks], columns=columns)

    def _repr_html_(self) -> str:
        parts = (self.alloc_info, self.global_stats)
        totals = [(field.name, getattr(part, field.name)) for part in parts for field in fields(part)]
        names = [field.name for field in fields(LAYOUTS[self.layout].chunk)]
        return (
            '<div style="display:flex;flex-wrap:wrap;gap:2em;align-items:flex-start">'
            + _table("percpu_stats", ("", ""), totals)
            + _table("chunks", names, [astuple(chunk) for chunk in self.chunks])
            + "</div>"
        )


def _block(line: str, values: Any) -> list[str]:
    """Print the counters of a block and the empty line behind it."""
    numbers = ((field.name, getattr(values, field.name)) for field in fields(values) if field.name != "kind")
    return [*(line % pair for pair in numbers), ""]


def _table(caption: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    # no colours of its own: what the notebook's theme gives is readable in light and dark
    def row(tag: str, cells: Sequence[object]) -> str:
        inner = (f'<{tag} style="text-align:right">{escape(_cell(cell))}</{tag}>' for cell in cells)
        return f"<tr>{''.join(inner)}</tr>"

    head = f"<thead>{row('th', header)}</thead>" if any(header) else ""
    body = "".join(row("td", cells) for cells in rows)
    return f"<table><caption>{escape(caption)}</caption>{head}<tbody>{body}</tbody></table>"


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


class _Reader:
    """Goes through the lines of a percpu_stats file, and knows which one it is at."""

    def __init__(self, text: str, where: str) -> None:
        self._lines = text.split("\n")
        self._where = where
        self._at = 0

    def stats(self, layout: str) -> PercpuStats:
        form = LAYOUTS[layout]
        self._expect(*_HEADINGS)
        info = self._values(form.info_line, form.info)
        self._expect("Global Stats:", _RULE)
        counters = self._values(form.global_line, form.global_)
        self._expect("Per Chunk Stats:", _RULE)
        return PercpuStats(info, counters, tuple(self._chunks(form)), layout)

    def _chunks(self, form: StatsLayout) -> list[Any]:
        chunks: list[Any] = []
        while self._at < len(self._lines) - 1:
            kind = self._kind(chunks)
            chunks.append(self._values(form.chunk_line, form.chunk, kind))
        if not any(chunk.kind == "first" for chunk in chunks):
            self._fail(f"{_TITLES['first']!r} is missing")
        self._expect("")
        return chunks

    def _kind(self, before: list[Any]) -> ChunkKind:
        title = self._line()
        if title not in _KINDS:
            self._fail(f"{title[:80]!r} found where the title of a chunk should be")
        kind = _KINDS[title]
        if kind == "reserved" and before:
            self._fail("the reserved chunk is not the first block")
        if kind == "first" and any(chunk.kind == "first" for chunk in before):
            self._fail("a second first chunk")
        self._at += 1
        return kind

    def _values(self, form: str, kind: type[_Values], *before: Any) -> _Values:
        names = [field.name for field in fields(kind) if field.name != "kind"]  # type: ignore[arg-type]
        values = kind(*before, *(self._value(form, name) for name in names))
        self._expect("")
        return values

    def _value(self, form: str, name: str) -> int:
        line = self._line()
        digits = line.rpartition(":")[2].strip()
        value = int(digits) if digits.isdecimal() and len(digits) <= 20 else -1
        if not 0 <= value < _U64_LIMIT or form % (name, value) != line:
            self._fail(f"{line[:80]!r} found where the value of {name} should be")
        self._at += 1
        return value

    def _expect(self, *wanted: str) -> None:
        for text in wanted:
            line = self._line()
            if line != text:
                self._fail(f"{line[:80]!r} found where {text!r} should be")
            self._at += 1

    def _line(self) -> str:
        if self._at >= len(self._lines):
            self._fail("the text ends in the middle")
        return self._lines[self._at]

    def _fail(self, what: str) -> NoReturn:
        where = f"{self._where} line {self._at + 1}"
        raise TraceFormatError(what, where=where, remedy="copy the whole file as the kernel printed it")


def map_statistics(map_entries: np.ndarray | Sequence[int], has_reserved: bool) -> MapStatistics:
    """Work out fragmentation and the sizes of live areas from an area map.

    >>> map_statistics([0 | 1, 8192 | 0, 32768 | 1], has_reserved=True)
    MapStatistics(sum_frag=0, max_frag=0, cur_min_alloc=0, cur_med_alloc=0, cur_max_alloc=0)

    Source: chunk_map_stats.

    Args:
        map_entries: offset | in_use of every area and of the end, in bytes.
        has_reserved: the first area is a prefix that nobody allocated.
    """
    entries = np.asarray(map_entries, dtype=np.int64)
    in_use = (entries & 1).astype(bool)[:-1]
    first = int(has_reserved)
    used = np.flatnonzero(in_use[first:])
    if not used.size:
        return MapStatistics(0, 0, 0, 0, 0)
    last = first + int(used[-1]) + 1
    return _area_statistics(np.diff(entries & ~1)[first:last], in_use[first:last])


def _area_statistics(lengths: np.ndarray, in_use: np.ndarray) -> MapStatistics:
    """Work out the five figures from the areas up to the last one in use; nothing is 0."""
    if not len(lengths):
        return MapStatistics(0, 0, 0, 0, 0)
    signed = np.sort(np.where(in_use, lengths, -lengths))
    nr_free = int(np.searchsorted(signed, 0))
    return MapStatistics(
        sum_frag=-int(signed[:nr_free].sum()),
        max_frag=max(-int(signed[0]), 0),
        cur_min_alloc=int(signed[nr_free]),
        cur_med_alloc=int(signed[(nr_free + len(signed) - 1) // 2]),
        cur_max_alloc=int(signed[-1]),
    )


def bitmap_statistics(chunk: BitmapChunkState) -> MapStatistics:
    """Work out fragmentation and the sizes of live areas from the two bitmaps of a chunk.

    Source: chunk_map_stats of v6.12 (spec 8.3), which does not look at the last bit.
    """
    starts, ends = chunk.alloc_map.reshape(-1, 2).T
    last_bit = chunk.chunk_md.nr_bits - chunk.end_offset // 4 - 1
    is_set = (starts <= last_bit) & (last_bit < ends)
    below = starts < last_bit
    behind = last_bit + 1 if is_set.any() else 0
    last = min(int(ends[below][-1]), last_bit) if below.any() else behind
    first = chunk.start_offset // 4
    if last <= first:
        return MapStatistics(0, 0, 0, 0, 0)
    cuts = np.unique(np.concatenate([[first, last], starts, ends, _inner_bounds(chunk.bound_map, starts, ends)]))
    cuts = cuts[(cuts >= first) & (cuts <= last)]
    in_use = np.searchsorted(starts, cuts[:-1], "right") > np.searchsorted(ends, cuts[:-1], "right")
    return _area_statistics(np.diff(cuts) * 4, in_use)


def _inner_bounds(bounds: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Those bits of bound_map that lie in space in use: in free space old ones may be left."""
    return bounds[np.searchsorted(starts, bounds, "right") > np.searchsorted(ends, bounds, "right")]


def read_stats(engine: Engine) -> PercpuStats:
    """Read percpu_stats of a running engine, all of it at one point between two ops.

    >>> from percpu_lab.engine import Engine
    >>> from percpu_lab.geometry import preset
    >>> engine = Engine(preset("x86-64, 4 CPUs"), jit="off")
    >>> pointer = engine.alloc(60, 8, reserved=False, atomic=False)
    >>> read_stats(engine).global_stats.max_alloc_size
    60

    Raises:
        LabError: the engine was made without statistics.

    Source: percpu_stats_show.
    """
    with engine.lock:
        if not engine.scalar(L.STATS_ON):
            what = "this allocator keeps no statistics (CONFIG_PERCPU_STATS=n)"
            raise LabError(what, where="percpu_stats", remedy="make one with stats=True")
        reserved = engine.reserved_chunk()
        chunks = [_chunk_stats(engine, chunk) for chunk in ([] if reserved is None else [reserved]) + engine.chunks()]
        return PercpuStats(_alloc_info(engine), _global_stats(engine), tuple(chunks), _layout_of(engine))


def _layout_of(engine: Engine) -> str:
    return "v6.12" if engine.model is BITMAP else "v4.13"


def _alloc_info(engine: Engine) -> AllocInfoStats:
    info = engine.geometry.info
    return AllocInfoStats(*(getattr(info, field.name) for field in fields(AllocInfoStats)))


def _global_stats(engine: Engine) -> GlobalStats:
    kind = LAYOUTS[_layout_of(engine)].global_
    names = (f"nr_{field.name}" if field.name == "empty_pop_pages" else field.name for field in fields(kind))
    return kind(*(engine.scalar(getattr(L, name.upper())) for name in names))


def _chunk_kind(engine: Engine, chunk: AnyChunkState) -> ChunkKind:
    if chunk.ordinal <= 0:
        return "first" if chunk.ordinal == 0 else "reserved"
    if engine.model is BITMAP:
        behind = engine.scalar(L.NR_SLOTS) - chunk.slot
        return "to_depopulate" if behind == 1 else "sidelined" if behind == 3 else "plain"
    return "plain"


def _chunk_stats(engine: Engine, chunk: AnyChunkState) -> Any:
    kind = _chunk_kind(engine, chunk)
    if isinstance(chunk, BitmapChunkState):
        return ChunkStatsV6(
            kind,
            chunk.nr_alloc,
            chunk.max_alloc_size,
            chunk.nr_empty_pop_pages,
            chunk.chunk_md.first_free,
            chunk.free_bytes,
            chunk.contig_bytes,
            *bitmap_statistics(chunk),
        )
    return ChunkStats(
        kind,
        chunk.nr_alloc,
        chunk.max_alloc_size,
        chunk.free_size,
        chunk.contig_hint,
        *map_statistics(chunk.map, bool(chunk.has_reserved)),
    )
