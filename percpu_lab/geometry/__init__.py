"""The geometry of per-CPU memory: units, groups, the first chunk, and where all of it lies.

    static, reserved, dyn, atom, CPUs --pcpu_build_alloc_info--> AllocInfo --pcpu_setup_first_chunk--> Geometry
                                      Geometry.embed, .page, .up: both steps, as kernels boot
    kernel log --AllocInfo.from_log--> AllocInfo
"""

from .addresses import Addresses, BootMemory
from .build import Topology, pcpu_build_alloc_info
from .first_chunk import Geometry
from .info import (
    LOCAL_DISTANCE,
    PCPU_MIN_UNIT_SIZE,
    PERCPU_DYNAMIC_RESERVE,
    PERCPU_MODULE_RESERVE,
    AllocInfo,
    GroupInfo,
)
from .presets import PRESETS, preset

__all__ = [
    "Geometry",
    "preset",
    "PRESETS",
    "AllocInfo",
    "GroupInfo",
    "Addresses",
    "Topology",
    "BootMemory",
    "pcpu_build_alloc_info",
    "LOCAL_DISTANCE",
    "PCPU_MIN_UNIT_SIZE",
    "PERCPU_DYNAMIC_RESERVE",
    "PERCPU_MODULE_RESERVE",
]
