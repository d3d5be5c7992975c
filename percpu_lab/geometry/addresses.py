"""Where chunks lie in memory."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import GeometryError
from ..rich import Rich
from ..units import MIB, PAGE_SIZE, pages_to_bytes, round_up
from .checks import block_pages
from .info import MAX_SPAN, AllocInfo, whole_number

FIRST_CHUNK_BASE = 0xFFFF888100000000  # in the linear mapping
VM_AREA_BASE = 0xFFFFE8F000000000
KM_AREA_BASE = 0xFFFF88C000000000


@dataclass(frozen=True, slots=True, repr=False)
class Addresses(Rich):
    """The base address of the first chunk and of every chunk to come, as unsigned 64-bit numbers.

    The k-th new chunk (0-based) gets `area_base + k * area_stride`; an address is never used again.

    >>> Addresses(first_chunk=0xffff888100000000, area_base=0xffffe8f000000000, area_stride=65536)
    <Addresses: first chunk 0xffff888100000000, then 0xffffe8f000000000 + k * 64 KiB>

    Args:
        first_chunk: pcpu_base_addr.
        area_base: base address of the first new chunk.
        area_stride: bytes from one new chunk to the next.

    Raises:
        GeometryError: no address, or no whole pages.
    """

    first_chunk: int
    area_base: int
    area_stride: int

    def __post_init__(self) -> None:
        whole_number("first_chunk", self.first_chunk)
        whole_number("area_base", self.area_base)
        whole_number("area_stride", self.area_stride, low=1, high=MAX_SPAN)
        for name in ("area_base", "area_stride"):
            if getattr(self, name) % PAGE_SIZE:
                raise GeometryError(f"{getattr(self, name):#x} is not page aligned", where=name,
                                    remedy=f"give a multiple of {PAGE_SIZE}")

    @classmethod
    def default(cls, info: AllocInfo, backing: str = "vm", *, first_chunk: int = FIRST_CHUNK_BASE,
                area_base: int | None = None) -> Addresses:
        """Choose the usual addresses for a layout.

        >>> from percpu_lab.geometry import Geometry
        >>> Addresses.default(Geometry.simple(unit_size=32768, nr_cpus=3, backing="km").info, "km")
        <Addresses: first chunk 0xffff888100000000, then 0xffff88c000000000 + k * 128 KiB>

        Args:
            info: the layout.
            backing: `vm` or `km`.
            first_chunk: address of the first chunk.
            area_base: address of the first new chunk; the usual one of the backing if left out.
        """
        if area_base is None:
            area_base = KM_AREA_BASE if backing == "km" else VM_AREA_BASE
        return cls(first_chunk, area_base, chunk_span(info, backing))

    def __repr__(self) -> str:
        stride = f"{self.area_stride // 1024:,} KiB"
        return f"<Addresses: first chunk {self.first_chunk:#x}, then {self.area_base:#x} + k * {stride}>"


def chunk_span(info: AllocInfo, backing: str) -> int:
    """Give the bytes of address space one chunk takes.

    Args:
        info: the layout.
        backing: `vm`: to the end of the highest group, in atoms; `km`: one block, a power of two of pages.
    """
    if backing == "km":
        return pages_to_bytes(block_pages(info))
    end = max(group.base_offset + group.nr_units * info.unit_size for group in info.groups)
    return round_up(end, info.atom_size)


@dataclass(slots=True, repr=False)
class BootMemory(Rich):
    """The memory of a machine before there is an allocator: a rising pointer for each node.

    >>> memory = BootMemory()
    >>> hex(memory.alloc(1, 8192, 4096))
    '0xffff888101000000'
    >>> memory.free(0xffff888101001000, 4096)
    >>> memory
    <BootMemory: 8 KiB allocated, 4 KiB given back>

    Args:
        base: address of node 0.
        node_stride: bytes from the beginning of a node to that of the next.
        node_size: bytes each node has; None for no limit.
    """

    base: int = FIRST_CHUNK_BASE
    node_stride: int = 16 * MIB
    node_size: int | None = None
    allocated: list[tuple[int, int]] = field(default_factory=list)
    freed: list[tuple[int, int]] = field(default_factory=list)
    _next: dict[int, int] = field(default_factory=dict)

    def alloc(self, node: int, size: int, align: int) -> int | None:
        """Take memory of a node: its address, or None if the node has too little left.

        Args:
            node: number of the node.
            size: bytes.
            align: the address is a multiple of it, in bytes.
        """
        start = self.base + node * self.node_stride
        addr = round_up(self._next.get(node, start), align)
        if self.node_size is not None and addr + size > start + self.node_size:
            return None
        self._next[node] = addr + size
        self.allocated.append((addr, size))
        return addr

    def free(self, addr: int, size: int) -> None:
        """Give memory back; it is not used again.

        Args:
            addr: first byte.
            size: bytes.
        """
        self.freed.append((addr, size))

    def __repr__(self) -> str:
        sizes = [sum(size for _, size in areas) // 1024 for areas in (self.allocated, self.freed)]
        return f"<BootMemory: {sizes[0]:,} KiB allocated, {sizes[1]:,} KiB given back>"
