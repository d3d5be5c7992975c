"""Events of one block of lines: collected as the texts that a pattern found, then turned into arrays together.

    match ──▶ allocs | frees | fails: tuples of text      ──▶ one array a column, in the order of the lines
    fields read one by one ──▶ others: dictionaries

No object is made an event: 40 tuples of text live for the length of a block. Equal names are one object.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..core import layout as L
from ..events import RING_COLUMNS
from ..tracepoints import Tracepoint
from .layouts import ALLOC_GROUPS, FAIL_GROUPS, FREE_GROUPS, PREFIX_GROUPS, time_of
from .recorded import MORE_COLUMNS

__all__ = ["Extra", "Interned", "Pointers", "Rows"]

Extra = tuple[tuple[str, str], ...]
_Texts = tuple[str, ...]
_Columns = dict[str, np.ndarray]
_Rows = tuple[list[int], list[_Texts]]
_Found = tuple[_Rows, _Rows, _Rows]  # by EVENT_ALLOC, EVENT_FREE, EVENT_FAIL
_MISSING: dict[str, tuple[Any, Any]] = dict.fromkeys(RING_COLUMNS, (np.int64, 0)) | MORE_COLUMNS
_MISSING["digits"] = (np.int64, -1)  # behind the point of the time; -1: no time
_FLAGS = {("0", "0"): 0, ("1", "0"): L.FLAG_RESERVED, ("0", "1"): L.FLAG_ATOMIC, ("1", "1"): 3}


class Interned(dict[str, str]):
    """Gives the same object for equal texts."""

    def __missing__(self, text: str) -> str:
        self[text] = text
        return text


class Pointers(dict[str, int]):
    """Gives the number of an address in hexadecimal digits, and remembers how wide they are."""

    def __init__(self) -> None:
        super().__init__()
        self.widths: set[int] = set()  # digits of addresses without 0x, which kernels pad

    def __missing__(self, text: str) -> int:
        if not text.startswith("0x"):
            self.widths.add(len(text))
        value = self[text] = int(text, 16)
        return value


class Rows:
    """The events of a block of lines.

    Args:
        strings: shared by all blocks.
        bases: base addresses, shared by all blocks.
    """

    def __init__(self, strings: Interned, bases: Pointers) -> None:
        self.lines: list[int] = []
        self.extra: dict[int, Extra] = {}
        self._strings = strings
        self._bases = bases
        self._found: tuple[_Found, _Found] = ((([], []), ([], []), ([], [])), (([], []), ([], []), ([], [])))
        self._others: list[tuple[int, int, _Texts, dict[str, Any]]] = []

    def __len__(self) -> int:
        return len(self.lines)

    def add(self, match: re.Match[str], line: int, *, is_raw: bool = False) -> None:
        """Add an event that stands in its usual form, or in that of the option `fields`."""
        last = match.lastindex or 0
        event = (
            L.EVENT_ALLOC if last <= ALLOC_GROUPS.stop else L.EVENT_FREE if last <= FREE_GROUPS.stop else L.EVENT_FAIL
        )
        rows, texts = self._found[is_raw][event]
        rows.append(len(self.lines))
        texts.append(match.groups(""))
        self.lines.append(line)

    def add_read(self, point: Tracepoint, prefix: _Texts, values: dict[str, Any], extra: Extra, line: int) -> None:
        """Add an event whose fields were read one by one; prefix: the six groups of its layout."""
        if extra:
            self.extra[len(self.lines)] = extra
        self._others.append((len(self.lines), point.event, prefix, values))
        self.lines.append(line)

    def columns(self) -> dict[str, np.ndarray]:
        """Make the arrays: RING_COLUMNS and MORE_COLUMNS, and `digits` of the times."""
        columns = {name: np.full(len(self), value, dtype) for name, (dtype, value) in _MISSING.items()}
        columns["line"][:] = self.lines
        for found, base in zip(self._found, (10, 16), strict=True):
            self._place_allocs(columns, *found[L.EVENT_ALLOC], base)
            self._place_frees(columns, *found[L.EVENT_FREE], base)
            self._place_fails(columns, *found[L.EVENT_FAIL], base)
        self._place_others(columns)
        return columns

    def _place_allocs(self, columns: _Columns, rows: list[int], texts: list[_Texts], base: int) -> None:
        if not rows:
            return
        found = list(zip(*texts, strict=True))
        self._place_prefix(columns, rows, found[PREFIX_GROUPS])
        call_site, reserved, is_atomic, size, align, base_addr, off, ptr, bytes_alloc, gfp_flags = found[ALLOC_GROUPS]
        columns["event"][rows] = L.EVENT_ALLOC
        columns["call_site"][rows] = [self._strings[text] if text else None for text in call_site]
        _place_request(columns, rows, (reserved, is_atomic, size, align), base)
        self._place_area(columns, rows, (base_addr, off, ptr), base)
        columns["bytes_alloc"][rows] = _integers(bytes_alloc, base)
        flags = zip(bytes_alloc, gfp_flags, strict=True)
        columns["gfp_flags"][rows] = [self._strings[text] if known else None for known, text in flags]

    def _place_frees(self, columns: _Columns, rows: list[int], texts: list[_Texts], base: int) -> None:
        if rows:
            found = list(zip(*texts, strict=True))
            self._place_prefix(columns, rows, found[PREFIX_GROUPS])
            columns["event"][rows] = L.EVENT_FREE
            self._place_area(columns, rows, found[FREE_GROUPS], base)

    def _place_fails(self, columns: _Columns, rows: list[int], texts: list[_Texts], base: int) -> None:
        if rows:
            found = list(zip(*texts, strict=True))
            self._place_prefix(columns, rows, found[PREFIX_GROUPS])
            columns["event"][rows] = L.EVENT_FAIL
            _place_request(columns, rows, found[FAIL_GROUPS], base)

    def _place_area(self, columns: _Columns, rows: list[int], found: Sequence[_Texts], base: int) -> None:
        base_addr, off, ptr = found
        columns["base_addr"][rows] = [self._bases[text] for text in base_addr]
        columns["off"][rows] = _integers(off, base)
        columns["ptr"][rows] = [int(text, 16) for text in ptr]

    def _place_prefix(self, columns: _Columns, rows: list[int], found: Sequence[_Texts]) -> None:
        task, pid, cpu, context, first, second = found
        columns["task"][rows] = [self._strings[text] for text in task]
        columns["pid"][rows] = _integers(pid)
        columns["cpu"][rows] = _integers(cpu)
        columns["context"][rows] = [self._strings[text] for text in context]
        columns["time"][rows], columns["digits"][rows] = _times(first, second)

    def _place_others(self, columns: _Columns) -> None:
        if not self._others:
            return
        rows, event, prefixes, read = (list(part) for part in zip(*self._others, strict=True))
        self._place_prefix(columns, rows, list(zip(*prefixes, strict=True)))
        columns["event"][rows] = event
        columns["flags"][rows] = [
            values.pop("reserved", 0) * L.FLAG_RESERVED + values.pop("is_atomic", 0) * L.FLAG_ATOMIC for values in read
        ]
        for name in {name: None for values in read for name in values}:
            found = [(row, values[name]) for row, values in zip(rows, read, strict=True) if name in values]
            texts = columns[name].dtype == object
            columns[name][[row for row, _ in found]] = [self._strings[v] if texts else v for _, v in found]


def _place_request(columns: _Columns, rows: list[int], found: Sequence[_Texts], base: int) -> None:
    reserved, is_atomic, size, align = found
    columns["flags"][rows] = [_FLAGS[both] for both in zip(reserved, is_atomic, strict=True)]
    columns["size"][rows] = _integers(size, base)
    columns["align"][rows] = _integers(align, base)


def _integers(texts: Iterable[str], base: int = 10) -> list[int]:
    """Read numbers; -1 where there is none."""
    return [int(text, base) if text else -1 for text in texts]


def _times(first: _Texts, second: _Texts) -> tuple[list[int], list[int] | int]:
    """Read times -> times, digits behind the point (-1: no time)."""
    lengths = set(map(len, second))
    if len(lengths) == 1 and second[0].isdigit() and "us" not in second:
        return [int(a + b) for a, b in zip(first, second, strict=True)], lengths.pop()
    read = [time_of(a, b) for a, b in zip(first, second, strict=True)]
    return [time for time, _ in read], [-1 if digits is None else digits for _, digits in read]
