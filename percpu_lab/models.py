"""What depends on the kernel whose allocator an engine models: one Model a kernel, all the rest is common.

    Model        functions                 map            a chunk as it stood
    v4.13        core/areamap.py           offset|in_use  ChunkState
    v6.12        core/bitmap.py            bits           BitmapChunkState
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple, Protocol

import numpy as np

from .core import areamap, bitmap
from .core import layout as L
from .core.slots import raw_slot
from .errors import GeometryError, RequestError
from .geometry import AllocInfo, Geometry
from .kernels import V4_13, V6_12, KernelVersion
from .rich import Rich
from .units import PAGE_SIZE


class Arrays(Protocol):
    """What is read of an engine here."""

    @property
    def g(self) -> np.ndarray: ...  # noqa: D102
    @property
    def chunk(self) -> np.ndarray: ...  # noqa: D102
    @property
    def map(self) -> np.ndarray: ...  # noqa: D102
    def births(self, c: int, /) -> np.ndarray: ...  # noqa: D102
    def base_addr(self, c: int, /) -> int: ...  # noqa: D102


def _chunk_text(chunk: ChunkState | BitmapChunkState) -> str:
    slot = "no slot" if chunk.slot < 0 else f"slot {chunk.slot}"
    sizes = f"{chunk.free_bytes:,} bytes free, contig {chunk.contig_bytes:,}"
    return f"{type(chunk).__name__} {chunk.ordinal}: {slot}, {chunk.nr_alloc:,} areas, {sizes}"


# --- v4.13 ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ChunkState(Rich):
    """A chunk of the area map as it stood at one moment; sizes in bytes, `populated` as [start, end) runs of pages."""

    handle: int
    ordinal: int
    slot: int
    base_addr: int
    nr_alloc: int
    max_alloc_size: int
    free_size: int
    contig_hint: int
    first_free: int
    has_reserved: bool
    immutable: bool
    map_used: int
    map_alloc: int
    on_map_extend_list: bool
    nr_populated: int
    populated: tuple[tuple[int, int], ...]
    map: np.ndarray

    def __repr__(self) -> str:
        return f"<{_chunk_text(self)}, map_used {self.map_used}>"

    @property
    def free_bytes(self) -> int:
        """Free space, as the chunk of any kernel has it."""
        return self.free_size

    @property
    def contig_bytes(self) -> int:
        """The largest free area as the allocator believes, as the chunk of any kernel has it."""
        return self.contig_hint


def _areamap_sizes(g: np.ndarray, info: AllocInfo) -> None:
    g[L.NR_SLOTS] = raw_slot(info.unit_size) + 2
    g[L.ROW_WORDS] = L.POPULATED + info.unit_pages
    g[L.MAP_STRIDE] = info.unit_size // 2 + 8
    g[L.GROUP_PAGES] = info.groups[0].nr_units * info.unit_pages


def _nr_alloc(engine: Arrays, c: int, row: list[int]) -> int:
    """Count the areas in use: a kernel without percpu_stats does not, but births tell."""
    return row[L.CHUNK_NR_ALLOC] if engine.g[L.STATS_ON] else int(np.count_nonzero(engine.births(c)))


def _areamap_chunk(engine: Arrays, c: int, slot: int) -> ChunkState:
    row = engine.chunk[c : c + int(engine.g[L.ROW_WORDS])].tolist()
    return ChunkState(
        handle=c, ordinal=row[L.ORDINAL], slot=slot, base_addr=engine.base_addr(c),
        nr_alloc=_nr_alloc(engine, c, row), max_alloc_size=row[L.CHUNK_MAX_ALLOC_SIZE], free_size=row[L.FREE_SIZE],
        contig_hint=row[L.CONTIG_HINT], first_free=row[L.FIRST_FREE], has_reserved=bool(row[L.HAS_RESERVED]),
        immutable=bool(row[L.IMMUTABLE]), map_used=row[L.MAP_USED], map_alloc=row[L.MAP_ALLOC],
        on_map_extend_list=row[L.EXTEND_NEXT] != -1, nr_populated=row[L.NR_POPULATED],
        populated=page_runs(row[L.POPULATED :]),
        map=_frozen(engine.map[row[L.MAP] : row[L.MAP] + row[L.MAP_USED] + 1].copy()),
    )


# --- v6.12 ------------------------------------------------------------------------------


class BlockMd(NamedTuple):
    """What is known of the free runs of a block or a chunk (pcpu_block_md), in bits of 4 bytes."""

    scan_hint: int
    scan_hint_start: int
    contig_hint: int
    contig_hint_start: int
    left_free: int
    right_free: int
    first_free: int
    nr_bits: int


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class BitmapChunkState(Rich):
    """A chunk of the bitmap as it stood at one moment; sizes in bytes, `populated` as [start, end) runs of pages.

    Args:
        alloc_map: [start, end) of each run of set bits, a row each.
        bound_map: the set bits.
    """

    handle: int
    ordinal: int
    slot: int
    base_addr: int
    nr_alloc: int
    max_alloc_size: int
    free_bytes: int
    immutable: bool
    isolated: bool
    start_offset: int
    end_offset: int
    nr_pages: int
    nr_populated: int
    nr_empty_pop_pages: int
    populated: tuple[tuple[int, int], ...]
    chunk_md: BlockMd
    alloc_map: np.ndarray
    bound_map: np.ndarray
    md_blocks: tuple[BlockMd, ...]

    def __repr__(self) -> str:
        return f"<{_chunk_text(self)}, {self.nr_empty_pop_pages} empty pages>"

    @property
    def contig_bytes(self) -> int:
        """The largest free run as the allocator believes."""
        return self.chunk_md.contig_hint * bitmap.PCPU_MIN_ALLOC_SIZE


def _bitmap_sizes(g: np.ndarray, info: AllocInfo) -> None:
    g[L.NR_SLOTS] = raw_slot(info.unit_size) + 1 + bitmap.NR_EXTRA_SLOTS
    g[L.ROW_WORDS] = L.POPULATED + info.unit_pages * (1 + L.NR_MD_WORDS)
    map_words = info.unit_size // bitmap.PCPU_MIN_ALLOC_SIZE // 64
    g[L.MAP_STRIDE] = 2 * map_words + 8  # bound_map has a bit more; spare words behind
    g[L.GROUP_PAGES] = info.unit_pages  # of the group of a km chunk, this kernel counts one unit
    _check_hidden_end(info)


def _check_hidden_end(info: AllocInfo) -> None:
    for name, end in (("reserved_size", _round_up_granule(info.static_size) + info.reserved_size),
                      ("dyn_size", info.size_sum)):
        if -end % PAGE_SIZE in (1, 2, 3):
            raise GeometryError(f"the served space ends {-end % PAGE_SIZE} bytes before a page does",
                                where="pcpu_alloc_first_chunk", remedy=f"make {name} a multiple of 4")


def _round_up_granule(size: int) -> int:
    return -(-size // bitmap.PCPU_MIN_ALLOC_SIZE) * bitmap.PCPU_MIN_ALLOC_SIZE


def _bitmap_chunk(engine: Arrays, c: int, slot: int) -> BitmapChunkState:
    row = engine.chunk[c : c + int(engine.g[L.ROW_WORDS])].tolist()
    nr_bits = row[L.CHUNK_MD + L.MD_NR_BITS]
    alloc_bits = _bits(engine.map, row[L.MAP], nr_bits)
    edges = np.flatnonzero(np.diff(alloc_bits.astype(np.int8), prepend=0, append=0))
    blocks = np.array(row[row[L.MD_BLOCKS] - c :][: row[L.NR_PAGES] * L.NR_MD_WORDS]).reshape(-1, L.NR_MD_WORDS)
    return BitmapChunkState(
        handle=c, ordinal=row[L.ORDINAL], slot=slot, base_addr=engine.base_addr(c),
        nr_alloc=_nr_alloc(engine, c, row), max_alloc_size=row[L.CHUNK_MAX_ALLOC_SIZE], free_bytes=row[L.FREE_SIZE],
        immutable=bool(row[L.IMMUTABLE]), isolated=bool(row[L.ISOLATED]), start_offset=row[L.START_OFFSET],
        end_offset=row[L.END_OFFSET], nr_pages=row[L.NR_PAGES], nr_populated=row[L.NR_POPULATED],
        nr_empty_pop_pages=row[L.CHUNK_NR_EMPTY_POP_PAGES],
        populated=page_runs(row[L.POPULATED : L.POPULATED + row[L.NR_PAGES]]),
        chunk_md=BlockMd(*row[L.CHUNK_MD : L.CHUNK_MD + L.NR_MD_WORDS]),
        alloc_map=_frozen(edges.reshape(-1, 2)),
        bound_map=_frozen(np.flatnonzero(_bits(engine.map, row[L.BOUND_MAP], nr_bits + 1))),
        md_blocks=tuple(BlockMd(*block) for block in blocks.tolist()),
    )


def _bits(words: np.ndarray, at: int, nr_bits: int) -> np.ndarray:
    """Give the bits of a map as an array of 0 and 1."""
    part = words[at : at + -(-nr_bits // 64)].astype("<i8")
    return np.unpackbits(part.view(np.uint8), count=nr_bits, bitorder="little")


# --- both -----------------------------------------------------------------------------------


AnyChunkState = ChunkState | BitmapChunkState


@dataclass(frozen=True, slots=True, repr=False)
class Model(Rich):
    """A kernel's allocator.

    Args:
        kernel: its row of the table of kernels.
        plain: the module of percpu_lab.core that decides as this kernel did.
        map_type: type of the entries of an engine's `map`.
        set_sizes: writes what depends on the geometry into the globals.
        read_chunk: reads a chunk by its handle and slot.
    """

    kernel: KernelVersion
    plain: ModuleType
    map_type: type[np.signedinteger[Any]]
    set_sizes: Callable[[np.ndarray, AllocInfo], None]
    read_chunk: Callable[[Arrays, int, int], Any]

    def __repr__(self) -> str:
        return f"<Model {self.name}: {self.plain.__name__}>"

    def _html_fields(self) -> list[tuple[str, object]]:
        return [("kernel", repr(self.kernel)), ("plain", self.plain.__name__), ("map_type", self.map_type.__name__)]

    @property
    def name(self) -> str:
        """The name of the kernel, as recorded cases have it."""
        return self.kernel.name

    @property
    def module_name(self) -> str:
        """The name of the module that holds its functions, plain or compiled."""
        return self.plain.__name__.rpartition(".")[2]


AREA_MAP = Model(V4_13, areamap, np.int32, _areamap_sizes, _areamap_chunk)
BITMAP = Model(V6_12, bitmap, np.int64, _bitmap_sizes, _bitmap_chunk)
MODELS: Mapping[str, Model] = MappingProxyType({model.name: model for model in (AREA_MAP, BITMAP)})


def model_named(name: object) -> Model:
    """Find the model of a kernel.

    >>> model_named("v6.12-bitmap").module_name
    'bitmap'

    Raises:
        RequestError: no engine decides as this kernel did.
    """
    if not isinstance(name, str) or name not in MODELS:
        remedy = f"choose from: {', '.join(MODELS)}"
        raise RequestError(f"no engine for kernel {name!r:.60}", where="kernel", remedy=remedy)
    return MODELS[name]


def booted_by(geometry: Geometry, kernel: KernelVersion) -> Geometry:
    """Let a kernel boot with the geometry of another; later ones do not log the address of the first chunk.

    A kernel that decides alike may have other rules for its first chunk: its geometry stays as it is.

    >>> booted_by(Geometry.embed(28672), V6_12).boot_log[0]
    'percpu: Embedded 16 pages/cpu s28672 r8192 d28672 u65536'

    Raises:
        GeometryError: the kernel would refuse it.
    """
    if geometry.kernel.replayed_by == kernel.name:
        return geometry
    base = geometry.addresses.first_chunk
    text = geometry.kernel.at_base(base)
    log = (line.replace(text, kernel.at_base(base)) if text else line for line in geometry.boot_log)
    return replace(geometry, kernel=kernel, boot_log=tuple(log))


def page_runs(words: list[int]) -> tuple[tuple[int, int], ...]:
    """List the [start, end) runs of set words.

    >>> page_runs([1, 1, 0, 1])
    ((0, 2), (3, 4))
    """
    edges = np.flatnonzero(np.diff(np.array([0, *words, 0], np.int8))).tolist()
    return tuple(zip(edges[::2], edges[1::2], strict=True))


def _frozen(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array
