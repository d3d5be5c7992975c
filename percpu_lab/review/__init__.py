"""The review of a recording: is each decision what the algorithm decides?

The requests are replayed through the engine of that kernel, row by row. Each allocation is worked out, compared with
what was recorded, and then followed, so that one disagreement does not spoil what comes behind. Where they disagree, an
order is searched in which the algorithm does decide this: search.py says how.

    tape       the recording laid out for the replay            result     verdicts, readings compared, any moment
    start      what was in use when it began                    failures   why requests failed, chunks foreseen or not
    hindsight  what lost events must have done
    machine    engine and tape: run, look ahead, go back        checks     percpu_stats and meminfo, field by field
    search     the order of decisions                           explain    one decision opened
    allocators what differs between them: areamap, bitmap

Certain are offsets, live bytes and fragmentation; known up to equivalent orders is the order of decisions; inferred are
hints, and which pages are populated once some were given back (Review.trusted_until).
"""

from __future__ import annotations

from collections.abc import Callable

from ..core import layout as L
from ..errors import GeometryError
from ..kernels import KERNEL_VERSIONS
from ..traces.given import NEEDED
from ..traces.recording import Recording
from .allocators import ALLOCATORS
from .causes import CAUSES
from .checks import Check, Difference
from .explain import Explanation, Tried
from .failures import ChunkVerdict, Failure
from .hindsight import gaps_of, lost_events
from .machine import Machine
from .result import Decisions, Review
from .search import Search
from .tape import Tape
from .verdicts import EXACT, FORCED, LEARNED, REORDERED, VERDICTS

__all__ = [
    "CAUSES",
    "EXACT",
    "FORCED",
    "LEARNED",
    "REORDERED",
    "VERDICTS",
    "Check",
    "ChunkVerdict",
    "Decisions",
    "Difference",
    "Explanation",
    "Failure",
    "Review",
    "Tried",
    "review",
]


def review(
    recording: Recording,
    *,
    progress: Callable[[int, int], object] | None = None,
    until: int | None = None,
    jit: str | None = None,
) -> Review:
    """Replay the decisions of a recording and say of each whether it is what the algorithm decides.

    Args:
        recording: from open_trace; without a geometry only the events are counted.
        progress: called with the rows done and the rows there are.
        until: stop before this row of the trace.
        jit: a policy of compiled.py; the environment decides by default.
    """
    problem = _problem(recording)
    if problem:
        return Review(recording, None, problem)
    assert recording.geometry is not None
    tape = Tape.of(recording, recording.geometry, until)
    gaps = gaps_of(tape, recording.trace.losses)
    tape.first_loss = min([tape.first_loss, *(gap.first for gap in gaps)])
    lost = lost_events(tape, gaps)
    kernel = (recording.kernel or recording.geometry.kernel).replayed_by
    assert kernel is not None
    try:
        machine = Machine(recording.geometry, tape, kernel, jit)
    except GeometryError as error:
        return Review(recording, None, str(error))
    search = Search(machine, tape.nr_rows, lost)
    search.run(progress)
    return Review(recording, search)


def _problem(recording: Recording) -> str:
    """Say why the decisions cannot be replayed; nothing if they can."""
    kernel, geometry, trace = recording.kernel, recording.geometry, recording.trace
    if geometry is None:
        return f"the geometry is not known: {NEEDED}"
    if kernel is None and (trace.event == L.EVENT_ALLOC).any() and not trace.tells_bytes_alloc:
        since = next(row.release for row in KERNEL_VERSIONS if "bytes_alloc" in row.alloc_fields)
        return f"its events have no bytes_alloc, so the kernel is older than {since}; say the release (--release)"
    if kernel is not None and kernel.allocator == "areamap" and trace.tells_bytes_alloc:
        return f"its events have bytes_alloc, which {kernel.release} does not write: say the release (--release)"
    if (kernel or geometry.kernel).replayed_by not in ALLOCATORS:
        return f"no engine was checked against recordings of {(kernel or geometry.kernel).release}"
    return ""
