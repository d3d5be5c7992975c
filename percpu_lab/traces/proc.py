"""/proc/meminfo and the pcpu lines of /proc/vmallocinfo, alone or one behind the other in one file.

== meminfo                                                 headings of this kind may part them
Percpu:              864 kB                                populated pages x units; None if there is no such line
== vmallocinfo pcpu
0x0000000016cc1a9d-0x0000000059b3307a 2097152 pcpu_get_vm_areas+0x0/0x1070 vmalloc        a group of a chunk
0x000000008b81c372-0x0000000015de9cee   20480 pcpu_create_chunk+0x4e/0x1b0 pages=4 vmalloc   maps of a chunk
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..geometry import AllocInfo
from ..plain import count
from ..rich import Rich
from .folder import Folder
from .shown import proc_rows, when_read

__all__ = [
    "ProcFile",
    "ProcReading",
    "RingLoss",
    "Rows",
    "VmallocArea",
    "check_chunk_areas",
    "proc_readings",
    "read_proc",
    "read_ring_loss",
]

Rows = tuple[int, int]
_AT_END = ("meminfo.txt", "vmallocinfo-pcpu.txt")

_PERCPU = re.compile(r"^[ \t]*Percpu:[ \t]+(\d{1,15}) kB[ \t\r]*$", re.MULTILINE)
_AREA = re.compile(r"^[ \t]*0x([0-9a-f]{1,16})-0x([0-9a-f]{1,16})[ \t]+(\d{1,15}) (pcpu_\S+)(.*)$", re.MULTILINE)
_RING_CPU = re.compile(r"\bcpu(\d{1,5})\b")
_RING_COUNT = re.compile(r"(overrun|commit overrun|dropped events): (\d{1,18})")
_PAGES = re.compile(r"\bpages=(\d{1,12})")


@dataclass(frozen=True, slots=True)
class VmallocArea(Rich):
    """A line of /proc/vmallocinfo; the addresses may be hashed.

    Args:
        size_bytes: of the area; what pcpu_mem_zalloc asks for has a guard page in it.
        caller: the function that made it.
        nr_pages: behind the area; None where the kernel does not count them, as in the areas of chunks.
    """

    start: int
    end: int
    size_bytes: int
    caller: str
    nr_pages: int | None

    @property
    def is_chunk(self) -> bool:
        """Tell whether it holds units of a chunk, and not an array that describes one."""
        return self.caller.startswith("pcpu_get_vm_areas")


@dataclass(frozen=True, slots=True)
class RingLoss(Rich):
    """What per_cpu/cpuN/stats of tracefs says of events that are gone: on which CPUs, and how many.

    Args:
        cpus: with a loss.
        nr_overwritten: by later events (overrun), nr_dropped: for want of room, of all CPUs.
    """

    cpus: tuple[int, ...]
    nr_overwritten: int
    nr_dropped: int


@dataclass(frozen=True, slots=True)
class ProcFile(Rich):
    """What was read: percpu_kib is the Percpu line of meminfo in KiB, None without one."""

    percpu_kib: int | None
    vmalloc_areas: tuple[VmallocArea, ...]


def read_proc(text: str) -> ProcFile:
    """Read meminfo, vmallocinfo, or a file that holds both; other lines are passed over.

    >>> read_proc("Percpu:              864 kB\\n").percpu_kib
    864
    """
    percpu = _PERCPU.search(text)
    areas = []
    for start, end, size_bytes, caller, rest in _AREA.findall(text):
        pages = _PAGES.search(rest)
        area = VmallocArea(int(start, 16), int(end, 16), int(size_bytes), caller, int(pages[1]) if pages else None)
        areas.append(area)
    return ProcFile(int(percpu[1]) if percpu else None, tuple(areas))


@dataclass(frozen=True, slots=True, repr=False)
class ProcReading(Rich):
    """A reading of /proc/meminfo and /proc/vmallocinfo.

    Args:
        name, number: of the file, NNN-name.txt; those read at the end have the next number.
        percpu_kib: the Percpu line of meminfo, populated pages x units in KiB.
        vmalloc_areas: the pcpu lines of vmallocinfo.
        rows: events before and behind the reading, as of StatsReading.
        file: its name in the folder.
    """

    name: str
    number: int
    percpu_kib: int | None
    vmalloc_areas: tuple[VmallocArea, ...]
    rows: Rows | None
    file: str

    def __repr__(self) -> str:
        nr_chunks = sum(area.is_chunk for area in self.vmalloc_areas)
        percpu = "no Percpu line" if self.percpu_kib is None else f"Percpu {self.percpu_kib:,} KiB"
        return f"<ProcReading {self.name!r}: {percpu}, {count(nr_chunks, 'chunk area')}; read {when_read(self.rows)}>"

    def _html_fields(self) -> list[tuple[str, object]]:
        return list(proc_rows(self))


def proc_readings(folder: Folder, rows: Mapping[tuple[str, int], Rows], end: int | None) -> Iterator[ProcReading]:
    """Read what a folder has of meminfo and vmallocinfo: snap/NNN-name.txt, then the files at its top.

    Args:
        folder: of the recording.
        rows: of the markers around the readings ("SNAP", number).
        end: events of the trace; None if it was cut, and the files at the top were read later.
    """
    number = max((number for _, number in rows), default=-1)
    for file in folder.numbered("snap"):
        text = folder.read(file.path)
        if text is not None:
            number = max(number, file.number)
            yield _reading(folder, [(file.path, text)], file.name, file.number, rows.get(("SNAP", file.number)))
    paths = [path for path in map(folder.find, _AT_END) if path is not None]
    texts = [(path, text) for path in paths if (text := folder.read(path)) is not None]
    if texts:
        yield _reading(folder, texts, "at the end", number + 1, None if end is None else (end, end))


def _reading(folder: Folder, texts: list[tuple[Path, str]], name: str, number: int, rows: Rows | None) -> ProcReading:
    path = texts[0][0]
    found = read_proc("\n".join(text for _, text in texts))
    if found.percpu_kib is None and not found.vmalloc_areas:
        folder.remark(path, "empty", "neither a Percpu line of meminfo nor a pcpu line of vmallocinfo")
    file = path.relative_to(folder.path).as_posix()
    return ProcReading(name, number, found.percpu_kib, found.vmalloc_areas, rows, file)


def read_ring_loss(text: str) -> RingLoss:
    """Read the statistics of a ring, a part for each CPU: `== cpu0`, and a line a count.

    >>> read_ring_loss("== cpu0\\noverrun: 49\\ndropped events: 0\\n== cpu1\\noverrun: 0\\n")
    RingLoss(cpus=(0,), nr_overwritten=49, nr_dropped=0)
    """
    cpu, lost, cpus = 0, Counter[str](), dict[int, None]()
    for line in text.splitlines():
        heading, counter = _RING_CPU.search(line), _RING_COUNT.fullmatch(line.strip())
        if heading:
            cpu = int(heading[1])
        elif counter and int(counter[2]):
            lost[counter[1]] += int(counter[2])
            cpus[cpu] = None
    return RingLoss(tuple(cpus), lost["overrun"], lost["commit overrun"] + lost["dropped events"])


def check_chunk_areas(areas: tuple[VmallocArea, ...], info: AllocInfo, nr_chunks: int | None = None) -> tuple[str, ...]:
    """Compare the areas of chunks with the layout -> what does not fit, in words.

    Each chunk but the first has one area for each group, of the size of its units.

    Args:
        areas: of one reading of vmallocinfo.
        info: the layout.
        nr_chunks: as percpu_stats counts them, the first one included; None if it is not known.
    """
    sizes = Counter(group.nr_units * info.unit_size for group in info.groups)
    found = Counter(area.size_bytes for area in areas if area.is_chunk)
    wrong = [f"an area of {size:,} bytes, which no group has" for size in sorted(found) if size not in sizes]
    counts = {found[size] / nr for size, nr in sizes.items()}
    if len(counts) > 1 or any(count % 1 for count in counts):
        wrong.append("the groups do not have the same number of areas")
    elif nr_chunks is not None and counts != {nr_chunks - 1}:
        wrong.append(f"{int(counts.pop())} areas for each group, where {nr_chunks - 1} chunks lie beside the first")
    return tuple(wrong)
