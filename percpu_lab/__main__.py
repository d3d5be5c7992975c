"""The command line: python -m percpu_lab VERB, or percpu-lab VERB.

Each verb has one function that enters it with its arguments, and one that carries it out and says with which status
the program ends.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections.abc import Sequence
from importlib import metadata

from .errors import LabError
from .verbs import VERBS
from .verbs.common import FAILED, INTERRUPTED, complain

_DESCRIPTION = "The Linux per-CPU memory allocator, laid open: simulated, and in recordings of real kernels."
_EPILOG = """\
exit status: 0 all done, 1 something failed (each failure is one line on standard error), 2 wrong arguments
environment: PERCPU_LAB_JIT=off runs plain Python, =wait waits for the compiled core, =auto (the default) changes over
             to it when it is ready; the results are the same"""


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the whole command line.

    >>> build_parser().parse_args(["play", "cases/coalesce", "--out", "made"]).time
    False
    """
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("percpu_lab", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=raw)
    parser.add_argument("--version", action="version", version=f"percpu_lab {_version()}")
    verbs = parser.add_subparsers(metavar="VERB", required=True, title="verbs", dest="verb")
    for add in VERBS:
        add(verbs)
    return parser


def _version() -> str:
    try:
        return metadata.version("percpu-lab")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the words behind the name of the program; those of the process by default.

    Returns:
        The exit status.
    """
    try:
        return _run(argv)
    except BrokenPipeError:
        # whoever read our output has gone: nothing is left to say, neither now nor at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except (LabError, OSError) as error:
        complain(error)
        return FAILED


def _run(argv: Sequence[str] | None) -> int:
    try:
        args = build_parser().parse_args(argv)
        status: int = args.run(args)
        return status
    finally:
        if sys.stdout is not None:  # closed by whoever called us
            sys.stdout.flush()  # a broken pipe shows here at the latest, not when Python has gone


def leave() -> None:
    """Run the command line and end the process with its status."""
    status = main()
    if sys.stderr is not None:
        sys.stderr.flush()
    if any(thread.name.startswith("percpu_lab compile") for thread in threading.enumerate()):
        os._exit(status)  # Python cannot be taken down under a compiler that is at work: it may crash
    sys.exit(status)


if __name__ == "__main__":
    leave()
