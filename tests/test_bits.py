"""Bitmaps in words against Python's own integers, in plain Python; the recorded cases run the compiled ones."""

from __future__ import annotations

from array import array

from hypothesis import given
from hypothesis import strategies as st

from percpu_lab.core.bits import bitmap_clear, bitmap_set, find_last_bit, find_next_bit, find_next_zero_bit, set_bit

WORDS = 4
SPARE = 1
BITS = st.integers(0, 64 * WORDS)
MAPS = st.integers(0, (1 << 64 * WORDS) - 1) | st.sets(st.integers(0, 64 * WORDS - 1)).map(
    lambda bits: sum(1 << bit for bit in bits)
)


def words(value: int) -> memoryview:
    """A map, with a word before and one behind it that must not change."""
    return memoryview(array("q", b"\x55" * 8 + value.to_bytes(8 * WORDS, "little") + b"\x55" * 8))


def value_of(view: memoryview) -> int:
    data = view.tobytes()
    assert data[:8] == data[-8:] == b"\x55" * 8
    return int.from_bytes(data[8:-8], "little")


@given(MAPS, BITS, BITS)
def test_next_bits(value: int, size: int, start: int) -> None:
    bits = [k for k in range(start, size) if value >> k & 1]
    zeros = [k for k in range(start, size) if not value >> k & 1]
    assert find_next_bit(words(value), SPARE, size, start) == (bits[0] if bits else size)
    assert find_next_zero_bit(words(value), SPARE, size, start) == (zeros[0] if zeros else size)


@given(MAPS, BITS)
def test_last_bit(value: int, size: int) -> None:
    bits = [k for k in range(size) if value >> k & 1]
    assert find_last_bit(words(value), SPARE, size) == (bits[-1] if bits else size)


@given(MAPS, BITS, BITS)
def test_set_and_clear(value: int, start: int, end: int) -> None:
    start, end = sorted((start, end))
    mask = (1 << end) - (1 << start)
    view = words(value)
    bitmap_set(view, SPARE, start, end)
    assert value_of(view) == value | mask
    view = words(value)
    bitmap_clear(view, SPARE, start, end)
    assert value_of(view) == value & ~mask


@given(MAPS, st.integers(0, 64 * WORDS - 1))
def test_set_one(value: int, bit: int) -> None:
    view = words(value)
    set_bit(view, SPARE, bit)
    assert value_of(view) == value | 1 << bit
