"""A script being played: how far it has come, and the pointers it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .core import layout as L
from .errors import LabError

if TYPE_CHECKING:
    from .allocator import Allocator
    from .ops import Ops


class Player:
    """Runs an op script on an allocator in pieces; `step` is what a Session wants.

    >>> from percpu_lab import Allocator, Ops
    >>> player = Player(Allocator(jit="off"), Ops.alloc(np.arange(5), 64))
    >>> player.step(3), player.step(3), player
    (3, 2, <Player: 5 of 5 ops done>)

    Args:
        allocator: runs the ops.
        ops: the script.
    """

    def __init__(self, allocator: Allocator, ops: Ops) -> None:
        self._allocator = allocator
        self.ops = ops
        self.ids = np.zeros(max(ops.nr_ids, 1), np.int64)
        self.position = 0
        self.nr_failed = 0

    def __repr__(self) -> str:
        return f"<Player: {self.position:,} of {len(self.ops):,} ops done>"

    def step(self, nr_ops: int) -> int:
        """Run up to nr_ops ops -> how many were done; fewer at the end of the script.

        Raises:
            LabError: a negative number: a live allocator cannot go back.
            BadFreeError, KernelBugError, HookError: see Allocator.run_slice.
        """
        if nr_ops < 0:
            raise LabError("a live allocator cannot go back", where=f"step({nr_ops})", remedy="seek in a recorded run")
        start, engine = self.position, self._allocator.engine
        before, failed_before = engine.now, engine.scalar(L.NR_FAILED)
        try:
            self._allocator.run_slice(self.ops, self.ids, start, min(start + nr_ops, len(self.ops)))
        finally:
            self.position = start + engine.now - before
            self.nr_failed += engine.scalar(L.NR_FAILED) - failed_before
        return self.position - start
