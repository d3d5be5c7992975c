"""The only owner of time: where in the ops we are, how fast we go on, and what is selected.

What a user does in the browser arrives by `post` from any thread, and is done at the next `pump`, the safe point:

    post("step", 1) -> queue -> pump() -> source.step, source.seek      on the thread that owns the allocator
"""

import time
import warnings
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from .errors import HookError, LabError

MAX_LAG_SECONDS = 0.25  # a pause of the caller longer than this is not caught up with: the ops would come in a burst
PUMP_BUDGET_SECONDS = 0.05  # a pump goes no further in ops than this, so that the kernel keeps answering
PUMP_INTERVAL_SECONDS = 1 / 60  # no screen shows more
OPS_PER_LOOK = 500  # between two looks at the clock
DEFAULT_PACE = 20.0  # ops per second: slow enough to follow each


class Clock:
    """Real time; tests put a fake one in its place.

    >>> clock = Clock()
    >>> clock.now() <= clock.now()
    True
    """

    def now(self) -> float:
        """Seconds from an arbitrary start, never going back."""
        return time.monotonic()

    def cpu(self) -> float:
        """Seconds of processor time that this thread has used."""
        return time.thread_time()

    def sleep(self, seconds: float) -> None:
        """Wait for some seconds."""
        time.sleep(seconds)


class Source(Protocol):
    """What a session moves through: a live allocator, or a Recording."""

    @property
    def version(self) -> int:
        """Grows with every change."""

    @property
    def now(self) -> int:
        """Number of ops done."""


@runtime_checkable
class Recording(Source, Protocol):
    """A source that can go to any of its ops."""

    @property
    def first_op(self) -> int:
        """The smallest value of now."""

    @property
    def last_op(self) -> int:
        """The largest value of now."""

    def seek(self, op: int) -> None:
        """Make `now` an op between the ends."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What the user has picked.

    Args:
        chunk: ordinal of a chunk, -1 for the reserved one.
        area: op number of the area's allocation.
    """

    chunk: int | None = None
    area: int | None = None


class Session:
    """A cursor over ops with play, pause, step and seek, one selection, and a queue for what the browser asks.

    >>> class Counter:
    ...     version = now = 0
    ...     def step(self, nr_ops):
    ...         self.version = self.now = self.now + nr_ops
    ...         return nr_ops
    >>> counter = Counter()
    >>> session = Session(counter, counter.step)
    >>> session.post("step", 3)
    >>> session.now, session.pump(), session.now
    (0, None, 3)

    Args:
        source: the allocator or recording.
        step: does up to n next ops of a workload and returns how many it did; a Recording needs none.
        clock: the time.

    Raises:
        LabError: neither step nor a Recording.
    """

    def __init__(self, source: Source, step: Callable[[int], int] | None = None, *, clock: Clock | None = None) -> None:
        self._source = source
        self._recording = source if isinstance(source, Recording) else None
        if step is None and self._recording is None:
            raise LabError("a live source needs a step", where="Session", remedy="pass step=workload.step")
        self._step = step or self._step_recording
        self._clock = clock or Clock()
        self._commands: deque[tuple[str, tuple[float | None, ...]]] = deque()
        self._wakers: list[Callable[[], None]] = []
        self._observers: list[Callable[[Selection], None]] = []
        self._selection = Selection()
        self._moves = 0
        self._pace = DEFAULT_PACE
        self._playing = False
        self._until: int | None = None
        self._pumped_at = 0.0
        self._owed_ops = 0.0

    @property
    def now(self) -> int:
        """The op the source stands at."""
        return self._source.now

    @property
    def version(self) -> int:
        """Grows with every change of the source, the cursor or the selection."""
        return self._source.version + self._moves

    @property
    def playing(self) -> bool:
        """Whether pump goes on by itself."""
        return self._playing

    @property
    def pace(self) -> float:
        """Ops per second."""
        return self._pace

    @property
    def selection(self) -> Selection:
        """What the user has picked."""
        return self._selection

    def seek(self, op: int) -> None:
        """Go to an op of a recording, clamped to its ends.

        Raises:
            LabError: the source is a live allocator.
        """
        recording = self._recording
        if recording is None:
            raise LabError("a live allocator cannot go back", where=f"seek({op})", remedy="seek in a recorded trace")
        recording.seek(min(max(int(op), recording.first_op), recording.last_op))
        self._moves += 1

    def step(self, nr_ops: int = 1) -> int:
        """Go on by some ops (back by negative ones in a recording); returns how many were done."""
        nr_done = self._step(int(nr_ops))
        self._moves += 1
        return nr_done

    def play(self, pace: float | None = None, until: int | None = None) -> None:
        """Go on each time pump is called, until an op, the end of the source, or a pause.

        Args:
            pace: ops per second; the last one if left out.
            until: op to stop at.

        Raises:
            LabError: the pace is not positive.
        """
        if pace is not None and not pace > 0:
            raise LabError(f"pace {pace} is not positive", where="play", remedy="say how many ops a second")
        self._pace = self._pace if pace is None else float(pace)
        self._until = None if until is None else int(until)
        self._playing = True
        self._owed_ops = 0.0
        self._pumped_at = self._clock.now()
        self._moves += 1

    def pause(self) -> None:
        """Stop playing."""
        self._playing = False
        self._moves += 1

    def select(self, chunk: int | None = None, area: int | None = None) -> None:
        """Replace the selection and tell the observers; one that raises is dropped with a warning."""
        selection = Selection(chunk, area)
        if selection == self._selection:
            return
        self._selection = selection
        self._moves += 1
        for observer in tuple(self._observers):
            self._tell(observer, selection)

    def _tell(self, observer: Callable[[Selection], None], selection: Selection) -> None:
        try:
            observer(selection)
        except Exception as error:
            self._observers.remove(observer)
            what = f"{type(error).__name__}: {error}; the observer was removed"
            warnings.warn(str(HookError(what, where="select")), RuntimeWarning, stacklevel=4)

    def observe(self, observer: Callable[[Selection], None]) -> Callable[[], None]:
        """Call a function after every change of the selection; returns the function that ends this."""
        self._observers.append(observer)

        def stop() -> None:
            if observer in self._observers:
                self._observers.remove(observer)

        return stop

    def post(self, command: str, *args: float | None) -> None:
        """Queue a command from any thread; it is done at the next pump.

        Args:
            command: seek, step, play, pause or select.
            args: those of the method of that name.

        Raises:
            LabError: no such command.
        """
        if command not in _COMMANDS:
            raise LabError(f"no command {command!r}", where="post", remedy=f"one of {', '.join(_COMMANDS)}")
        self._commands.append((command, args))
        for wake in tuple(self._wakers):
            wake()

    def on_post(self, wake: Callable[[], None]) -> None:
        """Call a function after each post, on the thread of the post, to get pump called."""
        self._wakers.append(wake)

    def pump(self) -> float | None:
        """Do what was posted and the ops that are due: the safe point.

        Returns:
            Seconds after which to call again, None if nothing will be due before the next post.
        """
        while self._commands:
            command, args = self._commands.popleft()
            getattr(self, command)(*args)
        if not self._playing:
            return None
        self._do_due_ops()
        if not self._playing:
            return None
        return max((1 - self._owed_ops) / self._pace, PUMP_INTERVAL_SECONDS)

    def run(self, pace: float | None = None, until: int | None = None) -> int:
        """Play inside a cell until the end, an op, or a pause.

        Returns:
            Number of ops done.
        """
        start = self.now
        self.play(pace, until)
        try:
            while (delay := self.pump()) is not None:
                self._clock.sleep(min(delay, PUMP_BUDGET_SECONDS))  # short, so that a pause is soon obeyed
        finally:
            self._playing = False  # also after the interrupt key
        return self.now - start

    def _do_due_ops(self) -> None:
        now = self._clock.now()
        self._owed_ops += min(now - self._pumped_at, MAX_LAG_SECONDS) * self._pace
        self._pumped_at = now
        nr_due = int(self._owed_ops)
        self._owed_ops -= nr_due
        if self._until is not None:
            nr_due = min(nr_due, self._until - self.now)
        if not self._do_ops(nr_due, now + PUMP_BUDGET_SECONDS) or self.now == self._until:
            self.pause()

    def _do_ops(self, nr_ops: int, deadline: float) -> bool:
        """Do ops until the deadline, dropping the rest; False at the end of the source."""
        while nr_ops > 0:
            nr_asked = min(nr_ops, OPS_PER_LOOK)
            if self.step(nr_asked) < nr_asked:
                return False
            nr_ops -= nr_asked
            if self._clock.now() >= deadline:
                break
        return nr_ops >= 0

    def _step_recording(self, nr_ops: int) -> int:
        start = self.now
        self.seek(start + nr_ops)
        return self.now - start


_COMMANDS = ("seek", "step", "play", "pause", "select")
