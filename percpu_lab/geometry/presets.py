"""A handful of machines, each of which shows something."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from ..errors import GeometryError
from ..units import KIB, MIB
from .build import Topology
from .first_chunk import Geometry


def _x86_64_4_cpus() -> Geometry:
    """Small enough to read: a unit of 64 KiB, full to the last byte, and a reserved part of 8 KiB."""
    return Geometry.embed(28 * KIB, cpus=4)


def _the_2017_test_box() -> Geometry:
    """Two sockets of 16 CPUs, numbered as hyperthreads are, in atoms of 2 MiB: two groups far apart."""
    socket0, socket1 = ([*range(first, first + 8), *range(first + 16, first + 24)] for first in (0, 8))
    return Geometry.embed(160 * KIB, cpus=Topology.numa(socket0, socket1), atom_size=2 * MIB)


def _i386_like() -> Geometry:
    """Little vmalloc space: the first chunk is mapped from single pages and has the least dynamic part."""
    return Geometry.page(24 * KIB, cpus=2, base=0xF8000000, area_base=0xF9000000)


def _up_km() -> Geometry:
    """A kernel without SMP: no static part, and a percpu pointer is simply the address."""
    return Geometry.up()


def _3_cpus_km() -> Geometry:
    """Chunks from blocks of a power of two of pages: three units waste the place of a fourth."""
    return Geometry.simple(unit_size=32 * KIB, nr_cpus=3, backing="km")


def _8_cpus_256_kib() -> Geometry:
    """A common server: eight units share one atom of 2 MiB, so most of each unit is unused in the first chunk."""
    return Geometry.embed(96 * KIB, cpus=8, atom_size=2 * MIB)


def _12_cpus_unused_units() -> Geometry:
    """Sixteen units for twelve CPUs: a unit without a CPU costs address space, not memory."""
    return Geometry.embed(70000, cpus=12, reserved_size=0, dyn_size=20 * KIB, atom_size=MIB)


def _64_possible_cpus() -> Geometry:
    """Every byte allocated costs 64 bytes: all possible CPUs pay, online or not."""
    return Geometry.embed(64 * KIB, cpus=64, atom_size=2 * MIB)


PRESETS: Mapping[str, Callable[[], Geometry]] = MappingProxyType({
    "x86-64, 4 CPUs": _x86_64_4_cpus,
    "the 2017 test box": _the_2017_test_box,
    "i386-like, page first chunk": _i386_like,
    "UP, km": _up_km,
    "3 CPUs, km": _3_cpus_km,
    "8 CPUs, 256 KiB": _8_cpus_256_kib,
    "12 CPUs, unused units": _12_cpus_unused_units,
    "64 possible CPUs": _64_possible_cpus,
})


def preset(name: str) -> Geometry:
    """Make one of the machines in PRESETS; the docstring of each entry says what it shows.

    >>> preset("x86-64, 4 CPUs").info
    <AllocInfo: unit 64 KiB = static 28 KiB + reserved 8 KiB + dynamic 28 KiB; 4 CPUs, 4 units, 1 group>

    Args:
        name: a key of PRESETS.

    Raises:
        GeometryError: there is no such machine; the message names all.
    """
    if name not in PRESETS:
        raise GeometryError(f"no machine is called {name!r}", where="preset",
                            remedy="there are: " + "; ".join(repr(known) for known in PRESETS))
    return PRESETS[name]()
