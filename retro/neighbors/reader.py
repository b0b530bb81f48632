"""Files of neighbors, one per split: joined from blocks, and read by stream chunk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from retro.common.artifacts import MANIFEST, Manifest, read_manifest, require_parent
from retro.common.blocks import Block, BlockStore
from retro.common.errors import ArtifactError, ConfigError
from retro.common.files import atomic_path
from retro.common.hdf5 import create_column, map_column, new_file
from retro.corpus.reader import SPLITS, Corpus
from retro.db.reader import ChunkDatabase
from retro.neighbors.config import STAGE, NeighborsConfig
from retro.neighbors.hubness import neighbor_counts
from retro.neighbors.query import COUNTS, FOUND_BY, NEIGHBORS, SCORES


class ChunkRange(NamedTuple):
    """The queries of one block."""

    split: str
    source: int
    chunks: range


@dataclass
class Totals:
    """Sums over all blocks."""

    queries: dict[str, int] = field(default_factory=dict)
    """By split."""
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    neighbors: int = 0
    without_neighbors: int = 0
    score_sum: float = 0.0
    best_score_sum: float = 0.0
    found: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    """By split, how often each row is a neighbor, up to the last row found."""

    def add(self, split: str, block: Block) -> None:
        """Count one more block."""
        ids_QK, scores_QK = block.arrays[NEIGHBORS], block.arrays[SCORES].astype(np.float64)
        found_QK = ids_QK >= 0
        self.queries[split] += block.rows
        for name in COUNTS:
            # Blocks of an older toolkit do not say what found their neighbors.
            self.counts[name] += block.counts.get(name, 0) if name in FOUND_BY else block.counts[name]
        self.neighbors += int(found_QK.sum())
        self.without_neighbors += int((~found_QK[:, 0]).sum())
        self.score_sum += float(scores_QK[found_QK].sum())
        self.best_score_sum += float(scores_QK[found_QK[:, 0], 0].sum())
        before = self.found.get(split, np.zeros(0, dtype=np.int64))
        more = neighbor_counts(ids_QK, len(before))
        more[: len(before)] += before
        self.found[split] = more


def file_name(split: str) -> str:
    """File of a split's neighbors: `train.h5`."""
    return f"{split}.h5"


def merge_blocks(
    store: BlockStore, plan: Sequence[ChunkRange], out: Path, sources: Sequence[str], config: NeighborsConfig
) -> Totals:
    """Write the files of all splits; one block at a time is in memory.

    Raises:
        ArtifactError: A block is damaged, or the disk is full.
    """
    totals = Totals(queries=dict.fromkeys(config.splits, 0))
    for split in config.splits:
        path = out / file_name(split)
        with atomic_path(path) as temporary, new_file(temporary) as file:
            for source, name in enumerate(sources):
                numbers = [n for n, part in enumerate(plan) if (part.split, part.source) == (split, source)]
                queries = sum(len(plan[number].chunks) for number in numbers)
                group = file.create_group(name)
                create_column(group, NEIGHBORS, (queries, config.saved), np.int64)
                create_column(group, SCORES, (queries, config.saved), np.float32)
                _copy_blocks(group, store, numbers, plan, totals)
    return totals


def _copy_blocks(
    group: h5py.Group, store: BlockStore, numbers: Sequence[int], plan: Sequence[ChunkRange], totals: Totals
) -> None:
    for number in numbers:
        block, part = store.take(number), plan[number]
        for name in (NEIGHBORS, SCORES):
            group[name][part.chunks.start : part.chunks.stop] = block.arrays[name]
        totals.add(part.split, block)


Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Neighbors:
    """The artifact of the neighbors stage. Files are mapped when first asked for."""

    directory: Path
    manifest: Manifest
    sources: tuple[str, ...]
    database_rows: int
    """Rows of the database that they were found in."""
    _maps: dict[str, NDArray[np.generic]] = field(default_factory=dict)

    @classmethod
    def open(cls, directory: Path, db: ChunkDatabase, corpus: Corpus) -> Neighbors:
        """Open the neighbors in `directory`, found in `db` for the streams of `corpus`.

        Raises:
            ArtifactError: The stage did not finish, a file is cut short, or it was made from another database.
        """
        manifest = read_manifest(directory, STAGE)
        require_parent(directory, manifest, "corpus", corpus.manifest)
        require_database(directory, manifest, db)
        return cls(directory, manifest, corpus.sources, db.rows)

    @property
    def database_version(self) -> int:
        """The version of the database they were found in."""
        return int(self.manifest.counts["database_version"])

    @property
    def _remedy(self) -> str:
        return f"Delete {self.directory} and run `retro neighbors` again"

    @property
    def saved(self) -> int:
        """Neighbors stored per chunk, the greatest k that can be asked for."""
        return int(self.manifest.config["saved"])

    def chunks(self, split: int, source: int) -> int:
        """Chunks of a stream."""
        return len(self._column(split, source, NEIGHBORS))

    def of(self, split: int, source: int, chunk_numbers: Int64, k: int) -> Int64:
        """Neighbors of stream chunks.

        Args:
            split: 0 train, 1 valid, 2 test.
            source: Number of the source.
            chunk_numbers: [N] chunks of that stream.
            k: Neighbors wanted, 1 to `saved`.

        Returns:
            int64 [N, k] rows of the database, best first; -1 where there is none.

        Raises:
            ConfigError: More neighbors are wanted than were saved.
            ArtifactError: This split was not searched, or its file is damaged.
            ValueError: There is no such chunk.
        """
        ids_NK: Int64 = self._rows(split, source, chunk_numbers, k, NEIGHBORS).astype(np.int64, copy=False)
        if ids_NK.size and (ids_NK.min() < -1 or ids_NK.max() >= self.database_rows):
            problem = f"has neighbors {ids_NK.min()} to {ids_NK.max()} in a database of {self.database_rows} rows"
            raise ArtifactError(self.directory / file_name(SPLITS[split]), problem, self._remedy)
        return ids_NK

    def scores(self, split: int, source: int, chunk_numbers: Int64, k: int) -> NDArray[np.float32]:
        """Scores of the same neighbors, float32 [N, k]; -inf where there is none."""
        scores_NK: NDArray[np.float32] = self._rows(split, source, chunk_numbers, k, SCORES).astype(np.float32)
        return scores_NK

    def _rows(self, split: int, source: int, chunk_numbers: Int64, k: int, name: str) -> NDArray[np.generic]:
        if not 1 <= k <= self.saved:
            need = f"needs to be at least {k}, as many neighbors as are asked for; {self.directory} has fewer"
            raise ConfigError("neighbors.saved", self.saved, need)
        column = self._column(split, source, name)
        chunks = np.asarray(chunk_numbers, dtype=np.int64)
        if chunks.size and (chunks.min() < 0 or chunks.max() >= len(column)):
            raise ValueError(f"chunks {chunks.min()} to {chunks.max()} are outside a stream of {len(column)} chunks")
        return np.asarray(column[chunks, :k])

    def _column(self, split: int, source: int, name: str) -> NDArray[np.generic]:
        key = f"{SPLITS[split]}/{self.sources[source]}/{name}"
        if key not in self._maps:
            if SPLITS[split] not in self.manifest.config["splits"]:
                problem = f"has no neighbors of split {SPLITS[split]!r}"
                raise ArtifactError(
                    self.directory, problem, "Add it to neighbors.splits and run `retro neighbors` again"
                )
            path = self.directory / file_name(SPLITS[split])
            self._maps[key] = map_column(path, f"{self.sources[source]}/{name}", self._remedy, width=self.saved)
        return self._maps[key]


def require_database(directory: Path, neighbors: Manifest, db: ChunkDatabase) -> None:
    """Check that neighbors were found in the database that is to be read with them.

    Raises:
        ArtifactError: They were found in another one, or in another version of it; both are named.
    """
    recorded, version = neighbors.parents.get("db"), neighbors.counts.get("database_version", 0)
    if recorded == db.manifest.fingerprint:
        return
    here = f"{db.manifest.fingerprint} (version {db.version})"
    problem = f"was made from db {recorded} (version {version}), but the db here is {here}"
    remedy = (
        "Run `retro neighbors` again (add --redo), or read the database they were found in: "
        f"database.version={version}, and database.run_dir where it is another run's"
    )
    raise ArtifactError(directory / MANIFEST, problem, remedy)
