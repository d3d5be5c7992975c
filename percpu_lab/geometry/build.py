"""From sizes and CPUs to a layout: pcpu_build_alloc_info (spec 2.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import GeometryError
from ..kernels import V4_13, KernelVersion
from ..rich import Rich
from ..units import PAGE_SIZE, round_up
from .info import (
    LOCAL_DISTANCE,
    MAX_ALLOC_SIZE,
    MAX_UNIT_SIZE,
    PCPU_MIN_UNIT_SIZE,
    REMOTE_DISTANCE,
    AllocInfo,
    GroupInfo,
    cpu_ids,
    whole_number,
)

MAX_NODES = 1024
Distance = Callable[[int, int], int]


@dataclass(frozen=True, slots=True, repr=False)
class Topology(Rich):
    """Which CPUs are possible, on which node each of them is, and how far the nodes are from each other.

    >>> Topology.numa([0, 2], [1, 3])
    <Topology: 4 CPUs on 2 nodes, grouped by distance>

    Args:
        possible_cpus: their ids in rising order.
        cpu_node: the node of each CPU; CPUs left out are on node 0.
        distance: distance from one node to another; None keeps all CPUs in one group, as on a machine that has no
            distance function. The kernel asks for two CPUs and looks up their nodes.

    Raises:
        GeometryError: no CPU, one twice, or a node number out of range.
    """

    possible_cpus: tuple[int, ...]
    cpu_node: Mapping[int, int] = field(default_factory=dict)
    distance: Distance | None = None

    def __post_init__(self) -> None:
        if cpu_ids(self.possible_cpus) != tuple(self.possible_cpus):
            raise GeometryError("the ids do not rise", where="possible_cpus", remedy="sort them")
        for node in self.cpu_node.values():
            whole_number("node", node, high=MAX_NODES - 1)

    @classmethod
    def of(cls, cpus: int | Sequence[int] | Topology) -> Topology:
        """Take a number of CPUs, their ids or a topology for a topology.

        >>> Topology.of(4)
        <Topology: 4 CPUs on 1 node>
        """
        return cpus if isinstance(cpus, Topology) else cls(cpu_ids(cpus))

    @classmethod
    def numa(cls, *nodes: Sequence[int], remote_distance: int = REMOTE_DISTANCE) -> Topology:
        """Put the CPUs of each list on a node of its own; other nodes are `remote_distance` away.

        >>> Topology.numa([0, 1], [2, 3]).node(3)
        1
        """
        cpu_node = {cpu: node for node, cpus in enumerate(nodes) for cpu in cpus}
        ids = cpu_ids([cpu for cpus in nodes for cpu in cpus])
        return cls(ids, cpu_node, lambda a, b: LOCAL_DISTANCE if a == b else remote_distance)

    def node(self, cpu: int) -> int:
        """Give the node of a CPU."""
        return self.cpu_node.get(cpu, 0)

    def __repr__(self) -> str:
        nr_nodes = len({self.node(cpu) for cpu in self.possible_cpus})
        text = f"{len(self.possible_cpus)} CPUs on {nr_nodes} node{'s' * (nr_nodes != 1)}"
        return f"<Topology: {text}{', grouped by distance' if self.distance else ''}>"


def pcpu_build_alloc_info(static_size: int, reserved_size: int, dyn_size: int, atom_size: int, *,
                          cpus: int | Sequence[int] | Topology, kernel: KernelVersion = V4_13) -> AllocInfo:
    """Work out the unit size and which CPU gets which unit (pcpu_build_alloc_info, spec 2.1).

    >>> node0, node1 = [0, 1, 2, 3], [4, 5, 6, 7]
    >>> info = pcpu_build_alloc_info(163840, 8192, 28672, 2 << 20, cpus=Topology.numa(node0, node1))
    >>> info.unit_size, info.upa, [group.cpu_map for group in info.groups]
    (524288, 4, [(0, 1, 2, 3), (4, 5, 6, 7)])

    Args:
        static_size: bytes of the kernel's own per-CPU variables.
        reserved_size: bytes kept for modules.
        dyn_size: bytes wanted for dynamic allocations in the first chunk; may become more.
        atom_size: bytes; a chunk's memory comes in multiples of it.
        cpus: a number of CPUs, the ids of the possible ones, or a Topology.
        kernel: decides the least dyn_size.

    Raises:
        GeometryError: a size is out of range, or no unit size is possible with this atom size.
    """
    for name, size_bytes in (("static_size", static_size), ("reserved_size", reserved_size), ("dyn_size", dyn_size)):
        whole_number(name, size_bytes, high=MAX_UNIT_SIZE)
    whole_number("atom_size", atom_size, low=1, high=MAX_ALLOC_SIZE)
    topology = Topology.of(cpus)
    size_sum = round_up(static_size + reserved_size + max(dyn_size, kernel.dynamic_early_size), PAGE_SIZE)
    min_unit_size = max(size_sum, PCPU_MIN_UNIT_SIZE)
    alloc_size = round_up(min_unit_size, atom_size)
    members = _group_cpus(topology)
    upa = _best_upa(alloc_size, alloc_size // min_unit_size, [len(cpus) for cpus in members])
    unit_size = alloc_size // upa
    groups = tuple(_lay_out(members, upa, unit_size))
    return AllocInfo(static_size, reserved_size, size_sum - static_size - reserved_size, unit_size, atom_size,
                     alloc_size, groups, topology.possible_cpus)


def _group_cpus(topology: Topology) -> list[list[int]]:
    """Put each CPU in the first group in which it is near everybody.

    A group remembers the nodes of its CPUs: asking for each CPU again would give the same answers.
    """
    members: list[list[int]] = [[]]
    nodes: list[set[int]] = [set()]
    for cpu in topology.possible_cpus:
        node = topology.node(cpu)
        number = next((i for i, others in enumerate(nodes) if _is_near(topology.distance, node, others)), len(nodes))
        if number == len(nodes):
            members.append([])
            nodes.append(set())
        members[number].append(cpu)
        nodes[number].add(node)
    return members


def _is_near(distance: Distance | None, node: int, others: set[int]) -> bool:
    if distance is None:
        return True
    return all(distance(node, other) <= LOCAL_DISTANCE and distance(other, node) <= LOCAL_DISTANCE for other in others)


def _possible_upa(alloc_size: int, max_upa: int) -> Iterator[int]:
    """Count down the numbers of units that divide an allocation into page aligned units."""
    for upa in range(max_upa, 0, -1):
        if alloc_size % upa == 0 and alloc_size // upa % PAGE_SIZE == 0:
            yield upa


def _best_upa(alloc_size: int, max_upa: int, group_sizes: list[int]) -> int:
    """Choose the fewest units an allocation that cost no more allocations than the first acceptable number does.

    A number is acceptable if it leaves no more units unused than a third of the CPUs.
    """
    nr_cpus = sum(group_sizes)
    best, best_allocs = 0, 0
    for upa in _possible_upa(alloc_size, max_upa):
        allocs = sum(-(-size // upa) for size in group_sizes)
        if allocs * upa - nr_cpus > nr_cpus // 3:
            continue
        if best and allocs > best_allocs:
            break
        best, best_allocs = upa, allocs
    if not best:
        raise GeometryError(f"no unit of whole pages fits an allocation of {alloc_size} bytes", where="atom_size",
                            remedy=f"give a multiple of {PAGE_SIZE}")
    return best


def _lay_out(members: list[list[int]], upa: int, unit_size: int) -> Iterator[GroupInfo]:
    first = 0
    for cpus in members:
        nr_units = round_up(len(cpus), upa)
        yield GroupInfo(nr_units, first * unit_size, (*cpus, *(None,) * (nr_units - len(cpus))))
        first += nr_units
