"""One row an area: when it was made and freed, where it lay, who asked. Most questions are answered from it.

    row        born   died   chunk  off    size  site  task     seconds of each row of the trace: 0.0 0.1 0.1 0.4 ...
    0          -70    NEVER    0    816     32     0     0      allocated before tracing: negative
    1            3      9      0   8192     16     1     0      live at the moments 4 .. 9
    2            5    NEVER    1      0   4096     1     1      live at the end

1. Rows are in the order of birth.
2. An area is live at moment m, that is before row m, if born < m <= died.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..columns import IN_USE, Snapshot
from ..rebuild import BEFORE, NEVER, Names, Rebuilt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
NOBODY = "?"  # asked in a simulation, whose events bear no call site


@dataclass(frozen=True, slots=True, eq=False)
class Ledger:
    """The areas that were ever seen, as columns.

    Args:
        born, died: row of the allocation and of the end; BEFORE and NEVER where there is none.
        chunk: ordinal of the chunk: 0 is the first one, -1 the reserved one.
        off, size: in bytes; sizes as rounded up by the kernel.
        bytes_alloc: of all CPUs together; -1 where the trace does not say.
        site, task: call site and task of each.
        seconds: of each row of the trace; empty without a clock.
        nr_rows: rows of the trace; the moments are 0 .. nr_rows.
    """

    born: Ints
    died: Ints
    chunk: Ints
    off: Ints
    size: Ints
    bytes_alloc: Ints
    site: Names
    task: Names
    seconds: Floats
    nr_rows: int

    def __len__(self) -> int:
        return len(self.born)

    @classmethod
    def of_rebuilt(cls, rebuilt: Rebuilt) -> Ledger:
        """Draw up the ledger of a recording."""
        areas = rebuilt.areas
        order = np.argsort(areas.birth, kind="stable")
        chunk = rebuilt.chunks.ordinal[areas.chunk]
        bytes_alloc = np.where(areas.bytes_alloc > 0, areas.bytes_alloc, -1)
        site, task = (_ordered(rebuilt.names(by), order) for by in ("call_site", "task"))
        born, died, off, size = (column[order] for column in (areas.birth, areas.death, areas.off, areas.size))
        seconds = _seconds(rebuilt.trace)
        return cls(born, died, chunk[order], off, size, bytes_alloc[order], site, task, seconds, rebuilt.last_row)

    @classmethod
    def of_snapshot(cls, snap: Snapshot) -> Ledger:
        """Draw up the ledger of one moment: what is live, by the op that allocated it."""
        areas, nobody = snap.areas, Names(np.zeros(snap.nr_in_use, np.int64), (NOBODY,))
        chosen = np.flatnonzero(areas.kind == IN_USE)
        chosen = chosen[np.argsort(areas.birth[chosen], kind="stable")]
        born = areas.birth[chosen].astype(np.int64)
        unknown = np.full(len(chosen), -1)
        chunk = snap.chunks.ordinal[areas.chunk[chosen]]
        off, size = (np.asarray(column[chosen], np.int64) for column in (areas.off_bytes, areas.size_bytes))
        died = np.full(len(chosen), NEVER)
        return cls(born, died, chunk, off, size, unknown, nobody, nobody, np.zeros(0), snap.op)

    def live_at(self, moment: int) -> Bools:
        """Say of each area whether it is live before a row."""
        return (self.born < moment) & (self.died >= moment)

    def second_of(self, rows: Ints) -> Floats:
        """Give the time of rows in seconds; what came before the trace counts as its first row, NEVER as its last."""
        if not len(self.seconds):
            return np.full(len(rows), np.nan)
        return self.seconds[np.clip(rows, 0, self.nr_rows - 1)]

    def age_at(self, moment: int) -> Floats:
        """Give the age of every area in seconds; of those before the trace at least."""
        return self.second_of(np.array([moment - 1])) - self.second_of(self.born)


def _ordered(names: Names, order: Ints) -> Names:
    return Names(names.code[order], tuple(NOBODY if name == "0x0" else name for name in names.names))


def _seconds(trace: Any) -> Floats:
    """The time of each row, never falling: clocks of CPUs differ a little."""
    digits = getattr(trace, "time_digits", None)
    if not digits or not len(trace):
        return np.zeros(0)
    seconds: Floats = np.maximum.accumulate(trace.time) / 10.0**digits
    return seconds


def is_before_tracing(born: Ints) -> Bools:
    """Say of areas whether they were made before the trace began."""
    return (born < 0) & (born >= BEFORE)
