"""A model with more tokens than the one that it starts from: new rows are the mean of the others, and are trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from retro.common.errors import TrainingError
from retro.model.config import ModelShape
from retro.model.convert.source import AddedTokens
from retro.model.weight_names import EMBEDDING, OUTPUT
from retro.training import checkpoint
from retro.training.config import ParallelConfig, TrainConfig
from retro.training.data_loader import DataLoader
from retro.training.init_from import start_from
from retro.training.loop import build_engine, train
from retro.training.validation import token_losses
from tests.model.convert.folders import ROWS, make_folder
from tests.model.tiny import VOCABULARY, tiny_inputs
from tests.training.fake import CycleSource
from tests.training.test_init_from import shape_of
from tests.training.test_loop import SETTINGS, run

NEW = 3
MODELS: dict[str, dict[str, Any]] = {
    "untied": {"tied_embeddings": False},
    "tied": {"tied_embeddings": True},
    "padded": {"tied_embeddings": False, "vocabulary_multiple": 8},
}


def grown(shape: ModelShape) -> ModelShape:
    return shape.model_copy(update={"vocabulary": shape.vocabulary + NEW, "tokenizer": "new"})


def made(out: Path, **model: Any) -> Path:
    run(out, steps=1, warmup_steps=0, save_every=1, **model)
    return checkpoint.find(out)


def added_to(base: Path) -> AddedTokens:
    shape = checkpoint.read_info(base).shape
    return AddedTokens(shape=shape, known=shape.vocabulary)


@pytest.mark.parametrize("name", list(MODELS))
def test_new_rows_are_the_mean_of_the_known_ones_and_the_rest_is_as_it_was(tmp_path: Path, name: str) -> None:
    base = made(tmp_path, **MODELS[name])
    added = added_to(base)
    shape = grown(added.shape)
    engine = build_engine(shape, TrainConfig(**SETTINGS), ParallelConfig(), known_tokens=VOCABULARY)
    start_from(engine, shape, base, added)
    before = dict(checkpoint.load_model(base)[0].named_parameters())
    for name_, weight in engine.chunks[0].named_parameters():
        if name_ not in (EMBEDDING, OUTPUT):
            assert torch.equal(weight, before[name_]), name_
            continue
        known = before[name_][:VOCABULARY]
        assert torch.equal(weight[:VOCABULARY], known)
        torch.testing.assert_close(weight[VOCABULARY:], known.mean(0).expand(len(weight) - VOCABULARY, -1))
    plain, _ = checkpoint.load_model(base)
    inputs = tiny_inputs(30)
    with torch.no_grad():
        logits = engine.chunks[0].eval()(*inputs.args())[..., :VOCABULARY]
        torch.testing.assert_close(logits, plain(*inputs.args())[..., :VOCABULARY])


def test_without_saying_so_another_vocabulary_is_another_architecture(tmp_path: Path) -> None:
    base = made(tmp_path)
    shape = grown(checkpoint.read_info(base).shape)
    engine = build_engine(shape, TrainConfig(**SETTINGS), ParallelConfig())
    with pytest.raises(TrainingError, match="tokens in the tokenizer is"):
        start_from(engine, shape, base)


@pytest.mark.parametrize(
    "settings", [{"lora": {"rank": 2}}, {"train_only": "retrieval"}, {"lora": {"rank": 2}, "precision": "bfloat16"}]
)
@pytest.mark.parametrize("name", list(MODELS))
def test_with_a_frozen_decoder_only_the_new_rows_of_the_vocabulary_learn(
    tmp_path: Path, name: str, settings: dict[str, Any]
) -> None:
    base = made(tmp_path, **MODELS[name])
    added = added_to(base)
    shape = grown(added.shape)
    config = TrainConfig(**(SETTINGS | {"warmup_steps": 0, "lr": 3e-2, "weight_decay": 0.1} | settings))
    engine = build_engine(shape, config, ParallelConfig(), known_tokens=VOCABULARY)
    start_from(engine, shape, base, added)
    (model,) = engine.chunks
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    with DataLoader(CycleSource(), shape, engine.chunks, 4) as loader:
        for first in range(0, 24, 8):
            engine.step(loader.work(np.arange(first, first + 8)), token_losses)
    after = dict(model.named_parameters())
    for row in (EMBEDDING, OUTPUT):
        if row in before:
            assert torch.equal(after[row][:VOCABULARY], before[row][:VOCABULARY])
    # As labels and inputs the new tokens do not occur; as candidates of the softmax they do.
    rows = OUTPUT if OUTPUT in before else EMBEDDING
    assert not torch.equal(after[rows][VOCABULARY:], before[rows][VOCABULARY:])


def test_a_run_of_adapters_saves_the_rows_and_goes_on_with_them(tmp_path: Path) -> None:
    base = made(tmp_path / "base")
    added = added_to(base)
    arguments: dict[str, Any] = {
        "shape": grown(added.shape),
        "config": TrainConfig(**(SETTINGS | {"lora": {"rank": 2}, "steps": 4})),
        "layout": ParallelConfig(),
        "validation": None,
        "start_from": base,
        "added": added,
    }
    whole = train(out=tmp_path / "whole", source=CycleSource(), **arguments)
    with pytest.raises(KeyboardInterrupt):
        train(out=tmp_path / "broken", source=CycleSource(broken_after=20), **arguments)
    resumed = train(out=tmp_path / "broken", source=CycleSource(), **arguments)
    assert resumed.weights_sha256 == whole.weights_sha256
    model, info = checkpoint.load_model(checkpoint.find(tmp_path / "whole"))
    assert info.shape.vocabulary == VOCABULARY + NEW
    rows = dict(model.named_parameters())[OUTPUT]
    known = dict(checkpoint.load_model(base)[0].named_parameters())[OUTPUT]
    assert torch.equal(rows[:VOCABULARY], known)
    assert not torch.allclose(rows[VOCABULARY], known.mean(0))


@pytest.mark.parametrize("family", ["llama, grouped queries", "gpt2"])
def test_a_folder_of_another_toolkit_is_a_start_too(tmp_path: Path, family: str) -> None:
    plain = make_folder(tmp_path / "folder", family)
    theirs = shape_of(tmp_path / "folder", sequence_length=16)
    shape, added = grown(theirs), AddedTokens(shape=theirs, known=ROWS - 2)
    engine = build_engine(shape, TrainConfig(**SETTINGS), ParallelConfig(), known_tokens=added.known)
    start_from(engine, shape, tmp_path / "folder", added)
    rows = dict(engine.chunks[0].named_parameters())[EMBEDDING]
    known = plain.get_input_embeddings().weight[: ROWS - 2]
    assert torch.equal(rows[: ROWS - 2], known)
    # Rows of the folder that no token of its tokenizer has are new as well.
    torch.testing.assert_close(rows[ROWS - 2 : ROWS + NEW], known.mean(0).expand(NEW + 2, -1))
