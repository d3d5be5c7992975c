"""What leaves the allocator: events into the ring, lines into the kernel log, injected faults.

    ring   RING_OP     | 3 | 3 | 4 | 5 | ...      one row a column, so that a column is contiguous;
           RING_EVENT  | C | A | A | F | ...      event number n stands at n mod capacity,
           ...                                     RING_HEAD counts all events ever written
"""

from . import layout as L
from ._jit import as_int64, cold, kernel
from .ring_filter import filter_matches


@kernel
def trace_event(s, event, c, off, size, align, flags, birth):
    """Write an event of chunk handle c (0: of no chunk), unless it is disabled or filtered out."""
    g = s.g
    if not (g[L.EVENT_MASK] >> event) & 1:
        return
    ordinal = L.NO_CHUNK
    base = 0
    if c != 0:
        ordinal = s.chunk[c + L.ORDINAL]
        base = s.chunk[c + L.BASE]
    if g[L.FILTER_TABLE + event * L.FILTER_WORDS] != 0 and not filter_matches(
        s, event, size, align, g[L.FIRST_BASE] + base, off, base + off + g[L.PTR_BIAS],
        flags & L.FLAG_RESERVED, (flags & L.FLAG_ATOMIC) // L.FLAG_ATOMIC,
    ):
        g[L.NR_FILTERED] += 1
        return
    capacity = g[L.RING_CAPACITY]
    ring = s.ring
    at = g[L.RING_HEAD] & (capacity - 1)
    ring[L.RING_OP * capacity + at] = g[L.NOW]
    ring[L.RING_EVENT * capacity + at] = event
    ring[L.RING_CHUNK * capacity + at] = ordinal
    ring[L.RING_OFF * capacity + at] = off
    ring[L.RING_SIZE * capacity + at] = size
    ring[L.RING_ALIGN * capacity + at] = align
    ring[L.RING_FLAGS * capacity + at] = flags
    ring[L.RING_BIRTH * capacity + at] = birth
    g[L.RING_HEAD] += 1


@cold
def log_line(s, code, size, align, atomic, reason):
    g = s.g
    at = L.LOG_TABLE + g[L.LOG_USED] * L.LOG_WORDS
    g[at + L.LOG_OP] = g[L.NOW]
    g[at + L.LOG_CODE] = code
    g[at + L.LOG_SIZE] = as_int64(size)
    g[at + L.LOG_ALIGN] = align
    g[at + L.LOG_ATOMIC] = atomic
    g[at + L.LOG_REASON] = reason
    g[L.LOG_USED] += 1


@kernel
def first_fault(s, kind, calls):
    """Say which of the next calls of a kind fails by injection, counted from 0; -1 if none does.

    The calls up to the failing one are used up; those behind it do not happen.
    """
    g = s.g
    left = g[L.FAULT_LEFT_MEM + kind]
    if left == 0:
        return -1
    skip = g[L.FAULT_SKIP_MEM + kind]
    if skip >= calls:
        g[L.FAULT_SKIP_MEM + kind] = skip - calls
        return -1
    g[L.FAULT_SKIP_MEM + kind] = 0
    g[L.FAULT_LEFT_MEM + kind] = left - 1
    return skip
