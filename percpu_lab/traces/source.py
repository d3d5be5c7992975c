"""Where the text of a trace comes from: a file, a pipe, an open file, packed or not, or a program that unpacks it.

    path | "-" | file ──▶ raw blocks ──gz?──▶ ──trace.dat?──▶ blocks of whole lines, 1 MiB at a time

Nothing is read whole, so a file may be larger than the memory.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import IO, Any

from ..errors import TraceFormatError

__all__ = ["BLOCK_BYTES", "Progress", "Source"]

BLOCK_BYTES = 1 << 20
Progress = Callable[[int, "int | None"], object]  # bytes read, bytes there are (None of a pipe)

_GZIP = b"\x1f\x8b"
_PROGRAMS = {  # the first bytes of a file: program, arguments that make text of the file named behind them
    b"\x17\x08\x44tracing": ("trace-cmd", ("report", "-i")),
    b"PERFILE2": ("perf", ("script", "-f", "-i")),
}
_PACKED = {b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_MAX_START = 4096  # bytes that tell what a file is
_SMALL_STEP = 64


class Source:
    """The lines of a trace, in blocks; to be walked through once.

    >>> import io
    >>> list(Source(io.StringIO("one\\ntwo")))
    [b'one\\n', b'two']

    Args:
        source: path, "-" for the standard input, or a file open for reading text or bytes.
        progress: called with the bytes read so far and the bytes there are; packed bytes of a packed file.

    Raises:
        TraceFormatError: cannot be read, or is no text; when walked through.
    """

    def __init__(self, source: str | Path | IO[Any], progress: Progress | None = None) -> None:
        self._source = source
        self._progress = progress
        is_file = not isinstance(source, str | Path)
        self.name = str(getattr(source, "name", "trace") if is_file else "standard input" if source == "-" else source)
        self.damage = ""  # why it ended before its end

    def __iter__(self) -> Iterator[bytes]:
        if not isinstance(self._source, str | Path):
            yield from self._lines(self._raw(getattr(self._source, "buffer", self._source), None))
        elif self._source == "-":
            yield from self._lines(self._raw(sys.stdin.buffer, None))
        else:
            path = Path(self._source)
            try:
                with path.open("rb") as file:
                    yield from self._lines(self._raw(file, path.stat().st_size if path.is_file() else None))
            except OSError as error:
                remedy = "name a file that can be read, - for the standard input, or give a folder to open_trace"
                raise TraceFormatError(f"cannot be read: {error.strerror}", where=self.name, remedy=remedy) from None

    def _raw(self, file: Any, total: int | None) -> Iterator[bytes]:
        nr_done = 0
        while data := file.read(BLOCK_BYTES):
            data = data if isinstance(data, bytes) else _encoded(data)
            nr_done += len(data)
            if self._progress is not None:
                self._progress(nr_done, total)
            yield data

    def _lines(self, raw: Iterator[bytes]) -> Iterator[bytes]:
        """Unpack, and cut behind the last line end of each block."""
        left = b""
        for data in self._unpacked(raw):
            whole, newline, rest = data.rpartition(b"\n")
            if newline:
                yield left + whole + newline
                left = rest
            else:
                left += data
            if len(left) > BLOCK_BYTES:
                self.damage = f"a line of more than {BLOCK_BYTES:,} bytes: this is no text"
                return
        if left:
            yield left

    def _unpacked(self, raw: Iterator[bytes]) -> Iterator[bytes]:
        start, raw = _start(raw)
        is_packed = start.startswith(_GZIP)
        if is_packed:
            start, raw = _start(self._gunzipped(raw))
        for magic, (program, arguments) in _PROGRAMS.items():
            if start.startswith(magic):
                return self._from_program(program, arguments, raw, is_copied=is_packed or not self._is_file())
        self._check_is_text(start)
        return raw

    def _is_file(self) -> bool:
        """Tell whether a program can open the source by its name."""
        return isinstance(self._source, str | Path) and Path(self._source).is_file()

    def _check_is_text(self, start: bytes) -> None:
        for magic, name in _PACKED.items():
            if start.startswith(magic):
                raise TraceFormatError(f"packed with {name}", where=self.name, remedy="unpack it, or pack it with gzip")
        refuse_utf_16(self.name, start)
        if b"\0" in start:
            where = f"{self.name} line {start[: start.index(0)].count(10) + 1}"
            remedy = (
                "read the text of the file trace or trace_pipe; trace_pipe_raw holds pages of the ring, whose layout "
                "only the kernel that wrote them knows"
            )
            raise TraceFormatError("binary, not the text of a trace; nothing was kept", where=where, remedy=remedy)

    def _gunzipped(self, raw: Iterator[bytes]) -> Iterator[bytes]:
        """Unpack gzip members one behind the other."""
        unpack = zlib.decompressobj(31)
        data, before = b"", unpack
        try:
            for data in raw:
                while data:
                    if unpack.eof:
                        unpack = zlib.decompressobj(31)
                    before = unpack.copy()
                    yield unpack.decompress(data, BLOCK_BYTES)
                    data = unpack.unused_data.lstrip(b"\0") if unpack.eof else unpack.unconsumed_tail
            yield unpack.flush()
        except zlib.error as error:
            self.damage = f"the gzip stream is damaged ({str(error)[:80]})"
            yield from _before_damage(before, data)
            return
        if not unpack.eof:
            self.damage = "the gzip stream ends in its midst"

    def _from_program(
        self, program: str, arguments: tuple[str, ...], raw: Iterator[bytes], *, is_copied: bool
    ) -> Iterator[bytes]:
        """Let the program that knows the format write it as text; it needs a file of its own for what is not one."""
        found = shutil.which(program)
        command = f"{program} {arguments[0]}"
        if found is None:
            what = f"a data file of {program}, which is not installed here; nothing was kept"
            remedy = f"install {program}, or run `{command}` elsewhere and read the text it prints"
            raise TraceFormatError(what, where=self.name, remedy=remedy)
        with tempfile.NamedTemporaryFile(suffix=".dat") as copy:
            for data in raw if is_copied else ():
                copy.write(data)
            copy.flush()
            path = copy.name if is_copied else str(Path(str(self._source)).absolute())
            yield from self._output([found, *arguments, path], command)

    def _output(self, arguments: list[str], command: str) -> Iterator[bytes]:
        nr_bytes = 0
        with tempfile.TemporaryFile() as errors:
            with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=errors) as run:
                assert run.stdout is not None, "it was asked for"
                with closing(run.stdout) as text:
                    while data := text.read(BLOCK_BYTES):
                        nr_bytes += len(data)
                        yield data
            if run.returncode or not nr_bytes:
                errors.seek(0)
                why = errors.read(400).decode("utf-8", "backslashreplace").strip().partition("\n")[0]
                self.damage = f"`{command}` did not get through the file: {why or 'it does not say why'}"


def refuse_utf_16(name: str, start: bytes) -> None:
    """Refuse a file by its first bytes if it is text in UTF-16.

    Raises:
        TraceFormatError: it is.
    """
    if start.startswith(_UTF_16):
        remedy = "make it UTF-8: iconv -f UTF-16 -t UTF-8"
        raise TraceFormatError("text in UTF-16; nothing was kept", where=f"{name} line 1", remedy=remedy)


def _before_damage(unpack: Any, data: bytes) -> Iterator[bytes]:
    """Unpack what comes before the damage: in small steps, for the step with the damage gives nothing."""
    try:
        while data:
            yield unpack.decompress(data, _SMALL_STEP)
            data = unpack.unconsumed_tail
    except zlib.error:
        return


def _encoded(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace")


def _start(blocks: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """Give the first bytes, and the blocks with those."""
    data = b""
    for block in blocks:
        data += block
        if len(data) >= _MAX_START:
            break

    def again() -> Iterator[bytes]:
        yield data
        yield from blocks

    return data[:_MAX_START], again()
