"""What must hold between any two operations, checked without trust in the code that keeps it.

Invariants 1 to 9 are those of a chunk: see core/areamap.py. These are the allocator's:

 10. `birth` has a word exactly where an area in use begins: op number, and a size that the area has or has 2 or 4 bytes
     more of (padding that nobody else could use);
 11. each chunk is on one slot list, but the reserved one, which is on none; links agree in both directions;
 12. map_extend_chunks holds a chunk at most once; links agree in both directions;
 13. every other row is on the list of free rows, counted, and without births;
 14. `order` has the handle of each chunk that was created and is not destroyed, at ordinal - 1, and nothing else;
 15. pcpu_nr_empty_pop_pages counts the populated pages that lie in free areas, of all chunks but the reserved one
     (with km, every chunk ever created adds the pages of its other units); a chunk counts its own share;
 16. nr_alloc - nr_dealloc = nr_cur_alloc = the areas in use, in all and chunk by chunk; nr_chunks is the length of
     the lists; maxima and minima are on their side;
 17. no lock is held, no table is over-full, and a chunk lies where its ordinal says.

    >>> from percpu_lab.engine import Engine
    >>> from percpu_lab.geometry import Geometry
    >>> engine = Engine(Geometry.simple(), jit="off")
    >>> validate_engine(engine)
    >>> engine.chunk[engine.handle(0) + L.FREE_SIZE] += 2
    >>> validate_engine(engine)
    Traceback (most recent call last):
    percpu_lab.errors.InvariantError: first chunk: invariant 3: free_size is 57346, the free areas have 57344 bytes; ...

Source: v4.13, spec sections 1, 3.6, 6.3 and 8.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from .core import layout as L
from .errors import InvariantError
from .units import PAGE_SIZE, bytes_to_pages

if TYPE_CHECKING:
    from .engine import ChunkState, Engine

__all__ = ["validate_area_map", "validate_engine", "validate_slots"]

_SMALL = 4
_LEAST_MAP = 16
_MOST_PADDING = 4  # 2 bytes of tail, 2 of the head of the next area
_Violations = Iterator[str]


def validate_area_map(chunk: ChunkState, unit_size: int, *, lost_bytes: int = 0) -> None:
    """Check invariants 1 to 9 on one chunk.

    >>> from percpu_lab.engine import Engine
    >>> from percpu_lab.geometry import Geometry
    >>> for chunk in Engine(Geometry.simple(), jit="off").chunks():
    ...     validate_area_map(chunk, 65536)

    Args:
        chunk: as it stood at one moment.
        unit_size: bytes.
        lost_bytes: counted in free_size though in no free area; only odd sizes at setup make such bytes.

    Raises:
        InvariantError: names chunk and invariant.
    """
    entries = chunk.map.tolist()
    areas = [(a & ~1, (b & ~1) - (a & ~1), bool(a & 1)) for a, b in pairwise(entries)]
    where = _name(chunk.ordinal)
    _demand(1, where, _borders(chunk, entries, areas, unit_size))
    _demand(2, where, _neighbours(areas))
    _demand(3, where, _free_size(chunk, areas, lost_bytes))
    _demand(4, where, _contig_hint(chunk, areas))
    _demand(5, where, _first_free(chunk, areas))
    _demand(6, where, _capacity(chunk))
    _demand(7, where, _slot(chunk, unit_size))
    _demand(8, where, _pages(chunk, unit_size // PAGE_SIZE))
    _demand(9, where, _backed(chunk, areas))


def validate_slots(engine: Engine) -> None:
    """Check invariants 7 and 11 to 13: every chunk on its list, all rows accounted for.

    Raises:
        InvariantError: names chunk and invariant.
    """
    with engine.lock:
        live = _slot_lists(engine)
        _demand(12, "map_extend_chunks", _extend_list(engine, live))
        _demand(13, "free rows", _free_rows(engine, live))
        for chunk in engine.chunks():
            _demand(7, _name(chunk.ordinal), _slot(chunk, engine.scalar(L.UNIT_SIZE)))


def validate_engine(engine: Engine) -> None:
    """Check every invariant.

    Raises:
        InvariantError: names chunk and invariant.
    """
    with engine.lock:
        _demand(17, "globals", _at_rest(engine))
        validate_slots(engine)
        reserved = engine.reserved_chunk()
        chunks = [*([reserved] if reserved else []), *engine.chunks()]
        for chunk in chunks:
            lost_bytes = _lost_bytes(engine, chunk.ordinal)
            _demand(1, _name(chunk.ordinal), _boot_end(engine, chunk))
            validate_area_map(chunk, engine.scalar(L.UNIT_SIZE), lost_bytes=lost_bytes)
            _demand(8, _name(chunk.ordinal), _group_pages(engine, chunk))
            _demand(10, _name(chunk.ordinal), _births(engine, chunk, lost_bytes))
            _demand(17, _name(chunk.ordinal), _place(engine, chunk))
        _demand(14, "order", _order(engine, chunks))
        _demand(15, "globals", _empty_pages(engine, chunks))
        if engine.scalar(L.STATS_ON):
            _demand(16, "percpu_stats", _statistics(engine, chunks))


def _demand(number: int, where: str, violations: Iterable[str]) -> None:
    for what in violations:
        raise InvariantError(number, what, where=where)


def _name(ordinal: int) -> str:
    return {-1: "reserved chunk", 0: "first chunk"}.get(ordinal, f"chunk {ordinal}")


# --- one chunk -------------------------------------------------------------------

_Areas = list[tuple[int, int, bool]]  # offset, bytes, in use


def _borders(chunk: ChunkState, entries: list[int], areas: _Areas, unit_size: int) -> _Violations:
    if len(entries) != chunk.map_used + 1 or not areas:
        yield f"{len(entries)} entries for map_used = {chunk.map_used}"
        return
    if entries[0] != int(chunk.has_reserved) and (chunk.has_reserved or entries[0] > 1):
        yield f"the map begins with {entries[0]}"
    prefix_may_be_empty = chunk.has_reserved
    for k, (off, size, _) in enumerate(areas):
        if size <= 0 and not (size == 0 and k == 0 and prefix_may_be_empty):
            yield f"area {k} at {off} has {size} bytes"
    end = entries[-1] & ~1
    if not entries[-1] & 1:
        yield f"the sentinel {entries[-1]} is not marked in use"
    if end > unit_size or (end < unit_size and not chunk.has_reserved):
        yield f"the map ends at {end}, the unit at {unit_size}"


def _neighbours(areas: _Areas) -> _Violations:
    for k, ((_, _, in_use), (_, _, next_in_use)) in enumerate(pairwise(areas)):
        if not in_use and not next_in_use:
            yield f"areas {k} and {k + 1} are both free"


def _free_sizes(areas: _Areas) -> list[int]:
    return [size for _, size, in_use in areas if not in_use]


def _free_size(chunk: ChunkState, areas: _Areas, lost_bytes: int) -> _Violations:
    free_bytes = sum(_free_sizes(areas)) + lost_bytes
    if chunk.free_size != free_bytes:
        yield f"free_size is {chunk.free_size}, the free areas have {free_bytes} bytes"


def _contig_hint(chunk: ChunkState, areas: _Areas) -> _Violations:
    largest = max(_free_sizes(areas), default=0)
    if chunk.contig_hint < largest:
        yield f"contig_hint is {chunk.contig_hint}, but an area of {largest} bytes is free"


def _first_free(chunk: ChunkState, areas: _Areas) -> _Violations:
    if not 0 <= chunk.first_free <= chunk.map_used:
        yield f"first_free is {chunk.first_free} of {chunk.map_used} areas"
    for k, (_, _, in_use) in enumerate(areas[: chunk.first_free]):
        if not in_use:
            yield f"area {k} is free, first_free is {chunk.first_free}"


def _capacity(chunk: ChunkState) -> _Violations:
    if chunk.map_used >= chunk.map_alloc:
        yield f"map_used is {chunk.map_used}, map_alloc {chunk.map_alloc}"
    if chunk.map_alloc < _LEAST_MAP or chunk.map_alloc & (chunk.map_alloc - 1):
        yield f"map_alloc is {chunk.map_alloc}, not {_LEAST_MAP} doubled some times"


def _slot(chunk: ChunkState, unit_size: int) -> _Violations:
    last = _raw_slot(unit_size) + 1
    slot = last if chunk.free_size == unit_size else _raw_slot(chunk.free_size)
    if chunk.free_size < _SMALL or chunk.contig_hint < _SMALL:
        slot = 0
    if chunk.ordinal < 0:
        slot = -1
    if chunk.slot != slot:
        yield f"on the list of slot {chunk.slot}, but {chunk.free_size} free bytes belong to slot {slot}"


def _raw_slot(size: int) -> int:
    return max(size.bit_length() - 3, 1)


def _pages(chunk: ChunkState, unit_pages: int) -> _Violations:
    end = chunk.populated[0][1] if chunk.populated else 0
    if chunk.populated not in ((), ((0, end),)) or end > unit_pages:
        yield f"populated pages are {chunk.populated}, not one run from page 0"
    if chunk.immutable and end != unit_pages:
        yield f"immutable, with {end} of {unit_pages} pages populated"
    if chunk.nr_populated != end and (end != unit_pages or chunk.nr_populated % unit_pages or not chunk.nr_populated):
        yield f"nr_populated is {chunk.nr_populated}, {end} pages are populated"


def _backed(chunk: ChunkState, areas: _Areas) -> _Violations:
    nr_pages = chunk.populated[0][1] if chunk.populated else 0
    for off, size, in_use in areas:
        if in_use and bytes_to_pages(off + size) > nr_pages:
            yield f"the area at {off} has {size} bytes, but only {nr_pages} pages are populated"


# --- lists and rows -----------------------------------------------------------------


def _walk(engine: Engine, link: int, head: int, number: int, where: str) -> list[int]:
    """List the handles on a list, sure of the links back and of an end."""
    handles: list[int] = []
    previous, c = head, int(engine.chunk[head + link])
    while c != head:
        if len(handles) * engine.scalar(L.ROW_WORDS) > len(engine.chunk) or not 0 < c < len(engine.chunk):
            raise InvariantError(number, f"a list leads to {c}, not back to its head", where=where)
        back = engine.chunk[c + link + 1]
        if back != previous:
            raise InvariantError(number, f"{c} follows {previous}, but points back to {back}", where=where)
        handles.append(c)
        previous, c = c, int(engine.chunk[c + link])
    last = engine.chunk[head + link + 1]
    if last != previous:
        raise InvariantError(number, f"the last is {previous}, but the head says {last}", where=where)
    return handles


def _slot_lists(engine: Engine) -> set[int]:
    """Give the handles of all chunks, the reserved one too."""
    words, reserved = engine.scalar(L.ROW_WORDS), engine.scalar(L.RESERVED_CHUNK)
    live: list[int] = []
    for slot in range(L.NR_LIST_HEADS):
        found = _walk(engine, L.LIST_NEXT, slot * words, 11, f"slot {slot}")
        if found and slot >= engine.scalar(L.NR_SLOTS):
            raise InvariantError(11, "there is no such slot", where=f"slot {slot}")
        live += found
    if reserved and engine.chunk[reserved + L.LIST_NEXT] != -1:
        raise InvariantError(11, "it is on a list", where="reserved chunk")
    if len(set(live)) != len(live) or reserved in live:
        raise InvariantError(11, "a chunk is on two lists", where="slots")
    return {*live, *([reserved] if reserved else [])}


def _extend_list(engine: Engine, live: set[int]) -> _Violations:
    waiting = _walk(engine, L.EXTEND_NEXT, L.EXTEND_HEAD_ROW * engine.scalar(L.ROW_WORDS), 12, "map_extend_chunks")
    if len(set(waiting)) != len(waiting) or not set(waiting) <= live:
        yield "a chunk is on it twice, or is destroyed"
    for c in live - set(waiting):
        if engine.chunk[c + L.EXTEND_NEXT] != -1:
            yield f"{_name(int(engine.chunk[c + L.ORDINAL]))} is not on it, but has a link"


def _free_rows(engine: Engine, live: set[int]) -> _Violations:
    words = engine.scalar(L.ROW_WORDS)
    rows = engine.chunk.reshape(-1, words)
    following, was_used = rows[:, L.LIST_NEXT].tolist(), rows[:, L.ROW].tolist()
    free: list[int] = []
    c = engine.scalar(L.FREE_ROW)
    while c:
        if len(free) > len(rows) or c % words or c in live or not 0 < c < len(engine.chunk):
            yield f"the list leads to {c}"
            return
        free.append(c)
        c = following[c // words]
    if len(free) != engine.scalar(L.NR_FREE_ROWS):
        yield f"{len(free)} rows on the list, {engine.scalar(L.NR_FREE_ROWS)} counted"
    if L.NR_LIST_HEADS + len(live) + len(free) != len(rows):
        yield f"{len(live)} rows in use and {len(free)} free of {len(rows) - L.NR_LIST_HEADS}"
    for c in free:
        if was_used[c // words] and engine.births(c).any():
            yield f"row {c // words} still has births"


# --- the whole -------------------------------------------------------------------------


def _at_rest(engine: Engine) -> _Violations:
    for lock, name in ((L.ALLOC_MUTEX, "pcpu_alloc_mutex"), (L.PCPU_LOCK, "pcpu_lock")):
        if engine.scalar(lock):
            yield f"{name} is held"
    for used, capacity, name in (
        (engine.scalar(L.LOG_USED), L.LOG_CAPACITY, "log"),
        (engine.scalar(L.ZERO_USED), L.ZERO_CAPACITY, "zero queue"),
        (engine.scalar(L.NR_ORDER), len(engine.order), "order"),
    ):
        if not 0 <= used <= capacity:
            yield f"the {name} holds {used} of {capacity}"


def _boot_end(engine: Engine, chunk: ChunkState) -> _Violations:
    info = engine.geometry.info
    end = info.static_size + info.reserved_size + (info.dyn_size if chunk.ordinal == 0 else 0)
    if chunk.ordinal <= 0 and chunk.map[-1] != end | 1:
        yield f"the sentinel is {chunk.map[-1]}, not {end | 1}"


def _lost_bytes(engine: Engine, ordinal: int) -> int:
    """Count the bytes of a boot chunk that are free by number only: odd sizes at setup (spec 1.6)."""
    info = engine.geometry.info
    start, size = info.static_size, info.reserved_size
    if ordinal == 0:
        start, size = start + size, info.dyn_size
    if ordinal > 0:
        return 0
    return size if start & 1 else size & 1


def _group_pages(engine: Engine, chunk: ChunkState) -> _Violations:
    wanted = engine.scalar(L.GROUP_PAGES if engine.scalar(L.BACKING_KM) and chunk.ordinal > 0 else L.UNIT_PAGES)
    if chunk.nr_populated != wanted and (engine.scalar(L.BACKING_KM) or chunk.nr_populated > wanted):
        yield f"nr_populated is {chunk.nr_populated}, not {wanted}"


def _births(engine: Engine, chunk: ChunkState, lost_bytes: int) -> _Violations:
    row = engine.births(chunk.handle).reshape(-1)
    found = {2 * k: int(row[k]) for k in np.flatnonzero(row).tolist()}
    hidden = int(lost_bytes > 1)  # an area that only looks in use
    areas = list(pairwise(chunk.map.tolist()))[chunk.has_reserved + hidden :]
    in_use = {a & ~1: (b & ~1) - (a & ~1) for a, b in areas if a & 1}
    if found.keys() != in_use.keys():
        yield f"births without area at {sorted(found.keys() - in_use.keys())}"
        yield f"areas without birth at {sorted(in_use.keys() - found.keys())}"
        return
    for off, birth in found.items():
        op, size = birth >> 16, birth & 0xFFFF
        if not 0 <= op < engine.now:
            yield f"the area at {off} is of op {op}, {engine.now} ops are done"
        if size & 1 or not 0 <= in_use[off] - size <= _MOST_PADDING:
            yield f"the area at {off} has {in_use[off]} bytes for a request of {size}"


def _place(engine: Engine, chunk: ChunkState) -> _Violations:
    offset = 0
    if chunk.ordinal > 0:
        offset = engine.scalar(L.AREA_BASE) + (chunk.ordinal - 1) * engine.scalar(L.AREA_STRIDE)
    base = (engine.geometry.addresses.first_chunk + offset) & (1 << 64) - 1
    if chunk.base_addr != base:
        yield f"base_addr is {chunk.base_addr:#x}, not {base:#x}"


def _order(engine: Engine, chunks: Sequence[Any]) -> _Violations:
    wanted = {chunk.ordinal - 1: chunk.handle for chunk in chunks if chunk.ordinal > 0}
    found = {k: int(engine.order[k]) for k in np.flatnonzero(engine.order).tolist()}
    if found != wanted or max(wanted, default=-1) >= engine.scalar(L.NR_ORDER):
        yield f"it has {found}, the chunks are {wanted}"


def _empty_pages(engine: Engine, chunks: list[ChunkState]) -> _Violations:
    total = 0
    for chunk in chunks:
        if chunk.ordinal < 0:
            continue
        count = _free_pages(chunk, _lost_bytes(engine, chunk.ordinal))
        if chunk.ordinal > 0 and engine.scalar(L.BACKING_KM):
            count += engine.scalar(L.GROUP_PAGES) - engine.scalar(L.UNIT_PAGES)
        share = engine.chunk[chunk.handle + L.CHUNK_NR_EMPTY_POP_PAGES]
        if share != count:
            yield f"{_name(chunk.ordinal)} has {share} empty pages by its own count, counted anew {count}"
        total += count
    total += _pages_left_over(engine, chunks)
    if engine.scalar(L.NR_EMPTY_POP_PAGES) != total:
        yield f"pcpu_nr_empty_pop_pages is {engine.scalar(L.NR_EMPTY_POP_PAGES)}, counted anew {total}"


def _pages_left_over(engine: Engine, chunks: list[ChunkState]) -> int:
    """Count the pages that destroyed km chunks left in the sum: they took back those of one unit only (spec 6.3)."""
    if not engine.scalar(L.BACKING_KM):
        return 0
    nr_destroyed = engine.scalar(L.NR_ORDER) - sum(chunk.ordinal > 0 for chunk in chunks)
    return nr_destroyed * (engine.scalar(L.GROUP_PAGES) - engine.scalar(L.UNIT_PAGES))


def _free_pages(chunk: ChunkState, lost_bytes: int) -> int:
    """Count the populated pages without a byte in use; an area that only looks in use was counted at setup."""
    nr_pages = chunk.populated[0][1] if chunk.populated else 0
    count = 0
    for k, (a, b) in enumerate(pairwise(chunk.map.tolist())):
        if not a & 1 or (k == 1 and lost_bytes > 1):
            count += max(min(b // PAGE_SIZE, nr_pages) - bytes_to_pages(a & ~1), 0)
    return count


def _nr_areas(chunk: ChunkState, lost_bytes: int) -> int:
    return int((chunk.map[:-1] & 1).sum()) - chunk.has_reserved - (lost_bytes > 1)


def _statistics(engine: Engine, chunks: list[ChunkState]) -> _Violations:
    yield from _counters(engine, chunks)
    for chunk in chunks:
        nr_areas = _nr_areas(chunk, _lost_bytes(engine, chunk.ordinal))
        if chunk.nr_alloc != nr_areas:
            yield f"{_name(chunk.ordinal)}: nr_alloc {chunk.nr_alloc} for {nr_areas} areas"


def _counters(engine: Engine, chunks: Sequence[Any]) -> _Violations:
    nr_alloc, nr_dealloc, nr_cur, nr_max, nr_chunks, nr_max_chunks, smallest, largest = (
        engine.scalar(index) for index in range(L.NR_ALLOC, L.MAX_ALLOC_SIZE + 1)
    )
    if nr_alloc - nr_dealloc != nr_cur or not nr_cur <= nr_max <= nr_alloc:
        yield f"nr_alloc {nr_alloc} - nr_dealloc {nr_dealloc}, nr_cur_alloc {nr_cur}, nr_max_alloc {nr_max}"
    for chunk in chunks:
        if chunk.max_alloc_size > largest:
            yield f"{_name(chunk.ordinal)}: max_alloc_size {chunk.max_alloc_size} of {largest}"
    if nr_cur != sum(chunk.nr_alloc for chunk in chunks):
        yield f"nr_cur_alloc is {nr_cur}, the chunks have {[chunk.nr_alloc for chunk in chunks]}"
    if nr_chunks != sum(chunk.ordinal >= 0 for chunk in chunks) or nr_max_chunks < nr_chunks:
        yield f"nr_chunks is {nr_chunks}, nr_max_chunks {nr_max_chunks}, for {len(chunks)} chunks"
    if nr_alloc and not 0 < smallest <= largest:
        yield f"min_alloc_size is {smallest}, max_alloc_size {largest}"
