"""What all verbs share: how they enter the command line, open what they are given, and print."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any

from ..plain import one_line

OK, FAILED, INTERRUPTED = 0, 1, 130
Verbs = Any  # what ArgumentParser.add_subparsers returns; argparse keeps the type to itself
Run = Callable[[argparse.Namespace], int]

_SECONDS_BETWEEN = 0.1  # two lines of progress
PATH_HELP = "folder of a recording, trace file (.gz too, trace.dat too), or - for standard input"


def verb(verbs: Verbs, name: str, run: Run, summary: str, description: str) -> argparse.ArgumentParser:
    """Enter a verb with the function that carries it out."""
    sentence = summary if summary.endswith("?") else f"{summary}."
    parser: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=summary,
        description=f"{sentence}\n\n{description}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def add_path(parser: argparse.ArgumentParser) -> None:
    """Take the path of a recording, what may be said of it, and --json."""
    parser.add_argument("path", metavar="PATH", help=PATH_HELP)
    add_json(parser)
    given = parser.add_argument_group("for a trace that has no folder around it")
    given.add_argument("--dmesg", metavar="FILE", help="the kernel's log: layout, release, reasons of failures")
    given.add_argument(
        "--stats", metavar="FILE", help="percpu_stats: it tells the layout, but for the CPUs (--geometry cpus=4)"
    )
    given.add_argument(
        "--geometry", metavar="WORDS", help='the layout: "s212992 r8192 d28672 u524288 cpus=4", from the boot line'
    )
    parser.add_argument("--limit", metavar="N", type=int, help="events to keep of a long trace (5,000,000)")
    given.add_argument("--release", metavar="RELEASE", help="of the kernel, as uname -r says it")


def add_json(parser: argparse.ArgumentParser) -> None:
    """Take --json."""
    parser.add_argument("--json", action="store_true", help="write JSON instead of text")


def open_recording(path: str, args: argparse.Namespace) -> Any:
    """Open what a user named: a folder, a file, or - for standard input.

    Args:
        path: what was named.
        args: with what add_path takes.

    Raises:
        LabError, OSError: it cannot be read.
    """
    from ..traces.read import MAX_EVENTS
    from ..traces.recording import open_trace

    with Progress(path) as progress:
        return open_trace(
            path, geometry=args.geometry, release=args.release, dmesg=args.dmesg, stats=args.stats,
            limit=MAX_EVENTS if args.limit is None else args.limit, progress=progress.reading,
        )  # fmt: skip


def say(text: str) -> None:
    """Print a line."""
    print(text)


def write_json(value: Any) -> None:
    """Print a value as JSON."""
    json.dump(value, sys.stdout, indent=1, ensure_ascii=True)
    print()


def complain(error: BaseException | str) -> None:
    """Write an error, or a text about one, as one line on standard error."""
    print(f"percpu_lab: {one_line(_message(error))}", file=sys.stderr)


def _message(error: BaseException | str) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


class Progress:
    """A line on standard error that says how far the work is, if someone looks at it there.

    Args:
        what: is being done or read.
    """

    def __init__(self, what: str) -> None:
        self._what = one_line(what)
        self._shown = ""
        self._next = 0.0
        self._is_seen = sys.stderr.isatty()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._next = 0.0
        self._show("")

    def reading(self, nr_done: int, nr_all: int | None) -> None:
        """Say how many bytes were read; `nr_all` is None of a pipe."""
        done = f"{nr_done / (1 << 20):,.0f} MiB" if not nr_all else f"{min(nr_done / nr_all, 1):.0%}"
        self._show(f"reading {self._what}: {done}")

    def working(self, nr_done: int, nr_all: int) -> None:
        """Say how many events were worked on."""
        self._show(f"{self._what}: {nr_done:,} of {nr_all:,} events")

    def _show(self, text: str) -> None:
        if not self._is_seen or text == self._shown or perf_counter() < self._next:
            return
        sys.stderr.write(f"\r{text.ljust(len(self._shown))}" if text else f"\r{' ' * len(self._shown)}\r")
        sys.stderr.flush()
        self._shown = text
        self._next = perf_counter() + _SECONDS_BETWEEN
