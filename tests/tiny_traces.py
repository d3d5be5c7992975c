"""Traces small enough to be worked out by hand: one line an event, in the layout of a trace file."""

from __future__ import annotations

from percpu_lab.traces.read import read_trace_text
from percpu_lab.traces.recorded import RecordedTrace

BASE = 0x10000


def alloc(
    off: int,
    size: int,
    seconds: float,
    *,
    site: str = "f+0x1/0x2",
    task: str = "task-1",
    base: int = BASE,
    align: int = 8,
    reserved: int = 0,
) -> str:
    fields = f"call_site={site} reserved={reserved} is_atomic=0 size={size} align={align} base_addr={base:#018x}"
    more = f"off={off} ptr={off + 1:#018x} bytes_alloc={size * 4} gfp_flags=GFP_KERNEL"
    return _line(task, seconds, f"percpu_alloc_percpu: {fields} {more}")


def free(off: int, seconds: float, *, task: str = "task-1", base: int = BASE) -> str:
    return _line(task, seconds, f"percpu_free_percpu: base_addr={base:#018x} off={off} ptr={off + 1:#018x}")


def fail(size: int, seconds: float, *, atomic: int = 1, reserved: int = 0) -> str:
    fields = f"reserved={reserved} is_atomic={atomic} size={size} align=8"
    return _line("task-1", seconds, f"percpu_alloc_percpu_fail: {fields}")


def create(seconds: float, base: int) -> str:
    return _line("kworker-7", seconds, f"percpu_create_chunk: base_addr={base:#018x}")


def destroy(seconds: float, base: int) -> str:
    return _line("kworker-7", seconds, f"percpu_destroy_chunk: base_addr={base:#018x}")


def marker(text: str, seconds: float) -> str:
    return _line("init-1", seconds, f"tracing_mark_write: {text}")


def trace(*lines: str) -> RecordedTrace:
    return read_trace_text("".join(f"{line}\n" for line in lines))


def _line(task: str, seconds: float, event: str) -> str:
    return f"{task:>22}   [001] ..... {seconds:12.6f}: {event}"
