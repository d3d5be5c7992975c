"""Where one recording ends and another begins, if a file holds two: other boots, other clocks.

    # header          time rises            # header             time 4.1
    ...  time 86.9 ──────────────▶ 91.3     ...  ◀── falls back: what is before belongs together, the rest is another

A kernel sorts by time what it prints, so times fall only by as much as clocks differ while a pipe is read.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..events import Int64s

__all__ = ["OneRecording", "other_boots"]

_FALL_SECONDS = 1  # clocks of CPUs differ by less
_FALL_COUNT = 1000  # the same for times that count something, of which half may be lost
_READ_APART = "read the parts one by one"


class OneRecording:
    """Follows the times of a recording, block by block.

    >>> one = OneRecording()
    >>> one.end(np.array([5000000, 7000000]), np.array([6, 6]), np.array([1, 2]), 0)
    (2, '')
    >>> one.end(np.array([7000001, 100]), np.array([6, 6]), np.array([3, 4]), 0)[0]
    1
    """

    def __init__(self) -> None:
        self.digits: int | None = None  # behind the point of the times
        self._latest = 0

    def end(self, time: Int64s, digits: Int64s, line: Int64s, new_header: int) -> tuple[int, str]:
        """Find the first of the next events that belongs to another recording -> its number, and how it shows.

        Args:
            time, digits, line: of the events that have a time, int64.
            new_header: line of a header after which the time must not fall at all, 0 if there is none.
        """
        if not len(time):
            return 0, ""
        if self.digits is None:
            self.digits, self._latest = int(digits[0]), int(time[0])
        latest = np.maximum.accumulate(np.concatenate([[self._latest], time]))[:-1]
        falls = latest - time > self._allowed(latest, line, new_header)
        self._latest = max(int(latest[-1]), int(time[-1]))
        other = np.flatnonzero((digits != self.digits) | falls)[:1].tolist()
        if not other:
            return len(time), ""
        how = "the time falls back" if falls[other[0]] else "the time is written in another way"
        what = "another recording begins here, of another boot or clock; what stands before it was kept"
        return other[0], f"{how}: {what}; {_READ_APART}"

    def _allowed(self, latest: Int64s, line: Int64s, new_header: int) -> Int64s:
        """By how much each time may be earlier than the latest before."""
        allowed = np.full(len(latest), _FALL_SECONDS * 10**self.digits) if self.digits else latest // 2 + _FALL_COUNT
        if new_header:
            allowed[np.flatnonzero(line > new_header)[:1]] = 0
        return allowed


def other_boots(base_addr: np.ndarray, line: Int64s, header_lines: list[int]) -> Iterator[tuple[int, str]]:
    """Tell two boots by their chunks: the first chunk serves as long as a kernel runs -> lines, and what is odd.

    Args:
        base_addr: of all events, uint64.
        line: of all events, int64.
        header_lines: of the headers that stand behind events.
    """
    for number in header_lines:
        before = base_addr[(line < number) & (base_addr > 0)]
        behind = base_addr[(line > number) & (base_addr > 0)]
        if len(before) and len(behind) and not len(np.intersect1d(before, behind)):
            what = "no chunk before this line has the address of one behind it: another boot begins here"
            yield number, f"{what}; both parts were kept; {_READ_APART}"
