"""A source of samples that needs no corpus: tokens that count up, with random neighbors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from retro.training.batch import Batch
from tests.model.tiny import CHUNK, VOCABULARY


class CycleSource:
    """Sample n counts up from a number of its own, modulo the vocabulary."""

    def __init__(self, length: int = 16, *, broken_after: int | None = None) -> None:
        self.length, self.broken_after = length, broken_after
        self.asked: list[int] = []

    def fetch(self, sample_numbers: NDArray[np.int64]) -> Batch:
        """Samples by number."""
        self.asked += sample_numbers.tolist()
        if self.broken_after is not None and sample_numbers.max() >= self.broken_after:
            raise KeyboardInterrupt
        starts = np.array([np.random.default_rng(int(n)).integers(VOCABULARY) for n in sample_numbers])
        tokens = (starts[:, None] + np.arange(self.length + 1)) % VOCABULARY
        shape = (self.length // CHUNK, 2, 2 * CHUNK)
        neighbors = np.stack([np.random.default_rng(int(n)).integers(0, VOCABULARY, shape) for n in sample_numbers])
        return Batch(
            tokens_BS=tokens[:, :-1],
            labels_BS=tokens[:, 1:],
            loss_mask_BS=np.ones((len(tokens), self.length), dtype=np.float32),
            neighbors_BLKR=neighbors,
            neighbor_mask_BLKR=np.ones(neighbors.shape, dtype=bool),
            token_mask_BS=None,
        )
