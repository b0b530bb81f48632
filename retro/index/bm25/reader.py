"""Ask a finished BM25 index: which chunks share words with a text, and what these are worth."""

# Dims in this file. Q queries   T words of a query   K hits   C candidates   N chunks   P pairs of a chunk and a word

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retro.common.artifacts import MANIFEST, Manifest, is_complete, read_manifest, require_file, require_parent
from retro.common.errors import ArtifactError
from retro.common.row_set import RowSet
from retro.db.reader import ChunkDatabase
from retro.index.bm25.postings import (
    COUNTS,
    DATA,
    INDICES,
    INDPTR,
    NOT_THERE,
    WORDS,
    Occurrences,
    load_bm25s,
    word_number,
    words_of,
)
from retro.index.config import MISSING_REMEDY, STAGE, Bm25Config
from retro.index.rerank import Hits

Int64 = NDArray[np.int64]
_REMEDY = f"Delete this folder and run `retro {STAGE}` again"
_PAIRS_AT_ONCE = 1 << 22
_LOOK_UP = 5
"""Looking one chunk up among a word's chunks costs as much as adding up so many of them (Intel Xeon, numpy 2)."""


def _array(directory: Path, manifest: Manifest, name: str, kind: str, size: int) -> NDArray[Any]:
    """An array of the index, memory-mapped.

    Raises:
        ArtifactError: It is missing or damaged, or no such array.
    """
    path = require_file(directory, manifest, name, _REMEDY)
    try:
        # Numpy refuses pickled objects unless it is set otherwise.
        found = np.asarray(np.load(path, mmap_mode="r"))
    except (ValueError, EOFError, OSError) as error:
        raise ArtifactError(path, f"is not an array ({error})", _REMEDY) from None
    if found.dtype != np.dtype(kind) or found.shape != (size,):
        raise ArtifactError(path, f"is {found.dtype} {found.shape}, needed {np.dtype(kind)} ({size},)", _REMEDY)
    return found


class Bm25Index:
    """The BM25 index of a database. Its files are mapped at the first search."""

    def __init__(self, directory: Path, manifest: Manifest, rows: int) -> None:
        """Name it; see `open`."""
        self.directory, self.manifest, self.rows = directory, manifest, rows

    @classmethod
    def open(cls, directory: Path, db: ChunkDatabase) -> Bm25Index:
        """Open the index in `directory`, made from `db`.

        Raises:
            ArtifactError: It is not finished, a file is damaged, or it was made from another database, or from another
                version of it.
            DependencyError: bm25s is missing.
        """
        if not is_complete(directory):
            raise ArtifactError(directory / MANIFEST, "is missing: this database has no BM25 index", MISSING_REMEDY)
        manifest = read_manifest(directory, STAGE)
        require_parent(directory, manifest, "db", db.manifest)
        load_bm25s()
        return cls(directory, manifest, db.rows)

    @cached_property
    def _words(self) -> NDArray[np.uint64]:
        return _array(self.directory, self.manifest, WORDS, "<u8", int(self.manifest.counts["words"]))

    @cached_property
    def _bm25(self) -> Any:
        config, counts = Bm25Config(**self.manifest.config), self.manifest.counts
        words, pairs = int(counts["words"]), int(counts["pairs"])
        sizes = {"data": (DATA, "<f4", pairs), "indices": (INDICES, "<i4", pairs), "indptr": (INDPTR, "<i8", words + 1)}
        bm25 = load_bm25s().BM25(k1=config.k1, b=config.b, delta=config.delta, method=config.method)
        bm25.scores = {key: _array(self.directory, self.manifest, *size) for key, size in sizes.items()}
        bm25.scores["num_docs"] = self.rows
        bm25.nonoccurrence_array = (
            _array(self.directory, self.manifest, NOT_THERE, "<f4", words) if NOT_THERE in self.manifest.files else None
        )
        return bm25

    def queries(self, texts: Sequence[str]) -> tuple[Int64, ...]:
        """[T] the words of each text that the index has, by their places in it, in order and as often as they occur."""
        place_of: dict[str, int] = {}
        found = []
        for text in texts:
            words = words_of(text)
            for word in words:
                if word not in place_of:
                    place_of[word] = self._place(word_number(word))
            found.append(np.array([place_of[word] for word in words if place_of[word] >= 0], dtype=np.int64))
        return tuple(found)

    def _place(self, number: int) -> int:
        place = int(np.searchsorted(self._words, np.uint64(number)))
        return place if place < len(self._words) and int(self._words[place]) == number else -1

    def search(self, queries: Sequence[Int64], k: int, rows: RowSet) -> Hits:
        """The `k` of `rows` that score highest for each query, best first; of equals, the lower row first.

        Args:
            queries: From `queries`.
            k: At least 1.
            rows: Only these are found, and of them only chunks with a word of the query that weighs something.

        Returns:
            ids int64 [Q, k], -1 where there are no more; scores float32 [Q, k], -inf there.
        """
        ids_QK = np.full((len(queries), k), -1, dtype=np.int64)
        scores_QK = np.full((len(queries), k), -np.inf, dtype=np.float32)
        for number, words_T in enumerate(queries):
            if len(words_T):
                ids, scores = self._best(words_T, k, rows)
                ids_QK[number, : len(ids)], scores_QK[number, : len(ids)] = ids, scores
        return ids_QK, scores_QK

    def _best(self, words_T: Int64, k: int, rows: RowSet) -> tuple[Int64, NDArray[np.float32]]:
        score_N = self._bm25.get_scores_from_ids(words_T)
        id_C = np.flatnonzero(score_N if self._bm25.nonoccurrence_array is None else self._shares(words_T))
        id_C = id_C[rows.contains(id_C)]
        score_C = score_N[id_C]
        if len(id_C) > k:
            kept_C = score_C >= np.partition(score_C, len(id_C) - k)[len(id_C) - k]
            id_C, score_C = id_C[kept_C], score_C[kept_C]
        order_K = np.lexsort((id_C, -score_C))[:k]
        return id_C[order_K], score_C[order_K]

    def _shares(self, words_T: Int64) -> NDArray[np.bool_]:
        """[N] whether a chunk has a word of the query, for methods that score those without one too."""
        indices, indptr = self._bm25.scores["indices"], self._bm25.scores["indptr"]
        shares_N = np.zeros(self.rows, dtype=np.bool_)
        for word in np.unique(words_T):
            shares_N[indices[indptr[word] : indptr[word + 1]]] = True
        return shares_N

    def scores(self, queries: Sequence[Int64], ids_QC: Int64) -> NDArray[np.float32]:
        """[Q, C] scores of given chunks; -inf for the id -1.

        Where the words are in many chunks, the given ones are looked up among them: that time hardly grows with the
        database.
        """
        scores_QC = np.full(ids_QC.shape, -np.inf, dtype=np.float32)
        for number, words_T in enumerate(queries):
            there_C = ids_QC[number] >= 0
            id_C, place_C = np.unique(ids_QC[number, there_C], return_inverse=True)
            scores_QC[number, there_C] = self._scores_of(words_T, id_C.astype(np.int32))[place_C]
        return scores_QC

    def _scores_of(self, words_T: Int64, id_C: NDArray[np.int32]) -> NDArray[np.float32]:
        parts, not_there_W = self._bm25.scores, self._bm25.nonoccurrence_array
        pairs = int((parts["indptr"][words_T + 1] - parts["indptr"][words_T]).sum())
        if pairs < _LOOK_UP * len(words_T) * len(id_C):
            return np.asarray(self._bm25.get_scores_from_ids(words_T)[id_C], dtype=np.float32)
        # In the order in which bm25s adds, so that sums are equal to the last bit.
        score_C = np.zeros(len(id_C), dtype=np.float32)
        for word in words_T.tolist():
            part = slice(int(parts["indptr"][word]), int(parts["indptr"][word + 1]))
            holds, adds = parts["indices"][part], parts["data"][part]
            place_C = np.minimum(np.searchsorted(holds, id_C), len(holds) - 1)
            score_C += np.where(holds[place_C] == id_C, adds[place_C], np.float32(0))
        return score_C if not_there_W is None else score_C + not_there_W[words_T].sum()

    def occurrences(self) -> Iterator[Occurrences]:
        """What the index counted, some words at a time, ordered by word and then by chunk."""
        indices, indptr = self._bm25.scores["indices"], self._bm25.scores["indptr"]
        count_P = _array(self.directory, self.manifest, COUNTS, "<u4", len(indices))
        first = 0
        while first < len(self._words):
            stop = max(first + 1, int(np.searchsorted(indptr, indptr[first] + _PAIRS_AT_ONCE, side="right")) - 1)
            pairs = slice(int(indptr[first]), int(indptr[stop]))
            word_P = np.repeat(self._words[first:stop], np.diff(indptr[first : stop + 1]))
            yield Occurrences(word_P, indices[pairs].astype(np.int64), np.array(count_P[pairs]))
            first = stop


def counted_before(directory: Path | None) -> tuple[Callable[[], Iterator[Occurrences]], int]:
    """What a finished index counted, and of how many chunks; nothing without one.

    Raises:
        ArtifactError: It is damaged.
    """
    if directory is None:
        return lambda: iter(()), 0
    manifest = read_manifest(directory, STAGE)
    index = Bm25Index(directory, manifest, int(manifest.counts["rows"]))
    return index.occurrences, index.rows
