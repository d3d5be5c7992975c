"""Do the numbers of one percpu_stats agree with each other? The kernel prints the file under pcpu_lock, so they must.

    rule                what must be true
    counts              nr_alloc - nr_dealloc = nr_cur_alloc <= nr_max_alloc <= nr_alloc; nr_chunks <= nr_max_chunks
    sizes               min_alloc_size <= max_alloc_size <= unit_size; the unit size and 0 before the first allocation
    layout              static, reserved and dynamic part fit in a unit, units in an allocation, atoms too
    chunk-kinds         one first chunk; a reserved one if there is a reserved size
    hidden-chunks       nr_chunks = chunks listed, without the reserved one, which never counts
    live-areas          nr_cur_alloc = sum of nr_alloc over the chunks
    empty-pages         empty_pop_pages = sum over the chunks that count: not the reserved, no isolated ones
    free-bytes          between 0 and what the chunk can hand out, and all of that exactly if nothing is allocated
    contig              what the allocator believes to be the largest free area is not more than there can be
    fragments           max_frag <= sum_frag <= what is free
    area-sizes          cur_min <= cur_med <= cur_max, all 0 without areas; none beyond what was ever asked for
    used-bytes          the areas fill what is not free: between nr_alloc times the least and times the largest
    granule             sizes are multiples of the least size

Not looked at: the order of the chunks, and hints, which may be behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from html import escape
from typing import Any, Literal

from ..kernels import V4_13
from ..rich import Rich
from .values import AnyChunkStats, ChunkStats, ChunkStatsV6, GlobalStatsV6, PercpuStats, labels

__all__ = ["RULES", "Finding", "Findings", "as_json", "lint"]

Severity = Literal["error", "warning"]
_ISOLATED = ("to_depopulate", "sidelined")
_LEAST_PAGE = 4096


@dataclass(frozen=True, slots=True)
class Finding(Rich):
    """A rule that does not hold.

    Args:
        rule: its name, as in the table above.
        text: what contradicts what, with the numbers.
        severity: "error" if numbers contradict each other, "warning" if the file does not show all.
        chunk: the block it is about, from 0 in the order of the file; None if it is about the whole.
    """

    rule: str
    text: str
    severity: Severity = "error"
    chunk: int | None = None

    def __str__(self) -> str:
        where = "" if self.chunk is None else f"chunk {self.chunk}: "
        return f"{self.severity}: {self.rule}: {where}{self.text}"


class Findings(tuple[Finding, ...]):
    """What lint found, in the order of its rules; empty if the numbers agree."""

    __slots__ = ()

    def __str__(self) -> str:
        return "\n".join(map(str, self)) or "the numbers agree with each other"

    def __repr__(self) -> str:
        return f"<Findings: {len(self)}>" if self else "<Findings: none>"

    def _repr_html_(self) -> str:
        items = "".join(f"<li>{escape(str(finding))}</li>" for finding in self)
        return f"<ul>{items}</ul>" if items else f"<p>{self}</p>"


def lint(stats: PercpuStats) -> Findings:
    """Check the conservation laws of one reading of percpu_stats.

    >>> from percpu_lab.engine import Engine
    >>> from percpu_lab.geometry import preset
    >>> from percpu_lab.stats import read_stats
    >>> print(lint(read_stats(Engine(preset("x86-64, 4 CPUs"), jit="off"))))
    the numbers agree with each other

    Args:
        stats: of any kernel.
    """
    return Findings(finding for check in (*RULES, _chunks) for finding in check(stats))


def as_json(stats: PercpuStats, findings: Findings) -> dict[str, Any]:
    """Give a reading and what was found as values that the json module writes.

    Args:
        stats: the reading.
        findings: what lint said of it.
    """
    chunks = [asdict(chunk) for chunk in stats.chunks]
    for unknown in stats.unknown:
        if unknown.block >= 0:
            chunks[unknown.block][unknown.label] = unknown.value
    return {
        "layout": stats.layout,
        "alloc_info": asdict(stats.alloc_info) | _unknown(stats, -2),
        "global": asdict(stats.global_stats) | _unknown(stats, -1),
        "chunks": chunks,
        "findings": [asdict(finding) for finding in findings],
    }


def _unknown(stats: PercpuStats, block: int) -> dict[str, int]:
    return {unknown.label: unknown.value for unknown in stats.unknown if unknown.block == block}


# --- the counters -------------------------------------------------------------------


def _counts(stats: PercpuStats) -> Iterator[Finding]:
    g = stats.global_stats
    if g.nr_alloc - g.nr_dealloc != g.nr_cur_alloc:
        yield Finding("counts", f"nr_alloc {g.nr_alloc:,} - nr_dealloc {g.nr_dealloc:,} is "
                                f"{g.nr_alloc - g.nr_dealloc:,}, and nr_cur_alloc {g.nr_cur_alloc:,}")  # fmt: skip
    for less, more in (("nr_cur_alloc", "nr_max_alloc"), ("nr_max_alloc", "nr_alloc"), ("nr_chunks", "nr_max_chunks")):
        if getattr(g, less) > getattr(g, more):
            yield Finding("counts", f"{less} {getattr(g, less):,} is more than {more} {getattr(g, more):,}")
    for label in labels(g):
        # while pages of an area are still being populated, empty_pop_pages may be below 0
        if getattr(g, label) < 0 and label != "empty_pop_pages":
            yield Finding("counts", f"{label} {getattr(g, label):,} is below 0")


def _sizes(stats: PercpuStats) -> Iterator[Finding]:
    g, unit_size = stats.global_stats, stats.alloc_info.unit_size
    if not g.nr_alloc:
        if (g.min_alloc_size, g.max_alloc_size) != (unit_size, 0):
            yield Finding("sizes", f"nothing was allocated, and sizes are {g.min_alloc_size:,} to "
                                   f"{g.max_alloc_size:,} bytes, not {unit_size:,} and 0")  # fmt: skip
    elif g.min_alloc_size > g.max_alloc_size:
        yield Finding("sizes", f"min_alloc_size {g.min_alloc_size:,} is more than max_alloc_size {g.max_alloc_size:,}")
    if g.max_alloc_size > unit_size:
        yield Finding("sizes", f"max_alloc_size {g.max_alloc_size:,} is more than a unit, {unit_size:,}")


def _layout(stats: PercpuStats) -> Iterator[Finding]:
    info = stats.alloc_info
    used = info.static_size + info.reserved_size + info.dyn_size
    if used > info.unit_size:
        yield Finding("layout", f"static, reserved and dynamic part are {used:,} bytes, and a unit {info.unit_size:,}")
    for whole, part in (("unit_size", _LEAST_PAGE), ("alloc_size", info.unit_size), ("alloc_size", info.atom_size)):
        size = getattr(info, whole)
        if part <= 0 or size <= 0 or size % part:
            yield Finding("layout", f"{whole} {size:,} is no multiple of {part:,}")


def _chunk_kinds(stats: PercpuStats) -> Iterator[Finding]:
    kinds = [chunk.kind for chunk in stats.chunks]
    if kinds.count("first") != 1:
        yield Finding("chunk-kinds", f"{kinds.count('first')} first chunks")
    if ("reserved" in kinds) != (stats.alloc_info.reserved_size > 0):
        is_listed = "is" if "reserved" in kinds else "is not"
        yield Finding("chunk-kinds", f"a reserved chunk {is_listed} listed, and reserved_size is "
                                     f"{stats.alloc_info.reserved_size:,}")  # fmt: skip


def _hidden_chunks(stats: PercpuStats) -> Iterator[Finding]:
    nr_hidden = nr_hidden_chunks(stats)
    nr_chunks = stats.global_stats.nr_chunks
    if nr_hidden < 0:
        yield Finding("hidden-chunks", f"{nr_chunks - nr_hidden} chunks are listed, and nr_chunks is {nr_chunks}")
    elif nr_hidden:
        unit_size = stats.alloc_info.unit_size
        nr_areas = stats.global_stats.nr_cur_alloc - sum(chunk.nr_alloc for chunk in stats.chunks)
        text = f"{nr_hidden} of {nr_chunks} chunks are not listed: they have {nr_areas:,} areas in them"
        if isinstance(stats.global_stats, GlobalStatsV6):
            total = stats.global_stats.empty_pop_pages
            text += f" and {total - _listed_empty_pages(stats):,} of the {total:,} empty populated pages"
        text += f"; they could hold {nr_hidden * unit_size:,} bytes, {unit_size:,} each"
        yield Finding("hidden-chunks", text, "warning")


def nr_hidden_chunks(stats: PercpuStats) -> int:
    """Count the chunks that nr_chunks counts and the file does not list; the reserved chunk never counts."""
    return stats.global_stats.nr_chunks - sum(chunk.kind != "reserved" for chunk in stats.chunks)


def _live_areas(stats: PercpuStats) -> Iterator[Finding]:
    listed, live = sum(chunk.nr_alloc for chunk in stats.chunks), stats.global_stats.nr_cur_alloc
    if listed > live or (listed < live and nr_hidden_chunks(stats) <= 0):
        yield Finding("live-areas", f"the chunks have {listed:,} areas, and nr_cur_alloc is {live:,}")


def _listed_empty_pages(stats: PercpuStats) -> int:
    """Add up the empty pages of the chunks that count: neither the reserved one nor isolated ones."""
    counting = (chunk for chunk in stats.chunks if chunk.kind not in ("reserved", *_ISOLATED))
    return sum(chunk.empty_pop_pages for chunk in counting if isinstance(chunk, ChunkStatsV6))


def _empty_pages(stats: PercpuStats) -> Iterator[Finding]:
    if not isinstance(stats.global_stats, GlobalStatsV6):
        return
    listed, total = _listed_empty_pages(stats), stats.global_stats.empty_pop_pages
    if listed > total or (listed < total and nr_hidden_chunks(stats) <= 0):
        yield Finding("empty-pages", f"the chunks have {listed:,} empty populated pages, "
                                     f"and empty_pop_pages is {total:,}")  # fmt: skip


# --- a chunk ------------------------------------------------------------------------


def _chunks(stats: PercpuStats) -> Iterator[Finding]:
    for number, chunk in enumerate(stats.chunks):
        for rule, check in _CHUNK_RULES.items():
            for text in check(stats, chunk):
                yield Finding(rule, text, chunk=number)


def _free_bytes(stats: PercpuStats, chunk: AnyChunkStats) -> Iterator[str]:
    total = stats.total_bytes(chunk)
    if not 0 <= chunk.free_bytes <= total:
        yield f"{chunk.free_bytes:,} bytes are free of {total:,}"
    elif chunk.nr_alloc < 0:
        yield f"nr_alloc {chunk.nr_alloc} is below 0"
    elif (chunk.nr_alloc == 0) != (chunk.free_bytes == total):
        yield f"{chunk.nr_alloc:,} areas, and {chunk.free_bytes:,} bytes are free of {total:,}"


def _contig(stats: PercpuStats, chunk: AnyChunkStats) -> Iterator[str]:
    if isinstance(chunk, ChunkStats):
        # contig_hint of the area map is not lowered by allocations: it is no more than a bound
        contig_bytes, limit, what = chunk.contig_hint, stats.total_bytes(chunk), "the chunk can hand out"
    else:
        contig_bytes, limit, what = chunk.contig_bytes, chunk.free_bytes, "are free"
    if not 0 <= contig_bytes <= limit:
        yield f"the largest free area is {contig_bytes:,} bytes, and {limit:,} {what}"


def _fragments(stats: PercpuStats, chunk: AnyChunkStats) -> Iterator[str]:
    if not 0 <= chunk.max_frag <= chunk.sum_frag <= max(chunk.free_bytes, 0) or (not chunk.max_frag and chunk.sum_frag):
        yield f"max_frag {chunk.max_frag:,}, sum_frag {chunk.sum_frag:,}, free {chunk.free_bytes:,} bytes"


def _area_sizes(stats: PercpuStats, chunk: AnyChunkStats) -> Iterator[str]:
    sizes = (chunk.cur_min_alloc, chunk.cur_med_alloc, chunk.cur_max_alloc)
    if not chunk.nr_alloc:
        if any(sizes) or chunk.sum_frag:
            yield f"no areas, and sizes {sizes}, sum_frag {chunk.sum_frag:,}"
        return
    if not 0 < sizes[0] <= sizes[1] <= sizes[2]:
        yield f"cur_min, cur_med and cur_max are {sizes}"
    if chunk.max_alloc_size > stats.global_stats.max_alloc_size:
        yield f"max_alloc_size {chunk.max_alloc_size:,} is more than that of all, {stats.global_stats.max_alloc_size:,}"
    # an area of the area map may be larger than what was asked for: it takes what is too small to be left
    if isinstance(chunk, ChunkStatsV6) and sizes[2] > chunk.max_alloc_size:
        yield f"cur_max_alloc {sizes[2]:,} is more than the largest ever, {chunk.max_alloc_size:,}"


def _used_bytes(stats: PercpuStats, chunk: AnyChunkStats) -> Iterator[str]:
    used = stats.total_bytes(chunk) - chunk.free_bytes
    # the last bit of a chunk is not looked at: an area that ends there is 4 bytes short, or missing if it has no more
    least = max(chunk.nr_alloc - 1, 0) * chunk.cur_min_alloc
    most = chunk.nr_alloc * chunk.cur_max_alloc + 4
    if chunk.nr_alloc and not least <= used <= most:
        sizes = f"{chunk.cur_min_alloc:,} to {chunk.cur_max_alloc:,}"
        yield f"{used:,} bytes are in use, by {chunk.nr_alloc:,} areas of {sizes}"


def _granule(stats: PercpuStats, chunk: AnyChunkStats) -> Iterator[str]:
    least = 2 if stats.layout == V4_13.stats.name else 4
    for label in ("max_alloc_size", "sum_frag", "max_frag", "cur_min_alloc", "cur_med_alloc", "cur_max_alloc"):
        if getattr(chunk, label) % least:
            yield f"{label} {getattr(chunk, label):,} is no multiple of {least}"


_CHUNK_RULES: dict[str, Callable[[PercpuStats, AnyChunkStats], Iterator[str]]] = {
    "free-bytes": _free_bytes,
    "contig": _contig,
    "fragments": _fragments,
    "area-sizes": _area_sizes,
    "used-bytes": _used_bytes,
    "granule": _granule,
}
#: the rules about the whole file
RULES: tuple[Callable[[PercpuStats], Iterator[Finding]], ...] = (
    _counts, _sizes, _layout, _chunk_kinds, _hidden_chunks, _live_areas, _empty_pages,
)  # fmt: skip
