"""Batches of texts of like length: arithmetic, no model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]


def ignore(count: int) -> None:
    """Take no note of progress."""


def token_batches(lengths_N: Int64, batch_tokens: int) -> list[Int64]:
    """Group texts of like length so that no batch exceeds a budget of tokens, padding included.

    The groups depend on the lengths alone, so a block that is embedded again gives the same bytes.

    Args:
        lengths_N: [N] tokens of each text.
        batch_tokens: The budget: texts times longest text. A text longer than that is a batch of its own.

    Returns:
        Positions of texts, batch by batch, longest first: memory runs out at once or never.
    """
    order = np.argsort(-lengths_N, kind="stable").astype(np.int64)
    batches, start = [], 0
    while start < len(order):
        longest = max(int(lengths_N[order[start]]), 1)
        stop = start + max(batch_tokens // longest, 1)
        batches.append(order[start:stop])
        start = stop
    return batches
