"""Too many areas to draw one by one: pictures of them, true to a twentieth of each pixel.

one row of bins a chunk          a pixel's code tells the share of it that is in use and the share that is hole
|####:##__|  ->  codes           (both in twentieths), or that it belongs to a prefix or lies outside the map
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .columns import HOLE, IN_USE, OUTSIDE, RESERVED, STATIC, UNKNOWN, AreaColumns, Ints, Snapshot
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
        np.add.at(steps, at, sign - late)
        np.add.at(steps, at + 1, late)
    return np.cumsum(steps, out=steps).reshape(nr_rows, width)[:, :nr_bins]


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
    low, high = areas.begin([first, last])
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


class LiveUnits:
    """A picture of units of which the rows serve again as far down as no chunk has changed since the last one.

        rows   | chunk 0 | chunk 2 | chunk 5 |         as they stood at the last picture
               | chunk 0 | chunk 2 | chunk 6 | ...     now: those of the first two are kept, if neither has changed

    Invariant: a row is kept only in a picture of the same past, bytes and bins, and below none that is new.
    """

    def __init__(self) -> None:
        self._form: tuple[int, int, float, float] | None = None
        self._op = 0
        self._ordinals = np.zeros(0, np.int64)
        self._image = np.zeros((0, 0), np.uint8)

    def image(self, snap: Snapshot, nr_bins: int, start_bytes: float, end_bytes: float, rows: slice) -> Codes:
        """Draw the same as unit_image."""
        first, last, _ = rows.indices(len(snap.chunks))
        form, ordinals = (snap.past, nr_bins, start_bytes, end_bytes), snap.chunks.ordinal[first:last]
        nr_kept, changed = 0, snap.chunks.changed
        if form == self._form and snap.op >= self._op and (changed != UNKNOWN).any():  # else nobody keeps it
            most = min(len(ordinals), len(self._ordinals))
            is_new = (ordinals[:most] != self._ordinals[:most]) | (changed[first : first + most] >= self._op)
            nr_kept = int(is_new.argmax()) if is_new.any() else most
        image = unit_image(snap, nr_bins, start_bytes, end_bytes, slice(first + nr_kept, last))
        if nr_kept:
            image = np.concatenate([self._image[:nr_kept], image])
        self._form, self._op, self._ordinals, self._image = form, snap.op, ordinals, image
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


@dataclass(frozen=True, slots=True)
class PictureForm:
    """What a picture of lifetimes shows, and how finely.

    Args:
        start: op at the left edge.
        bin_ops: ops a pixel is wide.
        nr_bins: pixels across.
        bottom: lower edge, counted in bands.
        per_band: pixels a band is high.
        nr_rows: pixels up.
    """

    start: int
    bin_ops: float
    nr_bins: int
    bottom: float
    per_band: float
    nr_rows: int

    @classmethod
    def of(cls, lives: Lifetimes, nr_bins: int, nr_rows: int) -> PictureForm:
        """Show the whole window and all bands in so many pixels."""
        start, end = lives.window
        return cls(start, max(end - start, 1) / nr_bins, nr_bins, 0, nr_rows / max(len(lives.bands), 1), nr_rows)

    @property
    def end(self) -> float:
        """The op behind the right edge."""
        return self.start + self.nr_bins * self.bin_ops

    @property
    def top(self) -> float:
        """The upper edge, counted in bands."""
        return self.bottom + self.nr_rows / self.per_band

    def bins(self, op: Ints, last: int) -> Shares:
        """Give the places of ops, counted in pixels from the left edge up to the last."""
        place = np.subtract(op, self.start, dtype=np.float64)
        place *= 1 / self.bin_ops
        return np.clip(place, 0, last, out=place)

    def rows(self, lives: Lifetimes, band: Ints, off: Ints, size: Ints) -> tuple[Ints, Ints]:
        """Give the lower edge and the height of areas, in pixels."""
        low, height = lives.placed(band, off, size, self.per_band, np.float32)
        low -= np.float32(self.bottom * self.per_band)
        return low, height


def steady_form(lives: Lifetimes, most_bins: int, most_rows: int, bottom: float, top: float) -> PictureForm:
    """Choose a form that stays while the window grows, as far as it can: in steps of two, at whole bands and pixels.

    Args:
        most_bins, most_rows: pixels across and up; there may be half as many.
        bottom, top: the part of the bands in sight, which the picture covers.
    """
    start, end = lives.window
    bin_ops = 1 << (max(-(-(end - start) // most_bins), 1) - 1).bit_length()
    start -= start % bin_ops
    nr_bins = max(-(-(end - start) // bin_ops), 1)
    low, high = max(math.floor(bottom), 0), min(math.ceil(top), max(len(lives.bands), 1))
    nr_bands = max(high - low, 1)
    if nr_bands > most_rows:
        return PictureForm(start, bin_ops, nr_bins, low, most_rows / nr_bands, most_rows)
    per_band = 1 << (most_rows // nr_bands).bit_length() - 1
    return PictureForm(start, bin_ops, nr_bins, low, per_band, nr_bands * per_band)


class LiveSteps:
    """Where areas in use begin in a picture of lifetimes: chunks that have not changed since the last one serve again.

        rows    | band 0 | band 1 | band 2 |        of a band that belongs to a chunk that has not changed: kept
        columns | bin 0 | bin 1 | ... | behind      in each the shares of pixels that begin there; when the left edge
                                                    moves by whole bins, the columns move, and bin 0 takes in the rest
        coarser | bin 0 + bin 1 | bin 2 + bin 3 |   a growing window has wider bins, more chunks have lower bands

    Invariants:
        1. Bins are as wide as in the last picture or a multiple of it, and begin where one of its bins begins.
        2. Bands are as high as in the last picture or a whole part of it, and stand at the bottom.
        3. No chunk that is taken over has changed since.
        4. Where bands are lower now, nothing was so tall that it was parted among pixels (see _add_steps).
        5. No op was undone since.
    Else all begins anew.
    """

    def __init__(self) -> None:
        self._form: PictureForm | None = None
        self._now = self._past = 0
        self._bands = np.zeros(0, np.int64)
        self._steps = np.zeros((0, 0))
        self._has_tall = False

    def of(self, lives: Lifetimes, form: PictureForm) -> Shares:
        """Give the steps for a picture: one row more below and above, which are out of sight, and one column behind."""
        steps, is_new = np.zeros((form.nr_rows + 2, form.nr_bins + 1)), np.ones(len(lives.chunk_band), np.bool_)
        last = self._form
        if last is not None and self._serves(last, lives, form):
            self._take_over(steps, last, form)
            is_new = (lives.changed < 0) | (lives.changed >= self._now)
            is_new |= lives.chunk_band >= len(self._bands)
            self._clear(steps, lives, is_new, form)
        else:
            self._has_tall = False
        self._add(steps, lives, is_new, form)
        self._form, self._now, self._past = form, lives.now, lives.past
        self._bands, self._steps = lives.bands, steps
        return steps

    def _serves(self, last: PictureForm, lives: Lifetimes, form: PictureForm) -> bool:
        """Whether the new picture can be made of the last one."""
        wider, lower = form.bin_ops / last.bin_ops, last.per_band / form.per_band
        shift = (form.start - last.start) / last.bin_ops
        has_all = lives.window[1] > lives.now  # nothing that is in use lies behind
        is_later = lives.past == self._past and lives.now >= self._now and has_all
        is_whole = all(value == int(value) for value in (wider, lower, shift, form.per_band))
        if not is_later or not is_whole or min(wider, lower) < 1 or shift < 0 or last.bottom or form.bottom:
            return False
        has_bands = np.array_equal(lives.bands[: len(self._bands)], self._bands)
        return has_bands and (lower == 1 or not self._has_tall)

    def _take_over(self, steps: Shares, last: PictureForm, form: PictureForm) -> None:
        """Move the last picture's steps to where they are now."""
        lower, wider = int(last.per_band / form.per_band), int(form.bin_ops / last.bin_ops)
        kept = self._steps[1:-1, :-1]
        if lower > 1:
            kept = kept.reshape(-1, lower, last.nr_bins).sum(axis=1) / lower
        first = min(int((form.start - last.start) / last.bin_ops), last.nr_bins)
        gone, ahead = kept[:, :first], kept[:, first:]
        if wider > 1:
            ahead = np.add.reduceat(ahead, np.arange(0, ahead.shape[1], wider), axis=1)
        nr_rows, nr_bins = min(len(kept), form.nr_rows), min(ahead.shape[1], form.nr_bins)
        steps[1 : nr_rows + 1, :nr_bins] = ahead[:nr_rows, :nr_bins]
        steps[1 : nr_rows + 1, 0] += gone[:nr_rows].sum(axis=1)

    def _clear(self, steps: Shares, lives: Lifetimes, is_new: Ints, form: PictureForm) -> None:
        """Forget the areas of chunks that changed, and of those that are no more."""
        is_kept = np.zeros(max(len(lives.bands), form.nr_rows), np.bool_)
        is_kept[lives.chunk_band[~is_new]] = True
        steps[1:-1][~np.repeat(is_kept, int(form.per_band))[: form.nr_rows]] = 0

    def _add(self, steps: Shares, lives: Lifetimes, is_new: Ints, form: PictureForm) -> None:
        if lives.nr_live == 0:
            return
        areas = lives.areas
        edges = np.flatnonzero(np.diff(is_new, prepend=False, append=False))  # of runs of such chunks
        bounds = areas.begin(edges).reshape(-1, 2).tolist()
        for part in (part for first, end in bounds for part in _blocks(first, end)):
            size = areas.size_bytes[part] * (areas.kind[part] == IN_USE)  # nearly all are: quicker than to choose them
            low, height = form.rows(lives, lives.chunk_band[areas.chunk[part]], areas.off_bytes[part], size)
            left = form.bins(areas.birth[part], form.nr_bins).astype(np.intp)
            self._has_tall |= _add_steps(steps, left, low, height)


def lifetime_image(lives: Lifetimes, form: PictureForm, kept: LiveSteps | None = None) -> Codes:
    """Draw lifetimes, time across and bands upwards, as codes: the share of areas in use now and of freed ones.

    Args:
        form: what of them, and how finely.
        kept: what the picture before left.
    """
    live = _summed((kept or LiveSteps()).of(lives, form))
    live[:, max(math.ceil((lives.now - form.start) / form.bin_ops), 1) :] = 0  # all areas in use end here
    if not lives.nr_freed:
        return _mixed_codes(live, None)
    freed = np.zeros((form.nr_rows + 2, form.nr_bins + 1))
    rows = lives.freed
    for part in _blocks(0, len(rows)):
        low, height = form.rows(lives, rows.band[part], rows.off_bytes[part], rows.size_bytes[part])
        left = form.bins(rows.birth[part], form.nr_bins - 1).astype(np.intp)
        right = np.maximum(np.ceil(form.bins(rows.freed_at[part], form.nr_bins)).astype(np.intp), left + 1)
        _add_steps(freed, left, low, height)
        _add_steps(freed, right, low, height, sign=-1)
    return _mixed_codes(live, _summed(freed))


def _blocks(start: int, end: int) -> Iterator[slice]:
    """Parts of the rows, so small that all that is worked out of one stays in the cache."""
    return (slice(first, min(first + BLOCK, end)) for first in range(start, end, BLOCK))


def _add_steps(steps: Shares, left: Ints, low: Any, height: Any, sign: int = 1) -> bool:
    """Add, at the bin where each box begins, the shares of pixels that it covers from there to the right edge.

    Says whether any box was so tall that it is parted among pixels.
    """
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
    return len(tall) > 0


def _summed(steps: Shares) -> Shares:
    """What is covered: all steps up to each pixel; of those in sight."""
    shares: Shares = np.cumsum(steps[1:-1, :-1], axis=1)
    return shares
