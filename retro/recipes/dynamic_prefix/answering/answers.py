"""The step `answer`: questions answered with their documents as keys and values, as text, and without.

answer/questions.jsonl, task.yaml    the questions with the documents of each, and how they are scored
answer/<mode>/                       a generate stage: answers, with the documents read in `details`
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from retro.generate import run as generate
from retro.generate.config import GenerateConfig
from retro.generate.ranks import on_first_rank
from retro.qa.layouts import read_task_questions
from retro.qa.question import Context, Question
from retro.qa.task import Task, load_task
from retro.recipes.base import Made, StepRun
from retro.recipes.comparison import answers_of, write_task
from retro.recipes.dynamic_prefix.answering.config import Mode
from retro.recipes.dynamic_prefix.answering.policy import PrefixPolicy, TrainedPrefix, documents_read
from retro.recipes.dynamic_prefix.config import DynamicPrefixConfig
from retro.recipes.dynamic_prefix.training.questions import question_record
from retro.recipes.item_files import write_items
from retro.recipes.passages.search import PassageSearch
from retro.run.pipeline import model_paths

log = logging.getLogger(__name__)

QUESTIONS, TASK = "questions.jsonl", "task.yaml"
_LINE_END = "\n"
_SEARCHED_AT_ONCE = 256


def answer(
    work: StepRun,
    questions: Path,
    trained: TrainedPrefix,
    store: Path | None = None,
    search: PassageSearch | None = None,
) -> Made:
    """Answer questions in each mode.

    Args:
        work: The step.
        questions: A question file, with documents as `ctxs`.
        trained: Encoder and prefix, and the name of the network.
        store: The folder of the step `encode`; None: nothing is stored.
        search: Finds documents for questions that come without any; None: they are answered without.

    Raises:
        RetroError: As the generate stage.
    """
    settings: DynamicPrefixConfig = work.settings
    task = load_task(work.config.generate.task)
    path = work.directory / QUESTIONS
    on_first_rank(lambda: _write(work, task, read_task_questions(questions, task), search))
    asked = read_task_questions(path, task)
    paths = replace(model_paths(work.config), checkpoint=trained.run)
    counts: dict[str, Any] = {
        "questions": len(asked),
        "without_documents": sum(not one.contexts for one in asked),
        "modes": list(settings.answer.modes),
    }
    report: dict[str, Any] = {}
    for mode in settings.answer.modes:
        policy = PrefixPolicy(settings, mode, trained.identity, store)
        used = trained.modules if mode == "prefix" else None
        config = _settings(work, mode)
        generate.run(config, work.config.parallel, paths, work.directory / mode, policy, used)
        counts[f"vectors_{mode}"] = _vectors(work.directory / mode)
        report[mode] = policy.counts.record
        if mode == "prefix":
            log.info("dynamic_prefix: documents of the answers made now: %s", report[mode])
    files = [QUESTIONS, TASK, *(f"{mode}/manifest.json" for mode in settings.answer.modes)]
    return Made(files=files, counts=counts, report={"documents_now": report})


def _write(work: StepRun, task: Task, questions: Sequence[Question], search: PassageSearch | None) -> None:
    """The questions with the documents that are read, and the task that scores them."""
    settings: DynamicPrefixConfig = work.settings
    found = with_found(questions, search, documents_read(settings))
    write_items(work.directory / QUESTIONS, (question_record(one) for one in found))
    # A model that is not tuned to answer goes on after its answer, on a line of its own.
    stop = list(dict.fromkeys((*task.stop, _LINE_END)))
    write_task(task, work.directory / TASK, instruction=None, template="", stop=stop)


def with_found(questions: Sequence[Question], search: PassageSearch | None, count: int) -> list[Question]:
    """Questions with at most `count` documents each; those that come without any get what their text finds.

    Raises:
        RetroError: The search failed.
    """
    found = [replace(one, contexts=one.contexts[:count]) for one in questions]
    lacking = [place for place, one in enumerate(found) if not one.contexts]
    if search is None:
        return found
    for start in range(0, len(lacking), _SEARCHED_AT_ONCE):
        places = lacking[start : start + _SEARCHED_AT_ONCE]
        results = search.search([found[place].question for place in places], count)
        for place, passages in zip(places, results, strict=True):
            contexts = tuple(Context(one.title, one.text, one.document_id, one.score, one.row) for one in passages)
            found[place] = replace(found[place], contexts=contexts)
    return found


def _settings(work: StepRun, mode: Mode) -> GenerateConfig:
    settings: DynamicPrefixConfig = work.settings
    reads = mode != "none" and documents_read(settings) > 0
    return generate_settings(work.config.generate, settings).model_copy(
        update={
            "questions": (work.directory / QUESTIONS,),
            "data": None,
            "task": str(work.directory / TASK),
            "settings": ("with_passages",) if reads else ("closed_book",),
            "contexts_in_prompt": documents_read(settings) if reads else 0,
            "limit": None,
            "start": 0,
            "count": None,
        }
    )


def generate_settings(usual: GenerateConfig, settings: DynamicPrefixConfig) -> GenerateConfig:
    """The settings of generation for the recipe's model: its program writes the prompts."""
    return usual.model_copy(
        update={
            "checkpoint": None,
            "step": None,
            "style": "plain",
            "template": "",
            "encoder": False,
            "passages_from": "contexts",
            "contexts_in_prompt": documents_read(settings),
            "max_new_tokens": settings.answer.max_new_tokens,
            "batch_size": settings.answer.batch_size,
        }
    )


def _vectors(directory: Path) -> int:
    """Vectors that all answers of a mode read."""
    return sum(int(one.details.get("dynamic_prefix", {}).get("vectors", 0)) for one in answers_of(directory))
