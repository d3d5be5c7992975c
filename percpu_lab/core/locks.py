"""The two locks of the allocator and their rules (v4.13, spec section 7), checked as lockdep would.

    pcpu_alloc_mutex   may sleep; outer
    pcpu_lock          spinlock; inner; nothing that may sleep happens under it

There is one thread of control, so a lock is a flag: what is checked is the order and
who must hold what, not contention.
"""

from ..errors import LockdepError
from . import layout as L
from ._jit import kernel


@kernel
def mutex_lock(s):
    if s.g[L.PCPU_LOCK] != 0:
        raise LockdepError("pcpu_alloc_mutex taken under pcpu_lock: sleeping function called from invalid context")
    if s.g[L.ALLOC_MUTEX] != 0:
        raise LockdepError("pcpu_alloc_mutex taken twice: deadlock")
    s.g[L.ALLOC_MUTEX] = 1


@kernel
def mutex_unlock(s):
    if s.g[L.ALLOC_MUTEX] == 0:
        raise LockdepError("pcpu_alloc_mutex released while not held")
    s.g[L.ALLOC_MUTEX] = 0


@kernel
def spin_lock(s):
    if s.g[L.PCPU_LOCK] != 0:
        raise LockdepError("pcpu_lock taken twice: deadlock")
    s.g[L.PCPU_LOCK] = 1


@kernel
def spin_unlock(s):
    if s.g[L.PCPU_LOCK] == 0:
        raise LockdepError("pcpu_lock released while not held")
    s.g[L.PCPU_LOCK] = 0


@kernel
def assert_may_sleep(s):
    if s.g[L.PCPU_LOCK] != 0:
        raise LockdepError("a function that may sleep was called under pcpu_lock")
    if s.g[L.ALLOC_MUTEX] == 0:
        raise LockdepError("pcpu_alloc_mutex must be held to create, destroy or populate chunks")
