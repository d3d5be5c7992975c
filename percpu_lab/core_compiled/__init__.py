"""The files of percpu_lab.core once more, as a second package whose functions numba compiles.

One source serves two packages, so that an allocator can begin with the plain
functions and change to the compiled ones between two operations: both work on
the same arrays. `core/_jit.py` tells the two apart by the name of its package.
"""

from percpu_lab import core

__path__ = core.__path__
