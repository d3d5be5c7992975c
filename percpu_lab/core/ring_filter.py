"""Event filters: a short program an event, in words of `g`, that says whether an event is kept.

    size > 64 && !(off & 8)

    g[FILTER_TABLE + event * FILTER_WORDS:]   6 | TEST size > | 64 | TEST off & | 8 | NOT | AND
                                              ^ number of words that follow, 0 = no filter

A test is the word FILTER_TEST | operator << OPERATOR_SHIFT | field << FIELD_SHIFT, then the value.
The results wait in the bits of one integer, the newest lowest, so that a run needs no memory.
"""

from . import layout as L
from ._jit import cold

FILTER_TEST, FILTER_NOT, FILTER_AND, FILTER_OR = range(4)
FILTER_EQ, FILTER_NE, FILTER_LT, FILTER_LE, FILTER_GT, FILTER_GE, FILTER_BAND = range(7)
FIELD_RESERVED, FIELD_IS_ATOMIC, FIELD_SIZE, FIELD_ALIGN, FIELD_BASE_ADDR, FIELD_OFF, FIELD_PTR = range(7)
FIELD_BYTES_ALLOC = 7
OPERATOR_SHIFT = 8
FIELD_SHIFT = 16
MAX_WAITING = 62  # results that may wait for their AND or OR

_SIGN_BIT = -(1 << 63)


@cold
def filter_matches(s, event, size, align, base_addr, off, ptr, reserved, is_atomic):
    """Run the filter of an event; addresses come modulo 2^64."""
    g = s.g
    at = L.FILTER_TABLE + event * L.FILTER_WORDS
    end = at + 1 + g[at]
    at += 1
    results = 1
    while at < end:
        word = g[at]
        code = word & ((1 << OPERATOR_SHIFT) - 1)
        at += 1
        if code == FILTER_TEST:
            if word >> FIELD_SHIFT == FIELD_BYTES_ALLOC:  # on all possible CPUs together
                value = _wrapped(size * g[L.NR_CPUS])
            else:
                value = _field_value(word >> FIELD_SHIFT, size, align, base_addr, off, ptr, reserved, is_atomic)
            results <<= 1
            if _test_holds(word, value, g[at]):
                results |= 1
            at += 1
        elif code == FILTER_NOT:
            results ^= 1
        else:
            newest = results & 1
            results >>= 1
            if code == FILTER_OR:
                results |= newest
            elif newest == 0:
                results &= -2
    return (results & 1) == 1


@cold
def _field_value(field, size, align, base_addr, off, ptr, reserved, is_atomic):
    if field == FIELD_SIZE:
        return size
    if field == FIELD_ALIGN:
        return align
    if field == FIELD_BASE_ADDR:
        return _wrapped(base_addr)
    if field == FIELD_OFF:
        return off
    if field == FIELD_PTR:
        return _wrapped(ptr)
    if field == FIELD_RESERVED:
        return reserved
    return is_atomic


@cold
def _wrapped(address):
    """Keep the lower 64 bits as an int64, where a sum of plain Python numbers may have more."""
    high = (((address >> 32) & 0xFFFF_FFFF) ^ 0x8000_0000) - 0x8000_0000
    return (high << 32) | (address & 0xFFFF_FFFF)


@cold
def _test_holds(word, value, wanted):
    operator = (word >> OPERATOR_SHIFT) & ((1 << (FIELD_SHIFT - OPERATOR_SHIFT)) - 1)
    if operator == FILTER_EQ:
        return value == wanted
    if operator == FILTER_NE:
        return value != wanted
    if operator == FILTER_BAND:
        return (value & wanted) != 0
    if word >> FIELD_SHIFT != FIELD_OFF:  # all others are unsigned: with the sign bit flipped they compare so
        value ^= _SIGN_BIT
        wanted ^= _SIGN_BIT
    if operator == FILTER_LT:
        return value < wanted
    if operator == FILTER_LE:
        return value <= wanted
    if operator == FILTER_GT:
        return value > wanted
    return value >= wanted
