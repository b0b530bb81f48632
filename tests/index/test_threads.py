from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from retro.common.row_set import RowSet
from retro.index.codes import CODES, encode
from retro.index.faiss_index import SearchSettings, add_vectors, exact_hits, search_index
from retro.index.faiss_loader import load_faiss, side_by_side
from retro.index.index_choice import create_index
from retro.index.training import train_index
from tests.index.vectors import unit_vectors

# As long as MiniLM's: shorter ones are rounded alike by more libraries.
VECTORS = unit_vectors(1500, 384)
SETTINGS = SearchSettings(nprobe=4, ef_search=32, refine_factor=2)


@pytest.fixture
def threads() -> Iterator[int]:
    before = load_faiss().omp_get_max_threads()
    yield 3
    load_faiss().omp_set_num_threads(before)


def built(factory: str, threads: int, vectors_ND: NDArray[np.float32] = VECTORS) -> Any:
    faiss = load_faiss()
    faiss.omp_set_num_threads(threads)
    index = create_index(factory, vectors_ND.shape[1], len(vectors_ND))
    train_index(index, factory, vectors_ND[::2], device="cpu")
    add_vectors(index, vectors_ND, reproducible=True)
    return index


@pytest.mark.parametrize(
    "factory", ["IVF16,SQ8", "PCA64,IVF16,SQ8", "OPQ4_16,IVF16,PQ4x4", "RR,IVF16,RaBitQ", "RR,IVF16_HNSW8,RaBitQ"]
)
def test_an_index_has_the_same_bytes_on_any_number_of_threads(factory: str, threads: int) -> None:
    faiss = load_faiss()
    # Learning a rotation of 384 values takes half a minute.
    vectors_ND = np.ascontiguousarray(VECTORS[:, :48]) if factory.startswith("OPQ") else VECTORS
    one, many = built(factory, 1, vectors_ND), built(factory, threads, vectors_ND)
    assert faiss.serialize_index(one).tobytes() == faiss.serialize_index(many).tobytes()
    faiss.omp_set_num_threads(1)
    codes = encode(one, vectors_ND[:700], lambda _: None).arrays[CODES]
    faiss.omp_set_num_threads(threads)
    np.testing.assert_array_equal(encode(many, vectors_ND[:700], lambda _: None).arrays[CODES], codes)


@pytest.mark.parametrize("factory", ["Flat", "IVF16,SQ8", "RR,IVF16,RaBitQ"])
@pytest.mark.parametrize("queries", [2, 30, 1100])
def test_what_is_found_and_its_scores_do_not_depend_on_threads(factory: str, queries: int, threads: int) -> None:
    index, rows = built(factory, 1), RowSet.of(range(len(VECTORS)))
    load_faiss().omp_set_num_threads(1)
    ids, scores = search_index(index, VECTORS[:queries], 5, rows, SETTINGS)
    load_faiss().omp_set_num_threads(threads)
    again, same = search_index(index, VECTORS[:queries], 5, rows, SETTINGS)
    np.testing.assert_array_equal(again, ids)
    np.testing.assert_array_equal(same, scores)
    np.testing.assert_array_equal(ids[:, 0], np.arange(queries))


def test_exact_scores_do_not_depend_on_threads(threads: int) -> None:
    found = []
    for number in (1, threads):
        load_faiss().omp_set_num_threads(number)
        found.append(exact_hits(VECTORS.astype(np.float16), VECTORS[:100], 7, RowSet.of(range(len(VECTORS)))))
    np.testing.assert_array_equal(found[1][0], found[0][0])
    np.testing.assert_array_equal(found[1][1], found[0][1])


def test_parts_cover_all_rows_in_order_on_one_thread_each(threads: int) -> None:
    faiss = load_faiss()
    faiss.omp_set_num_threads(threads)
    seen = side_by_side(faiss, lambda part: (part.start, part.stop, faiss.omp_get_max_threads()), 10, 4)
    assert seen == [(0, 4, 1), (4, 8, 1), (8, 10, 1)]
    assert faiss.omp_get_max_threads() == threads


def test_an_error_in_a_part_is_raised(threads: int) -> None:
    faiss = load_faiss()
    faiss.omp_set_num_threads(threads)

    def fail(part: slice) -> None:
        if part.start:
            raise ValueError("the second part")

    with pytest.raises(ValueError, match="the second part"):
        side_by_side(faiss, fail, 8, 4)
