"""A random tiny model and batch, for parity and invariant tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from retro.mcore import parallel
from retro.mcore.cpu import device
from retro.model.config import ModelConfig, ModelShape
from retro.model.model import RetroModel

VOCABULARY = 50
CHUNK = 4


@dataclass(frozen=True)
class Inputs:
    """Arguments of a model, in their order."""

    tokens_BS: Tensor
    neighbors_BLKR: Tensor
    neighbor_mask_BLKR: Tensor

    def args(self) -> tuple[Tensor, Tensor, Tensor]:
        """As positional arguments."""
        return self.tokens_BS, self.neighbors_BLKR, self.neighbor_mask_BLKR


def tiny_shape(**settings: Any) -> ModelShape:
    """Three layers that read neighbors in layers 2 and 3, chunks of four tokens."""
    defaults: dict[str, Any] = {
        "layers": 3,
        "hidden_size": 16,
        "heads": 4,
        "query_groups": 4,
        "ffn_hidden_size": 32,
        "activation": "gelu",
        "normalization": "LayerNorm",
        "sequence_length": 32,
        "first_cross_attention": 2,
        "cross_attention_every": 1,
        "vocabulary_multiple": 1,
        "init_std": 0.3,
    }
    return ModelShape(model=ModelConfig(**(defaults | settings)), vocabulary=VOCABULARY, chunk_length=CHUNK)


def tiny_model(shape: ModelShape, seed: int = 7) -> RetroModel:
    """A model with random weights, norms and biases included, so that no term hides behind a zero."""
    parallel.start()
    parallel.seed(seed)
    model = RetroModel(shape)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "layernorm" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator).to(parameter))
    return model


def tiny_inputs(tokens: int, *, batch: int = 2, neighbors: int = 2, seed: int = 3) -> Inputs:
    """Random tokens and neighbors; about a fifth of the neighbor tokens are padding, and one neighbor is missing."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, tokens // CHUNK, neighbors, 2 * CHUNK)
    mask = torch.rand(shape, generator=generator) > 0.2
    if shape[1] > 1:
        mask[0, 1, 0] = False
    tokens_BS = torch.randint(0, VOCABULARY, (batch, tokens), generator=generator)
    neighbors_BLKR = torch.randint(0, VOCABULARY, shape, generator=generator)
    return Inputs(tokens_BS.to(device()), neighbors_BLKR.to(device()), mask.to(device()))
