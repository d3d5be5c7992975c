"""The text of a trace as it came in, kept in compressed blocks of about 1 MiB.

    bytes ──▶ [zlib][zlib][zlib] ──▶ text()        about a tenth of the text: 20 bytes an event

Rejected: keeping only what the columns cannot give again. It needs a printer for every layout, and what none of them
prints (mail quotes, foreign events, odd spacing) would still have to be kept line by line.
"""

from __future__ import annotations

import zlib
from typing import ClassVar

from ..rich import Rich

__all__ = ["MAX_KEPT_BYTES", "KeptText"]

MAX_KEPT_BYTES = 256 << 20  # compressed; about 2.5 GB of text


class KeptText(Rich):
    """A text that grows at its end.

    >>> kept = KeptText()
    >>> kept.add(b"one\\n")
    True
    >>> kept.add(b"two")
    True
    >>> kept.text()
    'one\\ntwo'
    """

    __slots__ = ("_blocks", "nr_bytes")
    _shown: ClassVar = ("nr_bytes",)

    def __init__(self) -> None:
        self._blocks: list[bytes] = []
        self.nr_bytes = 0

    def add(self, data: bytes) -> bool:
        """Add to the end; False when more has come than may be kept."""
        block = zlib.compress(data, 1)
        self._blocks.append(block)
        self.nr_bytes += len(block)
        return self.nr_bytes <= MAX_KEPT_BYTES

    def __repr__(self) -> str:
        return f"<KeptText: {self.nr_bytes:,} bytes compressed>"

    def text(self) -> str:
        """Give the whole text; what is no UTF-8 comes back by encoding it with `surrogateescape`."""
        return b"".join(map(zlib.decompress, self._blocks)).decode("utf-8", "surrogateescape")
