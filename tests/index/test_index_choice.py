from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

from retro.common.errors import ConfigError
from retro.common.row_set import RowSet
from retro.index import index_choice
from retro.index.config import IndexConfig
from retro.index.faiss_index import SearchSettings, exact_hits, fill_index, search_index
from retro.index.faiss_loader import load_faiss
from retro.index.index_choice import (
    choose_index,
    create_index,
    is_exact,
    is_graph,
    ranks_again,
    searches_rows,
    vectors_needed,
)
from tests.index.vectors import unit_vectors

SETTINGS = SearchSettings(nprobe=16, ef_search=64, refine_factor=4)


@pytest.mark.parametrize(
    ("rows", "train", "wanted"),
    [
        (0, 0, "Flat"),
        (200_000, 190_000, "Flat"),
        # 4 sqrt(1,000,000) lists.
        (1_000_000, 1_000_000, "IVF4000,SQ8"),
        # No more lists than 39 training vectors each allow: 39,000 / 39.
        (1_000_000, 39_000, "IVF1000,SQ8"),
        (1_000_000, 50, "Flat"),
        (10_000_000, 10_000_000, "IVF12648,SQ8"),
        # The square root of 16 million is 4,000; a vector of 384 values is rotated within 384 values.
        (16_000_000, 1_000_000, "RR384,IVF16000_HNSW32,RaBitQ"),
    ],
)
def test_the_index_follows_the_size(rows: int, train: int, wanted: str) -> None:
    assert choose_index(rows, train, 384) == wanted


@pytest.mark.parametrize(
    ("factory", "needed"),
    [
        ("Flat", 0),
        ("HNSW8", 0),
        ("SQ8", 1),
        ("IVF50,Flat", 50),
        ("IVF4,PQ4x6", 64),
        ("OPQ4_16,IVF4,PQ4x4", 256),
        ("PCA8,IVF4,SQ8", 16),
        ("IVF4,PQ4x4,RFlat", 16),
        ("HNSW8_PQ4", 256),
    ],
)
def test_the_largest_codebook_says_how_many_vectors_are_needed(factory: str, needed: int) -> None:
    index = create_index(factory, 16, 100_000)
    assert vectors_needed(load_faiss(), index) == needed
    if needed:
        with pytest.raises(ConfigError, match=f"needs at least {needed} training vectors"):
            create_index(factory, 16, needed - 1)


def test_few_training_vectors_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        create_index("IVF50,Flat", 16, 100)
    assert "100 training vectors for 50 centroids; 1950 would cluster well" in caplog.text


@pytest.mark.parametrize("factory", ["nonsense", "PQ5", "IMI2x4,PQ8"])
def test_a_string_that_faiss_refuses_is_a_setting_that_is_wrong(factory: str) -> None:
    with pytest.raises(ConfigError, match=rf"index\.faiss = '{factory}': needs a Faiss factory string"):
        create_index(factory, 16, 10_000)


@pytest.mark.parametrize("factory", ["PQ4", "NSG16", "OPQ4_16,PQ4"])
def test_an_index_that_cannot_search_some_of_its_rows_is_refused(factory: str) -> None:
    with pytest.raises(ConfigError, match="can search a range of rows"):
        create_index(factory, 16, 10_000)


def test_an_index_that_need_not_search_some_of_its_rows_may_be_of_any_kind() -> None:
    index = create_index("PQ8x4", 16, 10_000, by_rows=False)
    assert not searches_rows(load_faiss(), index)
    assert searches_rows(load_faiss(), create_index("OPQ4,IVF4,PQ4x4", 16, 10_000, by_rows=False))


def test_a_training_that_faiss_refuses_is_a_setting_that_is_wrong() -> None:
    index = create_index("IVF50,Flat", 16, 100)
    with pytest.raises(ConfigError, match=r"cannot be trained .*at least as large as number of clusters"):
        fill_index(index, "IVF50,Flat", unit_vectors(100), np.arange(10), reproducible=True)


@pytest.mark.parametrize(
    "factory",
    [
        *("Flat", "SQ8", "HNSW8", "IVF16,Flat", "IVF16,SQ8", "IVF16_HNSW8,Flat", "PCA8,IVF16,SQ8"),
        *("OPQ4_16,IVF16,PQ4x4", "IVF16,PQ4x4fs,RFlat", "RR16,IVF16,RaBitQ,RFlat", "IVF16,RaBitQ"),
    ],
)
def test_every_kind_of_index_keeps_to_the_range_of_rows(factory: str) -> None:
    vectors = unit_vectors(600)
    index = create_index(factory, 16, 600)
    fill_index(index, factory, vectors.astype(np.float16), np.arange(600), reproducible=True)
    assert index.ntotal == 600
    ids, scores = search_index(index, vectors[:20], 5, RowSet.of(range(100, 400)), SETTINGS)
    assert ids.shape == scores.shape == (20, 5)
    found = ids >= 0
    assert found.any(axis=1).all()
    assert ((ids[found] >= 100) & (ids[found] < 400)).all()
    assert (scores[~found] == -np.inf).all()


def test_exact_search_in_slices_is_the_sorted_matrix_product() -> None:
    vectors, queries = unit_vectors(500), unit_vectors(7, seed=1)
    wanted = np.argsort(-(queries @ vectors[40:300].T), axis=1)[:, :6] + 40
    assert exact_hits(vectors, queries, 6, RowSet.of(range(40, 300)))[0].tolist() == wanted.tolist()
    index = create_index("Flat", 16, 1)
    fill_index(index, "Flat", vectors, np.arange(1), reproducible=True)
    assert search_index(index, queries, 6, RowSet.of(range(40, 300)), SETTINGS)[0].tolist() == wanted.tolist()


def test_exact_search_over_few_rows_pads_with_none() -> None:
    assert exact_hits(unit_vectors(9), unit_vectors(1), 4, RowSet.of(range(3, 5)))[0][0].tolist()[2:] == [-1, -1]


def test_kinds_are_told_apart() -> None:
    faiss = load_faiss()
    graphs = {
        factory: is_graph(faiss, create_index(factory, 16, 10_000)) for factory in ("Flat", "HNSW8", "IVF4_HNSW8,SQ8")
    }
    assert graphs == {"Flat": False, "HNSW8": True, "IVF4_HNSW8,SQ8": True}
    assert is_exact(faiss, create_index("Flat", 16, 1))
    assert not is_exact(faiss, create_index("SQ8", 16, 1))


@pytest.mark.parametrize("factory", ["IVF16,SQ8", "HNSW8", "RR16,IVF16,RaBitQ,RFlat"])
def test_an_index_built_twice_has_the_same_bytes(factory: str) -> None:
    faiss, built = load_faiss(), []
    for _ in range(2):
        index = create_index(factory, 16, 2000)
        fill_index(index, factory, unit_vectors(2000), np.arange(2000), reproducible=True)
        built.append(faiss.serialize_index(index).tobytes())
    assert built[0] == built[1]


@pytest.mark.parametrize(
    ("factory", "auto", "on"),
    [
        ("Flat", False, False),
        ("IVF16,SQ8", False, True),
        ("OPQ4_16,IVF16,PQ4x4", False, True),
        ("RaBitQ", True, True),
        ("RR16,IVF16_HNSW8,RaBitQ", True, True),
        # It ranks its candidates itself, by vectors in memory.
        ("RR16,IVF16,RaBitQ,RFlat", False, True),
    ],
)
def test_candidates_of_bit_codes_are_ranked_again(factory: str, auto: bool, on: bool) -> None:
    faiss, index = load_faiss(), create_index(factory, 16, 10_000)
    given = {refine: ranks_again(faiss, index, IndexConfig(refine=refine), factory) for refine in ("auto", "on", "off")}
    assert given == {"auto": auto, "on": on, "off": False}


def test_ranking_again_needs_the_embeddings() -> None:
    faiss, factory = load_faiss(), "RR16,IVF16,RaBitQ"
    index = create_index(factory, 16, 10_000)
    with pytest.raises(ConfigError, match=rf"keep_embeddings = False: needs to be true for {factory}.* refine = 'off'"):
        ranks_again(faiss, index, IndexConfig(keep_embeddings=False), factory)
    assert not ranks_again(faiss, index, IndexConfig(keep_embeddings=False, refine="off"), factory)
    with pytest.raises(ConfigError, match=r"IndexConfig\.keep_embeddings = False: needs to be true with refine = 'on'"):
        IndexConfig(keep_embeddings=False, refine="on")


@pytest.mark.parametrize("changes", [{"shards": 2}, {"backend": "milvus"}])
def test_lists_on_disk_are_for_one_faiss_file(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"IndexConfig\.on_disk = True: needs to be false with"):
        IndexConfig(on_disk=True, **changes)


@pytest.mark.parametrize("queries", [19, 20, 50])
def test_an_exact_index_finds_the_same_among_some_of_its_rows_however_many_ask(queries: int) -> None:
    vectors, asked = unit_vectors(300), unit_vectors(queries, seed=1)
    index = create_index("Flat", 16, 1)
    fill_index(index, "Flat", vectors, np.arange(1), reproducible=True)
    rows = RowSet.of(range(10, 90), range(200, 280), removed=[20, 21, 203])
    ids, scores = search_index(index, asked, 7, rows, SETTINGS)
    products = asked @ vectors.T
    products[:, ~rows.contains(np.arange(300))] = -np.inf
    assert ids.tolist() == np.argsort(-products, axis=1)[:, :7].tolist()
    assert np.allclose(scores, -np.sort(-products, axis=1)[:, :7], atol=1e-6)


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("IVF99999999,PQ7", "needs at least 99999999 training vectors"),
        ("IVF99999999_HNSW32,SQ8", "needs at least 99999999 training vectors"),
        ("IVF" + "9" * 30 + ",Flat", "training vectors"),
        ("IMI2x20,PQ8", "GB for its centroids"),
        ("PQ8x40", "GB for its centroids"),
        ("RR99999999999,Flat", "GB for its centroids"),
        ("OPQ8_99999999999,PQ8", "GB for its centroids"),
        ("HNSW999999999,Flat", "GB for its centroids"),
        ("Flat," * 100, "GB for its centroids"),
    ],
)
def test_numbers_that_cannot_be_are_refused_before_memory_is_taken(
    factory: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_choice, "load_faiss", lambda: pytest.fail("Faiss was asked"))
    with pytest.raises(ConfigError, match=words):
        create_index(factory, 64, 10_000)
