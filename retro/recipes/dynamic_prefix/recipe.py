"""The recipe: its steps in order, each a thin call of the module that does it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from retro.recipes.base import Made, Served, Step, StepRun, recipe_path
from retro.recipes.dynamic_prefix.answering import steps as generation_steps
from retro.recipes.dynamic_prefix.config import DynamicPrefixConfig
from retro.recipes.dynamic_prefix.joint.step import JOINT
from retro.run.config import RunConfig


def _retrieve(work: StepRun) -> Made:
    from retro.recipes.dynamic_prefix.training import questions as data

    return data.run(work)


def _train(work: StepRun) -> Made:
    from retro.recipes.dynamic_prefix.training import train

    return train.run(work)


def _evaluate(work: StepRun) -> Made:
    from retro.recipes.dynamic_prefix.evaluation import evaluate

    return evaluate.run(work)


def _ablate(words: Sequence[str]) -> None:
    from retro.recipes.dynamic_prefix.command import run_ablate

    run_ablate(words)


def _base(work: StepRun) -> Mapping[str, Any]:
    from retro.recipes.dynamic_prefix.training.base_model import base_identity

    return base_identity(work)


def _questions(work: StepRun) -> list[Path]:
    data = work.settings.data
    given = (data.train, data.test, data.passages.passages if data.retrieve else None)
    return [path for path in given if path is not None]


def _needs_of_search(settings: DynamicPrefixConfig) -> tuple[str, ...]:
    searched = settings.data.retrieve and settings.data.passages.passages is None
    return ("corpus", "db", "index") if searched else ()


def _needs_of_training(settings: DynamicPrefixConfig) -> tuple[str, ...]:
    return ("retrieve",) if settings.train.base is not None else ("retrieve", "corpus", "pretrain")


class DynamicPrefix:
    """Documents as keys and values for every layer of a frozen language model."""

    def serve(self, config: RunConfig, settings: DynamicPrefixConfig) -> Served:
        """Answer chats with the documents that are found for them."""
        return generation_steps.serve(config, settings, recipe_path(config, self))

    name = "dynamic_prefix"
    summary = "Dynamic prefix: an encoder turns documents into keys and values that a frozen language model reads"
    config = DynamicPrefixConfig
    special_tokens: tuple[str, ...] = ()
    commands: Mapping[str, Callable[[Sequence[str]], None]] = MappingProxyType({"ablate": _ablate})
    steps = (
        Step(
            name="retrieve",
            summary="Find the documents of all questions, and split by document.",
            run=_retrieve,
            needs=_needs_of_search,
            settings=("data", "prefix.documents"),
            sections=("search",),
            inputs=_questions,
        ),
        Step(
            name="train",
            summary="Train the knowledge encoder through the frozen model.",
            run=_train,
            needs=_needs_of_training,
            settings=("prefix", "train"),
            facts=_base,
            collective=True,
            wanted=lambda settings: settings.data.train is not None,
        ),
        JOINT,
        generation_steps.ENCODE,
        generation_steps.ANSWER,
        Step(
            name="evaluate",
            summary="Score the answers of each mode, and how far documents move the model.",
            run=_evaluate,
            needs=lambda settings: (settings.answer.reader, "answer"),
            settings=("evaluate", "answer.modes", "answer.reader"),
            sections=("evaluate",),
            wanted=generation_steps.ANSWER.wanted,
        ),
    )
