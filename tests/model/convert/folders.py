"""Tiny random models of each family, made by transformers, as folders on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

ROWS = 50
LLAMA: dict[str, Any] = {
    "vocab_size": ROWS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-3,
    "rope_theta": 500.0,
    "initializer_range": 0.3,
}
GPT2: dict[str, Any] = {
    "vocab_size": ROWS,
    "n_embd": 32,
    "n_inner": 48,
    "n_layer": 4,
    "n_head": 4,
    "n_positions": 64,
    "layer_norm_epsilon": 1e-3,
    "initializer_range": 0.3,
}
LLAMA_3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", LLAMA),
    "llama, grouped queries": ("llama", LLAMA | {"num_key_value_heads": 2}),
    "llama, tied": ("llama", LLAMA | {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    "llama 3.1": ("llama", LLAMA | {"rope_theta": 500_000.0, "rope_scaling": LLAMA_3, "hidden_size": 64}),
    "mistral": ("mistral", LLAMA | {"num_key_value_heads": 2, "sliding_window": 64}),
    "mistral, wide heads": ("mistral", LLAMA | {"head_dim": 16, "sliding_window": None}),
    "llama, biases": ("llama", LLAMA | {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 2}),
    "qwen2": ("qwen2", LLAMA | {"num_key_value_heads": 2, "use_sliding_window": False}),
    "qwen3": ("qwen3", LLAMA | {"num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": True}),
    "qwen3, other": ("qwen3", LLAMA | {"num_key_value_heads": 4, "head_dim": 16, "tie_word_embeddings": True}),
    "phi3": ("phi3", LLAMA | {"num_key_value_heads": 2, "pad_token_id": 0, "sliding_window": 64}),
    "smollm3": ("smollm3", LLAMA | {"num_key_value_heads": 2, "pad_token_id": 0, "no_rope_layer_interval": 2}),
    "gpt2": ("gpt2", GPT2),
    "gpt2, untied": ("gpt2", GPT2 | {"tie_word_embeddings": False, "n_inner": None, "activation_function": "gelu"}),
}
# Not of a kind of their own: for single tests.
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "phi3, narrow window": ("phi3", LLAMA | {"pad_token_id": 0, "sliding_window": 16}),
}
_CLASSES = {
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
    "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
    "phi3": (transformers.Phi3Config, transformers.Phi3ForCausalLM),
    "smollm3": (transformers.SmolLM3Config, transformers.SmolLM3ForCausalLM),
    "gpt2": (transformers.GPT2Config, transformers.GPT2LMHeadModel),
}


def make_folder(folder: Path, name: str, **saving: Any) -> Any:
    """Save a tiny model of FAMILIES; norms and biases are random too, so that no term hides behind a one or a zero."""
    family, settings = (FAMILIES | OTHERS)[name]
    config_class, model_class = _CLASSES[family]
    torch.manual_seed(11)
    model = model_class(config_class(**settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder, safe_serialization=True, **saving)
    return model
