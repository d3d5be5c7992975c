"""Too many areas to draw one by one: pictures of them, exact by the share of each pixel that they cover.

one row of bins a chunk          a pixel's code tells the share of it that is in use and the share that is hole
|####:##__|  ->  codes           (both in twentieths), or that it belongs to a prefix or lies outside the map
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from .columns import HOLE, IN_USE, OUTSIDE, RESERVED, STATIC, Ints, Snapshot
from .spans import Lifetimes

LEVELS = 20
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
    kind, row = areas.kind[part], areas.chunk[part] - first
    left = np.clip((areas.off_bytes[part] - start_bytes) * scale, 0, nr_bins)
    right = np.clip((areas.off_bytes[part] + areas.size_bytes[part] - start_bytes) * scale, 0, nr_bins)
    shares = [
        coverage(row[chosen], left[chosen], right[chosen], nr_rows, nr_bins)
        for chosen in (np.flatnonzero(kind == IN_USE), np.flatnonzero(kind == HOLE))
    ]
    image = _mixed_codes(*shares)
    for area in np.flatnonzero(kind >= STATIC).tolist():  # few: only the first and the reserved chunk have such areas
        image[row[area], round(left[area]) : round(right[area])] = _SOLID[int(kind[area])]
    return image


def _mixed_codes(in_use: Shares, hole: Shares) -> Codes:
    """Codes of two shares; rounded up, so that a small area does not vanish."""
    level_in_use = np.minimum((in_use * LEVELS + _ALMOST_ONE).astype(np.uint8), LEVELS)
    level_hole = np.minimum((hole * LEVELS + _ALMOST_ONE).astype(np.uint8), LEVELS - level_in_use)
    codes: Codes = _FIRST_CODE[level_in_use] + level_hole
    return codes


def lifetime_image(lives: Lifetimes, nr_bins: int, nr_rows: int, bottom: float = 0, top: float | None = None) -> Codes:
    """Draw lifetimes, time across and bands upwards, as codes: the share of areas in use now and of freed ones.

    Args:
        nr_bins: pixels across the window of ops.
        nr_rows: pixels up.
        bottom, top: the part of the bands to draw, counted in bands; all of them without it.
    """
    start, end = lives.window
    scale = nr_bins / max(end - start, 1)
    left = np.clip((lives.birth - start) * scale, 0, nr_bins - 1).astype(np.int64)
    top = max(len(lives.bands), 1) if top is None else top
    per_byte = nr_rows / (top - bottom) / lives.unit.unit_size
    low = (lives.band * lives.unit.unit_size + lives.off_bytes - bottom * lives.unit.unit_size) * per_byte
    high = np.clip(low + lives.size_bytes * per_byte, 0, nr_rows)
    low = np.clip(low, 0, nr_rows)
    live, freed = np.flatnonzero(lives.is_live), np.flatnonzero(~lives.is_live)
    right = np.clip(np.ceil((lives.death[freed] - start) * scale), left[freed] + 1, nr_bins).astype(np.int64)
    shape = nr_bins, nr_rows
    live_share = _from_bin_on(left[live], low[live], high[live], *shape)
    live_share[:, max(math.ceil((lives.now - start) * scale), 1) :] = 0  # all areas in use end here
    freed_share = _from_bin_on(left[freed], low[freed], high[freed], *shape)
    freed_share -= _from_bin_on(right, low[freed], high[freed], *shape)
    return _mixed_codes(live_share, freed_share)


def _from_bin_on(left: Ints, low: Shares, high: Shares, nr_bins: int, nr_rows: int) -> Shares:
    """Shares of pixels (nr_rows, nr_bins) covered by boxes that reach from a bin to the right edge."""
    at_bin = coverage(left, low, high, nr_bins + 1, nr_rows)[:nr_bins]
    return np.ascontiguousarray(at_bin.cumsum(axis=0).T)
