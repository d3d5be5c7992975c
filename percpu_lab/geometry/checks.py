"""What pcpu_setup_first_chunk refuses, in the order it looks (spec 2.3, steps 1 and 2)."""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import GeometryError
from ..kernels import KernelVersion
from ..units import PAGE_SIZE
from .dump import check_whole_allocs, cpumask_text, dump_alloc_info
from .info import MAX_ALLOC_SIZE, MAX_UNIT_SIZE, PCPU_MIN_UNIT_SIZE, AllocInfo

BACKINGS = ("vm", "km")
_WHERE = "pcpu_setup_first_chunk"
_Violation = tuple[str, str, str]  # the condition that holds and must not, what to do, the value that breaks it


def setup_checks(info: AllocInfo, base: int, backing: str, kernel: KernelVersion) -> list[str]:
    """Check a layout as the kernel does before it uses it.

    The error says the condition after `percpu: failed to initialize, ` in words, where a kernel prints its C
    expression; its notes hold the rest of what the kernel prints.

    Args:
        info: the layout.
        base: address of the first chunk.
        backing: `vm` or `km`.
        kernel: decides the least dyn_size.

    Returns:
        The lines a kernel logs meanwhile.

    Raises:
        GeometryError: the first violated condition; or a layout that no kernel makes, or too big for this package.
    """
    if backing not in BACKINGS:
        raise GeometryError(f"unknown backing {backing!r}", where=_WHERE, remedy="give 'vm' or 'km'")
    for violation in (*_size_violations(info, base, kernel), *_km_violations(info, backing), *_cpu_violations(info)):
        raise _fatal(info, *violation)
    _check_limits(info, backing)
    return _km_warnings(info, backing)


def _size_violations(info: AllocInfo, base: int, kernel: KernelVersion) -> Iterator[_Violation]:
    if not info.groups:
        yield "nr_groups <= 0", "give at least one group", "groups"
    if not info.static_size and not info.up:
        yield "static_size is zero", "every SMP kernel has per-CPU variables of its own: give some bytes", "static_size"
    if not base:
        yield "base address is NULL", "give the address of the first chunk", "first_chunk"
    if base % PAGE_SIZE:
        yield "base address is not page aligned", f"{base:#x} is no multiple of {PAGE_SIZE}", "first_chunk"
    if info.unit_size < info.size_sum:
        yield ("unit_size < static_size + reserved_size + dyn_size", f"give a unit of {info.size_sum} bytes or more",
               "unit_size")
    if info.unit_size % PAGE_SIZE:
        yield "unit_size is not page aligned", f"{info.unit_size} is no multiple of {PAGE_SIZE}", "unit_size"
    if info.unit_size < PCPU_MIN_UNIT_SIZE:
        yield "unit_size < PCPU_MIN_UNIT_SIZE", f"give a unit of {PCPU_MIN_UNIT_SIZE} bytes or more", "unit_size"
    if info.dyn_size < kernel.dynamic_early_size:
        yield ("dyn_size < PERCPU_DYNAMIC_EARLY_SIZE",
               f"dyn_size is {info.dyn_size}, {kernel.name} wants {kernel.dynamic_early_size} bytes or more",
               "dyn_size")


def _km_violations(info: AllocInfo, backing: str) -> Iterator[_Violation]:
    if backing == "km" and info.nr_groups > 1:
        yield "the km backing does not accept the layout", f"it takes one group, not {info.nr_groups}: use vm", "groups"


def _cpu_violations(info: AllocInfo) -> Iterator[_Violation]:
    seen: set[int] = set()
    possible = frozenset(info.possible_cpus)
    for cpu, place in _cpu_places(info):
        if cpu >= info.nr_cpu_ids:
            highest = f"the highest possible one is {info.nr_cpu_ids - 1}"
            yield "cpu >= nr_cpu_ids", f"cpu_map names CPU {cpu}, {highest}", place
        if cpu not in possible:
            yield "cpu is not possible", f"cpu_map names CPU {cpu}, which possible_cpus lacks", place
        if cpu in seen:
            yield "cpu has a unit already", f"cpu_map names CPU {cpu} twice", place
        seen.add(cpu)
    for cpu in info.possible_cpus:
        if cpu not in seen:
            yield "possible cpu without a unit", f"give CPU {cpu} a unit in a cpu_map", "groups"


def _cpu_places(info: AllocInfo) -> Iterator[tuple[int, str]]:
    """Walk the CPUs that have a unit, with the place that says so."""
    for i, group in enumerate(info.groups):
        for j, cpu in enumerate(group.cpu_map):
            if cpu is not None:
                yield cpu, f"groups[{i}].cpu_map[{j}]"


def _fatal(info: AllocInfo, condition: str, remedy: str, place: str) -> GeometryError:
    """Make the error for a BUG of the kernel, with everything the kernel would print."""
    line = f"percpu: failed to initialize, {condition}"
    error = GeometryError(line, where=f"{_WHERE}, {place}", remedy=remedy)
    lines = [line, f"percpu: cpu_possible_mask={cpumask_text(info.possible_cpus, info.nr_cpu_ids)}"]
    if condition.startswith("the km backing"):
        lines.insert(0, "percpu: can't handle more than one group")
    if info.groups and info.upa and not any(group.nr_units % info.upa for group in info.groups):
        lines += dump_alloc_info(info)
    error.add_note("\n".join(("the kernel would print, and stop:", *lines)))
    return error


def _check_limits(info: AllocInfo, backing: str) -> None:
    """Check what the kernel takes for granted of its own code, and what this package can hold."""
    if info.unit_size > MAX_UNIT_SIZE or info.alloc_size > MAX_ALLOC_SIZE:
        raise GeometryError(f"a unit of {info.unit_size} and an allocation of {info.alloc_size} bytes are too big here",
                            where=f"{_WHERE}, {'unit_size' if info.unit_size > MAX_UNIT_SIZE else 'alloc_size'}",
                            remedy=f"at most {MAX_UNIT_SIZE} and {MAX_ALLOC_SIZE} bytes are possible")
    if info.alloc_size % info.unit_size or info.alloc_size % info.atom_size:
        raise GeometryError(f"alloc_size {info.alloc_size} is not a multiple of unit_size {info.unit_size} and of "
                            f"atom_size {info.atom_size}", where=f"{_WHERE}, alloc_size",
                            remedy="let pcpu_build_alloc_info compute it")
    check_whole_allocs(info)
    for i, group in enumerate(info.groups):
        if group.base_offset % PAGE_SIZE:
            raise GeometryError(f"group {i} begins at {group.base_offset}, which is not page aligned",
                                where=f"{_WHERE}, groups[{i}].base_offset", remedy=f"give a multiple of {PAGE_SIZE}")
    if info.up and (backing != "km" or info.nr_units > 1):
        raise GeometryError("a kernel without SMP has one unit and the km backing", where=_WHERE,
                            remedy="make it with Geometry.up()")


def group_pages(info: AllocInfo) -> int:
    """Count the pages of the one group of a km chunk, all its units."""
    return info.groups[0].nr_units * info.unit_pages


def block_pages(info: AllocInfo) -> int:
    """Count the pages of the block that holds a km chunk: the next power of two.

    >>> from percpu_lab.geometry import Geometry
    >>> block_pages(Geometry.simple(nr_cpus=3, unit_size=32768, backing="km").info)
    32
    """
    return 1 << (group_pages(info) - 1).bit_length()


def _km_warnings(info: AllocInfo, backing: str) -> list[str]:
    """Say how many pages the km backing loses per chunk (spec 6.3)."""
    if backing != "km" or block_pages(info) == group_pages(info):
        return []
    return [f"percpu: wasting {block_pages(info) - group_pages(info)} pages per chunk"]
