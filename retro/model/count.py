"""How many weights a model has, by formula; and a GPT with as many weights as a Retro.

    decoder layer   d w (2 n + 2 g) attention, d f (2 or 3) feed-forward, 2 norms
    cross-attention d w (2 n + 2 g) and a norm, in each layer that reads neighbors
    encoder         decoder layers, one cross-attention in the first, and perhaps a norm after the last

with d the hidden size, f the feed-forward width, n heads of width w (d = n w as a rule) and g query groups.
Held against real models in `tests/model/test_count.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from retro.model.config import ModelConfig, ModelShape


@dataclass(frozen=True, kw_only=True)
class ParameterCount:
    """Weights by part."""

    embeddings: int
    """Input embedding, output layer and learned positions."""
    decoder: int
    """Decoder layers and final norm, without anything retrieval needs."""
    cross_attention: int
    """Chunked cross-attention, its norms and gates."""
    encoder: int
    """The neighbor encoder."""

    @property
    def total(self) -> int:
        """All of them."""
        return self.embeddings + self.decoder + self.cross_attention + self.encoder

    @property
    def gpt(self) -> int:
        """The same model with retrieval off."""
        return self.embeddings + self.decoder


def count_parameters(shape: ModelShape) -> ParameterCount:
    """Weights of the model of `shape`, over all ranks."""
    model = shape.model
    hidden = model.hidden_size
    embeddings = shape.padded_vocabulary * hidden * (1 if model.tied_embeddings else 2)
    if model.positions == "learned":
        embeddings += shape.position_rows * hidden
    norm = hidden * _norm_parameters(model)
    layer = _attention(model) + _self_attention_extras(model) + _feed_forward(model) + 2 * norm
    reading = len(model.cross_attention_layers)
    gate = 1 if model.gate == "learned" else 0
    return ParameterCount(
        embeddings=embeddings,
        decoder=model.layers * layer + norm,
        cross_attention=reading * (_attention(model) + norm + gate),
        encoder=_encoder(model, layer, norm) if reading else 0,
    )


def _encoder(model: ModelConfig, layer: int, norm: int) -> int:
    reads_chunk = _attention(model) + norm if model.encoder_layers else 0
    return model.encoder_layers * layer + reads_chunk + (norm if model.encoder_norm else 0)


def _attention(model: ModelConfig) -> int:
    key_value = 2 * model.query_groups * model.head_width
    weights = model.hidden_size * (2 * model.query_width + key_value)
    return weights + (model.query_width + key_value + model.hidden_size if model.bias else 0)


def _self_attention_extras(model: ModelConfig) -> int:
    """What only self-attention may have: biases of its own, norms of queries and keys."""
    biases = model.query_width + 2 * model.query_groups * model.head_width
    norms = 2 * model.head_width * _norm_parameters(model)
    return (biases if model.qkv_bias and not model.bias else 0) + (norms if model.qk_norm else 0)


def _norm_parameters(model: ModelConfig) -> int:
    return 1 if model.normalization == "RMSNorm" else 2


def _feed_forward(model: ModelConfig) -> int:
    inner = model.ffn_hidden_size * (2 if model.activation == "swiglu" else 1)
    weights = model.hidden_size * (inner + model.ffn_hidden_size)
    return weights + (inner + model.hidden_size if model.bias else 0)


def equal_gpt(shape: ModelShape) -> ModelShape:
    """A GPT with as many weights as the Retro of `shape`: its feed-forward layers are wider.

    Wider by the nearest multiple of 8, so that up to 8 tensor parallel ranks can share them.
    """
    model = shape.model
    extra = count_parameters(shape).total - count_parameters(shape).gpt
    matrices = 3 if model.activation == "swiglu" else 2
    wider = 8 * round(extra / (8 * matrices * model.hidden_size * model.layers))
    changes = {"retrieval": False, "ffn_hidden_size": model.ffn_hidden_size + wider}
    return shape.model_copy(update={"model": model.model_copy(update=changes)})


def plain_gpt(shape: ModelShape) -> ModelShape:
    """The decoder of `shape` with retrieval off."""
    return shape.model_copy(update={"model": shape.model.model_copy(update={"retrieval": False})})
