"""Micro batches: samples that do not count, and one length for all that travels between stages."""

from __future__ import annotations

import numpy as np
import pytest

from retro.mcore import parallel
from retro.model.model import BuildOptions, build_stage
from retro.training.batch import Batch
from retro.training.feed import Feed, fetch, to_one_length
from tests.model.tiny import CHUNK, tiny_shape
from tests.training.fake import CycleSource


def test_a_sample_that_does_not_count_has_no_label_and_changes_no_other() -> None:
    source = CycleSource()
    batch, alone = fetch(source, np.array([-1, 5])), source.fetch(np.array([5]))
    assert batch.loss_mask_BS.sum(axis=1).tolist() == [0.0, 16.0]
    assert batch.tokens_BS[1].tolist() == alone.tokens_BS[0].tolist()
    assert fetch(source, np.array([-1, -1])).loss_mask_BS.sum() == 0


def test_shorter_batches_are_padded_on_the_right_with_nothing_real() -> None:
    short = Batch(
        tokens_BS=np.array([[7, 8]]),
        labels_BS=np.array([[8, 9]]),
        loss_mask_BS=np.ones((1, 2), dtype=np.float32),
        neighbors_BLKR=np.full((1, 1, 1, 4), 3),
        neighbor_mask_BLKR=np.ones((1, 1, 1, 4), dtype=bool),
        token_mask_BS=np.array([[False, True]]),
    )
    long = Batch(
        tokens_BS=np.array([[1, 2, 3, 4]]),
        labels_BS=np.array([[2, 3, 4, 5]]),
        loss_mask_BS=np.ones((1, 4), dtype=np.float32),
        neighbors_BLKR=np.full((1, 2, 1, 4), 3),
        neighbor_mask_BLKR=np.ones((1, 2, 1, 4), dtype=bool),
        token_mask_BS=None,
    )
    padded, same = to_one_length([short, long], chunk_length=2)
    assert padded.tokens_BS.tolist() == [[7, 8, 0, 0]]
    assert padded.loss_mask_BS.tolist() == [[1, 1, 0, 0]]
    assert padded.token_mask_BS is not None
    assert padded.token_mask_BS.tolist() == [[False, True, False, False]]
    assert padded.neighbor_mask_BLKR is not None
    assert padded.neighbor_mask_BLKR.any(axis=-1).ravel().tolist() == [True, False]
    assert same.tokens_BS.tolist() == long.tokens_BS.tolist()
    assert same.token_mask_BS is not None
    assert same.token_mask_BS.all()


@pytest.mark.parametrize(("retrieval", "rows"), [(True, 16 + 4 * 2 * 2 * CHUNK), (False, 16)])
def test_what_travels_has_a_row_for_each_token_and_each_neighbor_token(retrieval: bool, rows: int) -> None:
    parallel.start()
    parallel.seed(1)
    shape = tiny_shape(retrieval=retrieval)
    feed = Feed(CycleSource(), shape, build_stage(shape, BuildOptions()), micro_batch=2)
    work = feed.work(np.arange(4))
    assert (work.transport_rows, work.sequences, len(work.micro_batches)) == (rows, 2, 2)
    assert (work.micro_batches[0].neighbors_BLKR is None) is not retrieval
