"""Recorded cases: a folder with a geometry (case.json) and an op script (ops.txt), read with care.

    case folder     case.json    name, kernel, geometry, addresses
                    ops.txt      one op a line
                    trace.txt, stats.txt, state.jsonl, printk.txt    what the kernel did: not read here

Any of the files may be there as NAME.gz instead.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .core import layout as L
from .errors import CaseError
from .geometry import Geometry
from .kernels import KERNEL_VERSIONS, KernelVersion
from .ops import Ops
from .units import MIB, format_bytes

#: larger files are refused, packed or not: a damaged or hostile case must not fill the memory
CASE_JSON_LIMIT_BYTES = 16 * MIB
OPS_LIMIT_BYTES = 128 * MIB
OPS_LINE_LIMIT_BYTES = 200

_RESTORE = "restore the file from where the case came from"
_NAME_A_CASE = "name a folder with case.json and ops.txt in it"

#: the kernels whose cases can be played: those with an engine
PLAYABLE: Mapping[str, KernelVersion] = {row.name: row for row in KERNEL_VERSIONS if row.engine}


@dataclass(frozen=True, slots=True)
class Case:
    """A recorded case, ready to be played.

    Args:
        name: the name of its folder, which is also that of its output.
        what: one line that says what the case shows.
        kernel: the name of the kernel it was recorded with, one of PLAYABLE.
        geometry: where the allocator starts from.
        ops: what is asked of it.
    """

    name: str
    what: str
    kernel: str
    geometry: Geometry
    ops: Ops

    @classmethod
    def load(cls, folder: str | Path) -> Case:
        """Read a case folder.

        Raises:
            CaseError: names the file, and the line where there is one.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise CaseError("there is no such case folder", where=str(folder), remedy=_NAME_A_CASE)
        document, where = _read_document(folder)
        what, kernel = _field(document, "what", str, where, default=""), _kernel(document, where)
        geometry = Geometry.from_case(document, where=where)
        ops = _read_ops(folder)
        _check_nr_ops(document, ops, where)
        return cls(folder.resolve().name, what, kernel, geometry, ops)


def _read_document(folder: Path) -> tuple[Mapping[str, Any], str]:
    text, path = read_text(folder, "case.json", CASE_JSON_LIMIT_BYTES)
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise CaseError(f"not JSON: {error.msg}", where=f"{path} line {error.lineno}", remedy=_RESTORE) from None
    except (ValueError, RecursionError):  # a number of thousands of digits, brackets nested without end
        raise CaseError("not JSON that a case could hold", where=path, remedy=_RESTORE) from None
    if not isinstance(document, dict):
        raise CaseError("not a JSON object", where=path, remedy=_RESTORE)
    return document, path


def _read_ops(folder: Path) -> Ops:
    text, path = read_text(folder, "ops.txt", OPS_LIMIT_BYTES)
    _check_line_lengths(text, path)
    ops = Ops.from_text(text, where=path)
    _check_ids_are_unique(ops, path)
    return ops


def read_text(folder: Path, name: str, limit_bytes: int) -> tuple[str, str]:
    """Read a file of a case, or its packed form -> its text, and its path for error messages.

    Raises:
        CaseError: it is missing, damaged or too long.
    """
    for path, opener in ((folder / name, open), (folder / f"{name}.gz", gzip.open)):
        if path.exists():
            break
    else:
        raise CaseError(f"{name} is missing", where=str(folder), remedy=_NAME_A_CASE)
    data = _read_bytes(path, opener, limit_bytes)
    try:
        return data.decode("utf-8"), str(path)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise CaseError("not UTF-8 text", where=f"{path} line {line}", remedy=_RESTORE) from None


def _read_bytes(path: Path, opener: Callable[..., Any], limit_bytes: int) -> bytes:
    if not path.is_file():
        raise CaseError("not a regular file", where=str(path), remedy=_RESTORE)
    try:
        with opener(path, "rb") as file:
            data: bytes = file.read(limit_bytes + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise CaseError(f"not a whole gzip file ({error})", where=str(path), remedy=_RESTORE) from None
    except OSError as error:
        raise CaseError(f"cannot be read: {error.strerror}", where=str(path), remedy="make the file readable") from None
    if len(data) > limit_bytes:
        what = f"more than {format_bytes(limit_bytes)} of text"
        raise CaseError(what, where=str(path), remedy="split the case into shorter ones")
    return data


def _field(document: Mapping[str, Any], name: str, kind: type, where: str, **default: Any) -> Any:
    if name not in document and "default" in default:
        return default["default"]
    if name not in document:
        raise CaseError(f"{name!r} is missing", where=where, remedy=_RESTORE)
    value = document[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        what = f"{name!r} is not a {'whole number' if kind is int else 'text'}: {str(value)[:80]!r}"
        raise CaseError(what, where=where, remedy=_RESTORE)
    return value


def _kernel(document: Mapping[str, Any], where: str) -> str:
    name: str = _field(document, "kernel", str, where)
    if name not in PLAYABLE:
        remedy = f"a kernel is one of {', '.join(PLAYABLE)}"
        raise CaseError(f"unknown kernel {name[:80]!r}", where=where, remedy=remedy)
    return name


def _check_nr_ops(document: Mapping[str, Any], ops: Ops, where: str) -> None:
    nr_ops = _field(document, "nr_ops", int, where, default=len(ops))
    if nr_ops != len(ops):
        what = f"nr_ops is {nr_ops}, but the op script has {len(ops)} lines"
        raise CaseError(what, where=where, remedy="restore the op script, or correct nr_ops")


def _check_line_lengths(text: str, where: str) -> None:
    ends = np.flatnonzero(np.frombuffer(f"\n{text}\n".encode(), np.uint8) == ord("\n"))
    too_long = np.flatnonzero(np.diff(ends) > OPS_LINE_LIMIT_BYTES + 1)
    if too_long.size:
        what = f"a line of more than {OPS_LINE_LIMIT_BYTES} bytes"
        raise CaseError(what, where=f"{where} line {too_long[0] + 1}", remedy=_RESTORE)


def _check_ids_are_unique(ops: Ops, where: str) -> None:
    lines = np.flatnonzero(ops.array[L.OPS_KIND] == L.OP_ALLOC)
    ids = ops.array[L.OPS_ID, lines]
    first = np.unique(ids, return_index=True)[1]
    if len(first) == len(lines):
        return
    again = int(np.setdiff1d(np.arange(len(lines)), first)[0])
    name = ops.names[ids[again]] if ops.names else ids[again]
    what = f"a second alloc with id {str(name)[:80]!r}"
    raise CaseError(what, where=f"{where} line {lines[again] + 1}", remedy="IDs are unique: give it another one")
