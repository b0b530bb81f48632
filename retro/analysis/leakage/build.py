"""The overlaps of held-out chunks with training text: blocks of work, then one file.

leakage/manifest.json, report.json
leakage/overlaps.h5    for each source of the corpus, one row per chunk of the split's stream:
    <source>/text       int32 [chunks], tokens of text: all but ends of documents
    <source>/neighbors  int32 [chunks, K], longest common token substring with each saved neighbor and its
                        continuation
    <source>/read       the same with the neighbors of the chunk before, which models read while they predict it
    <source>/training   int32 [chunks], with the text of the whole training split
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from retro.analysis.leakage.config import STAGE, LeakageConfig
from retro.analysis.leakage.measure import FILE, NEIGHBORS, READ, TEXT, TRAINING
from retro.analysis.leakage.overlaps import Advance, Overlaps
from retro.common.artifacts import REPORT, Manifest, describe_files, fingerprint
from retro.common.block_stage import completed, fingerprints, remove_unlisted_files
from retro.common.blocks import Block, BlockStore, ranges
from retro.common.coordinator import Coordinator
from retro.common.errors import DataError
from retro.common.files import atomic_path, write_json
from retro.common.hdf5 import create_column, new_file
from retro.common.launcher import ALONE, Worker
from retro.corpus.reader import SPLITS, Corpus
from retro.db.reader import ChunkDatabase
from retro.db.versions import open_database
from retro.neighbors.reader import Neighbors

log = logging.getLogger(__name__)


class BlockRange(NamedTuple):
    """What one block is about."""

    source: int
    chunks: range
    training_source: int = 0
    positions: range = range(0)
    """Of the training source's stream; none where chunks are held against their neighbors."""


class Inputs(NamedTuple):
    """What is measured."""

    corpus: Corpus
    db: ChunkDatabase
    neighbors: Neighbors

    @property
    def manifests(self) -> dict[str, Manifest]:
        """Of the stages, by name."""
        return {"corpus": self.corpus.manifest, "db": self.db.manifest, "neighbors": self.neighbors.manifest}


def open_inputs(corpus_dir: Path, db_dir: Path, neighbors_dir: Path) -> Inputs:
    """Open what is measured.

    Raises:
        ArtifactError: A stage did not finish, or they do not belong together.
    """
    corpus = Corpus.open(corpus_dir)
    db = open_database(db_dir, corpus)
    return Inputs(corpus, db, Neighbors.open(neighbors_dir, db, corpus))


def run(config: LeakageConfig, split: str, parents: Inputs, out: Path, *, worker: Worker = ALONE) -> Manifest:
    """Measure how much of every held-out chunk is in its neighbors and in the training text.

    Args:
        config: The settings.
        split: valid or test.
        parents: Open artifacts.
        out: Where overlaps.h5 goes.
        worker: This process's place among those that measure.

    Returns:
        The manifest, once all is measured, whoever completed it.

    Raises:
        ArtifactError: The split has no neighbors, `out` was made from other parents, or the disk is full.
        DataError: The split has not one whole chunk.
    """
    settings = config.shaping(split)
    made = completed(out, STAGE, settings, parents.manifests)
    if made is not None:
        remove_unlisted_files(out, made)
        shutil.rmtree(out / "blocks", ignore_errors=True)
        return made
    work = _Work(config, Overlaps(parents.corpus, parents.db, parents.neighbors, split), parents, out)
    if not work.near:
        problem = f"its {split} split has not one chunk of {parents.db.chunk_length} tokens"
        raise DataError(parents.corpus.directory, problem, "Give corpus.split a larger share for it")
    started = time.monotonic()
    coordinator = Coordinator(out, worker, stage=STAGE)
    chunks, tokens = work.build(coordinator)

    def join() -> Manifest:
        work.join()
        done = {"chunks_done": chunks, "tokens_done": tokens, "seconds": round(time.monotonic() - started, 3)}
        write_json(out / REPORT, done)
        counts = {"chunks": sum(len(part.chunks) for part in work.near)}
        files = describe_files(out, [FILE])
        parts = fingerprints(parents.manifests)
        return Manifest(stage=STAGE, config=settings, parents=parts, counts=counts, files=files)

    return coordinator.finish(join, scratch=out / "blocks")


@dataclass(frozen=True)
class _Work:
    """The blocks of one measurement, of two kinds: chunks against neighbors, and against pieces of training text."""

    config: LeakageConfig
    overlaps: Overlaps
    parents: Inputs
    out: Path

    @cached_property
    def near(self) -> list[BlockRange]:
        """Chunks that are held against their neighbors."""
        return [
            BlockRange(source, chunks)
            for source in range(len(self.parents.corpus.sources))
            for chunks in ranges(self.overlaps.stream(source).chunks, self.config.chunks_per_block)
        ]

    @cached_property
    def far(self) -> list[BlockRange]:
        """The same chunks against pieces of the training text; all pieces of some chunks, then the next chunks."""
        pieces = [
            (source, positions)
            for source in range(len(self.parents.corpus.sources))
            for positions in ranges(self.overlaps.stream(source, SPLITS[0]).length, self.config.tokens_per_block)
        ]
        return [BlockRange(part.source, part.chunks, *piece) for part in self.near for piece in pieces]

    def build(self, coordinator: Coordinator) -> tuple[int, int]:
        """Build all blocks, with others; gives chunks and tokens of training text that were read here."""
        chunks = coordinator.build(
            self._store(NEIGHBORS, self.near), self._against_neighbors,
            sizes=[len(part.chunks) for part in self.near], unit="chunks", what="leakage, neighbors",
        )  # fmt: skip
        tokens = coordinator.build(
            self._store(TRAINING, self.far), self._against_training,
            sizes=[len(part.positions) for part in self.far], unit="tokens", what="leakage, training text",
        )  # fmt: skip
        return chunks, tokens

    def _against_neighbors(self, number: int, advance: Advance) -> Block:
        part = self.near[number]
        own_QK, read_QK = self.overlaps.with_neighbors(part.source, part.chunks, advance)
        return Block({NEIGHBORS: own_QK, READ: read_QK})

    def _against_training(self, number: int, advance: Advance) -> Block:
        return Block({TRAINING: self.overlaps.with_training_text(*self.far[number], advance)})

    def _store(self, name: str, plan: Sequence[BlockRange]) -> BlockStore:
        base = fingerprints(self.parents.manifests) | {"split": self.overlaps.split, "against": name}
        return BlockStore(
            directory=self.out / "blocks" / name,
            inputs=tuple(fingerprint(base | {"part": repr(part)}) for part in plan),
            expected_rows=tuple(len(part.chunks) for part in plan),
            stage=STAGE,
        )

    def join(self) -> None:
        """Write the file; of what a chunk shares with the pieces of the training text, the longest."""
        near, far = self._store(NEIGHBORS, self.near), self._store(TRAINING, self.far)
        with atomic_path(self.out / FILE) as temporary, new_file(temporary) as file:
            for source, name in enumerate(self.parents.corpus.sources):
                group = self._columns(file.create_group(name), source)
                for number, part in enumerate(self.near):
                    if part.source == source:
                        rows = slice(part.chunks.start, part.chunks.stop)
                        group[TEXT][rows] = (self.overlaps.text(source, part.chunks) >= 0).sum(axis=1)
                        for column, array in near.take(number).arrays.items():
                            group[column][rows] = array
                for number, part in enumerate(self.far):
                    if part.source == source:
                        rows = slice(part.chunks.start, part.chunks.stop)
                        group[TRAINING][rows] = np.maximum(group[TRAINING][rows], far.take(number).arrays[TRAINING])

    def _columns(self, group: h5py.Group, source: int) -> h5py.Group:
        chunks, saved = self.overlaps.stream(source).chunks, self.parents.neighbors.saved
        for name, shape in ((TEXT, ()), (NEIGHBORS, (saved,)), (READ, (saved,)), (TRAINING, ())):
            create_column(group, name, (chunks, *shape), np.int32)
            if chunks:
                group[name][...] = 0
        return group
