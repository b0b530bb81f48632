"""Predictions lined up with their questions, or an error that says where they part."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from retro.common.artifacts import Manifest
from retro.common.errors import ArtifactError, ConfigError, DataError
from retro.common.json_files import OnBad
from retro.evaluate.config import EvaluateConfig
from retro.evaluate.scores import score_answers, write_scores
from retro.qa.answer_files import QUESTIONS, Answer, QuestionLine, question_line_of, read_answers, read_question_lines
from retro.qa.fields import NothingToLearnError
from retro.qa.layouts import read_task_questions
from retro.qa.task import Task, load_task
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


# The original tools' models often begin with one of these; their scorer takes it off, and so do we.
_MARKER = re.compile(r"^\s*(?:answer|a):\s*", re.IGNORECASE)

# retro-generate-<task>_<passages>_<K>_<size>_<split>_<sampling>_<start>_<count>_<step>.txt
_NAME = re.compile(r"retro-generate-(?P<task>.+?)_.*_(?P<start>\d+)_(?P<count>\d+)_[^_]+")

DEFAULT_TASK = "qa"
_LINES_NAMED = 10


def run_plain(
    config: EvaluateConfig, predictions: Path, questions: Path, out: Path, *, start: int = 0, limit: int | None = None
) -> dict[str, Any]:
    """Score a file with one prediction per line.

    Args:
        config: What to score with.
        predictions: Line n answers question `start` + n.
        questions: The question file.
        out: Where scores.json goes.
        start: The question that the first line answers, counted from 0.
        limit: Score only so many of both; the original scorer takes 3,000 of a file whose name has "dev" in it.

    Returns:
        The scores, which are also in `out/scores.json`.

    Raises:
        DataError: The files cannot be read, or differ in length, or a question to be scored has no gold answer.
        ConfigError: No question is at `start`.
    """
    task = load_task(config.task or DEFAULT_TASK)
    known = _questions(questions, task)
    if not 0 <= start < len(known):
        raise ConfigError("--start", start, f"needs a number from 0 to {len(known) - 1}, the last question")
    asked = _with_gold(known[start:][:limit], start, questions)
    answers = {predictions.stem: read_plain(predictions, asked, limit)}
    scores, values = score_answers(config, task, asked, answers)
    write_scores(out, scores, asked, answers, values)
    return scores


def _questions(path: Path, task: Task) -> list[QuestionLine | None]:
    """The questions of a file, None for one without a gold answer."""
    without: set[int] = set()

    def on_bad(reason: str, error: DataError) -> None:
        if isinstance(error, NothingToLearnError):
            without.add(error.number)

    found = from_question_file(path, task, on_bad=on_bad)
    rest = iter(found)
    return [None if number in without else next(rest) for number in range(len(found) + len(without))]


def _with_gold(asked: Sequence[QuestionLine | None], start: int, questions: Path) -> list[QuestionLine]:
    """All of them; none may lack a gold answer, for a score over fewer questions looks like a better one.

    Raises:
        DataError: Some do; the lines that answer them are named.
    """
    lines = [number for number, one in enumerate(asked, start=1) if one is None]
    if lines:
        shown = ", ".join(map(str, lines[:_LINES_NAMED])) + (", …" if len(lines) > _LINES_NAMED else "")
        first = f"; line 1 answers question {start}, counted from 0" if start else ""
        problem = f"{len(lines)} of {len(asked)} questions have no gold answer: those of lines {shown}{first}"
        remedy = (
            "Take these lines out of both files, or score them as a task that has a text for no answer "
            "(evaluate.task=squad2.0) where the file marks them as unanswerable"
        )
        raise DataError(questions, problem, remedy)
    return [one for one in asked if one is not None]


def read_plain(predictions: Path, asked: Sequence[QuestionLine], limit: int | None = None) -> list[Answer]:
    """Predictions as answers to the questions, line by line.

    Args:
        predictions: The file.
        asked: The questions.
        limit: Lines to read; None: all.

    Raises:
        DataError: The file is missing, or has not one line for each question.
    """
    lines = _lines(predictions)[:limit]
    if len(lines) != len(asked):
        problem = f"has {len(lines)} lines for {len(asked)} questions"
        remedy = f"Give one prediction per line, in the order of the question file{_hint(predictions)}"
        raise DataError(predictions, problem, remedy)
    return [
        Answer(
            id=one.id,
            question=one.question,
            answers=one.answers,
            prediction=_MARKER.sub("", line).strip(),
            passages=(),
            setting=predictions.stem,
        )
        for one, line in zip(asked, lines, strict=True)
    ]


def _lines(predictions: Path) -> list[str]:
    try:
        text = predictions.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(predictions, "no such prediction file", "Check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        remedy = "Give a UTF-8 file, one prediction per line"
        raise DataError(predictions, f"cannot be read ({error})", remedy) from None
    return text.removesuffix("\n").split("\n") if text else []


def _hint(predictions: Path) -> str:
    """What the name of an original file says about which questions it answers."""
    name = _NAME.fullmatch(predictions.stem)
    if name is None:
        return ""
    return f". By its name it answers {name['task']}: try --start {name['start']} --limit {name['count']}"
