from __future__ import annotations

import numpy as np
import pytest

from retro.qa.passages import NeighborTokens
from retro.qa.sample_layout import EncodedSample
from retro.sft.blend import Blend
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


def packed(sets: list[EncodedSet], blend: Blend, sequence_length: int = 20) -> SftSource:
    return SftSource(sets, blend, end=0, sequence_length=sequence_length, chunk_length=4, packing=True)


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


def test_packed_samples_read_passages_of_their_own_chunks_alone() -> None:
    # M = 4: 14 15 16 17 | 21, at once followed by 11 12 13, whose prompt so ends at a border | 21 and three pads.
    one_set = encoded_set(neighbors=True)
    sequences = packed([one_set], Blend([2], [1.0], 0), sequence_length=12).fetch(np.array([0, 1]))
    assert sequences.segments_BS is not None
    assert sequences.token_mask_BS is None
    assert sequences.neighbors_BLKR is not None
    assert sequences.neighbor_mask_BLKR is not None
    for row in range(2):
        assert sequences.tokens_BS[row].tolist() == [14, 15, 16, 17, 21, 11, 12, 13, 21, 0, 0, 0]
        assert sequences.segments_BS[row].tolist() == [1, 1, 1, 1, 1, 2, 2, 2, 2, 0, 0, 0]
        # The second chunk is of the sample of its last token; the third ends in pads, which read nothing.
        assert sequences.neighbors_BLKR[row, :2, 0].tolist() == [[5, 6, 0], [1, 2, 3]]
        assert sequences.neighbor_mask_BLKR[row].sum(axis=2).tolist() == [[2, 0], [3, 1], [0, 0]]
    assert sequences.loss_mask_BS.sum(axis=1).tolist() == [4, 4]


def test_packed_the_blend_holds_in_samples_and_its_fill_is_told() -> None:
    sets = [encoded_set(neighbors=False), encoded_set(neighbors=False)]
    mixed = packed(sets, Blend([2, 2], [3.0, 1.0], 0), sequence_length=9)
    # Without neighbors a sample takes 4 or 5 slots: two in each sequence, as many of each length.
    sets_N, _ = mixed.blend.draw(mixed.samples_in(512))
    assert np.bincount(sets_N).tolist() == [768, 256]
    filled = mixed.filled(512)
    assert filled is not None
    assert (filled.samples, filled.slots) == (1024, 512 * 9)
    assert filled.efficiency == 1.0
    assert source().filled(8) is None
    assert source().samples_in(3).tolist() == [0, 1, 2]


def test_packed_sequences_are_a_function_of_their_numbers() -> None:
    def one() -> SftSource:
        return packed([encoded_set(neighbors=True)], Blend([2], [1.0], 0))

    later, first = one().fetch(np.array([700])), one().fetch(np.array([2, 700]))
    assert later.tokens_BS[0].tolist() == first.tokens_BS[1].tolist()
