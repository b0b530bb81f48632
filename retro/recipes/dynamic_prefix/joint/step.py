"""The step `joint`, as the recipe lists it; what it does is in run.py, which is imported when it runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retro.common.errors import ConfigError
from retro.recipes.base import Made, Step, StepRun
from retro.recipes.dynamic_prefix.config import DynamicPrefixConfig
from retro.recipes.dynamic_prefix.joint.config import JointConfig

NAME = "joint"


def joint_settings(settings: DynamicPrefixConfig) -> JointConfig:
    """The section `joint`.

    Raises:
        ConfigError: There is none.
    """
    found: JointConfig | None = settings.joint
    if found is None:
        need = "needs settings for the step `joint`: at least the model of its retriever"
        raise ConfigError("recipe.dynamic_prefix.joint", None, need)
    return found


def _run(work: StepRun) -> Made:
    from retro.recipes.dynamic_prefix.joint import run as joint_step

    return joint_step.run(work)


def _facts(work: StepRun) -> Mapping[str, Any]:
    """The weights that it starts from, which a name in the settings does not tell."""
    from retro.index.weights import find_model, weights_digest
    from retro.recipes.dynamic_prefix.training.base_model import base_identity

    retriever = joint_settings(work.settings).retriever
    towers = {"model": retriever.model, "query_model": retriever.query_model}
    own = {
        name: weights_digest(find_model(retriever.model_copy(update={"model": model})))
        for name, model in towers.items()
        if model is not None
    }
    return {**base_identity(work), "retriever": own}


def _inputs(work: StepRun) -> list[Path]:
    data = work.settings.data
    given = (data.train, data.test, data.passages.passages if data.retrieve else None)
    return [path for path in given if path is not None]


def _needs(settings: DynamicPrefixConfig) -> tuple[str, ...]:
    own = ("retrieve", "train")
    return own if settings.train.base is not None else (*own, "corpus", "pretrain")


JOINT = Step(
    name=NAME,
    summary="Train retriever and reader together, by the likelihood of answers over the documents found.",
    run=_run,
    needs=_needs,
    settings=("data", "prefix", "train", "joint"),
    inputs=_inputs,
    facts=_facts,
    collective=True,
    wanted=lambda settings: settings.joint is not None and settings.data.train is not None,
)
