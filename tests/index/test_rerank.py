from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retro.common.errors import ArtifactError
from retro.common.hdf5 import new_file, write_columns
from retro.index import rerank as rerank_module
from retro.index.rerank import map_vectors, pair_scores, rerank
from tests.index.vectors import unit_vectors

VECTORS = np.array([[1, 0], [0, 1], [0.5, 0.5], [1, 0], [-1, 0]], dtype=np.float16)
QUERIES = np.array([[2, 1], [0, 1]], dtype=np.float32)


def test_candidates_are_ordered_by_their_inner_product() -> None:
    # The first query's products with rows 0 to 4 are 2, 1, 1.5, 2, -2; the second's 0, 1, 0.5, 0, 0.
    ids, scores = rerank(VECTORS, QUERIES, np.array([[4, 2, 1], [2, 4, 1]]), 2)
    assert ids.tolist() == [[2, 1], [1, 2]]
    assert scores.tolist() == [[1.5, 1.0], [1.0, 0.5]]


def test_of_equal_candidates_the_lower_row_comes_first_wherever_it_stood() -> None:
    ids, _ = rerank(VECTORS, QUERIES[:1], np.array([[3, 2, 0]]), 3)
    assert ids.tolist() == [[0, 3, 2]]


def test_missing_candidates_come_last() -> None:
    ids, scores = rerank(VECTORS, QUERIES[:1], np.array([[-1, 4, -1]]), 2)
    assert ids.tolist() == [[4, -1]]
    assert scores.tolist() == [[-2.0, -np.inf]]


@pytest.mark.parametrize("k", [0, 4])
def test_more_than_there_are_candidates_cannot_be_taken(k: int) -> None:
    with pytest.raises(ValueError, match=f"cannot take the best {k} of 3 candidates"):
        rerank(VECTORS, QUERIES, np.zeros((2, 3), dtype=np.int64), k)


def test_scores_do_not_depend_on_what_else_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, queries = unit_vectors(50, 33), unit_vectors(9, 33, seed=1)
    ids = np.random.default_rng(0).integers(-1, 50, (9, 7))
    whole = pair_scores(vectors, queries, ids)
    monkeypatch.setattr(rerank_module, "_VALUES_AT_ONCE", 2 * 7 * 33)
    assert np.array_equal(pair_scores(vectors, queries, ids), whole)
    assert np.array_equal(pair_scores(vectors, queries[4:5], ids[4:5, 2:4]), whole[4:5, 2:4])
    assert np.allclose(whole[ids >= 0], (queries @ vectors.T)[np.arange(9)[:, None], ids][ids >= 0], atol=1e-6)
    assert (whole[ids < 0] == -np.inf).all()


def test_kept_vectors_are_mapped_for_reads_of_single_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with new_file(tmp_path / "embeddings.h5") as file:
        write_columns(file, {"embeddings": VECTORS})
    advice: list[int] = []

    class Watched(mmap.mmap):
        def madvise(self, *given: Any) -> None:
            advice.append(given[0])
            super().madvise(*given)

    monkeypatch.setattr(mmap, "mmap", Watched)
    assert np.array_equal(map_vectors(tmp_path / "embeddings.h5"), VECTORS)
    assert advice == [mmap.MADV_RANDOM]


def test_vectors_that_were_not_kept_are_named_with_the_setting(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"embeddings\.h5: is missing\. .*index\.keep_embeddings=true"):
        map_vectors(tmp_path / "embeddings.h5")
