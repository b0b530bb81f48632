"""A HuggingFace `config.json` as settings of a model, so that `model.size` can name a folder.

Only what is understood is taken: a setting that would change what the model computes, and one that is not known
here, is refused by name. Loads neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retro.common.errors import DataError
from retro.common.files import read_json

CONFIG = "config.json"
LLAMA_3_ROPE = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""The only shape of Llama 3's scaled rotary embedding that megatron-core has; its factor is free."""
LONGEST_DEFAULT = 4096
"""Sequence length that a folder's settings give at most: published ranges of 131,072 are no training length."""

FOLDER_SETTINGS = (
    "layers", "hidden_size", "heads", "query_groups", "ffn_hidden_size", "sequence_length", "activation",
    "normalization", "norm_epsilon", "zero_centered_norm", "positions", "rope_percent", "rope_base", "rope_scaling",
    "bias", "tied_embeddings", "init_std", "first_cross_attention", "cross_attention_every", "gate", "encoder_rope",
)  # fmt: skip
"""The settings of ModelConfig that a folder gives."""

_MOST_LAYERS = 10_000
_REMEDY = "Give a folder whose architecture is supported"
# Settings that change nothing that a forward pass in evaluation mode computes, or only its rounding.
_HARMLESS = {
    "_name_or_path", "architectures", "attention_dropout", "attn_pdrop", "bos_token_id", "dtype", "embd_pdrop",
    "eos_token_id", "id2label", "initializer_range", "label2id", "max_position_embeddings", "model_type", "n_ctx",
    "pad_token_id", "pretraining_tp", "problem_type", "reorder_and_upcast_attn", "resid_pdrop", "return_dict",
    "sliding_window", "summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type",
    "summary_use_proj", "task_specific_params", "tie_word_embeddings", "torch_dtype", "transformers_version",
    "unk_token_id", "use_cache", "vocab_size",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class FolderConfig:
    """What a folder's config.json says."""

    folder: Path
    family: str
    """llama, mistral or gpt2."""
    settings: dict[str, Any]
    """Settings of ModelConfig."""
    vocabulary: int
    """Rows of the word embedding."""
    positions: int
    """Tokens it was made for; of GPT-2, the rows of its table of positions."""
    sliding_window: int | None
    """Tokens back that a token may attend to; None: all."""


def is_folder(path: Path) -> bool:
    """Whether a folder holds a HuggingFace model (a run's own config.json names no model type)."""
    try:
        return "model_type" in read_json(path / CONFIG, "", error=DataError, keys_once=False)
    except DataError:
        return False


def read_folder_config(folder: Path) -> FolderConfig:
    """Read a folder's config.json as settings of a model.

    Cross-attention starts where the papers put it, and its gate is learned, from zero: what is made from the folder's
    weights computes at first exactly what they compute.

    Raises:
        DataError: There is none, or it asks for something that is not supported.
    """
    path = folder / CONFIG
    data = read_json(path, "Give a HuggingFace model folder", error=DataError, keys_once=False)
    family = data.get("model_type")
    if not isinstance(family, str) or family not in _FAMILIES:
        problem = f"has model_type {family!r}; supported are {', '.join(sorted(_FAMILIES))}"
        raise DataError(path, problem, "Convert the model to one of these families")
    source = _Settings(path, data)
    settings = _FAMILIES[family](source)
    source.require_nothing_left()
    return FolderConfig(
        folder=folder,
        family=family,
        settings=_complete(settings),
        vocabulary=source.integer("vocab_size"),
        positions=settings["sequence_length"],
        sliding_window=data.get("sliding_window", 4096) if family == "mistral" else None,
    )


class _Settings:
    """The entries of a config.json; each is taken, must have a value that is supported, or is harmless."""

    def __init__(self, path: Path, data: dict[str, Any]) -> None:
        self.path, self.data, self.seen = path, data, set(_HARMLESS)

    def get(self, name: str, default: Any) -> Any:
        """An entry that may be missing; the family's own default then holds."""
        self.seen.add(name)
        value = self.data.get(name)
        return default if value is None else value

    def integer(self, name: str, default: int | None = None) -> int:
        """A positive whole number."""
        value = self.get(name, default)
        if type(value) not in (int, float) or not 1 <= value < 2**31 or value != int(value):
            self.refuse(name, value, "a positive whole number below 2,147,483,648")
        return int(value)

    def number(self, name: str, default: float) -> float:
        """A positive number."""
        value = self.get(name, default)
        if type(value) not in (int, float) or not 0 < value < 2**31:
            self.refuse(name, value, "a positive number")
        return float(value)

    def entries(self, name: str) -> dict[str, Any]:
        """Entries by name; none where it is missing."""
        value = self.get(name, {})
        if not isinstance(value, dict):
            self.refuse(name, value, "entries by name")
        return dict(value)

    def require(self, name: str, default: Any, *supported: Any) -> Any:
        """An entry of which only some values are supported."""
        value = self.get(name, default)
        if value not in supported:
            self.refuse(name, value, " or ".join(map(str, supported)))
        return value

    def refuse(self, name: str, value: object, need: str) -> None:
        """Raise DataError for an entry."""
        raise DataError(self.path, f"{name} = {_short(value)} is not supported; needed {need}", _REMEDY)

    def require_nothing_left(self) -> None:
        """Refuse entries that were neither taken nor are known to be harmless."""
        unknown = sorted(name for name in self.data.keys() - self.seen if self.data[name] not in (None, False))
        if unknown:
            name = unknown[0]
            problem = (
                f"{name[:80]} = {_short(self.data[name])} is not known here and may change what the model computes"
            )
            raise DataError(self.path, problem, f"If it does not, take it out of a copy of {CONFIG}")


def _short(value: object) -> str:
    # Numbers of more digits cannot be written out.
    if isinstance(value, int) and abs(value) >= 10**30:
        return "a number of more than 30 digits"
    found = repr(value)
    return found if len(found) <= 100 else f"{found[:97]}..."


def _layers(source: _Settings, name: str) -> int:
    found = source.integer(name)
    if found > _MOST_LAYERS:
        source.refuse(name, found, f"at most {_MOST_LAYERS}")
    return found


def _llama(source: _Settings, *, groups: int | None = None, positions: int = 2048) -> dict[str, Any]:
    hidden, heads = source.integer("hidden_size"), source.integer("num_attention_heads")
    source.require("hidden_act", "silu", "silu")
    source.require("attention_bias", False, False)
    source.require("mlp_bias", False, False)
    source.require("head_dim", hidden // heads, hidden // heads)
    base, scaling = _rope(source)
    return {
        "layers": _layers(source, "num_hidden_layers"),
        "hidden_size": hidden,
        "heads": heads,
        "query_groups": source.integer("num_key_value_heads", groups or heads),
        "ffn_hidden_size": source.integer("intermediate_size"),
        "sequence_length": source.integer("max_position_embeddings", positions),
        "activation": "swiglu",
        "normalization": "RMSNorm",
        "norm_epsilon": source.number("rms_norm_eps", 1e-6),
        "positions": "rope",
        "rope_base": base,
        "rope_scaling": scaling,
        "bias": False,
        "tied_embeddings": bool(source.get("tie_word_embeddings", False)),
        "init_std": source.number("initializer_range", 0.02),
        "encoder_rope": True,
    }


def _mistral(source: _Settings) -> dict[str, Any]:
    return _llama(source, groups=8, positions=131_072)


def _gpt2(source: _Settings) -> dict[str, Any]:
    hidden, heads = source.integer("n_embd"), source.integer("n_head")
    source.require("scale_attn_weights", True, True)
    source.require("scale_attn_by_inverse_layer_idx", False, False)
    source.require("add_cross_attention", False, False)
    activations = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"}
    activation = source.require("activation_function", "gelu_new", *activations)
    return {
        "layers": _layers(source, "n_layer"),
        "hidden_size": hidden,
        "heads": heads,
        "query_groups": heads,
        "ffn_hidden_size": source.integer("n_inner", 4 * hidden),
        "sequence_length": source.integer("n_positions", 1024),
        "activation": activations[activation],
        "normalization": "LayerNorm",
        "norm_epsilon": source.number("layer_norm_epsilon", 1e-5),
        "positions": "learned",
        "rope_base": 10_000,
        "rope_scaling": 1.0,
        "bias": True,
        "tied_embeddings": bool(source.get("tie_word_embeddings", True)),
        "init_std": source.number("initializer_range", 0.02),
        "encoder_rope": False,
    }


_FAMILIES: dict[str, Callable[[_Settings], dict[str, Any]]] = {"llama": _llama, "mistral": _mistral, "gpt2": _gpt2}


def _rope(source: _Settings) -> tuple[int, float]:
    """Base and scaling factor; transformers 5 writes both into `rope_parameters`, older ones into two entries."""
    rope = source.entries("rope_scaling") | source.entries("rope_parameters")
    base = rope.pop("rope_theta", source.get("rope_theta", 10_000.0))
    if not isinstance(base, int | float) or base != int(base) or base < 1:
        source.refuse("rope_theta", base, "a positive whole number")
    share = rope.pop("partial_rotary_factor", source.get("partial_rotary_factor", 1.0))
    if share != 1.0:
        source.refuse("partial_rotary_factor", share, "1.0")
    old_kind = rope.pop("type", "default")
    kind = rope.pop("rope_type", old_kind)
    if kind == "default" and not rope:
        return int(base), 1.0
    factor = rope.pop("factor", None)
    if kind != "llama3" or rope != LLAMA_3_ROPE or not isinstance(factor, int | float) or factor < 1:
        source.refuse("rope_scaling", {"rope_type": kind, "factor": factor} | rope, f"llama3 with {LLAMA_3_ROPE}")
    return int(base), float(factor)


def _complete(settings: dict[str, Any]) -> dict[str, Any]:
    """What no family varies, and what reads neighbors."""
    layers = settings["layers"]
    return settings | {
        "sequence_length": min(settings["sequence_length"], LONGEST_DEFAULT),
        "zero_centered_norm": False,
        "rope_percent": 1.0,
        "first_cross_attention": min(6 if layers <= 15 else 9, layers),
        "cross_attention_every": 3,
        "gate": "learned",
    }
