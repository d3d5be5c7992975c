"""Why a decision stands where it stands: what the search found out; the name of each."""

__all__ = [
    "BALANCE",
    "CAUSES",
    "EARLIER",
    "EXACT",
    "EXTENDED",
    "FORCED",
    "ISOLATED",
    "LATER",
    "LEARNED",
    "PARKED",
    "POPULATED",
    "Mended",
]

Mended = tuple[int, int, int, int, int]  # cause, kind of row, chunk, off, size

EXACT, EARLIER, LATER, LEARNED, BALANCE, POPULATED, PARKED, ISOLATED, FORCED, EXTENDED = range(10)
CAUSES = (
    "exact", "earlier", "later", "learned", "balance", "populated", "parked", "isolated", "forced", "extended",
)  # fmt: skip
