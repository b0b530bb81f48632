"""The decoder alone, as a folder of a family that `transformers` reads without any code of ours.

Wang et al. 2023 (arXiv:2310.07713, section 4) found that InstructRetro keeps its gains with the encoder dropped; what
is left is a GPT, and this writes it. Padding rows of the embedding are cut; norms stored as their distance from one
are written as they act.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retro.common.errors import ConfigError
from retro.common.files import write_plain_json
from retro.model.config import ModelConfig, ModelShape
from retro.model.convert.hf_config import LLAMA_3_ROPE
from retro.model.convert.hf_layouts import LAYOUTS, Layout, assemble, invert
from retro.model.convert.safe_files import ONE_FILE, write_safetensors
from retro.model.weight_names import EMBEDDING, OUTPUT, decoder_sizes

_Needs = dict[str, tuple[Any, ...]]
_LLAMA_LIKE: _Needs = {
    "normalization": ("RMSNorm",),
    "activation": ("swiglu",),
    "positions": ("rope",),
    "rope_percent": (1.0,),
}
_NO_EXTRAS: _Needs = {"qkv_bias": (False,), "qk_norm": (False,), "rope_skip_interval": (0,)}
_NEEDS: dict[str, _Needs] = {
    "llama": _LLAMA_LIKE | _NO_EXTRAS,
    "qwen2": _LLAMA_LIKE | _NO_EXTRAS | {"bias": (False,), "qkv_bias": (True,)},
    "qwen3": _LLAMA_LIKE | _NO_EXTRAS | {"bias": (False,), "qk_norm": (True,)},
    "gpt2": _NO_EXTRAS
    | {"normalization": ("LayerNorm",), "activation": ("gelu", "gelu_tanh"), "positions": ("learned",)},
}
_NAMES = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3", "smollm3": "SmolLM3", "gpt2": "GPT-2"}


def write_decoder(shape: ModelShape, weights: Mapping[str, Tensor], out: Path, *, file_limit: int = ONE_FILE) -> None:
    """Write the decoder as a HuggingFace folder: config.json, generation_config.json and safetensors.

    Args:
        shape: The model.
        weights: Whole weights by their names in one process; those of retrieval are left out.
        out: The folder, made when it is not there.
        file_limit: Bytes of one file of weights at most.

    Raises:
        ConfigError: No family here computes this decoder; the settings in the way are named.
    """
    family = plain_family(shape.model)
    wanted = decoder_sizes(shape)
    wrong = [name for name, size in wanted.items() if name not in weights or tuple(weights[name].shape) != size]
    if wrong:
        raise ValueError(f"{len(wrong)} weights are missing or of another shape, {wrong[0]} the first")
    plain = {name: _plain(name, weights[name].detach().cpu(), shape) for name in wanted}
    layout = LAYOUTS[family](shape.model, shape.vocabulary, shape.position_rows)
    _add_zero_biases(plain, layout)
    out.mkdir(parents=True, exist_ok=True)
    tensors = invert(layout)
    sizes = {name: sum(part.rows(plain).nbytes for part in parts) for name, parts in tensors.items()}
    write_safetensors(sizes, lambda name: assemble(tensors[name], plain), out, file_limit)
    write_plain_json(out / "generation_config.json", {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None})
    dtype = str(plain[EMBEDDING].dtype).removeprefix("torch.")
    write_plain_json(out / "config.json", folder_config(shape, family) | {"torch_dtype": dtype})


def plain_family(model: ModelConfig) -> str:
    """The family that computes this decoder: `llama`, `qwen2`, `qwen3`, `smollm3` or `gpt2`.

    Raises:
        ConfigError: None does; the settings in the way of the nearest are named.
    """
    needs = dict(_NEEDS)
    if model.rope_skip_interval:
        needs["smollm3"] = _LLAMA_LIKE | _NO_EXTRAS | {"rope_skip_interval": (model.rope_skip_interval,)}
    lacking = {family: _lacking(model, wanted) for family, wanted in needs.items()}
    if model.query_groups != model.heads:
        lacking["gpt2"].append(f"query_groups = {model.query_groups} (needs heads = {model.heads})")
    if model.query_width != model.hidden_size:
        lacking["gpt2"].append(f"head_width = {model.head_width} (needs hidden_size / heads)")
    for family, settings in lacking.items():
        if not settings:
            return family
    nearest = sorted(lacking, key=lambda family: len(lacking[family]))[:2]
    ways = "; ".join(f"in the way of {_NAMES[family]}: {', '.join(lacking[family])}" for family in nearest)
    need = f"needs an architecture that a family of transformers has to be written as a plain folder; {ways}"
    raise ConfigError("model.size", model.size, need)


def folder_config(shape: ModelShape, family: str) -> dict[str, Any]:
    """config.json of the decoder as a model of `family`.

    Token ids are null, because a missing one would be taken from the family's own tokenizer.
    """
    model = shape.model
    common = {
        "vocab_size": shape.vocabulary,
        "tie_word_embeddings": model.tied_embeddings,
        "initializer_range": model.init_std,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    return common | (_gpt2_config(shape) if family == "gpt2" else _llama_config(model, family))


def _llama_config(model: ModelConfig, family: str) -> dict[str, Any]:
    scaled = model.rope_scaling > 1.0
    skips = {"no_rope_layer_interval": model.rope_skip_interval} if family == "smollm3" else {}
    # A Qwen2 always has biases on queries, keys and values, and no setting for them.
    bias = {} if family == "qwen2" else {"attention_bias": model.bias}
    return (
        skips
        | bias
        | {
            "model_type": family,
            "architectures": [f"{_NAMES[family]}ForCausalLM"],
            "hidden_size": model.hidden_size,
            "intermediate_size": model.ffn_hidden_size,
            "num_hidden_layers": model.layers,
            "num_attention_heads": model.heads,
            "num_key_value_heads": model.query_groups,
            "head_dim": model.head_width,
            "hidden_act": "silu",
            "max_position_embeddings": model.sequence_length,
            "rms_norm_eps": model.norm_epsilon,
            "rope_theta": float(model.rope_base),
            "rope_scaling": LLAMA_3_ROPE | {"rope_type": "llama3", "factor": model.rope_scaling} if scaled else None,
            "mlp_bias": model.bias,
        }
    )


def _gpt2_config(shape: ModelShape) -> dict[str, Any]:
    model = shape.model
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "n_embd": model.hidden_size,
        "n_inner": model.ffn_hidden_size,
        "n_layer": model.layers,
        "n_head": model.heads,
        "n_positions": shape.position_rows,
        "activation_function": "gelu_new" if model.activation == "gelu_tanh" else "gelu",
        "layer_norm_epsilon": model.norm_epsilon,
        "attn_pdrop": model.dropout,
        "embd_pdrop": model.dropout,
        "resid_pdrop": model.dropout,
    }


def _lacking(model: ModelConfig, needs: dict[str, tuple[Any, ...]]) -> list[str]:
    return [
        f"{name} = {getattr(model, name)} (needs {' or '.join(map(str, values))})"
        for name, values in needs.items()
        if getattr(model, name) not in values
    ]


def _plain(name: str, weight: Tensor, shape: ModelShape) -> Tensor:
    if name in (EMBEDDING, OUTPUT):
        return weight[: shape.vocabulary]
    if shape.model.zero_centered_norm and name.endswith("layernorm.weight"):
        return weight + 1.0
    return weight


def _add_zero_biases(weights: dict[str, Tensor], layout: Layout) -> None:
    """GPT-2 has a bias in every linear layer; where ours have none, theirs are zero."""
    for name in layout.keys() - weights.keys():
        matrix = weights[name.removesuffix("bias") + "weight"]
        weights[name] = torch.zeros(matrix.size(0), dtype=matrix.dtype)
