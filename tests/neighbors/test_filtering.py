from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from retro.neighbors.document_map import keep_first, own_document_mask, stream_positions

INF = float("inf")


def test_own_documents_are_marked_wherever_they_rank() -> None:
    # Approximate search need not put the query itself first, so rank 0 gets no special treatment.
    positions = np.array([[3, 7, 8], [8, 1, -1]])
    mask = own_document_mask(positions, np.array([7, 1]), np.array([8, 1]))
    assert mask.tolist() == [[False, True, True], [False, True, False]]


def test_a_stream_knows_where_each_document_stands() -> None:
    assert stream_positions(np.array([4, 0, 2]), 5).tolist() == [1, -1, 2, -1, 0]


def test_the_first_good_candidates_stay_in_order_and_the_rest_is_none() -> None:
    ids = np.array([[5, 6, 7, 8], [5, 6, -1, -1]])
    scores = np.array([[0.9, 0.8, 0.7, 0.6], [0.5, 0.4, -INF, -INF]], dtype=np.float32)
    dropped = np.array([[True, False, False, False], [False, True, False, False]])
    kept = keep_first(ids, scores, dropped, 2)
    assert kept.ids_QK.tolist() == [[6, 7], [5, -1]]
    assert kept.scores_QK.tolist() == np.array([[0.8, 0.7], [0.5, -INF]], dtype=np.float32).tolist()


def test_fewer_candidates_than_wanted_are_padded() -> None:
    kept = keep_first(np.array([[3]]), np.array([[0.5]], dtype=np.float32), np.array([[False]]), 3)
    assert kept.ids_QK.tolist() == [[3, -1, -1]]
    assert kept.scores_QK.tolist() == [[0.5, -INF, -INF]]


@given(st.data())
def test_keeping_is_a_plain_loop(data: st.DataObject) -> None:
    shape = (data.draw(st.integers(0, 5)), data.draw(st.integers(1, 8)))
    saved = data.draw(st.integers(1, 9))
    ids = data.draw(hnp.arrays(np.int64, shape, elements=st.integers(-1, 9)))
    scores = data.draw(hnp.arrays(np.float32, shape, elements=st.floats(-1, 1, width=32)))
    dropped = data.draw(hnp.arrays(np.bool_, shape))
    kept = keep_first(ids, scores, dropped, saved)
    for query in range(shape[0]):
        good = [place for place in range(shape[1]) if ids[query, place] >= 0 and not dropped[query, place]][:saved]
        empty = saved - len(good)
        assert kept.ids_QK[query].tolist() == ids[query, good].tolist() + [-1] * empty
        assert kept.scores_QK[query].tolist() == scores[query, good].tolist() + [-INF] * empty
