"""The overlaps of one block: held-out chunks against their neighbors, or against a piece of the training text.

All runs of tokens that begin in a chunk, up to its end, form a trie. The text walks down the trie from every position
at once, one token deeper at a time; most positions fall off after a few tokens. What was walked through is in both.
Nodes are found by (parent, token), never by a hash, so nothing needs to be verified. A run that no other place of the
chunks begins with is not spelled out in nodes: from there on, tokens are compared one by one.

Memory is that of the chunks' trie and of one slice of the text, however long the text is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from retro.corpus.reader import SPLITS, Corpus, TokenStream
from retro.db.reader import ChunkDatabase
from retro.neighbors.reader import Neighbors
from retro.neighbors.text_overlap import NO_TOKEN, longest_common_substring

# Dims in this file. C chunks   M tokens in a chunk   E tokens of all chunks, each chunk with an end mark
#   W places still walking   N nodes of one depth   T tokens of a slice of text


Int64 = NDArray[np.int64]
Int32 = NDArray[np.int32]

# Neither equals any token, nor each other.
_CHUNK_END, _TEXT_END = -1, -2


class Depth(NamedTuple):
    """The nodes at one depth."""

    key_N: Int64
    """Ascending, parent times vocabulary plus token."""
    child_N: Int64
    """What the parent's number is for the next depth; or, where only one place spells this run, -1 - that place."""
    seen_N: NDArray[np.bool_]
    """Whether the text has come here."""


class ChunkTrie:
    """All runs of tokens of some chunks, and how far a text has walked along them."""

    def __init__(self, chunk_CM: Int32) -> None:
        """Build the trie.

        Args:
            chunk_CM: [C, M] tokens; below zero is none, and no run holds it.
        """
        chunks, self._length = chunk_CM.shape
        ended_CM = np.full((chunks, self._length + 1), _CHUNK_END, dtype=np.int32)
        ended_CM[:, :-1] = np.where(chunk_CM < 0, _CHUNK_END, chunk_CM)
        self._tokens_E = ended_CM.ravel()
        self._vocabulary = int(self._tokens_E.max(initial=0)) + 1
        self._longest_C = np.zeros(chunks, dtype=np.int64)
        self._depths = self._build()

    def _build(self) -> list[Depth]:
        depths: list[Depth] = []
        place_W = np.arange(len(self._tokens_E))
        node_W = np.zeros_like(place_W)
        while True:
            token_W = self._tokens_E[place_W + len(depths)] if len(place_W) else place_W
            going_W = token_W >= 0
            place_W, node_W, token_W = place_W[going_W], node_W[going_W], token_W[going_W]
            if not len(place_W):
                return depths
            key_N, first_N, node_W, count_N = np.unique(
                node_W * self._vocabulary + token_W, return_index=True, return_inverse=True, return_counts=True
            )
            shared_N = count_N > 1
            child_N = np.where(shared_N, np.cumsum(shared_N) - 1, -1 - place_W[first_N])
            depths.append(Depth(key_N, child_N, np.zeros(len(key_N), dtype=np.bool_)))
            shared_W = shared_N[node_W]
            place_W, node_W = place_W[shared_W], child_N[node_W[shared_W]]

    def read(self, tokens_T: Int32, starts: int) -> None:
        """Walk from the first `starts` positions of a slice of the text.

        Args:
            tokens_T: [T] tokens; below zero is the end of a document. Beyond `starts`, the slice holds M - 1 tokens
                more, or ends where the text ends.
            starts: Positions to walk from.
        """
        text_T = np.append(np.where(tokens_T < 0, _TEXT_END, tokens_T), np.int32(_TEXT_END))
        position_W, node_W = np.arange(starts), np.zeros(starts, dtype=np.int64)
        for depth, here in enumerate(self._depths):
            if not len(position_W):
                return
            found_W, at_W = self._step(here, node_W, text_T[position_W + depth])
            position_W, at_W = position_W[found_W], at_W[found_W]
            here.seen_N[at_W] = True
            child_W = here.child_N[at_W]
            alone_W = child_W < 0
            self._compare(text_T, position_W[alone_W], -1 - child_W[alone_W], depth + 1)
            position_W, node_W = position_W[~alone_W], child_W[~alone_W]

    def _step(self, here: Depth, node_W: Int64, token_W: Int32) -> tuple[NDArray[np.bool_], Int64]:
        """Whether each place finds its next token below its node, and where at this depth."""
        key_W = node_W * self._vocabulary + token_W
        at_W = np.minimum(np.searchsorted(here.key_N, key_W), len(here.key_N) - 1)
        known_W = (token_W >= 0) & (token_W < self._vocabulary)
        return known_W & (here.key_N[at_W] == key_W), at_W

    def _compare(self, text_T: Int32, position_W: Int64, place_W: Int64, length: int) -> None:
        """Go on, token by token, from places that share `length` tokens with the text."""
        while len(position_W):
            chunk_W = place_W // (self._length + 1)
            better_W = length > self._longest_C[chunk_W]
            self._longest_C[chunk_W[better_W]] = length
            # Both end in marks that differ, so no place runs past its chunk or past the text.
            same_W = text_T[position_W + length] == self._tokens_E[place_W + length]
            position_W, place_W, length = position_W[same_W], place_W[same_W], length + 1

    def longest(self) -> Int64:
        """[C] tokens of the longest run that each chunk shares with what was read so far."""
        longest_C = self._longest_C.copy()
        place_W = np.arange(len(self._tokens_E))
        node_W = np.zeros_like(place_W)
        for depth, here in enumerate(self._depths):
            found_W, at_W = self._step(here, node_W, self._tokens_E[place_W + depth])
            place_W, at_W = place_W[found_W], at_W[found_W]
            shared_W = here.seen_N[at_W] & (here.child_N[at_W] >= 0)
            place_W, node_W = place_W[shared_W], here.child_N[at_W[shared_W]]
            if not len(place_W):
                break
            chunk_W = place_W // (self._length + 1)
            longest_C[chunk_W] = np.maximum(longest_C[chunk_W], depth + 1)
        return longest_C

    def forget(self) -> None:
        """Begin again with another text."""
        self._longest_C[:] = 0
        for here in self._depths:
            here.seen_N[:] = False


# Dims in this file. Q chunks of a block   K neighbors saved   M tokens in a chunk   R tokens of a neighbor, 2 M


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
