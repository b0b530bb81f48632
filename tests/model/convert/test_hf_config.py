"""What of a config.json becomes settings, and what is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from retro.common.config import config_json
from retro.common.errors import ConfigError, DataError
from retro.model.config import ModelConfig
from retro.model.convert.hf_config import FOLDER_SETTINGS, LATER_SETTINGS, read_folder_config
from retro.model.sizes import find_size

# The shape of Llama 3.1 8B, in the form of transformers 4.
LLAMA_31 = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008],
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 8.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "torch_dtype": "bfloat16",
    "vocab_size": 128256,
}
MISTRAL = {
    "model_type": "mistral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "sliding_window": None,
    "vocab_size": 32000,
}
# The shape of Qwen3 0.6B.
QWEN_3 = {
    "model_type": "qwen3",
    "attention_bias": False,
    "head_dim": 128,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "max_position_embeddings": 40960,
    "max_window_layers": 28,
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "num_key_value_heads": 8,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
GPT2 = {
    "model_type": "gpt2",
    "n_ctx": 1024,
    "n_embd": 768,
    "n_head": 12,
    "n_layer": 12,
    "n_positions": 1024,
    "task_specific_params": {"text-generation": {"do_sample": True}},
    "vocab_size": 50257,
}


def write(folder: Path, config: dict[str, Any], **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


def test_a_llama_31_folder_gives_a_model_its_shape(tmp_path: Path) -> None:
    folder = write(tmp_path / "llama", LLAMA_31)
    model = ModelConfig(size=str(folder))
    assert (model.layers, model.hidden_size, model.heads, model.query_groups) == (32, 4096, 32, 8)
    assert (model.ffn_hidden_size, model.activation, model.normalization) == (14336, "swiglu", "RMSNorm")
    assert (model.rope_base, model.rope_scaling, model.norm_epsilon, model.bias) == (500_000, 8.0, 1e-5, False)
    assert (model.sequence_length, model.tied_embeddings) == (4096, False)
    assert model.cross_attention_layers == (9, 12, 15, 18, 21, 24, 27, 30)
    assert model.gate == "learned"
    assert find_size(str(folder)).vocabulary == 128_256
    assert read_folder_config(folder).positions == 131_072


def test_settings_given_beside_a_folder_hold(tmp_path: Path) -> None:
    model = ModelConfig(size=str(write(tmp_path, LLAMA_31)), sequence_length=1024, gate=0.0, retrieval=False)
    assert (model.sequence_length, model.gate, model.layers) == (1024, 0.0, 32)


def test_transformers_5_writes_the_rotary_settings_elsewhere(tmp_path: Path) -> None:
    new = {name: value for name, value in LLAMA_31.items() if not name.startswith("rope_")}
    new["rope_parameters"] = {**LLAMA_31["rope_scaling"], "rope_theta": 500000.0}  # type: ignore[dict-item]
    old, young = write(tmp_path / "old", LLAMA_31), write(tmp_path / "new", new)
    assert read_folder_config(old).settings == read_folder_config(young).settings


def test_what_a_mistral_leaves_out_has_its_familys_default(tmp_path: Path) -> None:
    found = read_folder_config(write(tmp_path, MISTRAL))
    assert found.settings["query_groups"] == 8
    assert (found.settings["rope_base"], found.settings["norm_epsilon"]) == (10_000, 1e-6)
    assert (found.positions, found.sliding_window) == (131_072, None)
    unsaid = {name: value for name, value in MISTRAL.items() if name != "sliding_window"}
    assert read_folder_config(write(tmp_path, unsaid)).sliding_window == 4096


def test_a_gpt2_folder_gives_a_model_its_shape(tmp_path: Path) -> None:
    model = ModelConfig(size=str(write(tmp_path, GPT2)))
    assert (model.layers, model.hidden_size, model.heads, model.ffn_hidden_size) == (12, 768, 12, 3072)
    assert (model.activation, model.positions, model.bias, model.tied_embeddings) == (
        "gelu_tanh",
        "learned",
        True,
        True,
    )
    assert (model.sequence_length, model.first_cross_attention, model.encoder_rope) == (1024, 6, False)


@pytest.mark.parametrize("config", [LLAMA_31, MISTRAL, GPT2], ids=["llama", "mistral", "gpt2"])
def test_every_family_gives_the_same_settings(config: dict[str, Any], tmp_path: Path) -> None:
    assert sorted(read_folder_config(write(tmp_path, config)).settings) == sorted(FOLDER_SETTINGS + LATER_SETTINGS)


def test_a_saved_model_needs_its_folder_no_more(tmp_path: Path) -> None:
    folder = write(tmp_path, LLAMA_31)
    saved = config_json(ModelConfig(size=str(folder), layers=12))
    (folder / "config.json").unlink()
    assert config_json(ModelConfig(**saved)) == saved
    with pytest.raises(ConfigError, match=r"needs a size \(tiny, small.*or a HuggingFace folder; there is no config"):
        ModelConfig(size=str(folder))


@pytest.mark.parametrize(
    ("config", "changes", "words"),
    [
        (
            LLAMA_31,
            {"model_type": "gemma2"},
            "has model_type 'gemma2'; supported are gpt2, llama, mistral, phi3, qwen2",
        ),
        (LLAMA_31, {"attention_bias": True}, "mlp_bias = False is not supported; needed True, as attention_bias"),
        (LLAMA_31, {"mlp_bias": True}, "mlp_bias = True is not supported; needed False, as attention_bias"),
        (QWEN_3, {"attention_bias": True}, "attention_bias = True is not supported"),
        (QWEN_3, {"layer_types": ["linear_attention"]}, "layer_types = .* is not supported; needed full_attention or"),
        (QWEN_3, {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_scaling = {'rope_type': 'yarn'"),
        (
            LLAMA_31,
            {"num_attention_heads": 30, "head_dim": None},
            "num_attention_heads = 30 .*a divisor of hidden_size",
        ),
        (LLAMA_31, {"hidden_act": "gelu"}, "hidden_act = 'gelu' is not supported; needed silu"),
        (LLAMA_31, {"rope_theta": 0.5}, "rope_theta = 0.5 is not supported; needed a positive whole number"),
        (LLAMA_31, {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling = {'rope_type': 'linear'"),
        (LLAMA_31, {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "needed llama3 with {'low_freq_factor'"),
        (LLAMA_31, {"rope_scaling": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "factor = 0.5 is not"),
        (LLAMA_31, {"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5 is not supported; needed 1"),
        (LLAMA_31, {"hidden_size": None}, "hidden_size = None is not supported; needed a positive whole number"),
        (LLAMA_31, {"rms_norm_eps": "small"}, "rms_norm_eps = 'small' is not supported; needed a positive number"),
        (LLAMA_31, {"quantization_config": {"bits": 4}}, "quantization_config = {'bits': 4} is not known here"),
        (GPT2, {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx = True"),
        (GPT2, {"scale_attn_weights": False}, "scale_attn_weights = False is not supported; needed True"),
        (GPT2, {"add_cross_attention": True}, "add_cross_attention = True is not supported"),
        (GPT2, {"activation_function": "relu"}, "activation_function = 'relu' is not supported; needed gelu_new or"),
    ],
)
def test_what_is_not_supported_is_named(
    config: dict[str, Any], changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=words):
        read_folder_config(write(tmp_path, config, **changes))


def test_a_folder_without_a_readable_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"config\.json: is missing"):
        read_folder_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(DataError, match=r"config\.json: is not valid JSON"):
        read_folder_config(tmp_path)


def test_a_runs_own_config_is_no_model_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no config\.json with a model_type"):
        ModelConfig(size=str(write(tmp_path, {"train": {}})))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rope_scaling": [1]}, r"rope_scaling = \[1\] is not supported; needed entries by name"),
        ({"rope_parameters": "x"}, r"rope_parameters = 'x' is not supported; needed entries by name"),
        ({"model_type": ["llama"]}, r"has model_type \['llama'\]; supported are gpt2, llama, mistral"),
    ],
)
def test_an_entry_of_another_kind_is_named(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_31 | change))
    with pytest.raises(DataError, match=words):
        read_folder_config(tmp_path)
