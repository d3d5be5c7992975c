"""Are the files of a folder of one boot of one kernel? What contradicts is told, not repaired.

dmesg    boots, release       one boot, that of uname
stats    Allocation Info      the layout that the log tells
         nr_alloc ...         counters that only grow, from one reading to the next
snap     vmallocinfo          areas of the size of the groups, as many for each group
early    count in its head    as many calls as there are
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from ..geometry import AllocInfo
from ..stats import diff
from .folder import Remark
from .proc import check_chunk_areas

if TYPE_CHECKING:
    from .dmesg import Dmesg
    from .recording import ProcReading, StatsReading

__all__ = ["early_remarks", "log_remarks", "reading_remarks"]

_EARLY_COUNT = re.compile(r"#.*: (\d{1,12})\s*$")
_SIZES = ("unit_size", "static_size", "reserved_size", "dyn_size", "atom_size", "alloc_size")


def log_remarks(file: str, dmesg: Dmesg, release: str | None) -> Iterator[Remark]:
    """Compare a kernel log with the release of the recording."""
    if dmesg.nr_boots > 1:
        yield Remark(file, None, "boots", f"the log of {dmesg.nr_boots} boots; the last counts")
    if dmesg.release and release and dmesg.release != release:
        yield Remark(file, None, "release", f"the log of {dmesg.release}, while uname says {release}")


def reading_remarks(stats: Sequence[StatsReading], proc: Iterable[ProcReading],
                    info: AllocInfo | None) -> Iterator[Remark]:  # fmt: skip
    """Compare readings with the layout, and with each other.

    Args:
        stats, proc: the readings, by their numbers.
        info: the layout, None if it is not known.
    """
    for reading in stats:
        printed = reading.stats.alloc_info
        wrong = [name for name in _SIZES if info and getattr(info, name) != getattr(printed, name)]
        if wrong:
            values = ", ".join(f"{name} {getattr(printed, name):,}, not {getattr(info, name):,}" for name in wrong)
            yield Remark(reading.file, None, "another boot", f"not the layout that the log tells: {values}")
    for before, after in pairwise(stats):
        if diff(before.stats, after.stats).is_backwards:
            text = f"counters are lower than in {before.file}: another boot, or another order"
            yield Remark(after.file, None, "another boot", text)
    for snap in proc:
        if info and snap.vmalloc_areas:
            for text in check_chunk_areas(snap.vmalloc_areas, info):
                yield Remark(snap.file, None, "areas", f"in vmallocinfo: {text}")


def early_remarks(file: str, header: Iterable[str], nr_calls: int) -> Iterator[Remark]:
    """Compare the number of early calls with what the file says of itself."""
    for number, line in enumerate(header, 1):
        count = _EARLY_COUNT.match(line)
        if count and int(count[1]) != nr_calls:
            yield Remark(file, number, "early", f"it tells of {count[1]} calls, and has {nr_calls}")
