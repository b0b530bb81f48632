"""Batches of question and answer for the training loop."""

# Dims in this file.
#   B sequences   N samples   T samples of a set   S tokens of a sequence   L chunks of a sequence
#   K passages   R tokens of a passage

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retro.qa.passages import NeighborTokens
from retro.qa.sample_layout import (
    EncodedSample,
    Layout,
    firsts_of,
    input_lengths,
    input_tokens,
    lay_out,
    lay_out_packed,
)
from retro.sft.blend import Blend
from retro.sft.packing import FillStatistics, Packing
from retro.training.batch import Batch, BatchSpec


@dataclass(frozen=True)
class EncodedSet:
    """One question set, ready to be fetched from."""

    name: str
    samples: Sequence[EncodedSample]
    neighbors: NeighborTokens | None
    """Row n belongs to sample n, later rows to chunks of answers. None: the encoder is off."""
    answer_rows: Sequence[NDArray[np.int64] | None] | None = None
    """For each sample the rows of its answer's finished chunks; None where all chunks read the sample's own row."""

    def read(self, item: int, chunks: slice, chunk_length: int) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """[chunks, K, R] tokens, and which are real, that the chunks of a sequence with this sample read."""
        known = self.neighbors
        if known is None:
            raise ValueError(f"{self.name} has no neighbors to read")
        rows_L = self.rows(item, chunks.stop - chunks.start, chunk_length)
        return known.tokens_NKR[rows_L], known.mask(rows_L) & (rows_L >= 0)[:, None, None]

    def rows(self, item: int, chunks: int, chunk_length: int) -> NDArray[np.int64]:
        """The row of neighbors that each chunk of a sample reads; -1 where it reads nothing.

        Args:
            item: The sample.
            chunks: Chunks to name, the sample's first one first.
            chunk_length: M.
        """
        of_answer = None if self.answer_rows is None else self.answer_rows[item]
        if of_answer is None:
            return np.full(chunks, item, dtype=np.int64)
        rows_L = np.full(chunks, -1, dtype=np.int64)
        of_prompt = -(-len(self.samples[item].prompt) // chunk_length)
        rows_L[:of_prompt] = item
        rows_L[of_prompt : of_prompt + len(of_answer)] = of_answer
        return rows_L


@dataclass(frozen=True)
class PlacedSample:
    """A sample where it is in a sequence."""

    of_set: EncodedSet
    item: int
    first: int
    """Place of its first token."""

    @property
    def sample(self) -> EncodedSample:
        """Its tokens."""
        return self.of_set.samples[self.item]

    @property
    def stop(self) -> int:
        """Place after its last input token."""
        return self.first + input_tokens(self.sample)


class SftSource:
    """A BatchSource over a blend of question sets; sequence numbers continue for ever.

    A sequence holds one sample, or as many as fit when they are packed.
    """

    def __init__(
        self,
        sets: Sequence[EncodedSet],
        blend: Blend,
        *,
        end: int,
        sequence_length: int,
        chunk_length: int,
        packing: bool = False,
    ) -> None:
        """Join sets and blend.

        Args:
            sets: All with neighbors, or all without.
            blend: Its sizes are the sets' sample counts, in the same order.
            end: The end-of-document id.
            sequence_length: S.
            chunk_length: M.
            packing: Whether several samples stand in a row in a sequence.
        """
        if [len(one.samples) for one in sets] != list(blend.sizes):
            raise ValueError(f"the blend has sizes {blend.sizes}, the sets {[len(one.samples) for one in sets]}")
        if len({one.neighbors is None for one in sets}) != 1:
            raise ValueError("some sets have neighbors and some have none")
        self.sets, self.blend = tuple(sets), blend
        self.end, self.sequence_length, self.chunk_length = end, sequence_length, chunk_length
        # Without an encoder there are no chunks to line up with, and pads only take room.
        self.aligned_to = chunk_length if self.encoder else 1
        self.packing: Packing | None = None
        if packing:
            self._lengths_of_sets = [input_lengths(one.samples) for one in sets]
            self.packing = Packing(
                self._lengths, sequence_length=sequence_length, chunk_length=self.aligned_to, seed=blend.seed
            )

    @property
    def form(self) -> BatchSpec:
        """Batches are cropped to their longest sequence and padded on the left."""
        neighbors = self.sets[0].neighbors
        return BatchSpec(None, 0 if neighbors is None else neighbors.tokens_NKR.shape[1])

    @property
    def encoder(self) -> bool:
        """Whether batches carry neighbors."""
        return self.sets[0].neighbors is not None

    def fetch(self, sample_numbers: NDArray[np.int64]) -> Batch:
        """The sequences of these numbers as one batch; the same numbers always give the same bytes."""
        rows = self._standing(np.asarray(sample_numbers, dtype=np.int64))
        # Whole chunks that hold the longest sequence, so that short questions cost little.
        chunks = -(-max(row[-1].stop for row in rows) // self.chunk_length)
        length = min(chunks * self.chunk_length, self.sequence_length)
        layout = self._lay_out(rows, length)
        neighbors_BLKR, mask_BLKR = self._neighbors(rows, length)
        return Batch(
            tokens_BS=layout.tokens_BS,
            labels_BS=layout.labels_BS,
            loss_mask_BS=layout.loss_mask_BS,
            neighbors_BLKR=neighbors_BLKR,
            neighbor_mask_BLKR=mask_BLKR,
            token_mask_BS=layout.token_mask_BS if layout.segments_BS is None else None,
            segments_BS=layout.segments_BS,
        )

    def samples_in(self, sequences: int) -> NDArray[np.int64]:
        """The numbers of the samples, in the blend's order, that the first `sequences` sequences hold."""
        return np.arange(sequences, dtype=np.int64) if self.packing is None else self.packing.first(sequences)

    def filled(self, sequences: int) -> FillStatistics | None:
        """How full the first `sequences` sequences are; None where nothing is packed."""
        if self.packing is None:
            return None
        numbers_N = self.packing.first(sequences)
        return FillStatistics(
            sequences=sequences,
            samples=len(numbers_N),
            real_tokens=int(self._lengths(numbers_N)[1].sum()),
            slots=sequences * self.sequence_length,
        )

    def _lengths(self, numbers_N: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Input tokens of samples by number: of their prompts, and in all."""
        sets_N, items_N = self.blend.draw(numbers_N)
        lengths_2N = np.empty((2, len(numbers_N)), dtype=np.int64)
        for which, known_2T in enumerate(self._lengths_of_sets):
            lengths_2N[:, sets_N == which] = known_2T[:, items_N[sets_N == which]]
        return lengths_2N[0], lengths_2N[1]

    def _standing(self, numbers_B: NDArray[np.int64]) -> list[list[PlacedSample]]:
        """The samples of each sequence, where they stand."""
        groups = self.packing.samples(numbers_B) if self.packing else np.split(numbers_B, len(numbers_B))
        rows = []
        for numbers in groups:
            pairs = zip(*(one.tolist() for one in self.blend.draw(numbers)), strict=True)
            mine = [(self.sets[which], item) for which, item in pairs]
            firsts = firsts_of([of_set.samples[item] for of_set, item in mine], self.aligned_to)
            rows.append([PlacedSample(*one, first) for one, first in zip(mine, firsts, strict=True)])
        return rows

    def _lay_out(self, rows: Sequence[Sequence[PlacedSample]], length: int) -> Layout:
        if self.packing:
            samples = [[one.sample for one in row] for row in rows]
            return lay_out_packed(samples, end=self.end, sequence_length=length, chunk_length=self.aligned_to)
        alone = [one.sample for (one,) in rows]
        return lay_out(alone, end=self.end, sequence_length=length, chunk_length=self.aligned_to)

    def _neighbors(
        self, rows: Sequence[Sequence[PlacedSample]], length: int
    ) -> tuple[NDArray[np.int64] | None, NDArray[np.bool_] | None]:
        known = self.sets[0].neighbors
        if known is None:
            return None, None
        shape = (len(rows), length // self.chunk_length, *known.tokens_NKR.shape[1:])
        tokens_BLKR, mask_BLKR = np.full(shape, self.end, dtype=np.int64), np.zeros(shape, dtype=np.bool_)
        for row, standing in enumerate(rows):
            for one in standing:
                chunks = self._chunks(one, length)
                tokens_BLKR[row, chunks], mask_BLKR[row, chunks] = one.of_set.read(one.item, chunks, self.chunk_length)
        return tokens_BLKR, mask_BLKR

    def _chunks(self, one: PlacedSample, length: int) -> slice:
        """The chunks of a sequence that are a sample's: to the sequence's end, or where it is packed, to its own."""
        stop = one.stop if self.packing else length
        return slice(one.first // self.chunk_length, stop // self.chunk_length)
