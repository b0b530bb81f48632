"""The step `retrieve`: questions with their documents, split by document.

    train.jsonl, valid.jsonl    {id, question, answers, document, ctxs: [{id, title, text, score}]}, the best first;
                                and whatever else a question has: turns, options, document_ids, answer_groups, labels
    test.jsonl                  the same of the test questions
    found_train.jsonl, …        with `retrieve`: the given files as they are, with what was found

`document` is what the split goes by: the document that holds the answer where a file says so, else the best one.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from retro.common.errors import ConfigError, DataError
from retro.qa.formats.item import record
from retro.qa.question import Question
from retro.qa.question_files import read_questions
from retro.recipes.base import Made, StepRun
from retro.recipes.document_split import PARTS, part_of
from retro.recipes.dynamic_prefix.config import DataConfig
from retro.recipes.item_files import write_items
from retro.recipes.passages.retrieve import retrieve_for_file
from retro.recipes.passages.search import as_record
from retro.recipes.passages.source import search_of

log = logging.getLogger(__name__)

RETRIEVE = "retrieve"
TRAIN, VALID, TEST = "train.jsonl", "valid.jsonl", "test.jsonl"
_WINDOW = "#"
"""Before the number of a passage, in the id of one that was cut from a document."""


def run(work: StepRun) -> Made:
    """Find documents where they are wanted, split by document, and count what has none.

    Raises:
        ConfigError: No file of questions is given, or all documents are on one side.
        DataError: A file is missing or broken, or none of its questions has a document though the prefix is of some.
    """
    config: DataConfig = work.settings.data
    if config.train is None and config.test is None:
        raise ConfigError("recipe.dynamic_prefix.data.train", None, "needs a file of questions; or test, or both")
    files: list[str] = []
    counts: dict[str, Any] = {}
    if config.train is not None:
        questions = _with_documents(work, config.train, TRAIN, files)
        parts = {part: [one for one in questions if _part(one, config) == part] for part in PARTS}
        if not parts["train"]:
            need = f"needs a share that leaves documents to train on; {len(questions)} questions are all held out"
            raise ConfigError("recipe.dynamic_prefix.data.valid_share", config.valid_share, need)
        for part, of_part in parts.items():
            _write(work, f"{part}.jsonl", of_part, files, counts)
    if config.test is not None:
        _write(work, TEST, _with_documents(work, config.test, TEST, files), files, counts)
    return Made(files=files, counts=counts)


def document_of(question: Question) -> str:
    """What a question belongs to in the split: the document with the answer where the file says so, else the best one;
    a question without any is on the side of its own text."""
    if question.document_ids:
        return question.document_ids[0]
    if not question.contexts:
        return question.question
    best = question.contexts[0]
    name, _, number = best.document_id.rpartition(_WINDOW)
    return (name if number.isdecimal() and name else best.document_id) or best.title or best.text


def records(questions: Sequence[Question]) -> Iterator[dict[str, Any]]:
    """Questions as they stand in the files."""
    for one in questions:
        contexts = [dict(as_record(context)) for context in one.contexts]
        yield question_record(one) | {"document": document_of(one), "ctxs": contexts}


def question_record(question: Question) -> dict[str, Any]:
    """All that a question file says of a question: what it is learned, asked and scored by."""
    groups = [list(group) for group in question.answer_groups]
    return record(question) | {"answer_groups": groups, "labels": dict(question.labels)}


def _part(question: Question, config: DataConfig) -> str:
    return part_of(document_of(question), seed=config.seed, valid=config.valid_share)


def _with_documents(work: StepRun, path: Path, name: str, files: list[str]) -> list[Question]:
    """The questions of a file, each with at most K documents."""
    config, most = work.settings.data, max(1, work.settings.prefix.documents)
    source = path
    if config.retrieve:
        source = work.directory / f"found_{name}"
        retrieve_for_file(
            path,
            source,
            search_of(work, config.passages),
            n_docs=most,
            questions_per_block=config.passages.questions_per_block,
        )
        files.append(source.name)
    questions = read_questions(source)
    if work.settings.prefix.documents > 0 and not any(one.contexts for one in questions):
        remedy = "Add them, or set recipe.dynamic_prefix.data.retrieve"
        raise DataError(path, "none of its questions has documents (`ctxs`)", remedy)
    return questions


def _write(work: StepRun, name: str, questions: Sequence[Question], files: list[str], counts: dict[str, Any]) -> None:
    most = work.settings.prefix.documents
    found = Counter(min(len(one.contexts), most) for one in questions)
    counts[name] = {
        "questions": len(questions),
        "without_documents": found[0],
        "with_fewer_documents": sum(number for size, number in found.items() if size < most),
    }
    log.info("%s: %d questions, %d of them without a document", name, len(questions), found[0])
    write_items(work.directory / name, records(questions))
    files.append(name)
