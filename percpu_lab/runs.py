"""Recorded runs on disk: the folder of a case, opened as something to watch."""

from __future__ import annotations

from pathlib import Path

from .cases import Case, read_text
from .columns import Unit
from .recorded_run import RecordedRun
from .traces.read import read_golden_trace
from .units import MIB

TRACE_LIMIT_BYTES = 512 * MIB


def open_run(folder: str | Path) -> RecordedRun:
    """Open the recorded trace of a case folder (case.json, ops.txt, trace.txt, perhaps with .gz).

    Args:
        folder: as `percpu_lab play` reads it, with the trace that was recorded there.

    Raises:
        CaseError, TraceFormatError: a file is missing or damaged; names file and line.
    """
    folder = Path(folder)
    case = Case.load(folder)
    text, where = read_text(folder, "trace.txt", TRACE_LIMIT_BYTES)
    return RecordedRun(read_golden_trace(text, where=where), Unit.of(case.geometry.info))
