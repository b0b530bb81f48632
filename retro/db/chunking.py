"""Where chunks and passages are in documents: arithmetic on arrays, no files."""

# Dims in this file. D documents   N chunks   M tokens in a chunk

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]


class Chunks(NamedTuple):
    """Chunks in order of document and position; each array is [N]."""

    document: Int64
    """Which of the given documents the chunk belongs to."""
    start: Int64
    """Its first token, counted from the document's first."""
    tokens: Int64
    """Its tokens, 1 to M; only the last chunk of a document has fewer than M."""
    continues: NDArray[np.bool_]
    """Whether the next chunk belongs to the same document."""


def cut_documents(tokens_D: Int64, chunk_length: int) -> Chunks:
    """Cut documents into consecutive chunks that never cross a document's end (arXiv:2112.04426, section 2.1).

    A short tail is kept as a short chunk. A document without tokens gives no chunk.

    Args:
        tokens_D: [documents] tokens of each document.
        chunk_length: M, at least 1.

    Raises:
        ValueError: `chunk_length` is not positive, or a document has a negative number of tokens.
    """
    if chunk_length < 1 or (tokens_D < 0).any():
        raise ValueError(
            f"cannot cut documents of {tokens_D.min(initial=0)} tokens or more into chunks of {chunk_length}"
        )
    chunks_D = -(-tokens_D // chunk_length)
    document_N = np.repeat(np.arange(len(tokens_D), dtype=np.int64), chunks_D)
    first_D = np.cumsum(chunks_D) - chunks_D
    position_N = np.arange(len(document_N), dtype=np.int64) - first_D[document_N]
    start_N = position_N * chunk_length
    tokens_N = np.minimum(tokens_D[document_N] - start_N, chunk_length)
    continues_N = position_N + 1 < chunks_D[document_N]
    return Chunks(document_N, start_N, tokens_N, continues_N)


def cut_windows(tokens_D: Int64, window: int, step: int) -> Chunks:
    """Cut documents into passages that begin every `step` tokens; the last one of a document ends where that does.

    Args:
        tokens_D: [documents] tokens of each document.
        window: Tokens of a passage, at least 1; a document's last one may have fewer.
        step: Tokens between the beginnings of two, 1 to `window`. No passage continues another.

    Raises:
        ValueError: `step` is not in that range.
    """
    if not 1 <= step <= window:
        raise ValueError(f"windows of {window} tokens cannot begin every {step}")
    windows_D = np.where(tokens_D > 0, 1 + -(-np.maximum(tokens_D - window, 0) // step), 0)
    document_N = np.repeat(np.arange(len(tokens_D), dtype=np.int64), windows_D)
    first_D = np.cumsum(windows_D) - windows_D
    start_N = (np.arange(len(document_N), dtype=np.int64) - first_D[document_N]) * step
    tokens_N = np.minimum(tokens_D[document_N] - start_N, window)
    return Chunks(document_N, start_N, tokens_N, np.zeros(len(document_N), dtype=np.bool_))


def tokens_without_end_mark(tokens: NDArray[np.integer], starts: Int64, eod: int) -> Int64:
    """Tokens of each document, its trailing end-of-document token left out.

    Args:
        tokens: 1-D, the token file.
        starts: [D + 1] where documents start in it; the last entry is where the last one ends.
        eod: The end-of-document token. At most one is left out; a document that lacks it keeps all its tokens.

    Returns:
        [D] tokens, 0 for an empty document.
    """
    lengths_D = np.diff(starts)
    last_D = np.maximum(starts[1:] - 1, 0)
    if not len(tokens):
        return lengths_D
    marked_D = (lengths_D > 0) & (np.asarray(tokens[last_D]) == eod)
    kept_D: Int64 = lengths_D - marked_D
    return kept_D
