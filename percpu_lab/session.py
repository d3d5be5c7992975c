"""The only owner of time: where in the ops we are, how fast we go on, and what is selected."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


class Clock:
    """Real time; tests put a fake one in its place."""

    def now(self) -> float:
        """Seconds from an arbitrary start, never going back."""
        raise NotImplementedError

    def cpu(self) -> float:
        """Seconds of processor time that this thread has used."""
        raise NotImplementedError

    def sleep(self, seconds: float) -> None:
        """Wait."""
        raise NotImplementedError


class Source(Protocol):
    """What a session moves through: a live allocator, or a recording that also has seek, first_op and last_op."""

    @property
    def version(self) -> int: ...
    @property
    def now(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Selection:
    """What the user has picked: a chunk by ordinal (-1 reserved), an area by the op number of its allocation."""

    chunk: int | None = None
    area: int | None = None


class Session:
    """A cursor over ops with play, pause, step and seek, one selection, and a queue for what the browser asks.

    Args:
        source: the allocator or recording.
        step: does up to n next ops of a workload and returns how many it did; without it the source must have seek.
        clock: the time.
    """

    def __init__(self, source: Source, step: Callable[[int], int] | None = None, *, clock: Clock | None = None) -> None:
        raise NotImplementedError

    now: int
    """The op the source stands at."""
    version: int
    """Grows with every change of the source, the cursor or the selection."""
    playing: bool
    pace: float
    """Ops per second."""
    selection: Selection

    def seek(self, op: int) -> None:
        """Go to an op of a recording, clamped to its ends."""

    def step(self, nr_ops: int = 1) -> int:
        """Go on by some ops; returns how many were done."""
        raise NotImplementedError

    def play(self, pace: float | None = None, until: int | None = None) -> None:
        """Go on at a pace in ops per second each time pump is called, until an op, the end, or pause."""

    def pause(self) -> None:
        """Stop playing."""

    def select(self, chunk: int | None = None, area: int | None = None) -> None:
        """Replace the selection and tell the observers."""

    def observe(self, observer: Callable[[Selection], None]) -> Callable[[], None]:
        """Call a function after every change of the selection; returns the function that ends this."""
        raise NotImplementedError

    def post(self, command: str, *args: float | None) -> None:
        """Queue seek, step, play, pause or select from any thread; done at the next pump."""

    def on_post(self, wake: Callable[[], None]) -> None:
        """Call a function after each post, on the thread of the post."""

    def pump(self) -> float | None:
        """The safe point: do what was posted and the ops that are due; returns seconds until the next call, or None."""
        raise NotImplementedError

    def run(self, pace: float | None = None, until: int | None = None) -> int:
        """Play inside a cell until the end, an op, or a pause; returns how many ops were done."""
        raise NotImplementedError
