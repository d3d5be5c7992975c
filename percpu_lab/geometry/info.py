"""What the kernel calls pcpu_alloc_info: how big a unit is, and which CPU lives in which unit.

    chunk      group 0                          group 1
               | unit 0 | unit 1 | unit 2 |     | unit 3 | unit 4 | unit 5 |
    cpu_map    |  cpu 0 |  cpu 1 |   -    |     |  cpu 2 |  cpu 3 |   -    |
               ^ base_offset 0                  ^ base_offset

    unit       | static | reserved | dynamic | unused |
               0                               unit_size

1. A possible CPU has exactly one unit.
2. static_size + reserved_size + dyn_size <= unit_size.
3. The unit count of each group is a multiple of upa = alloc_size / unit_size.
"""

from __future__ import annotations

import itertools
import operator
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import GeometryError
from ..kernels import V4_13, KernelVersion
from ..rich import Rich
from ..units import KIB, MIB, PAGE_SIZE, format_bytes
from .dump import dump_alloc_info
from .html import layout_html
from .log import one_group, read_alloc_info

if TYPE_CHECKING:
    from .addresses import BootMemory
    from .build import Topology

PCPU_MIN_UNIT_SIZE = 32 * KIB
PERCPU_DYNAMIC_RESERVE = 28 * KIB
PERCPU_MODULE_RESERVE = 8 * KIB
_LEAST_STATIC_SIZE = 256
LOCAL_DISTANCE = 10
REMOTE_DISTANCE = 20

# Limits of this package, not of the kernel: they keep a damaged case from taking all memory.
MAX_CPUS = 8192
MAX_UNIT_SIZE = 16 * MIB
MAX_ALLOC_SIZE = 1 << 30
MAX_SPAN = 1 << 40
MAX_ADDRESS = (1 << 64) - 1


def shown(value: object) -> str:
    """Write any value for an error message, short even if it is enormous."""
    if isinstance(value, int) and value.bit_length() > 64:
        return f"a number of {value.bit_length():,} bits"
    return reprlib.repr(value)


def whole_number(name: str, value: object, *, low: int = 0, high: int = MAX_ADDRESS) -> int:
    """Take a whole number in a range.

    >>> whole_number("unit_size", 4096, high=65536)
    4096
    >>> whole_number("unit_size", -1)
    Traceback (most recent call last):
    percpu_lab.errors.GeometryError: unit_size: -1 is below 0; give 0 or more

    Raises:
        GeometryError: names the quantity.
    """
    try:
        number = operator.index(value) if not isinstance(value, bool) else None  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None:
        raise GeometryError(f"{shown(value)} is not a whole number", where=name, remedy="give an int")
    if number < low:
        raise GeometryError(f"{shown(number)} is below {low:,}", where=name, remedy=f"give {low:,} or more")
    if number > high:
        raise GeometryError(f"{shown(number)} is more than {high:,}", where=name, remedy=f"give {high:,} or less")
    return number


def cpu_ids(cpus: int | Sequence[int]) -> tuple[int, ...]:
    """Give the ids of the possible CPUs in rising order: a count stands for 0, 1, ...

    >>> cpu_ids(3), cpu_ids([4, 0])
    ((0, 1, 2), (0, 4))

    Raises:
        GeometryError: no CPU, too many, or one twice.
    """
    cpus = getattr(cpus, "tolist", lambda: cpus)()  # of NumPy
    if isinstance(cpus, Sequence):
        whole_number("number of CPUs", len(cpus), low=1, high=MAX_CPUS)
        ids = sorted(whole_number("CPU id", cpu, high=MAX_CPUS - 1) for cpu in cpus)
    else:
        ids = list(range(whole_number("number of CPUs", cpus, low=1, high=MAX_CPUS)))
    for cpu, following in itertools.pairwise(ids):
        if cpu == following:
            raise GeometryError(f"CPU {cpu} is given twice", where="possible CPUs", remedy="name each CPU once")
    return tuple(ids)


@dataclass(frozen=True, slots=True, repr=False)
class GroupInfo(Rich):
    """One group of units that lie back to back, for CPUs near each other (pcpu_group_info, spec 1.1).

    >>> GroupInfo(nr_units=4, base_offset=0, cpu_map=(0, 1, 2, None))
    <GroupInfo: 4 units at +0x0, cpus 0 1 2 ->

    Args:
        nr_units: units in the group, used or not.
        base_offset: bytes from the chunk's base address.
        cpu_map: the CPU of each unit, None for a unit without a CPU.

    Raises:
        GeometryError: `cpu_map` does not have `nr_units` entries, or a value is no possible count, offset or CPU.
    """

    nr_units: int
    base_offset: int
    cpu_map: tuple[int | None, ...]

    def __post_init__(self) -> None:
        whole_number("nr_units", self.nr_units, low=1, high=4 * MAX_CPUS)
        whole_number("base_offset", self.base_offset, high=MAX_SPAN)
        for cpu in self.cpu_map:
            if cpu is not None:
                whole_number("cpu_map", cpu)
        if len(self.cpu_map) != self.nr_units:
            raise GeometryError(f"{len(self.cpu_map)} entries for {self.nr_units} units", where="cpu_map",
                                remedy="give one CPU, or None, for each unit")

    def __repr__(self) -> str:
        cpus = " ".join("-" if cpu is None else str(cpu) for cpu in self.cpu_map)
        return f"<GroupInfo: {self.nr_units} units at +{self.base_offset:#x}, cpus {cpus}>"


@dataclass(frozen=True, slots=True, repr=False)
class AllocInfo:
    """The layout of all chunks of a machine (pcpu_alloc_info, spec 1.1); sizes in bytes.

    >>> group = GroupInfo(nr_units=2, base_offset=0, cpu_map=(0, 1))
    >>> info = AllocInfo(8192, 0, 24576, 32768, 4096, 32768, (group,), (0, 1))
    >>> info
    <AllocInfo: unit 32 KiB = static 8 KiB + dynamic 24 KiB; 2 CPUs, 2 units, 1 group>
    >>> info.unit_offset
    {0: 0, 1: 32768}

    Args:
        static_size: the per-CPU variables of the kernel itself.
        reserved_size: kept for the per-CPU variables of modules.
        dyn_size: what the first chunk has for everybody else.
        unit_size: one CPU's share of a chunk.
        atom_size: alignment and granularity of the memory behind a chunk.
        alloc_size: a multiple of atom_size that holds `upa` units.
        groups: in the order of their unit numbers.
        possible_cpus: their ids in rising order, perhaps with gaps.
        up: the layout of a kernel without SMP, which has no static part.
        page_size: of the machine; what else than 4 KiB is for comparisons alone (comparison/pages.py).

    Raises:
        GeometryError: a size is no size, or a CPU is named twice. What pcpu_setup_first_chunk checks, `validate` does.
    """

    static_size: int
    reserved_size: int
    dyn_size: int
    unit_size: int
    atom_size: int
    alloc_size: int
    groups: tuple[GroupInfo, ...]
    possible_cpus: tuple[int, ...]
    up: bool = False
    page_size: int = PAGE_SIZE

    @classmethod
    def embed(cls, static_size: int, *, cpus: int | Sequence[int] | Topology = 4,
              reserved_size: int = PERCPU_MODULE_RESERVE, dyn_size: int = PERCPU_DYNAMIC_RESERVE,
              atom_size: int = PAGE_SIZE, memory: BootMemory | None = None, vmalloc_size: int | None = None,
              page_built_in: bool = False, backing: str = "vm", kernel: KernelVersion = V4_13) -> AllocInfo:
        """Lay chunks out as pcpu_embed_first_chunk does.

        >>> AllocInfo.embed(28672, cpus=2, dyn_size=28672)
        <AllocInfo: unit 64 KiB = static 28 KiB + reserved 8 KiB + dynamic 28 KiB; 2 CPUs, 2 units, 1 group>

        Args:
            static_size: bytes of the kernel's own per-CPU variables; a few bytes are a mistake and refused.
            cpus, reserved_size, dyn_size, atom_size, memory, vmalloc_size, page_built_in, backing, kernel: as for
                Geometry.embed, which keeps the boot log and the base address too.

        Raises:
            GeometryError: see Geometry.embed.
        """
        from .first_chunk import VMALLOC_SIZE, Geometry  # which is made of this class

        if 0 < whole_number("static_size", static_size) < _LEAST_STATIC_SIZE:
            raise GeometryError(f"{static_size} bytes are less than any kernel's own per-CPU variables",
                                where="static_size", remedy="give bytes, such as 28672; a number of CPUs goes to cpus=")
        size = VMALLOC_SIZE if vmalloc_size is None else vmalloc_size
        return Geometry.embed(static_size, cpus=cpus, reserved_size=reserved_size, dyn_size=dyn_size,
                              atom_size=atom_size, memory=memory, vmalloc_size=size, page_built_in=page_built_in,
                              backing=backing, kernel=kernel).info

    @classmethod
    def from_log(cls, lines: Iterable[str], *, nr_cpus: int | None = None) -> tuple[AllocInfo, tuple[str, ...]]:
        """Read the layout from the lines of a kernel log -> the layout, and what was assumed for want of a line.

        >>> AllocInfo.from_log(["pcpu-alloc: s8192 r0 d24576 u32768 alloc=16*4096", "pcpu-alloc: [0] 0 - "])[0]
        <AllocInfo: unit 32 KiB = static 8 KiB + dynamic 24 KiB; 1 CPU, 2 units, 1 group>

        Args:
            lines: without time stamps, other lines among them; of several boots the last counts.
            nr_cpus: possible CPUs, for a log that does not say.

        Raises:
            GeometryError: the lines say nothing of the layout, or something impossible.
        """
        return read_alloc_info(lines, nr_cpus=nr_cpus)

    @classmethod
    def one_group(cls, static_size: int, reserved_size: int, dyn_size: int, unit_size: int, atom_size: int,
                  alloc_size: int, *, nr_cpus: int) -> AllocInfo:
        """Make a layout of given sizes for CPUs 0, 1, ... in one group, with unused units to fill the last allocation.

        >>> AllocInfo.one_group(8192, 0, 24576, 32768, 4096, 65536, nr_cpus=3)
        <AllocInfo: unit 32 KiB = static 8 KiB + dynamic 24 KiB; 3 CPUs, 4 units, 1 group>

        Args:
            static_size, reserved_size, dyn_size, unit_size, atom_size, alloc_size: bytes.
            nr_cpus: possible CPUs.

        Raises:
            GeometryError: a size is no size.
        """
        return one_group((static_size, reserved_size, dyn_size, unit_size, atom_size, alloc_size), nr_cpus)

    def __post_init__(self) -> None:
        for name in ("static_size", "reserved_size", "dyn_size", "unit_size", "alloc_size"):
            whole_number(name, getattr(self, name))
        whole_number("atom_size", self.atom_size, low=1)
        if cpu_ids(self.possible_cpus) != tuple(self.possible_cpus):
            raise GeometryError("the ids do not rise", where="possible_cpus", remedy="sort them")

    @property
    def nr_groups(self) -> int:
        """Count the groups."""
        return len(self.groups)

    @property
    def nr_units(self) -> int:
        """Count the units of a chunk, with those that no CPU uses."""
        return sum(group.nr_units for group in self.groups)

    @property
    def nr_cpus(self) -> int:
        """Count the possible CPUs."""
        return len(self.possible_cpus)

    @property
    def nr_cpu_ids(self) -> int:
        """Give the highest possible CPU id plus one."""
        return self.possible_cpus[-1] + 1

    @property
    def unit_pages(self) -> int:
        """Count the pages of a unit."""
        return self.unit_size // self.page_size

    @property
    def upa(self) -> int:
        """Count the units in one allocation of alloc_size bytes."""
        return self.alloc_size // self.unit_size if self.unit_size else 0

    @property
    def size_sum(self) -> int:
        """Add up the bytes of a first unit that have a use: static, reserved and dynamic."""
        return self.static_size + self.reserved_size + self.dyn_size

    @property
    def unit_map(self) -> dict[int, int]:
        """Map each CPU to the number of its unit."""
        return {cpu: unit for cpu, unit, _ in self.units()}

    @property
    def unit_offset(self) -> dict[int, int]:
        """Map each CPU to the offset of its unit, in bytes from the chunk's base address."""
        return {cpu: offset for cpu, _, offset in self.units()}

    def units(self) -> Iterator[tuple[int, int, int]]:
        """Walk the used units in order: CPU, unit number, offset from the chunk's base address in bytes."""
        first = 0
        for group in self.groups:
            for i, cpu in enumerate(group.cpu_map):
                if cpu is not None:
                    yield cpu, first + i, group.base_offset + i * self.unit_size
            first += group.nr_units

    def dump(self) -> list[str]:
        """Write the lines of the kernel log that show the layout (pcpu_dump_alloc_info, spec 2.4).

        >>> AllocInfo(8192, 0, 24576, 32768, 4096, 32768, (GroupInfo(2, 0, (0, 1)),), (0, 1)).dump()
        ['pcpu-alloc: s8192 r0 d24576 u32768 alloc=8*4096', 'pcpu-alloc: [0] 0 [0] 1 ']

        Raises:
            GeometryError: a group does not consist of whole allocations, where the kernel hits a BUG.
        """
        return dump_alloc_info(self)

    def layout(self) -> list[tuple[str, int]]:
        """Give the parts of a unit of the first chunk in order, by name, in bytes; parts of no size are left out."""
        parts = [("static", self.static_size), ("reserved", self.reserved_size), ("dynamic", self.dyn_size),
                 ("unused", self.unit_size - self.size_sum)]
        return [(name, size_bytes) for name, size_bytes in parts if size_bytes > 0]

    def __repr__(self) -> str:
        parts = " + ".join(f"{name} {format_bytes(size_bytes)}" for name, size_bytes in self.layout())
        counts = ", ".join(f"{n} {word}{'s' * (n != 1)}" for n, word in
                           ((self.nr_cpus, "CPU"), (self.nr_units, "unit"), (self.nr_groups, "group")))
        return f"<AllocInfo: unit {format_bytes(self.unit_size)} = {parts}; {counts}>"

    def _repr_html_(self) -> str:
        return layout_html(self)
