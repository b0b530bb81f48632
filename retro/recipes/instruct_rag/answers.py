"""Answers in each mode, and their scores.

tune/samples.jsonl, style.yaml      questions with documents, and the rationale that is learned
answer/<mode>/                      a generate stage; answer/<mode>.yaml its task, demonstrations among it
scores/<mode>/, <mode>.json         an evaluate stage, and the published form of its results
scores/modes.json                   the modes with intervals and paired differences, beside the published table
scores/cases.html                   single questions: documents, and what each claim of an answer leans on
scores/<mode>_alce.json             ASQA: for `retro alce`, with the documents that a sentence names as citations
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from retro.common.errors import ConfigError, DataError
from retro.common.files import write_plain_json
from retro.evaluate.compare import open_scored_answers
from retro.generate import run as generate
from retro.generate.config import GenerateConfig
from retro.qa.layouts import read_task_questions
from retro.qa.question import Question
from retro.qa.task import Task
from retro.recipes.base import Made, StepRun
from retro.recipes.comparison import answers_of, compare_modes, interval, score_modes, write_task
from retro.recipes.instruct_rag import data, rationales
from retro.recipes.instruct_rag.cases import write_cases
from retro.recipes.instruct_rag.citations import alce_file
from retro.recipes.instruct_rag.config import DemonstrationsConfig, Mode
from retro.recipes.instruct_rag.prompts import KIND, Texts, with_recalled, write_style
from retro.recipes.instruct_rag.start import base_model, tuned_model
from retro.recipes.item_files import read_items, write_items
from retro.recipes.passages.search import as_record
from retro.recipes.tuning import tune
from retro.run.pipeline import model_paths

log = logging.getLogger(__name__)

SAMPLES, STYLE, QUESTIONS, MODES, CASES = "samples.jsonl", "style.yaml", "test.jsonl", "modes.json", "cases.html"


def tune_model(work: StepRun) -> Made:
    """Tune on rationales: prompt and sample as the tuned model is asked.

    Raises:
        DataError: No rationale is left to learn.
        RetroError: As the sft stage.
    """
    config = work.settings
    texts, samples = Texts.load(config.prompts), work.directory / SAMPLES
    style = write_style(texts, work.directory / STYLE)
    items, left_out = _samples(work)
    write_items(samples, items)
    tuning = config.tune.model_copy(update={"start_from": base_model(work)})
    made = tune(
        work, tuning, samples, None, "instruct_rag", kind=KIND, prompts=style, style=prompt_style(work),
        contexts_in_prompt=_most_documents(items), passage_order=config.documents.order,
    )  # fmt: skip
    return Made(files=[SAMPLES, STYLE, *made.files], counts={**made.counts, "samples": len(items), **left_out})


def _samples(work: StepRun) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Questions with what is learned in place of the gold answers, and why others were left out."""
    config, recalled = work.settings, recalled_of(work, data.TRAIN)
    if config.learn == "answer":
        questions = data.read_chosen(work.made_by("data") / data.TRAIN)
        return [_sample(one, one_answer(one), recalled) for one in questions], {}
    path = work.made_by("rationales") / rationales.TRAIN
    items = read_items(path, ("question",), "rationales")
    kept, left_out = [], {"empty": 0, "cut": 0, "inconsistent": 0}
    for question, item in zip(data.read_chosen(path), items, strict=True):
        if not item["rationale"]:
            left_out["empty"] += 1
        elif item["cut"] and not config.rationale.keep_cut:
            left_out["cut"] += 1
        elif config.rationale.keep == "consistent" and not item["consistent"]:
            left_out["inconsistent"] += 1
        else:
            kept.append(_sample(question, item["rationale"], recalled))
    if not kept:
        remedy = "Use another teacher, a larger rationale.max_tokens, rationale.keep_cut=true or rationale.keep=all"
        raise DataError(path, f"has no rationale to learn ({left_out})", remedy)
    return kept, left_out


def _sample(question: Question, learned: str, recalled: Mapping[str, str]) -> dict[str, Any]:
    return data.record_of(question) | {"answers": [learned], "question": question_text(question, recalled)}


def one_answer(question: Question) -> str:
    """The answer alone: the first one, or where the question has several meanings the first one to each."""
    groups = question.answer_groups
    return "; ".join(group[0] for group in groups) if groups else question.answers[0]


def recalled_of(work: StepRun, name: str) -> Mapping[str, str]:
    """What was recalled for the questions of a file, where prompts show that; else nothing."""
    return rationales.recalled_of(work, name) if work.settings.recall else {}


def question_text(question: Question, recalled: Mapping[str, str]) -> str:
    """A question's text in tuning and in use, with what was recalled where prompts show that."""
    return with_recalled(question.question, recalled[question.id]) if recalled else question.question


def _most_documents(items: Sequence[Mapping[str, Any]]) -> int:
    return max((len(one["ctxs"]) for one in items), default=0)


def prompt_style(work: StepRun) -> str:
    """`chat` where the run's questions are put through a chat template, else `plain`."""
    return "chat" if work.config.generate.style == "chat" else "plain"


def run(work: StepRun) -> Made:
    """Answer the test questions in each mode.

    Raises:
        RetroError: As the generate stage.
    """
    texts = Texts.load(work.settings.prompts)
    write_style(texts, work.directory / STYLE)
    questions, recalled = data.read_chosen(work.made_by("data") / data.TEST), recalled_of(work, data.TEST)
    write_items(
        work.directory / QUESTIONS,
        (data.record_of(replace(one, question=question_text(one, recalled))) for one in questions),
    )
    known = data.known_set(work)
    for mode in work.settings.modes:
        task_path = work.directory / f"{mode}.yaml"
        write_task(known.loaded_task, task_path, **task_changes(work, texts, mode, known.loaded_task))
        paths = replace(model_paths(work.config), checkpoint=tuned_model(work) if mode == "ft" else base_model(work))
        settings = _settings(work, mode, task_path, questions)
        generate.run(settings, work.config.parallel, paths, work.directory / mode)
    files = [QUESTIONS, STYLE, *(f"{mode}/manifest.json" for mode in work.settings.modes)]
    return Made(files=files, counts={"questions": len(questions), "modes": list(work.settings.modes)})


def _settings(work: StepRun, mode: Mode, task: Path, questions: Sequence[Question]) -> GenerateConfig:
    reads = mode != "closed_book"
    config = work.settings
    return work.config.generate.model_copy(
        update={
            "questions": (work.directory / QUESTIONS,),
            "data": None,
            "task": str(task),
            "prompts": work.directory / STYLE,
            "style": prompt_style(work),
            "template": "",
            "settings": ("with_passages",) if reads else ("closed_book",),
            "passages_from": "contexts",
            "contexts_in_prompt": max((len(one.contexts) for one in questions), default=0) if reads else 0,
            "passage_order": config.documents_of_test.order,
            "encoder": False,
            "max_new_tokens": config.max_new_tokens,
            "batch_size": config.batch_size,
            "checkpoint": None,
            "step": None,
            "limit": None,
            "start": 0,
            "count": None,
        }
    )


def task_changes(work: StepRun, texts: Texts, mode: Mode, task: Task) -> dict[str, Any]:
    """How a mode's task differs from the set's: what stands before the question, and demonstrations."""
    shown = demonstrations(work, mode) if mode in ("icl", "few_shot") else []
    instruction = {
        "closed_book": texts.instructions.memory,
        "icl": texts.instructions.demonstrations,
        "few_shot": texts.instructions.examples,
    }
    return {
        "kind": KIND,
        "instruction": instruction.get(mode),
        "template": "",
        "few_shot": {"count": len(shown), "examples": shown},
        "metrics": list(work.settings.metrics or data.known_set(work).metrics),
    }


def demonstrations(work: StepRun, mode: Mode) -> list[dict[str, str]]:
    """Questions with their rationales (icl) or answers (few_shot), as a task shows them.

    Raises:
        ConfigError: There are fewer than asked for that can be shown.
    """
    config: DemonstrationsConfig = work.settings.demonstrations
    path = config.file or work.made_by("rationales") / rationales.TRAIN
    items = read_items(path, ("question",), "demonstrations")
    questions = read_task_questions(path, data.known_set(work).loaded_task)
    texts = [str(item.get("rationale") or "") if mode == "icl" else "" for item in items]
    good = [
        (question, text if mode == "icl" else one_answer(question))
        for question, text in zip(questions, texts, strict=True)
        if _can_be_shown(config, question, text, mode)
    ]
    if len(good) < config.count:
        need = f"needs at most {len(good)}, which {path} has of the kind that is asked for (of {len(items)} items)"
        raise ConfigError("recipe.instruct_rag.demonstrations.count", config.count, need)
    order = np.random.default_rng(config.seed).permutation(len(good)) if config.choose == "random" else range(len(good))
    chosen = [good[int(place)] for place in order[: config.count]]
    return [{"question": data.ranked(one).question, "answer": text} for one, text in chosen]


def _can_be_shown(config: DemonstrationsConfig, question: Question, rationale: str, mode: Mode) -> bool:
    consistent = rationales.contains_answer(rationale, data.short_answers(question))
    if mode == "icl" and not (consistent if config.consistent else rationale):
        return False
    return not config.with_answer or rationales.documents_hold_answer(question)


def score(work: StepRun) -> Made:
    """Score each mode, compare them, and draw the page of cases.

    Raises:
        RetroError: As the evaluate stage.
    """
    answers, modes = work.made_by("answer"), work.settings.modes
    has_meanings = any(one.answer_groups for one in data.read_chosen(answers / QUESTIONS))
    files = score_modes(work, answers, modes)
    for mode in modes:
        write_plain_json(work.directory / f"{mode}.json", published_output(answers / mode, work.directory / mode))
        files.append(f"{mode}.json")
        if has_meanings:
            alce = alce_file(
                answers_of(answers / mode), data.read_chosen(answers / QUESTIONS), work.settings.documents_of_test.order
            )
            write_plain_json(work.directory / f"{mode}_alce.json", alce)
            files.append(f"{mode}_alce.json")
    table = compare_modes(work.directory, modes) | published_of(work)
    write_plain_json(work.directory / MODES, table)
    write_cases(work, {mode: answers_of(answers / mode) for mode in modes}, work.directory / CASES)
    metric = table["metric"]
    for mode, means in table["modes"].items():
        log.info("instruct_rag: %s: %s %s", mode, metric, interval(means[metric]))
    return Made(files=[*files, MODES], counts={"metric": metric, "modes": table["modes"]})


def published_of(work: StepRun) -> dict[str, Any]:
    """The set's title, and the published percentage of each mode that is answered."""
    known, config = data.known_set(work), work.settings
    # A model tuned on answers alone is the paper's baseline `sft`.
    names = {mode: "sft" if mode == "ft" and config.learn == "answer" else mode for mode in config.modes}
    accuracy = known.published.accuracy
    percent = {mode: accuracy[name] for mode, name in names.items() if name in accuracy}
    return {"set": known.title or config.set, "published_percent": percent}


def published_output(answers: Path, scores: Path) -> dict[str, Any]:
    """A mode's results with the fields that items of the original's result file have, without the prompt, and what its
    `metrics.json` has. `score` is ours."""
    predictions = answers_of(answers)
    groups = {one.id: one.answer_groups for one in data.read_chosen(answers.parent / QUESTIONS)}
    scored = open_scored_answers(scores)
    metric = scored.scores["metrics"][0]
    values = scored.values(metric)
    items = [
        {
            "question": one.question,
            "answers": list(one.answers),
            "rationale": one.prediction,
            "qa_pairs": [{"short_answers": list(group)} for group in groups[one.id]],
            "ctxs": [dict(as_record(passage)) for passage in one.passages],
            "score": value,
        }
        for one, value in zip(predictions, values, strict=True)
    ]
    return {"metrics": {metric: sum(values) / len(values), "num_examples": len(values)}, "items": items}
