"""Answers in the files that other programs score: ALCE's, and FactScore's (Min et al. 2023, arXiv:2305.14251)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from retro.common.config import unknown_name
from retro.common.errors import ConfigError, DataError
from retro.common.files import atomic_path, write_plain_json
from retro.common.json_files import JsonError, json_items, parse_json, read_text
from retro.qa.answer_files import read_answers
from retro.qa.question import PassageLike

_FORMS = {"alce": "question", "factscore": "input"}
"""The forms, and where a question's text is in each."""


def write_factscore(
    path: Path, asked: Sequence[Mapping[str, Any]], outputs: Sequence[str], *, source: Path | None = None
) -> None:
    """Write a line `{"input", "output", "topic", "cat"}` for each question.

    Args:
        path: The file.
        asked: [N] items of FactScore's question file: input, topic, and cat where there is one.
        outputs: [N] the answers.
        source: That question file, for errors.

    Raises:
        DataError: An item has no topic, by which FactScore finds the article.
        ArtifactError: The file cannot be written.
    """
    lines = []
    for number, (one, output) in enumerate(zip(asked, outputs, strict=True)):
        if not isinstance(one.get("topic"), str) or not one["topic"].strip():
            problem, remedy = f"item {number} has no topic", "Give every question the title of an article as its topic"
            raise DataError(source or path, problem, remedy)
        record = {"input": one["input"], "output": output, "topic": one["topic"], "cat": one.get("cat")}
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    with atomic_path(path) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")


def write_alce(
    path: Path,
    asked: Sequence[Mapping[str, Any]],
    outputs: Sequence[str],
    passages: Sequence[Sequence[PassageLike]],
) -> None:
    """Write `{"data": [...]}`, each question as it was with its answer as `output` and what it read as `docs`.

    Args:
        path: The file.
        asked: [N] items of ALCE's question file.
        outputs: [N] the answers. `[n]` in one cites the n-th of its passages, counted from 1.
        passages: [N] what each answer read, in the order of these numbers.

    Raises:
        ArtifactError: The file cannot be written.
    """
    items = [
        {**one, "output": output, "docs": [_doc(passage) for passage in read]}
        for one, output, read in zip(asked, outputs, passages, strict=True)
    ]
    write_plain_json(path, {"data": items})


def _doc(passage: PassageLike) -> dict[str, str]:
    return {"id": passage.document_id, "title": passage.title, "text": passage.text}


def export_answers(answers: Path, questions: Path, form: str, out: Path, *, limit: int | None = None) -> int:
    """Write an answer file of the generate stage in another program's form.

    Args:
        answers: `7_generate/with_passages.jsonl`, or another setting's.
        questions: The file that was asked, in that program's own form: its further fields are kept.
        form: `alce` or `factscore`.
        out: The file to write.
        limit: Of the questions, these first ones alone were asked (`generate.limit`).

    Returns:
        How many answers there are.

    Raises:
        ConfigError: There is no such form.
        DataError: The questions cannot be read, or are not those that were answered.
        ArtifactError: The answers cannot be read, or the file cannot be written.
    """
    if form not in _FORMS:
        raise ConfigError("--form", form, unknown_name(form, list(_FORMS)).replace("a setting", "a form"))
    found = read_answers(answers)
    name = _FORMS[form]
    asked = _items(questions)[:limit]
    if len(found) != len(asked):
        problem = f"has {len(asked)} questions, {answers} has {len(found)} answers"
        raise DataError(questions, problem, "Give the file that was asked, and --limit if only its first were")
    for number, (one, answer) in enumerate(zip(asked, found, strict=True)):
        if str(one.get(name, "")).strip() != answer.question:
            problem = f"item {number} asks {str(one.get(name))[:60]!r}, the answer is to {answer.question[:60]!r}"
            raise DataError(questions, problem, f"Give the file that was asked, in the form of {form}")
    outputs = [answer.prediction for answer in found]
    if form == "factscore":
        write_factscore(out, asked, outputs, source=questions)
    else:
        write_alce(out, asked, outputs, [answer.passages for answer in found])
    return len(found)


def _items(path: Path) -> list[dict[str, Any]]:
    """The objects of a list, of lines, or of `{"data": [...]}`."""
    text = read_text(path)
    try:
        whole = parse_json(text)
    except JsonError:
        whole = None  # Several objects, one a line.
    data = whole.get("data") if isinstance(whole, dict) else None
    return [one.value for one in json_items(path, json.dumps(data) if isinstance(data, list) else text)]
