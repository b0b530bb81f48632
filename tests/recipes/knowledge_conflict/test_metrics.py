"""Judgements and metrics, worked by hand."""

from __future__ import annotations

from typing import Any

import pytest

from retro.common.errors import ConfigError
from retro.qa.metrics.normalize import Rules
from retro.qa.question import Context
from retro.recipes.knowledge_conflict import metrics
from retro.recipes.knowledge_conflict.conditions import base_condition, conflict_metrics
from retro.recipes.knowledge_conflict.config import PhrasesConfig
from retro.recipes.knowledge_conflict.items import ConflictItem
from retro.recipes.knowledge_conflict.judgement import Judgement, context_right, judge, matcher
from retro.recipes.knowledge_conflict.metrics import Intervals

HOW = Intervals(samples=100)
PHRASES = PhrasesConfig()
SUBSTRING = matcher("substring_match", Rules())
ACCURACY = matcher("accuracy", Rules())


def item(**changes: Any) -> ConflictItem:
    usual: dict[str, Any] = {
        "id": "q", "question": "Who?", "answers": ("Ada",), "original": ("Ada",), "counter": ("Mary",),
    }  # fmt: skip
    return ConflictItem(**(usual | changes))


def part(found: dict[str, Any]) -> tuple[int, int]:
    return found["count"], found["of"]


@pytest.mark.parametrize(
    ("prediction", "right", "original", "counter", "unknown", "conflict"),
    [
        ("It was Ada.", True, True, False, False, False),
        ("Mary", False, False, True, False, False),
        ("Ada or Mary: conflict", True, True, True, False, True),
        ("unknown", False, False, False, True, False),
        ("It does not say.", False, False, False, True, False),
        # A rationale abstains by its last sentence, or by one that says no more than that.
        ("Document 2 does not help. Document 1 says Ada. Ada", True, True, False, False, False),
        ("Document 2 does not say. Ada did.", True, True, False, False, False),
        ("Document 1 is of a ship. It does not say who.", False, False, False, True, False),
        ("Unknown. The passages are of a ship.", False, False, False, True, False),
        ("Unknown\nThe passages are of a ship.", False, False, False, True, False),
        ("Ada, not Mary", True, True, True, False, False),
        ("I don't know.", False, False, False, True, False),
        ("It can’t be determined", False, False, False, True, False),
        ("none", False, False, False, True, False),
        ("None of the others but Jane", False, False, False, False, False),
        # Passages may disagree anywhere.
        ("The documents contradict one another: a conflict. Ada", True, True, False, False, True),
        # A word that has the phrase in it is another word.
        ("A notary", False, False, False, False, False),
        ("", False, False, False, False, False),
    ],
)
def test_an_answer_is_judged_by_what_it_says(
    prediction: str, right: bool, original: bool, counter: bool, unknown: bool, conflict: bool
) -> None:
    said = judge(item(), "substituted", prediction, SUBSTRING, PHRASES)
    assert (said.right, said.original, said.counter, said.unknown, said.conflict) == (
        right, original, counter, unknown, conflict,
    )  # fmt: skip


def test_the_strict_words_are_the_ones_that_are_asked_for() -> None:
    said = judge(item(), "unanswerable", "It is not clear; no answer.", SUBSTRING, PHRASES)
    assert (said.unknown, said.unknown_strict) == (True, False)
    said = judge(item(), "original_first", "Inconsistent.", SUBSTRING, PHRASES)
    assert (said.conflict, said.conflict_strict) == (True, False)


def test_a_sentence_is_compared_with_no_truth_value() -> None:
    one = item(answers=("True",), original=("She did it.",), counter=("There is no such thing.",))
    said = judge(one, "original", "Yes, true.", ACCURACY, PHRASES)
    assert (said.right, said.original, said.counter, said.context_right) == (True, None, None, None)


def test_a_phrase_within_an_answer_says_nothing() -> None:
    one = item(answers=("True",), original=("She did not.",), counter=("She did it.",))
    assert not judge(one, "original", "She did not", SUBSTRING, PHRASES).unknown
    assert judge(one, "original", "She did not; unknown", SUBSTRING, PHRASES).unknown
    chosen = item(
        answers=(), original=("She did not do it.",), counter=("She did.",),
        options=("She did not do it.", "She did.", "It is uncertain."),
    )  # fmt: skip
    for said, unknown in (
        ("(A) She did not", False),
        ("B", False),
        ("(C)", True),
        ("not clear", True),
        ("(A) It is uncertain.", True),
    ):
        assert judge(chosen, "original", said, ACCURACY, PHRASES).unknown is unknown, said


@pytest.mark.parametrize(
    ("text", "original", "counter", "unknown"),
    [
        ("(B) It is not.", False, True, False),
        ("(B) It is uncertain.", False, False, True),
        ("(A) It is not.", False, False, False),
        ("The answer is (C)", False, False, True),
        ("(A) because it is.", True, False, False),
    ],
)
def test_the_letter_of_one_option_and_the_text_of_another_choose_neither(
    text: str, original: bool, counter: bool, unknown: bool
) -> None:
    one = item(
        answers=("True",),
        original=("It is.",),
        counter=("It is not.",),
        options=("It is.", "It is not.", "It is uncertain."),
    )
    found = judge(one, "original", text, ACCURACY, PHRASES)
    assert (found.right, found.original, found.counter, found.unknown) == (None, original, counter, unknown)


@pytest.mark.parametrize("phrase", ["", "the", "?!"])
def test_a_phrase_that_cannot_be_found_is_named(phrase: str) -> None:
    with pytest.raises(ConfigError, match=r"PhrasesConfig.unknown = .*needs phrases with a word"):
        PhrasesConfig(unknown=("unclear", phrase))


def test_options_are_chosen_by_text_or_letter() -> None:
    one = item(answers=(), original=("rock",), counter=("marshmallows",), options=("rock", "marshmallows"))
    said = judge(one, "substituted", "(B)", ACCURACY, PHRASES)
    assert (said.right, said.original, said.counter) == (None, False, True)


@pytest.mark.parametrize(
    ("changes", "condition", "right"),
    [
        ({}, "original", True),
        ({}, "substituted", False),
        ({}, "irrelevant", None),
        ({}, "original_first", None),
        ({"answers": ("Mary", "Ada")}, "substituted", True),
        ({"answers": ()}, "original", None),
        ({"answers": ("True",), "original": ("no",), "counter": ("yes",)}, "original", False),
        ({"answers": ("True",), "original": ("no",), "counter": ("yes",)}, "counter_memory", True),
        ({"options": ("Ada", "Mary"), "answers": ("A",)}, "original", True),
        ({"options": ("Ada", "Mary"), "answers": ("True",)}, "original", None),
    ],
)
def test_passages_are_right_where_the_answer_that_they_support_is(
    changes: dict[str, Any], condition: str, right: bool | None
) -> None:
    assert context_right(item(**changes), condition) is right


def test_a_metric_that_there_is_not_is_named() -> None:
    with pytest.raises(ConfigError, match=r"recipe.knowledge_conflict.metric = 'exactly'"):
        matcher("exactly", Rules())


def test_flips_worked_by_hand() -> None:
    before = [True, True, True, False, False, None]
    after = [True, False, True, True, False, True]
    found = metrics.flips(before, after, HOW)
    assert {name: part(one) for name, one in found.items()} == {
        "kept_right": (2, 5), "lost": (1, 5), "gained": (1, 5), "kept_wrong": (1, 5),
        "resistance": (2, 3), "correction": (1, 2),
    }  # fmt: skip


def test_the_memorisation_ratio_worked_by_hand() -> None:
    original = [True, True, False, False, True, None]
    counter = [False, False, True, False, True, True]
    found = metrics.memorisation_ratio(original, counter, HOW)
    # Two originals and one substitute; one answer has both, one neither, of one it is not known.
    assert (part(found), found["share"], found["both_answers"], found["neither_answer"]) == ((2, 3), 0.666667, 1, 1)


def test_a_ratio_without_any_of_the_two_answers_is_null() -> None:
    assert metrics.memorisation_ratio([False], [False], HOW)["share"] is None


def test_clash_worked_by_hand_on_a_table_of_eight() -> None:
    #          prior   context  answer
    table = [
        (True, False, False),  # misled
        (True, False, True),  # memory held
        (True, False, True),
        (False, True, False),  # stubborn
        (False, True, True),  # corrected
        (True, True, False),
        (False, False, False),
        (None, True, True),  # not known: left out
    ]
    prior, context, answer = (list(column) for column in zip(*table, strict=True))
    found = metrics.clash(prior, context, answer, HOW)
    assert {name: part(one) for name, one in found.items()} == {
        "context_bias": (1, 3), "prior_bias": (1, 2), "one_right": (3, 5),
    }  # fmt: skip


def said(**changes: Any) -> Judgement:
    usual: dict[str, Any] = dict.fromkeys(("unknown", "unknown_strict", "conflict", "conflict_strict"), False)
    usual |= {"prediction": "", "right": False, "original": False, "counter": False, "context_right": None}
    return Judgement(**(usual | changes))


def test_abstentions_are_counted_where_both_are_wrong_too() -> None:
    judged = [said(unknown=True, unknown_strict=True), said(unknown=True), said(), said(unknown=True)]
    found = metrics.abstentions(judged, ["neither", "both", "neither", None], HOW)
    assert {name: part(one) for name, one in found.items()} == {"all": (3, 4), "strict": (1, 4), "neither": (1, 2)}


@pytest.mark.parametrize(
    ("supports", "strict", "non_strict"),
    [("nothing", (1, 4), (2, 4)), ("both", (1, 4), (1, 4)), ("original", (0, 3), (1, 3)), ("counter", (1, 3), (2, 3))],
)
def test_faithful_answers_worked_by_hand(supports: str, strict: tuple[int, int], non_strict: tuple[int, int]) -> None:
    judged = [
        said(unknown=True, unknown_strict=True, original=None, counter=None),
        said(unknown=True),
        said(conflict=True, conflict_strict=True, original=True, counter=True),
        said(counter=True),
    ]
    found = metrics.faithful(judged, supports, HOW)
    assert (part(found["strict"]), part(found["non_strict"])) == (strict, non_strict)


def test_the_surer_answer_is_taken() -> None:
    found = metrics.surer_right(
        [True, True, False, None], [False, False, True, True], [-0.1, -2.0, -0.5, -1.0], [-0.2, -0.1, -0.5, -0.1], HOW
    )
    # Memory's, the context's (surer), the context's (as sure); of the last one it is not known.
    assert part(found) == (2, 3)
    assert metrics.surer_right([True], [True], [None], [-1.0], HOW)["share"] is None


def test_a_mean_of_nothing_is_null() -> None:
    assert metrics.mean([], HOW) == {"mean": None, "low": None, "high": None, "count": 0}
    assert metrics.mean([-1.0, -3.0], HOW)["mean"] == -2.0


def sure(**values: float | None) -> dict[str, Any]:
    return {
        role: {"mean": value, "sum": None if value is None else 2 * value, "tokens": 2}
        for role, value in values.items()
    }


def test_conditions_put_together_worked_by_hand() -> None:
    shown = {"original": (Context("", "Ada"),), "substituted": (Context("", "Mary"),)}
    items = [item(id=str(number), conditions=shown) for number in range(3)]
    items.append(item(id="3", conditions={"original": shown["original"]}))
    told = [
        {"closed_book": "Ada", "original": "Ada", "substituted": "Mary"},
        {"closed_book": "Ada", "original": "Mary", "substituted": "Ada"},
        {"closed_book": "x", "original": "Ada", "substituted": "unknown"},
        {"closed_book": "x", "original": "x"},
    ]
    judged = {
        one.id: {name: judge(one, name, text, SUBSTRING, PHRASES) for name, text in said.items()}
        for one, said in zip(items, told, strict=True)
    }
    scored = {
        "0": {"closed_book": sure(answer=-0.1), "substituted": sure(answer=-0.2, original=-1.0, counter=-0.5)},
        "1": {"closed_book": sure(answer=-0.1), "substituted": sure(answer=-0.4, original=-2.0, counter=None)},
        "2": {},
        "3": {},
    }
    found = conflict_metrics(items, judged, scored, HOW)
    assert base_condition(items) == found["quadrants_of"] == "original"
    assert {name: one["count"] for name, one in found["quadrants"].items()} == {
        "both": 1, "memory": 1, "context": 1, "neither": 1,
    }  # fmt: skip
    other = found["conditions"]["substituted"]
    assert (other["items"], other["supports"], part(other["right"])) == (3, "counter", (1, 3))
    # Inside the quadrants of closed-book and original: only the question that memory alone had right.
    assert {name: part(one) for name, one in other["right_inside"].items()} == {
        "both": (0, 1), "memory": (1, 1), "context": (0, 1), "neither": (0, 0),
    }  # fmt: skip
    assert part(other["memorisation_ratio"]["all"]) == part(other["memorisation_ratio"]["known"]) == (1, 2)
    assert part(other["abstains"]["neither"]) == (1, 1)
    assert (part(other["clash"]["context_bias"]), part(other["clash"]["prior_bias"])) == ((1, 2), (0, 0))
    # Over both conditions: the passages are right in four, wrong in three.
    assert (part(found["clash"]["context_bias"]), part(found["clash"]["prior_bias"])) == ((1, 2), (1, 2))
    confidence = other["confidence"]
    assert (confidence["mean"]["original"]["mean"], confidence["sum"]["original"]["mean"]) == (-1.5, -3.0)
    assert (confidence["counter_minus_original"]["mean"], confidence["counter_minus_original"]["count"]) == (0.5, 1)
    assert confidence["mean"]["gold"]["mean"] is None
    assert confidence["answer_by_quadrant"]["memory"]["mean"] == -0.4
    assert part(confidence["surer_answer_right"]) == (2, 2)
    assert found["closed_book"]["confidence"]["mean"]["answer"]["count"] == 2


def test_without_scores_there_is_no_confidence() -> None:
    one = item(conditions={"original": (Context("", "Ada"),)})
    judged = {"q": {name: judge(one, name, "Ada", SUBSTRING, PHRASES) for name in ("closed_book", "original")}}
    assert conflict_metrics([one], judged, {}, HOW)["conditions"]["original"]["confidence"] is None
