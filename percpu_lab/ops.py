"""Op scripts: requests to an allocator as columns of numbers, and as the text of a recorded case.

kind   id  size  align  flags
alloc  ID  SIZE  ALIGN  RESERVED | ATOMIC << 1
free   ID
fault  KIND COUNT SKIP
balance, stats, state
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from .core import layout as L
from .errors import CaseError, RequestError
from .rich import RichTable

_WORDS = {
    "alloc": (L.OP_ALLOC, (5,)),
    "free": (L.OP_FREE, (1,)),
    "balance": (L.OP_BALANCE, (0,)),
    "stats": (L.OP_STATS, (0,)),
    "state": (L.OP_STATE, (0,)),
    "fault": (L.OP_FAULT, (2, 3)),
}
_NAMES = {kind: name for name, (kind, _) in _WORDS.items()}
_SIGN_BIT = 1 << 63
_MAX_DIGITS = 20
_PIECE_CHARS = 1 << 16
_SHOWN = 20
_HEADS = ("op", "id", "size", "align", "reserved", "atomic")
_BLANK = [""] * len(_HEADS)


class Ops(RichTable):
    """An op script, one column an op.

    >>> ops = Ops.from_text("alloc 7 16 8 0 0\\nfree 7\\n")
    >>> len(ops), ops.nr_ids
    (2, 1)
    >>> print(ops.to_text(), end="")
    alloc 7 16 8 0 0
    free 7

    Args:
        array: int64 (5, n): kind, id, size, align, flags (see core/layout.py); ids are dense, from 0.
            Sizes and alignments of 2^63 and more are negative there.
        names: the ids of the script, by dense id; without them the dense ids themselves.

    Raises:
        RequestError: the array is no op script.
    """

    __slots__ = ("array", "names", "nr_ids")

    def __init__(self, array: np.ndarray, names: Sequence[str] | None = None) -> None:
        self.array = np.ascontiguousarray(array, dtype=np.int64)
        self.names = names
        #: how many ids are in use: the length of the pointer table a run needs
        self.nr_ids = _checked_nr_ids(self.array)

    def __len__(self) -> int:
        return int(self.array.shape[1])

    def __repr__(self) -> str:
        return f"<Ops: {len(self):,} ops, {self.nr_ids:,} ids>"

    def _html_rows(self) -> tuple[Sequence[str], Iterable[Sequence[object]], int]:
        lines = (_format_op(op, self.names).split() for op in self.array.T[:_SHOWN].tolist())
        return _HEADS, ([*line, *_BLANK][: len(_HEADS)] for line in lines), len(self)

    @classmethod
    def concat(cls, parts: Iterable[Ops]) -> Ops:
        """Join scripts that share one numbering of ids."""
        return cls(np.concatenate([part.array for part in parts], axis=1))

    @classmethod
    def alloc(
        cls,
        ids: np.ndarray,
        size: int | np.ndarray,
        align: int | np.ndarray = 4,
        *,
        reserved: bool | np.ndarray = False,
        atomic: bool | np.ndarray = False,
    ) -> Ops:
        """Make an alloc for each id; sizes and alignments in bytes, one value or one an id.

        >>> Ops.alloc(np.arange(3), 16).array[2].tolist()
        [16, 16, 16]

        Raises:
            RequestError: what is given are no integers of up to 64 bits, or not as many as there are ids.
        """
        array = _ops_of(L.OP_ALLOC, ids)
        nr_ids = array.shape[1]
        array[L.OPS_SIZE] = _integers(size, "size", nr_ids)
        array[L.OPS_ALIGN] = _integers(align, "align", nr_ids)
        flags = _flags(reserved, "reserved", nr_ids) * L.FLAG_RESERVED
        array[L.OPS_FLAGS] = flags + _flags(atomic, "atomic", nr_ids) * L.FLAG_ATOMIC
        return cls(array)

    @classmethod
    def free(cls, ids: np.ndarray) -> Ops:
        """Make a free for each id.

        Raises:
            RequestError: the ids are no array of integers.
        """
        return cls(_ops_of(L.OP_FREE, ids))

    @classmethod
    def single(cls, name: str) -> Ops:
        """Make one op without operands: balance, stats or state."""
        array = np.zeros((L.NR_OPS_COLUMNS, 1), np.int64)
        array[L.OPS_KIND] = _WORDS[name][0]
        return cls(array)

    @classmethod
    def from_text(cls, text: str, *, where: str = "ops") -> Ops:
        """Read a script.

        Args:
            text: one op a line, as in ops.txt of a recorded case.
            where: the name of the text in error messages.

        Raises:
            CaseError: names the line.
        """
        nr_ops = text.count("\n") + (text[-1:] not in ("", "\n"))
        array = np.zeros((L.NR_OPS_COLUMNS, nr_ops), np.int64)
        dense: dict[str, int] = {}
        first = 0
        for lines in _pieces(text):
            ops = [_parse_line(line, dense, f"{where} line {i}") for i, line in enumerate(lines, first + 1)]
            array[:, first : first + len(lines)] = np.array(ops, np.int64).T
            first += len(lines)
        return cls(array, tuple(dense))

    def counts(self) -> dict[str, int]:
        r"""Count the ops of each kind that is there.

        >>> Ops.from_text("alloc 7 16 8 0 0\nstate\nfree 7\nstate\n").counts()
        {'alloc': 1, 'free': 1, 'state': 2}
        """
        nr_ops = np.bincount(self.array[L.OPS_KIND], minlength=L.NR_OP_KINDS).tolist()
        return {name: nr_ops[kind] for name, (kind, _) in _WORDS.items() if nr_ops[kind]}

    def to_text(self) -> str:
        """Write the script as the text it can be read from."""
        return "".join(_format_op(op, self.names) + "\n" for op in self.array.T.tolist())


def _ops_of(kind: int, ids: object) -> np.ndarray:
    """Make an op of a kind for each id."""
    numbers = _integers(ids, "ids")
    if numbers.ndim != 1:
        raise RequestError(f"{ids!r:.60} is no list of ids", where="Ops, ids", remedy="give one, as np.arange(3)")
    array = np.zeros((L.NR_OPS_COLUMNS, len(numbers)), np.int64)
    array[L.OPS_KIND], array[L.OPS_ID] = kind, numbers
    return array


def _integers(values: object, name: str, nr_ids: int | None = None, kinds: str = "iu") -> np.ndarray:
    """Take integers, one or one an id; those of 2^63 and more become negative."""
    array = np.asarray(values)
    if array.size and array.dtype.kind not in kinds:
        raise RequestError(
            f"{values!r:.60} is no integer of up to 64 bits, nor an array of them",
            where=f"Ops, {name}",
            remedy="give an int, or an array with a dtype of integers",
        )
    if nr_ids is not None and array.shape not in ((), (nr_ids,)):
        raise RequestError(
            f"{array.size:,} values for {nr_ids:,} ids", where=f"Ops, {name}", remedy="give one, or one an id"
        )
    return array.astype(np.int64)


def _flags(values: object, name: str, nr_ids: int) -> np.ndarray:
    return _integers(values, name, nr_ids, kinds="biu").astype(np.bool_)


def _pieces(text: str) -> Iterator[list[str]]:
    """Cut a script into lines, some at a time: all at once would take ten times its size."""
    start = 0
    while start < len(text):
        end = text.find("\n", start + _PIECE_CHARS) + 1 or len(text)
        yield text[start:end].removesuffix("\n").split("\n")
        start = end


def _checked_nr_ids(array: np.ndarray) -> int:
    """Check what compiled code takes on trust -> number of ids."""
    if array.ndim != 2 or len(array) != L.NR_OPS_COLUMNS:
        raise _no_script(f"its shape is {array.shape}")
    kind, number = array[L.OPS_KIND], array[L.OPS_ID]
    if kind.size and not 0 <= kind.min() <= kind.max() < L.NR_OP_KINDS:
        raise _no_script(f"kinds of ops are 0 to {L.NR_OP_KINDS - 1}, not {kind.min()} to {kind.max()}")
    if number.size and number.min() < 0:
        raise _no_script(f"an id is {number.min()}")
    faults = array[L.OPS_ID : L.OPS_ALIGN + 1, kind == L.OP_FAULT]
    if faults.size and (faults.min() < 0 or faults[0].max() >= L.NR_FAULT_KINDS):
        raise _no_script("a fault has no such kind, or a negative number")
    used = number[kind <= L.OP_FREE]
    return int(used.max()) + 1 if used.size else 0


def _no_script(what: str) -> RequestError:
    return RequestError(what, where="Ops", remedy="make scripts with Ops.alloc, Ops.free, Ops.from_text or a workload")


def _number(word: str, where: str, limit: int = _SIGN_BIT) -> int:
    if not (word.isascii() and word.isdigit() and len(word) <= _MAX_DIGITS and int(word) < limit):
        raise CaseError(
            f"{word[:40]!r} is not a number from 0 to {limit - 1}", where=where, remedy="write decimal digits only"
        )
    return int(word)


def _size(word: str, where: str) -> int:
    number = _number(word, where, 2 * _SIGN_BIT)
    return number - 2 * _SIGN_BIT if number & _SIGN_BIT else number


def _parse_line(line: str, dense: dict[str, int], where: str) -> tuple[int, ...]:
    words = line.split()
    if not words or words[0] not in _WORDS:
        raise CaseError(f"unknown op {line[:80]!r}", where=where, remedy=f"an op is one of: {', '.join(_WORDS)}")
    kind, counts = _WORDS[words[0]]
    if len(words) - 1 not in counts:
        raise CaseError(
            f"{words[0]} takes {' or '.join(map(str, counts))} operands, not {len(words) - 1}",
            where=where,
            remedy="correct the line",
        )
    if kind == L.OP_ALLOC:
        size, align = (_size(word, where) for word in words[2:4])
        reserved, atomic = (_number(word, where) for word in words[4:])
        if reserved > 1 or atomic > 1:
            raise CaseError(
                "RESERVED and ATOMIC are 0 or 1", where=where, remedy="write alloc ID SIZE ALIGN RESERVED ATOMIC"
            )
        return (
            kind,
            dense.setdefault(words[1], len(dense)),
            size,
            align,
            reserved * L.FLAG_RESERVED + atomic * L.FLAG_ATOMIC,
        )
    if kind == L.OP_FREE:
        return kind, dense.setdefault(words[1], len(dense)), 0, 0, 0
    if kind == L.OP_FAULT:
        if words[1] not in L.FAULT_KINDS:
            raise CaseError(
                f"unknown kind of fault {words[1]!r}",
                where=where,
                remedy=f"a kind is one of: {', '.join(L.FAULT_KINDS)}",
            )
        numbers = [_number(word, where) for word in words[2:]] + [0]
        return kind, L.FAULT_KINDS.index(words[1]), numbers[0], numbers[1], 0
    return kind, 0, 0, 0, 0


def _format_op(op: list[int], names: Sequence[str] | None) -> str:
    kind, number, size, align, flags = op
    name = names[number] if names and kind <= L.OP_FREE else number
    if kind == L.OP_ALLOC:
        size, align = size % (2 * _SIGN_BIT), align % (2 * _SIGN_BIT)
        return f"alloc {name} {size} {align} {flags & L.FLAG_RESERVED} {int(bool(flags & L.FLAG_ATOMIC))}"
    if kind == L.OP_FREE:
        return f"free {name}"
    if kind == L.OP_FAULT:
        return f"fault {L.FAULT_KINDS[number]} {size} {align}"
    return _NAMES[kind]
