"""Engines for kernels with other pages than 4 KiB: the same files once more, under names that say the size.

percpu_lab.core              PAGE_SHIFT 12      compiled or plain, checked against recorded cases
percpu_lab.core_pages_16     PAGE_SHIFT 16      plain only, for comparisons; no recorded case has such pages
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from .. import core
from ..engine import Engine
from ..errors import RequestError
from ..geometry import Geometry
from ..units import PAGE_SIZE

PAGE_SIZES = (PAGE_SIZE, 16384, 65536)


def check_page_size(page_size: int) -> int:
    """Take a page size that kernels are built with.

    >>> check_page_size(65536)
    65536

    Raises:
        RequestError: there are no such pages.
    """
    if page_size not in PAGE_SIZES:
        raise RequestError(f"no pages of {page_size!r} bytes", where="page_size", remedy=f"one of {PAGE_SIZES}")
    return page_size


def functions_for(module_name: str, page_size: int) -> ModuleType:
    """Load a module of the core for a page size.

    >>> functions_for("bitmap", 65536).PCPU_BITMAP_BLOCK_BITS
    16384

    Args:
        module_name: of percpu_lab.core.
        page_size: in bytes, one of PAGE_SIZES.
    """
    name = f"{core.__name__}_pages_{check_page_size(page_size).bit_length() - 1}"
    if name not in sys.modules:
        package = ModuleType(name, core.__doc__)
        package.__path__ = core.__path__
        sys.modules[name] = package
    return importlib.import_module(f"{name}.{module_name}")


class PagedEngine(Engine):
    """An engine whose geometry has other pages; it runs plain Python only.

    Args:
        geometry: with info.page_size.
        options: as for Engine.
    """

    def _use(self, module: ModuleType) -> None:
        super()._use(module)
        self._functions = functions_for(self.model.module_name, self.geometry.info.page_size)
        self._op_alloc, self._op_free = self._functions.op_alloc, self._functions.op_free


def boot(geometry: Geometry, *, kernel: str, auto_balance: bool, jit: str | None) -> Engine:
    """Make the engine for a geometry: with other pages than 4 KiB, a PagedEngine.

    >>> boot(Geometry.simple(), kernel="v6.12-bitmap", auto_balance=False, jit="off")
    <Engine v6.12-bitmap: 0 ops, 1 chunks>
    """
    if geometry.info.page_size == PAGE_SIZE:
        return Engine(geometry, kernel=kernel, auto_balance=auto_balance, jit=jit)
    return PagedEngine(geometry, kernel=kernel, auto_balance=auto_balance, jit="off")
