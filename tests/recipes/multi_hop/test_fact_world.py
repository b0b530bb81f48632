"""The recipe from items to scores in a world of two-hop facts: at few steps, and (slow) until it works."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from retro.qa.answer_files import read_answers
from retro.recipes.base import run_recipe
from retro.run.config import RunConfig
from retro.training import checkpoint
from retro.training.result import of_stage
from tests.recipes.multi_hop import fact_world as world
from tests.recipes.multi_hop.fact_run import RECIPE, config_of, exact, home, other, read


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
    assert steps == {"samples", "model", "export", "answer", "scores"}
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
