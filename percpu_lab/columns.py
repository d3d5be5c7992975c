"""From the arrays of an engine to frozen columns for views: what is where at this moment.

    Snapshot   one moment: chunks ─1:n─ areas that tile the unit, populated pages, totals
    Columns    a snapshot, the events and the history before it: what a view is given

    kinds of area in a unit:   |STATIC |RESERVED|IN_USE|HOLE|IN_USE|IN_USE| FREE          |OUTSIDE|
                               0                        free before the     free behind    behind the end
                               prefix: no allocation    last area in use    it             of the map

An area is known everywhere by the op number of its allocation (`birth`): offsets are used again, op numbers are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .core import layout as L
from .core.births import birth_index
from .core.bitmap import PCPU_MIN_ALLOC_SIZE
from .events import Events
from .models import BITMAP
from .rich import Rich, RichColumns
from .units import PAGE_SIZE

if TYPE_CHECKING:
    from .annotations import Annotations
    from .engine import Engine
    from .kept import Kept, KeptAreas

Ints = npt.NDArray[Any]

FREE, HOLE, IN_USE, STATIC, RESERVED, OUTSIDE, NR_KINDS = range(7)
PLAIN_CHUNK, FIRST_CHUNK, RESERVED_CHUNK = range(3)
UNKNOWN = -1  # what a recorded trace cannot tell
EARLY = -3  # the name of the last area allocated before a recording's first op; the one before it is -4
RESERVED_ORDINAL = -1


class Frozen:
    """A dataclass whose arrays cannot be changed."""

    __slots__ = ()

    def __post_init__(self) -> None:
        for column in fields(self):  # type: ignore[arg-type]
            value = getattr(self, column.name)
            if isinstance(value, np.ndarray):
                value.setflags(write=False)


@dataclass(frozen=True, slots=True)
class Unit(Rich, Frozen):
    """The numbers of a geometry that a view needs; sizes in bytes.

    Args:
        unit_offsets: offset of each CPU's unit from a chunk's base_addr, by CPU.
    """

    unit_size: int
    static_size: int
    reserved_size: int
    dyn_size: int
    unit_offsets: Mapping[int, int]

    @property
    def nr_cpus(self) -> int:
        """Count the possible CPUs."""
        return len(self.unit_offsets)

    @property
    def nr_pages(self) -> int:
        """Count the pages of a unit."""
        return self.unit_size // PAGE_SIZE

    @classmethod
    def of(cls, info: Any) -> Unit:
        """Take the numbers from a geometry.AllocInfo."""
        return cls(info.unit_size, info.static_size, info.reserved_size, info.dyn_size, dict(info.unit_offset))


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ChunkColumns(RichColumns, Frozen):
    """One row a chunk, in the order of percpu_stats: the reserved chunk, then slot 0 up, head to tail.

    Args:
        kind: PLAIN_CHUNK, FIRST_CHUNK or RESERVED_CHUNK.
        slot: number of the slot, UNKNOWN for the reserved chunk.
        position: place within the slot's list.
        contig_hint: as the allocator believes; largest_free_bytes is the truth.
        first_free_off: offset at which a search begins.
        sum_frag, max_frag: bytes of all holes and of the largest hole (spec 8.3).
        changed: op of the last change of its areas; UNKNOWN where that is not kept.
    """

    ordinal: Ints
    kind: Ints
    slot: Ints
    position: Ints
    base_addr: npt.NDArray[np.uint64]
    free_bytes: Ints
    contig_hint: Ints
    largest_free_bytes: Ints
    first_free_off: Ints
    nr_alloc: Ints
    nr_populated: Ints
    sum_frag: Ints
    max_frag: Ints
    changed: Ints

    def __len__(self) -> int:
        return len(self.ordinal)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class AreaColumns(RichColumns, Frozen):
    """One row an area, by chunk and offset; the rows of a chunk tile its unit.

    Args:
        chunk: row of the chunk.
        requested_bytes: size that was asked for; 0 if not in use.
        birth: op number of the allocation; UNKNOWN if not in use, EARLY or less if it came before the first op.
        kind: FREE, HOLE, IN_USE, STATIC, RESERVED or OUTSIDE.
    """

    chunk: Ints
    off_bytes: Ints
    size_bytes: Ints
    requested_bytes: Ints
    birth: Ints
    kind: Ints

    def __len__(self) -> int:
        return len(self.off_bytes)

    def begin(self, chunk: npt.ArrayLike) -> Ints:
        """Give the row at which the areas of each of some chunks begin.

        Args:
            chunk: rows of chunks; that of one behind the last chunk is the row behind all areas.
        """
        # of the column's own type: else NumPy converts the whole column first, which takes 20 times as long
        return np.asarray(np.searchsorted(self.chunk, np.asarray(chunk, self.chunk.dtype)))


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class RunColumns(RichColumns, Frozen):
    """Runs of populated pages: row of the chunk, first page and page behind the last."""

    chunk: Ints
    first_page: Ints
    end_page: Ints

    def __len__(self) -> int:
        return len(self.chunk)


@dataclass(frozen=True, slots=True)
class Totals(Rich):
    """Numbers of the whole allocator; UNKNOWN where a recording cannot tell."""

    nr_empty_pop_pages: int = UNKNOWN
    balance_pending: int = UNKNOWN
    nr_alloc: int = UNKNOWN
    nr_dealloc: int = UNKNOWN
    nr_cur_alloc: int = UNKNOWN
    nr_max_alloc: int = UNKNOWN
    nr_chunks: int = UNKNOWN
    nr_max_chunks: int = UNKNOWN
    min_alloc_size: int = UNKNOWN
    max_alloc_size: int = UNKNOWN


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot(Rich):
    """An allocator at one moment; nothing in it can be changed.

    Args:
        op: ops done so far.
        version: differs between two snapshots that may differ.
        past: differs between two snapshots of which ops of one were undone before the other.
        populated: empty if populated pages are unknown (nr_populated is UNKNOWN then).
    """

    op: int
    version: int
    unit: Unit
    chunks: ChunkColumns
    areas: AreaColumns
    populated: RunColumns
    totals: Totals
    past: int = 0

    def __repr__(self) -> str:
        return f"<Snapshot at op {self.op:,}: {len(self.chunks):,} chunks, {self.nr_in_use:,} areas in use>"

    @property
    def nr_in_use(self) -> int:
        """Count the areas in use."""
        return int(np.count_nonzero(self.areas.kind == IN_USE))

    def find(self, birth: int) -> int | None:
        """Give the row of the area that was allocated by an op, or None if it is not in use."""
        rows = np.flatnonzero(self.areas.birth == birth)
        return int(rows[0]) if birth != UNKNOWN and len(rows) else None

    def area_at(self, row: int, off_bytes: float) -> int | None:
        """Name the area in use at an offset of a chunk by the op that allocated it, or give None if there is none."""
        areas = self.areas
        first, end = areas.begin([row, row + 1])
        area = int(first + np.searchsorted(areas.off_bytes[first:end], off_bytes, side="right")) - 1
        return int(areas.birth[area]) if area >= first and areas.kind[area] == IN_USE else None

    def row_of(self, ordinal: int) -> int | None:
        """Give the row of a chunk, or None if there is none of that ordinal."""
        rows = np.flatnonzero(self.chunks.ordinal == ordinal)
        return int(rows[0]) if len(rows) else None


# --- a snapshot of an engine ------------------------------------------------------


def snapshot(engine: Engine, kept: KeptAreas | None = None) -> Snapshot:
    """Copy the state of an engine into columns.

    >>> from percpu_lab.engine import Engine
    >>> from percpu_lab.geometry import Geometry
    >>> engine = Engine(Geometry.simple(), jit="off")
    >>> _ = engine.alloc(60, 8, False, False)
    >>> areas = snapshot(engine).areas
    >>> areas.kind.tolist() == [STATIC, IN_USE, FREE], int(areas.requested_bytes[1]), int(areas.birth[1])
    (True, 60, 0)

    The boot chunks of v6.12 begin at the page of their first byte: what lies before it in the unit is not theirs.

    Args:
        kept: areas of the last reading of the same engine, of which only those of chunks that changed are read again.

    Source: the area map of spec 1.4, the bitmaps of v6.12 1.3; order of the chunks: spec 8.2.
    """
    with engine.lock:
        g, chunk = engine.g, engine.chunk
        handles, slot, position = _walk(g, chunk)
        head = chunk[handles[:, None] + np.arange(L.POPULATED)]
        pages = chunk[handles[:, None] + (L.POPULATED + np.arange(int(g[L.UNIT_PAGES])))]
        first_free_off, contig_hint = _hints(engine, head)
        is_new = np.ones(len(head), np.bool_) if kept is None else kept.is_new(engine, head)
        form = (_read_bitmaps if engine.model is BITMAP else _read_area_maps)(engine.map, head[is_new])
        words = _words(engine.birth, int(g[L.BIRTH_STRIDE]), head[is_new], form)
        totals, is_counting = _totals(g), bool(g[L.STATS_ON])
        op, version, past = engine.now, engine.version, engine.past
    unit = Unit.of(engine.geometry.info)
    first_base = engine.geometry.addresses.first_chunk
    kind = _chunk_kinds(handles, g)
    areas = _areas(form, words, unit, kind[is_new])
    if kept is not None:
        areas = kept.joined(engine, op, head[:, L.ORDINAL], is_new, areas)
    if not is_counting:
        head[:, L.CHUNK_NR_ALLOC] = np.bincount(areas.chunk[areas.kind == IN_USE], minlength=len(head))
    chunks = _chunks(head, kind, slot, position, first_base, first_free_off, contig_hint, areas)
    return Snapshot(op, version, unit, chunks, areas, _runs(pages), totals, past)


def _walk(g: Ints, chunk: Ints) -> tuple[Ints, Ints, Ints]:
    """Handles of all chunks in the order of percpu_stats, their slots and places in the slot."""
    next_of, row_words = memoryview(chunk), int(g[L.ROW_WORDS])
    reserved = int(g[L.RESERVED_CHUNK])
    found = [(reserved, UNKNOWN, 0)] if reserved else []
    for slot in range(int(g[L.NR_SLOTS])):
        head = slot * row_words
        handle, position = next_of[head + L.LIST_NEXT], 0
        while handle != head:
            found.append((handle, slot, position))
            handle, position = next_of[handle + L.LIST_NEXT], position + 1
    table = np.array(found, np.int64).reshape(-1, 3)
    return table[:, 0], table[:, 1], table[:, 2]


class _Form(NamedTuple):
    """Areas of all chunks as the entries of area maps, chunk after chunk with their end markers.

    Args:
        entries: offset | in use.
        nr_entries: of each chunk.
        has_prefix: whether a chunk begins with bytes that nobody allocated.
    """

    entries: Ints
    nr_entries: Ints
    has_prefix: Ints


def _hints(engine: Engine, head: Ints) -> tuple[Ints, Ints]:
    """First_free and contig_hint of each chunk, in bytes."""
    if engine.model is BITMAP:
        md = head[:, L.CHUNK_MD : L.POPULATED] * PCPU_MIN_ALLOC_SIZE
        return md[:, L.MD_FIRST_FREE], md[:, L.MD_CONTIG_HINT]
    return engine.map[head[:, L.MAP] + head[:, L.FIRST_FREE]] & ~1, head[:, L.CONTIG_HINT].copy()


def _read_area_maps(map_: Ints, head: Ints) -> _Form:
    count = head[:, L.MAP_USED] + 1
    start = np.cumsum(count) - count
    place = np.arange(int(count.sum()))
    place += np.repeat(head[:, L.MAP] - start, count)
    return _Form(map_[place], count, head[:, L.HAS_RESERVED])


def _read_bitmaps(map_: Ints, head: Ints) -> _Form:
    """Make an entry of each bit at which alloc_map changes, or at which areas in use meet."""
    granule = PCPU_MIN_ALLOC_SIZE
    nr_bits, end = head[:, L.CHUNK_MD + L.MD_NR_BITS], head[:, L.END_OFFSET] // granule
    in_use, bounds = (_bits(map_, head[:, index], int(nr_bits.max(initial=0))) for index in (L.MAP, L.BOUND_MAP))
    begins = (in_use & bounds).astype(bool)
    begins[:, 0] = True
    begins[:, 1:] |= in_use[:, 1:] != in_use[:, :-1]
    begins[np.arange(begins.shape[1]) > (nr_bits - end)[:, None]] = False
    rows = np.arange(len(head))
    begins[rows, nr_bits - end] = in_use[rows, nr_bits - end] = 1  # end markers
    row, bit = np.nonzero(begins)
    entries = (bit * granule | in_use[row, bit]).astype(np.int32)
    return _Form(entries, begins.sum(axis=1), head[:, L.START_OFFSET] != 0)


def _bits(map_: Ints, start: Ints, nr_bits: int) -> Ints:
    """The bits of a map of each chunk and one behind, a row each."""
    words = map_[start[:, None] + np.arange(nr_bits // 64 + 1)].astype("<i8")
    bits: Ints = np.unpackbits(words.view(np.uint8), axis=1, count=nr_bits + 1, bitorder="little")
    return bits


def _words(birth: Ints, stride: int, head: Ints, form: _Form) -> Ints:
    """The word of `birth` that belongs to each entry."""
    row = np.repeat(head[:, L.BIRTH], form.nr_entries)
    words: Ints = birth.take(birth_index(row, stride, form.entries), mode="clip")
    words[np.cumsum(form.nr_entries) - 1] = 0  # an end marker has no word, but its neighbour's
    return words


def _totals(g: Ints) -> Totals:
    names = [column.name for column in fields(Totals)]
    return Totals(*(int(g[getattr(L, name.upper())]) for name in names))


def _chunk_kinds(handles: Ints, g: Ints) -> Ints:
    kind = np.full(len(handles), PLAIN_CHUNK, np.uint8)
    kind[handles == g[L.FIRST_CHUNK]] = FIRST_CHUNK
    if g[L.RESERVED_CHUNK]:
        kind[handles == g[L.RESERVED_CHUNK]] = RESERVED_CHUNK
    return kind


def _areas(form: _Form, words: Ints, unit: Unit, chunk_kind: Ints) -> AreaColumns:
    """Make areas of map entries: each reaches to the next, the end marker to the end of the unit."""
    entries, count = form.entries, form.nr_entries
    off = entries & ~1
    last = np.cumsum(count) - 1
    first = last + 1 - count
    size = np.empty_like(off)
    np.subtract(off[1:], off[:-1], out=size[:-1])
    size[last] = unit.unit_size - off[last]
    in_use = entries & 1
    kind = in_use.astype(np.uint8)
    kind += HOLE  # or IN_USE, the next kind
    behind = last - 1
    kind[behind[in_use[behind] == 0]] = FREE
    kind[last] = OUTSIDE
    kind[first[form.has_prefix.astype(bool)]] = STATIC
    is_split = (chunk_kind == FIRST_CHUNK) & (kind[first] == STATIC) & (size[first] > unit.static_size & ~1)
    chunk = np.repeat(np.arange(len(count), dtype=np.int32), count)
    return _parted(chunk, off, size, words, kind, first[is_split], unit.static_size & ~1)


def _parted(chunk: Ints, off: Ints, size: Ints, words: Ints, kind: Ints, split: Ints, static: int) -> AreaColumns:
    """Leave out what is empty, and part the prefix of the first chunk into static and reserved."""
    keep = size > 0
    at = np.cumsum(keep)[split] - 1 if len(split) else split
    kept = (column[keep] for column in (chunk, off, size, kind, words))  # a mask copies whole runs
    chunk, off, size, kind, words = (np.insert(column, at, column[at]) if len(at) else column for column in kept)
    if len(at):
        off[at + 1], size[at + 1], kind[at + 1] = static, size[at + 1] - static, RESERVED
        size[at] = static
    birth = words >> 16
    birth -= words == 0  # no allocation has no word
    words &= 0xFFFF
    return AreaColumns(chunk, off, size, words.astype(np.int32), birth, kind)


def _chunks(
    head: Ints,
    kind: Ints,
    slot: Ints,
    position: Ints,
    first_base: int,
    first_free_off: Ints,
    contig_hint: Ints,
    areas: AreaColumns,
) -> ChunkColumns:
    base = head[:, L.BASE].astype(np.uint64) + np.uint64(first_base)
    free, largest, sum_frag, max_frag = free_sums(areas.chunk, areas.size_bytes, areas.kind, len(head))
    return ChunkColumns(
        ordinal=head[:, L.ORDINAL].copy(),
        kind=kind,
        slot=slot.copy(),
        position=position.copy(),
        base_addr=base,
        free_bytes=free,
        contig_hint=contig_hint,
        largest_free_bytes=largest,
        first_free_off=first_free_off,
        nr_alloc=head[:, L.CHUNK_NR_ALLOC].copy(),
        nr_populated=head[:, L.NR_POPULATED].copy(),
        sum_frag=sum_frag,
        max_frag=max_frag,
        changed=head[:, L.CHANGED].copy(),
    )


def free_sums(chunk: Ints, size_bytes: Ints, kind: Ints, nr_chunks: int) -> tuple[Ints, Ints, Ints, Ints]:
    """Work out free bytes, largest free area, sum_frag and max_frag of every chunk from its areas, ordered by chunk.

    >>> sums = free_sums(np.array([0, 0, 0]), np.array([8, 16, 64]), np.array([HOLE, IN_USE, FREE]), 1)
    >>> [column.tolist() for column in sums]
    [[72], [64], [8], [8]]

    Source: spec 8.3; free space behind the last area in use is no fragmentation.
    """
    hole = np.flatnonzero(kind == HOLE)
    hole_chunk, hole_size = chunk[hole], size_bytes[hole].astype(np.int64)
    start = np.flatnonzero(np.diff(hole_chunk, prepend=-1))
    sum_frag, max_frag, largest = np.zeros((3, nr_chunks), np.int64)
    if len(hole):
        sum_frag[hole_chunk[start]] = np.add.reduceat(hole_size, start)
        max_frag[hole_chunk[start]] = np.maximum.reduceat(hole_size, start)
    tail = np.flatnonzero(kind == FREE)  # at most one a chunk
    largest[chunk[tail]] = size_bytes[tail]
    return sum_frag + largest, np.maximum(largest, max_frag), sum_frag, max_frag


def _runs(pages: Ints) -> RunColumns:
    """Runs of ones in each row."""
    nr_rows, nr_pages = pages.shape
    bounded = np.zeros((nr_rows, nr_pages + 2), np.bool_)
    np.not_equal(pages, 0, out=bounded[:, 1:-1])
    chunk, place = np.nonzero(bounded[:, 1:] != bounded[:, :-1])  # where a run begins, where it ends, and so on
    return RunColumns(chunk[::2], place[::2], place[1::2])


def unpopulated(snap: Snapshot) -> RunColumns:
    """Give the runs of pages that are not populated; none of chunks whose populated pages are unknown.

    >>> from percpu_lab.engine import Engine
    >>> from percpu_lab.geometry import Geometry
    >>> engine = Engine(Geometry.simple(unit_size=32768), jit="off")
    >>> _ = [engine.alloc(24576, 8, False, False) for _ in range(2)]
    >>> gaps = unpopulated(snapshot(engine))
    >>> gaps.chunk.tolist(), gaps.first_page.tolist(), gaps.end_page.tolist()
    ([1], [6], [8])
    """
    runs = snap.populated
    edges = np.zeros((len(snap.chunks), snap.unit.nr_pages + 1), np.int64)
    edges[runs.chunk, runs.first_page] += 1
    edges[runs.chunk, runs.end_page] -= 1
    outside = np.flatnonzero(snap.areas.kind == OUTSIDE)  # not the chunk's: nothing is missing there
    edges[snap.areas.chunk[outside], -(-snap.areas.off_bytes[outside] // PAGE_SIZE)] += 1
    is_empty = np.cumsum(edges, axis=1)[:, :-1] == 0
    return _runs(is_empty & (snap.chunks.nr_populated != UNKNOWN)[:, None])


# --- all of it ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Columns(Rich):
    """What a view is given.

    Args:
        events: the events still held up to the snapshot; of an engine of which readings are kept, no allocations.
        history: columns of Engine.history().
        is_tracing: whether events are being written.
        annotations: what a recording of a real kernel knows beside; None of an engine.
    """

    snapshot: Snapshot
    events: Events
    history: Mapping[str, Ints]
    is_tracing: bool = True
    annotations: Annotations | None = None


def take(source: Any, kept: Kept | None = None) -> Columns:
    """Take the newest columns from an engine or a RecordedRun.

    >>> from percpu_lab.engine import Engine
    >>> from percpu_lab.geometry import Geometry
    >>> take(Engine(Geometry.simple(), jit="off")).snapshot.op
    0

    Args:
        source: an Engine, or anything with columns().
        kept: what earlier readings of the same engine left.
    """
    if hasattr(source, "columns"):
        return source.columns()  # type: ignore[no-any-return]
    with source.lock:
        events = kept.events.read(source) if kept else source.events(0)
        snap = snapshot(source, kept.areas if kept else None)
        return Columns(snap, events, source.history(), source.scalar(L.EVENT_MASK) != 0)
