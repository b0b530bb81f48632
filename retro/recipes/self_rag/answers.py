"""Answers of the generator in each mode, their scores, and the files that users of the original know.

answer/questions.jsonl, task.yaml     the questions as they are put: with the task's instruction
answer/<mode>/                        a generate stage: answers, with segments and scores in `details`
scores/<mode>/                        an evaluate stage
scores/<mode>.json, modes.json        the original's output; the modes side by side
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from retro.common.files import read_json, write_plain_json
from retro.common.json_files import json_items, read_text
from retro.evaluate.compare import open_scored_answers
from retro.evaluate.scores import SCORES
from retro.generate import run as generate
from retro.generate.config import GenerateConfig, ModelPaths
from retro.generate.questions import load_questions
from retro.qa.formats.item import record
from retro.qa.passages import Retrieve
from retro.qa.question import Question
from retro.qa.task import Task, load_task
from retro.recipes.base import Made, StepRun
from retro.recipes.comparison import answers_of, compare_modes, interval, score_modes, write_task
from retro.recipes.item_files import write_items
from retro.recipes.self_rag.config import DecodeConfig, Mode
from retro.recipes.self_rag.policy import SelfRagPolicy
from retro.recipes.self_rag.prompts import STYLE, Texts, instruction_text

log = logging.getLogger(__name__)

QUESTIONS, TASK = "questions.jsonl", "task.yaml"
MODES = "modes.json"


def run(work: StepRun, paths: ModelPaths, search: Retrieve | None, retrieved: Path | None) -> Made:
    """Answer questions, in each mode.

    Args:
        work: The step.
        paths: Model and database.
        search: Finds passages anew for each segment of a long answer.
        retrieved: The questions, with passages; None: those of the section `generate`.

    Raises:
        RetroError: As the generate stage.
    """
    config, usual = work.settings.decode, work.config.generate
    if retrieved is not None:
        usual = usual.model_copy(update={"questions": (retrieved,), "data": None})
    task = load_task(usual.task)
    if len(usual.questions) == 1 and _are_instructions(usual.questions[0]):
        copy = work.directory / "instructions.jsonl"
        write_items(copy, _items(usual.questions[0]))
        ask_instructions(copy)
        usual = usual.model_copy(update={"questions": (copy,)})
    questions = load_questions(usual, paths.corpus)
    # Without any, the plain stage would refuse to read what is not there; here each answer notes it.
    given = usual.passages_from != "contexts" or any(one.contexts for one in questions)
    texts = Texts.load(work.settings.prompts)
    write_items(work.directory / QUESTIONS, (asked_item(one, task, texts) for one in questions))
    metrics = list(work.settings.metrics or task.metrics)
    write_task(task, work.directory / TASK, instruction=None, template="", metrics=metrics)
    counts: dict[str, Any] = {"questions": len(questions)}
    for mode in config.modes:
        settings = _settings(work, mode, given=given)
        policy = SelfRagPolicy(config, mode, search)
        generate.run(settings, work.config.parallel, paths, work.directory / mode, policy)
        counts[mode] = _counts(work.directory / mode)
    return Made(files=[QUESTIONS, TASK, *(f"{mode}/manifest.json" for mode in config.modes)], counts=counts)


def asked_item(question: Question, task: Task, texts: Texts) -> dict[str, Any]:
    """A question in this toolkit's form, put as an instruction: that of the task, and the question as its input."""
    instruction = texts.tasks.get(task.name, "") or task.instruction or ""
    asked = instruction_text(instruction, question.question) if instruction else question.question
    groups = [list(group) for group in question.answer_groups]
    return record(question) | {"question": asked, "answer_groups": groups, "labels": dict(question.labels)}


def _items(path: Path) -> list[dict[str, Any]]:
    return [dict(one.value) for one in json_items(path, read_text(path))]


def _are_instructions(path: Path) -> bool:
    first = next(iter(json_items(path, read_text(path))), None)
    return first is not None and "question" not in first.value and isinstance(first.value.get("instruction"), str)


def ask_instructions(path: Path) -> None:
    """Give every item of a file that has an `instruction` and no `question` one: the instruction with its input."""
    items = _items(path)
    for one in items:
        if "question" not in one and isinstance(one.get("instruction"), str):
            about = one.get("input")
            one["question"] = instruction_text(one.pop("instruction"), about if isinstance(about, str) else "")
            one.pop("input", None)
    write_items(path, items)


def _settings(work: StepRun, mode: Mode, *, given: bool) -> GenerateConfig:
    reads = mode != "no_retrieval" and given
    return generate_settings(work.config.generate, work.settings.decode).model_copy(
        update={
            "questions": (work.directory / QUESTIONS,),
            "data": None,
            "task": str(work.directory / TASK),
            "limit": None,
            "settings": ("with_passages",) if reads else ("closed_book",),
            "contexts_in_prompt": work.settings.decode.ndocs if reads else 0,
            "batch_size": work.settings.generator.batch_size,
            "start": 0,
            "count": None,
        }
    )


def generate_settings(usual: GenerateConfig, config: DecodeConfig) -> GenerateConfig:
    """The settings of generation with the recipe's prompts; passages are at hand, and the prompt shows none of them."""
    return usual.model_copy(
        update={
            "style": "plain",
            "prompts": STYLE,
            "template": "",
            "encoder": False,
            "contexts_in_prompt": config.ndocs,
            "max_new_tokens": config.max_new_tokens,
        }
    )


def _counts(directory: Path) -> dict[str, Any]:
    """How often passages were read, and what did not go as asked."""
    told = [one.details.get("self_rag", {}) for one in answers_of(directory)]
    notes = [note for one in told for note in one.get("notes", ())]
    return {
        "retrieved": sum(bool(one.get("retrieved")) for one in told),
        "notes": {note: notes.count(note) for note in sorted(set(notes))},
    }


def score(work: StepRun) -> Made:
    """Score each mode, and write the modes side by side.

    Raises:
        RetroError: As the evaluate stage.
    """
    config: DecodeConfig = work.settings.decode
    answers = work.made_by("answer")
    files = score_modes(work, answers, config.modes)
    for mode in config.modes:
        write_plain_json(work.directory / f"{mode}.json", original_output(answers / mode, work.directory / mode))
    table = modes_table(work.directory, answers, config.modes)
    write_plain_json(work.directory / MODES, table)
    for line in table["lines"]:
        log.info("self_rag: %s", line)
    files += [*(f"{mode}.json" for mode in config.modes), MODES]
    return Made(files=files, counts={"metric": table["metric"], "modes": table["modes"]})


def modes_table(directory: Path, answers: Path, modes: Sequence[Mode]) -> dict[str, Any]:
    """The modes side by side: the main metric with its interval, how often passages were read, paired differences."""
    table = compare_modes(directory, modes)
    metric = table["metric"]
    found = {mode: {**table["modes"][mode][metric], **_counts(answers / mode)} for mode in modes}
    lines = [
        f"{mode}: {metric} {interval(one)}, passages read for {one['retrieved']} questions"
        for mode, one in found.items()
    ]
    return {"metric": metric, "modes": found, "differences": table["differences"], "lines": lines}


def original_output(answers: Path, scores: Path) -> dict[str, Any]:
    """A mode's results with the names that the original's output has."""
    said = answers_of(answers)
    found = read_json(scores / SCORES, "Run the step again")
    metric = found["metrics"][0]
    per_question = open_scored_answers(scores).values(metric)
    told: list[Mapping[str, Any]] = [one.details.get("self_rag", {}) for one in said]
    return {
        "preds": [one.prediction for one in said],
        "prompts": [one.question for one in said],
        "metric_results": per_question,
        "all_results": [one.get("candidates") or one.get("segments", []) for one in told],
        "golds": [list(one.answers) for one in said],
        "metric": metric,
        "metric_mean": sum(per_question) / len(per_question),
        "scores": [[piece.get("total") for piece in one.get("segments", [])] for one in told],
    }


def alce_output(answers: Path, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Long answers as ALCE reads them: each item with `output`, citations among its text, and the `docs` they cite.

    Args:
        answers: A finished generate stage, in the order of the items.
        items: ALCE's own.
    """
    told = [(one, one.details.get("self_rag", {})) for one in answers_of(answers)]
    data = [
        {**item, "output": details.get("cited") or one.prediction, "docs": details.get("docs", [])}
        for item, (one, details) in zip(items, told, strict=True)
    ]
    return {"data": data}
