"""What a user says of a trace that has no folder around it: the layout, the release, and files that lie elsewhere.

"s212992 r8192 d28672 u524288 cpus=4"      the words of the boot line `percpu: Embedded ...`, and the possible CPUs
"s.. r.. d.. u.. alloc=1*2097152 cpus=4"   those of the boot line `pcpu-alloc: ...`
"percpu: 50 4K pages/cpu s.. r.. d.. ..."  boot lines whole, with `pcpu-alloc: [0] 0 1 ...` or cpus=
"cpus=4"                                   the CPUs alone: percpu_stats tells the sizes, but not these
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import GeometryError, TraceFormatError
from ..geometry import AllocInfo

__all__ = ["NEEDED", "Given", "GivenLayout", "read_layout"]

#: what to do where the layout is not known
NEEDED = (
    "give the kernel's log (--dmesg FILE), or percpu_stats with the possible CPUs (--stats FILE --geometry cpus=4), "
    'or the words of the boot line (--geometry "s212992 r8192 d28672 u524288 cpus=4")'
)
_NO_ALLOC = "atom_size and alloc_size are what x86 kernels choose: alloc= was not given"
_CPUS = re.compile(r"\bcpus=(\d{1,5})\b")
_WORD = re.compile(r"(?:([srdu])(\d{1,12})|(alloc=)(\d{1,9}\*\d{1,12}))")
_BOOT_LINE = re.compile(r"percpu:|pcpu-alloc:")


@dataclass(frozen=True, slots=True)
class GivenLayout:
    """The layout in words: what it says, and what was assumed for want of a word.

    Args:
        info: None if the words tell the CPUs alone.
        nr_cpus: possible CPUs, None if they were not given.
        assumptions: in words.
    """

    info: AllocInfo | None
    nr_cpus: int | None
    assumptions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Given:
    """All that a user may say; each goes before what is found beside the trace.

    Args:
        geometry: a layout, or the words for one.
        release: of the kernel, as `uname -r` says it.
        dmesg: path of the kernel's log.
        stats: path of readings of percpu_stats.
    """

    geometry: AllocInfo | str | None = None
    release: str | None = None
    dmesg: str | Path | None = None
    stats: str | Path | None = None

    def layout(self) -> GivenLayout:
        """Read what was said of the layout.

        Raises:
            GeometryError: the words do not say it.
        """
        if isinstance(self.geometry, str):
            return read_layout(self.geometry)
        return GivenLayout(self.geometry, self.geometry.nr_cpus if self.geometry else None)

    def files(self) -> dict[str, Path]:
        """Give the files by the names that they would have beside the trace.

        Raises:
            TraceFormatError: one is not there.
        """
        files = {name: Path(path) for name, path in (("dmesg.txt", self.dmesg), ("percpu_stats.txt", self.stats))
                 if path is not None}  # fmt: skip
        for path in files.values():
            if not path.exists() or path.is_dir():
                raise TraceFormatError("there is no such file", where=str(path), remedy="name a file that can be read")
        return files


def read_layout(text: str) -> GivenLayout:
    """Read the layout from words of the boot lines, in any order.

    >>> read_layout("s212992 r8192 d28672 u249856 cpus=4").info
    <AllocInfo: unit 244 KiB = static 208 KiB + reserved 8 KiB + dynamic 28 KiB; 4 CPUs, 4 units, 1 group>
    >>> read_layout("cpus=4")
    GivenLayout(info=None, nr_cpus=4, assumptions=())

    Args:
        text: words, or whole lines of the kernel's log.

    Raises:
        GeometryError: a word is missing or not known, or the layout is impossible.
    """
    cpus = _CPUS.search(text)
    nr_cpus = int(cpus[1]) if cpus else None
    if cpus and not int(cpus[1]):
        raise _wrong("no machine has 0 CPUs")
    rest = _CPUS.sub("", text)
    if not rest.strip() and nr_cpus:
        return GivenLayout(None, nr_cpus)
    lines = rest.splitlines() if _BOOT_LINE.search(rest) else [_boot_line(rest)]
    try:
        info, assumed = AllocInfo.from_log(lines, nr_cpus=nr_cpus)
    except GeometryError as error:
        raise _wrong("cpus= is missing" if nr_cpus is None and not _BOOT_LINE.search(rest) else error.what) from None
    if not _BOOT_LINE.search(rest):
        assumed = (f"{nr_cpus} possible CPUs in one group", *(() if "alloc=" in rest else (_NO_ALLOC,)))
    return GivenLayout(info, nr_cpus or info.nr_cpus, assumed)


def _boot_line(text: str) -> str:
    """Make the line of a log from its words."""
    words = {}
    for word in text.replace(",", " ").split():
        found = _WORD.fullmatch(word)
        if found is None:
            raise _wrong(f"not a word of a boot line: {word[:40]!r}")
        words[found[1] or found[3]] = word
    missing = [f"{name}BYTES" for name in "srdu" if name not in words]
    if missing:
        raise _wrong(f"missing: {', '.join(missing)}")
    head = "pcpu-alloc:" if "alloc=" in words else "percpu: Embedded 0 pages/cpu"
    return " ".join([head, *_in_order(words)])


def _in_order(words: dict[str, str]) -> Iterable[str]:
    return (words[name] for name in ("s", "r", "d", "u", "alloc=") if name in words)


def _wrong(what: str) -> GeometryError:
    return GeometryError(what, where="geometry", remedy='write "s212992 r8192 d28672 u524288 cpus=4"')
