"""The Linux per-CPU memory allocator, laid open.

>>> import percpu_lab as lab
>>> a = lab.Allocator("x86-64, 4 CPUs")
>>> p = a.alloc_percpu(64)
>>> a.free_percpu(p)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import questions as questions
    from .allocator import Allocator as Allocator
    from .comparison import compare as compare
    from .comparison import what_if as what_if
    from .geometry import PRESETS as PRESETS
    from .geometry import AllocInfo as AllocInfo
    from .geometry import Geometry as Geometry
    from .gfp import GFP_ATOMIC as GFP_ATOMIC
    from .gfp import GFP_KERNEL as GFP_KERNEL
    from .ops import Ops as Ops
    from .rebuild import Rebuilt as Rebuilt
    from .rebuild import check_readings as check_readings
    from .recorded_run import RecordedRun as RecordedRun
    from .runs import open_run as open_run
    from .stats import PercpuStats as PercpuStats
    from .traces.recording import open_trace as open_trace
    from .views.dashboard import picture as picture
    from .views.dashboard import watch as watch
    from .workloads import WORKLOADS as WORKLOADS

__version__ = "0.1.0"

# a name is imported when it is first used, so that importing the package costs next to nothing
_HOMES = {
    "Allocator": "allocator",
    "AllocInfo": "geometry",
    "Geometry": "geometry",
    "PRESETS": "geometry",
    "GFP_ATOMIC": "gfp",
    "GFP_KERNEL": "gfp",
    "Ops": "ops",
    "PercpuStats": "stats",
    "Rebuilt": "rebuild",
    "RecordedRun": "recorded_run",
    "WORKLOADS": "workloads",
    "check_readings": "rebuild",
    "open_run": "runs",
    "open_trace": "traces.recording",
    "picture": "views.dashboard",
    "compare": "comparison",
    "watch": "views.dashboard",
    "what_if": "comparison",
}
_PARTS = ("questions",)  # parts that are used by their name: lab.questions.top(...)
__all__ = sorted((*_HOMES, *_PARTS))


def __getattr__(name: str) -> Any:
    if name in _PARTS:
        return importlib.import_module(f".{name}", __name__)
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_PARTS})
