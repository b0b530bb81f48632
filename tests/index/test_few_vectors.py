"""Indexes over copies, or over few vectors: nothing is missed, and nothing is said a hundred times."""

# Dims in this file. N vectors   Q queries   D dimension

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from retro.common.row_set import RowSet
from retro.index.faiss_index import SearchSettings, fill_index, search_index
from retro.index.faiss_loader import load_faiss
from retro.index.index_choice import create_index
from retro.index.training import _train_transform

SETTINGS = SearchSettings(nprobe=1, ef_search=16, refine_factor=1)


def unit_vectors(count: int, dimension: int, seed: int = 0) -> NDArray[np.float32]:
    drawn_ND = np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)
    return drawn_ND / np.linalg.norm(drawn_ND, axis=1, keepdims=True)


def filled(factory: str, vectors_ND: NDArray[np.float32]) -> object:
    index = create_index(factory, vectors_ND.shape[1], len(vectors_ND))
    fill_index(index, factory, vectors_ND, np.arange(len(vectors_ND)), reproducible=True)
    return index


@pytest.mark.parametrize("factory", ["IVF16,Flat", "PCAR16,IVF16,Flat", "IVF16_HNSW8,Flat", "IVF16,SQ8"])
def test_an_index_over_copies_finds_as_many_as_there_are(factory: str) -> None:
    # Three texts, 200 times each: at most three of the lists hold anything, and a query may fall into any.
    copies_ND = np.repeat(unit_vectors(3, 32), 200, axis=0)
    index = filled(factory, copies_ND)
    queries_QD = np.concatenate([copies_ND[::200], unit_vectors(20, 32, seed=1)])
    ids_QK, scores_QK = search_index(index, queries_QD, 250, RowSet.of(range(600)), SETTINGS)
    assert (ids_QK >= 0).all()
    assert np.isfinite(scores_QK).all()
    assert [sorted(ids) == list(range(200 * n, 200 * n + 200)) for n, ids in enumerate(ids_QK[:3, :200])] == [True] * 3


def test_enough_is_enough() -> None:
    vectors_ND = unit_vectors(600, 32)
    index = filled("IVF16,Flat", vectors_ND)
    one_list = [
        search_index(index, vectors_ND[:50], 600, RowSet.of(range(600)), SETTINGS, least)[0] for least in (0, 1)
    ]
    assert np.array_equal(one_list[0], one_list[1])
    assert (one_list[0] < 0).any()
    [every] = [search_index(index, vectors_ND[:50], 600, RowSet.of(range(600)), SETTINGS)[0]]
    assert (np.sort(every, axis=1) == np.arange(600)).all()


@pytest.mark.parametrize("factory", ["IVF16,Flat", "IVF16,PQ2", "IVF16_HNSW8,Flat"])
def test_faiss_does_not_say_for_every_codebook_that_vectors_are_few(
    factory: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    filled(factory, unit_vectors(300, 16))
    told = capfd.readouterr()
    assert "WARNING" not in told.out + told.err
    assert len([one for one in caplog.messages if "would cluster well" in one]) == 1


def test_a_silenced_training_learns_the_same(capfd: pytest.CaptureFixture[str]) -> None:
    faiss, vectors_ND = load_faiss(), unit_vectors(300, 8)
    loud, silent = faiss.OPQMatrix(8, 2), faiss.OPQMatrix(8, 2)
    for step in (loud, silent):
        step.niter, step.niter_pq, step.niter_pq_0 = 1, 2, 2
    loud.train(vectors_ND)
    assert capfd.readouterr().err.count("WARNING") == 2
    _train_transform(faiss, silent, vectors_ND)
    assert capfd.readouterr().err == ""
    assert np.array_equal(faiss.vector_to_array(silent.A), faiss.vector_to_array(loud.A))
    assert silent.pq is None
