"""Weights on one rank: matrices are shared out over the tensor parallel ranks, norms and output biases are not."""

from __future__ import annotations

from dataclasses import dataclass

from retro.model.config import ModelConfig, ModelShape
from retro.planner.stages import Block, encodes, reads
from retro.training.adapters import adapted_layers, is_row_parallel
from retro.training.config import LoraConfig, ParallelConfig


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
        # The output layer of a tied model lies on another stage than the embedding: it has its own copy there.
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
