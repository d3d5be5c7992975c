"""The command line: python -m percpu_lab VERB, or percpu-lab VERB.

Each verb has one function that enters it with its arguments, and one that carries it out and says with which status
the program ends.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from pathlib import Path
from time import perf_counter
from types import ModuleType
from typing import Any

from . import compiled
from .errors import CaseError, LabError

OK, FAILED, INTERRUPTED = 0, 1, 130

_DESCRIPTION = "The Linux per-CPU memory allocator, laid open."
_EPILOG = """\
exit status: 0 all done, 1 something failed (each failure is one line on standard error), 2 wrong arguments
environment: PERCPU_LAB_JIT=off runs plain Python, =wait waits for the compiled core, =auto (the default) changes over
             to it when it is ready; the results are the same"""

Verbs = Any  # what ArgumentParser.add_subparsers returns; argparse keeps the type to itself


def _add_play(verbs: Verbs) -> None:
    parser = _verb(
        verbs,
        "play",
        _play,
        "run recorded cases and write what the kernel would have shown",
        """\
A CASE is a folder with case.json and ops.txt (or ops.txt.gz). For each of them DIR/CASE gets
  trace.txt     the tracepoints, in the order they fired
  stats.txt     the percpu_stats file, for every `stats` op
  state.jsonl   every field of every chunk, for every `state` op
  printk.txt    the kernel log
A damaged case is reported and does not stop the others.""",
    )
    parser.add_argument("cases", metavar="CASE", nargs="+", type=Path, help="case folder")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="where the output goes")
    parser.add_argument(
        "--time",
        action="store_true",
        help="print a line NAME OPS SECONDS a case: the time spent in the engine alone, compiled code awaited before",
    )


def _play(args: argparse.Namespace) -> int:
    failures = 0
    played: set[str] = set()
    for folder in args.cases:
        try:
            _play_one(folder, args.out, played, timed=args.time)
        except (LabError, OSError) as error:
            if isinstance(error, BrokenPipeError):
                raise
            _complain(error)
            failures += 1
    return FAILED if failures else OK


def _play_one(folder: Path, out_dir: Path, played: set[str], *, timed: bool) -> None:
    from .cases import Case
    from .play import play

    case = Case.load(folder)
    if case.name in played:
        what = f"a second case of the name {case.name!r}"
        raise CaseError(what, where=str(folder), remedy="play it with another --out")
    played.add(case.name)
    jit = "wait" if timed and compiled.policy() != "off" else None
    result = play(case, out_dir / case.name, jit=jit)
    if timed:
        print(f"{_one_line(result.name)} {result.nr_ops} {result.engine_seconds:.6f}", flush=True)


def _add_warm(verbs: Verbs) -> None:
    _verb(
        verbs,
        "warm",
        _warm,
        "compile the engines once, so that later runs find them in the cache",
        "Fills the cache of compiled code. Without numba there is nothing to compile: everything works, only slower.",
    )


def _warm(args: argparse.Namespace) -> int:
    if compiled.policy("wait") == "off":
        print("nothing to compile: numba is not installed (pip install numba), plain Python serves")
        return OK
    from .models import MODELS

    for model in MODELS.values():
        started = perf_counter()
        module = compiled.request(model.module_name, wait=True)
        if module is None:
            remedy = "see the warning above; plain Python serves"
            raise LabError(f"the engine could not be compiled: {model.name}", where="warm", remedy=remedy)
        print(f"{model.name}: {_describe(module, perf_counter() - started)}", flush=True)
    return OK


def _describe(module: ModuleType, seconds: float) -> str:
    """Say what the compiler did for the functions that Python calls."""
    stats = [value.stats for value in vars(module).values() if hasattr(value, "stats") and value.signatures]
    folders = {entry.cache_path for entry in stats if entry.cache_path}
    if not folders:
        return f"compiled in {seconds:.1f} s, but no folder for a cache can be written: set NUMBA_CACHE_DIR"
    folder = ", ".join(sorted(folders))
    if any(entry.cache_misses for entry in stats):
        return f"compiled in {seconds:.1f} s; cached in {folder}"
    return f"found in the cache, loaded in {seconds:.1f} s; cached in {folder}"


#: one function a verb, in the order of the help
VERBS: Sequence[Callable[[Verbs], None]] = (_add_play, _add_warm)


def _verb(
    verbs: Verbs, name: str, run: Callable[[argparse.Namespace], int], summary: str, description: str
) -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser: argparse.ArgumentParser = verbs.add_parser(
        name, help=summary, description=f"{summary}.\n\n{description}", formatter_class=raw
    )
    parser.set_defaults(run=run)
    return parser


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


def _complain(error: BaseException) -> None:
    print(f"percpu_lab: {_one_line(_message(error))}", file=sys.stderr)


def _message(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def _one_line(text: Iterable[str]) -> str:
    """Show what could move the cursor or break the line as escapes."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


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
        _complain(error)
        return FAILED


def _run(argv: Sequence[str] | None) -> int:
    try:
        args = build_parser().parse_args(argv)
        status: int = args.run(args)
        return status
    finally:
        sys.stdout.flush()  # a broken pipe shows here at the latest, not when Python has gone


if __name__ == "__main__":
    sys.exit(main())
