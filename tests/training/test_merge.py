"""`retro merge-lora`: a plain checkpoint of the same function, wherever the base is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from retro.common.errors import ArtifactError, ConfigError
from retro.mcore.sharded_tensors import StoredTensors
from retro.model.weight_names import weight_sizes
from retro.training import checkpoint
from retro.training.config import ParallelConfig
from retro.training.convert import merge
from retro.training.init_from import start_from
from retro.training.loop import build_engine
from tests.model.tiny import tiny_inputs, tiny_shape
from tests.training.test_lora import MODELS, adapted, config, made


@pytest.mark.parametrize("name", list(MODELS))
def test_the_merged_checkpoint_computes_what_the_adapters_do(tmp_path: Path, name: str) -> None:
    base = made(tmp_path / "base", **MODELS[name])
    path = adapted(tmp_path / "out", base, steps=3, lr=0.1, **MODELS[name])
    shape = merge(tmp_path / "out", tmp_path / "merged")
    assert set(StoredTensors(tmp_path / "merged").sizes) == set(weight_sizes(shape))
    engine = build_engine(shape, config(), ParallelConfig())
    start_from(engine, shape, base)
    engine.resume(path)
    merged, info = checkpoint.load_model(tmp_path / "merged")
    assert (info.adapters, info.step) == (None, 3)
    inputs = tiny_inputs(30).args()
    with torch.no_grad():
        torch.testing.assert_close(merged(*inputs), engine.chunks[0].eval()(*inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("dtype", "expected"), [(None, torch.bfloat16), ("float32", torch.float32)])
def test_weights_keep_the_precision_of_the_training_or_take_the_one_asked_for(
    tmp_path: Path, dtype: str | None, expected: torch.dtype
) -> None:
    base = made(tmp_path / "base", precision="bfloat16")
    path = adapted(tmp_path / "out", base, steps=1, precision="bfloat16")
    merge(path, tmp_path / "merged", dtype=dtype)
    exact, _ = checkpoint.load_model(path)
    merged, _ = checkpoint.load_model(tmp_path / "merged")
    for name, weight in exact.named_parameters():
        assert torch.equal(merged.get_parameter(name), weight.to(expected).float())


def test_two_merged_models_have_two_names(tmp_path: Path) -> None:
    base = made(tmp_path / "base")
    for steps in (1, 2):
        merge(adapted(tmp_path / str(steps), base, steps=steps), tmp_path / f"merged {steps}")
    names = {checkpoint.identity(tmp_path / f"merged {steps}") for steps in (1, 2)}
    assert len(names | {checkpoint.identity(base)}) == 3


def test_adapters_of_two_bases_have_two_names(tmp_path: Path) -> None:
    paths = [adapted(tmp_path / f"{seed}", made(tmp_path / f"base {seed}", seed=seed), steps=2, save_every=1)
             for seed in (1, 2)]  # fmt: skip
    assert len({checkpoint.identity(path) for path in paths}) == 2


def test_a_base_that_was_moved_is_named(tmp_path: Path) -> None:
    base = made(tmp_path / "base")
    path = adapted(tmp_path / "out", base, steps=1)
    base.rename(tmp_path / "moved")
    with pytest.raises(ArtifactError, match="name its place: `retro merge-lora … --base`"):
        merge(path, tmp_path / "merged")
    merge(path, tmp_path / "merged", base=tmp_path / "moved")
    assert checkpoint.load_model(tmp_path / "merged")[1].shape == tiny_shape(init_std=0.02)


def test_what_cannot_be_merged_is_refused(tmp_path: Path) -> None:
    base = made(tmp_path / "base")
    with pytest.raises(ArtifactError, match=r"holds a whole model, no adapters. Use it as it is"):
        merge(base, tmp_path / "merged")
    with pytest.raises(ArtifactError, match=r"holds no complete checkpoint. .* the directory of a stage that trains"):
        merge(tmp_path, tmp_path / "merged")
    with pytest.raises(ConfigError, match=r"OUT = .*: needs a path where nothing is yet"):
        merge(base, base)
    with pytest.raises(ConfigError, match=r"--dtype = 'int8': needs float32 or bfloat16"):
        merge(base, tmp_path / "merged", dtype="int8")
