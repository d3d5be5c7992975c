"""What a recording of a real kernel knows beside areas and events: who asked, when, what was noted, what is missing.

Origins   area ──▶ call site, task, time            beside the areas of a Snapshot, found by their names
Notes     op ──▶ text of a marker, or events lost   beside the events
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .columns import Frozen, Ints
from .rich import Rich

__all__ = ["Annotations", "Notes", "Origins"]

_NOBODY = "not recorded"


@dataclass(frozen=True, slots=True, eq=False)
class Origins(Frozen):
    """Who asked for each area, and when.

    >>> origins = Origins(np.array([-3, 7]), np.array([0, 1]), np.array([0.5, 1.25]), ("f+0x1 in init", "g+0x2 in ip"))
    >>> origins.text(7), origins.text(8)
    ('g+0x2 in ip at 1.250000 s', 'not recorded')

    Args:
        birth: names of the areas, ascending.
        code: of each, an index to texts.
        seconds: time of each allocation, NaN where the trace has no time in seconds.
        texts: call site and task, each pair once.
    """

    birth: Ints
    code: Ints
    seconds: npt.NDArray[np.float64]
    texts: tuple[str, ...]

    def find(self, birth: Ints) -> Ints:
        """Give the row of each area, -1 for those that are not here."""
        row = np.minimum(np.searchsorted(self.birth, birth), max(len(self.birth) - 1, 0))
        if not len(self.birth):
            return np.full(len(birth), -1)
        return np.where(self.birth[row] == birth, row, -1)

    def text(self, birth: int) -> str:
        """Say who asked for an area, and when."""
        row = int(self.find(np.array([birth]))[0])
        if row < 0:
            return _NOBODY
        seconds = float(self.seconds[row])
        return self.texts[int(self.code[row])] + (f" at {seconds:.6f} s" if seconds == seconds else "")


@dataclass(frozen=True, slots=True, eq=False)
class Notes(Frozen):
    """What stands between events, ascending by op: markers that programs wrote, and events that are missing.

    Args:
        op: number of events before.
        is_loss: events are missing here.
        text: of the marker, or how many events are missing.
    """

    op: Ints
    is_loss: npt.NDArray[np.bool_]
    text: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.op)

    def until(self, op: int) -> Notes:
        """Give those up to a moment."""
        end = int(np.searchsorted(self.op, op, side="right"))
        return Notes(self.op[:end], self.is_loss[:end], self.text[:end])


@dataclass(frozen=True, slots=True, eq=False)
class Annotations(Rich):
    """All of it, at one moment.

    Args:
        when: time of the last event, in words; empty if unknown.
        caution: what was inferred or is not consistent, in words; empty if nothing was.
        has_addresses: base addresses are true ones; hashed ones tell chunks apart, and nothing more.
    """

    origins: Origins
    notes: Notes
    when: str = ""
    caution: str = ""
    has_addresses: bool = True
