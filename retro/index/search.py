"""Search by vectors, by words, or by both: candidates of several indexes in one order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from retro.common.artifacts import Manifest
from retro.common.row_set import RowSet
from retro.db.reader import ChunkDatabase
from retro.index.bm25.reader import Bm25Index
from retro.index.config import DIRECTORY, SearchConfig
from retro.index.embedder import ignore, require_vectors
from retro.index.rerank import Hits
from retro.index.searcher import Searcher, open_searcher

# Dims in this file. Q queries   D dimension of the vectors   T words of a query   C candidates


Int64 = NDArray[np.int64]
DENSE, BM25 = 1, 2
"""By what a candidate was found; both: the sum."""


@dataclass(frozen=True)
class Queries:
    """Texts, made ready for a search."""

    has_text_Q: NDArray[np.bool_]
    """Whether there is anything to search by."""
    vectors_QD: NDArray[np.float32] | None = None
    """Embedded, where vectors are compared; zeros where there is no text."""
    words: tuple[Int64, ...] = ()
    """[T] the words of each query that the BM25 index has, where words are compared."""

    @classmethod
    def of_vectors(cls, vectors_QD: NDArray[np.float32]) -> Queries:
        """Queries for a search by vectors alone."""
        return cls(np.asarray(vectors_QD.any(axis=1)), vectors_QD)

    def take(self, places: Int64) -> Queries:
        """Some of them."""
        vectors = None if self.vectors_QD is None else self.vectors_QD[places]
        words = tuple(self.words[place] for place in places.tolist()) if self.words else ()
        return Queries(self.has_text_Q[places], vectors, words)


class Candidates(NamedTuple):
    """Candidates, best first."""

    ids_QC: Int64
    """Rows; -1 where there are no more."""
    scores_QC: NDArray[np.float32]
    """-inf there."""
    origin_QC: NDArray[np.int8]
    """`DENSE`, `BM25` or their sum; 0 where there is none."""

    @classmethod
    def by(cls, origin: int, hits: Hits) -> Candidates:
        """What one index found."""
        ids_QC, scores_QC = hits
        return cls(ids_QC, scores_QC, np.where(ids_QC >= 0, origin, 0).astype(np.int8))


class TextSearch(ABC):
    """What finds the rows of a database for texts."""

    db: ChunkDatabase
    """The database whose rows it finds."""

    @property
    @abstractmethod
    def parents(self) -> Mapping[str, Manifest]:
        """The artifacts that it searches, by name."""

    @abstractmethod
    def prepare(self, texts: Sequence[str], advance: Callable[[int], None] = ignore) -> Queries:
        """Make texts ready for a search; tells `advance` how many more are.

        Raises:
            ArtifactError: The model found now is not the one the vectors were made with.
            DataError, DependencyError: The embedding model is missing or cannot be loaded.
        """

    @abstractmethod
    def search(self, queries: Queries, k: int, rows: RowSet | None = None) -> Candidates:
        """The `k` best rows for each query; of equals, the lower row first.

        Args:
            queries: From `prepare`.
            k: At least 1; the result has as many columns.
            rows: Find only these; without it, every row that is not removed.
        """


class DenseSearch(TextSearch):
    """By vectors: texts are embedded, and the index of vectors is asked."""

    def __init__(self, searcher: Searcher) -> None:
        """Search with `searcher`."""
        self.searcher, self.db = searcher, searcher.db

    @property
    def parents(self) -> Mapping[str, Manifest]:
        """See `TextSearch`."""
        return {"index": self.searcher.manifest}

    def prepare(self, texts: Sequence[str], advance: Callable[[int], None] = ignore) -> Queries:
        """See `TextSearch`."""
        embedder = self.searcher.embedder
        return Queries.of_vectors(require_vectors(embedder, embedder.embed_queries(texts, advance), len(texts)))

    def search(self, queries: Queries, k: int, rows: RowSet | None = None) -> Candidates:
        """See `TextSearch`."""
        if queries.vectors_QD is None:
            raise ValueError("queries without vectors cannot be searched with by vectors")
        return Candidates.by(DENSE, self.searcher.search(queries.vectors_QD, k, rows))


def by_text(searcher: Searcher | TextSearch) -> TextSearch:
    """A searcher that is asked by texts: itself, or one by vectors alone."""
    return searcher if isinstance(searcher, TextSearch) else DenseSearch(searcher)


# Dims in this file. Q queries   C candidates   K hits


def open_search(config: SearchConfig, index_dir: Path, db: ChunkDatabase) -> TextSearch:
    """Open what a search needs, and no more.

    Args:
        config: By what to search.
        index_dir: What the index stage wrote, or a version of an updated database.
        db: The database that is searched.

    Raises:
        ArtifactError: An index is missing, damaged, or was made from another database.
        DependencyError: bm25s is missing, and words are to be searched by.
    """
    words = Bm25Search(Bm25Index.open(index_dir / DIRECTORY, db), db) if config.reads_words else None
    dense = DenseSearch(open_searcher(index_dir, db)) if config.reads_vectors else None
    if words is None or dense is None:
        found = words or dense
        if found is None:
            raise ValueError("a search needs words or vectors")
        return found
    if config.source == "hybrid":
        return HybridSearch(dense, words, config.rrf_constant)
    return RerankedSearch(dense, words, config.rerank_depth)


class Bm25Search(TextSearch):
    """By the words that chunks share with the query. A chunk that shares none is not found."""

    def __init__(self, index: Bm25Index, db: ChunkDatabase) -> None:
        """Search `index`, made from `db`."""
        self.index, self.db = index, db

    @property
    def parents(self) -> Mapping[str, Manifest]:
        """See `TextSearch`."""
        return {"bm25": self.index.manifest}

    def prepare(self, texts: Sequence[str], advance: Callable[[int], None] = ignore) -> Queries:
        """See `TextSearch`."""
        words = self.index.queries(texts)
        advance(len(texts))
        return Queries(np.array([bool(text.strip()) for text in texts], dtype=np.bool_), words=words)

    def search(self, queries: Queries, k: int, rows: RowSet | None = None) -> Candidates:
        """See `TextSearch`."""
        return Candidates.by(BM25, self.index.search(queries.words, k, self.db.all_rows if rows is None else rows))


class _Both(TextSearch):
    def __init__(self, dense: DenseSearch, words: Bm25Search) -> None:
        self.dense, self.words, self.db = dense, words, dense.db

    @property
    def parents(self) -> Mapping[str, Manifest]:
        """See `TextSearch`."""
        return {**self.dense.parents, **self.words.parents}

    def prepare(self, texts: Sequence[str], advance: Callable[[int], None] = ignore) -> Queries:
        """See `TextSearch`."""
        vectors, words = self.dense.prepare(texts, advance), self.words.prepare(texts)
        return Queries(vectors.has_text_Q | words.has_text_Q, vectors.vectors_QD, words.words)

    def _dense_hits(self, queries: Queries, k: int, rows: RowSet | None) -> Hits:
        """What the vectors find; nothing for a query whose vector says nothing, to which every row is alike."""
        found = self.dense.search(queries, k, rows)
        silent_Q1 = np.zeros((len(found.ids_QC), 1), dtype=np.bool_)
        if queries.vectors_QD is not None:
            silent_Q1 = np.asarray(~queries.vectors_QD.any(axis=1, keepdims=True))
        return np.where(silent_Q1, -1, found.ids_QC), np.where(silent_Q1, -np.inf, found.scores_QC).astype(np.float32)


class HybridSearch(_Both):
    """By vectors and by words, each to the same depth, joined by reciprocal rank fusion."""

    def __init__(self, dense: DenseSearch, words: Bm25Search, constant: int) -> None:
        """Join with `constant`, k of Cormack et al. 2009."""
        super().__init__(dense, words)
        self.constant = constant

    def search(self, queries: Queries, k: int, rows: RowSet | None = None) -> Candidates:
        """See `TextSearch`."""
        dense, words = self._dense_hits(queries, k, rows), self.words.search(queries, k, rows)
        return fuse([(DENSE, dense[0]), (BM25, words.ids_QC)], self.constant, k)


class RerankedSearch(_Both):
    """By vectors, some depth of candidates re-ranked by words; of equal ones the dense order stays."""

    def __init__(self, dense: DenseSearch, words: Bm25Search, depth: int) -> None:
        """Re-rank at least `depth` candidates."""
        super().__init__(dense, words)
        self.depth = depth

    def search(self, queries: Queries, k: int, rows: RowSet | None = None) -> Candidates:
        """See `TextSearch`."""
        most = len(self.db.all_rows if rows is None else rows)
        ids_QC, _ = self._dense_hits(queries, max(k, min(self.depth, most)), rows)
        scores_QC = self.words.index.scores(queries.words, ids_QC)
        order_QK = np.argsort(-scores_QC, axis=1, kind="stable")[:, :k]
        return Candidates.by(
            DENSE, (np.take_along_axis(ids_QC, order_QK, 1), np.take_along_axis(scores_QC, order_QK, 1))
        )


def fuse(lists: Sequence[tuple[int, Int64]], constant: int, k: int) -> Candidates:
    """Join ranked lists by reciprocal rank fusion: the sum of 1 / (constant + rank), ranks counted from 1.

    Args:
        lists: Where each list comes from, and its ids [Q, any], best first; -1 is none.
        constant: Added to each rank.
        k: How many to keep; of equal scores, the lower row first.
    """
    queries = len(lists[0][1])
    found = Candidates(
        np.full((queries, k), -1, dtype=np.int64),
        np.full((queries, k), -np.inf, dtype=np.float32),
        np.zeros((queries, k), dtype=np.int8),
    )
    for number in range(queries):
        rows = np.concatenate([ids_QC[number] for _, ids_QC in lists])
        gains = np.concatenate([1.0 / (constant + np.arange(1, ids_QC.shape[1] + 1)) for _, ids_QC in lists])
        origins = np.concatenate([np.full(ids_QC.shape[1], origin) for origin, ids_QC in lists])
        there = rows >= 0
        ids, place = np.unique(rows[there], return_inverse=True)
        scores, origin = np.zeros(len(ids)), np.zeros(len(ids), dtype=np.int64)
        np.add.at(scores, place, gains[there])
        np.add.at(origin, place, origins[there])
        best = np.lexsort((ids, -scores))[:k]
        found.ids_QC[number, : len(best)], found.scores_QC[number, : len(best)] = ids[best], scores[best]
        found.origin_QC[number, : len(best)] = origin[best]
    return found
