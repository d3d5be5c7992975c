"""Columns of a source as live.js takes them: a description as JSON beside the bytes of all arrays.

{"left": f4 array of 3, "image": u4 array of 2 x 4, "name": ["a", "b", "c"]}
specs    ["left", "array", ["f4", [3]]]  ["image", "arrays", [["u4", [2, 4]]]]  ["name", "list", ["a", "b", "c"]]
buffers  12 bytes                        32 bytes

A picture of bytes travels as runs where these are shorter: rows that look alike once, and of what is left where each
run ends and its value. A message is copied by everybody on its way.

|aabb|        4 x 4       row_ends  3, 4      |aabb|     run_ends  2, 4, 8
|aabb|   ->               values    |aabb|   ->          values    a, b, c
|aabb|                              |cccc|
|cccc|
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Number
from typing import Any

import numpy as np

from ..errors import LabError

Array = np.ndarray[Any, Any]
Column = Array | Sequence[str] | Sequence[float] | Sequence[Array]

MAX_EXACT = 2**53  # up to here a double, the browser's only number, holds every integer
RUN_BYTES = 5  # where it ends, and its value


@dataclass(frozen=True, slots=True)
class Columns:
    """All columns of one source.

    Args:
        specs: name, kind and description of each.
        buffers: bytes of the arrays, in the order the specs name them.
    """

    specs: list[list[Any]]
    buffers: list[bytes]


def encode(columns: Mapping[str, Column]) -> Columns:
    """Describe and copy columns.

    >>> encode({"left": np.zeros(3, "f4"), "name": ["a", "b", "c"]}).specs
    [['left', 'array', ['f4', [3]]], ['name', 'list', ['a', 'b', 'c']]]

    Raises:
        LabError: columns of different lengths, an integer above 2**53.
    """
    encoded = Columns([], [])
    lengths = {}
    for name, column in columns.items():
        values = [column] if isinstance(column, np.ndarray) and column.ndim > 1 else column
        lengths[name] = len(values)
        encoded.specs.append([name, *_encode_column(name, values, encoded.buffers)])
    if len(set(lengths.values())) > 1:
        raise LabError(
            f"columns of different lengths {lengths}", where="frame", remedy="send all columns of the source"
        )
    return encoded


def _encode_column(name: str, values: Array | Sequence[Any], buffers: list[bytes]) -> tuple[str, list[Any]]:
    """Append the column's bytes to buffers; returns its kind and description."""
    if not isinstance(values, np.ndarray):
        if len(values) and isinstance(values[0], np.ndarray):
            return "arrays", [_encode_array(name, array, buffers) for array in values]
        if not len(values) or not all(isinstance(value, Number) for value in values):
            return "list", list(values)  # of nothing, too: it may be a column of colours, which takes no numbers
    array = np.asarray(values)
    return ("array", _encode_array(name, array, buffers)) if array.dtype.kind in "biuf" else ("list", array.tolist())


def _encode_array(name: str, array: Array, buffers: list[bytes]) -> list[Any]:
    array = array.astype(_wire_dtype(name, array), copy=False)
    spec = [array.dtype.str[1:], list(array.shape)]
    if array.ndim == 2 and array.itemsize == 1 and array.size:
        row_ends, run_ends, values = _runs(array)
        if 4 * len(row_ends) + RUN_BYTES * len(values) < array.size:
            buffers += [part.tobytes() for part in (row_ends, run_ends, values)]
            return [*spec, [len(row_ends), len(values)]]
    buffers.append(array.tobytes())  # a copy: the caller may go on with his array
    return spec


def _runs(picture: Array) -> tuple[Array, Array, Array]:
    """Where rows that look alike end, and in one of each, one behind the other, where runs end and of what they are."""
    row_ends = np.append(np.flatnonzero((picture[1:] != picture[:-1]).any(axis=1)) + 1, len(picture))
    rows = picture[row_ends - 1].reshape(-1)
    run_ends = np.append(np.flatnonzero(rows[1:] != rows[:-1]) + 1, len(rows))
    return row_ends.astype("<u4"), run_ends.astype("<u4"), rows[run_ends - 1]


def _wire_dtype(name: str, array: Array) -> str:
    """Find the type among the browser's typed arrays that holds the values exactly."""
    kind, nr_bytes = array.dtype.kind, array.dtype.itemsize
    if kind == "b":
        return "<u1"
    if kind == "f":
        return "<f4" if nr_bytes <= 4 else "<f8"
    if nr_bytes < 8:
        return f"<{kind}{nr_bytes}"
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    if low >= -(2**31) and high < 2**31:
        return "<i4"
    if max(-low, high) > MAX_EXACT:
        raise LabError(f"column {name!r} holds integers above 2**53", where="frame", remedy="send them as text")
    return "<f8"
