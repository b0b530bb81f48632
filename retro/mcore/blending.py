"""Which corpus the next sample comes from: megatron-core's own blending, which keeps every prefix near the weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from megatron.core.datasets import helpers_cpp
from numpy.typing import NDArray


def blend(weights: Sequence[float], samples: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw `samples` samples from corpora by weight.

    Args:
        weights: One positive weight for each corpus; they sum to 1.
        samples: How many samples.

    Returns:
        [samples] corpus of each sample, and [samples] the sample's running number within its corpus. A longer draw
        begins with a shorter one.
    """
    corpus = np.zeros(samples, dtype=np.int16)
    number = np.zeros(samples, dtype=np.int64)
    helpers_cpp.build_blending_indices(
        corpus, number, np.asarray(weights, dtype=np.float64), len(weights), samples, False
    )
    return corpus.astype(np.int64), number
