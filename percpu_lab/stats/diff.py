"""What changed between two readings of percpu_stats.

A chunk has no name in the file. The first and the reserved chunk are known by their titles; of the others those are
taken for the same whose numbers are nearest, and whose largest area ever has not become smaller.

    before            after
    first      -----  first
    plain      -----  plain         nr_alloc 12 -> 9
    plain                           gone
                      sidelined     new
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..rich import Rich
from .values import AnyChunkStats, ChunkStatsV5, PercpuStats, labels

__all__ = ["ChunkDiff", "StatsDiff", "ValueChange", "diff"]

_CHUNKS_SHOWN = 20
_MAX_PAIRS = 250_000  # beyond, chunks are matched by their order alone


@dataclass(frozen=True, slots=True)
class ValueChange(Rich):
    """A value that changed; None where a kernel does not print it."""

    label: str
    before: int | None
    after: int | None

    @property
    def change(self) -> int | None:
        """How much more it is after; None if one of the two is not known."""
        return None if self.before is None or self.after is None else self.after - self.before

    def __str__(self) -> str:
        before, after = ("none" if value is None else f"{value:,}" for value in (self.before, self.after))
        more = "" if self.change is None else f" ({self.change:+,})"
        return f"{self.label} {before} -> {after}{more}"


@dataclass(frozen=True, slots=True, repr=False)
class ChunkDiff(Rich):
    """A chunk in both readings, or in one.

    Args:
        before, after: its block in the file, from 0; None where it is not listed.
        kind: its title after, or before if it is gone.
        changes: what changed in it.
        was: its title before, if that was another.
    """

    before: int | None
    after: int | None
    kind: str
    changes: tuple[ValueChange, ...]
    was: str | None = None

    def __repr__(self) -> str:
        return f"<ChunkDiff of the {self.kind} chunk, block {self.before} -> {self.after}: {len(self.changes)} changes>"

    def _html_fields(self) -> list[tuple[str, object]]:
        return [(each.label, str(each).removeprefix(f"{each.label} ")) for each in self.changes]

    def __str__(self) -> str:
        name = f"{self.kind} chunk"
        if self.after is None:
            return f"{name} (block {self.before} before): gone"
        if self.before is None:
            return f"{name} (block {self.after} after): new"
        parts = [f"was {self.was}"] if self.was else []
        return f"{name} (block {self.before} -> {self.after}): " + ", ".join([*parts, *map(str, self.changes)])


@dataclass(frozen=True, slots=True)
class StatsDiff(Rich):
    """What changed between two readings.

    Args:
        info: of the layout: with a change there these are not two readings of one boot.
        counters: of the global counters.
        chunks: those that changed, are new or gone; the order of the file after, then those that are gone.
        nr_same_chunks: chunks in which nothing changed.
        is_backwards: a counter that only grows became smaller: the readings are swapped, or of two boots.
    """

    info: tuple[ValueChange, ...]
    counters: tuple[ValueChange, ...]
    chunks: tuple[ChunkDiff, ...]
    nr_same_chunks: int
    is_backwards: bool

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return f"<StatsDiff: {len(self.counters)} counters and {len(self.chunks)} chunks changed>"

    def _html_fields(self) -> list[tuple[str, object]]:
        changes = [*self.info, *self.counters]
        rows: list[tuple[str, object]] = [(each.label, str(each).removeprefix(f"{each.label} ")) for each in changes]
        rows += [
            (name, text) for name, _, text in (str(chunk).partition(": ") for chunk in self.chunks[:_CHUNKS_SHOWN])
        ]
        return [*rows, ("chunks that did not change", self.nr_same_chunks)]

    def text(self) -> str:
        """Write the changes, one a line."""
        lines = [f"layout: {change}" for change in self.info]
        if self.is_backwards:
            lines.append("nr_alloc or nr_dealloc fell: the readings are swapped, or of two boots")
        lines += [*map(str, self.counters), *map(str, self.chunks)]
        if self.nr_same_chunks:
            lines.append(f"{self.nr_same_chunks} chunks did not change")
        return "\n".join(lines)


def diff(before: PercpuStats, after: PercpuStats) -> StatsDiff:
    """Compare two readings of percpu_stats.

    >>> from percpu_lab import Allocator
    >>> allocator = Allocator("x86-64, 4 CPUs")
    >>> before = allocator.stats()
    >>> pointer = allocator.alloc_percpu(64)
    >>> print(diff(before, allocator.stats()).counters[0])
    nr_alloc 0 -> 1 (+1)

    Args:
        before, after: readings of any kernels.
    """
    pairs = list(_matched(before, after))
    chunks = [_chunk_diff(before, after, pair) for pair in pairs]
    changed = tuple(chunk for chunk in chunks if None in (chunk.before, chunk.after) or chunk.changes or chunk.was)
    counters = _changes(before.global_stats, after.global_stats)
    only_grow = {"nr_alloc", "nr_dealloc", "nr_max_alloc", "nr_max_chunks", "max_alloc_size"}
    return StatsDiff(
        info=_changes(before.alloc_info, after.alloc_info),
        counters=counters,
        chunks=changed,
        nr_same_chunks=len(chunks) - len(changed),
        is_backwards=any(change.label in only_grow and (change.change or 0) < 0 for change in counters),
    )


def _changes(before: Any, after: Any) -> tuple[ValueChange, ...]:
    both = dict.fromkeys((*labels(before), *labels(after)))
    changes = (ValueChange(label, getattr(before, label, None), getattr(after, label, None)) for label in both)
    return tuple(change for change in changes if change.before != change.after)


def _chunk_diff(before: PercpuStats, after: PercpuStats, pair: tuple[int | None, int | None]) -> ChunkDiff:
    old, new = pair
    if old is None or new is None:
        stats, number = (after, new) if old is None else (before, old)
        return ChunkDiff(old, new, stats.chunks[number or 0].kind, ())
    was, now = before.chunks[old], after.chunks[new]
    return ChunkDiff(old, new, now.kind, _changes(was, now), was.kind if was.kind != now.kind else None)


def _matched(before: PercpuStats, after: PercpuStats) -> Iterator[tuple[int | None, int | None]]:
    """Pair the blocks of two files: in the order of the file after, then those that are gone."""
    partner: dict[int, int] = {}
    taken: set[int] = set()
    for _, old, new in sorted(_candidates(before, after)):
        if old not in taken and new not in partner:
            partner[new] = old
            taken.add(old)
    yield from ((partner.get(new), new) for new in range(len(after.chunks)))
    yield from ((old, None) for old in range(len(before.chunks)) if old not in taken)


def _candidates(before: PercpuStats, after: PercpuStats) -> Iterator[tuple[float, int, int]]:
    """Walk the pairs that may be one chunk, with how unlike they are."""
    if len(before.chunks) * len(after.chunks) > _MAX_PAIRS:
        yield from ((0.0, k, k) for k in range(min(len(before.chunks), len(after.chunks))))
        return
    for old, was in enumerate(before.chunks):
        for new, now in enumerate(after.chunks):
            if _can_be(was, now):
                yield _distance(was, now, after.alloc_info.unit_size) + abs(old - new) * 1e-6, old, new


def _can_be(was: AnyChunkStats, now: AnyChunkStats) -> bool:
    for kind in ("first", "reserved"):
        if (was.kind == kind) != (now.kind == kind):
            return False
    if isinstance(was, ChunkStatsV5) and isinstance(now, ChunkStatsV5) and was.memcg_aware != now.memcg_aware:
        return False
    return was.kind in ("first", "reserved") or was.max_alloc_size <= now.max_alloc_size


def _distance(was: AnyChunkStats, now: AnyChunkStats, unit_size: int) -> float:
    """Say how unlike two blocks are: 0 if all numbers agree, then by free bytes, areas and the largest area ever."""
    free = abs(was.free_bytes - now.free_bytes) / max(unit_size, 1)
    areas = abs(was.nr_alloc - now.nr_alloc) / max(was.nr_alloc, now.nr_alloc, 1)
    largest = (now.max_alloc_size - was.max_alloc_size) / max(now.max_alloc_size, 1)
    return free + areas + abs(largest)
