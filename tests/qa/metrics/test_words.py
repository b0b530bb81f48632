from __future__ import annotations

import numpy as np
import pytest

from retro.common.statistics import estimate
from retro.evaluate.scores import answer_in_passages, document_found
from retro.qa.answer_files import Answer
from retro.qa.metrics.normalize import normalize_answer
from retro.qa.metrics.words import exact_match, f1
from retro.qa.question import Context


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("The  Cat, sat!", "cat sat"),
        ("An apple a day", "apple day"),
        ("theatre", "theatre"),
        ("U.S.A.", "usa"),
        ("it's", "its"),
        ("  \n", ""),
    ],
)
def test_normalizing_is_squads(text: str, plain: str) -> None:
    assert normalize_answer(text) == plain


def test_any_gold_answer_will_do() -> None:
    assert exact_match("The Countess", ["Ada", "countess"]) == 1.0
    assert exact_match("Babbage", ["Ada", "countess"]) == 0.0


def test_a_text_is_one_gold_answer_and_not_its_letters() -> None:
    assert exact_match("d", "Ada") == 0.0
    assert exact_match("Ada", "Ada") == 1.0
    assert f1("a d a", "Ada") == 0.0


def test_f1_is_the_best_overlap_worked_by_hand() -> None:
    # Two of three words said are right, and two of four gold words are said: 2 * (2/3 * 1/2) / (2/3 + 1/2) = 4/7.
    assert f1("red big cat", ["big red dog house"]) == pytest.approx(4 / 7)
    assert f1("red big cat", ["green", "red big cat"]) == 1.0
    # A word counts as often as both have it: 1 shared, precision 1/3, recall 1.
    assert f1("cat cat cat", ["cat"]) == pytest.approx(0.5)
    assert f1("", ["cat"]) == 0.0


@pytest.mark.parametrize(("said", "right"), [("()", 1.0), ("", 0.0), ("!", 0.0), ("the", 0.0)])
def test_a_gold_answer_of_punctuation_is_matched_by_itself_alone(said: str, right: float) -> None:
    assert exact_match(said, ["()"]) == right
    assert f1(said, ["()"]) == right


def test_no_gold_answer_is_a_mistake_of_the_caller() -> None:
    for metric in (exact_match, f1):
        with pytest.raises(ValueError, match="without gold answers"):
            metric("x", [])


def answer(*texts: str, golds: tuple[str, ...] = ("Ada",)) -> Answer:
    passages = tuple(Context("T", text, f"d{n}") for n, text in enumerate(texts))
    return Answer(id="0", question="Who?", answers=golds, prediction="", passages=passages, setting="s")


def test_an_answer_is_in_a_passage_as_whole_words() -> None:
    assert answer_in_passages(answer("nothing", "by ADA, of course"))
    assert not answer_in_passages(answer("Adam did"))
    assert answer_in_passages(answer("it returns () here", golds=("()",)))
    assert not answer_in_passages(answer())


def test_a_document_is_found_by_id_or_title_among_the_first_k() -> None:
    passages = answer("x", "y").passages
    assert [document_found(passages, {"d1"}, k) for k in (1, 2)] == [False, True]
    assert document_found(passages, {"T"}, 1)
    assert not document_found(passages, {"other"}, 2)


def test_the_interval_of_equal_values_is_that_value() -> None:
    found = estimate([0.25] * 10, samples=100, confidence=0.95, seed=1)
    assert (found.mean, found.low, found.high, found.count) == (0.25, 0.25, 0.25, 10)


def test_the_interval_is_near_that_of_the_binomial() -> None:
    # 300 of 1,000: the standard error is sqrt(.3 * .7 / 1000) = .0145, so 95 % is .3 +- .0284.
    found = estimate([1.0] * 300 + [0.0] * 700, samples=2000, confidence=0.95, seed=1)
    assert found.low == pytest.approx(0.2716, abs=0.004)
    assert found.high == pytest.approx(0.3284, abs=0.004)


def test_an_interval_is_the_same_every_time_and_wider_when_surer() -> None:
    values = np.linspace(0, 1, 50).tolist()
    one, same = (estimate(values, samples=500, confidence=0.9, seed=3) for _ in range(2))
    assert one == same
    surer = estimate(values, samples=500, confidence=0.99, seed=3)
    assert surer.low < one.low < one.high < surer.high


def test_many_values_are_resampled_in_blocks() -> None:
    # 3 million values: each resample is a block of its own.
    found = estimate(np.ones(3_000_000).tolist(), samples=2, confidence=0.5, seed=0)
    assert (found.low, found.high) == (1.0, 1.0)
