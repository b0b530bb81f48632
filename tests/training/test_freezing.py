"""Training retrieval alone, or the decoder alone, leaves every weight of the other as it was, to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from retro.common.errors import ConfigError
from retro.model.weight_names import is_retrieval
from retro.training import checkpoint
from tests.training.fake import CycleSource
from tests.training.test_loop import losses, run


def weights(out: Path, step: int) -> dict[str, torch.Tensor]:
    model, _ = checkpoint.load_model(checkpoint.find(out, step))
    return {name: value.detach() for name, value in model.named_parameters()}


@pytest.mark.parametrize("settings", [{}, {"recompute": "full"}, {"precision": "bfloat16"}, {"gate": "learned"}])
def test_only_retrieval_changes(tmp_path: Path, settings: dict[str, Any]) -> None:
    # The rate is high because a bfloat16 norm near one changes in steps of 1/128.
    run(tmp_path, train_only="retrieval", steps=4, save_every=1, keep_last=4, warmup_steps=0, lr=3e-2, **settings)
    before, after = weights(tmp_path, 1), weights(tmp_path, 4)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if is_retrieval(name)}


@pytest.mark.parametrize("settings", [{}, {"recompute": "full"}, {"precision": "bfloat16"}])
def test_only_the_decoder_changes(tmp_path: Path, settings: dict[str, Any]) -> None:
    run(tmp_path, train_only="decoder", steps=4, save_every=1, keep_last=4, warmup_steps=0, lr=3e-2, **settings)
    before, after = weights(tmp_path, 1), weights(tmp_path, 4)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if not is_retrieval(name)}


@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_recomputing_changes_no_loss_of_a_frozen_decoder(tmp_path: Path, recompute: str) -> None:
    run(tmp_path / "kept", train_only="retrieval", steps=4)
    run(tmp_path / "recomputed", train_only="retrieval", steps=4, recompute=recompute)
    assert losses(tmp_path / "recomputed") == losses(tmp_path / "kept")


def test_a_stopped_run_goes_on_with_the_same_losses(tmp_path: Path) -> None:
    run(tmp_path / "unbroken", train_only="retrieval")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", train_only="retrieval", source=CycleSource(broken_after=48))
    run(tmp_path / "broken", train_only="retrieval")
    assert losses(tmp_path / "broken") == losses(tmp_path / "unbroken")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"retrieval": False}, r"train\.train_only = 'retrieval': needs a model that reads neighbors, and it is a GPT"),
        ({"gate": 0.0}, r"needs a model that reads neighbors, and its gate is 0"),
    ],
)
def test_a_model_without_retrieval_has_nothing_to_train(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        run(tmp_path, train_only="retrieval", **settings)
