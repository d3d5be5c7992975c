"""JSON text that may be damaged: reading it, and the line at which each value stands.

A value has a path as in JavaScript: `alloc_info.groups[0].cpu_map[3]`; the path of the whole is empty.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from .errors import CaseError

_STRING = r'"[^"\\]*(?:\\.[^"\\]*)*"'
#: what a line of JSON consists of, but for blanks and colons: a string before a colon is a key
_TOKEN = re.compile(rf'(?P<key>{_STRING})(?=\s*:)|{_STRING}|[][{{}},\n]|[^][{{}},:"\s]+')
_DEEPEST = 100
_MOST_DIGITS = 4000  # Python itself reads 4,300
_RESTORE = "restore the file from where the case came from"


class _Value(NamedTuple):
    """One value of a text; `nr_outer` counts the objects and arrays around it."""

    path: str
    line: int
    nr_outer: int
    token: str


def read_object(text: str, where: str) -> dict[str, Any]:
    r"""Read a text that is one JSON object.

    >>> read_object('{\n "cpu": 1,\n "cpu": 2}', "case.json")
    Traceback (most recent call last):
    percpu_lab.errors.CaseError: case.json line 3, cpu: stands here a second time; write each key once

    Args:
        text: the whole of it.
        where: its name in error messages.

    Raises:
        CaseError: names the line.
    """
    try:
        document = json.loads(text, object_pairs_hook=_distinct)
    except json.JSONDecodeError as error:
        raise CaseError(f"not JSON: {error.msg}", where=f"{where} line {error.lineno}", remedy=_RESTORE) from None
    except (ValueError, RecursionError):  # a number of thousands of digits, brackets nested without end
        line = next((value.line for value in _values(text) if _is_endless(value)), 1)
        what = "not JSON that a case could hold"
        raise CaseError(what, where=f"{where} line {line}", remedy=_RESTORE) from None
    except _RepeatedKeyError:
        raise _repeated(text, where) from None
    if not isinstance(document, dict):
        raise CaseError("not a JSON object", where=f"{where} line {line_of(text, '')}", remedy=_RESTORE)
    return document


def line_of(text: str, path: str) -> int:
    r"""Find the line of a value, or of the innermost object or array that lacks it.

    >>> text = '{\n "cpus": [\n  0,\n  1\n ]\n}'
    >>> line_of(text, "cpus[1]"), line_of(text, "cpus[2]"), line_of(text, "nodes")
    (4, 2, 1)

    Args:
        text: valid JSON.
        path: of the value.
    """
    line = 1
    for value in _values(text):  # what is around a value comes before it
        if path.startswith(value.path) and (not value.path or path[len(value.path) :][:1] in ("", ".", "[")):
            line = value.line
    return line


class _RepeatedKeyError(Exception):
    """An object has a key twice; which one, its text tells."""


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise _RepeatedKeyError
    return values


def _repeated(text: str, where: str) -> CaseError:
    seen: set[str] = set()
    for value in _values(text):
        if value.path in seen:
            break
        seen.add(value.path)
    place = f"{where} line {value.line}, {value.path[:80]}"
    return CaseError("stands here a second time", where=place, remedy="write each key once")


def _is_endless(value: _Value) -> bool:
    return value.nr_outer > _DEEPEST or (len(value.token) > _MOST_DIGITS and value.token[0] in "-0123456789")


def _values(text: str) -> Iterator[_Value]:
    """Walk the values in the order of the text; a member of an object has the line of its key."""
    line = key_line = 1
    key = ""
    outer: list[str] = []  # paths of the open objects and arrays
    index: list[int | None] = []  # where we are in each; None in an object
    for match in _TOKEN.finditer(text):
        token = match[0]
        if token == "\n":
            line += 1
        elif match["key"]:
            key, key_line = _in_path(token), line
        elif token == ",":
            index[-1] = None if index[-1] is None else index[-1] + 1
        elif token in ("]", "}"):
            outer.pop()
            index.pop()
        else:
            path, place = "", line
            if outer and index[-1] is None:
                path, place = f"{outer[-1]}.{key}".lstrip("."), key_line
            elif outer:
                path = f"{outer[-1]}[{index[-1]}]"
            yield _Value(path, place, len(outer), token)
            if token in ("[", "{"):
                outer.append(path)
                index.append(0 if token == "[" else None)


def _in_path(quoted: str) -> str:
    """Write a key as part of a path; one that could be taken for a path keeps its quotes."""
    key: str = json.loads(quoted)
    return key if key.isidentifier() else quoted
