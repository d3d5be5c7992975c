"""The verdicts, and what speaks against a decision that is not explained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..core import layout as L
from ..core import replay as R
from ..events import Int64s
from .causes import FORCED as FORCED_CAUSE
from .causes import LEARNED as LEARNED_CAUSE

if TYPE_CHECKING:
    from .search import Search

__all__ = ["EXACT", "FORCED", "LEARNED", "REORDERED", "VERDICTS", "forced_cause", "verdict_of"]

EXACT, REORDERED, LEARNED, FORCED = range(4)
VERDICTS = ("exact", "reordered", "learned", "forced")


def verdict_of(cause: np.ndarray) -> np.ndarray:
    """Give the verdict that goes with each cause of the search."""
    verdict = np.where(cause == 0, EXACT, REORDERED)
    verdict[cause == LEARNED_CAUSE] = LEARNED
    verdict[cause == FORCED_CAUSE] = FORCED
    return verdict.astype(np.int8)


def forced_cause(search: Search, row: int, ordinals: Int64s) -> str:
    """Say in words what the model wanted instead."""
    found, tape = search.machine.found, search.tape
    chunk, off = search.wrong[:, row].tolist()
    if found[R.FOUND_NOTE, row] & R.NOTE_NO_CHUNK:
        return "the chunk is not known"
    if found[R.FOUND_LOST, row]:
        return "on areas that were in use: their frees were lost"
    if chunk == L.NO_CHUNK:
        return "the model finds no place"
    if chunk != ordinals[tape.events[R.TAPE_CHUNK, row]]:
        return "the model wants another chunk"
    return "the model wants a lower place" if off < tape.events[R.TAPE_OFF, row] else "the model wants a higher place"
