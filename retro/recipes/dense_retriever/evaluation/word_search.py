"""Passages by their words: BM25 over a file of passages, and its list joined with that of a dense retriever.

Counting, formulas and files are those of a run's own BM25 index (`retro.index.bm25`). Passages are counted in pieces,
once to know how often each word occurs and once to score it, so memory holds one piece.
"""

# Dims in this file. Q queries   K passages of a query

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from retro.common.artifacts import fingerprint
from retro.common.blocks import ranges
from retro.common.errors import ConfigError, DataError
from retro.common.progress import Progress
from retro.common.row_set import RowSet
from retro.index.bm25.postings import Occurrences, load_bm25s, occurrences, total, write_index
from retro.index.bm25.reader import Bm25Index
from retro.index.config import STAGE, Bm25Config
from retro.index.search import fuse
from retro.qa.question import Context, PassageLike
from retro.recipes.passages.embedders import embedded_text
from retro.recipes.passages.passages import Passages
from retro.recipes.passages.search import PassageSearch
from retro.recipes.passages.store import kept

WHAT = "the BM25 index of passages"
FOLDER = "bm25"
"""Below the store."""
_TEXTS_AT_ONCE = 50_000


class WordSearch:
    """Passages that share words with a text. One that shares none is not found."""

    def __init__(self, passages: Passages, index: Bm25Index, *, title: bool) -> None:
        """Search an index of passages; see `open`."""
        self._passages, self._index, self._title = passages, index, title
        self._every = RowSet.of(range(len(passages)))

    @classmethod
    def open(
        cls, passages: Passages, store: Path, config: Bm25Config | None = None, *, title: bool = True
    ) -> WordSearch:
        """The index of passages, made first where the store has none of these passages and settings.

        Args:
            passages: What is found.
            store: Folder of what is derived.
            config: The method and its constants.
            title: Whether titles are searched too.

        Raises:
            DependencyError: bm25s is missing.
            DataError: No passage has a word.
            ArtifactError: The index is damaged, or the disk is full.
        """
        load_bm25s()
        chosen = config or Bm25Config()
        made_of = {"passages": passages.fingerprint, "title": title, "bm25": chosen.shaping}
        made = kept(store / FOLDER, WHAT, made_of, lambda fresh: _build(passages, chosen, title, fresh))
        index = Bm25Index(store / FOLDER, replace(made, stage=STAGE, config=chosen.shaping), len(passages))
        return cls(passages, index, title=title)

    @property
    def identity(self) -> Mapping[str, Any]:
        """See `PassageSearch`."""
        settings = {"bm25": self._index.manifest.config, "title": self._title}
        return {"kind": "bm25", "passages": self._passages.fingerprint, **settings}

    def search(self, queries: Sequence[str], n: int) -> list[list[Context]]:
        """See `PassageSearch`; the score is BM25's."""
        if n < 1:
            raise ConfigError("n_docs", n, "needs at least 1")
        ids_QK, scores_QK = self._index.search(self._index.queries(queries), min(n, len(self._passages)), self._every)
        return [_contexts(self._passages, *pair) for pair in zip(ids_QK, scores_QK, strict=True)]


class Recorded:
    """What a retriever found for some questions: asked for these again, it finds the same."""

    def __init__(self, found: Mapping[str, Sequence[str]]) -> None:
        """Keep ids of passages, best first, by question."""
        self._found = found

    @property
    def identity(self) -> Mapping[str, Any]:
        """See `PassageSearch`."""
        return {"kind": "recorded", "found": {question: list(ids) for question, ids in self._found.items()}}

    def search(self, queries: Sequence[str], n: int) -> list[list[Context]]:
        """See `PassageSearch`; ids alone, and no more than were found then.

        Raises:
            KeyError: A question was not asked then.
        """
        return [[Context("", "", one) for one in self._found[query][:n]] for query in queries]


class HybridPassages:
    """Two retrievers of the same passages, each to the same depth, joined by reciprocal rank fusion (Cormack et al.
    2009)."""

    def __init__(
        self, dense: PassageSearch, words: PassageSearch, passages: Passages, constant: int, depth: int
    ) -> None:
        """Join two lists.

        Args:
            dense: One retriever.
            words: The other.
            passages: Those of both.
            constant: Added to each rank, k of the paper.
            depth: Least number of passages that each list has.
        """
        self._both, self._passages, self._constant, self._depth = (dense, words), passages, constant, depth

    @property
    def identity(self) -> Mapping[str, Any]:
        """See `PassageSearch`."""
        both = [fingerprint(dict(one.identity)) for one in self._both]
        return {"kind": "hybrid", "of": both, "constant": self._constant, "depth": self._depth}

    def search(self, queries: Sequence[str], n: int) -> list[list[Context]]:
        """See `PassageSearch`; the score is the sum of 1 / (constant + rank)."""
        depth = max(n, self._depth)
        lists = [self._rows(one.search(queries, depth), depth) for one in self._both]
        found = fuse([(number, rows_QK) for number, rows_QK in enumerate(lists)], self._constant, n)
        return [_contexts(self._passages, *pair) for pair in zip(found.ids_QC, found.scores_QC, strict=True)]

    def _rows(self, found: Sequence[Sequence[PassageLike]], depth: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        rows_QK = np.full((len(found), depth), -1, dtype=np.int64)
        for number, passages in enumerate(found):
            rows_QK[number, : len(passages)] = self._passages.rows_of([one.document_id for one in passages])
        return rows_QK


def _contexts(passages: Passages, ids_K: Any, scores_K: Any) -> list[Context]:
    there = ids_K >= 0
    found = passages.at(ids_K[there].tolist())
    return [
        Context(title=one.title, text=one.text, document_id=one.id, score=float(score))
        for one, score in zip(found, scores_K[there], strict=True)
    ]


def _build(passages: Passages, config: Bm25Config, title: bool, fresh: Path) -> dict[str, Any]:
    """Write the index into `fresh`; gives its counts."""
    with Progress(2 * len(passages), what="passages: BM25", unit="passages") as bar:

        def pieces() -> Iterator[Occurrences]:
            for part in ranges(len(passages), _TEXTS_AT_ONCE):
                texts = [embedded_text(one, title=title, lowercase=False) for one in passages.at(part)]
                yield occurrences(texts, part.start)
                bar.advance(len(part))

        totals = total(pieces(), len(passages))
        if not len(totals.word_W):
            raise DataError(passages.file, "has no passage with a word in it", "Search by vectors alone")
        write_index(pieces, totals, config, fresh)
    return {"rows": len(passages), "words": len(totals.word_W), "pairs": int(totals.chunks_W.sum())}
