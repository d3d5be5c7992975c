"""Spares the garbage collector what was there before a cell, while that cell runs and views are open.

before the cell   | young | old: modules, Bokeh's models, what other cells made |
during the cell   | what the cell makes |  set aside: gc.freeze                 |
after the cell    | young | old: all of it, as before                           |

A full collection goes through everything, and 100,000 new pointers bring about one or two: with the 76,000 objects of
Bokeh and the 25,000 of a board each stops a loop, and the views with it, for as long as 50,000 allocations take.
Nothing is kept for longer than the cell, and gc.collect() still collects all there is.

Invariant: gc.collect is ours, and what we have frozen is frozen, only from set_aside to put_back.
"""

import gc

_collect = gc.collect
MOST_IMMORTAL = 1000  # Python 3.12 sets its own objects that never die aside, 375; gc.freeze does so to thousands


class Collector:
    """What a cell does to the garbage collector; one a process."""

    def __init__(self) -> None:
        self._is_aside = False

    def set_aside(self) -> None:
        """Spare the collector all that there is now; does nothing where somebody else has frozen objects."""
        if gc.get_freeze_count() <= MOST_IMMORTAL:
            self._is_aside = True
            gc.collect = self._collect_all  # not by gc.callbacks: an interrupt during a collection would be lost there
            gc.freeze()

    def put_back(self) -> None:
        """Leave everything to the collector again."""
        if self._is_aside:
            gc.collect = _collect
            gc.unfreeze()
            self._is_aside = False

    def _collect_all(self, generation: int = 2) -> int:
        """Collect as gc.collect does elsewhere."""
        gc.unfreeze()
        try:
            return _collect(generation)
        finally:
            gc.freeze()
