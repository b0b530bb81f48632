"""The neighbors of one run of stream chunks: embed, search train rows, filter, search again where too few are left."""

# Dims in this file. Q queries   C candidates   K neighbors kept   M tokens in a chunk

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from retro.common.blocks import Block
from retro.corpus.reader import TokenStream
from retro.index.embeddings import texts_of
from retro.index.rerank import Hits
from retro.index.search import BM25, DENSE, Candidates, Queries, TextSearch, by_text
from retro.index.searcher import Searcher
from retro.neighbors.config import FilterConfig
from retro.neighbors.dedup import OWN_DOCUMENT, REASONS, CopyFilter
from retro.neighbors.document_map import FilteredNeighbors, keep_first, own_document_mask, positions_in_stream

Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]

NEIGHBORS, SCORES = "neighbors", "scores"
FEW = ("few_chunks", "few_found", "filtered", "no_text")
"""Why a query has fewer than K neighbors: the train split has not as many chunks of other documents; an approximate
index did not find as many, or no more share a word with it; copies were filtered out, and nothing else was left to take
their place; the query has no text."""
FOUND_BY = {"dense": DENSE, "bm25": BM25, "both": DENSE + BM25}
"""What found a neighbor, in reports."""
COUNTS = ("queries", "candidates", "looked_at", *REASONS, "searched_deeper", *FEW, *FOUND_BY)
"""What is counted per block. `candidates` are those of the first search, `looked_at` those of them whose tokens were
compared: as many as it took to keep K. The reasons for dropping count among these."""


class FirstSearch(NamedTuple):
    """What is known of a block of queries before it is made."""

    vectors_QD: NDArray[np.float32]
    """The embedded queries; zeros where there is no text."""
    hits: Hits
    """[Q, C] what the first search finds for each."""


@dataclass(frozen=True)
class StreamQueries:
    """One stream of the corpus, asked against one index."""

    searcher: Searcher | TextSearch
    stream: TokenStream
    filters: FilterConfig = field(default_factory=FilterConfig)

    @cached_property
    def _by_text(self) -> TextSearch:
        return by_text(self.searcher)

    @cached_property
    def _positions(self) -> dict[int, Int64]:
        """Stream positions of the database's documents, by source of the database."""
        return positions_in_stream(self.searcher.db, self.stream)

    @cached_property
    def _copies(self) -> CopyFilter:
        return CopyFilter(self.searcher.db, self.stream, self.filters)

    def block(
        self,
        chunks: range,
        saved: int,
        searched: int,
        advance: Callable[[int], None],
        first: FirstSearch | None = None,
    ) -> Block:
        """Neighbors of consecutive chunks.

        Args:
            chunks: Chunk numbers in the stream.
            saved: K, neighbors kept per chunk.
            searched: Candidates asked for at first.
            advance: Called with how many chunks are done.
            first: The embedded queries and what the first search finds, where that is known.
        """
        # In the stream's order, not sorted by inverted list: chunks of one text fall into the same lists as it is. On
        # one core and 60,000 vectors in IVF1024,SQ8, 2,000 queries took 0.24 s of processor time in this order, 0.25 s
        # sorted, 0.29 s shuffled, and 0.41 s by faiss.contrib's big_batch_search.
        chunk_Q = np.arange(chunks.start, chunks.stop, dtype=np.int64)
        queries = self._prepare(chunks, advance) if first is None else Queries.of_vectors(first.vectors_QD)
        counts = dict.fromkeys(COUNTS, 0)
        ids_QK = np.full((len(chunk_Q), saved), -1, dtype=np.int64)
        scores_QK = np.full((len(chunk_Q), saved), -np.inf, dtype=np.float32)
        origin_QK = np.zeros(ids_QK.shape, dtype=np.int8)
        left, depth = np.flatnonzero(queries.has_text_Q), searched
        while len(left):
            if first is not None and depth == searched:
                hits = Candidates.by(DENSE, _those(first.hits, left))
            else:
                hits = self._search(queries.take(left), depth)
            found = self._judge(chunk_Q[left], hits, saved, depth)
            ids_QK[left], scores_QK[left] = found.kept
            origin_QK[left] = found.origin_QK
            # A full list of candidates means that the index has more to give.
            deeper_Q = found.too_few & found.full_Q & (depth < len(self.searcher.db.retrievable))
            if depth == searched:
                counts |= found.dropped | {"searched_deeper": int(deeper_Q.sum())}
            for reason, few_Q in found.why_too_few(saved).items():
                counts[reason] += int((few_Q & ~deeper_Q).sum())
            left, depth = left[deeper_Q], depth * 2
        if first is not None:
            advance(len(chunk_Q))
        counts |= {"queries": len(chunk_Q), "no_text": int((~queries.has_text_Q).sum())}
        counts |= {name: int((origin_QK == origin).sum()) for name, origin in FOUND_BY.items()}
        return Block({NEIGHBORS: ids_QK, SCORES: scores_QK}, counts)

    def embed(self, chunks: range, advance: Callable[[int], None]) -> NDArray[np.float32]:
        """[Q, D] the vectors of consecutive chunks; zeros for one without text. For searches by vectors alone."""
        vectors_QD = self._prepare(chunks, advance).vectors_QD
        if vectors_QD is None:
            raise ValueError("a search by words has no vectors")
        return vectors_QD

    def _prepare(self, chunks: range, advance: Callable[[int], None]) -> Queries:
        chunk_Q = np.arange(chunks.start, chunks.stop, dtype=np.int64)
        tokens_QM = self.stream.tokens(chunk_Q * self.stream.chunk_length, self.stream.chunk_length)
        tokenizer = self.searcher.db.corpus.tokenizer
        texts = texts_of(tokenizer, tokens_QM, np.ones(tokens_QM.shape, dtype=bool))
        return self._by_text.prepare(texts, advance)

    def _search(self, queries: Queries, depth: int) -> Candidates:
        rows = self.searcher.db.retrievable
        return self._by_text.search(queries, min(depth, max(len(rows), 1)), rows)

    def _judge(self, chunk_Q: Int64, hits: Candidates, saved: int, depth: int) -> _Filtered:
        ids_QC, scores_QC, _ = hits
        there_QC = ids_QC >= 0
        own_QC = np.zeros(ids_QC.shape, dtype=np.bool_)
        if self.filters.own_document:
            own_QC = own_document_mask(self._document_positions(ids_QC), *self.stream.chunk_documents(chunk_Q))
            own_QC &= there_QC
        reason_QC, looked_at = self._copies.reasons(chunk_Q, ids_QC, there_QC & ~own_QC, saved)
        reason_QC[own_QC] = OWN_DOCUMENT
        found_Q = there_QC.sum(axis=1)
        return _Filtered(
            kept=keep_first(ids_QC, scores_QC, reason_QC > 0, saved),
            origin_QK=_kept_origins(hits, reason_QC > 0, saved),
            full_Q=found_Q == depth,
            all_rows_Q=found_Q == len(self.searcher.db.retrievable),
            copies_Q=(reason_QC > OWN_DOCUMENT).sum(axis=1),
            dropped={"candidates": int(there_QC.sum()), "looked_at": looked_at}
            | {name: int((reason_QC == number).sum()) for number, name in enumerate(REASONS, start=1)},
        )

    def _document_positions(self, ids_QC: Int64) -> Int64:
        """[Q, C] stream position of each candidate's document; -1 for documents of other streams."""
        db = self.searcher.db
        rows_QC = np.maximum(ids_QC, 0)
        source_QC, document_QC = db.columns["source"][rows_QC], db.columns["document"][rows_QC]
        position_QC = np.full(ids_QC.shape, -1, dtype=np.int64)
        for source, position_D in self._positions.items():
            here_QC = source_QC == source
            position_QC[here_QC] = position_D[document_QC[here_QC]]
        return position_QC


def _those(hits: Hits, places: Int64) -> Hits:
    ids_QC, scores_QC = hits
    return ids_QC[places], scores_QC[places]


def _kept_origins(hits: Candidates, dropped_QC: Bool, saved: int) -> NDArray[np.int8]:
    """[Q, K] what found the candidates that are kept; 0 where there is none."""
    origin_QK = keep_first(hits.ids_QC, hits.origin_QC.astype(np.float32), dropped_QC, saved).scores_QK
    return np.where(np.isfinite(origin_QK), origin_QK, 0).astype(np.int8)


@dataclass(frozen=True)
class _Filtered:
    """What one search left for its queries."""

    kept: FilteredNeighbors
    origin_QK: NDArray[np.int8]
    """What found each of them."""
    full_Q: Bool
    """The index gave as many candidates as were asked for."""
    all_rows_Q: Bool
    """It gave every row that may be a neighbor."""
    copies_Q: Int64
    """Candidates that were dropped for their tokens."""
    dropped: dict[str, int]
    """Candidates, those looked at, and those dropped, by reason."""

    @property
    def too_few(self) -> Bool:
        """Whether fewer are left than were wanted."""
        return np.asarray((self.kept.ids_QK < 0).any(axis=1))

    def why_too_few(self, saved: int) -> dict[str, Bool]:
        """Queries with too few neighbors, by reason: each under one."""
        enough_Q = (self.kept.ids_QK >= 0).sum(axis=1) + self.copies_Q >= saved
        few_Q = self.too_few & ~enough_Q
        return {
            "filtered": self.too_few & enough_Q,
            "few_chunks": few_Q & self.all_rows_Q,
            "few_found": few_Q & ~self.all_rows_Q,
        }
