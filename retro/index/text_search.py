"""Search a database by texts, by whatever means: vectors, words, or both."""

# Dims in this file. Q queries   D dimension of the vectors   T words of a query   C candidates

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from retro.common.artifacts import Manifest
from retro.common.rows import Rows
from retro.db.reader import ChunkDatabase
from retro.index.batching import ignore
from retro.index.ranking import Hits
from retro.index.searcher import Searcher

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


class Found(NamedTuple):
    """Candidates, best first."""

    ids_QC: Int64
    """Rows; -1 where there are no more."""
    scores_QC: NDArray[np.float32]
    """-inf there."""
    origin_QC: NDArray[np.int8]
    """`DENSE`, `BM25` or their sum; 0 where there is none."""

    @classmethod
    def by(cls, origin: int, hits: Hits) -> Found:
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
    def search(self, queries: Queries, k: int, rows: Rows | None = None) -> Found:
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
        return Queries.of_vectors(self.searcher.embedder.embed(texts, advance))

    def search(self, queries: Queries, k: int, rows: Rows | None = None) -> Found:
        """See `TextSearch`."""
        if queries.vectors_QD is None:
            raise ValueError("queries without vectors cannot be searched with by vectors")
        return Found.by(DENSE, self.searcher.search(queries.vectors_QD, k, rows))


def by_text(searcher: Searcher | TextSearch) -> TextSearch:
    """A searcher that is asked by texts: itself, or one by vectors alone."""
    return searcher if isinstance(searcher, TextSearch) else DenseSearch(searcher)
