"""A recording rebuilt at any moment, and compared with what the kernel said of itself."""

from .holders import Holders, Names
from .rebuilt import LostFrees, Rebuilt
from .space import Space
from .tables import AreaTable, ChunkTable, Counters
from .walk import BEFORE, CHUNK_DESTROYED, FREE_LOST, FREED, LIVE, NEVER

__all__ = [
    "BEFORE",
    "CHUNK_DESTROYED",
    "FREED",
    "FREE_LOST",
    "LIVE",
    "NEVER",
    "AreaTable",
    "ChunkTable",
    "Counters",
    "Holders",
    "LostFrees",
    "Names",
    "Rebuilt",
    "Space",
]
