from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retro.index.embeddings import token_batches
from retro.index.hashing import (
    IDF_BUCKETS,
    HashingEmbedder,
    WordHashes,
    count_documents,
    features_of,
    normalized,
)

FLAT_IDF = np.ones(IDF_BUCKETS, dtype=np.float32)


def test_features_are_words_and_pairs_with_their_counts() -> None:
    # "a b a" has words a (twice), b, and pairs ab, ba; "A!" has the word a.
    features = features_of(["a b a", "", "A!"], WordHashes())
    assert np.bincount(features.text_P, minlength=3).tolist() == [4, 0, 1]
    assert sorted(features.count_P[features.text_P == 0].tolist()) == [1, 1, 1, 2]
    twice = features.hash_P[(features.text_P == 0) & (features.count_P == 2)]
    assert twice.tolist() == features.hash_P[features.text_P == 2].tolist()


def test_pairs_do_not_reach_from_one_text_to_the_next() -> None:
    hashes = WordHashes()
    assert len(features_of(["a", "b"], hashes).hash_P) == 2


def test_the_order_of_a_pair_matters() -> None:
    embedder = HashingEmbedder(256, FLAT_IDF)
    ab, ba = embedder.embed_passages(["alpha beta", "beta alpha"])
    # Two words in common, one pair each of their own: 2 of 3 features.
    assert float(ab @ ba) == pytest.approx(2 / 3)


def test_a_word_weighs_its_logarithmic_count_times_its_idf() -> None:
    embedder = HashingEmbedder(4096, FLAT_IDF)
    single, double = embedder.embed_passages(["word", "word word"])
    # "word word" has word with weight 1 + log 2, and the pair with weight 1.
    weight = 1 + math.log(2)
    assert float(single @ double) == pytest.approx(weight / math.hypot(weight, 1))


def test_idf_is_lower_for_words_that_more_texts_have() -> None:
    idf = count_documents([["common one", "common two"], ["common three"]])
    hashes = WordHashes()
    common, rare = (int(features_of([word], hashes).hash_P[0]) % IDF_BUCKETS for word in ("common", "two"))
    assert idf[common] == pytest.approx(1)  # log(4 / 4) + 1
    assert idf[rare] == pytest.approx(math.log(4 / 2) + 1)
    assert idf.min() == 1


def test_vectors_have_length_1_and_a_text_without_words_is_zero() -> None:
    vectors = HashingEmbedder(64, FLAT_IDF).embed_passages(["to be or not to be", "--- !!"])
    assert np.linalg.norm(vectors, axis=1).tolist() == pytest.approx([1, 0])
    assert vectors.dtype == np.float32
    assert HashingEmbedder(64, FLAT_IDF).embed_passages([]).shape == (0, 64)


@given(st.lists(st.text(max_size=30), max_size=8))
def test_a_vector_does_not_depend_on_its_neighbors_in_the_batch(texts: list[str]) -> None:
    embedder = HashingEmbedder(32, FLAT_IDF)
    together = embedder.embed_passages(texts)
    alone = [HashingEmbedder(32, FLAT_IDF).embed_passages([text])[0] for text in texts]
    assert np.array_equal(together, np.array(alone, dtype=np.float32).reshape(len(texts), 32))


def test_the_hash_of_a_word_is_the_same_everywhere() -> None:
    # BLAKE2b with 8 bytes of digest, little-endian.
    assert WordHashes().of(["word"]).tolist() == [0x958EC7D727CFA44A]


def test_forgotten_words_hash_the_same_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WordHashes, "_REMEMBERED", 1)
    hashes = WordHashes()
    assert hashes.of(["a", "b"]).tolist() == hashes.of(["a", "b"]).tolist()


def test_identity_names_the_frequencies() -> None:
    other = FLAT_IDF.copy()
    other[0] = 2
    assert HashingEmbedder(8, FLAT_IDF).identity != HashingEmbedder(8, other).identity


def test_zero_rows_stay_zero() -> None:
    assert normalized(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist() == pytest.approx(np.array([[0.6, 0.8], [0, 0]]))


def test_batches_hold_texts_of_like_length_within_the_budget() -> None:
    batches = token_batches(np.array([2, 9, 5, 5, 30, 1]), 10)
    # 30 alone is over the budget; 9; 5 and 5; 2 and 1.
    assert [batch.tolist() for batch in batches] == [[4], [1], [2, 3], [0, 5]]


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 200))
def test_batches_have_every_text_once_and_keep_to_the_budget(lengths: list[int], budget: int) -> None:
    batches = token_batches(np.array(lengths, dtype=np.int64), budget)
    assert sorted(place for batch in batches for place in batch.tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[place] for place in batch.tolist()) <= budget
