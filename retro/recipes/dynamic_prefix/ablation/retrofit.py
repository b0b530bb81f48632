"""A frozen model with fresh cross-attention and an encoder beside it, of as many weights as something else has."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from retro.common.config import config_json
from retro.mcore import parallel
from retro.model.config import ModelConfig, ModelShape
from retro.model.count import count_parameters
from retro.model.model import RetroModel
from retro.training import checkpoint
from retro.training.checkpoint_writer import save_weights
from retro.training.lora_weights import read_whole

_SMALLEST_CHUNK = 8
_DEPTHS = (1, 2, 3, 4, 6, 8)
"""Layers of the encoder that are tried."""


@dataclass(frozen=True)
class Fit:
    """A Retro of a frozen model's shape."""

    shape: ModelShape
    added: int
    """Weights that the frozen model does not have."""


def with_length(info: checkpoint.CheckpointInfo, length: int | None) -> checkpoint.CheckpointInfo:
    """A checkpoint's description with sequences of another length; None: as it says."""
    if length is None:
        return info
    model = info.shape.model.model_copy(update={"sequence_length": length})
    return replace(info, shape=info.shape.model_copy(update={"model": model}))


def nearest_fit(base: ModelShape, *, target: int, neighbors: int, document_tokens: int) -> Fit:
    """The Retro whose weights beside the frozen model's are nearest in number to a target.

    Every place of the first layer with cross-attention, every distance between them, and encoders of 1 to 8 layers are
    tried; of equally near ones it is that with the most layers that read.

    Args:
        base: The frozen model.
        target: Weights.
        neighbors: Documents that are read, K.
        document_tokens: Tokens of a document that are read at least, where a sequence is long enough for it: a neighbor
            is two chunks.
    """
    most = base.model.sequence_length // 2
    chunk = max(1, min(max(_SMALLEST_CHUNK, -(-document_tokens // 2)), most))
    layers = range(1, base.model.layers + 1)
    fits = [
        _fit(base, neighbors, chunk, first, every, depth)
        for first, every, depth in itertools.product(layers, layers, _DEPTHS)
    ]
    return min(fits, key=lambda one: (abs(one.added - target), -len(one.shape.model.cross_attention_layers)))


def _fit(base: ModelShape, neighbors: int, chunk: int, first: int, every: int, depth: int) -> Fit:
    where = {"first_cross_attention": first, "cross_attention_every": every, "encoder_layers": depth}
    own = {"retrieval": True, "neighbors": neighbors, "gate": "learned", "gate_init": 0.0, "encoder_norm": True}
    model = base.model.model_copy(update=where | own)
    shape = base.model_copy(update={"model": model, "chunk_length": chunk})
    count = count_parameters(shape)
    return Fit(shape, count.total - count.gpt)


def retrofit(parent: checkpoint.CheckpointInfo, shape: ModelShape, out: Path, seed: int) -> None:
    """Write a checkpoint of the frozen model with what reads neighbors, as one process.

    Gates are zero, so that it computes what the frozen model computes.

    Args:
        parent: The frozen model.
        shape: The same with retrieval.
        out: The checkpoint.
        seed: Of the fresh weights.

    Raises:
        ArtifactError: The model is damaged, or the disk is full.
    """
    checkpoint.verify(parent.path)
    checkpoint.require_whole(parent.path)
    # Checks what was copied unchecked while sizes were tried.
    shape = shape.model_copy(update={"model": ModelConfig(**config_json(shape.model))})
    parallel.start()
    parallel.seed(seed)
    model = RetroModel(shape)
    stored = checkpoint.open_weights(parent)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            # What is not there is fresh; a checkpoint may hold an optimizer's state beside the weights.
            if name in stored.sizes:
                weight.copy_(read_whole(stored, name))
    origin: Mapping[str, str] = {"retro_fitted_from": checkpoint.identity(parent.path)}
    save_weights(model, shape, dict(origin), out, tokenizer=parent.tokenizer)
