from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retro.neighbors.text_overlap import LONGEST, PLAIN, SHARED, common_runs, longest_common_substring, overlap


def marks(first: list[int], second: list[int]) -> tuple[int, list[int], list[int]]:
    found = overlap(np.array(first), np.array(second))
    return found.longest, found.first_M.tolist(), found.second_R.tolist()


def test_the_longest_run_is_marked_in_both() -> None:
    run = [1, 2, 3, 4, 5, 6, 7]
    longest, first, second = marks([*run, 90, 91], [80, *run])
    assert longest == 7
    assert first == [LONGEST] * 7 + [PLAIN] * 2
    assert second == [PLAIN] + [LONGEST] * 7


def test_other_runs_of_six_are_marked_as_shared_and_shorter_ones_not_at_all() -> None:
    six, seven, five = [11, 12, 13, 14, 15, 16], [1, 2, 3, 4, 5, 6, 7], [21, 22, 23, 24, 25]
    longest, first, second = marks([*six, 90, *seven, 91, *five], [*five, 80, *seven, 81, *six])
    assert longest == 7
    assert first == [SHARED] * 6 + [PLAIN] + [LONGEST] * 7 + [PLAIN] * 6
    assert second == [PLAIN] * 6 + [LONGEST] * 7 + [PLAIN] + [SHARED] * 6


def test_a_run_below_six_is_counted_but_not_marked() -> None:
    assert marks([1, 2, 3], [9, 1, 2]) == (2, [PLAIN] * 3, [PLAIN] * 3)


def test_runs_by_hand() -> None:
    assert common_runs(np.array([1, 2, 1]), np.array([1, 2, 3])).tolist() == [[1, 0, 0], [0, 2, 0], [1, 0, 0]]


def test_nothing_shares_nothing() -> None:
    assert marks([], [1]) == (0, [], [PLAIN])
    assert marks([1], []) == (0, [PLAIN], [])


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.lists(st.integers(0, 3), min_size=1, max_size=40))
def test_the_length_is_what_millions_of_pairs_are_measured_with(first: list[int], second: list[int]) -> None:
    pair = np.array([first], dtype=np.int32), np.array([second], dtype=np.int32)
    assert marks(first, second)[0] == longest_common_substring(*pair)[0]


@pytest.mark.parametrize("shift", [0, 3, 20])
def test_a_copy_is_marked_whole_wherever_it_lies(shift: int) -> None:
    chunk = list(range(100, 116))
    longest, first, second = marks(chunk, [*range(shift), *chunk, 999])
    assert longest == 16
    assert first == [LONGEST] * 16
    assert second == [PLAIN] * shift + [LONGEST] * 16 + [PLAIN]
