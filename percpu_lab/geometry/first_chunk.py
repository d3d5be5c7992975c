"""How a machine gets its first chunk: the boot helpers of the kernel (spec 2.2, 2.3), and addresses (spec 10)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import GeometryError
from ..kernels import V4_13, KernelVersion
from ..units import PAGE_SIZE, format_bytes
from . import case as cases
from .addresses import FIRST_CHUNK_BASE, Addresses, BootMemory, chunk_span
from .build import Topology, pcpu_build_alloc_info
from .checks import setup_checks
from .html import layout_html
from .info import (
    MAX_ADDRESS,
    PCPU_MIN_UNIT_SIZE,
    PERCPU_DYNAMIC_RESERVE,
    PERCPU_MODULE_RESERVE,
    AllocInfo,
    GroupInfo,
    cpu_ids,
    shown,
    whole_number,
)

VMALLOC_SIZE = 32 << 40  # x86-64 with four levels of page tables
VMALLOC_BASE = 0xFFFFC90000000000
SECTION_START = 0  # __per_cpu_start of x86-64 with SMP


@dataclass(frozen=True, slots=True, repr=False)
class Geometry:
    """All that an allocator is made from: layout, addresses and backing, and what booting wrote to the log.

    >>> Geometry.embed(28672, cpus=4)
    <Geometry: 4 CPUs, unit 64 KiB (static 28 KiB, reserved 8 KiB, dynamic 28 KiB), vm, at 0xffff888100000000>

    Args:
        info: the layout.
        addresses: of the first chunk and of those to come.
        boot_log: the lines of the kernel log, in order.
        backing: `vm` (percpu-vm.c) or `km` (percpu-km.c).
        kernel: the version whose rules hold.

    Raises:
        GeometryError: pcpu_setup_first_chunk would refuse it, or chunks would overlap.
    """

    info: AllocInfo
    addresses: Addresses
    boot_log: tuple[str, ...] = ()
    backing: str = "vm"
    kernel: KernelVersion = V4_13

    def __post_init__(self) -> None:
        setup_checks(self.info, self.addresses.first_chunk, self.backing, self.kernel)
        span = chunk_span(self.info, self.backing)
        if self.addresses.area_stride < span:
            raise GeometryError(f"chunks of {span} bytes, {self.addresses.area_stride} bytes apart, overlap",
                                where="area_stride", remedy=f"give {span} or more")
        if self.addresses.first_chunk + span > self.addresses.area_base:
            raise GeometryError(f"new chunks begin at {self.addresses.area_base:#x}, not above the first one",
                                where="area_base", remedy=f"give {self.addresses.first_chunk + span:#x} or more")

    @classmethod
    def from_info(cls, info: AllocInfo, addresses: Addresses | None = None, *, backing: str = "vm",
                  kernel: KernelVersion = V4_13, log: Sequence[str] = ()) -> Geometry:
        """Set up the first chunk of a ready layout (pcpu_setup_first_chunk, spec 2.3).

        >>> info = AllocInfo(8192, 0, 24576, 32768, 4096, 32768, (GroupInfo(2, 0, (0, 1)),), (0, 1))
        >>> Geometry.from_info(info).boot_log
        ('pcpu-alloc: s8192 r0 d24576 u32768 alloc=8*4096', 'pcpu-alloc: [0] 0 [0] 1 ')

        Args:
            info: the layout.
            addresses: where chunks are; usual ones if left out.
            backing: `vm` or `km`.
            kernel: the version whose rules hold.
            log: lines of the kernel log from before.

        Raises:
            GeometryError: the kernel would refuse it; the notes of the error hold what it would print.
        """
        base = addresses.first_chunk if addresses else FIRST_CHUNK_BASE
        warnings = setup_checks(info, base, backing, kernel)
        addresses = addresses or Addresses.default(info, backing)
        return cls(info, addresses, (*log, *warnings, *info.dump()), backing, kernel)

    @classmethod
    def simple(cls, *, unit_size: int = 65536, static_size: int = 8192, reserved_size: int = 0,
               dyn_size: int | None = None, nr_cpus: int = 2, backing: str = "vm") -> Geometry:
        """Make a layout for a lesson: one group, one unit for each CPU, sizes exactly as given.

        >>> Geometry.simple(unit_size=32768, nr_cpus=1).info
        <AllocInfo: unit 32 KiB = static 8 KiB + dynamic 24 KiB; 1 CPU, 1 unit, 1 group>

        Args:
            unit_size: bytes, whole pages, at least 32768.
            static_size: bytes.
            reserved_size: bytes.
            dyn_size: bytes; what is left of the unit if left out.
            nr_cpus: number of possible CPUs.
            backing: `vm` or `km`.

        Raises:
            GeometryError: the kernel would refuse the layout.
        """
        ids = cpu_ids(nr_cpus)
        given = {"unit_size": unit_size, "static_size": static_size, "reserved_size": reserved_size}
        unit_size, static_size, reserved_size = (whole_number(name, value) for name, value in given.items())
        if dyn_size is None:
            dyn_size = unit_size - static_size - reserved_size
            if dyn_size < V4_13.dynamic_early_size:
                raise GeometryError(f"a unit of {format_bytes(unit_size)} has {dyn_size:,} bytes left for dyn_size",
                                    where="unit_size",
                                    remedy=f"leave {V4_13.dynamic_early_size:,} or more beside static and reserved")
        group = GroupInfo(len(ids), 0, ids)
        info = AllocInfo(static_size, reserved_size, dyn_size, unit_size, PAGE_SIZE, unit_size, (group,), ids)
        return cls.from_info(info, backing=backing)

    @classmethod
    def embed(cls, static_size: int, *, cpus: int | Sequence[int] | Topology = 4,
              reserved_size: int = PERCPU_MODULE_RESERVE, dyn_size: int = PERCPU_DYNAMIC_RESERVE,
              atom_size: int = PAGE_SIZE, memory: BootMemory | None = None, vmalloc_size: int = VMALLOC_SIZE,
              page_built_in: bool = False, backing: str = "vm", kernel: KernelVersion = V4_13) -> Geometry:
        """Put the first chunk into the kernel's linear memory (pcpu_embed_first_chunk, spec 2.2).

        The defaults are those of the generic setup_per_cpu_areas.

        >>> Geometry.embed(28672, cpus=2).boot_log[0]
        'percpu: Embedded 16 pages/cpu @0xffff888100000000 s28672 r8192 d28672 u65536'

        Args:
            static_size: bytes of the kernel's own per-CPU variables.
            cpus: a number of CPUs, the ids of the possible ones, or a Topology.
            reserved_size: bytes kept for modules.
            dyn_size: bytes wanted for dynamic allocations in the first chunk.
            atom_size: bytes; 2 MiB on x86-64 with big pages.
            memory: where boot memory comes from and what is given back goes to; a fresh one if left out.
            vmalloc_size: bytes of vmalloc space: groups further apart than 3/4 of it cannot be repeated there.
            page_built_in: such a distance is fatal, for the kernel would then try the page-mapped first chunk.
            backing: `vm` or `km`.
            kernel: the version whose rules hold.

        Raises:
            GeometryError: the layout is impossible, boot memory runs out, or the groups are too far apart.
        """
        topology, memory = Topology.of(cpus), _boot_memory(memory, kernel)
        info = pcpu_build_alloc_info(static_size, reserved_size, dyn_size, atom_size, cpus=topology, kernel=kernel)
        areas = _boot_areas(info, topology, memory)
        base = min(areas)
        log = _distance_warning(info, areas, whole_number("vmalloc_size", vmalloc_size))
        if log and page_built_in:
            _give_back(info, areas, memory)
            raise GeometryError(log[0], where="pcpu_embed_first_chunk (-EINVAL)",
                                remedy="use Geometry.page, or a machine whose nodes are nearer")
        _trim_units(info, areas, memory)
        info = replace(info, groups=tuple(replace(group, base_offset=area - base)
                                          for group, area in zip(info.groups, areas, strict=True)))
        log.append(f"percpu: Embedded {info.size_sum // PAGE_SIZE} pages/cpu{kernel.at_base(base)} s{info.static_size} "
                   f"r{info.reserved_size} d{info.dyn_size} u{info.unit_size}")
        addresses = Addresses.default(info, backing, first_chunk=base)
        return cls.from_info(info, addresses, backing=backing, kernel=kernel, log=log)

    @classmethod
    def page(cls, static_size: int, *, cpus: int | Sequence[int] | Topology = 4,
             reserved_size: int = PERCPU_MODULE_RESERVE, memory: BootMemory | None = None, base: int = VMALLOC_BASE,
             area_base: int | None = None, kernel: KernelVersion = V4_13) -> Geometry:
        """Map the first chunk from single pages (pcpu_page_first_chunk, spec 2.2).

        >>> Geometry.page(28672, cpus=2).boot_log[0]
        'percpu: 12 4K pages/cpu @0xffffc90000000000 s28672 r8192 d12288'

        Args:
            static_size: bytes of the kernel's own per-CPU variables.
            cpus: a number of CPUs, the ids of the possible ones, or a Topology, whose distances do not matter.
            reserved_size: bytes kept for modules.
            memory: where boot memory comes from; a fresh one if left out.
            base: address in vmalloc space the pages are mapped at.
            area_base: address of the first new chunk.
            kernel: the version whose rules hold.

        Raises:
            GeometryError: the layout is impossible or boot memory runs out.
        """
        topology, memory = Topology.of(cpus), _boot_memory(memory, kernel)
        info = pcpu_build_alloc_info(static_size, reserved_size, 0, PAGE_SIZE, cpus=topology.possible_cpus,
                                     kernel=kernel)
        _boot_pages(info, topology, memory)
        line = (f"percpu: {info.unit_pages} 4K pages/cpu{kernel.at_base(base)} s{info.static_size} "
                f"r{info.reserved_size} d{info.dyn_size}")
        addresses = Addresses.default(info, first_chunk=base, area_base=area_base)
        return cls.from_info(info, addresses, kernel=kernel, log=[line])

    @classmethod
    def up(cls, *, kernel: KernelVersion = V4_13) -> Geometry:
        """Make the only layout of a kernel without SMP: one unit, all of it dynamic (spec 2.2).

        >>> Geometry.up()
        <Geometry: 1 CPU, unit 32 KiB (dynamic 32 KiB), km, at 0xffff888100000000>
        """
        unit_size = 1 << (max(PCPU_MIN_UNIT_SIZE, PERCPU_DYNAMIC_RESERVE) - 1).bit_length()
        info = AllocInfo(0, 0, unit_size, unit_size, unit_size, unit_size, (GroupInfo(1, 0, (0,)),), (0,), up=True)
        return cls.from_info(info, backing="km", kernel=kernel)

    @classmethod
    def from_case(cls, case: Mapping[str, Any], *, where: str = "case.json") -> Geometry:
        """Set up the machine of a recorded case.

        The layout of an `embed` case is worked out again; the recorded one must agree.

        >>> Geometry.from_case({"kernel": "v4.13-areamap"})
        Traceback (most recent call last):
        percpu_lab.errors.CaseError: case.json, backend: missing; add it

        Args:
            case: the parsed case.json.
            where: its name in error messages.

        Raises:
            CaseError: names the key that is missing, mistyped or contradicts another.
        """
        setup = cases.read_setup(case, where)
        with cases.as_case_error(where, is_embed=setup.embed is not None):
            if setup.embed is None:
                return cls.from_info(setup.info, setup.addresses, backing=setup.backing, kernel=setup.kernel)
            embed = setup.embed
            made = cls.embed(embed.static_size, cpus=embed.topology, reserved_size=embed.reserved_size,
                             dyn_size=embed.dyn_size, atom_size=embed.atom_size, memory=embed.memory,
                             backing=setup.backing, kernel=setup.kernel)
            cases.check_recorded(setup, made.info, made.addresses.first_chunk, where)
            return replace(made, addresses=setup.addresses)

    @property
    def ptr_bias(self) -> int:
        """Give what a percpu pointer is more than the distance from the first chunk's base: 0 with SMP (spec 10)."""
        return self.addresses.first_chunk if self.info.up else SECTION_START

    def addr_to_pcpu_ptr(self, addr: int) -> int:
        """Turn an address of unit offset 0 into a percpu pointer (__addr_to_pcpu_ptr, spec 10); unsigned 64 bits.

        >>> geometry = Geometry.simple()
        >>> geometry.addr_to_pcpu_ptr(geometry.addresses.first_chunk + 8192)
        8192
        """
        return addr - self.addresses.first_chunk + self.ptr_bias & MAX_ADDRESS

    def pcpu_ptr_to_addr(self, ptr: int) -> int:
        """Turn a percpu pointer into the address at unit offset 0 (__pcpu_ptr_to_addr, spec 10); unsigned 64 bits.

        >>> hex(Geometry.simple().pcpu_ptr_to_addr(8192))
        '0xffff888100002000'
        """
        return ptr + self.addresses.first_chunk - self.ptr_bias & MAX_ADDRESS

    def unit_offset(self, cpu: int) -> int:
        """Give the offset of a CPU's unit, in bytes from a chunk's base address.

        >>> Geometry.simple().unit_offset(1)
        65536

        Raises:
            GeometryError: the CPU is not possible.
        """
        offset = self.info.unit_offset.get(cpu)
        if offset is None:
            raise GeometryError(f"CPU {cpu!r} is not possible here", where="cpu",
                                remedy=f"there are {self.info.nr_cpus}, from {self.info.possible_cpus[0]} "
                                       f"to {self.info.possible_cpus[-1]}")
        return offset

    def per_cpu_offset(self, cpu: int) -> int:
        """Give __per_cpu_offset[cpu]: what per_cpu_ptr adds to a percpu pointer (spec 10).

        >>> hex(Geometry.simple().per_cpu_offset(1))
        '0xffff888100010000'

        Raises:
            GeometryError: the CPU is not possible.
        """
        return self.unit_offset(cpu) + self.addresses.first_chunk - self.ptr_bias & MAX_ADDRESS

    def per_cpu_ptr(self, ptr: int, cpu: int) -> int:
        """Give the address a percpu pointer has on one CPU (per_cpu_ptr, spec 10); unsigned 64 bits.

        >>> hex(Geometry.simple().per_cpu_ptr(8192, 1))
        '0xffff888100012000'

        Raises:
            GeometryError: the CPU is not possible.
        """
        return ptr + self.per_cpu_offset(cpu) & MAX_ADDRESS

    def is_kernel_percpu_address(self, addr: int) -> bool:
        """Tell whether an address is in some CPU's copy of the static area (spec 10); without SMP none is.

        >>> geometry = Geometry.simple()
        >>> [geometry.is_kernel_percpu_address(geometry.per_cpu_ptr(ptr, 1)) for ptr in (8191, 8192)]
        [True, False]
        """
        return self.canonical_address(addr) is not None

    def canonical_address(self, addr: int) -> int | None:
        """Give the boot CPU's counterpart of an address in the static area, None for any other address.

        >>> geometry = Geometry.simple()
        >>> hex(geometry.canonical_address(geometry.per_cpu_ptr(100, 1)))
        '0xffff888100000064'
        """
        offsets = self.info.unit_offset
        boot_offset = offsets[self.info.possible_cpus[0]]
        for offset in offsets.values():
            start = self.addresses.first_chunk + offset
            if start <= addr < start + self.info.static_size:
                return addr - offset + boot_offset
        return None

    def __repr__(self) -> str:
        parts = ", ".join(f"{name} {format_bytes(size_bytes)}" for name, size_bytes in self.info.layout())
        cpus = _counted_cpus(self.info.nr_cpus)
        return (f"<Geometry: {cpus}, unit {format_bytes(self.info.unit_size)} ({parts}), {self.backing}, "
                f"at {self.addresses.first_chunk:#x}>")

    def _repr_html_(self) -> str:
        return layout_html(self.info, f"{_counted_cpus(self.info.nr_cpus)}, {self.backing} backing, first chunk at "
                                      f"{self.addresses.first_chunk:#x}")


def _counted_cpus(nr_cpus: int) -> str:
    return f"{nr_cpus} CPU{'s' * (nr_cpus != 1)}"


def _boot_memory(memory: BootMemory | None, kernel: KernelVersion) -> BootMemory:
    """Check what can only be one of our own objects; fresh boot memory where none is given."""
    for name, value, kind, example in (
        ("kernel", kernel, KernelVersion, "percpu_lab.kernels.V4_13"),
        ("memory", memory or BootMemory(), BootMemory, "BootMemory()"),
    ):
        if not isinstance(value, kind):
            what = f"{shown(value)} is no {kind.__name__}"
            raise GeometryError(what, where=name, remedy=f"give one, such as {example}")
    return memory or BootMemory()


def _boot_areas(info: AllocInfo, topology: Topology, memory: BootMemory) -> list[int]:
    """Ask for the memory of each group, on the node of its first CPU; if one fails, give all back."""
    areas: list[int] = []
    for number, group in enumerate(info.groups):
        node = topology.node(next(cpu for cpu in group.cpu_map if cpu is not None))
        size_bytes = group.nr_units * info.unit_size
        area = memory.alloc(node, size_bytes, info.atom_size)
        if area is None:
            _give_back(info, areas, memory)
            error = GeometryError(f"node {node} has no {format_bytes(size_bytes)} of boot memory for group {number}",
                                  where="pcpu_embed_first_chunk (-ENOMEM)",
                                  remedy="give a BootMemory with bigger nodes")
            error.add_note("a kernel with the generic setup_per_cpu_areas panics: Failed to initialize percpu areas.")
            raise error
        areas.append(area)
    return areas


def _give_back(info: AllocInfo, areas: Sequence[int], memory: BootMemory) -> None:
    for group, area in zip(info.groups, areas, strict=False):
        memory.free(area, group.nr_units * info.unit_size)


def _distance_warning(info: AllocInfo, areas: Sequence[int], vmalloc_size: int) -> list[str]:
    """Warn of groups so far apart that vmalloc space cannot repeat the pattern for the next chunks."""
    highest = max(range(len(areas)), key=areas.__getitem__)
    max_distance = areas[highest] - min(areas) + info.groups[highest].nr_units * info.unit_size
    if max_distance * 4 <= vmalloc_size * 3:
        return []
    return [f"percpu: max_distance={max_distance:#x} too large for vmalloc space {vmalloc_size:#x}"]


def _trim_units(info: AllocInfo, areas: Sequence[int], memory: BootMemory) -> None:
    """Give back the units that no CPU uses, and what the used ones have behind static, reserved and dynamic."""
    for group, area in zip(info.groups, areas, strict=True):
        for i, cpu in enumerate(group.cpu_map):
            used = 0 if cpu is None else info.size_sum
            if used < info.unit_size:
                memory.free(area + i * info.unit_size + used, info.unit_size - used)


def _boot_pages(info: AllocInfo, topology: Topology, memory: BootMemory) -> None:
    """Ask for the pages of each unit; the kernel asks page by page, and fails at the same CPU."""
    units: list[int] = []
    for cpu, _, _ in info.units():
        area = memory.alloc(topology.node(cpu), info.unit_size, PAGE_SIZE)
        if area is None:
            for unit in reversed(units):
                memory.free(unit, info.unit_size)
            raise GeometryError(f"percpu: failed to allocate 4K page for cpu{cpu}",
                                where="pcpu_page_first_chunk (-ENOMEM)", remedy="give a BootMemory with bigger nodes")
        units.append(area)

