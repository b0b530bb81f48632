"""Training a prefix: the network stays, everything beside it learns, checkpoints hold it alone and name the network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from retro.common.errors import ArtifactError, ConfigError
from retro.mcore import parallel
from retro.model.model import RetroModel
from retro.recipes.dynamic_prefix.training.loading import load_prefix_model
from retro.recipes.dynamic_prefix.training.parts import answer_losses, encoder_of, modules_of, prefix_inputs, prefix_of
from retro.recipes.dynamic_prefix.training.samples import IDS, REAL, PrefixSource
from retro.training import checkpoint
from retro.training.batch import Batch
from retro.training.config import ParallelConfig, TrainConfig
from retro.training.data_loader import DataLoader
from retro.training.loop import add_modules, build_engine, train
from tests.model.tiny import tiny_shape
from tests.recipes.dynamic_prefix import tiny_prefix
from tests.recipes.dynamic_prefix.tiny_prefix import GPT, LLAMA, SETTINGS, prefix_config, samples, source, write_encoder

FULL: dict[str, Any] = {"compress": 3, "static": 2}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_prefix.train_base(tmp_path_factory.mktemp("base") / "llama", tiny_shape(**LLAMA))


def stored(out: Path) -> dict[str, Tensor]:
    """What a run's newest checkpoint holds itself, the optimizer's state aside."""
    from retro.mcore.sharded_tensors import StoredTensors

    held = StoredTensors(checkpoint.find(out))
    return {
        name: held.read(name, tuple(slice(0, length) for length in size))
        for name, size in held.sizes.items()
        if not name.startswith("optimizer.")
    }


def run(out: Path, base: Path, **settings: Any) -> Any:
    config = prefix_config(**settings.pop("prefix", {}))
    encoder = write_encoder(out / "encoder", config)
    return tiny_prefix.train_prefix(out / "prefix", base, encoder, config, LLAMA, **settings)


def test_checkpoints_hold_the_trained_parts_and_the_network_stays_bit_for_bit(base: Path, tmp_path: Path) -> None:
    before = stored(base)
    run(tmp_path, base)
    assert all(name.startswith("added_") for name in stored(tmp_path / "prefix"))
    model, _ = checkpoint.load_model(tmp_path / "prefix")
    after = dict(model.named_parameters())
    assert after.keys() == before.keys()
    for name, weight in after.items():
        assert torch.equal(weight, before[name]), name
    said = json.loads((checkpoint.find(tmp_path / "prefix") / "checkpoint.json").read_text())
    assert said["modules"]["base_mark"] == checkpoint.checkpoint_fingerprint(checkpoint.find(base))


def test_the_optimizer_holds_nothing_of_the_network(base: Path, tmp_path: Path) -> None:
    config = prefix_config(**FULL)
    modules = modules_of(write_encoder(tmp_path, config), config, initial=True)
    engine = build_engine(tiny_shape(**LLAMA), TrainConfig(**SETTINGS), ParallelConfig(), None, modules)
    model = engine.chunks[0]
    held = {id(one) for group in engine.optimizer.param_groups for one in group["params"]}
    names = {name for name, one in model.named_parameters() if id(one) in held}
    assert names
    assert all(name.startswith("added_") for name in names)
    assert names == {name for name, one in model.named_parameters() if one.requires_grad}


@pytest.mark.parametrize("prefix", [{}, FULL, {"projection": "frozen"}], ids=["states", "compressed", "frozen"])
@pytest.mark.parametrize("model", [LLAMA, GPT], ids=["llama", "gpt"])
def test_the_gradient_reaches_every_weight_once_gates_are_open(
    tmp_path: Path, model: dict[str, Any], prefix: dict[str, Any]
) -> None:
    config = prefix_config(gate_init=0.3, **prefix)
    made = built(tmp_path, config, model)
    made.train()
    losses, mask = answer_losses(made, batch_of(made, np.arange(4)))
    (losses * mask).sum().backward()
    for name, weight in made.named_parameters():
        if name.startswith("added_"):
            assert weight.grad is not None, name
            assert weight.grad.any(), name


def test_with_closed_gates_only_these_have_a_gradient(tmp_path: Path) -> None:
    made = built(tmp_path, prefix_config(), LLAMA)
    losses, mask = answer_losses(made, batch_of(made, np.arange(4)))
    (losses * mask).sum().backward()
    with_one = {name for name, one in made.named_parameters() if name.startswith("added_") and one.grad.any()}
    assert with_one == {f"added_prefix.{number}.learned_gate" for number in range(3)}


def built(folder: Path, config: Any, model: dict[str, Any]) -> RetroModel:
    """A model with random weights and what stands beside it."""
    parallel.start()
    parallel.seed(5)
    shape = tiny_shape(**model)
    made = RetroModel(shape)
    add_modules([made], shape, modules_of(write_encoder(folder, config), config, initial=True))
    return made


def batch_of(model: RetroModel, numbers: NDArray[np.int64], given: PrefixSource | None = None) -> Any:
    feed = DataLoader(given or source(), model.shape, [model], len(numbers))
    return feed.work(numbers).micro_batches[0]


@pytest.mark.parametrize("prefix", [{}, FULL], ids=["states", "compressed"])
def test_a_batch_is_each_question_alone_with_documents_of_unequal_lengths_and_without(
    tmp_path: Path, prefix: dict[str, Any]
) -> None:
    model = built(tmp_path, prefix_config(gate_init=0.4, **prefix), LLAMA | {"init_std": 0.1}).eval()
    # Among the first ten are one without a document and one with one.
    together = batch_of(model, np.arange(10))
    assert not together.further[REAL].flatten(1).any(dim=1).all()
    losses, mask = answer_losses(model, together)
    for number in range(10):
        alone, counted = answer_losses(model, batch_of(model, np.array([number])))
        expected = (losses * mask)[number][mask[number] > 0]
        torch.testing.assert_close((alone * counted)[counted > 0], expected, rtol=1e-6, atol=2e-6)


def test_before_a_step_answers_have_the_loss_of_the_network_alone(tmp_path: Path) -> None:
    model = built(tmp_path, prefix_config(**FULL), LLAMA).eval()
    batch = batch_of(model, np.arange(6))
    with_prefix, _ = answer_losses(model, batch)
    assert torch.equal(with_prefix, model(batch.tokens_BS, labels_BS=batch.labels_BS))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_run_that_was_killed_ends_in_the_same_bytes(base: Path, tmp_path: Path, dropout: float) -> None:
    prefix = FULL | {"encoder": {"dropout": dropout}, "gate_init": 0.3}

    class Broken(PrefixSource):
        def fetch(self, sample_numbers: NDArray[np.int64]) -> Batch:
            if sample_numbers.max() >= 16:
                raise KeyboardInterrupt
            return super().fetch(sample_numbers)

    whole = run(tmp_path / "whole", base, prefix=prefix)
    if dropout:
        without = run(tmp_path / "without", base, prefix=FULL | {"gate_init": 0.3})
        assert without.weights_sha256 != whole.weights_sha256
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", base, prefix=prefix, from_source=Broken(samples(), end=0, documents=2, multiple=4))
    assert checkpoint.find(tmp_path / "broken" / "prefix").name == "step_00000003"
    again = run(tmp_path / "broken", base, prefix=prefix)
    assert again.weights_sha256 == whole.weights_sha256
    one, other = stored(tmp_path / "whole" / "prefix"), stored(tmp_path / "broken" / "prefix")
    assert all(torch.equal(one[name], other[name]) for name in one)


def step_of(tmp_path: Path, base: Path, **settings: Any) -> Path:
    """The folder of a step `train`."""
    config = prefix_config(**FULL)
    run(tmp_path, base, prefix=FULL, **settings)
    (tmp_path / "encoder" / "knowledge.json").write_text(json.dumps({"prefix": config.model_dump(mode="json")}))
    return tmp_path


def test_the_trained_model_opens_with_its_base(base: Path, tmp_path: Path) -> None:
    opened = load_prefix_model(step_of(tmp_path, base))
    known = stored(tmp_path / "prefix")
    for name, weight in opened.model.named_parameters():
        if name.startswith("added_"):
            assert torch.equal(weight, known[name]), name
    assert opened.encoder is encoder_of(opened.model)
    assert opened.config.compress == 3
    # Number 3 has no document, wherever the order of the first epoch puts it.
    place = [source().place(number) for number in range(10)].index(3)
    batch = batch_of(opened.model, np.array([0, 1, 2, place]))
    read = prefix_inputs(opened.model, batch.further[IDS], batch.further[REAL])
    # Two static vectors, and three of each of two documents.
    assert read.states_nBE.shape == (8, 4, 8)
    assert read.real_Bn[3].tolist() == [True] * 2 + [False] * 6


def test_gates_of_a_bfloat16_model_are_fp32_when_saved_and_opened(base: Path, tmp_path: Path) -> None:
    opened = load_prefix_model(step_of(tmp_path, base, precision="bfloat16"), bfloat16=True)
    gates = prefix_of(opened.model).gates
    assert gates.dtype == torch.float32
    assert not torch.equal(gates, gates.bfloat16().float())
    assert torch.equal(gates[0], stored(tmp_path / "prefix")["added_prefix.0.learned_gate"])
    assert next(opened.encoder.model.parameters()).dtype == torch.bfloat16


def test_another_base_is_refused(base: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(base, moved)
    step = step_of(tmp_path / "step", moved)
    shutil.rmtree(moved)
    with pytest.raises(ArtifactError, match=r"has modules for the checkpoint .* and nothing is there"):
        load_prefix_model(step)
    assert load_prefix_model(step, base=checkpoint.find(base)).config.static == 2
    other = tiny_prefix.train_base(tmp_path / "other", tiny_shape(**LLAMA), steps=3)
    with pytest.raises(ArtifactError, match="is not the checkpoint that the modules in"):
        load_prefix_model(step, base=checkpoint.find(other))


def test_a_stopped_run_does_not_go_on_beside_another_base(base: Path, tmp_path: Path) -> None:
    run(tmp_path, base, steps=3)
    other = tiny_prefix.train_base(tmp_path / "other", tiny_shape(**LLAMA), steps=3)
    with pytest.raises(ArtifactError, match="is not the checkpoint that the modules"):
        run(tmp_path, other, steps=6)


def test_a_checkpoint_that_lacks_a_weight_is_named(base: Path, tmp_path: Path) -> None:
    step = step_of(tmp_path, base)
    changed = prefix_config(compress=3, static=2, encoder={"layers": 3})
    write_encoder(tmp_path / "encoder", changed)
    (tmp_path / "encoder" / "knowledge.json").write_text(json.dumps({"prefix": changed.model_dump(mode="json")}))
    with pytest.raises(ArtifactError, match=r"lacks \d+ weights of the encoder and the prefix, added_knowledge.model"):
        load_prefix_model(step)


@pytest.mark.parametrize(("trained", "layers"), [("none", []), (1, [1]), ("all", [0, 1])])
def test_only_the_layers_that_are_asked_for_are_trained(
    base: Path, tmp_path: Path, trained: Any, layers: list[int]
) -> None:
    run(tmp_path, base, prefix={"encoder": {"trained": trained}, "gate_init": 0.3})
    config = prefix_config(gate_init=0.3)
    parallel.seed(1234)
    fresh = built_like(tmp_path, config)
    found = stored(tmp_path / "prefix")
    moved = {name for name, one in fresh.items() if not torch.equal(one, found[name])}
    for number in range(2):
        assert any(f"encoder.layer.{number}." in name for name in moved) == (number in layers)
    assert any("word_embeddings" in name for name in moved) == (trained == "all")
    assert "added_prefix.0.linear_kv.weight" in moved


def built_like(folder: Path, config: Any) -> dict[str, Tensor]:
    """The weights beside the network that a run of the usual seed starts from."""
    modules = modules_of(folder / "encoder", config, initial=True)
    engine = build_engine(tiny_shape(**LLAMA), TrainConfig(**SETTINGS), ParallelConfig(), None, modules)
    return {name: one for name, one in engine.chunks[0].named_parameters() if name.startswith("added_")}


def test_layers_that_the_model_lacks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"prefix.layers = \[0, 3\]: needs numbers below 3"):
        built(tmp_path, prefix_config(layers=(0, 3)), LLAMA)


def test_gates_learn_at_a_rate_of_their_own(base: Path, tmp_path: Path) -> None:
    def moved(name: str, **settings: Any) -> float:
        run(tmp_path / name, base, steps=1, save_every=1, **settings)
        return float(stored(tmp_path / name / "prefix")["added_prefix.0.learned_gate"].abs().mean())

    usual = moved("usual")
    assert moved("fast", retrieval_rates={"gate_lr_factor": 10.0}) == pytest.approx(10 * usual, rel=1e-3)


def test_a_network_that_is_given_as_no_checkpoint_is_saved_with_the_modules(tmp_path: Path) -> None:
    config = prefix_config()
    encoder = write_encoder(tmp_path / "encoder", config)
    train(
        out=tmp_path / "alone",
        shape=tiny_shape(**LLAMA),
        config=TrainConfig(**SETTINGS),
        layout=ParallelConfig(),
        source=source(),
        validation=None,
        loss=answer_losses,
        modules=modules_of(encoder, config, initial=True),
    )
    assert "embedding.word_embeddings.weight" in stored(tmp_path / "alone")
