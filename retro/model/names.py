"""Names of weights: those of one process's model, which are also the keys of its sharded checkpoints."""

from __future__ import annotations

from retro.model.config import ModelConfig, ModelShape

EMBEDDING = "embedding.word_embeddings.weight"
POSITIONS = "embedding.position_embeddings.weight"
OUTPUT = "output_layer.weight"
FINAL_NORM = "decoder.final_layernorm"


def is_retrieval(name: str) -> bool:
    """Whether a weight belongs to retrieval: cross-attention, its norm and gate, and the encoder inside the first."""
    return ".cross_attention." in name or ".pre_cross_attn_layernorm." in name


def decoder_shapes(shape: ModelShape) -> dict[str, tuple[int, ...]]:
    """Name and shape, over all ranks, of each weight of the decoder: the model with retrieval off."""
    model = shape.model
    hidden = model.hidden_size
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (shape.padded_vocabulary, hidden)}
    if model.positions == "learned":
        shapes[POSITIONS] = (shape.position_rows, hidden)
    for number in range(model.layers):
        shapes |= _layer(f"decoder.layers.{number}.", model)
    shapes |= _norm(FINAL_NORM, model)
    if not model.tied_embeddings:
        shapes[OUTPUT] = (shape.padded_vocabulary, hidden)
    return shapes


def _layer(prefix: str, model: ModelConfig) -> dict[str, tuple[int, ...]]:
    hidden = model.hidden_size
    mixed = (model.heads + 2 * model.query_groups) * model.head_width
    inner = model.ffn_hidden_size * (2 if model.activation == "swiglu" else 1)
    return {
        **_norm(f"{prefix}input_layernorm", model),
        **_linear(f"{prefix}self_attention.linear_qkv", mixed, hidden, model),
        **_linear(f"{prefix}self_attention.linear_proj", hidden, hidden, model),
        **_norm(f"{prefix}pre_mlp_layernorm", model),
        **_linear(f"{prefix}mlp.linear_fc1", inner, hidden, model),
        **_linear(f"{prefix}mlp.linear_fc2", hidden, model.ffn_hidden_size, model),
    }


def _norm(name: str, model: ModelConfig) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {f"{name}.weight": (model.hidden_size,)}
    if model.normalization == "LayerNorm":
        shapes[f"{name}.bias"] = (model.hidden_size,)
    return shapes


def _linear(name: str, outputs: int, inputs: int, model: ModelConfig) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {f"{name}.weight": (outputs, inputs)}
    if model.bias:
        shapes[f"{name}.bias"] = (outputs,)
    return shapes
