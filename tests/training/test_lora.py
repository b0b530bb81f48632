"""Adapters alone are trained: on a model that stays as it is to the bit, with the losses of a plain LoRA in torch."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from retro.common.errors import ArtifactError, ConfigError, TrainingError
from retro.common.files import read_json, write_json
from retro.mcore.lora import attach, is_adapter
from retro.mcore.sharded_tensors import StoredTensors
from retro.model.count import count_parameters
from retro.model.weight_names import is_retrieval
from retro.training import checkpoint
from retro.training.adapters import adapted_layers, count_adapters
from retro.training.config import LoraConfig, ParallelConfig, TrainConfig
from retro.training.data_loader import DataLoader
from retro.training.init_from import start_from
from retro.training.loop import build_engine
from retro.training.validation import token_losses
from tests.model.convert.folders import make_folder
from tests.model.tiny import tiny_inputs, tiny_shape
from tests.parallel.reference_training import lora_curve
from tests.training.fake import CycleSource
from tests.training.test_init_from import shape_of
from tests.training.test_loop import SETTINGS, losses, run

LORA: dict[str, Any] = {"rank": 2, "alpha": 6.0}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"query_groups": 2, "activation": "swiglu", "normalization": "RMSNorm"},
    "biases": {"gate": "learned", "tied_embeddings": True, "bias": True},
    "gpt": {"retrieval": False, "positions": "learned", "tied_embeddings": True, "bias": True},
}


def made(out: Path, **model: Any) -> Path:
    """A base: a model after one step."""
    run(out, steps=1, warmup_steps=0, save_every=1, **model)
    return checkpoint.find(out)


def adapted(out: Path, base: Path, lora: dict[str, Any] | None = None, **settings: Any) -> Path:
    """The newest checkpoint of adapters trained on a base."""
    run(out, start_from=base, lora=lora or LORA, **({"warmup_steps": 0} | settings))
    return checkpoint.find(out)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return {name: value.detach() for name, value in checkpoint.load_model(path)[0].named_parameters()}


def config(**settings: Any) -> TrainConfig:
    return TrainConfig(**(SETTINGS | {"lora": LORA} | settings))


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_before_the_first_step_the_function_is_the_bases_to_the_bit(tmp_path: Path, name: str, precision: str) -> None:
    base = made(tmp_path, **MODELS[name])
    engine = build_engine(tiny_shape(**MODELS[name]), config(precision=precision), ParallelConfig())
    start_from(engine, tiny_shape(**MODELS[name]), base)
    plain, _ = checkpoint.load_model(base, bfloat16=precision == "bfloat16")
    (model,) = engine.chunks
    assert sum(is_adapter(weight) for weight, _ in model.named_parameters()) > 8
    with torch.no_grad():
        assert torch.equal(model.eval()(*tiny_inputs(30).args()), plain(*tiny_inputs(30).args()))


@pytest.mark.parametrize("settings", [{}, {"recompute": "full"}, {"precision": "bfloat16"}])
def test_the_model_stays_as_it_is_and_every_adapter_learns(tmp_path: Path, settings: dict[str, Any]) -> None:
    base, shape = made(tmp_path), tiny_shape()
    # The rate is high because a bfloat16 number changes in steps of 1/128 of itself.
    engine = build_engine(shape, config(warmup_steps=0, lr=3e-2, **settings), ParallelConfig())
    start_from(engine, shape, base)
    (model,) = engine.chunks
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    with DataLoader(CycleSource(), shape, engine.chunks, 4) as feed:
        for first in range(0, 24, 8):
            engine.step(feed.work(np.arange(first, first + 8)), token_losses)
    changed = {name for name, one in model.named_parameters() if not torch.equal(one, before[name])}
    assert changed == {name for name in before if is_adapter(name)}
    for name, weight in weights(base).items():
        assert torch.equal(before[name], weight.to(before[name].dtype))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_nothing_but_adapters_has_gradients_or_optimizer_state(precision: str) -> None:
    shape = tiny_shape()
    engine = build_engine(shape, config(precision=precision), ParallelConfig())
    wanted = count_adapters(shape, LoraConfig(**LORA))
    held = [one for group in engine.optimizer.param_groups for one in group["params"]]
    assert sum(one.numel() for one in held) == wanted
    assert {one.dtype for one in held} == {torch.float32}  # in bfloat16 these are master weights
    (chunk,) = engine.chunks
    with_gradients = [one for one in chunk.parameters() if getattr(one, "main_grad", None) is not None]
    assert sum(one.numel() for one in with_gradients) == wanted
    assert sum(one.numel() for one in chunk.parameters()) == wanted + count_parameters(shape).total


@pytest.mark.parametrize("name", list(MODELS))
def test_losses_are_those_of_adapters_in_plain_torch(tmp_path: Path, name: str) -> None:
    base = made(tmp_path / "base", **MODELS[name])
    shape, lora = tiny_shape(**({"init_std": 0.02} | MODELS[name])), LoraConfig(**LORA)
    settings: dict[str, Any] = {"micro_batch": 2, "lr": 1e-2, "weight_decay": 0.1}
    engine = build_engine(shape, config(**settings), ParallelConfig())
    first = {name: one.detach().clone() for name, one in engine.chunks[0].named_parameters() if is_adapter(name)}
    adapted(tmp_path / "out", base, steps=6, **settings, **MODELS[name])
    expected = lora_curve(shape, weights(base), first, lora.alpha / lora.rank, steps=6, lr=1e-2)
    # Both are float32 and sum in other orders.
    np.testing.assert_allclose(losses(tmp_path / "out"), expected, rtol=2e-5)
    assert losses(tmp_path / "out")[-1] < losses(tmp_path / "out")[0]


@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_recomputing_changes_no_loss(tmp_path: Path, recompute: str) -> None:
    base = made(tmp_path / "base")
    lora = LORA | {"dropout": 0.2}
    adapted(tmp_path / "kept", base, lora, steps=4)
    adapted(tmp_path / "again", base, lora, steps=4, recompute=recompute)
    assert losses(tmp_path / "again") == losses(tmp_path / "kept")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_stopped_run_goes_on_with_the_same_losses(tmp_path: Path, precision: str) -> None:
    base = made(tmp_path / "base")
    settings: dict[str, Any] = {"lora": LORA | {"dropout": 0.1}, "precision": precision, "start_from": base}
    unbroken = run(tmp_path / "unbroken", **settings)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", source=CycleSource(broken_after=48), **settings)
    resumed = run(tmp_path / "broken", **settings)
    assert losses(tmp_path / "broken") == losses(tmp_path / "unbroken")
    assert resumed.weights_sha256 == unbroken.weights_sha256


def test_dropout_falls_on_what_an_adapter_reads_in_training_alone(tmp_path: Path) -> None:
    base = made(tmp_path / "base")
    found = {}
    for dropout in (0.0, 0.5):
        adapted(tmp_path / str(dropout), base, LORA | {"dropout": dropout}, steps=4)
        found[dropout] = losses(tmp_path / str(dropout))
    assert found[0.0][0] == found[0.5][0]  # B is zero: nothing is dropped yet
    assert found[0.0][2] != found[0.5][2]
    engine = build_engine(tiny_shape(), config(lora=LORA | {"dropout": 0.5}), ParallelConfig())
    (model,) = engine.chunks
    with torch.no_grad():
        for name, one in model.named_parameters():
            if is_adapter(name):
                one.add_(0.1)
        inputs = tiny_inputs(16).args()
        assert torch.equal(model.eval()(*inputs), model(*inputs))
        assert not torch.equal(model.train()(*inputs), model(*inputs))


@pytest.mark.parametrize("name", list(MODELS))
def test_a_loaded_checkpoint_of_adapters_is_the_merged_model(tmp_path: Path, name: str) -> None:
    base = made(tmp_path / "base", **MODELS[name])
    path = adapted(tmp_path / "out", base, steps=3, lr=0.1, **MODELS[name])
    shape = tiny_shape(**({"init_std": 0.02} | MODELS[name]))
    engine = build_engine(shape, config(), ParallelConfig())
    start_from(engine, shape, base)
    engine.resume(path)
    merged, _ = checkpoint.load_model(path)
    assert not any(is_adapter(weight) for weight, _ in merged.named_parameters())
    inputs = tiny_inputs(30).args()
    with torch.no_grad():
        expected, found = engine.chunks[0].eval()(*inputs), merged(*inputs)
        plain = checkpoint.load_model(base)[0](*inputs)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert (expected - plain).abs().max() > 0.01, "the adapters did nothing"


def test_a_checkpoint_of_adapters_holds_them_alone(tmp_path: Path) -> None:
    base = made(tmp_path / "base")
    path = adapted(tmp_path / "out", base, steps=1)
    names = StoredTensors(path).sizes
    stored = [name for name in names if not name.startswith("optimizer.")]
    assert stored
    assert all(is_adapter(name) for name in stored)
    assert len(names) == 3 * len(stored)  # Adam's two moments beside
    said = json.loads((path / "checkpoint.json").read_text())["adapters"]
    assert said["base"] == "../../../base/checkpoints/step_00000001"


@pytest.mark.parametrize("where", ["decoder", "retrieval", "all"])
@pytest.mark.parametrize("targets", [(), ("linear_proj",), ("linear_qkv", "linear_fc1")])
def test_targets_and_place_choose_the_layers(where: Any, targets: Any) -> None:
    shape, lora = tiny_shape(), LoraConfig(rank=3, where=where, targets=targets)
    engine = build_engine(shape, config(lora=lora), ParallelConfig())
    found = {name for name, _ in engine.chunks[0].named_parameters() if is_adapter(name)}
    assert {name.split(".")[-2] for name in found} <= set(targets or {name.split(".")[-2] for name in found})
    assert {is_retrieval(name) for name in found} == {"decoder": {False}, "retrieval": {True}}.get(where, {False, True})
    assert len(found) == 2 * len(adapted_layers(shape, lora))
    sizes = {name: one.numel() for name, one in engine.chunks[0].named_parameters()}
    assert sum(sizes[name] for name in found) == count_adapters(shape, lora)


def test_adapters_are_counted_as_by_hand() -> None:
    # One GPT layer of width 16, feed-forward 32: qkv 48 x 16, proj 16 x 16, fc1 32 x 16, fc2 16 x 32, rank 2.
    shape = tiny_shape(layers=1, retrieval=False)
    assert count_adapters(shape, LoraConfig(rank=2)) == 2 * (48 + 16 + 16 + 16 + 32 + 16 + 16 + 32)


def test_the_share_of_trained_weights_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shape = tiny_shape(layers=1, retrieval=False)
    with caplog.at_level(logging.INFO):
        build_engine(shape, config(lora={"rank": 2}), ParallelConfig())
    total = 384 + count_parameters(shape).total
    assert f"adapters of rank 2 on 4 linear layers: 384 of {total} weights are trained" in caplog.text


def test_whole_training_and_new_adapters_start_from_merged_adapters(tmp_path: Path) -> None:
    base = made(tmp_path / "base")
    first = adapted(tmp_path / "first", base, steps=2, lr=0.1)
    second = adapted(tmp_path / "second", first, LORA | {"rank": 3}, steps=1, lr=1e-30)
    run(tmp_path / "whole", start_from=second, steps=1, warmup_steps=0, lr=1e-30)
    expected, one = weights(first), "decoder.layers.0.mlp.linear_fc1.weight"
    assert not torch.equal(expected[one], weights(base)[one])
    for path in (second, checkpoint.find(tmp_path / "whole")):
        for name, value in weights(path).items():
            torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-7)


def test_a_run_directory_may_be_moved_with_its_base(tmp_path: Path) -> None:
    base = made(tmp_path / "run" / "base")
    path = adapted(tmp_path / "run" / "out", base, steps=1)
    expected = weights(path)
    (tmp_path / "run").rename(tmp_path / "moved")
    moved = weights(tmp_path / "moved" / "out")
    assert all(torch.equal(moved[name], value) for name, value in expected.items())


def test_another_base_is_refused_and_a_missing_one_named(tmp_path: Path) -> None:
    base = made(tmp_path / "base")
    path = adapted(tmp_path / "out", base, steps=1, save_every=1)
    kept = tmp_path / "kept"
    base.rename(kept)
    with pytest.raises(ArtifactError, match=r"has adapters for the checkpoint .*step_00000001, and nothing is there"):
        checkpoint.load_model(path)
    assert checkpoint.load_model(path, base=kept)[1].adapters is not None
    other = made(tmp_path / "other", seed=5)
    other.rename(base)
    for given in (None, base):
        with pytest.raises(ArtifactError, match=r"is not the checkpoint that the adapters in .* were trained on"):
            checkpoint.load_model(path, base=given)
    with pytest.raises(ArtifactError, match="is not the checkpoint that the adapters"):
        adapted(tmp_path / "out", other, steps=2, save_every=1)


def test_a_damaged_base_is_refused(tmp_path: Path) -> None:
    base = made(tmp_path / "base")
    path = adapted(tmp_path / "out", base, steps=1)
    victim = next(base.glob("*.distcp"))
    victim.write_bytes(victim.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match=r"\.distcp: has other bytes than were written"):
        checkpoint.load_model(path)


def test_a_damaged_description_of_adapters_is_refused(tmp_path: Path) -> None:
    base = made(tmp_path / "base")
    path = adapted(tmp_path / "out", base, steps=1)
    said = read_json(path / "checkpoint.json", "")
    del said["adapters"]["rank"]
    write_json(path / "checkpoint.json", said)
    with pytest.raises(ArtifactError, match=r"checkpoint\.json: lacks .*rank"):
        checkpoint.load_model(path)


def test_a_checkpoint_that_lacks_a_weight_is_refused(tmp_path: Path) -> None:
    path = made(tmp_path / "base", retrieval=False)
    said = read_json(path / "checkpoint.json", "")
    said["shape"]["model"]["retrieval"] = True
    write_json(path / "checkpoint.json", said)
    with pytest.raises(ArtifactError, match=r"lacks \d+ tensors, decoder\.layers\.1\.cross_attention"):
        checkpoint.load_model(path)


def test_adapters_need_a_whole_model_of_ours(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.lora = .*needs a checkpoint or a HuggingFace folder.*none is given"):
        run(tmp_path / "out", lora=LORA)
    with pytest.raises(
        ConfigError, match=r"train\.lora = .*needs a checkpoint or a HuggingFace folder.*empty holds none"
    ):
        run(tmp_path / "out", lora=LORA, start_from=tmp_path / "empty")
    gpt = made(tmp_path / "gpt", retrieval=False)
    with pytest.raises(
        TrainingError, match=r"lacks \d+ tensors of the model, .* and train\.lora trains adapters on a fin"
    ):
        adapted(tmp_path / "out", gpt)


@pytest.mark.parametrize(
    ("lora", "model", "words"),
    [
        ({"targets": ["linear_kv"]}, {"retrieval": False}, r"has no linear_kv in this one, which reads no neighbors"),
        ({"where": "retrieval"}, {"retrieval": False}, r"where = 'retrieval' has no linear layer in this one"),
        ({"targets": ["linear_q"], "where": "decoder"}, {}, r"where = 'decoder' has no linear_q in this one"),
    ],
)
def test_layers_that_the_model_lacks_are_named(lora: Any, model: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_engine(tiny_shape(**model), config(lora=lora), ParallelConfig())


def test_adapters_beside_frozen_retrieval_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"TrainConfig\.train_only = 'retrieval': needs all beside lora"):
        config(train_only="retrieval")


def test_a_layer_takes_one_adapter() -> None:
    engine = build_engine(tiny_shape(), config(), ParallelConfig())
    layer = engine.chunks[0].decoder.layers[0].mlp.linear_fc1
    with pytest.raises(ValueError, match="has an adapter already"):
        attach(layer, row_parallel=False, gated=False, rank=1, alpha=1.0, dropout=0.0, seed=0)


def test_adapters_on_a_folder_that_reads_no_neighbors_are_refused_before_training(tmp_path: Path) -> None:
    make_folder(tmp_path / "folder", "llama, grouped queries")
    shape = shape_of(tmp_path / "folder", sequence_length=16)
    engine = build_engine(shape, config(), ParallelConfig())
    with pytest.raises(TrainingError, match=r"folder: lacks \d+ tensors of the model, .* Train the whole model first"):
        start_from(engine, shape, tmp_path / "folder")
