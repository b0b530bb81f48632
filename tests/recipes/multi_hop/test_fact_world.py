"""The recipe from items to scores in a world where a question takes two facts: at few steps, and (slow) until it works."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from retro.qa.answer_files import read_answers
from retro.recipes.base import RECIPES, run_recipe
from retro.recipes.multi_hop.item_files import write_items
from retro.run.config import RunConfig, load_run_config
from retro.run.pipeline import stage
from retro.training import checkpoint
from retro.training.result import of_stage
from tests.recipes.multi_hop import fact_world as world

RECIPE = RECIPES.find("multi_hop", "recipe")
EMBEDDER = {"kind": "hashing", "dimension": 4096}


def config_of(folder: Path, *, steps: int, items: int, questions: int, **tune: Any) -> RunConfig:
    """A run in the world, its files written, its stages made."""
    known = world.facts(9)
    world.write_tokenizer(folder / "tokenizer.json")
    world.write_corpus(folder / "corpus.jsonl", known)
    write_items(folder / "items.jsonl", world.items(items, 3))
    (folder / "questions.json").write_text(json.dumps(world.questions(known, questions, 7)))
    (folder / "texts.yaml").write_text(yaml.safe_dump(world.TEXTS))
    train = {"micro_batch": 32, "global_batch": 32, "lr": 3e-3, "schedule": "cosine", "precision": "float32"}
    train |= {"evaluate_every": 10_000, "steps": steps, "warmup_steps": steps // 20}
    recipe = {
        "training": {"items": f"{folder}/items.jsonl", "tune": {"train": train, **tune}},
        "answer": {
            "questions": f"{folder}/questions.json",
            "count": None,
            "texts": f"{folder}/texts.yaml",
            "retriever": {"kind": "contexts", "n": 1, "embedder": EMBEDDER},
            "model": {"max_new_tokens": 40},
            "batch_size": 8,
        },
    }
    settings = {
        "run_dir": f"{folder}/run",
        "corpus.sources": f"[{{name: facts, path: {folder}/corpus.jsonl}}]",
        "corpus.tokenizer": f"{{kind: huggingface, path: {folder}/tokenizer.json}}",
        "corpus.split": "[1.0, 0.0, 0.0]",
        "db": "{unit: row, window: 16}",
        "index.embedder": json.dumps(EMBEDDER),
        "model": "{layers: 3, hidden_size: 64, heads: 4, query_groups: 4, ffn_hidden_size: 256, sequence_length: 128, "
        "retrieval: false, vocabulary_multiple: 1, init_std: 0.1}",
        "train": "{steps: 2, warmup_steps: 0, lr: 1.0e-6, precision: float32}",
        "generate": "{precision: float32}",
        "recipe.multi_hop": json.dumps(recipe),
    }
    config = load_run_config(None, [f"{name}={value}" for name, value in settings.items()])
    for name in ("corpus", "db", "index", "pretrain"):
        stage(name).run(config)
    return config


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """All steps run, at so few steps of training that nothing is learned."""
    config = config_of(tmp_path_factory.mktemp("few"), steps=3, items=64, questions=10)
    run_recipe(RECIPE, config)
    return config


def home(config: RunConfig) -> Path:
    return config.run_dir / "recipe_multi_hop"


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def other(made: RunConfig, run_dir: Path, **answer: Any) -> RunConfig:
    """A run that answers with the model that is there."""
    settings = read_settings(made)
    model = {"path": str(home(made) / "model" / "sft"), "max_new_tokens": 40} | answer.pop("model", {})
    settings = {"answer": settings["answer"] | {"model": model} | answer}
    return made.model_copy(update={"run_dir": run_dir, "recipe": {"multi_hop": settings}})


def read_settings(made: RunConfig) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(made.recipe["multi_hop"]))
    return found


def exact(config: RunConfig, setting: str = "answer") -> float:
    scores = read(home(config) / "scores" / "evaluate" / "scores.json")
    return float(scores["settings"][setting]["exact_match"]["mean"])


@pytest.mark.slow
def test_decomposition_answers_what_one_search_cannot(tmp_path: Path) -> None:
    config = config_of(tmp_path, steps=300, items=10_000, questions=100)
    run_recipe(RECIPE, config)
    assert exact(config) >= 0.95
    table = read(home(config) / "scores" / "hops.json")
    assert table["counts"]["hops"] == {"2": 100}
    assert table["recall_after_hop"][0] == 0.5
    assert table["recall_after_hop"][1] >= 0.95

    # The same model finds the same in the run's database.
    database = {"kind": "database", "n": 1}
    shutil.copytree(config.run_dir, tmp_path / "database", ignore=shutil.ignore_patterns("recipe_*"))
    searched = other(config, tmp_path / "database", retriever=database)
    run_recipe(RECIPE, searched)
    assert exact(searched) >= 0.95

    # With one search for the whole question it has the link, and nothing to answer from.
    once = other(config, tmp_path / "once", method="one_search", compare_with=str(home(config) / "scores"))
    run_recipe(RECIPE, once)
    assert exact(once) <= 3 / world.VALUES
    compared = read(home(once) / "scores" / "comparison.json")
    assert compared["metrics"]["exact_match"]["p"] < 1e-6
    assert "| exact_match | " in (home(once) / "scores" / "comparison.md").read_text()


def test_every_step_leaves_what_it_says(made: RunConfig) -> None:
    steps = {path.parent.name for path in home(made).glob("*/manifest.json")}
    assert steps == {"samples", "model", "answer", "scores"}
    counts = read(home(made) / "samples" / "manifest.json")["counts"]
    assert counts == {"train": {"multi_hop": 48, "single_hop": 16}}
    answers = read_answers(home(made) / "answer" / "answers" / "answer.jsonl")
    assert len(answers) == 10
    assert all("hops" in one.details["multi_hop"] for one in answers)
    scores = read(home(made) / "scores" / "evaluate" / "scores.json")
    assert scores["metrics"] == ["word_recall", "match_norm", "exact_match", "f1"]
    assert set(scores["settings"]) == {"answer", "whole_text"}


def test_the_model_knows_the_tokens(made: RunConfig) -> None:
    info = checkpoint.read_info(checkpoint.find(of_stage(home(made) / "model" / "sft")))
    before = checkpoint.read_info(checkpoint.find(made.run_dir / "5_pretrain" / "gpt"))
    assert info.shape.vocabulary == before.shape.vocabulary + 3


def test_a_second_call_makes_nothing_again(made: RunConfig) -> None:
    before = {path: path.stat().st_mtime_ns for path in home(made).rglob("*.json*")}
    run_recipe(RECIPE, made)
    assert {path: path.stat().st_mtime_ns for path in home(made).rglob("*.json*")} == before
