"""The bitmap allocator once more, step by step as its specification says: lists of bits, records as objects.

Slot lists are lists of chunks, front first; maps are lists of 0 and 1; nothing is shared with the engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, dataclass, field
from typing import Any

from percpu_lab.geometry import Geometry

PAGE, BITS, MASK64 = 4096, 1024, (1 << 64) - 1
LOW, HIGH = 2, 4
FAULTS = ("page", "vm", "mem", "ptmap")


class Failed(Exception):
    """An allocation failed; its text is the reason."""


def up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def ctz(value: int) -> int:
    return (value & -value).bit_length() - 1


def nextset(bits: list[int], n: int, start: int) -> int:
    return next((i for i in range(start, n) if bits[i]), n)


def nextclr(bits: list[int], n: int, start: int) -> int:
    return next((i for i in range(start, n) if not bits[i]), n)


def lastset(bits: list[int], n: int) -> int:
    return next((i for i in range(n - 1, -1, -1) if bits[i]), n)


def meets(a: int, b: int, x: int, y: int) -> bool:
    return a < y and x < b


@dataclass
class Md:
    scan_hint: int
    scan_hint_start: int
    contig_hint: int
    contig_hint_start: int
    left_free: int
    right_free: int
    first_free: int
    nr_bits: int

    @classmethod
    def free(cls, n: int) -> Md:
        return cls(0, 0, n, 0, n, n, 0, n)

    def next_hint(self, n: int) -> int:
        if self.scan_hint and self.contig_hint_start > self.scan_hint_start and n > self.scan_hint:
            return self.scan_hint_start + self.scan_hint
        return self.first_free

    def update(self, s: int, e: int) -> None:
        """Section 3.7, block_update."""
        c = e - s
        self.first_free = min(self.first_free, s)
        if s == 0:
            self.left_free = c
        if e == self.nr_bits:
            self.right_free = c
        if c > self.contig_hint:
            if s > self.contig_hint_start:
                if self.contig_hint > self.scan_hint:
                    self.scan_hint, self.scan_hint_start = self.contig_hint, self.contig_hint_start
                elif s < self.scan_hint_start:
                    self.scan_hint = 0
            else:
                self.scan_hint = 0
            self.contig_hint_start, self.contig_hint = s, c
        elif c == self.contig_hint:
            if self.contig_hint_start != 0 and (s == 0 or ctz(s) > ctz(self.contig_hint_start)):
                self.contig_hint_start = s
                if s < self.scan_hint_start and self.contig_hint > self.scan_hint:
                    self.scan_hint = 0
            elif s > self.scan_hint_start or self.contig_hint > self.scan_hint:
                self.scan_hint, self.scan_hint_start = c, s
        elif s < self.contig_hint_start and (c, s) > (self.scan_hint, self.scan_hint_start):
            self.scan_hint, self.scan_hint_start = c, s

    def begin_refresh(self, full: bool) -> int:
        if not full and self.scan_hint:
            self.contig_hint_start, self.contig_hint, self.scan_hint = self.scan_hint_start, self.scan_hint, 0
            return self.contig_hint_start + self.contig_hint
        self.contig_hint = 0
        return self.first_free


@dataclass(eq=False)
class Chunk:
    ordinal: int
    base: int
    nr_pages: int
    free_bytes: int
    immutable: bool = False
    isolated: bool = False
    start_offset: int = 0
    end_offset: int = 0
    nr_alloc: int = 0
    max_alloc_size: int = 0
    nr_empty: int = 0
    populated: set[int] = field(default_factory=set)
    alloc: list[int] = field(default_factory=list)
    bound: list[int] = field(default_factory=list)
    md: Md = field(init=False)
    blocks: list[Md] = field(init=False)

    def __post_init__(self) -> None:
        self.alloc, self.bound = [0] * self.nr_bits, [0] * (self.nr_bits + 1)
        self.md, self.blocks = Md.free(self.nr_bits), [Md.free(BITS) for _ in range(self.nr_pages)]

    @property
    def nr_bits(self) -> int:
        return self.nr_pages * BITS

    def block_map(self, i: int) -> list[int]:
        return self.alloc[i * BITS : (i + 1) * BITS]

    def refresh_block(self, i: int) -> None:
        md, bits = self.blocks[i], self.block_map(i)
        start = md.begin_refresh(False)
        md.right_free = 0
        a = nextclr(bits, BITS, start)
        while a < BITS:
            end = nextset(bits, BITS, a + 1)
            md.update(a, end)
            a = nextclr(bits, BITS, end + 1)

    def refresh(self, full: bool) -> None:
        off = self.md.begin_refresh(full)
        while True:
            off, length = self.next_md_free(off)
            if off >= self.nr_bits:
                return
            self.md.update(off, off + length)
            off += length + 1

    def next_md_free(self, off: int) -> tuple[int, int]:
        rel, run = off % BITS, 0
        for i in range(off // BITS, self.nr_pages):
            md = self.blocks[i]
            if run:
                run += md.left_free
                if md.left_free == BITS:
                    continue
                return off, run
            if md.contig_hint and md.contig_hint_start >= rel and md.contig_hint + md.contig_hint_start < BITS:
                return i * BITS + md.contig_hint_start, md.contig_hint
            rel, run = 0, md.right_free
            off = (i + 1) * BITS - run
        return off, run

    def next_fit(self, n: int, al: int, off: int) -> tuple[int, int]:
        rel, run = off % BITS, 0
        for i in range(off // BITS, self.nr_pages):
            md = self.blocks[i]
            if run:
                run += md.left_free
                if run >= n:
                    return off, run
                if md.left_free == BITS:
                    continue
            gap = up(md.contig_hint_start, al) - md.contig_hint_start
            if md.contig_hint and md.contig_hint_start >= rel and md.contig_hint >= gap + n:
                s = md.next_hint(n)
                return i * BITS + s, gap + n + md.contig_hint_start - s
            rel = 0
            r = up(BITS - md.right_free, al)
            run, off = BITS - r, i * BITS + r
            if run >= n:
                return off, run
        return self.nr_bits, 0

    def find_block_fit(self, n: int, al: int, pop_only: bool) -> int | None:
        gap = up(self.md.contig_hint_start, al) - self.md.contig_hint_start
        if gap + n > self.md.contig_hint:
            return None
        off = self.md.next_hint(n)
        while True:
            off, length = self.next_fit(n, al, off)
            if off == self.nr_bits:
                return None
            p0, p1 = off // BITS, up(off + length, BITS) // BITS
            holes = [page for page in range(p0, p1) if page not in self.populated]
            if not pop_only or not holes:
                return off
            off = next((page for page in range(holes[0] + 1, p1) if page in self.populated), p1) * BITS

    def find_zero_area(self, limit: int, start: int, n: int, al: int) -> tuple[int, int, int]:
        best = (0, 0)
        while True:
            a = up(nextclr(self.alloc, limit, start), al)
            if a + n > limit:
                return a + n, *best
            j = nextset(self.alloc, a + n, a)
            if j == a + n:
                return a, *best
            if j - a > best[1] or (j - a == best[1] and best[0] and (a == 0 or ctz(a) > ctz(best[0]))):
                best = a, j - a
            start = j + 1

    def update_scan(self, off: int, length: int) -> None:
        i, s = divmod(off, BITS)
        if s + length <= BITS:
            last = lastset(self.block_map(i), s)
            self.blocks[i].update(0 if last == s else last + 1, s + length)

    def hint_alloc(self, pos: int, n: int) -> int:
        """Section 3.8 -> pages that stop being empty."""
        (si, s), (ei, e) = divmod(pos, BITS), divmod(pos + n - 1, BITS)
        e += 1
        md = self.blocks[si]
        delta = int(md.contig_hint == BITS)
        if s == md.first_free:
            md.first_free = nextclr(self.block_map(si), BITS, s + n)
        if meets(md.scan_hint_start, md.scan_hint_start + md.scan_hint, s, s + n):
            md.scan_hint = 0
        if meets(md.contig_hint_start, md.contig_hint_start + md.contig_hint, s, s + n):
            if s == 0:
                md.left_free = 0
            self.refresh_block(si)
        else:
            md.left_free = min(md.left_free, s)
            md.right_free = min(md.right_free, BITS - e) if si == ei else 0
        if si != ei:
            delta += self.hint_alloc_behind(si, ei, e)
        return delta

    def hint_alloc_behind(self, si: int, ei: int, e: int) -> int:
        md = self.blocks[ei]
        delta = int(md.contig_hint == BITS)
        md.first_free = nextclr(self.block_map(ei), BITS, e)
        if e < BITS:
            if e > md.scan_hint_start:
                md.scan_hint = 0
            md.left_free = 0
            if e > md.contig_hint_start:
                self.refresh_block(ei)
            else:
                md.right_free = min(md.right_free, BITS - e)
        for between in self.blocks[si + 1 : ei + (e == BITS)]:
            between.scan_hint = between.contig_hint = between.left_free = between.right_free = 0
        return delta + ei - si - 1

    def chunk_hint_alloc(self, pos: int, n: int) -> None:
        md = self.md
        if meets(md.scan_hint_start, md.scan_hint_start + md.scan_hint, pos, pos + n):
            md.scan_hint = 0
        if meets(md.contig_hint_start, md.contig_hint_start + md.contig_hint, pos, pos + n):
            self.refresh(False)

    def hint_free(self, pos: int, n: int) -> tuple[int, Any]:
        """Section 4.3 -> pages that become empty, and what is to be done with the chunk's own record."""
        (si, s), (ei, e) = divmod(pos, BITS), divmod(pos + n - 1, BITS)
        e += 1
        first, last = self.blocks[si], self.blocks[ei]
        if s == first.contig_hint + first.contig_hint_start:
            start = first.contig_hint_start
        else:
            before = lastset(self.block_map(si), s)
            start = 0 if before == s else before + 1
        if e == last.contig_hint_start:
            end = last.contig_hint_start + last.contig_hint
        else:
            end = nextset(self.block_map(ei), BITS, e)
        e1 = end if si == ei else BITS
        delta = int(start == 0 and e1 == BITS)
        first.update(start, e1)
        if si != ei:
            delta += int(end == BITS) + ei - si - 1
            last.update(0, end)
            for i in range(si + 1, ei):
                self.blocks[i] = Md(0, self.blocks[i].scan_hint_start, BITS, 0, BITS, BITS, 0, BITS)
        if end - start >= BITS or si != ei:
            return delta, lambda: self.refresh(True)
        return delta, lambda: self.md.update(si * BITS + start, end)

    def document(self, slot: int, first_chunk: int) -> dict[str, Any]:
        edges = [i for i in range(self.nr_bits + 1)
                 if (self.alloc[i - 1] if i else 0) != (self.alloc[i] if i < self.nr_bits else 0)]
        pages = [i for i in range(self.nr_pages + 1) if (i - 1 in self.populated) != (i in self.populated)]
        return {
            "ordinal": self.ordinal, "slot": slot, "base_addr": f"{(self.base + first_chunk) & MASK64:#x}",
            "nr_alloc": self.nr_alloc, "max_alloc_size": self.max_alloc_size, "immutable": int(self.immutable),
            "nr_populated": len(self.populated), "free_bytes": self.free_bytes, "isolated": int(self.isolated),
            "start_offset": self.start_offset, "end_offset": self.end_offset, "nr_pages": self.nr_pages,
            "nr_empty_pop_pages": self.nr_empty, "chunk_md": vars(self.md),
            "populated": [list(run) for run in zip(pages[::2], pages[1::2], strict=True)],
            "alloc_map": [list(run) for run in zip(edges[::2], edges[1::2], strict=True)],
            "bound_map": [i for i, bit in enumerate(self.bound) if bit],
            "md_blocks": [list(astuple(md)) for md in self.blocks],
        }


class NaiveBitmap:
    def __init__(self, geometry: Geometry) -> None:
        info = self.info = geometry.info
        self.first_chunk, self.km = geometry.addresses.first_chunk, geometry.backing == "km"
        self.area_base, self.area_stride = geometry.addresses.area_base, geometry.addresses.area_stride
        self.unit = info.unit_size
        self.sidelined = self.raw(self.unit) + 1
        self.free_slot, self.depopulate = self.sidelined + 1, self.sidelined + 2
        self.slots: list[list[Chunk]] = [[] for _ in range(self.depopulate + 1)]
        self.op, self.events, self.log = -1, [], []
        self.nr_empty = self.nr_created = 0
        self.pending = self.atomic_failed = self.has_pages = False
        self.warnings = 10
        self.faults = {kind: [0, 0] for kind in FAULTS}
        self.chunks: dict[int, Chunk] = {}
        start = up(info.static_size, 4)
        self.reserved = None
        if info.reserved_size:
            self.reserved = self.boot_chunk(-1, start, info.reserved_size)
        first = self.boot_chunk(0, start + info.reserved_size, info.dyn_size - (start - info.static_size))
        self.nr_empty = first.nr_empty
        self.relocate(first, -1)
        self.nr_populated = info.size_sum // PAGE
        self.event("create_chunk", f"base_addr={self.first_chunk:#x}")
        self.op = 0

    def boot_chunk(self, ordinal: int, addr: int, size: int) -> Chunk:
        base = addr // PAGE * PAGE
        offset = addr - base
        region = up(offset + size, PAGE)
        chunk = Chunk(ordinal, base, region // PAGE, size, True, False, offset, region - offset - size)
        self.chunks[ordinal] = chunk
        chunk.populated = set(range(chunk.nr_pages))
        chunk.nr_empty = chunk.nr_pages
        if h := offset // 4:
            chunk.md.first_free = h
            self.hide(chunk, 0, h, (0, h))
        if h := chunk.end_offset // 4:
            self.hide(chunk, chunk.nr_bits - h, h, ((offset + size) // 4, chunk.nr_bits))
        return chunk

    def hide(self, chunk: Chunk, pos: int, n: int, bounds: tuple[int, int]) -> None:
        chunk.alloc[pos : pos + n] = [1] * n
        for bound in bounds:
            chunk.bound[bound] = 1
        chunk.nr_empty -= chunk.hint_alloc(pos, n)
        chunk.chunk_hint_alloc(pos, n)

    # --- slots ---

    @staticmethod
    def raw(size: int) -> int:
        return max(size.bit_length() - 3, 1)

    def slot_of(self, chunk: Chunk) -> int:
        if chunk.free_bytes < 4 or not chunk.md.contig_hint:
            return 0
        return self.slot_of_size(chunk.md.contig_hint * 4)

    def slot_of_size(self, size: int) -> int:
        return self.free_slot if size == self.unit else self.raw(size)

    def move(self, chunk: Chunk, slot: int, front: bool) -> None:
        for found in self.slots:
            if chunk in found:
                found.remove(chunk)
        self.slots[slot].insert(0 if front else len(self.slots[slot]), chunk)

    def relocate(self, chunk: Chunk, old: int) -> None:
        new = self.slot_of(chunk)
        if chunk is not self.reserved and not chunk.isolated and new != old:
            self.move(chunk, new, old < new)

    def reintegrate(self, chunk: Chunk) -> None:
        if chunk.isolated:
            chunk.isolated = False
            self.nr_empty += chunk.nr_empty
            self.relocate(chunk, -1)

    def update_empty(self, chunk: Chunk, change: int) -> None:
        chunk.nr_empty += change
        if chunk is not self.reserved and not chunk.isolated:
            self.nr_empty += change

    # --- the rest of the kernel ---

    def event(self, name: str, fields: str) -> None:
        self.events.append(f"{self.op}\tpercpu_{name}: {fields}")

    def fails(self, kind: str) -> bool:
        left, skip = self.faults[kind]
        if not left or skip:
            self.faults[kind][1] -= bool(left and skip)
            return False
        self.faults[kind][0] -= 1
        return True

    def create(self) -> Chunk | None:
        if any(self.fails("mem") for _ in range(4)) or self.fails("page" if self.km else "vm"):
            return None
        base = self.area_base + self.nr_created * self.area_stride - self.first_chunk
        self.nr_created += 1
        chunk = self.chunks[self.nr_created] = Chunk(self.nr_created, base, self.unit // PAGE, self.unit)
        if self.km:
            self.mark(chunk, range(chunk.nr_pages), 1)
        self.event("create_chunk", f"base_addr={(base + self.first_chunk) & MASK64:#x}")
        return chunk

    def mark(self, chunk: Chunk, pages: range, change: int) -> None:
        chunk.populated = chunk.populated | set(pages) if change > 0 else chunk.populated - set(pages)
        self.nr_populated += change * len(pages)
        self.update_empty(chunk, change * len(pages))

    def runs(self, chunk: Chunk, pages: range, populated: bool) -> Iterator[range]:
        a = pages.start
        while a < pages.stop:
            b = a
            while b < pages.stop and (b in chunk.populated) == populated:
                b += 1
            if b > a:
                yield range(a, b)
            a = b + 1

    def populate(self, chunk: Chunk, pages: range) -> bool:
        if not self.has_pages and self.fails("mem"):
            return False
        self.has_pages = True
        nr_cpus = self.info.nr_cpus
        calls = ["page"] * nr_cpus * len(pages) + ["ptmap"] * nr_cpus
        if any(self.fails(kind) for kind in calls):
            return False
        self.mark(chunk, pages, 1)
        return True

    # --- requests ---

    def alloc(self, size: int, align: int, reserved: bool, atomic: bool) -> int:
        align = max(align, 4)
        size = up(size, 4) & MASK64
        try:
            if not 0 < size <= 32768 or align > PAGE or align & align - 1:
                text = f"WARN: illegal size ({size}) or align ({align}) for percpu allocation"
                self.log.append((self.op, text))
                return 0
            return self.serve(size, align, reserved, atomic)
        except Failed as failure:
            self.report(size, align, reserved, atomic, str(failure))
            return 0
        finally:
            self.op += 1

    def report(self, size: int, align: int, reserved: bool, atomic: bool, reason: str) -> None:
        request = f"size={size} align={align}"
        self.event("alloc_percpu_fail", f"reserved={reserved:d} is_atomic={atomic:d} {request}")
        if self.warnings:
            self.warnings -= 1
            self.log.append((self.op, f"percpu: allocation failed, {request} atomic={atomic:d}, {reason}"))
            if not self.warnings:
                self.log.append((self.op, "percpu: limit reached, disable warning"))
        if atomic:
            self.atomic_failed = self.pending = True

    def serve(self, size: int, align: int, reserved: bool, atomic: bool) -> int:
        n, al = size // 4, align // 4
        if reserved and self.reserved:
            chunk = self.reserved
            start = chunk.find_block_fit(n, al, atomic)
            off = None if start is None else self.alloc_area(chunk, n, al, start)
            if off is None:
                raise Failed("alloc from reserved chunk failed")
        else:
            chunk, off = self.search(size, n, al, atomic)
        chunk.nr_alloc += 1
        chunk.max_alloc_size = max(chunk.max_alloc_size, size)
        for run in [] if atomic else list(self.runs(chunk, range(off // PAGE, up(off + size, PAGE) // PAGE), False)):
            if not self.populate(chunk, run):
                self.free_area(chunk, off)
                raise Failed("failed to populate")
        if self.nr_empty < LOW:
            self.pending = True
        ptr = (chunk.base + off) & MASK64
        request = f"call_site=0x0 reserved={reserved:d} is_atomic={atomic:d} size={size} align={align}"
        place = f"base_addr={(chunk.base + self.first_chunk) & MASK64:#x} off={off} ptr={ptr:#x}"
        more = f"bytes_alloc={size * self.info.nr_cpus} gfp_flags={'GFP_ATOMIC' if atomic else 'GFP_KERNEL'}"
        self.event("alloc_percpu", f"{request} {place} {more}")
        return ptr

    def search(self, size: int, n: int, al: int, atomic: bool) -> tuple[Chunk, int]:
        while True:
            for slot in range(self.slot_of_size(size), self.free_slot + 1):
                for chunk in list(self.slots[slot]):
                    start = chunk.find_block_fit(n, al, atomic)
                    if start is None:
                        if slot < 3:
                            self.move(chunk, 0, True)
                        continue
                    off = self.alloc_area(chunk, n, al, start)
                    if off is not None:
                        self.reintegrate(chunk)
                        return chunk, off
            if atomic:
                raise Failed("atomic alloc failed, no space left")
            if not self.slots[self.free_slot]:
                created = self.create()
                if created is None:
                    raise Failed("failed to allocate new chunk")
                self.relocate(created, -1)

    def alloc_area(self, chunk: Chunk, n: int, al: int, start: int) -> int | None:
        old, limit = self.slot_of(chunk), min(start + n + BITS, chunk.nr_bits)
        pos, skipped, length = chunk.find_zero_area(limit, start, n, al)
        if pos >= limit:
            return None
        if length:
            chunk.update_scan(skipped, length)
        chunk.alloc[pos : pos + n] = [1] * n
        chunk.bound[pos : pos + n + 1] = [1, *[0] * (n - 1), 1]
        chunk.free_bytes -= 4 * n
        if pos == chunk.md.first_free:
            chunk.md.first_free = nextclr(chunk.alloc, chunk.nr_bits, pos + n)
        if delta := chunk.hint_alloc(pos, n):
            self.update_empty(chunk, -delta)
        chunk.chunk_hint_alloc(pos, n)
        self.relocate(chunk, old)
        return 4 * pos

    def free_area(self, chunk: Chunk, off: int) -> None:
        chunk.nr_alloc -= 1
        old, pos = self.slot_of(chunk), off // 4
        end = nextset(chunk.bound, chunk.nr_bits, pos + 1)
        chunk.alloc[pos:end] = [0] * (end - pos)
        chunk.free_bytes += 4 * (end - pos)
        chunk.md.first_free = min(chunk.md.first_free, pos)
        delta, tell_chunk = chunk.hint_free(pos, end - pos)
        if delta:
            self.update_empty(chunk, delta)
        tell_chunk()
        self.relocate(chunk, old)

    def free(self, ptr: int) -> None:
        if ptr:
            addr = ptr - (1 << 64) if ptr >> 63 else ptr
            chunk = next(c for c in self.chunks.values()
                         if c.start_offset <= addr - c.base < c.nr_pages * PAGE - c.end_offset)
            off = addr - chunk.base
            self.free_area(chunk, off)
            if not chunk.isolated and chunk.free_bytes == self.unit:
                self.pending |= any(other is not chunk for other in self.slots[self.free_slot])
            elif self.should_reclaim(chunk):
                if not chunk.isolated:
                    chunk.isolated = True
                    self.nr_empty -= chunk.nr_empty
                self.move(chunk, self.depopulate, True)
                self.pending = True
            base = (chunk.base + self.first_chunk) & MASK64
            self.event("free_percpu", f"base_addr={base:#x} off={off} ptr={ptr:#x}")
        self.op += 1

    def should_reclaim(self, chunk: Chunk) -> bool:
        if self.km or chunk.ordinal <= 0:
            return False
        if chunk.isolated:
            return chunk.nr_empty != 0
        return self.nr_empty > HIGH + chunk.nr_empty and chunk.nr_empty >= chunk.nr_pages // 4

    def fault(self, kind: str, count: int, skip: int = 0) -> None:
        self.faults[kind] = [count, skip]
        self.op += 1

    # --- balance work ---

    def balance(self) -> bool:
        ran, self.pending = self.pending, False
        if ran:
            self.balance_free(False)
            self.reclaim()
            self.balance_populated()
            self.balance_free(True)
        self.op += 1
        return ran

    def balance_free(self, empty_only: bool) -> None:
        chosen = [c for c in self.slots[self.free_slot][1:] if not empty_only or not c.nr_empty]
        for chunk in reversed(chosen):
            self.slots[self.free_slot].remove(chunk)
            for run in list(self.runs(chunk, range(chunk.nr_pages), True)):
                self.mark(chunk, run, -1)
            del self.chunks[chunk.ordinal]
            self.event("destroy_chunk", f"base_addr={(chunk.base + self.first_chunk) & MASK64:#x}")

    def reclaim(self) -> None:
        while self.slots[self.depopulate]:
            chunk = self.slots[self.depopulate][0]
            if self.drop_pages(chunk) or chunk.free_bytes == self.unit:
                self.reintegrate(chunk)
            else:
                self.move(chunk, self.sidelined, False)

    def drop_pages(self, chunk: Chunk) -> bool:
        pending: list[int] = []
        for page in range(chunk.nr_pages - 1, -1, -1):
            if not chunk.nr_empty:
                return False
            if self.nr_empty < HIGH:
                return True
            if chunk.blocks[page].contig_hint == BITS and page in chunk.populated:
                pending.append(page)
                if page:
                    continue
            if pending:
                self.mark(chunk, range(pending[-1], pending[0] + 1), -1)
                pending = []
        return False

    def balance_populated(self) -> None:
        want = HIGH if self.atomic_failed else min(max(HIGH - self.nr_empty, 0), HIGH)
        self.atomic_failed = False
        while True:
            for slot in range(self.slot_of_size(PAGE), self.free_slot + 1):
                chunk = next((c for c in self.slots[slot] if want > 0 and len(c.populated) < c.nr_pages), None)
                for run in list(self.runs(chunk, range(chunk.nr_pages), False)) if chunk else ():
                    if want > 0:
                        some = run[:want]
                        want = want - len(some) if self.populate(chunk, some) else 0
            if want <= 0:
                return
            created = self.create()
            if created is None:
                return
            self.relocate(created, -1)
            want = min(max(HIGH - self.nr_empty, 0), HIGH)

    # --- what there is to see ---

    def document(self) -> dict[str, Any]:
        return {
            "op": self.op, "balance_pending": int(self.pending), "nr_empty_pop_pages": self.nr_empty,
            "atomic_alloc_failed": int(self.atomic_failed), "nr_slots": len(self.slots),
            "sidelined_slot": self.sidelined, "to_depopulate_slot": self.depopulate, "free_slot": self.free_slot,
            "nr_populated": self.nr_populated, "faults": {kind: self.faults[kind] for kind in FAULTS},
            "reserved_chunk": self.reserved and self.reserved.document(-1, self.first_chunk),
            "chunks": [c.document(slot, self.first_chunk) for slot, found in enumerate(self.slots) for c in found],
        }
