from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retro.corpus.gather import joined_runs, padded_runs, real_tokens

EOD = 9
TOKENS = np.arange(100, 120, dtype=np.uint16)


def test_runs_are_rows_padded_behind_their_last_token() -> None:
    # The last run ends with the file, so there is no whole window of 4 at its start.
    tokens, mask = padded_runs(TOKENS, np.array([0, 7, 18]), np.array([4, 1, 2]), 4, EOD)
    assert tokens.dtype == np.int32
    assert tokens.tolist() == [[100, 101, 102, 103], [107, EOD, EOD, EOD], [118, 119, EOD, EOD]]
    assert mask.tolist() == [[True] * 4, [True, False, False, False], [True, True, False, False]]


@st.composite
def runs(draw: st.DrawFn) -> tuple[list[int], list[tuple[int, int]], int]:
    """Tokens, runs within them as start and count, and a width that holds the longest."""
    tokens = draw(st.lists(st.integers(0, 60_000), max_size=40))
    starts = draw(st.lists(st.integers(0, len(tokens)), max_size=8))
    found = [(start, draw(st.integers(0, len(tokens) - start))) for start in starts]
    return tokens, found, max((count for _, count in found), default=0) + draw(st.integers(0, 5))


@settings(max_examples=200, deadline=None)
@given(runs(), st.sampled_from([np.uint16, np.int32]))
def test_padded_runs_are_those_of_a_plain_loop(
    case: tuple[list[int], list[tuple[int, int]], int], dtype: type[np.generic]
) -> None:
    tokens, wanted, width = case
    starts, counts = (np.array([run[part] for run in wanted], dtype=np.int64) for part in (0, 1))
    found, mask = padded_runs(np.array(tokens, dtype=dtype), starts, counts, width, EOD)
    assert found.shape == mask.shape == (len(wanted), width)
    assert found.tolist() == [tokens[start : start + n] + [EOD] * (width - n) for start, n in wanted]
    assert mask.tolist() == [[True] * n + [False] * (width - n) for _, n in wanted]


@settings(max_examples=200, deadline=None)
@given(runs())
def test_joined_runs_are_slices_laid_end_to_end(case: tuple[list[int], list[tuple[int, int]], int]) -> None:
    tokens, wanted, _ = case
    starts, counts = (np.array([run[part] for run in wanted], dtype=np.int64) for part in (0, 1))
    expected = [token for start, n in wanted for token in tokens[start : start + n]]
    assert joined_runs(np.array(tokens, dtype=np.uint16), starts, counts).tolist() == expected


def test_long_runs_join_as_short_ones_do() -> None:
    tokens = np.arange(1000, dtype=np.uint16)
    joined = joined_runs(tokens, np.array([500, 0]), np.array([400, 300]))
    assert joined.dtype == np.int32
    assert joined.tolist() == [*range(500, 900), *range(300)]


def test_a_mask_too_wide_for_a_table_is_the_same_mask() -> None:
    mask = real_tokens(np.array([0, 1, 1025, 1026]), 1026)
    assert mask.sum(axis=1).tolist() == [0, 1, 1025, 1026]
    assert mask[2].tolist() == [True] * 1025 + [False]


@pytest.mark.parametrize(("start", "count"), [(18, 3), (-1, 2), (0, 5), (0, -1), (21, 0)])
def test_runs_that_do_not_fit_are_refused(start: int, count: int) -> None:
    with pytest.raises(ValueError, match=r"do not fit a width of 4|leaves the token file of 20 tokens"):
        padded_runs(TOKENS, np.array([start]), np.array([count]), 4, EOD)
