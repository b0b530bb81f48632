"""Milvus as a backend of search: the embeddings of an index in a collection of a server, or of Milvus Lite.

The collection is a copy of embeddings.h5 and no part of the artifact: its name says which embeddings it holds, so that
it can be filled again from them at any time and never be taken for another one's.
"""

# Dims in this file. N vectors   D dimension   Q queries   K neighbors

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retro.common.artifacts import Manifest, fingerprint
from retro.common.errors import ArtifactError
from retro.common.hdf5 import map_column
from retro.common.progress import Progress
from retro.common.row_set import RowSet
from retro.index.config import STAGE, IndexConfig
from retro.index.embeddings import DATASET
from retro.index.embeddings import FILE as EMBEDDINGS
from retro.index.faiss_index import SearchSettings
from retro.index.index_choice import EXACT_UP_TO
from retro.index.milvus_client import MilvusServer, load_pymilvus
from retro.index.rerank import Hits, search_without_ties

log = logging.getLogger(__name__)

ROW, VECTOR = "row", "vector"
MOST_HITS = 16_384
"""Milvus gives no more hits for one query."""
_BYTES_AT_ONCE = 8 << 20
"""Of vectors in one message, in either direction; Milvus takes up to 64 MB."""
_POLL_S = 1.0


@dataclass(frozen=True)
class MilvusCollection:
    """The vectors of one index, in a collection of Milvus."""

    server: MilvusServer
    name: str
    rows: int
    dimension: int
    kind: str
    """Milvus's index type."""
    settings: SearchSettings

    @classmethod
    def of(
        cls, directory: Path, config: IndexConfig, vectors_sha256: str, rows: int, dimension: int
    ) -> MilvusCollection:
        """The collection for the embeddings of an index; nothing is opened.

        Args:
            directory: Of the index stage.
            config: Its settings.
            vectors_sha256: Of embeddings.h5.
            rows: Vectors in it.
            dimension: Their length.
        """
        kind = config.milvus.index
        if kind == "auto":
            kind = "FLAT" if rows <= EXACT_UP_TO else "IVF_SQ8"
        contents = fingerprint({"vectors": vectors_sha256, "index": kind})
        server = MilvusServer.of(config.milvus, directory)
        return cls(server, f"{config.milvus.collection}_{contents}", rows, dimension, kind, SearchSettings.of(config))

    @cached_property
    def client(self) -> Any:
        """A client of the server.

        Raises:
            DependencyError: A package is missing, or no server answers.
            ArtifactError: The folder of Milvus Lite cannot be opened.
        """
        return self.server.connect()

    @property
    def exact(self) -> bool:
        """Whether every query is compared with every full vector."""
        return self.kind == "FLAT"

    def fill(self, vectors_ND: NDArray[Any]) -> None:
        """Have the collection hold all vectors; continues where it was stopped, and does nothing where it is full.

        Args:
            vectors_ND: The embeddings, memory-mapped.

        Raises:
            DependencyError, ArtifactError: Milvus cannot be used.
        """
        with self.server.answering():
            if self._count() < self.rows:
                self._create()
                self._insert(vectors_ND)
                self._build()
        self._require_full()

    def search(self, vectors_QD: NDArray[np.float32], k: int, rows: RowSet) -> Hits:
        """The `k` of `rows` most like each query, best first; at most `MOST_HITS` each. See `ranking.settle`.

        Raises:
            ArtifactError: The collection is missing or holds another number of vectors.
            DependencyError, ArtifactError: Milvus cannot be used.
        """
        self._opened  # noqa: B018 - checked and loaded once
        wanted, most = expression(rows, self.rows), min(len(rows), MOST_HITS)
        found = min(k, most)
        ids_QK = np.full((len(vectors_QD), k), -1, dtype=np.int64)
        scores_QK = np.full((len(vectors_QD), k), -np.inf, dtype=np.float32)
        hits = search_without_ties(
            lambda queries_QD, depth: self._ask(queries_QD, depth, wanted), vectors_QD, found, most
        )
        ids_QK[:, :found], scores_QK[:, :found] = hits
        return ids_QK, scores_QK

    @cached_property
    def _opened(self) -> bool:
        self._require_full()
        with self.server.answering():
            self.client.load_collection(self.name)
        return True

    def _require_full(self) -> None:
        with self.server.answering():
            found = self._count()
        if found != self.rows:
            where = f"{self.name} at {self.server.uri}"
            problem = f"holds {found} vectors, needed are {self.rows}" if found >= 0 else "is missing"
            remedy = f"Run `retro {STAGE}` again; it fills the collection from the kept embeddings"
            raise ArtifactError(Path(where), problem, remedy)

    def _count(self) -> int:
        """Vectors in the collection; -1 where there is none."""
        if not self.client.has_collection(self.name):
            return -1
        self.client.load_collection(self.name)
        return int(self.client.query(self.name, filter="", output_fields=["count(*)"])[0]["count(*)"])

    def _create(self) -> None:
        if self.client.has_collection(self.name):
            return
        pymilvus = load_pymilvus()
        schema = self.client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field(ROW, pymilvus.DataType.INT64, is_primary=True)
        schema.add_field(VECTOR, pymilvus.DataType.FLOAT_VECTOR, dim=self.dimension)
        index = self.client.prepare_index_params()
        index.add_index(VECTOR, index_type=self.kind, metric_type="IP", params=self._building())
        # With its index from the start: only a collection that has one can be asked how much it holds.
        self.client.create_collection(self.name, schema=schema, index_params=index, consistency_level="Strong")

    def _insert(self, vectors_ND: NDArray[Any]) -> None:
        at_once = max(1, _BYTES_AT_ONCE // (4 * self.dimension))
        # Rows go in one after the other, so what is there is a beginning. Its last batch may be cut short; a row that
        # is given twice replaces itself.
        start = max(self._count(), 0) // at_once * at_once
        with Progress(self.rows, what="index: filling Milvus", unit="vectors", done=start) as bar:
            for first in range(start, self.rows, at_once):
                some = np.asarray(vectors_ND[first : first + at_once], dtype=np.float32)
                data = [{ROW: first + place, VECTOR: vector} for place, vector in enumerate(some)]
                self.client.upsert(self.name, data)
                bar.advance(len(some))

    def _build(self) -> None:
        """Write what is in the server's memory, and wait until it is indexed."""
        self.client.flush(self.name)
        while int(self.client.describe_index(self.name, VECTOR).get("pending_index_rows", 0)):
            time.sleep(_POLL_S)

    def _building(self) -> dict[str, int]:
        if self.kind.startswith("IVF"):
            return {"nlist": max(1, min(4 * math.isqrt(self.rows), 65_536))}
        return {"M": 16, "efConstruction": 200} if self.kind == "HNSW" else {}

    def _searching(self, k: int) -> Mapping[str, int]:
        if self.kind.startswith("IVF"):
            return {"nprobe": min(self.settings.nprobe, self._building()["nlist"])}
        return {"ef": max(self.settings.ef_search, k)} if self.kind == "HNSW" else {}

    def _ask(self, queries_QD: NDArray[np.float32], k: int, wanted: str) -> Hits:
        ids_QK = np.full((len(queries_QD), k), -1, dtype=np.int64)
        scores_QK = np.full((len(queries_QD), k), -np.inf, dtype=np.float32)
        at_once = max(1, _BYTES_AT_ONCE // (4 * max(self.dimension, 4 * k)))
        for start in range(0, len(queries_QD), at_once):
            with self.server.answering():
                hits = self.client.search(
                    self.name,
                    data=list(queries_QD[start : start + at_once]),
                    limit=k,
                    filter=wanted,
                    anns_field=VECTOR,
                    output_fields=[ROW],
                    search_params={"metric_type": "IP", "params": self._searching(k)},
                )
            for place, hit in enumerate(hits, start=start):
                ids_QK[place, : len(hit.ids)] = hit.ids
                scores_QK[place, : len(hit.ids)] = hit.distances
        return ids_QK, scores_QK


def collection_of(directory: Path, manifest: Manifest) -> MilvusCollection:
    """The collection of the finished index in `directory`; nothing is opened."""
    config, counts = IndexConfig(**manifest.config), manifest.counts
    sha256 = manifest.files[EMBEDDINGS]["sha256"]
    return MilvusCollection.of(directory, config, sha256, int(counts["rows"]), int(counts["dimension"]))


def fill_again(directory: Path, manifest: Manifest) -> None:
    """Have the collection of a finished index hold all vectors, wherever it is now.

    Raises:
        DependencyError, ArtifactError: Milvus cannot be used, or the embeddings are damaged.
    """
    collection_of(directory, manifest).fill(map_column(directory / EMBEDDINGS, DATASET, f"Run `retro {STAGE}` again"))


def expression(rows: RowSet, total: int) -> str:
    """Rows as Milvus asks for them; empty for all of the `total` rows that there are."""
    if rows.only_range == range(total):
        return ""
    whole = rows.ranges == (range(total),)
    ranges = " or ".join(f"({ROW} >= {part.start} and {ROW} < {part.stop})" for part in rows.ranges)
    parts = [] if whole else [f"({ranges})"]
    if len(rows.removed):
        parts.append(f"{ROW} not in [{', '.join(map(str, rows.removed.tolist()))}]")
    return " and ".join(parts)
