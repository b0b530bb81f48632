"""The evaluate stage: answers to scores, with intervals, and the report."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import Any

from retro.common.artifacts import (
    REPORT,
    Manifest,
    describe_files,
    is_complete,
    read_manifest,
    require_parent,
    require_same_config,
    write_manifest,
)
from retro.common.config import config_json
from retro.common.files import read_json, write_json
from retro.evaluate.config import EvaluateConfig
from retro.evaluate.predictions import answer_settings, asked_questions, read_aligned
from retro.evaluate.scores import PER_QUESTION, SCORES, score_answers, write_scores
from retro.qa.metrics.scoring import task_of
from retro.qa.task import load_task
from retro.report.run_report import write_report

log = logging.getLogger(__name__)

STAGE = "evaluate"


def run(
    config: EvaluateConfig, generate_dir: Path, out: Path, *, report: Path | None, run_dir: Path, asked: str = ""
) -> Manifest:
    """Score all settings of a generate stage, and write the report.

    Args:
        config: What to score with.
        generate_dir: A finished generate stage.
        out: This stage's directory.
        report: Where the page goes; None: `run_dir/report.html`.
        run_dir: The run that the page is about.
        asked: `generate.name` of the answers.

    Raises:
        ArtifactError: An answer file is short, misaligned, duplicated or broken, or `out` belongs to other
            answers.
        ConfigError: A metric does not fit the questions, or a slice is not a label of theirs.
    """
    parent = read_manifest(generate_dir, "generate")
    # What the page shows does not shape the scores.
    settings = _shaping(config_json(config))
    if config.task is not None:
        # Not the path of a file, whose contents may change.
        settings["task"] = load_task(config.task).record()
    if is_complete(out):
        manifest = read_manifest(out, STAGE)
        require_parent(out, manifest, "generate", parent)
        require_same_config(out, manifest, settings, compared=_shaping)
        log.info("evaluate: already complete")
    else:
        manifest = _score(config, settings, generate_dir, parent, out)
    path = report or run_dir / "report.html"
    page = write_report(run_dir, path, questions_shown=config.report_questions, asked=asked)
    log.info("evaluate: the report is %s", page)
    return manifest


def _shaping(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that shape the scores, those filled in that scores made earlier do not name yet."""
    filled = config_json(EvaluateConfig()) | dict(settings)
    # What the page shows does not shape the scores.
    return {key: value for key, value in filled.items() if key != "report_questions"}


def _score(
    config: EvaluateConfig, settings: dict[str, Any], generate_dir: Path, parent: Manifest, out: Path
) -> Manifest:
    begun = monotonic()
    names = answer_settings(generate_dir, parent)
    headers = {name: read_json(generate_dir / f"{name}.header.json", "Run `retro generate` again") for name in names}
    task = task_of(headers, generate_dir) if config.task is None else load_task(config.task)
    asked = asked_questions(generate_dir, config.questions, task)
    answers = {name: read_aligned(generate_dir, name, asked) for name in names}
    scores, values = score_answers(config, task, asked, answers)
    write_scores(out, scores, asked, answers, values)
    seconds = round(monotonic() - begun, 3)
    write_json(out / REPORT, {"seconds": seconds, "questions": len(asked), "settings": len(names)})
    return write_manifest(
        out,
        Manifest(
            stage=STAGE,
            config=settings,
            parents={"generate": parent.fingerprint},
            counts={"questions": len(asked), "settings": len(names)},
            files=describe_files(out, [SCORES, PER_QUESTION]),
        ),
    )
