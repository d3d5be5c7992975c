"""Keep Ctrl-C, or the stop button of a notebook, from cutting an operation in two."""

from __future__ import annotations

# the functions of `signal` wrap these and turn every handler into an enum and back: 10 us a block instead of 1
import _signal as signal
import threading
from types import FrameType, TracebackType


class deferred_interrupt:
    """Hold back an interrupt while the block runs, and deliver it at its end.

    >>> with deferred_interrupt():
    ...     changes = "all or nothing"

    Outside the main thread Python delivers no interrupt, so nothing is done there.
    """

    __slots__ = ("_arrived", "_handler")

    def __enter__(self) -> None:
        self._arrived: FrameType | bool = False
        self._handler = None
        if threading.current_thread() is threading.main_thread():
            handler = signal.getsignal(signal.SIGINT)
            if callable(handler):
                self._handler = handler
                signal.signal(signal.SIGINT, self._note)

    def _note(self, _signum: int, frame: FrameType | None) -> None:
        self._arrived = frame or True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handler is None:
            return
        signal.signal(signal.SIGINT, self._handler)
        if self._arrived:
            self._handler(signal.SIGINT, None)
