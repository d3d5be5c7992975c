"""The verb `stats`: read percpu_stats files, check them, compare them."""

from __future__ import annotations

import argparse
import gzip
import io
import sys
import zlib
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ..errors import LabError, TraceFormatError
from ..plain import count
from .common import OK, Verbs, add_json, say, verb, write_json

if TYPE_CHECKING:
    from ..stats import PercpuStats

_LIMIT_BYTES = 64 << 20
_GZIP_MAGIC = b"\x1f\x8b"


def add_stats(verbs: Verbs) -> None:
    """Enter `stats`."""
    parser = verb(
        verbs,
        "stats",
        _stats,
        "read percpu_stats of any kernel, check that its numbers agree, compare two",
        """\
A FILE is /sys/kernel/debug/percpu_stats or a mail that quotes it, .gz too, - for standard input. If it holds two
readings, or two files are named, what changed between them is written, too. Of a folder all readings are read.""",
    )
    parser.add_argument("files", metavar="FILE", nargs="+", help="percpu_stats, one or two files")
    add_json(parser)


def _stats(args: argparse.Namespace) -> int:
    from ..questions import diff, lint
    from ..stats import as_json
    from ..stats import lint as findings

    if len(args.files) > 2:
        raise LabError(f"{len(args.files)} files", where="stats", remedy="name one or two")
    readings = [reading for name in args.files for reading in _readings(name)]
    first = readings[0][1]
    change = diff(first, readings[-1][1]) if len(readings) > 1 else None
    if args.json:
        parts = [{"file": name} | as_json(stats, findings(stats)) for name, stats in readings]
        more: dict[str, Any] = {"others": parts[1:], "diff": change.as_json()} if change is not None else {}
        write_json(parts[0] | more)
        return OK
    for name, stats in readings:
        say(f"{name} (as printed by {stats.releases})\n{lint(stats).text()}\n")
    if change is not None:
        say(f"from {readings[0][0]} to {readings[-1][0]}\n{change.text(limit=40)}")
    return OK


def _readings(name: str) -> list[tuple[str, PercpuStats]]:
    """Read every percpu_stats of a file, with a name for each."""
    from ..stats import read_stats_texts

    if Path(name).is_dir():
        return _of_folder(name)
    found = read_stats_texts(_text(name), where=name)
    if len(found) == 1:
        return [(name, found[0].stats)]
    return [(f"{name} line {part.line}", part.stats) for part in found]


def _of_folder(name: str) -> list[tuple[str, PercpuStats]]:
    """Give the readings of the folder of a recording, stats/NNN-name.txt."""
    from ..traces.recording import read_stats_folder

    readings, _ = read_stats_folder(name)
    if not readings:
        remedy = "name a file, or a folder with stats/NNN-name.txt in it"
        raise TraceFormatError("no percpu_stats in this folder", where=name, remedy=remedy)
    return [(f"{name}/{reading.file}", reading.stats) for reading in readings]


def _text(name: str) -> str:
    from ..traces.source import refuse_utf_16

    data = _unpacked(name, sys.stdin.buffer) if name == "-" else _read(Path(name))
    if len(data) > _LIMIT_BYTES:
        what = f"more than {count(_LIMIT_BYTES, 'byte')}"
        raise TraceFormatError(what, where=name, remedy="a percpu_stats is smaller: cut the file")
    refuse_utf_16(name, data)
    if b"\0" in data:
        raise TraceFormatError("a binary file", where=name, remedy="name /sys/kernel/debug/percpu_stats")
    return data.decode("utf-8", "backslashreplace").removeprefix("\ufeff")  # which some editors write first


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return _unpacked(str(path), file)


def _unpacked(name: str, file: IO[bytes]) -> bytes:
    """Read a file, unpacked if it is packed: one byte more than the limit at most."""
    data = file.read(_LIMIT_BYTES + 1)
    if not data.startswith(_GZIP_MAGIC):
        return data
    try:
        return gzip.GzipFile(fileobj=io.BytesIO(data)).read(_LIMIT_BYTES + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise TraceFormatError(f"damaged gzip: {error}", where=name, remedy="copy it again") from None
