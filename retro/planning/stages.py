"""Which layers are on which pipeline stage, and how many micro batches a stage keeps.

1F1B (Narayanan et al. 2021, arXiv:2104.04473, section 2.2): stage i of p runs p - i - 1 forwards ahead, so it keeps
p - i micro batches. Interleaved, stages take turns in runs of p micro batches for each of their v blocks, and stage i
runs 2 (p - i - 1) + (v - 1) p ahead.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    """Whether the block holds the neighbor encoder, which is in the first layer with cross-attention."""
    return shape.model.cross_attention_layers[:1] != () and shape.model.cross_attention_layers[0] in block.layers


def most_kept(block_bytes: Sequence[float], *, stage: int, stages: int, micro_batches: int) -> float:
    """The most bytes that a stage keeps at a time.

    Args:
        block_bytes: What each of the stage's blocks keeps of one micro batch.
        stage: Which stage, counted from 0.
        stages: How many there are, p.
        micro_batches: Of one optimizer step.
    """
    turns = len(block_bytes)
    # The schedule repeats after p micro batches, and is full after two such runs.
    total = min(micro_batches, 4 * stages) * turns
    ahead = stages - stage - 1 if turns == 1 else 2 * (stages - stage - 1) + (turns - 1) * stages
    forward = [number % (stages * turns) // stages for number in range(total)]
    ahead = min(ahead, total)
    most = kept = sum(block_bytes[turn] for turn in forward[:ahead])
    for number in range(total - ahead):
        kept += block_bytes[forward[number + ahead]]
        most = max(most, kept)
        kept -= block_bytes[turns - 1 - forward[number]]
    return most


def bubble(stages: int, turns: int, micro_batches: int) -> float:
    """Time that a stage waits, as a share of the time it works: (p - 1) / (v m)."""
    return (stages - 1) / (turns * micro_batches)
