"""The kernel's percpu_stats: its numbers as values, its file as text out and in, and what the numbers say.

    Allocation Info     how the units were laid out           AllocInfoStats
    Global Stats        counters over all chunks              GlobalStats
    Per Chunk Stats     one block a chunk, in this order:     ChunkStats
                        reserved chunk, then slot 0 upwards, each list from its head

    values    the numbers, and the file out      read    the file in, also from a mail
    measure   the numbers of a running engine    lint    do they agree with each other?
                                                 diff    what changed between two readings?
"""

from .diff import ChunkDiff, StatsDiff, ValueChange, diff
from .lint import Finding, Findings, as_json, lint
from .measure import MapStatistics, bitmap_statistics, map_statistics, read_stats
from .read import StatsText, read_stats_texts
from .values import (
    AllocInfoStats,
    AnyChunkStats,
    ChunkKind,
    ChunkStats,
    ChunkStatsV5,
    ChunkStatsV6,
    GlobalStats,
    GlobalStatsV6,
    PercpuStats,
    UnknownLine,
)

__all__ = [
    "AllocInfoStats",
    "AnyChunkStats",
    "ChunkDiff",
    "ChunkKind",
    "ChunkStats",
    "ChunkStatsV5",
    "ChunkStatsV6",
    "Finding",
    "Findings",
    "GlobalStats",
    "GlobalStatsV6",
    "MapStatistics",
    "PercpuStats",
    "StatsDiff",
    "StatsText",
    "UnknownLine",
    "ValueChange",
    "as_json",
    "bitmap_statistics",
    "diff",
    "lint",
    "map_statistics",
    "read_stats",
    "read_stats_texts",
]
