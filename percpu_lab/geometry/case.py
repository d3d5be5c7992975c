"""The geometry part of a recorded case: untrusted numbers, read with care."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..errors import CaseError, GeometryError
from ..kernels import KERNELS, KernelVersion
from ..units import PAGE_SIZE
from .addresses import Addresses, BootMemory
from .build import MAX_NODES, Topology
from .checks import BACKINGS
from .info import (
    MAX_ADDRESS,
    MAX_ALLOC_SIZE,
    MAX_CPUS,
    MAX_SPAN,
    MAX_UNIT_SIZE,
    AllocInfo,
    GroupInfo,
    shown,
    whole_number,
)

_SIZES = ("static_size", "reserved_size", "dyn_size", "unit_size", "atom_size", "alloc_size")
_EMBED_SIZES = ("static_size", "reserved_size", "dyn_size", "atom_size")
_ADDRESSES = ("first_chunk", "area_base", "area_stride")


@dataclass(frozen=True, slots=True)
class EmbedSetup:
    """The arguments that the boot code of a recorded case passed to pcpu_embed_first_chunk, sizes in bytes."""

    static_size: int
    reserved_size: int
    dyn_size: int
    atom_size: int
    topology: Topology
    memory: BootMemory


@dataclass(frozen=True, slots=True)
class CaseSetup:
    """What a case says about its machine; `embed` is None if the layout was given ready made."""

    kernel: KernelVersion
    backing: str
    info: AllocInfo
    addresses: Addresses
    embed: EmbedSetup | None


class _Section:
    """One JSON object, whose values are taken out by key and type; errors name the path to the key."""

    def __init__(self, value: object, where: str, path: str = "") -> None:
        if not isinstance(value, Mapping):
            raise CaseError(f"{shown(value)} is not an object", where=f"{where}, {path}" if path else where,
                            remedy="write {...}")
        self._values, self._where, self._path = value, where, path

    def error(self, key: str, what: str, remedy: str) -> CaseError:
        return CaseError(what, where=f"{self._where}, {self._name(key)}", remedy=remedy)

    def _name(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key

    def _get(self, key: str) -> Any:
        if key not in self._values:
            raise self.error(key, "missing", "add it")
        return self._values[key]

    def number(self, key: str, *, low: int = 0, high: int = MAX_ADDRESS) -> int:
        return self.whole(key, self._get(key), low, high)

    def whole(self, key: str, value: object, low: int, high: int) -> int:
        try:
            return whole_number(key, value, low=low, high=high)
        except GeometryError as error:
            raise self.error(key, error.what, error.remedy) from None

    def equals(self, key: str, expected: int, why: str) -> None:
        if self.number(key) != expected:
            raise self.error(key, f"{self.number(key)} contradicts {why}", f"write {expected}")

    def address(self, key: str) -> int:
        value = self._get(key)
        if isinstance(value, str):
            if len(value) > 18 or not value.startswith("0x"):
                raise self.error(key, f"{shown(value)} is not an address", 'write "0x" and up to 16 hex digits')
            try:
                value = int(value, 16)
            except ValueError:
                raise self.error(key, f"{shown(value)} is not an address", "write hex digits after 0x") from None
        return self.whole(key, value, 0, MAX_ADDRESS)

    def choice(self, key: str, choices: Sequence[str]) -> str:
        value = self._get(key)
        if not isinstance(value, str) or value not in choices:
            raise self.error(key, f"{shown(value)} is not known", f"write one of: {', '.join(choices)}")
        return value

    def flag(self, key: str) -> bool:
        value = self._get(key)
        if not isinstance(value, bool):
            raise self.error(key, f"{shown(value)} is neither true nor false", "write true or false")
        return value

    def array(self, key: str, *, longest: int) -> list[Any]:
        value = self._get(key)
        if not isinstance(value, list):
            raise self.error(key, f"{shown(value)} is not an array", "write [...]")
        if not 0 < len(value) <= longest:
            raise self.error(key, f"has {len(value):,} entries", f"give 1 to {longest:,}")
        return value

    def numbers(self, key: str, *, longest: int, high: int) -> list[int]:
        return [self.whole(f"{key}[{i}]", value, 0, high) for i, value in enumerate(self.array(key, longest=longest))]

    def section(self, key: str) -> _Section:
        return _Section(self._get(key), self._where, self._name(key))

    def sections(self, key: str, *, longest: int) -> list[_Section]:
        return [_Section(value, self._where, f"{self._name(key)}[{i}]")
                for i, value in enumerate(self.array(key, longest=longest))]


def read_setup(case: Mapping[str, Any], where: str) -> CaseSetup:
    """Read what a parsed case.json says about its machine.

    >>> read_setup({"kernel": "v2.6"}, "case.json")
    Traceback (most recent call last):
    percpu_lab.errors.CaseError: case.json, kernel: 'v2.6' is not known; write one of: v4.13-areamap, ...

    Args:
        case: the parsed case.json; more keys may be there.
        where: its name in error messages.

    Raises:
        CaseError: names the key that is missing, mistyped or contradicts another.
    """
    top = _Section(case, where)
    kernel = KERNELS[top.choice("kernel", tuple(KERNELS))]
    backing = top.choice("backend", BACKINGS)
    top.equals("page_size", PAGE_SIZE, f"the page size of this package, {PAGE_SIZE}")
    cpus = _possible_cpus(top)
    info = _alloc_info(top.section("alloc_info"), cpus)
    embed = None
    if top.choice("setup", ("first_chunk", "embed")) == "embed":
        embed = _embed(top.section("embed"), cpus)
    with as_case_error(where):
        return CaseSetup(kernel, backing, info, _addresses(top.section("addresses")), embed)


@contextmanager
def as_case_error(where: str, *, is_embed: bool = False) -> Iterator[None]:
    """Let an impossible layout appear as what it is: damage of the case.

    Args:
        where: the name of the case in the message.
        is_embed: the layout is being worked out from `embed`.

    Raises:
        CaseError: instead of a GeometryError; names the key that holds the value.
    """
    try:
        yield
    except GeometryError as error:
        damage = CaseError(error.what, where=f"{where}, {_key_of(error.where, is_embed)}", remedy=error.remedy)
        for note in getattr(error, "__notes__", ()):
            damage.add_note(note)
        raise damage from None


def _key_of(place: str, is_embed: bool) -> str:
    """Say which key of a case holds what an error names, maybe after a kernel function and a comma."""
    name = place.rpartition(", ")[2]
    if name in _ADDRESSES:
        return "embed.node_base" if is_embed and name == "first_chunk" else f"addresses.{name}"
    section, keys = ("embed", _EMBED_SIZES) if is_embed else ("alloc_info", (*_SIZES, "groups"))
    return f"{section}.{name}" if name.partition("[")[0] in keys else section


def check_recorded(setup: CaseSetup, info: AllocInfo, first_chunk: int, where: str) -> None:
    """Compare the layout worked out from `embed` with the recorded one.

    Raises:
        CaseError: names the first key that differs.
    """
    for name in _SIZES:
        if getattr(setup.info, name) != getattr(info, name):
            raise CaseError(f"{getattr(setup.info, name)} contradicts `embed`", where=f"{where}, alloc_info.{name}",
                            remedy=f"pcpu_build_alloc_info gives {getattr(info, name)}")
    _check_groups(setup.info, info, where)
    if setup.addresses.first_chunk != first_chunk:
        raise CaseError(f"{setup.addresses.first_chunk:#x} contradicts `embed`",
                        where=f"{where}, addresses.first_chunk", remedy=f"boot memory gives {first_chunk:#x}")


def _check_groups(recorded: AllocInfo, info: AllocInfo, where: str) -> None:
    if recorded.nr_groups != info.nr_groups:
        raise CaseError(f"{recorded.nr_groups} contradicts `embed`", where=f"{where}, alloc_info.nr_groups",
                        remedy=f"pcpu_build_alloc_info makes {info.nr_groups}")
    for i, (group, made) in enumerate(zip(recorded.groups, info.groups, strict=True)):
        for name in ("nr_units", "base_offset", "cpu_map"):
            if getattr(group, name) != getattr(made, name):
                is_there, wanted = (shown(getattr(one, name)) for one in (group, made))
                raise CaseError(f"{is_there} contradicts `embed`", where=f"{where}, alloc_info.groups[{i}].{name}",
                                remedy=f"pcpu_build_alloc_info gives {wanted}")


def _possible_cpus(top: _Section) -> tuple[int, ...]:
    cpus = top.numbers("possible_cpus", longest=MAX_CPUS, high=MAX_CPUS - 1)
    if sorted(set(cpus)) != cpus:
        raise top.error("possible_cpus", "names a CPU twice, or the ids do not rise", "name each CPU once, in order")
    top.equals("nr_cpus", len(cpus), f"the {len(cpus)} entries of possible_cpus")
    top.equals("nr_cpu_ids", cpus[-1] + 1, f"the highest of possible_cpus, {cpus[-1]}")
    return tuple(cpus)


def _alloc_info(section: _Section, cpus: tuple[int, ...]) -> AllocInfo:
    sizes = [section.number(name, high=MAX_UNIT_SIZE) for name in _SIZES[:4]]
    atom_size, alloc_size = (section.number(name, low=1, high=MAX_ALLOC_SIZE) for name in _SIZES[4:])
    if sizes[3] % PAGE_SIZE:
        raise section.error("unit_size", f"{sizes[3]} is not page aligned", f"write a multiple of {PAGE_SIZE}")
    groups = section.sections("groups", longest=MAX_CPUS)
    section.equals("nr_groups", len(groups), f"the {len(groups)} entries of groups")
    static_size, reserved_size, dyn_size, unit_size = sizes
    info = AllocInfo(static_size, reserved_size, dyn_size, unit_size, atom_size, alloc_size,
                     tuple(_group(group) for group in groups), cpus)
    _check_apart(info, groups)
    return info


def _check_apart(info: AllocInfo, sections: list[_Section]) -> None:
    end = 0
    for group, section in sorted(zip(info.groups, sections, strict=True), key=lambda pair: pair[0].base_offset):
        if group.base_offset < end:
            raise section.error("base_offset", f"{group.base_offset} is within another group", f"write {end} or more")
        end = group.base_offset + group.nr_units * info.unit_size


def _group(section: _Section) -> GroupInfo:
    cpu_map = section.array("cpu_map", longest=4 * MAX_CPUS)
    for i, cpu in enumerate(cpu_map):
        if cpu is not None:
            section.whole(f"cpu_map[{i}]", cpu, 0, MAX_CPUS - 1)
    section.equals("nr_units", len(cpu_map), f"the {len(cpu_map)} entries of cpu_map")
    return GroupInfo(len(cpu_map), section.number("base_offset", high=MAX_SPAN), tuple(cpu_map))


def _addresses(section: _Section) -> Addresses:
    return Addresses(section.address("first_chunk"), section.address("area_base"),
                     section.number("area_stride", low=1, high=MAX_SPAN))


def _embed(section: _Section, cpus: tuple[int, ...]) -> EmbedSetup:
    static_size, reserved_size, dyn_size = (section.number(name, high=MAX_UNIT_SIZE) for name in _EMBED_SIZES[:3])
    nodes = section.numbers("cpu_node", longest=MAX_CPUS, high=MAX_NODES - 1)
    if len(nodes) <= cpus[-1]:
        raise section.error("cpu_node", f"has {len(nodes)} entries for CPUs up to {cpus[-1]}", "give one for each id")
    local, remote = (section.number(key, high=255) for key in ("local_distance", "remote_distance"))
    distance = (lambda a, b: local if a == b else remote) if section.flag("use_distance_fn") else None
    topology = Topology(cpus, {cpu: nodes[cpu] for cpu in cpus}, distance)
    memory = BootMemory(section.address("node_base"), section.number("node_stride", high=MAX_SPAN))
    atom_size = section.number("atom_size", low=1, high=MAX_ALLOC_SIZE)
    return EmbedSetup(static_size, reserved_size, dyn_size, atom_size, topology, memory)
