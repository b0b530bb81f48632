"""Tiny BERTs with random weights, as folders on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "fox", "dog", "yard", "a", "b", "c"]


def bert_folder(folder: Path, *, seed: int = 0, width: int = 16) -> Path:
    """2 layers, 12 word pieces, at most 32 positions; as a HuggingFace and sentence-transformers folder."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    transformers.BertModel(transformers.BertConfig(**_shape(width))).save_pretrained(folder, safe_serialization=True)
    _write_tokenizer(folder)
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling), encoding="utf-8")
    return folder


def roberta_folder(folder: Path) -> Path:
    """The same folder with a RoBERTa that reads 32 tokens: of its 33 rows of positions the first is for padding."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    bert_folder(folder)
    torch.manual_seed(0)
    shape = _shape(16) | {"max_position_embeddings": 33, "pad_token_id": 0}
    transformers.RobertaModel(transformers.RobertaConfig(**shape)).save_pretrained(folder, safe_serialization=True)
    return folder


def dpr_folder(folder: Path, architecture: str, *, seed: int) -> Path:
    """A tower of DPR: `DPRContextEncoder` or `DPRQuestionEncoder`, of the same shape."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    model = getattr(transformers, architecture)(transformers.DPRConfig(**_shape(16)))
    model.save_pretrained(folder, safe_serialization=True)
    _write_tokenizer(folder)
    return folder


def _shape(width: int) -> dict[str, Any]:
    return {
        "vocab_size": len(WORDS),
        "hidden_size": width,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 32,
    }


def _write_tokenizer(folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
