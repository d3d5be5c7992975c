"""Recorded runs on disk: the folder of a case, or of a real kernel, opened as something to watch."""

from __future__ import annotations

from pathlib import Path

from .cases import Case, read_text
from .columns import Unit
from .kernels import KERNELS
from .recorded_run import RecordedRun
from .traces.read import read_golden_trace
from .traces.recording import Recording, open_trace
from .units import MIB

TRACE_LIMIT_BYTES = 512 * MIB


def open_run(source: str | Path | Recording) -> RecordedRun:
    """Open what was recorded as something to move through.

    Args:
        source: the folder of a case (case.json, ops.txt, trace.txt, perhaps with .gz), as `percpu_lab play` reads it;
            the folder or file of a real kernel's trace, as open_trace reads it; or what open_trace gave.

    Raises:
        CaseError, TraceFormatError: a file is missing or damaged; names file and line.
    """
    if isinstance(source, Recording):
        return RecordedRun.of(source)
    folder = Path(source)
    if not any((folder / name).exists() for name in ("case.json", "case.json.gz")):
        return RecordedRun.of(open_trace(folder))
    case = Case.load(folder)
    text, where = read_text(folder, "trace.txt", TRACE_LIMIT_BYTES)
    trace = read_golden_trace(text, where=where)
    return RecordedRun(trace, Unit.of(case.geometry.info), KERNELS[case.kernel])
