"""Slots: lists of chunks by size class, of free bytes (area map) or of the largest known free run (bitmap).

    size in bytes   0..15   16..31   32..63   ...   4096..8191
    raw slot          1        2        3               10
"""

from ._jit import fls, kernel

PCPU_SLOT_BASE_SHIFT = 5


@kernel
def raw_slot(size):
    return max(fls(size) - PCPU_SLOT_BASE_SHIFT + 2, 1)
