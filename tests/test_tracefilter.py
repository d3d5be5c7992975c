"""Event filters: text to tree, and the tree as a mask of columns and as the words the ring runs."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from percpu_lab import Allocator
from percpu_lab.core import layout as L
from percpu_lab.core import ring_filter
from percpu_lab.core.state import State
from percpu_lab.errors import FilterError, RequestError
from percpu_lab.events import RING_COLUMNS, EventBatch
from percpu_lab.gfp import GFP_ATOMIC, GFP_KERNEL
from percpu_lab.tracefilter import MAX_DEPTH, EventFilter
from percpu_lab.traces.read import read_trace_text

ALLOC = "percpu_alloc_percpu"
ADDRESSES = SimpleNamespace(first_chunk=0xFFFF888100000000, area_base=0x1000000000, area_stride=0x20000)
FIELDS = ("reserved", "is_atomic", "size", "align", "base_addr", "off", "ptr")
OPERATORS: dict[str, Callable[[int, int], Any]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
    "&": operator.and_,
}  # fmt: skip
CORNERS = [0, 1, 8, 64, 4096, 2**31 - 1, 2**31, 2**63 - 1, 2**63, 2**64 - 1, *vars(ADDRESSES).values()]


@cache
def compiled_filter_matches() -> Callable[..., bool]:
    numba = pytest.importorskip("numba")
    from percpu_lab.core_compiled import ring_filter as compiled

    matches = compiled.filter_matches

    @numba.njit
    def call(g, event, size, align, base_addr, off, ptr, reserved, is_atomic):  # type: ignore[no-untyped-def]
        state = State(g, g, g, g, g, g)
        return matches(state, event, size, align, base_addr, off, ptr, reserved, is_atomic)

    return call  # type: ignore[no-any-return]


def table_with(found: EventFilter) -> np.ndarray:
    g = np.zeros(L.NR_GLOBAL_WORDS, np.int64)
    at = L.FILTER_TABLE + found.point.event * L.FILTER_WORDS
    words = found.words()
    g[at], g[at + 1 : at + 1 + len(words)] = len(words), words
    return g


def plain_matches(found: EventFilter, values: dict[str, int]) -> bool:
    state = State(*[memoryview(table_with(found))] * 6)
    in_order = [values[name] for name in ("size", "align", "base_addr", "off", "ptr", "reserved", "is_atomic")]
    return ring_filter.filter_matches(state, found.point.event, *in_order)


def compiled_matches(found: EventFilter, values: dict[str, int]) -> bool:
    names = ("size", "align", "base_addr", "off", "ptr", "reserved", "is_atomic")
    signed = [int(np.uint64(values[name] % 2**64).astype(np.int64)) for name in names]
    return compiled_filter_matches()(table_with(found), found.point.event, *signed)


def event_values(batch: EventBatch, row: int) -> dict[str, int]:
    return {name: int(getattr(batch, name)[row]) for name in FIELDS}


# --- random filters, with what they mean in plain Python ---


def numbers(field: str) -> st.SearchStrategy[int]:
    if field in ("reserved", "is_atomic"):
        return st.integers(0, 2)
    if field == "off":
        return st.integers(-(2**31), 2**31 - 1) | st.sampled_from([-1, 0, 8, 4096])
    return st.sampled_from(CORNERS) | st.integers(0, 2**64 - 1)


def spelled(value: int, base: str) -> str:
    sign = "-" if value < 0 else ""
    return sign + {"d": f"{abs(value)}", "x": f"0x{abs(value):x}", "o": f"0{abs(value):o}"}[base]


@st.composite
def comparisons(draw: st.DrawFn) -> tuple[str, Callable[[dict[str, int]], bool]]:
    field, sign = draw(st.sampled_from(FIELDS)), draw(st.sampled_from(list(OPERATORS)))
    value = draw(numbers(field))
    space = draw(st.sampled_from(["", " ", "\t "]))
    text = f"{field}{space}{sign}{space}{spelled(value, draw(st.sampled_from('dxo')))}"
    return text, lambda event: bool(OPERATORS[sign](event[field], value))


def grown(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def negated(part: Any) -> Any:
        return f"!({part[0]})", lambda event: not part[1](event)

    def joined(both: tuple[Any, Any], sign: str) -> Any:
        (left, holds_left), (right, holds_right) = both
        if sign == "&&":
            return f"({left}) && ({right})", lambda event: holds_left(event) and holds_right(event)
        return f"({left})||({right})", lambda event: holds_left(event) or holds_right(event)

    return parts.map(negated) | st.builds(joined, st.tuples(parts, parts), st.sampled_from(["&&", "||"]))


filters = st.recursive(comparisons(), grown, max_leaves=8)


@st.composite
def alloc_batches(draw: st.DrawFn) -> EventBatch:
    n = 4
    columns = {name: np.zeros(n, np.int64) for name in RING_COLUMNS}
    for name, values in {
        "chunk": st.integers(-1, 3),
        "off": st.sampled_from([0, 8, 4096, 2**31 - 1]),
        "size": st.sampled_from([0, 1, 8, 64, 4096, 2**63 - 1]),
        "align": st.sampled_from([1, 8, 64, 4096]),
        "flags": st.integers(0, 3),
    }.items():
        columns[name][:] = draw(st.lists(values, min_size=n, max_size=n))
    return EventBatch(columns, 0, 0, ADDRESSES, draw(st.sampled_from([0, 2**63, 2**64 - 1])))


@given(filters, alloc_batches())
def test_words_mask_and_meaning_agree(made: tuple[str, Callable[[dict[str, int]], bool]], batch: EventBatch) -> None:
    text, holds = made
    found = EventFilter.from_text(ALLOC, text)
    rows = [event_values(batch, row) for row in range(len(batch))]
    wanted = [holds(values) for values in rows]
    assert found.mask(batch).tolist() == wanted
    assert [plain_matches(found, values) for values in rows] == wanted


@settings(max_examples=50)
@given(filters, alloc_batches())
def test_compiled_words_agree(made: tuple[str, Callable[[dict[str, int]], bool]], batch: EventBatch) -> None:
    text, holds = made
    found = EventFilter.from_text(ALLOC, text)
    for row in range(len(batch)):
        values = event_values(batch, row)
        assert compiled_matches(found, values) == holds(values)


# --- what a text means ---


def holds(text: str, **values: int) -> bool:
    return plain_matches(EventFilter.from_text(ALLOC, text), dict.fromkeys(FIELDS, 0) | values)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("size == 1 || size == 2 && align == 9", True),  # && before ||
        ("(size == 1 || size == 2) && align == 9", False),
        ("!size == 1", False),  # ! takes the whole test
        ("!!size == 1", True),
        ("!(size == 1 && align == 9)", True),
        ("!size == 1 && align == 8", False),
        ("!size == 2 && align == 8", True),
        ("size==1&&align==8", True),
        ("\tsize ==\n1 ", True),
        ("align == 010", True),
        ("align == 0X8", True),
        ("align & 0xc", True),
        ("align & 3", False),
        ("off > -1", True),
    ],
)
def test_precedence_and_numbers(text: str, wanted: bool) -> None:
    assert holds(text, size=1, align=8) is wanted


def test_addresses_compare_unsigned() -> None:
    assert holds("base_addr > 0x1000", base_addr=0xFFFF888100000000)
    assert holds("ptr & 0x8000000000000000", ptr=-1)
    assert not holds("ptr < 0x7fffffffffffffff", ptr=-1)


def test_address_beyond_64_bits_counts_modulo() -> None:
    assert holds("ptr == 16", ptr=2**64 + 16)
    assert holds("base_addr == 0x9000000000000000", base_addr=0x9000000000000000)


def test_mask_takes_only_events_of_the_tracepoint() -> None:
    columns = {name: np.zeros(3, np.int64) for name in RING_COLUMNS}
    columns |= {"event": np.array([L.EVENT_FREE, L.EVENT_ALLOC, L.EVENT_FREE]), "off": np.array([8, 8, 16])}
    batch = EventBatch(columns, 0, 0, ADDRESSES)
    assert EventFilter.from_text("percpu_free_percpu", "off == 8").mask(batch).tolist() == [True, False, False]


def test_deepest_parentheses_on_both_sides_still_count_right() -> None:
    text = "size == 9 || size == 1 && (" * MAX_DEPTH + "size == 9 || size == 1 && align == 8" + ")" * MAX_DEPTH
    assert holds(text, size=1, align=8)
    assert not holds(text, size=1, align=4)


# --- fields that came later, texts, fields of every event ---

SOCK = (
    "     sockd-7     [002] .....     1.000001: percpu_alloc_percpu: call_site=sock_prot_alloc+0x8/0x10 reserved=0"
    " is_atomic=0 size=8 align=8 base_addr=0000000011000000 off=0 ptr=0000000000000010 bytes_alloc=32"
    " gfp_flags=GFP_KERNEL|__GFP_ZERO\n"
)
OLD = (
    "     bash-9      [000] .....     1.000002: percpu_alloc_percpu: reserved=0 is_atomic=0 size=64 align=8"
    " base_addr=0000000011000000 off=64 ptr=0000000000000050\n"
)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ('call_site ~ "*sock*"', [1]),
        ('call_site ~ "sock_*_alloc+0x?/0x10"', [1]),
        ('call_site ~ "sock"', []),
        ('call_site ~ "SOCK*"', []),
        ("call_site == 'sock_prot_alloc+0x8/0x10'", [1]),
        ('call_site != "x"', [1]),  # the other does not say who asked
        ('gfp_flags ~ "*__GFP_ZERO*" && size == 8', [1]),
        ("bytes_alloc > 8", [1]),
        ("bytes_alloc < 8", []),
        ("common_pid == 9", [2]),
        ("CPU >= 1", [1]),
        ('COMM == "bash" || COMM ~ "s*d"', [1, 2]),
        ('!(COMM == "bash")', [1]),
    ],
)
def test_a_recorded_trace_is_chosen_by_texts_and_what_every_event_has(text: str, rows: list[int]) -> None:
    assert read_trace_text(SOCK + OLD, events=text).line.tolist() == rows


def test_names_of_later_fields_are_let_pass_by_events_that_lack_them() -> None:
    free = SOCK.split("percpu_alloc")[0] + "percpu_free_percpu: base_addr=0000000011000000 off=0 ptr=0000000000000010\n"
    assert read_trace_text(SOCK + free, events='call_site ~ "x*"').line.tolist() == [2]
    assert read_trace_text(SOCK + free, events='COMM ~ "x*"').line.tolist() == []


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("bytes_alloc > 100", [64, 128]),
        ("bytes_alloc == 32", [8]),
        ('gfp_flags == "GFP_ATOMIC"', [64]),
        ('gfp_flags ~ "GFP_*"', [8, 64, 128]),
        ('gfp_flags != "GFP_ATOMIC" && call_site == "0x0"', [8, 128]),
        ('call_site ~ "*sock*"', []),
        ('COMM == "percpu_lab" && common_pid == 1 && CPU == 0', [8, 64, 128]),
        ("CPU > 0", []),
    ],
)
@pytest.mark.parametrize("jit", ["off", "wait"])
def test_the_ring_of_an_engine_knows_the_fields_it_prints(text: str, sizes: list[int], jit: str) -> None:
    a = Allocator(engine="v6.12-bitmap", jit=jit)
    for size, gfp in ((8, GFP_KERNEL), (64, GFP_ATOMIC), (128, GFP_KERNEL)):
        a.alloc_percpu(size, gfp=gfp)
    made = a.trace.columns()
    assert made.size[EventFilter.from_text(ALLOC, text, later=True).mask(made)].tolist() == sizes
    a.trace.clear()
    a.trace.set_filter(ALLOC, text)
    for size, gfp in ((8, GFP_KERNEL), (64, GFP_ATOMIC), (128, GFP_KERNEL)):
        a.alloc_percpu(size, gfp=gfp)
    assert [event.size for event in a.trace if event.name == ALLOC] == sizes  # type: ignore[attr-defined]


def test_an_old_kernel_has_none_of_the_later_fields() -> None:
    with pytest.raises(FilterError, match="field 'bytes_alloc' not found"):
        Allocator(jit="off").trace.set_filter(ALLOC, "bytes_alloc > 100")


# --- errors ---


@pytest.mark.parametrize(
    ("text", "column", "what"),
    [
        ("", 1, "a field is missing"),
        ("!", 2, "a field is missing"),
        ("64 < size", 1, "a field is missing"),
        ("foo == 3", 1, "field 'foo' not found"),
        ("size > 1 && bytes_alloc > 3", 13, "field 'bytes_alloc' not found"),
        ("size", 5, "an operator is missing"),
        ("size = 4", 6, "an operator is missing"),
        ("size ~ 4", 6, "an operator is missing"),
        ("size >> 4", 7, "a number is missing"),
        ("size == 08", 9, "a number is missing"),
        ("size == 0x", 9, "a number is missing"),
        ("size == 12abc", 9, "a number is missing"),
        ('size == "x*"', 9, "a number is missing"),
        ("size == align", 9, "a number is missing"),
        ("size == \u0664", 9, "a number is missing"),
        ("size == -1", 9, "-1 does not fit size"),
        ("off == 2147483648", 8, "2147483648 does not fit off"),
        ("size == 18446744073709551616", 9, "18446744073709551616 does not fit size"),
        ("size == 4 size == 5", 11, "unexpected 'size'"),
        ("size & 4 == 4", 10, "unexpected '=='"),
        ("COMM > 3", 6, "an operator is missing"),
        ("COMM == bash", 9, "a text is missing"),
        ('COMM == "bash', 9, "a text is missing"),
        ('CPU ~ "1"', 5, "an operator is missing"),
        ("size == 4)", 10, "unexpected ')'"),
        ("align == 4 && (size == 4", 15, "this parenthesis is not closed"),
        ("(" * (MAX_DEPTH + 1) + "size == 1", MAX_DEPTH + 1, "parentheses are nested too deep"),
        (" && ".join(["size == 1"] * 86), 1, "the filter is too long"),
        ("size == 1" + " " * 4096, 4097, "the filter is longer than 4096 characters"),
    ],
)
def test_error_points_at_the_column(text: str, column: int, what: str) -> None:
    with pytest.raises(FilterError) as caught:
        EventFilter.from_text(ALLOC, text)
    assert (caught.value.what, caught.value.where) == (what, f"filter of {ALLOC}, column {column}")


def test_caret_stands_under_the_fault() -> None:
    with pytest.raises(FilterError) as caught:
        EventFilter.from_text("percpu_create_chunk", "base_addr > 3 &&\toff > 1")
    assert str(caught.value) == (
        "filter of percpu_create_chunk, column 18: field 'off' not found; fields of percpu_create_chunk: base_addr; "
        "of every event: common_pid, CPU, COMM\n"
        "    base_addr > 3 && off > 1\n"
        "                     ^"
    )


def test_eighty_five_tests_fit() -> None:
    assert holds(" && ".join(["size == 1"] * 85), size=1)


def test_unknown_tracepoint_is_refused() -> None:
    with pytest.raises(RequestError, match=ALLOC):
        EventFilter.from_text("kmalloc", "size == 1")


@given(st.text(alphabet='size off ptr&|!()<>=0123x"~\n\u00e9', max_size=40))
def test_any_text_is_a_filter_or_a_clear_error(text: str) -> None:
    try:
        problem = ""
        EventFilter.from_text(ALLOC, text)
    except FilterError as error:
        problem = error.remedy.splitlines()[-1]
    assert problem.strip() in ("", "^")


@pytest.mark.parametrize(("text", "same"), [("cpu == 0", "CPU == 0"), ('comm ~ "p*"', 'COMM ~ "p*"')])
def test_common_fields_have_small_names_too(text: str, same: str) -> None:
    assert EventFilter.from_text(ALLOC, text).root == EventFilter.from_text(ALLOC, same).root


@pytest.mark.parametrize("value", [5, ["size > 1"], True])
def test_filter_and_name_that_are_no_text_are_refused(value: Any) -> None:
    trace = Allocator(jit="off").trace
    with pytest.raises(FilterError, match="is no text"):
        trace.set_filter(ALLOC, value)
    with pytest.raises(RequestError, match="no tracepoint"):
        trace.enable(value)
    assert trace.filters == {}
