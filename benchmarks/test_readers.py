"""What reading a trace costs: events of every layout, lines of other systems, choosing, text out, peak of memory."""

from __future__ import annotations

import gzip
import io
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from percpu_lab.traces.read import read_trace

DATA = Path(__file__).parents[1] / "tests" / "data" / "real" / "traces"
NR_LINES = 100_000
TIME = re.compile(rb"[0-9]+\.[0-9]{6}(?=: )|[0-9]+(?=us)|(?<=\[)[0-9a-f]{8}(?=\] )")
LAYOUTS = (
    "default",
    "opt-latency-format",
    "opt-latency-format+verbose",
    "opt-nocontext-info",
    "trace-cmd-report",
    "mixed-events",
)


def made(name: str, nr_lines: int) -> bytes:
    """Repeat the lines of a file, with times that go on."""
    text = gzip.decompress((DATA / f"{name}.txt.gz").read_bytes())
    lines = [line for line in text.split(b"\n") if line and not line.startswith((b"#", b"cpus="))]
    return b"".join(TIME.sub(time(name, k), lines[k % len(lines)], count=1) + b"\n" for k in range(nr_lines))


def time(name: str, k: int) -> bytes:
    """The k-th microsecond as a layout writes it."""
    if name.endswith("verbose"):
        return b"%08x" % k
    return b"%d" % k if name == "opt-latency-format" else b"%d.%06d" % divmod(k, 10**6)


@pytest.mark.parametrize("name", LAYOUTS)
def test_read(benchmark: BenchmarkFixture, report: Callable[..., None], name: str) -> None:
    data = made(name, NR_LINES)
    trace = benchmark.pedantic(lambda: read_trace(io.BytesIO(data)), rounds=3)
    assert len(trace) + trace.nr_other + len(trace.markers) == NR_LINES
    report(f"read {name}", "line", "off", NR_LINES)


def test_read_packed(benchmark: BenchmarkFixture, report: Callable[..., None]) -> None:
    data = gzip.compress(made("default", NR_LINES))
    benchmark.pedantic(lambda: read_trace(io.BytesIO(data)), rounds=3)
    report("read default, gzip", "line", "off", NR_LINES)


@pytest.mark.parametrize("events", ["percpu_create_chunk", "size > 64"])
def test_choose(benchmark: BenchmarkFixture, report: Callable[..., None], events: str) -> None:
    data = made("default", NR_LINES)
    benchmark.pedantic(lambda: read_trace(io.BytesIO(data), events=events), rounds=3)
    report(f"choose {events}", "line", "off", NR_LINES)


@pytest.mark.parametrize("style", [None, "ftrace"])
def test_text(benchmark: BenchmarkFixture, report: Callable[..., None], style: str | None) -> None:
    trace = read_trace(io.BytesIO(made("default", NR_LINES)))
    benchmark.pedantic(lambda: trace.text(style), rounds=3)  # type: ignore[arg-type]
    report(f"text {style or 'as it came in'}", "line", "off", NR_LINES)


def test_memory_of_an_event(benchmark: BenchmarkFixture) -> None:
    data = made("default", NR_LINES)
    tracemalloc.start()
    trace = read_trace(io.BytesIO(data))
    left, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"\n{left / len(trace):.0f} bytes an event, {peak / len(trace):.0f} at the peak")
    benchmark.pedantic(lambda: None, rounds=1)
