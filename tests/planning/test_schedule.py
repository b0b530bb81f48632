"""How many micro batches a stage keeps: against the counts that the papers and megatron-core's schedules give."""

from __future__ import annotations

import pytest

from retro.planning.stages import bubble, most_kept


@pytest.mark.parametrize(
    ("stage", "stages", "micro_batches", "kept"),
    [(0, 1, 16, 1), (0, 4, 16, 4), (1, 4, 16, 3), (3, 4, 16, 1), (0, 4, 2, 2), (0, 4, 4, 4), (2, 4, 1, 1)],
)
def test_1f1b_keeps_as_many_micro_batches_as_stages_follow(
    stage: int, stages: int, micro_batches: int, kept: int
) -> None:
    assert most_kept([1.0], stage=stage, stages=stages, micro_batches=micro_batches) == kept


@pytest.mark.parametrize(
    ("stage", "stages", "turns", "kept"),
    # 2 (p - i - 1) + (v - 1) p forwards ahead, and the one at work.
    [(0, 4, 2, 11), (3, 4, 2, 5), (0, 2, 3, 7), (1, 2, 3, 5)],
)
def test_interleaved_stages_keep_more_but_smaller_blocks(stage: int, stages: int, turns: int, kept: int) -> None:
    assert most_kept([1.0] * turns, stage=stage, stages=stages, micro_batches=64) == kept


def test_blocks_of_unlike_size_are_followed_through_the_schedule() -> None:
    # Two stages, two turns, two micro batches; stage 1 runs 2 ahead. It holds block 0 (10 bytes) of both micro batches,
    # then block 1 (1 byte) of the first joins: 21. Its backward frees that 1, block 1 of the second takes its place.
    assert most_kept([10.0, 1.0], stage=1, stages=2, micro_batches=2) == 21.0
    # The other way round: 1 + 1, then 10 joins.
    assert most_kept([1.0, 10.0], stage=1, stages=2, micro_batches=2) == 12.0


def test_the_bubble_is_the_share_of_the_waiting() -> None:
    assert bubble(1, 1, 8) == 0
    assert bubble(4, 1, 8) == 3 / 8
    assert bubble(4, 2, 8) == 3 / 16
