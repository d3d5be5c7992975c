"""The counters of percpu_stats (pcpu_stats_*; v4.13 and v6.12 count alike)."""

from ..errors import LockdepError
from . import layout as L
from ._jit import kernel
from .locks import spin_lock, spin_unlock


@kernel
def pcpu_stats_area_alloc(s, c, size):
    g = s.g
    if g[L.PCPU_LOCK] == 0:
        raise LockdepError("pcpu_stats_area_alloc: pcpu_lock must be held")
    if g[L.STATS_ON] == 0:
        return
    g[L.NR_ALLOC] += 1
    g[L.NR_CUR_ALLOC] += 1
    g[L.NR_MAX_ALLOC] = max(g[L.NR_MAX_ALLOC], g[L.NR_CUR_ALLOC])
    g[L.MIN_ALLOC_SIZE] = min(g[L.MIN_ALLOC_SIZE], size)
    g[L.MAX_ALLOC_SIZE] = max(g[L.MAX_ALLOC_SIZE], size)
    s.chunk[c + L.CHUNK_NR_ALLOC] += 1
    s.chunk[c + L.CHUNK_MAX_ALLOC_SIZE] = max(s.chunk[c + L.CHUNK_MAX_ALLOC_SIZE], size)


@kernel
def pcpu_stats_area_dealloc(s, c):
    g = s.g
    if g[L.PCPU_LOCK] == 0:
        raise LockdepError("pcpu_stats_area_dealloc: pcpu_lock must be held")
    if g[L.STATS_ON] == 0:
        return
    g[L.NR_DEALLOC] += 1
    g[L.NR_CUR_ALLOC] -= 1
    s.chunk[c + L.CHUNK_NR_ALLOC] -= 1


@kernel
def pcpu_stats_chunk_alloc(s):
    g = s.g
    spin_lock(s)
    if g[L.STATS_ON] != 0:
        g[L.NR_CHUNKS] += 1
        g[L.NR_MAX_CHUNKS] = max(g[L.NR_MAX_CHUNKS], g[L.NR_CHUNKS])
    spin_unlock(s)


@kernel
def pcpu_stats_chunk_dealloc(s):
    spin_lock(s)
    if s.g[L.STATS_ON] != 0:
        s.g[L.NR_CHUNKS] -= 1
    spin_unlock(s)


@kernel
def pcpu_update_empty_pages(s, c, change):
    """Count populated pages of a chunk that became (or are no longer) wholly free.

    The reserved chunk and isolated ones do not count in the sum that decides on balance work.
    """
    s.chunk[c + L.CHUNK_NR_EMPTY_POP_PAGES] += change
    if c != s.g[L.RESERVED_CHUNK] and s.chunk[c + L.ISOLATED] == 0:
        s.g[L.NR_EMPTY_POP_PAGES] += change
