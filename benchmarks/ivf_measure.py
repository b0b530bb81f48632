"""What `exact_and_ivf` measures: recall by scores, latency alone and in a batch, and which settings are worth it."""

# Dims in this file. N vectors   D dimension   Q queries   K neighbors

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.results import median
from retro.common.row_set import RowSet
from retro.index.faiss_index import exact_hits
from retro.index.rerank import pair_scores

K = 10
TEN = 10
"""Queries of a batch, as in the original's table."""
_EQUAL = 1e-5
"""Two scores that differ by no more than this share are one: what a sum in another order may change."""
Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
Search = Callable[[Float32], Int64]
"""Gives, for [Q, D] queries, the ids [Q, K] that an index finds; -1 for none."""


def true_scores(vectors_ND: NDArray[Any], queries_QD: Float32) -> Float32:
    """[Q, K] the greatest inner products, descending, by comparing every vector; vectors are read once, in order."""
    k = min(K, len(vectors_ND))
    ids_QK, _ = exact_hits(vectors_ND, queries_QD, k, RowSet.of(range(len(vectors_ND))))
    return -np.sort(-pair_scores(vectors_ND, queries_QD, ids_QK), axis=1)


def recall(vectors_ND: NDArray[Any], queries_QD: Float32, found_QK: Int64, true_QK: Float32) -> float:
    """Share of the K nearest that were found. A vector as near as the K-th counts, whichever of equal ones it is.

    Args:
        vectors_ND: All vectors.
        queries_QD: Queries.
        found_QK: What an index found, each row once; -1 for none.
        true_QK: From `true_scores`.
    """
    scores_QK = pair_scores(vectors_ND, queries_QD, found_QK)
    worst_Q = true_QK[:, -1:]
    hits_QK = scores_QK >= worst_Q - _EQUAL * np.maximum(np.abs(worst_Q), 1)
    return float((hits_QK & (found_QK >= 0)).sum() / true_QK.size)


def latency(search: Search, queries_QD: Float32, clock: Callable[[], float]) -> dict[str, float]:
    """Milliseconds of a search alone: one query, ten one after the other, and ten in one call; medians.

    Args:
        search: The index, filled before.
        queries_QD: A multiple of ten.
        clock: Seconds: `time.process_time` counts little of what others do on the machine, and is right for one thread.
    """
    search(queries_QD[:1])
    alone = [_ms(search, queries_QD[place : place + 1], clock) for place in range(len(queries_QD))]
    tens = [slice(start, start + TEN) for start in range(0, len(queries_QD), TEN)]
    search(queries_QD[:TEN])
    return {
        "one_ms": median(alone),
        "ten_ms": median([sum(alone[ten]) for ten in tens]),
        "ten_batched_ms": median([_ms(search, queries_QD[ten], clock) for ten in tens]),
    }


def _ms(search: Search, queries_QD: Float32, clock: Callable[[], float]) -> float:
    started = clock()
    search(queries_QD)
    return 1000 * (clock() - started)


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Places of the points (milliseconds, recall) that no other beats in both, fastest first.

    Of equal points the first counts.
    """
    front: list[int] = []
    best = -1.0
    for place in sorted(range(len(points)), key=lambda one: (points[one][0], -points[one][1])):
        if points[place][1] > best:
            front.append(place)
            best = points[place][1]
    return front


def probes(lists: int) -> list[int]:
    """How many lists to search: 1, 2, 4 … and all of them."""
    return [*(1 << power for power in range(lists.bit_length()) if 1 << power < lists), lists]


def training_vectors(vectors: int, lists: int, per_list: int) -> int:
    """Vectors of the training sample: `per_list` for each list, or all there are.

    Raises:
        ValueError: That is below Faiss's own rule of 39 for each list, of which a clustering is good.
    """
    if per_list < 39:
        raise ValueError(f"needs at least 39 training vectors for each list, got {per_list}")
    return min(vectors, per_list * lists)
