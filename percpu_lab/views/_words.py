"""What the views say: names of chunks, sizes, and the line of text under each title. Live and static views share it."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ..annotations import Annotations, Notes
from ..columns import RESERVED_ORDINAL, UNKNOWN, ChunkColumns, Ints, Snapshot
from ..core import layout as L
from ..plain import one_line
from ..spans import Lifetimes, Series, external_fragmentation
from ..units import format_bytes

BETWEEN = "  ·  "
NO_CHUNK_YET = "No chunk yet"
AREA_WORDS = (  # by kind in columns.py
    "free",
    "hole: free before the last area",
    "in use",
    "static: the kernel's own",
    "reserved: for modules",
    "not managed by the chunk",
)
NO_PAGE_WORDS = "free, no page behind it yet"
TIMELINE_TITLE = "Timeline: when each area lived, and where (upwards: its offset in what the chunk serves)"
_NOTE_LETTERS, _NOTES_ACROSS = 24, 36
_PLACING = ("STATS_", "SNAP_", "END ")  # say where a file was read, or what ends: too many to write out
NOTHING_YET = "Nothing has happened yet: run some ops, or press play"
NO_HISTORY_YET = "No history yet: run some ops, or press play"


def chunk_label(ordinal: int) -> str:
    """Name a chunk in few letters.

    >>> chunk_label(-1), chunk_label(0), chunk_label(3)
    ('reserved', 'first chunk', 'chunk 3')
    """
    return {RESERVED_ORDINAL: "reserved", 0: "first chunk"}.get(ordinal, f"chunk {ordinal}")


def band_label(ordinal: int, span_bytes: int) -> str:
    """Name a chunk, and say how many bytes of each unit it serves: its band in the timeline is as high as that.

    >>> band_label(0, 28672)
    'first chunk 28 KiB'
    """
    return f"{chunk_label(ordinal)} {format_bytes(span_bytes)}"


class TextColumn(NamedTuple):
    """A column of text beside the area map: what it is headed with, letters it needs, and its text by row."""

    heading: str
    width: int
    words: Callable[[int], str]


def has_hints(chunks: ChunkColumns) -> bool:
    """Whether it is known what the allocator believes of its chunks; a recording does not tell."""
    return bool((chunks.contig_hint != UNKNOWN).any())


def text_columns(chunks: ChunkColumns) -> tuple[TextColumn, TextColumn, TextColumn]:
    """Give the columns beside the area map; of a recording what its events tell, as slots and hints are unknown."""
    free, largest = chunks.free_bytes, chunks.largest_free_bytes
    middle = TextColumn("free", 10, lambda row: format_bytes(int(free[row])))
    if not has_hints(chunks):
        return (
            TextColumn("areas", 6, lambda row: f"{int(chunks.nr_alloc[row]):,}"),
            middle,
            TextColumn("largest free", 15, lambda row: format_bytes(int(largest[row]))),
        )
    return (
        TextColumn("slot", 5, lambda row: slot_text(int(chunks.slot[row]))),
        middle,
        TextColumn("contig_hint", 30, lambda row: hint_text(int(chunks.contig_hint[row]), int(largest[row]))),
    )


def slot_text(slot: int) -> str:
    """Write a slot; the reserved chunk has none.

    >>> slot_text(12), slot_text(UNKNOWN)
    ('12', '-')
    """
    return "-" if slot == UNKNOWN else str(slot)


def hint_text(contig_hint: int, largest_free_bytes: int) -> str:
    """Write what the allocator believes to be the largest free area, and the truth where that differs.

    >>> hint_text(4096, 4096)
    '4 KiB'
    >>> hint_text(24576, 4096)
    '24 KiB ⚠ really 4 KiB'
    """
    largest = format_bytes(largest_free_bytes)
    return largest if contig_hint == largest_free_bytes else f"{format_bytes(contig_hint)} ⚠ really {largest}"


def area_map_status(snap: Snapshot, nr_visible: int, nr_drawn: int, moment: str = "op") -> str:
    """Sum up a snapshot; warnings first, as a narrow page cuts the end off.

    Args:
        nr_visible: areas in sight.
        nr_drawn: those of them that are drawn one by one.
        moment: "op" or "event", as moment_word() says.
    """
    if not len(snap.chunks):
        return "set up an allocator, and its first chunk appears here"
    normal = snap.chunks.ordinal != RESERVED_ORDINAL
    free, largest = snap.chunks.free_bytes[normal].sum(), snap.chunks.largest_free_bytes[normal].max(initial=0)
    broken = float(external_fragmentation(free, largest))
    parts = []
    if nr_drawn < nr_visible:
        parts.append(f"{nr_visible:,} areas in sight: small ones mix their colours, zoom in to point")
    if (snap.chunks.nr_populated == UNKNOWN).any():
        parts.append("recorded: pages and hints unknown")
    parts += [f"{moment} {snap.op:,}", f"chunks: {len(snap.chunks):,}", f"areas in use: {snap.nr_in_use:,}"]
    parts.append(f"{format_bytes(int(free))} free per CPU, {broken:.0%} of it outside the largest free area")
    return BETWEEN.join(parts)


def fragmentation_status(total: Series, ordinal: int | None, moment: str = "op") -> str:
    """Say how the lines end, and what the thin ones are.

    Args:
        total: of all chunks.
        ordinal: the chunk that has lines of its own.
        moment: "op" or "event", as moment_word() says.
    """
    if not len(total):
        return "no sample in sight"
    free, largest = format_bytes(int(total.free_bytes[-1])), format_bytes(int(total.largest_free_bytes[-1]))
    parts = [f"at {moment} {int(total.op[-1]):,}: {free} free, the largest free area has {largest}"]
    if ordinal is not None:
        parts.append(f"thin lines: {chunk_label(ordinal)} alone")
    return BETWEEN.join(parts)


def timeline_status(
    lives: Lifetimes, *, is_tracing: bool, is_picture: bool, marks_drawn: float = 1, moment: str = "op"
) -> str:
    """Sum up what happened; warnings first.

    Args:
        is_tracing: whether events are being written.
        is_picture: lifetimes are not drawn one by one.
        marks_drawn: share of the marks that is drawn.
        moment: "op" or "event", as moment_word() says.
    """
    failed, made, given_back = (
        int(np.count_nonzero(lives.marks.event == event)) for event in (L.EVENT_FAIL, L.EVENT_CREATE, L.EVENT_DESTROY)
    )
    warnings = {
        "tracing is off: only areas in use are known": not is_tracing,
        f"{lives.nr_lost:,} earlier events were lost": lives.nr_lost,
        f"{lives.nr_unknown:,} frees of areas from before the recording": lives.nr_unknown,
        "small areas mix their colours, zoom in to point": is_picture,
        f"{marks_drawn:.0%} of the marks are drawn": marks_drawn < 1,
    }
    first, end = lives.window
    parts = [text for text, holds in warnings.items() if holds]
    nr_live = len(lives) - lives.nr_freed
    parts.append(f"{moment}s {first:,} to {min(end, lives.now):,}: {len(lives):,} lifetimes, {nr_live:,} go on")
    parts.append(f"failed: {failed:,}, chunks made: {made:,}, given back: {given_back:,}")
    return BETWEEN.join(parts)


def moment_word(annotations: Annotations | None) -> str:
    """Name a moment as the time axis counts it: an op of a run, an event of a real kernel's trace."""
    return "op" if annotations is None else "event"


def time_label(annotations: Annotations | None) -> str:
    """Name the time axis: ops of a run, events of a real kernel's trace."""
    return "ops done" if annotations is None else "events of the trace"


def notes_status(annotations: Annotations | None) -> list[str]:
    """Say what else a recording tells up to now: warnings first."""
    if annotations is None:
        return []
    nr_losses = int(annotations.notes.is_loss.sum())
    parts = [annotations.caution] if annotations.caution else []
    parts += [f"events lost at {nr_losses:,} place{'s' * (nr_losses != 1)}"] if nr_losses else []
    return parts + ([annotations.when] if annotations.when else [])


def harmless(text: str) -> str:
    r"""Write text of a trace so that it is markup nowhere, whoever shows it, and control characters as escapes.

    >>> print(harmless("<idle> $$x$$ \x1b[2J"))
    ‹idle› ＄＄x＄＄ \x1b[2J
    """
    return one_line(text).translate({ord("<"): "‹", ord(">"): "›", ord("$"): "＄"})


def aligned(lines: Sequence[str]) -> list[str]:
    """Put the fields of lines of one event below each other.

    >>> print("\\n".join(aligned(["free: off=8 ptr=1", "create: base=3", "free: off=64 ptr=2"])))
    free: off=8  ptr=1
    create: base=3
    free: off=64 ptr=2
    """
    rows = [line.split(" ") for line in lines]
    kinds = [(row[0], len(row)) for row in rows]
    widths = {
        kind: [
            max(map(len, fields)) for fields in zip(*(row for row in rows if (row[0], len(row)) == kind), strict=True)
        ]
        for kind in set(kinds)
    }
    return [" ".join(map(str.ljust, row, widths[kind])).rstrip() for row, kind in zip(rows, kinds, strict=True)]


def note_labels(notes: Notes, rows: Ints, window: tuple[int, int]) -> dict[int, str]:
    """Choose the notes that are written out, so that none covers another, and shorten them.

    Args:
        rows: of the notes in sight.
        window: first op and op behind the last of the time axis.
    """
    room = (window[1] - window[0]) / _NOTES_ACROSS
    labels: dict[int, str] = {}
    reached = float(window[0])
    for row in rows.tolist():
        text = textwrap.shorten(harmless(notes.text[row]), _NOTE_LETTERS, placeholder="…")
        if notes.op[row] >= reached and not text.startswith(_PLACING):
            labels[row] = text
            reached = notes.op[row] + room
    return labels


def nothing_happened(lives: Lifetimes, *, is_tracing: bool, moment: str = "op") -> str:
    """Say why a timeline is empty; an empty text if it is not."""
    if len(lives) + len(lives.marks):
        return ""
    if not is_tracing:
        return "Tracing is off: turn events on to see what happens"
    return f"No allocation is known in these {moment}s" if lives.now else NOTHING_YET
