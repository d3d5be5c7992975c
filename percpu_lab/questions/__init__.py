"""Questions about a recording or a simulated run, each one call: what engineers asked on lists, answered.

    consistency(rec)            can the recording be trusted?
    top(rec, by="task")         who holds the most?
    leaks(rec)                  who leaks, and what is only backlog?
    lifetimes(rec)              who asks for memory only to give it back at once?
    waste(rec)                  what is lost to rounding, alignment, holes, tails and empty pages?
    cost(rec, 128)              what does it cost on 128 CPUs?
    reserved(rec)               what does the reserved chunk hold?
    phases(rec)                 what happened from marker to marker?
    around(rec, "netns")        what changed around a marker?
    diff(before, after)         what changed between two states?
    lint(stats)                 do the numbers of a percpu_stats agree?

Each takes a Recording, a trace or an Allocator (`diff` and `lint` also percpu_stats), and gives an answer of its own
type: print it, or take frame(), picture(), its fields, and what it calls certain and inferred.
"""

from .answer import Answer
from .around import Around, Phases, around, phases
from .consistency import Consistency, consistency
from .cost import Cost, cost
from .differences import Difference, Lint, Moment, diff, lint
from .leaks import Leaks, leaks
from .lifetimes import Lifetimes, lifetimes
from .reserved import Reserved, reserved
from .subject import Subject
from .top import Top, top
from .waste import Waste, waste

__all__ = [
    "Answer",
    "Around",
    "Consistency",
    "Cost",
    "Difference",
    "Leaks",
    "Lifetimes",
    "Lint",
    "Moment",
    "Phases",
    "Reserved",
    "Subject",
    "Top",
    "Waste",
    "around",
    "consistency",
    "cost",
    "diff",
    "leaks",
    "lifetimes",
    "lint",
    "phases",
    "reserved",
    "top",
    "waste",
]
