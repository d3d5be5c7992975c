"""Where do bytes go that nobody asked for?

    |####|r|a|####|....hole....|####|      free tail      |    r rounding, a gap for the alignment of the next area
    |page      |page      |page      |page      |page     |
     populated  populated  populated  populated  -             the fourth is populated and empty

Rows overlap where they must: holes and tails are room in the units, and cost memory only where a page is behind them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..columns import FREE, HOLE, IN_USE, RESERVED_ORDINAL, UNKNOWN, Snapshot, snapshot
from ..engine import Engine
from ..models import BITMAP
from ..plain import count
from ..rich import Rich
from ..units import PAGE_SIZE, bytes_to_pages, format_bytes, round_up
from .answer import Answer
from .ledger import Bools, Ints
from .subject import At, Notes, Subject

if TYPE_CHECKING:
    from ..views.static import Picture


@dataclass(frozen=True, slots=True)
class Lost(Rich):
    """Bytes lost in one way.

    Args:
        way: how.
        nr: areas, gaps, chunks or pages it happens in.
        per_cpu_bytes, all_cpus_bytes: lost; None if unknown.
        known: "exact", "at most" or "inferred".
    """

    way: str
    nr: int | None
    per_cpu_bytes: int | None
    all_cpus_bytes: int | None
    known: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Waste(Answer):
    """Bytes lost, way by way.

    Args:
        used_bytes: in live areas, on one CPU.
        nr_cpus: possible CPUs; None if unknown.
        populated_bytes: memory behind all units of one CPU; None if unknown.
    """

    used_bytes: int
    nr_cpus: int | None
    populated_bytes: int | None

    def headline(self) -> str:
        """Give the answer in one sentence."""
        free = sum(row.per_cpu_bytes or 0 for row in self.rows if row.way in (_ALIGN, _HOLES))
        text = f"{format_bytes(self.used_bytes)} in use per CPU, {format_bytes(free)} in holes between areas"
        empty = next((row for row in self.rows if row.way == _EMPTY and row.nr is not None), None)
        if empty is None:
            return text
        size = f"{format_bytes(empty.all_cpus_bytes or 0)} on {count(self.nr_cpus or 1, 'CPU')}"
        return f"{text}, {count(empty.nr or 0, 'empty page')} populated: {size}"

    def picture(self) -> Picture | None:
        """Draw what is lost in each way."""
        from .pictures import bars

        known = [row for row in self.rows if row.per_cpu_bytes is not None]
        return bars("Bytes not in use, per CPU", [row.way for row in known], [row.per_cpu_bytes or 0 for row in known])


_ROUNDING, _ALIGN, _HOLES = "rounding of sizes", "alignment gaps", "other holes between areas"
_TAIL, _WHOLE, _EMPTY = "free behind the last area", "chunks wholly free", "empty populated pages"


class _Part(NamedTuple):
    """A way, in how many places, and the bytes; None if unknown."""

    way: str
    nr: int | None
    nr_bytes: int | None
    known: str = "exact"


def waste(subject: Any, *, at: At = None) -> Waste:
    """Say how many bytes are lost to rounding, alignment, holes, tails and empty populated pages.

    >>> from percpu_lab.allocator import Allocator
    >>> a = Allocator(engine="v6.12-bitmap")
    >>> p, q = a.alloc_percpu(61), a.alloc_percpu(64, align=64)
    >>> waste(a).rows[0]
    Lost(way='rounding of sizes', nr=2, per_cpu_bytes=6, all_cpus_bytes=24, known='at most')

    Args:
        subject: a Recording, a trace, or an Allocator.
        at: the moment, as a row of the trace or a text in a marker; the end by default.

    Raises:
        RequestError: there is no such moment.

    Source: chunk_map_stats (spec bitmap 8.3) for holes, pcpu_update_empty_pages (4.4) for empty pages.
    """
    whole = Subject.of(subject)
    snap = whole.snapshot(at)
    info = whole.info
    parts = [_rounding(whole, snap), *_gaps(whole, snap), *_free(whole, snap), _empty(whole, snap, at)]
    nr_cpus = info.nr_cpus if info is not None else None
    rows = tuple(
        Lost(part.way, part.nr, part.nr_bytes,
             None if nr_cpus is None or part.nr_bytes is None else part.nr_bytes * nr_cpus, part.known)
        for part in parts
    )  # fmt: skip
    used = int(snap.areas.size_bytes[snap.areas.kind == IN_USE].sum())
    return Waste(rows=rows, used_bytes=used, nr_cpus=nr_cpus, populated_bytes=_populated(whole, snap, at),
                 **_notes(whole, at))  # fmt: skip


def _rounding(whole: Subject, snap: Snapshot) -> _Part:
    """Sizes are rounded before any event; the area map may leave a rest of a few bytes with an area on top."""
    in_use = snap.areas.kind == IN_USE
    left = int((snap.areas.size_bytes - snap.areas.requested_bytes)[in_use].sum())
    nr = int(in_use.sum())
    return _Part(_ROUNDING, nr, nr * (whole.least_size - 1) + left, "at most")


def _gaps(whole: Subject, snap: Snapshot) -> list[_Part]:
    """Holes before an area that had to be aligned, and smaller than its alignment; then the others."""
    areas = snap.areas
    holes = np.flatnonzero(areas.kind == HOLE)
    behind = np.minimum(holes + 1, len(areas) - 1)
    follows = (areas.kind[behind] == IN_USE) & (areas.chunk[behind] == areas.chunk[holes])
    align = _alignments(whole, areas.birth[behind])
    is_gap = follows & (align > whole.least_size) & (areas.size_bytes[holes] < align)
    is_gap &= areas.off_bytes[behind] % np.maximum(align, 1) == 0
    size = areas.size_bytes[holes]
    known = "inferred" if whole.rebuilt is not None else "unknown"
    return [
        _Part(_ALIGN, int(is_gap.sum()), int(size[is_gap].sum()), known),
        _Part(_HOLES, int((~is_gap).sum()), int(size[~is_gap].sum()), known),
    ]


def _alignments(whole: Subject, birth: Ints) -> Ints:
    """The alignment asked for by the allocation of each area; 0 where that is not known."""
    align = np.zeros(len(birth), np.int64)
    if whole.rebuilt is None:
        return align
    trace, early = whole.rebuilt.trace, whole.rebuilt.early
    rows = birth.astype(np.int64)
    if whole.engine is not None:  # named by op
        rows = np.searchsorted(trace.op, rows, side="right") - 1
    known = (rows >= 0) & (rows < len(trace)) & (birth != UNKNOWN)
    align[known] = trace.align[rows[known]]
    if early is not None:
        before = (rows < 0) & (rows >= -len(early)) & (whole.engine is None)
        align[before] = early.align[rows[before]]
    return align


def _free(whole: Subject, snap: Snapshot) -> list[_Part]:
    areas = snap.areas
    has_areas = np.zeros(len(snap.chunks), bool)
    has_areas[areas.chunk[areas.kind == IN_USE]] = True
    tails = (areas.kind == FREE) & (areas.size_bytes > 0)
    used_chunk: Bools = has_areas[areas.chunk]
    known = "inferred" if whole.guess else "exact"
    return [
        _Part(way, int(chosen.sum()), int(areas.size_bytes[chosen].sum()), known)
        for way, chosen in ((_TAIL, tails & used_chunk), (_WHOLE, tails & ~used_chunk))
    ]


# --- pages ----------------------------------------------------------------------


def _empty(whole: Subject, snap: Snapshot, at: At) -> _Part:
    """Pages that are populated and in which nothing lives."""
    if whole.engine is not None and at is None:
        nr = _empty_pages_of(whole.engine, whole, snap)
        return _Part(_EMPTY, nr, nr * PAGE_SIZE)
    if whole.is_replayed:
        return _empty_in_model(whole, at)
    reading = whole.meminfo(at)
    if reading is None:
        return _Part(_EMPTY, None, None, "unknown")
    then = whole.snapshot(reading.row)  # what lived when it was read, not what lives at the moment asked for
    nr = max(reading.cpu_bytes // PAGE_SIZE - len(_touched(whole, then) | _static_pages(whole)), 0)
    return _Part(_EMPTY, nr, nr * PAGE_SIZE, "inferred")


def _empty_in_model(whole: Subject, at: At) -> _Part:
    """Pages as the model of a review has them; certain until pages were given back."""
    engine, until = whole.engine_at(at), whole.review.trusted_until
    assert engine is not None
    nr = _empty_pages_of(engine, whole, snapshot(engine))
    is_certain = until is None or whole.moment(at) <= until
    return _Part(_EMPTY, nr, nr * PAGE_SIZE, "exact" if is_certain else "inferred")


def _counted_empty_pages(engine: Engine) -> int:
    chunks = [*engine.chunks(), *filter(None, [engine.reserved_chunk()])]
    return sum(chunk.nr_empty_pop_pages for chunk in chunks)


def _empty_pages_of(engine: Engine, whole: Subject, snap: Snapshot) -> int:
    if engine.model is BITMAP:  # it counts them
        return _counted_empty_pages(engine)
    populated = int((snap.populated.end_page - snap.populated.first_page).sum())
    return populated - len(_touched(whole, snap) | _static_pages(whole))


def _touched(whole: Subject, snap: Snapshot) -> set[tuple[int, int]]:
    """Chunk and page of all pages in which an area lives; the boot chunks share one unit."""
    areas = snap.areas
    chosen = np.flatnonzero(areas.kind == IN_USE)
    ordinal = snap.chunks.ordinal[areas.chunk[chosen]]
    off = areas.off_bytes[chosen] + _shift(whole, snap, ordinal)
    first = off // PAGE_SIZE
    last = (off + areas.size_bytes[chosen] - 1) // PAGE_SIZE
    ordinal = np.maximum(ordinal, 0)
    spans = zip(ordinal.tolist(), first.tolist(), last.tolist(), strict=True)
    return {(chunk, page) for chunk, start, end in spans for page in range(start, end + 1)}


def _shift(whole: Subject, snap: Snapshot, ordinal: Ints) -> Ints:
    """What is added to the offsets of boot chunks that count from the page where they begin, not from the unit."""
    if whole.engine is not None or whole.rebuilt is None:
        return np.zeros(len(ordinal), np.int64)
    unit, space = snap.unit, whole.rebuilt.space
    first = round_up(max(unit.static_size + unit.reserved_size - space.first[0], 0), PAGE_SIZE)
    reserved = round_up(max(unit.static_size - space.reserved[0], 0), PAGE_SIZE)
    return np.select([ordinal == 0, ordinal == RESERVED_ORDINAL], [first, reserved], 0)


def _static_pages(whole: Subject) -> set[tuple[int, int]]:
    """Pages with variables of the kernel itself, in the unit of the boot chunks."""
    nr = bytes_to_pages(whole.info.static_size) if whole.info is not None else 0
    return {(0, page) for page in range(nr)}


def _populated(whole: Subject, snap: Snapshot, at: At) -> int | None:
    if len(snap.populated):
        pages = int((snap.populated.end_page - snap.populated.first_page).sum())
        return pages * PAGE_SIZE
    reading = whole.meminfo(at)
    return None if reading is None else reading.cpu_bytes


def _notes(whole: Subject, at: At) -> Notes:
    notes = whole.notes()
    inferred = notes["inferred"]
    least = whole.least_size
    inferred += (f"events show sizes behind the rounding to {least}: up to {least - 1} bytes of each may be lost",)
    if whole.rebuilt is not None:
        inferred += ("alignment gaps: holes smaller than the alignment of the area behind them",)
    inferred += (whole.guess,) if whole.guess else ()
    if whole.is_replayed:
        inferred += ("empty pages: those of the model that replays the recorded calls",)
    elif (reading := whole.meminfo(at)) is not None:
        when = f"meminfo was read at row {reading.row:,}"
        inferred += (f"populated and empty pages: {when}, less the pages in which areas lived then",)
    certain = notes["certain"] + ("holes and tails cost memory only where a page is populated behind them",)
    return {"certain": certain, "inferred": inferred}
