"""Reviewing what an engine itself decided, in order, out of order, from the midst on, and falsified."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recorded_engine import KWORKER, engine_lines, field, recording

from percpu_lab.review import FORCED, REORDERED, VERDICTS, review
from percpu_lab.traces.early import with_columns
from percpu_lab.validate_bitmap import validate_bitmap_engine

seeds = st.integers(0, 10_000)
few = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@few
@given(seed=seeds)
def test_decisions_in_order_are_all_exact(seed: int, tmp_path: Path) -> None:
    done = review(recording(engine_lines(seed), tmp_path), jit="off")
    assert done.counts["exact"] == done.counts["allocs"] > 0
    assert all(chunk.is_foreseen for chunk in done.chunks)


@few
@given(seed=seeds)
def test_atomic_requests_and_their_failures_are_explained(seed: int, tmp_path: Path) -> None:
    done = review(recording(engine_lines(seed, atomic=0.5), tmp_path), jit="off")
    assert done.counts["forced"] == 0
    assert all(failure.is_explained for failure in done.failures)


def swappable(lines: list[str]) -> list[int]:
    """Places where two allocations of different tasks follow each other in one chunk, of a size each."""
    places = []
    for k, (one, other) in enumerate(pairwise(lines)):
        allocs = "alloc_percpu:" in one and "alloc_percpu:" in other
        tasks = one.split("|")[0] != other.split("|")[0]
        alike = field(one, "base_addr") == field(other, "base_addr") and field(one, "size") == field(other, "size")
        if allocs and tasks and alike and field(one, "align") == field(other, "align"):
            places.append(k)
    return places


@few
@given(seed=seeds, pick=st.integers(0, 1000))
def test_two_allocations_recorded_the_wrong_way_round_are_put_right(seed: int, pick: int, tmp_path: Path) -> None:
    lines = engine_lines(seed, sizes=(64, 64, 256))
    places = swappable(lines)
    if not places:
        return
    k = places[pick % len(places)]
    lines[k], lines[k + 1] = lines[k + 1], lines[k]
    done = review(recording(lines, tmp_path), jit="off")
    assert done.counts["forced"] == 0
    assert done.counts["reordered"] == 1
    assert int(done.decisions.where(REORDERED)[0]) in (k, k + 1)


@few
@given(seed=seeds, delay=st.integers(2, 8))
def test_an_allocation_recorded_late_is_moved_back(seed: int, delay: int, tmp_path: Path) -> None:
    lines = engine_lines(seed)
    late = next(k for k in range(120, len(lines)) if "alloc_percpu:" in lines[k])
    pid = lines[late].split("|")[0]
    stop = late + 1
    while stop < min(late + delay, len(lines)) and lines[stop].split("|")[0] not in (pid, str(KWORKER)):
        if field(lines[stop], "ptr") == field(lines[late], "ptr"):
            break
        stop += 1
    lines.insert(stop - 1, lines.pop(late))
    done = review(recording(lines, tmp_path), jit="off")
    assert done.counts["forced"] == 0


@few
@given(seed=seeds)
def test_what_was_in_use_before_the_recording_is_found_out(seed: int, tmp_path: Path) -> None:
    lines = engine_lines(seed, 300, sizes=(16, 64, 256))
    done = review(recording(lines[len(lines) // 2 :], tmp_path, whole=False), jit="off")
    counts = done.counts
    assert counts["exact"] + counts["learned"] + counts["reordered"] > 0.5 * counts["allocs"]
    assert done.trusted_until == 0


def test_a_false_place_is_not_explained_and_does_not_spoil_what_follows(tmp_path: Path) -> None:
    lines = engine_lines(7, sizes=(64,))
    k = next(k for k in range(100, len(lines)) if "alloc_percpu:" in lines[k])
    off = int(field(lines[k], "off"))
    false = off + 16_384
    ptr = field(lines[k], "ptr")
    lines[k] = lines[k].replace(f"off={off} ", f"off={false} ")
    lines[k + 1 :] = [
        line.replace(f"off={off} ", f"off={false} ") if field(line, "ptr") == ptr and "free_percpu" in line else line
        for line in lines[k + 1 :]
    ]
    done = review(recording(lines, tmp_path), jit="off")
    assert k in done.decisions.where(FORCED)
    assert done.counts["exact"] > 0.9 * done.counts["allocs"]
    row = int(np.flatnonzero(done.decisions.row == k)[0])
    assert done.decisions.predicted_off[row] == off
    assert "the model wants" in next(iter(done.forced_causes()))


def test_a_place_outside_its_chunk_is_not_explained(tmp_path: Path) -> None:
    lines = engine_lines(7, sizes=(64,))
    k = next(k for k in range(100, len(lines)) if "alloc_percpu:" in lines[k])
    lines[k] = lines[k].replace(f"off={field(lines[k], 'off')} ", "off=400000 ")
    done = review(recording(lines, tmp_path), jit="off")
    assert done.forced_causes()["the chunk is not known"] == 1
    assert done.counts["exact"] > 0.9 * done.counts["allocs"]


@few
@given(seed=seeds, column=st.sampled_from(["off", "size", "align", "base_addr"]), value=st.integers(-5, 70_000))
def test_damaged_numbers_do_no_harm(seed: int, column: str, value: int, tmp_path: Path) -> None:
    made = recording(engine_lines(seed, 120, atomic=0.3), tmp_path)
    values = getattr(made.trace, column).copy()
    values[seed % 7 :: 7] = max(value, 0) if column == "base_addr" else value
    damaged = replace(made, trace=with_columns(made.trace, **{column: values}))
    done = review(damaged, jit="off")
    assert sum(done.counts[verdict] for verdict in VERDICTS) == done.counts["allocs"]
    validate_bitmap_engine(done.state_at(len(damaged.trace)))
