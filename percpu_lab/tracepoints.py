"""The five tracepoints of the percpu system, each defined once: its event class below.

    class PercpuFreePercpu             <- the definition: fields in TP_printk order, each with its kind
      TRACEPOINTS[EVENT_FREE].fields   <- read from the class; text in and text out follow from it
      percpu_free_percpu: base_addr=ffff888100000000 off=8192 ptr=0000000000002000

The fields are those of Linux v4.13 (spec 9). What came later, `call_site`, `bytes_alloc` and `gfp_flags`, is None
before: the table of kernels says since when.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, get_type_hints

from .core import layout as L
from .errors import RequestError, TraceFormatError
from .kernels import KERNEL_VERSIONS, V4_13
from .rich import Rich

__all__ = [
    "PREFIXES",
    "TRACEPOINTS",
    "Event",
    "EventField",
    "FieldKind",
    "PercpuAllocPercpu",
    "PercpuAllocPercpuFail",
    "PercpuCreateChunk",
    "PercpuDestroyChunk",
    "PercpuFreePercpu",
    "Style",
    "Tracepoint",
    "check_style",
    "extra_text",
    "find_event",
    "line_template",
    "parse_event",
    "tracepoint",
]

Style = Literal["golden", "ftrace", "plain"]
_POINTERS: dict[Style, str] = {"golden": "0x%x", "ftrace": "%016x", "plain": "%016x"}  # 4.13 prints %p without 0x
# what stands before an event, made from its op number; ftrace: as a 4.13 kernel with the clock `counter` prints it
PREFIXES: dict[Style, str] = {"golden": "%d\t", "ftrace": f"{'percpu_lab':>16}-{1:<5} [000] .... %12d: ", "plain": ""}


def check_style(style: object) -> None:
    """Refuse a style that no event is written in.

    Raises:
        RequestError: names those there are.
    """
    if not isinstance(style, str) or style not in PREFIXES:
        remedy = f"choose from {', '.join(PREFIXES)}"
        raise RequestError(f"there is no style {style!r:.80}", where="style", remedy=remedy)


# --- kinds of fields -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FieldKind:
    """What a field holds, how it is printed and how it is read.

    Args:
        name: its type in words.
        printf: the conversion that prints it; empty for a pointer, whose conversion is that of the style.
        read: makes the value from text, or raises ValueError.
    """

    name: str
    printf: str
    read: Callable[[str], Any] = field(repr=False)


def _read_integer(low: int, high: int) -> Callable[[str], int]:
    pattern = re.compile(r"-?[0-9]{1,20}|0[xX][0-9a-fA-F]{1,16}")

    def read(text: str) -> int:
        if not pattern.fullmatch(text):
            raise ValueError("not a number")
        value = int(text, 16 if text[1:2] in ("x", "X") else 10)
        if not low <= value <= high:
            raise ValueError(f"not within {low} .. {high}")
        return value

    return read


# printed for NULL; and by a kernel that has no random numbers to hash an address with, early in a boot
UNKNOWN_ADDRESSES = ("(null)", "(nil)", "(____ptrval____)", "(ptrval)")


def _read_pointer(text: str) -> int:
    if not re.fullmatch(r"(?:0[xX])?[0-9a-fA-F]{1,16}", text):
        if text in UNKNOWN_ADDRESSES:
            return 0
        raise ValueError("not a pointer of up to 16 hex digits")
    return int(text, 16)


BOOL = FieldKind("bool", "%d", _read_integer(0, 1))
SIZE = FieldKind("size_t", "%d", _read_integer(0, (1 << 63) - 1))
INT = FieldKind("int", "%d", _read_integer(-(1 << 31), (1 << 31) - 1))
PTR = FieldKind("pointer", "", _read_pointer)
SYMBOL = FieldKind("symbol", "%s", str)
FLAGS = FieldKind("flags", "%s", str)


# --- the five events -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Event(Rich):
    """What all events have in common.

    Args:
        op: number of the operation that caused it, -1 for the setup; of a recorded trace the number of the event.
        extra: fields that this program does not know, as they stood in a recorded text.
    """

    name: ClassVar[str]
    event: ClassVar[int]
    op: int
    extra: tuple[tuple[str, str], ...] = field(default=(), kw_only=True)

    def text(self, style: Style = "plain") -> str:
        """Write the event as the tracepoint prints it.

        >>> PercpuCreateChunk(5, 0xffffe8f000000000).text("golden")
        '5\\tpercpu_create_chunk: base_addr=0xffffe8f000000000'
        """
        check_style(style)
        fields = tuple(f for f in TRACEPOINTS[self.event].fields if getattr(self, f.name) is not None)
        line = line_template(self.name, fields, style) % tuple(getattr(self, f.name) for f in fields)
        return PREFIXES[style] % ((self.op,) if style != "plain" else ()) + line + extra_text(self.extra)

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        values = {f.name: getattr(self, f.name) for f in TRACEPOINTS[self.event].fields}
        values |= {"extra": self.extra or None}
        words = [f"{name}={_repr_of(name, value)}" for name, value in values.items() if value is not None]
        return f"{type(self).__name__}({', '.join([f'op={self.op}', *words])})"


def _repr_of(name: str, value: Any) -> str:
    return f"{value:#x}" if name in ("base_addr", "ptr") else repr(value)


@dataclass(frozen=True, slots=True, repr=False)
class PercpuAllocPercpu(Event):
    """An area was allocated: last action of pcpu_alloc, with no lock held (spec 9).

    >>> print(PercpuAllocPercpu(3, False, True, 64, 8, 0xffff888100000000, 8256, 0x2040))
    percpu_alloc_percpu: reserved=0 is_atomic=1 size=64 align=8 base_addr=ffff888100000000 off=8256 ptr=0000000000002040
    """

    name: ClassVar[str] = "percpu_alloc_percpu"
    event: ClassVar[int] = L.EVENT_ALLOC
    call_site: Annotated[str | None, SYMBOL] = field(default=None, kw_only=True)
    reserved: Annotated[bool, BOOL]
    is_atomic: Annotated[bool, BOOL]
    size: Annotated[int, SIZE]
    align: Annotated[int, SIZE]
    base_addr: Annotated[int, PTR]
    off: Annotated[int, INT]
    ptr: Annotated[int, PTR]
    bytes_alloc: Annotated[int | None, SIZE] = field(default=None, kw_only=True)
    gfp_flags: Annotated[str | None, FLAGS] = field(default=None, kw_only=True)


@dataclass(frozen=True, slots=True, repr=False)
class PercpuFreePercpu(Event):
    """An area was freed: last action of free_percpu under the lock (spec 9)."""

    name: ClassVar[str] = "percpu_free_percpu"
    event: ClassVar[int] = L.EVENT_FREE
    base_addr: Annotated[int, PTR]
    off: Annotated[int, INT]
    ptr: Annotated[int, PTR]


@dataclass(frozen=True, slots=True, repr=False)
class PercpuAllocPercpuFail(Event):
    """An allocation failed; not for illegal arguments (spec 9)."""

    name: ClassVar[str] = "percpu_alloc_percpu_fail"
    event: ClassVar[int] = L.EVENT_FAIL
    reserved: Annotated[bool, BOOL]
    is_atomic: Annotated[bool, BOOL]
    size: Annotated[int, SIZE]
    align: Annotated[int, SIZE]


@dataclass(frozen=True, slots=True, repr=False)
class PercpuCreateChunk(Event):
    """A chunk was made, and is not yet in its slot (spec 9)."""

    name: ClassVar[str] = "percpu_create_chunk"
    event: ClassVar[int] = L.EVENT_CREATE
    base_addr: Annotated[int, PTR]


@dataclass(frozen=True, slots=True, repr=False)
class PercpuDestroyChunk(Event):
    """A chunk is about to give its memory back (spec 9)."""

    name: ClassVar[str] = "percpu_destroy_chunk"
    event: ClassVar[int] = L.EVENT_DESTROY
    base_addr: Annotated[int, PTR]


# --- what follows from the definitions ----------------------------------------------


@dataclass(frozen=True, slots=True)
class EventField:
    """A field of a tracepoint and the first kernel release that printed it."""

    name: str
    kind: FieldKind
    since: str = V4_13.release

    @property
    def optional(self) -> bool:
        """Tell whether a text may lack the field, being of an older kernel."""
        return self.since != V4_13.release


@dataclass(frozen=True, slots=True)
class Tracepoint:
    """A tracepoint: its name, number (EVENT_* of core/layout.py), fields in TP_printk order and event class."""

    name: str
    event: int
    fields: tuple[EventField, ...]
    record: type[Event]

    def read_fields(self, text: str) -> tuple[dict[str, Any], tuple[tuple[str, str], ...]]:
        """Read `key=value` text in any order: the values of the known fields by name, and what else there is.

        >>> tracepoint("percpu_free_percpu").read_fields("off=8 ptr=0x2008 base_addr=00001000 cpu=3")
        ({'base_addr': 4096, 'off': 8, 'ptr': 8200}, (('cpu', '3'),))

        Raises:
            TraceFormatError: a field is missing, doubled or not of its kind; `where` is left empty.
        """
        words = _split_fields(text)
        values = {}
        for known in self.fields:
            word = words.pop(known.name, None)
            if word is not None:
                values[known.name] = _read_value(known, word)
            elif not known.optional:
                raise TraceFormatError(f"{known.name}= missing: {text[:200]!r}", remedy=self._remedy())
        return values, tuple(words.items())

    def _remedy(self) -> str:
        return f"{self.name} has the fields {', '.join(f.name for f in self.fields if not f.optional)}"


def _define(record: type[Event]) -> Tracepoint:
    hints = get_type_hints(record, include_extras=True)
    marks = {f.name: getattr(hints[f.name], "__metadata__", ()) for f in dataclasses.fields(record)}
    fields = tuple(EventField(name, mark[0], _since(name)) for name, mark in marks.items() if mark)
    return Tracepoint(record.name, record.event, fields, record)


def _since(name: str) -> str:
    """Find the first release that prints a field."""
    return next((row.release for row in KERNEL_VERSIONS if name in row.alloc_fields), V4_13.release)


TRACEPOINTS: tuple[Tracepoint, ...] = tuple(
    map(_define, (PercpuAllocPercpu, PercpuFreePercpu, PercpuAllocPercpuFail, PercpuCreateChunk, PercpuDestroyChunk))
)
_BY_NAME = {point.name: point for point in TRACEPOINTS}


def tracepoint(name: object) -> Tracepoint:
    """Find a tracepoint by its name, with or without the `percpu:` of its system.

    >>> [f.name for f in tracepoint("percpu:percpu_free_percpu").fields]
    ['base_addr', 'off', 'ptr']

    Raises:
        RequestError: no such tracepoint; lists those there are.
    """
    point = _BY_NAME.get(name.removeprefix("percpu:")) if isinstance(name, str) else None
    if point is None:
        names = ", ".join(_BY_NAME)
        raise RequestError(f"no tracepoint {name!r:.80}", where="system percpu", remedy=f"choose from: {names}")
    return point


def find_event(text: str) -> tuple[Tracepoint, str]:
    """Part `NAME: FIELDS` into the tracepoint of that name and the text of its fields.

    Raises:
        TraceFormatError: no percpu event has this name; `where` is left empty.
    """
    name, _, fields = text.partition(":")
    point = _BY_NAME.get(name.strip())
    if point is None:
        raise TraceFormatError(f"no percpu event: {text[:80]!r}", remedy=f"an event is one of: {', '.join(_BY_NAME)}")
    return point, fields


def parse_event(text: str, *, op: int = 0, where: str = "event") -> Event:
    """Read an event from the text `NAME: FIELDS`.

    >>> parse_event("percpu_create_chunk: base_addr=ffffe8f000000000", op=5)
    PercpuCreateChunk(op=5, base_addr=0xffffe8f000000000)

    Args:
        text: the event as a tracepoint prints it; the fields in any order.
        op: the number of the operation it belongs to.
        where: the name of the text in error messages.

    Raises:
        TraceFormatError: unknown event, or a field is missing, doubled or not of its kind.
    """
    try:
        point, fields = find_event(text)
        values, extra = point.read_fields(fields)
    except TraceFormatError as error:
        raise TraceFormatError(error.what, where=where, remedy=error.remedy) from None
    return point.record(op, extra=extra, **values)


_KEY = re.compile(r"(?:^|(?<=\s))(\w+)=")


def _split_fields(text: str) -> dict[str, str]:
    """Split `key=value ...`; a value goes on to the next key, for `call_site=f+0x8/0x10 [module]`."""
    keys = list(_KEY.finditer(text))
    ends = [*(key.start() for key in keys), len(text)][1:]
    words = {key[1]: text[key.end() : end].strip() for key, end in zip(keys, ends, strict=True)}
    if len(words) != len(keys):
        raise TraceFormatError(f"a field stands there twice: {text[:200]!r}", remedy="was the line joined from two?")
    return words


# the trace option `fields` prints size=0x10 (16) and reserved=(0)
_RAW_VALUE = re.compile(r"(0x[0-9a-fA-F]{1,16}) \(-?[0-9]{1,20}\)|\((-?[0-9]{1,20})\)")


def _read_value(known: EventField, word: str) -> Any:
    raw = _RAW_VALUE.fullmatch(word) if word.endswith(")") else None
    try:
        return known.kind.read(raw[1] or raw[2] if raw else word)
    except ValueError as error:
        remedy = f"{known.name} is a {known.kind.name}"
        raise TraceFormatError(f"{known.name}={word[:40]!r} is {error}", remedy=remedy) from None


@cache
def line_template(name: str, fields: tuple[EventField, ...], style: Style) -> str:
    """Give the %-format that prints an event with these fields."""
    return f"{name}: " + " ".join(f"{f.name}={f.kind.printf or _POINTERS[style]}" for f in fields)


def extra_text(extra: tuple[tuple[str, str], ...]) -> str:
    """Write the unknown fields of an event behind the others."""
    return "".join(f" {key}={value}" for key, value in extra)
