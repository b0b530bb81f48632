"""Candidates that show the model what it is to predict: copies, near-copies (MinHash, Broder 1997), long overlaps.

similarity of two sets of shingles.

Only the few candidates of each query are compared, so their signatures are made when they are looked at, and compared
one by one. An index over signatures (LSH) would pay only where every chunk is to be compared with every other.

The neighbors of chunk u are seen while the model predicts chunk u + 1 (arXiv:2112.04426, section 2.3). So a candidate,
which brings its continuation, is compared with both: with chunk u, which found it, and with chunk u + 1, which it would
give away.

* exact: the candidate's chunk has the tokens of chunk u or of chunk u + 1, or its continuation those of chunk u + 1;
* near: the same three pairs, by MinHash similarity of their shingles;
* overlap: the longest common token substring of chunk u, or of chunk u + 1, with candidate and continuation together,
  as a share of that chunk.

Query chunks are cut from the packed stream and database chunks from documents, so a copied document rarely is in
step with its copy: exact duplicates find few of the copies and near-duplicates some; the overlap finds a copy at any
shift of up to M tokens, for then one of the two chunks is wholly within candidate and continuation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from retro.corpus.reader import TokenStream
from retro.db.reader import ChunkDatabase
from retro.neighbors.config import FilterConfig
from retro.neighbors.text_overlap import NO_TOKEN, longest_common_substring, share_of_text

# Dims in this file. N chunks   M tokens in a chunk   S shingles of a chunk   V values of a signature


VALUES = 128
"""V. The estimate's standard error is sqrt(J (1 - J) / V): 0.035 at a similarity J of 0.8."""
_ROWS = 1024
_BASE, _ODD = np.uint64(0x9E3779B97F4A7C15), np.uint64(1)


class Signatures(NamedTuple):
    """Signatures of chunks."""

    values_NV: NDArray[np.uint32]
    filled_N: NDArray[np.bool_]
    """Whether the chunk has any shingle."""


def signatures(tokens_NM: NDArray[np.int32], shingle: int) -> Signatures:
    """Signatures of chunks.

    Args:
        tokens_NM: [N, M] tokens; below zero where there is none.
        shingle: Tokens in a shingle; one with a missing token is none.

    Raises:
        ValueError: `shingle` is not positive.
    """
    if shingle < 1:
        raise ValueError(f"a shingle needs tokens, got {shingle}")
    values_NV = np.full((len(tokens_NM), VALUES), np.iinfo(np.uint32).max, dtype=np.uint32)
    filled_N = np.zeros(len(tokens_NM), dtype=np.bool_)
    if tokens_NM.shape[1] < shingle:
        return Signatures(values_NV, filled_N)
    for start in range(0, len(tokens_NM), _ROWS):
        part = slice(start, start + _ROWS)
        hash_NS, real_NS = _shingles(tokens_NM[part], shingle)
        filled_N[part] = real_NS.any(axis=1)
        values_NV[part] = _smallest(hash_NS, real_NS)
    return Signatures(values_NV, filled_N)


def similarity(one: Signatures, other: Signatures) -> NDArray[np.float64]:
    """[N] estimated Jaccard similarities, row by row; 0 where either has no shingle."""
    equal_N = (one.values_NV == other.values_NV).mean(axis=1)
    estimate_N: NDArray[np.float64] = np.where(one.filled_N & other.filled_N, equal_N, 0.0)
    return estimate_N


def _shingles(tokens_NM: NDArray[np.int32], shingle: int) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """[N, S] hash of each shingle, and whether all its tokens are there."""
    count = tokens_NM.shape[1] - shingle + 1
    hash_NS = np.zeros((len(tokens_NM), count), dtype=np.uint64)
    real_NS = np.ones(hash_NS.shape, dtype=np.bool_)
    for place in range(shingle):
        token_NS = tokens_NM[:, place : place + count]
        hash_NS = _mixed(hash_NS * _BASE + token_NS.astype(np.uint64))
        real_NS &= token_NS >= 0
    return hash_NS, real_NS


def _smallest(hash_NS: NDArray[np.uint64], real_NS: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """[N, V] the smallest of a chunk's shingles under each of V hash functions."""
    random = np.random.default_rng(0)
    factor_V = random.integers(2**63, size=VALUES, dtype=np.uint64) * np.uint64(2) + _ODD
    # Multiplied and shifted: the upper half of the product is the well-mixed one.
    values_NV = np.empty((len(hash_NS), VALUES), dtype=np.uint32)
    for place, factor in enumerate(factor_V):
        value_NS = ((hash_NS * factor) >> np.uint64(32)).astype(np.uint32)
        value_NS[~real_NS] = np.iinfo(np.uint32).max
        values_NV[:, place] = value_NS.min(axis=1)
    return values_NV


def _mixed(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Each bit of the result depends on every bit of the value (the finalizer of splitmix64)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


# Dims in this file. Q queries   C candidates   P pairs of query and candidate   M tokens in a chunk   R is 2 M


Int64 = NDArray[np.int64]
Int32 = NDArray[np.int32]
Bool = NDArray[np.bool_]

REASONS = ("own_document", "exact_duplicate", "near_duplicate", "overlap")
"""Why a candidate is dropped, in the order in which they are tried; the first that applies is counted."""
OWN_DOCUMENT, EXACT, NEAR, OVERLAP = range(1, len(REASONS) + 1)
"""The reasons as numbers; 0 is none."""
_PAIRS = 8192


class Pair(NamedTuple):
    """What is compared; tokens below zero are none."""

    query_PR: Int32
    """[P, 2 M] chunk u and chunk u + 1 of the stream."""
    candidate_PR: Int32
    """[P, 2 M] the candidate and its continuation."""


def exact_duplicates(pair: Pair) -> Bool:
    """[P] True where a chunk of the candidate is a chunk of the query, token for token, and has text."""
    chunk = pair.query_PR.shape[1] // 2
    same_P = np.zeros(len(pair.query_PR), dtype=np.bool_)
    for query_PM, candidate_PM in _three_pairs(pair, chunk):
        same_P |= (query_PM == candidate_PM).all(axis=1) & (query_PM >= 0).any(axis=1)
    return same_P


def greatest_overlap(pair: Pair) -> NDArray[np.float64]:
    """[P] the greater share of chunk u and of chunk u + 1 that is in the candidate in one piece."""
    chunk = pair.query_PR.shape[1] // 2
    shares = [
        share_of_text(longest_common_substring(query_PM, pair.candidate_PR), query_PM)
        for query_PM in (pair.query_PR[:, :chunk], pair.query_PR[:, chunk:])
    ]
    return np.maximum(*shares)


def greatest_similarity(query_PR: Int32, candidate_PR: Int32, shingle: int) -> NDArray[np.float64]:
    """[P] the greatest MinHash similarity of the three pairs of chunks."""
    chunk = query_PR.shape[1] // 2
    now, coming = (_distinct_signatures(part, shingle) for part in (query_PR[:, :chunk], query_PR[:, chunk:]))
    found, after = (_distinct_signatures(part, shingle) for part in (candidate_PR[:, :chunk], candidate_PR[:, chunk:]))
    return np.maximum(np.maximum(similarity(now, found), similarity(coming, found)), similarity(coming, after))


def _three_pairs(pair: Pair, chunk: int) -> tuple[tuple[Int32, Int32], ...]:
    now, coming = pair.query_PR[:, :chunk], pair.query_PR[:, chunk:]
    found, after = pair.candidate_PR[:, :chunk], pair.candidate_PR[:, chunk:]
    return (now, found), (coming, found), (coming, after)


def _distinct_signatures(tokens_PM: Int32, shingle: int) -> Signatures:
    """Signatures of chunks of which many are equal: a query is in one pair for each of its candidates."""
    different, place_P = np.unique(tokens_PM, axis=0, return_inverse=True)
    made = signatures(different, shingle)
    return Signatures(made.values_NV[place_P.ravel()], made.filled_N[place_P.ravel()])


@dataclass(frozen=True)
class CopyFilter:
    """The filters that look at tokens, over one stream."""

    db: ChunkDatabase
    stream: TokenStream
    filters: FilterConfig

    def reasons(self, chunk_Q: Int64, ids_QC: Int64, open_QC: Bool, saved: int) -> tuple[NDArray[np.uint8], int]:
        """Which candidates must go, and why. Only so many are looked at as it takes to keep `saved` of them.

        Args:
            chunk_Q: [Q] chunk numbers u of the stream.
            ids_QC: [Q, C] candidates, best first.
            open_QC: [Q, C] True where a candidate is not out already.
            saved: K.

        Returns:
            [Q, C] numbers of reasons, 0 where a candidate may stay or was not looked at; and how many were looked at.
        """
        reason_QC = np.zeros(ids_QC.shape, dtype=np.uint8)
        if not self.filters.compare_tokens:
            return reason_QC, 0
        seen_QC = ~open_QC
        while True:
            alive_QC = open_QC & (reason_QC == 0)
            wanted_QC = alive_QC & ~seen_QC & (np.cumsum(alive_QC, axis=1) <= saved)
            if not wanted_QC.any():
                return reason_QC, int((seen_QC & open_QC).sum())
            query_P, place_P = np.nonzero(wanted_QC)
            reason_QC[query_P, place_P] = self._reasons(chunk_Q[query_P], ids_QC[query_P, place_P])
            seen_QC |= wanted_QC

    def _reasons(self, chunk_P: Int64, row_P: Int64) -> NDArray[np.uint8]:
        parts = [
            self._compare(self.pair(chunk_P[start : start + _PAIRS], row_P[start : start + _PAIRS]))
            for start in range(0, len(chunk_P), _PAIRS)
        ]
        return np.concatenate(parts)

    def pair(self, chunk_P: Int64, row_P: Int64) -> Pair:
        """The tokens of chunks u and u + 1, and of candidates with their continuations."""
        candidate_PR, mask_PR = self.db.neighbor_tokens(row_P)
        return Pair(text_of_chunks(self.stream, chunk_P, 2, self._eod), self._text(candidate_PR, mask_PR))

    @property
    def _eod(self) -> int:
        return self.db.corpus.tokenizer.eod

    def _text(self, tokens: Int32, mask: Bool) -> Int32:
        return np.where(mask & (tokens != self._eod), tokens, np.int32(NO_TOKEN))

    def _compare(self, pair: Pair) -> NDArray[np.uint8]:
        """[P] the first reason that applies; what one reason has dropped the next ones do not look at."""
        reason_P = np.zeros(len(pair.query_PR), dtype=np.uint8)
        if self.filters.exact_duplicates:
            reason_P[exact_duplicates(pair)] = EXACT
        if self.filters.near_duplicates_above < 1:
            left = np.flatnonzero(reason_P == 0)
            found = greatest_similarity(pair.query_PR[left], pair.candidate_PR[left], self.filters.shingle)
            reason_P[left[found > self.filters.near_duplicates_above]] = NEAR
        if self.filters.overlap_above < 1:
            left = np.flatnonzero(reason_P == 0)
            share = greatest_overlap(Pair(pair.query_PR[left], pair.candidate_PR[left]))
            reason_P[left[share > self.filters.overlap_above]] = OVERLAP
        return reason_P


def text_of_chunks(stream: TokenStream, chunk_P: Int64, chunks: int, eod: int) -> Int32:
    """[P, chunks * M] tokens of consecutive chunks from chunk u on; ends of documents and what is beyond the stream
    are not tokens."""
    width = chunks * stream.chunk_length
    different, place_P = np.unique(chunk_P, return_inverse=True)
    tokens_UW = np.full((len(different), width), NO_TOKEN, dtype=np.int32)
    start_U = different * stream.chunk_length
    whole_U = start_U + width <= stream.length
    tokens_UW[whole_U] = stream.tokens(start_U[whole_U], width)
    for place in np.flatnonzero(~whole_U):
        count = stream.length - int(start_U[place])
        tokens_UW[place, :count] = stream.tokens(start_U[place : place + 1], count)[0]
    tokens_UW[tokens_UW == eod] = NO_TOKEN
    tokens_PW: Int32 = tokens_UW[place_P.ravel()]
    return tokens_PW
