"""The kernel log, the layout it tells, and the files of /proc."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from percpu_lab.errors import GeometryError
from percpu_lab.geometry import AllocInfo, Geometry, GroupInfo, Topology, pcpu_build_alloc_info
from percpu_lab.kernels import KERNELS
from percpu_lab.traces.dmesg import read_dmesg
from percpu_lab.traces.proc import VmallocArea, check_chunk_areas, read_proc

REAL = Path(__file__).parent / "data" / "real" / "dmesg"
FAILURES = """\
[   43.100000] percpu: allocation failed, size=1048 align=8 atomic=0, failed to populate
[   43.100010] CPU: 2 PID: 701 Comm: wl Not tainted 6.1.0 #1
[   43.100020] Call Trace:
[   43.100030]  <TASK>
[   43.100040]  dump_stack_lvl+0x34/0x48
[   43.100050]  pcpu_alloc+0x6d1/0x7b0
[   43.100060]  bpf_map_alloc_percpu+0x52/0x100 [bpf]
[   43.100070]  </TASK>
[   43.200000] percpu: allocation failed, size=64 align=8 atomic=1, atomic alloc failed, no space left
[   43.200010] percpu: limit reached, disable warning
[   44.000000] illegal size (40000) or align (8) for percpu allocation
[   44.000010] WARNING: CPU: 0 PID: 1 at mm/percpu.c:1752 pcpu_alloc+0x5c8/0x7b0
[   44.000020]  __alloc_percpu+0x10/0x20
"""


def layout_of(text: str) -> AllocInfo:
    return AllocInfo.from_log([line.text for line in read_dmesg(text).lines])[0]


def test_failures_have_line_time_request_and_reason() -> None:
    first, second = read_dmesg(FAILURES).failures
    assert (first.line, first.time, first.size, first.align, first.is_atomic) == (1, 43.1, 1048, 8, False)
    assert first.reason == "failed to populate"
    assert (second.line, second.is_atomic, second.reason) == (9, True, "atomic alloc failed, no space left")


def test_the_stack_behind_a_failure_belongs_to_it_and_an_atomic_one_has_none() -> None:
    first, second = read_dmesg(FAILURES).failures
    assert first.stack == (
        "dump_stack_lvl+0x34/0x48",
        "pcpu_alloc+0x6d1/0x7b0",
        "bpf_map_alloc_percpu+0x52/0x100 [bpf]",
    )
    assert second.stack == ()


def test_the_end_of_warnings_and_illegal_requests_are_told() -> None:
    log = read_dmesg(FAILURES)
    assert log.limit is not None
    assert (log.limit.number, log.limit.time) == (10, 43.20001)
    assert [(bad.line, bad.size, bad.align, bad.stack) for bad in log.illegal] == [
        (11, 40000, 8, ("__alloc_percpu+0x10/0x20",))
    ]


@pytest.mark.parametrize("prefix", ["> ", ">> ", "> > ", "Nov 22 18:45:52 box kernel: ", "<4>",
                                    "2026-11-22T18:45:52+0000 box kernel: ", "kern  :warn  : "])  # fmt: skip
def test_a_log_from_a_mail_or_a_journal_reads_the_same(prefix: str) -> None:
    changed = "".join(f"{prefix}{line}\n" for line in FAILURES.splitlines())
    assert read_dmesg(changed) == read_dmesg(FAILURES)


def test_messages_that_a_mail_broke_in_two_are_joined() -> None:
    mail = """> [    0.000000] pcpu-alloc: s181032 r8192 d31960 u524288
> alloc=1*2097152
> [    0.000000] pcpu-alloc: [0] 0 1 2 3

> [   43.100000] percpu: allocation failed, size=1048 align=8 atomic=0,
> failed to populate
> [   43.100010] CPU: 2 PID: 701 Comm: wl Not tainted
> 6.1.0 #1
what about this?
"""
    log = read_dmesg(mail)
    assert layout_of(mail).alloc_size == 2097152
    assert [(bad.line, bad.reason) for bad in log.failures] == [(5, "failed to populate")]
    assert [line.number for line in log.lines] == [1, 3, 5, 7, 8, 9]


@pytest.mark.parametrize(
    ("stamp", "time"),
    [("[Mon Nov 22 10:00:00 2026] ", None), ("[Nov22 10:00] ", None), ("[  +0.000003] ", None),
     ("2026-11-22T10:00:00,123456+00:00 ", None), ("[    43.25] box kernel: ", 43.25),
     ("[   43.250000][  T701] ", 43.25)],
)  # fmt: skip
def test_stamps_of_all_tools_are_no_part_of_the_message(stamp: str, time: float | None) -> None:
    log = read_dmesg(
        f"{stamp}percpu: Embedded 61 pages/cpu s212992 r8192 d28672 u524288\n"
        f"{stamp}pcpu-alloc: s212992 r8192 d28672 u524288 alloc=1*2097152\n{stamp}pcpu-alloc: [0] 0 1 [1] 2 -\n"
        f"{stamp}percpu: allocation failed, size=8 align=4 atomic=0, failed to populate\n"
    )
    assert AllocInfo.from_log([line.text for line in log.geometry_lines])[0].nr_cpus == 3
    assert [failure.time for failure in log.failures] == [time]


def test_a_log_without_time_stamps_has_no_times() -> None:
    log = read_dmesg("percpu: allocation failed, size=8 align=4 atomic=0, failed to allocate new chunk")
    assert log.failures[0].time is None
    assert log.failures[0].reason == "failed to allocate new chunk"


@given(st.text())
def test_any_text_is_a_log(text: str) -> None:
    assert all(line.number <= text.count("\n") + 1 for line in read_dmesg(text).lines)


# --- geometry ---------------------------------------------------------------------------


def test_a_32_bit_kernel_embeds_in_single_pages() -> None:
    info = layout_of((REAL / "deb61-i686-smp1.txt").read_text())
    assert info == AllocInfo(103316, 0, 31852, 135168, 4096, 33 * 4096, (GroupInfo(1, 0, (0,)),), (0,))


def test_a_page_first_chunk_has_a_unit_an_allocation() -> None:
    info = layout_of((REAL / "pcs-smp4-pagefc-small.txt").read_text())
    assert (info.unit_size, info.alloc_size, info.atom_size, info.upa) == (204800, 204800, 4096, 1)
    log = Geometry.from_info(info, kernel=KERNELS["v6.1-bitmap"]).boot_log
    assert log[-1] == "pcpu-alloc: [0] 0 [0] 1 [0] 2 [0] 3 "


def test_the_release_of_the_log_is_told() -> None:
    assert read_dmesg((REAL / "deb612-smp4-nomemcg-boot.txt").read_text()).release == "6.12.117+deb12-cloud-amd64"


def test_without_the_groups_the_log_tells_the_number_of_cpus() -> None:
    lines = ["setup_percpu: NR_CPUS:64 nr_cpumask_bits:3 nr_cpu_ids:3 nr_node_ids:1"]
    lines += ["percpu: Embedded 54 pages/cpu s181032 r8192 d31960 u524288"]
    info, assumed = AllocInfo.from_log(lines)
    assert info.groups == (GroupInfo(4, 0, (0, 1, 2, None)),)
    assert (info.atom_size, info.alloc_size) == (2097152, 2097152)
    assert len(assumed) == 2


def test_a_log_that_says_nothing_is_refused() -> None:
    with pytest.raises(GeometryError, match="no line of the log"):
        AllocInfo.from_log(["percpu: hello"])
    with pytest.raises(GeometryError, match="possible CPUs"):
        AllocInfo.from_log(["percpu: 50 4K pages/cpu s181032 r8192 d15576"])


def test_of_two_boots_the_last_counts() -> None:
    one = Geometry.embed(28672, cpus=2).boot_log
    two = Geometry.embed(181032, cpus=3).boot_log
    assert AllocInfo.from_log([*one, *two])[0] == Geometry.embed(181032, cpus=3).info


TOPOLOGIES = st.integers(1, 24).flatmap(
    lambda n: st.lists(st.integers(0, 3), min_size=n, max_size=n).map(
        lambda nodes: Topology(tuple(range(len(nodes))), dict(enumerate(nodes)), lambda a, b: 10 if a == b else 20)
    )
)


@given(TOPOLOGIES, st.sampled_from([4096, 65536, 2097152]), st.integers(1, 60000), st.booleans())
def test_a_layout_reads_back_from_its_own_log(cpus: Topology, atom_size: int, static: int, late: bool) -> None:
    kernel = KERNELS["v6.12-bitmap" if late else "v4.13-areamap"]
    info = pcpu_build_alloc_info(static * 4, 8192, 28672, atom_size, cpus=cpus, kernel=kernel)
    found, _ = AllocInfo.from_log(info.dump())
    assert [group.cpu_map for group in found.groups] == [group.cpu_map for group in info.groups]
    sizes = ("static_size", "reserved_size", "dyn_size", "unit_size", "atom_size", "alloc_size", "possible_cpus")
    assert [getattr(found, name) for name in sizes] == [getattr(info, name) for name in sizes]


# --- /proc ------------------------------------------------------------------------------

SNAP = """\
== meminfo
Percpu:             1056 kB
== vmallocinfo pcpu
0x000000006d04003e-0x00000000f86e79f1   12288 pcpu_create_chunk+0x57/0x200 pages=2 vmalloc N0=2
0x00000000c89e8fd1-0x00000000e8a89d7e  819200 pcpu_get_vm_areas+0x0/0xfe0 vmalloc
"""


def test_percpu_and_the_areas_are_read() -> None:
    found = read_proc(SNAP)
    assert found.percpu_kib == 1056
    assert [(area.size_bytes, area.nr_pages, area.is_chunk) for area in found.vmalloc_areas] == [
        (12288, 2, False),
        (819200, None, True),
    ]


def test_many_empty_lines_take_no_time() -> None:
    assert read_proc("\n" * 200_000 + "Percpu: 4 kB\r\n").percpu_kib == 4


def test_a_file_without_either_has_neither() -> None:
    assert read_proc("MemTotal: 3054032 kB\n") == read_proc("")


def areas(*sizes: int) -> tuple[VmallocArea, ...]:
    return tuple(VmallocArea(0, 0, size, "pcpu_get_vm_areas+0x0/0xfe0", None) for size in sizes)


def test_areas_of_chunks_fit_the_layout_or_are_told() -> None:
    info = layout_of((REAL / "pcs-smp4-pagefc-small.txt").read_text())
    assert check_chunk_areas(areas(819200), info, 2) == ()
    assert check_chunk_areas(read_proc(SNAP).vmalloc_areas, info) == ()
    assert check_chunk_areas(areas(819200), info, 3) == ("1 areas for each group, where 2 chunks lie beside the first",)
    assert check_chunk_areas(areas(524288), info) == ("an area of 524,288 bytes, which no group has",)


def test_groups_of_different_sizes_have_equally_many_areas() -> None:
    groups = (GroupInfo(2, 0, (0, 1)), GroupInfo(1, 1 << 21, (2,)))
    info = AllocInfo(8192, 0, 24576, 32768, 4096, 32768, groups, (0, 1, 2))
    assert check_chunk_areas(areas(65536, 32768), info, 2) == ()
    assert check_chunk_areas(areas(65536, 65536, 32768), info) == ("the groups do not have the same number of areas",)


@pytest.mark.parametrize("line", ["pcpu-alloc: [0] " + "1" * 50000 + "x", "pcpu-alloc: [0] " + "1 - " * 20000 + "x"])
def test_a_hostile_line_takes_no_time(line: str) -> None:
    with pytest.raises(GeometryError):
        AllocInfo.from_log([line])


def test_a_kernel_without_smp_has_no_static_part() -> None:
    info = Geometry.up().info
    assert AllocInfo.from_log(info.dump())[0] == info
