"""A source of samples that needs no corpus: tokens that count up, with random neighbors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from retro.training.batch import Batch, BatchSpec
from tests.model.tiny import CHUNK, VOCABULARY


class CycleSource:
    """Sample n counts up from a number of its own, modulo the vocabulary."""

    def __init__(
        self, length: int = 16, *, broken_after: int | None = None, ragged: bool = False, packed: bool = False
    ) -> None:
        """Fix the form of all samples.

        Args:
            length: Tokens in a sequence, at most.
            broken_after: Asking for this sample, or a later one, is a keyboard interrupt.
            ragged: Samples have one to three chunks less and are padded on the left, as in tuning.
            packed: A sequence is two or three samples in a row, each with pads on its left, up to a chunk's border.
        """
        self.length, self.broken_after, self.ragged, self.packed = length, broken_after, ragged, packed
        self.asked: list[int] = []

    @property
    def form(self) -> BatchSpec:
        """Two neighbors a chunk."""
        return BatchSpec(None if self.ragged or self.packed else self.length, 2)

    def fetch(self, sample_numbers: NDArray[np.int64]) -> Batch:
        """Samples by number."""
        self.asked += sample_numbers.tolist()
        if self.broken_after is not None and sample_numbers.max() >= self.broken_after:
            raise KeyboardInterrupt
        starts = np.array([np.random.default_rng(int(n)).integers(VOCABULARY) for n in sample_numbers])
        tokens = (starts[:, None] + np.arange(self.length + 1)) % VOCABULARY
        shape = (self.length // CHUNK, 2, 2 * CHUNK)
        neighbors = np.stack([np.random.default_rng(int(n)).integers(0, VOCABULARY, shape) for n in sample_numbers])
        mask = np.ones(neighbors.shape, dtype=bool)
        mask[sample_numbers % 2 == 0, 0, 1] = False  # one neighbor is missing
        mask[:, 1, 0, CHUNK:] = False  # one has no continuation
        batch = Batch(
            tokens_BS=tokens[:, :-1],
            labels_BS=tokens[:, 1:],
            loss_mask_BS=np.ones((len(tokens), self.length), dtype=np.float32),
            neighbors_BLKR=neighbors,
            neighbor_mask_BLKR=mask,
            token_mask_BS=None,
        )
        if self.packed:
            return self._cut(batch, sample_numbers)
        return self._shortened(batch, sample_numbers) if self.ragged else batch

    def _cut(self, batch: Batch, sample_numbers: NDArray[np.int64]) -> Batch:
        """Every sequence falls into samples; odd ones have a border more than even ones."""
        slots_S = np.arange(self.length)
        borders_BS = (slots_S == 2 * CHUNK) | ((slots_S == CHUNK) & (sample_numbers[:, None] % 2 == 1))
        segments_BS = 1 + np.cumsum(borders_BS, axis=1)
        # One pad before the second sample, and the last slot.
        pads_BS = borders_BS | (slots_S == self.length - 1)
        real_BS = ~pads_BS
        return replace(
            batch,
            loss_mask_BS=real_BS.astype(np.float32),
            segments_BS=np.where(real_BS, segments_BS, 0).astype(np.int32),
        )

    def _shortened(self, batch: Batch, sample_numbers: NDArray[np.int64]) -> Batch:
        """Samples keep their last chunks; the batch is as long as its longest."""
        lengths_B = self.length - CHUNK * (1 + sample_numbers % 3)
        longest = int(lengths_B.max())
        real_BS = np.arange(longest) >= longest - lengths_B[:, None]
        first = (self.length - longest) // CHUNK
        assert batch.neighbors_BLKR is not None
        assert batch.neighbor_mask_BLKR is not None
        real_BL = real_BS[:, ::CHUNK]
        return Batch(
            tokens_BS=np.where(real_BS, batch.tokens_BS[:, -longest:], 0),
            labels_BS=batch.labels_BS[:, -longest:],
            loss_mask_BS=real_BS.astype(np.float32),
            neighbors_BLKR=batch.neighbors_BLKR[:, first:],
            neighbor_mask_BLKR=batch.neighbor_mask_BLKR[:, first:] & real_BL[:, :, None, None],
            token_mask_BS=real_BS,
        )
