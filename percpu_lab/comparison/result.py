"""Several settings side by side: compare(), and the table that comes of it.

                  v4.13-areamap   v6.12-bitmap
entries moved         1,234,567              –       what an engine does not have is no 0
bits scanned                  –         98,765
"""

from __future__ import annotations

import html
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..geometry import Geometry
from ..plain import text_table
from ..workloads import Workload
from .requests import Requests, requests_of
from .run import Outcome, ScriptRun
from .settings import BOTH_ENGINES, Machine, as_geometry, machine_of, named, plans

if TYPE_CHECKING:
    import pandas as pd

    from ..views.compare import CompareBoard
    from ..views.static import Picture

_NOTHING = "–"
Cell = Callable[[Outcome], str]


def _count(name: str) -> Cell:
    def cell(outcome: Outcome) -> str:
        value = outcome.counts(name)
        return _NOTHING if value is None else f"{value:,}"

    return cell


def _share(part: str, whole: str) -> Cell:
    def cell(outcome: Outcome) -> str:
        value, number = outcome.counts(part), outcome.counts(whole)
        return _NOTHING if value is None or not number else f"{value / number:,.1f}"

    return cell


#: a row of the table each: what it says, and how to find it
ROWS: tuple[tuple[str, Cell], ...] = (
    ("requests", _count("nr_allocs")),
    ("frees", _count("nr_frees")),
    ("failed requests", _count("nr_failed")),
    ("chunks scanned", _count("chunks_scanned")),
    ("map entries scanned", _count("entries_scanned")),
    ("map entries moved", _count("entries_moved")),
    ("map entries moved by a free", _share("free_entries_moved", "nr_frees")),
    ("bits scanned", _count("bits_scanned")),
    ("bits scanned by a free", _share("free_bits_scanned", "nr_frees")),
    ("block records scanned", _count("blocks_scanned")),
    ("chunks made", _count("chunks_created")),
    ("chunks destroyed", _count("chunks_destroyed")),
    ("chunks at the end", _count("nr_chunks")),
    ("pages a CPU, peak", _count("peak_pages")),
    ("pages a CPU, end", _count("final_pages")),
    ("Percpu at the peak, kB", _count("peak_percpu_kib")),
    ("Percpu at the end, kB", _count("final_percpu_kib")),
    ("live bytes a CPU, end", _count("live_bytes")),
    ("free bytes a CPU, end", _count("free_bytes")),
    ("in holes (sum_frag)", _count("sum_frag")),
    ("external fragmentation, %", lambda outcome: f"{100 * outcome.external:.1f}"),
)
_FRAME_PROPERTIES = ("external", "peak_percpu_kib", "final_percpu_kib")


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """The same requests under several settings.

    Args:
        requests: what was asked for.
        runs: one a setting, each with its outcome, at whatever moment it was last moved to.
    """

    requests: Requests
    runs: tuple[ScriptRun, ...]

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """What came of each setting, in the order they were given."""
        return tuple(run.outcome for run in self.runs)

    def __getitem__(self, name: str) -> Outcome:
        return named(self.outcomes, name)

    @property
    def text(self) -> str:
        """The counts as a table of text, a column a setting."""
        rows = [("", *(outcome.name for outcome in self.outcomes)), *self._rows()]
        right = [False] + [True] * (len(rows[0]) - 1)
        lines = text_table(rows[0], rows[1:], right)
        return "\n".join([self._title(), *lines, *self._notes()])

    def __str__(self) -> str:
        return self.text

    def _title(self) -> str:
        return f"{self.requests.title}: {len(self.requests.ops):,} ops"

    def _rows(self) -> list[tuple[str, ...]]:
        """The rows that say something of at least one setting."""
        made = [(words, *(cell(outcome) for outcome in self.outcomes)) for words, cell in ROWS]
        return [row for row in made if set(row[1:]) != {_NOTHING}]

    def _notes(self) -> list[str]:
        stopped = [f"{o.name} stopped after {o.nr_ops:,} ops: {o.error}" for o in self.outcomes if o.error]
        return [*self.requests.notes, *stopped]

    def frame(self) -> pd.DataFrame:
        """Give the outcomes as a table, a row a setting; what an engine does not count is missing."""
        import pandas as pd

        counts = [name for name in Outcome.__slots__ if name.startswith(_COUNTS) or name.endswith(_COUNTS_END)]
        rows = [
            {"setting": o.name, "engine": o.engine, "nr_cpus": o.geometry.info.nr_cpus,
             "unit_size": o.geometry.info.unit_size}
            | {name: o.counts(name) for name in counts} | {name: getattr(o, name) for name in _FRAME_PROPERTIES}
            for o in self.outcomes
        ]  # fmt: skip
        return pd.DataFrame(rows).set_index("setting").convert_dtypes()

    @property
    def stats_text(self) -> dict[str, str]:
        """The percpu_stats file of each setting at the end."""
        return {outcome.name: outcome.stats_text for outcome in self.outcomes}

    @property
    def stats_side_by_side(self) -> str:
        """The percpu_stats files of all settings at the end, beside each other."""
        files = [[outcome.name, *outcome.stats_text.splitlines()] for outcome in self.outcomes]
        widths = [max(map(len, file)) for file in files]
        lines = itertools.zip_longest(*files, fillvalue="")
        return "\n".join("   ".join(map(str.ljust, line, widths)).rstrip() for line in lines)

    def curves(self) -> pd.DataFrame:
        """Give fragmentation over the ops as a table: a row a setting and sample, sizes in bytes of one CPU."""
        import pandas as pd

        parts = []
        for run in self.runs:
            series, pages = run.fragmentation, run.populated()
            columns = {name: getattr(series, name) for name in type(series).__slots__}
            at = np.searchsorted(pages[0], series.op, side="right") - 1
            parts.append(pd.DataFrame({"setting": run.name} | columns | {"nr_populated": pages[1][at]}))
        return pd.concat(parts, ignore_index=True)

    @property
    def seconds(self) -> dict[str, float]:
        """Processor time of each run on this machine: for curiosity, the counts are what can be relied on."""
        return {outcome.name: outcome.seconds for outcome in self.outcomes}

    def picture(self) -> Picture:
        """Draw fragmentation and populated pages over the ops, a line a setting."""
        from ..views.compare import picture

        return picture(self)

    def watch(self) -> CompareBoard:
        """Show the runs in live views that one cursor moves."""
        from ..views.compare import CompareBoard

        return CompareBoard(self)

    def __repr__(self) -> str:
        return f"<Comparison of {', '.join(repr(o.name) for o in self.outcomes)}: {len(self.requests.ops):,} ops>"

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(outcome.name)}</th>" for outcome in self.outcomes)
        cells = (("".join(f"<td>{html.escape(cell)}</td>" for cell in row)) for row in self._rows())
        body = "".join(f"<tr>{row}</tr>" for row in cells)
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self._notes())
        stats = html.escape(self.stats_side_by_side)
        return (
            f"<b>{html.escape(self._title())}</b><table><tr><th></th>{head}</tr>{body}</table>{notes}"
            f"<details><summary>percpu_stats at the end</summary><pre>{stats}</pre></details>"
        )


_COUNTS = ("nr_", "chunks_", "entries_", "bits_", "blocks_", "free_", "largest_", "live_", "sum_frag")
_COUNTS_END = ("_pages",)


def on_machine(subject: Any, machine: Machine | None) -> tuple[Requests, Geometry]:
    """Take the requests of a subject, and the machine for them: the one given, or that on which they were recorded."""
    requests = requests_of(subject)
    if machine is not None:
        return requests, as_geometry(machine)
    recorded, assumption = machine_of(subject)
    is_recording = requests.ops is not subject and not isinstance(subject, (str, Requests, Workload))
    return (replace(requests, assumption=assumption) if is_recording else requests), recorded


def compare(
    subject: Any,
    settings: Sequence[Any] = BOTH_ENGINES,
    *,
    machine: Machine | None = None,
    auto_balance: bool | None = None,
    jit: str | None = None,
) -> Comparison:
    """Run the same requests under several settings, and count what each did.

    >>> result = compare("lifo", jit="off")
    >>> [outcome.nr_failed for outcome in result.outcomes]
    [0, 0]

    Args:
        subject: an Ops, a Workload or its name, a trace, an Allocator with one, a RecordedRun or a Recording.
        settings: names of engines or machines, geometries, or Settings; both engines, if left out.
        machine: a geometry or the name of a preset, for settings that name none; the one recorded, if there is one.
        auto_balance: run the balance work by itself; if left out, only where the script has no balance op.
        jit: auto, off or wait (see compiled.py).

    Raises:
        RequestError: the subject asks for nothing, or a setting is none.
        GeometryError: a kernel would refuse to boot with a geometry.
    """
    requests, machine = on_machine(subject, machine)
    balance = not requests.has_balance if auto_balance is None else auto_balance
    chosen = plans(settings, machine)
    return Comparison(requests, tuple(ScriptRun(p, requests.ops, auto_balance=balance, jit=jit) for p in chosen))
