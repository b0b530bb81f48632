from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retro.common.row_set import RowSet


def ids_of(rows: RowSet) -> list[int]:
    """All row numbers, by asking for each."""
    asked = np.arange(-1, rows.stop + 3)
    return asked[rows.contains(asked)].tolist()


def test_rows_are_the_ranges_less_what_was_removed() -> None:
    rows = RowSet.of(range(2, 5), range(8, 11), removed=[9, 3, 3, 6, 70])
    assert ids_of(rows) == [2, 4, 8, 10]
    assert len(rows) == 4
    assert rows.removed.tolist() == [3, 9]
    assert rows.only_range is None
    assert rows.stop == 11


def test_ranges_that_touch_are_one_and_empty_ones_none() -> None:
    rows = RowSet.of(range(0), range(2, 5), range(5, 5), range(5, 9))
    assert rows.ranges == (range(2, 9),)
    assert rows.only_range == range(2, 9)


def test_no_rows_contain_nothing() -> None:
    assert len(RowSet.of()) == 0
    assert RowSet.of().only_range == range(0)
    assert RowSet.of().stop == 0
    assert RowSet.of().contains(np.array([-1, 0])).tolist() == [False, False]


def test_an_answer_has_the_shape_of_the_question_and_minus_one_is_no_row() -> None:
    asked = np.array([[0, -1], [5, 3]])
    assert RowSet.of(range(5), removed=[3]).contains(asked).tolist() == [[True, False], [False, False]]


def test_billions_of_rows_take_no_memory() -> None:
    rows = RowSet.of(range(19 * 10**9), removed=[7, 18 * 10**9])
    assert len(rows) == 19 * 10**9 - 2
    assert rows.contains(np.array([6, 7, 18 * 10**9, 19 * 10**9])).tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    ("ranges", "problem"),
    [
        ((range(5), range(4, 6)), "overlap or are not in order"),
        ((range(5, 6), range(2)), "overlap or are not in order"),
        ((range(0, 6, 2),), "with step 1"),
        ((range(-2, 6),), "with step 1"),
        ((range(3, 3),), "none empty"),
    ],
)
def test_ranges_that_cannot_be_are_refused(ranges: tuple[range, ...], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        RowSet(ranges)


@pytest.mark.parametrize(
    ("removed", "problem"),
    [
        (np.array([2, 1]), "int64 and ascending"),
        (np.array([1, 1]), "int64 and ascending"),
        (np.array([1], dtype=np.int32), "int64 and ascending"),
        (np.array([9]), "lie in the ranges"),
    ],
)
def test_removed_rows_that_cannot_be_are_refused(removed: np.ndarray, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        RowSet((range(5),), removed)


@given(st.sets(st.integers(0, 30)), st.sets(st.integers(0, 30)), st.integers(0, 30), st.integers(0, 30))
def test_cutting_and_shifting_are_what_they_are_for_sets(
    kept: set[int], removed: set[int], start: int, stop: int
) -> None:
    rows = RowSet.of(*(range(row, row + 1) for row in sorted(kept | removed)), removed=removed)
    assert ids_of(rows) == sorted(kept - removed)
    assert len(rows) == len(kept - removed)
    assert ids_of(rows.within(range(start, stop))) == [row for row in sorted(kept - removed) if start <= row < stop]
    assert ids_of(rows.shifted(5)) == [row + 5 for row in sorted(kept - removed)]
