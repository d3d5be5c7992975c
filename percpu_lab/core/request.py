"""What every request to an engine begins and ends with."""

from . import layout as L
from ._jit import kernel
from .births import birth_index
from .locks import mutex_unlock, spin_unlock
from .ring import log_line, trace_event


@kernel
def room(s):
    """Say what must grow or be drained before the next op; the op itself never runs out of room."""
    g = s.g
    if g[L.NR_FREE_ROWS] < L.SPARE_ROWS or g[L.NR_ORDER] + L.SPARE_ROWS > g[L.ORDER_CAPACITY]:
        return L.STATUS_NEED_ROWS
    if g[L.LOG_USED] + L.LOG_ROOM > L.LOG_CAPACITY:
        return L.STATUS_NEED_LOG
    if g[L.ZERO_USED] + L.ZERO_ROOM > L.ZERO_CAPACITY:
        return L.STATUS_NEED_ZERO
    return L.STATUS_OK


@kernel
def pcpu_schedule_balance_work(s):
    if s.g[L.ASYNC_ENABLED] != 0:
        s.g[L.BALANCE_PENDING] = 1


@kernel
def unlock_all(s, is_atomic):
    spin_unlock(s)
    if not is_atomic:
        mutex_unlock(s)


@kernel
def refuse(s, size, align, is_atomic):
    """Warn of an illegal request, which no lock is taken for."""
    g = s.g
    log_line(s, L.LOG_ILLEGAL, size, align, is_atomic, 0)
    g[L.NR_FAILED] += 1
    g[L.REASON] = L.REASON_ILLEGAL
    return 0


@kernel
def hand_out(s, c, off, size, align, reserved, is_atomic):
    """Have a new area zeroed, note its birth, tell the trace -> percpu pointer."""
    g = s.g
    chunk = s.chunk
    if chunk[c + L.HAS_MEMORY] != 0:
        at = L.ZERO_TABLE + g[L.ZERO_USED] * L.ZERO_WORDS
        g[at] = c
        g[at + 1] = off
        g[at + 2] = size
        g[L.ZERO_USED] += 1
    s.birth[birth_index(chunk[c + L.BIRTH], g[L.BIRTH_STRIDE], off)] = (g[L.NOW] << 16) | size
    g[L.HIT_CHUNK] = c
    g[L.HIT_OFF] = off
    trace_event(s, L.EVENT_ALLOC, c, off, size, align, reserved * L.FLAG_RESERVED | is_atomic * L.FLAG_ATOMIC, 0)
    return chunk[c + L.BASE] + off + g[L.PTR_BIAS]


@kernel
def fail(s, size, align, reserved, is_atomic, reason):
    """Report a failed request and release its locks -> NULL; the log has it as long as its limit allows."""
    g = s.g
    spin_unlock(s)
    flags = reserved * L.FLAG_RESERVED | is_atomic * L.FLAG_ATOMIC | reason << L.REASON_SHIFT
    trace_event(s, L.EVENT_FAIL, 0, 0, size, align, flags, 0)
    if g[L.WARN_LIMIT] > 0 and (g[L.LOGS_ATOMIC_FAILURES] or not is_atomic):
        log_line(s, L.LOG_FAILED, size, align, is_atomic, reason)
        g[L.WARN_LIMIT] -= 1
        if g[L.WARN_LIMIT] == 0:
            log_line(s, L.LOG_LIMIT, 0, 0, 0, 0)
    if is_atomic:
        g[L.ATOMIC_ALLOC_FAILED] = 1
        pcpu_schedule_balance_work(s)
    else:
        mutex_unlock(s)
    g[L.REASON] = reason
    g[L.NR_FAILED] += 1
    return 0


@kernel
def take_back(s, c, off):
    """Forget the birth of a freed area and tell the trace."""
    g = s.g
    at = birth_index(s.chunk[c + L.BIRTH], g[L.BIRTH_STRIDE], off)
    birth = s.birth[at]
    s.birth[at] = 0
    g[L.HIT_CHUNK] = c
    g[L.HIT_OFF] = off
    trace_event(s, L.EVENT_FREE, c, off, birth & 0xFFFF, 0, 0, birth >> 16)
