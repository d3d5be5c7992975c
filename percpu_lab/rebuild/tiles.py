"""Fills the units of one moment: areas in use, what lies before and behind them, and the gaps between.

in use        |####|   |###|##|             given, ordered by chunk and offset
+ gaps        |####|...|###|##|             HOLE before the last area of a chunk in use, FREE behind it
+ fixed   |..|                     |    |   STATIC and RESERVED before, OUTSIDE behind the served part
= tiles   |..|####|...|###|##|.....|    |   every byte of every unit once
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..columns import FREE, HOLE, IN_USE, UNKNOWN, AreaColumns, Ints
from .space import Space


class InUse(NamedTuple):
    """Areas in use, by row of their chunk and offset; sizes in bytes."""

    chunk: Ints
    off: Ints
    size: Ints
    requested: Ints
    birth: Ints


def tiled(space: Space, ordinals: list[int], areas: InUse) -> AreaColumns:
    """Fill the units of chunks.

    >>> from percpu_lab.columns import Unit
    >>> space = Space.of(Unit(65536, 8192, 0, 57344, {}))
    >>> areas = tiled(space, [0], InUse(*np.array([[0, 0], [0, 96], [64, 32], [64, 32], [5, 7]])))
    >>> list(zip(areas.off_bytes.tolist(), areas.size_bytes.tolist(), areas.kind.tolist()))
    [(0, 64, 2), (64, 32, 1), (96, 32, 2), (128, 57216, 0), (57344, 8192, 5)]

    Args:
        ordinals: of the chunks, by row.
        areas: in use.
    """
    gaps = free_areas(space, ordinals, areas)
    fixed = np.array(
        [(row, *piece) for row, k in enumerate(ordinals) for piece in space.fixed(k)], np.int64
    ).reshape(-1, 4).T  # fmt: skip
    chunk, off, size, kind = (
        np.concatenate(parts)
        for parts in zip(
            (areas.chunk, areas.off, areas.size, np.full(len(areas.off), IN_USE)), gaps, fixed, strict=True
        )
    )
    order = np.argsort(chunk * space.unit.unit_size + off, kind="stable")  # merges three runs
    nothing = np.zeros(len(off) - len(areas.off), np.int64)
    requested, birth = np.concatenate([areas.requested, nothing]), np.concatenate([areas.birth, nothing + UNKNOWN])
    return AreaColumns(*(column[order] for column in (chunk, off, size, requested, birth, kind.astype(np.uint8))))


def free_areas(space: Space, ordinals: list[int], areas: InUse) -> tuple[Ints, Ints, Ints, Ints]:
    """Give row of the chunk, offset, size and kind of each free area: the holes in order, then the ends of chunks."""
    rows = np.arange(len(ordinals))
    start, end = np.array([space.bounds(k) for k in ordinals], np.int64).reshape(-1, 2).T
    is_first = np.diff(areas.chunk, prepend=-1) != 0
    area_end = areas.off + areas.size
    before = np.where(is_first, start[areas.chunk], np.roll(area_end, 1))
    hole = np.flatnonzero(areas.off > before)
    reached = start.copy()
    is_last = np.append(is_first[1:], True)[: len(is_first)]
    reached[areas.chunk[is_last]] = area_end[is_last]
    tail = np.flatnonzero(end > reached)
    kind = np.repeat([HOLE, FREE], [len(hole), len(tail)])
    size = np.concatenate([areas.off[hole] - before[hole], end[tail] - reached[tail]])
    return np.append(areas.chunk[hole], rows[tail]), np.append(before[hole], reached[tail]), size, kind
