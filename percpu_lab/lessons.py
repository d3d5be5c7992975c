"""Questions for the lessons: a prediction checked against what the allocator did, and exercises made from a seed.

    predict ──▶ run ──▶ check(prediction, actual)                 a number the lesson has just worked out
    ask(kind, seed) ──▶ Question ──▶ hint(), check(), solution()  as many more as wanted, no two alike

Every answer is a whole number. It is read off an allocator that really did it, never worked out a second time here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .allocator import Allocator
from .errors import RequestError
from .geometry import Geometry
from .stats import map_statistics

if TYPE_CHECKING:
    from .engine import ChunkState
    from .pointers import PercpuPtr

__all__ = ["QUESTIONS", "Question", "Verdict", "ask", "check", "map_text"]


def map_text(entries: ChunkState | Iterable[int]) -> str:
    """Write an area map as people read it: offset | in_use of each area, the sentinel last.

    >>> map_text([1, 8192, 32769])
    '0|1 8192|0 32768|1'

    Args:
        entries: a chunk, or the entries of its map.
    """
    numbers: Any = getattr(entries, "map", entries)
    return " ".join(f"{int(entry) & ~1}|{int(entry) & 1}" for entry in numbers)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of an answer; true if it was right.

    Args:
        is_right: whether it was.
        text: what to tell the reader.
    """

    is_right: bool
    text: str

    def __bool__(self) -> bool:
        return self.is_right

    def __repr__(self) -> str:
        return self.text


def check(prediction: int | None, actual: int) -> Verdict:
    """Compare what was predicted with what came.

    >>> check(8212, 8256)
    You predicted 8,212; it is 8,256.
    >>> check(8256, 8256)
    8,256, as you predicted.
    >>> check(None, 8256)
    It is 8,256. (No prediction yet.)

    Args:
        prediction: the reader's number, None as long as there is none.
        actual: what the allocator did.
    """
    if prediction is None:
        return Verdict(False, f"It is {_number(actual)}. (No prediction yet.)")
    if prediction == actual:
        return Verdict(True, f"{_number(actual)}, as you predicted.")
    return Verdict(False, f"You predicted {_number(prediction)}; it is {_number(actual)}.")


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, (int, np.integer)) else str(value)


@dataclass(frozen=True, slots=True, repr=False)
class Question:
    """An exercise with one number as its answer.

    >>> question = ask("slot", seed=1)
    >>> question.check(None)
    No answer yet: put your number between the brackets.

    Args:
        text: what is asked.
        hints: from a nudge to nearly all.
        why: how the answer comes about.
        mistakes: what to tell whoever gives one of the well-known wrong answers.
    """

    text: str
    hints: tuple[str, ...]
    why: str
    answer: int = field(repr=False)
    mistakes: Mapping[int, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return self.text

    def check(self, answer: int | None) -> Verdict:
        """Judge an answer; a wrong one gets a word on what may have gone wrong, not the right one."""
        if answer is None:
            return Verdict(False, "No answer yet: put your number between the brackets.")
        if answer == self.answer:
            return Verdict(True, f"Right: {_number(answer)}. {self.why}")
        mistake = self.mistakes.get(answer, "hint() helps, solution() tells.")
        return Verdict(False, f"Not {_number(answer)}: {mistake}")

    def hint(self, number: int = 1) -> str:
        """Give a hint.

        Args:
            number: 1 for a nudge, higher ones tell more; those past the last give the last.

        Raises:
            RequestError: the number is not 1 or more.
        """
        if number < 1:
            raise RequestError(f"there is no hint {number!r}", where="hint", remedy="hints begin with 1")
        return self.hints[min(number, len(self.hints)) - 1]

    def solution(self) -> str:
        """Tell the answer, and why it is that."""
        return f"{_number(self.answer)}. {self.why}"


# --- chunks to ask about --------------------------------------------------------------

_SIZES = (16, 24, 40, 64, 96, 128, 160, 256)


class _Scene(NamedTuple):
    """A first chunk with a few areas and holes, and the chance it came by."""

    allocator: Allocator
    live: list[PercpuPtr]
    rng: np.random.Generator

    @property
    def chunk(self) -> ChunkState:
        chunk: ChunkState = self.allocator.state().pcpu_first_chunk
        return chunk

    @property
    def shown(self) -> str:
        return f"The area map of a first chunk (static 8,192 bytes) is\n\n    {map_text(self.chunk)}\n\n"

    def pick(self, options: Iterable[Any]) -> Any:
        choices = list(options)
        return choices[int(self.rng.random() * len(choices))]


def _scene(seed: int, *, nr_areas: int = 8, nr_holes: int = 3) -> _Scene:
    """Allocate some areas and free a few, never the last; only random() is used, whose stream never changes."""
    rng = np.random.Generator(np.random.PCG64(seed))
    allocator = Allocator(Geometry.simple(unit_size=32768), jit="off")
    scene = _Scene(allocator, [], rng)
    scene.live.extend(allocator.alloc_percpu(scene.pick(_SIZES)) for _ in range(nr_areas))
    for _ in range(nr_holes):
        allocator.free_percpu(scene.live.pop(int(rng.random() * (len(scene.live) - 1))))
    return scene


def _areas(chunk: ChunkState, *, in_use: bool) -> list[tuple[int, int]]:
    """Offset and size of the areas behind the static prefix."""
    entries = chunk.map.astype(np.int64)
    offs, sizes = entries[:-1] & ~1, np.diff(entries & ~1)
    wanted = (entries[:-1] & 1) == in_use
    wanted[0] = False
    return list(zip(offs[wanted].tolist(), sizes[wanted].tolist(), strict=True))


# --- the questions --------------------------------------------------------------------


def _first_fit(seed: int) -> Question:
    scene = _scene(seed)
    free = _areas(scene.chunk, in_use=False)
    size = scene.pick(sorted({area_size for _, area_size in free[:-1]})) - scene.pick((0, 8))
    best = min((area_size, off) for off, area_size in free if area_size >= size)[1]
    text = f"{scene.shown}Somebody asks for {size} bytes, aligned to 8. At which offset do they begin?"
    off = scene.allocator.alloc_percpu(size).off
    mistakes = {
        free[-1][0]: "there is a hole before it that fits.",
        best: "that area fits best, but the kernel does not look for the best.",
    }
    return Question(
        text,
        (
            "A free area has a 0 behind its offset; the next entry is its end.",
            f"The free areas, as (offset, size): {free}.",
        ),
        "pcpu_alloc_area takes the first free area that fits, beginning at first_free.",
        off,
        mistakes,
    )


def _merge(seed: int) -> Question:
    scene = _scene(seed)
    ptr, before = scene.pick(scene.live), scene.chunk.map_used
    text = f"{scene.shown}map_used is {before}. The area at offset {ptr.off} is freed. What is map_used then?"
    scene.allocator.free_percpu(ptr)
    after = scene.chunk.map_used
    neighbours = ("neither neighbour is free", "one neighbour is free", "both neighbours are free")[before - after]
    return Question(
        text,
        ("Two free areas never stand side by side.", "Each free neighbour costs the map one entry."),
        f"Here {neighbours}.",
        after,
        {before - 1: "are you sure of the number of free neighbours?", before: "there is a free neighbour."},
    )


def _contig_hint(seed: int) -> Question:
    scene = _scene(seed)
    is_all = bool(scene.rng.random() < 0.5)
    chunk = scene.chunk
    size = _areas(chunk, in_use=False)[-1][1] if is_all else scene.pick(_SIZES)
    text = (
        f"{scene.shown}contig_hint is {chunk.contig_hint}. Somebody asks for {size} bytes, aligned to 8.\n"
        "What is contig_hint then?"
    )
    scene.allocator.alloc_percpu(size)
    after = scene.chunk
    largest = max((area_size for _, area_size in _areas(after, in_use=False)), default=0)
    unseen = "The scan stopped before the end of the map: what lies behind may be that large, so the hint stays."
    return Question(
        text,
        (
            "contig_hint only says that no free area is larger.",
            "It falls only if the scan came to the end of the map: it took all of the last area, or found nothing.",
        ),
        "The scan came to the end of the map, so the hint is the largest area it saw." if is_all else unseen,
        after.contig_hint,
        {largest: "that is the largest free area, but how would the chunk know?"},
    )


def _slot(seed: int) -> Question:
    scene = _scene(seed)
    tail_size = _areas(scene.chunk, in_use=False)[-1][1]
    scene.allocator.alloc_percpu(tail_size - scene.pick((0, 16, 200, 1000, 5000, 20000)))
    chunk = scene.chunk
    fls = chunk.free_size.bit_length()
    return Question(
        f"The unit has 32,768 bytes. A chunk has free_size {chunk.free_size} and contig_hint {chunk.contig_hint}.\n"
        "In which slot does it stand?",
        (
            "The slot follows from free_size, unless free_size or contig_hint is below 4.",
            f"fls({chunk.free_size}), the number of its highest bit counted from 1, is {fls}.",
        ),
        f"pcpu_chunk_slot gives max(fls(free_size) - 3, 1) = max({fls} - 3, 1).",
        chunk.slot,
        {fls: "that is fls(free_size); take 3 off."},
    )


def _sum_frag(seed: int) -> Question:
    scene = _scene(seed)
    chunk = scene.chunk
    return Question(
        f"{scene.shown}What does percpu_stats print as its sum_frag?",
        ("Add up the free areas, but not all of them.", "Free space behind the last area in use is no fragment."),
        "sum_frag adds up the holes: the free areas before the last area in use.",
        map_statistics(chunk.map, has_reserved=True).sum_frag,
        {chunk.free_size: "that is free_size; what lies behind the last area in use is no fragment."},
    )


def _cur_med_alloc(seed: int) -> Question:
    scene = _scene(seed, nr_holes=3 + seed % 2)
    sizes = sorted(size for _, size in _areas(scene.chunk, in_use=True))
    return Question(
        f"{scene.shown}What does percpu_stats print as its cur_med_alloc?",
        (
            "Sort the sizes of the areas in use; the static prefix is none of them.",
            f"They are {sizes}; of two in the middle, the lower counts.",
        ),
        "cur_med_alloc is the size in the middle of the areas in use, the lower of two.",
        map_statistics(scene.chunk.map, has_reserved=True).cur_med_alloc,
        {sizes[len(sizes) // 2]: "there are two in the middle, and the lower counts."},
    )


#: what can be asked, by the name of what it is about
QUESTIONS: Mapping[str, Callable[[int], Question]] = {
    "first_fit": _first_fit,
    "merge": _merge,
    "contig_hint": _contig_hint,
    "slot": _slot,
    "sum_frag": _sum_frag,
    "cur_med_alloc": _cur_med_alloc,
}


def ask(kind: str, seed: int = 0) -> Question:
    """Make a question; the same seed makes the same one.

    >>> question = ask("merge", seed=1)
    >>> question
    The area map of a first chunk (static 8,192 bytes) is
    ...
    >>> question.hint()
    'Two free areas never stand side by side.'

    Args:
        kind: a key of QUESTIONS.
        seed: any whole number from 0.

    Raises:
        RequestError: there is no such kind.
    """
    if kind not in QUESTIONS:
        remedy = f"choose from {', '.join(QUESTIONS)}"
        raise RequestError(f"there are no questions on {kind!r}", where="kind", remedy=remedy)
    return QUESTIONS[kind](seed)
