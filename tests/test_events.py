"""Tracepoints, their texts, batches of events and recorded traces."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from percpu_lab.core import layout as L
from percpu_lab.errors import LabError, RequestError, TraceFormatError
from percpu_lab.events import RING_COLUMNS, EventBatch
from percpu_lab.geometry import Addresses
from percpu_lab.tracepoints import (
    TRACEPOINTS,
    PercpuAllocPercpu,
    PercpuFreePercpu,
    parse_event,
    tracepoint,
)
from percpu_lab.traces.read import read_golden_trace, read_trace_text
from percpu_lab.traces.recorded import RingCounts

ADDRESSES = Addresses(0xFFFF888100000000, 0xFFFFE8F000000000, 0x20000)
ALLOC_61 = (
    "percpu_alloc_percpu: call_site=xfs_fs_fill_super+0x210/0x950 [xfs] reserved=0 is_atomic=0 size=260 align=4 "
    "base_addr=00000000bbe89090 off=368 ptr=00000000757e4265 bytes_alloc=1560 gfp_flags="
)


def batch_of(*rows: tuple[int, ...], **more: int) -> EventBatch:
    columns = np.array(rows, np.int64).reshape(-1, len(RING_COLUMNS)).T
    return EventBatch(dict(zip(RING_COLUMNS, columns, strict=True)), 0, 0, ADDRESSES, **more)


@st.composite
def batches(draw: st.DrawFn) -> EventBatch:
    n = draw(st.integers(0, 12))

    def column(low: int, high: int) -> np.ndarray:
        return np.array(draw(st.lists(st.integers(low, high), min_size=n, max_size=n)), np.int64)

    event = column(0, 4)
    chunk = np.where(event == L.EVENT_FAIL, L.NO_CHUNK, column(-1, 5))
    columns = {"op": np.sort(column(-1, 10**9)), "event": event, "chunk": chunk, "off": column(0, 2**31 - 1)}
    sizes = {"flags": column(0, 3)} | {name: column(0, 2**63 - 1) for name in ("size", "align", "birth")}
    addresses = Addresses(*(draw(st.integers(0, 2**51)) * 4096 for _ in range(2)), 4096 * draw(st.integers(1, 2**20)))
    return EventBatch(columns | sizes, draw(st.integers(0, 99)), 0, addresses, draw(st.integers(0, 2**64 - 1)))


# --- one event ---


def test_event_prints_the_text_of_its_tracepoint() -> None:
    event = PercpuAllocPercpu(7, True, False, size=64, align=8, base_addr=0xFFFF888100000000, off=8256, ptr=0x2040)
    request = "percpu_alloc_percpu: reserved=1 is_atomic=0 size=64 align=8 "
    assert str(event) == request + "base_addr=ffff888100000000 off=8256 ptr=0000000000002040"
    assert event.text("golden") == "7\t" + request + "base_addr=0xffff888100000000 off=8256 ptr=0x2040"


def test_event_of_a_newer_kernel_keeps_call_site_and_flags_in_place() -> None:
    event = parse_event(ALLOC_61)
    assert isinstance(event, PercpuAllocPercpu)
    assert event.call_site == "xfs_fs_fill_super+0x210/0x950 [xfs]"
    assert (event.bytes_alloc, event.gfp_flags, event.ptr) == (1560, "", 0x757E4265)
    assert str(event) == ALLOC_61


def test_fields_are_read_in_any_order_and_unknown_ones_kept() -> None:
    event = parse_event("percpu_free_percpu: node=1 ptr=0x2040 off=8256 why=a b base_addr=FFFF888100000000")
    assert event == PercpuFreePercpu(0, 0xFFFF888100000000, 8256, 0x2040, extra=(("node", "1"), ("why", "a b")))
    assert str(event).endswith("ptr=0000000000002040 node=1 why=a b")


def test_null_pointer_of_an_old_kernel_is_read() -> None:
    assert parse_event("percpu_create_chunk: base_addr=          (null)").text("golden").endswith("base_addr=0x0")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("percpu_free: off=1", "no percpu event"),
        ("percpu_free_percpu: base_addr=0x1 ptr=0x1", "off= missing"),
        ("percpu_create_chunk: base_addr=1 base_addr=1", "twice"),
        ("percpu_create_chunk: base_addr=0x12345678123456789", "not a pointer"),
        ("percpu_free_percpu: base_addr=1 ptr=1 off=2147483648", "not within"),
        ("percpu_free_percpu: base_addr=1 ptr=1 off=1_0", "not a number"),
        ("percpu_free_percpu: base_addr=1 ptr=1 off=\u0663", "not a number"),
        ("percpu_alloc_percpu_fail: reserved=2 is_atomic=0 size=4 align=4", "not within 0 .. 1"),
        ("percpu_alloc_percpu_fail: reserved=0 is_atomic=0 size=-4 align=4", "not within"),
    ],
)
def test_damaged_event_is_refused_with_place_and_reason(text: str, what: str) -> None:
    with pytest.raises(TraceFormatError, match=what) as caught:
        parse_event(text, where="mail line 3")
    assert caught.value.where == "mail line 3"
    assert caught.value.remedy


def test_events_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        parse_event(ALLOC_61).size = 1  # type: ignore[attr-defined]


def test_tracepoints_stand_at_their_numbers_with_the_fields_of_the_specification() -> None:
    assert [point.event for point in TRACEPOINTS] == list(range(L.NR_EVENTS))
    old = {point.name: " ".join(f.name for f in point.fields if not f.optional) for point in TRACEPOINTS}
    assert old == {
        "percpu_alloc_percpu": "reserved is_atomic size align base_addr off ptr",
        "percpu_free_percpu": "base_addr off ptr",
        "percpu_alloc_percpu_fail": "reserved is_atomic size align",
        "percpu_create_chunk": "base_addr",
        "percpu_destroy_chunk": "base_addr",
    }


def test_unknown_tracepoint_names_those_there_are() -> None:
    with pytest.raises(RequestError, match="percpu_destroy_chunk"):
        tracepoint("kmalloc")


# --- batches ---


def test_addresses_follow_from_the_ordinal_of_the_chunk() -> None:
    batch = batch_of(
        (1, L.EVENT_ALLOC, 0, 8192, 16, 8, 0, 0),
        (2, L.EVENT_ALLOC, -1, 4096, 16, 8, 1, 0),
        (3, L.EVENT_CREATE, 3, 0, 0, 0, 0, 0),
        (3, L.EVENT_FREE, 3, 64, 16, 8, 0, 1),
        (4, L.EVENT_FAIL, L.NO_CHUNK, 0, 16, 8, 2, 0),
    )
    assert [f"{base:x}" for base in batch.base_addr.tolist()] == [
        "ffff888100000000", "ffff888100000000", "ffffe8f000040000", "ffffe8f000040000", "0",
    ]  # fmt: skip
    assert [f"{ptr:x}" for ptr in batch.ptr.tolist()] == ["2000", "1000", "0", "606f00040040", "0"]


def test_ptr_bias_makes_pointers_addresses_without_smp() -> None:
    batch = batch_of((1, L.EVENT_ALLOC, 0, 64, 16, 8, 0, 0), ptr_bias=ADDRESSES.first_chunk)
    assert batch.ptr.tolist() == [ADDRESSES.first_chunk + 64]


def test_flags_come_apart_into_reserved_atomic_and_reason() -> None:
    flags = L.FLAG_ATOMIC | L.REASON_ATOMIC << L.REASON_SHIFT
    batch = batch_of((1, L.EVENT_FAIL, L.NO_CHUNK, 0, 4, 4, flags, 0), (2, L.EVENT_ALLOC, 0, 0, 4, 4, 1, 0))
    assert batch.is_atomic.tolist() == [True, False]
    assert batch.reserved.tolist() == [False, True]
    assert [L.REASONS[reason] for reason in batch.reason] == ["atomic alloc failed, no space left", ""]


@pytest.mark.parametrize("name", [*RING_COLUMNS, "first_seq"])
def test_batch_is_frozen(name: str) -> None:
    batch = batch_of((1, L.EVENT_ALLOC, 0, 64, 16, 8, 0, 0))
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(batch, name, 3)
    if name in RING_COLUMNS:
        with pytest.raises(ValueError, match="read-only"):
            getattr(batch, name)[0] = 3


def test_frame_names_events_and_reasons() -> None:
    pytest.importorskip("pandas")
    row = batch_of((5, L.EVENT_FAIL, L.NO_CHUNK, 0, 4, 4, L.REASON_POPULATE << L.REASON_SHIFT, 0)).frame().iloc[0]
    assert (row["op"], row["event"], row["reason"]) == (5, "percpu_alloc_percpu_fail", "failed to populate")


def test_frame_without_pandas_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(LabError, match="pip install pandas"):
        batch_of().frame()


@given(batches())
def test_batch_written_at_once_equals_its_events_written_one_by_one(batch: EventBatch) -> None:
    for style in ("golden", "ftrace", "plain"):
        assert batch.text(style).splitlines() == [event.text(style) for event in batch]


@given(batches())
def test_golden_text_of_a_batch_reads_back_as_the_same_events(batch: EventBatch) -> None:
    trace = read_golden_trace(batch.text("golden"))
    assert list(trace) == list(batch)
    assert trace.text("golden") == batch.text("golden")


@given(batches(), st.integers(0, 10**6), st.integers(1, 4096))
def test_trace_file_of_a_batch_reads_back_as_the_same_events(batch: EventBatch, lost: int, nr_cpus: int) -> None:
    assume(len(batch) or not lost)
    text = RingCounts(len(batch), len(batch) + lost, nr_cpus).header() + batch.text("ftrace")
    trace = read_trace_text(text)
    assert (list(trace), trace.lost) == (list(batch), lost)
    assert trace.text("ftrace") == text
    assert trace.text("golden") == batch.text("golden")
