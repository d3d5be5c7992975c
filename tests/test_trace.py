"""The ring of an engine: what it records, how it reads, who is told."""

from __future__ import annotations

import re
import threading
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from percpu_lab.core import layout as L
from percpu_lab.engine import Engine
from percpu_lab.errors import FilterError, HookError, RequestError
from percpu_lab.events import EventBatch
from percpu_lab.geometry import Geometry
from percpu_lab.ops import Ops
from percpu_lab.trace import Trace
from percpu_lab.tracepoints import TRACEPOINTS
from percpu_lab.traces.read import read_trace_text

ALLOC, FREE, CREATE = "percpu_alloc_percpu", "percpu_free_percpu", "percpu_create_chunk"


@pytest.fixture
def engine() -> Engine:
    return Engine(Geometry.simple(), ring_capacity=16, jit="off")


@pytest.fixture
def trace(engine: Engine) -> Trace:
    return Trace(engine)


def allocate(engine: Engine, *sizes: int) -> list[int]:
    return [engine.alloc(size, 8, False, False) for size in sizes]


def names(trace: Trace) -> list[str]:
    return [event.name for event in trace]


# --- what is recorded ---


def test_everything_is_recorded_at_first(engine: Engine, trace: Trace) -> None:
    engine.free(allocate(engine, 16)[0])
    assert trace.enabled == tuple(point.name for point in TRACEPOINTS)
    assert names(trace) == [CREATE, ALLOC, FREE]


def test_disabled_event_is_not_recorded_until_enabled(engine: Engine, trace: Trace) -> None:
    trace.disable(ALLOC, "percpu:percpu_free_percpu")
    engine.free(allocate(engine, 16)[0])
    assert names(trace) == [CREATE]
    trace.enable(ALLOC, ALLOC)
    engine.free(allocate(engine, 16)[0])
    assert names(trace) == [CREATE, ALLOC]


def test_without_names_all_events_are_meant(trace: Trace) -> None:
    trace.disable()
    assert trace.enabled == ()
    trace.enable()
    assert len(trace.enabled) == L.NR_EVENTS


def test_unknown_event_changes_nothing(trace: Trace) -> None:
    with pytest.raises(RequestError, match=CREATE):
        trace.disable(ALLOC, "kmalloc")
    assert len(trace.enabled) == L.NR_EVENTS


def test_filter_keeps_events_out_of_the_ring(engine: Engine, trace: Trace) -> None:
    trace.set_filter(ALLOC, f"size > 64 && base_addr == {engine.geometry.addresses.first_chunk:#x}")
    allocate(engine, 16, 128, 64)
    assert [event.size for event in trace if event.name == ALLOC] == [128]
    assert trace.filtered == 2
    assert list(trace.filters) == [ALLOC]


def test_compiled_ring_filters_alike() -> None:
    pytest.importorskip("numba")
    engine = Engine(Geometry.simple(), jit="wait")
    trace = Trace(engine)
    trace.set_filter(ALLOC, "size > 64 && !(off & 0x40)")
    unfiltered = Engine(Geometry.simple(), jit="off")
    for each in (engine, unfiltered):
        each.run(Ops.alloc(np.arange(50), np.arange(8, 408, 8)), np.zeros(50, np.int64))
    everything = unfiltered.events(0)
    kept = everything.event != L.EVENT_ALLOC
    kept |= (everything.size > 64) & (everything.off & 0x40 == 0)
    assert engine.is_compiled
    assert trace.columns().off.tolist() == everything.off[kept].tolist()
    assert 0 < trace.filtered < 50


@pytest.mark.parametrize("nothing", ["0", " ", "", None])
def test_filter_is_taken_away_as_in_tracefs(engine: Engine, trace: Trace, nothing: str | None) -> None:
    trace.set_filter(ALLOC, "size > 64")
    trace.set_filter(ALLOC, nothing)
    allocate(engine, 16)
    assert names(trace) == [CREATE, ALLOC]
    assert trace.filters == {}


def test_damaged_filter_leaves_the_old_one(engine: Engine, trace: Trace) -> None:
    trace.set_filter(ALLOC, "size > 64")
    with pytest.raises(FilterError, match="column 6"):
        trace.set_filter(ALLOC, "size ~ 64")
    allocate(engine, 16)
    assert names(trace) == [CREATE]
    assert trace.filters == {ALLOC: "size > 64"}


# --- what was recorded ---


def test_overwritten_events_are_counted(engine: Engine, trace: Trace) -> None:
    allocate(engine, *[16] * 20)
    assert (trace.size, len(trace), trace.entries_written, trace.overrun) == (16, 16, 21, 5)
    assert (trace.columns().lost, trace.columns().first_seq) == (5, 5)
    assert "# entries-in-buffer/entries-written: 16/21   #P:" in trace.text()
    assert "5 overwritten" in repr(trace)


def test_clear_forgets_events_and_counts(engine: Engine, trace: Trace) -> None:
    allocate(engine, *[16] * 20)
    trace.clear()
    assert (len(trace), trace.entries_written, trace.overrun, trace.columns().lost) == (0, 0, 0, 0)
    allocate(engine, 16)
    assert names(trace) == [ALLOC]
    assert trace.columns().first_seq == 21


def test_events_since_a_number(engine: Engine, trace: Trace) -> None:
    allocate(engine, 8, 16, 24)
    assert trace.events(2).size.tolist() == [16, 24]
    assert len(trace.events(99)) == 0


def test_columns_stay_as_they_are(engine: Engine, trace: Trace) -> None:
    allocate(engine, 8)
    columns = trace.columns()
    allocate(engine, *[16] * 40)
    assert columns.size.tolist() == [0, 8]


def test_text_is_a_trace_file_that_reads_back(engine: Engine, trace: Trace) -> None:
    ptrs = allocate(engine, 8, 16, 24)
    engine.free(ptrs[1])
    recorded = read_trace_text(trace.text())
    assert list(recorded) == list(trace)
    assert recorded.text() == trace.text()
    assert recorded.counts is not None
    assert recorded.counts.nr_cpus == engine.geometry.info.nr_cpus


def test_text_without_header_is_what_tail_shows(engine: Engine, trace: Trace) -> None:
    allocate(engine, 8, 16)
    assert trace.text(header=False) == trace.tail(20)
    assert trace.tail(1) == trace.tail(2).splitlines(keepends=True)[1]
    assert trace.tail(0) == ""


def test_tail_of_less_than_nothing_is_refused(trace: Trace) -> None:
    with pytest.raises(RequestError, match="tail"):
        trace.tail(-1)


def test_saved_trace_is_its_text(trace: Trace, tmp_path: Path) -> None:
    assert trace.save(tmp_path / "trace.txt").read_text() == trace.text()
    assert trace.save(str(tmp_path / "golden.txt"), style="golden").read_bytes() == trace.text(style="golden").encode()


def test_frame_has_a_row_an_event(engine: Engine, trace: Trace) -> None:
    pytest.importorskip("pandas")
    allocate(engine, 8)
    assert trace.frame()["event"].tolist() == [CREATE, ALLOC]


# --- hooks ---


class Recorder:
    def __init__(self) -> None:
        self.batches: list[EventBatch] = []

    def __call__(self, batch: EventBatch) -> None:
        self.batches.append(batch)

    @property
    def sizes(self) -> list[list[int]]:
        return [batch.size.tolist() for batch in self.batches]


def test_hook_gets_each_event_once(engine: Engine, trace: Trace) -> None:
    hook = Recorder()
    trace.subscribe(hook)
    for size in (8, 16):
        allocate(engine, size)
        trace.deliver()
    trace.deliver()
    assert hook.sizes == [[8], [16]]


def test_hook_waits_for_a_full_batch_or_a_flush(engine: Engine, trace: Trace) -> None:
    hook = Recorder()
    trace.subscribe(hook, batch=3)
    for size in (8, 16, 24, 32):
        allocate(engine, size)
        trace.deliver()
    assert hook.sizes == [[8, 16, 24]]
    trace.flush()
    trace.flush()
    assert hook.sizes == [[8, 16, 24], [32]]


def test_hook_is_told_what_it_missed(engine: Engine, trace: Trace) -> None:
    hook = Recorder()
    trace.subscribe(hook)
    allocate(engine, *[8] * 20)
    trace.deliver()
    assert [(len(batch), batch.lost) for batch in hook.batches] == [(16, 4)]


def test_clear_gives_hooks_theirs_first(engine: Engine, trace: Trace) -> None:
    hook = Recorder()
    trace.subscribe(hook, batch=100)
    allocate(engine, 8)
    trace.clear()
    assert hook.sizes == [[8]]


def test_hooks_are_known_until_unsubscribed(engine: Engine, trace: Trace) -> None:
    hook = Recorder()
    assert not trace.has_hooks
    subscription = trace.subscribe(hook)
    assert trace.has_hooks
    subscription.unsubscribe()
    subscription.unsubscribe()
    allocate(engine, 8)
    trace.flush()
    assert not trace.has_hooks
    assert hook.batches == []


def test_hook_that_raises_is_dropped_and_the_others_are_served(engine: Engine, trace: Trace) -> None:
    def broken(batch: EventBatch) -> None:
        raise ZeroDivisionError("by design")

    hook = Recorder()
    for each in (broken, hook, broken):
        trace.subscribe(each)
    allocate(engine, 8)
    with pytest.raises(HookError, match=r"broken raised ZeroDivisionError: by design") as caught:
        trace.deliver()
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert len(caught.value.__notes__) == 1
    allocate(engine, 16)
    trace.deliver()
    assert hook.sizes == [[8], [16]]


def test_interrupted_hook_leaves_the_trace_usable(engine: Engine, trace: Trace) -> None:
    def interrupted(batch: EventBatch) -> None:
        raise KeyboardInterrupt

    subscription, hook = trace.subscribe(interrupted), Recorder()
    trace.subscribe(hook)
    allocate(engine, 8)
    with pytest.raises(KeyboardInterrupt):
        trace.deliver()
    subscription.unsubscribe()
    trace.deliver()
    assert hook.sizes == [[8]]


def test_hook_may_allocate(engine: Engine, trace: Trace) -> None:
    seen: list[int] = []

    def allocates(batch: EventBatch) -> None:
        seen.extend(batch.size.tolist())
        if len(seen) < 3:
            allocate(engine, 8 * (len(seen) + 1))
            trace.deliver()

    trace.subscribe(allocates)
    allocate(engine, 8)
    for _ in range(4):
        trace.deliver()
    assert seen == [8, 16, 24]


def test_second_thread_does_not_wait_for_a_hook(engine: Engine, trace: Trace) -> None:
    inside, done = threading.Event(), threading.Event()
    waited: list[bool] = []

    def waits(batch: EventBatch) -> None:
        inside.set()
        waited.append(done.wait(30))

    def second() -> None:
        inside.wait(30)
        with engine.lock:
            allocate(engine, 16)
            trace.deliver()
        done.set()

    trace.subscribe(waits)
    allocate(engine, 8)
    thread = threading.Thread(target=second)
    thread.start()
    trace.deliver()
    thread.join(30)
    assert waited == [True]
    trace.deliver()
    assert len(waited) == 2


@pytest.mark.parametrize(("hook", "batch"), [(None, 1), (print, 0), (print, 1.5), (print, True)])
def test_impossible_subscription_is_refused(trace: Trace, hook: object, batch: object) -> None:
    with pytest.raises(RequestError):
        trace.subscribe(hook, batch=batch)  # type: ignore[arg-type]


# --- in a notebook ---


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.words += data


def test_html_shows_the_last_events_counts_and_filters_escaped(engine: Engine, trace: Trace) -> None:
    trace.set_filter(FREE, "off < 3 && off > 1")
    allocate(engine, *range(8, 8 * 26, 8))
    shown = Tags(trace._repr_html_())
    assert set(shown.tags) <= {"div", "b", "br", "code", "table", "tr", "th", "td"}
    assert shown.tags.count("tr") == 1 + 16
    assert "10 overwritten" in shown.words
    assert "off < 3 && off > 1" in shown.words


def test_repr_is_one_stable_line(engine: Engine, trace: Trace) -> None:
    trace.set_filter(FREE, "off < 3")
    trace.disable(CREATE)
    subscription = trace.subscribe(Recorder(), batch=100)
    assert repr(trace) == "<Trace: 1 event in a ring of 16; 4 of 5 tracepoints on, 1 with a filter>"
    assert repr(subscription) == "<Subscription of Recorder, 100 events at a time>"
    assert not re.search("0x", repr(trace.columns()))


# --- interrupts and errors around hooks ------------------------------------------------------


class InterruptedGate:
    """A lock behind whose giving back an interrupt arrives, once."""

    def __init__(self) -> None:
        self.nr_interrupts = 1

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_error: object) -> None:
        if self.nr_interrupts:
            self.nr_interrupts = 0
            raise KeyboardInterrupt


def test_an_interrupt_just_before_a_delivery_does_not_silence_hooks_for_ever(
    engine: Engine, trace: Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []
    trace.subscribe(seen.extend)
    allocate(engine, 8)
    monkeypatch.setattr(trace, "_gate", InterruptedGate())
    with pytest.raises(KeyboardInterrupt):
        trace.deliver()
    assert seen == []
    trace.deliver()
    assert len(seen) == 1


def test_a_hook_that_another_hook_ends_is_not_told_any_more(engine: Engine, trace: Trace) -> None:
    late: list[object] = []
    trace.subscribe(lambda _batch: subscription.unsubscribe())
    subscription = trace.subscribe(late.append)
    allocate(engine, 8)
    trace.deliver()
    assert late == []


def test_an_error_that_has_no_text_ends_its_hook_alone(engine: Engine, trace: Trace) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    def hook(_batch: EventBatch) -> None:
        raise Mute

    seen: list[object] = []
    trace.subscribe(hook)
    trace.subscribe(seen.append)
    allocate(engine, 8)
    with pytest.raises(HookError, match=r"raised Mute: \(its text cannot be made\)"):
        trace.deliver()
    assert len(seen) == 1
