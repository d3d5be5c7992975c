"""What a notebook shows of values: every public object has a table, and what strangers wrote stays text."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import percpu_lab as lab
from percpu_lab import Allocator
from percpu_lab.ops import Ops
from percpu_lab.review import Review, review
from percpu_lab.stats import diff
from percpu_lab.traces.dmesg import read_dmesg
from percpu_lab.traces.read import read_trace_text
from percpu_lab.traces.recorded import RecordedTrace
from percpu_lab.traces.recording import Recording

EVIL = "<script>alert(1)</script>"
LINE = (
    f"  <script>-136   [003] .....    86.889221: percpu_alloc_percpu: call_site={EVIL}+0x8/0x10 reserved=0 is_atomic=0"
    " size=8 align=8 base_addr=00000000118f8f08 off=0 ptr=0000000000000010 bytes_alloc=32 gfp_flags=GFP_KERNEL\n"
)


@cache
def allocator() -> Allocator:
    a = Allocator(jit="off")
    a.this_cpu_ptr(a.alloc_percpu(16)).view()[0] = 1
    return a


REAL = Path(__file__).parent / "data" / "real" / "folders" / "pcs-smp3-boot"


@cache
def boot() -> Recording:
    return lab.open_trace(REAL)


@cache
def reviewed() -> Review:
    return review(boot())


def cells(value: Any) -> dict[str, str]:
    """The table of names and values of an object."""
    found = re.findall(r"<tr><td[^>]*>(.*?)</td><td[^>]*>(.*?)</td></tr>", value._repr_html_())
    return dict(found)


def recorded(text: str = LINE) -> RecordedTrace:
    return read_trace_text(text)


OBJECTS: dict[str, Callable[[], object]] = {
    "pointer": lambda: allocator().alloc_percpu(16),
    "NULL": lambda: allocator().alloc_percpu(0),
    "address": lambda: allocator().this_cpu_ptr(allocator().alloc_percpu(16)),
    "memory": lambda: allocator().memory,
    "state": lambda: allocator().state(),
    "chunk": lambda: allocator().chunks[0],
    "chunk of the bitmap": lambda: Allocator(engine="v6.12-bitmap", jit="off").chunks[0],
    "counters": lambda: allocator().stats().global_stats,
    "chunk counters": lambda: allocator().stats().chunks[0],
    "log": lambda: allocator().dmesg(),
    "batch": lambda: allocator().trace.events(0),
    "event": lambda: next(iter(allocator().trace)),
    "run": lambda: Allocator(jit="off").run(Ops.alloc([0, 1], 64)),
    "subscription": lambda: Allocator(jit="off").trace.subscribe(print),
    "recorded trace": recorded,
    "recorded event": lambda: next(iter(recorded())),
    "recording": boot,
    "reading of percpu_stats": lambda: boot().stats[0],
    "reading of meminfo": lambda: boot().proc[0],
    "review": reviewed,
    "decisions": lambda: reviewed().decisions,
    "explanation": lambda: reviewed().explain(50),
    "check": lambda: reviewed().checks[0],
    "engine at a row": lambda: reviewed().state_at(50),
    "rebuilt": lambda: reviewed().rebuilt,
    "table of areas": lambda: reviewed().rebuilt.areas,
    "holders": lambda: reviewed().rebuilt.holders(50),
    "checks of readings": lambda: lab.check_readings(boot(), reviewed().rebuilt),
    "recorded run": lambda: lab.RecordedRun.of(boot()),
    "script": lambda: Ops.from_text("alloc 7 16 8 0 0\nfree 7\nbalance\n"),
    "workload": lambda: lab.WORKLOADS["percpu_test1"],
    "difference of statistics": lambda: diff(boot().stats[0].stats, boot().stats[1].stats),
    "functions of the kernel": lambda: allocator().kernel_functions,
    "log of a kernel": lambda: read_dmesg(f"[    0.000000] Linux version {EVIL}\n"),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_every_object_has_a_readable_repr_and_a_table(name: str) -> None:
    value = OBJECTS[name]()
    html = value._repr_html_()  # type: ignore[attr-defined]
    assert not re.search(r"object at 0x", repr(value) + html)
    assert html.count("<td") >= 2 and html.count("<table>") == html.count("</table>") == 1
    assert len(html) < 60_000
    assert not repr(value).startswith("<") or len(repr(value)) <= 120


@pytest.mark.parametrize("name", ["recorded trace", "recorded event", "log of a kernel"])
def test_what_strangers_wrote_is_escaped(name: str) -> None:
    html = OBJECTS[name]()._repr_html_()  # type: ignore[attr-defined]
    assert "<script" not in html and "&lt;script" in html


def test_the_table_of_a_null_pointer_says_why_it_is_null() -> None:
    assert "illegal size or align" in allocator().alloc_percpu(0)._repr_html_()


def test_the_table_of_the_log_tells_the_boot_from_ops() -> None:
    a = Allocator(jit="off")
    a.alloc_percpu(0)
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", a.dmesg()._repr_html_())
    assert cells[0] == "boot" and "0" in cells[::2]


def test_the_table_of_a_pointer_names_its_chunk_while_it_is_live() -> None:
    a = Allocator(jit="off")
    ptr = a.alloc_percpu(16)
    assert ">chunk<" in ptr._repr_html_()
    a.free_percpu(ptr)
    assert ">chunk<" not in ptr._repr_html_()


def test_the_table_of_a_long_trace_shows_the_first_rows_and_counts_the_others() -> None:
    html = recorded(LINE * 50)._repr_html_()
    assert html.count("<tr>") == 21 and "and 30 more" in html


def test_the_memory_tells_what_it_holds() -> None:
    a = Allocator(jit="off")
    assert repr(a.memory) == "<PercpuMemory: 0 chunks looked into, 0 B for 4 CPUs>"


def reached(value: Any, path: str, seen: set[type], depth: int = 0) -> Iterator[tuple[str, Any]]:
    """One object of each class of the package that attributes lead to."""
    if isinstance(value, (tuple, list)) and type(value).__module__ == "builtins":
        yield from reached(value[0], f"{path}[0]", seen, depth + 1) if value else ()
    if not type(value).__module__.startswith("percpu_lab.") or type(value) in seen or depth > 6:
        return
    seen.add(type(value))
    yield path, value
    for name in dir(value):
        if not name.startswith("_"):
            each = getattr(value, name)
            if not inspect.isroutine(each):
                yield from reached(each, f"{path}.{name}", seen, depth + 1)


def test_all_that_attributes_lead_to_shows_itself_short_and_stable() -> None:
    roots = {"a": allocator(), "boot": boot(), "review": reviewed(), "compare": lab.compare(Ops.alloc([0, 1], 64))}
    roots |= {f"q.{name}": getattr(lab.questions, name)(reviewed()) for name in ("top", "leaks", "waste", "decisions")}
    seen: set[type] = set()
    found = {path: one for name, root in roots.items() for path, one in reached(root, name, seen)}
    assert len(seen) > 40
    bare = [path for path, one in found.items() if not hasattr(one, "_repr_html_")]
    assert not bare
    assert not [path for path, one in found.items() if " object at 0x" in repr(one) or "array(" in repr(one)]
    large = [path for path, one in found.items() if hasattr(one, "_repr_html_") and len(one._repr_html_()) > 60_000]
    assert not large


def test_the_table_of_a_recording_says_what_a_kernel_engineer_asks_first() -> None:
    shown = cells(boot())
    assert shown["kernel"].startswith("6.1.192-pcpustats, 64-bit")
    assert shown["geometry"] == "s181032 r8192 d31960 u524288 alloc=1*2097152" and shown["CPUs"] == "3"
    counts = {point: int(shown[point]) for point in shown if point.startswith("percpu_") and shown[point].isdigit()}
    assert sum(counts.values()) == len(boot().trace)
    assert shown["time"].endswith("7.39 s") and shown["lost"].startswith("no event")
    assert shown["percpu_stats"].startswith("2 readings: stats/000")


def test_the_table_of_a_trace_alone_says_what_is_not_known(tmp_path: Path) -> None:
    path = tmp_path / "trace.txt"
    path.write_text("CPU:1 [LOST 7 EVENTS]\n" + LINE)
    shown = cells(lab.open_trace(path))
    assert shown["kernel"].startswith("unknown") and shown["geometry"].startswith("unknown")
    assert shown["lost"] == "7 events"


def test_a_recording_writes_out_a_few_oddities_and_counts_the_others(tmp_path: Path) -> None:
    (tmp_path / "trace.txt").write_text(LINE)
    (tmp_path / "stats").mkdir()
    for number in range(9):
        (tmp_path / "stats" / f"{number:03}-{EVIL.replace('/', '')}.txt").write_text("no statistics\n")
    html = lab.open_trace(tmp_path)._repr_html_()
    assert "<script" not in html and "&lt;script" in html
    assert html.count(">odd<") == 6 and "more in oddities" in html


def test_the_table_of_a_review_says_what_is_left_open() -> None:
    shown = cells(reviewed())
    assert shown["decisions"] == "380: 379 exact, 1 reordered" and shown["left open"] == "nothing"
    assert shown["percpu_stats"].startswith("2 of 2 readings equal")


def test_the_table_of_a_review_that_could_not_be_made_says_why() -> None:
    shown = cells(Review(boot(), None, "no <kernel> log"))
    assert shown["decisions"].endswith("no &lt;kernel&gt; log") and "left open" not in shown


def test_the_table_of_decisions_has_verdict_and_place_row_by_row() -> None:
    html = reviewed().decisions._repr_html_()
    assert html.count("<tr>") == 21 and "and 360 more" in html
    row = re.findall(r"<td[^>]*>(.*?)</td>", html)[:7]
    assert row == ["-70", "exact", "exact", "first", "816", "first", "816"]


def test_the_table_of_what_was_rebuilt_tells_of_its_end() -> None:
    shown, rebuilt = cells(reviewed().rebuilt), reviewed().rebuilt
    assert shown["areas live at the end"] == f"{len(rebuilt.live(rebuilt.last_row)):,}, at most 354"
    assert shown["bytes live at the end"] == "20.6 KiB per CPU"


def test_the_table_of_areas_names_what_lies_outside_the_recording() -> None:
    html = reviewed().rebuilt.areas._repr_html_()
    assert ">never<" in html and "4,611,686" not in html
