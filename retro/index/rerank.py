"""Re-ranking of candidates by their exact vectors.

Copies of one text have one vector, so equal scores are common, and Faiss takes which it pleases of those that stand at
the end of a list. A matrix product also rounds one pair of vectors differently in another batch. Both would make a
search over parts of an index differ from one over the whole, so lists are cut only where scores differ, and exact
scores are computed pair by pair.

Codes of one bit per value find the right neighborhood and mistake the order within it. So more candidates are asked
for than are wanted, their vectors are read through a memory map, and exact inner products decide: what is in
memory is the codes alone.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from retro.common.hdf5 import map_column
from retro.index.embeddings import DATASET

# Dims in this file. N vectors   Q queries   D dimension   C candidates   K neighbors


Float32: TypeAlias = NDArray[np.float32]
Int64: TypeAlias = NDArray[np.int64]
Hits: TypeAlias = tuple[Int64, Float32]
Ask: TypeAlias = Callable[[Float32, int], Hits]
"""Gives so many best rows for each of some queries, best first; -1 and -inf where there are no more."""

TIED_AT_MOST = 1_024
"""How far a list is followed beyond its end to find where equal scores stop. Of more equals than that, which of them
are kept is the index's choice."""
ROUNDING = 1e-5
"""Two scores that differ by less, as a share of the score or of 1, may stand in either order before they are computed
exactly: a sum over 4,096 values in float32 is off by at most some 1e-6."""
_VALUES_AT_ONCE = 1 << 20
"""Values of candidates in memory at once: 4 MB as float32 stay in the cache. With 64 MB, which the system has to hand
out again each time, a candidate cost twice as much."""


def search_without_ties(
    ask: Ask, queries_QD: Float32, k: int, most: int, vectors_ND: NDArray[Any] | None = None
) -> Hits:
    """The `k` best rows for each query, which do not depend on how ties came out of the index.

    Args:
        ask: The index.
        queries_QD: Queries.
        k: At least 1, at most `most`.
        most: Rows that there are.
        vectors_ND: For an exact index, all its vectors: the scores are computed from them again, each on its own.

    Returns:
        ids int64 [Q, k], -1 where the index finds no more; scores float32 [Q, k], -inf there.
    """
    ids_QK = np.full((len(queries_QD), k), -1, dtype=np.int64)
    scores_QK = np.full((len(queries_QD), k), -np.inf, dtype=np.float32)
    open_Q, depth, limit = np.arange(len(queries_QD)), min(k + 1, most), min(k + TIED_AT_MOST, most)
    while len(open_Q):
        ids_QC, found_QC = ask(queries_QD[open_Q], depth)
        scores_QC = found_QC if vectors_ND is None else pair_scores(vectors_ND, queries_QD[open_Q], ids_QC)
        ids_QK[open_Q], scores_QK[open_Q] = best_hits([(ids_QC, scores_QC)], k)
        # Judged by what the index said: it is its list that was cut.
        last_Q, kth_Q = found_QC[:, -1], found_QC[:, k - 1]
        slack_Q = 0 if vectors_ND is None else ROUNDING * np.maximum(np.abs(kth_Q), 1)
        tied_Q = np.isfinite(last_Q) & (last_Q >= kth_Q - slack_Q)
        open_Q = open_Q[tied_Q] if depth < limit else open_Q[:0]
        depth = min(2 * depth, limit)
    return ids_QK, scores_QK


def best_hits(found: Sequence[Hits], k: int) -> Hits:
    """The `k` best hits of several searches, ordered by score and then by row.

    Args:
        found: (ids [Q, any], scores [Q, any]) of each search; -1 and -inf where it found no more.
        k: At most; the result has as many columns as there are hits, if these are fewer.
    """
    ids_QC = np.concatenate([ids for ids, _ in found], axis=1)
    scores_QC = np.concatenate([scores for _, scores in found], axis=1)
    order_QK = np.lexsort((ids_QC, -scores_QC), axis=-1)[:, :k]
    return np.take_along_axis(ids_QC, order_QK, axis=1), np.take_along_axis(scores_QC, order_QK, axis=1)


def pair_scores(vectors_ND: NDArray[Any], queries_QD: Float32, ids_QC: Int64) -> Float32:
    """[Q, C] inner product of each query with each of its candidates, every pair on its own; -inf for the id -1.

    Args:
        vectors_ND: All vectors, of any float type, memory-mapped or not.
        queries_QD: Queries.
        ids_QC: Rows of `vectors_ND`.
    """
    scores_QC = np.full(ids_QC.shape, -np.inf, dtype=np.float32)
    at_once = max(1, _VALUES_AT_ONCE // max(1, ids_QC.shape[1] * vectors_ND.shape[1]))
    for start in range(0, len(ids_QC), at_once):
        part = slice(start, start + at_once)
        vectors_QCD = vectors_ND[np.maximum(ids_QC[part], 0)].astype(np.float32, copy=False)
        # Not a matrix product, whose last bits depend on what else is in the batch.
        scores_QC[part] = np.einsum("qcd,qd->qc", vectors_QCD, queries_QD[part])
    scores_QC[ids_QC < 0] = -np.inf
    return scores_QC


# Dims in this file. N vectors   D dimension   Q queries   C candidates   K neighbors


def map_vectors(path: Path) -> NDArray[Any]:
    """float16 [N, D]: the embeddings kept beside an index, mapped for reads of single rows.

    Raises:
        ArtifactError: They are missing or cut short.
    """
    vectors_ND = map_column(path, DATASET, "Run `retro index` again with index.keep_embeddings=true")
    base: Any = vectors_ND
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap):
        # Read-ahead would fetch some hundred vectors for each one wanted.
        base.madvise(mmap.MADV_RANDOM)
    return vectors_ND


def rerank(vectors_ND: NDArray[Any], queries_QD: Float32, ids_QC: Int64, k: int) -> Hits:
    """The `k` best of each query's candidates by exact inner product, best first; of equal ones, the lower row first.

    Args:
        vectors_ND: All vectors, of any float type.
        queries_QD: Queries.
        ids_QC: Candidates in whatever order; -1 for none.
        k: At most C.

    Returns:
        ids int64 [Q, K], -1 where there are no more; scores float32 [Q, K], -inf there.
    """
    if not 1 <= k <= ids_QC.shape[1]:
        raise ValueError(f"cannot take the best {k} of {ids_QC.shape[1]} candidates")
    return best_hits([(ids_QC, pair_scores(vectors_ND, queries_QD, ids_QC))], k)
