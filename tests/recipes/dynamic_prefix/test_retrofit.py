"""Retro-fitting a frozen model: as many weights as asked for, and the same function at the start."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from retro.common.errors import ArtifactError
from retro.mcore import parallel
from retro.model.config import ModelConfig, ModelShape
from retro.model.count import count_parameters
from retro.model.model import RetroModel
from retro.recipes.dynamic_prefix.ablation.retrofit import nearest_fit, retrofit, with_length
from retro.training import checkpoint
from retro.training.checkpoint_writer import save_weights

MODEL = ModelConfig(
    layers=4, hidden_size=32, heads=4, ffn_hidden_size=64, sequence_length=64, retrieval=False, gate=1.0
)
GPT = ModelShape(model=MODEL, vocabulary=50, chunk_length=64)


def test_the_nearest_of_all_places_and_depths_is_taken() -> None:
    # A layer that reads has 4 d d + 2 d weights and a gate; an encoder layer 4 d d + 2 d f and two norms.
    smallest = nearest_fit(GPT, target=0, neighbors=2, document_tokens=20)
    assert smallest.shape.model.cross_attention_layers in ((1,), (2,), (3,), (4,))
    assert smallest.shape.model.encoder_layers == 1
    assert smallest.shape.chunk_length == 10
    large = nearest_fit(GPT, target=10**9, neighbors=2, document_tokens=20)
    assert large.shape.model.cross_attention_layers == (1, 2, 3, 4)
    assert large.shape.model.encoder_layers == 8
    for target in (20_000, 40_000, 60_000):
        found = nearest_fit(GPT, target=target, neighbors=2, document_tokens=20)
        assert abs(found.added - target) < 5_000
        count = count_parameters(found.shape)
        assert found.added == count.cross_attention + count.encoder


def test_a_chunk_is_half_a_document_and_at_most_half_a_sequence() -> None:
    assert nearest_fit(GPT, target=0, neighbors=1, document_tokens=4).shape.chunk_length == 8
    assert nearest_fit(GPT, target=0, neighbors=1, document_tokens=500).shape.chunk_length == 32


def test_the_retro_fitted_model_computes_what_the_frozen_one_does(tmp_path: Path) -> None:
    parallel.start()
    parallel.seed(0)
    frozen = RetroModel(GPT).eval()
    save_weights(frozen, GPT, {}, tmp_path / "gpt" / "step_00000000")
    parent = checkpoint.read_info(checkpoint.find(tmp_path / "gpt"))
    fit = nearest_fit(parent.shape, target=30_000, neighbors=2, document_tokens=16)
    retrofit(parent, fit.shape, tmp_path / "retro" / "step_00000000", 5)
    model, info = checkpoint.load_model(tmp_path / "retro" / "step_00000000")
    assert info.shape == fit.shape
    weights = dict(model.named_parameters())
    assert sum(one.numel() for one in weights.values()) - sum(one.numel() for one in frozen.parameters()) == fit.added
    assert all(torch.equal(one, weights[name]) for name, one in frozen.named_parameters())
    tokens_BS = torch.arange(32).reshape(2, 16) % 50
    neighbors = torch.zeros(2, 2, 2, fit.shape.retrieved_length, dtype=torch.long)
    with torch.no_grad():
        same = model(tokens_BS, neighbors, torch.ones_like(neighbors, dtype=torch.bool))
        assert torch.equal(same, frozen(tokens_BS))


def test_a_damaged_model_is_not_retro_fitted(tmp_path: Path) -> None:
    parallel.start()
    save_weights(RetroModel(GPT), GPT, {}, tmp_path / "step_00000000")
    parent = checkpoint.read_info(tmp_path / "step_00000000")
    largest = max((tmp_path / "step_00000000").rglob("*.distcp"), key=lambda one: one.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1])
    with pytest.raises(ArtifactError):
        retrofit(parent, nearest_fit(GPT, target=0, neighbors=1, document_tokens=8).shape, tmp_path / "out", 0)


def test_another_length_is_only_the_length(tmp_path: Path) -> None:
    parallel.start()
    save_weights(RetroModel(GPT), GPT, {}, tmp_path / "step_00000000")
    info = checkpoint.read_info(tmp_path / "step_00000000")
    assert with_length(info, None) == info
    assert with_length(info, 32).shape.model == MODEL.model_copy(update={"sequence_length": 32})
