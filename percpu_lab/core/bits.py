"""Bitmaps in words of 64 bits: bit b of a map is bit b & 63 of its word b >> 6.

    words[at + 0]   63 ... 2 1 0        `at` is where the map begins; the word behind
    words[at + 1]   127 ... 65 64       its last one may be read and written unchanged

Words are signed, as the arrays are: a shift is at most 63, and a mask is made so that
plain Python gets the same signed number as the machine.
"""

from ._jit import ctz, fls, kernel

_SIGN_BIT = -(1 << 63)


@kernel
def _find_next(words, at, size, start, flip):
    if start >= size:
        return size
    k = start >> 6
    word = (words[at + k] ^ flip) & (-1 << (start & 63))
    while word == 0:
        k += 1
        if k << 6 >= size:
            return size
        word = words[at + k] ^ flip
    return min((k << 6) + ctz(word), size)


@kernel
def find_next_bit(words, at, size, start):
    """Find the first set bit in [start, size); size if there is none."""
    return _find_next(words, at, size, start, 0)


@kernel
def find_next_zero_bit(words, at, size, start):
    """Find the first clear bit in [start, size); size if there is none."""
    return _find_next(words, at, size, start, -1)


@kernel
def find_last_bit(words, at, size):
    """Find the last set bit below size; size if there is none."""
    if size == 0:
        return 0
    k = (size - 1) >> 6
    word = words[at + k] & ((2 << ((size - 1) & 63)) - 1)
    while word == 0:
        k -= 1
        if k < 0:
            return size
        word = words[at + k]
    return (k << 6) + fls(word) - 1


@kernel
def set_bit(words, at, bit):
    k = bit & 63
    words[at + (bit >> 6)] |= _SIGN_BIT if k == 63 else 1 << k


@kernel
def bitmap_set(words, at, start, end):
    """Set the bits [start, end), which are not none."""
    first = start >> 6
    last = end >> 6
    head = -1 << (start & 63)
    tail = ~(-1 << (end & 63))
    if first == last:
        words[at + first] |= head & tail
        return
    words[at + first] |= head
    for k in range(at + first + 1, at + last):
        words[k] = -1
    words[at + last] |= tail


@kernel
def bitmap_clear(words, at, start, end):
    """Clear the bits [start, end), perhaps none."""
    first = start >> 6
    last = end >> 6
    head = -1 << (start & 63)
    tail = ~(-1 << (end & 63))
    if first == last:
        words[at + first] &= ~(head & tail)
        return
    words[at + first] &= ~head
    for k in range(at + first + 1, at + last):
        words[k] = 0
    words[at + last] &= ~tail
