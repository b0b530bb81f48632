from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from retro.common.row_set import RowSet
from retro.neighbors.hubness import counts_of, hubness, neighbor_counts


def test_rows_are_counted_and_missing_neighbors_are_not() -> None:
    ids = np.array([[2, 0, -1], [2, 4, 0], [2, -1, -1]])
    assert neighbor_counts(ids).tolist() == [2, 0, 3, 0, 1]
    assert neighbor_counts(ids, 7).tolist() == [2, 0, 3, 0, 1, 0, 0]


def test_no_neighbor_at_all_counts_nothing() -> None:
    assert neighbor_counts(np.full((2, 3), -1), 2).tolist() == [0, 0]


def test_equal_counts_have_no_hubs() -> None:
    found = hubness(np.array([3, 3, 3]))
    assert (found.never_found, found.most, found.mean, found.gini, found.skewness) == (0.0, 3, 3.0, 0.0, 0.0)


def test_one_hub_among_four_rows() -> None:
    # Counts 0 0 0 4: mean 1, deviations -1 -1 -1 3; variance 3; third moment (27 - 3) / 4 = 6; 6 / 3^1.5 = 1.1547.
    found = hubness(np.array([0, 4, 0, 0]))
    assert (found.never_found, found.most, found.mean) == (0.75, 4, 1.0)
    assert found.gini == 0.75
    assert found.skewness == pytest.approx(1.1547, abs=1e-4)


def test_a_database_where_nothing_was_found_is_even() -> None:
    assert hubness(np.zeros(3, dtype=np.int64)).gini == 0.0


def test_no_row_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        hubness(np.zeros(0, dtype=np.int64))


def test_only_rows_that_may_be_neighbors_count() -> None:
    counts = np.array([5, 1, 7, 0])
    rows = RowSet.of(range(1, 3), range(5, 7), removed=[6])
    assert counts_of(rows, counts).tolist() == [1, 7, 0]
    assert counts_of(RowSet.of(), counts).tolist() == []


@given(hnp.arrays(np.int64, st.integers(1, 12), elements=st.integers(0, 9)))
def test_gini_is_the_mean_difference_over_twice_the_mean(counts: np.ndarray) -> None:
    if counts.sum():
        differences = np.abs(counts[:, None] - counts[None, :]).mean()
        assert hubness(counts).gini == pytest.approx(differences / (2 * counts.mean()), abs=1e-3)
