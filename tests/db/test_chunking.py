from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retro.db.build import places_of
from retro.db.chunking import cut_documents, cut_windows, tokens_without_end_mark


def test_documents_are_cut_alone_and_a_short_tail_is_kept() -> None:
    chunks = cut_documents(np.array([10, 0, 4, 3]), 4)
    assert chunks.document.tolist() == [0, 0, 0, 2, 3]
    assert chunks.start.tolist() == [0, 4, 8, 0, 0]
    assert chunks.tokens.tolist() == [4, 4, 2, 4, 3]
    assert chunks.continues.tolist() == [True, True, False, False, False]


@given(st.lists(st.integers(0, 40), max_size=20), st.integers(1, 12))
def test_chunks_are_those_of_a_plain_loop(tokens: list[int], chunk_length: int) -> None:
    wanted = [
        (document, start, min(chunk_length, total - start), start + chunk_length < total)
        for document, total in enumerate(tokens)
        for start in range(0, total, chunk_length)
    ]
    chunks = cut_documents(np.array(tokens, dtype=np.int64), chunk_length)
    assert list(zip(*(column.tolist() for column in chunks), strict=True)) == wanted


@pytest.mark.parametrize(("tokens", "chunk_length"), [([4], 0), ([-1], 4)])
def test_impossible_sizes_are_refused(tokens: list[int], chunk_length: int) -> None:
    with pytest.raises(ValueError, match="cannot cut"):
        cut_documents(np.array(tokens), chunk_length)


def test_one_trailing_end_mark_is_left_out_and_no_more() -> None:
    # Documents: [5 6 E], [E], [], [7], [E E]; E is 0.
    tokens = np.array([5, 6, 0, 0, 7, 0, 0], dtype=np.uint16)
    starts = np.array([0, 3, 4, 4, 5, 7])
    assert tokens_without_end_mark(tokens, starts, 0).tolist() == [2, 0, 0, 1, 1]


def test_a_file_without_tokens_has_empty_documents() -> None:
    assert tokens_without_end_mark(np.array([], dtype=np.uint16), np.array([0, 0, 0]), 0).tolist() == [0, 0]


def test_rows_are_laid_out_split_by_split_and_block_by_block() -> None:
    # Block 0 has 2 train, 1 valid, 0 test rows; block 1 has 3, 0, 4.
    places = places_of(np.array([[2, 1, 0], [3, 0, 4]]))
    assert places.tolist() == [[0, 5, 6], [2, 6, 6]]


def test_windows_begin_every_step_and_the_last_one_reaches_the_end() -> None:
    found = cut_windows(np.array([10, 0, 3, 4, 5]), 4, 3)
    # 10 tokens: 0-3, 3-6, 6-9; 3 tokens and 4: one each; 5: 0-3 and 3-4.
    assert found.document.tolist() == [0, 0, 0, 2, 3, 4, 4]
    assert found.start.tolist() == [0, 3, 6, 0, 0, 0, 3]
    assert found.tokens.tolist() == [4, 4, 4, 3, 4, 4, 2]
    assert not found.continues.any()


@given(st.lists(st.integers(0, 40), max_size=8), st.integers(1, 9), st.data())
def test_windows_hold_every_token_and_none_lies_within_another(
    lengths: list[int], window: int, data: st.DataObject
) -> None:
    step = data.draw(st.integers(1, window))
    found = cut_windows(np.array(lengths, dtype=np.int64), window, step)
    for document, length in enumerate(lengths):
        here = found.document == document
        spans = list(zip(found.start[here].tolist(), (found.start + found.tokens)[here].tolist(), strict=True))
        assert {token for start, stop in spans for token in range(start, stop)} == set(range(length))
        assert all(before < after for (_, before), (_, after) in itertools.pairwise(spans))


@pytest.mark.parametrize("step", [0, 5])
def test_windows_that_leave_tokens_out_are_refused(step: int) -> None:
    with pytest.raises(ValueError, match="windows of 4 tokens cannot begin every"):
        cut_windows(np.array([9]), 4, step)
