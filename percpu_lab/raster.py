"""Too many areas to draw one by one: pictures of them, true to a twentieth of each pixel.

one row of bins a chunk          a pixel's code tells the share of it that is in use and the share that is hole
|####:##__|  ->  codes           (both in twentieths), or that it belongs to a prefix or lies outside the map
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from .columns import HOLE, IN_USE, OUTSIDE, RESERVED, STATIC, AreaColumns, Ints, Snapshot
from .spans import Lifetimes

LEVELS = 20
BLOCK = 8192  # rows
_FIRST_CODE = np.concatenate([[0], np.cumsum(np.arange(LEVELS + 1, 0, -1))]).astype(np.uint8)  # of each level in use
NR_MIXED = int(_FIRST_CODE[-1])
CODE_STATIC, CODE_RESERVED, CODE_OUTSIDE, CODE_NOTHING = range(NR_MIXED, NR_MIXED + 4)
_SOLID = {STATIC: CODE_STATIC, RESERVED: CODE_RESERVED, OUTSIDE: CODE_OUTSIDE}
Shares = npt.NDArray[np.float64]
Codes = npt.NDArray[np.uint8]
_ALMOST_ONE = 1 - 1e-6  # rounds up, but not the noise of floats


def code_shares() -> Shares:
    """Give what each code below NR_MIXED means: the share in use and the share of holes; the rest is free.

    >>> code_shares()[[0, 1, 21, NR_MIXED - 1]].tolist()
    [[0.0, 0.0], [0.0, 0.05], [0.05, 0.0], [1.0, 0.0]]
    """
    in_use = np.repeat(np.arange(LEVELS + 1), np.arange(LEVELS + 1, 0, -1))
    return np.stack([in_use, np.arange(NR_MIXED) - _FIRST_CODE[in_use]], axis=1) / LEVELS


def coverage(row: Ints, start: Ints, end: Ints, nr_rows: int, nr_bins: int) -> Shares:
    """Work out how much of each bin is covered by intervals that do not overlap.

    >>> coverage(np.array([0, 0]), np.array([0.5, 2.0]), np.array([1.0, 2.25]), 1, 3).tolist()
    [[0.5, 0.0, 0.25]]

    Args:
        row: of each interval.
        start, end: in bins, within 0 .. nr_bins.
    """
    width = nr_bins + 2  # a step in the last bin reaches one further
    steps = np.zeros(nr_rows * width)
    for edge, sign in ((start, 1), (end, -1)):
        whole = edge.astype(np.int64)
        late = (edge - whole) * sign
        at = row * width + whole
        steps += np.bincount(at, sign - late, minlength=len(steps))
        steps[1:] += np.bincount(at, late, minlength=len(steps))[:-1]
    return steps.cumsum().reshape(nr_rows, width)[:, :nr_bins]


def unit_image(snap: Snapshot, nr_bins: int, start_bytes: float, end_bytes: float, rows: slice | None = None) -> Codes:
    """Draw the units of all chunks as rows of codes.

    Args:
        nr_bins: pixels across.
        start_bytes, end_bytes: the part of the unit to draw.
        rows: the chunks to draw, by row of the snapshot; all without it.
    """
    first, last, _ = (rows or slice(None)).indices(len(snap.chunks))
    nr_rows = max(last - first, 0)
    areas, scale = snap.areas, nr_bins / (end_bytes - start_bytes)
    low, high = np.searchsorted(areas.chunk, [first, last])
    part = slice(int(low), int(max(high, low)))
    kind = areas.kind[part]
    hole, rest = np.flatnonzero(kind == HOLE), np.flatnonzero((kind != HOLE) & (kind != IN_USE))
    places = [_bins(areas, part.start + chosen, first, start_bytes, scale, nr_bins) for chosen in (hole, rest)]
    hole_share, rest_share = (coverage(*place, nr_rows, nr_bins) if len(place[0]) else None for place in places)
    in_use = np.ones((nr_rows, nr_bins))  # what is left of it: there are fewer holes than areas in use
    for share in (hole_share, rest_share):
        in_use -= 0 if share is None else share
    image = _mixed_codes(in_use, hole_share)
    for area, row, left, right in zip(rest.tolist(), *(place.tolist() for place in places[1]), strict=True):
        if (code := _SOLID.get(int(kind[area]))) is not None:
            image[row, round(left) : round(right)] = code
    return image


def _bins(
    areas: AreaColumns, chosen: Ints, first: int, start: float, scale: float, nr_bins: int
) -> tuple[Ints, Ints, Ints]:
    """Rows, and left and right ends in bins, of some areas."""
    left = (areas.off_bytes[chosen] - start) * scale
    right = left + areas.size_bytes[chosen] * scale
    return areas.chunk[chosen] - first, np.clip(left, 0, nr_bins), np.clip(right, 0, nr_bins)


def _mixed_codes(in_use: Shares, other: Shares | None) -> Codes:
    """Codes of two shares, used up by it, the second of holes or of freed areas: None where there are none at all."""
    level_in_use = _levels(in_use)
    codes: Codes = _FIRST_CODE.take(level_in_use)
    if other is not None:
        codes += np.minimum(_levels(other), LEVELS - level_in_use)
    return codes


def _levels(share: Shares) -> Codes:
    """Levels of shares, rounded up, so that a small area does not vanish; works in the memory of the shares."""
    share *= LEVELS
    share += _ALMOST_ONE
    return np.clip(share, 0, LEVELS, out=share).astype(np.uint8)


class Sums:
    """Memory for the sums of a picture, kept from picture to picture: fresh memory takes longer than the sums."""

    def __init__(self) -> None:
        self._cells = np.zeros((2, 0))

    def cleared(self, nr_cells: int) -> Shares:
        """Give two rows of zeros, which are those given before."""
        if self._cells.shape[1] < nr_cells:
            self._cells = np.empty((2, nr_cells))
        cells = self._cells[:, :nr_cells]
        cells.fill(0)
        return cells


def lifetime_image(
    lives: Lifetimes,
    nr_bins: int,
    nr_rows: int,
    bottom: float = 0,
    top: float | None = None,
    sums: Sums | None = None,
) -> Codes:
    """Draw lifetimes, time across and bands upwards, as codes: the share of areas in use now and of freed ones.

    Args:
        nr_bins: pixels across the window of ops.
        nr_rows: pixels up.
        bottom, top: the part of the bands to draw, counted in bands; all of them without it.
        sums: memory of the picture before, if there was one.
    """
    start, end = lives.window
    scale = nr_bins / max(end - start, 1)
    top = max(len(lives.bands), 1) if top is None else top
    per_band = nr_rows / (top - bottom)
    view = (start, scale, nr_bins, per_band, bottom)
    cells = (sums or Sums()).cleared((nr_rows + 2) * (nr_bins + 1))  # rows 0 and nr_rows + 1 are out of sight
    live, freed = cells.reshape(2, nr_rows + 2, nr_bins + 1)
    for part in _blocks(lives.nr_freed, len(lives)):
        _add_steps(live, *_boxes(lives, part, *view))
    live = _summed(live)
    live[:, max(math.ceil((lives.now - start) * scale), 1) :] = 0  # all areas in use end here
    if not lives.nr_freed:
        return _mixed_codes(live, None)
    for part in _blocks(0, lives.nr_freed):
        left, low, height = _boxes(lives, part, *view)
        right = np.maximum(np.ceil(_bins_of(lives.freed_at[part], start, scale, nr_bins)).astype(np.intp), left + 1)
        _add_steps(freed, left, low, height)
        _add_steps(freed, right, low, height, sign=-1)
    return _mixed_codes(live, _summed(freed))


def _blocks(start: int, end: int) -> Iterator[slice]:
    """Parts of the rows, so small that all that is worked out of one stays in the cache."""
    return (slice(first, min(first + BLOCK, end)) for first in range(start, end, BLOCK))


def _boxes(
    lives: Lifetimes, part: slice, start: int, scale: float, nr_bins: int, per_band: float, bottom: float
) -> tuple[Ints, Any, Any]:
    """First bin, lower edge and height in pixels of some lifetimes."""
    low, height = lives.places(part, per_band, np.float32)
    low -= np.float32(bottom * per_band)
    return _bins_of(lives.birth[part], start, scale, nr_bins - 1).astype(np.intp), low, height


def _bins_of(op: Ints, start: int, scale: float, last: int) -> Shares:
    place = np.subtract(op, start, dtype=np.float64)
    place *= scale
    return np.clip(place, 0, last, out=place)


def _add_steps(steps: Shares, left: Ints, low: Any, height: Any, sign: int = 1) -> None:
    """Add, at the bin where each box begins, the shares of pixels that it covers from there to the right edge."""
    nr_rows, width = steps.shape[0] - 2, steps.shape[1]
    tall = np.flatnonzero(height >= 1 / LEVELS)
    row = low + height / 2
    row += 1
    at = np.clip(row, 0, nr_rows + 1, out=row).astype(np.intp)
    at *= width
    at += left
    weight = np.multiply(height, sign, dtype=np.float64)
    weight[tall] = 0  # what is lower counts wholly to the pixel of its middle: right to a level or two, and much faster
    np.add.at(steps.reshape(-1), at, weight)
    if len(tall):
        begin, end = np.clip(low[tall], 0, nr_rows), np.clip(low[tall] + height[tall], 0, nr_rows)
        steps[1:-1] += sign * coverage(left[tall], begin, end, width, nr_rows).T


def _summed(steps: Shares) -> Shares:
    shares: Shares = steps[1:-1, :-1]
    return np.cumsum(shares, axis=1, out=shares)
