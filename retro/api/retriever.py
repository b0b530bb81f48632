"""Texts to passages, from Python."""

# Dims in this file. Q queries   D dimension of the vectors

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from retro.common.errors import ConfigError
from retro.corpus.reader import Corpus
from retro.db.versions import open_database
from retro.generate.config import ModelPaths
from retro.index.retriever import Passage as Passage
from retro.index.retriever import Retriever as TextRetriever
from retro.index.search import open_search


class Retriever:
    """A search of a run's database; from `Run.retriever`. One thread uses it at a time.

    Attributes:
        corpus: The run's corpus.
        database: The chunks that are searched; `Passage.row` is a row of it.
    """

    def __init__(self, paths: ModelPaths) -> None:
        """Open corpus, database and index.

        Raises:
            ArtifactError: One is missing or damaged.
            DependencyError: A package that the search needs is missing.
        """
        self._search = paths.search
        self.corpus = Corpus.open(paths.corpus)
        self.database = open_database(paths.db, self.corpus)
        self._retriever = TextRetriever(
            open_search(paths.search, paths.index, self.database), self.database, self.corpus
        )

    @overload
    def search(self, texts: str, k: int = 5) -> list[Passage]: ...  # type: ignore[overload-overlap]
    @overload
    def search(self, texts: Sequence[str], k: int = 5) -> list[list[Passage]]: ...
    def search(self, texts: str | Sequence[str], k: int = 5) -> list[Passage] | list[list[Passage]]:
        """The best passages for a text, or for each of several; fewer where the database has no more.

        Args:
            texts: Questions, or any text. Several at once are searched faster than one after another.
            k: Passages for each, at least 1.

        Returns:
            Passages, best first: a chunk and its continuation each, none overlapping another. For several texts, a list
            for each.

        Raises:
            ConfigError: `k` is below 1.
            RetroError: The embedding model or the index cannot be used.
        """
        if k < 1:
            raise ConfigError("k", k, "needs at least 1")
        if isinstance(texts, str):
            return self._retriever.retrieve([texts], k)[0]
        return self._retriever.retrieve(list(texts), k) if texts else []

    def embed(self, texts: str | Sequence[str]) -> NDArray[np.float32]:
        """The vectors with which texts are searched.

        Args:
            texts: One text, or several.

        Returns:
            [Q, D] of length 1, for one text [D]; all zeros for a text that says nothing.

        Raises:
            ConfigError: The run searches by words alone.
            RetroError: The embedding model cannot be used.
        """
        vectors_QD = self._retriever.searcher.prepare([texts] if isinstance(texts, str) else list(texts)).vectors_QD
        if vectors_QD is None:
            raise ConfigError("search.source", self._search.source, "needs to search by vectors, to embed texts")
        return vectors_QD[0] if isinstance(texts, str) else vectors_QD
