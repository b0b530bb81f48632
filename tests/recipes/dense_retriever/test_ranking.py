"""Metrics of ranked passages against values worked by hand."""

from __future__ import annotations

import math
import sys

import pytest

from retro.common.errors import DependencyError
from retro.recipes.dense_retriever.evaluation.ranking import (
    first_rank,
    has_answer,
    ndcg,
    normalized_words,
    recall,
    reciprocal_rank,
    top,
    unit_values,
)


def holds(text: str, *answers: str) -> bool:
    return has_answer(normalized_words(text), [normalized_words(one) for one in answers])


def test_the_first_passage_that_counts_gives_the_rank() -> None:
    assert first_rank([False, True, True]) == 2
    assert first_rank([False, False]) is None
    assert first_rank([]) is None


def test_accuracy_counts_a_question_once_within_k() -> None:
    assert [top(5, 1), top(5, 5), top(5, 20), top(None, 20)] == [0.0, 1.0, 1.0, 0.0]


def test_a_reciprocal_rank_is_nothing_beyond_its_depth() -> None:
    assert reciprocal_rank(4) == 0.25
    assert reciprocal_rank(10, 10) == 0.1
    assert reciprocal_rank(11, 10) == 0.0
    assert reciprocal_rank(11) == 1 / 11
    assert reciprocal_rank(None) == 0.0


def test_values_of_a_unit_with_fewer_passages_than_asked_for() -> None:
    # Three passages were found, the third counts.
    assert unit_values("document", [False, False, True], (1, 5, 100)) == {
        "document_top1": 0.0,
        "document_top5": 1.0,
        "document_top100": 1.0,
        "document_mrr10": 1 / 3,
        "document_mrr": 1 / 3,
    }


def test_values_of_a_unit_where_nothing_was_found() -> None:
    assert set(unit_values("answer", [], (1, 5)).values()) == {0.0}


def test_recall_is_the_share_of_relevant_passages_and_grade_zero_is_not_relevant() -> None:
    relevant = {"a": 2, "b": 1, "c": 0}
    assert recall(["c", "a", "x", "b"], relevant, 2) == 0.5
    assert recall(["c", "a", "x", "b"], relevant, 4) == 1.0
    assert recall(["c"], {"c": 0}, 4) == 0.0


def test_graded_ndcg_is_that_of_the_formula() -> None:
    # Grades in the order found: 1, 0 (not judged), 3. The best order: 3, 2, 1.
    found = ndcg({"q": ["b", "x", "a"]}, {"q": {"a": 3, "c": 2, "b": 1, "d": 0}})
    gained = 1 / math.log2(2) + 3 / math.log2(4)
    best = 3 / math.log2(2) + 2 / math.log2(3) + 1 / math.log2(4)
    assert found == {"q": pytest.approx(gained / best)}
    assert found["q"] == pytest.approx(0.5250, abs=1e-4)


def test_ndcg_keeps_the_order_that_it_is_given() -> None:
    # trec_eval puts the later id first among equal scores; ranks are passed on, so that there are none.
    relevant = {"q": {"a": 1}}
    assert ndcg({"q": ["a", "b", "c"]}, relevant)["q"] == 1.0
    assert ndcg({"q": ["c", "b", "a"]}, relevant)["q"] == pytest.approx(1 / math.log2(4))


def test_ndcg_ends_at_ten() -> None:
    ranked = [f"x{number}" for number in range(10)]
    assert ndcg({"q": [*ranked, "a"]}, {"q": {"a": 1}})["q"] == 0.0
    assert ndcg({"q": [*ranked[:9], "a"]}, {"q": {"a": 1}})["q"] == pytest.approx(1 / math.log2(11))


def test_questions_without_passages_count_as_nothing_in_ndcg() -> None:
    relevant = {"found": {"a": 1}, "empty": {"a": 1}, "absent": {"a": 1}, "unjudged": {}}
    found = ndcg({"found": ["a"], "empty": [], "unjudged": ["a"]}, relevant)
    assert found == {"found": 1.0, "empty": 0.0, "absent": 0.0, "unjudged": 0.0}
    assert ndcg({}, {"q": {"a": 1}}) == {"q": 0.0}


def test_a_passage_twice_in_a_ranking_is_refused() -> None:
    with pytest.raises(ValueError, match="a passage is twice in the ranking of question 'q'"):
        ndcg({"q": ["a", "b", "a"]}, {"q": {"a": 1}})


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ir_measures", None)
    with pytest.raises(DependencyError, match=r"ir-measures: computes nDCG.*instruct-retro\[retriever\]"):
        ndcg({"q": ["a"]}, {"q": {"a": 1}})


@pytest.mark.parametrize(
    ("text", "answer", "held"),
    [
        ("He was born in New York, in 1901.", "new york", True),
        ("He was born in New-York.", "new york", False),  # the hyphen is a word of its own
        ("He was born in New-York.", "New-York", True),
        ("Newark and York", "New York", False),
        ("The artist", "art", False),  # whole words
        ("Beyonce\u0301 sang", "Beyonc\u00e9", True),  # decomposed and composed
        ("Beyonce sang", "Beyonc\u00e9", False),  # the accent stays
        ("U.S. forces", "u.s.", True),
        ("a\tb\nc", "a b c", True),
        ("anything", "", False),
        ("anything", " \n", False),
    ],
)
def test_an_answer_is_found_by_its_words(text: str, answer: str, held: bool) -> None:
    assert holds(text, answer) is held


def test_one_of_several_answers_is_enough() -> None:
    assert holds("in Rome", "Paris", "Rome")
    assert not holds("in Rome")
