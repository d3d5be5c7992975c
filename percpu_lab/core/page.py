"""The size of a page: a number of the package, as it is one of a kernel that was built.

The same files under the name core_pages_16 are those of a kernel with pages of 64 KiB (1 << 16).
"""

from .. import units

_SUFFIX = (__package__ or "").rpartition("_pages_")[2]
PAGE_SHIFT = int(_SUFFIX) if _SUFFIX.isdigit() else units.PAGE_SHIFT
PAGE_SIZE = 1 << PAGE_SHIFT

# the largest request (PFN_ALIGN(32 KiB)); of 64 KiB four bytes are missing here: a birth has 16 bits for a size
PCPU_MIN_UNIT_SIZE = min(max(32768, PAGE_SIZE), 65532)
