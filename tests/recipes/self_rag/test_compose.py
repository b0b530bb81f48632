"""From the critic's verdicts to a training sample: every branch, and the order in which passages are taken."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from retro.qa.question import Context
from retro.recipes.self_rag.compose import (
    Composed,
    JudgedItem,
    JudgedPassage,
    JudgedSentence,
    compose,
    normalized_output,
    normalized_utility,
    pick,
)
from retro.recipes.self_rag.config import DataConfig
from retro.recipes.self_rag.tokens import (
    CONTINUE,
    FULLY,
    IRRELEVANT,
    NO_RETRIEVAL,
    PARTIALLY,
    RELEVANT,
    RETRIEVAL,
    UNSUPPORTED,
)


def judged(text: str, support: str) -> JudgedPassage:
    relevance = IRRELEVANT if support == IRRELEVANT else RELEVANT
    return JudgedPassage(passage=Context("t", text), relevance=relevance, support=support)


def made(*sentences: JudgedSentence, seed: int = 0, dataset: str = "wow", **settings: Any) -> Composed:
    item = JudgedItem(dataset=dataset, output="out", retrieves=True, utility="[Utility:4]", sentences=sentences)
    return compose(item, DataConfig(**settings), np.random.default_rng(seed))


def searched(*passages: JudgedPassage, text: str = "One.") -> JudgedSentence:
    return JudgedSentence(text=text, decision=RETRIEVAL, passages=passages)


def test_an_answer_without_retrieval_is_kept_by_chance() -> None:
    item = JudgedItem(dataset="wow", output="Hello.", retrieves=False, utility="[Utility:5]")
    found = [compose(item, DataConfig(), np.random.default_rng(seed)) for seed in range(400)]
    kept = [one for one in found if one.dropped is None]
    assert {one.output for one in kept} == {"[No Retrieval]Hello.[Utility:5]"}
    assert {one.dropped for one in found} == {None, "no_retrieval_thinned"}
    assert 0.34 < len(kept) / len(found) < 0.46
    always = compose(item, DataConfig(keep_no_retrieval=1.0), np.random.default_rng(0))
    assert always.branches == ["no_retrieval"]


def test_sentences_follow_each_other_with_their_tokens() -> None:
    found = made(
        searched(judged("a", FULLY)),
        JudgedSentence(text="Two.", decision=CONTINUE),
        JudgedSentence(text="Three.", decision=NO_RETRIEVAL),
        searched(judged("b", IRRELEVANT), text="Four."),
        searched(text="Five."),
    )
    assert found.output == (
        "[Retrieval]<paragraph>t\na</paragraph>[Relevant]One.[Fully supported][Continue to Use Evidence]Two."
        "[No Retrieval]Three.[Retrieval]<paragraph>t\nb</paragraph>[Irrelevant]Four.[No Retrieval]Five.[Utility:4]"
    )
    assert found.branches == ["fully", "continue", "none", "irrelevant", "not_found"]
    assert [one.text for one in found.segments if not one.learn] == ["t\na", "t\nb"]


def test_an_output_that_would_begin_with_evidence_is_dropped() -> None:
    assert made(JudgedSentence(text="One.", decision=CONTINUE)).dropped == "begins_with_continue"


def picked(passages: list[JudgedPassage], seed: int = 0, dataset: str = "wow", **settings: Any) -> tuple[str, str]:
    found = pick(passages, dataset, DataConfig(**settings), np.random.default_rng(seed))
    assert found is not None
    return found[0].passage.text, found[1]


def test_the_first_fully_supporting_passage_is_taken() -> None:
    passages = [judged("i", IRRELEVANT), judged("p", PARTIALLY), judged("f", FULLY), judged("g", FULLY)]
    assert {picked(passages, seed) for seed in range(20)} == {("f", "fully")}


def test_the_others_are_taken_by_chance_in_their_order() -> None:
    passages = [judged("i", IRRELEVANT), judged("u", UNSUPPORTED), judged("p", PARTIALLY)]
    count = Counter(picked(passages, seed) for seed in range(2000))
    # 0.7; of the rest 0.25; of that rest all.
    assert count["p", "partially"] / 2000 == pytest.approx(0.7, abs=0.04)
    assert count["u", "unsupported"] / 2000 == pytest.approx(0.3 * 0.25, abs=0.03)
    assert count["i", "irrelevant"] / 2000 == pytest.approx(0.3 * 0.75, abs=0.04)


def test_what_chance_passed_over_is_taken_where_there_is_nothing_else() -> None:
    settings: dict[str, Any] = {"keep_partial": 0.0, "keep_unsupported": 0.0}
    assert picked([judged("u", UNSUPPORTED), judged("p", PARTIALLY)], **settings) == ("p", "partially")
    assert picked([judged("u", UNSUPPORTED)], **settings) == ("u", "unsupported")
    assert pick([], "wow", DataConfig(), np.random.default_rng(0)) is None


def test_a_forced_irrelevant_passage_is_an_irrelevant_one() -> None:
    # Many relevant ones around few irrelevant: a number drawn in place of an element would hit those.
    passages = [judged(f"f{place}", FULLY) for place in range(8)] + [judged("i", IRRELEVANT), judged("j", IRRELEVANT)]
    forced = {picked(passages, seed, "nq", irrelevant_share=1.0) for seed in range(50)}
    assert forced == {("i", "forced_irrelevant"), ("j", "forced_irrelevant")}
    assert picked(passages, dataset="wow", irrelevant_share=1.0) == ("f0", "fully")
    assert picked(passages[:8], dataset="nq", irrelevant_share=1.0) == ("f0", "fully")


@pytest.mark.parametrize(
    ("dataset", "output", "said"),
    [
        ("fever", "SUPPORTS", "true"),
        ("fever", "refutes", "false"),
        ("wow", "SUPPORTS", "SUPPORTS"),
        ("fever", " x ", "x"),
    ],
)
def test_verdicts_of_fever_become_true_and_false(dataset: str, output: str, said: str) -> None:
    assert normalized_output(dataset, output) == said


def test_a_bare_true_or_false_is_of_use() -> None:
    assert normalized_utility("true", "[Utility:1]") == "[Utility:5]"
    assert normalized_utility("true", "[Utility:2]") == "[Utility:2]"
    assert normalized_utility("maybe", "[Utility:1]") == "[Utility:1]"
