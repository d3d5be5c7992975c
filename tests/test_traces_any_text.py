"""Readers and any text: a trace or a clear error, round trips of made-up events, links against a naive model."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from percpu_lab.core import layout as L
from percpu_lab.errors import LabError
from percpu_lab.tracepoints import (
    Event,
    PercpuAllocPercpu,
    PercpuAllocPercpuFail,
    PercpuCreateChunk,
    PercpuDestroyChunk,
    PercpuFreePercpu,
)
from percpu_lab.traces.link import link_areas
from percpu_lab.traces.read import read_golden_trace, read_trace, read_trace_text
from percpu_lab.traces.recorded import UNKNOWN_BIRTH, RecordedTrace

DATA = Path(__file__).parent / "data" / "real" / "traces"
LAYOUTS = ("default", "opt-latency-format", "opt-latency-format+verbose", "opt-nocontext-info", "lost-trace_pipe",
           "trace-cmd-report-lost", "trace-cmd-report-tl", "mixed-events", "opt-stacktrace", "i686",
           "opt-raw")  # fmt: skip
PIECES = (b"\n", b"> ", b"\t", b"-1", b"99999999999999999999",
          b" 999999999999999999.999999999: ", b": ", b"=", b"(ptrval)",
          b"percpu_free_percpu: ", b"\r", b"ffffffffffffffff")  # fmt: skip
EXCERPTS = [gzip.decompress((DATA / f"{name}.txt.gz").read_bytes())[:6000] for name in LAYOUTS]


def is_trace_or_clear_error(data: bytes) -> None:
    """Either nothing but a LabError with its place, or a trace whose text is the one that was read."""
    try:
        trace = read_trace(io.BytesIO(data))
    except LabError as error:
        said = error.where and error.remedy
    else:
        said = "a trace"
        is_whole(trace, data)
    assert said


def is_whole(trace: RecordedTrace, data: bytes) -> None:
    is_damaged = any(oddity.kind == "damaged" for oddity in trace.oddities)
    assert is_damaged or trace.text().encode("utf-8", "surrogateescape") == data
    assert all(0 < oddity.line <= data.count(b"\n") + 1 for oddity in trace.oddities)
    assert all(0 <= marker.row <= len(trace) for marker in trace.markers)
    assert np.all(np.diff(trace.line) >= 0)


@given(st.one_of(st.text(), st.text("\n\t :-[]()>#=0123456789abxpercu_los.", max_size=300)))
def test_any_text_is_a_trace_or_a_clear_error(text: str) -> None:
    is_trace_or_clear_error(text.encode())
    for read in (read_golden_trace, read_trace_text):
        try:
            where = read(text, where="dump").source
        except LabError as error:
            where = error.where
        assert where.startswith("dump")


@given(st.binary(max_size=300))
def test_any_bytes_are_a_trace_or_a_clear_error(data: bytes) -> None:
    is_trace_or_clear_error(data)
    is_trace_or_clear_error(b"\x1f\x8b" + data)


@settings(max_examples=200)
@given(st.data())
def test_real_text_that_was_changed_is_a_trace_or_a_clear_error(data: st.DataObject) -> None:
    text = bytearray(data.draw(st.sampled_from(EXCERPTS)))
    for _ in range(data.draw(st.integers(1, 6))):
        at, length = data.draw(st.integers(0, len(text))), data.draw(st.integers(0, 30))
        text[at : at + length] = data.draw(st.one_of(st.binary(max_size=8), st.sampled_from(PIECES)))
    is_trace_or_clear_error(bytes(text))


@given(st.sampled_from(EXCERPTS), st.integers(0, 6000), st.integers(0, 6000))
def test_any_part_of_real_text_is_a_trace_or_a_clear_error(text: bytes, start: int, end: int) -> None:
    is_trace_or_clear_error(text[start:end])


# --- round trips ---

SIZES = st.integers(0, 2**63 - 1)
POINTERS = st.integers(0, 2**64 - 1)
WORDS = st.text("abcXYZ_.:/0+-<>&", min_size=1, max_size=20)
SITES = st.one_of(st.from_regex(r"[a-z_]{1,9}\+0x[0-9a-f]{1,3}/0x[0-9a-f]{1,3}( \[[a-z0-9_]{1,8}\])?", fullmatch=True))


@st.composite
def events(draw: st.DrawFn) -> Event:
    kind = draw(st.integers(0, 5))
    request = {
        "reserved": draw(st.booleans()),
        "is_atomic": draw(st.booleans()),
        "size": draw(SIZES),
        "align": draw(SIZES),
    }
    area = {"base_addr": draw(POINTERS), "off": draw(st.integers(0, 2**31 - 1)), "ptr": draw(POINTERS)}
    newer = {"call_site": draw(SITES), "bytes_alloc": draw(SIZES), "gfp_flags": draw(st.one_of(st.just(""), WORDS))}
    base_addr = area["base_addr"]
    made: tuple[Event, ...] = (
        PercpuAllocPercpu(0, **request, **area),
        PercpuAllocPercpu(0, **request, **area, **newer),  # type: ignore[arg-type]
        PercpuFreePercpu(0, **area),
        PercpuAllocPercpuFail(0, **request),
        PercpuCreateChunk(0, base_addr),
        PercpuDestroyChunk(0, base_addr),
    )
    return made[kind]


@st.composite
def tasks(draw: st.DrawFn) -> str:
    name = draw(
        st.text(st.characters(codec="ascii", min_codepoint=32, exclude_characters="\x7f"), min_size=1, max_size=15)
    )
    return name.strip() or "x"


@given(
    st.lists(
        st.tuples(events(), tasks(), st.integers(0, 2**22), st.integers(0, 999), st.integers(0, 10**6)),
        min_size=1,
        max_size=8,
    )
)
def test_made_up_events_come_back_with_all_that_was_printed(rows: list[tuple[Event, str, int, int, int]]) -> None:
    time = 5_000_000
    text = ""
    for event, task, pid, cpu, step in rows:
        time += step
        text += f"{task:>16s}-{pid:<7d} [{cpu:03d}] d.h1. {time // 10**6:5d}.{time % 10**6:06d}: {event}\n"
    trace = read_trace_text(text)
    assert [event.text() for event in trace] == [event.text() for event, *_ in rows]
    assert (trace.task.tolist(), trace.pid.tolist(), trace.cpu.tolist()) == tuple(
        [row[k] for row in rows] for k in (1, 2, 3)
    )
    assert (trace.text(), trace.text("ftrace").split()) == (text, text.split())


# --- links ---


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 3), st.integers(0, 2)), max_size=40))
def test_links_are_those_of_a_naive_model(rows: list[tuple[int, int, int]]) -> None:
    number: dict[int, int] = {}
    live: dict[tuple[int, int], int] = {}
    nr_chunks = 0
    chunks, births, twice = [], [], []
    for row, (event, base, off) in enumerate(rows):
        if event == L.EVENT_FAIL:
            chunks.append(L.NO_CHUNK)
            continue
        if event == L.EVENT_CREATE or base not in number:
            number[base] = nr_chunks
            nr_chunks += 1
        chunk = number[base]
        chunks.append(chunk)
        if event == L.EVENT_ALLOC:
            twice += [row] if (chunk, off) in live else []
            live[chunk, off] = row
        elif event == L.EVENT_FREE:
            births.append((row, live.pop((chunk, off), UNKNOWN_BIRTH)))
        elif event == L.EVENT_DESTROY:
            del number[base]
    columns = np.array(rows, np.int64).reshape(-1, 3).T
    links = link_areas(columns[0], columns[1].astype(np.uint64), columns[2])
    assert links.chunk.tolist() == chunks
    known = [(row, birth) for row, birth in births if birth != UNKNOWN_BIRTH]
    assert sorted(zip(links.freed.tolist(), links.born.tolist(), strict=True)) == known
    assert links.twice.tolist() == twice
