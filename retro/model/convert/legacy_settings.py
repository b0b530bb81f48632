"""The settings of a legacy Megatron checkpoint: its command line, kept in it, as settings of a model.

What its command line cannot say is read from its weights: which layers read neighbors, and how many layers encode them.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from retro.common.errors import DataError
from retro.model.sizes import SIZES

# Chunks are cut by Megatron's database, which records their length elsewhere; 64 is that of all published ones.
CHUNK_LENGTH = 64
_MOST_LAYERS = 10_000
_REMEDY = "This toolkit has no model that computes the same; use another checkpoint"
# Options that change what a model computes, and the values under which it is a model of this toolkit.
_MUST_BE: dict[str, tuple[object, ...]] = {
    "num_experts": (None,),
    "apply_residual_connection_post_layernorm": (False,),
    "rotary_interleaved": (False,),
    "rotary_seq_len_interpolation_factor": (None, 1),
    "add_qkv_bias": (False,),
    "qk_layernorm": (False,),
    "embedding_weights_in_fp32": (False,),
    "fp32_residual_connection": (False,),
}


def settings(args: Namespace, reading: Sequence[int], encoder_layers: int, path: Path) -> dict[str, Any]:
    """Settings of ModelConfig, by name.

    Args:
        args: Megatron's command line.
        reading: Decoder layers that read neighbors, counted from 1; none in a GPT.
        encoder_layers: Layers of the neighbor encoder.
        path: Where `args` was found, for messages.

    Raises:
        DataError: An option is missing, or has a value under which no model here computes the same.
    """
    for name, values in _MUST_BE.items():
        if getattr(args, name, values[0]) not in values:
            raise DataError(path, f"was trained with {name} = {getattr(args, name)!r}, needs {values[0]!r}", _REMEDY)
    heads, hidden = _need(args, "num_attention_heads", path), _need(args, "hidden_size", path)
    channels = getattr(args, "kv_channels", None) or hidden // heads
    if channels * heads != hidden:
        problem = f"has heads of width {channels}, needs hidden_size / num_attention_heads = {hidden // heads}"
        raise DataError(path, problem, _REMEDY)
    grouped = getattr(args, "group_query_attention", False)
    layers = _need(args, "num_layers", path)
    if type(layers) is not int or not 0 < layers <= _MOST_LAYERS:
        raise DataError(path, f"has num_layers that are none or more than {_MOST_LAYERS}", _REMEDY)
    return {
        "size": _size(layers, hidden, heads),
        "layers": layers,
        "hidden_size": hidden,
        "heads": heads,
        "query_groups": _need(args, "num_query_groups", path) if grouped else heads,
        "ffn_hidden_size": getattr(args, "ffn_hidden_size", None) or 4 * hidden,
        "activation": _activation(args),
        "normalization": getattr(args, "normalization", "LayerNorm"),
        "norm_epsilon": getattr(args, "norm_epsilon", getattr(args, "layernorm_epsilon", 1e-5)),
        "zero_centered_norm": bool(getattr(args, "apply_layernorm_1p", False)),
        "bias": bool(getattr(args, "add_bias_linear", True)),
        "tied_embeddings": not getattr(args, "untie_embeddings_and_output_weights", False),
        "dropout": float(getattr(args, "hidden_dropout", 0.0)),
        "init_std": float(getattr(args, "init_method_std", 0.02)),
        **_positions(args, path),
        **_retrieval(args, reading, encoder_layers, path),
    }


def chunk_length(args: Namespace) -> int:
    """Tokens of a chunk where the command line has it, else the published length."""
    return recorded_chunk_length(args) or CHUNK_LENGTH


def recorded_chunk_length(args: Namespace) -> int | None:
    """Tokens of a chunk where the command line has it."""
    for name in ("retro_chunk_length", "retro_gpt_chunk_length"):
        if getattr(args, name, None):
            return int(getattr(args, name))
    return None


def _size(layers: int, hidden: int, heads: int) -> str:
    """The row of the size table with these numbers; its other settings are overridden."""
    wanted = {"layers": layers, "hidden_size": hidden, "heads": heads}
    return next((name for name, row in SIZES.items() if wanted.items() <= row.settings.items()), "tiny")


def _need(args: Namespace, name: str, path: Path) -> Any:
    value = getattr(args, name, None)
    if value is None:
        raise DataError(path, f"its args have no {name}", "Give a checkpoint that Megatron-LM saved with its args")
    return value


def _activation(args: Namespace) -> str:
    if getattr(args, "swiglu", False):
        return "swiglu"
    if getattr(args, "squared_relu", False):
        return "squared_relu"
    # The kernel that fuses bias and GELU, the default wherever there is a bias, computes the tanh approximation.
    fused = getattr(args, "bias_gelu_fusion", True) and getattr(args, "add_bias_linear", True)
    exact = getattr(args, "onnx_safe", False)
    return "gelu_tanh" if getattr(args, "openai_gelu", False) or (fused and not exact) else "gelu"


def _positions(args: Namespace, path: Path) -> dict[str, Any]:
    kind = getattr(args, "position_embedding_type", "learned_absolute")
    if getattr(args, "use_rotary_position_embeddings", False) or kind == "rope":
        return {
            "positions": "rope",
            "sequence_length": _need(args, "seq_length", path),
            "rope_percent": float(getattr(args, "rotary_percent", 1.0)),
            "rope_base": int(getattr(args, "rotary_base", 10_000)),
        }
    if not getattr(args, "add_position_embedding", True) or kind != "learned_absolute":
        raise DataError(path, f"has positions {kind!r}, needs rotary or learned absolute ones", _REMEDY)
    # The table of positions is as long as the longest sequence, whatever the training sequences were.
    return {"positions": "learned", "sequence_length": _need(args, "max_position_embeddings", path)}


def _retrieval(args: Namespace, reading: Sequence[int], encoder_layers: int, path: Path) -> dict[str, Any]:
    if not reading:
        return {"retrieval": False, "encoder_rope": False, "cross_rope": False}
    layers: int = _need(args, "num_layers", path)
    # One layer alone has no distance to another; any that leads beyond the last layer will do.
    every = min((after - before for before, after in pairwise(reading)), default=layers)
    if list(reading) != list(range(reading[0], layers + 1, every)):
        problem = f"reads neighbors in layers {', '.join(map(str, reading))}, which are not evenly spaced to the last"
        raise DataError(path, problem, _REMEDY)
    return {
        "retrieval": True,
        "neighbors": int(getattr(args, "retro_num_neighbors", 2)),
        "first_cross_attention": reading[0],
        "cross_attention_every": every,
        "encoder_layers": encoder_layers,
        "encoder_dropout": float(getattr(args, "retro_encoder_hidden_dropout", 0.1)),
        "gate": float(getattr(args, "retro_attention_gate", 1.0)),
        "encoder_rope": False,
        "cross_rope": False,
    }
