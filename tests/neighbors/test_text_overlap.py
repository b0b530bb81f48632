from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from retro.neighbors.text_overlap import longest_common_substring, share_of_text


def rows(*values: list[int]) -> np.ndarray:
    return np.array(values, dtype=np.int32)


def test_the_longest_run_that_both_have_is_found() -> None:
    first = rows([1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4], [1, 1, 2, 2])
    second = rows([9, 2, 3, 9, 4, 1], [1, 2, 3, 4, 5, 6], [7, 7, 7, 7, 7, 7], [1, 2, 1, 2, 2, 2])
    assert longest_common_substring(first, second).tolist() == [2, 4, 0, 3]


def test_missing_tokens_equal_nothing_not_even_each_other() -> None:
    # 1 2 stand in both, but an end of document is between them in the first.
    first, second = rows([1, -1, 2, -1], [-1, -1, -1, -1]), rows([1, -1, 2, -1], [-1, -1, -1, -1])
    assert longest_common_substring(first, second).tolist() == [1, 0]


def test_a_row_longer_than_a_byte_counts_is_measured_whole() -> None:
    same = np.arange(300, dtype=np.int32)[None]
    assert longest_common_substring(same, same).tolist() == [300]


def test_pairs_must_be_pairs() -> None:
    with pytest.raises(ValueError, match="needs pairs of rows"):
        longest_common_substring(rows([1]), rows([1], [2]))


def brute_force(first: list[int], second: list[int]) -> int:
    best = 0
    for start in range(len(first)):
        for stop in range(start + best + 1, len(first) + 1):
            run = first[start:stop]
            if min(run) < 0 or not any(second[at : at + len(run)] == run for at in range(len(second))):
                break
            best = len(run)
    return best


@given(st.data())
def test_lengths_are_those_of_brute_force(data: st.DataObject) -> None:
    pairs, first_tokens, second_tokens = (data.draw(st.integers(1, most)) for most in (5, 9, 14))
    tokens = st.integers(-1, 2)
    first = data.draw(hnp.arrays(np.int32, (pairs, first_tokens), elements=tokens))
    second = data.draw(hnp.arrays(np.int32, (pairs, second_tokens), elements=tokens))
    wanted = [brute_force(one, other) for one, other in zip(first.tolist(), second.tolist(), strict=True)]
    assert longest_common_substring(first, second).tolist() == wanted


def test_many_pairs_are_measured_as_each_alone() -> None:
    random = np.random.default_rng(0)
    first, second = (
        random.integers(3, size=(5000, 6), dtype=np.int32),
        random.integers(3, size=(5000, 9), dtype=np.int32),
    )
    together = longest_common_substring(first, second)
    for place in (0, 2047, 2048, 4999):
        assert together[place] == brute_force(first[place].tolist(), second[place].tolist())


def test_shares_are_of_the_tokens_of_text() -> None:
    chunks = rows([1, 2, 3, 4], [1, 2, -1, 3], [-1, -1, -1, -1])
    assert share_of_text(np.array([2, 3, 0]), chunks).tolist() == [0.5, 1.0, 0.0]
