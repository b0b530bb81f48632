"""Adapters beside the weights of their base: the outputs of the merged model, and a base that is as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from retro.mcore.inference import for_inference
from retro.mcore.lora import Adapted, AdapterChoice, attach, detach, is_adapter
from retro.mcore.sharded_tensors import StoredTensors
from retro.model.model import RetroModel
from retro.training import checkpoint
from retro.training.config import ParallelConfig
from retro.training.lora_weights import AdapterInfo, NamedAdapters, SeparateWeights
from retro.training.separate_adapters import load_separate
from retro.training.trained_weights import named_layers
from tests.model.tiny import tiny_inputs, tiny_model, tiny_shape
from tests.training.test_lora import MODELS, adapted, made

Logits = Callable[[RetroModel], torch.Tensor]


def logits(model: RetroModel) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(*tiny_inputs(30).args())
    return found


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("prepare", [lambda _: None, for_inference])
def test_kept_apart_they_compute_what_merged_ones_do(
    tmp_path: Path, name: str, prepare: Callable[[RetroModel], None]
) -> None:
    base = made(tmp_path / "base", **MODELS[name])
    path = adapted(tmp_path / "out", base, steps=3, lr=0.1, **MODELS[name])
    stage = load_separate(path, ParallelConfig())
    (model,) = stage.chunks
    prepare(model)
    expected, plain = logits(checkpoint.load_model(path)[0]), logits(checkpoint.load_model(base)[0])
    torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-5)
    assert (expected - plain).abs().max() > 1e-2
    with stage.choice.off():
        torch.testing.assert_close(logits(model), plain, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-5)


def test_the_weights_of_the_base_are_its_own_to_the_bit(tmp_path: Path) -> None:
    base = made(tmp_path / "base")
    path = adapted(tmp_path / "out", base, steps=2, lr=0.1)
    (model,) = load_separate(path, ParallelConfig()).chunks
    plain = dict(checkpoint.load_model(base)[0].named_parameters())
    found = dict(model.named_parameters())
    stored = [name for name in StoredTensors(path).sizes if not name.startswith("optimizer.")]
    assert set(found) == set(plain) | {name for name in stored if is_adapter(name)}
    for name, weight in plain.items():
        assert torch.equal(found[name], weight)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_merged_later_the_weights_are_those_of_a_merged_load_to_the_bit(tmp_path: Path, bfloat16: bool) -> None:
    path = adapted(tmp_path / "out", made(tmp_path / "base"), steps=2, lr=0.1)
    stage = load_separate(path, ParallelConfig(), bfloat16=bfloat16)
    stage.merge()
    (model,) = stage.chunks
    expected = dict(checkpoint.load_model(path, bfloat16=bfloat16)[0].named_parameters())
    found = dict(model.named_parameters())
    assert set(found) == set(expected)
    for name, weight in expected.items():
        assert torch.equal(found[name], weight), name
    assert not any(isinstance(module, Adapted) for module in model.modules())


def test_what_was_trained_whole_beside_adapters_is_used(tmp_path: Path) -> None:
    model: dict[str, Any] = {"query_groups": 2, "activation": "swiglu", "normalization": "RMSNorm"}
    base = made(tmp_path / "base", retrieval=False, **model)
    lora = {"rank": 2, "where": "decoder"}
    path = adapted(tmp_path / "out", base, lora, steps=3, lr=0.1, train_only="retrieval", **model)
    (found,) = load_separate(path, ParallelConfig()).chunks
    torch.testing.assert_close(logits(found), logits(checkpoint.load_model(path)[0]), rtol=1e-5, atol=1e-5)


def test_adapters_on_adapters_come_on_top_of_a_merged_base(tmp_path: Path) -> None:
    first = adapted(tmp_path / "first", made(tmp_path / "base"), steps=2, lr=0.1)
    second = adapted(tmp_path / "second", first, steps=2, lr=0.1)
    (found,) = load_separate(second, ParallelConfig()).chunks
    torch.testing.assert_close(logits(found), logits(checkpoint.load_model(second)[0]), rtol=1e-5, atol=1e-5)
    others = {"second": checkpoint.read_info(second)}
    stage = load_separate(first, ParallelConfig(), others=others)
    torch.testing.assert_close(logits(stage.chunks[0]), logits(checkpoint.load_model(first)[0]), rtol=1e-6, atol=1e-6)
    stage.choice.use("second")
    torch.testing.assert_close(logits(stage.chunks[0]), logits(checkpoint.load_model(second)[0]), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="only the checkpoint's own adapters, alone, can be merged"):
        stage.merge()


def test_a_checkpoint_without_adapters_is_loaded_as_it_is(tmp_path: Path) -> None:
    base = made(tmp_path / "base")
    stage = load_separate(base, ParallelConfig())
    assert stage.choice.names == ()
    assert torch.equal(logits(stage.chunks[0]), logits(checkpoint.load_model(base)[0]))
    with pytest.raises(ValueError, match="holds no adapters"):
        load_separate(base, ParallelConfig(), others={"none": checkpoint.read_info(base)})


class Known:
    """Weights in memory."""

    def __init__(self, **tensors: torch.Tensor) -> None:
        self.tensors = {name.replace("__", "."): one for name, one in tensors.items()}
        self.sizes = {name: tuple(one.shape) for name, one in self.tensors.items()}

    def read(self, name: str, part: tuple[slice, ...]) -> torch.Tensor:
        return self.tensors[name][part]


def test_adapters_stand_side_by_side_with_zeros_where_one_adapts_nothing() -> None:
    def named(name: str, rank: int, stored: Known) -> NamedAdapters:
        info = AdapterInfo(base="", base_mark="", rank=rank, alpha=1.0)
        return NamedAdapters(name=name, info=info, stored=stored)

    base = Known(x__weight=torch.zeros(2, 2), y__weight=torch.zeros(2, 2))
    one = Known(x__lora_a=torch.tensor([[1.0, 2]]), x__lora_b=torch.tensor([[3.0], [4]]))
    both = Known(
        x__lora_a=torch.tensor([[5.0, 6], [7, 8]]), x__lora_b=torch.tensor([[9.0, 10], [11, 12]]),
        y__lora_a=torch.tensor([[1.0, 1], [1, 1]]), y__lora_b=torch.tensor([[2.0, 2], [2, 2]]),
    )  # fmt: skip
    found = SeparateWeights(base, [named("one", 1, one), named("both", 2, both)])
    assert found.layers == {"x", "y"}
    assert found.sizes["x.lora_a"] == found.sizes["y.lora_a"] == (3, 2)
    every = (slice(0, 3), slice(0, 2))
    assert found.read("x.lora_a", every).tolist() == [[1, 2], [5, 6], [7, 8]]
    assert found.read("x.lora_b", every[::-1]).tolist() == [[3, 9, 10], [4, 11, 12]]
    # A rank of several reads its own columns of A, or rows of B.
    assert found.read("x.lora_a", (slice(0, 3), slice(1, 2))).tolist() == [[2], [6], [8]]
    assert found.read("y.lora_a", every).tolist() == [[0, 0], [1, 1], [1, 1]]
    assert found.read("y.lora_b", (slice(1, 2), slice(0, 3))).tolist() == [[0, 2, 2]]
    assert found.read("x.weight", (slice(0, 2), slice(0, 2))).tolist() == [[0, 0], [0, 0]]


def used(choice: AdapterChoice) -> tuple[Any, Any]:
    factor = choice.factor
    return choice.columns, factor.tolist() if isinstance(factor, torch.Tensor) else factor


def test_a_choice_says_which_columns_are_used_and_by_what_each_token_multiplies_them() -> None:
    choice = AdapterChoice({"a": (1, 0.5), "b": (2, 3.0), "c": (1, 2.0)}, torch.float32)
    assert choice.names == ("a", "b", "c")
    assert used(choice) == (None, 0.0)
    choice.use("b")
    assert used(choice) == (slice(1, 3), 3.0)
    choice.use_by_token(["b", "", "a"])
    assert used(choice) == (slice(0, 3), [[[0, 3, 3]], [[0, 0, 0]], [[0.5, 0, 0]]])
    choice.use_by_token(["c", "c"])
    assert used(choice) == (slice(3, 4), 2.0)
    choice.use_by_token(["", ""])
    assert used(choice) == (None, 0.0)
    with choice.off():
        choice.use_by_token(["a", "b"])
        assert used(choice) == (None, 0.0)
    assert used(AdapterChoice({"": (2, 4.0)}, torch.float32)) == (slice(0, 2), 4.0)


def test_an_adapter_that_would_be_ignored_is_not_attached() -> None:
    model = tiny_model(tiny_shape())
    layer = dict(named_layers(model))["decoder.layers.0.mlp.linear_fc1"]
    settings: dict[str, Any] = {
        "row_parallel": False,
        "gated": False,
        "rank": 1,
        "alpha": 1.0,
        "dropout": 0.0,
        "seed": 0,
    }
    with pytest.raises(ValueError, match="has no adapter"):
        detach(layer)
    for_inference(model)
    with pytest.raises(ValueError, match=r"forward was replaced .*: an adapter would be ignored"):
        attach(layer, **settings)
