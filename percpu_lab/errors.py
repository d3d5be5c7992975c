"""Every error a user can meet: what is wrong, where, and what to do about it."""


class LabError(Exception):
    """The base of all errors of this package: what, where, and the remedy.

    >>> print(LabError("size missing", where="ops.txt line 3", remedy="write: alloc ID SIZE ..."))
    ops.txt line 3: size missing; write: alloc ID SIZE ...

    Args:
        what: what is wrong, without a final full stop.
        where: file and line, argument or event it was found at.
        remedy: what the user can do.
    """

    def __init__(self, what: str = "", *, where: str = "", remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}; {self.remedy}" if self.remedy else text


class GeometryError(LabError):
    """A layout that pcpu_setup_first_chunk would refuse."""


class RequestError(LabError):
    """An argument that no kernel caller could have passed (a string as a size, an unknown gfp)."""


class BadFreeError(LabError):
    """A free that would corrupt or crash a kernel; nothing was changed."""


class DoubleFreeError(BadFreeError):
    """The area was freed before, by this pointer or another copy of it."""


class ForeignPointerError(BadFreeError):
    """The pointer was not handed out by this allocator, or points into the middle of an area."""


class UseAfterFreeError(LabError):
    """Memory was asked for through a pointer whose area has been freed."""


class LockdepError(LabError):
    """A function was entered without the lock it must hold, or with one it must not."""


class KernelBugError(LabError):
    """The modelled kernel itself would crash or loop for ever here."""


class CaseError(LabError):
    """A case folder or op script is damaged; names file and line."""


class TraceFormatError(LabError):
    """A text is not the trace or statistics it should be; names file and line."""


class FilterError(LabError):
    """An event filter cannot be read; names the column."""


class HookError(LabError):
    """A subscribed hook raised; it was unsubscribed, and the allocator is as if it had not.

    `result` is what the interrupted call had made: the pointer of an allocation, or None.
    """

    result: object = None


class InvariantError(LabError):
    """The structures of an allocator contradict each other; names the chunk, and the invariant by its number.

    >>> print(InvariantError(2, "areas 1 and 2 are both free", where="chunk 3"))
    chunk 3: invariant 2: areas 1 and 2 are both free; something wrote to the arrays, or this package has a bug

    Args:
        number: as in core/areamap.py and validate.py.
        what: what contradicts what.
        where: the chunk or table.
    """

    def __init__(self, number: int, what: str, *, where: str = "") -> None:
        super().__init__(
            f"invariant {number}: {what}",
            where=where,
            remedy="something wrote to the arrays, or this package has a bug",
        )
        self.number = number
