"""The loss with a penalty: without weights it is the answer's, with them it is what the formula says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from retro.common.errors import ConfigError
from retro.mcore import parallel
from retro.model.model import RetroModel
from retro.recipes.dynamic_prefix.config import KnowledgePenaltyConfig
from retro.recipes.dynamic_prefix.evaluation.hallucination import divergence, entropy
from retro.recipes.dynamic_prefix.training.knowledge_loss import losses_of, penalized_losses
from retro.recipes.dynamic_prefix.training.parts import answer_losses, modules_of, prefix_inputs
from retro.recipes.dynamic_prefix.training.samples import IDS, REAL
from retro.training.config import ParallelConfig
from retro.training.data_loader import DataLoader
from retro.training.loop import add_modules
from tests.model.tiny import tiny_shape
from tests.recipes.dynamic_prefix.tiny_prefix import LLAMA, prefix_config, source, write_encoder


@pytest.fixture
def model(tmp_path: Path) -> RetroModel:
    parallel.start()
    parallel.seed(5)
    shape, config = tiny_shape(**LLAMA), prefix_config(gate_init=0.5)
    made = RetroModel(shape)
    add_modules([made], shape, modules_of(write_encoder(tmp_path, config), config, initial=True))
    return made


@pytest.fixture
def batch(model: RetroModel) -> Any:
    return DataLoader(source(), model.shape, [model], 4).work(np.arange(4)).micro_batches[0]


def test_without_weights_it_is_the_answers_loss(model: RetroModel, batch: Any) -> None:
    plain, mask = answer_losses(model, batch)
    found, same = penalized_losses(model, batch, KnowledgePenaltyConfig())
    torch.testing.assert_close(found, plain)
    assert torch.equal(same, mask)


def test_the_penalty_is_the_formula_and_reaches_the_encoder(model: RetroModel, batch: Any) -> None:
    config = KnowledgePenaltyConfig(entropy=0.3, divergence=0.7, margin=2.0)
    found, _ = losses_of(config, ParallelConfig())(model, batch)
    with torch.no_grad():
        given = model(batch.tokens_BS, prefix=prefix_inputs(model, batch.further[IDS], batch.further[REAL]))
        bare = model(batch.tokens_BS)
        plain, _ = answer_losses(model, batch)
    expected = 0.3 * entropy(given) + 0.7 * (2.0 - divergence(given, bare)).clamp(min=0)
    torch.testing.assert_close(found - plain, expected, atol=1e-5, rtol=1e-5)
    assert (expected > 0).all()
    (found - answer_losses(model, batch)[0]).sum().backward()
    encoder = {name: one.grad for name, one in model.named_parameters() if name.startswith("added_knowledge")}
    assert all(one is not None and one.any() for one in encoder.values())


def test_none_is_the_answers_loss_itself_and_a_spread_vocabulary_is_refused() -> None:
    assert losses_of(None, ParallelConfig(tensor=2)) is answer_losses
    with pytest.raises(ConfigError, match=r"train\.knowledge = .*needs to be absent with parallel\.tensor above 1"):
        losses_of(KnowledgePenaltyConfig(entropy=0.1), ParallelConfig(tensor=2))
