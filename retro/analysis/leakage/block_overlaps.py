"""The work on one block: held-out chunks against their neighbors, or against a piece of the training text."""

# Dims in this file. Q chunks of a block   K neighbors saved   M tokens in a chunk   R tokens of a neighbor, 2 M

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from retro.analysis.leakage.chunk_trie import ChunkTrie
from retro.corpus.reader import SPLITS, Corpus, TokenStream
from retro.db.reader import ChunkDatabase
from retro.neighbors.reader import Neighbors
from retro.neighbors.text_overlap import NO_TOKEN, longest_common_substring

Int32 = NDArray[np.int32]
Advance = Callable[[int], None]

_CHUNKS_AT_ONCE = 1024
_POSITIONS_AT_ONCE = 1 << 18


@dataclass(frozen=True)
class Overlaps:
    """The streams of one split, measured against the training split."""

    corpus: Corpus
    db: ChunkDatabase
    neighbors: Neighbors
    split: str
    _tries: dict[tuple[int, range], ChunkTrie] = field(default_factory=dict)

    def stream(self, source: int, split: str = "") -> TokenStream:
        """A source's stream of the split, or of another one."""
        return TokenStream(self.corpus, source, SPLITS.index(split or self.split), self.db.chunk_length)

    def text(self, source: int, chunks: range) -> Int32:
        """[Q, M] tokens of chunks; below zero at the end of a document."""
        chunk_Q = np.arange(chunks.start, chunks.stop, dtype=np.int64)
        return self._without_ends(self.stream(source).tokens(chunk_Q * self.db.chunk_length, self.db.chunk_length))

    def with_neighbors(self, source: int, chunks: range, advance: Advance) -> tuple[Int32, Int32]:
        """Longest common token substrings of chunks with neighbors and their continuations.

        Args:
            source: Number of the source.
            chunks: Chunk numbers.
            advance: Called with how many chunks are done.

        Returns:
            [Q, K] tokens shared with each saved neighbor of the chunk itself: the paper's measure; and [Q, K] with each
            saved neighbor of the chunk before it: those that a model reads while it predicts the chunk. 0 where there
            is not such a neighbor.
        """
        own_QK, read_QK = (np.zeros((len(chunks), self.neighbors.saved), dtype=np.int32) for _ in range(2))
        for first in range(chunks.start, chunks.stop, _CHUNKS_AT_ONCE):
            part = range(first, min(first + _CHUNKS_AT_ONCE, chunks.stop))
            rows = slice(part.start - chunks.start, part.stop - chunks.start)
            chunk_QM = self.text(source, part)
            chunk_Q = np.arange(part.start, part.stop, dtype=np.int64)
            own_QK[rows] = self._shared(chunk_QM, source, chunk_Q)
            read_QK[rows] = self._shared(chunk_QM, source, chunk_Q - 1)
            advance(len(part))
        return own_QK, read_QK

    def _shared(self, chunk_QM: Int32, source: int, asking_Q: NDArray[np.int64]) -> NDArray[np.int64]:
        """[Q, K] tokens shared by each chunk with the neighbors of the chunks `asking_Q`; -1 has none."""
        split, saved = SPLITS.index(self.split), self.neighbors.saved
        ids_QK = self.neighbors.of(split, source, np.maximum(asking_Q, 0), saved)
        ids_QK[asking_Q < 0] = -1
        tokens_QKR, mask_QKR = self.db.neighbor_tokens(ids_QK)
        text_QKR = np.where(mask_QKR, self._without_ends(tokens_QKR), np.int32(NO_TOKEN))
        lengths = longest_common_substring(np.repeat(chunk_QM, saved, axis=0), text_QKR.reshape(-1, text_QKR.shape[-1]))
        return lengths.reshape(ids_QK.shape)

    def with_training_text(
        self, source: int, chunks: range, training_source: int, positions: range, advance: Advance
    ) -> NDArray[np.int32]:
        """[Q] tokens of the longest run that each chunk shares with a piece of the training text.

        Args:
            source: Number of the chunks' source.
            chunks: Chunk numbers.
            training_source: Number of the source whose train stream is read.
            positions: The piece: runs begin in it, and may end behind it.
            advance: Called with how many positions are done.
        """
        trie = self._trie(source, chunks)
        stream = self.stream(training_source, SPLITS[0])
        for first in range(positions.start, positions.stop, _POSITIONS_AT_ONCE):
            starts = min(_POSITIONS_AT_ONCE, positions.stop - first)
            width = min(starts + self.db.chunk_length - 1, stream.length - first)
            trie.read(self._without_ends(stream.tokens([first], width)[0]), starts)
            advance(starts)
        return trie.longest().astype(np.int32)

    def _trie(self, source: int, chunks: range) -> ChunkTrie:
        """The trie of some chunks, that has read nothing; the last one made is kept, for blocks come in order."""
        if (source, chunks) not in self._tries:
            self._tries.clear()
            self._tries[source, chunks] = ChunkTrie(self.text(source, chunks))
        trie = self._tries[source, chunks]
        trie.forget()
        return trie

    def _without_ends(self, tokens: Int32) -> Int32:
        return np.where(tokens == self.corpus.tokenizer.eod, np.int32(NO_TOKEN), tokens)
