"""The owner of time: stepping, playing by a clock, commands from the browser, the selection."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from percpu_lab.errors import LabError
from percpu_lab.session import MAX_LAG_SECONDS, Clock, Recording, Selection, Session


class FakeClock(Clock):
    """Time that passes only where somebody sleeps, or where the test says so."""

    def __init__(self):
        self.time = 100.0

    def now(self):
        return self.time

    def cpu(self):
        return self.time

    def sleep(self, seconds):
        self.time += seconds


class Live:
    """A source that can only go on, to an end, and takes time for it."""

    def __init__(self, last=10_000, clock=None, seconds_per_op=0.0):
        self.now = self.version = 0
        self.last = last
        self.clock = clock
        self.seconds_per_op = seconds_per_op

    def step(self, nr_ops):
        nr_ops = min(nr_ops, self.last - self.now)
        self.now += nr_ops
        self.version += nr_ops
        if self.clock is not None:
            self.clock.sleep(nr_ops * self.seconds_per_op)
        return nr_ops


class Recorded:
    first_op, last_op = 5, 50

    def __init__(self):
        self.now = 5
        self.version = 0

    def seek(self, op):
        assert self.first_op <= op <= self.last_op
        self.now = op
        self.version += 1


@pytest.fixture
def clock():
    return FakeClock()


def live_session(clock, last=10_000):
    source = Live(last)
    return Session(source, source.step, clock=clock)


def test_a_live_source_needs_a_step():
    with pytest.raises(LabError, match="needs a step"):
        Session(Live())


def test_a_live_source_cannot_go_back(clock):
    with pytest.raises(LabError, match="cannot go back"):
        live_session(clock).seek(3)


def test_a_recording_is_told_by_its_methods():
    assert isinstance(Recorded(), Recording)
    assert not isinstance(Live(), Recording)


@given(st.integers(-100, 200))
def test_seek_stays_between_the_ends_of_a_recording(op):
    session = Session(Recorded())
    session.seek(op)
    assert session.now == min(max(op, 5), 50)


def test_a_recording_steps_both_ways_and_stops_at_its_ends():
    session = Session(Recorded())
    assert session.step(7) == 7
    assert session.step(-100) == -7
    assert session.step(100) == 45
    assert session.step() == 0


def test_every_change_moves_the_version(clock):
    session = live_session(clock)
    seen = [session.version]
    for change in (session.step, session.play, session.pause, lambda: session.select(chunk=1)):
        change()
        seen.append(session.version)
    assert seen == sorted(set(seen))


def test_play_does_the_ops_of_the_time_that_passed(clock):
    session = live_session(clock)
    session.play(pace=8)
    for seconds, now in [(1 / 16, 0), (1 / 16, 1), (1 / 4, 3), (0, 3), (3 / 16, 4), (1 / 16, 5)]:
        clock.sleep(seconds)
        session.pump()
        assert session.now == now


def test_a_long_pause_of_the_caller_is_not_caught_up_with(clock):
    session = live_session(clock)
    session.play(pace=100)
    clock.sleep(3600)
    session.pump()
    assert session.now == 100 * MAX_LAG_SECONDS


def test_a_slow_source_does_not_keep_a_pump_for_long(clock):
    source = Live(last=10**9, clock=clock, seconds_per_op=1e-4)
    session = Session(source, source.step, clock=clock)
    session.play(pace=1e6)
    clock.sleep(0.2)
    start = clock.now()
    session.pump()
    assert clock.now() - start == pytest.approx(0.05)
    assert session.playing


def test_pump_says_when_the_next_op_is_due(clock):
    session = live_session(clock)
    assert session.pump() is None
    session.play(pace=2)
    clock.sleep(0.1)
    assert session.pump() == pytest.approx(0.4)


def test_playing_stops_at_the_op_asked_for(clock):
    session = live_session(clock)
    assert session.run(pace=1000, until=37) == 37
    assert not session.playing


@pytest.mark.parametrize("until", [0, -3])
def test_playing_to_where_we_are_or_were_does_nothing(clock, until):
    assert live_session(clock).run(until=until) == 0


def test_playing_stops_at_the_end_of_the_source(clock):
    session = live_session(clock, last=123)
    assert session.run(pace=1000) == 123
    assert not session.playing


def test_a_recording_plays_to_its_end(clock):
    session = Session(Recorded(), clock=clock)
    assert session.run(pace=30) == 45
    assert session.now == 50


def test_running_takes_the_time_that_the_pace_says(clock):
    start = clock.now()
    live_session(clock).run(pace=50, until=100)
    assert clock.now() - start == pytest.approx(2.0, abs=0.05)


@pytest.mark.parametrize("pace", [0, -1, float("nan")])
def test_a_pace_is_positive(clock, pace):
    with pytest.raises(LabError, match="not positive"):
        live_session(clock).play(pace=pace)


def test_the_pace_is_kept(clock):
    session = live_session(clock)
    session.play(pace=7)
    session.pause()
    session.play()
    assert session.pace == 7


def test_posted_commands_wait_for_the_pump_and_keep_their_order(clock):
    session = live_session(clock)
    session.post("step", 2)
    session.post("select", 1, 40)
    session.post("play", 10)
    assert (session.now, session.selection, session.playing) == (0, Selection(), False)
    session.pump()
    assert (session.now, session.selection, session.playing) == (2, Selection(1, 40), True)


def test_an_unknown_command_is_refused_where_it_is_posted(clock):
    with pytest.raises(LabError, match="no command '__init__'"):
        live_session(clock).post("__init__")


def test_a_pause_from_another_thread_ends_a_running_cell(clock):
    source = Live()

    def step(nr_ops):
        if session.now == 20:
            thread = threading.Thread(target=session.post, args=("pause",))
            thread.start()
            thread.join()
        return source.step(nr_ops)

    session = Session(source, step, clock=clock)
    session.run(pace=20, until=1000)
    assert 20 < session.now < 30


def test_an_interrupted_run_is_not_playing(clock):
    def interrupted(nr_ops):
        raise KeyboardInterrupt

    session = Session(Live(), interrupted, clock=clock)
    with pytest.raises(KeyboardInterrupt):
        session.run()
    assert not session.playing


def test_each_post_wakes(clock):
    session = live_session(clock)
    woken = []
    session.on_post(lambda: woken.append(1))
    session.post("pause")
    session.post("pause")
    assert woken == [1, 1]


def test_observers_hear_of_a_new_selection_until_they_stop(clock):
    session = live_session(clock)
    heard = []
    stop = session.observe(heard.append)
    session.select(chunk=2)
    session.select(chunk=2)
    session.select(chunk=2, area=7)
    stop()
    stop()
    session.select()
    assert heard == [Selection(2), Selection(2, 7)]


def test_an_observer_that_raises_is_dropped_and_the_others_go_on(clock):
    session = live_session(clock)
    heard = []
    session.observe(lambda selection: 1 / 0)
    session.observe(heard.append)
    with pytest.warns(RuntimeWarning, match="ZeroDivisionError"):
        session.select(chunk=1)
    session.select(chunk=2)
    assert heard == [Selection(1), Selection(2)]
