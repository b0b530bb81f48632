"""Adapters are verified to be applied before the first answer; those that change nothing are an error with a reason."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from retro.common.errors import ArtifactError
from retro.generate.adapter_check import probe
from retro.generate.loading import AdapterOptions, open_decoder
from retro.generate.request import Decoder
from retro.mcore.lora import Adapted
from retro.training.config import ParallelConfig
from retro.training.lora_weights import MergedWeights
from tests.training.test_lora import MODELS, adapted, made

NOTHING: dict[str, Any] = {"steps": 1, "lr": 1e-60}  # no float32 moves by it, so B stays zero


def opened(path: Path, *, bfloat16: bool = False, **options: Any) -> Decoder:
    return open_decoder(path, ParallelConfig(), 0, bfloat16=bfloat16, options=AdapterOptions(**options))


@pytest.mark.parametrize("name", list(MODELS))
def test_merged_and_separate_decoders_say_the_same_and_not_what_the_base_says(tmp_path: Path, name: str) -> None:
    base = made(tmp_path / "base", **MODELS[name])
    path = adapted(tmp_path / "out", base, steps=3, lr=0.1, **MODELS[name])
    merged, separate, plain = probe(opened(path)), probe(opened(path, separate=True)), probe(opened(base))
    torch.testing.assert_close(separate, merged, rtol=1e-5, atol=1e-5)
    assert (merged - plain).abs().max() > 1e-2


@pytest.mark.parametrize("where", ["decoder", "retrieval"])
def test_the_tokens_of_the_check_reach_every_kind_of_adapter(tmp_path: Path, where: str) -> None:
    base = made(tmp_path / "base")
    path = adapted(tmp_path / "out", base, {"rank": 2, "where": where}, steps=2, lr=0.1)
    assert not torch.equal(probe(opened(path)), probe(opened(base)))


@pytest.mark.parametrize("separate", [False, True])
def test_adapters_of_no_step_are_refused_with_the_reason_or_allowed_when_asked_for(
    tmp_path: Path, separate: bool, caplog: pytest.LogCaptureFixture
) -> None:
    base = made(tmp_path / "base")
    path = adapted(tmp_path / "out", base, **NOTHING)
    told = r"step_00000001: its adapters change nothing: .* \(every B is zero, as before the first step of training\)"
    with pytest.raises(ArtifactError, match=told):
        opened(path, separate=separate)
    with caplog.at_level(logging.WARNING, logger="retro"):
        found = opened(path, separate=separate, allow_unchanged=True)
    assert "its adapters change nothing" in caplog.text
    assert torch.equal(probe(found), probe(opened(base)))


@pytest.mark.parametrize("separate", [False, True])
def test_layers_that_ignore_their_adapters_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, separate: bool
) -> None:
    path = adapted(tmp_path / "out", made(tmp_path / "base"), steps=2, lr=0.1)

    def plain(layer: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return super(Adapted, layer).forward(x, *args, **kwargs)

    monkeypatch.setattr(Adapted, "forward", plain)
    with pytest.raises(ArtifactError, match=r"change nothing: .*B is not zero, but what it adds is"):
        opened(path, separate=separate)


@pytest.mark.parametrize(
    ("bfloat16", "why"),
    [(False, "they were not added to the weights"), (True, "in bfloat16 the sum is rounded to the base's weights")],
)
def test_a_merge_that_adds_nothing_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bfloat16: bool, why: str
) -> None:
    path = adapted(tmp_path / "out", made(tmp_path / "base"), steps=2, lr=0.1)
    monkeypatch.setattr(MergedWeights, "read", lambda self, name, part: self.base.read(name, part))
    with pytest.raises(ArtifactError, match=rf"change nothing: .*\({why}"):
        opened(path, bfloat16=bfloat16)
    assert not torch.equal(probe(opened(path, bfloat16=bfloat16, separate=True)), probe(opened(tmp_path / "base")))


def test_a_scale_that_loses_them_to_rounding_is_found(tmp_path: Path) -> None:
    path = adapted(tmp_path / "out", made(tmp_path / "base"), {"rank": 2, "alpha": 1e-12}, steps=2, lr=0.1)
    with pytest.raises(ArtifactError, match=r"change nothing: .*what it adds is: look at alpha"):
        opened(path)
