"""Where each weight of the decoder lies in a HuggingFace folder of each family."""

# Dims: H hidden size, F feed-forward width, D head width, V rows of the vocabulary.

from __future__ import annotations

from collections.abc import Callable

from retro.model.config import ModelConfig
from retro.model.convert.pieces import Layout, Piece
from retro.model.names import EMBEDDING, FINAL_NORM, OUTPUT, POSITIONS

LM_HEAD = "lm_head.weight"


def llama_layout(model: ModelConfig, vocabulary: int) -> Layout:
    """Llama and Mistral: separate query, key, value, gate and up projections; no biases."""
    hidden, inner = model.hidden_size, model.ffn_hidden_size
    layout: Layout = {EMBEDDING: (Piece("model.embed_tokens.weight", 0, vocabulary),)}
    for number in range(model.layers):
        ours, theirs = f"decoder.layers.{number}.", f"model.layers.{number}."
        layout |= {
            f"{ours}input_layernorm.weight": (Piece(f"{theirs}input_layernorm.weight", 0, hidden),),
            f"{ours}self_attention.linear_qkv.weight": _separate_qkv(model, f"{theirs}self_attn."),
            f"{ours}self_attention.linear_proj.weight": (Piece(f"{theirs}self_attn.o_proj.weight", 0, hidden),),
            f"{ours}pre_mlp_layernorm.weight": (Piece(f"{theirs}post_attention_layernorm.weight", 0, hidden),),
            f"{ours}mlp.linear_fc1.weight": (
                Piece(f"{theirs}mlp.gate_proj.weight", 0, inner),
                Piece(f"{theirs}mlp.up_proj.weight", 0, inner),
            ),
            f"{ours}mlp.linear_fc2.weight": (Piece(f"{theirs}mlp.down_proj.weight", 0, hidden),),
        }
    layout[f"{FINAL_NORM}.weight"] = (Piece("model.norm.weight", 0, hidden),)
    return layout | _output(model, vocabulary)


def gpt2_layout(model: ModelConfig, vocabulary: int, positions: int) -> Layout:
    """GPT-2: matrices stored [inputs, outputs]; all queries, then all keys, then all values; biases everywhere.

    Args:
        model: The network.
        vocabulary: Rows of the word embedding.
        positions: Rows of the table of positions.
    """
    layout: Layout = {
        EMBEDDING: (Piece("transformer.wte.weight", 0, vocabulary),),
        POSITIONS: (Piece("transformer.wpe.weight", 0, positions),),
    }
    hidden, inner = model.hidden_size, model.ffn_hidden_size
    for number in range(model.layers):
        ours, theirs = f"decoder.layers.{number}.", f"transformer.h.{number}."
        for kind in ("weight", "bias"):
            layout |= {
                f"{ours}input_layernorm.{kind}": (Piece(f"{theirs}ln_1.{kind}", 0, hidden),),
                f"{ours}self_attention.linear_qkv.{kind}": _joined_qkv(model, f"{theirs}attn.c_attn.{kind}"),
                f"{ours}self_attention.linear_proj.{kind}": (
                    Piece(f"{theirs}attn.c_proj.{kind}", 0, hidden, transposed=True),
                ),
                f"{ours}pre_mlp_layernorm.{kind}": (Piece(f"{theirs}ln_2.{kind}", 0, hidden),),
                f"{ours}mlp.linear_fc1.{kind}": (Piece(f"{theirs}mlp.c_fc.{kind}", 0, inner, transposed=True),),
                f"{ours}mlp.linear_fc2.{kind}": (Piece(f"{theirs}mlp.c_proj.{kind}", 0, hidden, transposed=True),),
            }
    for kind in ("weight", "bias"):
        layout[f"{FINAL_NORM}.{kind}"] = (Piece(f"transformer.ln_f.{kind}", 0, hidden),)
    return layout | _output(model, vocabulary)


def _separate_qkv(model: ModelConfig, attention: str) -> tuple[Piece, ...]:
    """Group by group: the query heads of the group, then its key, then its value."""
    width = model.head_width
    queries = model.heads // model.query_groups * width
    pieces = []
    for group in range(model.query_groups):
        pieces += [
            Piece(f"{attention}q_proj.weight", group * queries, (group + 1) * queries),
            Piece(f"{attention}k_proj.weight", group * width, (group + 1) * width),
            Piece(f"{attention}v_proj.weight", group * width, (group + 1) * width),
        ]
    return tuple(pieces)


def _joined_qkv(model: ModelConfig, tensor: str) -> tuple[Piece, ...]:
    """Head by head: its query, key and value, which lie a whole hidden size apart."""
    width, hidden = model.head_width, model.hidden_size
    starts = [part * hidden + head * width for head in range(model.heads) for part in range(3)]
    return tuple(Piece(tensor, start, start + width, transposed=True) for start in starts)


def _output(model: ModelConfig, vocabulary: int) -> Layout:
    return {} if model.tied_embeddings else {OUTPUT: (Piece(LM_HEAD, 0, vocabulary),)}


LayoutOf = Callable[[ModelConfig, int, int], Layout]
LAYOUTS: dict[str, LayoutOf] = {
    "llama": lambda model, vocabulary, _: llama_layout(model, vocabulary),
    "mistral": lambda model, vocabulary, _: llama_layout(model, vocabulary),
    "gpt2": gpt2_layout,
}
"""Of each family: from a model, its vocabulary's rows and its table of positions' rows to the layout."""
