"""Event filters in the syntax of tracefs, as written to events/percpu/NAME/filter.

    size > 64 && !(off & 0x8)                        text
    Join &&                                          tree: EventFilter.root
    |-- Compare size > 64
    `-- Not
        `-- Compare off & 8
    TEST size > | 64 | TEST off & | 8 | NOT | AND    words: the program that core/ring_filter.py runs

A test is FIELD OPERATOR NUMBER, or of a text (call_site, gfp_flags, COMM) FIELD == "TEXT", != "TEXT" or ~ "GLOB",
where `*` stands for any characters and `?` for one. Where an event does not say, no test holds.
`!` binds closest (to a test or to parentheses), then `&&`, then `||`.
Numbers are decimal, 0x hex or 0 octal. Unlike a kernel, which cuts it to the size of the field without a word,
a number that does not fit its field is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import numpy.typing as npt

from .core import layout as L
from .core import ring_filter as R
from .errors import FilterError
from .events import Events
from .tracepoints import Tracepoint, tracepoint

__all__ = ["Compare", "EventFilter", "Join", "Match", "Node", "Not"]

Bools = npt.NDArray[np.bool_]

MAX_TEXT = 4096  # characters; tracefs takes one page
MAX_DEPTH = 24  # of parentheses; two results a level may wait, and they fit into R.MAX_WAITING

_OPERATORS = {
    "==": (R.FILTER_EQ, np.equal),
    "!=": (R.FILTER_NE, np.not_equal),
    "<": (R.FILTER_LT, np.less),
    "<=": (R.FILTER_LE, np.less_equal),
    ">": (R.FILTER_GT, np.greater),
    ">=": (R.FILTER_GE, np.greater_equal),
    "&": (R.FILTER_BAND, np.bitwise_and),
}
_U64 = (0, (1 << 64) - 1)
_I32 = (-(1 << 31), (1 << 31) - 1)
_FIELDS = {
    "reserved": (R.FIELD_RESERVED, (0, 255)),
    "is_atomic": (R.FIELD_IS_ATOMIC, (0, 255)),
    "size": (R.FIELD_SIZE, _U64),
    "align": (R.FIELD_ALIGN, _U64),
    "base_addr": (R.FIELD_BASE_ADDR, _U64),
    "off": (R.FIELD_OFF, _I32),
    "ptr": (R.FIELD_PTR, _U64),
    "bytes_alloc": (R.FIELD_BYTES_ALLOC, _U64),
    "common_pid": (None, _I32),
    "CPU": (None, _I32),
}
_SIGNED = ("off", "common_pid", "CPU")
_TEXT_OPERATORS = ("==", "!=", "~")
_TEXTS = ("call_site", "gfp_flags", "COMM")
_ALIASES = {"cpu": "CPU", "comm": "COMM"}  # tracefs takes both
_COLUMNS = {"common_pid": "pid", "CPU": "cpu", "COMM": "task"}  # where the column has another name
# every event has these; of a simulated one they are always the same, as its text shows
_COMMON: dict[str, int | str] = {"common_pid": 1, "CPU": 0, "COMM": "percpu_lab"}
_UNKNOWN_NUMBERS = ("bytes_alloc", "common_pid", "CPU")  # -1 in a recorded trace that does not say


@dataclass(frozen=True, slots=True)
class Compare:
    """A comparison of a field with a number."""

    field: str
    operator: str
    value: int

    def words(self) -> Iterator[int]:
        """Give the two words of the comparison."""
        if self.field in _COMMON:
            yield from _constant(bool(_OPERATORS[self.operator][1](_COMMON[self.field], self.value)))
            return
        code = _OPERATORS[self.operator][0] << R.OPERATOR_SHIFT | (_FIELDS[self.field][0] or 0) << R.FIELD_SHIFT
        yield R.FILTER_TEST | code
        yield self.value - (1 << 64) if self.value >> 63 > 0 else self.value

    def mask(self, events: Events) -> Bools:
        """Tell for each event whether it holds."""
        dtype = np.int64 if self.field in _SIGNED else np.uint64
        column = _column(events, self.field)
        found = np.asarray(_OPERATORS[self.operator][1](column.astype(dtype), dtype(self.value)), np.bool_)
        return found & (column != -1) if self.field in _UNKNOWN_NUMBERS else found


@dataclass(frozen=True, slots=True)
class Match:
    """A comparison of a field with a text, or by `~` with a glob."""

    field: str
    operator: str
    text: str

    def holds(self, value: str | None) -> bool:
        """Tell whether it holds for one text; None, which nobody knows, never matches."""
        if value is None:
            return False
        if self.operator == "~":
            return fnmatchcase(value, self.text)
        return (value == self.text) == (self.operator == "==")

    def words(self) -> Iterator[int]:
        """Give the words of a test that says the same of simulated events, whose texts are few."""
        if self.field == "gfp_flags":
            atomic, kernel = self.holds("GFP_ATOMIC"), self.holds("GFP_KERNEL")
            yield from _constant(atomic) if atomic == kernel else Compare("is_atomic", "==", int(atomic)).words()
        else:
            yield from _constant(self.holds(str(_COMMON.get(self.field, "0x0"))))

    def mask(self, events: Events) -> Bools:
        """Tell for each event whether it holds."""
        values = _column(events, self.field).tolist()
        found = {value: self.holds(value) for value in set(values)}
        return np.fromiter((found[value] for value in values), np.bool_, len(values))


def _constant(holds: bool) -> Iterator[int]:
    """Give the words of a test that always holds, or never."""
    return Compare("size", ">=" if holds else "<", 0).words()


def _column(events: Events, field: str) -> np.ndarray:
    column = getattr(events, _COLUMNS.get(field, field), None)
    return np.full(len(events), _COMMON[field], object) if column is None else column


@dataclass(frozen=True, slots=True)
class Not:
    """What holds where its part does not."""

    part: Node

    def words(self) -> Iterator[int]:
        """Give the words of the part and one more."""
        yield from self.part.words()
        yield R.FILTER_NOT

    def mask(self, events: Events) -> Bools:
        """Tell for each event whether it holds."""
        return ~self.part.mask(events)


@dataclass(frozen=True, slots=True)
class Join:
    """Two parts joined by `&&` (holds where both do) or `||` (holds where one does)."""

    operator: str
    left: Node
    right: Node

    def words(self) -> Iterator[int]:
        """Give the words of both parts and one more."""
        yield from self.left.words()
        yield from self.right.words()
        yield R.FILTER_AND if self.operator == "&&" else R.FILTER_OR

    def mask(self, events: Events) -> Bools:
        """Tell for each event whether it holds."""
        left, right = self.left.mask(events), self.right.mask(events)
        return left & right if self.operator == "&&" else left | right


Node = Compare | Match | Not | Join


@dataclass(frozen=True, slots=True)
class EventFilter:
    """The filter of one tracepoint.

    >>> f = EventFilter.from_text("percpu_alloc_percpu", "size > 0x40 && !(off & 010)")
    >>> f.root.right
    Not(part=Compare(field='off', operator='&', value=8))
    >>> len(f.words())
    6
    """

    point: Tracepoint
    text: str
    root: Node

    @classmethod
    def from_text(cls, name: str, text: str, *, later: bool = False) -> EventFilter:
        """Read a filter.

        Args:
            name: the tracepoint it is for.
            text: the filter, as one would write it to the file `filter` in tracefs.
            later: know the fields that came after v4.13, too: call_site, bytes_alloc, gfp_flags.

        Raises:
            RequestError: no such tracepoint.
            FilterError: shows the column, and says what may stand there.
        """
        point = tracepoint(name)
        parser = _Parser(point, text, later)
        found = cls(point, text.strip(), parser.parse())
        if len(found.words()) >= L.FILTER_WORDS:
            raise parser.error(0, "the filter is too long", f"it has room for {L.FILTER_WORDS // 3} tests")
        return found

    def words(self) -> list[int]:
        """Give the program for core/ring_filter.py, as int64 words without their number."""
        return list(self.root.words())

    def mask(self, events: Events) -> Bools:
        """Tell which events are of the tracepoint and pass the filter.

        Args:
            events: of an engine or recorded.
        """
        return np.asarray(events.event == self.point.event) & self.root.mask(events)


_TOKEN = re.compile(
    r"\s*(?:(?P<text>\"[^\"]*\"|'[^']*')|(?P<number>-?[0-9]\w*)|(?P<name>[A-Za-z_][\w.]*)|(?P<sign>&&|\|\||[=!<>]=|[<>&!()~])|(?P<end>$)|(?P<bad>\S))",
    re.ASCII,
)
_NO_STRINGS = f"only {', '.join(_TEXTS)} hold a text"
_NUMBER = re.compile(r"-?(?:0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)")


class _Parser:
    """Recursive descent: any := all {|| all}, all := one {&& one}, one := {!} ( any ) | {!} field operator number."""

    def __init__(self, point: Tracepoint, text: str, later: bool) -> None:
        self.point = point
        self.names = [known.name for known in point.fields if later or not known.optional]
        self.text = text
        self.depth = 0
        if not isinstance(text, str):
            raise FilterError(f"{text!r:.80} is no text", where=f"filter of {point.name}", remedy='write "size > 64"')
        if len(text) > MAX_TEXT:
            raise self.error(MAX_TEXT, f"the filter is longer than {MAX_TEXT} characters", "shorten it")
        self._advance(0)

    def parse(self) -> Node:
        root = self._any()
        if self.kind != "end":
            raise self.error(self.column, f"unexpected {self.token!r}", "join tests by && or ||")
        return root

    def _any(self) -> Node:
        node = self._all()
        while self._take("||"):
            node = Join("||", node, self._all())
        return node

    def _all(self) -> Node:
        node = self._one()
        while self._take("&&"):
            node = Join("&&", node, self._one())
        return node

    def _one(self) -> Node:
        negated = False
        while self._take("!"):
            negated = not negated
        node = self._group() if self.token == "(" else self._compare()
        return Not(node) if negated else node

    def _group(self) -> Node:
        opened = self.column
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self.error(opened, "parentheses are nested too deep", f"{MAX_DEPTH} levels are allowed")
        self._take("(")
        node = self._any()
        if not self._take(")"):
            raise self.error(opened, "this parenthesis is not closed", "write ) behind the last test in it")
        self.depth -= 1
        return node

    def _compare(self) -> Compare | Match:
        field = self._field()
        if field in _TEXTS:
            return self._match(field)
        if self.token not in _OPERATORS:
            remedy = f"write one of {' '.join(_OPERATORS)}; {_NO_STRINGS}"
            raise self.error(self.column, "an operator is missing", remedy)
        operator = self._next()
        return Compare(field, operator, self._value(field))

    def _match(self, field: str) -> Match:
        if self.token not in _TEXT_OPERATORS:
            remedy = f"{field} is a text: write one of {' '.join(_TEXT_OPERATORS)}"
            raise self.error(self.column, "an operator is missing", remedy)
        operator = self._next()
        if self.kind != "text":
            raise self.error(self.column, "a text is missing", f'write it in quotes: {field} {operator} "..."')
        return Match(field, operator, self._next()[1:-1])

    def _field(self) -> str:
        names = [*self.names, *_COMMON]
        remedy = f"fields of {self.point.name}: {', '.join(self.names)}; of every event: {', '.join(_COMMON)}"
        if self.kind != "name":
            raise self.error(self.column, "a field is missing", remedy)
        if _ALIASES.get(self.token, self.token) not in names:
            raise self.error(self.column, f"field {self.token!r} not found", remedy)
        token = self._next()
        return _ALIASES.get(token, token)

    def _value(self, field: str) -> int:
        if not _NUMBER.fullmatch(self.token):
            remedy = f"write decimal, 0x hex or 0 octal digits; {_NO_STRINGS}"
            raise self.error(self.column, "a number is missing", remedy)
        base = 16 if "x" in self.token.lower() else 8 if self.token.lstrip("-").startswith("0") else 10
        value, (low, high) = int(self.token, base), _FIELDS[field][1]
        if not low <= value <= high:
            raise self.error(self.column, f"{self.token[:40]} does not fit {field}", f"it goes from {low} to {high}")
        self._next()
        return value

    def _take(self, token: str) -> bool:
        taken = self.kind == "sign" and self.token == token
        if taken:
            self._next()
        return taken

    def _next(self) -> str:
        token = self.token
        self._advance(self.column + len(token))
        return token

    def _advance(self, start: int) -> None:
        match = _TOKEN.match(self.text, start)
        assert match is not None, "one branch takes any character, one the end"
        self.kind = match.lastgroup or ""
        self.token, self.column = match[self.kind], match.start(self.kind)

    def error(self, column: int, what: str, remedy: str) -> FilterError:
        """Show where the text went wrong, as the kernel does with a caret."""
        start = max(column - 60, 0)
        shown = "".join(c if c.isprintable() else " " for c in self.text[start : start + 100])
        picture = f"\n    {shown}\n    {' ' * (column - start)}^"
        return FilterError(what, where=f"filter of {self.point.name}, column {column + 1}", remedy=remedy + picture)
