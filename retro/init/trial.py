"""How fast this machine trains a model, by real training steps on made-up tokens."""

# Dims: B sequences, S tokens, L chunks of a sequence, K neighbors of a chunk, R tokens of a neighbor.

from __future__ import annotations

import logging
import time

import numpy as np
from numpy.typing import NDArray

from retro.mcore import parallel
from retro.model.config import ModelShape
from retro.training.batch import Batch, BatchSpec
from retro.training.config import ParallelConfig, TrainConfig
from retro.training.data_loader import DataLoader
from retro.training.loop import build_engine
from retro.training.precision import choose_for_training
from retro.training.validation import token_losses

log = logging.getLogger(__name__)

STEPS = 3
"""Timed steps, after one that is not: the first one also loads and allocates."""


class _RandomTokens:
    """Samples of random tokens with random neighbors: a step takes as long whatever they say."""

    def __init__(self, shape: ModelShape) -> None:
        self.shape = shape

    @property
    def form(self) -> BatchSpec:
        """Length and neighbors of every batch."""
        return BatchSpec(self.shape.model.sequence_length, self.shape.model.neighbors)

    def fetch(self, sample_numbers: NDArray[np.int64]) -> Batch:
        """The samples of these numbers."""
        shape, model = self.shape, self.shape.model
        random = np.random.default_rng(int(sample_numbers[0]))
        tokens_BS = random.integers(shape.vocabulary, size=(len(sample_numbers), model.sequence_length + 1))
        chunks = model.sequence_length // shape.chunk_length
        neighbors = (len(sample_numbers), chunks, model.neighbors, shape.retrieved_length)
        return Batch(
            tokens_BS=tokens_BS[:, :-1],
            labels_BS=tokens_BS[:, 1:],
            loss_mask_BS=np.ones((len(sample_numbers), model.sequence_length), dtype=np.float32),
            neighbors_BLKR=random.integers(shape.vocabulary, size=neighbors),
            neighbor_mask_BLKR=np.ones(neighbors, dtype=np.bool_),
            token_mask_BS=None,
        )


def tokens_per_second(shape: ModelShape, train: TrainConfig) -> float:
    """Train a few steps and time them.

    Args:
        shape: The model.
        train: Its batch; the precision may be auto.
    """
    choice = choose_for_training(train.precision, (), "train.precision")
    config = train.model_copy(update={"precision": choice.precision})
    engine = build_engine(shape, config, ParallelConfig())
    seconds: list[float] = []
    with DataLoader(_RandomTokens(shape), shape, engine.chunks, config.micro_batch) as feed:
        for step in range(STEPS + 1):
            parallel.seed(config.seed + step)
            work = feed.work(np.arange(config.global_batch, dtype=np.int64) + step * config.global_batch)
            started = time.monotonic()
            # Its loss is a number, so whatever computes it has finished.
            engine.step(work, token_losses)
            seconds.append(time.monotonic() - started)
    rate = config.global_batch * shape.model.sequence_length / float(np.median(seconds[1:]))
    log.info("init: %s trains %.0f tokens/s here (%d timed steps)", shape.model.size, rate, STEPS)
    return rate
