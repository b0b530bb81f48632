"""The step `evaluate`: every mode of answering scored, side by side, beside the published numbers.

<mode>/, <mode>.html       an evaluate stage and its page
measures.jsonl             what was measured of each given answer (hallucination.py)
scores.json, scores.md     all of it in one file: means with intervals, differences from no documents with p-values
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retro.common.errors import ArtifactError
from retro.common.files import atomic_path, read_json, write_plain_json
from retro.common.statistics import RIGHT, estimate
from retro.evaluate.compare import ScoredAnswers, compare, open_scored_answers
from retro.evaluate.config import EvaluateConfig
from retro.qa.answer_files import Answer
from retro.qa.layouts import read_task_questions
from retro.qa.metrics.scoring import task_of
from retro.qa.question import Question
from retro.qa.task import load_task
from retro.recipes.base import Made, StepRun
from retro.recipes.comparison import answers_of, interval, score_modes, write_task
from retro.recipes.dynamic_prefix.evaluation.support import written_measures
from retro.recipes.dynamic_prefix.evaluation.tables import MEASURES, as_markdown, tables
from retro.recipes.dynamic_prefix.published import PUBLISHED

if TYPE_CHECKING:
    from retro.recipes.dynamic_prefix.evaluation.hallucination import AnswerMeasures

log = logging.getLogger(__name__)

SCORES, TABLE, LINES, TASK = "scores.json", "scores.md", "measures.jsonl", "task.yaml"
QUESTIONS = "questions.jsonl"
"""Of the step `answer`: all questions with their documents."""
NONE = "none"
"""The mode that reads no documents."""

Measured = Mapping[str, Mapping[str, Sequence[Mapping[str, float]]]]
"""By mode and given answer (gold, written): what was measured of each."""


def score(work: StepRun, answers: Path, modes: Sequence[str], metrics: Sequence[str]) -> list[str]:
    """Score each mode with the evaluate stage, by these metrics.

    Returns:
        The files, below the step's folder.

    Raises:
        RetroError: As the evaluate stage.
    """
    headers = {path.name: read_json(path, "Run the step `answer` again") for path in headers_of(answers / modes[0])}
    path = work.directory / TASK
    write_task(task_of(headers, answers / modes[0]), path, metrics=list(metrics))
    evaluate = work.config.evaluate.model_copy(update={"task": str(path)})
    scoring = replace(work, config=work.config.model_copy(update={"evaluate": evaluate}))
    return [TASK, *score_modes(scoring, answers, modes)]


def headers_of(directory: Path) -> list[Path]:
    """The headers of a mode's answers.

    Raises:
        ArtifactError: There is none.
    """
    found = sorted(directory.glob("*.header.json"))
    if not found:
        raise ArtifactError(directory, "holds no answers", "Run the step `answer` again with --redo")
    return found


def side_by_side(scored: Mapping[str, ScoredAnswers]) -> dict[str, Any]:
    """Means of each mode, and paired differences from no documents.

    Args:
        scored: By mode.

    Returns:
        JSON values: "questions", "metrics", "modes", "differences", "intervals".
    """
    first = next(iter(scored.values())).scores
    means = {mode: one.scores["settings"][one.setting] for mode, one in scored.items()}
    others = [mode for mode in scored if mode != NONE and NONE in scored]
    return {
        "questions": first["questions"],
        "metrics": first["metrics"],
        "metric_facts": first["metric_facts"],
        "modes": {mode: {metric: mine[metric] for metric in first["metrics"]} for mode, mine in means.items()},
        "differences": {mode: compare(scored[mode], scored[NONE])["metrics"] for mode in others},
        "intervals": first["intervals"],
    }


def written(
    scored: Mapping[str, ScoredAnswers],
    answers: Mapping[str, Sequence[Answer]],
    documents: Mapping[str, Sequence[str]],
    confidence: float,
) -> dict[str, Any]:
    """Measures of written answers by mode; without documents, against those that would have been read.

    Args:
        scored: By mode; right is what reaches one half by the main metric.
        answers: By mode, in the order of the scores.
        documents: By the question's id.
        confidence: Of intervals.
    """
    texts = {mode: [one.prediction for one in mine] for mode, mine in answers.items()}
    without = texts.get(NONE)
    found = {}
    for mode, mine in answers.items():
        right = [value >= RIGHT for value in scored[mode].values(scored[mode].scores["metrics"][0])]
        read = [documents[one.id] for one in mine]
        other = None if mode == NONE else without
        found[mode] = written_measures(texts[mode], other, read, right, confidence)
    return found


def summarized(measured: Measured, config: EvaluateConfig) -> dict[str, Any]:
    """Means over answers, with intervals, of everything measured."""
    how = {"samples": config.bootstrap_samples, "seed": config.seed}
    return {
        mode: {
            given: {
                name: {
                    key: round(value, 6)
                    for key, value in asdict(
                        estimate([one[name] for one in values], confidence=config.confidence, **how)
                    ).items()
                }
                for name in MEASURES
            }
            for given, values in parts.items()
            if values
        }
        for mode, parts in measured.items()
    }


def run(work: StepRun) -> Made:
    """Score the answers of all modes.

    Raises:
        RetroError: As the evaluate stage, or a model cannot be loaded.
    """
    settings, answers = work.settings, work.made_by("answer")
    config, modes = settings.evaluate, settings.answer.modes
    files = score(work, answers, modes, config.metrics)
    scored = {mode: open_scored_answers(work.directory / mode) for mode in modes}
    said = {mode: answers_of(answers / mode) for mode in modes}
    questions = read_task_questions(answers / QUESTIONS, load_task(str(work.directory / TASK)))
    documents = {one.id: [f"{each.title} {each.text}" for each in one.contexts] for one in questions}
    measured, weights = _measured(work, questions, said) if config.forced else ({}, None)
    found = side_by_side(scored) | {
        "written": written(scored, said, documents, work.config.evaluate.confidence),
        "forced": summarized(measured, work.config.evaluate),
        "weights": weights,
        "published": dict(PUBLISHED),
    }
    write_plain_json(work.directory / SCORES, found)
    with atomic_path(work.directory / TABLE) as temporary:
        temporary.write_text(as_markdown("Dynamic prefix", tables(found)), encoding="utf-8")
    main = found["metrics"][0]
    for mode, means in found["modes"].items():
        log.info("dynamic_prefix: %s: %s %s", mode, main, interval(means[main]))
    files += [SCORES, TABLE, *([LINES] if config.forced else [])]
    return Made(files=files, counts={"metric": main, "modes": found["modes"]})


def _measured(
    work: StepRun, questions: Sequence[Question], said: Mapping[str, Sequence[Answer]]
) -> tuple[Measured, dict[str, int]]:
    """What was measured of given answers, written down line by line too; and the weights of the model."""
    from retro.recipes.dynamic_prefix.evaluation import forced

    model, reader, weights = forced.open_model(work)
    texts = {
        mode: {one.id: forced.WrittenAnswer(one.prediction, one.ended == "end") for one in mine}
        for mode, mine in said.items()
    }
    pairs = forced.measure_modes(model, reader, questions[: work.settings.evaluate.limit], texts)
    forced.write_measures(work.directory / LINES, pairs)
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    for mode, mine in pairs.items():
        for one, measures in mine:
            found.setdefault(mode, {}).setdefault(one.given, []).append(asdict(measures))
            if one.given == "gold" and mode == "prefix":
                found.setdefault(NONE, {}).setdefault("gold", []).append(_without(measures))
    return found, weights


def _without(measures: AnswerMeasures) -> dict[str, float]:
    """What the same pass says of the model without documents."""
    return {
        "accuracy": measures.accuracy_without,
        "entropy": measures.entropy_without,
        "divergence": 0.0,
        "gain": 0.0,
        "log_likelihood": measures.log_likelihood - measures.gain,
    }
