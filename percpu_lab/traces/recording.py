"""Everything that was recorded of one run of a kernel, opened in one call.

    folder                     Recording
    trace.txt, trace-nohash..  trace      the events; true addresses where both are there, gfp_flags from the hashed one
    percpu_early.txt           early      calls before the first event, with the identities of the trace
    ringbuffer-stats.txt       oddities   events that the ring lost
    uname.txt, dmesg.txt       release, kernel, geometry, dmesg
    case.json, printk.txt,     the same of a simulated run
    stats.txt
    stats/NNN-name.txt         stats      percpu_stats, and between which events it was read
    snap/NNN-name.txt          proc       meminfo and vmallocinfo, likewise
    meminfo.txt, vmallocinfo-pcpu.txt     the same, read behind the last event

Markers place the readings: STATS_BEGIN NNN name and STATS_END NNN name, SNAP_BEGIN and SNAP_END. A snap without
SNAP_BEGIN was taken behind the STATS_END of its number.

>>> open_trace("no/such/folder")
Traceback (most recent call last):
percpu_lab.errors.TraceFormatError: no/such/folder: there is no such file or folder; name a trace or a folder with one
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core import layout as L
from ..errors import GeometryError, LabError, TraceFormatError
from ..geometry import AllocInfo, Geometry
from ..kernels import V6_1, KernelVersion, kernel_for_release
from ..plain import count
from ..rich import Rich
from ..stats import PercpuStats, StatsText, read_stats_texts
from .consistency import early_remarks, log_remarks, reading_remarks
from .dmesg import Dmesg, read_dmesg
from .early import early_calls, with_columns, with_lost
from .folder import Folder, NumberedFile, Remark
from .given import Given
from .proc import ProcReading, Rows, proc_readings, read_ring_loss
from .read import MAX_EVENTS, read_trace
from .recorded import Marker, RecordedTrace
from .shown import recording_rows, stats_rows, when_read
from .simulated import geometry_of_case, kernel_of_events, log_text, op_of_title, quiet_ops, rows_of_op

__all__ = ["CHOSEN_ADDRESSES", "ProcReading", "Recording", "StatsReading", "open_trace", "read_stats_folder"]

CHOSEN_ADDRESSES = "addresses of chunks: the kernel keeps them to itself"  # assumed of every recording
_INPUT = Path("-")
_LOGS = ("dmesg.txt", "dmesg.log", "dmesg")
_CUT = ("boots", "cut", "damaged", "incomplete", "limit", "mix")  # oddities: events are missing at the end
_SIMULATED_LOG, _READINGS = "printk.txt", "stats.txt"
_MARKER = re.compile(r"(STATS|SNAP)_(BEGIN|END) (\d{1,9})(?: (.*))?")
_64_BIT = ("x86_64", "aarch64", "ppc64", "ppc64le", "s390x", "riscv64", "loongarch64", "alpha", "sparc64", "mips64")


@dataclass(frozen=True, slots=True, repr=False)
class StatsReading(Rich):
    """A reading of percpu_stats.

    Args:
        name, number: of the file, NNN-name.txt.
        stats: what stood in it.
        rows: events before STATS_BEGIN and before STATS_END: it was read between the two. None without markers.
        file: its name in the folder.
    """

    name: str
    number: int
    stats: PercpuStats
    rows: Rows | None
    file: str

    def __repr__(self) -> str:
        numbers = repr(self.stats).partition(": ")[2].removesuffix(">")
        return f"<StatsReading {self.name!r}: {numbers}; read {when_read(self.rows)}>"

    def _html_fields(self) -> list[tuple[str, object]]:
        return list(stats_rows(self))


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Recording(Rich):
    """A recording, with everything that was in its folder.

    Args:
        name: of the folder or file.
        path: of the folder or file.
        trace: the events.
        early: calls made before the tracepoints were on; None if they were not kept.
        release: as `uname -r` says it; None if nothing tells.
        kernel: the row of kernels.py for it.
        geometry: as the kernel's log tells; the addresses are chosen, for the log does not tell them.
        dmesg: the kernel log.
        stats, proc: the readings, by their numbers.
        pointer_bytes: size of a pointer, 4 or 8; None if nothing tells.
        accounts_memcg: bytes_alloc has the bytes for accounting in it; None if the events do not say, or contradict
            each other.
        quiet_ops: ops of a simulated run that left the allocator alone: readings, and requests it refused.
        assumptions: what was chosen for want of knowledge.
        oddities: what is missing, damaged or strange, with file and line.
    """

    name: str
    path: Path
    trace: RecordedTrace
    early: RecordedTrace | None = None
    release: str | None = None
    kernel: KernelVersion | None = None
    geometry: Geometry | None = None
    dmesg: Dmesg | None = None
    stats: tuple[StatsReading, ...] = ()
    proc: tuple[ProcReading, ...] = ()
    pointer_bytes: int | None = None
    accounts_memcg: bool | None = None
    quiet_ops: tuple[int, ...] = ()
    assumptions: tuple[str, ...] = ()
    oddities: tuple[Remark, ...] = ()

    @property
    def is_32bit(self) -> bool:
        """Tell whether the kernel is known to be a 32-bit one."""
        return self.pointer_bytes == 4

    def __repr__(self) -> str:
        parts = [f"{len(self.trace):,} events"]
        parts += [f"{len(self.early):,} early calls"] if self.early is not None else []
        parts += [f"{len(self.stats)} percpu_stats"] if self.stats else []
        parts += [f"{count(len(self.oddities), 'oddity', 'oddities')}"] if self.oddities else []
        return f"<Recording {self.name!r}, kernel {self.release or 'unknown'}: {', '.join(parts)}>"

    def _html_fields(self) -> list[tuple[str, object]]:
        return list(recording_rows(self))


def open_trace(
    path: str | Path,
    *,
    geometry: AllocInfo | str | None = None,
    release: str | None = None,
    dmesg: str | Path | None = None,
    stats: str | Path | None = None,
    limit: int = MAX_EVENTS,
    progress: Callable[..., Any] | None = None,
) -> Recording:
    """Open a recording: a folder with all that is in it, or a trace file alone.

    A file alone tells neither the layout of per-CPU memory nor the release; both may be given. What is given goes
    before what is found.

    Args:
        path: the folder or file; "-" for the standard input.
        geometry: the layout, or words for it: "s212992 r8192 d28672 u524288 cpus=4" (see given.py).
        release: of the kernel, as `uname -r` says it.
        dmesg: path of the kernel's log, which tells layout, release, and why requests failed.
        stats: path of readings of percpu_stats, which tell the layout but for the CPUs (geometry="cpus=4").
        limit: of events that are kept, as of read_trace.
        progress: called while the trace is read, as read_trace does.

    Raises:
        TraceFormatError: there is nothing there, or no trace in it.
        GeometryError: the words for the layout do not tell it.
    """
    path, given = Path(path), Given(geometry, release, dmesg, stats)
    files = given.files()
    if path.is_dir():
        return _Reader(Folder(path, files), given, limit, progress).recording()
    if not path.exists() and path != _INPUT:
        raise TraceFormatError("there is no such file or folder", where=str(path),
                               remedy="name a trace or a folder with one")  # fmt: skip
    alone = Folder(path, {"trace.txt": path, **files}, is_alone=True)
    return _Reader(alone, given, limit, progress).recording()


def read_stats_folder(path: str | Path) -> tuple[tuple[StatsReading, ...], tuple[Remark, ...]]:
    """Read the percpu_stats files of a folder that need not have a trace -> readings, and what is odd about them.

    Args:
        path: a folder with stats/NNN-name.txt in it.
    """
    folder = Folder(Path(path))
    return tuple(_stats_readings(folder, {})), tuple(folder.remarks)


class _Reader:
    """Reads the files of a recording one by one; what is wrong with one keeps none of the others back."""

    def __init__(self, folder: Folder, given: Given, limit: int, progress: Callable[..., Any] | None) -> None:
        self._folder = folder
        self._given = given
        self._layout = given.layout()
        self._limit = limit
        self._progress = progress
        self._assumptions: list[str] = []

    def recording(self) -> Recording:
        folder = self._folder
        trace = self._trace()
        rows = _marker_rows(trace.markers)
        log_path, dmesg = self._log()
        uname = (folder.text("uname.txt") or "").split()
        case = geometry_of_case(folder)
        release = self._given.release or (uname[2] if len(uname) > 2 else dmesg.release if dmesg else None)
        release = release or self._simulated_release(case, trace)
        kernel = kernel_for_release(release) if release else None
        if kernel is None and (release or not folder.is_alone):
            folder.remark("uname.txt", "missing", _unknown_release(release))
        stats = (*_stats_readings(folder, rows), *_simulated_readings(folder, trace))
        proc = tuple(proc_readings(folder, rows, None if _is_cut(trace) else len(trace)))
        geometry = self._geometry(dmesg, stats, kernel, case)
        nr_cpus = geometry.info.nr_cpus if geometry else self._nr_cpus()
        pointer_bytes = _pointer_bytes(uname) or trace.pointer_bytes
        pointer_bytes, accounts_memcg = self._accounting(trace, nr_cpus, pointer_bytes)
        trace = with_lost(trace, self._ring_loss())
        folder.remarks += log_remarks(log_path.name, dmesg, release) if dmesg and log_path else ()
        folder.remarks += reading_remarks(stats, proc, geometry.info if geometry else None)
        return Recording(
            name=_name_of(folder),
            path=folder.path,
            trace=trace,
            early=self._early(trace),
            release=release,
            kernel=kernel,
            geometry=geometry,
            dmesg=dmesg,
            stats=stats,
            proc=proc,
            pointer_bytes=pointer_bytes,
            accounts_memcg=accounts_memcg,
            quiet_ops=quiet_ops(folder, trace, [reading.number for reading in stats]),
            assumptions=tuple(self._assumptions),
            oddities=tuple(folder.remarks),
        )

    def _log(self) -> tuple[Path | None, Dmesg | None]:
        """Read the kernel log, or that of a simulated run."""
        path = self._folder.find(*_LOGS, _SIMULATED_LOG)
        text = self._folder.read(path) if path is not None else None
        if path is None or text is None:
            return path, None
        return path, read_dmesg(log_text(text) if path.name.startswith(_SIMULATED_LOG) else text)

    def _simulated_release(self, case: Geometry | None, trace: RecordedTrace) -> str | None:
        """Give the release that was simulated."""
        kernel = case.kernel if case is not None else kernel_of_events(trace)
        if kernel is not None and case is None:
            self._assumptions.append(f"the kernel is {kernel.release}: the fields of its events tell")
        return kernel.release.removeprefix("v") if kernel is not None else None

    def _trace(self) -> RecordedTrace:
        path, plain_path = self._folder.trace()
        try:
            trace = self._read(path)
        except LabError as error:
            if plain_path is None:
                raise
            self._folder.remark(path, "unreadable", f"{error.what}; the other reading of the ring was used")
            path, plain_path = plain_path, None
            trace = self._read(path)
        if plain_path is not None:
            trace, path = self._with_true_addresses(trace, path, plain_path)
        self._folder.remarks += _trace_remarks("standard input" if path == _INPUT else path.name, trace)
        return trace

    def _read(self, path: Path) -> RecordedTrace:
        return read_trace("-" if path == _INPUT else path, limit=self._limit, progress=self._progress)

    def _with_true_addresses(self, hashed: RecordedTrace, path: Path, plain_path: Path) -> tuple[RecordedTrace, Path]:
        """Join the two readings of one ring, if that is what they are."""
        try:
            plain = self._read(plain_path)
        except LabError as error:
            self._folder.remark(plain_path, "unreadable", f"{error.what}; addresses stay hashed")
            return hashed, path
        row = _first_difference(hashed, plain)
        nr = min(len(hashed), len(plain))
        if row < nr:
            what = f"not the ring that {path.name} shows: other events from number {row}; it was not used"
            self._folder.remark(plain_path, "another ring", what, line=int(plain.line[row]))
            return hashed, path
        if len(hashed) != len(plain):
            shorter = plain_path if len(plain) == nr else path
            what = f"{nr:,} of the {max(len(hashed), len(plain)):,} events of the other reading of the ring"
            self._folder.remark(shorter, "cut", what)
        if len(hashed) > nr:
            return hashed, path
        gfp_flags = np.concatenate([hashed.gfp_flags, plain.gfp_flags[nr:]])
        return with_columns(plain, gfp_flags=gfp_flags), plain_path

    def _ring_loss(self) -> int:
        """Note and count what the ring's own statistics say is gone: a text read from trace_pipe, or cut, may not."""
        text = self._folder.text("ringbuffer-stats.txt")
        loss = read_ring_loss(text) if text else None
        if loss is None:
            return 0
        if loss.cpus:
            where = ", ".join(map(str, loss.cpus))
            what = f"{loss.nr_overwritten:,} events overwritten and {loss.nr_dropped:,} dropped, on CPU {where}"
            self._folder.remark("ringbuffer-stats.txt", "ring", what)
        return loss.nr_overwritten + loss.nr_dropped

    def _early(self, trace: RecordedTrace) -> RecordedTrace | None:
        path = self._folder.find("percpu_early.txt")
        if path is None:
            return None
        try:
            as_read = read_trace(path)
            early, problem = early_calls(as_read, trace)
        except LabError as error:
            self._folder.remark(path, "unreadable", f"{error.what}; the early calls are missing")
            return None
        self._folder.remarks += (*early_remarks(path.name, as_read.header, len(early)),
                                 *_trace_remarks(path.name, as_read))  # fmt: skip
        if problem:
            self._folder.remark(path, "identities", problem)
        return early

    def _geometry(self, dmesg: Dmesg | None, stats: tuple[StatsReading, ...], kernel: KernelVersion | None,
                  case: Geometry | None) -> Geometry | None:  # fmt: skip
        """Work the geometry out from what was given, a case, the log, or percpu_stats and the count of CPUs."""
        info = self._info_as_given()
        if info is None and case is not None and case.kernel == kernel:
            return case
        info = info or self._info_from_log(dmesg) or self._info_from_stats(stats)
        if info is None:
            if not self._folder.is_alone:
                self._folder.remark("dmesg.txt", "missing", "nothing tells the layout of per-CPU memory")
            return None
        self._assumptions.append(CHOSEN_ADDRESSES)
        if kernel is None:
            self._assumptions.append(f"the kernel is one like {V6_1.release}: nothing tells its release")
        try:
            return Geometry.from_info(info, backing="km" if info.up else "vm", kernel=kernel or V6_1)
        except GeometryError as error:
            self._folder.remark("dmesg.txt", "geometry", f"{error}; there is no geometry")
            return None

    def _info_as_given(self) -> AllocInfo | None:
        if self._layout.info is not None:
            self._assumptions += ("the layout of per-CPU memory is the one that was given", *self._layout.assumptions)
        return self._layout.info

    def _info_from_log(self, dmesg: Dmesg | None) -> AllocInfo | None:
        if dmesg is None:
            return None
        lines = [line.text for line in dmesg.geometry_lines]
        try:
            info, assumed = AllocInfo.from_log(lines, nr_cpus=self._nr_cpus())
        except GeometryError as error:
            self._folder.remark("dmesg.txt", "geometry", error.what)
            return None
        self._assumptions += assumed
        return info

    def _info_from_stats(self, stats: tuple[StatsReading, ...]) -> AllocInfo | None:
        nr_cpus = self._nr_cpus()
        if not stats:
            return None
        if nr_cpus is None:
            text = "percpu_stats does not tell the possible CPUs, and nothing else does: the layout is not known"
            self._folder.remark(stats[0].file, "geometry", f"{text}; give geometry='cpus=4'")
            return None
        sizes = stats[0].stats.alloc_info
        try:
            info = AllocInfo.one_group(sizes.static_size, sizes.reserved_size, sizes.dyn_size, sizes.unit_size,
                                       sizes.atom_size, sizes.alloc_size, nr_cpus=nr_cpus)  # fmt: skip
        except GeometryError as error:
            self._folder.remark(stats[0].file, "geometry", str(error))
            return None
        told = "as given" if self._layout.nr_cpus else "only the online ones are known"
        self._assumptions.append(f"{nr_cpus} possible CPUs in one group: {told}")
        return info

    def _nr_cpus(self) -> int | None:
        if self._layout.nr_cpus is not None:
            return self._layout.nr_cpus
        count = (self._folder.text("cpucount.txt") or "").strip()
        return int(count) if count.isdecimal() and len(count) < 6 else None

    def _accounting(self, trace: RecordedTrace, nr_cpus: int | None,
                    pointer_bytes: int | None) -> tuple[int | None, bool | None]:  # fmt: skip
        """Find out what bytes_alloc holds beside size x possible CPUs: size / 4 pointers, or nothing.

        Source: pcpu_obj_full_size, v5.19 and later.
        """
        told = (trace.event == L.EVENT_ALLOC) & (trace.bytes_alloc >= 0)
        if nr_cpus is None or not told.any():
            return pointer_bytes, None
        more = trace.bytes_alloc[told] - trace.size[told] * nr_cpus
        agrees = {size: more == trace.size[told] // 4 * size for size in (0, 4, 8)}
        size = max(agrees, key=lambda size: int(agrees[size].sum()))
        strange = np.flatnonzero(~agrees[size])
        if len(strange):
            text = f"{len(strange):,} times not size x {nr_cpus} CPUs with {size} bytes of accounting for 4"
            self._folder.remark(Path(trace.source).name, "bytes_alloc", text, line=int(trace.line[told][strange[0]]))
        if len(strange) * 10 > len(more):
            return pointer_bytes, None
        return pointer_bytes or size or None, size > 0


def _name_of(folder: Folder) -> str:
    if folder.path == _INPUT:
        return "standard input"
    return folder.path.name if folder.is_alone else folder.path.resolve().name


def _unknown_release(release: str | None) -> str:
    return f"no kernel is known for release {release[:80]!r}" if release else "nothing tells the release of the kernel"


def _pointer_bytes(uname: list[str]) -> int | None:
    if any(machine in uname for machine in _64_BIT):
        return 8
    is_32_bit = any(re.fullmatch(r"i[3-6]86|armv[5-8]l|ppc|mips|riscv32", word) for word in uname)
    return 4 if is_32_bit else None


def _first_difference(one: RecordedTrace, other: RecordedTrace) -> int:
    """Find the first event in which two readings of a ring differ, beside addresses; their number if none does."""
    nr = min(len(one), len(other))
    differs = np.zeros(nr, bool)
    for name in ("event", "off", "size", "align", "time", "cpu", "pid"):
        differs |= getattr(one, name)[:nr] != getattr(other, name)[:nr]
    return int(np.argmax(differs)) if differs.any() else nr


def _marker_rows(markers: tuple[Marker, ...]) -> dict[tuple[str, int], Rows]:
    """Find between which events each reading was made, by kind and number."""
    seen: dict[tuple[str, str, int], int] = {}
    for marker in markers:
        if match := _MARKER.fullmatch(marker.text.strip()):
            seen[match[1], match[2], int(match[3])] = marker.row
    rows = {}
    for kind, edge, number in seen:
        if edge == "END":
            behind_stats = seen.get(("STATS", "END", number)) if kind == "SNAP" else None
            begin = seen.get((kind, "BEGIN", number), behind_stats)
            if begin is not None:
                rows[kind, number] = (begin, seen[kind, edge, number])
    return rows


def _stats_readings(folder: Folder, rows: dict[tuple[str, int], Rows]) -> Iterator[StatsReading]:
    for file, text in _texts(folder, "stats"):
        for found in _stats_texts(folder, file.path, text)[:1]:
            name = file.path.relative_to(folder.path).as_posix()
            yield StatsReading(file.name, file.number, found.stats, rows.get(("STATS", file.number)), name)
    path = folder.find("percpu_stats.txt", "percpu_stats")
    loose = folder.read(path) if path else None
    if path and loose:
        for number, found in enumerate(_stats_texts(folder, path, loose)):
            yield StatsReading(found.title or path.name, number, found.stats, None, path.name)


def _simulated_readings(folder: Folder, trace: RecordedTrace) -> Iterator[StatsReading]:
    path, text = folder.find(_READINGS), folder.text(_READINGS)
    for found in _stats_texts(folder, path, text) if path and text else ():
        op = op_of_title(trace, found.title)
        if path and op is not None:
            name = f"{path.name} {found.title}"
            yield StatsReading(name, op, found.stats, rows_of_op(trace, op), name)


def _stats_texts(folder: Folder, path: Path, text: str) -> tuple[StatsText, ...]:
    """Read the percpu_stats of a text; none if it is damaged, which becomes a remark."""
    try:
        return read_stats_texts(text)
    except TraceFormatError as error:
        line = re.search(r"line (\d+)$", error.where)
        folder.remark(path, "unreadable", f"{error.what}; left out", line=int(line[1]) if line else None)
        return ()


def _texts(folder: Folder, name: str) -> Iterator[tuple[NumberedFile, str]]:
    for file in folder.numbered(name):
        text = folder.read(file.path)
        if text is not None:
            yield file, text


def _is_cut(trace: RecordedTrace) -> bool:
    """Tell whether the end of what was read is not the end of what was recorded."""
    return any(oddity.kind in _CUT for oddity in trace.oddities)


def _trace_remarks(name: str, trace: RecordedTrace) -> Iterator[Remark]:
    for oddity in trace.oddities:
        yield Remark(name, oddity.line, oddity.kind, oddity.text)
