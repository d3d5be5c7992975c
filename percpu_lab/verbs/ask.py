"""The verbs that answer a question each: the functions of percpu_lab.questions, from the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from .common import OK, Verbs, add_path, open_recording, say, verb, write_json

if TYPE_CHECKING:
    from ..questions import Answer

_Option = tuple[str, dict[str, Any]]
_AT: _Option = (
    "--at",
    {"metavar": "WHEN", "help": "the moment: a row of the trace, or a text in a marker; the end by default"},
)
_ROWS: _Option = ("--rows", {"metavar": "N", "type": int, "default": 20, "help": "rows of the table to show (20)"})


class Question(NamedTuple):
    """A verb: its name, what it answers, its arguments, and how it is asked.

    Args:
        options: flag or name, and how argparse takes it.
        ask: with the recording and the arguments.
    """

    name: str
    summary: str
    options: Sequence[_Option]
    ask: Callable[[Any, argparse.Namespace], Answer]


def _moment(text: str | None) -> int | str | None:
    """Read --at: digits are a row."""
    return int(text) if text is not None and text.isdecimal() else text


def _asked(name: str, subject: Any, **options: Any) -> Answer:
    """Ask the question of a name; its module is loaded only now."""
    from .. import questions

    answer: Answer = getattr(questions, name)(subject, **options)
    return answer


QUESTIONS: Sequence[Question] = (
    Question("decisions", "which decisions are those of the algorithm, and which are not explained?", (),
             lambda r, a: _asked("decisions", r)),
    Question("explain", "how did one decision come about: what was tried, why refused?",
             (("row", {"metavar": "ROW", "type": int, "help": "row of the request; early calls have negative ones"}),),
             lambda r, a: _asked("explain", r, row=a.row)),
    Question("consistency", "can the recording itself be trusted?", (), lambda r, a: _asked("consistency", r)),
    Question(
        "top", "who holds the most?",
        (
            ("--by", {"choices": ["call_site", "task", "size", "chunk"], "default": "call_site",
                      "help": "what holders are told apart by (call_site)"}),
            ("--all", {"action": "store_true", "help": "all that was ever allocated, not what is live"}),
            _AT,
        ),
        lambda r, a: _asked("top", r, by=a.by, live=not a.all, at=_moment(a.at)),
    ),
    Question(
        "leaks", "who leaks, and what is only backlog?",
        (
            _AT,
            ("--older-than", {"metavar": "SECONDS", "type": float, "default": 0.0, "help": "leave younger areas out"}),
        ),
        lambda r, a: _asked("leaks", r, at=_moment(a.at), older_than=a.older_than),
    ),
    Question(
        "lifetimes", "who asks for memory only to give it back at once?",
        (("--short", {"metavar": "SECONDS", "type": float, "default": 0.01, "help": "what counts as short (0.01)"}),),
        lambda r, a: _asked("lifetimes", r, short_seconds=a.short),
    ),
    Question("waste", "what is lost to rounding, alignment, holes, tails and empty pages?", (_AT,),
             lambda r, a: _asked("waste", r, at=_moment(a.at))),
    Question(
        "cost", "what does it cost on so many CPUs?",
        (
            ("--cpus", {"metavar": "N", "type": int, "nargs": "+", "help": "numbers of possible CPUs"}),
            ("--size", {"metavar": "BYTES", "type": int, "help": "of one area, in place of all live ones"}),
            _AT,
        ),
        lambda r, a: _asked("cost", r, cpus=a.cpus, size=a.size, at=_moment(a.at)),
    ),
    Question("reserved", "what does the reserved chunk hold?", (_AT,),
             lambda r, a: _asked("reserved", r, at=_moment(a.at))),
    Question("failures", "which requests failed, and why?", (), lambda r, a: _asked("failures", r)),
    Question(
        "why-failed", "why did a request get NULL, and what would GFP_KERNEL have got?",
        (("row", {"metavar": "ROW", "type": int, "nargs": "?", "help": "row of the failure; the first by default"}),),
        lambda r, a: _asked("why_failed", r, event=a.row),
    ),
    Question(
        "why-not-freed", "who pins a chunk, and which rule for giving it back is not met?",
        (("chunk", {"metavar": "CHUNK", "type": int, "help": "its number: 0 the first, -1 the reserved chunk"}), _AT),
        lambda r, a: _asked("why_not_freed", r, chunk=a.chunk, at=_moment(a.at)),
    ),
    Question("slots", "which chunks stand in which slot, in which order?", (_AT,),
             lambda r, a: _asked("slots", r, at=_moment(a.at))),
    Question("phases", "what happened from marker to marker?", (), lambda r, a: _asked("phases", r)),
    Question("around", "what changed around a marker?",
             (("marker", {"metavar": "MARKER", "help": "a text in the marker"}),),
             lambda r, a: _asked("around", r, marker=a.marker)),
)  # fmt: skip


def _add(question: Question, verbs: Verbs) -> None:
    parser = verb(verbs, question.name, partial(_ask, question), question.summary, "")
    add_path(parser)
    for flag, options in (*question.options, _ROWS):
        parser.add_argument(flag, **options)


def _ask(question: Question, args: argparse.Namespace) -> int:
    answer = question.ask(open_recording(args.path, args), args)
    if args.json:
        write_json(answer.as_json())
    else:
        say(answer.text(limit=args.rows))
    return OK


def _add_diff(verbs: Verbs) -> None:
    parser = verb(
        verbs, "diff", _diff, "what changed between two recordings, or two moments of one?",
        "With one PATH, --from and --to say which moments are compared; the start and the end by default.",
    )  # fmt: skip
    add_path(parser)
    parser.add_argument("other", metavar="PATH2", nargs="?", help="a second recording")
    parser.add_argument("--from", dest="start", metavar="WHEN", default="0", help="row, or a text in a marker")
    parser.add_argument("--to", dest="end", metavar="WHEN", help="row, or a text in a marker")
    parser.add_argument(_ROWS[0], **_ROWS[1])


def _diff(args: argparse.Namespace) -> int:
    from ..questions import Moment, diff

    first = open_recording(args.path, args)
    if args.other is None:
        answer = diff(Moment(first, _moment(args.start)), Moment(first, _moment(args.end)))
    else:
        answer = diff(first, Moment(open_recording(args.other, args), _moment(args.end)))
    if args.json:
        write_json(answer.as_json())
    else:
        say(answer.text(limit=args.rows))
    return OK


#: one function a verb
add_questions: Sequence[Callable[[Verbs], None]] = (*(partial(_add, question) for question in QUESTIONS), _add_diff)
