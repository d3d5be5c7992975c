"""The allocator once more, written from the specification alone: slow, obvious, on other data structures.

A chunk is a dict of the areas in use; what lies between them is free. Nothing that can be counted is kept: map,
free_size, slots of pages, nr_empty_pop_pages are worked out when asked for. Kept is only what the kernel decides by:
hints, list order, capacities, populated pages.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from percpu_lab.geometry import Geometry

PAGE = 4096
MASK64 = (1 << 64) - 1
DEFAULT_MAP, BOOT_MAP = 16, 128
LOW, HIGH = 2, 4
FAULTS = ("page", "vm", "mem", "ptmap")


class WalkedAstray(Exception):
    """Section 11.19: the kernel itself would loop for ever."""


class Failed(Exception):
    """An allocation failed; its text is the reason."""


@dataclass(eq=False)
class Chunk:
    ordinal: int
    base: int
    end: int  # where the usable space ends
    prefix: int | None = None  # where the static or reserved prefix ends
    lost: int = 0  # free by number only
    map_alloc: int = DEFAULT_MAP
    nr_extra_pages: int = 0  # km counts the pages of all units
    used: dict[int, int] = field(default_factory=dict)  # start -> end
    hidden: int | None = None  # where an area begins that only looks in use
    first_free: int = 0
    contig_hint: int = 0
    max_alloc_size: int = 0
    pages: set[int] = field(default_factory=set)

    @property
    def is_boot(self) -> bool:
        return self.ordinal <= 0

    def areas(self) -> list[tuple[int, int, bool]]:
        """Start, end, in use: prefix, areas in use, gaps."""
        found, at = [], 0
        if self.prefix is not None:
            found.append((0, self.prefix, True))
            at = self.prefix
        for start in sorted(self.used):
            if start > at:
                found.append((at, start, False))
            found.append((start, self.used[start], True))
            at = self.used[start]
        if self.end > at:
            found.append((at, self.end, False))
        return found

    def map(self) -> list[int]:
        return [start | in_use for start, _, in_use in self.areas()] + [self.end | 1]

    def gaps(self) -> list[tuple[int, int]]:
        return [(start, end) for start, end, in_use in self.areas() if not in_use]

    @property
    def n(self) -> int:
        return len(self.areas())

    @property
    def free_size(self) -> int:
        return sum(end - start for start, end in self.gaps()) + self.lost

    @property
    def nr_alloc(self) -> int:
        return sum(start != self.hidden for start in self.used)

    @property
    def nr_populated(self) -> int:
        return len(self.pages) + self.nr_extra_pages

    def empty_pages(self) -> int:
        """Populated pages without a byte in use; those of an area that only looks in use count, too."""
        free = self.gaps() + [(start, end) for start, end in self.used.items() if start == self.hidden]
        return sum(page in self.pages for start, end in free for page in range(-(-start // PAGE), end // PAGE))

    def holes(self, first: int, last: int) -> list[tuple[int, int]]:
        """Runs of unpopulated pages within [first, last)."""
        runs: list[list[int]] = []
        for page in range(first, last):
            if page not in self.pages:
                if runs and runs[-1][1] == page:
                    runs[-1][1] += 1
                else:
                    runs.append([page, page + 1])
        return [(a, b) for a, b in runs]


class NaiveAllocator:
    def __init__(self, geometry: Geometry, *, auto_balance: bool = False) -> None:
        self.info = info = geometry.info
        self.geometry, self.auto_balance = geometry, auto_balance
        self.is_km = geometry.backing == "km"
        self.op = -1
        self.events: list[str] = []
        self.log: list[tuple[int, str]] = [(-1, line) for line in geometry.boot_log]
        self.faults = {kind: [0, 0] for kind in FAULTS}
        self.pending = self.atomic_failed = self.have_temp_pages = False
        self.warnings_left = 10
        self.nr_created = 0
        self.fifo: list[Chunk] = []
        self.slots: list[list[Chunk]] = [[] for _ in range(self.raw_slot(info.unit_size) + 2)]
        self.stats = dict.fromkeys(("nr_alloc", "nr_dealloc", "nr_cur_alloc", "nr_max_alloc"), 0)
        self.stats |= {"nr_chunks": 1, "nr_max_chunks": 1, "min_alloc_size": info.unit_size, "max_alloc_size": 0}
        self.reserved: Chunk | None = None
        limit = info.static_size + info.reserved_size
        if info.reserved_size:
            self.reserved = self.boot_chunk(-1, info.static_size, limit)
        self.first = self.boot_chunk(0, limit, limit + info.dyn_size)
        self.insert(self.first)
        self.event("create_chunk", f"base_addr={self.first.base:#x}")
        self.op = 0

    def boot_chunk(self, ordinal: int, start: int, end: int) -> Chunk:
        """Section 1.6; an odd start makes the one area look in use, an odd size loses a byte."""
        chunk = Chunk(ordinal, self.geometry.addresses.first_chunk, (end | 1) & ~1, start & ~1, map_alloc=BOOT_MAP)
        if start & 1:
            chunk.hidden = start & ~1
            chunk.used[chunk.hidden] = chunk.end
        chunk.lost = end - start - chunk.free_size
        chunk.contig_hint = end - start
        chunk.pages = set(range(self.info.unit_pages))
        return chunk

    # --- small rules ---

    @staticmethod
    def raw_slot(size: int) -> int:
        return max(len(f"{size:b}") - 3, 1)

    def size_slot(self, size: int) -> int:
        return len(self.slots) - 1 if size == self.info.unit_size else self.raw_slot(size)

    def slot(self, chunk: Chunk) -> int:
        if chunk.free_size < 4 or chunk.contig_hint < 4:
            return 0
        return self.size_slot(chunk.free_size)

    def list_of(self, chunk: Chunk) -> int:
        return next((k for k, chunks in enumerate(self.slots) if chunk in chunks), -1)

    def insert(self, chunk: Chunk) -> None:
        self.slots[self.slot(chunk)].insert(0, chunk)

    def relocate(self, chunk: Chunk) -> None:
        old, new = self.list_of(chunk), self.slot(chunk)
        if chunk is self.reserved or old == new:
            return
        self.slots[old].remove(chunk)
        if new > old:
            self.slots[new].insert(0, chunk)
        else:
            self.slots[new].append(chunk)

    def event(self, name: str, fields: str) -> None:
        self.events.append(f"{self.op}\tpercpu_{name}: {fields}")

    def schedule(self) -> None:
        self.pending = True

    def works(self, kind: str) -> bool:
        """One call that a fault may hit."""
        left, skip = self.faults[kind]
        if not left:
            return True
        if skip:
            self.faults[kind][1] -= 1
            return True
        self.faults[kind][0] -= 1
        return False

    @property
    def nr_empty_pop_pages(self) -> int:
        extra = (self.info.groups[0].nr_units - 1) * self.info.unit_pages if self.is_km else 0
        return sum(c.empty_pages() for chunks in self.slots for c in chunks) + self.nr_created * extra

    def pointer(self, chunk: Chunk, off: int) -> int:
        relative_to = 0 if self.info.up else self.geometry.addresses.first_chunk
        return (chunk.base + off - relative_to) & MASK64

    # --- ops ---

    def alloc(self, size: int, align: int, reserved: bool, atomic: bool) -> int:
        try:
            return self.pcpu_alloc(size, align, reserved, atomic)
        finally:
            self.end_op()

    def free(self, ptr: int) -> None:
        if ptr:
            self.free_percpu(ptr)
        self.end_op()

    def balance(self) -> bool:
        ran = self.pending
        self.run_pending()
        self.op += 1
        return ran

    def fault(self, kind: str, count: int, skip: int) -> None:
        self.faults[kind] = [count, skip]
        self.op += 1

    def end_op(self) -> None:
        if self.auto_balance:
            self.run_pending()
        self.op += 1

    def run_pending(self) -> None:
        if self.pending:
            self.pending = False
            self.balance_work()

    # --- section 3 ---

    def pcpu_alloc(self, size: int, align: int, reserved: bool, atomic: bool) -> int:
        align = max(align, 2)
        size = (size + 1) // 2 * 2 & MASK64
        if size == 0 or size > 32768 or align > 4096 or bin(align).count("1") != 1:
            self.log.append((self.op, f"WARN: illegal size ({size}) or align ({align}) for percpu allocation"))
            return 0
        request = f"reserved={reserved:d} is_atomic={atomic:d} size={size} align={align}"
        try:
            chunk, off = self.find(size, align, reserved, atomic)
        except Failed as failure:
            self.fail(request, size, align, atomic, str(failure))
            return 0
        if self.nr_empty_pop_pages < LOW:
            self.schedule()
        ptr = self.pointer(chunk, off)
        self.event("alloc_percpu", f"{request} base_addr={chunk.base:#x} off={off} ptr={ptr:#x}")
        return ptr

    def fail(self, request: str, size: int, align: int, atomic: bool, reason: str) -> None:
        self.event("alloc_percpu_fail", request)
        if atomic:
            self.atomic_failed = True
            self.schedule()
        elif self.warnings_left:
            self.log.append((self.op, f"percpu: allocation failed, size={size} align={align} atomic=0, {reason}"))
            self.warnings_left -= 1
            if not self.warnings_left:
                self.log.append((self.op, "percpu: limit reached, disable warning"))

    def find(self, size: int, align: int, reserved: bool, atomic: bool) -> tuple[Chunk, int]:
        """An area, counted in the statistics and populated."""
        if reserved and self.reserved is not None:
            chunk = self.reserved
            off = self.search_reserved(size, align, atomic)
        else:
            chunk, off = self.search(size, align, atomic)
        self.count_alloc(chunk, size)
        if not atomic:
            for first, last in chunk.holes(off // PAGE, -(-(off + size) // PAGE)):
                if not self.populate(first, last):
                    self.free_area(chunk, off)
                    raise Failed("failed to populate")
                chunk.pages |= set(range(first, last))
        return chunk, off

    def count_alloc(self, chunk: Chunk, size: int) -> None:
        s = self.stats
        s["nr_alloc"] += 1
        s["nr_cur_alloc"] += 1
        s["nr_max_alloc"] = max(s["nr_max_alloc"], s["nr_cur_alloc"])
        s["min_alloc_size"] = min(s["min_alloc_size"], size)
        s["max_alloc_size"] = max(s["max_alloc_size"], size)
        chunk.max_alloc_size = max(chunk.max_alloc_size, size)

    def search_reserved(self, size: int, align: int, atomic: bool) -> int:
        chunk = self.reserved
        assert chunk is not None
        if size > chunk.contig_hint:
            raise Failed("alloc from reserved chunk failed")
        while length := self.need_to_extend(chunk, atomic):
            if atomic or not self.extend(chunk, length):
                raise Failed("failed to extend area map of reserved chunk")
        off = self.alloc_area(chunk, size, align, atomic)
        if off is None:
            raise Failed("alloc from reserved chunk failed")
        return off

    def search(self, size: int, align: int, atomic: bool) -> tuple[Chunk, int]:
        while True:
            found = self.search_once(size, align, atomic)
            if isinstance(found, tuple):
                return found
            if found == "extended":
                continue
            if atomic:
                raise Failed("atomic alloc failed, no space left")
            if not self.slots[-1]:
                chunk = self.create()
                if chunk is None:
                    raise Failed("failed to allocate new chunk")
                self.insert(chunk)

    def search_once(self, size: int, align: int, atomic: bool) -> tuple[Chunk, int] | str:
        for slot in range(self.size_slot(size), len(self.slots)):
            for chunk in list(self.slots[slot]):
                if size > chunk.contig_hint:
                    continue
                length = self.need_to_extend(chunk, atomic)
                if length:
                    if atomic:
                        continue
                    if not self.extend(chunk, length):
                        raise Failed("failed to extend area map")
                    return "extended"
                off = self.alloc_area(chunk, size, align, atomic)
                if off is not None:
                    return chunk, off
                if chunk not in self.slots[slot]:
                    raise WalkedAstray
        return "nothing"

    def need_to_extend(self, chunk: Chunk, atomic: bool) -> int:
        n = chunk.n
        if atomic and chunk.map_alloc < n + 32 and chunk not in self.fifo:
            self.fifo.append(chunk)
            self.schedule()
        wanted = n + (3 if atomic else 64)
        if chunk.map_alloc >= wanted:
            return 0
        return next(16 << k for k in range(30) if 16 << k >= wanted)

    def extend(self, chunk: Chunk, length: int) -> bool:
        if not self.works("mem"):
            return False
        chunk.map_alloc = max(chunk.map_alloc, length)
        return True

    def alloc_area(self, chunk: Chunk, size: int, align: int, pop_only: bool) -> int | None:
        areas = chunk.areas()
        best, seen = 0, False
        for k in range(chunk.first_free, len(areas)):
            start, end, in_use = areas[k]
            if in_use:
                continue
            off = self.fit(chunk, start, end, size, align, pop_only)
            if off is None:
                if not seen:
                    chunk.first_free, seen = k, True
                best = max(best, end - start)
                continue
            self.take(chunk, k, areas, off, size, best, seen)
            self.relocate(chunk)
            return off
        chunk.contig_hint = best
        self.relocate(chunk)
        return None

    def fit(self, chunk: Chunk, start: int, end: int, size: int, align: int, pop_only: bool) -> int | None:
        """The lowest aligned offset of which all pages are populated, if that matters."""
        off = -(-start // align) * align
        while off + size <= end:
            missing = [p for p in range(off // PAGE, -(-(off + size) // PAGE)) if p not in chunk.pages]
            if not pop_only or not missing:
                return off
            run_end = missing[0]
            while run_end < -(-end // PAGE) and run_end not in chunk.pages:
                run_end += 1
            off = -(-(run_end * PAGE) // align) * align
        return None

    def take(
        self, chunk: Chunk, k: int, areas: list[tuple[int, int, bool]], off: int, size: int, best: int, seen: bool
    ) -> None:
        start, end, _ = areas[k]
        head = off - start
        if 0 < head < 4:
            before = areas[k - 1]
            assert before[2], "free areas are never neighbours"
            if k == 1 and chunk.prefix is not None:
                chunk.prefix = off
            else:
                chunk.used[before[0]] = off
            head = 0
        tail = end - off - size
        if tail < 4:
            size, tail = end - off, 0
        chunk.used[off] = off + size
        if head:
            if not seen:
                chunk.first_free, seen = k, True
            best = max(best, head)
            k += 1
        if tail:
            best = max(best, tail)
        if not seen:
            chunk.first_free = k + 1
        chunk.contig_hint = best if k + 1 == chunk.n else max(chunk.contig_hint, best)

    # --- section 4 ---

    def free_percpu(self, ptr: int) -> None:
        chunk, off = self.locate(ptr)
        self.free_area(chunk, off)
        if chunk.free_size == self.info.unit_size and any(c is not chunk for c in self.slots[-1]):
            self.schedule()
        self.event("free_percpu", f"base_addr={chunk.base:#x} off={off} ptr={ptr:#x}")

    def locate(self, ptr: int) -> tuple[Chunk, int]:
        boot = [self.reserved] if self.reserved else []
        for chunk in [*boot, *(c for chunks in self.slots for c in chunks)]:
            for off in chunk.used:
                if self.pointer(chunk, off) == ptr:
                    return chunk, off
        raise AssertionError(f"{ptr:#x} is not live")

    def free_area(self, chunk: Chunk, off: int) -> None:
        self.stats["nr_dealloc"] += 1
        self.stats["nr_cur_alloc"] -= 1
        k = next(k for k, (start, _, _) in enumerate(chunk.areas()) if start == off and (k or chunk.prefix is None))
        chunk.first_free = min(chunk.first_free, k)
        del chunk.used[off]
        merged = next(end - start for start, end in chunk.gaps() if start <= off < end)
        chunk.contig_hint = max(chunk.contig_hint, merged)
        self.relocate(chunk)

    # --- section 5 ---

    def balance_work(self) -> None:
        spare = [chunk for chunk in self.slots[-1][1:] if not chunk.is_boot]
        for chunk in spare:
            self.slots[-1].remove(chunk)
            if chunk in self.fifo:
                self.fifo.remove(chunk)
        for chunk in reversed(spare):
            self.stats["nr_chunks"] -= 1
            self.event("destroy_chunk", f"base_addr={chunk.base:#x}")
        while self.fifo:
            chunk = self.fifo.pop(0)
            length = self.need_to_extend(chunk, False)
            if length:
                self.extend(chunk, length)
        self.top_up()

    def top_up(self) -> None:
        want = HIGH if self.atomic_failed else self.wanted()
        self.atomic_failed = False
        while True:
            for slot in range(10, len(self.slots)):
                candidate = next((c for c in self.slots[slot] if c.nr_populated != self.info.unit_pages), None)
                if want and candidate:
                    want = self.populate_some(candidate, want)
            if not want:
                return
            chunk = self.create()
            if chunk is None:
                return
            self.insert(chunk)
            want = self.wanted()

    def wanted(self) -> int:
        return min(max(HIGH - self.nr_empty_pop_pages, 0), HIGH)

    def populate_some(self, chunk: Chunk, want: int) -> int:
        for first, last in chunk.holes(0, self.info.unit_pages):
            count = min(last - first, want)
            if not count:
                break
            if not self.populate(first, first + count):
                return 0
            chunk.pages |= set(range(first, first + count))
            want -= count
        return want

    # --- section 6 ---

    def create(self) -> Chunk | None:
        for kind in ("mem", "mem", "page" if self.is_km else "vm"):
            if not self.works(kind):
                return None
        addresses = self.geometry.addresses
        base = addresses.area_base + self.nr_created * addresses.area_stride
        if self.is_km:
            base -= self.info.groups[0].base_offset
        self.nr_created += 1
        chunk = Chunk(self.nr_created, base, self.info.unit_size, contig_hint=self.info.unit_size)
        if self.is_km:
            chunk.pages = set(range(self.info.unit_pages))
            chunk.nr_extra_pages = (self.info.groups[0].nr_units - 1) * self.info.unit_pages
        self.stats["nr_chunks"] += 1
        self.stats["nr_max_chunks"] = max(self.stats["nr_max_chunks"], self.stats["nr_chunks"])
        self.event("create_chunk", f"base_addr={base:#x}")
        return chunk

    def populate(self, first: int, last: int) -> bool:
        if self.is_km:
            return True
        if not self.have_temp_pages:
            if not self.works("mem"):
                return False
            self.have_temp_pages = True
        calls = ["page"] * (self.info.nr_cpus * (last - first)) + ["ptmap"] * self.info.nr_cpus
        return all(self.works(kind) for kind in calls)

    # --- what can be compared ---

    def document(self) -> dict[str, Any]:
        """The state as a recorded case writes it."""
        chunks = [(c, slot) for slot, chunks in enumerate(self.slots) for c in chunks]
        return {
            "op": self.op,
            "balance_pending": int(self.pending),
            "nr_empty_pop_pages": self.nr_empty_pop_pages,
            "atomic_alloc_failed": int(self.atomic_failed),
            "nr_slots": len(self.slots),
            "faults": self.faults,
            "map_extend_chunks": [c.ordinal for c in self.fifo],
            "reserved_chunk": self.chunk_document(self.reserved, -1) if self.reserved else None,
            "chunks": [self.chunk_document(c, slot) for c, slot in chunks],
        }

    def chunk_document(self, chunk: Chunk, slot: int) -> dict[str, Any]:
        nr_pages = len(chunk.pages)
        assert chunk.pages == set(range(nr_pages)), "section 3.6: population is a prefix"
        return {
            "ordinal": chunk.ordinal,
            "slot": slot,
            "base_addr": f"{chunk.base & MASK64:#x}",
            "nr_alloc": chunk.nr_alloc,
            "max_alloc_size": chunk.max_alloc_size,
            "immutable": int(chunk.is_boot),
            "nr_populated": chunk.nr_populated,
            "free_size": chunk.free_size,
            "contig_hint": chunk.contig_hint,
            "first_free": chunk.first_free,
            "has_reserved": int(chunk.is_boot),
            "map_used": chunk.n,
            "map_alloc": chunk.map_alloc,
            "on_map_extend_list": int(chunk in self.fifo),
            "populated": [[0, nr_pages]] if nr_pages else [],
            "map": chunk.map(),
        }

    def stats_file(self) -> str:
        """percpu_stats, section 8.2."""
        info, rule = self.info, "-" * 40
        names = ("unit_size", "static_size", "reserved_size", "dyn_size", "atom_size", "alloc_size")
        lines = ["Percpu Memory Statistics", "Allocation Info:", rule]
        lines += [f"  {name:<24}: {getattr(info, name):>8}" for name in names]
        lines += ["", "Global Stats:", rule, *(f"  {name:<18}: {value:>14}" for name, value in self.stats.items())]
        lines += ["", "Per Chunk Stats:", rule]
        chunks = [*([self.reserved] if self.reserved else []), *(c for chunks in self.slots for c in chunks)]
        for chunk in chunks:
            titles = {-1: "Chunk: <- Reserved Chunk", 0: "Chunk: <- First Chunk"}
            figures = {
                name: getattr(chunk, name) for name in ("nr_alloc", "max_alloc_size", "free_size", "contig_hint")
            }
            figures |= self.map_figures(chunk)
            lines += [titles.get(chunk.ordinal, "Chunk:")]
            lines += [*(f"  {name:<24}: {value:>8}" for name, value in figures.items()), ""]
        return "".join(f"{line}\n" for line in lines)

    def map_figures(self, chunk: Chunk) -> dict[str, int]:
        """Section 8.3."""
        areas = chunk.areas()[chunk.is_boot :]
        while areas and not areas[-1][2]:
            areas.pop()
        signed = sorted(end - start if in_use else start - end for start, end, in_use in areas)
        free = [-length for length in signed if length < 0]
        return {
            "sum_frag": sum(free),
            "max_frag": max(free, default=0),
            "cur_min_alloc": signed[len(free)] if signed else 0,
            "cur_med_alloc": signed[(len(free) + len(signed) - 1) // 2] if signed else 0,
            "cur_max_alloc": signed[-1] if signed else 0,
        }
