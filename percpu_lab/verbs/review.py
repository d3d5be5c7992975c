"""The verbs `review` and `report`: a recording as a whole."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..errors import LabError
from .common import FAILED, OK, Progress, Verbs, add_path, complain, open_recording, say, verb, write_json


def add_review(verbs: Verbs) -> None:
    """Enter `review`."""
    parser = verb(
        verbs,
        "review",
        _review,
        "say whether each decision of a recorded kernel is what the algorithm decides",
        """\
Replays the recorded requests through the allocator of that kernel and compares every placement; then ten lines that say
what was found. The layout of per-CPU memory is needed for that, which dmesg.txt of a folder tells; of a lone trace
say it by --dmesg, --stats or --geometry. Without it only the events are counted.""",
    )
    add_path(parser)


def _review(args: argparse.Namespace) -> int:
    from ..questions import verdict

    review = reviewed(args)
    if args.json:
        write_json(review.as_json())
    else:
        say(verdict(review).text())
    return OK


def reviewed(args: argparse.Namespace) -> Any:
    """Open a recording and review it, with a line that says how far it is."""
    from ..review import review

    recording = open_recording(args.path, args)
    with Progress(f"reviewing {recording.name}") as progress:
        return review(recording, progress=progress.working)


def add_report(verbs: Verbs) -> None:
    """Enter `report`."""
    parser = verb(
        verbs,
        "report",
        _report,
        "write one page with the pictures, the answers and the odd lines of a recording",
        """\
The page needs nothing but a browser: no network, no script, no other file. A question that cannot be answered leaves
its error in its place in the page and on standard error; all others are there, and the exit status is 1.""",
    )
    add_path(parser)
    parser.add_argument("-o", "--out", metavar="FILE", type=Path, required=True, help="the page, FILE.html")


def _report(args: argparse.Namespace) -> int:
    from ..report import report

    if args.out.is_dir() or not args.out.absolute().parent.is_dir():
        remedy = "name a file in a folder that is there"
        raise LabError("the page cannot be written there", where=str(args.out), remedy=remedy)
    page = report(reviewed(args))
    args.out.write_text(page.html, encoding="utf-8")
    for problem in page.problems:
        complain(problem)
    nr_bytes = len(page.html.encode())
    if args.json:
        write_json({"report": str(args.out), "bytes": nr_bytes, "problems": page.problems})
    else:
        say(f"{args.out}: {nr_bytes:,} bytes")
    return FAILED if page.problems else OK
