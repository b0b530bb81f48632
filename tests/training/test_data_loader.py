"""Micro batches: samples that do not count, and one length for all that travels between stages."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from retro.mcore import parallel
from retro.mcore.engine import Work
from retro.model.model import BuildOptions, build_stage
from retro.training.batch import Batch
from retro.training.data_loader import DataLoader, MicroBatch, fetch, read_together, to_one_length
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
    feed = DataLoader(CycleSource(), shape, build_stage(shape, BuildOptions()), micro_batch=2)
    work = feed.work(np.arange(4))
    assert (work.transport_rows, work.sequences, len(work.micro_batches)) == (rows, 2, 2)
    assert (work.micro_batches[0].neighbors_BLKR is None) is not retrieval


def tensors(work: Work[MicroBatch]) -> list[list[object]]:
    """Everything in the micro batches, as lists."""
    names = [field.name for field in fields(MicroBatch) if field.name != "further"]
    found = [[*(getattr(one, name) for name in names), *one.further.values()] for one in work.micro_batches]
    return [[None if tensor is None else tensor.tolist() for tensor in batch] for batch in found]


@pytest.mark.parametrize("ragged", [False, True])
def test_what_is_read_ahead_is_what_is_read_when_asked(ragged: bool) -> None:
    parallel.start()
    shape = tiny_shape()
    chunks = build_stage(shape, BuildOptions())
    plain = DataLoader(CycleSource(ragged=ragged), shape, chunks, micro_batch=2)
    with DataLoader(CycleSource(ragged=ragged), shape, chunks, micro_batch=2) as ahead:
        for first in (0, 6, 12):
            asked = np.array([-1, *range(first + 1, first + 6)])
            ahead.expect(asked)
            assert tensors(ahead.work(asked)) == tensors(plain.work(asked))


@pytest.mark.parametrize("ragged", [False, True])
def test_tokens_are_counted_as_long_as_batches_are(ragged: bool) -> None:
    parallel.start()
    shape = tiny_shape()
    with DataLoader(CycleSource(ragged=ragged), shape, build_stage(shape, BuildOptions()), micro_batch=2) as feed:
        seen = [feed.work(np.arange(first, first + 4)).micro_batches for first in (0, 4)]
    tensors_BS = [batch.tokens_BS for part in seen for batch in part]
    assert feed.tokens == sum(one.numel() for one in tensors_BS if one is not None)
    assert (feed.tokens == 8 * CycleSource().length) is not ragged


def test_an_error_of_the_source_comes_up_in_the_step_that_needs_its_sample() -> None:
    parallel.start()
    shape = tiny_shape()
    with DataLoader(CycleSource(broken_after=4), shape, build_stage(shape, BuildOptions()), micro_batch=2) as feed:
        feed.work(np.arange(2))
        feed.expect(np.arange(2, 6))
        with pytest.raises(KeyboardInterrupt):
            feed.work(np.arange(2, 6))


@pytest.mark.parametrize("micro_batch", [1, 3, 50, 100])
def test_micro_batches_read_together_are_those_read_alone(micro_batch: int) -> None:
    numbers = np.arange(300)
    source = CycleSource()
    together = read_together(source, numbers, micro_batch)
    alone = [source.fetch(part) for part in np.split(numbers, 300 // micro_batch)]
    assert len(together) == len(alone)
    for one, other in zip(together, alone, strict=True):
        for field in fields(Batch):
            assert np.array_equal(getattr(one, field.name), getattr(other, field.name))


def test_narrow_numbers_are_widened() -> None:
    class Narrow(CycleSource):
        def fetch(self, sample_numbers: NDArray[np.int64]) -> Batch:
            batch = super().fetch(sample_numbers)
            assert batch.neighbors_BLKR is not None
            return replace(
                batch,
                tokens_BS=batch.tokens_BS.astype(np.int32),
                labels_BS=batch.labels_BS.astype(np.int32),
                neighbors_BLKR=batch.neighbors_BLKR.astype(np.int32),
            )

    parallel.start()
    shape = tiny_shape()
    chunks = build_stage(shape, BuildOptions())
    narrow, wide = (DataLoader(source, shape, chunks, 2).work(np.arange(4)) for source in (Narrow(), CycleSource()))
    assert narrow.micro_batches[0].tokens_BS is not None
    assert narrow.micro_batches[0].tokens_BS.dtype == torch.int64
    assert tensors(narrow) == tensors(wide)


@pytest.mark.parametrize("ragged", [False, True])
def test_what_a_loss_reads_beside_the_tokens_comes_along(ragged: bool) -> None:
    class Further(CycleSource):
        def fetch(self, sample_numbers: NDArray[np.int64]) -> Batch:
            batch = super().fetch(sample_numbers)
            ids_BK = np.stack((sample_numbers, sample_numbers + 100), axis=1).astype(np.int32)
            return replace(batch, further={"ids": ids_BK, "odd": sample_numbers % 2 == 1})

    parallel.start()
    shape = tiny_shape()
    feed = DataLoader(Further(ragged=ragged), shape, build_stage(shape, BuildOptions()), 2)
    first, second = feed.work(np.array([4, 5, 6, 7])).micro_batches
    assert list(first.further) == ["ids", "odd"]
    assert first.further["ids"].tolist() == [[4, 104], [5, 105]]
    assert second.further["ids"].tolist() == [[6, 106], [7, 107]]
    assert second.further["ids"].dtype == torch.int64
    assert second.further["odd"].tolist() == [False, True]
