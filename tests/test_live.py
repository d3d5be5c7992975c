"""The transport without a browser: what goes over the wire, when, and what becomes of events and figures."""

import asyncio
import gc
import itertools
import json
import threading
import weakref

import comm
import numpy as np
import pytest
from bokeh.layouts import column
from bokeh.models import ColumnDataSource, Range1d
from bokeh.plotting import figure
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from ipywidgets import Button, HBox, IntSlider, VBox, Widget

from percpu_lab.errors import LabError
from percpu_lab.session import Clock
from percpu_lab.views import _cells
from percpu_lab.views._collector import MOST_IMMORTAL
from percpu_lab.views._wire import encode
from percpu_lab.views.live import (
    ACK_TIMEOUT_SECONDS,
    MAX_LAG_SECONDS,
    VISIT_SECONDS,
    Frame,
    LiveFigure,
    Publisher,
    close_tree,
)
from percpu_lab.views.pump import Pump

# ---- columns on the wire


def sent(columns):
    """The columns as live.js rebuilds them."""
    encoded = encode(columns)
    json.dumps(encoded.specs)
    buffers = iter(encoded.buffers)

    def array(spec):
        dtype, shape, *in_runs = spec
        if not in_runs:
            return np.frombuffer(next(buffers), "<" + dtype).reshape(shape)
        row_ends, run_ends = (np.frombuffer(next(buffers), "<u4") for _ in range(2))
        values = np.frombuffer(next(buffers), "<" + dtype)
        assert in_runs == [[len(row_ends), len(values)]]
        rows = np.repeat(values, np.diff(run_ends, prepend=0)).reshape(-1, shape[1])
        return np.repeat(rows, np.diff(row_ends, prepend=0), axis=0)

    kinds = {"array": array, "arrays": lambda specs: [array(spec) for spec in specs], "list": list}
    rebuilt = {name: kinds[kind](spec) for name, kind, spec in encoded.specs}
    assert next(buffers, None) is None
    return rebuilt


BROWSER_TYPES = {"f4", "f8", "i1", "u1", "i2", "u2", "i4", "u4"}
NUMBERS = st.sampled_from(["?", "i1", "u2", "<i4", ">i4", "u4", "f4", ">f8", "f8"])


@given(arrays.arrays(NUMBERS, st.integers(0, 20)))
def test_numbers_arrive_as_they_were(values):
    assert {spec[2][0] for spec in encode({"x": values}).specs} <= BROWSER_TYPES
    np.testing.assert_array_equal(sent({"x": values})["x"], values)


@given(st.lists(st.integers(-(2**53), 2**53)))
def test_wide_integers_arrive_exactly(values):
    assert sent({"x": np.array(values, "i8")})["x"].astype("i8").tolist() == values


def test_wide_integers_travel_narrow_where_they_fit():
    assert encode({"x": np.array([-(2**31), 2**31 - 1])}).specs == [["x", "array", ["i4", [2]]]]
    assert encode({"x": np.array([2**31])}).specs == [["x", "array", ["f8", [1]]]]


def test_a_column_of_nothing_may_be_one_of_colours():
    assert encode({"colour": []}).specs == [["colour", "list", []]]


@pytest.mark.parametrize("value", [np.array([2**53 + 1]), np.array([-(2**60)]), np.array([2**64 - 1], "u8")])
def test_integers_that_the_browser_would_round_are_refused(value):
    with pytest.raises(LabError, match=r"'ptr' holds integers above 2\*\*53.*as text"):
        encode({"ptr": value})


def test_an_image_keeps_its_shape():
    pixels = np.arange(6, dtype="u4").reshape(2, 3)
    (arrived,) = sent({"image": pixels})["image"]
    np.testing.assert_array_equal(arrived, pixels)


PICTURES = arrays.arrays(
    st.sampled_from(["u1", "i1", "?"]),
    st.tuples(st.integers(0, 12), st.integers(0, 40)),
    elements=st.integers(0, 1),
    fill=st.just(0),
)


@given(PICTURES, st.integers(1, 5))
def test_a_picture_of_bytes_arrives_as_it_was(picture, nr_times):
    picture = np.repeat(picture, nr_times, axis=0)
    (arrived,) = sent({"image": picture})["image"]
    np.testing.assert_array_equal(arrived, picture)
    assert sum(map(len, encode({"image": picture}).buffers)) <= picture.size


def test_a_picture_of_long_runs_and_equal_rows_travels_in_few_bytes():
    picture = np.zeros((100, 640), np.uint8)
    picture[40:60, 300:] = 7
    assert sum(map(len, encode({"image": picture}).buffers)) == 3 * 4 + 3 * 5  # rows of three kinds; three runs


def test_several_arrays_make_one_column():
    lines = [np.arange(3.0), np.arange(5.0)]
    assert [line.tolist() for line in sent({"xs": lines})["xs"]] == [[0, 1, 2], [0, 1, 2, 3, 4]]


@pytest.mark.parametrize("values", [["a", "<b>"], [None, "a"], ["a", None], [], [[1, 2], [3]]])
def test_what_is_no_number_travels_as_a_list(values):
    assert list(sent({"x": values})["x"]) == values


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(LabError, match=r"different lengths \{'x': 2, 'y': 1\}"):
        encode({"x": [1, 2], "y": ["a"]})


def test_what_was_sent_does_not_follow_the_array():
    values = np.zeros(3)
    encoded = encode({"x": values})
    values[:] = 1
    assert encoded.buffers == [bytes(24)]


# ---- the figure


@pytest.fixture
def source():
    return ColumnDataSource({"id": [], "x": [], "y": []}, name="points")


@pytest.fixture
def plot(source):
    plot = figure(title="dots", x_range=Range1d(0, 1, name="x"), y_range=Range1d(0, 1), name="plot")
    plot.scatter("x", "y", source=source)
    return plot


@pytest.fixture
def live(plot, monkeypatch):
    live = LiveFigure(plot)
    live.messages = []
    monkeypatch.setattr(live, "send", lambda content, buffers: live.messages.append((content, buffers)))
    yield live
    live.close()


def browser_says(live, **content):
    live._receive(live, content, [])


def points(n):
    return {"id": np.arange(n), "x": np.zeros(n, "f4"), "y": np.ones(n, "f4")}


def test_a_frame_is_one_message(live, plot, source):
    assert live.frame({source: points(3)}, {plot.x_range: {"end": 9}, plot.title: {"text": "now"}}) == 1
    ((content, buffers),) = live.messages
    names = [(source_id, [name for name, *_ in specs]) for source_id, specs in content["sources"]]
    assert names == [(source.id, ["id", "x", "y"])]
    assert content["props"] == {plot.x_range.id: {"end": 9}, plot.title.id: {"text": "now"}}
    assert [len(buffer) for buffer in buffers] == [3 * 12], "each more would take the GIL once more"


def test_a_frame_without_arrays_has_no_buffer(live, plot):
    live.frame({}, {plot.title: {"text": "now"}})
    ((_, buffers),) = live.messages
    assert buffers == []


def test_frames_are_numbered(live, source):
    assert [live.frame({source: points(1)}, seq=seq) for seq in (None, None, 7, None)] == [1, 2, 7, 8]


def test_models_in_python_do_not_change(live, plot, source):
    live.frame({source: points(3)}, {plot.x_range: {"end": 9}})
    assert dict(source.data) == {"id": [], "x": [], "y": []}
    assert plot.x_range.end == 1


def test_a_page_that_says_hello_gets_the_newest_of_everything(live, plot, source):
    live.frame({source: points(3)}, {plot.x_range: {"start": 1, "end": 2}})
    live.frame({source: points(5)}, {plot.x_range: {"end": 3}})
    live.messages.clear()
    browser_says(live, type="hello")
    ((content, buffers),) = live.messages
    assert content["props"] == {plot.x_range.id: {"start": 1, "end": 3}}
    assert [len(buffer) for buffer in buffers] == [3 * 20]


def test_nothing_is_sent_again_before_the_first_frame(live):
    browser_says(live, type="hello")
    assert live.messages == []


@pytest.fixture
def practising(plot, source, monkeypatch):
    """A figure whose owner has two frames to practise on."""
    frames = [Frame({source: points(n)}, {plot.title: {"text": f"{n}"}}) for n in (3, 5)]
    live = LiveFigure(plot, practice=lambda: iter(frames))
    live.messages = []
    monkeypatch.setattr(live, "send", lambda content, buffers: live.messages.append((content, buffers)))
    yield live
    live.close()


def test_a_page_that_asks_for_practice_gets_a_message_a_frame(practising, plot, source):
    browser_says(practising, type="practise")
    kinds = [(content["type"], content["props"], len(buffers[0])) for content, buffers in practising.messages]
    assert kinds == [("practice", {plot.title.id: {"text": f"{n}"}}, n * 12) for n in (3, 5)]


def test_practice_is_no_state(practising, source):
    browser_says(practising, type="practise")
    practising.messages.clear()
    browser_says(practising, type="hello")
    assert practising.messages == []
    assert practising.frame({source: points(1)}) == 1


def test_nobody_makes_practice_while_a_cell_runs(practising, shell):
    shell.run("first", "run 1", lambda: _cells.made_or_shown(practising))  # hooks in
    shell.run("second", "run 2", lambda: browser_says(practising, type="practise"))
    assert practising.messages == []
    browser_says(practising, type="practise")
    assert len(practising.messages) == 2


def test_a_figure_without_practice_has_none_to_send(live):
    assert live._practises is False
    browser_says(live, type="practise")
    assert live.messages == []


def test_a_model_of_another_figure_is_refused(live):
    with pytest.raises(LabError, match=r"not part of LiveFigure\('dots'\)"):
        live.frame({ColumnDataSource(): {}})


def test_events_wait_to_be_drained(live, plot, source):
    browser_says(
        live,
        type="events",
        events=[
            {"kind": "select", "model": source.id, "indices": [0, 2], "ids": [10, 12]},
            {"kind": "range", "model": plot.x_range.id, "start": 1, "end": 2.5},
            {"kind": "tap", "model": plot.id, "x": 3, "y": 4},
        ],
    )
    select, moved, tap = live.drain()
    assert (select.kind, select.model, select.ids, select.indices) == ("select", source, (10, 12), (0, 2))
    assert (moved.kind, moved.model, moved.start, moved.end) == ("range", plot.x_range, 1.0, 2.5)
    assert (tap.kind, tap.model, tap.ids, tap.x, tap.y) == ("tap", plot, (), 3.0, 4.0)
    assert live.drain() == []
    assert live.nr_events == 3


def test_events_that_are_not_on_the_list_are_dropped(live, source):
    strange = [{"kind": "evaluate", "model": source.id}, {"kind": "tap", "model": "p0"}]
    browser_says(live, type="events", events=strange)
    assert live.drain() == []


def test_an_owner_that_never_drains_costs_a_bounded_amount(live, plot):
    for x in range(3000):
        browser_says(live, type="events", events=[{"kind": "tap", "model": plot.id, "x": x, "y": 0}])
    assert [event.x for event in live.drain()] == list(range(2000, 3000))


def test_acks_never_go_back(live):
    assert live.acked == -1
    for seq in (3, 5, 4):
        browser_says(live, type="ack", seq=seq)
    assert live.acked == 5


def test_the_name_of_a_figure_is_its_title(live, plot):
    assert repr(live) == "LiveFigure('dots')"
    assert repr(LiveFigure(column(figure(title="first"), figure(title="second")))) == "LiveFigure('first')"


def test_places_without_widgets_get_text_and_a_note(plot):
    live = LiveFigure(plot, note="<b>snapshot()</b> stays")
    data, _ = live._repr_mimebundle_()
    assert data["text/plain"] == "LiveFigure('dots')"
    assert "run this cell" in data["text/html"]
    assert "&lt;b&gt;snapshot()" in data["text/html"]
    assert data["text/html"] == live._repr_mimebundle_()[0]["text/html"]
    live.close()


def test_closing_leaves_no_comm_and_no_publisher(plot):
    LiveFigure(plot).close()  # BokehJS has its comm from here on
    comms = set(comm.get_comm_manager().comms)
    live = LiveFigure(plot)
    publisher = Publisher(live, lambda: None, version=lambda: 0, start=False)
    live.close()
    live.close()
    assert live.closed
    assert set(comm.get_comm_manager().comms) == comms
    assert publisher.poll() is None


def test_a_closed_figure_is_garbage(plot):
    live = LiveFigure(plot)
    live.close()
    gone = weakref.ref(live)
    del live
    gc.collect()
    assert gone() is None


def test_a_closed_figure_that_is_kept_keeps_no_models(plot):
    live, gone = LiveFigure(plot), weakref.ref(plot.renderers[0])
    live.frame({plot.renderers[0].data_source: {"x": [0], "y": [0]}})
    live.close()
    plot.renderers = []
    gc.collect()
    assert gone() is None
    assert (live._root, live._newest, live._props) == ("", {}, {})


def test_a_closed_figure_takes_no_frame_and_hears_of_nothing(plot):
    live = LiveFigure(plot)
    source = plot.renderers[0].data_source
    live.frame({source: {"x": [0], "y": [0]}})
    live.close()
    assert live.frame({source: {"x": [1], "y": [1]}}) == 1
    live._receive(live, {"type": "events", "events": [{"kind": "tap", "model": plot.id}]}, None)
    assert live.drain() == []


def test_bokehjs_is_held_once_for_all_figures(plot):
    first, second = LiveFigure(plot), LiveFigure(figure())
    assert first._scripts == second._scripts
    assert [name for name, _ in first._scripts] == ["bokeh.min.js"]
    first.close()
    second.close()


def test_bokehjs_is_no_state_that_a_notebook_file_would_keep(plot):
    ((_, reference),) = LiveFigure(plot)._scripts
    state = Widget.get_manager_state()["state"][reference.removeprefix("anywidget:")]
    assert len(json.dumps(state)) < 5000


def test_bokehjs_is_held_again_after_all_widgets_were_closed(plot):
    LiveFigure(plot)
    Widget.close_all()
    ((_, reference),) = LiveFigure(plot)._scripts
    assert reference.removeprefix("anywidget:") in comm.get_comm_manager().comms


def test_what_is_around_a_figure_is_closed_with_it(plot):
    LiveFigure(plot).close()
    comms = set(comm.get_comm_manager().comms)
    live = LiveFigure(plot)
    box = VBox([IntSlider(), HBox([Button(), live])])
    live.on_close(lambda: close_tree(box))
    live.close()
    assert set(comm.get_comm_manager().comms) == comms


def test_a_closed_figure_stays_in_no_open_box(plot):
    closed, kept, button = LiveFigure(plot), LiveFigure(figure()), Button()
    inner = HBox([closed, kept])
    outer, other = VBox([inner, button, closed]), HBox([kept])
    closed.close()
    assert (inner.children, outer.children, other.children) == ((kept,), (inner, button), (kept,))
    for widget in (kept, outer, other):
        close_tree(widget)


# ---- the publisher


class FakeClock(Clock):
    def __init__(self):
        self.time = self.cpu_time = 0.0

    def now(self):
        return self.time

    def cpu(self):
        return self.cpu_time


class FakeFigure:
    """Takes frames; acks them when the test says so."""

    def __init__(self):
        self.frames = []
        self.errors = []
        self.acked = -1
        self.nr_events = 0
        self.closed = False

    def frame(self, sources, props):
        self.frames.append(props)
        return len(self.frames)

    def show_error(self, text):
        self.errors.append(text)

    def attach(self, publisher):
        self.publisher = publisher


class Bench:
    """A publisher over a counter, with a clock that stands still."""

    def __init__(self, cost=0.0, **options):
        self.version = 0
        self.cost = cost
        self.sent_at = []
        self.clock = FakeClock()
        self.figure = FakeFigure()
        self.publisher = Publisher(
            self.figure, self.produce, version=lambda: self.version, clock=self.clock, start=False, **options
        )

    def produce(self):
        self.clock.cpu_time += self.cost
        self.sent_at.append(self.clock.time)
        return Frame({}, {"now": self.version})

    @property
    def shown(self):
        return [props["now"] for props in self.figure.frames]

    def run(self, seconds, *, busy=True, acks=False):
        """Poll as the thread would, while the version moves all the time."""
        end = self.clock.time + seconds
        while self.clock.time < end:
            self.version += busy
            delay = self.publisher.poll()
            if acks:
                self.figure.acked = len(self.figure.frames)
            self.clock.time += max(delay, 1e-3)


def test_the_first_state_is_sent_at_once():
    bench = Bench()
    bench.publisher.poll()
    assert bench.shown == [0]


def test_nothing_is_built_while_nothing_changes():
    bench = Bench()
    bench.run(5, busy=False)
    assert bench.shown == [0]


def test_the_newest_state_wins():
    bench = Bench()
    bench.publisher.poll()
    bench.version = 1
    bench.publisher.poll()
    bench.version = 2
    bench.clock.time += 1
    bench.publisher.poll()
    assert bench.shown == [0, 2]


@pytest.mark.parametrize("acks", [True, False])
def test_cheap_frames_come_at_the_interval(acks):
    bench = Bench(interval=0.1)
    bench.run(10, acks=acks)
    assert len(bench.shown) == pytest.approx(100, abs=10)


@pytest.mark.parametrize(("cost", "rate"), [(0.001, 11), (0.010, 11), (0.020, 8.3), (0.5, 1)])
def test_costly_frames_come_less_often(cost, rate):
    bench = Bench(cost=cost)
    bench.run(20)
    assert len(bench.shown) / 20 == pytest.approx(rate, rel=0.15)


def test_the_last_state_is_sent_though_nothing_more_happens():
    bench = Bench(cost=0.010)
    bench.run(1)
    bench.run(0.2, busy=False)
    assert bench.shown[-1] == bench.version


def test_a_browser_that_lags_is_given_time_until_it_acks():
    bench = Bench()
    bench.run(1, acks=True)
    bench.run(MAX_LAG_SECONDS + 0.1)
    before = len(bench.shown)
    bench.run(0.2)
    assert len(bench.shown) == before
    bench.figure.acked = len(bench.figure.frames)
    bench.run(0.1)
    assert len(bench.shown) > before


def test_acks_that_come_twice_a_second_hold_nothing_up():
    bench = Bench(interval=0.1)
    before = 0
    for _ in range(20):
        bench.run(0.5)
        bench.figure.acked, before = before, len(bench.figure.frames)
    assert len(bench.shown) == pytest.approx(bench.clock.time / 0.1, rel=0.1)


def test_acks_that_stop_coming_are_not_waited_for():
    bench = Bench()
    bench.run(1, acks=True)
    bench.run(MAX_LAG_SECONDS + ACK_TIMEOUT_SECONDS + 0.2)
    before = len(bench.shown)
    bench.run(1)
    assert len(bench.shown) - before == pytest.approx(11, abs=3)


def test_flush_sends_now_whatever_the_throttle_says():
    bench = Bench(cost=0.1)
    for version in range(4):
        bench.version = version
        bench.publisher.flush()
    bench.publisher.flush()
    assert bench.shown == [0, 1, 2, 3]


def test_flush_while_a_frame_is_built_does_not_block_and_is_made_up_for():
    bench = Bench()
    bench.produce = None

    def produce():
        if bench.version == 0:
            bench.version = 1
            bench.publisher.flush()
        return Frame({}, {"now": bench.version})

    bench.publisher = Publisher(bench.figure, produce, version=lambda: bench.version, clock=bench.clock, start=False)
    bench.publisher.poll()
    bench.version = 2
    bench.publisher.flush()
    assert bench.shown == [1, 2]


def test_an_event_of_the_user_asks_for_a_frame():
    bench = Bench()
    bench.publisher.poll()
    bench.figure.nr_events += 1
    bench.clock.time += 1
    bench.publisher.poll()
    assert bench.shown == [0, 0]


def visited_bench():
    """A bench whose state changes on a thread that can be visited; its first frame is out, the next one due."""
    visitors = []
    bench = Bench(visit=visitors.append)
    bench.publisher.poll()
    bench.version += 1
    bench.clock.time += 1
    return bench, visitors


def test_a_due_frame_is_left_to_the_thread_that_changes_the_state():
    bench, visitors = visited_bench()
    assert bench.publisher.poll() == VISIT_SECONDS
    assert bench.shown == [0]
    visitors.pop()()
    assert bench.shown == [0, 1]
    bench.publisher.poll()
    assert (bench.shown, visitors) == ([0, 1], [])


def test_a_frame_that_nobody_comes_by_for_is_made_by_the_asking_thread():
    bench, visitors = visited_bench()
    bench.clock.time += bench.publisher.poll()
    bench.publisher.poll()
    assert bench.shown == [0, 1]
    bench.version += 1
    visitors.pop()()  # too late: that frame is out
    assert bench.shown == [0, 1]


@pytest.mark.parametrize(("cost", "rate"), [(0.0, 10), (0.010, 10), (0.020, 6.7)])
def test_a_frame_that_comes_late_is_made_up_for_as_far_as_its_cost_allows(cost, rate):
    visitors = []
    bench = Bench(cost=cost, interval=0.1, visit=visitors.append)
    late = itertools.cycle([0.01, 0.01, 0.09])
    while bench.clock.time < 20:
        bench.version += 1
        bench.clock.time += bench.publisher.poll() if not visitors else next(late)
        if visitors:
            visitors.pop()()
    assert len(bench.shown) / 20 == pytest.approx(rate, rel=0.05)


def test_a_stop_is_made_up_for_by_at_most_two_frames():
    bench = Bench(interval=0.1, cost=0.005)
    bench.run(1)
    nr_before = len(bench.shown)
    bench.version += 1
    bench.clock.time += 1
    stopped_until = bench.clock.time
    bench.run(1)
    gaps = [after - before for before, after in itertools.pairwise(bench.sent_at[nr_before:])]
    assert bench.sent_at[nr_before] == stopped_until
    assert len(gaps) == pytest.approx(10 + 2, abs=1)
    assert min(gaps) == pytest.approx(6 * 0.005), "no sooner than the cost allows"
    assert gaps[-1] == pytest.approx(0.1)


def test_a_pause_in_which_nothing_changed_is_not_made_up_for():
    bench = Bench(interval=0.1)
    bench.run(5, busy=False)
    bench.run(1)
    assert bench.sent_at[0] == 0 and bench.sent_at[1] >= 5
    assert bench.sent_at[2] - bench.sent_at[1] == pytest.approx(0.1)


def test_what_the_user_did_is_not_left_to_a_thread_that_may_never_come():
    bench, visitors = visited_bench()
    bench.version -= 1
    bench.figure.nr_events += 1
    bench.publisher.poll()
    assert (bench.shown, visitors) == ([0, 0], [])


def test_nobody_draws_for_a_figure_that_was_closed_meanwhile():
    bench, visitors = visited_bench()
    bench.publisher.poll()
    bench.figure.closed = True
    visitors.pop()()
    assert bench.shown == [0]


def test_a_producer_with_nothing_to_send_sends_nothing():
    figure = FakeFigure()
    publisher = Publisher(figure, lambda: None, version=lambda: 0, clock=FakeClock(), start=False)
    publisher.poll()
    assert figure.frames == []


def test_an_error_is_kept_shown_and_warned_of_once():
    bench = Bench()

    def produce():
        if bench.version < 3:
            raise ValueError("no such chunk")
        return Frame({}, {"now": bench.version})

    publisher = Publisher(bench.figure, produce, version=lambda: bench.version, clock=bench.clock, start=False)
    bench.version = 1
    with pytest.warns(RuntimeWarning, match="no such chunk"):
        publisher.flush()
    bench.version = 2
    publisher.flush()  # warnings are errors here
    assert isinstance(publisher.error, ValueError)
    assert "no such chunk" in bench.figure.errors[0]
    bench.version = 3
    publisher.flush()
    assert publisher.error is None
    assert bench.figure.errors[1:] == [""]
    assert bench.shown == [3]


def test_the_thread_sends_and_ends_with_the_figure():
    figure = FakeFigure()
    sent = threading.Event()
    figure.frame = lambda sources, props: sent.set() or 1
    Publisher(figure, lambda: Frame({}), version=lambda: 0)
    (thread,) = [thread for thread in threading.enumerate() if thread.name == f"publisher of {figure!r}"]
    assert sent.wait(10)
    figure.closed = True
    thread.join(10)
    assert not thread.is_alive()


def test_the_thread_ends_when_figure_and_publisher_are_garbage():
    figure = FakeFigure()
    Publisher(figure, lambda: None, version=lambda: 0)
    (thread,) = [thread for thread in threading.enumerate() if thread.name == f"publisher of {figure!r}"]
    del figure
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


def test_a_figure_keeps_one_publisher(live):
    first = Publisher(live, lambda: None, version=lambda: 0, start=False)
    second = Publisher(live, lambda: None, version=lambda: 0, start=False)
    assert first.poll() is None
    assert second.poll() is not None


# ---- the kernel's main loop


def in_loop(coroutine):
    """Run a coroutine on a thread of its own: the browser tests leave a loop in this one."""
    result = []
    thread = threading.Thread(target=lambda: result.append(asyncio.run(coroutine)))
    thread.start()
    thread.join(30)
    return result[0]


def test_the_pump_calls_on_the_loop_until_nothing_is_due():
    async def main():
        loop_thread = threading.current_thread()
        calls = []
        done = asyncio.Event()

        def call():
            calls.append(threading.current_thread() is loop_thread)
            if len(calls) == 3:
                done.set()
                return None
            return 0.001

        waker = threading.Thread(target=Pump(call).wake)
        waker.start()
        await asyncio.wait_for(done.wait(), 10)
        waker.join()
        return calls

    assert in_loop(main()) == [True, True, True]


def test_the_pump_warns_of_an_error_and_goes_on_at_the_next_wake():
    async def main():
        calls = []

        def call():
            calls.append(1)
            if len(calls) == 1:
                raise ValueError("no such op")

        pump = Pump(call)
        with pytest.warns(RuntimeWarning, match="no such op"):
            pump._run()
        pump._run()
        return len(calls)

    assert in_loop(main()) == 2


# ---- figures and cells


class FakeShell:
    def __init__(self):
        self.callbacks = {}
        self.parent = {}
        self.events = self

    def register(self, name, callback):
        self.callbacks[name] = callback

    def get_parent(self):
        return self.parent

    def run(self, cell_id, execution, body=lambda: None, deleted=()):
        metadata = {"cellId": cell_id, "deletedCells": list(deleted)}
        self.parent = {"header": {"msg_type": "execute_request", "msg_id": execution}, "metadata": metadata}
        self.callbacks.get("pre_run_cell", lambda info: None)(None)
        body()
        self.callbacks.get("post_run_cell", lambda result: None)(None)


class FakeWidget:
    closed = False
    nr_flushes = 0

    def __init__(self):
        _cells.made_or_shown(self)

    def show(self):
        _cells.made_or_shown(self)

    def flush(self):
        self.nr_flushes += 1

    def close(self):
        self.closed = True


@pytest.fixture
def shell(monkeypatch):
    shell = FakeShell()
    monkeypatch.setattr(_cells, "_shell", lambda: shell)
    monkeypatch.setattr(_cells, "_runs", weakref.WeakKeyDictionary())
    monkeypatch.setattr(_cells, "_latest_run", {})
    return shell


@pytest.fixture
def made(shell):
    """Figures made so far; calling make adds one."""
    figures = []
    shell.run("first", "run 1", lambda: figures.append(FakeWidget()))
    return figures


def test_a_figure_is_closed_when_its_cell_has_run_again(shell, made):
    shell.run("first", "run 2", lambda: made.append(FakeWidget()))
    assert [figure.closed for figure in made] == [True, False]


def test_a_figure_stays_while_another_cell_shows_it(shell, made):
    shell.run("second", "run 2", made[0].show)
    shell.run("first", "run 3")
    assert not made[0].closed
    shell.run("second", "run 4")
    assert made[0].closed


def test_a_figure_that_its_cell_shows_again_stays(shell, made):
    shell.run("first", "run 2", made[0].show)
    assert not made[0].closed


def test_a_figure_is_closed_when_its_cell_was_deleted(shell, made):
    shell.run("second", "run 2", deleted=["first"])
    assert made[0].closed


def test_a_figure_is_flushed_after_each_cell(shell, made):
    assert made[0].nr_flushes == 1
    shell.run("second", "run 2")
    assert made[0].nr_flushes == 2


class Knot:
    """What only the garbage collector frees."""

    def __init__(self):
        self.me = self


@pytest.fixture
def frozen():
    """How many objects stood aside at each look; all is put back at the end."""
    gc.unfreeze()  # what Python 3.12 sets aside at each collection: its own objects, which never die
    yield gc.get_freeze_count
    _cells._collector.put_back()
    assert gc.get_freeze_count() <= MOST_IMMORTAL


def test_full_collections_leave_out_what_was_there_before_the_cell_while_a_figure_is_open(shell, made, frozen):
    old = weakref.ref(Knot())  # a knot that is garbage already
    gc.disable()
    seen = []

    def cell():
        before, young = frozen(), weakref.ref(Knot())
        gc.enable()
        rows = [[number] for number in range(400_000)]  # brings about full collections
        seen.extend([before > 10_000, young() is None, old() is not None, len(rows)])

    try:
        shell.run("second", "run 2", cell)
    finally:
        gc.enable()
    assert seen == [True, True, True, 400_000]
    assert frozen() == 0
    gc.collect()
    assert old() is None


def test_a_collection_that_a_cell_asks_for_goes_through_everything(shell, made, frozen):
    old = weakref.ref(Knot())
    seen = []
    shell.run("second", "run 2", lambda: seen.extend([gc.collect() > 0, old() is None, frozen() > 10_000]))
    assert seen == [True, True, True]


def test_the_collector_is_as_it_was_after_a_cell_and_without_figures(shell, frozen):
    collect, seen = gc.collect, []
    shell.run("first", "run 1", lambda: seen.append(FakeWidget()))
    shell.run("second", "run 2", lambda: seen.append(gc.collect is collect))
    assert gc.collect is collect
    shell.run("third", "run 3", deleted=["first"])
    seen[0] = None
    shell.run("fourth", "run 4", lambda: seen.append(frozen()))
    assert seen[1:] == [False, 0]


def test_objects_that_python_itself_sets_aside_are_nobodys(shell, made, monkeypatch):
    collect, seen = gc.collect, []
    monkeypatch.setattr(gc, "get_freeze_count", lambda: 375)  # of Python 3.12.1
    shell.run("second", "run 2", lambda: seen.append(gc.collect is collect))
    assert seen == [False]
    assert gc.collect is collect


def test_objects_that_somebody_else_has_frozen_stay_frozen(shell, made, frozen):
    gc.freeze()
    try:
        shell.run("second", "run 2")
        assert frozen() > 10_000
    finally:
        gc.unfreeze()


def test_nothing_is_closed_where_cells_have_no_ids(shell):
    figures = []
    shell.run(None, "run 1", lambda: figures.append(FakeWidget()))
    shell.run(None, "run 2")
    assert not figures[0].closed
