"""Ask a finished index for rows, whatever it is made of: one Faiss file, several, or a database of another program."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from retro.common.artifacts import MANIFEST, Manifest, read_manifest, require_parent
from retro.common.errors import ArtifactError
from retro.common.row_set import RowSet
from retro.db.reader import ChunkDatabase
from retro.db.versions import is_version, parts_of, read_version
from retro.index.config import STAGE, IndexConfig
from retro.index.embedder import Embedder
from retro.index.embedders import open_embedder
from retro.index.rerank import Hits, best_hits
from retro.index.shards import ShardedFiles, index_files, shard_rows
from retro.index.vector_index import FaissFile

# Dims in this file. Q queries   D dimension   K neighbors   P parts


if TYPE_CHECKING:
    pass


class PartsSearcher:
    """The indexes of all parts of a database as one. The embedder is the first part's, which made all vectors.

    Attributes:
        directory: The version that names the parts.
        manifest: The version's.
        db: The database whose rows are found.
    """

    def __init__(self, directory: Path, db: ChunkDatabase, searchers: Sequence[Searcher]) -> None:
        self.directory = directory
        self.manifest: Manifest = db.manifest
        self.db = db
        self._searchers = tuple(searchers)
        starts = np.cumsum([0, *(part.rows for part in db.parts)]).tolist()
        self._places = [range(start, stop) for start, stop in itertools.pairwise(starts)]
        # Kept by the object that asks, so that an index sees the same rows again and keeps what it made of them.
        self._rows_of_parts = lru_cache(maxsize=4)(self._divided)

    @classmethod
    def open(
        cls, directory: Path, db: ChunkDatabase, open_one: Callable[[Path, ChunkDatabase], Searcher]
    ) -> PartsSearcher:
        """Open the index of every part of the version in `directory`.

        Args:
            directory: The version.
            db: Its database.
            open_one: Opens the index of one part.

        Raises:
            ArtifactError: An index is missing, damaged, or not the one that the version was made of.
        """
        manifest = read_version(directory)
        if manifest.fingerprint != db.manifest.fingerprint:
            problem = f"was made from db {manifest.fingerprint}, but the db here is {db.manifest.fingerprint}"
            raise ArtifactError(directory / MANIFEST, problem, "Open database and index of one version")
        places = parts_of(directory, manifest)
        searchers = [open_one(place.index, part) for place, part in zip(places, db.parts, strict=True)]
        for recorded, searcher in zip(db.manifest.config["parts"], searchers, strict=True):
            found = searcher.manifest.fingerprint
            if recorded["index"] != found:
                problem = f"was made of index {recorded['index']}, but {recorded['at']['index']} is {found} now"
                remedy = f"Bring that index back, or delete {directory.parent} to begin a new history"
                raise ArtifactError(directory / MANIFEST, problem, remedy)
        return cls(directory, db, searchers)

    @property
    def dimension(self) -> int:
        """D, length of the vectors."""
        return self._searchers[0].dimension

    @property
    def embedder(self) -> Embedder:
        """The embedder that made the vectors of all parts, loaded when first asked for.

        Raises:
            ArtifactError: The model found now is not the one the first index was made with.
            DataError, DependencyError: The model is missing or cannot be loaded.
        """
        return self._searchers[0].embedder

    def search(self, vectors_QD: NDArray[np.float32], k: int, rows: RowSet | None = None) -> Hits:
        """As `Searcher.search` has it, over the rows of all parts."""
        wanted = self._rows_of_parts(self.db.all_rows if rows is None else rows)
        found = [
            _shifted(searcher.search(vectors_QD, k, part_rows), place.start)
            for searcher, part_rows, place in zip(self._searchers, wanted, self._places, strict=True)
        ]
        return best_hits(found, k)

    def _divided(self, rows: RowSet) -> tuple[RowSet, ...]:
        return tuple(rows.within(place).shifted(-place.start) for place in self._places)


def _shifted(hits: Hits, by: int) -> Hits:
    ids, scores = hits
    return np.where(ids >= 0, ids + by, ids), scores


# Dims in this file. Q queries   D dimension   K neighbors


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

    def search(self, vectors_QD: NDArray[np.float32], k: int, rows: RowSet | None = None) -> Hits:
        """The `k` rows most like each query, best first; of equals, the lower row first.

        Args:
            vectors_QD: [Q, D] queries, from `embedder`.
            k: At least 1.
            rows: Find only these; without it, every row that is not removed.

        Returns:
            ids int64 [Q, k], -1 where there are no more; scores float32 [Q, k], inner products, -inf there.

        Raises:
            ArtifactError: What the index is in is damaged or gone.
            DependencyError: The program that holds the vectors does not answer.
            ValueError: Shapes or numbers that cannot be.
        """


class Backend(Protocol):
    """Where the vectors of an index are and are compared. It is opened at the first search."""

    def search(self, vectors_QD: NDArray[np.float32], k: int, rows: RowSet) -> Hits:
        """As `Searcher.search`, for at least one query and `k` from 1 to `len(rows)`."""


def open_searcher(directory: Path, db: ChunkDatabase) -> Searcher:
    """Open the index in `directory`, made from `db`, with the backend it was made for.

    Args:
        directory: What the index stage wrote, or a version of an updated database, whose parts have an index each.
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
        raise ArtifactError(directory / MANIFEST, "holds no vectors: it was made with index.embedder.kind=bm25", remedy)
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
        directory: Where it is.
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

    def search(self, vectors_QD: NDArray[np.float32], k: int, rows: RowSet | None = None) -> Hits:
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
