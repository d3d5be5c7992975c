"""Questions have one right answer, which the allocator gives, and tell wrong ones apart from it."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from percpu_lab import lessons
from percpu_lab.errors import RequestError
from percpu_lab.lessons import QUESTIONS, ask, check, map_text

SEEDS = range(25)
KINDS = sorted(QUESTIONS)


def shown_map(question: lessons.Question) -> list[int]:
    return [int(off) | int(flag) for off, flag in re.findall(r"(\d+)\|([01])", question.text)]


def free_areas(entries: list[int]) -> list[tuple[int, int]]:
    return [(entry, (end & ~1) - entry) for entry, end in pairwise(entries) if not entry & 1]


def numbers_in(question: lessons.Question) -> list[int]:
    words = question.text.rpartition("\n\n")[2]
    return [int(word) for word in re.findall(r"\d+", words.replace(",", ""))]


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_always_makes_the_same_question(kind: str) -> None:
    assert ask(kind, 7) == ask(kind, 7)


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_make_different_questions(kind: str) -> None:
    assert len({ask(kind, seed).text for seed in SEEDS}) > len(SEEDS) // 2


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_answer_is_right(kind: str) -> None:
    for seed in SEEDS:
        question = ask(kind, seed)
        assert question.check(question.answer)
        assert not question.check(question.answer + 1)
        assert not question.check(None)


@pytest.mark.parametrize("kind", KINDS)
def test_no_wrong_answer_is_told_the_right_one(kind: str) -> None:
    for seed in SEEDS:
        question = ask(kind, seed)
        for answer in question.mistakes.keys() - {question.answer}:
            assert str(question.answer) not in re.findall(r"\d+", question.check(answer).text.replace(",", ""))[1:]


def test_first_fit_is_the_first_area_that_fits() -> None:
    for seed in SEEDS:
        question = ask("first_fit", seed)
        size = numbers_in(question)[0]
        assert question.answer == next(off for off, length in free_areas(shown_map(question)) if length >= size)


def test_some_first_fit_questions_catch_who_looks_for_the_best_fit() -> None:
    questions = [ask("first_fit", seed) for seed in SEEDS]
    best = [next(off for off, text in question.mistakes.items() if "fits best" in text) for question in questions]
    assert sum(off != question.answer for off, question in zip(best, questions, strict=True)) >= 3


def test_merge_loses_an_entry_for_each_free_neighbour() -> None:
    seen = set()
    for seed in SEEDS:
        question = ask("merge", seed)
        entries, (before, off) = shown_map(question), numbers_in(question)[:2]
        at = entries.index(off | 1)
        free_neighbours = (not entries[at - 1] & 1) + (not entries[at + 1] & 1)
        assert (before, question.answer) == (len(entries) - 1, before - free_neighbours)
        seen.add(free_neighbours)
    assert seen == {0, 1, 2}


def test_contig_hint_stays_or_becomes_the_largest_hole() -> None:
    kept = []
    for seed in SEEDS:
        question = ask("contig_hint", seed)
        before, size = numbers_in(question)[:2]
        *holes, (_, tail) = free_areas(shown_map(question))
        assert question.answer == (max(length for _, length in holes) if size == tail else before)
        kept.append(question.answer == before)
    assert {True, False} == set(kept)


def test_slot_is_counted_from_free_size() -> None:
    slots = set()
    for seed in SEEDS:
        question = ask("slot", seed)
        free_size = numbers_in(question)[1]
        assert question.answer == max(free_size.bit_length() - 3, 1)
        slots.add(question.answer)
    assert len(slots) >= 4


def test_sum_frag_leaves_out_the_free_tail() -> None:
    for seed in SEEDS:
        question = ask("sum_frag", seed)
        assert question.answer == sum(length for _, length in free_areas(shown_map(question))[:-1])


def test_cur_med_alloc_is_the_lower_middle() -> None:
    parities = set()
    for seed in SEEDS:
        question = ask("cur_med_alloc", seed)
        entries = shown_map(question)[1:]
        sizes = sorted((end & ~1) - (entry & ~1) for entry, end in pairwise(entries) if entry & 1)
        assert question.answer == sizes[(len(sizes) - 1) // 2]
        parities.add(len(sizes) % 2)
    assert parities == {0, 1}


def test_hints_go_on_with_the_last() -> None:
    question = ask("merge", 0)
    assert [question.hint(number) for number in (1, 2, 9)] == [question.hints[0], question.hints[1], question.hints[1]]


def test_a_hint_before_the_first_is_refused() -> None:
    with pytest.raises(RequestError, match="begin with 1"):
        ask("merge", 0).hint(0)


def test_an_unknown_kind_names_those_there_are() -> None:
    with pytest.raises(RequestError, match="first_fit, merge"):
        ask("weather")


@pytest.mark.parametrize(("prediction", "is_right"), [(64, True), (65, False), (None, False)])
def test_a_prediction_is_right_only_if_it_came(prediction: int | None, is_right: bool) -> None:
    assert bool(check(prediction, 64)) is is_right


def test_a_map_is_written_from_a_chunk_as_from_its_entries() -> None:
    chunk = lessons.Allocator(jit="off").state().pcpu_first_chunk
    assert map_text(chunk) == map_text(chunk.map) == "0|1 36864|0 65536|1"
