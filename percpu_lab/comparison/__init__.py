"""The same requests through several allocators and machines, side by side."""

from .machines import MachineCost, WhatIf, what_if
from .requests import Requests, requests_of
from .result import Comparison, compare
from .run import Outcome, ScriptRun
from .settings import Plan, Setting, plans

__all__ = [
    "Comparison",
    "MachineCost",
    "Outcome",
    "Plan",
    "Requests",
    "ScriptRun",
    "Setting",
    "WhatIf",
    "compare",
    "plans",
    "requests_of",
    "what_if",
]
