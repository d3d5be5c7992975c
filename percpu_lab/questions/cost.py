"""What does it cost on a machine with so many CPUs?

size of an area      x possible CPUs      + accounting: a pointer for every 4 bytes, once
populated pages      x units              what /proc/meminfo calls Percpu
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import RequestError
from ..geometry.info import MAX_CPUS
from ..plain import count
from ..rich import Rich
from ..units import format_bytes
from .answer import Answer
from .subject import At, Populated, Subject

if TYPE_CHECKING:
    from ..views.static import Picture

_USUAL_CPUS = (1, 4, 16, 64, 256)
_GRANULE_BYTES = 4


@dataclass(frozen=True, slots=True)
class CostAt(Rich):
    """The cost with one number of CPUs.

    Args:
        nr_cpus: possible CPUs.
        areas_bytes: the areas, on all CPUs.
        accounting_bytes: what the kernel keeps to account them to memory cgroups; None if unknown.
        percpu_bytes: Percpu of meminfo, with the kernel's own variables and all populated pages; None if unknown.
    """

    nr_cpus: int
    areas_bytes: int
    accounting_bytes: int | None
    percpu_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Cost(Answer):
    """The cost of areas, by the number of CPUs.

    Args:
        size_bytes: of the areas on one CPU.
        nr_areas: that make up the size.
        own_cpus: possible CPUs of the machine of the recording; None if unknown.
    """

    size_bytes: int
    nr_areas: int
    own_cpus: int | None

    def headline(self) -> str:
        """Give the answer in one sentence."""
        what = f"{count(self.nr_areas, 'area')}, {format_bytes(self.size_bytes)} per CPU"
        costs = [f"{format_bytes(row.areas_bytes)} on {count(row.nr_cpus, 'CPU')}" for row in self.rows]
        return f"{what}: {', '.join(costs)}"

    def picture(self) -> Picture | None:
        """Draw the cost for each number of CPUs."""
        from .pictures import bars

        names = [count(row.nr_cpus, "CPU") for row in self.rows]
        return bars("What the live areas cost on all CPUs", names, [row.areas_bytes for row in self.rows])


def cost(subject: Any, cpus: int | Sequence[int] | None = None, *, size: int | None = None, at: At = None) -> Cost:
    """Say what the live areas, or one area of a size, cost on machines with other numbers of CPUs.

    >>> from percpu_lab.allocator import Allocator
    >>> print(cost(Allocator(), 256, size=1024).headline())
    1 area, 1 KiB per CPU: 256 KiB on 256 CPUs

    Args:
        subject: a Recording, a trace, or an Allocator.
        cpus: a number of possible CPUs or several; by default those of the recording and some usual ones.
        size: bytes of one area, in place of the live ones.
        at: the moment, as a row of the trace or a text in a marker; the end by default.

    Raises:
        RequestError: not a possible number of CPUs, no size, or no such moment.

    Source: pcpu_obj_full_size (v5.19 and later), pcpu_nr_pages.
    """
    whole = Subject.of(subject)
    own = whole.info.nr_cpus if whole.info is not None else None
    counts = _checked_cpus(cpus, own)
    live = whole.ledger.live_at(whole.moment(at))
    if size is not None and size <= 0:
        raise RequestError(f"{size} bytes are no area", where="size", remedy="give the bytes of one area")
    size_bytes, nr_areas = (int(whole.ledger.size[live].sum()), int(live.sum())) if size is None else (size, 1)
    pointer = _accounting_pointer(whole)
    read = whole.meminfo(at) if size is None and own else None
    rows = tuple(
        CostAt(
            nr, size_bytes * nr,
            None if pointer is None else size_bytes // _GRANULE_BYTES * pointer,
            None if read is None else read.cpu_bytes * nr,
        )
        for nr in counts
    )  # fmt: skip
    return Cost(
        rows=rows, size_bytes=size_bytes, nr_areas=nr_areas, own_cpus=own, **_notes(own, read, whole.moment(at))
    )


def _checked_cpus(cpus: int | Sequence[int] | None, own: int | None) -> list[int]:
    if cpus is None:
        return sorted({*_USUAL_CPUS, *([own] if own else [])})
    counts = [cpus] if isinstance(cpus, int) else list(cpus)
    for nr in counts:
        if not 1 <= nr <= MAX_CPUS:
            raise RequestError(f"no kernel has {nr:,} CPUs", where="cpus", remedy=f"give 1 to {MAX_CPUS:,}")
    return counts


def _accounting_pointer(whole: Subject) -> int | None:
    """Bytes kept for each granule of 4: a pointer, or nothing; None if the recording does not tell."""
    if whole.engine is not None:
        return 0
    recording = whole.recording
    if recording is None or recording.accounts_memcg is None:
        return None
    return (recording.pointer_bytes or 8) if recording.accounts_memcg else 0


def _notes(own: int | None, read: Populated | None, moment: int) -> dict[str, tuple[str, ...]]:
    certain = ("every area costs its size on each possible CPU, whether the CPU is there or not",)
    inferred = ["software that makes areas for each CPU or queue would make more of them"]
    if read is not None:
        when = f"at row {read.row:,}" + (f", {count(moment - read.row, 'row')} before" if read.row < moment else "")
        inferred.append(f"percpu: the reading of meminfo {when}, with {own} CPUs, scaled; the layout may differ")
    return {"certain": certain, "inferred": tuple(inferred)}
