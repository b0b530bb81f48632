"""Bytes on one GPU of each pipeline stage."""

from __future__ import annotations

from dataclasses import dataclass

from retro.model.config import ModelShape
from retro.planner.activations import Activations, value_bytes
from retro.planner.schedule import most_kept
from retro.planner.stages import Block, stages_of
from retro.planner.weights import adapter_weights, retrieval_weights, stage_weights
from retro.training.config import ParallelConfig, TrainConfig

GIB = 2.0**30


@dataclass(frozen=True, kw_only=True)
class StageMemory:
    """Bytes on one GPU of a stage."""

    layers: list[range]
    """Decoder layers, counted from 1, in the runs in which the stage takes turns."""
    weights: float
    """2 bytes a weight in bfloat16, 4 in float32."""
    gradients: float
    """4 bytes a weight that is trained, always fp32."""
    optimizer: float
    """Adam's two moments, 8 bytes a weight that is trained, and in bfloat16 fp32 master weights, 4 more."""
    activations: float
    """Kept by all micro batches in flight, and what is made anew at a time."""
    transport: float
    """Tensors received from the stage before, and the two gradients on their way."""

    @property
    def total(self) -> float:
        """All of them."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.transport


def stage_memory(
    shape: ModelShape, train: TrainConfig, layout: ParallelConfig, *, data: int, micro_batches: int
) -> list[StageMemory]:
    """Memory of each stage.

    Args:
        shape: The model.
        train: Precision, micro batch and recomputation.
        layout: How the model is spread.
        data: Data parallel ranks, which share the distributed optimizer.
        micro_batches: Of one optimizer step on one rank.
    """
    kept = Activations(shape, train)
    found = []
    for stage, blocks in enumerate(stages_of(shape, layout)):
        weights = stage_weights(shape, blocks, layout)
        of_retrieval = retrieval_weights(shape, blocks, layout)
        trained = {"all": weights, "retrieval": of_retrieval, "decoder": weights - of_retrieval}[train.train_only]
        if train.lora is not None:
            beside = of_retrieval if train.train_only == "retrieval" else 0
            trained = adapter_weights(shape, blocks, layout, train.lora) + beside
            weights += trained
        master = 4 if train.bfloat16 else 0
        activations, transport = _activations(kept, blocks, layout, stage, micro_batches)
        found.append(
            StageMemory(
                layers=[block.layers for block in blocks],
                weights=float(weights * value_bytes(train)),
                gradients=4.0 * trained,
                optimizer=(8.0 + master) * trained / (data if layout.distributed_optimizer else 1),
                activations=activations,
                transport=transport,
            )
        )
    return found


def _activations(
    kept: Activations, blocks: list[Block], layout: ParallelConfig, stage: int, micro_batches: int
) -> tuple[float, float]:
    """Activations and transport."""
    place = {"stage": stage, "stages": layout.pipeline, "micro_batches": micro_batches}
    own = most_kept([kept.block(block).on_rank(layout) for block in blocks], **place)
    own += kept.recomputed(blocks).on_rank(layout)
    if any(block.last for block in blocks):
        own += kept.logits().on_rank(layout)
    if layout.pipeline == 1:
        return own, 0.0
    packed = kept.transport().on_rank(layout)
    received = most_kept([0.0 if block.first else packed for block in blocks], **place)
    return own, received + 2 * packed
