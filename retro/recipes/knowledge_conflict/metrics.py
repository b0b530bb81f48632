"""Metrics of knowledge conflict: pure functions of judged answers, worked by hand in their tests.

Every share has its two numbers and Wilson's interval, every mean its count and bootstrap interval; of nothing both are
null. Where one of the numbers that a metric needs is not known of a question, the question is not in its denominator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from retro.common.statistics import estimate
from retro.recipes.knowledge_conflict.judgement import Judgement
from retro.recipes.knowledge_conflict.quadrants import QUADRANTS, Quadrant, quadrant_shares, quadrants, share, share_of

MaybeBool = bool | None


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """How intervals are made."""

    confidence: float = 0.95
    samples: int = 2_000
    """Resamples of a bootstrap."""
    seed: int = 1234


def known_share(values: Sequence[MaybeBool], intervals: Intervals) -> dict[str, Any]:
    """Share of those that are true among those that are known."""
    return share([one for one in values if one is not None], intervals.confidence)


def mean(values: Sequence[float], intervals: Intervals) -> dict[str, Any]:
    """Mean with its bootstrap interval; nulls where there is no value."""
    if not values:
        return {"mean": None, "low": None, "high": None, "count": 0}
    found = estimate(values, samples=intervals.samples, confidence=intervals.confidence, seed=intervals.seed)
    return {name: round(value, 6) for name, value in asdict(found).items()}


def known_pairs(before: Sequence[MaybeBool], after: Sequence[MaybeBool]) -> tuple[list[bool], list[bool]]:
    """The pairs of which both are known."""
    pairs = [(one, other) for one, other in zip(before, after, strict=True) if one is not None and other is not None]
    return [one for one, _ in pairs], [other for _, other in pairs]


def quadrant_table(
    memory: Sequence[MaybeBool], context: Sequence[MaybeBool], intervals: Intervals
) -> dict[Quadrant, dict[str, Any]]:
    """The share of questions in each quadrant."""
    return quadrant_shares(quadrants(*known_pairs(memory, context)), intervals.confidence)


def flips(before: Sequence[MaybeBool], after: Sequence[MaybeBool], intervals: Intervals) -> dict[str, Any]:
    """The flip matrix from one set of answers to another.

    Returns:
        `kept_right`, `lost`, `gained`, `kept_wrong`: shares of all pairs; `resistance`: of those that were right, the
        share that stays so; `correction`: of those that were wrong, the share that becomes right.
    """
    found = quadrants(*known_pairs(before, after))
    counts = {name: found.count(name) for name in QUADRANTS}
    names: Mapping[str, Quadrant] = {
        "kept_right": "both",
        "lost": "memory",
        "gained": "context",
        "kept_wrong": "neither",
    }
    shares = {name: share_of(counts[of], len(found), intervals.confidence) for name, of in names.items()}
    was_right, was_wrong = counts["both"] + counts["memory"], counts["context"] + counts["neither"]
    return shares | {
        "resistance": share_of(counts["both"], was_right, intervals.confidence),
        "correction": share_of(counts["context"], was_wrong, intervals.confidence),
    }


def memorisation_ratio(
    original: Sequence[MaybeBool], counter: Sequence[MaybeBool], intervals: Intervals
) -> dict[str, Any]:
    """M_R = p_o / (p_o + p_s): of the answers that have one of the two, the share with the original (Longpre et al.
    2021). Xie et al. (2024) have the same ratio of memory and counter-memory answers.

    Returns:
        The share; and how many answers have both (`both_answers`) or neither (`neither_answer`), which count for no
        side.
    """
    pairs = list(zip(*known_pairs(original, counter), strict=True))
    only_original, only_counter = pairs.count((True, False)), pairs.count((False, True))
    ratio = share_of(only_original, only_original + only_counter, intervals.confidence)
    return ratio | {"both_answers": pairs.count((True, True)), "neither_answer": pairs.count((False, False))}


def clash(
    prior: Sequence[MaybeBool], context: Sequence[MaybeBool], answer: Sequence[MaybeBool], intervals: Intervals
) -> dict[str, Any]:
    """The three rates of ClashEval (Wu et al. 2024, arXiv:2404.10198).

    Args:
        prior: [N] whether the closed-book answer is right.
        context: [N] whether the answer that the passages support is right.
        answer: [N] whether the answer with passages is right.

    Returns:
        `context_bias`: P(wrong | context wrong, prior right); `prior_bias`: P(wrong | context right, prior wrong);
        `one_right`: P(right | exactly one of them right).
    """
    known = [one for one in zip(prior, context, answer, strict=True) if None not in one]
    misled = [not right for before, given, right in known if before and not given]
    stubborn = [not right for before, given, right in known if given and not before]
    one_right = [bool(right) for before, given, right in known if before != given]
    return {
        "context_bias": share(misled, intervals.confidence),
        "prior_bias": share(stubborn, intervals.confidence),
        "one_right": share(one_right, intervals.confidence),
    }


def abstentions(judged: Sequence[Judgement], found: Sequence[Quadrant | None], intervals: Intervals) -> dict[str, Any]:
    """How often an answer says that there is none: of all, with the strict word, and where both memory and context are
    wrong."""
    neither = [one.unknown for one, where in zip(judged, found, strict=True) if where == "neither"]
    return {
        "all": share([one.unknown for one in judged], intervals.confidence),
        "strict": share([one.unknown_strict for one in judged], intervals.confidence),
        "neither": share(neither, intervals.confidence),
    }


def faithful(judged: Sequence[Judgement], supports: str, intervals: Intervals) -> dict[str, Any]:
    """Whether answers say what the passages do (FaithEval, arXiv:2410.03727): the answer that they support; `unknown`
    where they support none; `conflict` where they support both.

    Returns:
        `strict` and `non_strict`. For passages that support one answer, strict is that answer without the other.
    """
    if supports == "nothing":
        strict, loose = [one.unknown_strict for one in judged], [one.unknown for one in judged]
    elif supports == "both":
        strict, loose = [one.conflict_strict for one in judged], [one.conflict for one in judged]
    else:
        sides = [
            (one.original, one.counter) if supports == "original" else (one.counter, one.original) for one in judged
        ]
        known = [(bool(own), bool(other)) for own, other in sides if own is not None]
        strict, loose = [own and not other for own, other in known], [own for own, _ in known]
    return {"strict": share(strict, intervals.confidence), "non_strict": share(loose, intervals.confidence)}


def surer_right(
    memory: Sequence[MaybeBool],
    context: Sequence[MaybeBool],
    memory_confidence: Sequence[float | None],
    context_confidence: Sequence[float | None],
    intervals: Intervals,
) -> dict[str, Any]:
    """Accuracy of the answer, closed-book or with passages, of which the model is surer by the mean log-probability of
    its tokens (ClashEval); the one with passages where it is as sure of both."""
    chosen = [
        one if own > given else other
        for one, other, own, given in zip(memory, context, memory_confidence, context_confidence, strict=True)
        if own is not None and given is not None and one is not None and other is not None
    ]
    return share(chosen, intervals.confidence)
