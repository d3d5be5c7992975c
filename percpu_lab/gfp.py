"""The allocation flags a percpu request can carry."""

from __future__ import annotations


class Gfp(int):
    """Allocation flags with a name, in the values of a 6.x kernel (real traces print 0xcc0 for GFP_KERNEL).

    >>> GFP_KERNEL, GFP_ATOMIC, hex(GFP_KERNEL)
    (GFP_KERNEL, GFP_ATOMIC, '0xcc0')
    """

    def __repr__(self) -> str:
        return _NAMES.get(int(self), hex(self))


GFP_KERNEL = Gfp(0xCC0)
GFP_ATOMIC = Gfp(0x820)
GFP_NOWAIT = Gfp(0x800)
GFP_NOFS = Gfp(0xC40)
GFP_NOIO = Gfp(0xC00)
_NAMES = {0xCC0: "GFP_KERNEL", 0x820: "GFP_ATOMIC", 0x800: "GFP_NOWAIT", 0xC40: "GFP_NOFS", 0xC00: "GFP_NOIO"}


def is_atomic(gfp: int) -> bool:
    """Tell whether a request must not sleep: it lacks a bit of GFP_KERNEL (v4.13 pcpu_alloc; spec 3).

    >>> is_atomic(GFP_KERNEL), is_atomic(GFP_ATOMIC), is_atomic(GFP_NOFS)
    (False, True, True)
    """
    return gfp & 0xCC0 != 0xCC0
