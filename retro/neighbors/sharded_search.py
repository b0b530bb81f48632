"""Search an index that is in several files with several workers, each in its own file, and exchange what they find.

Every worker could search every file: they are mapped, and what is found is the same. But then each machine's memory
would have to hold the whole index, or read it from disk for every block of queries. So queries are embedded once; each
file is searched for all of them, with the blocks numbered so that a worker meets one file where there are as many
workers as files; and whoever makes a block of neighbors merges what was found for it. Searches that go deeper, for the
few queries that the first candidates do not satisfy, go through all files.
"""

# Dims in this file. Q queries   D dimension   C candidates

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retro.common.artifacts import fingerprint
from retro.common.block_stage import Advance
from retro.common.blocks import Block, BlockStore
from retro.common.coordinator import Coordinator
from retro.index.rerank import best_hits
from retro.index.searcher import IndexSearcher, Searcher
from retro.index.shards import ShardedFiles
from retro.neighbors.config import STAGE
from retro.neighbors.query import FirstSearch, StreamQueries
from retro.neighbors.reader import ChunkRange

EXCHANGE = "exchange"
"""Folder below the stage's directory while workers search."""
_VECTORS, _CANDIDATES = "query_vectors", "candidates"
_IDS, _SCORES = "ids", "scores"


@dataclass(frozen=True)
class QueryBlock:
    """One block of the stage: some chunks of one stream."""

    queries: StreamQueries
    part: ChunkRange

    @property
    def name(self) -> dict[str, Any]:
        """What tells it from the other blocks, in JSON values."""
        return self.part._asdict() | {"chunks": [self.part.chunks.start, self.part.chunks.stop]}


@dataclass(frozen=True)
class ShardExchange:
    """The first search of every block, done file by file."""

    blocks: Sequence[QueryBlock]
    searcher: IndexSearcher
    files: ShardedFiles
    searched: int
    """Candidates asked for at first."""
    made_from: Mapping[str, str]
    """Fingerprints of corpus, database and index."""
    out: Path

    @classmethod
    def of(
        cls, searcher: Searcher, blocks: Sequence[QueryBlock], searched: int, made_from: Mapping[str, str], out: Path
    ) -> ShardExchange | None:
        """The exchange for an index in several files; None for any other, which is searched as a whole."""
        if (
            isinstance(searcher, IndexSearcher)
            and isinstance(searcher.backend, ShardedFiles)
            and len(searcher.db.retrievable)
        ):
            return cls(blocks, searcher, searcher.backend, searched, made_from, out)
        return None

    def run(self, coordinator: Coordinator) -> None:
        """Embed all queries, then search each file for them, together with the other workers."""
        sizes = [len(block.part.chunks) for block in self.blocks]
        coordinator.build(self._vectors, self._embed, sizes=sizes, unit="queries", what=f"{STAGE}: embedding")
        sizes = [size for size in sizes for _ in self.files.files]
        coordinator.build(
            self._candidates, self._search, sizes=sizes, unit="searches", what=f"{STAGE}: searching files"
        )

    def first(self, number: int) -> FirstSearch:
        """What all files together have for block `number`.

        Raises:
            ArtifactError: A block of another worker is damaged or gone; run again, it is built.
        """
        vectors_QD = self._vectors.take(number).arrays[_VECTORS]
        shards = len(self.files.files)
        found = [self._candidates.take(number * shards + shard).arrays for shard in range(shards)]
        most = min(self.searched, len(self.searcher.db.retrievable))
        return FirstSearch(vectors_QD, best_hits([(one[_IDS], one[_SCORES]) for one in found], most))

    def _embed(self, number: int, advance: Advance) -> Block:
        block = self.blocks[number]
        return Block({_VECTORS: block.queries.embed(block.part.chunks, advance)})

    def _search(self, number: int, advance: Advance) -> Block:
        place, shard = divmod(number, len(self.files.files))
        vectors_QD = self._vectors.take(place).arrays[_VECTORS]
        rows = self.searcher.db.retrievable
        width = max(1, min(self.searched, self.files.rows_in(shard, rows)))
        ids_QC = np.full((len(vectors_QD), width), -1, dtype=np.int64)
        scores_QC = np.full((len(vectors_QD), width), -np.inf, dtype=np.float32)
        asked = np.flatnonzero(vectors_QD.any(axis=1))
        if len(asked) and self.files.rows_in(shard, rows):
            ids_QC[asked], scores_QC[asked] = self.files.search_one(shard, vectors_QD[asked], width, rows)
        advance(len(vectors_QD))
        return Block({_IDS: ids_QC, _SCORES: scores_QC})

    @property
    def _vectors(self) -> BlockStore:
        return self._store(_VECTORS, lambda block: [block.name])

    @property
    def _candidates(self) -> BlockStore:
        shards = range(len(self.files.files))
        settings = {"searched": self.searched}
        return self._store(_CANDIDATES, lambda block: [block.name | settings | {"shard": one} for one in shards])

    def _store(self, name: str, inputs: Callable[[QueryBlock], list[dict[str, Any]]]) -> BlockStore:
        named = [
            (fingerprint(one | dict(self.made_from)), len(block.part.chunks))
            for block in self.blocks
            for one in inputs(block)
        ]
        return BlockStore(
            directory=self.out / EXCHANGE / name,
            inputs=tuple(text for text, _ in named),
            expected_rows=tuple(size for _, size in named),
            stage=STAGE,
        )


def remove_exchange(out: Path) -> None:
    """Delete what workers exchanged: the stage's artifact is complete without it."""
    shutil.rmtree(out / EXCHANGE, ignore_errors=True)
