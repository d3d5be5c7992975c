"""Each invariant of the bitmap by its number: what breaks it is found, and named."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from percpu_lab.core import layout as L
from percpu_lab.engine import Engine
from percpu_lab.errors import InvariantError
from percpu_lab.geometry import AllocInfo, Geometry, GroupInfo
from percpu_lab.kernels import V6_12
from percpu_lab.validate_bitmap import validate_bitmap_engine

Damage = Callable[[Engine], None]


@pytest.fixture
def engine() -> Engine:
    """A reserved and a first chunk, both in use, a sidelined chunk, one in use and one that is free."""
    info = AllocInfo(8196, 8192, 24000, 40960, 4096, 40960, (GroupInfo(1, 0, (0,)),), (0,))
    engine = Engine(Geometry.from_info(info, kernel=V6_12), jit="off")
    engine.alloc(64, 8, True, False)
    small = [engine.alloc(64, 8, False, False) for _ in range(4)]
    engine.free(small[1])
    pages = [[engine.alloc(4096, 4096, False, False) for _ in range(10)] for _ in range(3)]
    rest = [ptr for chunk in pages for ptr in chunk if engine.place(ptr)[0] in (1, 2)]
    for ptr in sorted(rest, key=engine.place, reverse=True)[:16]:
        engine.free(ptr)
    engine.balance()
    validate_bitmap_engine(engine)
    return engine


def word(ordinal: int, index: int, change: int) -> Damage:
    def damage(engine: Engine) -> None:
        engine.chunk[engine.handle(ordinal) + index] += change

    return damage


def md(block: int, index: int, change: int) -> Damage:
    """Change a word of a block's record in the first chunk."""

    def damage(engine: Engine) -> None:
        at = engine.chunk[engine.handle(0) + L.MD_BLOCKS] + block * L.NR_MD_WORDS
        engine.chunk[at + index] += change

    return damage


def scalar(index: int, change: int) -> Damage:
    def damage(engine: Engine) -> None:
        engine.g[index] += change

    return damage


def bit(index: int, number: int) -> Damage:
    """Turn a bit of alloc_map (MAP) or bound_map of the first chunk over."""

    def damage(engine: Engine) -> None:
        engine.map[engine.chunk[engine.handle(0) + index] + (number >> 6)] ^= 1 << (number & 63)

    return damage


def birth(engine: Engine) -> None:
    engine.births(engine.handle(0)).flat[0] = 5 << 16 | 64


def hold_lock(engine: Engine) -> None:
    engine.g[L.PCPU_LOCK] = 1


CHUNK_MD = L.CHUNK_MD
DAMAGES = [
    (1, word(0, L.FREE_SIZE, 4)),
    (1, bit(L.MAP, 3000)),
    (2, md(0, L.MD_CONTIG_HINT_START, -8)),
    (2, md(0, L.MD_SCAN_HINT, 4)),
    (3, word(0, CHUNK_MD + L.MD_FIRST_FREE, 1)),
    (3, md(0, L.MD_FIRST_FREE, -1)),
    (4, md(0, L.MD_CONTIG_HINT, -950)),
    (5, word(0, CHUNK_MD + L.MD_CONTIG_HINT, 5000)),
    (5, md(0, L.MD_LEFT_FREE, 1)),
    (5, md(0, L.MD_RIGHT_FREE, -1)),
    (6, word(0, L.NR_POPULATED, 1)),
    (6, word(0, L.CHUNK_NR_EMPTY_POP_PAGES, 1)),
    (7, bit(L.BOUND_MAP, 1024)),
    (10, bit(L.BOUND_MAP, 1025)),
    (8, word(0, L.ISOLATED, 1)),
    (10, birth),
    (11, word(0, L.LIST_PREV, 1)),
    (13, scalar(L.NR_FREE_ROWS, 1)),
    (15, scalar(L.NR_EMPTY_POP_PAGES, 1)),
    (15, scalar(L.NR_POPULATED_TOTAL, 1)),
    (16, word(0, L.CHUNK_NR_ALLOC, 1)),
    (16, scalar(L.NR_DEALLOC, 1)),
    (17, hold_lock),
    (17, word(0, L.BASE, 4096)),
]


@pytest.mark.parametrize(("number", "damage"), DAMAGES)
def test_damage_is_found_and_named(engine: Engine, number: int, damage: Damage) -> None:
    damage(engine)
    with pytest.raises(InvariantError, match=f"invariant {number}:"):
        validate_bitmap_engine(engine)
