"""One Faiss file as a backend of search: mapped into memory, so that opening it costs no memory and little time."""

# Dims in this file. Q queries   D dimension   K neighbors   N vectors

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retro.common.artifacts import Manifest, require_file
from retro.common.errors import ArtifactError
from retro.common.row_set import RowSet
from retro.index.codes import LISTS_FILE
from retro.index.config import STAGE
from retro.index.embeddings import FILE as EMBEDDINGS_FILE
from retro.index.faiss_index import load_index, require_header
from retro.index.faiss_loader import load_faiss
from retro.index.index_choice import is_exact
from retro.index.rerank import Hits, map_vectors, search_without_ties
from retro.index.vector_index import VectorIndex, search_settings


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
        """For an exact index, its vectors, where they lie."""
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
            # Ties are followed deeper; that is no reason to look into further lists.
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
