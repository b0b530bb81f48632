"""Questions of a set, in one form: which documents are shown, and how often these hold an answer.

train.jsonl, test.jsonl    {id, question, answers, answer_groups, labels, ctxs}, the documents best first
recall.json                recall at 1 … n of each file, as shares, beside the published percentage
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from retro.common.errors import ConfigError, DataError
from retro.common.files import write_plain_json
from retro.qa.fields import Fields
from retro.qa.formats.item import record
from retro.qa.layouts import read_task_questions
from retro.qa.metrics.normalize import normalize_answer
from retro.qa.prompts import shown_order
from retro.qa.question import Context, Question
from retro.qa.question_files import read_questions
from retro.recipes.base import Made, StepRun
from retro.recipes.instruct_rag.config import DocumentsConfig
from retro.recipes.instruct_rag.prompts import as_question
from retro.recipes.instruct_rag.sets import QaSet, find_set
from retro.recipes.item_files import write_items
from retro.recipes.knowledge_conflict.quadrants import holds_answer
from retro.recipes.passages.search import as_record

log = logging.getLogger(__name__)

TRAIN, TEST, RECALL = "train.jsonl", "test.jsonl", "recall.json"


def run(work: StepRun) -> Made:
    """Read both files, choose documents, and measure how often they hold an answer.

    Raises:
        ConfigError: There is no such set, or neither file is given.
        DataError: A file is missing or broken, or its questions have no documents.
    """
    config = work.settings
    known = known_set(work)
    given = {TRAIN: (config.train, config.documents), TEST: (config.test, config.documents_of_test)}
    files: list[str] = []
    recall: dict[str, Any] = {}
    counts: dict[str, Any] = {}
    for name, (path, documents) in given.items():
        if path is None:
            continue
        source = work.made_by("retrieve") / name if config.retrieve else path
        questions = [ranked(one) for one in read_task_questions(source, known.loaded_task)]
        count = documents.count or known.documents
        recall[name] = recall_at(questions, count)
        section = "test_documents" if name == TEST and config.test_documents else "documents"
        chosen, notes = chosen_documents(questions, documents, count, source, section)
        write_items(work.directory / name, (record_of(one) for one in chosen))
        files.append(name)
        counts[name] = {"questions": len(chosen), **notes}
    if not files:
        raise ConfigError("recipe.instruct_rag.test", None, "needs a file of questions; or train, or both")
    recall["published_percent"] = known.published.recall
    write_plain_json(work.directory / RECALL, recall)
    _log_recall(recall)
    counts |= _in_both(work.directory, files)
    return Made(files=[*files, RECALL], counts=counts)


def ranked(question: Question) -> Question:
    """A question with a question mark, its documents best first."""
    # The sort is stable: documents without scores stay as they are.
    best_first = tuple(sorted(question.contexts, key=lambda one: -one.score))
    return replace(question, question=as_question(question.question), contexts=best_first)


def short_answers(question: Question) -> tuple[str, ...]:
    """What is looked for in documents and rationales: the short answers of all meanings, where a question has several
    meanings (ASQA, whose `answers` may be long texts), else its answers."""
    return tuple(text for group in question.answer_groups for text in group) or question.answers


def recall_at(questions: Sequence[Question], most: int) -> dict[str, float]:
    """Share of the questions of which one of the first k documents holds an answer, for k = 1 … `most`."""
    ranks = [
        next(
            (rank for rank, one in enumerate(question.contexts) if holds_answer(one.text, short_answers(question))),
            most,
        )
        for question in questions
    ]
    return {str(k): sum(rank < k for rank in ranks) / len(ranks) for k in range(1, most + 1)} if ranks else {}


def chosen_documents(
    questions: Sequence[Question], config: DocumentsConfig, count: int, source: Path, section: str = "documents"
) -> tuple[list[Question], dict[str, int]]:
    """The documents that prompts show.

    Args:
        questions: With all documents, best first.
        config: Noise and place of the answer.
        count: How many are shown.
        source: The file, for errors.
        section: Where the settings are, for errors.

    Returns:
        The questions with these; how many had fewer, and how often something could not be done.

    Raises:
        DataError: No question has a document.
        ConfigError: The noise, or the place, is not among the documents.
    """
    if questions and not any(one.contexts for one in questions):
        problem, remedy = "none of its questions has passages (`ctxs`)", "Add them, or set recipe.instruct_rag.retrieve"
        raise DataError(source, problem, remedy)
    for name, value in (("noise", config.noise), ("answer_place", config.answer_place or 0)):
        if value > count:
            need = f"needs at most {count}, the number of documents"
            raise ConfigError(f"recipe.instruct_rag.{section}.{name}", value, need)
    notes = Counter[str]()
    random = np.random.default_rng(config.seed)
    chosen = []
    for place, question in enumerate(questions):
        documents = list(question.contexts[:count])
        notes["with_fewer_documents"] += len(documents) < count
        _add_noise(documents, place, questions, config.noise, random, notes)
        if config.answer_place is not None:
            _move_answer(documents, short_answers(question), config, notes)
        chosen.append(replace(question, contexts=tuple(documents)))
    return chosen, {name: number for name, number in sorted(notes.items()) if number}


_TRIES = 100


def _add_noise(
    documents: list[Context],
    place: int,
    questions: Sequence[Question],
    noise: int,
    random: np.random.Generator,
    notes: Counter[str],
) -> None:
    """Put documents of other questions in place of the last ones."""
    for rank in range(len(documents) - min(noise, len(documents)), len(documents)):
        for _ in range(_TRIES):
            other = int(random.integers(len(questions)))
            if other == place or not questions[other].contexts:
                continue
            drawn = questions[other].contexts[int(random.integers(len(questions[other].contexts)))]
            if not holds_answer(drawn.text, short_answers(questions[place])) and drawn not in documents:
                documents[rank] = replace(drawn, score=0.0)
                notes["noise"] += 1
                break
        else:
            notes["without_noise"] += 1


def _move_answer(
    documents: list[Context], answers: Sequence[str], config: DocumentsConfig, notes: Counter[str]
) -> None:
    """Move the best document that holds an answer to a place in the prompt."""
    holding = next((rank for rank, one in enumerate(documents) if holds_answer(one.text, answers)), None)
    if holding is None or config.answer_place is None or config.answer_place > len(documents):
        notes["answer_not_placed"] += 1
        return
    moved = documents.pop(holding)
    documents.insert(shown_order(len(documents) + 1, config.order)[config.answer_place - 1], moved)


def record_of(question: Question) -> dict[str, Any]:
    """A question in this toolkit's form."""
    groups = [list(group) for group in question.answer_groups]
    documents = [dict(as_record(one)) for one in question.contexts]
    return record(question) | {"answer_groups": groups, "labels": dict(question.labels), "ctxs": documents}


def read_chosen(path: Path) -> list[Question]:
    """The questions of a file of this step."""
    return read_questions(path, Fields(needs_answer=False))


def known_set(work: StepRun) -> QaSet:
    """The set that the settings name."""
    return find_set(work.settings.set, work.settings.sets)


def _in_both(folder: Path, files: Sequence[str]) -> dict[str, int]:
    """How many test questions are training questions too; a warning if there are any."""
    if len(files) < 2:
        return {}
    texts = [[normalize_answer(one.question) for one in read_chosen(folder / name)] for name in (TRAIN, TEST)]
    both = len(set(texts[0]) & set(texts[1]))
    if both:
        log.warning("data: %d of %d test questions are training questions too", both, len(set(texts[1])))
    return {"in_both": both}


def _log_recall(recall: dict[str, Any]) -> None:
    for name in (TRAIN, TEST):
        if recall.get(name):
            last = max(recall[name], key=int)
            log.info("%s: %s", name, json.dumps({f"recall@{last}": round(recall[name][last], 4)}))
