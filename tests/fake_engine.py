"""An engine of which only the arrays exist: any area maps a test wants, laid out as core/layout.py says."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np

from percpu_lab.core import layout as L
from percpu_lab.core.births import birth_index
from percpu_lab.models import AREA_MAP

FIRST_BASE = 0xFFFF_8881_0000_0000


@dataclass
class FakeChunk:
    """Areas as (size in bytes, None if free else (op, requested bytes)); the end marker follows the last."""

    ordinal: int
    slot: int
    areas: list[tuple[int, tuple[int, int] | None]]
    pages: list[int]
    has_reserved: bool = False
    contig_hint: int = 0
    first_free: int = 0


@dataclass
class FakeEngine:
    unit_size: int
    chunks: list[FakeChunk]
    static_size: int = 0
    reserved_size: int = 0
    now: int = 0
    version: int = 0
    past: int = 0
    model: object = AREA_MAP
    lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        words = L.POPULATED + self.unit_size // 4096
        nr_rows = L.NR_LIST_HEADS + len(self.chunks)
        self.g = np.zeros(L.NR_GLOBAL_WORDS, np.int64)
        self.chunk = np.zeros(nr_rows * words, np.int64)
        self.map = np.zeros((self.unit_size // 2 + 8) * len(self.chunks), np.int32)
        self.birth = np.zeros(self.unit_size // 2 * len(self.chunks), np.int64)
        for name, value in {"UNIT_PAGES": self.unit_size // 4096, "NR_SLOTS": 16, "ROW_WORDS": words}.items():
            self.g[getattr(L, name)] = value
        self.g[L.BIRTH_STRIDE] = self.unit_size // 2
        for slot in range(16):
            self.chunk[slot * words + L.LIST_NEXT] = slot * words
            self.chunk[slot * words + L.LIST_PREV] = slot * words
        for row, chunk in enumerate(self.chunks):
            self._write(row, chunk, (L.NR_LIST_HEADS + row) * words, words)
        info = SimpleNamespace(
            unit_size=self.unit_size,
            static_size=self.static_size,
            reserved_size=self.reserved_size,
            dyn_size=0,
            unit_offset={0: 0, 2: self.unit_size},
        )
        self.geometry = SimpleNamespace(info=info, addresses=SimpleNamespace(first_chunk=FIRST_BASE))

    def _write(self, row: int, chunk: FakeChunk, handle: int, words: int) -> None:
        head = self.chunk[handle : handle + words]
        head[L.ORDINAL], head[L.BASE], head[L.HAS_RESERVED] = chunk.ordinal, row * 0x100000, chunk.has_reserved
        head[L.CONTIG_HINT], head[L.FIRST_FREE] = chunk.contig_hint, chunk.first_free
        head[L.MAP], head[L.MAP_USED] = row * (self.unit_size // 2 + 8), len(chunk.areas)
        head[L.BIRTH] = row * (self.unit_size // 2)
        head[L.POPULATED :] = chunk.pages
        head[L.NR_POPULATED] = sum(chunk.pages)
        head[L.CHUNK_NR_ALLOC] = sum(birth is not None for _, birth in chunk.areas) - chunk.has_reserved
        off = 0
        for k, (size, birth) in enumerate(chunk.areas):
            self.map[head[L.MAP] + k] = off | (birth is not None)
            if birth is not None and birth[1]:
                self.birth[birth_index(head[L.BIRTH], self.unit_size // 2, off)] = birth[0] << 16 | birth[1]
            off += size
        self.map[head[L.MAP] + len(chunk.areas)] = off | 1
        if chunk.ordinal == -1:
            self.g[L.RESERVED_CHUNK] = handle
        else:
            if chunk.ordinal == 0:
                self.g[L.FIRST_CHUNK] = handle
            self._append(handle, chunk.slot * words)

    def _append(self, handle: int, head: int) -> None:
        last = self.chunk[head + L.LIST_PREV]
        self.chunk[last + L.LIST_NEXT] = handle
        self.chunk[handle + L.LIST_NEXT] = head
        self.chunk[handle + L.LIST_PREV] = last
        self.chunk[head + L.LIST_PREV] = handle
