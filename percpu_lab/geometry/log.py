"""The layout read back from what a kernel wrote to its log while it booted.

    percpu: Embedded 61 pages/cpu s212992 r8192 d28672 u524288        embed; since v5.1 without `@address`
    percpu: 50 4K pages/cpu s181032 r8192 d15576                      page: the unit is that many pages
    pcpu-alloc: s212992 r8192 d28672 u524288 alloc=1*2097152          alloc_size as a multiple of atom_size
    pcpu-alloc: [0] 0 1 2 - [1] 3 4 5 -                               upa units of a group each; `-` has no CPU

The log does not say how far the groups of a NUMA machine are apart. They are laid one behind the other here, each on a
multiple of the atom size; no decision of the allocator depends on it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ..errors import GeometryError
from ..units import PAGE_SIZE, round_up

if TYPE_CHECKING:
    from .info import AllocInfo

_HEAD = re.compile(r"pcpu-alloc: s(\d{1,12}) r(\d{1,12}) d(\d{1,12}) u(\d{1,12}) alloc=(\d{1,9})\*(\d{1,12})\s*$")
_MAP = re.compile(r"pcpu-alloc: ((?:\[\d{1,5}\] (?:(?:\d{1,5}|-{1,8})(?:\s+|$))+)+)$")
_WORDS = re.compile(r"\[(\d+)\]|(\d+)|(-+)")
_EMBED = re.compile(r"percpu: Embedded (\d{1,9}) pages/cpu(?: @\S+)? s(\d{1,12}) r(\d{1,12}) d(\d{1,12}) u(\d{1,12})")
_PAGE = re.compile(r"percpu: (\d{1,9}) (\d{1,5})K pages/cpu(?: @\S+)? s(\d{1,12}) r(\d{1,12}) d(\d{1,12})")
_CPU_IDS = re.compile(r"setup_percpu: .*\bnr_cpu_ids:(\d{1,5})|smpboot: Allowing (\d{1,5}) CPUs")
_BIG_PAGE = 2 << 20  # the atom of x86-64 with big pages

_Sizes = tuple[int, int, int, int, int, int]  # static, reserved, dyn, unit, atom, alloc


def read_alloc_info(lines: Iterable[str], *, nr_cpus: int | None = None) -> tuple[AllocInfo, tuple[str, ...]]:
    """Read the layout from the lines of a kernel log -> the layout, and what was assumed for want of a line.

    >>> info, assumed = read_alloc_info(["pcpu-alloc: s103316 r0 d31852 u135168 alloc=33*4096", "pcpu-alloc: [0] 0 "])
    >>> info, assumed
    (<AllocInfo: unit 132 KiB = static 100.9 KiB + dynamic 31.1 KiB; 1 CPU, 1 unit, 1 group>, ())

    Args:
        lines: without time stamps, other lines among them; of several boots the last counts.
        nr_cpus: possible CPUs, for a log that does not say.

    Raises:
        GeometryError: the lines say nothing of the layout, or something impossible.
    """
    sizes: _Sizes | None = None
    units: list[tuple[int, int | None]] = []
    boot_line: _Sizes | None = None
    for line in lines:
        if head := _HEAD.search(line):
            static, reserved, dyn, unit, atoms, atom = map(int, head.groups())
            sizes, units = (static, reserved, dyn, unit, atom, atoms * atom), []
        elif unit_map := _MAP.search(line):
            units += _units(unit_map[1])
        elif found := _boot_line(line):
            boot_line = found
        elif cpus := _CPU_IDS.search(line):
            nr_cpus = int(cpus[1] or cpus[2])
    assumed: list[str] = []
    if sizes is None:
        sizes = boot_line
        assumed.append("atom_size and alloc_size: the log has no pcpu-alloc line")
    if sizes is None:
        raise GeometryError("no line of the log tells the layout of per-CPU memory", where="kernel log",
                            remedy="keep the lines with `percpu:` and `pcpu-alloc:` of the boot")  # fmt: skip
    if not units:
        units = _units_of_one_group(sizes, nr_cpus)
        assumed.append(f"{nr_cpus} possible CPUs in one group: the log does not show the groups")
    info = _alloc_info(sizes, units)
    if info.nr_groups > 1:
        assumed.append("distances between the groups: the log does not tell them")
    return info, tuple(assumed)


def one_group(sizes: _Sizes, nr_cpus: int) -> AllocInfo:
    """Make a layout of one group from static, reserved, dyn, unit, atom and alloc size in bytes."""
    return _alloc_info(sizes, _units_of_one_group(sizes, nr_cpus))


def _boot_line(line: str) -> _Sizes | None:
    """Read the line of the first chunk; what it does not tell is what x86 kernels choose."""
    if embed := _EMBED.search(line):
        _, static, reserved, dyn, unit = map(int, embed.groups())
        is_trimmed = round_up(static + reserved + dyn, PAGE_SIZE) == unit  # by an atom of one page
        atom = PAGE_SIZE if is_trimmed else max(_BIG_PAGE, unit)
        return static, reserved, dyn, unit, atom, unit if is_trimmed else atom
    if page := _PAGE.search(line):
        nr_pages, page_kib, static, reserved, dyn = map(int, page.groups())
        unit = nr_pages * page_kib * 1024
        return static, reserved, dyn, unit, page_kib * 1024, unit
    return None


def _units(text: str) -> list[tuple[int, int | None]]:
    """Read group and CPU of each unit; a unit that no CPU uses has None."""
    units: list[tuple[int, int | None]] = []
    group = 0
    for number, cpu, _unused in _WORDS.findall(text):
        if number:
            group = int(number)
        else:
            units.append((group, int(cpu) if cpu else None))
    return units


def _units_of_one_group(sizes: _Sizes, nr_cpus: int | None) -> list[tuple[int, int | None]]:
    if nr_cpus is None:
        raise GeometryError("the number of possible CPUs is not known", where="kernel log",
                            remedy="keep the `pcpu-alloc: [0] ...` lines of the boot")  # fmt: skip
    unit, alloc = sizes[3], sizes[5]
    nr_units = round_up(nr_cpus, max(alloc // unit, 1)) if unit else nr_cpus
    return [(0, cpu if cpu < nr_cpus else None) for cpu in range(nr_units)]


def _alloc_info(sizes: _Sizes, units: Sequence[tuple[int, int | None]]) -> AllocInfo:
    from .info import AllocInfo, GroupInfo  # which offers this function as AllocInfo.from_log

    static, reserved, dyn, unit, atom, alloc = sizes
    groups: list[GroupInfo] = []
    base_offset = 0
    for number in sorted({group for group, _ in units}):
        cpu_map = tuple(cpu for group, cpu in units if group == number)
        groups.append(GroupInfo(len(cpu_map), base_offset, cpu_map))
        base_offset += round_up(len(cpu_map) * unit, max(atom, 1))
    cpus = tuple(sorted(cpu for _, cpu in units if cpu is not None))
    return AllocInfo(static, reserved, dyn, unit, atom, alloc, tuple(groups), cpus, up=not static)
