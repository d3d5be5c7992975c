"""Recorded cases: a folder with a geometry (case.json) and an op script (ops.txt), read with care.

    case folder     case.json    name, kernel, geometry, addresses
                    ops.txt      one op a line
                    trace.txt, stats.txt, state.jsonl, printk.txt    what the kernel did: not read here

Any of the files may be there as NAME.gz instead.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .core import layout as L
from .errors import CaseError
from .geometry import Geometry
from .geometry.case import as_case_error
from .geometry.info import shown
from .json_text import line_of, read_object
from .kernels import KERNEL_VERSIONS, KernelVersion
from .models import model_named
from .ops import Ops
from .plain import count
from .units import MIB, format_bytes

#: larger files are refused, packed or not: a damaged or hostile case must not fill the memory
CASE_JSON_LIMIT_BYTES = 16 * MIB
OPS_LIMIT_BYTES = 128 * MIB
OPS_LINE_LIMIT_BYTES = 200
_PIECE_BYTES = 1 << 12  # of a packed file, unpacked at once

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
        script: the file the ops are in, for error messages.
    """

    name: str
    what: str
    kernel: str
    geometry: Geometry
    ops: Ops
    script: str = "ops"

    @classmethod
    def load(cls, folder: str | Path) -> Case:
        """Read a case folder.

        Raises:
            CaseError: names the file, and the line where there is one.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise CaseError("there is no such case folder", where=str(folder), remedy=_NAME_A_CASE)
        text, where = read_text(folder, "case.json", CASE_JSON_LIMIT_BYTES)
        document = read_object(text, where)
        with _lines_named(text, where):
            what, kernel = _text(document, "what", where, default=""), _kernel(document, where)
            geometry = Geometry.from_case(document, where=where)
            with as_case_error(where):  # what the engine alone would refuse
                model_named(kernel).set_sizes(np.zeros(L.NR_GLOBAL_WORDS, np.int64), geometry.info)
        ops, script = _read_ops(folder)
        with _lines_named(text, where):
            _check_nr_ops(document, ops, where, script)
            _check_op_counts(document, ops, where, script)
        return cls(Path(os.path.abspath(folder)).name, what, kernel, geometry, ops, script)


@contextmanager
def _lines_named(text: str, where: str) -> Iterator[None]:
    """Add the line to an error that names a key: `case.json, nr_ops` becomes `case.json line 53, nr_ops`."""
    try:
        yield
    except CaseError as error:
        key = error.where.removeprefix(f"{where}, ")
        error.where = f"{where} line {line_of(text, key)}, {key}"
        raise


def _read_ops(folder: Path) -> tuple[Ops, str]:
    """Read the op script of a case -> the script, and its path for error messages."""
    text, path = read_text(folder, "ops.txt", OPS_LIMIT_BYTES)
    _check_line_lengths(text, path)
    ops = Ops.from_text(text, where=path)
    _check_ids_are_unique(ops, path)
    return ops, path


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
        nr_lines = _whole_lines(path.read_bytes(), limit_bytes)
        what = f"not a whole gzip file ({error}), it breaks off after {count(nr_lines, 'whole line')}"
        raise CaseError(what, where=f"{path} line {nr_lines + 1}", remedy=_RESTORE) from None
    except OSError as error:
        raise CaseError(f"cannot be read: {error.strerror}", where=str(path), remedy="make the file readable") from None
    if len(data) > limit_bytes:
        what = f"more than {format_bytes(limit_bytes)} of text"
        raise CaseError(what, where=str(path), remedy="split the case into shorter ones")
    return data


def _whole_lines(packed: bytes, limit_bytes: int) -> int:
    """Count the lines that come out of a damaged gzip file before its damage."""
    unpacker, step = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16), _PIECE_BYTES
    at = nr_lines = nr_bytes = 0
    while at < len(packed) and nr_bytes <= limit_bytes:
        before = unpacker.copy()
        piece = packed[at : at + step]
        try:
            text = unpacker.decompress(piece)
        except zlib.error:
            if step == 1:
                break
            unpacker, step = before, 1  # what a piece gave before its damage is lost: once more, byte by byte
            continue
        at += len(piece) - len(unpacker.unused_data)
        nr_lines, nr_bytes = nr_lines + text.count(b"\n"), nr_bytes + len(text)
        if unpacker.eof:  # one gzip file may follow another
            unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    return nr_lines


def _text(document: Mapping[str, Any], name: str, where: str, **default: str) -> str:
    if name not in document and "default" in default:
        return default["default"]
    if name not in document:
        raise CaseError("missing", where=f"{where}, {name}", remedy=_RESTORE)
    value = document[name]
    if not isinstance(value, str):
        raise CaseError(f"{shown(value)} is not a text", where=f"{where}, {name}", remedy=_RESTORE)
    return value


def _kernel(document: Mapping[str, Any], where: str) -> str:
    name = _text(document, "kernel", where)
    if name not in PLAYABLE:
        remedy = f"a kernel is one of {', '.join(PLAYABLE)}"
        raise CaseError(f"unknown kernel {name[:80]!r}", where=f"{where}, kernel", remedy=remedy)
    return name


def _check_nr_ops(document: Mapping[str, Any], ops: Ops, where: str, script: str) -> None:
    nr_ops = _count(document, "nr_ops", f"{where}, nr_ops") if "nr_ops" in document else len(ops)
    if nr_ops == len(ops):
        return
    ends = f"ends at line {len(ops)}" if nr_ops > len(ops) else f"goes on at line {nr_ops + 1} of {len(ops)}"
    remedy = "restore the op script, or correct nr_ops"
    raise CaseError(f"{shown(nr_ops)} ops are announced, but {script} {ends}", where=f"{where}, nr_ops", remedy=remedy)


def _check_op_counts(document: Mapping[str, Any], ops: Ops, where: str, script: str) -> None:
    if "op_counts" not in document:
        return
    counts, counted, place = document["op_counts"], ops.counts(), f"{where}, op_counts"
    if not isinstance(counts, Mapping):
        raise CaseError(f"{shown(counts)} is not an object", where=place, remedy=_RESTORE)
    for name in {**counts, **counted}:
        there, place_of_name = counted.get(name, 0), f"{place}.{name[:80]}"
        nr_ops = _count(counts, name, place_of_name) if name in counts else 0
        if nr_ops != there:
            what = f"{shown(nr_ops)} ops are announced, but {script} has {there:,} of them"
            raise CaseError(what, where=place_of_name, remedy="restore the op script, or correct op_counts")


def _count(values: Mapping[str, Any], name: str, where: str) -> int:
    value = values[name]
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise CaseError(f"{shown(value)} is not a count", where=where, remedy="write a whole number")
    return value


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
