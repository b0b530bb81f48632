"""The small shape whose numbers the tests of the planner work by hand."""

from __future__ import annotations

from typing import Any

from retro.model.config import ModelConfig, ModelShape
from retro.training.config import TrainConfig


def hand_shape(**settings: Any) -> ModelShape:
    """GELU and LayerNorm, d 16, f 32, 4 heads of 4 in 2 groups, 32 tokens in 8 chunks of 4, 2 neighbors of 8.

    Layers 2 and 3 of 3 read neighbors.
    """
    defaults: dict[str, Any] = {
        "layers": 3,
        "hidden_size": 16,
        "heads": 4,
        "query_groups": 2,
        "ffn_hidden_size": 32,
        "activation": "gelu",
        "normalization": "LayerNorm",
        "sequence_length": 32,
        "first_cross_attention": 2,
        "cross_attention_every": 1,
        "encoder_layers": 2,
        "vocabulary_multiple": 1,
    }
    return ModelShape(model=ModelConfig(**(defaults | settings)), vocabulary=50, chunk_length=4)


def sized(size: str, *, vocabulary: int = 256_000, **settings: Any) -> ModelShape:
    """A row of the size table."""
    return ModelShape(model=ModelConfig(size=size, **settings), vocabulary=vocabulary, chunk_length=64)


def training(**settings: Any) -> TrainConfig:
    """bfloat16, one sequence at a time."""
    return TrainConfig(**({"precision": "bfloat16", "micro_batch": 1, "global_batch": 8} | settings))
