"""The recipe from files to scores in a small world: every step, again, under other settings, and killed."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from retro.common.artifacts import read_manifest, write_manifest
from retro.common.errors import ArtifactError, ConfigError, DataError
from retro.recipes.base import RECIPES, recipe_settings, run_recipe
from retro.recipes.dense_retriever import command
from retro.recipes.dense_retriever.command import run_compare
from retro.recipes.dense_retriever.config import DenseRetrieverConfig
from retro.recipes.dense_retriever.pairs import read_pairs
from retro.recipes.dense_retriever.training.saved_model import embedder_of
from retro.recipes.passages.config import PassagesConfig
from retro.recipes.passages.search import PassageRetriever
from retro.run.config import RunConfig, load_run_config
from tests.recipes.dense_retriever import world
from tests.recipes.passages.world import files_of

pytest.importorskip("sentence_transformers")
pytest.importorskip("datasets")
pytest.importorskip("accelerate")

RECIPE = RECIPES.find("dense_retriever", "recipe")
ALL = ["pairs", "segments", "train", "embed", "evaluate"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """All steps that the settings ask for."""
    config = world.config_of(tmp_path_factory.mktemp("world"))
    run_recipe(RECIPE, config)
    return config


def home(config: RunConfig) -> Path:
    return config.run_dir / "recipe_dense_retriever"


def scores(config: RunConfig) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((home(config) / "evaluate" / "embedders.json").read_text())
    return found


def manifests(config: RunConfig) -> dict[str, int]:
    return {one.parent.name: one.stat().st_mtime_ns for one in home(config).glob("*/manifest.json")}


def test_every_step_leaves_what_it_says(made: RunConfig) -> None:
    assert set(manifests(made)) == set(ALL)
    found = scores(made)
    assert set(found["sets"]) == {"passages", "positives", "questions", "cities"}
    assert found["retrievers"] == ["tuned", "hashed", "bm25", "hybrid"]
    assert {tuple(sorted(one["retrievers"])) for one in found["sets"].values()} == {
        ("bm25", "hashed", "hybrid", "tuned")
    }
    held_out = read_pairs(home(made) / "pairs" / "valid.jsonl")
    assert found["sets"]["passages"]["questions"] == found["sets"]["positives"]["passages"] == len(held_out)
    # Five windows of 25 words and a title.
    assert found["sets"]["passages"]["passages"] == sum(1 for _ in (home(made) / "segments" / "passages.jsonl").open())
    assert found["sets"]["passages"]["without_relevant"] == 0


def test_words_find_every_town_and_are_measured_in_every_unit(made: RunConfig) -> None:
    metrics = scores(made)["sets"]["passages"]["retrievers"]["bm25"]["metrics"]
    assert {metrics[f"{unit}_top5"]["mean"] for unit in ("segment", "document", "answer")} == {1.0}
    assert metrics["ndcg10"]["mean"] > 0.5
    # A question in `questions` has answers alone, one in BEIR's form grades alone.
    sets = scores(made)["sets"]
    for name, units in (("questions", {"answer"}), ("cities", {"segment", "ndcg10", "recall20"})):
        assert {key.partition("_")[0] for key in sets[name]["retrievers"]["bm25"]["metrics"]} == units


def test_learning_curves_are_those_of_training(made: RunConfig) -> None:
    curves = json.loads((home(made) / "evaluate" / "curves.json").read_text())
    assert [step for step, _ in curves["eval_top5"]] == [0, 2, 4, 6]
    assert (home(made) / "evaluate" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_second_run_does_nothing(made: RunConfig) -> None:
    before = manifests(made)
    run_recipe(RECIPE, made)
    assert manifests(made) == before


def test_the_embedded_segments_are_passages_for_other_recipes(made: RunConfig) -> None:
    segments = home(made) / "segments" / "passages.jsonl"
    embedder = {
        "kind": "sentence_transformers", "model": str(home(made) / "train" / "model"), "max_tokens": 32,
        "precision": "float32",
    }  # fmt: skip
    config = PassagesConfig(passages=segments, embeddings=str(home(made) / "embed"), embedder=embedder)
    retriever = PassageRetriever.open(config)
    first = json.loads(segments.read_text().partition("\n")[0])
    [found] = retriever.search([f"{first['title']} {first['text']}"], 5)
    assert first["id"] in [one.document_id for one in found]


def test_retrievers_of_the_run_are_compared(made: RunConfig, capsys: pytest.CaptureFixture[str]) -> None:
    run_compare([str(made.run_dir), "a=bm25", "b=tuned", f"out={made.run_dir}/compared"])
    found = json.loads((made.run_dir / "compared" / "retriever_pairs.json").read_text())
    assert set(found["sets"]) == {"passages", "positives", "questions", "cities"}
    assert found["sets"]["passages"]["metrics"]["document_top5"]["a"] == 1.0
    capsys.readouterr()


def folder_of(made: RunConfig, tmp_path: Path, *steps: str) -> Path:
    """A copy of the world with some finished steps."""
    world.write_files(tmp_path)
    for name in steps:
        shutil.copytree(home(made) / name, tmp_path / "run" / "recipe_dense_retriever" / name)
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "step"),
    [
        ({"data": {"sources": [{"path": "PAIRS"}], "valid": 0.3}}, "pairs"),
        ({"segments": {"sources": [{"name": "towns", "path": "DOCUMENTS"}], "window": 24, "step": 6}}, "segments"),
        ({"train": {"batch_size": 16}}, "train"),
        ({"embed": {"dtype": "float32"}}, "embed"),
        ({"evaluate": {"at": [1, 2]}}, "evaluate"),
    ],
)
def test_a_step_under_other_settings_is_out_of_date(made: RunConfig, changes: dict[str, Any], step: str) -> None:
    folder = made.run_dir.parent
    text = (
        json.dumps(changes).replace("PAIRS", f"{folder}/pairs.jsonl").replace("DOCUMENTS", f"{folder}/documents.jsonl")
    )
    with pytest.raises(ArtifactError, match=rf"recipe_dense_retriever/{step}"):
        run_recipe(RECIPE, world.config_of(folder, **json.loads(text)), step)


def test_a_changed_model_makes_later_steps_out_of_date(made: RunConfig) -> None:
    path = home(made) / "train" / "manifest.json"
    kept = path.read_bytes()
    try:
        changed = json.loads(kept)
        manifest = read_manifest(path.parent, "dense_retriever.train")
        write_manifest(path.parent, type(manifest)(**{**vars(manifest), "counts": {"steps": 999}}))
        for step in ("embed", "evaluate"):
            with pytest.raises(ArtifactError, match=rf"recipe_dense_retriever/{step}.*train"):
                run_recipe(RECIPE, made, step)
        assert changed["counts"] != {"steps": 999}
    finally:
        path.write_bytes(kept)


def test_a_changed_beir_folder_makes_the_scores_out_of_date(made: RunConfig) -> None:
    path = made.run_dir.parent / "cities" / "qrels" / "test.tsv"
    kept = path.read_text()
    try:
        path.write_text(f"{kept}q1\td2\t1\n")
        with pytest.raises(ArtifactError, match="recipe_dense_retriever/evaluate"):
            run_recipe(RECIPE, made, "evaluate")
    finally:
        path.write_text(kept)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"train": {"objective": "distillation"}}, "reader_scores = None: needs settings of the reader"),
        ({"train": {"negatives": 1, "refresh_every": 5}}, "mine = None: needs settings of mining, with the source"),
    ],
)
def test_what_training_reads_has_to_be_asked_for(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        DenseRetrieverConfig(**changes)


def test_the_example_has_settings_that_the_recipe_knows() -> None:
    config = load_run_config(Path(command.__file__).parent / "config.yaml", [])
    settings = recipe_settings(config, RECIPE)
    assert isinstance(settings, DenseRetrieverConfig)
    assert (settings.train.schedule, settings.train.plateau.patience) == ("plateau", 20)
    assert [one.name for one in settings.evaluate.retrievers] == ["tuned", "contriever", "minilm", "bm25", "hybrid"]


def test_mining_comes_between_segments_and_training(tmp_path: Path) -> None:
    start = {"model": None, "tiny": world.TINY, "max_tokens": 32}
    train = {"start": start, "batch_size": 8, "steps": 2, "negatives": 1, "evaluate_every": 0, "collapse": 0.0}
    config = world.config_of(tmp_path, mine={"sources": ["bm25"], "count": 2}, train=train)
    run_recipe(RECIPE, config, "train", until=True)
    assert set(manifests(config)) == {"pairs", "segments", "mine", "train"}
    manifest = read_manifest(home(config) / "train", "dense_retriever.train")
    assert set(manifest.parents) == {"pairs", "mine"}


def test_without_a_tuned_retriever_nothing_is_trained(tmp_path: Path) -> None:
    evaluate = {"retrievers": [{"name": "bm25", "kind": "bm25"}], "at": [1, 5]}
    config = world.config_of(tmp_path, evaluate=evaluate)
    run_recipe(RECIPE, config)
    assert set(manifests(config)) == {"pairs", "segments", "evaluate"}
    assert not (home(config) / "evaluate" / "curves.json").exists()


def test_a_beir_folder_alone_needs_no_pairs(tmp_path: Path) -> None:
    world.write_files(tmp_path)
    evaluate = {
        "retrievers": [{"name": "bm25", "kind": "bm25"}],
        "against": [],
        "beir": [{"path": f"{tmp_path}/cities"}],
    }
    config = world.config_of(tmp_path, data={}, segments={}, train={}, embed={}, evaluate=evaluate)
    run_recipe(RECIPE, config)
    assert set(manifests(config)) == {"evaluate"}
    # Both questions share words with the document that answers them, and one more does.
    found = scores(config)["sets"]["cities"]["retrievers"]["bm25"]["metrics"]
    assert found["segment_top5"]["mean"] == 1.0


def test_a_missing_beir_folder_is_named_before_anything_is_searched(made: RunConfig) -> None:
    folder = made.run_dir.parent
    evaluate = {"beir": [{"path": f"{folder}/nothing"}]}
    with pytest.raises(DataError, match=r"nothing/corpus.jsonl: no such file"):
        run_recipe(RECIPE, world.config_of(folder, evaluate=evaluate), "evaluate")


@pytest.mark.parametrize(("step", "writes"), [("embed", 2), ("evaluate", 4), ("evaluate", 20)])
def test_a_killed_step_ends_in_the_same_bytes(made: RunConfig, tmp_path: Path, step: str, writes: int) -> None:
    before = ALL[: ALL.index(step)]
    folder = folder_of(made, tmp_path, *before)
    root = Path(__file__).parents[3]
    command = [sys.executable, "-m", "tests.recipes.dense_retriever.killed_step", str(folder), step, str(writes)]
    assert subprocess.run(command, cwd=root, check=False, capture_output=True).returncode == -signal.SIGKILL
    config = world.config_of(folder)
    assert step not in manifests(config)
    run_recipe(RECIPE, config, step)
    assert bytes_of(config, step) == bytes_of(made, step)


def bytes_of(config: RunConfig, step: str) -> dict[str, bytes]:
    """The files of a step, but for what says where and when."""
    kept = ("config.json", "report.json", "manifest.json")
    found = files_of(home(config) / step)
    return {name: content for name, content in found.items() if name not in kept and not name.startswith(".")}


def test_the_readmes_passages_are_searched_with_the_settings_as_they_stand_there(made: RunConfig) -> None:
    text = (Path(command.__file__).parent / "README.md").read_text(encoding="utf-8")
    [block] = [one for one in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if one.startswith("passages:")]
    settings = yaml.safe_load(block.replace("runs/dense_retriever", str(made.run_dir)))["passages"]
    # The world's shards are in float32; by default both are in what the machine is fast in.
    settings["embedder"]["precision"] = "float32"
    config = PassagesConfig(**settings)
    retriever = PassageRetriever.open(config)
    [found] = retriever.search(["Who is mayor of town3?"], 2)
    assert len(found) == 2
    trained = embedder_of(home(made) / "train")
    assert config.embedder.max_tokens != trained.max_tokens == retriever.identity["embedder"]["max_tokens"]
