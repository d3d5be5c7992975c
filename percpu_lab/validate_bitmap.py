"""What must hold of the bitmap allocator between any two operations, checked bit by bit.

Invariants 1 to 8 are those of a chunk: see core/bitmap.py. These are the allocator's, numbered as in validate.py:

 10. `birth` has a word exactly where an area in use begins: op number and size;
 11. each chunk is on one slot list, but the reserved one, which is on none; links agree in both directions;
 13. every other row is on the list of free rows, counted, and without births;
 14. `order` has the handle of each chunk that was created and is not destroyed, at ordinal - 1, and nothing else;
 15. pcpu_nr_empty_pop_pages is the sum over all chunks but the reserved and the isolated ones, pcpu_nr_populated that
     of the populated pages, the first unit counted by its sizes;
 16. nr_alloc - nr_dealloc = nr_cur_alloc = the areas in use, in all and chunk by chunk; nr_chunks is the length of
     the lists; maxima and minima are on their side;
 17. no lock is held, no table is over-full, and a chunk lies where its ordinal says.

    >>> from percpu_lab.engine import Engine
    >>> from percpu_lab.geometry import Geometry
    >>> engine = Engine(Geometry.simple(), kernel="v6.12-bitmap", jit="off")
    >>> validate_bitmap_engine(engine)
    >>> engine.chunk[engine.handle(0) + L.FREE_SIZE] += 4
    >>> validate_bitmap_engine(engine)
    Traceback (most recent call last):
    percpu_lab.errors.InvariantError: first chunk: invariant 1: free_bytes is 57348, the clear bits are 57344 bytes; ...

Source: v6.12, spec sections 1.6, 2.1, 4.4, 5 and 8.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from . import validate as common
from .core import layout as L
from .core.bitmap import PCPU_BITMAP_BLOCK_BITS, PCPU_MIN_ALLOC_SIZE
from .errors import InvariantError
from .models import BitmapChunkState, BlockMd
from .units import PAGE_SIZE, round_down, round_up

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ["validate_bitmap", "validate_bitmap_engine"]

_Violations = Iterator[str]
_Record = tuple[str, BlockMd, np.ndarray]
_NR_EXTRA_SLOTS = 3


def validate_bitmap(chunk: BitmapChunkState) -> None:
    """Check invariants 1 to 7 on one chunk.

    >>> from percpu_lab.engine import Engine
    >>> from percpu_lab.geometry import Geometry
    >>> for chunk in Engine(Geometry.simple(), kernel="v6.12-bitmap", jit="off").chunks():
    ...     validate_bitmap(chunk)

    Raises:
        InvariantError: names chunk and invariant.
    """
    used = np.zeros(chunk.chunk_md.nr_bits, bool)
    for start, end in chunk.alloc_map.tolist():
        used[start:end] = True
    blocks = used.reshape(chunk.nr_pages, PCPU_BITMAP_BLOCK_BITS)
    where = common._name(chunk.ordinal)
    _demand(1, where, _free_bytes(chunk, used))
    _demand(5, where, _chunk_hint(chunk.chunk_md, used))
    _demand(6, where, _pages(chunk, blocks))
    _demand(7, where, _bounds(chunk, used))
    for name, md, bits in _records(chunk, used, blocks):
        _demand(2, f"{where}, {name}", _hints_are_free(md, bits))
        _demand(3, f"{where}, {name}", _first_free(md, bits))
        _demand(4, f"{where}, {name}", _scan_hint(md))
    for k, (md, bits) in enumerate(zip(chunk.md_blocks, blocks, strict=True)):
        _demand(5, f"{where}, block {k}", _block_edges(md, bits))


def validate_bitmap_engine(engine: Engine) -> None:
    """Check every invariant.

    Raises:
        InvariantError: names chunk and invariant.
    """
    with engine.lock:
        _demand(17, "globals", common._at_rest(engine))
        live = common._slot_lists(engine)
        _demand(13, "free rows", common._free_rows(engine, live))
        reserved = engine.reserved_chunk()
        chunks = [*([reserved] if reserved else []), *engine.chunks()]
        for chunk in chunks:
            where = common._name(chunk.ordinal)
            validate_bitmap(chunk)
            _demand(8, where, _isolated(engine, chunk))
            _demand(10, where, _births(engine, chunk))
            _demand(17, where, _place(engine, chunk))
        _demand(14, "order", common._order(engine, chunks))
        _demand(15, "globals", _page_sums(engine, chunks))
        if engine.scalar(L.STATS_ON):
            _demand(16, "percpu_stats", _statistics(engine, chunks))


def _demand(number: int, where: str, violations: Iterable[str]) -> None:
    for what in violations:
        raise InvariantError(number, what, where=where)


# --- one chunk -----------------------------------------------------------------------


def _records(chunk: BitmapChunkState, used: np.ndarray, blocks: np.ndarray) -> Iterator[_Record]:
    yield "chunk_md", chunk.chunk_md, used
    for k, (md, bits) in enumerate(zip(chunk.md_blocks, blocks, strict=True)):
        yield f"block {k}", md, bits


def _free_bytes(chunk: BitmapChunkState, used: np.ndarray) -> _Violations:
    clear = PCPU_MIN_ALLOC_SIZE * int((~used).sum())
    if not 0 <= clear - chunk.free_bytes <= chunk.end_offset % PCPU_MIN_ALLOC_SIZE:
        yield f"free_bytes is {chunk.free_bytes}, the clear bits are {clear} bytes"


def _hints_are_free(md: BlockMd, used: np.ndarray) -> _Violations:
    for name, start, length in (
        ("contig_hint", md.contig_hint_start, md.contig_hint),
        ("scan_hint", md.scan_hint_start, md.scan_hint),
    ):
        if length < 0 or start < 0 or start + length > len(used) or used[start : start + length].any():
            yield f"{name} {length} at {start} is not free"


def _first_free(md: BlockMd, used: np.ndarray) -> _Violations:
    clear = np.flatnonzero(~used)
    first = int(clear[0]) if len(clear) else len(used)
    if md.first_free != first and (len(clear) or md.first_free > first):
        yield f"first_free is {md.first_free}, the first clear bit {first}"


def _scan_hint(md: BlockMd) -> _Violations:
    if md.scan_hint > md.contig_hint:
        yield f"scan_hint {md.scan_hint} is more than contig_hint {md.contig_hint}"
    if md.scan_hint and md.scan_hint_start > md.contig_hint_start and md.scan_hint != md.contig_hint:
        yield f"scan_hint {md.scan_hint} stands behind contig_hint {md.contig_hint} and is less"


def _chunk_hint(md: BlockMd, used: np.ndarray) -> _Violations:
    edges = np.flatnonzero(np.diff(used.astype(np.int8), prepend=1, append=1))
    largest = int(np.diff(edges)[::2].max(initial=0))
    if md.contig_hint > largest:
        yield f"contig_hint is {md.contig_hint}, the largest free run {largest}"


def _block_edges(md: BlockMd, used: np.ndarray) -> _Violations:
    left = int(np.argmax(used)) if used.any() else len(used)
    right = int(np.argmax(used[::-1])) if used.any() else len(used)
    if md.left_free != left:
        yield f"left_free is {md.left_free}, not {left}"
    if md.right_free not in (right, 0):
        yield f"right_free is {md.right_free}, not {right}, nor 0, which it may be left at"
    if (md.contig_hint == len(used)) != (left == len(used)):
        yield f"contig_hint is {md.contig_hint}, the first {left} bits are free"


def _pages(chunk: BitmapChunkState, blocks: np.ndarray) -> _Violations:
    populated = np.zeros(chunk.nr_pages, bool)
    for start, end in chunk.populated:
        populated[start:end] = True
    if chunk.nr_populated != populated.sum():
        yield f"nr_populated is {chunk.nr_populated}, {populated.sum()} pages are populated"
    nr_empty = int((populated & ~blocks.any(axis=1)).sum())
    if chunk.nr_empty_pop_pages != nr_empty:
        yield f"nr_empty_pop_pages is {chunk.nr_empty_pop_pages}, {nr_empty} populated pages are wholly free"
    if (blocks.any(axis=1) & ~populated).any():
        yield "an area in use lies on a page that is not populated"


def _bounds(chunk: BitmapChunkState, used: np.ndarray) -> _Violations:
    bounds = set(chunk.bound_map.tolist())
    hidden_end = chunk.chunk_md.nr_bits - chunk.end_offset // PCPU_MIN_ALLOC_SIZE
    for start, end in chunk.alloc_map.tolist():
        # an end that is hidden and no whole granule has its bit one too early
        missing = {start, end} - bounds - ({hidden_end} if chunk.end_offset % PCPU_MIN_ALLOC_SIZE else set())
        if missing:
            yield f"the areas in bits {start} to {end} have no bound at {sorted(missing)}"


# --- the whole ---------------------------------------------------------------------------


def _isolated(engine: Engine, chunk: BitmapChunkState) -> _Violations:
    behind = engine.scalar(L.NR_SLOTS) - chunk.slot
    if chunk.ordinal >= 0 and chunk.isolated != (behind in (1, _NR_EXTRA_SLOTS)):
        yield f"isolated is {chunk.isolated} on list {chunk.slot}"


def _births(engine: Engine, chunk: BitmapChunkState) -> _Violations:
    row = engine.births(chunk.handle).reshape(-1)
    found = {2 * k // PCPU_MIN_ALLOC_SIZE: int(row[k]) for k in np.flatnonzero(row).tolist()}
    in_use = areas_in_use(chunk)
    if found.keys() != in_use.keys():
        yield f"births without area at bits {sorted(found.keys() - in_use.keys())}"
        yield f"areas without birth at bits {sorted(in_use.keys() - found.keys())}"
        return
    for bit, birth in found.items():
        op, size = birth >> 16, birth & 0xFFFF
        if not 0 <= op < engine.now:
            yield f"the area at bit {bit} is of op {op}, {engine.now} ops are done"
        if size != in_use[bit]:
            yield f"the area at bit {bit} has {in_use[bit]} bytes for a request of {size}"


def areas_in_use(chunk: BitmapChunkState) -> dict[int, int]:
    """Give the size in bytes of each area in use, by its first bit: runs cut at the bits of bound_map."""
    first = chunk.start_offset // PCPU_MIN_ALLOC_SIZE
    end = chunk.chunk_md.nr_bits - chunk.end_offset // PCPU_MIN_ALLOC_SIZE
    areas: dict[int, int] = {}
    for start, stop in chunk.alloc_map.tolist():
        start, stop = max(start, first), min(stop, end)
        if start < stop:
            inner = chunk.bound_map[(chunk.bound_map > start) & (chunk.bound_map < stop)].tolist()
            cuts = [start, *inner, stop]
            areas |= {a: PCPU_MIN_ALLOC_SIZE * (b - a) for a, b in pairwise(cuts)}
    return areas


def _place(engine: Engine, chunk: BitmapChunkState) -> _Violations:
    info = engine.geometry.info
    if chunk.ordinal > 0:
        offset = engine.scalar(L.AREA_BASE) + (chunk.ordinal - 1) * engine.scalar(L.AREA_STRIDE)
    else:
        first_byte = round_up(info.static_size, PCPU_MIN_ALLOC_SIZE) + (chunk.ordinal == 0) * info.reserved_size
        offset = round_down(first_byte, PAGE_SIZE)
        if chunk.start_offset != first_byte - offset:
            yield f"start_offset is {chunk.start_offset}, not {first_byte - offset}"
    base = (engine.geometry.addresses.first_chunk + offset) & (1 << 64) - 1
    if chunk.base_addr != base:
        yield f"base_addr is {chunk.base_addr:#x}, not {base:#x}"


def _page_sums(engine: Engine, chunks: list[BitmapChunkState]) -> _Violations:
    nr_empty = sum(chunk.nr_empty_pop_pages for chunk in chunks if chunk.ordinal >= 0 and not chunk.isolated)
    if engine.scalar(L.NR_EMPTY_POP_PAGES) != nr_empty:
        yield f"pcpu_nr_empty_pop_pages is {engine.scalar(L.NR_EMPTY_POP_PAGES)}, the chunks have {nr_empty}"
    created = sum(chunk.nr_populated for chunk in chunks if chunk.ordinal > 0)
    nr_populated = engine.geometry.info.size_sum // PAGE_SIZE + created
    if engine.scalar(L.NR_POPULATED_TOTAL) != nr_populated:
        yield f"pcpu_nr_populated is {engine.scalar(L.NR_POPULATED_TOTAL)}, counted anew {nr_populated}"


def _statistics(engine: Engine, chunks: list[BitmapChunkState]) -> _Violations:
    yield from common._counters(engine, chunks)
    for chunk in chunks:
        if chunk.nr_alloc != len(areas_in_use(chunk)):
            yield f"{common._name(chunk.ordinal)}: nr_alloc {chunk.nr_alloc} for {len(areas_in_use(chunk))} areas"
