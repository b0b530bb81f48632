"""A recipe of the steps of training alone, for tests: their inputs are written by the test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from retro.common.config import StageConfig
from retro.recipes.base import Made, Step, StepRun
from retro.recipes.dense_retriever.data.data_config import DataConfig
from retro.recipes.dense_retriever.training import mine, reader_scores, train
from retro.recipes.dense_retriever.training.config import PretrainConfig, StartConfig, TinyEncoderConfig, TrainConfig
from retro.recipes.dense_retriever.training.mine_config import MineConfig, ReaderScoresConfig
from retro.run.config import RunConfig


class Settings(StageConfig):
    """Those sections of the recipe that training reads."""

    data: DataConfig = DataConfig(valid=1e-9)
    """See there. Held out is what the test writes as such."""
    pretrain: PretrainConfig | None = None
    """See there."""
    mine: MineConfig | None = None
    """See there."""
    reader_scores: ReaderScoresConfig | None = None
    """See there."""
    train: TrainConfig = TrainConfig()
    """See there."""


class Steps:
    """The recipe."""

    name = "toy"
    summary = "A toy."
    config = Settings
    special_tokens: tuple[str, ...] = ()
    steps = (
        Step(name="segments", summary="Written by the test.", run=lambda _: Made()),
        Step(name="pairs", summary="Written by the test.", run=lambda _: Made()),
        train.PRETRAIN,
        mine.MINE,
        reader_scores.READER_SCORES,
        train.TRAIN,
    )


TINY = StartConfig(
    model=None, max_tokens=32,
    tiny=TinyEncoderConfig(hidden=64, layers=1, heads=2, vocabulary=2000, max_tokens=32, dropout=0.0),
)  # fmt: skip


def step_run(home: Path, name: str, **sections: Any) -> StepRun:
    """A step of the recipe in the run directory `home`."""
    recipe = Steps()
    step = next(one for one in recipe.steps if one.name == name)
    work = StepRun(recipe=recipe, step=step, config=RunConfig(run_dir=home), settings=Settings(**sections))
    work.directory.mkdir(parents=True, exist_ok=True)
    return work


def do(home: Path, name: str, **sections: Any) -> Made:
    """Run a step."""
    work = step_run(home, name, **sections)
    return work.step.run(work)
