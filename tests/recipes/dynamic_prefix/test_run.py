"""The recipe's steps `retrieve` and `train` in a small world, at few steps; stopped, and under bad inputs."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from retro.common.artifacts import read_manifest
from retro.common.errors import ArtifactError, ConfigError, DataError
from retro.recipes.base import RECIPES, run_recipe
from retro.recipes.dynamic_prefix.training.loading import load_prefix_model
from retro.run.config import RunConfig, load_run_config
from retro.training import checkpoint
from tests.recipes.dynamic_prefix import fact_world

RECIPE = RECIPES.find("dynamic_prefix", "recipe")
TRAINING: dict[str, Any] = {
    "steps": 3, "micro_batch": 4, "global_batch": 4, "lr": 1e-3, "precision": "float32", "train_only": "modules",
    "save_every": 1, "evaluate_every": 3, "warmup_steps": 0,
}  # fmt: skip
PREFIX: dict[str, Any] = {
    "documents": 2,
    "max_document_tokens": 8,
    "encoder": {"layers": 1, "hidden_size": 16, "heads": 2, "vocabulary": "model"},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of few steps, and questions."""
    folder = tmp_path_factory.mktemp("world")
    fact_world.train_model(folder, steps=2)
    items = fact_world.questions(40, 1, held_out=False, documents=2)
    fact_world.write_questions(folder / "train.jsonl", [*items[:39], items[39] | {"ctxs": []}])
    fact_world.write_questions(folder / "test.jsonl", fact_world.questions(5, 2, held_out=True, documents=2))
    return folder


def config_of(world: Path, run: Path, **changes: Any) -> RunConfig:
    settings: dict[str, Any] = {
        "data": {"train": str(world / "train.jsonl"), "test": str(world / "test.jsonl"), "valid_share": 0.2},
        "prefix": PREFIX,
        "train": {"base": str(world / "model"), "question": fact_world.TEMPLATE, "train": TRAINING},
    }
    for name, section in changes.items():
        settings[name] = settings.get(name, {}) | section
    return load_run_config(None, [f"run_dir={run}", f"recipe.dynamic_prefix={json.dumps(settings)}"])


def home(config: RunConfig) -> Path:
    return config.run_dir / "recipe_dynamic_prefix"


@pytest.fixture(scope="module")
def made(world: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    config = config_of(world, tmp_path_factory.mktemp("made") / "run")
    run_recipe(RECIPE, config, "retrieve")
    run_recipe(RECIPE, config, "train")
    return config


def test_questions_are_split_by_document_and_counted(made: RunConfig) -> None:
    counts = read_manifest(home(made) / "retrieve", "dynamic_prefix.retrieve").counts
    assert counts["train.jsonl"]["questions"] + counts["valid.jsonl"]["questions"] == 40
    assert sum(counts[f"{part}.jsonl"]["without_documents"] for part in ("train", "valid")) == 1
    assert counts["test.jsonl"] == {"questions": 5, "without_documents": 0, "with_fewer_documents": 0}
    parts = [
        {json.loads(line)["document"] for line in (home(made) / "retrieve" / f"{part}.jsonl").read_text().splitlines()}
        for part in ("train", "valid")
    ]
    assert parts[0]
    assert parts[1]
    assert not parts[0] & parts[1]


def test_training_says_what_it_used_and_opens(made: RunConfig) -> None:
    counts = read_manifest(home(made) / "train", "dynamic_prefix.train").counts
    assert counts["result"]["steps"] == 3
    assert counts["result"]["valid_loss"] is not None
    assert counts["train"]["questions"] + counts["train"]["left_out_without_documents"] >= 30
    assert counts["train"]["documents_cut"] == 0
    opened = load_prefix_model(home(made) / "train")
    assert opened.encoder.tokenize(["food of alan is soup ."]) == [[4, 5, 7, 6, 23, 3]]
    assert opened.config.documents == 2


def test_finished_steps_are_not_run_again(made: RunConfig, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        run_recipe(RECIPE, made, "train")
    assert "already complete" in caplog.text


def test_a_kill_in_either_step_ends_in_the_same_bytes(
    made: RunConfig, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from retro.recipes.dynamic_prefix.training import encoder_files
    from retro.recipes.dynamic_prefix.training import questions as data
    from retro.training import loop

    config = config_of(world, tmp_path / "run")

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(data, "_part", killed)
        run_recipe(RECIPE, config, "retrieve")
    run_recipe(RECIPE, config, "retrieve")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(encoder_files, "bert_settings", killed)
        run_recipe(RECIPE, config, "train")
    one_step = loop._one_step
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(loop, "_one_step", lambda *given: one_step(*given) if given[3] < 3 else killed())
        run_recipe(RECIPE, config, "train")
    assert checkpoint.find(home(config) / "train" / "prefix").name == "step_00000002"
    run_recipe(RECIPE, config, "train")
    for step in ("retrieve", "train"):
        again, whole = (read_manifest(home(one) / step, f"dynamic_prefix.{step}") for one in (config, made))
        assert again.counts == whole.counts
    names = sorted(path.name for path in (home(made) / "retrieve").glob("*.jsonl"))
    assert names == ["test.jsonl", "train.jsonl", "valid.jsonl"]
    for name in names:
        assert (home(made) / "retrieve" / name).read_bytes() == (home(config) / "retrieve" / name).read_bytes()
    weights = [sorted((home(one) / "train" / "prefix" / "checkpoints").rglob("*.distcp")) for one in (made, config)]
    assert [one.read_bytes() for one in weights[0]] == [one.read_bytes() for one in weights[1]]


def test_documents_are_found_by_the_inner_product_of_embeddings(world: Path, tmp_path: Path) -> None:
    from retro.recipes.passages.embed import embed_shard

    passages = [{"id": f"p{number}#0", "title": "", "text": text} for number, text in enumerate(
        ("food of alan is soup .", "food of bea is tea .", "food of carl is rice .")
    )]  # fmt: skip
    fact_world.write_questions(tmp_path / "passages.jsonl", passages)
    items = [{"id": "a", "question": "food of bea", "answers": ["tea"]}]
    fact_world.write_questions(tmp_path / "test.jsonl", items)
    search = {
        "passages": str(tmp_path / "passages.jsonl"), "embeddings": str(tmp_path / "shards" / "*"),
        "embedder": {"kind": "hashing", "dimension": 256},
    }  # fmt: skip
    data = {"train": None, "test": str(tmp_path / "test.jsonl"), "retrieve": True, "passages": search}
    config = config_of(world, tmp_path / "run", data=data, prefix={"documents": 1})
    embed_all(config, embed_shard, tmp_path / "shards")
    run_recipe(RECIPE, config)
    (line,) = (home(config) / "retrieve" / "test.jsonl").read_text().splitlines()
    found = json.loads(line)
    assert [one["id"] for one in found["ctxs"]] == ["p1#0"]
    assert found["document"] == "p1"
    # Without questions to train on there is nothing to train.
    assert not (home(config) / "train").exists()


def embed_all(config: RunConfig, embed_shard: Any, folder: Path) -> None:
    """The only shard of the passages."""
    from retro.recipes.base import recipe_settings

    settings: Any = recipe_settings(config, RECIPE)
    folder.mkdir()
    embed_shard(settings.data.passages, folder, shard=0, shards=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"train": None, "test": None}}, r"data.train = None: needs a file of questions"),
        ({"data": {"valid_share": 0.9999999}}, r"data.valid_share = 0.9999999: needs a share that leaves documents"),
    ],
)
def test_data_that_cannot_work_is_refused(world: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run_recipe(RECIPE, config_of(world, tmp_path / "run", **changes), "retrieve")


def test_questions_without_any_document_are_refused(world: Path, tmp_path: Path) -> None:
    items = [{"id": "a", "question": "who", "answers": ["me"]}]
    file = fact_world.write_questions(tmp_path / "bare.jsonl", items)
    with pytest.raises(DataError, match="none of its questions has documents"):
        run_recipe(RECIPE, config_of(world, tmp_path / "run", data={"train": str(file)}), "retrieve")


def trained_with(made: RunConfig, world: Path, run: Path, *more: str, **changes: Any) -> None:
    """The step `train` on what the other run has retrieved."""
    config = config_of(world, run, **changes)
    config = load_run_config(None, [
        f"run_dir={run}", f"recipe.dynamic_prefix={json.dumps(config.recipe['dynamic_prefix'])}", *more
    ])  # fmt: skip
    run_recipe(RECIPE, config, "retrieve")
    run_recipe(RECIPE, config, "train")


@pytest.mark.parametrize(
    ("changes", "more", "message"),
    [
        ({}, ["parallel.pipeline=2"], r"parallel.pipeline = 2: needs 1: all layers read the states of one encoder"),
        ({"prefix": {"layers": [5]}}, [], r"prefix.layers = \[5\]: needs numbers below 2"),
        ({"train": {"sequence_length": 64}}, [], r"train.sequence_length = 64: needs at most 32"),
        ({"train": {"sequence_length": 1}}, [], r"train.sequence_length = 1: needs room for"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    made: RunConfig, world: Path, tmp_path: Path, changes: dict[str, Any], more: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        trained_with(made, world, tmp_path / "run", *more, **changes)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"train": {"train_only": "modules", "recompute": "full"}},
            "recompute none or selective: a layer that is comp",
        ),
        ({"train": {"train_only": "all"}}, "needs train_only: modules"),
        ({"question": "no place"}, r"question = 'no place': needs the text \{question\} once"),
    ],
)
def test_settings_of_training_that_cannot_work_are_refused(section: dict[str, Any], message: str) -> None:
    from retro.recipes.dynamic_prefix.config import PrefixTrainConfig

    with pytest.raises(ConfigError, match=message):
        PrefixTrainConfig(**section)


def test_heads_of_an_encoder_divide_its_width() -> None:
    from retro.recipes.dynamic_prefix.config import EncoderConfig

    with pytest.raises(ConfigError, match="heads = 3: needs a divisor of hidden_size = 8"):
        EncoderConfig(hidden_size=8, heads=3)


def test_a_quantised_base_is_refused(made: RunConfig, world: Path, tmp_path: Path) -> None:
    folder = tmp_path / "quantised"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "quantization_config": {"bits": 4}}))
    with pytest.raises(DataError, match=r"is a quantised model \(quantization_config\)"):
        trained_with(made, world, tmp_path / "run", train={"base": str(folder)})


def test_other_settings_are_refused_in_a_run_that_was_stopped(made: RunConfig, world: Path, tmp_path: Path) -> None:
    config = config_of(world, tmp_path / "run")
    run_recipe(RECIPE, config, "retrieve")
    run_recipe(RECIPE, config, "train")
    (home(config) / "train" / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match="is of an encoder made under other settings"):
        run_recipe(RECIPE, config_of(world, tmp_path / "run", prefix={"compress": 2}), "train")


def test_epochs_say_how_long(made: RunConfig, world: Path, tmp_path: Path) -> None:
    config = config_of(world, tmp_path / "run", train={"epochs": 0.5})
    run_recipe(RECIPE, config, "retrieve")
    run_recipe(RECIPE, config, "train")
    counts = read_manifest(home(config) / "train", "dynamic_prefix.train").counts
    assert counts["result"]["steps"] == -(-counts["train"]["questions"] // 8)


@pytest.mark.parametrize(
    ("step", "changes"),
    [
        ("retrieve", {"data": {"retrieve": True}}),
        ("encode", {"store": {"documents": "passages"}}),
        ("answer", {"answer": {"search": True}}),
    ],
)
def test_a_step_that_reads_the_file_of_passages_lists_it_as_an_input(
    world: Path, tmp_path: Path, step: str, changes: dict[str, Any]
) -> None:
    from retro.recipes.base import recipe_settings

    file = tmp_path / "passages.tsv"

    def inputs(**changed: Any) -> list[Path]:
        data = {"passages": {"passages": str(file)}} | changed.pop("data", {})
        config = config_of(world, tmp_path / "run", data=data, **changed)
        settings: Any = recipe_settings(config, RECIPE)
        (found,) = (one for one in RECIPE.steps if one.name == step)
        work: Any = SimpleNamespace(settings=settings)
        return list(found.inputs(work))

    assert file in inputs(**changes)
    assert file not in inputs()


@pytest.mark.parametrize("vocabulary", ["model", "documents"])
def test_static_vectors_alone_are_trained_on_questions_without_documents(
    world: Path, tmp_path: Path, vocabulary: str
) -> None:
    items = [one | {"ctxs": []} for one in fact_world.questions(8, 1, held_out=False, documents=2)]
    file = fact_world.write_questions(tmp_path / "bare.jsonl", items)
    prefix = {"documents": 0, "static": 4, "encoder": PREFIX["encoder"] | {"vocabulary": vocabulary}}
    data = {"train": str(file), "test": str(file), "valid_share": 0.0}
    config = config_of(
        world, tmp_path / "run", data=data, prefix=prefix, answer={"modes": ["prefix"], "max_new_tokens": 4}
    )
    run_recipe(RECIPE, config, "answer", until=True)
    counts = read_manifest(home(config) / "train", "dynamic_prefix.train").counts
    assert counts["train"]["questions"] == 8
    assert counts["train"]["left_out_without_documents"] == 0
    answered = read_manifest(home(config) / "answer", "dynamic_prefix.answer").counts
    assert answered["questions"] == 8
