"""A folder with a recording: its files by name, packed or not, read with care.

    trace.txt, trace-nohashptr.txt         the ring, read once or twice
    trace, trace_pipe.txt                  the same under the names of tracefs
    trace-cmd-report.txt, perf-script.txt, trace.dat, perf.data      the same from other tools
    percpu_early.txt                       calls made before the tracepoints were on
    uname.txt, dmesg.txt, cpucount.txt     the machine
    stats/NNN-name.txt, snap/NNN-name.txt  readings of percpu_stats, and of meminfo and vmallocinfo
    meminfo.txt, vmallocinfo-pcpu.txt      the same, read at the end
    percpu_stats.txt                       readings whose moment is not known
    anything else                          the trace, if no other file has percpu events
    case.json, stats.txt, printk.txt       of a simulated run: the machine, readings, the log

Each may end in .gz, and each may be missing. What cannot be read is listed, and the rest is used.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import TraceFormatError
from ..rich import Rich
from ..units import MIB, format_bytes

__all__ = ["Folder", "NumberedFile", "Remark"]

#: a larger file beside the trace is refused: it is something else
TEXT_LIMIT_BYTES = 64 * MIB
_OTHER_TRACES = ("trace", "trace_pipe.txt", "trace-cmd-report.txt", "perf-script.txt", "trace.dat", "perf.data")
_EVENT = re.compile(rb"percpu_(?:alloc|free)_percpu:")
_NUMBERED = re.compile(r"(\d{1,9})-(.+?)\.txt(?:\.gz)?")


@dataclass(frozen=True, slots=True)
class Remark(Rich):
    """Something odd about a recording.

    Args:
        file: the name of the file in the folder.
        line: the line, from 1; None if it is about the file as a whole.
        kind: one word for all of its kind.
        text: what was found, and what was done about it.
    """

    file: str
    line: int | None
    kind: str
    text: str

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file} line {self.line}"
        return f"{where}: {self.text}"


@dataclass(frozen=True, slots=True)
class NumberedFile:
    """A file named NNN-name.txt: one reading of a series."""

    path: Path
    number: int
    name: str


@dataclass(slots=True)
class Folder:
    """The files of a recording, and the remarks made while reading them.

    Args:
        path: the folder.
        given: files that lie elsewhere, by the names they have in a folder; they go before those that are there.
        is_alone: what is given is all; the folder is not looked into.
        remarks: grows while files are read.
    """

    path: Path
    given: Mapping[str, Path] = field(default_factory=dict)
    is_alone: bool = False
    remarks: list[Remark] = field(default_factory=list)

    def find(self, *names: str) -> Path | None:
        """Give the first of some files that is there, as it is or packed."""
        given = next((self.given[name] for name in names if name in self.given), None)
        if given is not None or self.is_alone:
            return given
        for name in names:
            for path in (self.path / name, self.path / f"{name}.gz"):
                if path.is_file():
                    return path
        return None

    def text(self, *names: str) -> str | None:
        """Read the first of some files that is there; None if there is none, or it cannot be read."""
        path = self.find(*names)
        return None if path is None else self.read(path)

    def read(self, path: Path) -> str | None:
        """Read a text file, or its packed form; what is wrong with it becomes a remark.

        Returns:
            As much as could be read; None if that is nothing.
        """
        data = bytearray()
        try:
            for block in _blocks(path):
                data += block
                if len(data) > TEXT_LIMIT_BYTES:
                    self.remark(path, "too long", f"more than {format_bytes(TEXT_LIMIT_BYTES)}; it was not read")
                    return None
        except (OSError, EOFError, zlib.error) as error:
            line = data.count(b"\n") + 1
            self.remark(path, "damaged", f"{error}; what stands before was used", line=line)
        if b"\0" in data[:4096]:
            self.remark(path, "binary", "not a text file; it was not read")
            return None
        text = data.decode("utf-8", errors="replace")
        if "\ufffd" in text:
            line = text.count("\n", 0, text.index("\ufffd")) + 1
            self.remark(path, "not UTF-8", "bytes that are no text; they were replaced", line=line)
        if not text:
            self.remark(path, "empty", "nothing in it")
        return text or None

    def numbered(self, folder: str) -> Iterator[NumberedFile]:
        """Walk the files NNN-name.txt of a folder by their numbers; another file becomes a remark."""
        found = []
        for path in () if self.is_alone else sorted((self.path / folder).glob("*")):
            match = _NUMBERED.fullmatch(path.name)
            if match is None:
                self.remark(path, "name", "not named NNN-name.txt; it was not read")
            else:
                found.append(NumberedFile(path, int(match[1]), match[2]))
        yield from sorted(found, key=lambda file: file.number)

    def remark(self, path: Path | str, kind: str, text: str, *, line: int | None = None) -> None:
        """Note something odd about a file."""
        self.remarks.append(Remark(self._name(path), line, kind, text))

    def _name(self, path: Path | str) -> str:
        if isinstance(path, str):
            return path
        is_given = path in self.given.values() or not path.is_relative_to(self.path)
        return path.name if is_given else path.relative_to(self.path).as_posix()

    def trace(self) -> tuple[Path, Path | None]:
        """Find the trace, and the same ring read with true addresses, if it was.

        Raises:
            TraceFormatError: there is none; says what there is instead.
        """
        hashed, plain = self.find("trace.txt"), self.find("trace-nohashptr.txt")
        trace = hashed or plain or self.find(*_OTHER_TRACES) or self._of_another_name()
        if trace is None:
            raise TraceFormatError("no trace in this folder", where=str(self.path), remedy=self._instead())
        return trace, plain if hashed else None

    def _of_another_name(self) -> Path | None:
        """Find the one file of the folder that begins like a trace, whatever it is called."""
        early = self.find("percpu_early.txt")
        files = [] if self.is_alone else [path for path in self.path.iterdir() if path.is_file() and path != early]
        found = [path for path in files if _has_events(path)]
        if len(found) != 1:
            return None
        self.remark(found[0], "name", "taken for the trace: no other file here has percpu events")
        return found[0]

    def _instead(self) -> str:
        if (self.path / "stats").is_dir() and any(self.numbered("stats")):
            return "put the trace there as trace.txt or trace.txt.gz; the verb stats reads percpu_stats alone"
        for folder in sorted(path for path in self.path.iterdir() if path.is_dir()):
            texts = sorted(path for path in folder.glob("*.txt*") if not _NUMBERED.fullmatch(path.name))
            if texts:
                return f"name a file, such as {texts[0].relative_to(self.path).as_posix()}"
        return "put the trace there as trace.txt or trace.txt.gz"


def _has_events(path: Path) -> bool:
    """Tell whether there are percpu events in the first MiB of a file."""
    try:
        return _EVENT.search(next(_blocks(path), b"")) is not None
    except (OSError, EOFError, zlib.error):
        return False


def _blocks(path: Path) -> Iterator[bytes]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as file:
        while block := file.read1(MIB):  # what comes before damage, too
            yield block
