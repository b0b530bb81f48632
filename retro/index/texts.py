"""Texts of chunks, and batches of texts of like length.

Database chunks, queries and passages all pass here: embedding the same tokens in another way (say, straight from
ids) changes one in ten of the two nearest neighbors.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from retro.tokenizers.tokenizer import Tokenizer

# Dims in this file. N chunks   M tokens in a chunk


def texts_of(tokenizer: Tokenizer, tokens_NM: NDArray[np.int32], mask_NM: NDArray[np.bool_]) -> list[str]:
    """Decode chunks, without padding and without end-of-document tokens.

    Args:
        tokenizer: The corpus's tokenizer.
        tokens_NM: [N, M] tokens.
        mask_NM: [N, M] True on real tokens.

    Returns:
        N texts; empty where a chunk has nothing but end-of-document tokens.
    """
    kept_NM = mask_NM & (tokens_NM != tokenizer.eod)
    ends_N = np.cumsum(kept_NM.sum(axis=1))
    if not len(ends_N):
        return []
    rows = np.split(tokens_NM[kept_NM], ends_N[:-1])
    return [text.strip() for text in tokenizer.decode_batch(rows)]


Int64 = NDArray[np.int64]


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
