"""What somebody types into a notebook by mistake: one clear error, and signatures that say what can be given."""

from __future__ import annotations

import inspect

import pytest

from percpu_lab import Allocator, AllocInfo
from percpu_lab.errors import GeometryError, RequestError


@pytest.mark.parametrize("wrong", [0, -1, "x", 2.5, None, True, 2**40, 10**30])
def test_what_is_no_size_of_a_ring_is_refused(wrong: object) -> None:
    with pytest.raises(RequestError, match=r"trace_events: .* is no number of events .*; give 1 to"):
        Allocator(trace_events=wrong, jit="off")  # type: ignore[arg-type]


@pytest.mark.parametrize(("asked", "made"), [(1, 2), (10, 16), (16, 16)])
def test_the_ring_is_rounded_up_to_a_power_of_two_and_says_so(asked: int, made: int) -> None:
    assert Allocator(trace_events=asked, jit="off").trace.size == made
    assert "rounded up to a power of two" in (Allocator.__doc__ or "")


@pytest.mark.parametrize("wrong", ["x", None, 3, []])
def test_an_unknown_style_is_refused(wrong: object) -> None:
    trace = Allocator(jit="off").trace
    for write in (trace.text, trace.columns().text, next(iter(trace)).text):
        with pytest.raises(RequestError, match=r"there is no style .*; choose from golden, ftrace, plain"):
            write(style=wrong)  # type: ignore[operator]


def test_a_static_size_that_looks_like_a_number_of_cpus_is_refused() -> None:
    with pytest.raises(GeometryError, match=r"static_size: 4 bytes .*cpus="):
        AllocInfo.embed(4)


def test_the_signature_of_embed_names_its_options() -> None:
    names = list(inspect.signature(AllocInfo.embed).parameters)
    assert names[:5] == ["static_size", "cpus", "reserved_size", "dyn_size", "atom_size"]
    assert "options" not in names


def test_the_signature_of_a_kernel_function_has_what_the_user_gives() -> None:
    function = Allocator(jit="off").kernel_functions.pcpu_free_area
    assert "s" not in inspect.signature(function).parameters
    assert next(iter(inspect.signature(function).parameters)) == "c"
