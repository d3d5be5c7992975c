"""Reading a trace: every form a line may have, what is odd, what is chosen, and where it comes from."""

from __future__ import annotations

import gzip
import io
import os
import stat
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from percpu_lab.core import layout as L
from percpu_lab.errors import FilterError, RequestError, TraceFormatError
from percpu_lab.tracefilter import EventFilter
from percpu_lab.traces import kept, lines, source
from percpu_lab.traces.read import read_golden_trace, read_trace, read_trace_text
from percpu_lab.traces.recorded import UNKNOWN_BIRTH, Loss, Oddity, RecordedTrace, RingCounts

PREFIX = "              ip-136     [003] .....    86.889221: "
ALLOC = (
    "percpu_alloc_percpu: call_site=xfs_fs_fill_super+0x210/0x950 [xfs] reserved=0 is_atomic=0 size=260 align=4 "
    "base_addr=00000000bbe89090 off=368 ptr=00000000757e4265 bytes_alloc=1560 gfp_flags=GFP_KERNEL|__GFP_ZERO"
)
FREE = "percpu_free_percpu: base_addr=00000000bbe89090 off=368 ptr=00000000757e4265"
FAIL = "percpu_alloc_percpu_fail: reserved=0 is_atomic=1 size=256 align=8"
CREATE = "percpu_create_chunk: base_addr=00000000118f8f08"
HEADER = """\
# tracer: nop
#
# entries-in-buffer/entries-written: 325/374   #P:4
#
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
#              | |         |   |||||     |         |
"""


def text_of(*events: str, first_us: int = 86889221) -> str:
    """The text of events a microsecond apart."""
    times = (f"{(first_us + k) // 10**6}.{(first_us + k) % 10**6:06d}" for k in range(len(events)))
    return "".join(
        f"              ip-136     [003] .....    {time}: {event}\n" for time, event in zip(times, events, strict=True)
    )


def kinds(trace: RecordedTrace) -> list[tuple[int, str]]:
    return [(oddity.line, oddity.kind) for oddity in trace.oddities]


# --- what stands before an event ---


def test_line_of_the_default_layout_gives_all_its_columns() -> None:
    trace = read_trace_text(PREFIX + ALLOC + "\n")
    assert (trace.task[0], trace.pid[0], trace.cpu[0], trace.context[0], trace.time[0]) == (
        "ip",
        136,
        3,
        ".....",
        86889221,
    )
    assert (trace.call_site[0], trace.gfp_flags[0]) == ("xfs_fs_fill_super+0x210/0x950 [xfs]", "GFP_KERNEL|__GFP_ZERO")
    assert (trace.size[0], trace.align[0], trace.off[0], trace.bytes_alloc[0]) == (260, 4, 368, 1560)
    assert (int(trace.base_addr[0]), int(trace.ptr[0])) == (0xBBE89090, 0x757E4265)
    assert (trace.op[0], trace.line[0], trace.time_digits, trace.oddities) == (0, 1, 6, ())


@pytest.mark.parametrize(
    ("line", "task", "pid", "cpu", "time"),
    [
        ("  my task [x]-7-42 [000] d.h11    86.889222: ", "my task [x]-7", 42, 0, 86889222),
        ("           <...>-99   (    252) [001]     86.889300: ", "<...>", 99, 1, 86889300),
        ("           <...>-99   (-------) [001] d..1.    86.889300: ", "<...>", 99, 1, 86889300),
        (" a-1 [0] 5: k: -99     [003] .....    86.889221: ", "a-1 [0] 5: k: ", 99, 3, 86889221),
        ("  x-1 [000] 5: p:-98   [003] .....    86.889221: ", "x-1 [000] 5: p:", 98, 3, 86889221),
        ("    off=1 ptr=2-97     [003] .....    86.889221: ", "off=1 ptr=2", 97, 3, 86889221),
        ("percpu_x: a=3-1        [003] .....    86.889221: ", "percpu_x: a=3", 1, 3, 86889221),
        ("wl-765     [001] .....   223.787161: ", "wl", 765, 1, 223787161),
        ("ip-136\t[003]\t.....\t86.889221:\t", "ip", 136, 3, 86889221),
        ("ip-136 [003] ..... 8999999999.999999999: ", "ip", 136, 3, 8999999999999999999),
        ("      ip-136       3d..1. 123456789012345678: ", "ip", 136, 3, 123456789012345678),
        ("      ip-136       3d..1. 1088226us!: ", "ip", 136, 3, 1088226),
        ("    kworker/u8:1-35 112d..1. 1088226us : ", "kworker/u8:1", 35, 112, 1088226),
        ("      wl-153     3.....    65.795241060: ", "wl", 153, 3, 65795241060),
        ("        a b     136   3 0 00000000 00000002 [052dd305] 1088.226ms (+0.914ms): ", "a b", 136, 3, 86889221),
        ("            true  9614 [001] 13277.567559: percpu:", "true", 9614, 1, 13277567559),
        (" my task 2 9614/9615 [001] 13277.567560:          1 percpu:", "my task 2", 9615, 1, 13277567560),
        ("            true  9614 13277.567559:     percpu:", "true", 9614, -1, 13277567559),
        ("       my task 2  9614 13277.567559:     percpu:", "my task 2", 9614, -1, 13277567559),
        ("              wl-153   [003]    65.795241: ", "wl", 153, 3, 65795241),
        ("", "", -1, -1, -1),
        ("percpu:", "", -1, -1, -1),
    ],
)  # fmt: skip
def test_every_layout_tells_who_where_and_when(line: str, task: str, pid: int, cpu: int, time: int) -> None:
    text = f"{line}{ALLOC}\n{line}{FREE}\n"
    trace = read_trace_text(text)
    assert (trace.task.tolist(), trace.pid.tolist(), trace.cpu.tolist()) == ([task] * 2, [pid] * 2, [cpu] * 2)
    assert trace.time.tolist() == [time] * 2
    assert (trace.size.tolist(), trace.birth.tolist(), trace.oddities) == ([260, 260], [0, 0], ())
    assert trace.text() == text


def test_count_of_a_clock_is_a_time_without_digits() -> None:
    trace = read_trace_text(f" ip-1 [003] ..... 473164069530: {FREE}\n ip-1 [003] ..... 473164069531: {FREE}\n")
    assert (trace.time.tolist(), trace.time_digits) == ([473164069530, 473164069531], 0)


def test_text_of_this_program_has_the_number_of_the_op_as_its_time() -> None:
    trace = read_trace_text(f"      percpu_lab-1     [000] ....            7: {FREE}\n")
    assert (trace.op.tolist(), trace.time.tolist()) == ([7], [7])


def test_layouts_may_change_within_a_file() -> None:
    trace = read_trace_text(f"{PREFIX}{ALLOC}\n{FREE}\n{FAIL}\n{PREFIX}{CREATE}\n")
    assert trace.layout == "ftrace + ftrace without context"
    assert trace.time.tolist() == [86889221, -1, -1, 86889221]


# --- the fields of an event ---


def test_events_of_v4_13_have_no_call_site_bytes_or_flags() -> None:
    area = "base_addr=ffff888100000000 off=368 ptr=0000000000002040"
    event = f"percpu_alloc_percpu: reserved=1 is_atomic=1 size=16 align=8 {area}"
    for prefix in (PREFIX, "          ip-136   [003] ....    86.889221: "):
        trace = read_trace_text(prefix + event + "\n" + prefix + event + "\n")
        assert (trace.call_site.tolist(), trace.bytes_alloc.tolist(), trace.gfp_flags.tolist()) == (
            [None] * 2,
            [-1] * 2,
            [None] * 2,
        )
        assert (trace.reserved.tolist(), trace.is_atomic.tolist()) == ([True] * 2, [True] * 2)


def test_flags_that_are_printed_empty_are_not_flags_that_are_missing() -> None:
    trace = read_trace_text(PREFIX + ALLOC.partition("GFP")[0] + "\n")
    assert trace.gfp_flags.tolist() == [""]


def test_fields_are_found_by_name_and_unknown_ones_kept() -> None:
    text = PREFIX + "percpu_free_percpu: off=368 new=a b ptr=0x757e4265 node=3 base_addr=00000000bbe89090\n"
    trace = read_trace_text(PREFIX + ALLOC + "\n" + text)
    assert (trace.off.tolist(), trace.birth.tolist()) == ([368, 368], [0, 0])
    assert trace.extra == {1: (("new", "a b"), ("node", "3"))}
    assert trace.text("plain").splitlines()[1] == f"{FREE} new=a b node=3"


@pytest.mark.parametrize(
    ("call_site", "size", "ptr"),
    [("call_site=0xffffffffa52bfc38 (-1523844040)", "size=0x10 (16)", "ptr=0x757e4265 (1971208805)"),
     ("call_site=0xffffffffa52bfc38", "size=0x10", "ptr=0x757e4265"),
     ("call_site=0xffffffffa52bfc38", "size=16", "ptr=757E4265")],
)  # fmt: skip
def test_numbers_are_read_in_all_forms(call_site: str, size: str, ptr: str) -> None:
    event = (
        f"percpu_alloc_percpu: {call_site} reserved=(0) is_atomic=(1) {size} align=0x8 (8) "
        f"base_addr=0xffff9f52c0036000 (-9) off=0x170 (368) {ptr} bytes_alloc=0x60 (96) gfp_flags=0xcc0 (3264)"
    )
    trace = read_trace_text(PREFIX + event + "\n")
    assert (trace.call_site[0], trace.size[0], trace.align[0], trace.off[0]) == ("0xffffffffa52bfc38", 16, 8, 368)
    assert (trace.is_atomic[0], trace.bytes_alloc[0], int(trace.ptr[0])) == (True, 96, 0x757E4265)
    assert (int(trace.base_addr[0]), trace.gfp_flags[0].partition(" ")[0]) == (0xFFFF9F52C0036000, "0xcc0")


def test_address_from_before_hashing_is_no_identity() -> None:
    for secret in ("(____ptrval____)", "(ptrval)"):
        trace = read_trace_text(PREFIX + FREE.replace("00000000bbe89090", secret) + "\n")
        assert (trace.base_addr.tolist(), kinds(trace)) == ([0], [(1, "address")])


@pytest.mark.parametrize(
    ("base", "nr_bytes"), [("bbe89090", 4), ("00000000bbe89090", 8), ("0xf4951000", 4), ("0xffffeec4ffc00000", 8)]
)
def test_width_of_addresses_tells_the_machine(base: str, nr_bytes: int) -> None:
    assert read_trace_text(PREFIX + CREATE.replace("00000000118f8f08", base) + "\n").pointer_bytes == nr_bytes


def test_lines_of_kmem_with_the_same_fields_are_other_events() -> None:
    kmalloc = "kmalloc: call_site=percpu_alloc_percpu+0x1 ptr=00000000110b3b84 bytes_req=64 bytes_alloc=64 gfp_flags="
    trace = read_trace_text(text_of(kmalloc, FREE))
    assert (len(trace), trace.nr_other, trace.line.tolist()) == (1, 1, [2])


def test_marker_with_the_text_of_an_event_is_a_marker() -> None:
    trace = read_trace_text(text_of(f"tracing_mark_write: {FREE}", FREE, "tracing_mark_write: BEGIN x 3"))
    assert [(marker.row, marker.line, marker.text, marker.time) for marker in trace.markers] == [
        (0, 1, FREE, 86889221), (1, 3, "BEGIN x 3", 86889223),
    ]  # fmt: skip


def test_marker_of_trace_cmd_stands_behind_print() -> None:
    trace = read_trace_text(f"cpus=4\n  init-1 [003] 65.7: print:        tracing_mark_write: BEGIN x\n{PREFIX}{FREE}\n")
    assert (trace.markers[0].text, trace.layout, trace.header) == ("BEGIN x", "trace-cmd", ("cpus=4",))


# --- mails ---


def test_quoted_and_wrapped_event_is_joined() -> None:
    text = (
        f"> {PREFIX}percpu_alloc_percpu:\n> call_site=xfs_fs_fill_super+0x210/0x950\n"
        "> [xfs] reserved=0 is_atomic=0 size=260 align=4\n"
        "> base_addr=00000000bbe89090 off=368 ptr=00000000757e4265\n> bytes_alloc=1560 gfp_flags=GFP_KERNEL\n>\n"
        f"> {PREFIX}{FREE}\n"
    )
    trace = read_trace_text(text)
    assert (trace.line.tolist(), trace.task.tolist()) == ([1, 7], ["ip", "ip"])
    assert (trace.call_site[0], trace.gfp_flags[0], trace.birth[1]) == (
        "xfs_fs_fill_super+0x210/0x950 [xfs]",
        "GFP_KERNEL",
        0,
    )
    assert kinds(trace) == [(1, "quoted"), (1, "wrapped")]
    assert trace.text() == text


@pytest.mark.parametrize("width", [40, 60, 72, 76, 78])
@pytest.mark.parametrize("quote", ["", "> ", ">> ", "  > "])
def test_trace_wrapped_anywhere_gives_the_same_events(width: int, quote: str) -> None:
    import textwrap

    events = text_of(ALLOC, FAIL, CREATE, FREE)
    wrapped = "".join(
        f"{quote}{part}\n"
        for line in events.splitlines()
        for part in textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False)
    )
    whole, joined = read_trace_text(events), read_trace_text(wrapped)
    assert list(joined) == list(whole)
    assert joined.time.tolist() == whole.time.tolist()
    assert joined.text() == wrapped


def test_event_is_not_joined_to_prose_or_to_other_events() -> None:
    short = ALLOC.partition(" bytes_alloc")[0]
    latency = "      ip-136       3..... 1088226us!: "
    kmalloc = latency + "kmalloc: call_site=f+0x1 ptr=00000000110b3b84 bytes_req=64"
    trace = read_trace_text(f"{PREFIX}{short}\nThanks\n{PREFIX}{FREE}\n")
    assert (trace.bytes_alloc.tolist(), kinds(trace)) == ([-1, -1], [(2, "skipped")])
    trace = read_trace_text(f"{latency}{ALLOC}\n{latency}{FREE.partition(' ptr')[0]}\n{kmalloc}\n{latency}{FREE}\n")
    assert (trace.line.tolist(), trace.nr_other, kinds(trace)) == ([1, 4], 1, [(2, "left out")])


def test_events_of_other_systems_without_context_are_counted() -> None:
    trace = read_trace_text(f"{ALLOC}\nkmalloc: call_site=f+0x1 ptr=00000000110b3b84\n{FREE}\n")
    assert (len(trace), trace.nr_other, trace.oddities) == (2, 1, ())


def test_call_chains_of_perf_are_passed_over() -> None:
    trace = read_trace_text(
        f"Web Content  4242/4243 [001]  1234.567999: percpu:{FREE}\n"
        "        ffffffffa52bfc38 pcpu_alloc+0x598 ([kernel.kallsyms])\n"
        "            7f1234567890 std::f(int, char)+0xe (/usr/lib/libc.so.6)\n"
        "        0 [unknown] ([unknown])\n"
        "\tpcpu_alloc+0x598 ([kernel.kallsyms])\n\tpcpu_alloc\n\t        ffffffffa52bfc38 pcpu_alloc\n\n"
        f"ip 136 [003] 1235.889221: percpu:{FAIL}\n"
    )
    assert (trace.line.tolist(), trace.oddities) == ([1, 9], ())
    assert (trace.task.tolist(), trace.pid.tolist()) == (["Web Content", "ip"], [4243, 136])


def test_prose_of_a_mail_is_noted_and_passed_over() -> None:
    trace = read_trace_text(f"Hello,\n\nI see this:\n{PREFIX}{ALLOC}\n{PREFIX}{FREE}\nThanks\n")
    assert (len(trace), kinds(trace)) == (2, [(1, "skipped"), (3, "skipped"), (6, "skipped")])


def test_carriage_returns_do_no_harm() -> None:
    text = text_of(ALLOC, FREE, FAIL, CREATE).replace("\n", "\r\n")
    trace = read_trace_text(text)
    assert (trace.gfp_flags[0], trace.oddities, trace.text()) == ("GFP_KERNEL|__GFP_ZERO", (), text)


# --- losses ---


@pytest.mark.parametrize(
    ("line", "loss"),
    [("CPU:2 [LOST 147 EVENTS]", Loss(1, 2, 2, 147, "LOST")), ("CPU:2 [LOST EVENTS]", Loss(1, 2, 2, None, "LOST")),
     ("CPU:0 [192 EVENTS DROPPED]", Loss(1, 2, 0, 192, "DROPPED")),
     ("CPU:11 [EVENTS DROPPED]", Loss(1, 2, 11, None, "DROPPED"))],
)  # fmt: skip
def test_lost_events_are_noted_between_events(line: str, loss: Loss) -> None:
    trace = read_trace_text(f"{PREFIX}{ALLOC}\n{line}\n{PREFIX}{FREE}\n")
    assert (trace.losses, trace.lost) == ((loss,), loss.nr_events or 0)


def test_header_tells_of_overwritten_events() -> None:
    trace = read_trace_text(HEADER + PREFIX + FREE + "\n")
    assert (trace.losses, trace.lost, trace.counts) == (
        (Loss(0, 3, -1, 49, "overwritten"),),
        49,
        RingCounts(325, 374, 4),
    )
    assert trace.header == tuple(HEADER.splitlines())


# --- chunks and frees ---


def test_frees_know_their_allocation() -> None:
    trace = read_golden_trace(
        "-1\tpercpu_create_chunk: base_addr=0x1000\n"
        "3\tpercpu_alloc_percpu: reserved=0 is_atomic=0 size=16 align=8 base_addr=0x1000 off=64 ptr=0x40\n"
        "4\tpercpu_create_chunk: base_addr=0x9000\n"
        "5\tpercpu_free_percpu: base_addr=0x1000 off=64 ptr=0x40\n"
        "6\tpercpu_free_percpu: base_addr=0x9000 off=8 ptr=0x8008\n"
        "7\tpercpu_alloc_percpu_fail: reserved=0 is_atomic=1 size=16 align=8\n"
        "8\tpercpu_destroy_chunk: base_addr=0x9000\n"
        "9\tpercpu_create_chunk: base_addr=0x9000\n"
    )
    assert trace.chunk.tolist() == [0, 0, 1, 0, 1, L.NO_CHUNK, 1, 2]
    assert trace.birth.tolist()[3:5] == [3, UNKNOWN_BIRTH]
    assert (trace.size.tolist()[3:5], trace.align.tolist()[3:5]) == ([16, 0], [8, 0])


def test_area_of_a_destroyed_chunk_is_not_that_of_the_next_at_its_address() -> None:
    chunk = "base_addr=00000000bbe89090"
    trace = read_trace_text(text_of(ALLOC, f"percpu_destroy_chunk: {chunk}", f"percpu_create_chunk: {chunk}", FREE))
    assert (trace.chunk.tolist(), trace.birth[3]) == ([0, 0, 1, 1], UNKNOWN_BIRTH)


def test_chunk_used_after_its_destruction_is_another_one_even_if_its_creation_is_missing() -> None:
    trace = read_trace_text(text_of(ALLOC, "percpu_destroy_chunk: base_addr=00000000bbe89090", FREE))
    assert trace.chunk.tolist() == [0, 0, 1]


def test_area_that_is_handed_out_twice_is_odd() -> None:
    assert kinds(read_trace_text(text_of(ALLOC, ALLOC, FREE, ALLOC))) == [(2, "twice")]


# --- damage ---


def test_last_line_without_an_end_may_be_cut() -> None:
    trace = read_trace_text(text_of(ALLOC, FREE).rstrip("\n"))
    assert (len(trace), kinds(trace)) == (2, [(2, "cut")])


@pytest.mark.parametrize("nr_missing", range(1, 60))
def test_cut_line_never_becomes_a_false_event(nr_missing: int) -> None:
    trace = read_trace_text(text_of(ALLOC, FREE)[: -1 - nr_missing])
    assert (len(trace), kinds(trace)) == (1, [(2, "cut")])


def test_cut_line_in_the_midst_is_skipped() -> None:
    trace = read_trace_text(text_of(ALLOC, FREE[:-4], "sched_switch: a=1", FREE))
    assert (trace.line.tolist(), kinds(trace)) == ([1, 4], [(2, "cut")])


@pytest.mark.parametrize("event", ["percpu_new_event: size=3", "percpu_free_percpu: base_addr=1 off=x ptr=1"])
def test_event_that_is_not_understood_is_noted(event: str) -> None:
    trace = read_trace_text(text_of(ALLOC, event, FREE))
    assert (len(trace), trace.birth[1]) == (2, 0)
    assert [(oddity.line, oddity.kind) for oddity in trace.oddities] in ([(2, "event")], [(2, "left out")])


def test_time_that_falls_back_ends_a_recording() -> None:
    first, second = text_of(ALLOC, FREE), text_of(FAIL, FREE, first_us=1000)
    trace = read_trace_text(first + second)
    assert list(trace) == list(read_trace_text(first))
    assert trace.text() == first + second
    assert kinds(trace) == [(3, "mix")]
    assert "what stands before it was kept" in trace.oddities[0].text


@pytest.mark.parametrize("nr_bytes", [40, 700, 5000])
def test_text_behind_the_end_of_a_recording_is_kept_whatever_block_it_is_in(
    monkeypatch: pytest.MonkeyPatch, nr_bytes: int
) -> None:
    monkeypatch.setattr(source, "BLOCK_BYTES", nr_bytes)
    text = text_of(ALLOC, FREE) + text_of(*[FAIL] * 9, "a line > of no trace", first_us=1000) + "no end"
    trace = read_trace_text(text)
    assert (len(trace), trace.text(), kinds(trace)) == (2, text, [(3, "mix")])
    assert list(read_trace_text(trace.text())) == list(trace)


def of_file(name: str, text: str) -> str:
    return "".join(f"{name}{line}" for line in text.splitlines(keepends=True))


def test_of_two_data_files_in_one_report_that_with_the_first_percpu_event_is_read() -> None:
    one, other = text_of(ALLOC, "tracing_mark_write: here", FREE), text_of(ALLOC, "tracing_mark_write: there", CREATE)
    head = "  a.dat: cpus=4\nbee.dat: CPU 1 is empty\nbee.dat: cpus=2\n"
    between = of_file("bee.dat: ", "CPU:1 [192 EVENTS DROPPED]\n") + other
    text = head + of_file("  a.dat: ", one) + between + of_file("  a.dat: ", text_of(FAIL, first_us=86889230))
    trace = read_trace_text(text)
    assert list(trace) == list(read_trace_text(one + text_of(FAIL, first_us=86889230)))
    assert (set(trace.task.tolist()), [marker.text for marker in trace.markers], trace.lost) == ({"ip"}, ["here"], 0)
    assert (kinds(trace)[0], trace.layout, trace.text()) == ((7, "files"), "trace-cmd", text)
    assert "lines of bee.dat are left out: those of a.dat are read" in trace.oddities[0].text


def test_ring_without_a_name_in_a_report_is_read_as_one_of_its_own() -> None:
    head = "         cpus=4\n  inst: cpus=4\n"
    text = head + of_file("        ", text_of(ALLOC, FREE)) + of_file("  inst: ", text_of(ALLOC, FREE))
    trace = read_trace_text(text)
    assert (trace.line.tolist(), kinds(trace)) == ([3, 4], [(5, "files")])
    assert "lines of inst are left out: those of another are read" in trace.oddities[0].text


def test_stack_traces_without_context_are_passed_over() -> None:
    text = f"{ALLOC}\n<stack trace>\n => pcpu_alloc\n{FREE}\n<user stack trace>\n => <0000aaaa>\n"
    assert (len(read_trace_text(text)), read_trace_text(text).oddities) == (2, ())


def test_second_header_with_an_earlier_time_ends_a_recording() -> None:
    trace = read_trace_text(HEADER + text_of(ALLOC, FREE) + HEADER + text_of(FAIL, first_us=86889220))
    assert (len(trace), kinds(trace)) == (2, [(9, "header"), (15, "mix")])


def test_second_header_with_later_times_goes_on() -> None:
    trace = read_trace_text(HEADER + text_of(ALLOC, FREE) + HEADER + text_of(FAIL, first_us=86889230))
    assert (len(trace), kinds(trace)) == (3, [(3, "incomplete"), (9, "header")])


def test_second_header_before_other_chunks_tells_of_another_boot() -> None:
    other = text_of(CREATE, "percpu_destroy_chunk: base_addr=00000000118f8f08", first_us=86889230)
    trace = read_trace_text(HEADER + text_of(ALLOC, FREE) + HEADER + other)
    assert (len(trace), kinds(trace)) == (4, [(3, "incomplete"), (9, "header"), (9, "boots")])


def test_header_with_more_entries_than_lines_says_that_some_are_missing() -> None:
    text = text_of(ALLOC, "tracing_mark_write: here", "kmalloc: call_site=f+0x1 ptr=00000000110b3b84", FREE, FAIL)
    whole = HEADER.replace("325/374", "5/5") + text
    assert read_trace_text(whole).oddities == ()
    cut = read_trace_text(whole.replace(text.splitlines(keepends=True)[0], ""))
    assert [(oddity.line, oddity.text) for oddity in cut.oddities] == [
        (3, "the header tells of 5 entries, of which 1 are not in this text")
    ]


def test_other_clock_ends_a_recording() -> None:
    trace = read_trace_text(text_of(ALLOC, FREE) + f" ip-1 [003] ..... 5: {CREATE}\n")
    assert (len(trace), kinds(trace)) == (2, [(3, "mix")])


def test_small_step_back_of_a_clock_is_noted_only() -> None:
    trace = read_trace_text(text_of(ALLOC, FREE) + text_of(FAIL, first_us=86889215))
    assert (len(trace), kinds(trace)) == (3, [(3, "time")])


def test_boot_where_all_times_are_zero_is_in_order() -> None:
    zero = PREFIX.replace("86.889221", " 0.000000")
    assert read_trace_text(f"{zero}{ALLOC}\n{zero}{FREE}\n{PREFIX}{FAIL}\n").oddities == ()


def test_oddities_are_limited_and_the_rest_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_ODDITIES", 3)
    trace = read_trace_text("prose\n" * 10 + PREFIX + FREE + "\n")
    assert kinds(trace) == [(1, "skipped"), (2, "skipped"), (3, "skipped"), (10, "skipped")]
    assert trace.oddities[-1].text.startswith("7 more lines")


def test_oddity_prints_its_line() -> None:
    assert str(Oddity(3, "skipped", "not a line of a trace: 'x'")) == "line 3: not a line of a trace: 'x'"


def test_hostile_text_is_shown_escaped() -> None:
    trace = read_trace_text(f"\x1b[31m<script>\n{PREFIX}{FREE}\n")
    assert "\x1b" not in trace.oddities[0].text


@pytest.mark.parametrize(
    ("text", "what"),
    [("", r"^dump line 1: no percpu event in 0 lines; nothing was kept; record with"),
     ("hello\nworld\n", r"^dump line 2: no percpu event in 2 lines; nothing was kept"),
     (PREFIX + "kmalloc: ptr=1\n", r"^dump line 1: no percpu event in 1 lines, but 1 other ones such as kmalloc"),
     (HEADER, r"^dump line 6: no percpu event in 6 lines"),
     ("1 0 86889220610 type: 537\n", r"no percpu event can be read: 1 lines .*options/raw")],
)  # fmt: skip
def test_text_without_percpu_events_is_refused(text: str, what: str) -> None:
    with pytest.raises(TraceFormatError, match=what):
        read_trace_text(text, where="dump")


def test_ring_that_was_empty_is_an_empty_trace() -> None:
    assert len(read_trace_text(HEADER.replace("325/374", "0/0"))) == 0


# --- recorded cases ---


def golden_traces() -> list[Path]:
    return sorted((Path(__file__).parent / "data" / "golden").glob("**/trace.txt*"))


@pytest.mark.parametrize("path", golden_traces(), ids=lambda path: path.parent.name)
def test_recorded_case_reads_and_writes_byte_for_byte(path: Path) -> None:
    text = (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode()
    trace = read_golden_trace(text)
    assert (trace.text("golden"), trace.text(), trace.time_digits) == (text, text, None)


def test_trace_of_a_recorded_case_is_found_out_as_such() -> None:
    text = "3\tpercpu_create_chunk: base_addr=0x1000 node=3\n5\tpercpu_create_chunk: base_addr=0x2000\n"
    trace = read_trace_text(text)
    assert (trace.op.tolist(), trace.layout, trace.time.tolist()) == ([3, 5], "golden", [-1, -1])
    assert trace.text("golden") == text


@pytest.mark.parametrize(
    "line", ["percpu_create_chunk: base_addr=0x1000", "5\tkmalloc: ptr=0x1000", "5\tpercpu_create_chunk: base_addr="]
)
def test_line_that_a_recorded_case_cannot_have_is_named(line: str) -> None:
    good = "1\tpercpu_create_chunk: base_addr=1\n"
    with pytest.raises(TraceFormatError, match=r"^dump line 2: "):
        read_golden_trace(f"{good}{line}\n{good}", where="dump")


# --- what is chosen ---

MIXED = text_of(
    ALLOC,
    FAIL,
    CREATE,
    "tracing_mark_write: here",
    ALLOC.replace("size=260", "size=8").replace("off=368", "off=0"),
    FREE,
)


@pytest.mark.parametrize(
    ("events", "lines"),
    [
        ("percpu_alloc_percpu_fail", [2]),
        ("percpu:percpu_create_chunk, percpu_free_percpu", [3, 6]),
        (["percpu_alloc_percpu"], [1, 5]),
        ("size > 64", [1, 2, 3, 6]),
        ("size > 64 && is_atomic == 0", [1, 3, 6]),
        (EventFilter.from_text("percpu_alloc_percpu", "size > 64"), [1]),
        (lambda event: getattr(event, "size", 0) == 8, [5]),
    ],
)  # fmt: skip
def test_events_are_chosen_while_reading(events: object, lines: list[int]) -> None:
    trace = read_trace_text(MIXED, events=events)  # type: ignore[arg-type]
    assert trace.line.tolist() == lines
    assert trace.op.tolist() == list(range(len(lines)))
    assert trace.markers[0].row == sum(line < 4 for line in lines)
    assert len(trace.text().splitlines()) == len(lines)


@pytest.mark.parametrize(
    ("events", "error"), [("sise > 3", FilterError), ("percpu_x", RequestError), ([3], RequestError)]
)
def test_choice_that_is_none_is_refused(events: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        read_trace_text(MIXED, events=events)  # type: ignore[arg-type]


def test_choosing_nothing_of_a_trace_gives_an_empty_one() -> None:
    assert len(read_trace_text(MIXED, events="percpu_destroy_chunk")) == 0


def test_limit_keeps_the_events_before_it_and_says_so() -> None:
    trace = read_trace(io.StringIO(MIXED), limit=2)
    assert (trace.line.tolist(), kinds(trace)) == ([1, 2], [(3, "limit")])
    assert "more than 2 events" in trace.oddities[0].text
    assert trace.text() == "".join(MIXED.splitlines(keepends=True)[:2])


# --- where it comes from ---


def test_blocks_may_end_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        HEADER
        + MIXED
        + f"> {PREFIX}percpu_free_percpu: base_addr=00000000bbe89090\n> off=0 ptr=00000000757e4265\n"
        + MIXED
    )
    whole = read_trace_text(text)
    for size in (200, 333, 1000):
        monkeypatch.setattr(source, "BLOCK_BYTES", size)
        parts = read_trace(io.BytesIO(text.encode()))
        assert (list(parts), parts.text()) == (list(whole), text)
        assert (parts.markers, parts.losses, parts.oddities) == (whole.markers, whole.losses, whole.oddities)
        for column in ("op", "chunk", "birth", "line", "time", "size"):
            assert getattr(parts, column).tolist() == getattr(whole, column).tolist()


@pytest.mark.parametrize(
    "pack", [bytes, gzip.compress, lambda data: gzip.compress(data[:300]) + gzip.compress(data[300:])]
)
def test_file_is_read_packed_or_not(tmp_path: Path, pack: object) -> None:
    path = tmp_path / "trace"
    path.write_bytes(pack(MIXED.encode()))  # type: ignore[operator]
    trace = read_trace(path)
    assert (list(trace), trace.source, trace.text()) == (list(read_trace_text(MIXED)), str(path), MIXED)


def test_progress_tells_bytes_read_and_bytes_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "BLOCK_BYTES", 400)
    path = tmp_path / "trace"
    path.write_text(MIXED)
    seen: list[tuple[int, int | None]] = []
    read_trace(path, progress=lambda done, total: seen.append((done, total)))
    assert seen[0] == (400, len(MIXED))
    assert seen[-1] == (len(MIXED), len(MIXED))
    assert seen == sorted(seen)


def test_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_bytes(gzip.compress(MIXED.encode())))
    writer.start()
    trace = read_trace(path)
    writer.join()
    assert list(trace) == list(read_trace_text(MIXED))


def test_minus_is_the_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(gzip.compress(MIXED.encode()))))
    trace = read_trace("-")
    assert (len(trace), trace.source) == (5, "standard input")


def test_bytes_that_are_no_text_survive() -> None:
    data = f"# caf\xe9\n{MIXED}".encode("latin-1")
    assert read_trace(io.BytesIO(data)).text().encode("utf-8", "surrogateescape") == data


@pytest.mark.parametrize("place", [0.3, 0.6, 1.0])
def test_gzip_that_is_damaged_gives_all_that_is_before(place: float) -> None:
    text = text_of(*(ALLOC.replace("off=368", f"off={k * 8}") for k in range(3000)))
    packed = bytearray(gzip.compress(text.encode()))
    at = int((len(packed) - 8) * place)
    packed[at : at + 8] = b"\xff" * 8
    trace = read_trace(io.BytesIO(bytes(packed)))
    assert len(trace) >= int(3000 * place) - 150
    assert trace.oddities[-1].kind == "damaged" or trace.oddities[-2].kind == "damaged"


@pytest.mark.parametrize("coding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_text_in_utf_16_says_how_to_read_it(coding: str) -> None:
    mark = {"utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff"}.get(coding, b"")
    with pytest.raises(TraceFormatError, match="text in UTF-16; nothing was kept; make it UTF-8: iconv"):
        read_trace(io.BytesIO(mark + MIXED.encode(coding)))


def test_byte_order_mark_is_no_part_of_the_first_line() -> None:
    text = "\ufeff" + PREFIX + ALLOC + "\n"
    trace = read_trace(io.BytesIO(text.encode()))
    assert (len(trace), trace.task[0], trace.oddities, trace.text()) == (1, "ip", (), text)


def test_gzip_that_ends_in_its_midst_gives_what_is_before() -> None:
    text = "".join(text_of(ALLOC, FREE, first_us=86889221 + 2 * k) for k in range(2000))
    packed = gzip.compress(text.encode())
    trace = read_trace(io.BytesIO(packed[: len(packed) // 2]))
    assert 0 < len(trace) < 4000
    assert trace.oddities[-1].kind == "damaged"
    assert "ends in its midst" in trace.oddities[-1].text and f"{len(trace):,} events" in trace.oddities[-1].text


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (gzip.compress(MIXED.encode())[:40], "gzip stream ends in its midst; nothing was kept"),
        (b"\x1f\x8b" + b"x" * 50, "gzip stream is damaged .*; nothing was kept"),
        (b"ab\nc\0d", "line 2: binary, not the text of a trace; nothing was kept"),
        (b"BZh91AY", "packed with bzip2; unpack it"),
        (b"\xfd7zXZ\0", "packed with xz"),
    ],
    ids=["gzip ends", "gzip damaged", "zero byte", "bzip2", "xz"],
)  # fmt: skip
def test_what_is_no_text_is_refused(data: bytes, what: str) -> None:
    with pytest.raises(TraceFormatError, match=what):
        read_trace(io.BytesIO(data))


def test_line_without_an_end_is_not_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "BLOCK_BYTES", 1000)
    trace = read_trace(io.BytesIO((PREFIX + FREE + "\n").encode() + b"x" * 10_000))
    assert (len(trace), trace.oddities[-1].kind) == (1, "damaged")
    with pytest.raises(TraceFormatError, match="a line of more than 1,000 bytes"):
        read_trace(io.BytesIO(b"x" * 10_000))


@pytest.mark.parametrize("path", ["no/such/file", "."])
def test_file_that_cannot_be_read_is_named(path: str) -> None:
    with pytest.raises(TraceFormatError, match=f"^{path}: cannot be read: "):
        read_trace(path)


def test_text_too_long_to_keep_is_written_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MAX_KEPT_BYTES", 10)
    trace = read_trace_text("prose\n" + text_of(ALLOC, FREE))
    assert trace.text() == text_of(ALLOC, FREE)
    assert kinds(trace)[-1] == (3, "text")


def test_memory_is_bounded_by_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "BLOCK_BYTES", 1 << 16)
    line = (PREFIX + "kmalloc: call_site=f+0x1 ptr=00000000110b3b84 bytes_req=64 bytes_alloc=64\n").encode()
    blocks = iter([line * 500] * 60 + [text_of(ALLOC, FREE).encode()])  # 3 MB

    class Endless(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            return next(blocks, b"")

    tracemalloc.start()
    trace = read_trace(Endless(), events="percpu_alloc_percpu")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (len(trace), trace.nr_other) == (1, 30_000)
    assert peak < 1_000_000


# --- data files of trace-cmd and perf ---

DATA_FILE = b"\x17\x08\x44tracing6\0\0"


def program(folder: Path, name: str, script: str) -> str:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return f"{folder}:{os.environ['PATH']}"


@pytest.mark.parametrize(
    ("name", "start", "command"), [("trace-cmd", DATA_FILE, "report -i"), ("perf", b"PERFILE2\0", "script -f -i")]
)
def test_data_file_is_read_through_its_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, start: bytes, command: str
) -> None:
    script = f'case "$*" in "{command} "*) ;; *) exit 3;; esac; for file; do :; done; tail -c +{len(start) + 1} "$file"'
    monkeypatch.setenv("PATH", program(tmp_path, name, script))
    for data in (start + MIXED.encode(), gzip.compress(start + MIXED.encode())):
        (tmp_path / "-data").write_bytes(data)
        assert read_trace(io.BytesIO(data)).text() == read_trace(tmp_path / "-data").text() == MIXED


def test_data_file_without_its_program_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(
        TraceFormatError, match="trace-cmd, which is not installed here; nothing was kept; install trace-cmd, or run"
    ):
        read_trace(io.BytesIO(DATA_FILE))


def test_program_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", program(tmp_path, "trace-cmd", "echo bad page >&2; exit 1"))
    with pytest.raises(
        TraceFormatError, match="`trace-cmd report` did not get through the file: bad page; nothing was kept"
    ):
        read_trace(io.BytesIO(DATA_FILE))


# --- the trace ---


def test_trace_says_what_it_holds() -> None:
    trace = read_trace_text(HEADER + "prose\n" + text_of(ALLOC, "tracing_mark_write: here", FREE))
    assert repr(trace) == "<RecordedTrace: 2 events, 1 marker, 49 lost events, 2 odd lines>"


def test_frame_has_the_columns_of_a_recording() -> None:
    frame = read_trace_text(text_of(ALLOC, FREE)).frame()
    assert frame[["task", "line", "call_site", "birth"]].iloc[0].tolist() == [
        "ip",
        1,
        "xfs_fs_fill_super+0x210/0x950 [xfs]",
        0,
    ]


def test_columns_are_read_only() -> None:
    trace = read_trace_text(text_of(ALLOC, FREE))
    for name in ("base_addr", "time", "line", "task"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(trace, name)[0] = np.zeros(1, getattr(trace, name).dtype)[0]
