"""The kernel's own functions, one by one, with the locks that are held or not: what lockdep would say.

    who calls it           needs                                  kernel's own check
    pcpu_free_area         pcpu_lock                              lockdep_assert_held
    pcpu_alloc_area        pcpu_lock                              none
    pcpu_create_chunk      pcpu_alloc_mutex, not pcpu_lock        none
    ...                    RULES

A block under a lock, or a single call under none, is a transaction: at its end, when the last lock is given back, the
invariants must hold. If they do not, or if anything was raised, all is as it was before.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from types import MappingProxyType
from typing import Any

import numpy as np

from .core import backing, counters, request
from .core import layout as L
from .core.bitmap import PCPU_MIN_ALLOC_SIZE
from .core.locks import mutex_lock, mutex_unlock, spin_lock, spin_unlock
from .core.state import State
from .engine import Engine
from .errors import InvariantError, LockdepError, RequestError
from .interrupts import deferred_interrupt
from .models import AREA_MAP
from .rich import Rich
from .validate import validate_engine
from .validate_bitmap import areas_in_use, validate_bitmap_engine

__all__ = ["RULES", "KernelFunctions", "LockRule"]


@dataclass(frozen=True, slots=True)
class LockRule:
    """Which locks a function must find held (True) or free (False); None where it does not matter.

    Args:
        asserted: the kernel itself checks it, where lockdep is on.
    """

    pcpu_alloc_mutex: bool | None
    pcpu_lock: bool | None
    asserted: bool


_UNDER_LOCK = LockRule(None, True, asserted=True)
_UNDER_LOCK_UNCHECKED = LockRule(None, True, asserted=False)
_UNDER_MUTEX = LockRule(True, False, asserted=True)
_UNDER_MUTEX_UNCHECKED = LockRule(True, False, asserted=False)
_TAKES_LOCK = LockRule(None, False, asserted=False)

#: the rules of v4.13 (spec section 7)
RULES: Mapping[str, LockRule] = MappingProxyType(
    {
        "pcpu_free_area": _UNDER_LOCK,
        "pcpu_need_to_extend": _UNDER_LOCK,
        "pcpu_chunk_populated": _UNDER_LOCK,
        "pcpu_chunk_depopulated": _UNDER_LOCK,
        "pcpu_stats_area_alloc": _UNDER_LOCK,
        "pcpu_stats_area_dealloc": _UNDER_LOCK,
        "pcpu_alloc_area": _UNDER_LOCK_UNCHECKED,
        "pcpu_chunk_relocate": _UNDER_LOCK_UNCHECKED,
        "pcpu_count_occupied_pages": _UNDER_LOCK_UNCHECKED,
        "pcpu_extend_area_map": _UNDER_MUTEX,
        "pcpu_get_pages": _UNDER_MUTEX,
        "pcpu_populate_chunk": _UNDER_MUTEX,
        "pcpu_depopulate_chunk": _UNDER_MUTEX,
        "pcpu_create_chunk": _UNDER_MUTEX_UNCHECKED,
        "pcpu_destroy_chunk": _UNDER_MUTEX_UNCHECKED,
        "pcpu_stats_chunk_alloc": _TAKES_LOCK,
        "pcpu_stats_chunk_dealloc": _TAKES_LOCK,
    }
)

_LOCKS = {"pcpu_alloc_mutex": L.ALLOC_MUTEX, "pcpu_lock": L.PCPU_LOCK}
_TAKE = {"pcpu_alloc_mutex": (mutex_lock, mutex_unlock), "pcpu_lock": (spin_lock, spin_unlock)}


class KernelFunctions(Rich):
    """The functions of the kernel as attributes, run on an engine's arrays in plain Python.

    >>> from percpu_lab import Allocator
    >>> a = Allocator(jit="off")
    >>> p = a.alloc_percpu(64)
    >>> kernel, chunk = a.kernel_functions, a.chunks[1]
    >>> kernel.pcpu_free_area(chunk, p.off)
    Traceback (most recent call last):
    percpu_lab.errors.LockdepError: pcpu_free_area: pcpu_lock must be held; call it inside ...
    >>> with kernel.holding("pcpu_lock"):
    ...     occ_pages = kernel.pcpu_free_area(chunk, p.off)
    ...     kernel.pcpu_update_empty_pages(chunk, occ_pages)
    >>> p.is_live
    False

    A chunk is given as `Allocator.chunks` shows it, or by its handle; the engine itself is not named. Each call is an
    op. What a caller in the kernel does besides, the user must do, too: here, without the second line, the count of
    empty pages would not agree with the map, and the block would be undone.

    Args:
        engine: whose arrays they work on.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._depth = 0
        modules = (request, counters, backing, engine.model.plain)
        self._functions = {name: f for module in modules for name, f in vars(module).items() if _is_kernels(name, f)}

    def __repr__(self) -> str:
        held = [name for name, index in _LOCKS.items() if self._engine.scalar(index)]
        return f"<{len(self._functions)} functions of {self._engine.model.name}; held: {', '.join(held) or 'no lock'}>"

    def _html_fields(self) -> list[tuple[str, object]]:
        return [(name, (function.__doc__ or "").partition("\n")[0]) for name, function in self._functions.items()]

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._functions})

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function = self.__dict__.get("_functions", {}).get(name)
        if function is None:
            raise AttributeError(f"{name!r} is no function of the kernel that is modelled here; dir() lists them")

        @wraps(function)
        def call(*args: Any) -> Any:
            return self._call(name, function, args)

        # the engine's arrays are the first argument of each: nobody gives them
        signature = inspect.signature(function)
        call.__dict__["__signature__"] = signature.replace(parameters=list(signature.parameters.values())[1:])
        return call

    @contextmanager
    def holding(self, lock: str) -> Iterator[None]:
        """Hold a lock for a block: "pcpu_alloc_mutex", "pcpu_lock", or the one inside the other.

        >>> from percpu_lab import Allocator
        >>> kernel = Allocator(jit="off").kernel_functions
        >>> with kernel.holding("pcpu_lock"), kernel.holding("pcpu_alloc_mutex"):
        ...     pass
        Traceback (most recent call last):
        percpu_lab.errors.LockdepError: pcpu_alloc_mutex taken under pcpu_lock: sleeping function called ...

        Raises:
            RequestError: there is no such lock.
            LockdepError: it is held already, or taken in the wrong order.
            InvariantError: what was done in the block does not fit together; it is undone.
        """
        if lock not in _TAKE:
            raise RequestError(f"no lock {lock!r:.40}", where="holding", remedy=f"choose from {', '.join(_TAKE)}")
        take, give_back = _TAKE[lock]
        with self._transaction():
            take(self._state())
            yield
            give_back(self._state())

    def _call(self, name: str, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        engine = self._engine
        names = list(inspect.signature(function).parameters)[1:]
        if len(args) != len(names):
            raise RequestError(f"it takes {', '.join(names) or 'nothing'}", where=name, remedy="give just these")
        with deferred_interrupt(), self._transaction():
            _check_rule(engine, name)
            values = [self._argument(name, *pair) for pair in zip(names, args, strict=True)]
            engine.make_room()
            try:
                result = function(self._state(), *values)
            except IndexError as error:
                what = f"a number of {args!r:.60} is none of an entry, a page or a slot that there is"
                raise RequestError(what, where=name, remedy="look at the chunk in Allocator.chunks") from error
            if "c" in names:
                _note_births(engine, values[names.index("c")])
            engine.tick()
            return result

    def _argument(self, where: str, name: str, value: Any) -> int:
        number = getattr(value, "handle", value) if name == "c" else value
        if not isinstance(number, (int, np.integer)) or not -(1 << 62) < number < 1 << 62:
            raise RequestError(f"{name} is {value!r:.60}", where=where, remedy="give a number, or a chunk for c")
        if name == "c" and not _is_chunk(self._engine, int(number)):
            raise RequestError(f"{value!r:.60} is no chunk", where=where, remedy="take one of Allocator.chunks")
        return int(number)

    def _state(self) -> State:
        return self._engine.plain_state()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Undo what happens inside if it raises, or if the invariants do not hold at the outermost end."""
        engine = self._engine
        with engine.lock:
            saved = None if self._depth else (_copies(engine), len(engine.log))
            put_back = engine.keep_memory() if saved is not None and engine.keep_memory is not None else None
            self._depth += 1
            try:
                yield
                if self._depth == 1:
                    (validate_engine if engine.model is AREA_MAP else validate_bitmap_engine)(engine)
            except BaseException as error:
                if isinstance(error, InvariantError):
                    error.remedy = "all was undone; do in the same block what a caller in the kernel does besides"
                if saved is not None:
                    engine.adopt(saved[0])
                    del engine.log[saved[1] :]
                if put_back is not None:
                    put_back()
                raise
            finally:
                self._depth -= 1


def _copies(engine: Engine) -> tuple[np.ndarray, ...]:
    """Copy the arrays; rows that no chunk ever had are not touched."""
    g, chunk, map_, birth, ring, order = engine.arrays()
    rows = chunk.reshape(-1, engine.scalar(L.ROW_WORDS))
    nr_used = int(np.flatnonzero(rows[:, L.ROW])[-1]) + 1 - L.NR_LIST_HEADS
    copies = [np.zeros_like(map_), np.zeros_like(birth)]
    for copy, array, stride in zip(copies, (map_, birth), (L.MAP_STRIDE, L.BIRTH_STRIDE), strict=True):
        end = nr_used * engine.scalar(stride)
        copy[:end] = array[:end]
    return g.copy(), chunk.copy(), *copies, ring.copy(), order.copy()


def _is_kernels(name: str, function: object) -> bool:
    """Tell whether this is a function with a name of the kernel's that works on an engine."""
    if not inspect.isfunction(function) or not name.startswith(("pcpu_", "free_percpu")):
        return False
    return next(iter(inspect.signature(function).parameters), None) == "s"


def _check_rule(engine: Engine, name: str) -> None:
    rule = RULES.get(name) if engine.model is AREA_MAP else None
    if rule is None:
        return
    for lock, index in _LOCKS.items():
        wanted = getattr(rule, lock)
        if wanted is None or wanted == bool(engine.scalar(index)):
            continue
        note = "" if rule.asserted else " (the kernel does not check, and would go wrong)"
        remedy = f'call it inside `with ....holding("{lock}")`' if wanted else "let go of the lock first"
        raise LockdepError(f"{lock} must {'' if wanted else 'not '}be held{note}", where=name, remedy=remedy)


def _is_chunk(engine: Engine, c: int) -> bool:
    words = engine.scalar(L.ROW_WORDS)
    if c % words or not L.NR_LIST_HEADS * words <= c < len(engine.chunk):
        return False
    return c == engine.handle(int(engine.chunk[c + L.ORDINAL]))


def _note_births(engine: Engine, c: int) -> None:
    """Let births follow a map that was changed past pcpu_alloc and free_percpu."""
    if not _is_chunk(engine, c):
        return
    in_use = _areas_in_use(engine, c)
    births = engine.births(c)
    for k in np.flatnonzero(births).tolist():
        if 2 * k not in in_use:
            births.flat[k] = 0
    for off, size in in_use.items():
        if not births.flat[off // 2]:
            births.flat[off // 2] = engine.now << 16 | size


def _areas_in_use(engine: Engine, c: int) -> dict[int, int]:
    """Give the size of each area in use, by its offset."""
    chunk = engine.model.read_chunk(engine, c, 0)
    if engine.model is not AREA_MAP:
        return {PCPU_MIN_ALLOC_SIZE * bit: size for bit, size in areas_in_use(chunk).items()}
    areas = zip(chunk.map[:-1].tolist(), chunk.map[1:].tolist(), strict=True)
    return {a & ~1: (b & ~1) - (a & ~1) for k, (a, b) in enumerate(areas) if a & 1 and k >= chunk.has_reserved}
