from __future__ import annotations

import gc

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retro.common.row_set import RowSet
from retro.index.faiss_index import SearchSettings, exact_hits, search_index
from retro.index.faiss_loader import bitmap_of, selector_of
from retro.index.index_choice import create_index

SETTINGS = SearchSettings(nprobe=4, ef_search=64, refine_factor=100)
ROWS = RowSet.of(range(3, 50), range(120, 290), removed=[3, 7, 8, 120, 200, 289])


def test_one_range_is_compared_and_anything_else_is_a_bit_per_row() -> None:
    assert isinstance(selector_of(RowSet.of(range(4, 9))), faiss.IDSelectorRange)
    assert isinstance(selector_of(ROWS), faiss.IDSelectorBitmap)


def test_a_bitmap_sets_the_bits_of_its_rows() -> None:
    # Rows 1, 2, 4 and 17: bits 1, 2, 4 of byte 0, and bit 1 of byte 2.
    assert bitmap_of(RowSet.of(range(1, 5), range(17, 18), removed=[3])).tolist() == [0b00010110, 0, 0b00000010]


@given(st.sets(st.integers(0, 70)), st.sets(st.integers(0, 70)))
def test_bitmap_and_rows_agree_on_every_row(kept: set[int], removed: set[int]) -> None:
    rows = RowSet.of(*(range(row, row + 1) for row in sorted(kept | removed)), removed=removed)
    bits = np.unpackbits(bitmap_of(rows), bitorder="little").astype(bool)
    assert bits.tolist() == rows.contains(np.arange(len(bits))).tolist()
    assert np.flatnonzero(bits).tolist() == sorted(kept - removed)


@pytest.mark.parametrize("factory", ["Flat", "IVF4,Flat", "IVF4_HNSW,SQ8", "OPQ8_16,IVF4,PQ4x4,RFlat", "HNSW16"])
def test_every_kind_of_index_finds_only_rows_that_are_asked_for(factory: str) -> None:
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((300, 16)).astype(np.float32)
    index = create_index(factory, 16, 300)
    index.train(vectors)
    index.add(vectors)
    found, _ = search_index(index, vectors[:20], 10, ROWS, SETTINGS)
    gc.collect()
    again, _ = search_index(index, vectors[:20], 10, ROWS, SETTINGS)
    assert found.tolist() == again.tolist()
    assert ROWS.contains(found).all()
    exact = exact_hits(vectors, vectors[:20], 10, ROWS)[0]
    assert ROWS.contains(exact).all()
    assert (found[:, :1] == exact[:, :1]).mean() > 0.9
    if factory == "Flat":
        assert found.tolist() == exact.tolist()
