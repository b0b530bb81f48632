"""Tiny .gguf files with the weights of a HuggingFace folder, written with the gguf package."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from retro.tokenizers.sentencepiece_bpe import PieceVocabulary

_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
TOKENS = ["<|end|>", "<|turn|>", *(chr(33 + number) for number in range(46)), "Ġ", '!"']


def write_gguf(
    path: Path,
    folder: Path,
    architecture: str,
    settings: Mapping[str, Any] | None = None,
    *,
    quantised: str | None = None,
    pieces: PieceVocabulary | None = None,
) -> Path:
    """Write a folder's model as a .gguf file with a byte-level tokenizer of 50 tokens.

    Args:
        path: The file.
        folder: A HuggingFace folder.
        architecture: As llama.cpp calls it.
        quantised: How matrices are stored; None: as they are.
        settings: Further settings by their whole names.
        pieces: A SentencePiece vocabulary in place of that tokenizer.
    """
    import gguf

    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(500.0)
    if "head_dim" in config:
        writer.add_key_length(config["head_dim"])
    if "tokenizer.ggml.model" not in (settings or {}):
        writer.add_tokenizer_model("gpt2" if pieces is None else "llama")
    if pieces is None:
        writer.add_token_list(TOKENS)
        writer.add_token_types([3, 3] + [1] * 48)
        writer.add_token_merges(['! "'])
        writer.add_eos_token_id(0)
    else:
        writer.add_token_list(pieces.pieces)
        writer.add_token_scores(pieces.scores)
        writer.add_token_types(pieces.kinds)
        writer.add_add_space_prefix(pieces.prefix)
        writer.add_unk_token_id(0)
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
    writer.add_chat_template("{{ messages[0]['content'] }}")
    for name, value in (settings or {}).items():
        add = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32}[type(value)]
        add(name, value)
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    for name, tensor in load_file(folder / "model.safetensors").items():
        ours = _name(name)
        part = ours.split(".")[-2]
        if architecture == "llama" and part in heads:
            tensor = tensor.unflatten(0, (heads[part], 2, -1)).transpose(1, 2).flatten(0, 2)
        data = tensor.float().numpy()
        if quantised is not None and _quantises(data):
            kind = gguf.GGMLQuantizationType[quantised]
            writer.add_tensor(ours, gguf.quants.quantize(data, kind), raw_dtype=kind)
        else:
            writer.add_tensor(ours, np.ascontiguousarray(data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _quantises(data: Any) -> bool:
    """Whether a tensor's rows are whole blocks of 32 numbers."""
    return data.ndim == 2 and data.shape[1] % 32 == 0


def _name(name: str) -> str:
    part, _, kind = name.rpartition(".")
    if part in _WHOLE:
        return f"{_WHOLE[part]}.{kind}"
    _, _, number, rest = part.split(".", 3)
    return f"blk.{number}.{_LAYER[rest]}.{kind}"


def rounded(folder: Path, kind: str) -> dict[str, torch.Tensor]:
    """A folder's weights after its matrices were quantised and read back."""
    import gguf

    wanted = gguf.GGMLQuantizationType[kind]
    found = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        data = tensor.float().numpy()
        if _quantises(data):
            data = gguf.quants.dequantize(gguf.quants.quantize(data, wanted), wanted)
        found[name] = torch.from_numpy(np.array(data))
    return found
