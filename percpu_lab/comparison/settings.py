"""On which machine, and with which kernel's allocator, requests are run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from ..core import layout as L
from ..engine import Engine
from ..errors import GeometryError, RequestError
from ..geometry import PRESETS, AllocInfo, Geometry, GroupInfo, preset
from ..kernels import V6_12
from ..models import BITMAP, MODELS
from ..recorded_run import RecordedRun
from ..rich import Rich
from ..units import PAGE_SIZE, format_bytes
from .pages import boot

Machine = Geometry | AllocInfo | str
BOTH_ENGINES = tuple(MODELS)


class Named(Protocol):
    """What has a name."""

    @property
    def name(self) -> str: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Setting(Rich):
    """One of the ways in which a comparison runs the same requests.

    >>> Setting(reclaim=False)
    Setting(engine=None, machine=None, reclaim=False, name='')

    Args:
        engine: the kernel whose decisions are made, one of models.MODELS; that of the machine, if left out.
        machine: a geometry, an AllocInfo or the name of a preset; that of the comparison, if left out.
        reclaim: give the empty pages of half-empty chunks back (partial depopulation, v6.12 only).
        name: shown over its column; made from what differs, if left out.
    """

    engine: str | None = None
    machine: Machine | None = None
    reclaim: bool = True
    name: str = ""


@dataclass(frozen=True, slots=True)
class Plan(Rich):
    """A setting with nothing left open."""

    name: str
    engine: str
    geometry: Geometry
    reclaim: bool

    def boot(self, *, auto_balance: bool, jit: str | None) -> Engine:
        """Boot this machine."""
        engine = boot(self.geometry, kernel=self.engine, auto_balance=auto_balance, jit=jit)
        engine.g[L.NO_RECLAIM] = not self.reclaim
        return engine


def plans(settings: Sequence[Any], machine: Machine) -> tuple[Plan, ...]:
    """Settle what each setting leaves open, and name each by what differs.

    >>> [plan.name for plan in plans(["v4.13-areamap", Setting("v6.12-bitmap", reclaim=False)], "UP, km")]
    ['v4.13-areamap', 'v6.12-bitmap, no reclaim']

    Args:
        settings: a Setting, the name of an engine or a preset, or a geometry each.
        machine: for those that name none.

    Raises:
        RequestError: no setting, an unknown name, or two settings of one name.
    """
    if not settings:
        raise RequestError("nothing to compare", where="settings", remedy="name an engine: " + ", ".join(MODELS))
    chosen = [_as_setting(setting) for setting in settings]
    made = [_plan(setting, machine) for setting in chosen]
    names = [s.name or _name(s, plan, made) for s, plan in zip(chosen, made, strict=True)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RequestError(f"two settings are called {twice[0]!r}", where="settings", remedy="give Setting(name=...)")
    return tuple(Plan(name, plan.engine, plan.geometry, plan.reclaim) for name, plan in zip(names, made, strict=True))


def _as_setting(value: Any) -> Setting:
    if isinstance(value, Setting):
        return value
    if isinstance(value, str) and value in MODELS:
        return Setting(value)
    if isinstance(value, (Geometry, AllocInfo)) or (isinstance(value, str) and value in PRESETS):
        return Setting(machine=value)
    remedy = f"give a Setting, a geometry, one of {', '.join(MODELS)}, or a machine of PRESETS"
    raise RequestError(f"{value!r:.60} is no setting", where="settings", remedy=remedy)


def _plan(setting: Setting, machine: Machine) -> Plan:
    geometry = as_geometry(setting.machine or machine)
    engine = setting.engine or default_engine(geometry)
    if engine not in MODELS:
        raise RequestError(f"no engine {engine!r}", where="engine", remedy=f"choose from {', '.join(MODELS)}")
    return Plan("", engine, geometry, setting.reclaim)


def _name(setting: Setting, plan: Plan, others: Sequence[Plan]) -> str:
    parts = [plan.engine] if len({other.engine for other in others}) > 1 or len(others) == 1 else []
    if len({other.geometry.info for other in others}) > 1:
        parts.append(machine_name(setting.machine, plan.geometry))
    if not plan.reclaim:
        parts.append("no reclaim")
    return ", ".join(parts) or plan.engine


_Named = TypeVar("_Named", bound=Named)


def named(parts: Sequence[_Named], name: str) -> _Named:
    """Find a part of an answer by its name.

    Raises:
        RequestError: there is none of that name.
    """
    found = next((part for part in parts if part.name == name), None)
    if found is None:
        remedy = f"there are: {'; '.join(part.name for part in parts)}"
        raise RequestError(f"nothing is called {name!r:.80}", where="name", remedy=remedy)
    return found


def machine_name(machine: Machine | None, geometry: Geometry) -> str:
    """Name a machine shortly: by its preset, or by its CPUs and unit."""
    if isinstance(machine, str):
        return machine
    info = geometry.info
    return f"{info.nr_cpus:,} CPU{'s' * (info.nr_cpus != 1)}, unit {format_bytes(info.unit_size)}"


def as_geometry(machine: Machine) -> Geometry:
    """Take a geometry, an AllocInfo or the name of a preset."""
    if isinstance(machine, Geometry):
        return machine
    return preset(machine) if isinstance(machine, str) else Geometry.from_info(machine)


def default_engine(geometry: Geometry) -> str:
    """Choose the engine for a geometry: that of its kernel, and the bitmap for the later kernels that have none.

    6.1 and 6.12 decided alike wherever recordings of the one were replayed with the engine of the other.
    """
    return geometry.kernel.name if geometry.kernel.name in MODELS else BITMAP.name


DEFAULT_MACHINE = "x86-64, 4 CPUs"


def machine_of(subject: Any) -> tuple[Geometry, str]:
    """Find the machine on which requests were recorded -> machine, and what was assumed for want of knowledge.

    >>> machine_of(None)[1]
    'no machine was recorded: that of x86-64, 4 CPUs is assumed'

    Args:
        subject: a Recording, a RecordedRun or an Allocator has one.
    """
    geometry = getattr(subject, "geometry", None)
    if isinstance(subject, RecordedRun):
        geometry = _geometry_of(subject)
    if isinstance(geometry, Geometry):
        return geometry, ""
    return preset(DEFAULT_MACHINE), f"no machine was recorded: that of {DEFAULT_MACHINE} is assumed"


def _geometry_of(run: RecordedRun) -> Geometry | None:
    unit = run.unit
    cpus = tuple(sorted(unit.unit_offsets))
    group = GroupInfo(len(cpus), 0, cpus)
    try:
        sizes = (unit.static_size, unit.reserved_size, unit.dyn_size, unit.unit_size)
        info = AllocInfo(*sizes, atom_size=PAGE_SIZE, alloc_size=unit.unit_size, groups=(group,), possible_cpus=cpus)
        return Geometry.from_info(info, kernel=run.rebuilt.kernel or V6_12)
    except GeometryError:
        return None
