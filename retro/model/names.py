"""Which weights belong to what: the names that other code asks for, and the two halves of a Retro."""

from __future__ import annotations

from retro.model.config import ModelShape
from retro.model.weight_names import weight_sizes

EMBEDDING = "embedding.word_embeddings.weight"
POSITIONS = "embedding.position_embeddings.weight"
OUTPUT = "output_layer.weight"
ADDED_MODULE = "added_"
"""Before the names of modules that `training.train` is given beside the network."""
FINAL_NORM = "decoder.final_layernorm"


def is_retrieval(name: str) -> bool:
    """Whether a weight belongs to retrieval: cross-attention, its norm and gate, and the encoder inside the first."""
    return ".cross_attention." in name or ".pre_cross_attn_layernorm." in name


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
