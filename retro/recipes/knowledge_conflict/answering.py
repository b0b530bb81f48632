"""The step `answers`: one model answers every question closed-book, and with the passages of each condition.

answers/closed_book.jsonl, with_passages.jsonl, task.yaml    what is asked; an id with passages is `<id>/<condition>`
answers/closed_book/, with_passages/                         generate stages
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from retro.generate import run as generate
from retro.generate.config import GenerateConfig, ModelPaths
from retro.qa.answer_files import Answer, read_answers
from retro.qa.formats.write import write_questions
from retro.qa.metrics.normalize import normalize_answer
from retro.qa.prompt_texts import load_prompts
from retro.qa.question import Question
from retro.qa.task import load_task
from retro.recipes.base import Made, StepRun
from retro.recipes.comparison import write_task
from retro.recipes.knowledge_conflict.config import KnowledgeConflictConfig
from retro.recipes.knowledge_conflict.conflict_sets import ITEMS
from retro.recipes.knowledge_conflict.entity_types import YES_NO
from retro.recipes.knowledge_conflict.items import CLOSED_BOOK, ConflictItem, in_order, read_conflicts
from retro.recipes.knowledge_conflict.prompts import Texts
from retro.run.pipeline import model_paths

Part = Literal["closed_book", "with_passages"]
PARTS: tuple[Part, Part] = ("closed_book", "with_passages")
TASK = "task.yaml"


def items_step(settings: KnowledgeConflictConfig) -> str:
    """The step that has the items: with a teacher the one in which it writes."""
    return "sets" if settings.counter_memory.teacher is None else "counter_memory"


def items_of(work: StepRun) -> list[ConflictItem]:
    """The items with all their conditions."""
    return read_conflicts(work.made_by(items_step(work.settings)) / ITEMS)


def run(work: StepRun) -> Made:
    """Answer all questions, closed-book and with passages.

    Raises:
        RetroError: As the generate stage.
    """
    items, paths = items_of(work), paths_of(work)
    _write_task(work, items)
    counts: dict[str, Any] = {"items": len(items)}
    files = [TASK]
    for part in PARTS:
        questions = questions_of(items, part)
        write_questions(work.directory / f"{part}.jsonl", questions)
        config = generate_config(work, work.directory, part, items)
        generate.run(config, work.config.parallel, paths, work.directory / part)
        files += [f"{part}.jsonl", f"{part}/{part}.jsonl", f"{part}/manifest.json"]
        counts[part] = len(questions)
    return Made(files=files, counts=counts)


def paths_of(work: StepRun) -> ModelPaths:
    """The model that is asked."""
    paths = model_paths(work.config)
    return replace(paths, checkpoint=work.settings.checkpoint or paths.checkpoint)


def checkpoint_manifest(work: StepRun) -> list[Path]:
    """Identifies a model that replaces another at the same place, where it is a stage of ours."""
    return [paths_of(work).checkpoint / "manifest.json"]


def questions_of(items: Sequence[ConflictItem], part: Part) -> list[Question]:
    """The questions of a part, in the order of the items and their conditions."""
    if part == "closed_book":
        return [_question(one, one.id, ()) for one in items]
    return [
        _question(one, question_id(one.id, name), one.conditions[name])
        for one in items
        for name in in_order(one.conditions)
    ]


def _question(item: ConflictItem, name: str, contexts: Sequence[Any]) -> Question:
    # A question needs an answer to be read; scores do not look at this one.
    answers = item.answers or item.original + item.counter or ("unknown",)
    return Question(id=name, question=item.question, answers=answers, contexts=tuple(contexts), options=item.options)


def question_id(item: str, condition: str) -> str:
    """The id of a question with the passages of a condition."""
    return f"{item}/{condition}"


def generate_config(work: StepRun, folder: Path, part: Part, items: Sequence[ConflictItem]) -> GenerateConfig:
    """The run's settings of generation, with the questions of a part; every passage of a condition is read.

    Args:
        work: The step.
        folder: That of the step `answers`.
        part: Which questions.
        items: All of them.
    """
    usual, most = (
        work.config.generate,
        max((len(shown) for one in items for shown in one.conditions.values()), default=1),
    )
    return usual.model_copy(
        update={
            "questions": (folder / f"{part}.jsonl",),
            "data": None,
            "limit": None,
            "task": str(folder / TASK),
            "settings": (part,),
            "passages_from": "contexts",
            "contexts_in_prompt": most if usual.contexts_in_prompt else 0,
            "passages": most,
            "retrieval_interval": None,
            "start": 0,
            "count": None,
        }
    )


def form_of(items: Sequence[ConflictItem]) -> str:
    """What the questions are: `options`, `true_false`, or neither (empty)."""
    if all(one.options for one in items):
        return "options"
    if all(one.answers and {normalize_answer(text) for text in one.answers} <= set(YES_NO) for one in items):
        return "true_false"
    return ""


def metric_of(config: KnowledgeConflictConfig, form: str) -> str:
    """What makes an answer right."""
    return config.metric or ("accuracy" if form else "substring_match")


def _write_task(work: StepRun, items: Sequence[ConflictItem]) -> None:
    """The task for questions in this toolkit's form."""
    base = load_task(work.settings.sets.task)
    form = form_of(items)
    kind = work.settings.kind or form or base.kind
    changes: dict[str, Any] = {"layouts": [], "kind": kind, "metrics": [metric_of(work.settings, form)]}
    if work.settings.kind:
        load_prompts(work.config.generate.prompts).rule_of_kind(kind, "recipe.knowledge_conflict.kind")
        # The kind's own words, as in tuning.
        changes |= {"instruction": None, "template": ""}
    if work.settings.instruction == "abstain":
        changes["instruction"] = Texts.load(work.settings.prompts).abstain
    write_task(base, work.directory / TASK, **changes)


def predictions_of(folder: Path) -> dict[str, dict[str, Answer]]:
    """The answers by item and condition, closed-book among them.

    Args:
        folder: That of the finished step `answers`.
    """
    found = {one.id: {CLOSED_BOOK: one} for one in read_answers(folder / "closed_book" / "closed_book.jsonl")}
    for one in read_answers(folder / "with_passages" / "with_passages.jsonl"):
        item, _, condition = one.id.rpartition("/")
        found[item][condition] = one
    return found
