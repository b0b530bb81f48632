"""Pretraining samples: sequences of the packed streams, with the neighbors of each of their chunks."""

# Dims in this file.
#   B sequences   S tokens of a sequence   M tokens in a chunk   L chunks of a sequence, S // M
#   K neighbors of a chunk   R tokens of a neighbor

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from retro.common.errors import ConfigError, DataError
from retro.corpus.reader import Corpus, TokenStream
from retro.db.reader import ChunkDatabase
from retro.mcore.blending import blend
from retro.neighbors.reader import Neighbors
from retro.training.batch import Batch, BatchSpec

Int64 = NDArray[np.int64]
Parts = list[tuple[int, Int64]]
NeighborMode = Literal["real", "shuffled", "none"]
T = TypeVar("T", bound=np.generic)
_HIDING = 1 << 32
"""Beside the seed where neighbors are hidden; an order is drawn with a source's number and an epoch there."""


class SequenceReader:
    """Sequences of one split by (source, number), with or without neighbors."""

    def __init__(
        self,
        corpus: Corpus,
        database: ChunkDatabase,
        neighbors: Neighbors | None,
        *,
        split: int,
        sequence_length: int,
        neighbors_read: int,
        mode: NeighborMode = "real",
        seed: int = 0,
        begin: int | None = None,
    ) -> None:
        chunk = database.chunk_length
        if sequence_length % chunk:
            need = f"needs a multiple of the database's chunk length, {chunk}"
            raise ConfigError("model.sequence_length", sequence_length, need)
        self.database, self.neighbors, self.mode = database, neighbors, mode
        self.split, self.length, self.read = split, sequence_length, neighbors_read
        self.chunks = sequence_length // chunk
        self.eod, self.begin = corpus.tokenizer.eod, begin
        self.streams = [TokenStream(corpus, number, split, chunk) for number in range(len(corpus.sources))]
        self._orders = [np.random.default_rng((seed, n)).permutation(s.chunks) for n, s in enumerate(self.streams)]

    @property
    def form(self) -> BatchSpec:
        """Length and neighbors of every batch."""
        reads = self.neighbors is not None and self.mode != "none"
        return BatchSpec(self.length, self.read if reads else 0)

    def whole_sequences(self, source: int) -> int:
        """Sequences of S + 1 tokens in a source's stream (neighbors in a row share one token)."""
        return max((self.streams[source].length - 1) // self.length, 0)

    def fetch(self, source: int | Int64, numbers: Int64) -> Batch:
        """Sequences by number; a last, shorter sequence is padded and its padding not counted.

        Args:
            source: Number of the source, of all sequences or of each.
            numbers: [B] numbers of sequences within their sources.
        """
        parts = _by_source(source, numbers)
        tokens_BS = _together([self._tokens(one, numbers[rows]) for one, rows in parts], parts)
        real_B = _together([self._real(one, numbers[rows]) for one, rows in parts], parts)
        neighbors, neighbor_mask = self._neighbors(parts, numbers)
        inputs_BS = tokens_BS[:, :-1]
        if self.begin is not None:
            # In place of the token before the first one that is asked for: chunks stay where they are.
            inputs_BS = inputs_BS.copy()
            inputs_BS[:, 0] = self.begin
        return Batch(
            tokens_BS=inputs_BS,
            labels_BS=tokens_BS[:, 1:],
            loss_mask_BS=self._counted(real_B),
            neighbors_BLKR=neighbors,
            neighbor_mask_BLKR=neighbor_mask,
            token_mask_BS=None,
        )

    def _real(self, source: int, numbers: Int64) -> Int64:
        """[B] labels that count: all but those behind the end of the stream."""
        return np.clip(self.streams[source].length - 1 - numbers * self.length, 0, self.length)

    def _counted(self, real_B: Int64) -> NDArray[np.float32]:
        """[B, S] 1 on the first `real_B` labels."""
        if (real_B == self.length).all():
            return np.ones((len(real_B), self.length), dtype=np.float32)
        return (np.arange(self.length) < real_B[:, None]).astype(np.float32)

    def _tokens(self, source: int, numbers: Int64) -> NDArray[np.int32]:
        """[B, S + 1] tokens, each sequence with the first one of the next."""
        stream, starts = self.streams[source], numbers * self.length
        if starts.max() + self.length < stream.length:
            return stream.tokens(starts, self.length + 1)
        tokens = np.full((len(numbers), self.length + 1), self.eod, dtype=np.int32)
        for row, count in enumerate(self._real(source, numbers).tolist()):
            tokens[row, : count + 1] = stream.tokens(starts[row : row + 1], count + 1)[0]
        return tokens

    def _neighbors(self, parts: Parts, numbers: Int64) -> tuple[NDArray[np.int32] | None, NDArray[np.bool_] | None]:
        if self.neighbors is None or self.mode == "none":
            return None, None
        ids = [self._neighbor_ids(self.neighbors, one, numbers[rows]) for one, rows in parts]
        return self.database.neighbor_tokens(_together(ids, parts))

    def _neighbor_ids(self, neighbors: Neighbors, source: int, numbers: Int64) -> Int64:
        """[B, L, K] rows of the database, -1 for none and for the chunks of padding."""
        chunk_BL = numbers[:, None] * self.chunks + np.arange(self.chunks)
        exists_BL = chunk_BL < self.streams[source].chunks
        whole = bool(exists_BL.all())
        if not whole:
            chunk_BL = np.where(exists_BL, chunk_BL, 0)
        if self.mode == "shuffled":
            chunk_BL = self._orders[source][chunk_BL]
        ids = neighbors.of(self.split, source, chunk_BL.ravel(), self.read).reshape(*chunk_BL.shape, self.read)
        return ids if whole else np.where(exists_BL[..., None], ids, -1)


def _by_source(source: int | Int64, numbers: Int64) -> Parts:
    """Each source that occurs, with the places of its sequences."""
    if isinstance(source, int):
        return [(source, np.arange(len(numbers)))]
    return [(one, np.flatnonzero(source == one)) for one in np.unique(source).tolist()]


def _together(arrays: Sequence[NDArray[T]], parts: Parts) -> NDArray[T]:
    """What was read source by source, in the order of the sequences."""
    if len(arrays) == 1:
        return arrays[0]
    whole = np.empty((sum(map(len, arrays)), *arrays[0].shape[1:]), dtype=arrays[0].dtype)
    for array, (_, rows) in zip(arrays, parts, strict=True):
        whole[rows] = array
    return whole


class TrainingSource:
    """Endless training samples: corpora blended by weight, each read in a new order every epoch."""

    def __init__(self, reader: SequenceReader, corpus: Corpus, samples: int, seed: int, hidden: float = 0.0) -> None:
        """Blend the sources.

        Args:
            reader: Of the training split.
            corpus: Says the sources' weights; one of weight 0 is never drawn from.
            samples: How many will be asked for.
            seed: Draws the order, and which neighbors are hidden.
            hidden: Share of chunks whose neighbors are masked.

        Raises:
            DataError: A source has too little text for one sequence.
        """
        weights = corpus.weights
        self.reader, self.seed, self.hidden = reader, seed, hidden
        self.counts = [reader.whole_sequences(source) for source in range(len(weights))]
        for source, count in enumerate(self.counts):
            if count == 0 and weights[source]:
                raise DataError(
                    corpus.directory,
                    f"the training split of {corpus.sources[source]!r} has {reader.streams[source].length} tokens",
                    f"One sequence needs {reader.length + 1}: add text, or lower model.sequence_length",
                )
        # Of weight 0 a source may still be drawn, by a tie or a rounding: it does not take part.
        drawn = np.flatnonzero(weights)
        if len(drawn) == 1:
            self._source, self._number = np.full(samples, drawn[0]), np.arange(samples, dtype=np.int64)
        else:
            blended, self._number = blend([weights[source] for source in drawn], samples)
            self._source = drawn[blended]
        self._order = lru_cache(maxsize=2 * len(weights))(self._shuffled)

    @property
    def form(self) -> BatchSpec:
        """What all batches have in common."""
        return self.reader.form

    def fetch(self, sample_numbers: Int64) -> Batch:
        """The samples of these numbers, which must be below the number of samples planned."""
        batch = self._whole(sample_numbers)
        if not self.hidden or batch.neighbor_mask_BLKR is None:
            return batch
        seen_BL = np.stack([self._seen(number, batch.neighbor_mask_BLKR.shape[1]) for number in sample_numbers])
        return replace(batch, neighbor_mask_BLKR=batch.neighbor_mask_BLKR & seen_BL[:, :, None, None])

    def _seen(self, sample: int, chunks: int) -> NDArray[np.bool_]:
        """[L] chunks of a sample whose neighbors are not hidden: the same ones whatever it is fetched with."""
        drawn: NDArray[np.bool_] = np.random.default_rng((self.seed, _HIDING, sample)).random(chunks) >= self.hidden
        return drawn

    def _whole(self, sample_numbers: Int64) -> Batch:
        if len(self.counts) == 1:
            return self.reader.fetch(0, self._sequences(0, sample_numbers))
        source_B = self._source[sample_numbers]
        numbers = np.empty(len(source_B), dtype=np.int64)
        for source in np.unique(source_B).tolist():
            here = source_B == source
            numbers[here] = self._sequences(source, sample_numbers[here])
        return self.reader.fetch(source_B, numbers)

    def _sequences(self, source: int, sample_numbers: Int64) -> Int64:
        running = self._number[sample_numbers]
        epochs, places = running // self.counts[source], running % self.counts[source]
        sequences = np.empty(len(places), dtype=np.int64)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            sequences[here] = self._order(source, epoch)[places[here]]
        return sequences

    def _shuffled(self, source: int, epoch: int) -> Int64:
        return np.random.default_rng((self.seed, source, epoch)).permutation(self.counts[source])


class EvaluationSource:
    """Every token of a split once, in stream order, source after source."""

    def __init__(self, reader: SequenceReader) -> None:
        self.reader = reader
        counts = [-(-max(stream.length - 1, 0) // reader.length) for stream in reader.streams]
        self._bounds = np.concatenate(([0], np.cumsum(counts)))
        self.samples = int(self._bounds[-1])

    @property
    def form(self) -> BatchSpec:
        """What all batches have in common."""
        return self.reader.form

    def fetch(self, sample_numbers: Int64) -> Batch:
        """The sequences of these numbers, 0 to `samples` - 1."""
        return self.reader.fetch(*self.places(sample_numbers))

    def places(self, sample_numbers: Int64) -> tuple[Int64, Int64]:
        """Source of each sequence, and its number in that source's stream."""
        source_B = np.searchsorted(self._bounds, sample_numbers, side="right") - 1
        return source_B, sample_numbers - self._bounds[source_B]
