"""Means over questions or documents, and how far they would lie apart with others of the same kind."""

# Dims in this file.
#   N questions   T resamples

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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

    Resampling draws whole parts: tokens of one document are no independent draws.

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
