"""The kernel versions this package knows, one row each: everything that differs between them and is not code.

    row      what came with it                                            read by
    v4.13    percpu_stats and the five events, over the area map          geometry, stats, events, engines
    v4.14    the bitmap: other labels in percpu_stats                     stats
    v5.1     no address in the boot line                                  geometry
    v5.2     scan hints
    v5.9     memcg_aware, a line a chunk                                  stats
    v5.14    partial depopulation: chunks to_depopulate and sidelined;    stats
             memcg_aware is gone
    v5.19    call_site, bytes_alloc, gfp_flags                            events
    v6.1     a release whose decisions were checked                       review
    v6.2     20 KiB at least in the first chunk                           geometry
    v6.6     atomic failures are logged, too                              engines
    v6.12    a release with an engine of its own                          engines, review

A row holds from its release to that of the next. It bears the commit of the change where that is known from public mail
and change logs, else None. It names an engine only where one was checked against recordings of that very release.

>>> kernel_for_release("5.10.0-28-amd64").release
'v5.9'
>>> [row.release for row in KERNEL_VERSIONS if row.engine]
['v4.13', 'v6.12']
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from types import MappingProxyType

from .rich import Rich
from .units import KIB

__all__ = [
    "KERNELS",
    "KERNEL_VERSIONS",
    "STATS_LAYOUTS",
    "V4_13",
    "V6_1",
    "V6_12",
    "KernelVersion",
    "StatsLayout",
    "kernel_for_release",
    "releases_with",
]


@dataclass(frozen=True, slots=True, repr=False)
class StatsLayout(Rich):
    """How a kernel prints percpu_stats.

    Args:
        name: the release that brought it.
        info_line, global_line, chunk_line: how a label and its value are printed, as printf would.
        info, global_, chunk: the labels of each block, in the order they are printed in.
    """

    name: str
    info_line: str
    global_line: str
    chunk_line: str
    info: tuple[str, ...]
    global_: tuple[str, ...]
    chunk: tuple[str, ...]

    def __repr__(self) -> str:
        return f"<StatsLayout of {self.name}: {len(self.global_)} counters, {len(self.chunk)} of each chunk>"


_INFO = ("unit_size", "static_size", "reserved_size", "dyn_size", "atom_size", "alloc_size")
_GLOBAL = ("nr_alloc", "nr_dealloc", "nr_cur_alloc", "nr_max_alloc", "nr_chunks", "nr_max_chunks", "min_alloc_size",
           "max_alloc_size")  # fmt: skip
_FRAGMENTS = ("sum_frag", "max_frag", "cur_min_alloc", "cur_med_alloc", "cur_max_alloc")

_AREA_MAP = StatsLayout(
    name="v4.13",
    info_line="  %-24s: %8d",
    global_line="  %-18s: %14d",
    chunk_line="  %-24s: %8d",
    info=_INFO,
    global_=_GLOBAL,
    chunk=("nr_alloc", "max_alloc_size", "free_size", "contig_hint", *_FRAGMENTS),
)
_BITMAP = StatsLayout(
    name="v4.14",
    info_line="  %-20s: %12d",
    global_line="  %-20s: %12d",
    chunk_line="  %-20s: %12d",
    info=_INFO,
    global_=(*_GLOBAL, "empty_pop_pages"),
    chunk=(
        "nr_alloc", "max_alloc_size", "empty_pop_pages", "first_bit", "free_bytes", "contig_bytes", *_FRAGMENTS,
    ),
)  # fmt: skip
_MEMCG_AWARE = replace(_BITMAP, name="v5.9", chunk=(*_BITMAP.chunk, "memcg_aware"))


@dataclass(frozen=True, slots=True, repr=False)
class KernelVersion(Rich):
    """What is particular to a kernel version, from its release to that of the next row.

    >>> V4_13.name, V4_13.dynamic_early_size, V6_12.dynamic_early_size
    ('v4.13-areamap', 12288, 20480)

    Args:
        release: the first release all of this is true of.
        allocator: how free space is kept, "areamap" or "bitmap".
        changed: what came with it.
        commit: the commit that brought it; None where it is not known.
        dynamic_early_size: PERCPU_DYNAMIC_EARLY_SIZE, the least dyn_size in bytes.
        logs_base: the boot line ends its page count with `@` and the address.
        logs_atomic_failures: failures of atomic requests are written to the log, and count towards its limit.
        stats: how percpu_stats is printed.
        alloc_fields: fields that percpu_alloc_percpu has beyond those of v4.13.
        engine: the name of the engine that was checked against recordings of this release; None if none was.
        replayed_by: the engine that makes the same decisions as far as recordings of this release show, or those of
            releases before and after it.
    """

    release: str
    allocator: str
    changed: str
    commit: str | None
    dynamic_early_size: int
    logs_base: bool
    logs_atomic_failures: bool
    stats: StatsLayout
    alloc_fields: tuple[str, ...]
    engine: str | None
    replayed_by: str | None

    def __repr__(self) -> str:
        return f"<KernelVersion {self.name}: {self.changed}>"

    @property
    def name(self) -> str:
        """Release and allocator in one word, as `kernel` of a recorded case has it."""
        return f"{self.release}-{self.allocator}"

    @property
    def number(self) -> tuple[int, int]:
        """Give the release as numbers, which compare as releases do."""
        major, minor = self.release.removeprefix("v").split(".")
        return int(major), int(minor)

    @property
    def least_size(self) -> int:
        """Give the granule in bytes that sizes of requests are rounded up to."""
        return 2 if self.allocator == "areamap" else 4

    def at_base(self, base: int) -> str:
        """Write the address part of the boot line: later kernels keep it to themselves."""
        return f" @{base:#x}" if self.logs_base else ""


V4_13 = KernelVersion(
    release="v4.13",
    allocator="areamap",
    changed="percpu_stats and the five events",
    commit="30a5b5367ef9",
    dynamic_early_size=12 * KIB,
    logs_base=True,
    logs_atomic_failures=False,
    stats=_AREA_MAP,
    alloc_fields=(),
    engine="v4.13-areamap",
    replayed_by="v4.13-areamap",
)
V4_14 = replace(
    V4_13,
    release="v4.14",
    allocator="bitmap",
    changed="the bitmap takes the place of the area map",
    commit="40064aeca35c",
    stats=_BITMAP,
    engine=None,
    replayed_by=None,
)
V5_1 = replace(V4_14, release="v5.1", changed="no address in the boot line", commit="00206a69ee32", logs_base=False)
V5_2 = replace(V5_1, release="v5.2", changed="scan hints", commit="b89462a9c5f4")
V5_9 = replace(
    V5_2,
    release="v5.9",
    changed="accounted areas have chunks of their own; memcg_aware",
    commit="3c7be18ac9a0",
    stats=_MEMCG_AWARE,
)
V5_14 = replace(
    V5_9,
    release="v5.14",
    changed="partial depopulation; memcg_aware is gone",
    commit="f183324133ea",  # the second: faf65dde844a
    stats=_BITMAP,
)
V5_19 = replace(
    V5_14,
    release="v5.19",
    changed="allocations are recorded with call_site, bytes_alloc and gfp_flags",
    commit="f67bed134a05",
    alloc_fields=("call_site", "bytes_alloc", "gfp_flags"),
)
V6_1 = replace(V5_19, release="v6.1", changed="decisions were checked", commit=None, replayed_by="v6.12-bitmap")
V6_2 = replace(
    V6_1,
    release="v6.2",
    changed="the first chunk has more room",
    commit="e8753e416c7e",
    dynamic_early_size=20 * KIB,  # replayed, as the rows on both sides of it were checked and decide alike
)
V6_6 = replace(
    V6_2, release="v6.6", changed="atomic failures are logged", commit="f7d77dfc91f7", logs_atomic_failures=True
)
V6_12 = replace(
    V6_6,
    release="v6.12",
    changed="decisions were checked, and an engine made of them",
    commit=None,
    engine="v6.12-bitmap",
    replayed_by="v6.12-bitmap",
)

#: every row, by rising release
KERNEL_VERSIONS: tuple[KernelVersion, ...] = (
    V4_13, V4_14, V5_1, V5_2, V5_9, V5_14, V5_19, V6_1, V6_2, V6_6, V6_12,
)  # fmt: skip
#: the same by name
KERNELS: Mapping[str, KernelVersion] = MappingProxyType({row.name: row for row in KERNEL_VERSIONS})
#: every layout of percpu_stats, by name
STATS_LAYOUTS: Mapping[str, StatsLayout] = MappingProxyType({row.stats.name: row.stats for row in KERNEL_VERSIONS})

_RELEASE = re.compile(r"v?([0-9]{1,4})\.([0-9]{1,4})")


def releases_with(layout: StatsLayout) -> str:
    """Say in words which releases print percpu_stats in a layout.

    >>> [releases_with(layout) for layout in STATS_LAYOUTS.values()]
    ['v4.13 to before v4.14', 'v4.14 to before v5.9, or v5.14 and later', 'v5.9 to before v5.14']
    """
    runs = [list(rows) for _, rows in groupby(KERNEL_VERSIONS, key=lambda row: row.stats)]
    ends = [*(f"to before {run[0].release}" for run in runs[1:]), "and later"]
    spans = zip(runs, ends, strict=True)
    return ", or ".join(f"{run[0].release} {end}" for run, end in spans if run[0].stats == layout)


def kernel_for_release(release: str) -> KernelVersion | None:
    """Find the row of a release, as `uname -r` prints it; None before v4.13, or if it is no release.

    >>> kernel_for_release("6.1.0-53-cloud-amd64").name
    'v6.1-bitmap'
    >>> kernel_for_release("4.4.0") is None
    True
    """
    match = _RELEASE.match(release.strip())
    if match is None:
        return None
    number = (int(match[1]), int(match[2]))
    return max((row for row in KERNEL_VERSIONS if row.number <= number), key=lambda row: row.number, default=None)
