"""Goes through the log once and joins each free to its allocation, each event to its chunk.

    base   alloc 64   free 64   alloc 64   create    alloc 0   destroy
    A      [area 0 ───┘         [area 1 ─────────────────────────────── goes on
    B                                      [chunk 1  [area 2 ──┘ the chunk went: its free was lost

1. An area is live from its allocation to its end; two live areas of a chunk never overlap.
2. A free ends the area of its chunk and offset. Without such an area it is unmatched.
3. An allocation on a place still live says that a free was lost: what lived there ends with it.
4. An identity means the chunk that was created under it last. Used again after a destruction without a creation, or
   created while alive, it says that an event was lost; a new chunk begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..core import layout as L

BEFORE, NEVER = -(1 << 62), 1 << 62
LIVE, FREED, FREE_LOST, CHUNK_DESTROYED = range(4)  # how an area ended


class ChunkLife(NamedTuple):
    """A chunk between creation and destruction, as positions; BEFORE and NEVER if that was not recorded."""

    identity: int
    created: int
    is_creation_lost: bool = False


class Walk:
    """What one pass over the log finds; lists by position, by area (in order of allocation) and by chunk.

    Args:
        least_size: granule in bytes.
        unit_size: of all chunks, in bytes.
        cuts: positions before which events were lost, ascending.
    """

    def __init__(self, least_size: int, unit_size: int, cuts: Sequence[int] = ()) -> None:
        self._granule = least_size
        self._nr_granules = unit_size // least_size
        self._cuts = cuts
        self._chunk_of: dict[int, int] = {}  # identity -> chunk that lives under it
        self._live: list[dict[int, int]] = []  # of each chunk: offset -> area
        self._occupied: list[bytearray] = []  # of each chunk: a byte a granule
        self.chunks: list[ChunkLife] = []
        self.destroyed: list[int] = []
        self.chunk: list[int] = []
        self.area: list[int] = []  # of each position; -1 for none
        self.area_chunk: list[int] = []
        self.area_size: list[int] = []
        self.birth: list[int] = []
        self.death: list[int] = []
        self.end: list[int] = []
        self.unmatched: list[int] = []
        self.lost_frees: list[tuple[int, int]] = []  # position that shows it, area
        self.lost_destroys: list[int] = []

    def run(self, event: Sequence[int], identity: Sequence[int], off: Sequence[int], size: Sequence[int]) -> None:
        """Go through all positions."""
        steps = {
            L.EVENT_ALLOC: self._alloc,
            L.EVENT_FREE: self._free,
            L.EVENT_CREATE: self._create,
            L.EVENT_DESTROY: self._destroy,
        }
        self.chunk = [L.NO_CHUNK] * len(event)
        self.area = [-1] * len(event)
        fail = L.EVENT_FAIL
        for at, (code, base, offset, nr_bytes) in enumerate(zip(event, identity, off, size, strict=True)):
            if code != fail:
                self.chunk[at] = steps[code](at, base, offset, nr_bytes)

    def _met(self, at: int, identity: int) -> int:
        """The chunk that lives under an identity; a new one if none does."""
        chunk = self._chunk_of.get(identity)
        if chunk is not None:
            return chunk
        was_there = not any(life.identity == identity for life in self.chunks)
        lost_before = max((cut for cut in self._cuts if cut <= at), default=None)
        created = BEFORE if was_there and lost_before is None else at if lost_before is None else lost_before
        return self._begin(ChunkLife(identity, created, not was_there))

    def _begin(self, life: ChunkLife) -> int:
        self.chunks.append(life)
        self.destroyed.append(NEVER)
        self._live.append({})
        self._occupied.append(bytearray(self._nr_granules))
        self._chunk_of[life.identity] = len(self.chunks) - 1
        return len(self.chunks) - 1

    def _alloc(self, at: int, identity: int, off: int, size: int) -> int:
        chunk = self._met(at, identity)
        granule = self._granule
        first, end = off // granule, -(-(off + size) // granule)
        occupied = self._occupied[chunk]
        if 1 in occupied[first:end]:
            self._end_overlapped(at, chunk, off, end * granule)
        occupied[first:end] = b"\1" * (end - first)
        area = self.area[at] = len(self.birth)
        self._live[chunk][off] = area
        self.area_chunk.append(chunk)
        self.area_size.append((end - first) * granule)
        self.birth.append(at)
        self.death.append(NEVER)
        self.end.append(LIVE)
        return chunk

    def _free(self, at: int, identity: int, off: int, _size: int) -> int:
        chunk = self._met(at, identity)
        area = self._live[chunk].pop(off, None)
        if area is None:
            self.unmatched.append(at)
        else:
            self.area[at] = area
            self._end(at, area, off, FREED)
        return chunk

    def _create(self, at: int, identity: int, _off: int, _size: int) -> int:
        if identity in self._chunk_of:
            self.lost_destroys.append(at)
            self._end_chunk(at, self._chunk_of[identity])
        return self._begin(ChunkLife(identity, at))

    def _destroy(self, at: int, identity: int, _off: int, _size: int) -> int:
        chunk = self._met(at, identity)
        self._end_chunk(at, chunk)
        return chunk

    def _end(self, at: int, area: int, off: int, how: int) -> None:
        self.death[area], self.end[area] = at, how
        first, size = off // self._granule, self.area_size[area] // self._granule
        self._occupied[self.area_chunk[area]][first : first + size] = bytes(size)

    def _end_overlapped(self, at: int, chunk: int, off: int, end: int) -> None:
        live = self._live[chunk]
        for other, area in [(o, a) for o, a in live.items() if o < end and off < o + self.area_size[a]]:
            self.lost_frees.append((at, area))
            self._end(at, live.pop(other), other, FREE_LOST)

    def _end_chunk(self, at: int, chunk: int) -> None:
        """End a chunk; what lives in it was freed before, unseen: a chunk goes only when it is empty."""
        for off, area in self._live[chunk].items():
            self.lost_frees.append((at, area))
            self._end(at, area, off, CHUNK_DESTROYED)
        self._live[chunk] = {}
        self._occupied[chunk] = bytearray()
        self.destroyed[chunk] = at
        self._chunk_of.pop(self.chunks[chunk].identity, None)
