"""A recording rebuilt at any moment, and compared with what the kernel said of itself."""

from .comparison import Comparison, ReadingCheck, ReadingChecks
from .holders import Holders, Names
from .readings import check_readings
from .rebuilt import FreeSpace, LostFrees, Rebuilt
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
    "Comparison",
    "Counters",
    "FreeSpace",
    "Holders",
    "LostFrees",
    "Names",
    "ReadingCheck",
    "ReadingChecks",
    "Rebuilt",
    "Space",
    "check_readings",
]
