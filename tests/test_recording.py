"""Recordings: all that is in a folder, and what happens when some of it is missing or damaged."""

from __future__ import annotations

import gzip
import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import percpu_lab
from percpu_lab.core import layout as L
from percpu_lab.errors import GeometryError, TraceFormatError
from percpu_lab.traces.recording import Recording, open_trace, read_stats_folder

REAL = Path(__file__).parent / "data" / "real" / "folders"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of a recording, to be damaged."""
    return Path(shutil.copytree(REAL / "pcs-smp3-boot", tmp_path / "recording"))


def kinds(recording: Recording) -> list[tuple[str, str]]:
    return [(remark.file, remark.kind) for remark in recording.oddities]


# --- whole ------------------------------------------------------------------------------


def test_a_folder_is_opened_whole() -> None:
    recording = open_trace(REAL / "pcs-smp3-boot")
    assert recording.oddities == ()
    assert (recording.name, recording.release) == ("pcs-smp3-boot", "6.1.192-pcpustats")
    assert recording.kernel is not None
    assert recording.kernel.name == "v6.1-bitmap"
    assert [len(recording.trace), len(recording.early or ())] == [336, 70]
    assert [reading.name for reading in recording.stats] == ["00-init-first", "boot-end"]
    assert [reading.percpu_kib for reading in recording.proc] == [864, 864]
    assert (recording.pointer_bytes, recording.is_32bit, recording.accounts_memcg) == (8, False, True)


def test_the_public_name_opens_it() -> None:
    assert percpu_lab.open_trace is open_trace
    assert repr(open_trace(REAL / "deb61-smp4-boot")) == (
        "<Recording 'deb61-smp4-boot', kernel 6.1.0-53-cloud-amd64: 416 events>"
    )


def test_the_geometry_is_that_of_the_log_with_its_unused_unit() -> None:
    geometry = open_trace(REAL / "pcs-smp3-boot").geometry
    assert geometry is not None
    assert geometry.info.groups[0].cpu_map == (0, 1, 2, None)
    assert geometry.boot_log[-2:] == (
        "pcpu-alloc: s181032 r8192 d31960 u524288 alloc=1*2097152",
        "pcpu-alloc: [0] 0 1 2 - ",
    )


def test_what_is_chosen_is_said() -> None:
    assert open_trace(REAL / "pcs-smp3-boot").assumptions == ("addresses of chunks: the kernel keeps them to itself",)


@pytest.mark.parametrize("name", ["pcs-smp3-boot", "deb61-smp4-boot"])
def test_true_addresses_and_gfp_flags_come_from_two_readings_of_one_ring(name: str) -> None:
    trace = open_trace(REAL / name).trace
    allocs = trace.event == L.EVENT_ALLOC
    assert (trace.base_addr[trace.base_addr != 0] >> np.uint64(32)).all()  # hashed ones have 32 bits
    assert set(trace.gfp_flags[allocs]) >= {"GFP_KERNEL"}
    assert "" not in trace.gfp_flags[allocs]


def test_early_calls_and_trace_agree_with_percpu_stats() -> None:
    recording = open_trace(REAL / "pcs-smp3-boot")
    assert recording.early is not None
    for reading in recording.stats:
        assert reading.rows is not None
        assert reading.rows[0] == reading.rows[1]
        before = recording.trace.event[: reading.rows[0]]
        counted = reading.stats.global_stats
        assert np.sum(before == L.EVENT_ALLOC) + len(recording.early) == counted.nr_alloc
        assert np.sum(before == L.EVENT_FREE) == counted.nr_dealloc


def test_early_calls_lie_in_the_chunks_of_the_trace() -> None:
    recording = open_trace(REAL / "pcs-smp3-boot")
    assert recording.early is not None
    base = int(recording.early.base_addr[0])
    row = int(np.argmax(recording.trace.base_addr == np.uint64(base)))
    assert set(recording.early.chunk.tolist()) == {int(recording.trace.chunk[row])}


def test_early_calls_get_the_hashed_identity_where_the_trace_has_no_other(folder: Path) -> None:
    whole = open_trace(folder)
    (folder / "trace-nohashptr.txt.gz").unlink()
    hashed = open_trace(folder)
    assert hashed.early is not None
    assert whole.early is not None
    assert set(hashed.early.base_addr.tolist()) <= set(hashed.trace.base_addr.tolist())
    assert hashed.early.chunk.tolist() == whole.early.chunk.tolist()
    assert hashed.trace.chunk.tolist() == whole.trace.chunk.tolist()


def test_snaps_lie_between_their_own_markers_or_behind_the_statistics() -> None:
    assert [reading.rows for reading in open_trace(REAL / "pcs-smp3-boot").proc] == [(316, 316), (336, 336)]
    assert [reading.rows for reading in open_trace(REAL / "deb61-smp4-boot").proc] == [(360, 360), (416, 416)]


def test_a_file_alone_is_a_trace_and_nothing_else() -> None:
    recording = open_trace(REAL / "pcs-smp3-boot" / "trace-nohashptr.txt.gz")
    assert (len(recording.trace), recording.early, recording.geometry, recording.stats) == (336, None, None, ())


def test_a_folder_with_percpu_stats_alone_says_who_reads_it(folder: Path) -> None:
    for path in folder.glob("trace*"):
        path.unlink()
    with pytest.raises(TraceFormatError, match="the verb stats reads percpu_stats alone"):
        open_trace(folder)


def test_losses_of_the_ring_are_noted(folder: Path) -> None:
    (folder / "ringbuffer-stats.txt").write_text(
        "== cpu0\nentries: 89\noverrun: 49\ncommit overrun: 0\ndropped events: 0\n"
        "== cpu12\noverrun: 1\ncommit overrun: 2\ndropped events: 3\n== cpu13\noverrun: 0\n"
    )
    recording = open_trace(folder)
    assert recording.trace.lost == 55
    (found,) = recording.oddities
    assert (found.kind, found.text) == ("ring", "50 events overwritten and 5 dropped, on CPU 0, 12")
    (folder / "ringbuffer-stats.txt").write_text("== cpu0\noverrun: 0\ndropped events: 0\nnothing: 12\n")
    assert open_trace(folder).oddities == ()
    assert open_trace(folder).trace.lost == 0


def test_a_loss_that_text_and_ring_tell_of_counts_once(folder: Path) -> None:
    (folder / "trace-nohashptr.txt.gz").unlink()
    text = gzip.decompress((folder / "trace.txt.gz").read_bytes()).decode()
    at = text.index("\n", text.index("percpu_alloc_percpu")) + 1
    (folder / "trace.txt.gz").write_bytes(gzip.compress(f"{text[:at]}CPU:0 [LOST 9 EVENTS]\n{text[at:]}".encode()))
    for nr_overwritten, nr_lost in ((4, 9), (9, 9), (12, 12)):
        (folder / "ringbuffer-stats.txt").write_text(f"== cpu0\noverrun: {nr_overwritten}\n")
        assert open_trace(folder).trace.lost == nr_lost


ALONE = REAL / "deb61-smp4-boot" / "trace.txt.gz"
LOG = REAL / "deb61-smp4-boot" / "dmesg.txt.gz"
WORDS = "s212992 r8192 d28672 u524288"


@pytest.mark.parametrize("words", [f"{WORDS} cpus=4", "cpus=4, u524288 d28672 r8192 s212992 alloc=1*2097152",
                                   f"percpu: Embedded 61 pages/cpu {WORDS} cpus=4",
                                   f"pcpu-alloc: {WORDS} alloc=1*2097152\npcpu-alloc: [0] 0 1 2 3"])  # fmt: skip
def test_a_file_alone_takes_its_layout_from_words(words: str) -> None:
    recording, whole = open_trace(ALONE, geometry=words), open_trace(ALONE.parent)
    assert recording.geometry is not None
    assert whole.geometry is not None
    assert recording.geometry.info == whole.geometry.info
    assert "the layout of per-CPU memory is the one that was given" in recording.assumptions
    assert any("nothing tells its release" in text for text in recording.assumptions)


def test_a_file_alone_takes_layout_and_release_from_a_log() -> None:
    recording, whole = open_trace(ALONE, dmesg=LOG), open_trace(ALONE.parent)
    assert (recording.release, recording.kernel, recording.oddities) == (whole.release, whole.kernel, ())
    assert recording.geometry is not None
    assert whole.geometry is not None
    assert recording.geometry.info == whole.geometry.info


def test_percpu_stats_tells_the_layout_once_the_cpus_are_given() -> None:
    trace, stats = REAL / "pcs-smp3-boot" / "trace.txt.gz", REAL / "pcs-smp3-boot" / "stats" / "001-boot-end.txt"
    unknown = open_trace(trace, stats=stats)
    assert unknown.geometry is None
    assert "does not tell the possible CPUs" in unknown.oddities[0].text
    known, whole = open_trace(trace, stats=stats, geometry="cpus=3"), open_trace(trace.parent)
    assert known.geometry is not None
    assert whole.geometry is not None
    assert known.geometry.info == whole.geometry.info
    assert len(known.stats) == 1


def test_what_is_given_goes_before_what_a_folder_holds() -> None:
    recording = open_trace(REAL / "deb61-smp4-boot", geometry=f"{WORDS} cpus=2", release="6.12.1")
    assert recording.geometry is not None
    assert (recording.geometry.info.nr_cpus, recording.release) == (2, "6.12.1")


@pytest.mark.parametrize(
    ("words", "what"),
    [(WORDS, "cpus= is missing"), ("s1 cpus=4", "missing: rBYTES, dBYTES, uBYTES"), (f"{WORDS} cpus=0", "0 CPUs"),
     ("unit=4 cpus=4", "not a word of a boot line: 'unit=4'"), ("", "missing: sBYTES"),
     ("percpu: nothing here", "tells the layout"), (f"{WORDS} x\x1b[2J cpus=4", "not a word")],
)  # fmt: skip
def test_words_that_tell_no_layout_are_refused(words: str, what: str) -> None:
    with pytest.raises(GeometryError, match=re.escape(what)):
        open_trace(ALONE, geometry=words)


@pytest.mark.parametrize("name", ["dmesg", "stats"])
def test_a_file_that_is_given_must_be_there(name: str, tmp_path: Path) -> None:
    with pytest.raises(TraceFormatError, match="no such file"):
        open_trace(ALONE, **{name: tmp_path / "none"})


def test_the_standard_input_is_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (REAL / "pcs-smp3-boot" / "trace.txt.gz").read_bytes()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))
    recording = open_trace("-")
    assert (recording.name, len(recording.trace)) == ("standard input", 336)


def test_progress_is_reported_while_reading() -> None:
    seen: list[int] = []
    open_trace(REAL / "deb61-smp4-boot", progress=lambda done, _total: seen.append(done))
    assert seen == sorted(seen) or len(seen) > 1


# --- missing and damaged ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "gone"),
    [
        ("dmesg.txt.gz", "geometry-from-stats"),
        ("uname.txt", "nothing"),
        ("percpu_early.txt", "early"),
        ("stats", "stats"),
        ("snap", "proc"),
        ("trace.txt.gz", "nothing"),
    ],
)
def test_any_part_may_be_missing(folder: Path, name: str, gone: str) -> None:
    path = folder / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    recording = open_trace(folder)
    assert recording.oddities == ()
    assert len(recording.trace) == 336
    assert recording.release == "6.1.192-pcpustats"
    assert recording.geometry is not None
    assert (recording.early is None) == (gone == "early")
    assert (recording.stats == ()) == (gone == "stats")
    assert (recording.proc == ()) == (gone == "proc")
    assert (len(recording.assumptions) > 1) == (gone == "geometry-from-stats")


def test_the_one_file_with_percpu_events_is_the_trace_whatever_its_name(folder: Path) -> None:
    for path in folder.glob("trace*"):
        path.rename(path.with_name("mine-" + path.name))
    others = sorted(path for path in folder.glob("mine-*"))[1:]
    for path in others:
        path.unlink()
    (trace,) = folder.glob("mine-*")
    recording = open_trace(folder)
    assert len(recording.trace) == 336
    assert [kind for kind in kinds(recording) if kind[1] == "name"] == [(trace.name, "name")]


def test_of_two_files_with_percpu_events_none_is_taken_for_the_trace(folder: Path) -> None:
    for path in folder.glob("trace*"):
        path.rename(path.with_name("mine-" + path.name))
    with pytest.raises(TraceFormatError, match="no trace in this folder"):
        open_trace(folder)


def test_a_folder_without_a_trace_is_refused_with_what_there_is(folder: Path) -> None:
    for path in folder.glob("trace*"):
        path.unlink()
    with pytest.raises(TraceFormatError, match="no trace in this folder"):
        open_trace(folder)
    readings, remarks = read_stats_folder(folder)
    assert [reading.number for reading in readings] == [0, 1]
    assert remarks == ()


def test_nothing_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceFormatError, match="no such file or folder"):
        open_trace(tmp_path / "none")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_text(path: Path) -> None:
    path.write_text(path.read_text()[:900])


def other_ring(path: Path) -> None:
    text = gzip.decompress(path.read_bytes()).decode().replace("off=812 ", "off=816 ", 1)
    path.write_bytes(gzip.compress(text.encode()))


def other_boot(path: Path) -> None:
    path.write_text(path.read_text().replace("181032", "181040"))


def two_boots(path: Path) -> None:
    text = gzip.decompress(path.read_bytes()).decode()
    path.write_bytes(gzip.compress(f"[ 0.0] Linux version 6.1.0-1-amd64 (x)\n{text}".encode()))


def binary(path: Path) -> None:
    path.write_bytes(bytes(range(256)))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def one_call_less(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


@pytest.mark.parametrize(
    ("name", "damage", "kind"),
    [
        ("dmesg.txt.gz", cut, "damaged"),
        ("dmesg.txt.gz", two_boots, "boots"),
        ("uname.txt", other_boot, ""),
        ("stats/000-00-init-first.txt", cut_text, "unreadable"),
        ("stats/000-00-init-first.txt", binary, "binary"),
        ("stats/000-00-init-first.txt", empty, "empty"),
        ("stats/001-boot-end.txt", other_boot, "another boot"),
        ("snap/001-boot-end.txt", empty, "empty"),
        ("trace-nohashptr.txt.gz", other_ring, "another ring"),
        ("percpu_early.txt", one_call_less, "early"),
    ],
)
def test_damage_is_told_with_its_file_and_the_rest_is_used(
    folder: Path, name: str, damage: Callable[[Path], None], kind: str
) -> None:
    damage(folder / name)
    recording = open_trace(folder)
    assert kinds(recording) == ([(name, kind)] if kind else [])
    assert len(recording.trace) == 336
    assert recording.geometry is not None


def test_without_log_and_statistics_there_is_no_geometry_and_no_release(folder: Path) -> None:
    for name in ("dmesg.txt.gz", "uname.txt"):
        (folder / name).unlink()
    shutil.rmtree(folder / "stats")
    recording = open_trace(folder)
    assert (recording.geometry, recording.release, recording.kernel) == (None, None, None)
    assert kinds(recording) == [("uname.txt", "missing"), ("dmesg.txt", "missing")]
    assert (recording.pointer_bytes, recording.accounts_memcg) == (8, True)


def test_a_log_that_began_too_late_is_told_and_statistics_give_the_geometry(folder: Path) -> None:
    (folder / "dmesg.txt.gz").unlink()
    (folder / "dmesg.txt").write_text("[  9.0] hello\n")
    recording = open_trace(folder)
    assert kinds(recording) == [("dmesg.txt", "geometry")]
    assert recording.geometry is not None
    assert recording.geometry.info.groups[0].cpu_map == (0, 1, 2, None)


def test_a_release_before_the_statistics_came_is_told(folder: Path) -> None:
    (folder / "uname.txt").write_text("Linux box 4.4.0-21-generic #37 SMP x86_64 GNU/Linux\n")
    recording = open_trace(folder)
    assert (recording.release, recording.kernel) == ("4.4.0-21-generic", None)
    assert ("uname.txt", "missing") in kinds(recording)
    assert ("dmesg.txt.gz", "release") in kinds(recording)


@pytest.mark.parametrize(("name", "are_true"), [("trace.txt.gz", True), ("trace-nohashptr.txt.gz", False)])
def test_of_two_readings_of_a_ring_the_longer_counts(folder: Path, name: str, are_true: bool) -> None:
    whole = open_trace(folder).trace
    lines = gzip.decompress((folder / name).read_bytes()).decode().splitlines(keepends=True)
    (folder / name).write_bytes(gzip.compress("".join(lines[:200]).encode()))
    recording = open_trace(folder)
    assert (name, "cut") in kinds(recording)
    assert recording.trace.off.tolist() == whole.off.tolist()
    assert np.array_equal(recording.trace.base_addr, whole.base_addr) == are_true
    assert recording.trace.gfp_flags[0] == "GFP_KERNEL"


def test_readings_in_another_order_are_told(folder: Path) -> None:
    (folder / "stats" / "000-00-init-first.txt").rename(folder / "stats" / "002-late.txt")
    assert ("stats/002-late.txt", "another boot") in kinds(open_trace(folder))


def test_a_stray_file_among_the_readings_is_told(folder: Path) -> None:
    (folder / "stats" / "notes").write_text("x")
    assert kinds(open_trace(folder)) == [("stats/notes", "name")]


def test_files_may_bear_the_names_of_the_kernel(folder: Path) -> None:
    shutil.rmtree(folder / "stats")
    (folder / "trace-nohashptr.txt.gz").unlink()
    for name, other in (("trace.txt.gz", "trace"), ("dmesg.txt.gz", "dmesg")):
        (folder / other).write_bytes(gzip.decompress((folder / name).read_bytes()))
        (folder / name).unlink()
    text = (REAL / "pcs-smp3-boot" / "stats" / "001-boot-end.txt").read_text()
    (folder / "percpu_stats").write_text(f"before\n{text}\nafter\n{text}")
    recording = open_trace(folder)
    assert recording.oddities == ()
    assert [len(recording.trace), recording.geometry is not None] == [336, True]
    assert [(reading.name, reading.number, reading.rows) for reading in recording.stats] == [
        ("before", 0, None),
        ("after", 1, None),
    ]


def test_unpacked_and_packed_files_read_the_same(folder: Path) -> None:
    for name in ("trace.txt", "trace-nohashptr.txt", "dmesg.txt"):
        (folder / name).write_bytes(gzip.decompress((folder / f"{name}.gz").read_bytes()))
        (folder / f"{name}.gz").unlink()
    recording = open_trace(folder)
    assert recording.oddities == ()
    assert recording.trace.off.tolist() == open_trace(REAL / "pcs-smp3-boot").trace.off.tolist()


def test_a_damaged_reading_of_hashed_addresses_leaves_the_true_ones(folder: Path) -> None:
    (folder / "trace.txt.gz").write_bytes(b"\x7fELF" + bytes(2000))
    recording = open_trace(folder)
    assert kinds(recording)[0] == ("trace.txt.gz", "unreadable")
    assert len(recording.trace) == 336


def test_meminfo_and_vmallocinfo_at_the_top_of_a_folder_are_a_reading_at_the_end(folder: Path) -> None:
    (folder / "meminfo.txt").write_text("MemTotal: 3000000 kB\nPercpu: 864 kB\n")
    area = "0x0000000016cc1a9d-0x0000000059b3307a 2097152 pcpu_get_vm_areas+0x0/0x1070 vmalloc\n"
    (folder / "vmallocinfo-pcpu.txt").write_text(area)
    recording = open_trace(folder)
    last, nr = recording.proc[-1], len(recording.trace)
    assert (last.file, last.percpu_kib, last.rows) == ("meminfo.txt", 864, (nr, nr))
    assert [area.size_bytes for area in last.vmalloc_areas] == [2097152]
    assert last.number not in {reading.number for reading in (*recording.stats, *recording.proc[:-1])}
    assert open_trace(folder, limit=100).proc[-1].rows is None
