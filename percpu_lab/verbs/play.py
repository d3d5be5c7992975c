"""The verbs that run the allocators: play and warm."""

from __future__ import annotations

import argparse
from pathlib import Path
from time import perf_counter
from types import ModuleType

from .. import compiled
from ..errors import CaseError, LabError
from ..plain import one_line
from .common import FAILED, OK, Verbs, complain, verb


def add_play(verbs: Verbs) -> None:
    """Enter `play`."""
    parser = verb(
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
    _make_folder(args.out)
    failures = 0
    played: set[str] = set()
    for folder in args.cases:
        try:
            _play_one(folder, args.out, played, timed=args.time)
        except (LabError, OSError) as error:
            if isinstance(error, BrokenPipeError):
                raise
            complain(error)
            failures += 1
    return FAILED if failures else OK


def _play_one(folder: Path, out_dir: Path, played: set[str], *, timed: bool) -> None:
    from ..cases import Case
    from ..play import play

    case = Case.load(folder)
    if case.name in played:
        what = f"a second case of the name {case.name!r}"
        raise CaseError(what, where=str(folder), remedy="play it with another --out")
    played.add(case.name)
    target = out_dir / case.name
    if any(target.glob("case.json*")):
        what = "a case is there: what the kernel did would be overwritten"
        raise LabError(what, where=str(target), remedy="give another --out")
    jit = "wait" if timed and compiled.policy() != "off" else None
    try:
        result = play(case, target, jit=jit)
    except OSError as error:
        remedy = "see that it can be written, or give another --out"
        raise LabError(
            f"cannot be written: {error.strerror}", where=error.filename or str(target), remedy=remedy
        ) from None
    if timed:
        print(f"{one_line(result.name)} {result.nr_ops} {result.engine_seconds:.6f}", flush=True)


def _make_folder(out_dir: Path) -> None:
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what, remedy = f"no folder, and none can be made ({error.strerror})", "name a folder for the output"
        raise LabError(what, where=str(out_dir), remedy=remedy) from None


def add_warm(verbs: Verbs) -> None:
    """Enter `warm`."""
    verb(
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
    from ..models import MODELS

    modules = {model.name: model.module_name for model in MODELS.values()}
    modules |= {f"review of {model.name}": f"replay_{model.module_name}" for model in MODELS.values()}
    for name, module_name in modules.items():
        started = perf_counter()
        module = compiled.request(module_name, wait=True)
        if module is None:
            remedy = "see the warning above; plain Python serves"
            raise LabError(f"it could not be compiled: {name}", where="warm", remedy=remedy)
        print(f"{name}: {_describe(module, perf_counter() - started)}", flush=True)
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
