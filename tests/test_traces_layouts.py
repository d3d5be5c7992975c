"""Real traces in every layout: the counts of their README, the same events whatever the layout, the same text again."""

from __future__ import annotations

import gzip
import io
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from percpu_lab.core import layout as L
from percpu_lab.errors import TraceFormatError
from percpu_lab.tracepoints import Tracepoint
from percpu_lab.traces.read import read_trace
from percpu_lab.traces.recorded import Loss, RecordedTrace

DATA = Path(__file__).parent / "data" / "real" / "traces"
CODES = (L.EVENT_ALLOC, L.EVENT_FREE, L.EVENT_FAIL, L.EVENT_CREATE, L.EVENT_DESTROY)
NO_FIELDS = ("opt-raw", "opt-hex")


def counted() -> dict[str, list[int]]:
    """Of each file of the README: allocations, frees, failures, creations, destructions, markers, losses."""
    rows = [
        line.strip("| ").split(" | ") for line in (DATA / "README.md").read_text().splitlines() if ".txt.gz" in line
    ]
    return {name.removesuffix(".txt.gz"): list(map(int, numbers)) for name, *numbers in rows}


COUNTED = {name: counts for name, counts in counted().items() if name not in NO_FIELDS}


def read(name: str) -> RecordedTrace:
    return read_trace(DATA / f"{name}.txt.gz")


def original(name: str) -> str:
    return gzip.decompress((DATA / f"{name}.txt.gz").read_bytes()).decode()


@pytest.mark.parametrize("name", COUNTED)
def test_events_markers_and_losses_are_those_that_were_counted(name: str) -> None:
    trace = read(name)
    events = Counter(trace.event.tolist())
    nr_reported = sum(loss.how != "overwritten" for loss in trace.losses)
    assert [*(events[code] for code in CODES), len(trace.markers), nr_reported] == COUNTED[name]


@pytest.mark.parametrize("name", COUNTED)
def test_text_out_is_text_in(name: str) -> None:
    assert read(name).text() == original(name)


@pytest.mark.parametrize("name", [name for name in COUNTED if "lost" not in name])
def test_nothing_is_odd_about_them(name: str) -> None:
    odd = [oddity for oddity in read(name).oddities if oddity.kind != "incomplete"]  # some are the first lines only
    assert odd == []


@pytest.mark.parametrize("name", COUNTED)
def test_each_event_knows_its_line(name: str) -> None:
    lines = original(name).split("\n")
    trace = read(name)
    for event, line in zip(trace, trace.line.tolist(), strict=True):
        assert f"{event.name}:" in lines[line - 1]
    for marker in trace.markers:
        assert lines[marker.line - 1].endswith(marker.text)
    for loss in trace.losses:
        assert str(loss.nr_events) in lines[loss.line - 1] or loss.how == "overwritten"


# --- one ring, printed with other options ---

COLUMNS = ("event", "chunk", "off", "size", "align", "flags", "birth", "base_addr", "ptr", "bytes_alloc", "call_site",
           "gfp_flags", "time", "cpu", "pid", "task", "context")  # fmt: skip
PRINTED_AGAIN = {  # what each of them lacks, or prints in another way
    "opt-latency-format": {"time"},
    "opt-latency-format+verbose": {"context"},
    "opt-nocontext-info": {"time", "cpu", "pid", "task", "context"},
    "opt-nohash-ptr": {"base_addr", "ptr", "gfp_flags"},
    "opt-noirq-info": {"context"},
    "opt-record-tgid": set(),
    "opt-sym-addr": set(),
    "opt-sym-offset": set(),
    "opt-verbose": set(),
}


def values(trace: RecordedTrace, column: str, *, is_cut: bool = False) -> list[object]:
    """Of a column; is_cut: names of tasks as the latency format prints them, eight characters of them."""
    found = getattr(trace, column).tolist()
    return [task[:8] for task in found] if is_cut and column == "task" else found


def test_every_ring_that_was_printed_again_is_compared() -> None:
    assert set(PRINTED_AGAIN) == {name for name in COUNTED if name.startswith("opt-")} - {"opt-stacktrace"}


@pytest.mark.parametrize(("name", "lacks"), PRINTED_AGAIN.items())
def test_same_ring_gives_the_same_events_with_any_option(name: str, lacks: set[str]) -> None:
    default, other = read("default"), read(name)
    for column in COLUMNS:
        if column not in lacks:
            assert values(other, column) == values(default, column, is_cut=name == "opt-latency-format"), column
    assert [(marker.row, marker.text) for marker in other.markers] == [(m.row, m.text) for m in default.markers]


@pytest.mark.parametrize(
    ("plain", "other"),
    [("record-tgid-live", "record-tgid+noirq-info"), ("record-tgid-live", "record-tgid+latency-format"),
     ("trace-cmd-report", "trace-cmd-report-R"), ("trace-cmd-report", "trace-cmd-report-tl")],
)  # fmt: skip
def test_two_texts_of_one_ring_give_the_same_events(plain: str, other: str) -> None:
    one, two = read(plain), read(other)
    for column in ("event", "chunk", "off", "size", "birth", "base_addr", "ptr", "call_site", "cpu", "pid", "task"):
        is_cut = other in ("record-tgid+latency-format", "trace-cmd-report-tl")
        assert values(two, column) == values(one, column, is_cut=is_cut), column


def as_option_fields(line: str) -> str:
    """Print the fields of a line as the option `fields` does: hexadecimal, and the lowest 32 bits as a number."""

    def value(found: re.Match[str]) -> str:
        name, text = found.groups()
        if name in ("reserved", "is_atomic"):
            return f"{name}=({text})"
        number = {"call_site": 0xFFFFFFFFA52BFC38, "gfp_flags": 0xCC0}.get(name)
        number = int(text, 16 if name in ("base_addr", "ptr") else 10) if number is None else number
        low = number & 0xFFFFFFFF
        return f"{name}=0x{number:x} ({low - (low >> 31 << 32)})"

    head, name, fields = re.split(r"(: percpu_\w+: )", line, maxsplit=1)
    return head + name + re.sub(r"(\w+)=(\S*(?: \[[^]]*\])?)", value, fields)


def test_option_fields_gives_the_same_events_and_takes_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    text = original("opt-nohash-ptr")
    raw = "".join(as_option_fields(line) if "percpu_" in line else line for line in text.splitlines(keepends=True))
    assert "size=0x" in raw
    one_by_one = Counter[str]()
    read_fields = Tracepoint.read_fields

    def counted_fields(point: Tracepoint, fields: str) -> object:
        one_by_one[point.name] += 1
        return read_fields(point, fields)

    monkeypatch.setattr(Tracepoint, "read_fields", counted_fields)
    trace, same = read_trace(io.StringIO(raw)), read_trace(io.StringIO(text))
    for column in (
        "event",
        "chunk",
        "off",
        "size",
        "align",
        "flags",
        "birth",
        "base_addr",
        "ptr",
        "bytes_alloc",
        "line",
    ):
        assert getattr(trace, column).tolist() == getattr(same, column).tolist(), column
    assert {site for site in trace.call_site.tolist() if site} == {"0xffffffffa52bfc38"}
    assert {flags for flags in trace.gfp_flags.tolist() if flags} == {"0xcc0"}
    assert one_by_one.total() < len(trace) // 20  # the pattern took the others
    assert trace.text() == raw


def test_latency_format_counts_microseconds_from_the_first_event() -> None:
    shift = read("default").time - read("opt-latency-format").time
    assert set(shift.tolist()) == {shift[0]} or max(shift) - min(shift) <= 1


def test_true_addresses_tell_the_same_chunks_as_hashed_ones() -> None:
    hashed, true = read("default"), read("opt-nohash-ptr")
    pairs = set(zip(hashed.base_addr.tolist(), true.base_addr.tolist(), strict=True))
    assert len(pairs) == len(set(hashed.base_addr.tolist())) == len(set(true.base_addr.tolist()))
    assert (true.ptr - true.off.astype(np.uint64))[true.chunk == 0].tolist().count(
        int(true.ptr[true.chunk == 0][0]) - int(true.off[true.chunk == 0][0])
    ) == int((true.chunk == 0).sum())
    assert {flags for flags in true.gfp_flags.tolist() if flags is not None} == {""}  # this kernel prints none


@pytest.mark.parametrize(
    "name", ["default", *(name for name in COUNTED if name.startswith(("deb61-", "deb612-", "pcs")))]
)
def test_lines_written_anew_are_those_of_the_kernel(name: str) -> None:
    events = [line for line in original(name).splitlines() if ": percpu_" in line]
    written = read(name).text("ftrace").splitlines()
    assert [line for line in written if not line.startswith("#")] == events


# --- what single layouts say ---


@pytest.mark.parametrize(
    ("name", "digits", "first"),
    [("clock-local", 6, 136947901), ("clock-counter", 0, 4), ("clock-uptime", 0, 14423),
     ("clock-x86-tsc", 0, 473153205202), ("clock-tai", 6, 1795371862450822),
     ("clock-mono", 6, 154708816), ("trace-cmd-report-tl", 9, 65795241060)],
)  # fmt: skip
def test_times_of_every_clock(name: str, digits: int, first: int) -> None:
    trace = read(name)
    assert (trace.time_digits, int(trace.time[0])) == (digits, first)


@pytest.mark.parametrize(
    ("name", "layout"),
    [("default", "ftrace"), ("opt-latency-format", "ftrace latency"), ("opt-latency-format+verbose", "ftrace verbose"),
     ("opt-nocontext-info", "ftrace without context"), ("trace-cmd-report-tl", "trace-cmd"), ("i686", "ftrace")],
)  # fmt: skip
def test_layout_is_found_from_the_lines(name: str, layout: str) -> None:
    assert read(name).layout == layout


def test_markers_stand_between_the_events_around_them() -> None:
    trace = read("default")
    begin = trace.markers[0]
    assert (begin.row, begin.text, begin.task, begin.pid, begin.cpu) == (0, "BEGIN ipnetns 2", "init", 1, 1)
    assert all(trace.time[m.row - 1] <= m.time <= trace.time[m.row] for m in trace.markers if 0 < m.row < len(trace))


def test_lost_events_are_counted_where_they_are_missing() -> None:
    trace = read("lost-trace_pipe")
    assert trace.losses == (Loss(242, 243, 2, 147, "LOST"), Loss(668, 670, 0, 3043, "LOST"))
    assert trace.lost == 147 + 3043
    assert {oddity.kind for oddity in trace.oddities} == {"twice"}


def test_dropped_events_of_trace_cmd_are_counted() -> None:
    trace = read("trace-cmd-report-lost")
    assert (trace.losses[0], len(trace.losses)) == (
        Loss(492, 494, 0, 192, "DROPPED"),
        COUNTED["trace-cmd-report-lost"][-1],
    )


def test_overwritten_events_show_in_the_header_only() -> None:
    trace = read("tiny-overwrite")
    assert trace.losses == (Loss(0, 3, -1, 374 - 325, "overwritten"),)
    assert trace.lost == 49


def test_events_of_other_systems_are_counted_and_left_out() -> None:
    assert read("mixed-events").nr_other == 410 - 36


def test_stack_traces_are_passed_over() -> None:
    trace = read("opt-stacktrace")
    assert (len(trace), trace.nr_other) == (36, 36)


def test_width_of_the_addresses_tells_32_bit_machines() -> None:
    assert (read("i686").pointer_bytes, read("default").pointer_bytes, read("trace-cmd-report").pointer_bytes) == (
        4,
        8,
        8,
    )


@pytest.mark.parametrize("name", NO_FIELDS)
def test_text_without_fields_says_that_the_payload_is_lost(name: str) -> None:
    with pytest.raises(TraceFormatError, match=r"no percpu event can be read.*options/raw"):
        read(name)


def test_pages_of_the_ring_are_refused() -> None:
    with pytest.raises(TraceFormatError, match=r"trace_pipe_raw\.bin line 1: binary.*trace_pipe_raw holds pages"):
        read_trace(DATA / "cpu3.trace_pipe_raw.bin")
