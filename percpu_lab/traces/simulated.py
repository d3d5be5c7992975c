"""A simulated run as a recording: the folder of a recorded case, or what the verb play wrote.

    case.json     kernel, geometry, addresses and backing; play does not write it
    trace.txt     INDEX<TAB>EVENT: FIELDS      the index is the number of the op
    stats.txt     @INDEX, then the percpu_stats file; again and again
    printk.txt    INDEX<TAB>TEXT               the kernel log, the boot lines with the index -1
    state.jsonl   {"op": INDEX, ...}             the state at some ops; only their numbers are read here
    ops.txt       alloc 3 64 8 0 0             what was asked, a line an op: tells where the balance work could run

An op is done when the next begins, so a reading at op 12 was made behind every event of a lower number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from ..core import layout as L
from ..errors import CaseError
from ..geometry import Geometry
from ..json_text import line_of, read_object
from ..kernels import KERNEL_VERSIONS, KernelVersion
from .folder import Folder
from .recorded import RecordedTrace

__all__ = ["geometry_of_case", "kernel_of_events", "log_text", "op_of_title", "quiet_ops", "rows_of_op"]

LAYOUT = "golden"
_TITLE = re.compile(r"@(\d{1,18})")
_STATE = re.compile(r'^\{"op": ?(\d{1,18}),', re.MULTILINE)
_REFUSED = re.compile(r"^(\d{1,18})\tWARN: illegal size", re.MULTILINE)
_INDEX = re.compile(r"^-?\d{1,18}\t", re.MULTILINE)
_BALANCE = "balance"
_PLACE = re.compile(r"case\.json(?: line (?P<line>\d+))?(?:, (?P<key>.*))?", re.DOTALL)


def geometry_of_case(folder: Folder) -> Geometry | None:
    """Read the machine of a recorded case; None if the folder is none, or its case.json is damaged (a remark)."""
    text = folder.text("case.json")
    if text is None:
        return None
    try:
        document = read_object(text, "case.json")
        return Geometry.from_case(document, where="case.json")
    except CaseError as error:
        place = _PLACE.fullmatch(error.where)
        key = (place["key"] if place else None) or ""
        line = int(place["line"]) if place and place["line"] else line_of(text, key)
        folder.remark("case.json", "case", f"{key}{': ' * bool(key)}{error.what}; the case was left out", line=line)
    return None


def kernel_of_events(trace: RecordedTrace) -> KernelVersion | None:
    """Tell which of the simulated kernels wrote the events of a run: the older one has no bytes_alloc.

    None if it is no simulated run, or no event tells.
    """
    if trace.layout != LAYOUT or not (trace.event == L.EVENT_ALLOC).any():
        return None
    is_later = trace.tells_bytes_alloc
    return next(row for row in KERNEL_VERSIONS if row.engine and ("bytes_alloc" in row.alloc_fields) == is_later)


def log_text(text: str) -> str:
    """Take the numbers of the ops off the lines of printk.txt.

    >>> log_text("-1\\tpcpu-alloc: [0] 0\\n12\\tpercpu: limit reached\\n")
    'pcpu-alloc: [0] 0\\npercpu: limit reached\\n'
    """
    return _INDEX.sub("", text)


def op_of_title(trace: RecordedTrace, title: str) -> int | None:
    """Give the number of the op that a reading of stats.txt was, by its title `@INDEX`; None if it has no number."""
    match = _TITLE.fullmatch(title)
    return int(match[1]) if match and trace.layout == LAYOUT else None


def quiet_ops(folder: Folder, trace: RecordedTrace, stats: Iterable[int]) -> tuple[int, ...]:
    """List the ops of a run that are known to have left the allocator alone.

    Args:
        folder: of the run.
        trace: its events.
        stats: the ops that read percpu_stats.
    """
    if trace.layout != LAYOUT or folder.is_alone:
        return ()
    states = _STATE.findall(folder.text("state.jsonl") or "")
    refused = _REFUSED.findall(folder.text("printk.txt") or "")
    asked = enumerate((folder.text("ops.txt") or "").splitlines())
    others = (op for op, text in asked if text.strip() != _BALANCE)
    return tuple(sorted({*stats, *map(int, states), *map(int, refused), *others}.difference(trace.op.tolist())))


def rows_of_op(trace: RecordedTrace, op: int) -> tuple[int, int]:
    """Give the rows between which an op without an event was done."""
    row = int(np.searchsorted(trace.op, op))
    return row, row
