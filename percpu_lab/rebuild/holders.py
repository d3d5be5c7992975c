"""Who holds what: areas by call site or by task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..columns import Frozen, Ints
from ..core import layout as L
from ..errors import RequestError
from ..rich import Rich, RichColumns
from .log import Log
from .tables import AreaTable

if TYPE_CHECKING:
    from .rebuilt import Rebuilt

NOT_RECORDED = "(not recorded)"
_KEYS = ("call_site", "task")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Names(Rich, Frozen):
    """A name for each row of the AreaTable.

    Args:
        code: of each row, an index to names.
        names: each once.
    """

    code: Ints
    names: tuple[str, ...]

    def __repr__(self) -> str:
        return f"<Names: {len(self.names):,} of {len(self.code):,} areas>"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Holders(RichColumns, Frozen):
    """What each name held at a moment, the most bytes first; only names that allocated before it.

    Args:
        name: call site or task.
        nr_live, live_bytes: areas in use and their sizes, on each CPU, rounded up.
        bytes_alloc: of these areas over all CPUs, as their events say; 0 where they do not.
        nr_alloc, nr_dealloc: allocations so far, and how many of these have ended.
    """

    name: tuple[str, ...]
    nr_live: Ints
    live_bytes: Ints
    bytes_alloc: Ints
    nr_alloc: Ints
    nr_dealloc: Ints

    def __len__(self) -> int:
        return len(self.name)


def names_of(log: Log, areas: AreaTable, by: str) -> Names:
    """Name the areas by who allocated them.

    Raises:
        RequestError: `by` is no such key.
    """
    if by not in _KEYS:
        raise RequestError(f"areas have no {by!r}", where="by", remedy=f"choose from {', '.join(_KEYS)}")
    is_told = log.event[areas.position] == L.EVENT_ALLOC
    texts: list[object] = [None] * len(areas)
    if all(hasattr(part, by) for part in log.parts):
        texts = [text if told else None for text, told in zip(log.column(by)[areas.position], is_told, strict=True)]
    code_of: dict[object, int] = {}
    code = np.array([code_of.setdefault(text or NOT_RECORDED, len(code_of)) for text in texts], np.int64)
    return Names(code, tuple(map(str, code_of)))


def holders(rebuilt: Rebuilt, names: Names, row: int) -> Holders:
    """Sum up the areas live before a row of the trace by their names."""
    areas, nr = rebuilt.areas, len(names.names)
    seen, live = np.flatnonzero(areas.birth < row), rebuilt.live(row)
    code = names.code[live]
    nr_alloc, nr_live = np.bincount(names.code[seen], minlength=nr), np.bincount(code, minlength=nr)
    live_bytes = np.bincount(code, areas.size[live], nr).astype(np.int64)
    bytes_alloc = np.bincount(code, np.maximum(areas.bytes_alloc[live], 0), nr).astype(np.int64)
    order = np.lexsort((-nr_alloc, -live_bytes))
    order = order[nr_alloc[order] > 0]
    columns = (nr_live, live_bytes, bytes_alloc, nr_alloc, nr_alloc - nr_live)
    return Holders(tuple(names.names[k] for k in order.tolist()), *(column[order] for column in columns))
