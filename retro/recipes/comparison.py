"""Answers of one recipe in several modes: scored each, and side by side with paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from retro.common.files import atomic_path, read_json
from retro.evaluate import score as evaluate
from retro.evaluate.compare import compare, open_scored_answers
from retro.evaluate.scores import SCORES
from retro.qa.answer_files import Answer, read_answers
from retro.qa.task import Task
from retro.recipes.base import StepRun


def write_task(task: Task, path: Path, **changes: Any) -> None:
    """A task for questions that are in this toolkit's form already.

    Args:
        task: What it is made of.
        path: Its YAML file.
        changes: Fields that are otherwise; their values as in YAML.
    """
    data = task.model_dump(mode="json")
    # What says that questions without answers are asked stays.
    data["layouts"] = [one for one in data["layouts"] if one["blank"] == "ask"]
    with atomic_path(path) as temporary:
        temporary.write_text(yaml.safe_dump(data | changes, sort_keys=False, allow_unicode=True), encoding="utf-8")


def answers_of(directory: Path) -> list[Answer]:
    """The answers of a mode, in the order of the questions."""
    [path] = [path for name in ("with_passages", "closed_book") if (path := directory / f"{name}.jsonl").exists()]
    return read_answers(path)


def score_modes(work: StepRun, answers: Path, modes: Sequence[str]) -> list[str]:
    """Score each mode with the evaluate stage, in a folder of its name.

    Args:
        work: The step.
        answers: A folder with a generate stage for each mode.
        modes: Their names.

    Returns:
        The files of scores, below the step's folder.

    Raises:
        RetroError: As the evaluate stage.
    """
    for mode in modes:
        page = work.directory / f"{mode}.html"
        out, home = work.directory / mode, work.config.run_dir
        evaluate.run(work.config.evaluate, answers / mode, out, report=page, run_dir=home)
    return [f"{mode}/{SCORES}" for mode in modes]


def compare_modes(directory: Path, modes: Sequence[str]) -> dict[str, Any]:
    """Modes that were scored side by side.

    Args:
        directory: With the folders of `score_modes`.
        modes: Their names.

    Returns:
        JSON values: "metric" (the main one), "metrics", "modes" (means with intervals by mode and metric),
        "differences" (of the main metric, paired, for each two modes).
    """
    found: dict[str, Mapping[str, Any]] = {}
    metrics: list[str] = []
    for mode in modes:
        scores = read_json(directory / mode / SCORES, "Run the step again")
        metrics = scores["metrics"]
        [found[mode]] = scores["settings"].values()
    scored = {mode: open_scored_answers(directory / mode) for mode in modes}
    pairs = [(one, other) for place, one in enumerate(modes) for other in modes[place + 1 :]]
    differences = {
        f"{one} - {other}": compare(scored[one], scored[other])["metrics"][metrics[0]] for one, other in pairs
    }
    return {"metric": metrics[0], "metrics": metrics, "modes": found, "differences": differences}


def interval(mean: Mapping[str, float]) -> str:
    """A mean with its interval in percent, as `92.0 (86.0 to 97.0)`."""
    return f"{100 * mean['mean']:.1f} ({100 * mean['low']:.1f} to {100 * mean['high']:.1f})"
