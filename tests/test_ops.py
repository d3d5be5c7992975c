"""Op scripts: text in and out, and what compiled code must be able to trust."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from percpu_lab.core import layout as L
from percpu_lab.engine import Engine
from percpu_lab.errors import CaseError, ForeignPointerError, RequestError
from percpu_lab.geometry import Geometry
from percpu_lab.ops import Ops

U64 = st.one_of(st.integers(0, (1 << 64) - 1), st.integers(0, 5000), st.integers((1 << 63) - 4, (1 << 63) + 4))
INT64 = st.integers(0, (1 << 63) - 1)
NAMES = st.from_regex(r"[!-~]{1,8}", fullmatch=True)
LINES = st.one_of(
    st.builds("alloc {} {} {} {:d} {:d}".format, NAMES, U64, U64, st.booleans(), st.booleans()),
    st.builds("free {}".format, NAMES),
    st.builds("fault {} {} {}".format, st.sampled_from(L.FAULT_KINDS), INT64, INT64),
    st.sampled_from(["balance", "stats", "state"]),
)


@given(st.lists(LINES))
def test_text_comes_out_as_it_went_in(lines: list[str]) -> None:
    text = "".join(f"{line}\n" for line in lines)
    ops = Ops.from_text(text)
    assert ops.to_text() == text
    assert len(ops) == len(lines)
    names = {line.split()[1] for line in lines if line.startswith(("alloc", "free"))}
    assert ops.nr_ids == len(names)


def test_fault_without_skip_skips_nothing() -> None:
    assert Ops.from_text("fault mem 2").to_text() == "fault mem 2 0\n"


def test_last_line_needs_no_end() -> None:
    assert len(Ops.from_text("balance\nbalance")) == 2
    assert len(Ops.from_text("")) == 0


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("", "unknown op ''"),
        ("grow 7", "unknown op 'grow 7'"),
        ("ALLOC 1 8 8 0 0", "unknown op"),
        ("alloc 1 8 8 0", "alloc takes 5 operands, not 4"),
        ("alloc 1 8 8 0 0 0", "alloc takes 5 operands, not 6"),
        ("free", "free takes 1 operands, not 0"),
        ("balance 1", "balance takes 0 operands, not 1"),
        ("alloc 1 -8 8 0 0", "'-8' is not a number"),
        ("alloc 1 8.0 8 0 0", "'8.0' is not a number"),
        ("alloc 1 ８ 8 0 0", "'８' is not a number"),
        ("alloc 1 1_000 8 0 0", "'1_000' is not a number"),
        ("alloc 1 18446744073709551616 8 0 0", "is not a number from 0 to 18446744073709551615"),
        ("alloc 1 " + "9" * 5000 + " 8 0 0", "is not a number from 0"),
        ("alloc 1 8 8 2 0", "RESERVED and ATOMIC are 0 or 1"),
        ("alloc 1 8 8 0 18446744073709551615", "is not a number from 0"),
        ("fault disk 1", "unknown kind of fault 'disk'"),
        ("fault mem 1 2 3", "fault takes 2 or 3 operands, not 4"),
        ("fault mem 9223372036854775808", "is not a number from 0 to 9223372036854775807"),
    ],
)
def test_bad_line_is_named_with_its_number(line: str, complaint: str) -> None:
    with pytest.raises(CaseError) as caught:
        Ops.from_text(f"balance\n{line}\nbalance\n", where="ops.txt")
    assert caught.value.where == "ops.txt line 2"
    assert complaint in str(caught.value)
    assert len(str(caught.value)) < 300


def test_text_is_cut_at_line_feeds_only() -> None:
    with pytest.raises(CaseError, match="line 1: unknown op"):
        Ops.from_text("bal\x85ance\n")


def test_sizes_at_the_end_of_64_bits_run_as_single_requests_do() -> None:
    numbers = [(1 << 64) - 1, (1 << 64) - 2, 1 << 63, (1 << 63) - 1, (1 << 62) + 1]
    script, single = (Engine(Geometry.simple(), jit="off") for _ in range(2))
    ops = Ops.from_text("".join(f"alloc {n} {n} {n} 0 0\n" for n in numbers))
    script.run(ops, np.zeros(ops.nr_ids, np.int64))
    for number in numbers:
        single.alloc(number, number, False, False)
    assert script.dmesg() == single.dmesg()


def test_builders_make_one_op_an_id() -> None:
    ops = Ops.concat(
        [
            Ops.alloc(np.arange(3), np.array([8, 16, 24]), 4, reserved=np.array([0, 1, 0], bool), atomic=True),
            Ops.free(np.array([2, 0])),
            Ops.single("balance"),
        ]
    )
    assert ops.to_text().splitlines() == [
        "alloc 0 8 4 0 1",
        "alloc 1 16 4 1 1",
        "alloc 2 24 4 0 1",
        "free 2",
        "free 0",
        "balance",
    ]
    assert (ops.nr_ids, repr(ops)) == (3, "<Ops: 6 ops, 3 ids>")


def columns(kind: int, number: int = 0, size: int = 0, align: int = 0) -> np.ndarray:
    return np.array([[kind], [number], [size], [align], [0]])


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(5, np.int64),
        np.zeros((4, 2), np.int64),
        columns(L.NR_OP_KINDS),
        columns(-1),
        columns(L.OP_ALLOC, -1, 8, 8),
        columns(L.OP_FREE, -5),
        columns(L.OP_FAULT, L.NR_FAULT_KINDS, 1),
        columns(L.OP_FAULT, 0, -1),
        columns(L.OP_FAULT, 0, 1, -1),
    ],
)
def test_array_that_is_no_script_is_refused(array: np.ndarray) -> None:
    with pytest.raises(RequestError, match=r"^Ops: "):
        Ops(array)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Ops.alloc(None, 8), "ids: None is no integer"),
        (lambda: Ops.alloc(3, 8), "ids: 3 is no list of ids"),
        (lambda: Ops.alloc(["a"], 8), r"ids: \['a'\] is no integer"),
        (lambda: Ops.alloc(np.arange(3), "x"), "size: 'x' is no integer"),
        (lambda: Ops.alloc(np.arange(3), 8.5), "size: 8.5 is no integer"),
        (lambda: Ops.alloc(np.arange(3), 1 << 64), "size: 18446744073709551616 is no integer of up to 64 bits"),
        (lambda: Ops.alloc(np.arange(3), np.arange(2)), "size: 2 values for 3 ids"),
        (lambda: Ops.alloc(np.arange(3), 8, [4, 4]), "align: 2 values for 3 ids"),
        (lambda: Ops.alloc(np.arange(3), 8, atomic="no"), "atomic: 'no' is no integer"),
        (lambda: Ops.free(7), "ids: 7 is no list of ids"),
        (lambda: Ops.free(np.array([0.5])), "ids: array"),
    ],
)
def test_what_is_no_number_is_refused_by_name(make: Callable[[], Ops], complaint: str) -> None:
    with pytest.raises(RequestError, match=f"^Ops, {complaint}"):
        make()


def test_sizes_of_64_bits_and_flags_one_an_id_are_taken() -> None:
    ops = Ops.alloc([0, 1], 1 << 63, np.array([8, 16], np.uint8), reserved=[True, False], atomic=np.array([0, 1]))
    assert ops.to_text() == "alloc 0 9223372036854775808 8 1 0\nalloc 1 9223372036854775808 16 0 1\n"


@pytest.fixture(params=["off", "wait"])
def engine(request: pytest.FixtureRequest) -> Engine:
    if request.param == "wait":
        pytest.importorskip("numba")
    return Engine(Geometry.simple(), jit=request.param)


def test_script_without_ids_needs_no_table(engine: Engine) -> None:
    assert engine.run(Ops.single("balance"), np.zeros(0, np.int64)) == 1


@pytest.mark.parametrize(
    "ids",
    [
        np.zeros(1, np.int64),
        np.zeros(2, np.int32),
        np.zeros((2, 1), np.int64),
        np.zeros(4, np.int64)[::2],
        np.broadcast_to(np.int64(0), 2),
    ],
)
def test_table_that_does_not_fit_is_refused_before_anything_is_done(engine: Engine, ids: np.ndarray) -> None:
    with pytest.raises(RequestError, match=r"^ids: "):
        engine.run(Ops.alloc(np.arange(2), 8), ids)
    assert engine.now == 0


@pytest.mark.parametrize(("start", "stop"), [(-1, None), (0, 3), (3, 9)])
def test_ops_that_are_not_there_are_refused(engine: Engine, start: int, stop: int | None) -> None:
    with pytest.raises(RequestError, match="the script has ops 0 to 1"):
        engine.run(Ops.alloc(np.arange(2), 8), np.zeros(2, np.int64), start, stop)
    assert engine.now == 0


def test_table_with_numbers_that_are_no_pointers_frees_nothing(engine: Engine) -> None:
    ids = np.array([1 << 40, 0], np.int64)
    with pytest.raises(ForeignPointerError, match=r"^op 1: free_percpu\(0x10000000000\)"):
        engine.run(Ops.from_text("balance\nfree a\nbalance\n"), ids)
    assert (engine.now, ids.tolist()) == (1, [1 << 40, 0])
