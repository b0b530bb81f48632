"""Quadrants and shares, worked by hand."""

from __future__ import annotations

import pytest

from retro.common.statistics import wilson
from retro.recipes.knowledge_conflict.quadrants import (
    holds_answer,
    original_record,
    quadrant_shares,
    quadrants,
    share,
    share_of,
)

MEMORY = [True, True, False, False, True]
CONTEXT = [True, False, True, False, True]


def test_each_pair_of_answers_has_its_quadrant() -> None:
    assert quadrants(MEMORY, CONTEXT) == ["both", "memory", "context", "neither", "both"]


def test_quadrants_are_counted_of_all_questions() -> None:
    found = quadrant_shares(quadrants(MEMORY, CONTEXT))
    assert {name: (one["count"], one["of"], one["share"]) for name, one in found.items()} == {
        "both": (2, 5, 0.4), "memory": (1, 5, 0.2), "context": (1, 5, 0.2), "neither": (1, 5, 0.2),
    }  # fmt: skip


def test_the_original_file_has_its_own_names() -> None:
    assert original_record(MEMORY, CONTEXT) == {
        "inter_gd_list": [1, 1, 0, 0, 1],
        "exter_gd_list": [1, 0, 1, 0, 1],
        "condition_list": ["both_correct", "inter_correct", "exter_correct", "both_wrong", "both_correct"],
        "condition_num": {"both_correct": 2, "inter_correct": 1, "exter_correct": 1, "both_wrong": 1},
    }


def test_answers_of_other_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="1 closed-book answers and 2 answers with passages"):
        quadrants([True], [True, False])


def test_a_share_of_nothing_is_null_and_not_zero() -> None:
    assert share([]) == {"count": 0, "of": 0, "share": None, "low": None, "high": None}


def test_an_interval_by_wilson_worked_by_hand() -> None:
    # z = 1.959964: z^2 = 3.841459. 5 of 10: (0.5 + 0.192073) / 1.384146 = 0.5, and
    # 1.959964 * sqrt(0.025 + 3.841459 / 400) / 1.384146 = 0.263407.
    assert wilson(5, 10, 0.95) == pytest.approx((0.236593, 0.763407), abs=1e-6)
    # 0 of 10: from 0 to z^2 / (10 + z^2) = 3.841459 / 13.841459.
    assert wilson(0, 10, 0.95) == pytest.approx((0.0, 0.277533), abs=1e-6)
    assert wilson(10, 10, 0.95) == pytest.approx((0.722467, 1.0), abs=1e-6)


@pytest.mark.parametrize(("count", "of"), [(3, 2), (-1, 2), (0, 0)])
def test_an_interval_of_more_than_there_is_is_refused(count: int, of: int) -> None:
    with pytest.raises(ValueError, match=f"an interval of {count} of {of} items"):
        wilson(count, of, 0.95)


def test_a_share_of_more_than_there_is_is_refused() -> None:
    with pytest.raises(ValueError, match="1 of 0 items"):
        share_of(1, 0)


@pytest.mark.parametrize(
    ("text", "answers", "holds"),
    [
        ("It was The Beatles, in 1947.", ["beatles"], True),
        ("It was in 1947.", ["4"], False),
        ("Nobody knows.", ["no"], False),
        ("Paris or Rome", ["Berlin", "Rome"], True),
        ("", ["Rome"], False),
    ],
)
def test_an_answer_is_held_as_whole_words(text: str, answers: list[str], holds: bool) -> None:
    assert holds_answer(text, answers) is holds
