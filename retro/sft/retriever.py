"""From a finished index to the callback that finds passages for questions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from retro.corpus.reader import Corpus
from retro.db.versions import mark_of, open_database
from retro.index.bm25.config import DIRECTORY, MISSING_REMEDY, SearchConfig
from retro.qa.passages import Retrieve
from retro.qa.question import PassageLike

BY_VECTORS = SearchConfig()
"""The plain search: by vectors alone."""


def search_identity(search: SearchConfig, index_dir: Path) -> dict[str, Any]:
    """What is recorded of a search, beside the database: nothing for one by vectors alone.

    Raises:
        ArtifactError: There is no BM25 index, and it is to be searched.
    """
    if not search.reads_words:
        return {}
    words = mark_of(index_dir / DIRECTORY, MISSING_REMEDY)["fingerprint"]
    return {"search": search.search_settings | {"bm25": words}}


def open_retriever(
    corpus: Corpus, db_dir: Path, index_dir: Path, passages: int, search: SearchConfig = BY_VECTORS
) -> Retrieve:
    """A callback from questions to their best passages, over the documents of all splits.

    Args:
        corpus: The corpus of the run that asks.
        db_dir: A chunk database: the run's own, a version of it, or another run's.
        index_dir: The index made from that.
        passages: Passages for each question.
        search: By what to search.
    """
    from retro.index.bm25.search import open_search
    from retro.index.search import Retriever

    database = open_database(db_dir, corpus)
    retriever = Retriever(open_search(search, index_dir, database), database, corpus)

    def retrieve(texts: list[str]) -> Sequence[Sequence[PassageLike]]:
        return retriever.retrieve(texts, passages)

    return retrieve
