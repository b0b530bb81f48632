"""`train` with a loss of one's own and modules beside the network, frozen or not: trained, saved, resumed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from retro.common.errors import ConfigError
from retro.mcore.engine import unwrap_model
from retro.model.config import ModelShape
from retro.model.model import RetroModel
from retro.training import checkpoint
from retro.training.config import ParallelConfig, TrainConfig
from retro.training.data_loader import MicroBatch
from retro.training.loop import build_engine, train
from retro.training.validation import Validation, token_losses
from tests.model.tiny import tiny_shape
from tests.training.fake import CycleSource
from tests.training.test_loop import SETTINGS, losses

TARGET = 3.0


def one_number(model: RetroModel, shape: ModelShape) -> Mapping[str, nn.Module]:
    """A module with one weight, where the losses are computed."""
    return {"scale": nn.Linear(1, 1, bias=False)} if model.post_process else {}


def pulled(model: nn.Module, batch: MicroBatch) -> tuple[Tensor, Tensor]:
    """The cross-entropy of each label, and how far the module's weight is from a number."""
    output, mask_BS = token_losses(model, batch)
    scale: Any = unwrap_model(model).added_scale
    return output + (scale.weight.sum() - TARGET) ** 2, mask_BS


def run(out: Path, **settings: Any) -> Any:
    source = settings.pop("source", CycleSource())
    return train(
        out=out,
        shape=tiny_shape(init_std=0.02),
        config=TrainConfig(**(SETTINGS | {"lr": 0.3, "weight_decay": 0.0, "clip": 100.0} | settings)),
        layout=ParallelConfig(),
        source=source,
        validation=Validation(source=CycleSource(), samples=8),
        loss=pulled,
        modules=one_number,
    )


def weights(out: Path) -> dict[str, Tensor]:
    stored = checkpoint.open_weights(checkpoint.read_info(checkpoint.find(out)))
    return {name: stored.read(name, tuple(slice(0, size) for size in sizes)) for name, sizes in stored.sizes.items()
            if not name.startswith("optimizer.")}  # fmt: skip


def test_the_module_learns_by_the_loss_while_the_network_stays(tmp_path: Path) -> None:
    result = run(tmp_path, train_only="modules", steps=40, save_every=40)
    found = weights(tmp_path)
    assert abs(float(found["added_scale.weight"]) - TARGET) < 0.5
    engine = build_engine(tiny_shape(init_std=0.02), TrainConfig(**SETTINGS), ParallelConfig())
    for name, weight in engine.chunks[0].named_parameters():
        assert torch.equal(found[name], weight), name
    assert result.valid_loss is not None
    # Validation has the same loss: near ln 50 and nothing more once the number is met.
    assert result.valid_loss < losses(tmp_path)[0]


def test_with_the_network_trained_too_a_stopped_run_goes_on(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", lr=3e-3)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", lr=3e-3, source=CycleSource(broken_after=48))
    assert run(tmp_path / "broken", lr=3e-3).weights_sha256 == whole.weights_sha256
    # The network opens without the module.
    model, _ = checkpoint.load_model(checkpoint.find(tmp_path / "whole"))
    assert not hasattr(model, "added_scale")


def test_a_frozen_network_with_nothing_beside_it_is_refused() -> None:
    config = TrainConfig(**(SETTINGS | {"train_only": "modules"}))
    with pytest.raises(ConfigError, match=r"train.train_only = 'modules': needs a recipe that gives modules"):
        build_engine(tiny_shape(), config, ParallelConfig())


def test_a_module_may_learn_at_a_rate_of_its_own(tmp_path: Path) -> None:
    def moved(name: str, rates: dict[str, Any]) -> float:
        run(tmp_path / name, train_only="modules", steps=1, save_every=1, warmup_steps=0, retrieval_rates=rates)
        config = TrainConfig(**(SETTINGS | {"train_only": "modules"}))
        before = build_engine(tiny_shape(init_std=0.02), config, ParallelConfig(), None, one_number)
        [start] = [one for found, one in before.chunks[0].named_parameters() if found == "added_scale.weight"]
        return abs(float(weights(tmp_path / name)["added_scale.weight"] - start.detach()))

    usual = moved("usual", {})
    assert moved("slow", {"modules": {"scale": 0.1}}) == pytest.approx(usual / 10, rel=1e-3)


def test_rates_of_modules_that_are_not_there_are_refused() -> None:
    settings = SETTINGS | {"train_only": "modules", "retrieval_rates": {"modules": {"scale.bias": 0.1}}}
    with pytest.raises(ConfigError, match=r"retrieval_rates.modules = 'scale.bias': needs .* as scale.weight"):
        build_engine(tiny_shape(), TrainConfig(**settings), ParallelConfig(), None, one_number)
    settings["train_only"] = "all"
    with pytest.raises(ConfigError, match="needs a recipe that puts modules beside the network"):
        build_engine(tiny_shape(), TrainConfig(**settings), ParallelConfig())
    with pytest.raises(ConfigError, match="none is part of another"):
        TrainConfig(**(SETTINGS | {"retrieval_rates": {"modules": {"knowledge": 0.1, "knowledge.model": 0.2}}}))
