"""Means with bootstrap intervals, shares with Wilson's, and paired tests of two sets of results on the same items."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

# Dims in this file.
#   N questions   T resamples


# Resampled values held at once; 16 MB.
_VALUES_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class Estimate:
    """A mean over questions with its bootstrap interval."""

    mean: float
    low: float
    high: float
    count: int


def estimate(values: Sequence[float], *, samples: int, confidence: float, seed: int) -> Estimate:
    """Mean and percentile bootstrap interval of `values`.

    Resampling draws whole questions, so for two settings over the same questions give the differences per
    question: the interval is then that of the paired difference.

    Args:
        values: [N] one per question, at least one.
        samples: Resamples, T.
        confidence: Share of the resampled means inside the interval.
        seed: The same seed and values give the same interval.
    """
    return estimate_ratio(values, [1.0] * len(values), samples=samples, confidence=confidence, seed=seed)


def estimate_ratio(
    totals: Sequence[float], weights: Sequence[float], *, samples: int, confidence: float, seed: int
) -> Estimate:
    """Mean of what is summed in parts of unequal weight, such as losses of documents, and its bootstrap interval.

    Resampling draws whole parts: tokens of one document are not independent draws.

    Args:
        totals: [N] sum of each part, at least one.
        weights: [N] how much went into each, such as tokens.
        samples: Resamples, T.
        confidence: Share of the resampled means inside the interval.
        seed: The same seed and values give the same interval.
    """
    totals_N, weights_N = (np.asarray(one, dtype=np.float64) for one in (totals, weights))
    means_T = _resampled_means(totals_N, weights_N, samples, np.random.default_rng(seed))
    tail = (1 - confidence) / 2
    low, high = np.quantile(means_T, [tail, 1 - tail]).tolist()
    return Estimate(float(totals_N.sum() / weights_N.sum()), low, high, len(totals_N))


def _resampled_means(
    totals_N: NDArray[np.float64], weights_N: NDArray[np.float64], samples: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    rows = max(1, _VALUES_AT_ONCE // len(totals_N))
    means = []
    for start in range(0, samples, rows):
        drawn = generator.integers(0, len(totals_N), (min(rows, samples - start), len(totals_N)))
        means.append(totals_N[drawn].sum(axis=1) / weights_N[drawn].sum(axis=1))
    return np.concatenate(means)


def wilson(count: int, of: int, confidence: float) -> tuple[float, float]:
    """Interval of a share, `count` of `of`, by Wilson (1927): within 0 and 1, and of use for few items.

    Args:
        count: Items that count, 0 to `of`.
        of: All items, at least one.
        confidence: Share of such intervals that hold the true share, between 0 and 1.

    Raises:
        ValueError: There is no item, or more are counted than there are.
    """
    if not 0 <= count <= of or of == 0:
        raise ValueError(f"an interval of {count} of {of} items; there is at least one, and no more are counted")
    share, z = count / of, NormalDist().inv_cdf((1 + confidence) / 2)
    middle = share + z * z / (2 * of)
    margin = z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    whole = 1 + z * z / of
    # At the ends the margin is the distance to 0 or 1, but for rounding.
    low = 0.0 if count == 0 else (middle - margin) / whole
    return low, 1.0 if count == of else (middle + margin) / whole


# Dims in this file.
#   N questions   D draws of signs


# From here on an answer counts as right, whatever the metric.
RIGHT = 0.5
SIGN_DRAWS = 10_000


@dataclass(frozen=True)
class Counts:
    """How many questions each of two got right."""

    both: int
    only_a: int
    only_b: int
    neither: int


def count_right(a: Sequence[float], b: Sequence[float]) -> Counts:
    """Right and wrong answers of two, question by question.

    Args:
        a: [N] values of one.
        b: [N] values of the other, to the same questions.
    """
    pairs = [(one >= RIGHT, other >= RIGHT) for one, other in zip(a, b, strict=True)]
    return Counts(*(pairs.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False))))


def mcnemar(only_a: int, only_b: int) -> float:
    """The exact two-sided p-value of McNemar's test (1947).

    If the two were equally good, each question that only one got right would be as likely to be the one's as the
    other's: how often would a fair coin, thrown for each, fall at least as unevenly?
    """
    thrown = only_a + only_b
    tail = sum(math.comb(thrown, heads) for heads in range(min(only_a, only_b) + 1))
    return float(min(Fraction(1), Fraction(2 * tail, 2**thrown)))


def sign_flips(differences: Sequence[float], seed: int, draws: int = SIGN_DRAWS) -> float:
    """The two-sided p-value of a permutation test of paired differences, for metrics with values between 0 and 1.

    If the two were equally good, each difference could as well have the other sign: in what share of random choices of
    signs is the mean at least as far from 0? The signs as they are count as one draw, so that it is never 0.

    Args:
        differences: [N] one for each question.
        seed: Of the signs.
        draws: D.
    """
    differences_N = np.asarray(differences, dtype=np.float64)
    # Sums in another order differ in their last digits.
    found = abs(differences_N.sum()) - 1e-9
    generator, rows = np.random.default_rng(seed), max(1, _VALUES_AT_ONCE // max(1, len(differences_N)))
    extreme = 0
    for start in range(0, draws, rows):
        signs = generator.integers(0, 2, (min(rows, draws - start), len(differences_N))) * 2 - 1
        extreme += int((np.abs(signs @ differences_N) >= found).sum())
    return (extreme + 1) / (draws + 1)


def p_value(a: Sequence[float], b: Sequence[float], seed: int) -> tuple[str, float]:
    """Name and p-value of the test that fits: McNemar's where answers are right or wrong, else of signs."""
    if set(a) | set(b) <= {0.0, 1.0}:
        counts = count_right(a, b)
        return "mcnemar", mcnemar(counts.only_a, counts.only_b)
    return "sign_flips", sign_flips([one - other for one, other in zip(a, b, strict=True)], seed)
