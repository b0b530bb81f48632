from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from retro.common.row_set import RowSet
from retro.db.reader import ChunkDatabase
from retro.index.faiss_index import SearchSettings
from retro.index.recall import RecallSample, recall_samples, without_own
from retro.index.rerank import Hits, map_vectors
from retro.index.vector_index import VectorIndex

SETTINGS = SearchSettings(nprobe=1, ef_search=1, refine_factor=1)
# Rows 1 and 2 are the same; the products with (1, 0) are 0.875, 0.5, 0.5, 0.375, 0.125.
VECTORS = np.array([[0.875, 0.1], [0.5, 0], [0.5, 0], [0.375, 0], [0.125, 0]], dtype=np.float16)


@dataclass(frozen=True)
class Answers(VectorIndex):
    """Gives the same rows to every query."""

    answers: tuple[int, ...] = ()

    def search(self, vectors_QD: NDArray[np.float32], k: int, rows: RowSet, least: int | None = None) -> Hits:
        ids = np.array([self.answers[:k]] * len(vectors_QD), dtype=np.int64)
        return ids, np.zeros(ids.shape, dtype=np.float32)


def answering(*rows: int) -> VectorIndex:
    return Answers(None, SETTINGS, None, rows)


def sample(own: int, least: list[float]) -> RecallSample:
    queries = np.array([[1, 0]], dtype=np.float32)
    return RecallSample(queries, np.array([own]), np.array([least], dtype=np.float32), VECTORS, RowSet.of(range(5)))


@pytest.mark.parametrize(
    ("answers", "k", "found"),
    [
        ((0, 1, 2), 2, 1.0),
        # Row 2 is as near as row 1.
        ((0, 2, 1), 2, 1.0),
        ((2, 1, 0), 2, 1.0),
        ((0, 3, 4), 2, 0.5),
        ((3, 4, 0), 2, 0.0),
        ((-1, -1, -1), 2, 0.0),
        ((0, 3, 4), 1, 1.0),
        # Three of four: 0.875, 0.5, 0.5 and 0.375 are the nearest.
        ((0, 1, 2, 4, 3), 4, 0.75),
    ],
)
def test_recall_is_the_share_of_rows_as_near_as_the_kth_nearest(answers: tuple[int, ...], k: int, found: float) -> None:
    # The query is not a row of the database.
    assert sample(99, [0.875, 0.5, 0.5, 0.375, 0.125]).found_by(answering(*answers), k).mean == found


def test_the_query_itself_is_no_neighbor_of_it() -> None:
    # Row 0 asks: it finds itself, of course, and of its two neighbors one.
    assert sample(0, [0.5, 0.5, 0.375, 0.125, -np.inf]).found_by(answering(0, 1, 3), 2).mean == 0.5


def test_where_there_are_fewer_rows_than_k_all_of_them_are_recall_1() -> None:
    assert sample(0, [0.5, 0.5, 0.375, 0.125, -np.inf]).found_by(answering(0, 1, 2, 3, 4, -1), 5).mean == 1


def test_the_standard_error_is_that_of_the_queries() -> None:
    both = RecallSample(
        np.array([[1, 0], [1, 0]], dtype=np.float32),
        *(np.array([99, 0]), np.array([[0.875, 0.5], [0.5, 0.5]], dtype=np.float32), VECTORS, RowSet.of(range(5))),
    )
    # Row 3 is wrong for both, row 0 right for the first: 0.5 and 0, half a quarter's root apart from 0.25.
    found = both.found_by(answering(3, 0, 4), 2)
    assert found.mean == 0.25
    assert found.standard_error == pytest.approx(0.25 / np.sqrt(2))


def test_the_own_row_is_taken_out_wherever_it_stands() -> None:
    ids = np.array([[7, 1, 2], [1, 7, 2], [1, 2, 3]])
    assert without_own(ids, np.array([7, 7, 7]), 2).tolist() == [[1, 2], [1, 2], [1, 2]]
    assert without_own(np.array([[7, 1]]), np.array([7]), 2).tolist() == [[1, -1]]


@pytest.fixture
def vectors(index_dir: Path) -> NDArray[Any]:
    return map_vectors(index_dir / "embeddings.h5")


def test_what_is_tuned_on_is_not_what_is_reported(db: ChunkDatabase, vectors: NDArray[Any]) -> None:
    samples = recall_samples(db, vectors, 30, seed=3)
    tuning, reported = set(samples.tuning.own_Q.tolist()), set(samples.reported.own_Q.tolist())
    assert len(tuning) == len(reported) == 30
    assert not tuning & reported


def test_queries_are_held_out_chunks_if_there_are_enough(db: ChunkDatabase, vectors: NDArray[Any]) -> None:
    first = db.rows_of(0).stop
    few = recall_samples(db, vectors, 4, seed=3)
    assert few.held_out
    assert min(few.tuning.own_Q.min(), few.reported.own_Q.min()) >= first
    many = recall_samples(db, vectors, db.rows, seed=3)
    assert not many.held_out
    assert len(many.tuning) == len(many.reported) == db.rows // 2
    assert min(many.tuning.own_Q.min(), many.reported.own_Q.min()) < first


def test_the_true_neighbors_are_those_of_the_whole_matrix(db: ChunkDatabase, vectors: NDArray[Any]) -> None:
    drawn = recall_samples(db, vectors, db.rows, seed=3).reported
    products = drawn.queries_QD @ vectors[: db.rows_of(0).stop].astype(np.float32).T
    for query, own in enumerate(drawn.own_Q.tolist()):
        if own < products.shape[1]:
            products[query, own] = -np.inf
    wanted = -np.sort(-products, axis=1)[:, :20]
    assert np.allclose(drawn.least_QK, wanted, atol=1e-5)
