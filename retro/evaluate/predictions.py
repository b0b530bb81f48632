"""Predictions lined up with their questions, or an error that says where they part."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from retro.common.artifacts import Manifest
from retro.common.errors import ArtifactError
from retro.common.json_files import OnBad
from retro.qa.answer_files import QUESTIONS, Answer, QuestionLine, question_line_of, read_answers, read_question_lines
from retro.qa.layouts import read_task_questions
from retro.qa.task import Task
from retro.report.format import in_order

_REDO = "Run `retro generate` with --redo; scores need one answer for every question, in the questions' order"
_SLICE = re.compile(r".+_\d+_\d+")


def answer_settings(generate_dir: Path, manifest: Manifest) -> list[str]:
    """The settings that were answered in full.

    Raises:
        ArtifactError: There is none.
    """
    stems = [Path(name).stem for name in manifest.files if name.endswith(".jsonl") and name != QUESTIONS]
    whole = sorted(stem for stem in stems if not _SLICE.fullmatch(stem))
    if not whole:
        found = ", ".join(stems) or "nothing"
        problem = f"has no whole answer file, found {found}"
        raise ArtifactError(generate_dir, problem, "Answer all slices and join them")
    return in_order(whole)


def read_aligned(generate_dir: Path, setting: str, asked: Sequence[QuestionLine]) -> list[Answer]:
    """The answers of a setting, one for each question.

    Raises:
        ArtifactError: The file is short or long, or an answer belongs to another question.
    """
    path = generate_dir / f"{setting}.jsonl"
    answers = read_answers(path)
    for number, (answer, wanted) in enumerate(zip(answers, asked, strict=False), start=1):
        if (answer.id, answer.question) != (wanted.id, wanted.question):
            problem = (
                f"line {number} answers {answer.id!r} {_short(answer.question)}, "
                f"question {number} is {wanted.id!r} {_short(wanted.question)}"
            )
            raise ArtifactError(path, problem, _REDO)
        if answer.answers != wanted.answers:
            problem = f"line {number} has the gold answers {answer.answers}, its question has {wanted.answers}"
            raise ArtifactError(path, problem, _REDO)
    if len(answers) != len(asked):
        raise ArtifactError(path, f"holds {len(answers)} answers to {len(asked)} questions", _REDO)
    return answers


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:59] + "…")


def asked_questions(generate_dir: Path, questions: Path | None, task: Task) -> list[QuestionLine]:
    """The questions that were to be answered, checked against a question file if one is given.

    Raises:
        ArtifactError: They are not the file's questions.
    """
    path = generate_dir / QUESTIONS
    asked = read_question_lines(path)
    if questions is not None:
        known = from_question_file(questions, task)
        ids, wanted = [one.id for one in asked], [one.id for one in known]
        if [(a.id, a.question, a.answers) for a in asked] != [(k.id, k.question, k.answers) for k in known]:
            first = next(
                (n for n, (a, k) in enumerate(zip(asked, known, strict=False)) if a != k), min(len(ids), len(wanted))
            )
            problem = f"holds {len(ids)} questions, {questions} holds {len(wanted)}; they part at question {first}"
            raise ArtifactError(path, problem, "Give the file that was answered, or run `retro generate` on this one")
    return asked


def from_question_file(path: Path, task: Task, *, on_bad: OnBad | None = None) -> list[QuestionLine]:
    """The questions of a file, as answers are aligned with them; `on_bad` is called for those without gold."""
    return [question_line_of(question) for question in read_task_questions(path, task, on_bad=on_bad)]
