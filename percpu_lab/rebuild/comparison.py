"""One number that the kernel reported beside what events tell, and all numbers of a reading."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..rich import Rich

Verdict = Literal["equal", "explained", "different"]
_VERDICTS: tuple[Verdict, ...] = ("equal", "explained", "different")


@dataclass(frozen=True, slots=True)
class Comparison(Rich):
    """One number that the kernel reported, beside what events tell.

    Args:
        chunk: ordinal of the chunk; None for a number of the whole allocator.
        field: its label.
        reported: by the kernel.
        rebuilt: from events; None where they do not determine it.
        verdict: "equal"; "explained", and `why` says how; "different".
    """

    chunk: int | None
    field: str
    reported: int
    rebuilt: int | None
    verdict: Verdict
    why: str = ""


@dataclass(frozen=True, slots=True, repr=False)
class ReadingCheck(Rich):
    """A reading, field by field.

    Args:
        file: name of the file.
        row: of the trace at which its counts are reached; None if that is nowhere.
        nr_late: allocations it counts whose events follow.
        comparisons: in the order of the file.
    """

    file: str
    row: int | None
    nr_late: int
    comparisons: tuple[Comparison, ...]

    def __repr__(self) -> str:
        return f"<ReadingCheck of {self.file}: {self.summary()}>"

    def summary(self) -> str:
        """Count the numbers by verdict."""
        return ", ".join(f"{self.count(v):,} {v}" for v in _VERDICTS)

    @property
    def is_equal(self) -> bool:
        """Tell whether every number that events determine is equal."""
        return all(each.verdict == "equal" for each in self.comparisons if each.rebuilt is not None)

    @property
    def different(self) -> tuple[Comparison, ...]:
        """The numbers that are neither equal nor explained."""
        return tuple(each for each in self.comparisons if each.verdict == "different")

    def count(self, verdict: Verdict) -> int:
        """Count the numbers with a verdict."""
        return sum(each.verdict == verdict for each in self.comparisons)


@dataclass(frozen=True, slots=True)
class ReadingChecks(Rich):
    """All readings of a recording against its events.

    Args:
        stats, proc: one check a file.
        missing: allocations and frees from before the recording that all files count.
    """

    stats: tuple[ReadingCheck, ...]
    proc: tuple[ReadingCheck, ...]
    missing: tuple[int, int]

    @property
    def nr_stats_equal(self) -> int:
        """Count the percpu_stats files in which every number that events determine is equal."""
        return sum(check.is_equal for check in self.stats)

    @property
    def nr_stats_agreeing(self) -> int:
        """Count the percpu_stats files in which every number is equal or explained."""
        return sum(not check.different for check in self.stats)

    def __repr__(self) -> str:
        return f"<ReadingChecks: {self._summary()}>"

    def _html_fields(self) -> list[tuple[str, object]]:
        return [(check.file, check.summary()) for check in (*self.stats, *self.proc)]

    def _summary(self) -> str:
        nr_files = len(self.stats)
        return f"{self.nr_stats_equal} of {nr_files} percpu_stats equal, {self.nr_stats_agreeing} equal or explained"

    def text(self) -> str:
        """Sum up in a line a file, with what is different below."""
        lines = [self._summary()]
        if any(self.missing):
            lines.append("not recorded, the same in all files: {:,} allocations, {:,} frees".format(*self.missing))
        for check in (*self.stats, *self.proc):
            at = "nowhere in the trace" if check.row is None else f"at row {check.row:,}"
            late = f", {check.nr_late} late" if check.nr_late else ""
            lines.append(f"{check.file}: {at}{late}: {check.summary()}")
            lines += [
                f"  {'' if each.chunk is None else f'chunk {each.chunk} '}{each.field}: reported {each.reported:,}, "
                f"rebuilt {each.rebuilt if each.rebuilt is not None else 'unknown'}" + (each.why and f": {each.why}")
                for each in check.different
            ]
        return "\n".join(lines)


def compared(
    chunk: int | None, label: str, reported: int, rebuilt: int | None, unknown: str = "", explained: str = ""
) -> Comparison:
    """Compare a number that events determine; `unknown` says why they do not, `explained` why it may differ."""
    if rebuilt is None:
        return Comparison(chunk, label, reported, None, "explained", unknown)
    if explained:
        return Comparison(chunk, label, reported, rebuilt, "explained", explained)
    return Comparison(chunk, label, reported, rebuilt, "equal" if reported == rebuilt else "different")


def bounded(chunk: int | None, label: str, reported: int, exact: int | None, most: int, why: str) -> Comparison:
    """A number that events do not determine; where they bound it, it must keep to that."""
    if label != "empty_pop_pages":
        return Comparison(chunk, label, reported, None, "explained", "not determined by events")
    if exact == reported and chunk is not None:
        return Comparison(chunk, label, reported, exact, "equal")
    is_possible = reported <= most
    words = f"{why}; at most {most:,}"
    return Comparison(chunk, label, reported, None, "explained" if is_possible else "different", words)


def hint(chunk: int, label: str, reported: int, truth: int) -> Comparison:
    """What the kernel believes; it may lag behind the truth, which events tell."""
    if reported == truth:
        return Comparison(chunk, label, reported, truth, "equal")
    return Comparison(chunk, label, reported, None, "explained", f"a hint of the kernel; the truth is {truth:,}")
