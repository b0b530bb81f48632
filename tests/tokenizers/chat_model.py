"""A tiny random chat model as a HuggingFace folder: what stands for a real one wherever a model may be given."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers

from tests.tokenizers.chat_folders import make_folder


def make_chat_model(folder: Path) -> Path:
    """A Llama of two layers that speaks ChatML; some of its answers end by themselves."""
    make_folder(folder, "chatml")
    torch.manual_seed(3)
    config = transformers.LlamaConfig(
        vocab_size=len(transformers.AutoTokenizer.from_pretrained(folder)),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        initializer_range=0.3,
    )
    kept = (folder / "generation_config.json").read_text()
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        # The row of <|im_end|>, larger than others.
        model.lm_head.weight[2] *= 4
    model.save_pretrained(folder)
    (folder / "generation_config.json").write_text(kept)
    return folder
