"""Bytes on one GPU of each pipeline stage: weights, optimizer, gradients, activations."""

from __future__ import annotations

from dataclasses import dataclass

from retro.model.config import ModelConfig, ModelShape
from retro.planning.activations import Activations, value_bytes
from retro.planning.stages import Block, encodes, most_kept, reads, stages_of
from retro.training.adapters import adapted_layers, is_row_parallel
from retro.training.config import LoraConfig, ParallelConfig, TrainConfig


@dataclass(frozen=True)
class Weights:
    """Numbers of weights."""

    split: int
    """Shared out over the tensor parallel ranks."""
    whole: int
    """On every one of them."""

    def __add__(self, other: Weights) -> Weights:
        return Weights(self.split + other.split, self.whole + other.whole)

    def __mul__(self, times: int) -> Weights:
        return Weights(self.split * times, self.whole * times)

    def on_rank(self, tensor: int) -> int:
        """Weights of one of `tensor` ranks."""
        return self.split // tensor + self.whole


def stage_weights(shape: ModelShape, blocks: list[Block], layout: ParallelConfig) -> int:
    """Weights on one rank of a stage."""
    total = Weights(0, 0)
    for block in blocks:
        total += block_weights(shape, block)
    on_rank = total.on_rank(layout.tensor)
    if shape.model.tied_embeddings and layout.pipeline > 1 and any(block.last for block in blocks):
        # The output layer of a tied model is on another stage than the embedding: it has its own copy there.
        on_rank += _vocabulary(shape).on_rank(layout.tensor)
    return on_rank


def retrieval_weights(shape: ModelShape, blocks: list[Block], layout: ParallelConfig) -> int:
    """Those of them that a GPT does not have: what `train.train_only=retrieval` trains."""
    total = Weights(0, 0)
    for block in blocks:
        total += _retrieval(shape, block)
    return total.on_rank(layout.tensor)


def adapter_weights(shape: ModelShape, blocks: list[Block], layout: ParallelConfig, lora: LoraConfig) -> int:
    """Weights of low-rank adapters on one rank of a stage, which come beside the model's own."""
    total = Weights(0, 0)
    for name, (out, width) in adapted_layers(shape, lora).items():
        # decoder.layers.<number>.…, counted from 0
        if any(int(name.split(".")[2]) + 1 in block.layers for block in blocks):
            split, whole = (width, out) if is_row_parallel(name) else (out, width)
            total += Weights(split, whole) * lora.rank
    return total.on_rank(layout.tensor)


def block_weights(shape: ModelShape, block: Block) -> Weights:
    """Weights of one block, on all tensor parallel ranks together."""
    model = shape.model
    total = _layer(model) * len(block.layers) + _retrieval(shape, block)
    if block.first:
        total += _vocabulary(shape)
        if model.positions == "learned":
            total += Weights(0, shape.position_rows * model.hidden_size)
    if block.last:
        total += _norm(model)
        if not model.tied_embeddings:
            total += _vocabulary(shape)
    return total


def _retrieval(shape: ModelShape, block: Block) -> Weights:
    model = shape.model
    cross = _attention(model) + _norm(model) + Weights(0, 1 if model.gate == "learned" else 0)
    total = cross * reads(shape, block)
    if encodes(shape, block):
        total += _layer(model) * model.encoder_layers
        if model.encoder_layers:
            total += _attention(model) + _norm(model)
        if model.encoder_norm:
            total += _norm(model)
    return total


def _vocabulary(shape: ModelShape) -> Weights:
    return Weights(shape.padded_vocabulary * shape.model.hidden_size, 0)


def _norm(model: ModelConfig) -> Weights:
    return Weights(0, model.hidden_size * (1 if model.normalization == "RMSNorm" else 2))


def _layer(model: ModelConfig) -> Weights:
    inner = model.ffn_hidden_size * (2 if model.activation == "swiglu" else 1)
    feed_forward = Weights(model.hidden_size * (inner + model.ffn_hidden_size), 0)
    if model.bias:
        feed_forward += Weights(inner, model.hidden_size)
    return _attention(model) + _self_attention_extras(model) + feed_forward + _norm(model) * 2


def _attention(model: ModelConfig) -> Weights:
    key_value = 2 * model.query_groups * model.head_width
    matrices = Weights(model.hidden_size * (2 * model.query_width + key_value), 0)
    return matrices + Weights(model.query_width + key_value, model.hidden_size) if model.bias else matrices


def _self_attention_extras(model: ModelConfig) -> Weights:
    """What only self-attention may have: biases of its own, norms of queries and keys."""
    biases = model.query_width + 2 * model.query_groups * model.head_width
    norms = 2 * model.head_width * (1 if model.normalization == "RMSNorm" else 2)
    return Weights(biases if model.qkv_bias and not model.bias else 0, norms if model.qk_norm else 0)


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
    """Kept by all micro batches in flight, and what is made again at a time."""
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
        trained = {"all": weights, "retrieval": of_retrieval, "decoder": weights - of_retrieval, "modules": 0}[
            train.train_only
        ]
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
