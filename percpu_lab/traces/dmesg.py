"""The kernel log: what it says of per-CPU memory, with the line and the time of each message.

    [    0.000000] Linux version 6.1.192 (...                                              release
    [    0.000000] pcpu-alloc: s181032 r8192 d31960 u524288 alloc=1*2097152                  geometry
    [   43.609087] percpu: allocation failed, size=1048 align=8 atomic=0, failed to populate     failures
    [   43.613538] Call Trace:                                                                     its stack
    [   50.000000] percpu: limit reached, disable warning                                        silent from here on
    [   60.000000] illegal size (40000) or align (8) for percpu allocation                        illegal requests

The time stamps may be missing, and the lines may come from a journal or a quoted mail, which may have broken them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..rich import Rich

__all__ = ["AllocationFailure", "Dmesg", "IllegalRequest", "LogLine", "read_dmesg"]

_QUOTES = re.compile(r"^(?:> ?)+")
_ISO = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?:Z|[+-]\d\d:?\d\d)?"
_SECONDS = r"\[\s*(\d{1,12}\.\d{1,9})\]"
# journalctl, in its usual form, -o short-iso and -o short-monotonic; dmesg -x
_JOURNAL = re.compile(
    rf"^(?:(?:\w{{3}} [ \d]\d \d\d:\d\d:\d\d|{_ISO}|{_SECONDS}) \S+ kernel: |\w{{3,8}} *:\w{{4,8}} *: )"
)
# as kernels print it, with the caller; dmesg -T, -e, --time-format iso
_STAMP = re.compile(
    rf"^(?:<\d{{1,3}}>)?(?:{_SECONDS}(?:\[\s*[TC]\d+\])?|\[\w{{3}} \w{{3}} [ \d]\d \d\d:\d\d:\d\d \d{{4}}\]"
    rf"|\[\w{{3}} ?[ \d]\d \d\d:\d\d\]|\[ *\+\d{{1,9}}\.\d{{1,9}}\]|{_ISO}) ?"
)
_RELEASE = re.compile(r"Linux version (\S{1,200})")
_FAILURE = re.compile(r"percpu: allocation failed, size=(\d{1,19}) align=(\d{1,19}) atomic=([01]), (.*\S)")
_OLD_FAILURE = re.compile(r"PERCPU: allocation failed, size=(\d{1,19}) align=(\d{1,19}), (.*\S)")
_LIMIT = re.compile(r"percpu: limit reached, disable warning")
_ILLEGAL = re.compile(r"illegal size \((\d{1,19})\) or align \((\d{1,19})\) for percpu allocation")
_FRAME = re.compile(r"^\s*(?:\? )?(?:\[<[0-9a-f]+>\] )?(?:\? )?([\w.]+\+0x[0-9a-f]+/0x[0-9a-f]+(?: \[[\w-]+\])?)\s*$")
_MAX_STACK_LINES = 80  # between a message and the end of its stack
_CONTEXTS = ("<TASK>", "</TASK>", "<IRQ>", "</IRQ>")  # between the frames of one stack
_OURS = ("percpu:", "pcpu-alloc:", "setup_percpu:", "illegal size")  # messages that are read
_GEOMETRY = ("percpu:", "pcpu-alloc:", "setup_percpu:", "smpboot: Allowing")


@dataclass(frozen=True, slots=True)
class LogLine(Rich):
    """A line of the log.

    Args:
        number: its number, from 1.
        time: seconds since boot; None without a time stamp.
        text: without time stamp and quotes.
    """

    number: int
    time: float | None
    text: str


@dataclass(frozen=True, slots=True)
class AllocationFailure(Rich):
    """A failed allocation as pcpu_alloc logs it; size and alignment in bytes, as rounded by the allocator.

    Args:
        line: number of the line, from 1.
        time: seconds since boot; None without a time stamp.
        size, align, is_atomic: of the request.
        reason: in the words of the kernel.
        stack: the functions of the call trace behind it, innermost first.
    """

    line: int
    time: float | None
    size: int
    align: int
    is_atomic: bool
    reason: str
    stack: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class IllegalRequest(Rich):
    """A request that pcpu_alloc refused with a warning and without an event; size and alignment in bytes."""

    line: int
    time: float | None
    size: int
    align: int
    stack: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Dmesg(Rich):
    """What a kernel log says of per-CPU memory.

    Args:
        lines: all lines.
        release: of the kernel.
        geometry_lines: those that tell the layout of per-CPU memory and the CPUs, in order.
        failures: allocations that failed.
        illegal: requests that were refused.
        limit: the line behind which failures are no longer logged.
        nr_boots: how often a kernel says its version; more than 1 is a mix of boots.
    """

    lines: tuple[LogLine, ...]
    release: str | None
    geometry_lines: tuple[LogLine, ...]
    failures: tuple[AllocationFailure, ...]
    illegal: tuple[IllegalRequest, ...]
    limit: LogLine | None
    nr_boots: int

    def __repr__(self) -> str:
        nr_lines, nr_failures = len(self.lines), len(self.failures)
        return f"<Dmesg of {self.release or 'an unknown release'}: {nr_lines:,} lines, {nr_failures} failures>"


def read_dmesg(text: str) -> Dmesg:
    """Read a kernel log, whole or in parts.

    >>> log = read_dmesg("[    9.5] percpu: allocation failed, size=64 align=8 atomic=0, failed to populate")
    >>> log.failures[0].reason, log.failures[0].time
    ('failed to populate', 9.5)

    Args:
        text: the output of dmesg or journalctl, or a part of it from a mail.
    """
    lines = _lines(text)
    versions = [found[1] for line in lines if (found := _RELEASE.match(line.text))]
    return Dmesg(
        lines=lines,
        release=versions[-1] if versions else None,
        geometry_lines=tuple(line for line in lines if line.text.startswith(_GEOMETRY)),
        failures=tuple(failure for at in range(len(lines)) if (failure := _failure(lines, at))),
        illegal=tuple(illegal for at in range(len(lines)) if (illegal := _illegal(lines, at))),
        limit=next((line for line in lines if _LIMIT.search(line.text)), None),
        nr_boots=len(versions),
    )


def _lines(text: str) -> tuple[LogLine, ...]:
    """Read the lines; what a mail broke off from a message about per-CPU memory is joined to it again."""
    lines: list[LogLine] = []
    may_go_on = False
    for number, raw in enumerate(text.split("\n"), 1):
        whole = _QUOTES.sub("", raw.rstrip("\r"))
        journal = _JOURNAL.match(whole)
        line = whole[journal.end() :] if journal else whole
        stamp = _STAMP.match(line)
        seconds = (stamp and stamp[1]) or (journal and journal[1])
        message = line[stamp.end() :] if stamp else line
        has_prefix = stamp is not None or line != whole
        if may_go_on and not has_prefix and message.strip() and not message.startswith(_OURS):
            lines[-1] = replace(lines[-1], text=f"{lines[-1].text.rstrip()} {message.strip()}")
        elif message.strip():
            lines.append(LogLine(number, float(seconds) if seconds else None, message))
        may_go_on = has_prefix and message.startswith(_OURS)
    return tuple(lines)


def _failure(lines: Sequence[LogLine], at: int) -> AllocationFailure | None:
    line = lines[at]
    if found := _FAILURE.search(line.text):
        size, align, atomic, reason = found.groups()
    elif found := _OLD_FAILURE.search(line.text):
        size, align, reason = found.groups()
        atomic = "0"
    else:
        return None
    # an atomic failure prints no stack: what stands behind it belongs to something else
    stack = () if atomic == "1" else _stack(lines, at)
    return AllocationFailure(line.number, line.time, int(size), int(align), atomic == "1", reason, stack)


def _illegal(lines: Sequence[LogLine], at: int) -> IllegalRequest | None:
    line = lines[at]
    found = _ILLEGAL.search(line.text)
    if found is None:
        return None
    return IllegalRequest(line.number, line.time, int(found[1]), int(found[2]), _stack(lines, at))


def _stack(lines: Sequence[LogLine], at: int) -> tuple[str, ...]:
    """Collect the functions of the call trace that follows a message."""
    frames: list[str] = []
    for line in lines[at + 1 : at + 1 + _MAX_STACK_LINES]:
        is_behind = frames and line.text.strip() not in _CONTEXTS
        if frame := _FRAME.match(line.text):
            frames.append(frame[1])
        elif is_behind or _FAILURE.search(line.text) or _ILLEGAL.search(line.text):
            break
    return tuple(frames)
