"""Gates and the other weights that read neighbors learn at rates of their own.

Adam's first step moves a weight by the learning rate, whatever its gradient: so far do the weights move here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from retro.common.config import config_json
from retro.common.errors import ConfigError
from retro.mcore.engine import learning_rate
from retro.model.weight_names import is_gate, is_retrieval
from retro.training import checkpoint
from retro.training.config import ParallelConfig, TrainConfig, result_settings
from retro.training.data_loader import DataLoader
from retro.training.loop import _numbers, build_engine
from retro.training.validation import token_losses
from tests.model.tiny import tiny_shape
from tests.training.fake import CycleSource
from tests.training.test_loop import SETTINGS, losses, run

LR = 1e-3


def moves(rates: dict[str, Any], *, steps: int = 1, **settings: Any) -> dict[str, float]:
    """How far the furthest weight of each kind moves in the last of so many steps."""
    plain: dict[str, Any] = {"lr": LR, "warmup_steps": 0, "weight_decay": 0.0, "schedule": "constant", "clip": 0.0}
    config = TrainConfig(**(SETTINGS | plain | {"retrieval_rates": rates} | settings))
    shape = tiny_shape(gate="learned", gate_init=0.3)
    engine = build_engine(shape, config, ParallelConfig())
    found: dict[str, float] = {}
    with DataLoader(CycleSource(), shape, engine.chunks, config.micro_batch) as feed:
        for step in range(1, steps + 1):
            before = {name: one.detach().clone() for name, one in engine.chunks[0].named_parameters()}
            result = engine.step(feed.work(_numbers(config, step)), token_losses)
            assert result.lr == pytest.approx(learning_rate(config, step))
    for name, one in engine.chunks[0].named_parameters():
        kind = "gate" if is_gate(name) else "retrieval" if is_retrieval(name) else "decoder"
        found[kind] = max(found.get(kind, 0.0), float((one.detach() - before[name]).abs().max()))
    return found


def test_a_gate_with_factor_10_moves_10_times_as_far_in_the_first_step() -> None:
    assert moves({}) == pytest.approx({"gate": LR, "retrieval": LR, "decoder": LR}, rel=1e-3)
    found = moves({"gate_lr_factor": 10.0, "lr_factor": 3.0})
    assert found == pytest.approx({"gate": 10 * LR, "retrieval": 3 * LR, "decoder": LR}, rel=1e-3)


def test_a_warm_up_of_their_own_may_be_longer_or_shorter() -> None:
    longer = moves({"gate_lr_factor": 10.0, "warmup_steps": 4})
    assert longer == pytest.approx({"gate": 10 * LR / 4, "retrieval": LR / 4, "decoder": LR}, rel=1e-3)
    shorter = moves({"warmup_steps": 0}, warmup_steps=4)
    assert shorter == pytest.approx({"gate": LR, "retrieval": LR, "decoder": LR / 4}, rel=1e-3)


def test_both_decay_on_the_decoders_curve() -> None:
    rates = {"gate_lr_factor": 10.0, "lr_factor": 3.0, "warmup_steps": 2}
    config = TrainConfig(**(SETTINGS | {"lr": LR, "retrieval_rates": rates, "steps": 6, "min_lr_fraction": 0.1}))
    engine = build_engine(tiny_shape(gate="learned"), config, ParallelConfig())
    engine.scheduler.step(6)
    assert {round(group["lr"] / LR, 6) for group in engine.optimizer.param_groups} == {0.1, 0.3, 1.0}


def test_gates_and_norms_have_no_weight_decay_and_matrices_have_theirs() -> None:
    settings = SETTINGS | {"weight_decay": 0.2, "retrieval_rates": {"gate_lr_factor": 10.0, "lr_factor": 3.0}}
    engine = build_engine(tiny_shape(gate="learned"), TrainConfig(**settings), ParallelConfig())
    names = {id(one): name for name, one in engine.chunks[0].named_parameters()}
    seen = set()
    for group in engine.optimizer.param_groups:
        for one in group["params"]:
            # In float32 the optimizer holds the weights themselves.
            seen.add(name := names[id(one)])
            assert group["weight_decay"] == (0.0 if one.dim() == 1 else 0.2), name
            assert (one.dim() == 1) == (is_gate(name) or "norm" in name), name
    assert seen == set(names.values())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_stopped_run_goes_on_with_the_same_losses(tmp_path: Path, precision: str) -> None:
    rates = {"gate_lr_factor": 10.0, "lr_factor": 3.0, "warmup_steps": 6}
    settings: dict[str, Any] = {"retrieval_rates": rates, "gate": "learned", "precision": precision}
    unbroken = run(tmp_path / "unbroken", **settings)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", source=CycleSource(broken_after=48), **settings)
    resumed = run(tmp_path / "broken", **settings)
    assert losses(tmp_path / "broken") == losses(tmp_path / "unbroken")
    assert resumed.weights_sha256 == unbroken.weights_sha256
    assert losses(tmp_path / "unbroken") != losses_of_equal_rates(tmp_path / "equal", **settings)


def losses_of_equal_rates(out: Path, **settings: Any) -> list[float]:
    run(out, **(settings | {"retrieval_rates": {}}))
    return losses(out)


def test_a_frozen_decoder_has_only_the_rates_of_what_is_trained(tmp_path: Path) -> None:
    rates = {"gate_lr_factor": 20.0}
    once: dict[str, Any] = {"train_only": "retrieval", "gate": "learned", "warmup_steps": 0, "steps": 1, "lr": LR}
    # Behind a shut gate of a small model its gradient is small too.
    once |= {"schedule": "constant", "epsilon": 1e-15}
    run(tmp_path, retrieval_rates=rates, **once)
    model, _ = checkpoint.load_model(checkpoint.find(tmp_path))
    moved = [abs(float(one.detach())) for name, one in model.named_parameters() if is_gate(name)]
    assert moved == pytest.approx([20 * LR, 20 * LR], rel=1e-3)


def test_runs_from_before_there_were_such_rates_go_on() -> None:
    now = {"train": config_json(TrainConfig()), "model": config_json(tiny_shape().model)}
    of_model = {"gate_init", "retrieval_init", "retrieval_init_std", "encoder_norm", "cross_values"}
    later = {"train": {"retrieval_rates"}, "model": of_model}
    before = {part: {k: v for k, v in values.items() if k not in later[part]} for part, values in now.items()}
    assert result_settings(before) == result_settings(now)
    other = {**now, "train": config_json(TrainConfig(retrieval_rates={"lr_factor": 2.0}))}
    assert result_settings(other) != result_settings(now)


@pytest.mark.parametrize("rates", [{}, {"gate_lr_factor": 5.0}])
def test_runs_from_before_modules_had_rates_go_on(rates: dict[str, Any]) -> None:
    now = {"train": config_json(TrainConfig(retrieval_rates=rates))}
    recorded = {key: value for key, value in now["train"]["retrieval_rates"].items() if key != "modules"}
    before = {"train": now["train"] | {"retrieval_rates": recorded}}
    assert result_settings(before) == result_settings(now)
    other = {"train": config_json(TrainConfig(retrieval_rates=rates | {"modules": {"knowledge": 0.1}}))}
    assert result_settings(other) != result_settings(now)


def test_a_warm_up_longer_than_the_run_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"retrieval_rates = .*needs warmup_steps below steps = 10"):
        TrainConfig(steps=10, retrieval_rates={"warmup_steps": 10})


def test_an_optimizer_without_gates_is_no_trouble() -> None:
    config = TrainConfig(**(SETTINGS | {"retrieval_rates": {"gate_lr_factor": 10.0}}))
    engine = build_engine(tiny_shape(retrieval=False), config, ParallelConfig())
    assert all(not is_gate(name) for name, _ in engine.chunks[0].named_parameters())
    assert torch.isfinite(torch.tensor([group["lr"] for group in engine.optimizer.param_groups])).all()
