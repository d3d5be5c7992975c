"""Where the births of areas stand: close together, however far apart the areas are.

    offset   0   2   4   6   8  10  12  14 | 16  18 ...        a row of `birth`, NR_BIRTH_COLUMNS columns laid
    column   0   1   2   3   4   5   6   7 |  0   1 ...        behind each other: | 0, 16, 32 ... | 2, 18, 34 ... |

Nearly all areas begin at multiples of 4, 8 or 16 bytes, so most columns, and their pages, are never touched.
"""

from ._jit import kernel

NR_BIRTH_COLUMNS = 8  # an area begins at an even offset


@kernel
def birth_index(row, stride, off):
    """Give the index in `birth` of the area at an offset, whose chunk has its row there; of arrays, too."""
    return row + (off >> 1 & NR_BIRTH_COLUMNS - 1) * (stride // NR_BIRTH_COLUMNS) + (off >> 4)
