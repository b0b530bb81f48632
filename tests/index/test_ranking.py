from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retro.index.rerank import TIED_AT_MOST, Float32, Hits, best_hits, pair_scores, search_without_ties

ONE = np.ones((1, 1), dtype=np.float32)


class Listed:
    """An index of one query's scores, that gives equal scores in the order of `order`."""

    def __init__(self, scores: list[float], order: list[int]) -> None:
        self.scores, self.order = np.array(scores, dtype=np.float32), order
        self.depths: list[int] = []

    def __call__(self, queries: Float32, depth: int) -> Hits:
        self.depths.append(depth)
        best = sorted(self.order, key=lambda row: -self.scores[row])[:depth]
        ids = np.array([best + [-1] * (depth - len(best))])
        scores = np.where(ids < 0, -np.inf, self.scores[ids]).astype(np.float32)
        return np.tile(ids, (len(queries), 1)), np.tile(scores, (len(queries), 1))


def test_hits_of_several_searches_are_ordered_by_score_then_row() -> None:
    one = np.array([[4, 9, -1]]), np.array([[0.5, 0.25, -np.inf]], dtype=np.float32)
    other = np.array([[2, 3]]), np.array([[0.75, 0.5]], dtype=np.float32)
    ids, scores = best_hits([one, other], 4)
    assert ids.tolist() == [[2, 3, 4, 9]]
    assert scores.tolist() == [[0.75, 0.5, 0.5, 0.25]]
    assert best_hits([one, other], 9)[0].tolist() == [[2, 3, 4, 9, -1]]


def test_of_equal_scores_at_the_end_of_the_list_the_lowest_rows_are_kept() -> None:
    # Rows 1, 2, 3, 5 and 6 are equal, and the index gives the highest first.
    index = Listed([0.5, 0.25, 0.25, 0.25, 0.0, 0.25, 0.25], [6, 5, 4, 3, 2, 1, 0])
    ids, scores = search_without_ties(index, ONE, 3, 7)
    assert ids.tolist() == [[0, 1, 2]]
    assert scores.tolist() == [[0.5, 0.25, 0.25]]
    assert index.depths == [4, 7]


def test_a_list_that_ends_where_scores_differ_is_asked_for_once() -> None:
    index = Listed([0.5, 0.25, 0.125, 0.0], [0, 1, 2, 3])
    assert search_without_ties(index, ONE, 2, 4)[0].tolist() == [[0, 1]]
    assert index.depths == [3]


def test_every_row_is_asked_for_once_where_as_many_are_wanted() -> None:
    index = Listed([0.25, 0.25], [1, 0])
    assert search_without_ties(index, ONE, 2, 2)[0].tolist() == [[0, 1]]
    assert index.depths == [2]


def test_an_index_that_finds_too_few_pads() -> None:
    ids, scores = search_without_ties(Listed([0.5, 0.25, 0.125], [0, 1]), ONE, 3, 3)
    assert ids.tolist() == [[0, 1, -1]]
    assert scores.tolist() == [[0.5, 0.25, -np.inf]]


def test_more_equals_than_the_limit_end_the_search() -> None:
    index = Listed([0.5] * 5000, list(range(5000)))
    assert search_without_ties(index, ONE, 2, 5000)[0].tolist() == [[0, 1]]
    assert max(index.depths) == TIED_AT_MOST + 2


def test_exact_scores_decide_where_the_index_rounded() -> None:
    # The index has rows 0 and 1 in the wrong order by less than it can be off.
    index = Listed([0.5, 0.5000001, 0.1], [0, 1, 2])
    vectors = np.array([[0.75], [0.5], [0.1]], dtype=np.float32)
    ids, scores = search_without_ties(index, ONE, 1, 3, vectors)
    assert (ids.tolist(), scores.tolist()) == ([[0]], [[0.75]])


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, 40), st.randoms(use_true_random=False))
def test_what_is_kept_is_the_sorted_list_whatever_the_index_does_with_ties(
    scores: list[int], k: int, random: object
) -> None:
    order = list(range(len(scores)))
    random.shuffle(order)  # type: ignore[attr-defined]
    k = min(k, len(scores))
    ids, _ = search_without_ties(Listed([float(score) for score in scores], order), ONE, k, len(scores))
    assert ids[0].tolist() == sorted(range(len(scores)), key=lambda row: (-scores[row], row))[:k]


@pytest.mark.parametrize("batch", [1, 7, 50])
def test_a_pair_has_one_score_in_every_batch(batch: int) -> None:
    generator = np.random.default_rng(3)
    vectors = generator.standard_normal((200, 384)).astype(np.float16)
    queries = generator.standard_normal((50, 384)).astype(np.float32)
    ids = generator.integers(-1, 200, (50, 9))
    whole = pair_scores(vectors, queries, ids)
    parts = [pair_scores(vectors, queries[at : at + batch], ids[at : at + batch]) for at in range(0, 50, batch)]
    assert np.array_equal(np.concatenate(parts), whole)
    one_by_one = [pair_scores(vectors, queries, ids[:, place : place + 1]) for place in range(9)]
    assert np.array_equal(np.concatenate(one_by_one, axis=1), whole)
    assert np.allclose(
        whole[ids >= 0], (queries @ vectors.T.astype(np.float32))[np.nonzero(ids >= 0)[0], ids[ids >= 0]], atol=1e-3
    )
    assert (whole[ids < 0] == -np.inf).all()
