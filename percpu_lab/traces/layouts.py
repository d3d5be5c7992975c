"""The layouts of a line that carries an event: what stands before the event, and the common form of its fields.

    ftrace           ip-136     [003] d..1.    86.889221: percpu_...     also (tgid), no marks, trace-cmd, nanoseconds
    ftrace latency   ip-136       3d..1. 1088226us!: percpu_...          also trace-cmd report -l
    ftrace verbose   ip     136   3 0 00000000 00000002 [052dd305] 1088.226ms (+0.914ms): percpu_...
    perf script      ip     136 [003]    86.889221: percpu:percpu_...
    golden           3<TAB>percpu_...
    ftrace without context   percpu_...

Each prefix has the same six groups: task, pid, cpu, marks, and the time in two parts. The second part says what the
first is: digits behind the point, `us` for whole microseconds, `]` for hexadecimal ones, nothing for a count.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache

__all__ = [
    "ALLOC_GROUPS", "COUNTS", "FAIL_GROUPS", "FREE_GROUPS", "GOLDEN", "LAYOUTS", "LOST", "PAYLOAD_LOST",
    "PREFIX_GROUPS", "STACK", "Layout", "time_of",
]  # fmt: skip

# A name of up to 15 characters may hold anything, so it is taken as short as what follows allows.
_TASK = r"(?!\s{0,4}>[> ])\s{0,64}(\S.{0,15}?)"  # > at the margin is the quote of a mail
_CPU = r"\[([0-9]{1,5})\]"
_SECONDS = r"(-?[0-9]{1,18}(?!\.)|[0-8]?[0-9]{1,9}(?=\.))(?:\.([0-9]{1,9}))?"  # fits into 63 bits with its digits

PREFIX_GROUPS = slice(0, 6)
ALLOC_GROUPS, FREE_GROUPS, FAIL_GROUPS = slice(6, 16), slice(16, 19), slice(19, 23)
# the fields as kernels print them, each event with groups of its own; any other form is read field by field
_REQUEST = r"reserved=BOOL is_atomic=BOOL size=NUMBER align=NUMBER"
_AREA = r"base_addr=POINTER off=OFFSET ptr=POINTER"
_FIELDS = (
    r"(?:percpu:)?percpu_(?:"
    rf"alloc_percpu:\s{{1,8}}(?:call_site=SYMBOL )?{_REQUEST}"
    rf" {_AREA}(?: bytes_alloc=NUMBER gfp_flags=FLAGS)?"
    rf"|free_percpu:\s{{1,8}}{_AREA}"
    rf"|alloc_percpu_fail:\s{{1,8}}{_REQUEST})\r?"
)
_VALUES = {
    "BOOL": "([01])",
    "NUMBER": "([0-9]{1,18})",
    "OFFSET": "([0-9]{1,10})",
    "POINTER": "(DIGITS|0x[0-9a-f]{1,16})",
    "SYMBOL": r"(\S+(?: \[[^\]\s]+\])?)",
    "FLAGS": r"(\S*)",
}
_INT = r" \(-?[0-9]{1,20}\)"  # the lowest 32 bits as a signed number
_RAW_VALUES = {  # of the option `fields`: size=0x10 (16), reserved=(0); the numbers are hexadecimal ones
    "BOOL": r"(?:0x[01] )?\(([01])\)",
    "NUMBER": f"0x([0-9a-f]{{1,15}}){_INT}",
    "OFFSET": f"0x([0-7][0-9a-f]{{7}}|[0-9a-f]{{1,7}}){_INT}",
    "POINTER": f"(0x[0-9a-f]{{1,16}}){_INT}",
    "SYMBOL": f"(0x[0-9a-f]{{1,16}}){_INT}",
    "FLAGS": f"(0x[0-9a-f]{{1,16}}){_INT}",
}
# with the options sym-addr and sym-offset the name of a marker is followed by <address> or +offset
_ANY_EVENT = r"((?:\w{1,60}:)?[^\s:]{1,60}|<(?:user )?stack trace>)(?: <[0-9a-f]{1,16}>)?(?::(?:\s+(.*))?)?"


@dataclass(frozen=True, slots=True)
class Layout:
    """What stands before an event.

    >>> groups = LAYOUTS[0].any_event.fullmatch(" a b-7-42 [001] d.h1.  5.25: sched_switch: prev=a").groups()
    >>> groups
    ('a b-7', '42', '001', 'd.h1.', '5', '25', 'sched_switch', 'prev=a')

    Args:
        name: of the layout.
        prefix: a pattern with the six groups.
        percpu_event: a line with any percpu event: the six groups, the event's name and its fields.
        any_event: a line with any event.
    """

    name: str
    prefix: str
    percpu_event: re.Pattern[str] = field(init=False, repr=False)
    any_event: re.Pattern[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for name, rest in (
            ("percpu_event", r"(?:percpu:)?(percpu_\w{1,60}):(?:\s+(.*))?"),
            ("any_event", _ANY_EVENT),
        ):
            object.__setattr__(self, name, re.compile(self.prefix + rest))

    def fast(self, nr_digits: int, *, is_raw: bool = False) -> re.Pattern[str]:
        """Give the pattern of a line with one of the three common events in its usual form.

        Its groups are those of the constants above.

        Args:
            nr_digits: of an address without 0x: 8 or 16; others are read field by field.
            is_raw: the values are those of the option `fields`, numbers hexadecimal ones without 0x.
        """
        return _fast(self.prefix, nr_digits if nr_digits in (8, 16) else 16, is_raw)


@cache
def _fast(prefix: str, nr_digits: int, is_raw: bool) -> re.Pattern[str]:
    pattern = _FIELDS
    for name, value in (_RAW_VALUES if is_raw else _VALUES).items():
        pattern = pattern.replace(name, value)
    return re.compile(prefix + pattern.replace("DIGITS", f"[0-9a-f]{{{nr_digits}}}"))


_NOTHING = "()" * 6
_PERF_COMM = rf"{_TASK}\s+(?:-?[0-9]{{1,10}}/)?(-?[0-9]{{1,10}})\s+"  # of pid/tid the tid: the kernel's pid
GOLDEN = Layout("golden", r"()()()()(-?[0-9]{1,18})()\t")
LAYOUTS = (
    Layout(
        "ftrace", rf"{_TASK}-([0-9]{{1,10}})\s+(?:\(\s*(?:[0-9]+|-+)\)\s+)?{_CPU}\s+(?:(\S{{4,8}})\s+)?{_SECONDS}:\s"
    ),
    Layout(
        "ftrace latency",
        rf"{_TASK}-([0-9]{{1,10}})\s+([0-9]{{1,5}})([^\s\d]\S{{3,7}})?\s+([0-9]{{1,18}}(?!\.)|[0-8]?[0-9]{{1,9}}(?=\.))(?:(?:\.(?=[0-9]))?((?<=\.)[0-9]{{1,9}}|us))?.?:\s",
    ),
    Layout(
        "ftrace verbose",
        rf"{_TASK}\s+([0-9]{{1,10}})\s+([0-9]{{1,5}})\s+[0-9]+\s+[0-9a-f]{{8}}()\s+[0-9a-f]{{8}}\s+"
        r"\[([0-9a-f]{1,15})(\])\s+[0-9.]+ms\s+\([+-]?[0-9.]+ms\):\s",
    ),
    Layout(
        "perf script",
        rf"{_PERF_COMM}(?:{_CPU}\s+)?(?:([^\s\d\[]\S{{3,7}})\s+)?{_SECONDS}:\s+(?:[0-9]+\s+)?(?=\w+:\w)",
    ),
    GOLDEN,
    Layout("ftrace without context", _NOTHING + r"\s*(?=(?:percpu:)?percpu_|tracing_mark_write:)"),
)

COUNTS = re.compile(
    r"#\s+(?:entries-in-buffer/entries-written: |latency: [0-9]+ us, #)([0-9]{1,18})/([0-9]{1,18}).*#P:([0-9]{1,9})\b.*"
)
LOST = re.compile(r"\s*CPU:\s*([0-9]{1,9}) \[(?:LOST ([0-9]{1,18})? ?EVENTS|([0-9]{1,18})? ?EVENTS DROPPED)\]")
PAYLOAD_LOST = re.compile(r"\s*[0-9a-f]+ [0-9a-f]+ [0-9a-f]+ type: [0-9]+")  # of the options raw and hex
STACK = re.compile(  # of ftrace, also without context; of perf script, with or without addresses and files
    r"<(?:user )?stack trace>|\s*=> .*|\s+[0-9a-f]{1,16} .*\)"
    r"|(?:\t\s*| {4,})(?:[0-9a-f]{1,16} )?[^\s=:]{1,400}(?: \(\S{1,400}\))?"
)


def time_of(first: str, second: str) -> tuple[int, int | None]:
    """Make a time and its number of digits behind the point (None: no time) from the two parts of a prefix.

    >>> time_of("86", "889221"), time_of("1088226", "us"), time_of("052dd305", "]"), time_of("5", ""), time_of("", "")
    ((86889221, 6), (1088226, 6), (86889221, 6), (5, 0), (-1, None))
    """
    if not first:
        return -1, None
    if second == "]":
        return int(first, 16), 6
    if second == "us":
        return int(first), 6
    return int(first + second), len(second)
