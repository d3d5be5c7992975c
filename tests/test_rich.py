"""What a notebook shows of values: every public object has a table, and what strangers wrote stays text."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

import pytest

from percpu_lab import Allocator
from percpu_lab.ops import Ops
from percpu_lab.traces.dmesg import read_dmesg
from percpu_lab.traces.read import read_trace_text
from percpu_lab.traces.recorded import RecordedTrace

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
    "log of a kernel": lambda: read_dmesg(f"[    0.000000] Linux version {EVIL}\n"),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_every_object_has_a_readable_repr_and_a_table(name: str) -> None:
    value = OBJECTS[name]()
    html = value._repr_html_()  # type: ignore[attr-defined]
    assert not re.search(r"object at 0x", repr(value) + html)
    assert html.count("<td") >= 2 and html.count("<table>") == html.count("</table>") == 1
    assert len(html) < 60_000


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
