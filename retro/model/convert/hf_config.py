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
"""Sequence length that a folder's settings give at most: published ranges of 131,072 are not training lengths."""

FOLDER_SETTINGS = (
    "layers", "hidden_size", "heads", "query_groups", "ffn_hidden_size", "sequence_length", "activation",
    "normalization", "norm_epsilon", "zero_centered_norm", "positions", "rope_percent", "rope_base", "rope_scaling",
    "bias", "tied_embeddings", "init_std", "first_cross_attention", "cross_attention_every", "gate", "encoder_rope",
)  # fmt: skip
"""The settings of ModelConfig that a folder has always given: what a saved model has, whenever it was saved."""
LATER_SETTINGS = ("head_width", "qkv_bias", "qk_norm", "rope_skip_interval")
"""Settings that a folder gives too, and that a model saved before they existed has at their defaults."""

_MOST_LAYERS = 10_000
_REMEDY = "Give a folder whose architecture is supported"
_EMPTY: tuple[Any, ...] = (None, False, {}, [])
# Settings that change nothing that a forward pass in evaluation mode computes, or only its rounding.
_HARMLESS = {
    "_name_or_path", "architectures", "attention_dropout", "attn_pdrop", "bos_token_id", "dtype", "embd_pdrop",
    "eos_token_id", "id2label", "initializer_range", "label2id", "max_position_embeddings", "model_type", "n_ctx",
    "pad_token_id", "pretraining_tp", "problem_type", "reorder_and_upcast_attn", "resid_pdrop", "return_dict",
    "sliding_window", "summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type",
    "summary_use_proj", "task_specific_params", "tie_word_embeddings", "torch_dtype", "transformers_version",
    "unk_token_id", "use_cache", "vocab_size",
    # Code that transformers runs only with trust_remote_code; the architecture named is its own all the same.
    "auto_map",
    # Of the tokenizer, of training, of other programs.
    "add_bos_token", "add_eos_token", "gradient_checkpointing", "is_llama_config", "model_name", "sep_token_id",
    "tokenizer_class", "transformers.js_config", "unsloth_fixed", "unsloth_version",
    # What a forward pass returns, or how weights are in memory.
    "attn_implementation", "chunk_size_feed_forward", "classifier_dropout", "finetuning_task", "is_decoder",
    "is_encoder_decoder", "num_labels", "output_attentions", "output_hidden_states", "output_past", "prefix",
    "return_dict_in_generate", "tf_legacy_loss", "torchscript", "use_bfloat16", "use_return_dict",
    # How to generate, as transformers kept it here before generation_config.json.
    "bad_words_ids", "begin_suppress_tokens", "decoder_start_token_id", "diversity_penalty", "do_sample",
    "early_stopping", "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty", "forced_bos_token_id",
    "forced_eos_token_id", "length_penalty", "max_length", "min_length", "no_repeat_ngram_size", "num_beam_groups",
    "num_beams", "num_return_sequences", "output_scores", "remove_invalid_values", "repetition_penalty",
    "suppress_tokens", "temperature", "top_k", "top_p", "typical_p",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class FolderConfig:
    """What a folder's config.json says."""

    folder: Path
    family: str
    """Its model_type."""
    settings: dict[str, Any]
    """Settings of ModelConfig."""
    vocabulary: int
    """Rows of the word embedding."""
    positions: int
    """Tokens it was made for; of GPT-2, the rows of its table of positions."""
    sliding_window: int | None
    """Tokens back that a token may attend to, where some layer has such a bound; None: all."""


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
    return parse_config(data, path)


def parse_config(data: dict[str, Any], path: Path) -> FolderConfig:
    """The entries of a config.json, which stand in `path`, as settings of a model; see `read_folder_config`."""
    family = data.get("model_type")
    if not isinstance(family, str) or family not in _FAMILIES:
        problem = f"has model_type {family!r}; supported are {', '.join(sorted(_FAMILIES))}"
        raise DataError(path, problem, "Convert the model to one of these families")
    source = _Settings(path, data)
    settings = _FAMILIES[family](source)
    source.require_nothing_left()
    return FolderConfig(
        folder=path.parent,
        family=family,
        settings=_complete(settings),
        vocabulary=source.integer("vocab_size"),
        positions=settings["sequence_length"],
        sliding_window=source.window,
    )


class _Settings:
    """The entries of a config.json; each is taken, must have a value that is supported, or is harmless."""

    def __init__(self, path: Path, data: dict[str, Any]) -> None:
        self.path, self.data, self.seen = path, data, set(_HARMLESS)
        self.window: int | None = None
        """The sliding window, once its family has said what stands for one."""

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
        # transformers keeps its own notes, such as _attn_implementation_autoset, under names with a line before them.
        unknown = sorted(
            name for name in self.data.keys() - self.seen if self.data[name] not in _EMPTY and not name.startswith("_")
        )
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


def _llama(
    source: _Settings,
    *,
    groups: int | None = None,
    positions: int = 2048,
    epsilon: float = 1e-6,
    head_width: int | None = None,
    base: float = 10_000.0,
    tied: bool = False,
) -> dict[str, Any]:
    """What Llama and the families made after it have in common; the arguments are a family's own defaults."""
    hidden, heads = source.integer("hidden_size"), source.integer("num_attention_heads")
    source.require("hidden_act", "silu", "silu")
    bias = source.require("attention_bias", False, False, True)
    if source.get("mlp_bias", False) != bias:
        source.refuse("mlp_bias", source.get("mlp_bias", False), f"{bias}, as attention_bias")
    if head_width is None and hidden % heads and source.get("head_dim", None) is None:
        source.refuse("num_attention_heads", heads, f"a divisor of hidden_size = {hidden}, or head_dim")
    rope_base, scaling = _rope(source, base)
    source.window = _window(source)
    return {
        "layers": _layers(source, "num_hidden_layers"),
        "hidden_size": hidden,
        "heads": heads,
        "head_width": source.integer("head_dim", head_width or hidden // heads),
        "query_groups": source.integer("num_key_value_heads", groups or heads),
        "ffn_hidden_size": source.integer("intermediate_size"),
        "sequence_length": source.integer("max_position_embeddings", positions),
        "activation": "swiglu",
        "normalization": "RMSNorm",
        "norm_epsilon": source.number("rms_norm_eps", epsilon),
        "positions": "rope",
        "rope_base": rope_base,
        "rope_scaling": scaling,
        "bias": bias,
        "tied_embeddings": bool(source.get("tie_word_embeddings", tied)),
        "init_std": source.number("initializer_range", 0.02),
        "encoder_rope": True,
    }


def _window(source: _Settings) -> int | None:
    """The sliding window that some layer attends through."""
    kinds = source.get("layer_types", [])
    known = isinstance(kinds, list) and set(map(str, kinds)) <= {"full_attention", "sliding_attention"}
    if not known:
        source.refuse("layer_types", kinds, "full_attention or sliding_attention for each layer")
    family = source.data["model_type"]
    default, needs_switch = {"mistral": (4096, False), "qwen2": (4096, True), "qwen3": (4096, True)}.get(
        family, (None, family == "smollm3")
    )
    window = source.data.get("sliding_window", default)
    # Qwen2 and Qwen3 name a window that is off; in the others it is on wherever it is named.
    off = (needs_switch and not source.get("use_sliding_window", False)) or (kinds and "sliding_attention" not in kinds)
    if window is None or off:
        return None
    return source.integer("sliding_window", default)


def _mistral(source: _Settings) -> dict[str, Any]:
    return _llama(source, groups=8, positions=131_072)


def _qwen2(source: _Settings) -> dict[str, Any]:
    """Biases on queries, keys and values alone, always (attention_bias says nothing here)."""
    source.require("attention_bias", True, True, False)
    source.seen.add("max_window_layers")
    data = source.data | {"attention_bias": False}
    plain = _Settings(source.path, data)
    settings = _llama(plain, groups=32, positions=32_768)
    source.seen |= plain.seen
    source.window = plain.window
    return settings | {"qkv_bias": True}


def _qwen3(source: _Settings) -> dict[str, Any]:
    """Norms on the queries and keys of each head, whose width is a setting of its own."""
    source.require("attention_bias", False, False)
    source.seen.add("max_window_layers")
    return _llama(source, groups=32, positions=32_768, head_width=128) | {"qk_norm": True}


def _phi3(source: _Settings) -> dict[str, Any]:
    """Llama's function from fused matrices."""
    source.seen.add("original_max_position_embeddings")
    return _llama(source, positions=4096, epsilon=1e-5)


def _smollm3(source: _Settings) -> dict[str, Any]:
    """A Llama in which every fourth layer does not rotate queries and keys."""
    settings = _llama(source, groups=4, positions=32_768, base=2_000_000.0, tied=True)
    interval = source.integer("no_rope_layer_interval", 4)
    usual = [int(number % interval != 0) for number in range(1, settings["layers"] + 1)]
    given = source.get("no_rope_layers", usual)
    if given != usual:
        source.refuse("no_rope_layers", given, f"every {interval}th (no_rope_layer_interval) 0, all others 1")
    return settings | {"rope_skip_interval": interval}


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
        "head_width": hidden // heads,
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


_FAMILIES: dict[str, Callable[[_Settings], dict[str, Any]]] = {
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "phi3": _phi3,
    "smollm3": _smollm3,
    "gpt2": _gpt2,
}


def _rope(source: _Settings, default: float) -> tuple[int, float]:
    """Base and scaling factor; transformers 5 writes both into `rope_parameters`, older ones into two entries."""
    rope = source.entries("rope_scaling") | source.entries("rope_parameters")
    base = rope.pop("rope_theta", source.get("rope_theta", default))
    if not isinstance(base, int | float) or not 1 <= base < 2**31 or base != int(base):
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
        "qkv_bias": settings.get("qkv_bias", False),
        "qk_norm": settings.get("qk_norm", False),
        "rope_skip_interval": settings.get("rope_skip_interval", 0),
        "first_cross_attention": min(6 if layers <= 15 else 9, layers),
        "cross_attention_every": 3,
        "gate": "learned",
    }
