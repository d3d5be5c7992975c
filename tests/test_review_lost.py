"""Reviewing recordings that lost events: what must have been is worked out, and counted apart."""

from __future__ import annotations

import gzip
import random
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recorded_engine import engine_lines, field, geometry, recording, trace_text

from percpu_lab.core import layout as L
from percpu_lab.core import replay as R
from percpu_lab.kernels import V4_13, V6_12, KernelVersion
from percpu_lab.review import FORCED, VERDICTS, Review, review
from percpu_lab.review.hindsight import Gap, Lost, gaps_of, lost_events
from percpu_lab.review.tape import Tape
from percpu_lab.traces.early import with_columns
from percpu_lab.traces.read import read_trace
from percpu_lab.traces.recorded import Loss
from percpu_lab.traces.recording import Recording, open_trace
from percpu_lab.validate import validate_engine
from percpu_lab.validate_bitmap import validate_bitmap_engine

DATA = Path(__file__).parent / "data" / "real" / "review"
seeds = st.integers(0, 10_000)
few = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
kernels = pytest.mark.parametrize("kernel", [V4_13, V6_12], ids=["v4.13", "v6.12"])


def lossy(lines: Sequence[str], lost: Sequence[int], tmp_path: Path, kernel: KernelVersion) -> Recording:
    """Leave lines out, and say so where a kernel does: before the next line of their CPU."""
    text = trace_text(lines).splitlines(keepends=True)
    missing: dict[str, int] = {}
    out = []
    for number, line in enumerate(text):
        cpu = line[line.index("[") + 1 : line.index("]")]
        if number in lost:
            missing[cpu] = missing.get(cpu, 0) + 1
            continue
        if cpu in missing:
            out.append(f"CPU:{int(cpu)} [LOST {missing.pop(cpu)} EVENTS]\n")
        out.append(line)
    path = tmp_path / "trace.txt"
    path.write_text("".join(out), encoding="utf-8")
    made = recording(lines, tmp_path, kernel=kernel)
    path.write_text("".join(out), encoding="utf-8")
    return Recording("lossy", path, read_trace(path), early=made.early, kernel=kernel, geometry=geometry(kernel))


def is_area(line: str) -> bool:
    return "alloc_percpu:" in line or "free_percpu:" in line


def is_replayable(done: Review) -> bool:
    search, replayed = done._search, done._replayed
    assert search is not None
    search.machine.restore(search.start)
    return search.machine.run(search.machine.pos, replayed.length)


# --- what must have been -----------------------------------------------------------------------


def laid_out(lines: Sequence[str], tmp_path: Path) -> Tape:
    made = recording([f"101|{number}|{line}" for number, line in enumerate(lines)], tmp_path)
    assert made.geometry is not None
    return Tape.of(made, made.geometry)


def alloc(off: int, size: int) -> str:
    place = f"base_addr=0xffff888100007000 off={off} ptr=0x{0x7000 + off:x}"
    return (
        f"percpu_alloc_percpu: call_site=0x0 reserved=0 is_atomic=0 size={size} align=8 {place}"
        f" bytes_alloc={size * 4} gfp_flags=GFP_KERNEL"
    )


def free(off: int) -> str:
    return f"percpu_free_percpu: base_addr=0xffff888100007000 off={off} ptr=0x{0x7000 + off:x}"


def test_a_place_that_is_handed_out_twice_was_freed_in_the_last_gap_between(tmp_path: Path) -> None:
    tape = laid_out([alloc(0, 64), alloc(64, 64), alloc(128, 64), alloc(0, 8)], tmp_path)
    gaps = [Gap(1, 1), Gap(2, 3), Gap(4, 4)]
    assert lost_events(tape, gaps) == [Lost(R.ROW_FREED, 0, 0, 64, 0, 3, 3)]
    assert lost_events(tape, [Gap(1, 2)]) == [Lost(R.ROW_FREED, 0, 0, 64, 0, 3, 2)]
    assert lost_events(tape, []) == [Lost(R.ROW_FREED, 0, 0, 64, 0, 3, 3)]


def test_what_is_freed_twice_was_handed_out_in_the_first_gap_between_and_reaches_as_far_as_it_can(
    tmp_path: Path,
) -> None:
    lines = [alloc(0, 64), free(0), alloc(64, 64), alloc(128, 8), free(0), alloc(0, 16), alloc(24, 8)]
    tape = laid_out(lines, tmp_path)
    assert lost_events(tape, [Gap(1, 2), Gap(3, 3)]) == [Lost(R.ROW_IN_USE, 0, 0, 32, 1, 4, 2)]
    assert lost_events(tape, [Gap(1, 1), Gap(3, 3)]) == [Lost(R.ROW_IN_USE, 0, 0, 32, 1, 4, 3)]


def test_a_whole_recording_has_lost_nothing(tmp_path: Path) -> None:
    made = recording(engine_lines(5, atomic=0.3), tmp_path)
    assert made.geometry is not None
    assert lost_events(Tape.of(made, made.geometry), []) == []


def test_a_gap_begins_behind_the_last_event_of_its_cpu(tmp_path: Path) -> None:
    lines = [f"{pid}|{number}|{alloc(64 * number, 64)}" for number, pid in enumerate((100, 101, 101, 102, 100, 101))]
    made = recording(lines, tmp_path)
    assert made.geometry is not None
    tape = Tape.of(made, made.geometry)
    losses = [Loss(4, 5, 0, 3, "LOST"), Loss(5, 6, -1, None, "LOST"), Loss(0, 1, -1, 7, "overwritten")]
    assert gaps_of(tape, losses) == [Gap(1, 4), Gap(5, 5)]


# --- reviewed -------------------------------------------------------------------------------------


@few
@kernels
@given(seed=seeds)
def test_decisions_behind_a_loss_are_explained(seed: int, kernel: KernelVersion, tmp_path: Path) -> None:
    lines = engine_lines(seed, 500, sizes=(16, 64, 256, 1024), kernel=kernel)
    start = random.Random(seed).randrange(100, 400)
    lost = [k for k in range(start, min(start + 25, len(lines))) if is_area(lines[k])]
    done = review(lossy(lines, lost, tmp_path, kernel), jit="off")
    assert sum(done.counts[verdict] for verdict in VERDICTS) == done.counts["allocs"]
    assert done.counts["forced"] <= 0.15 * done.counts["allocs"]
    assert is_replayable(done)


@few
@kernels
@given(seed=seeds)
def test_one_free_that_was_lost_is_learned(seed: int, kernel: KernelVersion, tmp_path: Path) -> None:
    lines = engine_lines(seed, 300, sizes=(64,), kernel=kernel)
    frees = [k for k in range(100, len(lines)) if "free_percpu:" in lines[k]]
    again = [
        k for k in frees
        if any("alloc_percpu:" in line and field(line, "ptr") == field(lines[k], "ptr") for line in lines[k + 1 :])
    ]  # fmt: skip
    if not again:
        return
    done = review(lossy(lines, again[:1], tmp_path, kernel), jit="off")
    assert done.counts["learned"] >= 1
    assert done.counts["forced"] <= 2
    assert is_replayable(done)


@kernels
def test_a_chunk_whose_creation_was_lost_is_there_from_the_loss_on(kernel: KernelVersion, tmp_path: Path) -> None:
    lines = engine_lines(3, 500, sizes=(1024, 8192, 24576), kernel=kernel)
    created = next(k for k, line in enumerate(lines) if "create_chunk" in line and k > 50)
    made = lossy(lines, [created], tmp_path, kernel)
    done = review(made, jit="off")
    whole = int((made.trace.event == L.EVENT_CREATE).sum()) + 1
    assert done.state_at(created - 2).scalar(L.NR_CHUNKS) < whole + 1
    assert done.counts["forced"] <= 0.02 * done.counts["allocs"]
    assert is_replayable(done)


# --- lines that are damaged ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("of", "number"), [(r"off=\d+", "off=99999996"), (r"size=\d+", "size=0"), (r"align=\d+", "align=3")]
)
def test_damaged_numbers_do_not_spoil_the_decisions_behind_them(of: str, number: str, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(DATA / "pcs-smp4-pagefc-begin", folder)
    for path in folder.glob("trace*.txt.gz"):
        lines = gzip.decompress(path.read_bytes()).decode().splitlines(keepends=True)
        of_allocs = [k for k, line in enumerate(lines) if "percpu_alloc_percpu:" in line]
        for k in of_allocs[99::300]:
            lines[k] = re.sub(f" {of}", f" {number}", lines[k])
        path.write_bytes(gzip.compress("".join(lines).encode()))
    done = review(open_trace(folder), jit="off")
    rows = done.rebuilt.outside_rows  # of the allocations, and of their frees
    rows = rows[done.recording.trace.event[rows] == L.EVENT_ALLOC]
    assert len(rows) == len(of_allocs[99::300])
    assert set(rows.tolist()) <= set(done.decisions.where(FORCED).tolist())
    assert done.counts["forced"] < 0.1 * done.counts["allocs"]


def test_a_line_that_was_left_out_counts_as_a_loss(tmp_path: Path) -> None:
    text = trace_text(engine_lines(7, sizes=(64,))).splitlines(keepends=True)
    k = next(k for k in range(100, len(text)) if "free_percpu:" in text[k])
    text[k] = text[k].replace("off=", "of")
    path = tmp_path / "trace.txt"
    path.write_text("".join(text), encoding="utf-8")
    made = Recording("cut", path, read_trace(path), early=None, kernel=V6_12, geometry=geometry())
    assert made.geometry is not None
    assert Tape.of(made, made.geometry).first_loss == k


@kernels
@pytest.mark.parametrize("seed", [116, 3011])
def test_a_place_learned_where_another_area_was_before_bears_its_own_size(
    seed: int, kernel: KernelVersion, tmp_path: Path
) -> None:
    made = recording(engine_lines(seed, 120, atomic=0.3, kernel=kernel), tmp_path, kernel=kernel)
    off = made.trace.off.copy()
    off[seed % 7 :: 7] = 1
    damaged = replace(made, trace=with_columns(made.trace, off=off))
    engine = review(damaged, jit="off").state_at(len(off))
    (validate_engine if kernel is V4_13 else validate_bitmap_engine)(engine)


def test_the_first_chunk_is_known_by_what_is_not_damaged(tmp_path: Path) -> None:
    made = recording(engine_lines(5, sizes=(64,)), tmp_path)
    off = made.trace.off.copy()
    off[::7] = 1
    damaged = replace(made, trace=with_columns(made.trace, off=off))
    counts = review(damaged, jit="off").counts
    assert counts["forced"] < 0.5 * counts["allocs"]
