"""The Faiss index of passages: made of the vectors, kept beside them, and asked for the nearest of a question.

Inner products of what is stored decide the order, and of equal ones the earlier passage comes first. For an exact
search scores are computed pair by pair, so that a question finds the same whichever others are asked beside it.
"""

# Dims in this file. N vectors   D dimension   Q questions   K passages of a question

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from retro.common.errors import ConfigError
from retro.common.row_set import RowSet
from retro.index.config import REFINE_FACTOR
from retro.index.embeddings import sample_rows
from retro.index.faiss_index import (
    INDEX_FILE,
    SearchSettings,
    exact_hits,
    fill_index,
    load_index,
    save_index,
    search_index,
)
from retro.index.faiss_loader import load_faiss, vector_by_vector
from retro.index.index_choice import create_index, is_exact, searches_rows
from retro.index.rerank import Hits, search_without_ties
from retro.recipes.passages.config import MAPPED, PassagesConfig
from retro.recipes.passages.store import kept
from retro.recipes.passages.vectors import Vectors

log = logging.getLogger(__name__)

WHAT = "the index of passages"
FOLDER = "index"
"""Below the store."""

Float32 = NDArray[np.float32]


class NearestVectors(Protocol):
    """What finds the vectors of greatest inner product."""

    def search(self, queries_QD: Float32, k: int) -> Hits:
        """The `k` best vectors of each query, best first.

        Args:
            queries_QD: [Q, D]
            k: From 1 to N.

        Returns:
            ids int64 [Q, k], -1 where the index finds no more; scores float32 [Q, k], -inf there.
        """


def open_index(config: PassagesConfig, vectors: Vectors, store: Path) -> NearestVectors:
    """The index that `config.faiss` names; from the store if it is there and kept there, else made.

    Raises:
        ConfigError: Faiss knows no such index, or there are too few vectors to train it.
        ArtifactError: What is kept is damaged, is no index of these vectors, or the disk is full.
    """
    if config.faiss == MAPPED:
        return MappedVectors(vectors.vectors_ND)
    settings = SearchSettings(nprobe=config.nprobe, ef_search=config.ef_search, refine_factor=REFINE_FACTOR)
    if not config.save_or_load_index:
        return FaissVectors(_built(config, vectors), settings, vectors.vectors_ND)
    settings_of_training = {"train_sample": config.train_sample, "seed": config.seed}
    made_of = {"vectors": vectors.fingerprint, "faiss": config.faiss, **settings_of_training}

    def build(fresh: Path) -> dict[str, Any]:
        save_index(_built(config, vectors), fresh / INDEX_FILE)
        return {"vectors": len(vectors), "dimension": vectors.dimension}

    kept(store / FOLDER, WHAT, made_of, build)
    index = load_index(store / FOLDER / INDEX_FILE, len(vectors), vectors.dimension, mapped=True)
    return FaissVectors(index, settings, vectors.vectors_ND)


def _built(config: PassagesConfig, vectors: Vectors) -> Any:
    setting = f"{type(config).__name__}.faiss"
    try:
        index = create_index(config.faiss, vectors.dimension, len(vectors), by_rows=False)
        _tell_memory(index, vectors)
        rows = sample_rows(range(len(vectors)), config.train_sample, config.seed)
        fill_index(index, config.faiss, vectors.vectors_ND, rows, reproducible=True)
    except ConfigError as error:
        raise ConfigError(setting, config.faiss, error.need) from None
    return index


def _tell_memory(index: Any, vectors: Vectors) -> None:
    """Warn of an exact index that does not fit: 64 GB for 21 million vectors of 768 values."""
    import psutil

    needed, free = 4 * len(vectors) * vectors.dimension, psutil.virtual_memory().available
    if is_exact(load_faiss(), index) and needed > free:
        log.warning(
            "an exact index of %d vectors takes %.1f GB of memory, and %.1f GB are free; faiss=%s finds the same from "
            "disk, faiss=SQ8 takes a quarter and is nearly exact",
            *(len(vectors), needed / 1e9, free / 1e9, MAPPED),
        )


class MappedVectors:
    """Every vector is compared, read from disk some at a time."""

    def __init__(self, vectors_ND: NDArray[Any]) -> None:
        self._vectors_ND = vectors_ND

    def search(self, queries_QD: Float32, k: int) -> Hits:
        """See `NearestVectors`."""
        every = RowSet.of(range(len(self._vectors_ND)))

        def ask(some_QD: Float32, depth: int) -> Hits:
            return exact_hits(self._vectors_ND, some_QD, depth, every)

        return search_without_ties(ask, queries_QD, k, len(every), self._vectors_ND)


class FaissVectors:
    """A filled Faiss index."""

    def __init__(self, index: Any, settings: SearchSettings, vectors_ND: NDArray[Any]) -> None:
        """Ask an index.

        Args:
            index: The index.
            settings: How hard to look.
            vectors_ND: [N, D] what it was made of.
        """
        faiss = load_faiss()
        self._index, self._settings = index, settings
        self._every = RowSet.of(range(len(vectors_ND)))
        self._by_rows = searches_rows(faiss, index)
        self._exact_ND = vectors_ND if is_exact(faiss, index) else None

    def search(self, queries_QD: Float32, k: int) -> Hits:
        """See `NearestVectors`."""

        def ask(some_QD: Float32, depth: int) -> Hits:
            if self._by_rows:
                return search_index(self._index, some_QD, depth, self._every, self._settings, least=k)
            with vector_by_vector(load_faiss()):
                scores_QK, ids_QK = self._index.search(np.ascontiguousarray(some_QD), depth)
            scores_QK[ids_QK < 0] = -np.inf
            return ids_QK, scores_QK

        return search_without_ties(ask, queries_QD, k, len(self._every), self._exact_ND)
