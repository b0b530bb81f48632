"""Retro-fitting along the road: a HuggingFace folder names the shape, the tokenizer and the weights of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers
from safetensors.torch import load_file

from retro.model.convert.writer import write_decoder
from retro.training import checkpoint
from tests.tiny_road import run_stages, small_config, write_corpus


def llama_with_tokenizer(folder: Path, text: Path) -> int:
    """A tiny Llama beside a tokenizer learned from the corpus; gives its tokens."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    learning = tokenizers.trainers.BpeTrainer(vocab_size=330, special_tokens=["</s>"], initial_alphabet=alphabet)
    lines = [json.loads(line)["text"] for line in text.read_text().splitlines()]
    tokenizer.train_from_iterator(lines, learning)
    torch.manual_seed(3)
    config = transformers.LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder, safe_serialization=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return int(tokenizer.get_vocab_size())


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run that starts from the folder; training that moves nothing."""
    folder = tmp_path_factory.mktemp("retrofit")
    write_corpus(folder / "text.jsonl")
    llama_with_tokenizer(folder / "llama", folder / "text.jsonl")
    config = small_config(
        folder,
        "corpus.tokenizer={kind: huggingface}",
        f"corpus.tokenizer.path={folder}/llama",
        f"model={{size: {folder}/llama, first_cross_attention: 2}}",
        f"pretrain={{start_from: {folder}/llama, baselines: [gpt]}}",
        "train.lr=1.0e-30",
        "train.steps=2",
    )
    run_stages(config, "corpus", "db", "index", "neighbors", "pretrain", "perplexity")
    return folder, config


def test_retro_begins_with_the_loss_of_the_gpt_it_was_made_from(road: Any) -> None:
    _, config = road
    counts = json.loads((config.run_dir / "5_pretrain" / "manifest.json").read_text())["counts"]["variants"]
    assert counts["retro"]["final_loss"] == pytest.approx(counts["gpt"]["final_loss"], abs=1e-5)
    assert counts["retro"]["valid_loss"] == pytest.approx(counts["gpt"]["valid_loss"], abs=1e-5)
    assert counts["retro"]["parameters"] > counts["gpt"]["parameters"]


def test_the_decoder_comes_out_as_it_went_in(road: Any, tmp_path: Path) -> None:
    folder, config = road
    model, info = checkpoint.load_model(config.run_dir / "5_pretrain" / "retro")
    write_decoder(info.shape, dict(model.named_parameters()), tmp_path)
    before, after = load_file(folder / "llama" / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert before.keys() == after.keys()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=1e-6, atol=1e-7)
