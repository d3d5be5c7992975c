"""Thousands of events as columns: what an engine writes to its ring, and what all analyses and views read.

    seq   op  event  chunk  off   size  align  flags  birth     | base_addr           ptr
    0     -1  CREATE   0    0     0     0      0      0         | 0xffff888100000000  0
    1     3   ALLOC    0    8192  16    8      0      0         | 0xffff888100000000  0x2000
    2     4   FREE     0    8192  16    8      0      3         | 0xffff888100000000  0x2000
          recorded columns                                        derived from chunk and off
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .core import layout as L
from .errors import LabError
from .rich import RichTable
from .tracepoints import PREFIXES, TRACEPOINTS, Event, EventField, Style, Tracepoint, check_style, line_template

if TYPE_CHECKING:
    import pandas as pd

    from .geometry import Addresses

__all__ = ["RING_COLUMNS", "EventBatch", "Events"]

Int64s = npt.NDArray[np.int64]
Uint64s = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]

RING_COLUMNS = ("op", "event", "chunk", "off", "size", "align", "flags", "birth")  # in the order of RING_*
_MASK64 = (1 << 64) - 1
ALL_ROWS = slice(None)
_BLOCK = 4096  # typed events that are made at a time
_Fields = tuple[EventField, ...]
_Make = Callable[[Tracepoint, _Fields, Int64s, list[list[Any]]], list[Any]]
_FRAME_COLUMNS = ("seq", *RING_COLUMNS[:-2], "reserved", "is_atomic", "reason", "birth", "base_addr", "ptr")


@dataclass(frozen=True, slots=True, eq=False, repr=False, init=False)
class Events(RichTable):
    """Events as read-only columns of one length: what an EventBatch and a RecordedTrace have in common.

    Args:
        columns: int64 arrays named as in RING_COLUMNS: op number, EVENT_* code, ordinal of the chunk (NO_CHUNK for
            a failure), offset, size and alignment in bytes (of a free: those of the area), flags as in core/layout.py,
            and of a free the op number of the area's allocation.
        first_seq: sequence number of the first event.
        lost: events missing before the first.
    """

    op: Int64s
    event: Int64s
    chunk: Int64s
    off: Int64s
    size: Int64s
    align: Int64s
    flags: Int64s
    birth: Int64s
    first_seq: int
    lost: int

    def __init__(self, columns: Mapping[str, np.ndarray], first_seq: int = 0, lost: int = 0) -> None:
        for name in RING_COLUMNS:
            self._keep(name, columns[name], np.int64)
        object.__setattr__(self, "first_seq", first_seq)
        object.__setattr__(self, "lost", lost)

    def _keep(self, name: str, column: npt.ArrayLike, dtype: npt.DTypeLike) -> None:
        array = np.asarray(column, dtype).view()
        array.flags.writeable = False
        object.__setattr__(self, name, array)

    def __len__(self) -> int:
        return len(self.op)

    def __repr__(self) -> str:
        lost = f", {self.lost:,} lost" if self.lost else ""
        return f"<{type(self).__name__}: {len(self):,} events from number {self.first_seq:,}{lost}>"

    def __iter__(self) -> Iterator[Event]:
        for start in range(0, len(self), _BLOCK):
            yield from self._made(slice(start, start + _BLOCK), self._events)

    @property
    def base_addr(self) -> Uint64s:
        """Base address of each event's chunk; 0 for a failure."""
        raise NotImplementedError

    @property
    def ptr(self) -> Uint64s:
        """Percpu pointer of each allocation and free; 0 for other events."""
        raise NotImplementedError

    @property
    def first_op(self) -> int:
        """The op of the first event; 0 without any."""
        return int(self.op[0]) if len(self) else 0

    @property
    def next_seq(self) -> int:
        """Sequence number of the next event to come."""
        return self.first_seq + len(self)

    @property
    def seq(self) -> Int64s:
        """Sequence number of each event."""
        return np.arange(self.first_seq, self.first_seq + len(self), dtype=np.int64)

    @property
    def reserved(self) -> Bools:
        """Whether the request was for the reserved chunk."""
        return np.asarray(self.flags & L.FLAG_RESERVED, np.bool_)

    @property
    def is_atomic(self) -> Bools:
        """Whether the request must not sleep."""
        return np.asarray(self.flags & L.FLAG_ATOMIC, np.bool_)

    @property
    def reason(self) -> Int64s:
        """Why an allocation failed: REASON_* of core/layout.py, an index to its REASONS."""
        return self.flags >> L.REASON_SHIFT

    def text(self, style: Style = "ftrace") -> str:
        """Write the events as text, one a line.

        Args:
            style: `golden` (op number, tab, event; pointers 0x..), `ftrace` (lines of a trace file, op number as time)
                or `plain` (the event alone).

        Raises:
            RequestError: there is no such style.
        """
        check_style(style)
        return "".join(f"{line}\n" for line in self._lines(style))

    def _lines(self, style: Style, rows: slice = ALL_ROWS) -> list[str]:
        prefix, times = self._prefix(style)

        def lines(point: Tracepoint, fields: _Fields, index: Int64s, columns: list[list[Any]]) -> list[str]:
            template = prefix + line_template(point.name, fields, style)
            return list(map(template.__mod__, zip(*(time[index].tolist() for time in times), *columns, strict=True)))

        return self._made(rows, lines)

    def frame(self) -> pd.DataFrame:
        """Give the events as a pandas data frame, with the names of tracepoints and reasons.

        Raises:
            LabError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError:
            raise LabError("frames need pandas", where="frame()", remedy="pip install pandas") from None
        names = pd.Categorical.from_codes(self.event, [point.name for point in TRACEPOINTS])
        reasons = pd.Categorical.from_codes(self.reason, list(L.REASONS))
        columns = {name: getattr(self, name) for name in self._frame_columns()}
        return pd.DataFrame(columns | {"event": names, "reason": reasons})

    def _html_rows(self) -> tuple[Sequence[str], Iterable[Sequence[object]], int]:
        heads = self._frame_columns()
        columns = {name: getattr(self, name)[:_BLOCK].tolist() for name in heads}
        columns["event"] = [TRACEPOINTS[event].name for event in columns["event"]]
        columns["reason"] = [L.REASONS[reason] for reason in columns["reason"]]
        return heads, zip(*columns.values(), strict=True), len(self)

    def _frame_columns(self) -> tuple[str, ...]:
        return _FRAME_COLUMNS

    def _prefix(self, style: Style) -> tuple[str, list[np.ndarray]]:
        return PREFIXES[style], [self.op] if style != "plain" else []

    def _made(self, rows: slice, make: _Make) -> list[Any]:
        """Make something of each row, tracepoint by tracepoint, and put it in the order of the rows."""
        made = np.empty(len(self.event[rows]), object)
        for point in TRACEPOINTS:
            index = np.flatnonzero(self.event[rows] == point.event)
            for fields, part in self._with_fields(point, index + (rows.start or 0)):
                columns = [getattr(self, f.name)[part].tolist() for f in fields]
                made[part - (rows.start or 0)] = make(point, fields, part, columns)
        return made.tolist()

    def _with_fields(self, point: Tracepoint, index: Int64s) -> Iterable[tuple[_Fields, Int64s]]:
        """Part the rows of a tracepoint by the fields they have."""
        return [(tuple(f for f in point.fields if not f.optional), index)]

    def _events(self, point: Tracepoint, fields: _Fields, index: Int64s, columns: list[list[Any]]) -> list[Any]:
        names = [f.name for f in fields]
        rows = zip(self.op[index].tolist(), *columns, strict=True)
        return [point.record(op, **dict(zip(names, row, strict=True))) for op, *row in rows]


@dataclass(frozen=True, slots=True, eq=False, repr=False, init=False)
class EventBatch(Events):
    """Events of an engine, read from its ring.

    >>> from percpu_lab.geometry import Addresses
    >>> row = dict.fromkeys(RING_COLUMNS, [0]) | {"event": [L.EVENT_FREE], "chunk": [1], "off": [64]}
    >>> batch = EventBatch(row, 0, 0, Addresses(0xffff888100000000, 0xffffe8f000000000, 0x200000))
    >>> print(batch.text("golden").expandtabs(4), end="")
    0   percpu_free_percpu: base_addr=0xffffe8f000000000 off=64 ptr=0x606f00000040

    Args:
        columns, first_seq, lost: as for Events; the arrays are not copied and must not change afterwards.
        addresses: where the chunks lie.
        ptr_bias: what is added to an address relative to the first chunk to get a percpu pointer (spec 10).
        boot_bases: where the first and the reserved chunk begin, relative to the first chunk's address: v6.12 gives
            each its own base_addr.
        nr_cpus: possible CPUs, for bytes_alloc; 0 for a kernel whose events lack the fields that came with v5.19.
    """

    addresses: Addresses
    ptr_bias: int
    boot_bases: tuple[int, int]
    nr_cpus: int

    def __init__(
        self,
        columns: Mapping[str, np.ndarray],
        first_seq: int,
        lost: int,
        addresses: Addresses,
        ptr_bias: int = 0,
        *,
        boot_bases: tuple[int, int] = (0, 0),
        nr_cpus: int = 0,
    ) -> None:
        Events.__init__(self, columns, first_seq, lost)
        object.__setattr__(self, "addresses", addresses)
        object.__setattr__(self, "ptr_bias", ptr_bias)
        object.__setattr__(self, "boot_bases", boot_bases)
        object.__setattr__(self, "nr_cpus", nr_cpus)

    @property
    def base_addr(self) -> Uint64s:
        """Base address of each event's chunk; 0 for a failure."""
        base = np.full(len(self), self.addresses.first_chunk, np.uint64)
        created = self.chunk > 0
        stride = np.uint64(self.addresses.area_stride)
        base[created] = np.uint64(self.addresses.area_base) + (self.chunk[created] - 1).astype(np.uint64) * stride
        base[self.chunk == L.NO_CHUNK] = 0
        if any(self.boot_bases):
            used = self.event != L.EVENT_CREATE  # the create event at boot still shows the address of the unit
            for ordinal, boot_base in zip((0, -1), self.boot_bases, strict=True):
                base[used & (self.chunk == ordinal)] += np.uint64(boot_base)
        return base

    @property
    def call_site(self) -> np.ndarray:
        """Who asked, as v5.19 and later print it: nobody is known here."""
        return np.full(len(self), "0x0", object)

    @property
    def bytes_alloc(self) -> Int64s:
        """Bytes a request took on all possible CPUs together."""
        return self.size * self.nr_cpus

    @property
    def gfp_flags(self) -> np.ndarray:
        """The flags of a request as text."""
        return np.where(self.is_atomic, "GFP_ATOMIC", "GFP_KERNEL").astype(object)

    @property
    def ptr(self) -> Uint64s:
        """Percpu pointer of each allocation and free; 0 for other events."""
        bias = np.uint64((self.ptr_bias - self.addresses.first_chunk) & _MASK64)
        return np.where(self.event <= L.EVENT_FREE, self.base_addr + self.off.astype(np.uint64) + bias, np.uint64(0))

    def _with_fields(self, point: Tracepoint, index: Int64s) -> Iterable[tuple[_Fields, Int64s]]:
        return [(point.fields, index)] if self.nr_cpus else Events._with_fields(self, point, index)
