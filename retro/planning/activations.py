"""What a forward pass keeps for the backward pass, in bytes, for one micro batch.

Worked out from what autograd saves in the layers of `retro/model` over torch's fused attention, and measured against
it (docs/plan.md). Values a token that a layer keeps, kv = 2 d g/n being the width of its keys and values:

    held by every tensor parallel rank   4 d            inputs and outputs of the two norms
    split between them                   d + kv         query, key and value as projected (the values stay there)
                                         d + kv / 2     query and key once more, rotated
                                         d              what attention gives
                                         2 f or 5 f     feed-forward with GELU or SwiGLU

Sequence parallel splits the first kind too. Attention's log-sum-exp is 4 bytes a head and token; selective recompute
frees it and the last row. The cosines and sines of rotary positions are kept by each layer, once for all sequences.
Dropout keeps one byte a value (on CUDA).
"""

from __future__ import annotations

from dataclasses import dataclass

from retro.model.config import ModelConfig, ModelShape
from retro.model.positions import positions_named
from retro.planning.flops import neighbor_tokens
from retro.planning.stages import Block, encodes, reads
from retro.training.config import ParallelConfig, TrainConfig


@dataclass(frozen=True)
class ShardedBytes:
    """Bytes, by how tensor parallel ranks share them."""

    whole: float = 0.0
    """On every rank; split under sequence parallel."""
    split: float = 0.0
    """Split between the ranks."""
    fixed: float = 0.0
    """On every rank, always."""

    def __add__(self, other: ShardedBytes) -> ShardedBytes:
        return ShardedBytes(self.whole + other.whole, self.split + other.split, self.fixed + other.fixed)

    def __mul__(self, times: float) -> ShardedBytes:
        return ShardedBytes(self.whole * times, self.split * times, self.fixed * times)

    def on_rank(self, layout: ParallelConfig) -> float:
        """Bytes on one rank."""
        return self.whole / (layout.tensor if layout.sequence else 1) + self.split / layout.tensor + self.fixed


class Activations:
    """The activations of a model under given training settings."""

    def __init__(self, shape: ModelShape, train: TrainConfig) -> None:
        self.shape, self.model, self.recompute = shape, shape.model, train.recompute
        self.width = value_bytes(train)
        """Bytes of a value."""
        self.tokens = train.micro_batch * self.model.sequence_length
        self.neighbor_tokens = train.micro_batch * neighbor_tokens(shape)

    def block(self, block: Block) -> ShardedBytes:
        """What a block keeps of one micro batch, without what it received from the stage before."""
        if self.recompute == "full":
            kept = self._hidden(self.tokens) * (len(block.layers) - (not block.first)) + self._recompute_context(block)
        else:
            kept = self._layer(self.tokens, self.model.sequence_length) * len(block.layers)
            kept += self._cross_attention() * reads(self.shape, block)
            if not block.first:
                kept += self._hidden(self.tokens) * -1.0
                kept += self._unpacked() if reads(self.shape, block) else ShardedBytes()
            if encodes(self.shape, block):
                kept += self._encoder(received=not block.first)
        return kept + self._output() if block.last else kept

    def recomputed(self, blocks: list[Block]) -> ShardedBytes:
        """What the backward pass makes again at a time: the largest layer, or feed-forward layer, of these blocks."""
        if self.recompute == "none":
            return ShardedBytes()
        if self.recompute == "selective":
            encoding = any(encodes(self.shape, block) for block in blocks)
            return self._feed_forward(max(self.tokens, self.neighbor_tokens) if encoding else self.tokens)
        layer = self._layer(self.tokens, self.model.sequence_length) + self._hidden(self.tokens) * -1.0
        if any(reads(self.shape, block) for block in blocks):
            layer += self._cross_attention()
        if any(encodes(self.shape, block) for block in blocks):
            layer += self._encoder(received=True)
        return layer

    def logits(self) -> ShardedBytes:
        """The logits as the output layer gives them; their fp32 copy becomes the softmax that is kept."""
        copied = self.width if self.width < 4 else 0
        return ShardedBytes(split=float(self.tokens * self.shape.padded_vocabulary * copied))

    def transport(self) -> ShardedBytes:
        """What one stage hands the next: hidden states and neighbors, packed in one tensor."""
        return self._hidden(self.tokens + self.neighbor_tokens)

    def _hidden(self, tokens: int) -> ShardedBytes:
        return ShardedBytes(whole=float(tokens * self.model.hidden_size * self.width))

    def _layer(self, tokens: int, rows: int, *, rope: bool | None = None, dropout: float | None = None) -> ShardedBytes:
        model = self.model
        rope = positions_named(model.positions).rotary if rope is None else rope
        split = 2 * model.query_width + _key_value(model)
        if model.qk_norm:
            split += model.query_width + _key_value(model) // 2
        if rope:
            split += model.query_width + _key_value(model) // 2
        kept = ShardedBytes() if self.recompute == "selective" else self._feed_forward(tokens)
        kept += ShardedBytes(
            4.0 * tokens * model.hidden_size * self.width, tokens * (split * self.width + self._sums())
        )
        kept += ShardedBytes(fixed=4.0 * rows * self._angles()) if rope else ShardedBytes()
        return kept + self._dropped(tokens, model.dropout if dropout is None else dropout, 2)

    def _feed_forward(self, tokens: int) -> ShardedBytes:
        values = (5 if self.model.activation == "swiglu" else 2) * self.model.ffn_hidden_size
        return ShardedBytes(split=float(tokens * values * self.width))

    def _cross_attention(self) -> ShardedBytes:
        """Chunked cross-attention: its norm, query and output, and keys and values of the neighbors."""
        model, keys = self.model, _key_value(self.model)
        whole = 2 * model.hidden_size + (model.hidden_size if model.gate == "learned" else 0)
        of_neighbors = keys + (keys // 2 if model.cross_rope else 0)
        split = self.tokens * (self._query_and_output() + self._sums())
        split += self.neighbor_tokens * of_neighbors * self.width
        rows = model.neighbors * self.shape.retrieved_length + self.shape.chunk_length
        fixed = 2.0 * rows * self._angles() if model.cross_rope else 0.0
        kept = ShardedBytes(float(self.tokens * whole * self.width), float(split), fixed)
        return kept + self._dropped(self.tokens, model.dropout, 1)

    def _encoder(self, *, received: bool) -> ShardedBytes:
        """All encoder layers, the cross-attention in the first, and what they give.

        `received` neighbors are in the tensor that the stage before sent, or in what full recompute keeps.
        """
        model, tokens = self.model, self.neighbor_tokens
        # Its attention cores rotate, and so rotated queries and keys are made again with them.
        rope = model.encoder_rope and self.recompute != "selective"
        layer = self._layer(tokens, self.shape.retrieved_length, rope=rope, dropout=model.encoder_dropout)
        kept = layer * model.encoder_layers + self._hidden(tokens) * (2 if model.encoder_norm else 1)
        if model.encoder_layers:
            kept += self._encoder_cross_attention()
        return kept + self._hidden(tokens) * -1.0 if received else kept

    def _encoder_cross_attention(self) -> ShardedBytes:
        model, tokens, keys = self.model, self.neighbor_tokens, _key_value(self.model)
        whole = 2 * tokens * model.hidden_size * self.width
        split = tokens * (self._query_and_output() + self._sums())
        split += self.tokens * (keys + (keys // 2 if model.cross_rope else 0)) * self.width
        rows = self.shape.retrieved_length + self.shape.chunk_length
        fixed = 2.0 * rows * self._angles() if model.cross_rope else 0.0
        return ShardedBytes(float(whole), float(split), fixed) + self._dropped(tokens, model.encoder_dropout, 1)

    def _recompute_context(self, block: Block) -> ShardedBytes:
        """Neighbors that full recompute keeps as inputs of layers, where they are not in what was received."""
        reading = self.shape.model.cross_attention_layers
        if not reading:
            return ShardedBytes()
        kept = self._hidden(self.neighbor_tokens) if block.first else self._unpacked()
        encoded_here = encodes(self.shape, block) and reading[0] < block.layers[-1]
        return kept + self._hidden(self.neighbor_tokens) if encoded_here else kept

    def _unpacked(self) -> ShardedBytes:
        """The neighbors in their own layout: of more than one sequence that takes a copy of what was received."""
        return self._hidden(self.neighbor_tokens) if self.tokens > self.model.sequence_length else ShardedBytes()

    def _output(self) -> ShardedBytes:
        """Input and output of the final norm, and the softmax over the vocabulary in fp32."""
        softmax = 4.0 * self.tokens * self.shape.padded_vocabulary
        return self._hidden(self.tokens) * 2 + ShardedBytes(split=softmax)

    def _query_and_output(self) -> int:
        """Bytes of a token's query and output; the output twice, in chunks and in sequence, if attention keeps it."""
        return (2 if self.recompute == "selective" else 3) * self.model.query_width * self.width

    def _sums(self) -> int:
        """Bytes of attention's log-sum-exp of a token, which recomputing the attention cores frees."""
        return 0 if self.recompute == "selective" else 4 * self.model.heads

    def _angles(self) -> int:
        """Bytes of the cosines of one row."""
        return int(self.model.head_width * self.model.rope_percent) * self.width

    def _dropped(self, tokens: int, dropout: float, times: int) -> ShardedBytes:
        return ShardedBytes(whole=float(times * tokens * self.model.hidden_size)) if dropout else ShardedBytes()


def value_bytes(train: TrainConfig) -> int:
    """Bytes of a weight or an activation."""
    return 2 if train.bfloat16 else 4


def _key_value(model: ModelConfig) -> int:
    return 2 * model.query_groups * model.head_width
