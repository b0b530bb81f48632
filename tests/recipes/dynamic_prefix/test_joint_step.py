"""The step `joint` in a run: what it leaves, that it can be stopped anywhere, what it refuses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor, nn

from retro.common.artifacts import MANIFEST, read_manifest
from retro.common.errors import ConfigError
from retro.common.files import read_json
from retro.index.embedder import EMBEDDERS
from retro.qa.question_files import read_questions
from retro.recipes.base import RECIPES, run_recipe
from retro.recipes.dynamic_prefix.config import DynamicPrefixConfig
from retro.recipes.dynamic_prefix.joint import run as joint_step
from retro.recipes.dynamic_prefix.joint.loss import JointLoss
from retro.recipes.dynamic_prefix.joint.retriever import trained_embedder
from retro.recipes.dynamic_prefix.joint.step import JOINT, joint_settings
from retro.recipes.dynamic_prefix.training.loading import load_prefix_model
from retro.run.config import RunConfig, load_run_config
from retro.tokenizers.tokenizer import save_tokenizer
from retro.training.config import ParallelConfig, TrainConfig
from retro.training.data_loader import MicroBatch
from retro.training.loop import train
from tests.recipes.dynamic_prefix.joint_world import Words, make_world, part, retriever_folder, shape

pytest.importorskip("faiss")
pytest.importorskip("transformers")

RECIPE = RECIPES.find("dynamic_prefix", "recipe")
FAST: dict[str, Any] = {
    "steps": 8, "micro_batch": 4, "global_batch": 8, "lr": 1e-3, "precision": "float32", "train_only": "modules",
    "save_every": 3, "evaluate_every": 4, "evaluate_samples": 6, "warmup_steps": 0, "log_every": 1,
}  # fmt: skip
JOINED: dict[str, Any] = {
    "documents": 3, "temperature": 0.1, "refresh_every": 4, "refresh_delay": 3, "train": FAST,
    "penalties": [{"name": "group_means", "weight": 0.1}], "group_label": "title",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model, a retriever and files of questions, of which every passage is a document."""
    folder = tmp_path_factory.mktemp("files")
    world = make_world(persons=12, held_out=2)
    words = Words(world.words)
    _write_tokenizer(folder, world.words)
    retriever_folder(folder / "retriever", world)
    lines: list[dict[str, Any]] = [
        {
            "id": one.id, "question": one.question, "answers": list(one.answers), "title": dict(one.labels)["title"],
            "ctxs": [{"id": one.document_ids[0], "title": "", "text": one.contexts[0].text}],
            "labels": dict(one.labels), "document_ids": list(one.document_ids),
        }
        for one in (*world.train, *world.valid)
    ]  # fmt: skip
    cut = len(world.train)
    for name, part_of_lines in (("train", lines[:cut]), ("test", lines[cut:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in part_of_lines))
    passages = [f"{one['ctxs'][0]['id']}\t{one['ctxs'][0]['text']}\t" for one in lines]
    (folder / "passages.tsv").write_text("\n".join(["id\ttext\ttitle", *passages]) + "\n")
    whole = FAST | {"train_only": "all", "steps": 1, "lr": 1e-6}
    fingerprint = save_tokenizer(folder / "lm" / "tokenizer.json", "huggingface", folder / "lm", "[PAD]").fingerprint
    train(
        out=folder / "model", shape=shape(words).model_copy(update={"tokenizer": fingerprint}),
        config=TrainConfig(**whole), layout=ParallelConfig(), source=part(world.train, words).source, validation=None,
        tokenizer=folder / "lm",
    )  # fmt: skip
    return folder


def _write_tokenizer(folder: Path, words: list[str]) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    made = Tokenizer(models.WordLevel(Words(words).number_of, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    (folder / "lm").mkdir()
    made.save(str(folder / "lm" / "tokenizer.json"))


def config_of(folder: Path, run: Path, *, joint: Mapping[str, Any] | None = None, **data: Any) -> RunConfig:
    retriever = {
        "kind": "huggingface", "model": str(folder / "retriever"), "pooling": "mean", "precision": "float32",
        "max_tokens": 32,
    }  # fmt: skip
    settings: dict[str, Any] = {
        "data": {"train": str(folder / "train.jsonl"), "test": str(folder / "test.jsonl"), "valid_share": 0.2, **data},
        "prefix": {
            "max_document_tokens": 12, "gate_init": 0.5,
            "encoder": {"layers": 1, "hidden_size": 16, "heads": 2, "vocabulary": "model"},
        },
        "train": {"base": str(folder / "model"), "question": "{question}", "train": FAST | {"steps": 2}},
        "joint": {"retriever": retriever, **JOINED, **(joint or {})},
    }  # fmt: skip
    return load_run_config(None, [f"run_dir={run}", f"recipe.dynamic_prefix={json.dumps(settings)}"])


def home(config: RunConfig) -> Path:
    return config.run_dir / "recipe_dynamic_prefix"


@pytest.fixture(scope="module")
def made(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    config = config_of(folder, tmp_path_factory.mktemp("made") / "run")
    run_recipe(RECIPE, config, "joint", until=True)
    return config


def test_the_folder_opens_as_that_of_the_step_train_and_as_an_embedder(made: RunConfig, folder: Path) -> None:
    out = home(made) / "joint"
    trained = load_prefix_model(out)
    assert not trained.model.training
    assert not (out / "encoder" / "initial.safetensors").exists()
    embedder = trained_embedder(out / "retriever")
    vectors = (
        EMBEDDERS.find(embedder.kind, "kind").open(embedder, out).embed_queries(["which town is the home of ba ?"])
    )
    assert vectors.shape == (1, 32)
    before = EMBEDDERS.find(embedder.kind, "kind").open(
        embedder.model_copy(update={"model": str(folder / "retriever")}), out
    )
    assert np.abs(vectors - before.embed_queries(["which town is the home of ba ?"])).max() > 1e-3


def test_which_steps_searched_in_which_index_is_written_and_what_was_found(made: RunConfig) -> None:
    out = home(made) / "joint"
    uses = read_json(out / "indexes.json", "")["indexes"]
    assert [(one["snapshot"], one["first_step"], one["last_step"]) for one in uses] == [(0, 1, 6), (4, 7, 8)]
    assert uses[1]["stale_first"] == 2
    test = read_questions(out / "test.jsonl")
    assert {one.id for one in test} == {one.id for one in read_questions(home(made) / "retrieve" / "test.jsonl")}
    assert all(len(one.contexts) == 1 for one in test)
    counts = read_manifest(out, "dynamic_prefix.joint").counts
    assert counts["documents"] == 36
    for state in ("untrained", "trained"):
        # All documents are among the first 36.
        assert counts["recall"][state]["top_36"] == 1.0
        assert 0 <= counts["recall"][state]["top_1"] <= counts["recall"][state]["top_5"] <= 1


@pytest.mark.parametrize("stop", ["step 5", "the retriever", "what is found"])
def test_stopped_anywhere_it_ends_in_the_same_bytes(
    stop: str, made: RunConfig, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(folder, tmp_path / "run")
    run_recipe(RECIPE, config, "train", until=True)
    with monkeypatch.context() as patched:
        if stop == "step 5":
            usual = JointLoss.__call__

            def stopping(self: JointLoss, model: nn.Module, batch: MicroBatch) -> tuple[Tensor, Tensor]:
                found = usual(self, model, batch)
                if self.step == 5:
                    raise KeyboardInterrupt
                return found

            patched.setattr(JointLoss, "__call__", stopping)
        else:
            patched.setattr(joint_step, "write_result" if stop == "the retriever" else "_found", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(RECIPE, config, "joint")
    assert not (home(config) / "joint" / MANIFEST).exists()
    run_recipe(RECIPE, config, "joint")
    ours, theirs = (read_manifest(home(one) / "joint", "dynamic_prefix.joint") for one in (config, made))
    assert ours.files == theirs.files
    assert ours.counts == theirs.counts


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def test_passages_of_a_file_are_searched_in_place_of_those_of_the_questions(folder: Path, tmp_path: Path) -> None:
    passages = {
        "passages": str(folder / "passages.tsv"), "embeddings": str(tmp_path / "shards"),
        "embedder": {"kind": "hashing"},
    }  # fmt: skip
    from retro.recipes.passages.config import PassagesConfig
    from retro.recipes.passages.embed import embed_shard

    embed_shard(PassagesConfig(**passages), tmp_path / "shards")
    config = config_of(folder, tmp_path / "run", retrieve=True, passages=passages, joint={"train": FAST | {"steps": 2}})
    run_recipe(RECIPE, config, "joint", until=True)
    assert read_manifest(home(config) / "joint", "dynamic_prefix.joint").counts["documents"] == 36


def test_answers_of_the_joint_reader_read_what_its_retriever_finds(folder: Path, made: RunConfig) -> None:
    own = made.recipe["dynamic_prefix"]
    answer = {"reader": "joint", "modes": ["prefix"], "max_new_tokens": 2}
    run_recipe(
        RECIPE, made.model_copy(update={"recipe": {"dynamic_prefix": {**own, "answer": answer}}}), "answer", until=True
    )
    asked = read_questions(home(made) / "answer" / "questions.jsonl")
    found = {one.id: one.contexts for one in read_questions(home(made) / "joint" / "test.jsonl")}
    assert {one.id: [each.text for each in one.contexts] for one in asked} == {
        name: [each.text for each in contexts] for name, contexts in found.items()
    }
    before = {one.id: one.contexts for one in read_questions(home(made) / "retrieve" / "test.jsonl")}
    assert any(found[name][0].text != contexts[0].text for name, contexts in before.items())


def test_layers_that_are_computed_again_without_their_prefix_are_refused(folder: Path, tmp_path: Path) -> None:
    config = config_of(folder, tmp_path, joint={"train": FAST | {"recompute": "full"}})
    with pytest.raises(ConfigError, match="recompute none or selective"):
        run_recipe(RECIPE, config, "joint")


def test_labels_come_from_the_given_file_and_are_needed(folder: Path, made: RunConfig, tmp_path: Path) -> None:
    config = config_of(folder, made.run_dir, joint={"group_label": "nobody"})
    own = config.model_copy(update={"run_dir": tmp_path / "run"})
    run_recipe(RECIPE, own, "train", until=True)
    with pytest.raises(ConfigError, match=r"joint.group_label = 'nobody': needs .*labels are: title"):
        run_recipe(RECIPE, own, "joint")


def test_more_documents_than_there_are_are_refused(folder: Path, tmp_path: Path) -> None:
    config = config_of(folder, tmp_path / "run", joint={"documents": 37})
    run_recipe(RECIPE, config, "train", until=True)
    with pytest.raises(ConfigError, match=r"joint.documents = 37: needs at most 36, all there are"):
        run_recipe(RECIPE, config, "joint")


def test_without_settings_it_is_passed_over_and_asked_for_it_says_what_it_needs() -> None:
    settings = DynamicPrefixConfig()
    assert not JOINT.wanted(settings)
    assert JOINT.needed(settings) == ("retrieve", "train", "corpus", "pretrain")
    with pytest.raises(ConfigError, match=r"recipe.dynamic_prefix.joint = None: needs settings for the step `joint`"):
        joint_settings(settings)
