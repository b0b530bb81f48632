"""Which layers lie on which pipeline stage, as megatron-core deals them out."""

from __future__ import annotations

from dataclasses import dataclass

from retro.model.config import ModelShape
from retro.training.config import ParallelConfig


@dataclass(frozen=True)
class Block:
    """Layers that a stage runs in one go. A stage has `virtual_pipeline` of them."""

    layers: range
    """Decoder layers, counted from 1."""
    first: bool
    """Holds the embedding."""
    last: bool
    """Holds the final norm and the output layer."""


def stages_of(shape: ModelShape, layout: ParallelConfig) -> list[list[Block]]:
    """The blocks of each stage: block c of stage s is the (c x stages + s)-th run of layers."""
    stages, turns = layout.pipeline, layout.virtual_pipeline
    count = stages * turns
    lengths = layout.stage_layers or (shape.model.layers // count,) * count

    def block(number: int) -> Block:
        first = sum(lengths[:number]) + 1
        return Block(range(first, first + lengths[number]), first=number == 0, last=number == count - 1)

    return [[block(turn * stages + stage) for turn in range(turns)] for stage in range(stages)]


def reads(shape: ModelShape, block: Block) -> int:
    """How many layers of a block have chunked cross-attention."""
    return sum(number in block.layers for number in shape.model.cross_attention_layers)


def encodes(shape: ModelShape, block: Block) -> bool:
    """Whether the block holds the neighbor encoder, which lies in the first layer with cross-attention."""
    return shape.model.cross_attention_layers[:1] != () and shape.model.cross_attention_layers[0] in block.layers
