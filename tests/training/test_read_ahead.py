"""One request ahead: the same results as without, errors where they belong, nothing left running."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from numpy.typing import NDArray

from retro.training.data_loader import Prefetcher


class Reader:
    """Gives the sum of the numbers, and remembers who asked for what."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.asked: list[tuple[list[int], bool]] = []

    def __call__(self, numbers: NDArray[np.int64]) -> int:
        self.asked.append((numbers.tolist(), threading.current_thread() is threading.main_thread()))
        time.sleep(self.seconds)
        if (numbers < 0).any():
            raise KeyboardInterrupt("negative")
        return int(numbers.sum())


def numbers(*values: int) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def test_what_was_expected_is_read_once_and_in_the_thread() -> None:
    read = Reader()
    with Prefetcher(read) as ahead:
        assert ahead.get(numbers(1, 2)) == 3
        ahead.expect(numbers(3, 4))
        assert ahead.get(numbers(3, 4)) == 7
    assert read.asked == [([1, 2], True), ([3, 4], False)]


def test_numbers_that_were_not_expected_are_read_all_the_same() -> None:
    read = Reader()
    with Prefetcher(read) as ahead:
        ahead.expect(numbers(1))
        assert ahead.get(numbers(2)) == 2
        # What was expected is dropped: it would be read again.
        assert ahead.get(numbers(1)) == 1
    assert [asked for asked, in_main in read.asked if in_main] == [[2], [1]]


def test_an_error_of_the_thread_comes_up_as_itself_and_only_when_it_is_asked_for() -> None:
    with Prefetcher(Reader()) as ahead:
        ahead.expect(numbers(-1))
        assert ahead.get(numbers(5)) == 5
        ahead.expect(numbers(-1))
        with pytest.raises(KeyboardInterrupt, match="negative"):
            ahead.get(numbers(-1))
        ahead.expect(numbers(6))
        assert ahead.get(numbers(6)) == 6


def test_numbers_may_change_after_they_were_expected() -> None:
    changing = numbers(1)
    with Prefetcher(Reader()) as ahead:
        ahead.expect(changing)
        ahead.get(numbers(1))
        changing[0] = 7
        ahead.expect(numbers(2))
        assert ahead.get(changing) == 7


def test_waiting_is_counted() -> None:
    with Prefetcher(Reader(seconds=0.02)) as ahead:
        ahead.get(numbers(1))
        assert ahead.waited_s >= 0.02


def test_no_thread_is_left_and_none_is_made_without_need() -> None:
    before = threading.active_count()
    with Prefetcher(Reader(seconds=0.01)) as ahead:
        ahead.get(numbers(1))
        assert threading.active_count() == before
        ahead.expect(numbers(2))
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
