"""The allocators that a review can follow, and what it must know of each: one row a model.

    row        replayed by                  reads chunks, opens decisions, mends
    v4.13      core/replay_areamap.py       areamap.py
    v6.12      core/replay_bitmap.py        bitmap.py

>>> sorted(ALLOCATORS)
['v4.13-areamap', 'v6.12-bitmap']
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from ..engine import Engine
from ..models import Model
from . import areamap, bitmap
from .causes import Mended

if TYPE_CHECKING:
    from ..core.state import State
    from .search import Search

__all__ = ["ALLOCATORS", "Allocator"]


class Allocator(Protocol):
    """What a module must have for its allocator to be reviewed."""

    MODEL: Model
    REPLAY: ModuleType

    @staticmethod
    def map_words(engine: Engine, rows: Any) -> int:
        """Give how many words of the map of a chunk are in use at most; rows: the chunks, a row each."""

    @staticmethod
    def served(engine: Engine, c: int) -> tuple[int, int]:
        """Give where the part of a chunk begins that requests may get, and its length, before any request."""

    @staticmethod
    def areas(chunk: Any) -> list[tuple[int, int]]:
        """List the areas in use of a chunk as (offset, size), without what was never handed out."""

    @staticmethod
    def searched(engine: Engine, size: int) -> tuple[int, int]:
        """Give the first and the last slot that a request comes to."""

    @staticmethod
    def try_chunk(s: State, chunk: Any, size: int, align: int, is_atomic: bool) -> tuple[int | None, str]:
        """Try a chunk -> the offset where it serves a request, None if it refuses; and why, in words."""

    @staticmethod
    def mend(search: Search, row: int) -> Mended | None:
        """Say what must have been different for a row to agree -> cause and row to add; None if nothing is known."""


ALLOCATORS: Mapping[str, Any] = MappingProxyType({module.MODEL.name: module for module in (areamap, bitmap)})
