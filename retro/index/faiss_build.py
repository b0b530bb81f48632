"""From blocks of embeddings to a filled index: train once, encode side by side, put together once."""

# Dims in this file. S vectors of the training sample   D dimension   W bytes of a code

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retro.common.artifacts import fingerprint
from retro.common.block_stage import Advance
from retro.common.blocks import Block, BlockStore
from retro.common.coordinator import Coordinator
from retro.common.errors import ConfigError
from retro.db.reader import ChunkDatabase
from retro.index.codes import CODES, add_codes, encode, lists_of, merge_on_disk
from retro.index.config import STAGE, IndexConfig
from retro.index.embeddings import DATASET, sample_rows
from retro.index.faiss_index import add_vectors
from retro.index.faiss_loader import load_faiss
from retro.index.index_choice import SETTING, choose_index, create_index, is_exact, ranks_again
from retro.index.training import gpus_for, train_index

log = logging.getLogger(__name__)

_TRAINED, _CODES = "trained", "codes"
_BYTES = "index"


@dataclass(frozen=True)
class IndexPlan:
    """What index is to be built, decided and checked before anything is embedded."""

    config: IndexConfig
    empty: Any
    """The index, neither trained nor filled."""
    factory: str
    training_rows: NDArray[np.int64]
    """Drawn uniformly from the train split, ascending."""
    ranks_again: bool
    """Candidates are ranked again by the kept embeddings."""

    @property
    def exact(self) -> bool:
        """Whether every query is compared with every full vector."""
        return is_exact(load_faiss(), self.empty)

    @property
    def by_codes(self) -> bool:
        """Whether workers encode blocks side by side; else one adds all vectors in order."""
        return lists_of(self.empty) is not None


def plan_index(config: IndexConfig, db: ChunkDatabase, dimension: int) -> IndexPlan:
    """Decide on the index of a database.

    Raises:
        ConfigError: The Faiss string cannot work, there are too few chunks to train it, it needs embeddings that are
            not kept, or its lists cannot be on disk.
        DependencyError: A GPU is asked for, and Faiss sees none.
    """
    training_rows = sample_rows(db.rows_of(0), config.train_sample, config.seed)
    factory = choose_index(db.rows, len(training_rows), dimension) if config.faiss == "auto" else config.faiss
    empty = create_index(factory, dimension, len(training_rows))
    gpus_for(config.device)
    plan = IndexPlan(config, empty, factory, training_rows, ranks_again(load_faiss(), empty, config, factory))
    if config.on_disk and not plan.by_codes:
        need = f"needs inverted lists of Flat, SQ, PQ or RaBitQ codes, as in IVF4096,SQ8; {SETTING} is {factory!r}"
        raise ConfigError("index.on_disk", config.on_disk, need)
    return plan


@dataclass(frozen=True)
class Assembly:
    """The building of one index out of the blocks of embeddings in `embedded`."""

    plan: IndexPlan
    embedded: BlockStore
    out: Path

    def encode_all(self, coordinator: Coordinator) -> None:
        """Train the index and turn all vectors into codes, together with the other workers.

        Nothing happens for an index that is filled by adding vectors in order.
        """
        if not self.plan.by_codes:
            if not self.plan.exact:
                log.info("index: %s is trained and filled by one worker", self.plan.factory)
            return
        trained = self._trained_store()
        coordinator.build(
            trained, lambda _, advance: self._train(advance), sizes=[1], unit="index", what="index: training"
        )
        # Read by workers that find something to encode, and by them once.
        index = cache(lambda: self._trained(trained))

        def make(number: int, advance: Advance) -> Block:
            return encode(index(), self.embedded.take(number).arrays[DATASET], advance)

        sizes = self.embedded.expected_rows
        coordinator.build(self._codes_store(), make, sizes=sizes, unit="vectors", what="index: encoding")

    def fill(self, vectors_ND: NDArray[Any]) -> Any:
        """The filled index, by one worker: from the stored codes, or by adding `vectors_ND` in order.

        Raises:
            ArtifactError: A block is damaged, or the disk is full.
            ConfigError: Faiss cannot train such an index on these vectors.
        """
        plan, config = self.plan, self.plan.config
        if not plan.by_codes:
            sample = vectors_ND[plan.training_rows] if not plan.empty.is_trained else vectors_ND[:0]
            train_index(plan.empty, plan.factory, sample, device=config.device, reproducible=config.reproducible)
            add_vectors(plan.empty, vectors_ND, reproducible=config.reproducible)
            return plan.empty
        trained, codes, sizes = self._trained_store(), self._codes_store(), self.embedded.expected_rows

        def read(number: int) -> NDArray[np.uint8]:
            return codes.take(number).arrays[CODES]

        if config.on_disk:
            return merge_on_disk(lambda: self._trained(trained), sizes, read, self.out)
        index = self._trained(trained)
        add_codes(index, map(read, range(len(codes))), first_row=0, total=sum(sizes))
        return index

    def _train(self, advance: Advance) -> Block:
        plan, config = self.plan, self.plan.config
        train_index(*(plan.empty, plan.factory, self._sample()), device=config.device, reproducible=config.reproducible)
        advance(1)
        return Block({_BYTES: load_faiss().serialize_index(plan.empty)})

    def _sample(self) -> NDArray[np.float16]:
        """[S, D] the training sample, collected from the blocks."""
        rows, parts, start = self.plan.training_rows, [], 0
        for number, size in enumerate(self.embedded.expected_rows):
            first, last = np.searchsorted(rows, [start, start + size])
            if last > first:
                parts.append(self.embedded.take(number).arrays[DATASET][rows[first:last] - start])
            start += size
        return np.concatenate(parts)

    def _trained(self, store: BlockStore) -> Any:
        return load_faiss().deserialize_index(store.take(0).arrays[_BYTES])

    def _trained_store(self) -> BlockStore:
        return BlockStore(directory=self.out / _TRAINED, inputs=(self._trained_from(),), stage=STAGE)

    def _codes_store(self) -> BlockStore:
        trained = self._trained_from()
        inputs = tuple(fingerprint({"trained": trained, "block": block}) for block in self.embedded.inputs)
        expected = self.embedded.expected_rows
        return BlockStore(directory=self.out / _CODES, inputs=inputs, expected_rows=expected, stage=STAGE)

    def _trained_from(self) -> str:
        config = self.plan.config
        settings = {name: getattr(config, name) for name in ("train_sample", "seed", "device", "reproducible")}
        return fingerprint({"blocks": self.embedded.inputs, "faiss": self.plan.factory} | settings)


def remove_assembly(out: Path) -> None:
    """Delete the trained index and the codes: what they held is in the stage's artifact now."""
    for name in (_TRAINED, _CODES):
        shutil.rmtree(out / name, ignore_errors=True)
