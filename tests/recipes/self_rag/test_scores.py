"""Scores of Self-RAG, worked by hand."""

from __future__ import annotations

import math

import pytest

from retro.recipes.self_rag import scores
from retro.recipes.self_rag.config import WeightsConfig
from retro.recipes.self_rag.scores import segment_score, weighted
from retro.recipes.self_rag.tokens import (
    CONTINUE,
    FULLY,
    IRRELEVANT,
    NO_RETRIEVAL,
    PARTIALLY,
    RELEVANT,
    RETRIEVAL,
    UNSUPPORTED,
    UTILITY,
)
from tests.recipes.self_rag.fake import VOCABULARY, step


def logs(**chances: float) -> dict[str, float]:
    return {name: math.log(chance) for name, chance in chances.items()}


def test_a_retrieval_that_is_likelier_has_the_larger_ratio() -> None:
    likely = {RETRIEVAL: math.log(0.3), NO_RETRIEVAL: math.log(0.1)}
    rare = {RETRIEVAL: math.log(0.01), NO_RETRIEVAL: math.log(0.39)}
    assert scores.retrieval_probability(likely) == pytest.approx(0.75)
    assert scores.retrieval_probability(rare) == pytest.approx(0.025)
    assert scores.retrieval_probability(likely | {CONTINUE: math.log(0.2)}, evidence=True) == pytest.approx(0.5)


def test_chances_too_small_for_a_float_have_a_ratio_too() -> None:
    assert scores.relevance({RELEVANT: -1000.0, IRRELEVANT: -1000.0 + math.log(3)}) == pytest.approx(0.25)


def test_support_counts_half_where_it_is_partial() -> None:
    found = {FULLY: math.log(0.2), PARTIALLY: math.log(0.1), UNSUPPORTED: math.log(0.2)}
    assert scores.support(found) == pytest.approx((0.2 + 0.05) / 0.5)


def test_utility_goes_from_minus_one_to_one() -> None:
    chances = (0.1, 0.1, 0.2, 0.2, 0.4)
    found = {name: math.log(chance) for name, chance in zip(UTILITY, chances, strict=True)}
    assert scores.utility(found) == pytest.approx(-0.1 - 0.05 + 0 + 0.1 + 0.4)
    sure = dict.fromkeys(UTILITY, -50.0)
    assert scores.utility(sure | {UTILITY[0]: 0.0}) == pytest.approx(-1.0)
    assert scores.utility(sure | {UTILITY[4]: 0.0}) == pytest.approx(1.0)


def test_parts_are_read_where_the_model_says_them_and_relevance_at_the_first_place() -> None:
    tokens = [
        step(RELEVANT, {RELEVANT: 0.6, IRRELEVANT: 0.2}),
        step("a", {"a": 0.5}),
        # Not chosen here, so not judged here.
        step("b", {"b": 0.5, FULLY: 0.4}),
        step(PARTIALLY, {FULLY: 0.3, PARTIALLY: 0.6, UNSUPPORTED: 0.1}),
        step(FULLY, {FULLY: 1.0}),
        step("[Utility:5]", {"[Utility:5]": 0.5, "[Utility:1]": 0.5}),
    ]
    found = segment_score(tokens, VOCABULARY, WeightsConfig())
    assert found.relevance == pytest.approx(0.75)
    assert found.support == pytest.approx(0.6)
    assert found.utility == pytest.approx(0.0, abs=1e-6)
    mean = (0.6 * 0.5 * 0.5 * 0.6 * 1.0 * 0.5) ** (1 / 6)
    assert found.sequence == pytest.approx(mean)
    assert found.total == pytest.approx(0.75 + 0.6 + 0.5 * 0.0 + mean)


def test_what_is_not_said_counts_nothing() -> None:
    found = segment_score([step("a", {"a": 1.0})], VOCABULARY, WeightsConfig())
    assert (found.support, found.utility) == (0.0, 0.0)
    assert found.relevance == pytest.approx(0.5)
    with pytest.raises(ValueError, match="without tokens"):
        segment_score([], VOCABULARY, WeightsConfig())


@pytest.mark.parametrize(
    ("settings", "total"),
    [
        ({}, 0.8 + 0.5 + 0.5 * 0.4 + 0.9),
        ({"use_seqscore": False}, 0.8 + 0.5 + 0.5 * 0.4),
        ({"use_groundness": False}, 0.8 + 0.5 * 0.4 + 0.9),
        ({"use_utility": False}, 0.8 + 0.5 + 0.9),
        ({"w_rel": 0.0, "w_sup": 2.0, "w_use": 1.0, "use_seqscore": False}, 2 * 0.5 + 0.4),
        ({"w_rel": 3.0, "use_groundness": False, "use_utility": False, "use_seqscore": False}, 2.4),
    ],
)
def test_every_weight_and_switch_counts(settings: dict[str, float], total: float) -> None:
    found = weighted(WeightsConfig(**settings), relevance=0.8, support=0.5, utility=0.4, sequence=0.9)
    assert found == pytest.approx(total)
