"""From a finished index to the passages found for a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retro.corpus.reader import Corpus
from retro.db.reader import ChunkDatabase
from retro.db.versions import open_database, version_identity
from retro.index.config import DIRECTORY, MISSING_REMEDY, SearchConfig
from retro.index.embeddings import texts_of
from retro.index.search import TextSearch, by_text
from retro.index.searcher import Searcher

# Dims in this file. Q queries   K neighbors


@dataclass(frozen=True)
class Passage:
    """A piece of a document that was found for a text."""

    row: int
    """Its first chunk in the database; `ChunkDatabase.neighbor_tokens` gives its tokens."""
    document_id: str
    title: str
    text: str
    """The chunk and its continuation."""
    score: float
    """Inner product with the query, 1 for equal directions; with other searches, their score."""


class Retriever:
    """Texts to passages. Searches all splits: questions may be answered from any document."""

    def __init__(self, searcher: Searcher | TextSearch, db: ChunkDatabase, corpus: Corpus) -> None:
        self.searcher = by_text(searcher)
        self.db = db
        self.corpus = corpus

    def retrieve(self, texts: Sequence[str], k: int) -> list[list[Passage]]:
        """The `k` best passages for each text, best first; fewer where the database has no more.

        No two passages of a text overlap: of chunks that stand side by side in a document, the better one is taken.

        Args:
            texts: Questions, or any text.
            k: Passages per text, at least 1.
        """
        queries = self.searcher.prepare(texts)
        there_are = len(self.db.all_rows)
        wanted = min(4 * k, there_are)
        kept: list[list[tuple[int, float]]] = [[] for _ in texts]
        open_Q = np.arange(len(texts))
        while len(open_Q):
            ids_QK, scores_QK, _ = self.searcher.search(queries.take(open_Q), wanted)
            for place, ids_K, scores_K in zip(open_Q.tolist(), ids_QK, scores_QK, strict=True):
                kept[place] = self._without_overlap(ids_K, scores_K, k)
            complete = wanted >= there_are
            open_Q = open_Q[[len(kept[place]) < k and not complete for place in open_Q.tolist()]]
            wanted = min(2 * wanted, there_are)
        return [self._passages(hits) for hits in kept]

    def _without_overlap(
        self, ids_K: NDArray[np.int64], scores_K: NDArray[np.float32], k: int
    ) -> list[tuple[int, float]]:
        # A passage is a chunk and the next one, so rows r - 1, r and r + 1 of one document share text; windows overlap
        # as far as they begin within one.
        settings = self.db.config
        reach = 1 if settings.unit == "chunk" else -(-settings.row_length // settings.stride) - 1
        taken: dict[int, int] = {}
        kept: list[tuple[int, float]] = []
        found_K = ids_K[ids_K >= 0]
        for row, key, score in zip(found_K, self.db.document_key(found_K), scores_K, strict=False):
            if all(taken.get(int(row) + step) != int(key) for step in range(-reach, reach + 1)):
                taken[int(row)] = int(key)
                kept.append((int(row), float(score)))
            if len(kept) == k:
                break
        return kept

    def _passages(self, hits: list[tuple[int, float]]) -> list[Passage]:
        rows = np.array([row for row, _ in hits], dtype=np.int64)
        texts = texts_of(self.corpus.tokenizer, *self.db.neighbor_tokens(rows))
        return [
            Passage(row, self.db.document_id(row), self.db.document_title(row), text, score)
            for (row, score), text in zip(hits, texts, strict=True)
        ]


BY_VECTORS = SearchConfig()
"""The plain search: by vectors alone."""


def search_identity(search: SearchConfig, index_dir: Path) -> dict[str, Any]:
    """What is recorded of a search, beside the database: nothing for one by vectors alone.

    Raises:
        ArtifactError: There is no BM25 index, and it is to be searched.
    """
    if not search.reads_words:
        return {}
    words = version_identity(index_dir / DIRECTORY, MISSING_REMEDY)["fingerprint"]
    return {"search": search.search_settings | {"bm25": words}}


def open_retriever(
    corpus: Corpus, db_dir: Path, index_dir: Path, passages: int, search: SearchConfig = BY_VECTORS
) -> Callable[[list[str]], list[list[Passage]]]:
    """A callback from questions to their best passages, over the documents of all splits.

    Args:
        corpus: The corpus of the run that asks.
        db_dir: A chunk database: the run's own, a version of it, or another run's.
        index_dir: The index made from that.
        passages: Passages for each question.
        search: By what to search.
    """
    from retro.index.search import open_search

    database = open_database(db_dir, corpus)
    retriever = Retriever(open_search(search, index_dir, database), database, corpus)

    def retrieve(texts: list[str]) -> list[list[Passage]]:
        return retriever.retrieve(texts, passages)

    return retrieve
