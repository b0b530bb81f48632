from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from retro.analysis.leakage.overlaps import ChunkTrie
from tests.neighbors.test_text_overlap import brute_force


def rows(*values: list[int]) -> np.ndarray:
    return np.array(values, dtype=np.int32)


def test_each_chunk_knows_its_longest_run_in_the_text() -> None:
    trie = ChunkTrie(rows([1, 2, 3, 4], [2, 3, 9, 9], [7, 7, 7, 7], [5, 6, 1, 2]))
    text = rows([0, 1, 2, 3, 0, 7, 7, 0, 5, 6, 1, 2])[0]
    trie.read(text, len(text))
    assert trie.longest().tolist() == [3, 2, 2, 4]


def test_a_run_neither_crosses_the_end_of_a_document_nor_that_of_a_chunk() -> None:
    trie = ChunkTrie(rows([1, 2, 3, 4], [5, 6, 7, 8], [1, 2, -1, 4]))
    text = rows([1, 2, -1, 3, 4, 5, 6])[0]
    trie.read(text, len(text))
    assert trie.longest().tolist() == [2, 2, 2]


def test_what_is_read_in_slices_is_what_is_read_at_once() -> None:
    random = np.random.default_rng(0)
    chunks, text = random.integers(3, size=(20, 6), dtype=np.int32), random.integers(3, size=500, dtype=np.int32)
    whole, sliced = ChunkTrie(chunks), ChunkTrie(chunks)
    whole.read(text, 500)
    for start in range(0, 500, 7):
        sliced.read(text[start : start + 7 + 5], min(7, 500 - start))
    assert sliced.longest().tolist() == whole.longest().tolist()


def test_a_trie_can_be_used_again() -> None:
    trie = ChunkTrie(rows([1, 2, 3, 1, 2, 4]))
    text = rows([1, 2, 3])[0]
    trie.read(text, 3)
    assert trie.longest().tolist() == [3]
    trie.forget()
    trie.read(text[:1], 1)
    assert trie.longest().tolist() == [1]


def test_no_chunk_and_no_text_share_nothing() -> None:
    nothing = ChunkTrie(np.zeros((0, 4), dtype=np.int32))
    nothing.read(rows([1, 2])[0], 2)
    assert nothing.longest().tolist() == []
    trie = ChunkTrie(rows([-1, -1], [1, 2]))
    trie.read(np.zeros(0, dtype=np.int32), 0)
    assert trie.longest().tolist() == [0, 0]


@settings(max_examples=300)
@given(st.data())
def test_lengths_are_those_of_brute_force(data: st.DataObject) -> None:
    tokens = st.integers(-1, data.draw(st.integers(0, 3)))
    chunks = data.draw(
        hnp.arrays(np.int32, (data.draw(st.integers(0, 5)), data.draw(st.integers(1, 7))), elements=tokens)
    )
    # The text may have tokens that no chunk has.
    text = data.draw(hnp.arrays(np.int32, data.draw(st.integers(0, 30)), elements=st.integers(-1, 4)))
    trie = ChunkTrie(chunks)
    size = data.draw(st.integers(1, 30))
    for start in range(0, len(text), size):
        trie.read(text[start : start + size + chunks.shape[1] - 1], min(size, len(text) - start))
    assert trie.longest().tolist() == [brute_force(chunk, text.tolist()) for chunk in chunks.tolist()]
