"""Blocks of neighbors to one file per split, with a group per source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from retro.common.blocks import Block, BlockStore
from retro.common.files import atomic_path
from retro.common.hdf5 import create_column, new_file
from retro.neighbors.config import NeighborsConfig
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
