"""Prompts to the teacher: data, in `prompts.yaml`, checked when they are read and filled in here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from retro.common.config import StageConfig
from retro.common.errors import ConfigError
from retro.recipes.multi_hop.config import Flow, QuestionType
from retro.recipes.multi_hop.flows import STEPS
from retro.recipes.prompt_files import PromptFile, filled, require_places
from retro.teacher.request import TeacherRequest

AnswerKind = Literal["plain", "yes_no", "arithmetic"]
"""How a question is answered from a paragraph."""
ANSWER_FIELDS = ("Reasoning", "Answer")
FINAL_FIELDS = ("Summary", "Reasoning", "Answer")
_DRAWN = ("popularity_1", "popularity_2", "question_type")


class FlowTexts(StageConfig):
    """What the teacher is asked in a flow."""

    task: str
    """With `{category}`, and `{steps}` or a line for each field."""
    steps: dict[str, str] = Field(default_factory=dict)
    """What each field is to hold."""


class Texts(PromptFile):
    """All of a prompts file."""

    package: ClassVar[str] = "retro.recipes.multi_hop"

    no_answer: str = Field(min_length=1)
    unknown: str = Field(min_length=1)
    question_types: dict[QuestionType, str]
    create: dict[Flow, FlowTexts]
    answers: dict[AnswerKind, str]
    final_answer: str

    @model_validator(mode="after")
    def _whole(self) -> Texts:
        for flow in STEPS:
            if flow not in self.create:
                raise ConfigError(f"create.{flow}", None, "needs a task and steps")
            _require_steps(flow, self.create[flow])
        for kind in ("plain", "yes_no", "arithmetic"):
            if kind not in self.answers:
                raise ConfigError(f"answers.{kind}", None, "needs a text")
        for kind, text in self.answers.items():
            require_places(f"answers.{kind}", text, ("question", "paragraph", "no_answer"))
        require_places("final_answer", self.final_answer, ("question", "facts", "unknown"))
        missing = {"wh", "yes_no"} - set(self.question_types)
        if missing:
            raise ConfigError("question_types", sorted(self.question_types), f"needs a text for {missing.pop()}")
        return self


def wanted_fields(texts: Texts, flow: Flow, *, whole: bool) -> tuple[str, ...]:
    """The fields that a reply is to have.

    Args:
        texts: The prompts. A task that writes its lines itself says which.
        flow: The way to a question.
        whole: Whether with the answers; the older form always has them.

    Raises:
        ConfigError: The answers are wanted, and the task has no lines for them.
    """
    steps, task = STEPS[flow], texts.create[flow].task
    if "{steps}" in task:
        return steps.fields if whole or flow == "comparison" else steps.creative
    there = tuple(name for name in steps.fields if _has_line(task, name))
    if there not in (steps.fields, steps.creative) or (whole and there != steps.fields):
        lacking = next(name for name in steps.fields if name not in there)
        need = (
            f"needs a line that begins with '+ {lacking}:', or create.re_generate_answer and none of those that answer"
        )
        raise ConfigError(f"create.{flow}.task", f"{task[:60]}…", need)
    return there


def question_prompt(texts: Texts, flow: Flow, fields: Sequence[str], drawn: Mapping[str, str]) -> str:
    """What the teacher is asked for a question.

    Args:
        texts: The prompts.
        flow: The way to it.
        fields: Those that are wanted of a reply.
        drawn: `category`, `popularity_1`, `popularity_2` and `question_type`, the latter by its name.
    """
    own = texts.create[flow]
    steps = "\n".join(f"+ {name}: {own.steps[name]}" for name in fields) if "{steps}" in own.task else ""
    question_type = texts.question_types["wh" if drawn["question_type"] == "wh" else "yes_no"]
    values = {**drawn, "question_type": question_type}
    # The steps have places too: they are filled in before what stands in them.
    return filled(filled(own.task, {"steps": steps}), values).strip()


def answer_prompt(texts: Texts, kind: AnswerKind, question: str, paragraph: str) -> str:
    """What the teacher is asked for the answer of a question from a paragraph."""
    values = {"question": question, "paragraph": " ".join(paragraph.split()), "no_answer": texts.no_answer}
    return filled(texts.answers[kind], values).strip()


def final_prompt(texts: Texts, question: str, facts: Sequence[tuple[str, str]]) -> str:
    """What the teacher is asked for the answer of a multi-hop question.

    Args:
        texts: The prompts.
        question: The multi-hop question.
        facts: Each sub-question with its answer.
    """
    lines = "\n".join(f"- {asked} {answer}" for asked, answer in facts)
    return filled(texts.final_answer, {"question": question, "facts": lines, "unknown": texts.unknown}).strip()


def request_of(prompt: str, *, max_tokens: int, temperature: float = 0.0, seed: int = 0) -> TeacherRequest:
    """A prompt as a request."""
    messages = ({"role": "user", "content": prompt},)
    return TeacherRequest(messages=messages, temperature=temperature, max_tokens=max_tokens, seed=seed)


def _require_steps(flow: Flow, texts: FlowTexts) -> None:
    where, fields = f"create.{flow}", STEPS[flow].fields
    if "{steps}" not in texts.task:
        require_places(f"{where}.task", texts.task, ("category",), _DRAWN)
        # Those that answer may be left out: they can be asked for by themselves.
        missing = [one for one in STEPS[flow].creative if not _has_line(texts.task, one)]
        if missing:
            need = f"needs the place {{steps}}, or a line that begins with '+ {missing[0]}:'"
            raise ConfigError(f"{where}.task", f"{texts.task[:60]}…", need)
        return
    require_places(f"{where}.task", texts.task, ("category", "steps"), _DRAWN)
    if set(texts.steps) != set(fields):
        odd = sorted(set(fields) ^ set(texts.steps))[0]
        raise ConfigError(f"{where}.steps", odd, f"needs a text for each of {', '.join(fields)}, and no others")
    for name, text in texts.steps.items():
        require_places(f"{where}.steps.{name}", text, (), ("category", *_DRAWN))


def _has_line(task: str, field: str) -> bool:
    return any(line.strip().startswith(f"+ {field}:") for line in task.split("\n"))
