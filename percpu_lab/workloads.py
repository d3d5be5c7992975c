"""Made-up callers: pure functions from numbers to op scripts, the same script for the same numbers.

    percpu_test    allocate, free in a set order, maybe refill: the patterns of a kernel test module
    random_mix     objects come and go around a target, their sizes and lifetimes drawn from a seeded generator
    cgroup_churn   groups of objects as control groups make them; most are freed, and the rest pins the pages

>>> WORKLOADS["kernel_mix"].build(nr_ops=1000, live=100, seed=3)
<Ops: 1,000 ops, 544 ids>
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np

from .core import layout as L
from .errors import RequestError
from .ops import Ops
from .rich import Rich
from .units import PAGE_SIZE

# --- the percpu_test module ----------------------------------------------------


def percpu_test(
    pattern: int, *, nr_objects: int = 4000, size: int = 64, align: int = 4, fill: int = 2, observe: bool = True
) -> Ops:
    """Make one of the patterns of the kernel's percpu_test module; the balance work runs after each phase.

    >>> print(percpu_test(1, nr_objects=2, size=16, observe=False).to_text(), end="")
    alloc 0 16 4 0 0
    alloc 1 16 4 0 0
    balance
    free 0
    free 1
    balance

    Args:
        pattern: 1 frees in the order of allocation, 2 the evens and then the odds, 3 in reverse; 5 frees every
            `fill`-th, allocates as many again and then frees all forward, 6 the same but backward.
        nr_objects: how many are allocated first.
        size, align: of each object, in bytes.
        fill: of patterns 5 and 6.
        observe: ask for stats and state after each phase too.

    Raises:
        RequestError: there is no such pattern, or a number is too small.
    """
    _check_counts(nr_objects=(nr_objects, 1), size=(size, 0), align=(align, 0), fill=(fill, 1))
    ids = np.arange(nr_objects)
    freed = ids[::fill]
    refilled = np.arange(nr_objects, nr_objects + len(freed))
    kept = np.concatenate([np.setdiff1d(ids, freed), refilled])
    make = partial(Ops.alloc, size=size, align=align)
    phases = {
        1: (Ops.free(ids),),
        2: (Ops.free(ids[::2]), Ops.free(ids[1::2])),
        3: (Ops.free(ids[::-1]),),
        5: (Ops.free(freed), make(refilled), Ops.free(kept)),
        6: (Ops.free(freed), make(refilled), Ops.free(kept[::-1])),
    }
    if pattern not in phases:
        raise RequestError(f"no percpu_test pattern {pattern!r}", where="pattern", remedy="choose from 1, 2, 3, 5, 6")
    return _phases([make(ids), *phases[pattern]], observe)


#: what is looked at after each phase, and after the last one
_AFTER_PHASES = (("balance", "stats", "state"), ("balance", "stats", "state"), ("balance", "stats"))
_AT_END = ("state", "balance", "state", "stats")


def _phases(phases: list[Ops], observe: bool) -> Ops:
    parts = []
    for number, phase in enumerate(phases):
        is_last = number == len(phases) - 1
        marks = _AT_END if is_last else _AFTER_PHASES[number]
        parts += [phase, *(Ops.single(mark) for mark in marks if observe or mark == "balance")]
    return Ops.concat(parts)


# --- groups that are freed whole -------------------------------------------------

#: (size, align) of what a Debian 6.1 kernel with 4 CPUs allocates for a new control group, in this order; a recording
#: of 91 groups has 91 times as much. 1064 and 688 are the statistics of the memory controller, 128 is pressure stall
#: information, 8 are references.
CGROUP_REQUESTS = (
    (8, 8), (64, 8), (128, 64), (8, 8), (8, 8), (8, 8), (8, 8), (1064, 8), (688, 8), (4, 4), (8, 8), (8, 8), (32, 8),
    (8, 8), (8, 8),
)  # fmt: skip


def cgroup_churn(*, nr_groups: int = 11_000, keep_every: int = 11, balance_every: int = 1) -> Ops:
    """Make control groups, and remove all but every keep_every-th: what stays is spread over all chunks.

    >>> cgroup_churn(nr_groups=22)
    <Ops: 672 ops, 330 ids>

    Args:
        nr_groups: how many are made, each with the areas of CGROUP_REQUESTS.
        keep_every: the first of each so many stays.
        balance_every: after every how many groups the balance work gets its chance; 0 never.

    Raises:
        RequestError: a number is too small.
    """
    _check_counts(nr_groups=(nr_groups, 1), keep_every=(keep_every, 1), balance_every=(balance_every, 0))
    size, align = np.tile(np.array(CGROUP_REQUESTS), (nr_groups, 1)).T
    ids = np.arange(len(size)).reshape(nr_groups, -1)
    removed = np.arange(nr_groups) % keep_every != 0
    made, freed = Ops.alloc(ids.ravel(), size, align), Ops.free(ids[removed].ravel())
    return Ops.concat([_with_balance(part, balance_every * ids.shape[1]) for part in (made, freed)])


def _with_balance(ops: Ops, every: int) -> Ops:
    """Let the balance work have its chance after every so many ops."""
    places = np.arange(every, len(ops) + 1, every) if every else np.zeros(0, np.int64)
    return Ops(np.insert(ops.array, places, Ops.single("balance").array, axis=1))


# --- sizes -----------------------------------------------------------------------

#: (size, align, how often) of the requests of a Debian 6.1 kernel with 4 CPUs, from early boot through programs that
#: make and drop network namespaces, cgroups, mounts, interfaces, BPF maps, firewall rules, and fork; rare ones left out
KERNEL_REQUESTS = (
    (8, 8, 2890), (64, 8, 2529), (4, 4, 2021), (40, 8, 799), (16, 8, 782), (80, 8, 689), (296, 8, 629), (48, 8, 486),
    (128, 8, 331), (96, 8, 280), (24, 8, 210), (16, 16, 205), (240, 8, 170), (56, 8, 169), (260, 4, 169), (232, 8, 169),
    (1008, 8, 169), (256, 8, 167), (32, 8, 139), (32, 16, 128), (8, 4, 115), (200, 8, 98), (688, 8, 92), (1064, 8, 92),
    (128, 64, 91), (32, 32, 83), (176, 8, 72), (4096, 8, 51), (384, 8, 49), (256, 256, 49), (2048, 8, 44), (144, 8, 36),
    (1024, 8, 26), (152, 8, 18), (640, 8, 13), (192, 64, 13), (32760, 8, 12), (4096, 4096, 10), (12288, 8, 6),
)  # fmt: skip
_TINY_AND_PAGES = ((8, 8, 25), (16, 8, 25), (3000, 8, 15), (4080, 8, 15), (4096, 8, 20))
_LARGEST_MIXED_SIZE = PAGE_SIZE

# Alignments below 4 are left out: they can leave holes of 2 bytes, and of nothing else, on which v4.13 itself crashes.
_ALIGNS = 4 << np.arange(11)

_T = TypeVar("_T")
SizesAndAligns = tuple[np.ndarray, np.ndarray]


def _from_table(table: tuple[tuple[int, int, int], ...], rng: np.random.Generator, count: int) -> SizesAndAligns:
    sizes, aligns, weights = np.array(table).T
    shares = np.cumsum(weights) / weights.sum()
    rows = np.searchsorted(shares, rng.random(count), side="right")
    return sizes[rows], aligns[rows]


def _uniform(rng: np.random.Generator, count: int) -> SizesAndAligns:
    return _draw(rng, count, _LARGEST_MIXED_SIZE) + 1, _ALIGNS[_draw(rng, count, len(_ALIGNS))]


def _loguniform(rng: np.random.Generator, count: int) -> SizesAndAligns:
    sizes = np.exp(rng.random(count) * np.log(_LARGEST_MIXED_SIZE)).astype(np.int64)
    return sizes, _ALIGNS[_draw(rng, count, len(_ALIGNS))]


def _draw(rng: np.random.Generator, count: int, limit: int) -> np.ndarray:
    """Draw whole numbers below a limit; only random() is used, whose stream numpy keeps from release to release."""
    return (rng.random(count) * limit).astype(np.int64)


SIZE_MIXES: Mapping[str, Callable[[np.random.Generator, int], SizesAndAligns]] = {
    "kernel": partial(_from_table, KERNEL_REQUESTS),
    "uniform": _uniform,
    "loguniform": _loguniform,
    "bimodal": partial(_from_table, _TINY_AND_PAGES),
}

# --- lifetimes ---------------------------------------------------------------------


def _oldest_first(is_alloc: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.arange(len(is_alloc) - np.count_nonzero(is_alloc))


def _newest_first(is_alloc: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    live: list[int] = []
    freed: list[int] = []
    ids = iter(range(len(is_alloc)))
    for alloc in is_alloc.tolist():
        if alloc:
            live.append(next(ids))
        else:
            freed.append(live.pop())
    return np.array(freed, np.int64)


def _any(is_alloc: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    live: list[int] = []
    freed: list[int] = []
    ids = iter(range(len(is_alloc)))
    for alloc, draw in zip(is_alloc.tolist(), rng.random(len(is_alloc)).tolist(), strict=True):
        if alloc:
            live.append(next(ids))
        else:
            freed.append(_take(live, draw))
    return np.array(freed, np.int64)


#: share of the frees that take a young object, and share of the live objects that are young
_YOUNG_DEATHS, _YOUNG_SHARE = 0.8, 0.125


def _young_first(is_alloc: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    nr_young = max(1, int(_YOUNG_SHARE * int((2 * is_alloc - 1).cumsum().max(initial=0))))
    young: list[int] = []
    old: list[int] = []
    freed: list[int] = []
    ids = iter(range(len(is_alloc)))
    draws = rng.random((2, len(is_alloc))).tolist()
    for alloc, draw, generation in zip(is_alloc.tolist(), *draws, strict=True):
        if alloc:
            young.append(next(ids))
            if len(young) > nr_young:
                old.append(_take(young, draw))
        else:
            freed.append(_take(young if young and (generation < _YOUNG_DEATHS or not old) else old, draw))
    return np.array(freed, np.int64)


def _take(live: list[int], draw: float) -> int:
    """Take an object out of the list, which one says a number from 0 up to, not including, 1."""
    at = int(draw * len(live))
    live[at], live[-1] = live[-1], live[at]
    return live.pop()


#: name -> function that says which id each free takes
LIFETIMES: Mapping[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "fifo": _oldest_first,
    "lifo": _newest_first,
    "random": _any,
    "generational": _young_first,
}

# --- random mixes --------------------------------------------------------------------


def random_mix(
    *,
    nr_ops: int = 10_000,
    live: int = 1_000,
    seed: int = 0,
    sizes: str = "kernel",
    lifetime: str = "random",
    atomic_share: float = 0.1,
    reserved_share: float = 0.0,
    balance_every: int = 50,
) -> Ops:
    """Make a caller that allocates up to a number of live objects, then allocates and frees around it.

    >>> random_mix(nr_ops=100, live=10, seed=1).to_text() == random_mix(nr_ops=100, live=10, seed=1).to_text()
    True

    Args:
        nr_ops: length of the script, the balance ops included.
        live: target of objects allocated at once; it is kept within a tenth, at least 1, as far as allocations succeed.
        seed: of the generator; any whole number from 0.
        sizes: "kernel" as a running kernel asks (KERNEL_REQUESTS), "uniform" or "loguniform" from 1 to 4096 bytes
            aligned to 4 up to 4096, "bimodal" tiny and page-sized.
        lifetime: which object a free takes: "fifo" the oldest, "lifo" the newest, "random" any, "generational" mostly a
            young one.
        atomic_share: share of the requests that cannot sleep, from 0 to 1.
        reserved_share: share of the requests for the reserved chunk, from 0 to 1.
        balance_every: every how many ops the balance work gets its chance; 0 never.

    Raises:
        RequestError: an argument is out of its range, or names no size mix or lifetime.
    """
    _check_counts(nr_ops=(nr_ops, 0), live=(live, 1), seed=(seed, 0), balance_every=(balance_every, 0))
    _check_shares(atomic_share=atomic_share, reserved_share=reserved_share)
    draw_sizes, choose = _choice("sizes", sizes, SIZE_MIXES), _choice("lifetime", lifetime, LIFETIMES)
    rng = np.random.Generator(np.random.PCG64(seed))
    is_balance = np.zeros(nr_ops, bool)
    if balance_every:
        is_balance[balance_every - 1 :: balance_every] = True
    is_alloc = _allocs_and_frees(nr_ops - int(is_balance.sum()), live, rng)
    nr_allocs = int(is_alloc.sum())
    size, align = draw_sizes(rng, nr_allocs)
    atomic, reserved = rng.random((2, nr_allocs)) < ((atomic_share,), (reserved_share,))
    array = np.zeros((L.NR_OPS_COLUMNS, nr_ops), np.int64)
    array[L.OPS_KIND, is_balance] = L.OP_BALANCE
    steps = np.flatnonzero(~is_balance)
    array[:, steps[is_alloc]] = Ops.alloc(np.arange(nr_allocs), size, align, reserved=reserved, atomic=atomic).array
    array[:, steps[~is_alloc]] = Ops.free(choose(is_alloc, rng)).array
    return Ops(array)


def _allocs_and_frees(nr_steps: int, live: int, rng: np.random.Generator) -> np.ndarray:
    """Say for each step whether it allocates: up to the target, then a random walk that is turned back near it."""
    ramp = min(live, nr_steps)
    spread = max(1, live // 10)
    steps = np.where(rng.random(nr_steps - ramp) < 0.5, 1, -1)
    around = (np.cumsum(steps) + spread) % (4 * spread)
    height = spread - np.abs(around - 2 * spread)  # a walk folded at -spread and at spread
    return np.concatenate([np.ones(ramp, bool), np.diff(height, prepend=0) > 0])


# --- arguments -------------------------------------------------------------------------


def _check_counts(**counts: tuple[object, int]) -> None:
    for name, (value, least) in counts.items():
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or not least <= value < 1 << 63:
            what = f"{value!r:.60} is not a whole number from {least} up to 63 bits"
            raise RequestError(what, where=name, remedy="give one")


def _check_shares(**shares: object) -> None:
    for name, value in shares.items():
        if not isinstance(value, (int, float, np.number)) or not 0 <= value <= 1:
            raise RequestError(f"{value!r} is not a share from 0 to 1", where=name, remedy="write 0.1 for a tenth")


def _choice(name: str, value: str, choices: Mapping[str, _T]) -> _T:
    if value not in choices:
        raise RequestError(f"there is no {value!r}", where=name, remedy=f"choose from {', '.join(choices)}")
    return choices[value]


# --- the registry ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, repr=False)
class Workload(Rich):
    """A named op script in waiting.

    Args:
        name: the key it stands under in WORKLOADS.
        description: one line on what it does, and why one would look at it.
        parameters: what can be chosen, and what is chosen for you.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    _make: Callable[..., Ops] = field(repr=False)

    def __repr__(self) -> str:
        return f"<Workload {self.name!r}: {', '.join(f'{name}={value!r}' for name, value in self.parameters.items())}>"

    def _html_fields(self) -> list[tuple[str, object]]:
        return [("description", self.description), *self.parameters.items()]

    def build(self, **parameters: Any) -> Ops:
        """Make the script.

        >>> WORKLOADS["percpu_test3"].build(nr_objects=100)
        <Ops: 207 ops, 100 ids>

        Args:
            parameters: those that differ from `.parameters`.

        Raises:
            RequestError: an unknown parameter, or a value out of its range.
        """
        for name in parameters:
            _choice("parameter", name, self.parameters)
        return self._make(**{**self.parameters, **parameters})


def _entry(name: str, description: str, make: Callable[..., Ops], fixed: Mapping[str, Any], **changed: Any) -> Workload:
    """Enter a function of the above under a name, with some of its arguments fixed and some defaults changed."""
    defaults = {key: value for key, value in (make.__kwdefaults__ or {}).items() if key not in fixed}
    return Workload(name, description, MappingProxyType({**defaults, **changed}), partial(make, **fixed))


def _pattern(number: int, description: str) -> Workload:
    return _entry(f"percpu_test{number}", description, percpu_test, {"pattern": number})


def _mix(name: str, description: str, *fixed: str, **changed: Any) -> Workload:
    return _entry(name, description, random_mix, {key: changed.pop(key) for key in fixed}, **changed)


WORKLOADS: Mapping[str, Workload] = {
    workload.name: workload
    for workload in (
        _pattern(1, "objects of one size, freed in the order of allocation: each chunk empties from the bottom"),
        _pattern(2, "objects of one size, the evens freed first: every second area is a hole, then none"),
        _pattern(3, "objects of one size, freed in reverse: each chunk empties from the top"),
        _pattern(5, "every fill-th object freed and allocated anew: holes are found again; then freed forward"),
        _pattern(6, "every fill-th object freed and allocated anew: holes are found again; then freed backward"),
        _entry("cgroup_churn", "control groups, 10 of 11 removed: the rest pins pages all over", cgroup_churn, {}),
        _mix("kernel_mix", "the requests of a running kernel, freed at random", "sizes", sizes="kernel"),
        _mix("uniform", "sizes and alignments with nothing in common: much fragmentation", "sizes", sizes="uniform"),
        _mix("loguniform", "sizes from 1 to 4096 bytes, as many per power of two", "sizes", sizes="loguniform"),
        _mix("bimodal", "tiny and page-sized objects, oldest freed first", "sizes", sizes="bimodal", lifetime="fifo"),
        _mix("lifo", "a stack: the newest object is freed first", "lifetime", lifetime="lifo"),
        _mix("generational", "most objects die young, few pin their chunks", "lifetime", lifetime="generational"),
        _mix("atomic", "most requests cannot sleep: they live on what is ready", atomic_share=0.75, balance_every=200),
        _mix("reserved", "half the requests are for modules: the reserved chunk runs out", reserved_share=0.5),
        _mix("benchmark", "a million requests and frees around 20,000 live objects", nr_ops=1_000_000, live=20_000),
    )
}
