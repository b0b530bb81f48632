"""Answer files: one JSON object per line, question by question, with the passages that were read.

`generate` writes them, `evaluate` and the report read them. Reading is strict: a line that is broken,
incomplete or given twice is an error, never skipped, because a score over fewer questions looks like a better
score.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NotRequired

from typing_extensions import TypedDict

from retro.common import checksummed_json
from retro.common.errors import ArtifactError
from retro.common.input_files import read_text
from retro.common.json_files import MAX_TEXT_BYTES, JsonError, wrong_type
from retro.qa.question import Context, PassageLike, Question

QUESTIONS = "questions.jsonl"
"""Beside the answer files: every question that was to be answered, in order."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answered question."""

    id: str
    question: str
    answers: tuple[str, ...]
    """All gold answers."""
    prediction: str
    passages: tuple[Context, ...]
    """What was read, in the order in which it was, each once: best first, with live retrieval chunk by chunk. Empty
    closed-book."""
    setting: str
    skipped: str = ""
    """Why the model was not asked, if it was not: the prediction is then empty, and counts as wrong."""
    ended: str = ""
    """Why the answer ended: end (the end token), stop (a stop text) or length; empty where that is not known."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What a recipe's way of decoding says of its answer, as JSON values."""


class _PassageData(TypedDict):
    title: str
    text: str
    document_id: NotRequired[str]
    score: NotRequired[float]
    row: NotRequired[int]


class _AnswerData(TypedDict):
    id: str
    question: str
    answers: list[str]
    prediction: str
    passages: list[_PassageData]
    setting: str
    details: NotRequired[dict[str, Any]]


class _AskedData(TypedDict):
    id: str
    question: str
    answers: list[str]
    document_ids: NotRequired[list[str]]
    options: NotRequired[list[str]]
    answer_groups: NotRequired[list[list[str]]]
    labels: NotRequired[dict[str, str]]


@dataclass(frozen=True, kw_only=True)
class QuestionLine:
    """One line of questions.jsonl."""

    id: str
    question: str
    answers: tuple[str, ...]
    document_ids: tuple[str, ...]
    """Documents that hold the answer, where known."""
    options: tuple[str, ...] = ()
    """Choices of a multiple-choice question."""
    answer_groups: tuple[tuple[str, ...], ...] = ()
    """Answers in parts, for metrics that want them."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """What kind of question it is, by name."""


def question_line_of(question: Question) -> QuestionLine:
    """A question as it is recorded and scored."""
    return QuestionLine(
        id=question.id,
        question=question.question,
        answers=question.answers,
        document_ids=question.document_ids,
        options=question.options,
        answer_groups=question.answer_groups,
        labels=dict(question.labels),
    )


def answer_line(answer: Answer) -> str:
    """The answer as a line of JSON, with its line end."""
    data = asdict(answer)
    if not answer.details:
        del data["details"]
    return checksummed_json.line(data)


def passage_record(passage: PassageLike) -> Context:
    """A passage, whoever found it, as it is recorded."""
    return Context(
        title=passage.title,
        text=passage.text,
        document_id=passage.document_id,
        score=round(float(passage.score), 6),
        row=int(passage.row),
    )


def question_lines(questions: Sequence[Question]) -> str:
    """The text of questions.jsonl."""
    kept = (asdict(question_line_of(question)) for question in questions)
    return "".join(checksummed_json.line(asked) for asked in kept)


def read_answers(path: Path) -> list[Answer]:
    """Read an answer file.

    Raises:
        ArtifactError: It is missing; a line is broken or incomplete; a question is in it twice.
    """
    answers: list[Answer] = []
    seen: dict[str, int] = {}
    for number, data in _lines(path):
        problem = wrong_type(data, _AnswerData)
        if problem is not None:
            raise ArtifactError(path, f"line {number} is not an answer ({problem})", _REDO)
        try:
            passages = tuple(Context(**passage) for passage in data.pop("passages"))
            answer = Answer(**(data | {"passages": passages, "answers": tuple(data["answers"])}))
        except (TypeError, KeyError, AttributeError) as error:
            raise ArtifactError(path, f"line {number} is not an answer ({error})", _REDO) from None
        if answer.id in seen:
            raise ArtifactError(
                path, f"line {number} answers question {answer.id!r}, as line {seen[answer.id]} does", _REDO
            )
        seen[answer.id] = number
        answers.append(answer)
    return answers


def read_question_lines(path: Path) -> list[QuestionLine]:
    """Read questions.jsonl.

    Raises:
        ArtifactError: It is missing, or a line is broken or incomplete.
    """
    asked = []
    for number, data in _lines(path):
        problem = wrong_type(data, _AskedData)
        if problem is not None:
            raise ArtifactError(path, f"line {number} is not a question ({problem})", _REDO)
        try:
            lists = {name: tuple(data.get(name, ())) for name in ("options", "document_ids")}
            groups = tuple(tuple(group) for group in data.get("answer_groups", ()))
            asked.append(QuestionLine(**(data | lists | {"answers": tuple(data["answers"]), "answer_groups": groups})))
        except (TypeError, KeyError) as error:
            raise ArtifactError(path, f"line {number} is not a question ({error})", _REDO) from None
    return asked


_REDO = "Delete the file and run `retro generate` again"


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    text = read_text(path, "Run `retro generate` first" if not path.exists() else _REDO, limit=MAX_TEXT_BYTES)
    if text and not text.endswith("\n"):
        raise ArtifactError(path, "ends in the middle of a line", "Run `retro generate` again; it resumes there")
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        try:
            data, problem = checksummed_json.parse_line(f"{line}\n")
        except JsonError as error:
            raise ArtifactError(path, f"line {number} is {error}", _REDO) from None
        if problem:
            raise ArtifactError(path, f"line {number} {problem}", _REDO)
        if not isinstance(data, dict):
            raise ArtifactError(path, f"line {number} is a {type(data).__name__}, not an object", _REDO)
        yield number, data
