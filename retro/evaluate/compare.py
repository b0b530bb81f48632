"""`retro compare`: two sets of scored answers to the same questions, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from retro.common.errors import ArtifactError, ConfigError
from retro.common.files import read_json, read_json_lines
from retro.common.statistics import RIGHT, count_right, estimate, p_value
from retro.evaluate.scores import PER_QUESTION, SCORES
from retro.report.format import in_order

_REDO = "Run `retro evaluate` with --redo"


@dataclass(frozen=True, kw_only=True)
class ScoredAnswers:
    """One set of answers with its scores."""

    name: str
    """What it is called in tables."""
    directory: Path
    setting: str
    scores: Mapping[str, Any]
    questions: Sequence[Mapping[str, Any]]
    """Lines of questions.jsonl."""

    def values(self, metric: str) -> list[float]:
        """[N] a metric, question by question."""
        return [float(line["settings"][self.setting][metric]) for line in self.questions]


def open_scored_answers(path: Path, *, task: str | None = None, setting: str | None = None) -> ScoredAnswers:
    """Scored answers below `path`.

    Args:
        path: A run, or the directory of an evaluate stage.
        task: Take the answers that were scored as this task, where a run holds several.
        setting: Of the answers; None: the first, as reports show them.

    Raises:
        ConfigError: There are several such directories, or the setting was not asked.
        ArtifactError: There is none, or it is damaged.
    """
    directory = _scored(path, task)
    scores = read_json(directory / SCORES, _REDO)
    settings = in_order(scores["settings"])
    if setting is not None and setting not in settings:
        raise ConfigError("--setting", setting, f"needs one of those that {directory} has: {', '.join(settings)}")
    chosen = setting or settings[0]
    name = f"{path.resolve().name}, {chosen.replace('_', ' ')}"
    return ScoredAnswers(
        name=name,
        directory=directory,
        setting=chosen,
        scores=scores,
        questions=read_json_lines(directory / PER_QUESTION, _REDO),
    )


def _scored(path: Path, task: str | None) -> Path:
    if (path / SCORES).exists():
        return path
    found = [one.parent for one in sorted(path.glob(f"8_evaluate*/{SCORES}"))]
    if task is not None:
        found = [one for one in found if read_json(one / SCORES, _REDO).get("task", {}).get("name") == task]
    if not found:
        what = "scored answers" if task is None else f"answers scored as task {task!r}"
        raise ArtifactError(path, f"holds no {what}", "Run `retro evaluate` first, or give the right directory")
    plain = path / "8_evaluate"
    if len(found) > 1 and not (task is None and plain in found):
        names = ", ".join(one.name for one in found)
        raise ConfigError(str(path), names, "holds several scored answers: give the directory of one, or --task")
    return plain if plain in found else found[0]


def compare(a: ScoredAnswers, b: ScoredAnswers) -> dict[str, Any]:
    """Differences of a and b, metric by metric.

    Returns:
        JSON values: "a", "b", "questions", "right_from", "metrics" (means, difference with interval, counts of right
        answers, test and p-value), "differ" (the questions that one got right and the other not, by the main metric).

    Raises:
        ArtifactError: They answer other questions.
        ConfigError: They were scored as other tasks, or are one and the same.
    """
    _require_comparable(a, b)
    main = a.scores["metrics"][0]
    return {
        "a": _facts(a),
        "b": _facts(b),
        "questions": len(a.questions),
        "right_from": RIGHT,
        "intervals": a.scores["intervals"],
        "metrics": {metric: _metric(a, b, metric) for metric in a.scores["metrics"]},
        "differ": _differ(a, b, main),
    }


def _facts(side: ScoredAnswers) -> dict[str, Any]:
    return {
        "name": side.name,
        "directory": str(side.directory),
        "setting": side.setting,
        "task": side.scores.get("task"),
    }


def _require_comparable(a: ScoredAnswers, b: ScoredAnswers) -> None:
    if a.directory.resolve() == b.directory.resolve() and a.setting == b.setting:
        need = "needs another run, or another setting of this one (--setting-b)"
        raise ConfigError("RUN_B", str(b.directory), need)
    for number, (one, other) in enumerate(zip(a.questions, b.questions, strict=False), start=1):
        for key in ("id", "question", "answers"):
            if one.get(key) != other.get(key):
                problem = f"question {number} has {key} {other.get(key)!r}, {a.directory} has {one.get(key)!r}"
                raise ArtifactError(b.directory, problem, _SAME)
    if len(a.questions) != len(b.questions):
        problem = f"holds {len(b.questions)} questions, {a.directory} holds {len(a.questions)}"
        raise ArtifactError(b.directory, problem, _SAME)
    scored = [f"{side.scores.get('task')} by {side.scores['metrics']}" for side in (a, b)]
    if scored[0] != scored[1]:
        raise ConfigError("tasks", " and ".join(scored), "needs both scored alike: run `retro evaluate` again on one")


_SAME = "Only answers to the same questions can be compared: ask both runs with one question file"


def _metric(a: ScoredAnswers, b: ScoredAnswers, metric: str) -> dict[str, Any]:
    one, other = a.values(metric), b.values(metric)
    how = a.scores["intervals"]
    found = estimate(
        [first - second for first, second in zip(one, other, strict=True)],
        samples=how["resamples"],
        confidence=how["confidence"],
        seed=how["seed"],
    )
    test, chance = p_value(one, other, how["seed"])
    difference = {key: round(value, 6) for key, value in asdict(found).items()}
    return {
        "a": round(sum(one) / len(one), 6),
        "b": round(sum(other) / len(other), 6),
        "difference": difference,
        "right": asdict(count_right(*(_goodness(side, metric) for side in (a, b)))),
        "test": test,
        "p": chance,
    }


def _goodness(side: ScoredAnswers, metric: str) -> list[float]:
    """[N] a metric as a share of the best that it can be."""
    facts = side.scores.get("metric_facts", {}).get(metric, {})
    values = side.values(metric)
    return values if facts.get("higher_is_better", True) else [1 - value for value in values]


def _differ(a: ScoredAnswers, b: ScoredAnswers, metric: str) -> list[dict[str, Any]]:
    """The questions of which one has the answer and the other not, those that only a has first."""
    lines = zip(a.questions, b.questions, a.values(metric), b.values(metric), strict=True)
    found = [
        {
            "id": one["id"],
            "question": one["question"],
            "answers": one.get("answers", []),
            "right": "a" if first >= RIGHT else "b",
            "a": one["settings"][a.setting]["prediction"],
            "b": other["settings"][b.setting]["prediction"],
        }
        for one, other, first, second in lines
        if (first >= RIGHT) != (second >= RIGHT)
    ]
    return sorted(found, key=lambda one: str(one["right"]))
