"""Ask a finished index for rows, whatever it is made of: one Faiss file, several, or a database of another program."""

# Dims in this file. Q queries   D dimension   K neighbors

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from retro.common.artifacts import MANIFEST, Manifest, read_manifest, require_parent
from retro.common.errors import ArtifactError
from retro.common.rows import Rows
from retro.db.reader import ChunkDatabase
from retro.db.versions import is_version
from retro.index.config import STAGE, IndexConfig
from retro.index.embedders import Embedder, open_embedder
from retro.index.faiss_file import FaissFile
from retro.index.parts import PartsSearcher
from retro.index.ranking import Hits
from retro.index.sharded import ShardedFiles, index_files, shard_rows


class Searcher(Protocol):
    """What finds the rows of a database that are most like a vector."""

    @property
    def manifest(self) -> Manifest:
        """What the stage that made it said of it."""

    @property
    def db(self) -> ChunkDatabase:
        """The database whose rows it finds."""

    @property
    def dimension(self) -> int:
        """D, length of the vectors."""

    @property
    def embedder(self) -> Embedder:
        """The embedder that made the vectors, loaded when first asked for.

        Raises:
            ArtifactError: The model found now is not the one the vectors were made with.
            DataError, DependencyError: The model is missing or cannot be loaded.
        """

    def search(self, vectors_QD: NDArray[np.float32], k: int, rows: Rows | None = None) -> Hits:
        """The `k` rows most like each query, best first; of equals, the lower row first.

        Args:
            vectors_QD: [Q, D] queries, from `embedder`.
            k: At least 1.
            rows: Find only these; without it, every row that is not removed.

        Returns:
            ids int64 [Q, k], -1 where there are no more; scores float32 [Q, k], inner products, -inf there.

        Raises:
            ArtifactError: What the index lies in is damaged or gone.
            DependencyError: The program that holds the vectors does not answer.
            ValueError: Shapes or numbers that cannot be.
        """


class Backend(Protocol):
    """Where the vectors of an index lie and are compared. It is opened at the first search."""

    def search(self, vectors_QD: NDArray[np.float32], k: int, rows: Rows) -> Hits:
        """As `Searcher.search`, for at least one query and `k` from 1 to `len(rows)`."""


def open_searcher(directory: Path, db: ChunkDatabase) -> Searcher:
    """Open the index in `directory`, made from `db`, with the backend it was made for.

    Args:
        directory: What the index stage wrote, or a version of a living database, whose parts have an index each.
        db: The database that is searched.

    Raises:
        ArtifactError: The stage did not finish, a file is cut short, or it was made from another database.
    """
    if is_version(directory):
        return PartsSearcher.open(directory, db, open_searcher)
    manifest = read_manifest(directory, STAGE)
    require_parent(directory, manifest, "db", db.manifest)
    if not manifest.counts["dimension"]:
        remedy = (
            "Search by words (neighbors.source=bm25, search.source=bm25), or choose an embedder and run "
            f"`retro {STAGE}` with --redo"
        )
        raise ArtifactError(directory / MANIFEST, "holds no vectors: it was made with index.embedder.kind=none", remedy)
    return IndexSearcher(directory, manifest, db, open_backend(directory, manifest))


def open_backend(directory: Path, manifest: Manifest) -> Backend:
    """The backend that the index in `directory` was made for; nothing is read yet."""
    config, rows = IndexConfig(**manifest.config), int(manifest.counts["rows"])
    if config.backend == "milvus":
        from retro.index.milvus import collection_of

        return collection_of(directory, manifest)
    parts = shard_rows(rows, config.shards)
    files = [FaissFile(directory, name, manifest, part) for name, part in zip(index_files(config), parts, strict=True)]
    return files[0] if len(files) == 1 else ShardedFiles(files)


class IndexSearcher:
    """The artifact of the index stage, asked through a backend. Open it with `open_searcher`.

    Attributes:
        directory: Where it lies.
        manifest: What the stage said of it.
        db: The database whose rows it finds.
        backend: What compares vectors.
    """

    def __init__(self, directory: Path, manifest: Manifest, db: ChunkDatabase, backend: Backend) -> None:
        self.directory, self.manifest, self.db, self.backend = directory, manifest, db, backend

    @property
    def dimension(self) -> int:
        """See `Searcher`."""
        return int(self.manifest.counts["dimension"])

    @cached_property
    def embedder(self) -> Embedder:
        """See `Searcher`."""
        embedder = open_embedder(self.directory)
        if embedder.dimension != self.dimension:
            problem = f"says vectors of {self.dimension} values, the embedder beside it gives {embedder.dimension}"
            raise ArtifactError(self.directory / MANIFEST, problem, f"Run `retro {STAGE}` again")
        return embedder

    def search(self, vectors_QD: NDArray[np.float32], k: int, rows: Rows | None = None) -> Hits:
        """See `Searcher`."""
        if vectors_QD.ndim != 2 or vectors_QD.shape[1] != self.dimension or k < 1:
            raise ValueError(f"cannot look for {k} neighbors of {vectors_QD.shape} in dimension {self.dimension}")
        wanted = self.db.all_rows if rows is None else rows
        if wanted.stop > self.db.rows:
            raise ValueError(f"cannot look among rows up to {wanted.stop} of a database of {self.db.rows}")
        found = min(k, len(wanted))
        ids_QK = np.full((len(vectors_QD), k), -1, dtype=np.int64)
        scores_QK = np.full((len(vectors_QD), k), -np.inf, dtype=np.float32)
        if found and len(vectors_QD):
            ids_QK[:, :found], scores_QK[:, :found] = self.backend.search(vectors_QD, found, wanted)
        return ids_QK, scores_QK
