"""The layout as the kernel writes it to its log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from ..errors import GeometryError

if TYPE_CHECKING:
    from .info import AllocInfo

PREFIX = "pcpu-alloc: "
_LINE_WIDTH = 60  # what the kernel wants to fill, without the prefix
_MASK_WORD_BITS = 32


def dump_alloc_info(info: AllocInfo) -> list[str]:
    """Write the lines of pcpu_dump_alloc_info (spec 2.4); all but the first end with a space.

    >>> from percpu_lab.geometry import pcpu_build_alloc_info
    >>> info = pcpu_build_alloc_info(12288, 8192, 0, 65536, cpus=5)
    >>> for line in dump_alloc_info(info): print(line + "|")
    pcpu-alloc: s12288 r8192 d12288 u32768 alloc=1*65536|
    pcpu-alloc: [0] 0 1 [0] 2 3 [0] 4 - |

    Raises:
        GeometryError: a group does not consist of whole allocations, where the kernel hits a BUG.
    """
    check_whole_allocs(info)
    group_width, cpu_width = len(str(info.nr_groups)), len(str(info.nr_cpus))
    alloc_width = info.upa * (cpu_width + 1) + group_width + 3
    allocs_per_line = 1 << max(_LINE_WIDTH // alloc_width, 1).bit_length() - 1
    head = (f"{PREFIX}s{info.static_size} r{info.reserved_size} d{info.dyn_size} u{info.unit_size} "
            f"alloc={info.alloc_size // info.atom_size}*{info.atom_size}")
    allocs = _allocs(info, group_width, cpu_width)
    return [head, *(PREFIX + "".join(line) for line in iter(lambda: list(islice(allocs, allocs_per_line)), []))]


def check_whole_allocs(info: AllocInfo) -> None:
    """Check that each group consists of whole allocations of upa units.

    Raises:
        GeometryError: the kernel would hit a BUG in pcpu_dump_alloc_info.
    """
    for i, group in enumerate(info.groups):
        if not info.upa or group.nr_units % info.upa:
            raise GeometryError(f"group {i} has {group.nr_units} units, an allocation of {info.alloc_size} bytes holds "
                                f"{info.upa}", where="pcpu_dump_alloc_info",
                                remedy="make the units of a group a multiple of alloc_size / unit_size")


def _allocs(info: AllocInfo, group_width: int, cpu_width: int) -> Iterator[str]:
    unused = "-" * min(cpu_width, 8)
    for number, group in enumerate(info.groups):
        words = [unused if cpu is None else f"{cpu:0{cpu_width}d}" for cpu in group.cpu_map]
        for first in range(0, len(words), info.upa):
            yield f"[{number:0{group_width}d}] " + "".join(f"{word} " for word in words[first:first + info.upa])


def cpumask_text(cpus: Sequence[int], nr_cpu_ids: int) -> str:
    """Write a set of CPUs as the kernel prints a bitmap: hex words of 32 bits, the highest first.

    >>> cpumask_text([0, 1, 2, 3], 4), cpumask_text([0, 33], 34)
    ('f', '2,00000001')
    """
    mask = sum(1 << cpu for cpu in cpus)
    words = []
    for low in range(0, nr_cpu_ids, _MASK_WORD_BITS):
        digits = -(-min(nr_cpu_ids - low, _MASK_WORD_BITS) // 4)
        words.append(f"{mask >> low & (1 << _MASK_WORD_BITS) - 1:0{digits}x}")
    return ",".join(reversed(words))
