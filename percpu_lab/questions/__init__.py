"""Questions about a recording or a simulated run, each one call: what engineers asked on lists, answered.

    verdict(rec)                all of it in ten lines
    decisions(rec)              are its decisions those of the algorithm?
    explain(rec, row)           how did one of them come about?
    consistency(rec)            can the recording be trusted?
    top(rec, by="task")         who holds the most?
    leaks(rec)                  who leaks, and what is only backlog?
    lifetimes(rec)              who asks for memory only to give it back at once?
    waste(rec)                  what is lost to rounding, alignment, holes, tails and empty pages?
    cost(rec, 128)              what does it cost on 128 CPUs?
    reserved(rec)               what does the reserved chunk hold?
    slots(rec)                  which chunks stand in which slot, in which order?
    failures(rec)               which requests failed?
    why_failed(rec, row)        why did this request fail, and what would GFP_KERNEL have got?
    why_not_freed(rec, chunk)   who pins a chunk, and which rule for giving it back is not met?
    phases(rec)                 what happened from marker to marker?
    around(rec, "netns")        what changed around a marker?
    diff(before, after)         what changed between two states?
    lint(stats)                 do the numbers of a percpu_stats agree?

Each takes a Recording, its Review, a trace or an Allocator (`diff` and `lint` also percpu_stats), and gives an answer
of its own type: print it, or take frame(), picture(), its fields, and what it calls certain and inferred.
"""

from .answer import Answer
from .around import Around, Phases, around, phases
from .consistency import Consistency, consistency
from .cost import Cost, cost
from .decided import Decisions, Explained, decisions, explain
from .differences import Difference, Lint, Moment, diff, lint
from .leaks import Leaks, leaks
from .lifetimes import Lifetimes, lifetimes
from .pinned import WhyNotFreed, why_not_freed
from .reserved import Reserved, reserved
from .slots import Slots, slots
from .subject import Subject
from .top import Top, top
from .verdict import Verdict, verdict
from .waste import Waste, waste
from .why_failed import Failures, WhyFailed, failures, why_failed

__all__ = [
    "Answer",
    "Around",
    "Consistency",
    "Cost",
    "Decisions",
    "Difference",
    "Explained",
    "Failures",
    "Leaks",
    "Lifetimes",
    "Lint",
    "Moment",
    "Phases",
    "Reserved",
    "Slots",
    "Subject",
    "Top",
    "Verdict",
    "Waste",
    "WhyFailed",
    "WhyNotFreed",
    "around",
    "consistency",
    "cost",
    "decisions",
    "diff",
    "explain",
    "failures",
    "leaks",
    "lifetimes",
    "lint",
    "phases",
    "reserved",
    "slots",
    "top",
    "verdict",
    "waste",
    "why_failed",
    "why_not_freed",
]
