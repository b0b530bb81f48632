from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from retro.corpus.gather import documents_at, stream_bounds, window_pieces


def test_windows_run_over_document_ends_and_empty_documents() -> None:
    # Stream: document of 3 tokens at file offset 10, an empty one, one of 2 at offset 0, one of 4 at offset 20.
    bounds = stream_bounds(np.array([3, 0, 2, 4]))
    assert bounds.tolist() == [0, 3, 3, 5, 9]
    starts, counts = window_pieces(bounds, np.array([10, 99, 0, 20]), np.array([0, 2, 5, 1]), 4)
    runs = list(zip(starts.tolist(), counts.tolist(), strict=True))
    assert [run for run in runs if run[1]] == [(10, 3), (0, 1), (12, 1), (0, 2), (20, 1), (20, 4), (11, 2), (0, 2)]


def test_a_position_belongs_to_the_document_that_owns_it_and_never_to_an_empty_one() -> None:
    bounds = stream_bounds(np.array([0, 2, 0, 0, 1]))
    assert documents_at(bounds, np.array([0, 1, 2])).tolist() == [1, 1, 4]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=9), st.randoms(use_true_random=False), st.integers(1, 20))
def test_windows_equal_slices_of_the_stream_written_out(lengths: list[int], random: object, width: int) -> None:
    starts = np.concatenate([[0], np.cumsum(lengths)])
    order = list(range(len(lengths)))
    random.shuffle(order)  # type: ignore[attr-defined]
    stream = [offset for document in order for offset in range(starts[document], starts[document + 1])]
    windows = np.arange(max(0, len(stream) - width + 1))
    if not len(windows):
        return
    bounds = stream_bounds(np.array(lengths)[order])
    pieces = zip(*window_pieces(bounds, starts[:-1][order], windows, width), strict=True)
    offsets = np.concatenate([np.arange(start, start + count) for start, count in pieces]).reshape(-1, width)
    assert offsets.tolist() == [stream[start : start + width] for start in windows]
