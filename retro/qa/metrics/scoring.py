"""A task's metrics for all answers, and the task that answers were made for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from retro.common.errors import ArtifactError, ConfigError
from retro.qa.answer_files import Answer, QuestionLine
from retro.qa.metrics.normalize import Rules
from retro.qa.metrics.registry import METRICS, Metric
from retro.qa.task import Task

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
    metrics = {name: METRICS.find(name, "metrics") for name in task.metrics}
    if not metrics[task.metrics[0]].higher_is_better:
        need = f"needs a first metric of which more is better, since {task.name} is summed up by it"
        raise ConfigError("metrics", task.metrics[0], need)
    return {
        name: [_value(name, one, asked, answer, rules) for asked, answer in lined_up] for name, one in metrics.items()
    }


def _value(name: str, metric: Metric, asked: QuestionLine, answer: Answer, rules: Rules) -> float:
    if metric.needs_gold and not (asked.answers or asked.answer_groups):
        raise ConfigError("metrics", name, f"does not fit question {asked.id!r}: it has no gold answer")
    try:
        return metric.share(metric.measure(answer.prediction, asked, rules))
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
