"""Each invariant by its number: what breaks it is found, and named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from percpu_lab.core import layout as L
from percpu_lab.engine import Engine
from percpu_lab.errors import InvariantError
from percpu_lab.geometry import Geometry
from percpu_lab.validate import validate_area_map, validate_engine, validate_slots

UNIT = 32768


@pytest.fixture
def engine() -> Engine:
    """A reserved and a first chunk, both in use, two created chunks with areas, a spare one, one destroyed."""
    engine = Engine(Geometry.simple(unit_size=40960, static_size=8192, reserved_size=8192), jit="off")
    ptrs = [engine.alloc(size, 8, False, False) for size in (64, 24512, 32768, 32768, 32768, 24576, 128, 64)]
    engine.free(ptrs[0])
    engine.alloc(64, 8, True, False)
    for ptr in (ptrs[2], ptrs[3], ptrs[4]):
        engine.free(ptr)
    engine.alloc(4000, 8, False, True)
    engine.balance()
    validate_engine(engine)
    assert [chunk.ordinal for chunk in engine.chunks()] == [0, 4, 1, 3]
    return engine


def chunk_map(engine: Engine, ordinal: int) -> np.ndarray:
    """A view of a chunk's map that writes through."""
    c = engine.handle(ordinal)
    at = int(engine.chunk[c + L.MAP])
    return engine.map[at : at + int(engine.chunk[c + L.MAP_USED]) + 1]


def word(ordinal: int, index: int, change: int) -> Callable[[Engine], None]:
    def damage(engine: Engine) -> None:
        engine.chunk[engine.handle(ordinal) + index] += change

    return damage


def scalar(index: int, change: int) -> Callable[[Engine], None]:
    def damage(engine: Engine) -> None:
        engine.g[index] += change

    return damage


def entry(ordinal: int, k: int, change: int) -> Callable[[Engine], None]:
    def damage(engine: Engine) -> None:
        chunk_map(engine, ordinal)[k] += change

    return damage


def birth(ordinal: int, off: int, value: int) -> Callable[[Engine], None]:
    def damage(engine: Engine) -> None:
        engine.births(engine.handle(ordinal)).flat[off // 2] = value

    return damage


def split_free_area(engine: Engine) -> None:
    c = engine.handle(3)
    at = engine.chunk[c + L.MAP]
    engine.map[at : at + 3] = [0, 4096, 40961]
    engine.chunk[c + L.MAP_USED] = 2


def hide_free_area(engine: Engine) -> None:
    engine.chunk[engine.handle(0) + L.FIRST_FREE] = 2


def lose_a_page(engine: Engine) -> None:
    engine.chunk[engine.handle(1) + L.POPULATED + 1] = 0


def lose_the_last_pages(engine: Engine) -> None:
    c = engine.handle(1)
    engine.chunk[c + L.POPULATED + 1 : c + L.POPULATED + 10] = 0
    engine.chunk[c + L.NR_POPULATED] = 1


def move_to_slot(slot: int) -> Callable[[Engine], None]:
    def damage(engine: Engine) -> None:
        c, head = engine.handle(1), slot * engine.scalar(L.ROW_WORDS)
        chunk = engine.chunk
        before, behind = chunk[c + L.LIST_PREV], chunk[c + L.LIST_NEXT]
        chunk[before + L.LIST_NEXT], chunk[behind + L.LIST_PREV] = behind, before
        chunk[c + L.LIST_NEXT], chunk[c + L.LIST_PREV] = head, chunk[head + L.LIST_PREV]
        chunk[chunk[head + L.LIST_PREV] + L.LIST_NEXT] = c
        chunk[head + L.LIST_PREV] = c

    return damage


def forget_order(engine: Engine) -> None:
    engine.order[2] = 0


def drop_chunk(engine: Engine) -> None:
    engine.order[0] = engine.order[2]


def close_list_early(engine: Engine) -> None:
    c = engine.handle(1)
    engine.chunk[c + L.LIST_NEXT] = c


def put_on_extend_list_one_way(engine: Engine) -> None:
    engine.chunk[engine.handle(1) + L.EXTEND_NEXT] = L.EXTEND_HEAD_ROW * engine.scalar(L.ROW_WORDS)


def put_freed_row_on_extend_list(engine: Engine) -> None:
    head, c = L.EXTEND_HEAD_ROW * engine.scalar(L.ROW_WORDS), engine.scalar(L.FREE_ROW)
    engine.chunk[[head + L.EXTEND_NEXT, head + L.EXTEND_PREV]] = c
    engine.chunk[[c + L.EXTEND_NEXT, c + L.EXTEND_PREV]] = head


def leave_birth_in_freed_row(engine: Engine) -> None:
    engine.births(engine.scalar(L.FREE_ROW)).flat[5] = 1


def lead_free_rows_into_a_chunk(engine: Engine) -> None:
    engine.chunk[engine.scalar(L.FREE_ROW) + L.LIST_NEXT] = engine.handle(1)


@pytest.mark.parametrize(
    ("number", "where", "damage"),
    [
        (1, "first chunk", entry(0, 2, -100)),
        (1, "first chunk", entry(0, 0, 2)),
        (1, "chunk 1", entry(1, 0, 2)),
        (1, "chunk 1", entry(1, -1, -1)),
        (1, "chunk 1", entry(1, -1, -2)),
        (1, "first chunk", entry(0, -1, 2)),
        (1, "first chunk", entry(0, -1, -2)),
        (1, "reserved chunk", entry(-1, -1, -2)),
        (2, "chunk 3", split_free_area),
        (3, "first chunk", word(0, L.FREE_SIZE, 2)),
        (3, "reserved chunk", word(-1, L.FREE_SIZE, -2)),
        (3, "chunk 1", entry(1, 1, -2)),
        (4, "first chunk", word(0, L.CONTIG_HINT, -4)),
        (5, "first chunk", hide_free_area),
        (5, "chunk 1", word(1, L.FIRST_FREE, -10)),
        (5, "chunk 1", word(1, L.FIRST_FREE, 10)),
        (6, "chunk 1", word(1, L.MAP_ALLOC, -126)),
        (6, "chunk 1", word(1, L.MAP_ALLOC, 1)),
        (7, "chunk 1", move_to_slot(3)),
        (7, "chunk 3", word(3, L.CONTIG_HINT, -40960)),
        (8, "chunk 1", lose_a_page),
        (8, "first chunk", word(0, L.POPULATED + 9, -1)),
        (8, "chunk 1", word(1, L.NR_POPULATED, 1)),
        (9, "chunk 1", lose_the_last_pages),
        (10, "first chunk", birth(0, 16448, 0)),
        (10, "first chunk", birth(0, 20000, 1 << 16 | 8)),
        (10, "first chunk", birth(0, 16448, 1 << 16 | 24516)),
        (10, "first chunk", birth(0, 16448, 1 << 16 | 24504)),
        (10, "first chunk", birth(0, 16448, 1 << 16 | 24511)),
        (10, "first chunk", birth(0, 16448, 1000 << 16 | 24512)),
        (11, "slot 13", close_list_early),
        (11, "slot 14", word(3, L.LIST_PREV, 1)),
        (11, "reserved chunk", word(-1, L.LIST_NEXT, 1)),
        (11, "slot 20", move_to_slot(20)),
        (12, "map_extend_chunks", put_on_extend_list_one_way),
        (12, "map_extend_chunks", put_freed_row_on_extend_list),
        (13, "free rows", scalar(L.NR_FREE_ROWS, 1)),
        (13, "free rows", leave_birth_in_freed_row),
        (13, "free rows", lead_free_rows_into_a_chunk),
        (14, "order", forget_order),
        (14, "order", drop_chunk),
        (14, "order", scalar(L.NR_ORDER, -1)),
        (15, "globals", scalar(L.NR_EMPTY_POP_PAGES, 1)),
        (15, "globals", word(1, L.CHUNK_NR_EMPTY_POP_PAGES, 1)),
        (16, "percpu_stats", scalar(L.NR_ALLOC, 1)),
        (16, "percpu_stats", scalar(L.NR_CUR_ALLOC, 1)),
        (16, "percpu_stats", scalar(L.NR_MAX_ALLOC, -7)),
        (16, "percpu_stats", scalar(L.NR_CHUNKS, 1)),
        (16, "percpu_stats", scalar(L.NR_MAX_CHUNKS, -2)),
        (16, "percpu_stats", scalar(L.MAX_ALLOC_SIZE, -2)),
        (16, "percpu_stats", scalar(L.MIN_ALLOC_SIZE, 1 << 20)),
        (16, "percpu_stats", word(1, L.CHUNK_NR_ALLOC, 1)),
        (17, "globals", scalar(L.PCPU_LOCK, 1)),
        (17, "globals", scalar(L.ALLOC_MUTEX, 1)),
        (17, "globals", scalar(L.LOG_USED, L.LOG_CAPACITY + 1)),
        (17, "chunk 1", word(1, L.BASE, 4096)),
    ],
)
def test_damage_is_found_and_named(engine: Engine, number: int, where: str, damage: Callable[[Engine], None]) -> None:
    damage(engine)
    with pytest.raises(InvariantError) as found:
        validate_engine(engine)
    assert (found.value.number, found.value.where) == (number, where)
    assert f"{where}: invariant {number}: " in str(found.value)


@pytest.mark.parametrize(
    "damage", [move_to_slot(3), close_list_early, put_on_extend_list_one_way, scalar(L.NR_FREE_ROWS, 1)]
)
def test_slots_can_be_validated_alone(engine: Engine, damage: Callable[[Engine], None]) -> None:
    validate_slots(engine)
    damage(engine)
    with pytest.raises(InvariantError):
        validate_slots(engine)


def test_every_flip_of_a_bit_that_says_in_use_is_found(engine: Engine) -> None:
    for chunk in engine.chunks():
        for k in range(chunk.map_used + 1):
            entries = chunk.map.copy()
            entries[k] ^= 1
            with pytest.raises(InvariantError):
                validate_area_map(replace(chunk, map=entries), 40960)


def test_map_of_another_length_than_map_used_is_found(engine: Engine) -> None:
    chunk = engine.chunks()[0]
    with pytest.raises(InvariantError, match="invariant 1"):
        validate_area_map(replace(chunk, map_used=chunk.map_used + 1), 40960)


def test_km_chunk_must_count_the_pages_of_its_group() -> None:
    engine = Engine(Geometry.simple(unit_size=UNIT, nr_cpus=4, backing="km"), jit="off")
    engine.alloc(24576, 8, False, False)
    engine.alloc(8, 8, False, False)
    validate_engine(engine)
    engine.chunk[engine.handle(1) + L.NR_POPULATED] = 24
    with pytest.raises(InvariantError, match="chunk 1: invariant 8"):
        validate_engine(engine)


def test_without_statistics_their_invariant_is_not_asked_for() -> None:
    engine = Engine(Geometry.simple(), jit="off", stats=False)
    engine.alloc(8, 8, False, False)
    assert engine.scalar(L.NR_ALLOC) == 0
    validate_engine(engine)


@pytest.mark.parametrize(
    ("static", "reserved", "dyn"), [(5002, 0, 20000), (5003, 0, 20000), (5003, 1001, 20001), (4, 0, 12289)]
)
def test_odd_sizes_at_setup_lose_bytes_as_the_kernel_loses_them(static: int, reserved: int, dyn: int) -> None:
    geometry = Geometry.simple(unit_size=UNIT, static_size=static, reserved_size=reserved, dyn_size=dyn)
    validate_engine(Engine(geometry, jit="off"))
