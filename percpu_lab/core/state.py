"""The arrays of one allocator under one name, as every function of the core gets them."""

from __future__ import annotations

from typing import Any, NamedTuple


class State(NamedTuple):
    """The arrays of layout.py: NumPy arrays when compiled, memoryviews of the same arrays when not."""

    g: Any
    chunk: Any
    map: Any
    birth: Any
    ring: Any
    order: Any
