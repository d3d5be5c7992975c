"""What an engine says: lines of the kernel log, and why a pointer was refused."""

from __future__ import annotations

from .core import layout as L
from .errors import DoubleFreeError, ForeignPointerError, LabError

_MASK64 = (1 << 64) - 1

WALK_TEXT = (
    "the v4.13 kernel would loop for ever here: a failing scan found no hole of 4 bytes, moved the chunk to slot 0, "
    "and the walk of its old slot ran on into slot 0's list head, taking it for a chunk"
)


def bad_free(status: int, ptr: int, where: str = "") -> LabError:
    """Explain a refused free.

    >>> print(bad_free(L.STATUS_NO_CHUNK, 0x1000))
    free_percpu(0x1000): no chunk is at this address; free what this allocator handed out
    """
    where = f"{where}: free_percpu({ptr:#x})" if where else f"free_percpu({ptr:#x})"
    if status == L.STATUS_NO_CHUNK:
        return ForeignPointerError(
            "no chunk is at this address", where=where, remedy="free what this allocator handed out"
        )
    if status == L.STATUS_STATIC:
        return ForeignPointerError(
            "static per-CPU variables stand here, not an allocation",
            where=where,
            remedy="free what alloc_percpu returned",
        )
    if status == L.STATUS_STALE:
        return DoubleFreeError(
            "freed before, and its area belongs to a later allocation now",
            where=where,
            remedy="free each pointer once; nothing was changed (a kernel would free the other's memory)",
        )
    return DoubleFreeError(
        "no live area begins here: freed before, or a pointer into the middle of one",
        where=where,
        remedy="free each pointer once; nothing was changed (a kernel would BUG here)",
    )


def log_text(row: list[int]) -> str:
    """Write a row of the log table as the kernel prints it."""
    size, align = row[L.LOG_SIZE] & _MASK64, row[L.LOG_ALIGN] & _MASK64
    if row[L.LOG_CODE] == L.LOG_ILLEGAL:
        return f"WARN: illegal size ({size}) or align ({align}) for percpu allocation"
    if row[L.LOG_CODE] == L.LOG_LIMIT:
        return "percpu: limit reached, disable warning"
    reason = L.REASONS[row[L.LOG_REASON]]
    return f"percpu: allocation failed, size={size} align={align} atomic={row[L.LOG_ATOMIC]}, {reason}"
