"""The recipe: its steps in order, each a thin call of the module that does it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from retro.recipes.base import Made, Step, StepRun
from retro.recipes.knowledge_conflict import answering, confidence, conflict_sets, counter_memory, score
from retro.recipes.knowledge_conflict.command import run_compare
from retro.recipes.knowledge_conflict.config import KnowledgeConflictConfig
from retro.recipes.knowledge_conflict.prompts import Texts


def _make_sets(work: StepRun) -> Made:
    settings: KnowledgeConflictConfig = work.settings
    counts = conflict_sets.make(settings.sets, Texts.load(settings.prompts).uncertain, work.directory)
    return Made(files=[conflict_sets.ITEMS], counts=counts)


def _inputs_of_sets(work: StepRun) -> list[Path]:
    settings: KnowledgeConflictConfig = work.settings
    found = (settings.sets.questions, settings.sets.types, settings.prompts)
    return [one for one in found if one is not None]


def _needs_of_answers(settings: KnowledgeConflictConfig) -> tuple[str, ...]:
    return (answering.items_step(settings),)


def _needs_of_confidence(settings: KnowledgeConflictConfig) -> tuple[str, ...]:
    return (*_needs_of_answers(settings), "answers")


def _needs_of_scores(settings: KnowledgeConflictConfig) -> tuple[str, ...]:
    return (*_needs_of_confidence(settings), *(("confidence",) if settings.confidence else ()))


def _prompts(work: StepRun) -> list[Path]:
    return [] if work.settings.prompts is None else [work.settings.prompts]


class KnowledgeConflict:
    """Knowledge conflict: what any model answers from memory, and what it makes of passages that contradict it."""

    name = "knowledge_conflict"
    summary = (
        "Knowledge conflict: memory against passages of any model (Longpre et al. 2021, Xie et al. 2024, ClashEval)"
    )
    config = KnowledgeConflictConfig
    special_tokens = ()
    commands: Mapping[str, Callable[[Sequence[str]], None]] = MappingProxyType({"compare": run_compare})
    steps = (
        Step(
            name="sets",
            summary="Passages for each condition, from any QA set or a published one.",
            run=_make_sets,
            settings=("sets", "prompts"),
            inputs=_inputs_of_sets,
        ),
        Step(
            name="counter_memory",
            summary="A teacher writes passages for the other answer.",
            run=lambda work: counter_memory.run(work, work.settings.counter_memory.teacher),
            needs=("sets",),
            settings=("counter_memory", "sets", "prompts"),
            inputs=_prompts,
            wanted=lambda settings: settings.counter_memory.teacher is not None,
        ),
        Step(
            name="answers",
            summary="One model answers closed-book, and with the passages of each condition.",
            run=answering.run,
            needs=_needs_of_answers,
            settings=("sets.task", "kind", "instruction", "metric", "checkpoint", "prompts"),
            sections=("generate",),
            inputs=lambda work: [*_prompts(work), *answering.checkpoint_manifest(work)],
        ),
        Step(
            name="confidence",
            summary="Log-probabilities of the answers under each condition.",
            run=confidence.run,
            needs=_needs_of_confidence,
            settings=("checkpoint",),
            sections=("generate",),
            wanted=lambda settings: settings.confidence,
        ),
        Step(
            name="scores",
            summary="Metrics of each condition, and the page.",
            run=score.run,
            needs=_needs_of_scores,
            settings=("phrases", "instruction", "report_cases", "confidence"),
            sections=("evaluate",),
        ),
    )
