"""How many of the true nearest neighbors an approximate index finds."""

# Dims in this file. Q queries   K neighbors   D dimension   N vectors

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from retro.common.row_set import RowSet
from retro.db.reader import ChunkDatabase
from retro.index.embedder import Embedder, require_vectors
from retro.index.embeddings import chunk_texts, sample_rows
from retro.index.faiss_index import exact_hits
from retro.index.rerank import Hits, pair_scores

RECALL_AT = (2, 10, 20)
"""K for which recall is measured: what pretraining uses, what tuning goes by, what neighbor files save."""
TUNED_AT = 10
_EQUAL = 1e-5
"""Scores that differ by less, as a share of the score or of 1, are equal: inner products summed in another order."""

Int64 = NDArray[np.int64]


class SearchableIndex(Protocol):
    """What recall is measured of: an index of Faiss, or a collection of Milvus."""

    def search(self, vectors_QD: NDArray[np.float32], k: int, rows: RowSet) -> Hits:
        """The `k` of `rows` nearest to each query."""


class RecallEstimate(NamedTuple):
    """Recall over some queries."""

    mean: float
    standard_error: float


@dataclass(frozen=True)
class RecallSample:
    """Queries whose true neighbors are known."""

    queries_QD: NDArray[np.float32]
    own_Q: Int64
    """[Q] the query's own row, which is not a neighbor of it."""
    least_QK: NDArray[np.float32]
    """[Q, most of RECALL_AT] the score of the best, second best … true neighbor, -inf where there are no more."""
    vectors_ND: NDArray[Any]
    rows: RowSet
    """Where neighbors may come from."""

    def __len__(self) -> int:
        return len(self.own_Q)

    def found_by(self, index: SearchableIndex, k: int = TUNED_AT) -> RecallEstimate:
        """Recall at `k`: the share of the k nearest that the index gives when asked for k.

        A chunk counts if it is as near as the k-th nearest. By row numbers, one of two chunks with the same text would
        be right and the other wrong.

        Args:
            index: What is measured.
            k: At most the greatest of RECALL_AT.
        """
        if not len(self):
            return RecallEstimate(1.0, 0.0)
        ids_QK, _ = index.search(self.queries_QD, min(k + 1, len(self.rows)), self.rows)
        found_QK = without_own(ids_QK, self.own_Q, k)
        scores_QK = pair_scores(self.vectors_ND, self.queries_QD, found_QK)
        true_QK = self.least_QK[:, :k]
        there_Q = np.isfinite(true_QK).sum(axis=1)
        # The least true score that is a number, or +inf where there is no neighbor at all.
        worst_Q = np.where(np.isfinite(true_QK), true_QK, np.inf).min(axis=1, initial=np.inf)
        slack_Q = _EQUAL * np.maximum(np.abs(np.where(there_Q > 0, worst_Q, 0)), 1)
        hits_Q = ((found_QK >= 0) & (scores_QK >= (worst_Q - slack_Q)[:, None])).sum(axis=1)
        share_Q = np.where(there_Q > 0, hits_Q / np.maximum(there_Q, 1), 1.0)
        return RecallEstimate(float(share_Q.mean()), float(share_Q.std() / np.sqrt(len(share_Q))))


def without_own(ids_QK: Int64, own_Q: Int64, k: int) -> Int64:
    """[Q, at most k] the found rows in their order, less each query's own."""
    last_QK = np.argsort(ids_QK == own_Q[:, None], axis=1, kind="stable")
    ordered_QK = np.take_along_axis(ids_QK, last_QK, axis=1)
    ordered_QK[ordered_QK == own_Q[:, None]] = -1
    return ordered_QK[:, :k]


class RecallSamples(NamedTuple):
    """Two samples without a query in common: nothing is tuned on what is reported."""

    tuning: RecallSample
    reported: RecallSample
    held_out: bool
    """The queries are chunks of valid and test; else of any split, because there are too few of those."""


def recall_samples(
    db: ChunkDatabase, vectors_ND: NDArray[Any], queries: int, seed: int, embedder: Embedder | None = None
) -> RecallSamples:
    """Draw two samples of chunks and find their true neighbors, by reading all vectors once.

    Args:
        db: Whose chunks.
        vectors_ND: All vectors.
        queries: Chunks in each sample, at most; both have equally many.
        seed: Of the draw.
        embedder: Embeds the chunks again as queries, where its queries have other vectors than its passages; None: it
            is one whose queries have the same.
    """
    held_out = range(db.rows_of(0).stop, db.rows)
    enough = len(held_out) >= 2 * queries
    pool = sample_rows(held_out if enough else range(db.rows), 2 * queries, seed)
    drawn_Q = np.random.default_rng([seed, len(pool)]).permutation(pool)[: len(pool) // 2 * 2]
    queries_QD = np.ascontiguousarray(vectors_ND[drawn_Q], dtype=np.float32)
    if embedder is not None and not embedder.symmetric:
        queries_QD = require_vectors(embedder, embedder.embed_queries(chunk_texts(db, drawn_Q)), len(drawn_Q))
    rows, most = db.retrievable, max(RECALL_AT)
    nearest_QK = without_own(exact_hits(vectors_ND, queries_QD, most + 1, rows)[0], drawn_Q, most)
    least_QK = -np.sort(-pair_scores(vectors_ND, queries_QD, nearest_QK), axis=1)
    halves = [
        RecallSample(queries_QD[half], drawn_Q[half], least_QK[half], vectors_ND, rows)
        for half in (slice(0, len(drawn_Q) // 2), slice(len(drawn_Q) // 2, None))
    ]
    return RecallSamples(halves[0], halves[1], enough)
