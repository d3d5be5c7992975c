"""Why a decision stands where it stands: what the search found out; the name of each."""

__all__ = ["BALANCE", "CAUSES", "EARLIER", "EXACT", "FORCED", "ISOLATED", "LATER", "LEARNED", "PARKED", "POPULATED"]

EXACT, EARLIER, LATER, LEARNED, BALANCE, POPULATED, PARKED, ISOLATED, FORCED = range(9)
CAUSES = ("exact", "earlier", "later", "learned", "balance", "populated", "parked", "isolated", "forced")
