"""What two runs of tokens share, and where: arithmetic, no files.

A token below zero is not a token: padding, or the end of a document. It equals nothing, not even another one.

`retro.neighbors.text_overlap` gives the same lengths for millions of pairs; here one pair at a time, with places.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Dims in this file. P pairs   M tokens of the first   R tokens of the second


Int32 = NDArray[np.int32]

NO_TOKEN = -1
# So many pairs at a time keep the table's rows in the cache: 2,048 pairs of 64 and 128 tokens take 1.4 MB.
_PAIRS = 2048


def longest_common_substring(first_PM: Int32, second_PR: Int32) -> NDArray[np.int64]:
    """Tokens in the longest run that both have: s of arXiv:2112.04426, section 2.6.

    The textbook table, M R cells a pair, filled for many pairs at once: one step for each token of the first.

    Args:
        first_PM: [P, M] tokens.
        second_PR: [P, R] tokens.

    Returns:
        [P] lengths, 0 to min(M, R).

    Raises:
        ValueError: There are not as many firsts as seconds.
    """
    if first_PM.ndim != 2 or second_PR.ndim != 2 or len(first_PM) != len(second_PR):
        raise ValueError(f"needs pairs of rows, got {first_PM.shape} and {second_PR.shape}")
    lengths_P = np.zeros(len(first_PM), dtype=np.int64)
    for start in range(0, len(first_PM), _PAIRS):
        part = slice(start, start + _PAIRS)
        lengths_P[part] = _longest(np.ascontiguousarray(first_PM[part].T), np.ascontiguousarray(second_PR[part].T))
    return lengths_P


def _longest(first_MP: Int32, second_RP: Int32) -> NDArray[np.unsignedinteger]:
    # Two "no tokens" must differ.
    second_RP = np.where(second_RP < 0, NO_TOKEN - 1, second_RP)
    size = np.min_scalar_type(max(len(first_MP), 1))
    # runs[r + 1]: tokens that end at r and at the current token of the first, in both alike. Row 0 stays 0.
    runs = np.zeros((len(second_RP) + 1, second_RP.shape[1]), dtype=size)
    longest_RP = np.zeros(second_RP.shape, dtype=size)
    grown_RP = np.empty_like(longest_RP)
    for token_P in np.where(first_MP < 0, NO_TOKEN, first_MP):
        np.add(runs[:-1], 1, out=grown_RP, casting="unsafe")
        np.multiply(grown_RP, second_RP == token_P, out=runs[1:])
        np.maximum(longest_RP, runs[1:], out=longest_RP)
    longest_P: NDArray[np.unsignedinteger] = longest_RP.max(axis=0, initial=0)
    return longest_P


def share_of_text(lengths: NDArray[np.int64], chunk_tokens: Int32) -> NDArray[np.float64]:
    """Lengths as shares of their chunks: r(C) = s / m, with m the chunk's tokens of text.

    Ends of documents are not text: a chunk of seven tokens and one end, copied whole, has share 1. A chunk without
    text has share 0.

    Args:
        lengths: [...] lengths.
        chunk_tokens: [..., M] the tokens of each chunk.
    """
    text = (chunk_tokens >= 0).sum(axis=-1)
    shares: NDArray[np.float64] = lengths / np.maximum(text, 1)
    return shares


# Dims in this file. M tokens of the first   R tokens of the second


SHARED_TOKENS = 6
"""Runs of at least so many tokens are marked: about four words, which two texts seldom share by chance."""
PLAIN, SHARED, LONGEST, END = 0, 1, 2, 3
"""How a token is marked: not at all, in a shared run, in the longest one, as the end of a document."""

Int64 = NDArray[np.int64]


class Overlap(NamedTuple):
    """What a chunk shares with a neighbor."""

    longest: int
    """Tokens of the longest run that both have."""
    first_M: Int64
    """[M] marks of the first's tokens."""
    second_R: Int64
    """[R] marks of the second's."""


def overlap(first: Int64, second: Int64) -> Overlap:
    """Mark the longest run of tokens that both have, and all shared runs of `SHARED_TOKENS` or more.

    Of several longest runs the first is marked as longest; a run below `SHARED_TOKENS` is not marked at all.

    Args:
        first: [M] tokens.
        second: [R] tokens.
    """
    runs_MR = common_runs(first, second)
    marks_M, marks_R = np.zeros(len(first), dtype=np.int64), np.zeros(len(second), dtype=np.int64)
    longest = int(runs_MR.max(initial=0))
    # A run that ends at a cell covers as many tokens before it; ends of whole runs only would mark the same.
    for end_first, end_second in np.argwhere(runs_MR >= SHARED_TOKENS):
        length = int(runs_MR[end_first, end_second])
        marks_M[end_first - length + 1 : end_first + 1] = SHARED
        marks_R[end_second - length + 1 : end_second + 1] = SHARED
    if longest >= SHARED_TOKENS:
        end_first, end_second = np.unravel_index(int(runs_MR.argmax()), runs_MR.shape)
        marks_M[end_first - longest + 1 : end_first + 1] = LONGEST
        marks_R[end_second - longest + 1 : end_second + 1] = LONGEST
    return Overlap(longest, marks_M, marks_R)


def common_runs(first: Int64, second: Int64) -> Int64:
    """[M, R] how many tokens that end at both places are alike."""
    runs_MR = np.zeros((len(first), len(second)), dtype=np.int64)
    before = np.zeros(len(second) + 1, dtype=np.int64)
    for place, token in enumerate(first):
        row = np.where(second == token, before[:-1] + 1, 0)
        runs_MR[place] = row
        before[1:] = row
    return runs_MR
