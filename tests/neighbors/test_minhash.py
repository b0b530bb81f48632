from __future__ import annotations

import numpy as np
import pytest

from retro.neighbors.dedup import VALUES, signatures, similarity


def jaccard(one: list[int], other: list[int], shingle: int) -> float:
    sets = [{tuple(row[at : at + shingle]) for at in range(len(row) - shingle + 1)} for row in (one, other)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_equal_chunks_are_wholly_similar_and_different_ones_not_at_all() -> None:
    chunk, other = np.arange(64, dtype=np.int32)[None], np.arange(100, 164, dtype=np.int32)[None]
    assert similarity(signatures(chunk, 5), signatures(chunk, 5)).tolist() == [1.0]
    assert similarity(signatures(chunk, 5), signatures(other, 5)).tolist() == [0.0]


def test_the_estimate_follows_the_true_similarity_within_its_error() -> None:
    # Chunks that share their first n tokens: shingles n - 4 of 2 * 60 - (n - 4).
    start = np.arange(64, dtype=np.int32)
    for shared in range(8, 64, 8):
        other = np.where(np.arange(64) < shared, start, start + 1000).astype(np.int32)
        truth = jaccard(start.tolist(), other.tolist(), 5)
        found = similarity(signatures(start[None], 5), signatures(other[None], 5))[0]
        assert abs(found - truth) < 4 * np.sqrt(truth * (1 - truth) / VALUES) + 0.01


def test_estimates_are_right_on_average() -> None:
    random = np.random.default_rng(0)
    one = random.integers(1000, size=(400, 64), dtype=np.int32)
    other = one.copy()
    other[:, 40:] = random.integers(1000, 2000, size=(400, 24))
    found = similarity(signatures(one, 5), signatures(other, 5))
    # 36 shingles stay, 24 are new on each side; the mean of 400 has a 20th of the error of one.
    assert found.mean() == pytest.approx(36 / 84, abs=4 * 0.044 / 20)


def test_the_order_of_tokens_matters_but_not_where_they_stand() -> None:
    chunk = np.arange(64, dtype=np.int32)[None]
    assert similarity(signatures(chunk, 2), signatures(chunk[:, ::-1], 2)).tolist() == [0.0]
    turned = np.roll(chunk, 1, axis=1)
    assert similarity(signatures(chunk, 2), signatures(turned, 2))[0] > 0.9


def test_shingles_with_a_missing_token_are_none() -> None:
    whole, cut = np.arange(8, dtype=np.int32)[None], np.array([[0, 1, 2, 3, -1, -1, -1, -1]], dtype=np.int32)
    short = np.array([[0, 1, 2, 3]], dtype=np.int32)
    assert similarity(signatures(cut, 3), signatures(short, 3)).tolist() == [1.0]
    assert 0 < similarity(signatures(cut, 3), signatures(whole, 3))[0] < 1


def test_chunks_without_a_shingle_are_similar_to_nothing() -> None:
    nothing = np.array([[1, 2, -1, -1]], dtype=np.int32)
    assert similarity(signatures(nothing, 3), signatures(nothing, 3)).tolist() == [0.0]
    assert similarity(signatures(nothing, 9), signatures(nothing, 9)).tolist() == [0.0]


def test_a_shingle_has_tokens() -> None:
    with pytest.raises(ValueError, match="needs tokens, got 0"):
        signatures(np.zeros((1, 4), dtype=np.int32), 0)
