"""The step `encode`: documents to what a frozen model reads of them, once, offline, and before any question is asked.

Blocks of documents are encoded one after the other, and a block is on disk when the next one begins; then they are
joined to a store (`store.py`). Stopped anywhere and run again, it ends in the same bytes.
"""

# Dims in this file.
#   n vectors of a document   E width of a state   G query groups   D head width

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retro.common.artifacts import fingerprint
from retro.common.block_stage import Advance
from retro.common.blocks import Block, BlockStore, ranges
from retro.common.coordinator import Coordinator
from retro.common.errors import ConfigError, DataError
from retro.model.prefix import PrefixLayers
from retro.qa.layouts import read_task_questions
from retro.qa.question import Context, PassageLike
from retro.qa.task import load_task
from retro.recipes.base import Made, StepRun
from retro.recipes.dynamic_prefix.answering.config import StoreConfig
from retro.recipes.dynamic_prefix.answering.documents import encode_texts
from retro.recipes.dynamic_prefix.answering.policy import TrainedPrefix, documents_read
from retro.recipes.dynamic_prefix.answering.store import (
    DOCUMENTS,
    HEADER,
    VECTORS,
    KnowledgeStore,
    StoreHeader,
    as_stored,
    sizes,
    text_digest,
    write_store,
)
from retro.recipes.dynamic_prefix.config import DynamicPrefixConfig
from retro.recipes.dynamic_prefix.training.encoder import KnowledgeEncoder
from retro.recipes.dynamic_prefix.training.parts import encoder_of, prefix_of
from retro.recipes.dynamic_prefix.training.samples import document_text
from retro.recipes.passages.passages import Passages
from retro.training.config import ParallelConfig
from retro.training.separate_adapters import load_separate

log = logging.getLogger(__name__)

_BLOCKS, _STAGE = "blocks", "dynamic_prefix.encode"
_BLOCK_BYTES = 2**28
_VECTORS_AT_ONCE = 4096
"""Whose keys and values are in memory in float32, before they are stored as what is asked for."""
_COMPARED, _ALIKE = 256, 0.01
"""Documents of which it is measured how far they are apart, and the distance below which they are taken for alike:
0.002 was measured for a collapsed MiniLM, and more than 0.1 for encoders that were read."""


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """All that decides the bytes of a store."""

    prefix: PrefixLayers
    encoder: KnowledgeEncoder
    config: StoreConfig
    model: Mapping[str, Any]
    """Identity of the model, as JSON values."""
    documents: Sequence[tuple[str, str]]
    """Id and text of each."""

    @property
    def header(self) -> StoreHeader:
        """What a vector is."""
        vector: tuple[int, ...] = (self.encoder.width,)
        if self.config.kind == "keys_values":
            part = self.prefix.layer(self.prefix.numbers[0])
            groups, width = (0, 0) if part is None else (part.groups, part.head_width)
            vector = (len(self.prefix.numbers), 2, groups, width)
        return StoreHeader(kind=self.config.kind, dtype=self.config.dtype, vector=vector, model=self.model)

    @property
    def parts(self) -> list[range]:
        """The documents of each block."""
        longest = self.encoder.config.compress or self.encoder.config.max_document_tokens
        fitting = max(1, _BLOCK_BYTES // (longest * self.header.bytes_per_vector))
        return ranges(len(self.documents), min(self.config.documents_per_block, fitting))

    def make(self, number: int, advance: Advance) -> Block:
        """Encode block `number`: its vectors, and in its counts how many each document has, by its place there."""
        part = self.parts[number]
        texts = [self.documents[place][1] for place in part]
        found = encode_texts(self.encoder, texts, self.config.documents_at_once)
        advance(len(part))
        counts = {str(place): len(states_nE) for place, states_nE in enumerate(found)}
        pieces = torch.cat(found).split(_VECTORS_AT_ONCE)
        return Block({"vectors": np.concatenate([self._stored(one, part) for one in pieces])}, counts)

    @torch.inference_mode()
    def _stored(self, states_nE: Tensor, part: range) -> NDArray[Any]:
        vectors = states_nE
        if self.config.kind == "keys_values":
            weight = next(self.encoder.parameters())
            vectors = self.prefix.keys_values(states_nE[:, None].to(weight))[:, :, 0].permute(3, 0, 1, 2, 4)
        return as_stored(vectors, self.config.dtype, f"documents {part.start} to {part.stop - 1}")


def run(work: StepRun, trained: TrainedPrefix, questions: Sequence[Path]) -> Made:
    """The step: the documents that its settings name, by the trained encoder.

    Args:
        work: The step.
        trained: The encoder.
        questions: Question files, whose `ctxs` are encoded where the settings say so.

    Raises:
        RetroError: As `encode`; checkpoint, questions or passages cannot be read.
    """
    settings: DynamicPrefixConfig = work.settings
    [network] = load_separate(trained.run, ParallelConfig(), modules=trained.modules).chunks
    return encode(
        work,
        Encoding(
            prefix=prefix_of(network),
            encoder=encoder_of(network),
            config=settings.store,
            model=trained.identity,
            documents=distinct_documents(_passages(work, questions)),
        ),
    )


def _passages(work: StepRun, questions: Sequence[Path]) -> Iterator[PassageLike]:
    settings: DynamicPrefixConfig = work.settings
    if settings.store.documents == "questions":
        most, task = documents_read(settings), load_task(work.config.generate.task)
        for file in questions:
            for one in read_task_questions(file, task):
                yield from one.contexts[:most]
        return
    passages = settings.data.passages
    if passages.passages is None:
        need = "needs to be questions, or data.passages.passages a file of passages"
        raise ConfigError("recipe.dynamic_prefix.store.documents", settings.store.documents, need)
    opened = Passages.open(passages.passages_file, passages.store or work.directory / "passages")
    for part in ranges(len(opened), settings.store.documents_per_block):
        for found in opened.at(part):
            yield Context(title=found.title, text=found.text, document_id=found.id)


def encode(work: StepRun, encoding: Encoding) -> Made:
    """Encode documents into the step's folder.

    Raises:
        DataError: There is no document, or a number does not fit the type that is stored.
        ArtifactError: The disk is full.
    """
    if not encoding.documents:
        raise DataError(work.directory, "has no documents to encode", "Give questions with ctxs, or data.passages")
    header = encoding.header
    shaping = {"model": dict(encoding.model), "kind": header.kind, "dtype": header.dtype}
    parts = encoding.parts
    blocks = BlockStore(
        directory=work.directory / _BLOCKS,
        inputs=tuple(
            fingerprint([shaping, encoding.config.documents_at_once, encoding.documents[part.start : part.stop]])
            for part in parts
        ),
        stage=_STAGE,
    )
    Coordinator(work.directory, stage=_STAGE).build(
        blocks, encoding.make, sizes=[len(part) for part in parts], unit="documents", what="dynamic_prefix: encoding"
    )
    documents = _described(encoding, blocks)
    write_store(work.directory, header, documents, _vectors(blocks))
    blocks.remove()
    found = sizes(header, documents)
    apart = distance_of_documents(KnowledgeStore.open(work.directory, dict(header.model)))
    if apart is not None and apart < _ALIKE:
        log.warning(
            "dynamic_prefix: what is stored of different documents is alike (%.1e of its size apart): the encoder has "
            "collapsed, and answers cannot depend on documents. A pretrained encoder needs a lower learning rate "
            "(train.train.retrieval_rates.modules: {knowledge.model: 0.05}), or to stay as it is "
            "(prefix.encoder.trained: none)",
            apart,
        )
    log.info(
        "dynamic_prefix: %s documents stored as %s in %s: %.1f vectors and %s bytes each, %s bytes in all",
        *(f"{found['documents']:,}", header.kind, header.dtype, found["vectors_per_document"]),
        *(f"{found['bytes_per_document']:,}", f"{found['bytes']:,}"),
    )
    counts = {"documents": found["documents"], "vectors": found["vectors"], "bytes": found["bytes"]}
    empty = sum(not count for *_, count in documents)
    counts |= {"empty": empty, "distance_of_documents": apart}
    return Made(files=[HEADER, DOCUMENTS, VECTORS], counts=counts, report=found)


def distance_of_documents(store: KnowledgeStore) -> float | None:
    """How far what is stored of documents is apart, of up to 256 of them: the root of the mean squared distance of
    their mean vectors from the mean of these, over the root of their mean squared length. None for fewer than two."""
    evenly = range(0, len(store), max(1, math.ceil(len(store) / _COMPARED)))
    rows = [row for row in evenly if len(store.vectors(row))]
    if len(rows) < 2:
        return None
    means_PX = torch.stack([store.vectors(row).double().flatten(1).mean(dim=0) for row in rows])
    apart, size = (float(one.square().sum(dim=1).mean().sqrt()) for one in (means_PX - means_PX.mean(dim=0), means_PX))
    return round(apart / max(size, 1e-30), 6)


def _described(encoding: Encoding, blocks: BlockStore) -> list[tuple[str, str, int]]:
    """Id, digest of the text and number of vectors of each document."""
    counts: list[int] = []
    for number, part in enumerate(encoding.parts):
        of_block = blocks.counts(number)
        counts += [of_block[str(place)] for place in range(len(part))]
    return [(name, text_digest(text), count) for (name, text), count in zip(encoding.documents, counts, strict=True)]


def _vectors(blocks: BlockStore) -> Iterator[NDArray[Any]]:
    for number in range(len(blocks)):
        yield blocks.take(number).arrays["vectors"]


def distinct_documents(passages: Iterable[PassageLike]) -> list[tuple[str, str]]:
    """Id and text of each passage, those of equal text once, in the order in which they come."""
    found: dict[str, str] = {}
    for one in passages:
        found.setdefault(document_text(one), one.document_id)
    return [(name, text) for text, name in found.items()]
