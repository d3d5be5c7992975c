"""What the kernel log says of failed requests, row by row.

trace    fail 64    fail 9000    fail 64              in the order of the file
log      ...size=64 ...          ...size=64 ...       some are missing: atomic ones, and all behind the tenth
"""

from __future__ import annotations

import numpy as np

from ..core import layout as L
from ..traces.recording import Recording

__all__ = ["logged_reasons"]


def logged_reasons(recording: Recording) -> dict[int, str]:
    """Find the reasons of failures by their rows in the trace, each line of the log for the next request like it."""
    trace = recording.trace
    rows = np.flatnonzero(trace.event == L.EVENT_FAIL)
    columns = (trace.size[rows].tolist(), trace.align[rows].tolist(), trace.is_atomic[rows].tolist())
    waiting = list(zip(rows.tolist(), zip(*columns, strict=True), strict=True))
    reasons: dict[int, str] = {}
    start = 0
    for line in recording.dmesg.failures if recording.dmesg else ():
        request = (line.size, line.align, line.is_atomic)
        at = next((k for k in range(start, len(waiting)) if waiting[k][1] == request), None)
        if at is not None:
            reasons[waiting[at][0]] = line.reason
            start = at + 1
    return reasons
