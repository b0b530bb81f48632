from __future__ import annotations

import numpy as np
import pytest

from retro.sft.blend import Blend
from retro.sft.encode import EncodedSample
from retro.sft.passages import NeighborTokens
from retro.sft.source import EncodedSet, SftSource

PROMPTS = ([11, 12, 13], [14, 15, 16, 17])


def encoded_set(*, neighbors: bool) -> EncodedSet:
    samples = [EncodedSample(np.array(p, np.int32), np.array([21, 0], np.int32), 0) for p in PROMPTS]
    known = NeighborTokens(
        tokens_NKR=np.array([[[1, 2, 3], [4, 0, 0]], [[5, 6, 0], [0, 0, 0]]], np.int32),
        lengths_NK=np.array([[3, 1], [2, 0]], np.int32),
    )
    return EncodedSet("tiny", samples, known if neighbors else None)


def source(*, neighbors: bool = True) -> SftSource:
    return SftSource([encoded_set(neighbors=neighbors)], Blend([2], [1.0], 0), end=0, sequence_length=8, chunk_length=4)


def test_every_chunk_of_a_sample_gets_the_samples_own_passages() -> None:
    batch = source().fetch(np.array([0, 1]))
    assert batch.neighbors_BLKR is not None
    assert batch.neighbor_mask_BLKR is not None
    assert batch.neighbors_BLKR.shape == (2, 2, 2, 3)
    order = batch.tokens_BS[:, 3].tolist()
    for row, last_of_prompt in enumerate(order):
        known = [[1, 2, 3], [4, 0, 0]] if last_of_prompt == 13 else [[5, 6, 0], [0, 0, 0]]
        lengths = [3, 1] if last_of_prompt == 13 else [2, 0]
        assert batch.neighbors_BLKR[row].tolist() == [known, known]
        assert batch.neighbor_mask_BLKR[row].sum(axis=2).tolist() == [lengths, lengths]
    assert sorted(order) == [13, 17]


def test_without_the_encoder_there_are_no_neighbors_and_no_left_pad() -> None:
    batch = source(neighbors=False).fetch(np.array([0, 1]))
    assert batch.neighbors_BLKR is None
    assert batch.neighbor_mask_BLKR is None
    assert sorted(batch.tokens_BS[:, 0].tolist()) == [11, 14]


def test_the_same_numbers_give_the_same_batch() -> None:
    numbers = np.array([5, 2, 9])
    one, other = source().fetch(numbers), source().fetch(numbers)
    assert one.tokens_BS.tobytes() == other.tokens_BS.tobytes()
    assert one.loss_mask_BS.sum(axis=1).tolist() == [2, 2, 2]


def test_sets_that_do_not_match_are_refused() -> None:
    both = [encoded_set(neighbors=True), encoded_set(neighbors=False)]
    with pytest.raises(ValueError, match="some sets have neighbors"):
        SftSource(both, Blend([2, 2], [1.0, 1.0], 0), end=0, sequence_length=8, chunk_length=4)
    with pytest.raises(ValueError, match=r"the blend has sizes \(3,\)"):
        SftSource(both[:1], Blend([3], [1.0], 0), end=0, sequence_length=8, chunk_length=4)
