"""What the events before tell of an event: the number of its chunk, and the allocation that a free ends.

base_addr  A  A  C:A  A  D:A  A        C create, D destroy
chunk      0  0  1    1  1    2        a number lasts until the chunk is created anew or was destroyed

(chunk, off)   alloc  free  free  alloc  alloc  free
birth                 ^     none                ^      of a free: the event just before it at that place
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core import layout as L
from ..events import Int64s, Uint64s

__all__ = ["Links", "link_areas"]


@dataclass(frozen=True, slots=True)
class Links:
    """Chunk number of each event; rows of frees and of their allocations; rows of allocations where one was live."""

    chunk: Int64s
    freed: Int64s
    born: Int64s
    twice: Int64s


def link_areas(event: Int64s, base_addr: Uint64s, off: Int64s) -> Links:
    """Number the chunks, and find the allocation of each free.

    >>> import numpy as np
    >>> links = link_areas(np.array([0, 1, 1]), np.array([7, 7, 9], np.uint64), np.array([64, 64, 64]))
    >>> links.chunk.tolist(), links.freed.tolist(), links.born.tolist()
    ([0, 0, 1], [1], [0])

    Args:
        event: EVENT_* codes, int64.
        base_addr: of the chunk, uint64.
        off: in bytes, int64.
    """
    chunk = _numbered(event, base_addr)
    areas = np.flatnonzero((event == L.EVENT_ALLOC) | (event == L.EVENT_FREE))
    order = areas[np.lexsort((off[areas], chunk[areas]))]
    before, row = order[:-1], order[1:]
    follows = (chunk[before] == chunk[row]) & (off[before] == off[row]) & (event[before] == L.EVENT_ALLOC)
    freed = follows & (event[row] == L.EVENT_FREE)
    twice = follows & (event[row] == L.EVENT_ALLOC)
    return Links(chunk, row[freed], before[freed], np.sort(row[twice]))


def _numbered(event: Int64s, base_addr: Uint64s) -> Int64s:
    chunk = np.full(len(event), L.NO_CHUNK, np.int64)
    rows = np.flatnonzero(event != L.EVENT_FAIL)
    base = np.unique(base_addr[rows], return_inverse=True)[1]
    order = np.argsort(base, kind="stable")
    sorted_event = event[rows[order]]
    begins = np.ones(len(rows), np.bool_)
    is_other = base[order][1:] != base[order][:-1]
    begins[1:] = is_other | (sorted_event[1:] == L.EVENT_CREATE) | (sorted_event[:-1] == L.EVENT_DESTROY)
    number = np.empty(int(begins.sum()), np.int64)
    number[np.argsort(order[begins])] = np.arange(len(number))  # in the order they appear
    chunk[rows[order]] = number[np.cumsum(begins) - 1]
    return chunk
