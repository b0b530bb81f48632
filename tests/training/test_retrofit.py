"""A GPT that becomes a Retro: what of it is frozen, adapted or trained, and what its checkpoints hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from retro.common.errors import ConfigError, TrainingError
from retro.mcore.lora import is_adapter
from retro.mcore.sharded_tensors import StoredTensors
from retro.model.weight_names import is_retrieval
from retro.training import checkpoint
from retro.training.config import TrainConfig
from retro.training.convert import merge
from tests.model.tiny import tiny_inputs
from tests.training.fake import CycleSource
from tests.training.test_loop import losses, run

BESIDE: dict[str, Any] = {"lora": {"rank": 2, "where": "decoder"}, "train_only": "retrieval"}
FAST: dict[str, Any] = {"warmup_steps": 0, "lr": 3e-2, "gate": "learned", "gate_init": 0.2}


@pytest.fixture
def gpt(tmp_path: Path) -> Path:
    run(tmp_path / "gpt", retrieval=False, steps=1, warmup_steps=0)
    return checkpoint.find(tmp_path / "gpt")


def weights(path: Path) -> dict[str, torch.Tensor]:
    return {name: value.detach() for name, value in checkpoint.load_model(path)[0].named_parameters()}


@pytest.mark.parametrize(
    ("frozen", "settings"),
    [("decoder", {"train_only": "retrieval"}), ("nothing", {}), ("decoder but adapters", BESIDE)],
)
def test_what_is_frozen_is_a_choice(tmp_path: Path, gpt: Path, frozen: str, settings: dict[str, Any]) -> None:
    run(tmp_path / "retro", start_from=gpt, steps=4, save_every=1, keep_last=4, **FAST, **settings)
    before, after = (weights(checkpoint.find(tmp_path / "retro", step)) for step in (1, 4))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    reads = {name for name in before if is_retrieval(name)}
    if frozen == "decoder":
        assert changed == reads
        assert all(torch.equal(after[name], value) for name, value in weights(gpt).items())
    elif frozen == "nothing":
        assert changed == set(before)
    else:
        # Merged, adapters change the matrices of the decoder's layers and neither its norms nor its embeddings.
        adapted = {name for name in before if not is_retrieval(name) and "linear_" in name}
        assert changed == reads | adapted
        assert len(adapted) == 12


def test_a_checkpoint_of_adapters_beside_retrieval_holds_these_two_alone(tmp_path: Path, gpt: Path) -> None:
    run(tmp_path / "retro", start_from=gpt, steps=2, **FAST, **BESIDE)
    held = {name for name in StoredTensors(checkpoint.find(tmp_path / "retro")).sizes if "optimizer." not in name}
    adapters = {name for name in held if is_adapter(name)}
    assert len(adapters) == 2 * 4 * 3
    assert not any(is_retrieval(name) for name in adapters)
    names = {name for name in weights(checkpoint.find(tmp_path / "retro")) if is_retrieval(name)}
    assert held - adapters == names


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_such_a_run_goes_on_with_the_same_losses(tmp_path: Path, gpt: Path, precision: str) -> None:
    settings: dict[str, Any] = {**FAST, **BESIDE, "precision": precision, "start_from": gpt}
    unbroken = run(tmp_path / "unbroken", **settings)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", source=CycleSource(broken_after=48), **settings)
    resumed = run(tmp_path / "broken", **settings)
    assert losses(tmp_path / "broken") == losses(tmp_path / "unbroken")
    assert resumed.weights_sha256 == unbroken.weights_sha256


def test_merged_it_stands_alone(tmp_path: Path, gpt: Path) -> None:
    run(tmp_path / "retro", start_from=gpt, steps=4, **FAST, **BESIDE)
    shape = merge(tmp_path / "retro", tmp_path / "whole")
    assert shape.model.retrieval
    whole, _ = checkpoint.load_model(tmp_path / "whole")
    both, _ = checkpoint.load_model(tmp_path / "retro")
    inputs = tiny_inputs(16)
    torch.testing.assert_close(whole(*inputs.args()), both(*inputs.args()), rtol=1e-5, atol=1e-5)
    without = weights(gpt)["decoder.layers.0.self_attention.linear_qkv.weight"]
    assert not torch.equal(weights(tmp_path / "whole")["decoder.layers.0.self_attention.linear_qkv.weight"], without)


def test_adapters_alone_still_need_a_finished_retro(tmp_path: Path, gpt: Path) -> None:
    words = r"lacks \d+ tensors .* by train\.lora\.where=decoder and train\.train_only=retrieval"
    with pytest.raises(TrainingError, match=words):
        run(tmp_path / "retro", start_from=gpt, lora={"rank": 2, "where": "decoder"})


@pytest.mark.parametrize(
    ("where", "train_only"), [("all", "retrieval"), ("retrieval", "retrieval"), ("decoder", "decoder")]
)
def test_what_is_both_adapted_and_trained_whole_is_refused(where: str, train_only: str) -> None:
    with pytest.raises(ConfigError, match=r"train_only = .*retrieval beside lora\.where=decoder"):
        TrainConfig(lora={"where": where}, train_only=train_only)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"gate": "learned", "gate_init": 0.1}, "learned gates start at 0.1 and what reads neighbors is fresh"),
        ({"gate": 1.0}, "the gate is 1 and what reads neighbors is fresh"),
        ({"gate": "learned"}, None),
        ({"retrieval": False}, None),
    ],
)
def test_it_is_said_when_a_gpt_does_not_keep_its_function(
    tmp_path: Path, gpt: Path, settings: dict[str, Any], words: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path / "retro", start_from=gpt, steps=1, warmup_steps=0, **settings)
    said = [record.getMessage() for record in caplog.records if "step 0 does not compute" in record.getMessage()]
    assert len(said) == (0 if words is None else 1)
    assert words is None or said[0].startswith(words)
    # From a Retro nothing is fresh.
    caplog.clear()
    run(tmp_path / "again", start_from=tmp_path / "retro", steps=1, warmup_steps=0, **settings)
    assert not [record for record in caplog.records if "step 0 does not compute" in record.getMessage()]
