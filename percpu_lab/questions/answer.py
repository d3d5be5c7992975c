"""What every answer is: frozen values that print short, show as a table, and say what is certain.

top            headline()              one sentence, numbers with units
middle         rows                    a table, a frozen row type a question
bottom         certain, inferred       sentences: what the data proves, what is only likely
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from html import escape
from typing import TYPE_CHECKING, Any

from ..errors import LabError
from ..plain import format_cell, heading, one_line, text_table

if TYPE_CHECKING:
    import pandas

    from ..views.static import Picture

_ROWS_SHOWN = 12


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Answer:
    """The answer to one question; each question has its own type, derived from this.

    Args:
        rows: the table, all of one frozen dataclass.
        certain: sentences that the data proves.
        inferred: sentences that are likely, and why they are not certain.
    """

    rows: tuple[Any, ...] = ()
    certain: tuple[str, ...] = ()
    inferred: tuple[str, ...] = ()

    def headline(self) -> str:
        """Give the answer in one sentence."""
        raise NotImplementedError

    def text(self, limit: int = _ROWS_SHOWN) -> str:
        """Write the answer for a terminal.

        Args:
            limit: rows of the table to show.
        """
        lines = [one_line(self.headline())]
        if self.rows:
            lines += ["", *(f"  {line}" for line in text_table(*self._cells(limit)))]
        if len(self.rows) > limit:
            lines.append(f"  ... and {len(self.rows) - limit:,} more")
        notes = [("certain", note) for note in self.certain] + [("inferred", note) for note in self.inferred]
        lines += ["", *(f"{kind}: {one_line(note)}" for kind, note in notes)] if notes else []
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return self.text()

    def frame(self) -> pandas.DataFrame:
        """Give the rows as a pandas table, sizes in bytes and times in seconds.

        Raises:
            LabError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise LabError("frames need pandas", where="frame()", remedy="pip install pandas") from None
        return pandas.DataFrame([asdict(row) for row in self.rows], columns=self.columns() or None)

    def picture(self) -> Picture | None:
        """Draw the answer, where a picture helps; else None."""
        return None

    def columns(self) -> list[str]:
        """Name the columns of the table."""
        return [field.name for field in fields(self.rows[0])] if self.rows else []

    def cells(self, limit: int | None = None) -> list[list[str]]:
        """Give the table as text, a row each, as people read it."""
        names = self.columns()
        return [[format_cell(name, getattr(row, name)) for name in names] for row in self.rows[:limit]]

    def headings(self) -> list[str]:
        """Give the heading of each column."""
        return [heading(name) for name in self.columns()]

    def numeric(self) -> list[bool]:
        """Say of each column whether it holds numbers."""
        return [
            all(isinstance(getattr(row, name), (int, float, type(None))) for row in self.rows)
            for name in self.columns()
        ]

    def as_json(self) -> dict[str, Any]:
        """Give everything as plain values that json can write."""
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in _COMMON}
        return {
            "answer": self.headline(),
            **{name: _plain(value) for name, value in own.items()},
            "rows": [_plain(row) for row in self.rows],
            "certain": list(self.certain),
            "inferred": list(self.inferred),
        }

    def _cells(self, limit: int) -> tuple[list[str], list[list[str]], list[bool]]:
        return self.headings(), self.cells(limit), self.numeric()

    def _repr_html_(self) -> str:
        rows = "".join(_html_row("td", row, self.numeric()) for row in self.cells(_ROWS_SHOWN))
        more = len(self.rows) - _ROWS_SHOWN
        table = f"<table><thead>{_html_row('th', self.headings(), self.numeric())}</thead><tbody>{rows}</tbody></table>"
        return (
            f"<div><p><b>{_safe(self.headline())}</b></p>"
            + (table if self.rows else "")
            + (f"<p>and {more:,} more rows</p>" if more > 0 else "")
            + "".join(f"<p>certain: {_safe(note)}</p>" for note in self.certain)
            + "".join(f"<p>inferred: {_safe(note)}</p>" for note in self.inferred)
            + "</div>"
        )


_COMMON = tuple(field.name for field in fields(Answer))


def _html_row(tag: str, cells: Sequence[str], right: Sequence[bool]) -> str:
    # no colours of its own: what the notebook's theme gives is readable in light and dark
    sides = ("right" if number else "left" for number in right)
    inner = (f'<{tag} style="text-align:{side}">{_safe(cell)}</{tag}>' for cell, side in zip(cells, sides, strict=True))
    return f"<tr>{''.join(inner)}</tr>"


def _safe(text: str) -> str:
    return escape(one_line(text))


def _plain(value: Any) -> Any:
    """Turn values into what json can write."""
    if hasattr(value, "__dataclass_fields__"):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
