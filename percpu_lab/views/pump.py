"""Work on the kernel's main loop, between two cells: where commands of buttons are done."""

import asyncio
import contextlib
import traceback
from collections.abc import Callable

from .live import warn_anyway


class Pump:
    """Calls a function on the kernel's main loop, that is between two cells: the safe point of a Session.

    `session.on_post(Pump(session.pump).wake)`. Without a loop (plain Python) nothing is called.

    Args:
        call: returns the seconds after which it wants to be called again, None to wait for `wake`.
    """

    def __init__(self, call: Callable[[], float | None]) -> None:
        self._call = call
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        with contextlib.suppress(RuntimeError):
            self._loop = asyncio.get_running_loop()

    def wake(self) -> None:
        """Have the function called soon; from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._run)

    def _run(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        try:
            delay = self._call()
        except Exception as error:
            warn_anyway("".join(traceback.format_exception(error)))
            return
        if delay is not None and self._loop is not None:
            self._timer = self._loop.call_later(delay, self._run)
