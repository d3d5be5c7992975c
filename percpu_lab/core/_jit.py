"""One source, two packages: plain functions in percpu_lab.core, compiled ones in percpu_lab.core_compiled.

What is decorated with `kernel` is called by other functions of the core only, and
becomes part of each caller: handing six arrays down costs more than most of these
functions do. `cold` is for the rare ones, which stay apart; what is decorated with
`entry` is called from Python too; `shared` functions take functions, and
become part of each caller, too. In the plain package all
leave a function as it is, so that a debugger steps through the very lines
that otherwise run at the speed of C.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["COMPILED", "as_int64", "cold", "ctz", "entry", "fls", "kernel", "memmove", "shared"]

COMPILED = (__package__ or "").endswith("core_compiled")

if COMPILED:
    import hashlib
    from pathlib import Path

    from numba import njit, types
    from numba.core import cgutils
    from numba.extending import intrinsic

    def _source_stamp() -> str:
        """Name the state of all core sources: a change in one file must renew what others compiled from it."""
        digest = hashlib.sha256()
        for path in sorted(Path(__file__).parent.glob("*.py")):
            digest.update(path.read_bytes())
        return digest.hexdigest()

    _STAMP = _source_stamp()

    def _compile(function: Callable[..., Any], **options: Any) -> Any:
        options |= {"error_model": "numpy", "nogil": True, "_nrt": False}
        try:
            dispatcher = njit(cache=True, **options)(function)
        except RuntimeError:  # no folder where a cache could be written: go without one
            return njit(**options)(function)
        # numba renews a cached function only when its own file changed; ours call into other files
        dispatcher._cache._cache_file._source_stamp = _STAMP
        return dispatcher

    def kernel(function: Callable[..., Any]) -> Any:
        return _compile(function, no_cpython_wrapper=True, no_cfunc_wrapper=True, forceinline=True)

    def cold(function: Callable[..., Any]) -> Any:
        return _compile(function, no_cpython_wrapper=True, no_cfunc_wrapper=True)

    def entry(function: Callable[..., Any]) -> Any:
        return _compile(function)

    def shared(function: Callable[..., Any]) -> Any:
        # what takes functions cannot be cached itself; written into its caller, which can, nothing is left of them
        return njit(inline="always", error_model="numpy", nogil=True, _nrt=False)(function)

    @kernel
    def as_int64(value):  # type: ignore[no-untyped-def]
        return value

    @intrinsic
    def memmove(typingctx, array, dst, src, count):  # type: ignore[no-untyped-def]
        # numba copies overlapping slices through a temporary, ten times slower
        itemsize = array.dtype.bitwidth // 8

        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            data = context.make_array(signature.args[0])(context, builder, args[0]).data
            target, source = (builder.gep(data, [args[k]]) for k in (1, 2))
            cgutils.raw_memmove(builder, target, source, args[3], itemsize=itemsize)
            return context.get_dummy_value()

        return types.void(array, types.intp, types.intp, types.intp), codegen

    @intrinsic
    def ctz(typingctx, value):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            return builder.cttz(args[0], cgutils.true_bit)

        return types.int64(types.int64), codegen

    @intrinsic
    def fls(typingctx, value):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            return builder.sub(args[0].type(64), builder.ctlz(args[0], cgutils.false_bit))

        return types.int64(types.int64), codegen

else:

    def kernel(function: Callable[..., Any]) -> Any:
        return function

    cold = entry = shared = kernel

    def as_int64(value: int) -> int:
        """Let a number go round at 2^63, as compiled ones do."""
        return (value + (1 << 63)) % (1 << 64) - (1 << 63)

    def memmove(array: Any, dst: int, src: int, count: int) -> None:
        """Move entries within an array, where the two places may overlap."""
        array[dst : dst + count] = array[src : src + count]

    def ctz(value: int) -> int:
        """Number the lowest set bit of a word that is not 0, from 0."""
        return (value & -value).bit_length() - 1

    def fls(value: int) -> int:
        """Number the highest set bit of a word from 1; 0 for 0."""
        return value.bit_length() if value >= 0 else 64
