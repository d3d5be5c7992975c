"""What a log tells, as columns: one row an area, one row a chunk, and counters at every row of the trace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from ..columns import FIRST_CHUNK, PLAIN_CHUNK, RESERVED_CHUNK, RESERVED_ORDINAL, Frozen, Ints
from ..core import layout as L
from ..rich import RichColumns
from .log import Log
from .walk import BEFORE, FREED, NEVER, ChunkLife, Walk

_UNSEEN = {BEFORE: "before", NEVER: "never"}  # rows of what lies outside the recording


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class AreaTable(RichColumns, Frozen):
    """Every area that was ever seen, ordered by chunk, offset and time; sizes in bytes.

    Args:
        chunk: row of the ChunkTable.
        size: rounded up as the kernel does, `requested` is what the event says.
        bytes_alloc: over all CPUs, as the event says; -1 if it does not.
        birth: row of the allocation, negative for calls before the trace; BEFORE if that was not recorded.
        death: row at which it ended; NEVER if it is live at the end.
        end: LIVE, FREED, FREE_LOST or CHUNK_DESTROYED.
        position: of the allocation in the log, which names call site and task; of the free where that is all there is.
    """

    chunk: Ints
    off: Ints
    size: Ints
    requested: Ints
    bytes_alloc: Ints
    birth: Ints
    death: Ints
    end: npt.NDArray[np.uint8]
    position: Ints
    _words: ClassVar = _UNSEEN

    def __len__(self) -> int:
        return len(self.off)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ChunkTable(RichColumns, Frozen):
    """Every chunk that was ever seen, by ordinal.

    Args:
        ordinal: 0 is the first chunk, -1 the reserved one; the others count from 1 in the order of their creation.
        kind: FIRST_CHUNK, RESERVED_CHUNK or PLAIN_CHUNK.
        base_addr: as events print it, perhaps hashed.
        created, destroyed: rows; BEFORE and NEVER if that did not happen within the recording.
        is_creation_lost: its create event is missing, so `created` is where it was met at the latest.
    """

    ordinal: Ints
    kind: npt.NDArray[np.uint8]
    base_addr: npt.NDArray[np.uint64]
    created: Ints
    destroyed: Ints
    is_creation_lost: npt.NDArray[np.bool_]
    _words: ClassVar = _UNSEEN

    def __len__(self) -> int:
        return len(self.ordinal)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Counters(RichColumns, Frozen):
    """Running counters; element k tells of the moment before position k of the log, the last of the end.

    Args:
        nr_alloc, nr_dealloc: allocations and frees recorded.
        nr_live, nr_max_live: areas live, and the most there ever were.
        live_bytes: sizes of live areas, rounded up.
        nr_chunks, nr_max_chunks: without the reserved one.
        min_size, max_size: of all allocations, rounded up; NEVER and 0 before the first.
    """

    nr_alloc: Ints
    nr_dealloc: Ints
    nr_live: Ints
    nr_max_live: Ints
    live_bytes: Ints
    nr_chunks: Ints
    nr_max_chunks: Ints
    min_size: Ints
    max_size: Ints


def chunk_table(log: Log, walk: Walk, has_reserved: bool) -> tuple[ChunkTable, Ints]:
    """Number the chunks; gives the table and the row of each chunk of the walk.

    The first and the reserved chunk are in it even if no event tells of them: they are there from boot.
    """
    identities = [life.identity for life in walk.chunks]
    ordinal = _ordinals(log, walk.chunks)
    created, destroyed = [life.created for life in walk.chunks], list(walk.destroyed)
    lost = [life.is_creation_lost for life in walk.chunks]
    unseen = [k for k, is_there in ((0, True), (RESERVED_ORDINAL, has_reserved)) if is_there and k not in ordinal]
    known = log.first if log.first >= 0 else log.reserved
    for k in unseen:
        ordinal.append(k)
        identities.append(known)
        created.append(BEFORE)
        destroyed.append(NEVER)
        lost.append(False)
    numbers = np.array(ordinal, np.int64)
    order = np.argsort(numbers)
    row_of = np.empty(len(order), np.int64)
    row_of[order] = np.arange(len(order))
    kind = np.select([numbers == 0, numbers == RESERVED_ORDINAL], [FIRST_CHUNK, RESERVED_CHUNK], PLAIN_CHUNK)
    base_addr = np.append(log.base_addr, np.uint64(0))[identities]  # identity -1: nothing is known
    table = ChunkTable(
        numbers[order],
        kind.astype(np.uint8)[order],
        base_addr[order],
        as_rows(created, log)[order],
        as_rows(destroyed, log)[order],
        np.array(lost, np.bool_)[order],
    )
    return table, row_of


def _ordinals(log: Log, lives: list[ChunkLife]) -> list[int]:
    """Give the first chunk 0, the reserved one -1, and the others 1, 2, ... in the order of their creation.

    That of chunks from before the recording is the order in which they are met.
    """
    boot = {log.first: 0, log.reserved: RESERVED_ORDINAL}
    boot.pop(-1, None)
    others = sorted((k for k, life in enumerate(lives) if life.identity not in boot), key=lambda k: lives[k].created)
    number = {k: n for n, k in enumerate(others, 1)}
    return [number[k] if k in number else boot[life.identity] for k, life in enumerate(lives)]


def as_rows(positions: npt.ArrayLike, log: Log) -> Ints:
    """Turn positions of the log into rows of the trace; BEFORE and NEVER stay."""
    rows = np.asarray(positions, np.int64)
    return np.where((rows > BEFORE) & (rows < NEVER), rows - log.nr_early, rows)


def area_table(log: Log, walk: Walk, row_of_chunk: Ints, least_size: int) -> AreaTable:
    """Make the table of all areas: those whose allocation was recorded, and those that a free alone tells of."""
    told = _told_by_free(log, walk)
    birth = np.array(walk.birth, np.int64)
    position = np.append(birth, told)
    chunk = row_of_chunk[np.append(np.array(walk.area_chunk, np.int64), np.array(walk.chunk, np.int64)[told])]
    requested = log.size[position]
    off = log.off[position]
    bytes_alloc = log.column("bytes_alloc") if all(hasattr(p, "bytes_alloc") for p in log.parts) else None
    columns = (
        chunk,
        off,
        -(-requested // least_size) * least_size,
        requested,
        np.full(len(position), -1) if bytes_alloc is None else bytes_alloc[position],
        np.append(as_rows(birth, log), np.full(len(told), BEFORE)),
        as_rows(np.append(np.array(walk.death, np.int64), told), log),
        np.append(np.array(walk.end, np.uint8), np.full(len(told), FREED, np.uint8)),
        position,
    )
    order = np.lexsort((columns[5], off, chunk))
    return AreaTable(*(column[order] for column in columns))


def _told_by_free(log: Log, walk: Walk) -> Ints:
    """Positions of unmatched frees that say themselves what they free: an engine knows, also after its ring went on."""
    unmatched: Ints = np.array(walk.unmatched, np.int64)
    if not len(unmatched):
        return unmatched
    birth, first_op = log.column("birth")[unmatched], log.parts[-1].op[0]
    told: Ints = unmatched[(birth >= 0) & (birth < first_op) & (log.size[unmatched] > 0)]
    return told


def counters(log: Log, walk: Walk, chunks: ChunkTable, areas: AreaTable) -> Counters:
    """Count everything at every position."""
    nr = len(log)
    is_alloc, is_free = log.event == L.EVENT_ALLOC, log.event == L.EVENT_FREE
    born = np.where(areas.birth == BEFORE, -1, areas.birth + log.nr_early)
    died = np.where(areas.death == NEVER, nr, areas.death + log.nr_early)
    nr_live = _running(born, nr) - _running(died, nr)
    live_bytes = _running(born, nr, areas.size) - _running(died, nr, areas.size)
    plain = chunks.ordinal != RESERVED_ORDINAL
    made = np.where(chunks.created == BEFORE, -1, chunks.created + log.nr_early)[plain]
    gone = np.where(chunks.destroyed == NEVER, nr, chunks.destroyed + log.nr_early)[plain]
    nr_chunks = _running(made, nr) - _running(gone, nr)
    size = np.zeros(nr, np.int64)
    size[areas.position] = areas.size
    return Counters(
        np.append(0, np.cumsum(is_alloc)),
        np.append(0, np.cumsum(is_free)),
        nr_live,
        np.maximum.accumulate(nr_live),
        live_bytes,
        nr_chunks,
        np.maximum.accumulate(nr_chunks),
        np.append(NEVER, np.minimum.accumulate(np.where(is_alloc, size, NEVER))),
        np.append(0, np.maximum.accumulate(np.where(is_alloc, size, 0))),
    )


def _running(at: Ints, nr: int, weight: Ints | None = None) -> Ints:
    """Sum what happened at positions before each of 0 .. nr; -1 is before all, nr is never."""
    steps = np.bincount(at + 1, weight, minlength=nr + 2)[: nr + 1]
    return np.cumsum(steps).astype(np.int64)
