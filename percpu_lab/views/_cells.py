"""What a cell means to figures: they are closed with it, have the collector spared in it, and are flushed at its end.

Widgets live until they are closed. IPython's `Out` keeps them, too, so garbage collection never would: a cell run
twenty times would leave nineteen figures that nobody sees. A figure belongs to each cell that made or showed it:

    cell id -> number of the cell's latest run; figure -> {cell id: run it was made or shown in}

and is closed after a cell if all of its runs are old. Where the front end gives no cell ids nothing is closed.
"""

import threading
import weakref
from typing import Any, Protocol

from ._collector import Collector


class Closable(Protocol):
    """What belongs to cells."""

    def flush(self) -> None:
        """Send the newest state."""

    def close(self) -> None:
        """Free everything; once closed it is forgotten."""


_latest_run: dict[str, str] = {}
_runs: "weakref.WeakKeyDictionary[Closable, dict[str, str]]" = weakref.WeakKeyDictionary()
_hooked: "weakref.WeakSet[Any]" = weakref.WeakSet()
_collector = Collector()
_running = threading.Event()


def is_cell_running() -> bool:
    """Tell whether a cell runs, once figures were made; from any thread."""
    return _running.is_set()


def made_or_shown(figure: Closable) -> None:
    """Note that the running cell, if any, made or showed a figure."""
    _hook_into_ipython()
    runs = _runs.setdefault(figure, {})
    cell = _running_cell()
    if cell is not None:
        cell_id, run = cell
        _latest_run[cell_id] = runs[cell_id] = run


def _hook_into_ipython() -> None:
    shell = _shell()
    if shell is not None and shell not in _hooked:
        _hooked.add(shell)
        shell.events.register("pre_run_cell", _before_cell)
        shell.events.register("post_run_cell", _after_cell)


def _shell() -> Any:
    from IPython.core.getipython import get_ipython  # not needed to import the package

    return get_ipython()


def _running_cell() -> tuple[str, str] | None:
    """Id of the cell that is running, and id of this run of it."""
    parent = _parent()
    cell_id = parent.get("metadata", {}).get("cellId")
    return None if cell_id is None else (str(cell_id), str(parent["header"]["msg_id"]))


def _parent() -> dict[str, Any]:
    """The message that asked the kernel for what it is doing now."""
    get_parent = getattr(_shell(), "get_parent", None)
    parent = get_parent() if get_parent is not None else {}
    return dict(parent) if parent.get("header", {}).get("msg_type") == "execute_request" else {}


def _before_cell(_info: object) -> None:
    _running.set()
    cell = _running_cell()
    if cell is not None:
        _latest_run[cell[0]] = cell[1]
    for deleted in _parent().get("metadata", {}).get("deletedCells", ()):
        _latest_run.pop(deleted, None)
    if _runs:
        _collector.set_aside()


def _after_cell(_result: object) -> None:
    _running.clear()
    _collector.put_back()
    for figure, runs in list(_runs.items()):
        if runs and all(_latest_run.get(cell_id) != run for cell_id, run in runs.items()):
            del _runs[figure]
            figure.close()
        else:
            figure.flush()
