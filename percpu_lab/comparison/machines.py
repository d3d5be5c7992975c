"""Would another machine have done better? The same requests with other CPUs, pages, units, atoms, engine, reserve.

                pages a CPU      pages in all        asked for, a CPU     waste, a CPU     failed
as it was           1,574             6,296               2,052,000        ...                  0
1,024 CPUs          1,574         1,611,776               2,052,000        ...                  0
"""

from __future__ import annotations

import html
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..errors import RequestError
from ..geometry import AllocInfo, Geometry, GroupInfo, pcpu_build_alloc_info
from ..geometry.info import cpu_ids
from ..plain import text_table
from ..rich import Rich
from ..units import KIB, format_bytes, round_up
from .pages import check_page_size
from .requests import Requests
from .result import on_machine
from .run import Outcome, ScriptRun
from .settings import Machine, Plan, default_engine, named

if TYPE_CHECKING:
    import pandas as pd

AS_IT_WAS = "as it was"
Change = dict[str, Any]


@dataclass(frozen=True, slots=True)
class MachineCost(Rich):
    """What the requests cost on a machine; bytes and pages of one CPU, and of all units together.

    Args:
        outcome: of the run: chunks, failures, fragmentation.
        changed: what is not as it was, by argument of what_if().
    """

    outcome: Outcome
    changed: tuple[tuple[str, Any], ...]

    @property
    def info(self) -> AllocInfo:
        """The layout of the machine."""
        return self.outcome.geometry.info

    @property
    def name(self) -> str:
        """Say what was changed."""
        return self.outcome.name

    @property
    def nr_cpus(self) -> int:
        """Count the possible CPUs."""
        return self.info.nr_cpus

    @property
    def final_bytes(self) -> int:
        """Give the bytes of the populated pages of one CPU at the end."""
        return self.outcome.final_pages * self.info.page_size

    @property
    def peak_bytes(self) -> int:
        """Give the most bytes of populated pages that one CPU had."""
        return self.outcome.peak_pages * self.info.page_size

    @property
    def waste_bytes(self) -> int:
        """Give what one CPU has at the end in populated pages, beyond its static part and what was asked for.

        Empty pages, holes, rounding and the free part of the reserve.
        """
        return self.final_bytes - self.info.static_size - self.outcome.live_bytes

    @property
    def total_pages(self) -> int:
        """Count the populated pages of all units at the end, as the kernel does: also of units without a CPU."""
        return self.outcome.final_pages * self.info.nr_units

    @property
    def total_bytes(self) -> int:
        """Give the bytes of the populated pages of all units at the end: Percpu in meminfo."""
        return self.final_bytes * self.info.nr_units

    @property
    def total_peak_bytes(self) -> int:
        """Give the most bytes of populated pages of all units."""
        return self.peak_bytes * self.info.nr_units

    @property
    def total_waste_bytes(self) -> int:
        """Give the waste of all CPUs, and all of the units without one."""
        return self.total_bytes - self.nr_cpus * (self.info.static_size + self.outcome.live_bytes)


#: columns of the table: heading, property of a MachineCost or its Outcome
_COLUMNS = (
    ("", "name"),
    ("CPUs", "nr_cpus"),
    ("chunks", "nr_chunks"),
    ("pages a CPU", "final_pages"),
    ("peak", "peak_pages"),
    ("KiB a CPU", "final_bytes"),
    ("waste a CPU, KiB", "waste_bytes"),
    ("pages in all", "total_pages"),
    ("KiB in all", "total_bytes"),
    ("peak, KiB", "total_peak_bytes"),
    ("waste in all, KiB", "total_waste_bytes"),
    ("failed", "nr_failed"),
)


@dataclass(frozen=True, slots=True, eq=False)
class WhatIf:
    """The same requests on other machines.

    Args:
        requests: what was asked for.
        costs: one a machine, the one as it was first.
    """

    requests: Requests
    costs: tuple[MachineCost, ...]

    def __getitem__(self, name: str) -> MachineCost:
        return named(self.costs, name)

    def __len__(self) -> int:
        return len(self.costs)

    @property
    def text(self) -> str:
        """The answer as a table of text, a row a machine."""
        rows = [tuple(heading for heading, _ in _COLUMNS), *self._rows()]
        right = [False] + [True] * (len(rows[0]) - 1)
        lines = text_table(rows[0], rows[1:], right)
        return "\n".join([self._title(), *lines, *self._notes()])

    def __str__(self) -> str:
        return self.text

    def _title(self) -> str:
        return f"{self.requests.title}: {len(self.requests.ops):,} ops"

    def _rows(self) -> list[tuple[str, ...]]:
        return [tuple(_cell(value, name) for name, value in _values(cost).items()) for cost in self.costs]

    def _notes(self) -> list[str]:
        stopped = [f"{cost.name} stopped: {cost.outcome.error}" for cost in self.costs if cost.outcome.error]
        return [*self.requests.notes, *stopped]

    def frame(self) -> pd.DataFrame:
        """Give the answer as a table, a row a machine; sizes in bytes."""
        import pandas as pd

        rows = [
            _values(cost)
            | {"engine": cost.outcome.engine, "live_bytes": cost.outcome.live_bytes}
            | {name: getattr(cost.info, name) for name in ("page_size", "unit_size", "atom_size", "reserved_size")}
            for cost in self.costs
        ]
        return pd.DataFrame(rows).set_index("name")

    def __repr__(self) -> str:
        return f"<WhatIf: {len(self.requests.ops):,} ops on {len(self.costs)} machines>"

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(heading)}</th>" for heading, _ in _COLUMNS)
        cells = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in self._rows())
        body = "".join(f"<tr>{row}</tr>" for row in cells)
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self._notes())
        return f"<b>{html.escape(self._title())}</b><table><tr>{head}</tr>{body}</table>{notes}"


def _values(cost: MachineCost) -> dict[str, Any]:
    return {name: getattr(cost if hasattr(cost, name) else cost.outcome, name) for _, name in _COLUMNS}


def _cell(value: Any, name: str) -> str:
    if isinstance(value, str):
        return value
    return f"{value // KIB if name.endswith('_bytes') else value:,}"


def what_if(
    subject: Any,
    *,
    cpus: int | Sequence[int] | None = None,
    page_size: int | Sequence[int] | None = None,
    unit_size: int | Sequence[int] | None = None,
    atom_size: int | Sequence[int] | None = None,
    engine: str | Sequence[str] | None = None,
    reserved_size: int | Sequence[int] | None = None,
    machine: Machine | None = None,
    auto_balance: bool | None = None,
    jit: str | None = None,
) -> WhatIf:
    """Run the same requests on other machines; of arguments with several values, every combination.

    >>> answer = what_if("lifo", cpus=[4, 1024], jit="off")
    >>> [(cost.name, cost.total_pages) for cost in answer.costs]
    [('as it was', 172), ('4 CPUs', 172), ('1,024 CPUs', 44032)]

    CPUs of a machine that is not as it was stand in one group, and its units are as large as the kernel makes them
    (pcpu_build_alloc_info), unless a unit_size is given.

    Args:
        subject: an Ops, a Workload or its name, a trace, an Allocator with one, a RecordedRun or a Recording.
        cpus: numbers of possible CPUs.
        page_size: 4096, 16384 or 65536; other than 4096, a model that no recorded case checks, in plain Python.
        unit_size, atom_size: in bytes.
        engine: of models.MODELS.
        reserved_size: bytes kept for modules.
        machine: the one that it was; that of a Recording, if left out.
        auto_balance: run the balance work by itself; if left out, only where the script has no balance op.
        jit: auto, off or wait (see compiled.py).

    Raises:
        RequestError: the subject asks for nothing, or an argument has no such value.
        GeometryError: a kernel would refuse to boot with such a machine.
    """
    requests, base = on_machine(subject, machine)
    balance = not requests.has_balance if auto_balance is None else auto_balance
    wanted = {
        "cpus": cpus, "page_size": page_size, "unit_size": unit_size, "atom_size": atom_size, "engine": engine,
        "reserved_size": reserved_size,
    }  # fmt: skip
    costs = [
        MachineCost(
            ScriptRun(plan(base, change), requests.ops, auto_balance=balance, jit=jit).outcome, tuple(change.items())
        )
        for change in [{}, *_combinations(wanted)]
    ]
    return WhatIf(requests, tuple(costs))


def _combinations(wanted: Change) -> list[Change]:
    """Every choice of one value for each argument that has some."""
    lists = {
        name: [value] if isinstance(value, (int, str)) else list(value)
        for name, value in wanted.items()
        if value is not None
    }
    for name, values in lists.items():
        if not values:
            raise RequestError("no value", where=name, remedy="give one or more")
    return [dict(zip(lists, choice, strict=True)) for choice in itertools.product(*lists.values())] if lists else []


_WORDS = {"page_size": "pages of", "unit_size": "unit", "atom_size": "atom", "reserved_size": "reserve"}


def plan(base: Geometry, change: Change) -> Plan:
    """Make the plan of a machine that differs from another one.

    >>> from percpu_lab.geometry import preset
    >>> plan(preset("x86-64, 4 CPUs"), {"cpus": 64}).geometry.info
    <AllocInfo: unit 64 KiB = static 28 KiB + reserved 8 KiB + dynamic 28 KiB; 64 CPUs, 64 units, 1 group>

    Args:
        base: the other one.
        change: what differs, named as the arguments of what_if().
    """
    words = [_change_words(name, value) for name, value in change.items()]
    layout = {name: value for name, value in change.items() if name != "engine"}
    geometry = changed(base, **layout) if layout else base
    return Plan(", ".join(words) or AS_IT_WAS, change.get("engine", default_engine(geometry)), geometry, reclaim=True)


def _change_words(name: str, value: Any) -> str:
    if name == "cpus":
        return f"{value:,} CPU{'s' * (value != 1)}"
    return str(value) if name == "engine" else f"{_WORDS[name]} {format_bytes(value)}"


def changed(
    base: Geometry,
    *,
    cpus: int | None = None,
    page_size: int | None = None,
    unit_size: int | None = None,
    atom_size: int | None = None,
    reserved_size: int | None = None,
) -> Geometry:
    """Give a machine that differs from another one; the dynamic part of its first chunk is at least as large.

    Args:
        base: the other one.
        cpus, page_size, unit_size, atom_size, reserved_size: as for what_if(), one value each.

    Raises:
        GeometryError: a kernel would refuse to boot with it.
    """
    info = base.info
    page = info.page_size if page_size is None else check_page_size(page_size)
    ids = info.possible_cpus if cpus is None else cpu_ids(cpus)
    reserved = info.reserved_size if reserved_size is None else reserved_size
    atom = max(atom_size or info.atom_size, page)
    dyn_size = round_up(info.static_size + reserved + info.dyn_size, page) - info.static_size - reserved
    if unit_size is None:
        made = pcpu_build_alloc_info(info.static_size, reserved, dyn_size, atom, cpus=ids, kernel=base.kernel)
    else:
        made = _with_unit(info.static_size, reserved, dyn_size, unit_size, atom_size or page, ids)
    return Geometry.from_info(replace(made, page_size=page), backing=base.backing, kernel=base.kernel)


def _with_unit(static: int, reserved: int, dyn: int, unit_size: int, atom_size: int, ids: tuple[int, ...]) -> AllocInfo:
    """Lay out units of a given size: as many in an atom as fit."""
    upa = max(atom_size // unit_size, 1)
    nr_units = round_up(len(ids), upa)
    group = GroupInfo(nr_units, 0, (*ids, *(None,) * (nr_units - len(ids))))
    return AllocInfo(static, reserved, dyn, unit_size, atom_size, upa * unit_size, (group,), ids)
