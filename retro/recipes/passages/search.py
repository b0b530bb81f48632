"""From questions to passages: in shards of embeddings, or in a run's own database and index. Both answer alike.

retriever = PassageRetriever.setup("facebook/contriever-msmarco", "passages.jsonl", "wikipedia_embeddings/*")
retriever.search_document("When was the garden laid out?", 5)    # [{"id": …, "title": …, "text": …, "score": …}]
"""

# Dims in this file. Q questions   D dimension

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from typing_extensions import TypedDict

from retro.common.errors import ConfigError
from retro.corpus.reader import Corpus
from retro.db.versions import open_database
from retro.index.config import SearchConfig
from retro.index.embedder import Embedder, require_vectors
from retro.index.retriever import BY_VECTORS, Passage, Retriever
from retro.index.search import open_search
from retro.qa.passages import Retrieve
from retro.qa.question import Context, PassageLike
from retro.recipes.passages.config import MAPPED, PassagesConfig, contriever
from retro.recipes.passages.embed import require_as_embedded
from retro.recipes.passages.embedders import query_embedder
from retro.recipes.passages.index import NearestVectors, open_index
from retro.recipes.passages.passages import Passages
from retro.recipes.passages.shards import find_shards
from retro.recipes.passages.store import STORE
from retro.recipes.passages.vectors import Vectors, open_vectors


class ContextRecord(TypedDict):
    """A passage as it stands in `ctxs` of a question."""

    id: str
    title: str
    text: str
    score: float


class PassageSearch(Protocol):
    """What finds passages for texts. Decoding that retrieves takes one of these, whatever is behind it."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that decides what is found, as plain JSON values."""

    def search(self, queries: Sequence[str], n: int) -> Sequence[Sequence[PassageLike]]:
        """The `n` best passages for each text, best first; fewer where there are no more.

        Args:
            queries: Questions, or any text; nothing is found for one without text.
            n: At least 1.

        Raises:
            ConfigError: `n` is below 1.
        """


def as_record(passage: PassageLike) -> ContextRecord:
    """A passage as it stands in `ctxs`."""
    return {"id": passage.document_id, "title": passage.title, "text": passage.text, "score": float(passage.score)}


def as_retrieve(source: PassageSearch, n: int) -> Retrieve:
    """The callback that tuning and generation take: texts to `n` passages each."""

    def retrieve(texts: list[str]) -> Sequence[Sequence[PassageLike]]:
        return source.search(texts, n)

    return retrieve


class PassageRetriever:
    """Passages by their embeddings. One thread uses it at a time.

    Attributes:
        config: Its settings.
        passages: What is found; `passages["123"]` is the passage of an id.
        vectors: Their embeddings.
    """

    def __init__(
        self, config: PassagesConfig, passages: Passages, vectors: Vectors, embedder: Embedder, index: NearestVectors
    ) -> None:
        """Put the parts together; use `open`, or `setup`.

        Raises:
            ConfigError: The embedder's vectors have another length than those of the shards.
        """
        if embedder.dimension != vectors.dimension:
            need = f"needs vectors of {vectors.dimension} values, as the shards have; its own have {embedder.dimension}"
            raise ConfigError("embedder.model", config.embedder.model or config.embedder.kind, need)
        self.config, self.passages, self.vectors = config, passages, vectors
        self._embedder, self._index = embedder, index

    @classmethod
    def open(cls, config: PassagesConfig) -> Self:
        """Open passages, shards and index; what has to be derived from them is made first, and kept in the store.

        Raises:
            ConfigError: A setting is missing or cannot work.
            DataError: Passages or shards cannot be used, or do not fit each other.
            ArtifactError: Something in the store is damaged, or is of another embedder.
            DependencyError: A package that the model needs is missing.
        """
        shards = find_shards(config.pattern)
        store = config.store or shards[0].parent / STORE
        # Before anything takes minutes.
        embedder = query_embedder(config, store)
        require_as_embedded(config, embedder, store, shards)
        passages = Passages.open(config.passages_file, store)
        vectors = open_vectors(shards, passages, store)
        return cls(config, passages, vectors, embedder, open_index(config, vectors, store))

    @classmethod
    def setup(
        cls,
        model_name_or_path: str,
        passages: str | Path,
        passages_embeddings: str,
        *,
        n_docs: int = 5,
        save_or_load_index: bool = False,
        lowercase: bool = False,
    ) -> Self:
        """As `open`, for a Contriever, with the arguments that users of its tools know."""
        return cls.open(
            PassagesConfig(
                embedder=contriever(model_name_or_path),
                passages=Path(passages),
                embeddings=passages_embeddings,
                n_docs=n_docs,
                save_or_load_index=save_or_load_index,
                lowercase=lowercase,
            )
        )

    @property
    def identity(self) -> Mapping[str, Any]:
        """See `PassageSearch`."""
        settings = {name: getattr(self.config, name) for name in ("lowercase", "faiss", "nprobe", "ef_search")}
        # Exact either way.
        settings["faiss"] = "Flat" if self.config.faiss == MAPPED else self.config.faiss
        parts = {"passages": self.passages.fingerprint, "vectors": self.vectors.fingerprint}
        return {"kind": "passages", "embedder": self._embedder.identity, **parts, **settings}

    def search(self, queries: Sequence[str], n: int) -> list[list[Context]]:
        """See `PassageSearch`; the score is the inner product."""
        _require_positive(n)
        if not queries:
            return []
        texts = [query.lower() if self.config.lowercase else query for query in queries]
        vectors_QD = require_vectors(self._embedder, self._embedder.embed_queries(texts), len(texts))
        found: list[list[Context]] = [[] for _ in texts]
        # A text that says nothing has no direction, and every passage would be as near as another.
        asked = np.flatnonzero(vectors_QD.any(axis=1))
        if len(asked):
            ids_QK, scores_QK = self._index.search(vectors_QD[asked], min(n, len(self.vectors)))
            for place, ids, scores in zip(asked.tolist(), ids_QK, scores_QK, strict=True):
                found[place] = self._contexts(ids[ids >= 0], scores)
        return found

    def search_document(self, query: str, n: int | None = None) -> list[ContextRecord]:
        """The best passages for one text, as records.

        Args:
            query: The text.
            n: How many; as many as `n_docs` says, unless given.
        """
        return [as_record(one) for one in self.search([query], self.config.n_docs if n is None else n)[0]]

    def _contexts(self, ids: Any, scores: Any) -> list[Context]:
        found = self.passages.at(self.vectors.rows_N[ids].tolist())
        return [
            Context(title=one.title, text=one.text, document_id=one.id, score=float(score))
            for one, score in zip(found, scores, strict=False)
        ]


class DatabaseRetriever:
    """Passages of a run's own database, by its index. One thread uses it at a time."""

    def __init__(self, corpus_dir: Path, db_dir: Path, index_dir: Path, search: SearchConfig = BY_VECTORS) -> None:
        """Open corpus, database and index.

        Args:
            corpus_dir: The run's corpus.
            db_dir: A chunk database made of it, or a version of one.
            index_dir: The index made of that.
            search: By what to search.

        Raises:
            ArtifactError: One is missing or damaged.
            DependencyError: A package that the search needs is missing.
        """
        corpus = Corpus.open(corpus_dir)
        database = open_database(db_dir, corpus)
        self._searcher = open_search(search, index_dir, database)
        self._retriever = Retriever(self._searcher, database, corpus)
        self._search = search

    @property
    def identity(self) -> Mapping[str, Any]:
        """See `PassageSearch`."""
        parents = {name: manifest.fingerprint for name, manifest in self._searcher.parents.items()}
        database = self._retriever.db.manifest.fingerprint
        return {"kind": "database", "db": database, "parents": parents, "search": self._search.search_settings}

    def search(self, queries: Sequence[str], n: int) -> list[list[Passage]]:
        """See `PassageSearch`; the id of a passage is that of its document."""
        _require_positive(n)
        found: list[list[Passage]] = [[] for _ in queries]
        asked = [place for place, query in enumerate(queries) if query.strip()]
        if asked:
            results = self._retriever.retrieve([queries[place] for place in asked], n)
            for place, passages in zip(asked, results, strict=True):
                found[place] = passages
        return found

    def search_document(self, query: str, n: int) -> list[ContextRecord]:
        """The `n` best passages for one text, as records."""
        return [as_record(one) for one in self.search([query], n)[0]]


def _require_positive(n: int) -> None:
    if n < 1:
        raise ConfigError("n_docs", n, "needs at least 1")
