"""A task's metrics, each a number for one answer to one question."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from retro.common.errors import ArtifactError, ConfigError
from retro.qa.answer_files import Answer, QuestionLine
from retro.qa.metrics.choices import accuracy
from retro.qa.metrics.drop import drop_em, drop_f1
from retro.qa.metrics.normalize import Rules
from retro.qa.metrics.rouge import rouge_lsum
from retro.qa.metrics.words import (
    exact_match,
    f1,
    popqa_match,
    quac_f1,
    rouge_l,
    string_em,
    substring_match,
    word_recall,
)
from retro.qa.task import Metric, Task

Measure = Callable[[str, QuestionLine, Rules], float]


def _spans(asked: QuestionLine) -> Sequence[Sequence[str]]:
    return asked.answer_groups or [(answer,) for answer in asked.answers]


METRICS: Mapping[Metric, Measure] = {
    "exact_match": lambda said, asked, rules: exact_match(said, asked.answers, rules),
    "f1": lambda said, asked, rules: f1(said, asked.answers, rules),
    "substring_match": lambda said, asked, rules: substring_match(said, asked.answers, rules),
    "popqa_match": lambda said, asked, rules: popqa_match(said, asked.answers),
    "word_recall": lambda said, asked, rules: word_recall(said, asked.answers, rules),
    "rouge_l": lambda said, asked, rules: rouge_l(said, asked.answers),
    "rouge_lsum": lambda said, asked, rules: rouge_lsum(said, asked.answers),
    "accuracy": lambda said, asked, rules: accuracy(said, asked.answers, asked.options),
    "string_em": lambda said, asked, rules: string_em(said, asked.answer_groups, rules),
    "drop_em": lambda said, asked, rules: drop_em(said, _spans(asked)),
    "drop_f1": lambda said, asked, rules: drop_f1(said, _spans(asked)),
    "drop_split_em": lambda said, asked, rules: drop_em(said, _spans(asked), part=True),
    "drop_split_f1": lambda said, asked, rules: drop_f1(said, _spans(asked), part=True),
    "quac_f1": lambda said, asked, rules: quac_f1(said, asked.answers, rules),
}
"""Every metric by its name in a task."""

Values = Mapping[str, Sequence[float]]
"""[N] numbers, one for each question, by metric."""


def score(task: Task, asked: Sequence[QuestionLine], answers: Sequence[Answer]) -> Values:
    """Every metric of the task, for every answer.

    Args:
        task: Its metrics and rules.
        asked: [N] questions, with their gold answers.
        answers: [N] answers, lined up with them.

    Raises:
        ConfigError: A metric needs something that a question lacks.
    """
    rules, lined_up = Rules.of(task), list(zip(asked, answers, strict=True))
    return {name: [_value(name, one, answer, rules) for one, answer in lined_up] for name in task.metrics}


def _value(name: Metric, asked: QuestionLine, answer: Answer, rules: Rules) -> float:
    try:
        return METRICS[name](answer.prediction, asked, rules)
    except ValueError as error:
        # The question does not fit the task; which it is, the metric cannot know.
        raise ConfigError("metrics", name, f"does not fit question {asked.id!r}: {error}") from None


def task_of(headers: Mapping[str, Mapping[str, Any]], where: Any) -> Task:
    """The task that answers were made for, from the headers beside them.

    Args:
        headers: By setting.
        where: Their folder, for messages.

    Raises:
        ArtifactError: The settings do not agree, or ask for a metric that there is not.
    """
    first, *others = (_record(header) for header in headers.values())
    for other in others:
        if other != first:
            parts = sorted(key for key in first | other if first.get(key) != other.get(key))
            raise ArtifactError(where, f"settings were asked as different tasks ({', '.join(parts)})", _SAME)
    try:
        return Task(**first)
    except ConfigError as error:
        raise ArtifactError(where, f"names a task that cannot be scored ({error})", _SAME) from None


_SAME = "Run `retro generate` with --redo, or give evaluate.task"


def _record(header: Mapping[str, Any]) -> dict[str, Any]:
    # Answers from before tasks were recorded whole name their metrics alone.
    old = {"name": header.get("task", "qa"), "version": header.get("task_version", 1), "kind": "short_span"}
    metrics = header.get("metrics", ["exact_match", "f1"])
    record: dict[str, Any] = header.get("task_record") or old | {"metrics": metrics}
    return {"description": "as its answers record it"} | record
