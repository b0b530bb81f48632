"""What is shown of a chunk, its neighbors and a training sample: gathered here, drawn elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from retro.corpus.reader import SPLITS, Corpus, TokenStream
from retro.db.reader import ChunkDatabase
from retro.neighbors.reader import Neighbors
from retro.neighbors.text_overlap import END, overlap
from retro.tokenizers.tokenizer import Tokenizer

Int64 = NDArray[np.int64]
END_SIGN = " ∎ "
"""Stands where a document ends in a stream; the token itself has no text."""


@dataclass(frozen=True)
class Piece:
    """A stretch of text with one mark."""

    text: str
    mark: int
    """PLAIN, SHARED, LONGEST or END of `overlap`."""


@dataclass(frozen=True)
class Origin:
    """A document."""

    identifier: str
    title: str

    @property
    def name(self) -> str:
        """Id and title, where they differ."""
        titled = self.title and self.title != self.identifier
        return f"{self.identifier} ({self.title})" if titled else self.identifier


@dataclass(frozen=True, kw_only=True)
class NeighborView:
    """A row of the database as the neighbor of a chunk."""

    row: int
    origin: Origin
    score: float
    """Inner product with the chunk's vector, 1 for the same direction."""
    chunk: list[Piece]
    continuation: list[Piece]
    """Empty where the document ends."""
    longest: int
    """Tokens of the longest run shared with the chunk."""
    longest_next: int | None
    """And with the next chunk of the stream, which the model predicts while it sees this neighbor; None at its end."""
    share: float
    """`longest` as a share of the chunk's tokens."""

    @property
    def distance(self) -> float:
        """Between the two vectors, which have length 1."""
        return math.sqrt(max(2 - 2 * self.score, 0.0))


@dataclass(frozen=True, kw_only=True)
class ChunkView:
    """A chunk of a stream, and what the model reads beside it."""

    number: int
    own: list[Origin]
    """Documents that its neighbors must not come from."""
    text: list[Piece]
    """Marked where some neighbor shares it."""
    neighbors: list[NeighborView | None]
    """In order; None is a missing one."""


@dataclass(frozen=True, kw_only=True)
class SampleView:
    """A training sample: consecutive chunks of a stream."""

    number: int
    chunks: list[ChunkView]


@dataclass(frozen=True, kw_only=True)
class SampleViewer:
    """One stream of a run, ready to be looked at."""

    corpus: Corpus
    db: ChunkDatabase
    stream: TokenStream
    found: Neighbors
    split: int
    source: int
    shown: int
    """K, neighbors shown of a chunk."""
    sample_chunks: int
    """L, chunks of a training sample."""

    @property
    def samples(self) -> int:
        """Whole samples of the stream."""
        return self.stream.chunks // self.sample_chunks

    @property
    def name(self) -> str:
        """Split and source in words."""
        return f"{SPLITS[self.split]} stream of {self.corpus.sources[self.source]}"

    def sample(self, number: int) -> SampleView:
        """Sample `number` of the stream."""
        first = number * self.sample_chunks
        return SampleView(number=number, chunks=[self.chunk(first + place) for place in range(self.sample_chunks)])

    def chunk(self, number: int) -> ChunkView:
        """Chunk `number` of the stream with its neighbors."""
        tokens = self._tokens(number)
        asked = np.array([number])
        ids = self.found.of(self.split, self.source, asked, self.shown)[0].tolist()
        scores = self.found.scores(self.split, self.source, asked, self.shown)[0].tolist()
        marks = np.zeros(len(tokens), dtype=np.int64)
        views: list[NeighborView | None] = []
        for row, score in zip(ids, scores, strict=True):
            views.append(None if row < 0 else self._neighbor(row, score, number, tokens, marks))
        own = [self._origin(self.source, int(one)) for one in self.stream.own_documents(number)]
        marks[tokens == self.corpus.tokenizer.eod] = END
        text = pieces(self.corpus.tokenizer, tokens, marks)
        return ChunkView(number=number, own=own, text=text, neighbors=views)

    def _tokens(self, number: int) -> Int64:
        length = self.stream.chunk_length
        tokens: Int64 = self.stream.tokens([number * length], length)[0].astype(np.int64)
        return tokens

    def _neighbor(self, row: int, score: float, number: int, tokens: Int64, marks: Int64) -> NeighborView:
        """A neighbor; what it shares with the chunk is merged over `marks`."""
        found, mask = self.db.neighbor_tokens(np.array([row]))
        read = found[0][mask[0]].astype(np.int64)
        eod = self.corpus.tokenizer.eod
        # The end of a document is not text that two chunks could share.
        shared = overlap(np.where(tokens == eod, -1, tokens), read)
        np.maximum(marks, shared.first_M, out=marks)
        first = int(self.db.columns["token_count"][row])
        ahead = self._tokens(number + 1) if number + 1 < self.stream.chunks else None
        longest_next = None if ahead is None else overlap(np.where(ahead == eod, -1, ahead), read).longest
        return NeighborView(
            row=row, origin=Origin(self.db.document_id(row), self.db.document_title(row)), score=score,
            chunk=pieces(self.corpus.tokenizer, read[:first], shared.second_R[:first]),
            continuation=pieces(self.corpus.tokenizer, read[first:], shared.second_R[first:]),
            longest=shared.longest, share=shared.longest / max(int((tokens != eod).sum()), 1),
            longest_next=longest_next,
        )  # fmt: skip

    def _origin(self, source: int, document: int) -> Origin:
        return Origin(self.corpus.document_id(source, document), self.corpus.document_title(source, document))


def pieces(tokenizer: Tokenizer, tokens: Sequence[int] | Int64, marks: Sequence[int] | Int64) -> list[Piece]:
    """Text of tokens, cut where the mark changes; an end of a document becomes a sign.

    Every piece is what its tokens add to the text before them: decoded alone, a token loses the space before it, and
    a character that two tokens share would be lost.
    """
    plain = [int(token) for token in tokens]
    found: list[Piece] = []
    done, end = 0, 0
    for mark, group in groupby(int(mark) for mark in marks):
        end += len(list(group))
        if mark == END:
            found.append(Piece(END_SIGN, END))
            continue
        whole = tokenizer.decode(plain[:end])
        # A character that is not complete yet is left to the next piece.
        until = len(whole) if end == len(plain) else len(whole.rstrip("\ufffd"))
        if until > done:
            found.append(Piece(whole[done:until], mark))
            done = until
    return found


def text_of(marked: Iterable[Piece]) -> str:
    """The text without its marks."""
    return "".join(piece.text for piece in marked)
