"""Scores of Self-RAG (arXiv:2310.11511, section 3.3), from the probabilities of reflection tokens. Pure arithmetic.

Everything here is a probability, never a log-probability: a ratio of logarithms turns the order around.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from retro.generate.request import ChosenToken
from retro.recipes.self_rag.config import WeightsConfig
from retro.recipes.self_rag.tokens import (
    CONTINUE,
    FULLY,
    IRRELEVANT,
    NO_RETRIEVAL,
    PARTIALLY,
    RELEVANT,
    RETRIEVAL,
    SUPPORT,
    UNSUPPORTED,
    UTILITY,
    Vocabulary,
)

_SUPPORT_WORTH = {FULLY: 1.0, PARTIALLY: 0.5, UNSUPPORTED: 0.0}
_UTILITY_WORTH = dict(zip(UTILITY, (-1.0, -0.5, 0.0, 0.5, 1.0), strict=True))


@dataclass(frozen=True, kw_only=True)
class SegmentScore:
    """How good a piece of an answer is that was written from one passage."""

    relevance: float
    """s_rel: p([Relevant]) among the two."""
    support: float
    """s_sup, 0 to 1; 0 where the model said nothing of it."""
    utility: float
    """s_use, -1 to 1; 0 where the model said nothing of it."""
    sequence: float
    """Mean probability of its tokens: the exponent of the mean log-probability."""
    total: float
    """The weighted sum that pieces are compared by."""


def retrieval_probability(logprobs: Mapping[str, float], *, evidence: bool = False) -> float:
    """p([Retrieval]) / (p([Retrieval]) + p([No Retrieval])).

    Args:
        logprobs: Of the reflection tokens.
        evidence: Whether a passage was read already: then [Continue to Use Evidence] is a third choice.
    """
    return _share(logprobs, {RETRIEVAL: 1.0, NO_RETRIEVAL: 0.0} | ({CONTINUE: 0.0} if evidence else {}))


def relevance(logprobs: Mapping[str, float]) -> float:
    """s_rel = p([Relevant]) / (p([Relevant]) + p([Irrelevant]))."""
    return _share(logprobs, {RELEVANT: 1.0, IRRELEVANT: 0.0})


def support(logprobs: Mapping[str, float]) -> float:
    """s_sup = (p(fully) + p(partially) / 2) / (p(fully) + p(partially) + p(no support))."""
    return _share(logprobs, _SUPPORT_WORTH)


def utility(logprobs: Mapping[str, float]) -> float:
    """s_use: the mean of -1, -1/2, 0, 1/2, 1 over `[Utility:1]` to `[Utility:5]`."""
    return _share(logprobs, _UTILITY_WORTH)


def segment_score(tokens: Sequence[ChosenToken], vocabulary: Vocabulary, weights: WeightsConfig) -> SegmentScore:
    """The score of what was written after a passage.

    Args:
        tokens: At least one; the first one's place is where relevance is judged. Each has the log-probabilities of all
            reflection tokens.
        vocabulary: Names them.
        weights: Of the parts.
    """
    if not tokens:
        raise ValueError("a piece of an answer without tokens has no score")
    supported, useful = (_first(tokens, vocabulary, group) for group in (SUPPORT, UTILITY))
    found = {
        "relevance": relevance(vocabulary.logprobs(tokens[0])),
        "support": 0.0 if supported is None else support(supported),
        "utility": 0.0 if useful is None else utility(useful),
        "sequence": math.exp(sum(one.logprob for one in tokens) / len(tokens)),
    }
    return SegmentScore(**found, total=weighted(weights, **found))


def weighted(weights: WeightsConfig, *, relevance: float, support: float, utility: float, sequence: float) -> float:
    """w_rel s_rel + w_sup s_sup + w_use s_use, and the mean probability where it counts."""
    total = weights.w_rel * relevance
    total += weights.w_sup * support if weights.use_groundness else 0.0
    total += weights.w_use * utility if weights.use_utility else 0.0
    return total + (sequence if weights.use_seqscore else 0.0)


def _first(tokens: Sequence[ChosenToken], vocabulary: Vocabulary, group: Sequence[str]) -> dict[str, float] | None:
    """Log-probabilities at the first place where the model chose a token of a group."""
    return next((vocabulary.logprobs(one) for one in tokens if vocabulary.name(one) in group), None)


def _share(logprobs: Mapping[str, float], worth: Mapping[str, float]) -> float:
    """The mean worth of tokens, by their probabilities among themselves."""
    highest = max(logprobs[name] for name in worth)
    # Relative to the likeliest: all of them may be too small for a float.
    parts = {name: math.exp(logprobs[name] - highest) for name in worth}
    return sum(parts[name] * value for name, value in worth.items()) / sum(parts.values())
