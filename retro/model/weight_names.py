"""The canonical names and sizes of a model's weights, and which of them read neighbors.

Queries, keys and values of a self-attention are in one matrix, the query heads of a group before its key and value;
keys and values of a cross-attention likewise. With swiglu, `linear_fc1` holds the gate above the rest.
"""

from __future__ import annotations

from retro.model.config import ModelShape


def weight_sizes(shape: ModelShape) -> dict[str, tuple[int, ...]]:
    """Name and size of every weight of the model of `shape`, in the order of its layers."""
    model, vocabulary = shape.model, (shape.padded_vocabulary, shape.model.hidden_size)
    sizes: dict[str, tuple[int, ...]] = {"embedding.word_embeddings.weight": vocabulary}
    if model.positions == "learned":
        rows = max(model.sequence_length, shape.retrieved_length)
        sizes["embedding.position_embeddings.weight"] = (rows, model.hidden_size)
    for number in range(1, model.layers + 1):
        name = f"decoder.layers.{number - 1}."
        sizes |= _layer_sizes(shape, name, crossing=number in model.cross_attention_layers)
        if number in model.cross_attention_layers[:1]:
            for encoder_layer in range(model.encoder_layers):
                inner = f"{name}cross_attention.encoder.layers.{encoder_layer}."
                sizes |= _layer_sizes(shape, inner, crossing=encoder_layer == 0)
            if model.encoder_norm:
                sizes |= _norm_sizes(shape, f"{name}cross_attention.encoder.final_layernorm", model.hidden_size)
        if number in model.cross_attention_layers and model.gate == "learned":
            sizes[name + "cross_attention.learned_gate"] = (1,)
    sizes |= _norm_sizes(shape, "decoder.final_layernorm", model.hidden_size)
    return sizes if model.tied_embeddings else sizes | {"output_layer.weight": vocabulary}


def _layer_sizes(shape: ModelShape, name: str, *, crossing: bool) -> dict[str, tuple[int, ...]]:
    model = shape.model
    hidden, inner = model.hidden_size, model.ffn_hidden_size
    query, key_value = model.heads * model.head_width, 2 * model.query_groups * model.head_width
    linear = {
        "self_attention.linear_qkv": (query + key_value, hidden),
        "self_attention.linear_proj": (hidden, query),
        "mlp.linear_fc1": (2 * inner if model.activation == "swiglu" else inner, hidden),
        "mlp.linear_fc2": (hidden, inner),
    }
    norms = ["input_layernorm", "pre_mlp_layernorm"]
    if crossing:
        norms.append("pre_cross_attn_layernorm")
        linear["cross_attention.linear_q"] = (query, hidden)
        linear["cross_attention.linear_kv"] = (key_value, hidden)
        linear["cross_attention.linear_proj"] = (hidden, query)
    sizes: dict[str, tuple[int, ...]] = {}
    for norm in norms:
        sizes |= _norm_sizes(shape, name + norm, hidden)
    if model.qk_norm:
        for norm in ("q_layernorm", "k_layernorm"):
            sizes |= _norm_sizes(shape, f"{name}self_attention.{norm}", model.head_width)
    for part, size in linear.items():
        sizes[f"{name}{part}.weight"] = size
        if model.bias or (model.qkv_bias and part == "self_attention.linear_qkv"):
            sizes[f"{name}{part}.bias"] = size[:1]
    return sizes


def _norm_sizes(shape: ModelShape, name: str, width: int) -> dict[str, tuple[int, ...]]:
    kinds = ("weight",) if shape.model.normalization == "RMSNorm" else ("weight", "bias")
    return {f"{name}.{kind}": (width,) for kind in kinds}


EMBEDDING = "embedding.word_embeddings.weight"
POSITIONS = "embedding.position_embeddings.weight"
OUTPUT = "output_layer.weight"
ADDED_MODULE = "added_"
"""Before the names of modules that `training.train` is given beside the network."""
FINAL_NORM = "decoder.final_layernorm"


def is_retrieval(name: str) -> bool:
    """Whether a weight belongs to retrieval: cross-attention, its norm and gate, and the encoder inside the first."""
    return ".cross_attention." in name or ".pre_cross_attn_layernorm." in name


def is_part_of_module(part: str, name: str) -> bool:
    """Whether a weight belongs to a part of a module beside the network, `knowledge.model` for one; gates do not."""
    return f"{name}.".startswith(f"{ADDED_MODULE}{part}.") and not is_gate(name)


def is_gate(name: str) -> bool:
    """Whether a weight is the learned gate of a layer that reads neighbors."""
    return name.endswith(".learned_gate")


def is_added_module(name: str) -> bool:
    """Whether a weight belongs to a module that was added to the network, such as a recipe's own encoder."""
    return name.startswith(ADDED_MODULE)


def is_vocabulary(name: str) -> bool:
    """Whether a weight has a row for each token: the embedding, and an output layer of its own."""
    return name in (EMBEDDING, OUTPUT)


def decoder_sizes(shape: ModelShape) -> dict[str, tuple[int, ...]]:
    """Name and size, over all ranks, of each weight of the decoder: the model with retrieval off."""
    return {name: size for name, size in weight_sizes(shape).items() if not is_retrieval(name)}
