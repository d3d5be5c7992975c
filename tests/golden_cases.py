"""The recorded cases that several tests look at."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

GOLDEN = Path(__file__).parent / "data" / "golden"
AREAMAP = GOLDEN / "areamap"
CASES = sorted(path.parent for path in AREAMAP.glob("*/case.json"))
BITMAP_CASES = sorted(path.parent for path in (GOLDEN / "bitmap").glob("*/case.json"))
OUTPUTS = ("trace.txt", "stats.txt", "state.jsonl", "printk.txt")


def recorded(case: Path, name: str) -> str:
    """The text of a file of a case, packed or not; empty if it has none."""
    for path, opener in ((case / name, open), (case / f"{name}.gz", gzip.open)):
        if path.exists():
            with opener(path, "rt", encoding="utf-8", newline="") as file:
                return str(file.read())
    return ""


def nr_ops(case: Path) -> int:
    """How many ops a case has, by its own word."""
    return int(json.loads((case / "case.json").read_text())["nr_ops"])


def first_difference(wanted: str, got: str) -> str:
    """The first line that differs, or nothing."""
    left, right = wanted.split("\n"), got.split("\n")
    for number, (a, b) in enumerate(zip(left, right, strict=False), 1):
        if a != b:
            return f"line {number}: wanted {a[:300]!r}, got {b[:300]!r}"
    return "" if len(left) == len(right) else f"{len(left)} lines wanted, {len(right)} got"
