"""FLOPs of one decoder token, forward. A multiplication and an addition count two; training costs three forwards.

With d the hidden size, f the feed-forward width, g/n the share of key/value heads, s the sequence, V the padded
vocabulary, K neighbors of R tokens for each chunk of M, and rho = K R / M encoder tokens for each decoder token (heads
that together are wider than d count with their own width in attention):

    projections      4 d^2 (query, output) + 4 d^2 g/n (key, value)
    feed-forward     4 d f (GELU) or 6 d f (SwiGLU)
    decoder layer    projections + feed-forward + 2 s d     half of 4 s d, for a token sees s / 2 on average
    logits           2 V d
    cross-attention  4 d^2 + rho 4 d^2 g/n + 4 K R d        in each layer that reads neighbors
    encoder          rho (layers x (projections + feed-forward + 4 R d) + 4 d^2 + 4 M d) + 4 d^2 g/n

The encoder's last term is once a decoder token, not once a neighbor token: the K neighbors of a chunk ask the same
keys and values. Norms, activations, softmax and embedding look-ups are left out, as is usual.
"""

from __future__ import annotations

from dataclasses import dataclass

from retro.model.config import ModelConfig, ModelShape
from retro.planning.stages import Block, encodes, reads


@dataclass(frozen=True, kw_only=True)
class Flops:
    """Forward FLOPs of one decoder token, by part."""

    decoder: float
    logits: float
    cross_attention: float
    encoder: float

    @property
    def gpt(self) -> float:
        """The same model with retrieval off."""
        return self.decoder + self.logits

    @property
    def total(self) -> float:
        """All parts."""
        return self.gpt + self.cross_attention + self.encoder

    @property
    def training(self) -> float:
        """Forward and backward, without recomputation."""
        return 3 * self.total

    @property
    def ratio(self) -> float:
        """What this model costs for each FLOP of the GPT."""
        return self.total / self.gpt


def count_flops(shape: ModelShape) -> Flops:
    """The FLOPs of a whole model."""
    return block_flops(shape, Block(range(1, shape.model.layers + 1), first=True, last=True))


def block_flops(shape: ModelShape, block: Block) -> Flops:
    """The FLOPs of the layers of one block."""
    model = shape.model
    return Flops(
        decoder=len(block.layers) * _layer(model, model.sequence_length / 2),
        logits=2.0 * shape.padded_vocabulary * model.hidden_size if block.last else 0.0,
        cross_attention=reads(shape, block) * _cross_attention(shape),
        encoder=_encoder(shape) if encodes(shape, block) else 0.0,
    )


def recomputed_flops(shape: ModelShape, block: Block, recompute: str) -> float:
    """FLOPs of a token that the backward pass of a block does a second time.

    Args:
        shape: The model.
        block: Some of its layers.
        recompute: "none", "selective" for attention cores and feed-forward layers, or "full" for whole layers.
    """
    model = shape.model
    if recompute == "none":
        return 0.0
    if recompute == "full":
        flops = block_flops(shape, block)
        return flops.total - flops.logits
    again = len(block.layers) * _unprojected(model, model.sequence_length / 2)
    again += reads(shape, block) * _attention_core(model, model.neighbors * shape.retrieved_length)
    if encodes(shape, block):
        layers = model.encoder_layers * _unprojected(model, shape.retrieved_length)
        asks = _attention_core(model, shape.chunk_length) if model.encoder_layers else 0.0
        again += _rho(shape) * (layers + asks)
    return again


def neighbor_tokens(shape: ModelShape) -> int:
    """Neighbor tokens that come with one sequence: K R for each whole chunk; none without retrieval."""
    model = shape.model
    chunks = model.sequence_length // shape.chunk_length
    return chunks * model.neighbors * shape.retrieved_length if model.cross_attention_layers else 0


def _layer(model: ModelConfig, keys: float) -> float:
    """A layer in which a token attends to `keys` tokens on average."""
    return _query_output(model) + _key_value(model) + _unprojected(model, keys)


def _unprojected(model: ModelConfig, keys: float) -> float:
    """A layer without the four projections of its attention."""
    matrices = 3 if model.activation == "swiglu" else 2
    return 2 * matrices * model.hidden_size * model.ffn_hidden_size + _attention_core(model, keys)


def _attention_core(model: ModelConfig, keys: float) -> float:
    return 4.0 * keys * model.query_width


def _query_output(model: ModelConfig) -> float:
    return 4.0 * model.hidden_size * model.query_width


def _key_value(model: ModelConfig) -> float:
    return 4.0 * model.hidden_size * model.query_groups * model.head_width


def _cross_attention(shape: ModelShape) -> float:
    model = shape.model
    core = _attention_core(model, model.neighbors * shape.retrieved_length)
    return _query_output(model) + _rho(shape) * _key_value(model) + core


def _encoder(shape: ModelShape) -> float:
    model = shape.model
    if not model.encoder_layers:
        return 0.0
    layers = model.encoder_layers * _layer(model, shape.retrieved_length)
    asks = _query_output(model) + _attention_core(model, shape.chunk_length)
    return _rho(shape) * (layers + asks) + _key_value(model)


def _rho(shape: ModelShape) -> float:
    return neighbor_tokens(shape) / shape.model.sequence_length
