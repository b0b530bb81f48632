"""Our metrics against second implementations of the official rules, over random texts."""

from __future__ import annotations

import itertools
import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.tasks.drop.utils import get_metrics
from rouge_score import rouge_scorer

from retro.qa.metrics.drop import best_total, drop_em, drop_f1
from retro.qa.metrics.normalize import Rules
from retro.qa.metrics.rouge import own_rouge_l, own_rouge_lsum, own_rouge_n, rouge_l, rouge_lsum, rouge_n
from retro.qa.metrics.words import exact_match, f1, quac_f1
from retro.qa.task import load_task
from tests.evaluate import second_opinion

# Words that share letters, articles inside and beside words, punctuation that joins and parts.
PIECES = (
    "the",
    "a",
    "an",
    "cat",
    "Cat.",
    "cats",
    "the-",
    "no",
    "Yes",
    "noanswer",
    "theatre",
    "U.S.",
    "“a”",
    "_a_",
    "é",
    "3",
)
TEXTS = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=6).map(" ".join),
    st.text(alphabet="aAnthe .,-_'\t\né3", max_size=12),
    st.text(max_size=12),
)
# A gold answer of nothing but punctuation is compared as it is; the script of SQuAD 1.1 lets an empty answer match it.
WORDY = TEXTS.filter(lambda text: bool(second_opinion.words_of(text)))


@given(TEXTS, st.lists(WORDY, min_size=1, max_size=3))
@settings(max_examples=200, deadline=None)
def test_squad_agrees(prediction: str, golds: list[str]) -> None:
    rules = Rules.of(load_task("squad1.1"))
    mine = exact_match(prediction, golds, rules), f1(prediction, golds, rules)
    assert mine == pytest.approx(second_opinion.squad(prediction, golds))


# Gold answers without words too: `the` beside `cat` must not make an empty answer right.
@given(TEXTS, st.lists(TEXTS, max_size=3))
@settings(max_examples=300, deadline=None)
def test_squad_with_unanswerable_questions_agrees(prediction: str, golds: list[str]) -> None:
    task = load_task("squad2.0")
    rules = Rules.of(task)
    written = golds or [task.no_answer[0]]
    mine = exact_match(prediction, written, rules), f1(prediction, written, rules)
    assert mine == pytest.approx(second_opinion.squad2(prediction, golds))


QUAC = st.one_of(TEXTS, st.just("CANNOTANSWER"))


# A prediction without words says nothing in one, that there is no answer in the other: left out.
@given(st.one_of(WORDY, st.just("CANNOTANSWER")), st.lists(QUAC.filter(str.strip), min_size=1, max_size=5))
@settings(max_examples=300, deadline=None)
def test_quac_agrees(prediction: str, golds: list[str]) -> None:
    assert quac_f1(prediction, golds, Rules.of(load_task("quac"))) == pytest.approx(
        second_opinion.quac(prediction, golds)
    )


SPANS = st.lists(st.sampled_from((*PIECES, "and", "4", "4.0", "1,000", "$5", "well-known", ",", ";")), max_size=4).map(
    " ".join
)


@given(st.lists(SPANS, min_size=1, max_size=3), st.lists(SPANS, min_size=1, max_size=4), st.booleans())
@settings(max_examples=300, deadline=None)
def test_drop_agrees_with_the_harness_copy_of_the_official_script(
    said: list[str], gold: list[str], several: bool
) -> None:
    prediction, theirs = (json.dumps(said), said) if several else (" ".join(said), " ".join(said))
    em, overlap = get_metrics(theirs, tuple(gold))
    assert (drop_em(prediction, [gold]), drop_f1(prediction, [gold])) == (em, overlap)


@given(TEXTS, WORDY)
@settings(max_examples=200, deadline=None)
def test_hotpotqa_agrees(prediction: str, gold: str) -> None:
    rules = Rules.of(load_task("hotpotqa"))
    mine = exact_match(prediction, [gold], rules), f1(prediction, [gold], rules)
    assert mine == pytest.approx(second_opinion.hotpotqa(prediction, gold))


# In the manner of HotpotQA's: dates, names with punctuation, numbers, yes and no.
ANSWERS = ("December 19, 1998", "yes", "no", "The Who", "O'Brien", "1,500", "Yes Man", "No. 4", "noanswer", "St. Louis")


def test_answers_of_hotpotqas_kind_score_alike_against_each_other() -> None:
    rules = Rules.of(load_task("hotpotqa"))
    for said, gold in itertools.product(ANSWERS, ANSWERS):
        for prediction in (said, f"{said}, {gold}", f"the {gold.lower()}"):
            mine = exact_match(prediction, [gold], rules), f1(prediction, [gold], rules)
            assert mine == pytest.approx(second_opinion.hotpotqa(prediction, gold))


@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=3))
@settings(max_examples=150, deadline=None)
def test_rouge_l_without_the_rouge_score_package_is_that_of_the_package(prediction: str, golds: list[str]) -> None:
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
    theirs = max(scorer.score(gold, prediction)["rougeL"].fmeasure for gold in golds)
    assert own_rouge_l(prediction, golds) == rouge_l(prediction, golds) == theirs


@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=3), st.sampled_from((1, 2)))
@settings(max_examples=150, deadline=None)
def test_rouge_n_without_the_rouge_score_package_is_that_of_the_package(
    prediction: str, golds: list[str], n: int
) -> None:
    scorer = rouge_scorer.RougeScorer([f"rouge{n}"], use_stemmer=False)
    theirs = max(scorer.score(gold, prediction)[f"rouge{n}"].fmeasure for gold in golds)
    assert own_rouge_n(prediction, golds, n) == rouge_n(prediction, golds, n) == theirs


SENTENCES = st.lists(
    st.sampled_from(("running", "runs", "ran.", "The", "policies", "policy", "news!", "was", "is", "3", "is?", "\n")),
    max_size=14,
).map(" ".join)


@given(SENTENCES, st.lists(SENTENCES, min_size=1, max_size=2))
@settings(max_examples=300, deadline=None)
def test_rouge_lsum_without_the_rouge_score_package_is_that_of_the_package_on_the_same_sentences(
    prediction: str, golds: list[str]
) -> None:
    def lines(text: str) -> str:
        return "\n".join(" ".join(words) for words in plain_sentences(text))

    scorer = rouge_scorer.RougeScorer(["rougeLsum"], use_stemmer=True)
    theirs = max(scorer.score(lines(gold), lines(prediction))["rougeLsum"].fmeasure for gold in golds)
    assert own_rouge_lsum(prediction, golds) == rouge_lsum(prediction, golds) == theirs


@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=3))
@settings(max_examples=150, deadline=None)
def test_rouge_lsum_is_the_same_with_and_without_the_package_whatever_the_text(
    prediction: str, golds: list[str]
) -> None:
    assert own_rouge_lsum(prediction, golds) == rouge_lsum(prediction, golds)


def plain_sentences(text: str) -> list[list[str]]:
    """Sentences by hand: a word that ends in a full stop, a question mark or an exclamation mark ends one."""
    found: list[list[str]] = [[]]
    for word in text.replace("\n", " \n ").split(" "):
        if word == "\n":
            found.append([])
        else:
            found[-1].append(word)
            if word.endswith((".", "!", "?")):
                found.append([])
    return found


@pytest.mark.parametrize("seed", range(40))
def test_spans_are_aligned_as_well_as_trying_all_ways_finds(seed: int) -> None:
    luck = random.Random(seed)
    rows, columns = luck.randint(1, 5), luck.randint(1, 5)
    scores = np.array([[luck.choice([0.0, 0.25, 0.5, 2 / 3, 1.0]) for _ in range(columns)] for _ in range(rows)])
    wide = scores if rows <= columns else scores.T
    ways = itertools.permutations(range(wide.shape[1]), wide.shape[0])
    best = max(sum(wide[row, column] for row, column in enumerate(way)) for way in ways)
    assert best_total(scores) == pytest.approx(best)
