"""The same requests through several allocators and machines, side by side."""

from .requests import Requests, requests_of
from .result import Comparison, compare
from .run import Outcome, ScriptRun
from .settings import Plan, Setting, plans

__all__ = ["Comparison", "Outcome", "Plan", "Requests", "ScriptRun", "Setting", "compare", "plans", "requests_of"]
