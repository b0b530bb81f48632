"""The one road from tokens to the text that an embedder sees.

Database chunks, queries and passages all pass here: embedding the same tokens by another road (say, straight from
ids) changes one in ten of the two nearest neighbors.
"""

# Dims in this file. N chunks   M tokens in a chunk

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from retro.tokenizers.tokenizer import Tokenizer


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
