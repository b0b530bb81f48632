"""Where each weight of the decoder is in a HuggingFace folder of each family.

Queries, keys and values are one matrix here, group by group, and three elsewhere; gate and up projection likewise;
GPT-2 stores its matrices transposed. Written as pieces, one table serves both directions, and a rank reads only
the pieces that its own rows touch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from retro.model.config import ModelConfig
from retro.model.weight_names import EMBEDDING, FINAL_NORM, OUTPUT, POSITIONS

ReadStored = Callable[[str, tuple[slice, ...]], Tensor]
"""From a stored tensor's name and a slice of each of its axes to that part of it."""


@dataclass(frozen=True)
class Piece:
    """Rows `start` to `stop` of a stored tensor; its columns instead where it is stored transposed."""

    tensor: str
    start: int
    stop: int
    transposed: bool = False

    @property
    def rows(self) -> int:
        """How many."""
        return self.stop - self.start


Layout = dict[str, tuple[Piece, ...]]
"""The pieces of each of our weights, in their order."""


def rows_of(pieces: Sequence[Piece]) -> int:
    """Rows of the tensor that the pieces make."""
    return sum(piece.rows for piece in pieces)


def gather(pieces: Sequence[Piece], slices: tuple[slice, ...], read: ReadStored) -> Tensor:
    """Read a part of a tensor from its pieces.

    Args:
        pieces: What the tensor is made of.
        slices: The part, one slice an axis, with start and stop.
        read: Reads a part of a stored tensor.
    """
    rows, rest = slices[0], slices[1:]
    found, first = [], 0
    for piece in pieces:
        start, stop = max(rows.start, first), min(rows.stop, first + piece.rows)
        if start < stop:
            own = slice(piece.start + start - first, piece.start + stop - first)
            transposed = piece.transposed and rest
            part = read(piece.tensor, (*rest, own) if transposed else (own, *rest))
            found.append(part.T if transposed else part)
        first += piece.rows
    return torch.cat(found) if len(found) > 1 else found[0]


@dataclass(frozen=True)
class Part:
    """Which rows of one of our weights make a piece of a stored tensor."""

    piece: Piece
    weight: str
    first: int

    def rows(self, weights: Mapping[str, Tensor]) -> Tensor:
        """These rows, without a copy."""
        return weights[self.weight][self.first : self.first + self.piece.rows]


def invert(layout: Layout) -> dict[str, list[Part]]:
    """The way back: the parts of each stored tensor, in the order of its rows."""
    parts: dict[str, list[Part]] = {}
    for weight, pieces in layout.items():
        first = 0
        for piece in pieces:
            parts.setdefault(piece.tensor, []).append(Part(piece, weight, first))
            first += piece.rows
    for tensor, found in parts.items():
        found.sort(key=lambda part: part.piece.start)
        ends = [0, *(part.piece.stop for part in found)]
        if any(part.piece.start != end for part, end in zip(found, ends, strict=False)):
            raise ValueError(f"{tensor}: its pieces leave gaps or overlap")
    return parts


def assemble(parts: Sequence[Part], weights: Mapping[str, Tensor]) -> Tensor:
    """One stored tensor, put together from our weights."""
    joined = torch.cat([part.rows(weights) for part in parts])
    transposed = parts[0].piece.transposed and joined.dim() == 2
    return (joined.T if transposed else joined).contiguous()


# Dims: H hidden size, F feed-forward width, D head width, V rows of the vocabulary.


LM_HEAD = "lm_head.weight"


def llama_layout(model: ModelConfig, vocabulary: int) -> Layout:
    """Llama, Mistral, Qwen, SmolLM3: separate query, key, value, gate and up projections; biases and norms of queries
    and keys where the model has them."""
    inner = model.ffn_hidden_size

    def qkv(layer: str, kind: str) -> tuple[Piece, ...]:
        return _separate_qkv(model, f"{layer}self_attn.", kind)

    def gate_up(layer: str, kind: str) -> tuple[Piece, ...]:
        return Piece(f"{layer}mlp.gate_proj.{kind}", 0, inner), Piece(f"{layer}mlp.up_proj.{kind}", 0, inner)

    return _llama_like(model, vocabulary, qkv, gate_up)


def phi3_layout(model: ModelConfig, vocabulary: int) -> Layout:
    """Phi-3: one matrix for all queries, then all keys, then all values; one for gate and up."""

    def qkv(layer: str, kind: str) -> tuple[Piece, ...]:
        return _stacked_qkv(model, f"{layer}self_attn.qkv_proj.{kind}")

    def gate_up(layer: str, kind: str) -> tuple[Piece, ...]:
        return (Piece(f"{layer}mlp.gate_up_proj.{kind}", 0, 2 * model.ffn_hidden_size),)

    return _llama_like(model, vocabulary, qkv, gate_up)


PiecesOf = Callable[[str, str], tuple[Piece, ...]]
"""From the name of a layer, and `weight` or `bias`, to the pieces of a matrix of ours."""


def _llama_like(model: ModelConfig, vocabulary: int, qkv: PiecesOf, gate_up: PiecesOf) -> Layout:
    hidden, width = model.hidden_size, model.head_width
    layout: Layout = {EMBEDDING: (Piece("model.embed_tokens.weight", 0, vocabulary),)}
    for number in range(model.layers):
        ours, theirs = f"decoder.layers.{number}.", f"model.layers.{number}."
        layout |= {
            f"{ours}input_layernorm.weight": (Piece(f"{theirs}input_layernorm.weight", 0, hidden),),
            f"{ours}pre_mlp_layernorm.weight": (Piece(f"{theirs}post_attention_layernorm.weight", 0, hidden),),
        }
        for kind in ("weight", "bias") if model.bias else ("weight",):
            layout |= {
                f"{ours}self_attention.linear_qkv.{kind}": qkv(theirs, kind),
                f"{ours}self_attention.linear_proj.{kind}": (Piece(f"{theirs}self_attn.o_proj.{kind}", 0, hidden),),
                f"{ours}mlp.linear_fc1.{kind}": gate_up(theirs, kind),
                f"{ours}mlp.linear_fc2.{kind}": (Piece(f"{theirs}mlp.down_proj.{kind}", 0, hidden),),
            }
        if model.qkv_bias:
            layout[f"{ours}self_attention.linear_qkv.bias"] = qkv(theirs, "bias")
        if model.qk_norm:
            for part in "qk":
                norm = Piece(f"{theirs}self_attn.{part}_norm.weight", 0, width)
                layout[f"{ours}self_attention.{part}_layernorm.weight"] = (norm,)
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


def _separate_qkv(model: ModelConfig, attention: str, kind: str) -> tuple[Piece, ...]:
    """Group by group: the query heads of the group, then its key, then its value."""
    width = model.head_width
    queries = model.heads // model.query_groups * width
    pieces = []
    for group in range(model.query_groups):
        pieces += [
            Piece(f"{attention}q_proj.{kind}", group * queries, (group + 1) * queries),
            Piece(f"{attention}k_proj.{kind}", group * width, (group + 1) * width),
            Piece(f"{attention}v_proj.{kind}", group * width, (group + 1) * width),
        ]
    return tuple(pieces)


def _stacked_qkv(model: ModelConfig, tensor: str) -> tuple[Piece, ...]:
    """Group by group, from a matrix of all queries, then all keys, then all values."""
    width = model.head_width
    queries = model.heads // model.query_groups * width
    keys = model.query_width
    values = keys + model.query_groups * width
    return tuple(
        Piece(tensor, start, stop)
        for group in range(model.query_groups)
        for start, stop in (
            (group * queries, (group + 1) * queries),
            (keys + group * width, keys + (group + 1) * width),
            (values + group * width, values + (group + 1) * width),
        )
    )


def _joined_qkv(model: ModelConfig, tensor: str) -> tuple[Piece, ...]:
    """Head by head: its query, key and value, which are a whole hidden size apart."""
    width, hidden = model.head_width, model.hidden_size
    starts = [part * hidden + head * width for head in range(model.heads) for part in range(3)]
    return tuple(Piece(tensor, start, start + width, transposed=True) for start in starts)


def _output(model: ModelConfig, vocabulary: int) -> Layout:
    return {} if model.tied_embeddings else {OUTPUT: (Piece(LM_HEAD, 0, vocabulary),)}


LayoutOf = Callable[[ModelConfig, int, int], Layout]
LAYOUTS: dict[str, LayoutOf] = {
    **dict.fromkeys(
        ("llama", "mistral", "qwen2", "qwen3", "smollm3"),
        lambda model, vocabulary, _: llama_layout(model, vocabulary),
    ),
    "phi3": lambda model, vocabulary, _: phi3_layout(model, vocabulary),
    "gpt2": gpt2_layout,
}
"""Of each family: from a model, its vocabulary's rows and its table of positions' rows to the layout."""
