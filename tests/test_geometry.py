"""Geometry: the layouts of recorded runs and real machines, the rules of pcpu_build_alloc_info, every refusal."""

import copy
import itertools
import json
import operator
from dataclasses import replace
from functools import reduce
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from percpu_lab.errors import CaseError, GeometryError
from percpu_lab.geometry import (
    PRESETS,
    Addresses,
    AllocInfo,
    BootMemory,
    Geometry,
    GroupInfo,
    Topology,
    pcpu_build_alloc_info,
    preset,
)
from percpu_lab.kernels import KERNELS, V4_13, V6_1, V6_12
from percpu_lab.units import KIB, MIB, PAGE_SIZE

GOLDEN = json.loads((Path(__file__).parent / "data/golden_geometry/cases.json").read_text())["cases"]
EMBED_CASES = [row for row in GOLDEN if row["case"]["setup"] == "embed"]
INFO = AllocInfo(8192, 0, 24576, 32768, 4096, 32768, (GroupInfo(2, 0, (0, 1)),), (0, 1))


def recorded(row):
    return row["recorded_as"][0]


# --- recorded runs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", GOLDEN, ids=recorded)
def test_recorded_case_gives_the_recorded_boot_log_and_addresses(row):
    geometry = Geometry.from_case(row["case"])
    assert list(geometry.boot_log) == row["boot_log"]
    assert geometry.addresses == Addresses(*(int(str(value), 0) for value in row["case"]["addresses"].values()))
    assert geometry.info.nr_cpu_ids == row["case"]["nr_cpu_ids"]


@pytest.mark.parametrize("row", EMBED_CASES, ids=recorded)
def test_embed_works_out_the_recorded_layout_without_looking_at_it(row):
    embed, want = row["case"]["embed"], row["case"]["alloc_info"]
    nodes = [[cpu for cpu, node in enumerate(embed["cpu_node"]) if node == number]
             for number in sorted(set(embed["cpu_node"]))]
    cpus = Topology.numa(*nodes) if embed["use_distance_fn"] else len(embed["cpu_node"])
    geometry = Geometry.embed(embed["static_size"], cpus=cpus, reserved_size=embed["reserved_size"],
                              dyn_size=embed["dyn_size"], atom_size=embed["atom_size"],
                              kernel=KERNELS[row["case"]["kernel"]])
    for name in ("static_size", "reserved_size", "dyn_size", "unit_size", "atom_size", "alloc_size", "nr_groups"):
        assert getattr(geometry.info, name) == want[name], name
    assert [(group.nr_units, group.base_offset, list(group.cpu_map)) for group in geometry.info.groups] == \
        [tuple(group.values()) for group in want["groups"]]
    assert list(geometry.boot_log) == row["boot_log"]


@pytest.mark.parametrize("row", GOLDEN, ids=recorded)
def test_default_stride_is_the_recorded_one(row):
    geometry = Geometry.from_case(row["case"])
    assert Addresses.default(geometry.info, geometry.backing) == geometry.addresses


# --- boot logs of real machines ----------------------------------------------------------------------------------


def test_boot_log_of_a_debian_12_machine_with_2_mib_atoms():
    assert Geometry.embed(212992, cpus=4, atom_size=2 * MIB, kernel=V6_1).boot_log == (
        "percpu: Embedded 61 pages/cpu s212992 r8192 d28672 u524288",
        "pcpu-alloc: s212992 r8192 d28672 u524288 alloc=1*2097152",
        "pcpu-alloc: [0] 0 1 2 3 ")


def test_boot_log_of_a_32_bit_debian_machine_with_one_cpu():
    assert Geometry.embed(103316, cpus=1, reserved_size=0, kernel=V6_1).boot_log == (
        "percpu: Embedded 33 pages/cpu s103316 r0 d31852 u135168",
        "pcpu-alloc: s103316 r0 d31852 u135168 alloc=33*4096",
        "pcpu-alloc: [0] 0 ")


def test_boot_log_of_a_real_page_mapped_first_chunk():
    assert Geometry.page(181032, cpus=4, kernel=V6_1).boot_log == (
        "percpu: 50 4K pages/cpu s181032 r8192 d15576",
        "pcpu-alloc: s181032 r8192 d15576 u204800 alloc=50*4096",
        "pcpu-alloc: [0] 0 [0] 1 [0] 2 [0] 3 ")


# --- pcpu_build_alloc_info ---------------------------------------------------------------------------------------


def test_two_nodes_of_four_cpus_share_2_mib_atoms():
    info = pcpu_build_alloc_info(163840, 8192, 28672, 2 * MIB, cpus=Topology.numa([0, 1, 2, 3], [4, 5, 6, 7]))
    assert (info.unit_size, info.upa) == (524288, 4)
    assert [group.cpu_map for group in info.groups] == [(0, 1, 2, 3), (4, 5, 6, 7)]
    assert [group.base_offset for group in info.groups] == [0, 2 * MIB]


def test_a_third_of_the_cpus_is_the_most_units_wasted():
    info = pcpu_build_alloc_info(70000, 0, 20480, MIB, cpus=12)
    assert (info.dyn_size, info.upa, info.unit_size, info.nr_units) == (24208, 8, 131072, 16)
    assert info.dump()[1] == "pcpu-alloc: [0] 00 01 02 03 04 05 06 07 [0] 08 09 10 11 -- -- -- -- "


def test_fewer_units_are_taken_if_they_cost_no_more_allocations():
    info = pcpu_build_alloc_info(8192, 0, 0, 3 * MIB, cpus=6)
    assert (info.upa, info.nr_units) == (6, 6), "8 units an allocation would do too, with 2 of them unused"


def test_dyn_size_takes_the_least_size_and_what_rounding_leaves():
    info = pcpu_build_alloc_info(12288, 8192, 0, 65536, cpus=5)
    assert (info.dyn_size, info.unit_size, info.upa, info.nr_units) == (12288, 32768, 2, 6)
    assert info.dump()[1] == "pcpu-alloc: [0] 0 1 [0] 2 3 [0] 4 - "
    assert pcpu_build_alloc_info(12288, 8192, 0, 65536, cpus=5, kernel=V6_12).dyn_size == 20480


def test_groups_interleave_with_sparse_cpu_ids():
    info = pcpu_build_alloc_info(8192, 0, 0, PAGE_SIZE, cpus=Topology.numa([0, 2, 4], [1, 3, 5, 6]))
    assert info.dump()[1] == "pcpu-alloc: [0] 0 [0] 2 [0] 4 [1] 1 [1] 3 [1] 5 [1] 6 "
    sparse = pcpu_build_alloc_info(8192, 0, 0, PAGE_SIZE, cpus=[1, 5, 40])
    assert (sparse.unit_map, sparse.nr_cpu_ids) == ({1: 0, 5: 1, 40: 2}, 41)


def test_a_distance_in_one_direction_is_enough_to_part_cpus():
    one_way = Topology((0, 1), {0: 0, 1: 1}, lambda a, b: 20 if (a, b) == (1, 0) else 10)
    other_way = replace(one_way, distance=lambda a, b: 20 if (a, b) == (0, 1) else 10)
    for cpus in (one_way, other_way):
        assert pcpu_build_alloc_info(8192, 0, 0, PAGE_SIZE, cpus=cpus).nr_groups == 2


def test_no_whole_page_unit_in_the_atom_is_an_error():
    with pytest.raises(GeometryError, match="atom_size: no unit of whole pages"):
        pcpu_build_alloc_info(8192, 0, 0, 33000, cpus=1)


def literal_groups(cpus, node, distance):
    """The grouping rule word for word, comparing CPU with CPU and starting again after each conflict."""
    group_of = {}
    for cpu in cpus:
        g = 0
        while any(group_of[t] == g and (distance(node[cpu], node[t]) > 10 or distance(node[t], node[cpu]) > 10)
                  for t in cpus if t < cpu):
            g += 1
        group_of[cpu] = g
    return [[cpu for cpu in cpus if group_of[cpu] == g] for g in range(max(group_of.values()) + 1)]


@st.composite
def machines(draw):
    cpus = sorted(draw(st.sets(st.integers(0, 40), min_size=1, max_size=24)))
    node = {cpu: draw(st.integers(0, 4)) for cpu in cpus}
    table = draw(st.lists(st.sampled_from([10, 11, 20]), min_size=25, max_size=25))
    return Topology(tuple(cpus), node, draw(st.sampled_from([None, lambda a, b: table[5 * a + b]])))


sizes = st.integers(1, 200_000)
atoms = st.sampled_from([4096, 12288, 65536, 262144, 3 * MIB, 2 * MIB])


@given(machines())
def test_groups_follow_the_rule_word_for_word(topology):
    info = pcpu_build_alloc_info(8192, 0, 0, PAGE_SIZE, cpus=topology)
    distance = topology.distance or (lambda a, b: 10)
    want = literal_groups(topology.possible_cpus, topology.cpu_node, distance)
    assert [[cpu for cpu in group.cpu_map if cpu is not None] for group in info.groups] == want


@given(sizes, st.integers(0, 20_000), st.integers(0, 60_000), atoms, machines())
def test_every_cpu_gets_one_unit_and_sizes_add_up(static_size, reserved_size, dyn_size, atom_size, topology):
    info = pcpu_build_alloc_info(static_size, reserved_size, dyn_size, atom_size, cpus=topology)
    assert sorted(cpu for group in info.groups for cpu in group.cpu_map if cpu is not None) == list(info.possible_cpus)
    assert info.unit_size * info.upa == info.alloc_size
    assert info.alloc_size % atom_size == 0
    assert info.unit_size % PAGE_SIZE == info.size_sum % PAGE_SIZE == 0
    assert info.unit_size >= max(info.size_sum, 32768)
    assert info.dyn_size >= max(dyn_size, 12288)
    assert info.nr_units - info.nr_cpus <= info.nr_cpus // 3
    assert all(group.nr_units % info.upa == 0 for group in info.groups)
    offsets = sorted(info.unit_offset.values())
    assert all(b - a >= info.unit_size for a, b in itertools.pairwise(offsets))


@given(sizes, atoms, machines())
def test_no_smaller_number_of_units_does_with_as_few_allocations(static_size, atom_size, topology):
    info = pcpu_build_alloc_info(static_size, 0, 0, atom_size, cpus=topology)
    counts = [sum(cpu is not None for cpu in group.cpu_map) for group in info.groups]
    for upa in range(1, info.upa):
        if info.alloc_size % upa == 0 and info.alloc_size // upa % PAGE_SIZE == 0:
            allocs = sum(-(-count // upa) for count in counts)
            assert allocs * upa - info.nr_cpus > info.nr_cpus // 3 or allocs > info.nr_units // info.upa


@given(sizes, atoms, machines())
def test_what_is_built_and_embedded_is_accepted(static_size, atom_size, topology):
    geometry = Geometry.embed(static_size, cpus=topology, atom_size=atom_size)
    assert geometry.boot_log[0].startswith("percpu: Embedded ")
    assert all(line.startswith("pcpu-alloc: ") for line in geometry.boot_log[1:])


# --- the dump ----------------------------------------------------------------------------------------------------


def test_dump_breaks_lines_at_powers_of_two_across_groups():
    groups = tuple(GroupInfo(1, i * 32768, (i,)) for i in range(10))
    info = AllocInfo(8192, 0, 12288, 32768, 4096, 32768, groups, tuple(range(10)))
    assert info.dump()[1:] == ["pcpu-alloc: [00] 00 [01] 01 [02] 02 [03] 03 ",
                               "pcpu-alloc: [04] 04 [05] 05 [06] 06 [07] 07 ",
                               "pcpu-alloc: [08] 08 [09] 09 "]


def test_dump_of_one_wide_allocation_is_one_line():
    line = Geometry.embed(65536, cpus=128, atom_size=64 * MIB).info.dump()[1]
    assert line.startswith("pcpu-alloc: [0] 000 001 ")
    assert line.endswith(" 126 127 ")


def test_dump_of_broken_groups_is_the_kernels_bug():
    with pytest.raises(GeometryError, match="pcpu_dump_alloc_info: group 0 has 2 units"):
        replace(INFO, alloc_size=3 * 32768, atom_size=32768).dump()


# --- first chunk helpers -----------------------------------------------------------------------------------------


def test_embed_asks_for_each_group_on_the_node_of_its_first_cpu():
    memory = BootMemory()
    geometry = Geometry.embed(8192, cpus=Topology.numa([2, 3], [0, 1]), memory=memory)
    assert [group.cpu_map for group in geometry.info.groups] == [(0, 1), (2, 3)]
    assert [group.base_offset for group in geometry.info.groups] == [16 * MIB, 0]
    assert geometry.unit_offset(3) == geometry.info.unit_size
    assert [addr for addr, _ in memory.allocated] == [0xFFFF888101000000, 0xFFFF888100000000]


def test_embed_gives_unused_units_and_unused_tails_back():
    memory = BootMemory()
    geometry = Geometry.embed(70000, cpus=12, reserved_size=0, dyn_size=20480, atom_size=MIB, memory=memory)
    unit_size, used = geometry.info.unit_size, geometry.info.size_sum
    tails = [(memory.base + unit * unit_size + used, unit_size - used) for unit in range(12)]
    units = [(memory.base + unit * unit_size, unit_size) for unit in range(12, 16)]
    assert memory.freed == tails + units


def test_embed_without_memory_gives_back_what_it_had():
    memory = BootMemory(node_stride=4 * MIB, node_size=3 * 32768)
    with pytest.raises(GeometryError, match=r"-ENOMEM\): node 1 has no 128 KiB of boot memory for group 1") as error:
        Geometry.embed(8192, cpus=Topology.numa([0], [1, 2, 3, 4]), reserved_size=0, dyn_size=0, memory=memory)
    assert memory.freed == memory.allocated == [(memory.base, 32768)]
    assert "Failed to initialize percpu areas." in error.value.__notes__[0]


def test_embed_warns_of_groups_too_far_apart():
    cpus = Topology.numa([0], [1])
    geometry = Geometry.embed(8192, cpus=cpus, vmalloc_size=16 * MIB)
    assert geometry.boot_log[0] == "percpu: max_distance=0x100b000 too large for vmalloc space 0x1000000"
    assert geometry.boot_log[1].startswith("percpu: Embedded 11 pages/cpu ")


def test_a_distance_of_three_quarters_of_vmalloc_space_is_not_too_far():
    assert "max_distance" not in Geometry.embed(8192, cpus=3, vmalloc_size=4 * 45056).boot_log[0]
    assert "max_distance" in Geometry.embed(8192, cpus=3, vmalloc_size=4 * 45056 - 4).boot_log[0]


def test_groups_too_far_apart_are_fatal_where_the_page_helper_is_built_in():
    memory = BootMemory()
    with pytest.raises(GeometryError, match=r"-EINVAL\): percpu: max_distance=0x100b000 too large"):
        Geometry.embed(8192, cpus=Topology.numa([0], [1]), memory=memory, vmalloc_size=16 * MIB, page_built_in=True)
    assert memory.freed == memory.allocated


def test_page_helper_has_one_group_whatever_the_distances():
    geometry = Geometry.page(8192, cpus=Topology.numa([0], [1], [2]))
    assert (geometry.info.nr_groups, geometry.info.nr_units, geometry.info.dyn_size) == (1, 3, 12288)
    assert geometry.addresses.first_chunk == 0xFFFFC90000000000


def test_page_helper_gives_pages_back_in_reverse_when_a_node_is_full():
    memory = BootMemory(node_size=2 * 32768 + 4096)
    with pytest.raises(GeometryError, match="percpu: failed to allocate 4K page for cpu2"):
        Geometry.page(8192, cpus=4, memory=memory)
    assert memory.freed == memory.allocated[::-1]


def test_up_has_one_unit_of_dynamic_space_and_identical_pointers():
    geometry = Geometry.up()
    assert geometry.boot_log == ("pcpu-alloc: s0 r0 d32768 u32768 alloc=1*32768", "pcpu-alloc: [0] 0 ")
    address = geometry.addresses.first_chunk + 64
    assert geometry.addr_to_pcpu_ptr(address) == geometry.pcpu_ptr_to_addr(address) == address
    assert geometry.per_cpu_ptr(address, 0) == address
    assert not geometry.is_kernel_percpu_address(address)


# --- every refusal of pcpu_setup_first_chunk ---------------------------------------------------------------------


@pytest.mark.parametrize(("change", "condition"), [
    ({"groups": ()}, "nr_groups <= 0"),
    ({"static_size": 0}, "static_size is zero"),
    ({"dyn_size": 24577}, "unit_size < static_size + reserved_size + dyn_size"),
    ({"unit_size": 32769, "alloc_size": 32769}, "unit_size is not page aligned"),
    ({"static_size": 4096, "dyn_size": 12288, "unit_size": 28672, "alloc_size": 28672},
     "unit_size < PCPU_MIN_UNIT_SIZE"),
    ({"dyn_size": 12287}, "dyn_size < PERCPU_DYNAMIC_EARLY_SIZE"),
    ({"groups": (GroupInfo(2, 0, (0, 2)),)}, "cpu >= nr_cpu_ids"),
    ({"groups": (GroupInfo(2, 0, (0, 1)),), "possible_cpus": (0, 2)}, "cpu is not possible"),
    ({"groups": (GroupInfo(2, 0, (1, 1)),)}, "cpu has a unit already"),
    ({"groups": (GroupInfo(2, 0, (0, None)),)}, "possible cpu without a unit"),
])
def test_setup_refuses(change, condition):
    with pytest.raises(GeometryError) as error:
        Geometry.from_info(replace(INFO, **change))
    assert f"percpu: failed to initialize, {condition};" in str(error.value)


@pytest.mark.parametrize(("base", "condition"), [(0, "NULL"), (0x1001, "not page aligned")])
def test_setup_refuses_a_base_address(base, condition):
    with pytest.raises(GeometryError, match=f"percpu: failed to initialize, base address is {condition}"):
        Geometry.from_info(INFO, Addresses(base, 0x10000000, 65536))


def test_setup_reports_the_first_of_several_violations():
    broken = replace(INFO, static_size=0, dyn_size=0, unit_size=4096, alloc_size=4096)
    with pytest.raises(GeometryError, match="static_size is zero"):
        Geometry.from_info(broken)


def test_a_refusal_notes_what_the_kernel_prints():
    with pytest.raises(GeometryError) as error:
        Geometry.from_info(replace(INFO, dyn_size=0))
    assert error.value.__notes__ == ["""\
the kernel would print, and stop:
percpu: failed to initialize, dyn_size < PERCPU_DYNAMIC_EARLY_SIZE
percpu: cpu_possible_mask=3
pcpu-alloc: s8192 r0 d0 u32768 alloc=8*4096
pcpu-alloc: [0] 0 [0] 1 """]


def test_the_least_dyn_size_depends_on_the_kernel():
    info = replace(INFO, dyn_size=12288)
    assert Geometry.from_info(info, kernel=V4_13).info == info
    with pytest.raises(GeometryError, match=r"dyn_size is 12288, v6\.12-bitmap wants 20480"):
        Geometry.from_info(info, kernel=V6_12)


def test_km_takes_one_group_only():
    info = replace(INFO, groups=(GroupInfo(1, 0, (0,)), GroupInfo(1, 65536, (1,))))
    with pytest.raises(GeometryError, match="the km backing does not accept") as error:
        Geometry.from_info(info, backing="km")
    assert "\npercpu: can't handle more than one group\npercpu: failed to initialize, " in error.value.__notes__[0]


def test_km_warns_of_wasted_pages_before_the_dump():
    assert Geometry.simple(unit_size=32768, nr_cpus=3, backing="km").boot_log[0] == "percpu: wasting 8 pages per chunk"
    assert not any("wasting" in line for line in Geometry.simple(unit_size=32768, nr_cpus=4, backing="km").boot_log)


@pytest.mark.parametrize(("change", "backing", "message"), [
    ({"alloc_size": 2 * 32768}, "vm", None),
    ({"alloc_size": 40960}, "vm", "not a multiple of unit_size"),
    ({"atom_size": 65536}, "vm", "not a multiple of unit_size 32768 and of atom_size"),
    ({"alloc_size": 3 * 32768}, "vm", "an allocation of 98304 bytes holds 3"),
    ({"unit_size": 32 * MIB, "alloc_size": 32 * MIB}, "vm", "too big here"),
    ({"groups": (GroupInfo(2, 100, (0, 1)),)}, "vm", "not page aligned"),
    ({"static_size": 0, "up": True}, "vm", r"make it with Geometry\.up"),
    ({}, "slab", "unknown backing 'slab'"),
])
def test_layouts_no_kernel_makes_are_refused_too(change, backing, message):
    info = replace(INFO, **change)
    if message is None:
        assert Geometry.from_info(info, backing=backing).info == info
    else:
        with pytest.raises(GeometryError, match=message):
            Geometry.from_info(info, backing=backing)


@pytest.mark.parametrize(("area_base", "area_stride", "message"), [
    (0x10000000, 61440, "area_stride: chunks of 65536 bytes, 61440 bytes apart, overlap"),
    (0x2000, 65536, "area_base: new chunks begin at 0x2000"),
])
def test_chunks_may_not_overlap(area_base, area_stride, message):
    with pytest.raises(GeometryError, match=message):
        Geometry.from_info(INFO, Addresses(0x1000, area_base, area_stride))


def test_the_first_new_chunk_may_follow_the_first_chunk_directly():
    assert Geometry.from_info(INFO, Addresses(0x1000, 0x11000, 65536)).addresses.area_base == 0x11000


def test_default_stride_is_a_multiple_of_the_atom():
    info = replace(INFO, atom_size=65536, alloc_size=65536, groups=(GroupInfo(2, 4096, (0, 1)),))
    assert Addresses.default(info).area_stride == 131072


@pytest.mark.parametrize(("make", "message"), [
    (lambda: GroupInfo(3, 0, (0, 1)), "cpu_map: 2 entries for 3 units"),
    (lambda: GroupInfo(1, -1, (0,)), "base_offset: -1 is below 0"),
    (lambda: replace(INFO, dyn_size=1.5), "dyn_size: 1.5 is not a whole number"),
    (lambda: replace(INFO, unit_size=1 << 10000), "unit_size: a number of 10,001 bits is more than"),
    (lambda: replace(INFO, possible_cpus=(1, 0)), "possible_cpus: the ids do not rise"),
    (lambda: Geometry.simple(static_size="x"), "static_size: 'x' is not a whole number"),
    (lambda: Geometry.simple(unit_size=None), "unit_size: None is not a whole number"),
    (lambda: AllocInfo.embed(28672, vmalloc_size="x"), "vmalloc_size: 'x' is not a whole number"),
    (lambda: Geometry.simple(nr_cpus=0), "number of CPUs: 0 is below 1"),
    (lambda: Geometry.simple(nr_cpus=True), "number of CPUs: True is not a whole number"),
    (lambda: AllocInfo.embed(28672, kernel="x"), "kernel: 'x' is no KernelVersion"),
    (lambda: AllocInfo.embed(28672, memory=5), "memory: 5 is no BootMemory"),
    (lambda: Geometry.simple(unit_size=8192), "unit_size: a unit of 8 KiB has 0 bytes left for dyn_size; leave 12,288"),
    (lambda: Geometry.embed(8192, cpus=[0, 0]), "possible CPUs: CPU 0 is given twice"),
    (lambda: Geometry.embed(8192, cpus=10**9), "number of CPUs: 1000000000 is more than 8,192"),
    (lambda: Geometry.embed(8192, atom_size=1 << 60), "atom_size: .* is more than"),
    (lambda: Topology((0,), {0: 5000}), "node: 5000 is more than 1,023"),
    (lambda: Topology((1, 0)), "possible_cpus: the ids do not rise"),
    (lambda: Addresses(4096, 4097, 4096), "area_base: 0x1001 is not page aligned"),
])
def test_impossible_values_are_named(make, message):
    with pytest.raises(GeometryError, match=message):
        make()


# --- addresses ---------------------------------------------------------------------------------------------------


@given(st.sampled_from(list(PRESETS)), st.integers(0, (1 << 64) - 1))
def test_percpu_pointers_and_addresses_are_inverse(name, ptr):
    geometry = preset(name)
    assert geometry.addr_to_pcpu_ptr(geometry.pcpu_ptr_to_addr(ptr)) == ptr


@pytest.mark.parametrize("name", PRESETS)
def test_static_area_ends_where_the_next_part_begins_on_every_cpu(name):
    geometry = preset(name)
    for cpu in geometry.info.possible_cpus:
        start = geometry.addresses.first_chunk + geometry.unit_offset(cpu)
        inside = [geometry.is_kernel_percpu_address(start + off) for off in (0, geometry.info.static_size)]
        assert inside == [not geometry.info.up, False]
    assert not geometry.is_kernel_percpu_address(geometry.addresses.first_chunk - 1)


def test_canonical_address_is_that_of_the_boot_cpu():
    geometry = preset("the 2017 test box")
    assert geometry.canonical_address(geometry.per_cpu_ptr(100, 8)) == geometry.per_cpu_ptr(100, 0)
    assert geometry.canonical_address(0) is None


def test_a_cpu_that_is_not_possible_has_no_offset():
    with pytest.raises(GeometryError, match="CPU 9 is not possible here; there are 4, from 0 to 3"):
        preset("x86-64, 4 CPUs").per_cpu_offset(9)


# --- presets -----------------------------------------------------------------------------------------------------


def test_every_preset_works_and_says_what_it_shows():
    for name, factory in PRESETS.items():
        assert preset(name) == factory()
        assert factory.__doc__.endswith(".")


def test_an_unknown_preset_lists_the_known_ones():
    with pytest.raises(GeometryError, match="no machine is called 'vax'; there are: 'x86-64, 4 CPUs'; 'the 2017"):
        preset("vax")


@pytest.mark.parametrize(("name", "unit_size", "upa", "nr_groups", "nr_units"), [
    ("x86-64, 4 CPUs", 64 * KIB, 1, 1, 4),
    ("the 2017 test box", 256 * KIB, 8, 2, 32),
    ("8 CPUs, 256 KiB", 256 * KIB, 8, 1, 8),
    ("12 CPUs, unused units", 128 * KIB, 8, 1, 16),
    ("64 possible CPUs", 128 * KIB, 16, 1, 64),
])
def test_presets_have_the_layout_their_name_promises(name, unit_size, upa, nr_groups, nr_units):
    info = preset(name).info
    assert (info.unit_size, info.upa, info.nr_groups, info.nr_units) == (unit_size, upa, nr_groups, nr_units)


# --- damaged cases -----------------------------------------------------------------------------------------------

NUMA = next(row["case"] for row in GOLDEN if "areamap/embed_numa" in row["recorded_as"])
PLAIN = next(row["case"] for row in GOLDEN if "areamap/numa_groups" in row["recorded_as"])


def changed(case, path, value):
    case = copy.deepcopy(case)
    *parents, key = path
    reduce(operator.getitem, parents, case)[key] = value
    return case


def key_paths(value, path=()):
    """Every place in a parsed JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from key_paths(item, (*path, key))


@pytest.mark.parametrize("path", [path for path in key_paths(NUMA) if isinstance(path[-1], str)], ids=str)
def test_a_missing_key_is_named(path):
    case = copy.deepcopy(NUMA)
    *parents, key = path
    del reduce(operator.getitem, parents, case)[key]
    with pytest.raises(CaseError, match=rf"case\.json, .*{key}: missing"):
        Geometry.from_case(case)


@pytest.mark.parametrize(("path", "value", "message"), [
    (("kernel",), "v2.6.30", "kernel: 'v2.6.30' is not known; write one of: v4.13-areamap"),
    (("backend",), ["vm"], "backend: .* is not known"),
    (("page_size",), 65536, "page_size: 65536 contradicts"),
    (("possible_cpus",), [0, 1, 1, 3], "possible_cpus: names a CPU twice"),
    (("possible_cpus",), [], "possible_cpus: has 0 entries"),
    (("possible_cpus",), [0, 1, 2, 9999], r"possible_cpus\[3\]: 9999 is more than 8,191"),
    (("nr_cpus",), 5, "nr_cpus: 5 contradicts the 4 entries of possible_cpus; write 4"),
    (("nr_cpu_ids",), 3, "nr_cpu_ids: 3 contradicts"),
    (("alloc_info",), [], r"alloc_info: \[\] is not an object"),
    (("alloc_info", "static_size"), -1, r"alloc_info\.static_size: -1 is below 0"),
    (("alloc_info", "unit_size"), 65537, r"alloc_info\.unit_size: 65537 is not page aligned"),
    (("alloc_info", "unit_size"), 10**4000, r"alloc_info\.unit_size: a number of .* bits is more than"),
    (("alloc_info", "unit_size"), "65536", r"alloc_info\.unit_size: '65536' is not a whole number"),
    (("alloc_info", "atom_size"), 0, r"alloc_info\.atom_size: 0 is below 1"),
    (("alloc_info", "dyn_size"), 4096, "percpu: failed to initialize, dyn_size < PERCPU_DYNAMIC_EARLY_SIZE"),
    (("alloc_info", "nr_groups"), 3, r"alloc_info\.nr_groups: 3 contradicts the 2 entries of groups"),
    (("alloc_info", "groups", 0, "nr_units"), 3, r"groups\[0\]\.nr_units: 3 contradicts the 2 entries of cpu_map"),
    (("alloc_info", "groups", 1, "cpu_map", 0), 2, "cpu_map names CPU 2 twice"),
    (("alloc_info", "groups", 1, "cpu_map", 1), True, r"groups\[1\]\.cpu_map\[1\]: True is not a whole number"),
    (("alloc_info", "groups", 1, "base_offset"), 1 << 50, r"groups\[1\]\.base_offset: .* is more than"),
    (("addresses", "first_chunk"), "0xg", r"addresses\.first_chunk: '0xg' is not an address"),
    (("addresses", "first_chunk"), "1" * 1000, r"addresses\.first_chunk: '1+\.\.\.1+' is not an address"),
    (("addresses", "first_chunk"), "0x0", "base address is NULL"),
    (("addresses", "area_stride"), 4096, "area_stride: chunks of 4325376 bytes, 4096 bytes apart, overlap"),
])
def test_a_damaged_value_is_named(path, value, message):
    with pytest.raises(CaseError, match=rf"^case\.json, .*{message}"):
        Geometry.from_case(changed(PLAIN, path, value))


@pytest.mark.parametrize(("path", "value", "message"), [
    (("alloc_info", "unit_size"), 262144, r"alloc_info\.unit_size: 262144 contradicts `embed`"),
    (("alloc_info", "groups", 1, "base_offset"), 2 * MIB, r"alloc_info\.groups\[1\]\.base_offset: 2097152 contradicts"),
    (("addresses", "first_chunk"), "0xffff888100200000", r"addresses\.first_chunk: 0xffff888100200000 contradicts"),
    (("embed", "cpu_node"), [0, 0, 0], r"embed\.cpu_node: has 3 entries for CPUs up to 7"),
    (("embed", "use_distance_fn"), 1, r"embed\.use_distance_fn: 1 is neither true nor false"),
    (("embed", "node_base"), None, r"embed\.node_base: None is not a whole number"),
])
def test_a_layout_that_contradicts_its_embed_arguments_is_named(path, value, message):
    with pytest.raises(CaseError, match=rf"^case\.json, {message}"):
        Geometry.from_case(changed(NUMA, path, value))


@pytest.mark.parametrize("case", [PLAIN, NUMA], ids=["first_chunk", "embed"])
def test_new_chunks_go_where_the_case_says(case):
    assert Geometry.from_case(changed(case, ("addresses", "area_base"), "0xffffe90000000000")).addresses.area_base == \
        0xFFFFE90000000000


def test_a_case_that_is_no_object_is_an_error():
    with pytest.raises(CaseError, match=r"ops/case\.json: 'text' is not an object"):
        Geometry.from_case("text", where="ops/case.json")


junk = st.recursive(st.none() | st.booleans() | st.integers() | st.integers(-(1 << 200), 1 << 200) | st.floats()
                    | st.text(max_size=8) | st.sampled_from(["0x0", "0xffffffffffffffff", 4096, 1 << 30, 1 << 63]),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
                    max_leaves=4)


@settings(max_examples=300)
@given(st.sampled_from([NUMA, PLAIN]).flatmap(lambda case: st.tuples(
    st.just(case), st.sampled_from(list(key_paths(case))))), junk)
@example((NUMA, ("embed", "node_stride")), (1 << 40) + 4096)
@example((PLAIN, ("alloc_info", "groups")), [{}])
def test_whatever_a_case_holds_it_works_or_is_called_damaged(place, value):
    case, path = place
    try:
        message = Geometry.from_case(changed(case, path, value)).boot_log[-1]
    except CaseError as error:
        message = str(error)
    assert 0 < len(message) < 500


# --- what a notebook shows ---------------------------------------------------------------------------------------


class _Balance(HTMLParser):
    """Checks that tags nest, and collects text and styles."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.widths = [], [], []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.widths += [float(style.split("width:")[1].split("%")[0]) for name, style in attrs
                        if name == "style" and style.startswith("width:")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.mark.parametrize("name", PRESETS)
def test_html_shows_the_unit_to_scale_and_every_cpu(name):
    geometry = preset(name)
    page = _Balance()
    page.feed(geometry._repr_html_())
    assert page.open == []
    assert sum(page.widths) == pytest.approx(100, abs=0.01)
    assert page.widths == pytest.approx([100 * part / geometry.info.unit_size for _, part in geometry.info.layout()],
                                        abs=0.001)
    for cpu in geometry.info.possible_cpus:
        assert str(cpu) in page.text
    assert page.text.count("-") == geometry.info.nr_units - geometry.info.nr_cpus


def test_html_of_a_huge_machine_stays_small():
    html = Geometry.embed(8192, cpus=Topology.numa(*([cpu] for cpu in range(500))))._repr_html_()
    assert len(html) < 20_000
    assert "and 484 more groups" in html


def test_reprs_are_one_short_line():
    geometry = preset("x86-64, 4 CPUs")
    for thing in (geometry, geometry.info, geometry.addresses, geometry.info.groups[0], BootMemory(), Topology.of(4)):
        assert len(repr(thing)) < 130
        assert "\n" not in repr(thing)
