from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_engine import FIRST_BASE, FakeChunk, FakeEngine
from hypothesis import given
from hypothesis import strategies as st

from percpu_lab import columns as C
from percpu_lab import raster as R
from percpu_lab import spans as S
from percpu_lab.core import layout as L
from percpu_lab.engine import Engine
from percpu_lab.events import RING_COLUMNS
from percpu_lab.geometry import Geometry
from percpu_lab.kept import Kept, KeptAreas, KeptEvents
from percpu_lab.ops import Ops
from percpu_lab.trace import Trace

UNIT = 32768


@st.composite
def area_lists(draw: st.DrawFn, start: int, end: int, first_op: int) -> list[tuple[int, tuple[int, int] | None]]:
    """Areas that tile start .. end, no two free ones side by side."""
    cuts = draw(st.lists(st.integers(start // 2, end // 2 - 1), max_size=12, unique=True).map(sorted))
    edges = [start, *(2 * cut for cut in cuts if 2 * cut > start), end]
    areas: list[tuple[int, tuple[int, int] | None]] = []
    for size in np.diff(edges).tolist():
        was_free = bool(areas) and areas[-1][1] is None
        areas.append((size, (first_op + len(areas), size) if was_free or draw(st.booleans()) else None))
    return areas


@st.composite
def engines(draw: st.DrawFn) -> FakeEngine:
    static, reserved = draw(st.sampled_from([(4096, 0), (4096, 8192), (5002, 2048)]))
    pages = st.lists(st.integers(0, 1), min_size=8, max_size=8)
    limit, chunks = static + reserved, []
    if reserved:
        areas = draw(area_lists(static, limit, 1000))
        chunks.append(FakeChunk(-1, -1, [(static, (0, 0)), *areas], [1] * 8, has_reserved=True))
    end = draw(st.sampled_from([20000, UNIT]))
    chunks.append(
        FakeChunk(
            0,
            draw(st.integers(0, 15)),
            [(limit, (0, 0)), *draw(area_lists(limit, end, 2000))],
            [1] * 8,
            has_reserved=True,
        )
    )
    for ordinal in range(1, 1 + draw(st.integers(0, 3))):
        areas = draw(area_lists(0, UNIT, 3000 * ordinal))
        chunks.append(
            FakeChunk(ordinal, draw(st.integers(0, 15)), areas, draw(pages), contig_hint=draw(st.integers(0, UNIT)))
        )
    return FakeEngine(UNIT, chunks, static, reserved, now=99999)


def naive_chunks(engine: FakeEngine) -> list[FakeChunk]:
    """In the order of percpu_stats: within a slot as they were appended."""
    return sorted(engine.chunks, key=lambda chunk: chunk.slot)


def naive_areas(engine: FakeEngine, chunk: FakeChunk) -> list[tuple[int, int, int, int, int]]:
    """(off, size, requested, birth, kind), by the words of the spec."""
    rows, off = [], 0
    for k, (size, birth) in enumerate(chunk.areas):
        if chunk.has_reserved and k == 0:
            rows.append((0, engine.static_size, 0, -1, C.STATIC))
            if size > engine.static_size:
                rows.append((engine.static_size, size - engine.static_size, 0, -1, C.RESERVED))
        elif birth is None:
            rows.append((off, size, 0, -1, C.FREE if k == len(chunk.areas) - 1 else C.HOLE))
        else:
            rows.append((off, size, birth[1], birth[0], C.IN_USE))
        off += size
    if off < engine.unit_size:
        rows.append((off, engine.unit_size - off, 0, -1, C.OUTSIDE))
    return rows


@given(engines())
def test_areas_of_a_snapshot_are_those_of_the_maps(engine: FakeEngine) -> None:
    areas = C.snapshot(engine).areas
    found = list(
        zip(
            *(
                getattr(areas, name).tolist()
                for name in ("chunk", "off_bytes", "size_bytes", "requested_bytes", "birth", "kind")
            ),
            strict=True,
        )
    )
    assert found == [
        (row, *area) for row, chunk in enumerate(naive_chunks(engine)) for area in naive_areas(engine, chunk)
    ]


@given(engines())
def test_areas_tile_every_unit(engine: FakeEngine) -> None:
    snap = C.snapshot(engine)
    for row in range(len(snap.chunks)):
        mine = snap.areas.chunk == row
        assert snap.areas.size_bytes[mine].sum() == UNIT
        assert snap.areas.off_bytes[mine].tolist() == [0, *np.cumsum(snap.areas.size_bytes[mine])[:-1].tolist()]


@given(engines())
def test_chunk_numbers_are_those_of_the_spec(engine: FakeEngine) -> None:
    chunks = C.snapshot(engine).chunks
    for row, chunk in enumerate(naive_chunks(engine)):
        free = [size for size, birth in chunk.areas if birth is None]
        begin = 1 if chunk.has_reserved else 0
        in_use = [k for k, (_, birth) in enumerate(chunk.areas) if k >= begin and birth is not None]
        holes = [size for size, birth in chunk.areas[begin : in_use[-1]] if birth is None] if in_use else []
        assert (chunks.ordinal[row], chunks.slot[row]) == (chunk.ordinal, chunk.slot)
        assert (chunks.free_bytes[row], chunks.largest_free_bytes[row]) == (sum(free), max(free, default=0))
        assert (chunks.sum_frag[row], chunks.max_frag[row]) == (sum(holes), max(holes, default=0))
        assert (chunks.contig_hint[row], chunks.nr_populated[row]) == (chunk.contig_hint, sum(chunk.pages))
        assert chunks.base_addr[row] == FIRST_BASE + engine.chunks.index(chunk) * 0x100000


@given(engines())
def test_populated_runs_are_those_of_the_page_bits(engine: FakeEngine) -> None:
    snap = C.snapshot(engine)
    pages = np.zeros((len(snap.chunks), 8), np.int64)
    for row, first, end in zip(snap.populated.chunk, snap.populated.first_page, snap.populated.end_page, strict=True):
        assert first < end
        pages[row, first:end] += 1
    assert pages.tolist() == [chunk.pages for chunk in naive_chunks(engine)]


@given(engines(), st.integers(1, 90), st.integers(0, UNIT - 1), st.integers(1, UNIT))
def test_unit_image_tells_the_share_of_each_bin_to_a_twentieth(
    engine: FakeEngine, nr_bins: int, start: int, length: int
) -> None:
    snap, end = C.snapshot(engine), min(start + length, UNIT)
    image, shares = R.unit_image(snap, nr_bins, start, end), R.code_shares()
    width = (end - start) / nr_bins
    bytes_of = np.zeros((len(snap.chunks), C.NR_KINDS, UNIT + 1))
    for chunk, off, size, kind in zip(
        snap.areas.chunk, snap.areas.off_bytes, snap.areas.size_bytes, snap.areas.kind, strict=True
    ):
        bytes_of[chunk, kind, off : off + size] = 1
    covered = np.concatenate([np.zeros((len(snap.chunks), C.NR_KINDS, 1)), bytes_of.cumsum(axis=2)], axis=2)
    edges = start + np.arange(nr_bins + 1) * width
    at = np.arange(UNIT + 2)
    for row, column in np.ndindex(image.shape):
        share = [
            np.diff(np.interp(edges[column : column + 2], at, covered[row, kind]))[0] / width
            for kind in range(C.NR_KINDS)
        ]
        code = int(image[row, column])
        if code < R.NR_MIXED:
            assert share[C.IN_USE] - 1e-6 <= shares[code][0] <= share[C.IN_USE] + 1 / R.LEVELS + 1e-6
            assert shares[code].sum() <= 1 + 1e-9
            assert shares[code][1] <= share[C.HOLE] + 1 / R.LEVELS + 1e-6
        else:
            kind = {R.CODE_STATIC: C.STATIC, R.CODE_RESERVED: C.RESERVED, R.CODE_OUTSIDE: C.OUTSIDE}[code]
            assert share[kind] >= 0.5 - 1e-6 or share[C.STATIC] + share[C.RESERVED] + share[C.OUTSIDE] >= 0.5 - 1e-6


def test_the_smallest_area_is_seen_in_the_widest_picture() -> None:
    chunk = FakeChunk(0, 5, [(16384, None), (2, (7, 2)), (16382, None)], [1] * 8)
    image = R.unit_image(C.snapshot(FakeEngine(UNIT, [chunk])), 3, 0, UNIT)
    assert R.code_shares()[image[0]][:, 0].tolist() == [0.0, 0.05, 0.0]


@given(st.integers(0, 1 << 30), st.integers(1, 150), st.integers(1, 9), st.integers(1, 20))
def test_lifetime_image_tells_the_share_of_each_pixel(seed: int, nr_ops: int, nr_bins: int, nr_rows: int) -> None:
    engine = random_engine(seed, nr_ops)
    lives = S.lifetimes(engine.events(0), C.snapshot(engine), (0, nr_bins * -(-nr_ops // nr_bins)))
    per_bin = -(-nr_ops // nr_bins)
    edges = np.linspace(0, len(lives.bands), nr_rows + 1)
    covered = np.zeros((2, nr_rows, nr_bins))
    for row in range(len(lives)):
        band = int(lives.band[row])
        span, base = int(lives.span_bytes[band]), int(lives.base_bytes[band])
        low = band + (int(lives.off_bytes[row]) - base) / span
        assert band <= low < low + int(lives.size_bytes[row]) / span <= band + 1 + 1e-9
        left = int(lives.birth[row]) // per_bin
        right = max(-(-int(lives.death[row]) // per_bin), left + 1)
        inside = np.diff(np.clip(edges, low, low + int(lives.size_bytes[row]) / span)) / (edges[1] - edges[0])
        covered[int(lives.is_live[row]), :, left:right] += inside[:, None]
    image, shares = R.lifetime_image(lives, R.PictureForm.of(lives, nr_bins, nr_rows)), R.code_shares()
    freed, live = covered
    assert (np.abs(shares[image][..., 0] - live) <= 3 / R.LEVELS).all()
    assert (shares[image][..., 1] <= freed + 3 / R.LEVELS).all()


@given(st.integers(0, 1 << 30), st.lists(st.integers(0, 40), min_size=2, max_size=12), st.integers(2, 24), st.data())
def test_a_picture_made_from_the_last_one_is_the_same(
    seed: int, steps: list[int], most: int, data: st.DataObject
) -> None:
    choice = np.random.default_rng(seed)
    engine = Engine(Geometry.simple(unit_size=32768), jit="off", ring_capacity=64, auto_balance=True)
    kept, units, live = R.LiveSteps(), R.LiveUnits(), []
    largest = data.draw(st.sampled_from([3000, 16]))  # words; all small, so that lower bands may be made of higher ones
    for nr_ops in steps:
        for _ in range(nr_ops):
            if live and choice.random() < 0.45:
                engine.free(live.pop(int(choice.integers(len(live)))))
            elif ptr := engine.alloc(4 * int(choice.integers(1, largest)), 8, bool(choice.random() < 0.1), False):
                live.append(ptr)
        events, snap = engine.events(0), C.snapshot(engine)
        start, end = S.default_window(events, snap)
        lives = S.lifetimes(events, snap, (start, end + data.draw(st.sampled_from([0, 1, 7]))))
        top = data.draw(st.sampled_from([100, 100, 1]))
        form = R.steady_form(lives, most, most, 0, top)
        assert np.array_equal(R.lifetime_image(lives, form, kept), R.lifetime_image(lives, form))
        first = data.draw(st.integers(0, 2))
        part = data.draw(st.sampled_from([16, 16, 7])), 0, 32768, slice(first, len(snap.chunks))
        assert np.array_equal(units.image(snap, *part), R.unit_image(snap, *part))


def test_rows_of_chunks_that_have_not_changed_are_not_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    unit_image, drawn = R.unit_image, []

    def count(snap: C.Snapshot, nr_bins: int, start: float, end: float, rows: slice) -> Any:
        drawn.append(rows.stop - rows.start)
        return unit_image(snap, nr_bins, start, end, rows)

    monkeypatch.setattr(R, "unit_image", count)
    geometry = Geometry.simple(unit_size=32768, static_size=4096, reserved_size=4096)  # nothing happens in the reserved
    engine, units, nr_chunks = Engine(geometry, jit="off"), R.LiveUnits(), [0]
    for _ in range(6):
        engine.run(Ops.alloc(np.arange(1500), 48), np.zeros(1500, np.int64))
        snap = C.snapshot(engine)
        nr_chunks.append(len(snap.chunks))
        image = units.image(snap, 16, 0, 32768, slice(0, len(snap.chunks)))
        assert np.array_equal(image, unit_image(snap, 16, 0, 32768))
    assert drawn == [now - before + (before > 0) for before, now in pairwise(nr_chunks)]  # new ones, and the last one


def test_what_was_kept_of_ops_that_were_undone_does_not_serve_again() -> None:
    engine = Engine(Geometry.simple(unit_size=32768), jit="off")
    kept, units, steps = Kept(), R.LiveUnits(), R.LiveSteps()

    def assert_pictures_are_true() -> None:
        now, true = C.take(engine, kept), C.take(engine)
        part = 16, 0, 32768, slice(0, len(true.snapshot.chunks))
        assert np.array_equal(units.image(now.snapshot, *part), R.unit_image(true.snapshot, *part))
        lives, true_lives = (S.lifetimes(columns.events, columns.snapshot, (0, 128)) for columns in (now, true))
        assert lives.freed.birth.tolist() == true_lives.freed.birth.tolist()
        form = R.steady_form(lives, 16, 16, 0, 100)
        assert np.array_equal(R.lifetime_image(lives, form, steps), R.lifetime_image(true_lives, form))

    def change() -> None:
        ptrs = [engine.alloc(8192, 8, False, False) for _ in range(3)]
        engine.free(ptrs[1])

    engine.alloc(64, 8, False, False)
    before = tuple(array.copy() for array in engine.arrays())
    change()
    assert_pictures_are_true()
    version = engine.version
    engine.adopt(before)
    assert engine.version > version
    for _ in range(9):
        engine.tick()
    assert_pictures_are_true()
    engine.alloc(64, 8, False, False)
    assert_pictures_are_true()


def test_a_picture_of_a_growing_window_is_made_of_the_last_one_and_of_new_areas(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add_steps, drawn = R._add_steps, []

    def count(steps: Any, left: Any, *rest: Any) -> bool:
        drawn.append(len(left))
        return add_steps(steps, left, *rest)

    monkeypatch.setattr(R, "_add_steps", count)
    engine, kept, forms = Engine(Geometry.simple(unit_size=32768), jit="off"), R.LiveSteps(), []
    nr_drawn = []
    for _ in range(12):
        engine.run(Ops.alloc(np.arange(500), 48), np.zeros(500, np.int64))
        lives = S.lifetimes(engine.events(0), C.snapshot(engine), (0, engine.now + 1))
        forms.append(R.steady_form(lives, 16, 16, 0, 100))
        picture = R.lifetime_image(lives, forms[-1])
        drawn.clear()
        assert np.array_equal(R.lifetime_image(lives, forms[-1], kept), picture)
        nr_drawn.append(sum(drawn))
    assert len({form.bin_ops for form in forms}) > 3
    assert len({form.per_band for form in forms}) > 2
    a_chunk = 32768 // 48
    assert max(nr_drawn) <= 500 + 2 * a_chunk  # of the chunks in which areas were made


@given(st.integers(0, 1 << 20), st.integers(1, 1 << 20), st.integers(0, 400))
def test_a_steady_form_covers_all_that_is_in_sight_with_at_least_half_of_the_pixels(
    start: int, length: int, nr_bands: int
) -> None:
    lives = SimpleNamespace(window=(start, start + length), bands=range(nr_bands))
    form = R.steady_form(lives, 64, 32, 0, nr_bands)  # type: ignore[arg-type]
    assert form.start <= start < start + length <= form.end
    assert form.start % form.bin_ops == 0
    assert (form.bottom, form.top) == (0, pytest.approx(max(nr_bands, 1)))
    assert min(length, 32) <= form.nr_bins <= 65
    assert 17 <= form.nr_rows <= 32


# --- frozen ---------------------------------------------------------------------------


def small_engine() -> Engine:
    engine = Engine(Geometry.simple(), jit="off")
    kept = [engine.alloc(64, 8, False, False) for _ in range(4)]
    engine.free(kept[1])
    return engine


def test_a_snapshot_cannot_be_changed() -> None:
    snap = C.snapshot(small_engine())
    with pytest.raises(ValueError, match="read-only"):
        snap.areas.off_bytes[0] = 1
    with pytest.raises(FrozenInstanceError):
        snap.op = 5  # type: ignore[misc]


def test_what_the_engine_does_later_does_not_show_in_a_snapshot() -> None:
    engine = small_engine()
    snap = C.snapshot(engine)
    arrays = [getattr(part, name) for part in (snap.chunks, snap.areas, snap.populated) for name in part.__slots__]
    before = [array.copy() for array in arrays]
    for _ in range(200):
        engine.alloc(1000, 8, False, False)
    for array, copy in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_an_area_is_found_by_the_op_of_its_allocation() -> None:
    snap = C.snapshot(small_engine())
    assert (snap.find(1), snap.find(-1)) == (None, None)
    row = snap.find(2)
    assert row is not None
    assert snap.areas.kind[row] == C.IN_USE


# --- lifetimes --------------------------------------------------------------------------


def random_engine(seed: int, ops: int, **options: Any) -> Engine:
    """An engine after some allocs, two of five freed again."""
    choice, engine = np.random.default_rng(seed), Engine(Geometry.simple(), jit="off", **options)
    live = []
    for _ in range(ops):
        if live and choice.random() < 0.4:
            engine.free(live.pop(int(choice.integers(len(live)))))
        elif ptr := engine.alloc(8 * int(choice.integers(1, 400)), 8, False, bool(choice.random() < 0.2)):
            live.append(ptr)
    return engine


@given(st.integers(0, 1 << 30), st.integers(0, 120), st.data())
def test_lifetimes_are_those_of_a_replay_of_the_events(seed: int, nr_ops: int, data: st.DataObject) -> None:
    engine = random_engine(seed, nr_ops)
    start = data.draw(st.integers(0, nr_ops))
    end = data.draw(st.integers(start, nr_ops)) + 1
    batch = engine.events(0)
    live: dict[tuple[int, int], tuple[int, int]] = {}
    expected = set()
    for op, event, chunk, off, size in zip(batch.op, batch.event, batch.chunk, batch.off, batch.size, strict=True):
        if event == L.EVENT_ALLOC:
            live[chunk, off] = (op, size)
        elif event == L.EVENT_FREE:
            expected.add((live.pop((chunk, off))[0], int(op), int(chunk), int(off), False))
    expected |= {(birth, engine.now, chunk, off, True) for (chunk, off), (birth, _) in live.items()}
    expected = {row for row in expected if row[0] < end and row[1] >= start}
    lives = S.lifetimes(batch, C.snapshot(engine), (start, end))
    assert set(zip(lives.birth, lives.death, lives.ordinal, lives.off_bytes, lives.is_live, strict=True)) == expected
    assert len(lives) == len(expected)
    marked = (batch.event >= L.EVENT_FAIL) & (batch.op >= start) & (batch.op < end)
    assert lives.marks.op.tolist() == batch.op[marked].tolist()


def test_lost_events_are_counted_and_the_rest_is_shown() -> None:
    engine = random_engine(3, 300, ring_capacity=64)
    lives = S.lifetimes(engine.events(0), C.snapshot(engine))
    assert lives.nr_lost == int(engine.g[L.RING_HEAD]) - 64
    assert lives.window[0] == int(engine.events(0).op[0])
    assert lives.is_live.sum() == len(C.snapshot(engine).areas.birth[C.snapshot(engine).areas.kind == C.IN_USE])


def test_a_chunk_made_behind_the_window_does_not_exist_in_it() -> None:
    engine = Engine(Geometry.simple(unit_size=32768), jit="off")
    for size in (64, 64, 64, 32768):
        engine.alloc(size, 8, False, False)
    lives = S.lifetimes(engine.events(0), C.snapshot(engine), (0, 2))
    assert dict(zip(lives.bands.tolist(), (lives.band_death - lives.band_birth).tolist(), strict=True)) == {0: 2, 1: 0}


def test_a_destroyed_chunk_keeps_its_band() -> None:
    engine = Engine(Geometry.simple(unit_size=32768), jit="off")
    kept = [engine.alloc(32768, 8, False, False) for _ in range(3)]
    for ptr in kept:
        engine.free(ptr)
    engine.balance()
    lives = S.lifetimes(engine.events(0), C.snapshot(engine))
    assert lives.bands.tolist() == [0, 1, 2, 3]
    assert (lives.band_death < engine.now).sum() == 2
    assert lives.band_birth[1:].tolist() == [0, 1, 2]


# --- fragmentation ------------------------------------------------------------------------


def test_the_series_ends_with_what_the_snapshot_says() -> None:
    engine = random_engine(5, 200)
    columns = C.take(engine)
    series = S.fragmentation_series(engine.history())
    for op in series.op[-3:].tolist():
        rows = engine.history()["op"] == op
        normal = rows & (engine.history()["ordinal"] >= 0)
        assert series.free_bytes[series.op == op] == engine.history()["free_bytes"][normal].sum()
        assert series.max_frag[series.op == op] == engine.history()["max_frag"][normal].max()
    assert columns.snapshot.op == engine.now


def test_the_series_of_a_chunk_that_never_was_is_empty() -> None:
    series = S.fragmentation_series(random_engine(5, 20).history(), ordinal=77)
    assert len(series) == 0
    assert len(series.external) == 0


def test_columns_have_equal_lengths_in_an_engine_without_chunks() -> None:
    snap = C.snapshot(FakeEngine(UNIT, []))
    for part in (snap.chunks, snap.areas, snap.populated):
        assert {len(getattr(part, name)) for name in part.__slots__} == {0}
    assert R.unit_image(snap, 10, 0, UNIT).shape == (0, 10)


def test_a_run_of_an_op_script_gives_the_same_columns_as_single_calls() -> None:
    script = Ops.alloc(np.arange(50), np.arange(50) * 16 + 8)
    bulk, single = Engine(Geometry.simple(), jit="off"), Engine(Geometry.simple(), jit="off")
    bulk.run(script, np.zeros(50, np.int64))
    for size in script.array[L.OPS_SIZE].tolist():
        single.alloc(size, 4, False, False)
    for name in C.AreaColumns.__slots__:
        np.testing.assert_array_equal(getattr(C.snapshot(bulk).areas, name), getattr(C.snapshot(single).areas, name))


@given(st.lists(st.tuples(st.integers(0, 90), st.booleans()), max_size=12))
def test_kept_events_are_those_of_the_ring_but_allocations(turns):
    engine, window = Engine(Geometry.simple(), jit="off", ring_capacity=64), KeptEvents()
    trace = Trace(engine)
    for nr_pairs, is_cleared in turns:
        for _ in range(nr_pairs):
            engine.free(engine.alloc(8, 8, False, False))
        if is_cleared:
            trace.clear()
        shown, held = window.read(engine), engine.events(0)
        assert (shown.first_op, shown.next_seq, shown.lost) == (held.first_op, held.next_seq, held.lost)
        rest = held.event != L.EVENT_ALLOC
        for name in ("seq", *RING_COLUMNS):
            assert getattr(shown, name).tolist() == getattr(held, name)[rest].tolist()


@pytest.mark.parametrize("kernel", ["v4.13-areamap", "v6.12-bitmap"])
@given(st.integers(0, 1 << 30), st.lists(st.integers(0, 60), max_size=12))
def test_snapshot_that_reads_only_changed_chunks_equals_one_that_reads_all(kernel, seed, turns):
    geometry = Geometry.embed(28672, cpus=2)
    engine, kept = Engine(geometry, kernel=kernel, jit="off"), KeptAreas()
    rng, ptrs = np.random.default_rng(seed), []
    for nr_ops in turns:
        for is_free, size in zip(rng.random(nr_ops) < 0.5, rng.integers(1, 9000, nr_ops).tolist(), strict=True):
            if is_free and ptrs:
                engine.free(ptrs.pop(int(rng.integers(len(ptrs)))))
            elif ptr := engine.alloc(size, 8, bool(size % 7 == 0), False):
                ptrs.append(ptr)
        engine.balance()
        assert_same_snapshot(C.snapshot(engine, kept), C.snapshot(engine))


def assert_same_snapshot(one: C.Snapshot, other: C.Snapshot) -> None:
    for part in ("chunks", "areas", "populated"):
        ours, theirs = getattr(one, part), getattr(other, part)
        for column in fields(ours):
            mine = getattr(ours, column.name)
            assert np.array_equal(mine, getattr(theirs, column.name)), column.name
            assert mine.dtype == getattr(theirs, column.name).dtype, column.name
    assert (one.op, one.unit, one.totals) == (other.op, other.unit, other.totals)


def test_kept_areas_are_not_believed_once_the_engine_has_gone_back() -> None:
    engine, kept = Engine(Geometry.simple(), jit="off"), KeptAreas()
    engine.alloc(64, 8, False, False)
    before = tuple(array.copy() for array in engine.arrays())
    engine.free(engine.alloc(96, 8, False, False))
    C.snapshot(engine, kept)
    engine.adopt(before)
    engine._use(engine._functions)
    engine.alloc(32, 8, False, False)
    assert_same_snapshot(C.snapshot(engine, kept), C.snapshot(engine))


def test_a_chunk_that_did_not_change_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, kept = Engine(Geometry.simple(unit_size=32768), jit="off"), KeptAreas()
    for _ in range(3):
        engine.alloc(24576, 8, False, False)
    C.snapshot(engine, kept)
    engine.alloc(8, 8, False, False)
    chunks_read: list[int] = []
    read = C._read_area_maps
    monkeypatch.setattr(C, "_read_area_maps", lambda map_, head: chunks_read.append(len(head)) or read(map_, head))
    assert len(C.snapshot(engine, kept).chunks) == 3
    C.snapshot(engine, kept)
    assert chunks_read == [1, 0]


def test_what_lies_behind_a_boot_chunk_lacks_no_page() -> None:
    engine = Engine(Geometry.embed(28672, cpus=2), kernel="v6.12-bitmap", jit="off")
    assert len(C.unpopulated(C.snapshot(engine))) == 0
    engine.alloc(32768, 8, False, False)  # a new chunk, of which half has pages
    gaps = C.unpopulated(C.snapshot(engine))
    assert list(zip(gaps.first_page.tolist(), gaps.end_page.tolist(), strict=True)) == [(8, 16)]
