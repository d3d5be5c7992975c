"""The numbers of percpu_stats worked out from a chunk, and read off a running engine.

The five figures of fragmentation are read off the area map, here of a chunk without a reserved prefix:

    map       0|1      64|0     96|1     160|0     4096|1
    area      64 used  32 free  64 used  3936 free, behind the last used area: not a fragment
    sorted    -32  64  64       sum_frag 32, max_frag 32, cur_min, cur_med and cur_max 64

>>> map_statistics([0 | 1, 64 | 0, 96 | 1, 160 | 0, 4096 | 1], has_reserved=False)
MapStatistics(sum_frag=32, max_frag=32, cur_min_alloc=64, cur_med_alloc=64, cur_max_alloc=64)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..core import layout as L
from ..errors import LabError, LockdepError
from ..models import AnyChunkState, BitmapChunkState
from .values import AllocInfoStats, ChunkKind, ChunkStats, ChunkStatsV6, GlobalStats, PercpuStats, labels, types_of

if TYPE_CHECKING:
    from ..engine import Engine


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
        LockdepError: pcpu_lock is held.

    Source: percpu_stats_show, which takes the lock for the walk.
    """
    with engine.lock:
        if not engine.scalar(L.STATS_ON):
            what = "this allocator keeps no statistics (CONFIG_PERCPU_STATS=n)"
            raise LabError(what, where="percpu_stats", remedy="make one with stats=True")
        if engine.scalar(L.PCPU_LOCK):
            what = "pcpu_lock must not be held (the kernel takes it here, and would wait for ever)"
            raise LockdepError(what, where="percpu_stats_show", remedy="let go of the lock first")
        reserved = engine.reserved_chunk()
        chunks = [_chunk_stats(engine, chunk) for chunk in ([] if reserved is None else [reserved]) + engine.chunks()]
        return PercpuStats(_alloc_info(engine), _global_stats(engine), tuple(chunks), engine.model.kernel.stats.name)


def _alloc_info(engine: Engine) -> AllocInfoStats:
    info = engine.geometry.info
    return AllocInfoStats(*(getattr(info, label) for label in labels(AllocInfoStats)))


def _global_stats(engine: Engine) -> GlobalStats:
    kind, _ = types_of(engine.model.kernel.stats)
    names = (f"nr_{label}" if label == "empty_pop_pages" else label for label in labels(kind))
    return kind(*(engine.scalar(getattr(L, name.upper())) for name in names))


def _chunk_kind(engine: Engine, chunk: AnyChunkState) -> ChunkKind:
    if chunk.ordinal <= 0:
        return "first" if chunk.ordinal == 0 else "reserved"
    if isinstance(chunk, BitmapChunkState):
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
