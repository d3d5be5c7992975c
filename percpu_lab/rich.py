"""What a notebook shows of a value: an escaped line and a table, made of its fields or of its first rows.

    Rich                 its `repr`, then a row a field        Recording, Review, ChunkState, events, ...
    RichTable            its `repr`, then the first rows       Events, Log, Decisions
    `-- RichColumns      of arrays of one length               AreaTable, Snapshot.areas, ...

No colours of their own: what the notebook's theme gives is readable in light and dark.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from html import escape
from itertools import islice
from reprlib import Repr
from typing import Any, ClassVar

from .plain import one_line

__all__ = ["Rich", "RichColumns", "RichTable", "html_table"]

_ROWS_SHOWN = 20
_REPR = 100  # characters
_TITLE, _CELL = 160, 200  # characters
_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = 100
_SHORT.maxtuple = 4
_ADDRESSES = ("base_addr", "ptr", "address", "value")


def html_table(title: str, heads: Sequence[str], rows: Iterable[Sequence[object]], *, nr_more: int = 0) -> str:
    """Write a line and a table; whatever stands in a cell stays text.

    >>> html_table("<b>", (), [("size", 8)])
    '<div><b>&lt;b&gt;</b><table><tr><td style="text-align:left">size</td><td style="text-align:right">8</td></tr>...

    Args:
        title: plain text above the table.
        heads: of the columns; none for a table of names and values.
        rows: the cells: numbers stand to the right, text to the left.
        nr_more: rows that are not shown, which are told of.
    """
    head = f"<tr>{''.join(_cell('th', name) for name in heads)}</tr>" if heads else ""
    body = "".join(f"<tr>{''.join(_cell('td', cell) for cell in row)}</tr>" for row in rows)
    more = f"<p>and {nr_more:,} more</p>" if nr_more > 0 else ""
    return f"<div><b>{_safe(title)}</b><table>{head}{body}</table>{more}</div>"


class Rich:
    """A value that a notebook shows as its `repr`, if that is short, and a table of its fields."""

    __slots__ = ()
    _shown: ClassVar[tuple[str, ...]] = ()  # attributes that the table shows; by default the fields of a dataclass

    def _repr_html_(self) -> str:
        title = repr(self)
        return html_table(title if len(title) <= _TITLE else type(self).__name__, (), self._html_fields())

    def _html_fields(self) -> list[tuple[str, object]]:
        """Give the rows of the table: what is set, by name."""
        names = self._shown or [one.name for one in fields(self)]  # type: ignore[arg-type]
        values = [(name, getattr(self, name)) for name in names]
        return [(name, _text(name, value)) for name, value in values if not (value is None or _is_empty(value))]


class RichTable:
    """A sequence that a notebook shows as a line and its first rows."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        heads, rows, nr_rows = self._html_rows()
        shown = [
            [_text(name, cell) for name, cell in zip(heads, row, strict=True)] for row in islice(rows, _ROWS_SHOWN)
        ]
        return html_table(self._html_title(), heads, shown, nr_more=nr_rows - len(shown))

    def _html_title(self) -> str:
        """Give the line above the table."""
        return repr(self)

    def _html_rows(self) -> tuple[Sequence[str], Iterable[Sequence[object]], int]:
        """Give the heads, the rows as far as they are wanted, and the number there are."""
        raise NotImplementedError


class RichColumns(RichTable):
    """A dataclass of arrays of one length; it needs `repr=False`."""

    __slots__ = ()
    _words: ClassVar[Mapping[int, str]] = {}  # for numbers that stand for something else

    def __repr__(self) -> str:
        names = self._names()
        text = f"<{type(self).__name__}: {self._nr_rows():,} x {', '.join(names)}>"
        return text if len(text) <= _REPR else f"{text[: _REPR - 2]}…>"

    def _html_title(self) -> str:
        return f"{type(self).__name__}: {self._nr_rows():,}"

    def _html_rows(self) -> tuple[Sequence[str], Iterable[Sequence[object]], int]:
        names, words = self._names(), self._words
        columns = [list(getattr(self, name)[:_ROWS_SHOWN]) for name in names]
        rows = ([words.get(cell, cell) for cell in map(_plain, row)] for row in zip(*columns, strict=True))
        return names, rows, self._nr_rows()

    def _names(self) -> list[str]:
        return [one.name for one in fields(self)]  # type: ignore[arg-type]

    def _nr_rows(self) -> int:
        return len(getattr(self, self._names()[0]))


def _plain(value: Any) -> Any:
    """Turn the number of an array into one of Python."""
    return value.item() if hasattr(value, "item") else value


def _is_empty(value: object) -> bool:
    return isinstance(value, (tuple, str)) and not value


def _text(name: str, value: object) -> object:
    """Shorten a value for a cell; addresses are in hex."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:#x}" if name in _ADDRESSES else value
    text = value if isinstance(value, str) else _SHORT.repr(value)
    count = f"{len(value):,}: " if isinstance(value, tuple) else ""
    return count + (text if len(text) <= _CELL else f"{text[:_CELL]}…")


def _cell(tag: str, cell: object) -> str:
    is_number = isinstance(cell, int) and not isinstance(cell, bool)
    text = f"{cell:,}" if is_number else str(cell)
    return f'<{tag} style="text-align:{"right" if is_number else "left"}">{_safe(text)}</{tag}>'


def _safe(text: str) -> str:
    return escape(one_line(text))
