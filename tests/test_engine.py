"""What an engine promises beside the decisions of the kernel: numbers at their limits, room, history, ring."""

from __future__ import annotations

import pytest

from percpu_lab.engine import Engine
from percpu_lab.geometry import Geometry

KERNEL, ATOMIC = False, True


@pytest.fixture
def engine() -> Engine:
    return Engine(Geometry.simple(unit_size=32768), jit="off")


@pytest.mark.parametrize(
    ("size", "align", "shown"),
    [
        ((1 << 64) - 1, 8, "size (0) or align (8)"),
        ((1 << 64) - 2, 8, "size (18446744073709551614) or align (8)"),
        ((1 << 63) - 1, 8, "size (9223372036854775808) or align (8)"),
        (16, 1 << 63, "size (16) or align (9223372036854775808)"),
        (16, (1 << 64) - 1, "size (16) or align (18446744073709551615)"),
        (16, (1 << 62) + 1, "size (16) or align (4611686018427387905)"),
    ],
)
def test_illegal_numbers_up_to_the_last_of_64_bits_are_refused_and_shown_as_they_are(
    engine: Engine, size: int, align: int, shown: str
) -> None:
    assert engine.alloc(size, align, False, KERNEL) == 0
    assert engine.dmesg()[-1] == (0, f"WARN: illegal {shown} for percpu allocation")


def test_without_smp_the_first_chunk_outlives_a_balance_that_finds_it_empty_behind_another() -> None:
    engine = Engine(Geometry.up(), jit="off")
    filling = engine.alloc(32768, 8, False, KERNEL)
    second = engine.alloc(32768, 8, False, KERNEL)
    engine.free(filling)
    engine.free(second)
    assert [chunk.ordinal for chunk in engine.chunks()] == [1, 0]
    assert engine.balance()
    assert [chunk.ordinal for chunk in engine.chunks()] == [1, 0]
    assert engine.alloc(8, 8, False, KERNEL) == engine.chunks()[0].base_addr
