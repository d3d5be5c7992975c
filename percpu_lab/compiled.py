"""The compiled core, fetched beside the work: nobody waits for a compiler who did not ask to.

    off   plain Python only
    auto  begin with the plain functions, compile in a thread, change over between two ops
    wait  compile, or load from the cache, before the first op

The environment variable PERCPU_LAB_JIT sets the policy for a process.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import threading
from types import ModuleType

from .errors import LabError

POLICIES = ("auto", "off", "wait")
_log = logging.getLogger("percpu_lab")
_lock = threading.Lock()
_jobs: dict[str, _Job] = {}
_EXERCISED_BY = dict.fromkeys(("replay_areamap", "replay_bitmap"), "percpu_lab.review.machine")  # no engines


class _Job:
    """One engine being compiled in a thread."""

    def __init__(self, engine_name: str) -> None:
        self.module: ModuleType | None = None
        self.done = threading.Event()
        self._engine_name = engine_name
        threading.Thread(target=self._run, name=f"percpu_lab compile {engine_name}", daemon=True).start()

    def _run(self) -> None:
        try:
            module = importlib.import_module(f"percpu_lab.core_compiled.{self._engine_name}")
            importlib.import_module(_EXERCISED_BY.get(self._engine_name, "percpu_lab.engine")).exercise(module)
            self.module = module
        except Exception:
            # the plain functions go on serving: slower, with the same results
            _log.warning("the compiled core is not available; running plain Python", exc_info=True)
        finally:
            self.done.set()


def policy(choice: object = None) -> str:
    """Settle how to run: the given choice, or that of PERCPU_LAB_JIT, or auto; off where numba is missing.

    >>> policy("off")
    'off'

    Raises:
        LabError: the choice is none of POLICIES.
    """
    if choice is None:
        choice = os.environ.get("PERCPU_LAB_JIT") or "auto"
    if not isinstance(choice, str) or choice not in POLICIES:
        raise LabError(
            f"unknown policy {choice!r:.60}", where="PERCPU_LAB_JIT or jit=", remedy=f"use one of {', '.join(POLICIES)}"
        )
    return choice if importlib.util.find_spec("numba") else "off"


def request(engine_name: str, *, wait: bool = False) -> ModuleType | None:
    """Ask for the compiled functions of an engine -> their module, or None while they are not ready.

    Args:
        engine_name: name of a module of percpu_lab.core.
        wait: return only when compiling has ended.
    """
    with _lock:
        job = _jobs.get(engine_name)
        if job is None:
            job = _jobs[engine_name] = _Job(engine_name)
    if wait:
        job.done.wait()
    return job.module
