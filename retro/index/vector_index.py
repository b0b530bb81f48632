"""A finished index as it is asked: Faiss's part, how hard to look, and the vectors to rank candidates by."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retro.common.artifacts import Manifest, require_file
from retro.common.errors import ArtifactError
from retro.common.files import read_json
from retro.common.row_set import RowSet
from retro.index.codes import LISTS_FILE
from retro.index.config import STAGE, IndexConfig
from retro.index.embeddings import FILE as EMBEDDINGS_FILE
from retro.index.faiss_index import SearchSettings, load_index, require_header, search_index
from retro.index.faiss_loader import load_faiss
from retro.index.index_choice import is_exact
from retro.index.rerank import Hits, map_vectors, rerank, search_without_ties

# Dims in this file. Q queries   D dimension   K neighbors   C candidates   N vectors


SEARCH_FILE = "search.json"
"""How the index is to be asked, and what it finds then; in the manifest of every index."""
LEAST_RANKED = 10
"""Candidates are a multiple of the neighbors wanted, but of no fewer than ten: else two neighbors would be chosen from
so few that recall at two falls below the recall at ten that the multiple was tuned for."""


@dataclass(frozen=True)
class VectorIndex:
    """What finds the rows nearest to a vector."""

    faiss_index: Any
    """The filled Faiss index."""
    settings: SearchSettings
    """How hard to look."""
    vectors_ND: NDArray[Any] | None = None
    """Where candidates are ranked again: all vectors, memory-mapped."""

    def search(self, vectors_QD: NDArray[np.float32], k: int, rows: RowSet, least: int | None = None) -> Hits:
        """The `k` rows of greatest inner product with each query, best first.

        Args:
            vectors_QD: [Q, D] queries.
            k: At least 1.
            rows: Only these rows are found.
            least: How many have to be found, if there are as many rows: `k`, unless fewer will do.

        Returns:
            ids int64 [Q, k], -1 where the index found no more; scores float32 [Q, k], -inf there. The scores are those
            of the codes, or exact ones where candidates are ranked again.
        """
        least = k if least is None else least
        if self.vectors_ND is None:
            return search_index(self.faiss_index, vectors_QD, k, rows, self.settings, least)
        wanted = max(k, min(max(k, LEAST_RANKED) * self.settings.refine_factor, len(rows)))
        ids_QC, _ = search_index(self.faiss_index, vectors_QD, wanted, rows, self.settings, least)
        return rerank(self.vectors_ND, vectors_QD, ids_QC, k)


def describe_search(index: VectorIndex, measured: dict[str, Any]) -> dict[str, Any]:
    """What search.json holds: what `search_settings` reads, and what was measured."""
    return {"settings": asdict(index.settings), "rerank": index.vectors_ND is not None} | measured


def search_settings(directory: Path, manifest: Manifest) -> tuple[SearchSettings, bool]:
    """How hard to look, and whether candidates are ranked again by their vectors.

    Raises:
        ArtifactError: search.json is missing or damaged.
    """
    if SEARCH_FILE not in manifest.files:
        # An index from before search.json existed, or one that another tool put here.
        return SearchSettings.of(IndexConfig(**manifest.config)), False
    remedy = f"Run `retro {STAGE}` with --redo"
    path = require_file(directory, manifest, SEARCH_FILE, remedy)
    described = read_json(path, remedy)
    try:
        return SearchSettings(**described["settings"]), bool(described["rerank"])
    except (KeyError, TypeError) as error:
        raise ArtifactError(path, f"does not say how to search ({error!r})", remedy) from None


# Dims in this file. Q queries   D dimension   K neighbors   N vectors


class FaissFile:
    """Some rows of a database, in one Faiss file. It is read at the first search."""

    def __init__(self, directory: Path, name: str, manifest: Manifest, rows: range) -> None:
        """Name the file.

        Args:
            directory: Of the index stage.
            name: Of the file.
            manifest: The stage's.
            rows: Rows of the database whose vectors it holds.
        """
        self.rows = rows
        self._directory, self._name, self._manifest = directory, name, manifest
        require_header(directory / name, len(rows), int(manifest.counts["dimension"]))

    @cached_property
    def _index(self) -> VectorIndex:
        # Faiss trusts the sizes it reads: a damaged file can crash the process, so the bytes are checked before.
        path = self._checked(self._name)
        if LISTS_FILE in self._manifest.files:
            self._checked(LISTS_FILE)
        index = load_index(path, len(self.rows), int(self._manifest.counts["dimension"]), mapped=True)
        settings, ranks_again = search_settings(self._directory, self._manifest)
        if not ranks_again:
            return VectorIndex(index, settings)
        vectors_ND = map_vectors(self._checked(EMBEDDINGS_FILE))
        return VectorIndex(index, settings, vectors_ND[self.rows.start : self.rows.stop])

    def _checked(self, name: str) -> Path:
        return require_file(self._directory, self._manifest, name, f"Run `retro {STAGE}` with --redo")

    @cached_property
    def _vectors(self) -> NDArray[np.float32] | None:
        """For an exact index, its vectors, where they are."""
        faiss = load_faiss()
        if not is_exact(faiss, self._index.faiss_index):
            return None
        flat = faiss.downcast_index(self._index.faiss_index)
        view: NDArray[np.float32] = faiss.rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d)
        return view.reshape(flat.ntotal, flat.d)

    def search(self, vectors_QD: NDArray[np.float32], k: int, rows: RowSet) -> Hits:
        """The `k` of `rows` most like each query, best first; see `ranking.settle`.

        Row numbers, here and in what is found, count from the first row of the file.
        """

        def found(queries_QD: NDArray[np.float32], depth: int) -> Hits:
            # Ties are followed deeper; that is not a reason to look into further lists.
            hits = self._index.search(queries_QD, depth, rows, least=k)
            if hits[0].size and hits[0].max() >= len(self.rows):
                problem = f"has the number {hits[0].max()} for one of its {len(self.rows)} vectors"
                raise ArtifactError(self._directory / self._name, problem, f"Run `retro {STAGE}` with --redo")
            return hits

        return search_without_ties(
            found,
            vectors_QD,
            k,
            len(rows),
            self._vectors,
        )
