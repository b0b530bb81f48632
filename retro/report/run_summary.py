"""What a run directory holds, read for the report. Whatever is missing or damaged is said, never guessed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from retro.common.artifacts import REPORT, Manifest, read_manifest
from retro.common.errors import RetroError
from retro.common.files import read_json, read_json_lines
from retro.common.stage_order import STAGE_ORDER
from retro.qa.answer_files import Answer, read_answers
from retro.report.format import in_order

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class StageView:
    """One stage as far as it got."""

    name: str
    work: str
    manifest: Manifest | None
    report: Mapping[str, Any]
    problem: str
    """Why there is no manifest; empty when there is one."""
    size: int
    """Bytes of the files that belong to the stage."""

    @property
    def seconds(self) -> float | None:
        """Time the stage took, as it says itself; the sum of its parts where it tells only those."""
        parts = {key: float(value) for key, value in self.report.items() if is_number(value)}
        if "seconds" in parts:
            return parts["seconds"]
        return sum(value for key, value in parts.items() if key.endswith("_seconds")) or None


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Losses of one training run, in nats per token."""

    name: str
    train: tuple[tuple[float, float], ...]
    """(step, loss)."""
    valid: tuple[tuple[float, float], ...]
    tokens_per_second: float | None
    """Median over the log."""


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """All that the report shows."""

    run_dir: Path
    asked: str
    """Name of the answers, where the run was asked several times."""
    stages: tuple[StageView, ...]
    pretraining: tuple[Curve, ...]
    tuning: tuple[Curve, ...]
    perplexity: Mapping[str, Any] | None
    in_context: Mapping[str, Any] | None = None
    """Perplexity with passages in the prompt."""
    leakage: Mapping[str, Any] | None
    scores: Mapping[str, Any] | None
    answers: Mapping[str, tuple[Answer, ...]]
    """By setting, in the scores' order."""
    values: Mapping[str, tuple[Mapping[str, Any], ...]]
    """By setting: each question's own scores, by metric."""
    damaged: tuple[str, ...]
    """Files that are there and cannot be used, and why: all that they hold is left out."""

    @property
    def finished(self) -> int:
        """Stages that are complete."""
        return sum(stage.manifest is not None for stage in self.stages)

    def stage(self, name: str) -> StageView:
        """A stage by its name."""
        return next(stage for stage in self.stages if stage.name == name)


def is_number(value: object) -> bool:
    """Whether a value out of JSON is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def stage_dir(run_dir: Path, name: str, asked: str = "") -> Path:
    """The folder of a stage; `asked` names the answers, where a run was asked several times."""
    directory = next(one.directory for one in STAGE_ORDER if one.name == name)
    return run_dir / (f"{directory}_{asked}" if asked and name in ("generate", "evaluate") else directory)


def summarize(run_dir: Path, asked: str = "") -> RunSummary:
    """Read a run directory, finished or not.

    Args:
        run_dir: The run's directory.
        asked: `generate.name` of the answers to show.
    """
    files = _Files()
    folders = {name: stage_dir(run_dir, name, asked) for name, *_ in STAGE_ORDER}
    scores = files.read(_object, folders["evaluate"] / "scores.json")
    if scores is not None:
        # JSON on disk is sorted by name.
        scores["settings"] = {name: scores["settings"][name] for name in in_order(scores["settings"])}
    answers, values = _answers(files, folders, scores["settings"] if scores else ())
    return RunSummary(
        run_dir=run_dir,
        asked=asked,
        stages=tuple(_stage(files, folders[one.name], one.name, one.work) for one in STAGE_ORDER),
        pretraining=tuple(_curves(files, folders["pretrain"])),
        tuning=tuple(_curves(files, folders["sft"], "tuning")),
        perplexity=files.read(_object, folders["perplexity"] / "perplexity.json"),
        in_context=files.read(_object, folders["perplexity"] / "in_context.json"),
        leakage=files.read(_object, run_dir / "leakage" / "leakage.json"),
        scores=scores,
        answers=answers,
        values=values,
        damaged=tuple(files.damaged),
    )


_REMEDY = "The report leaves it out"


def _object(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_json(path, _REMEDY)
    return found


def _lines(path: Path) -> list[dict[str, Any]]:
    return read_json_lines(path, _REMEDY)


class _Files:
    """Reads what is there, and keeps what is wrong with the files that cannot be used."""

    def __init__(self) -> None:
        self.damaged: list[str] = []

    def read(self, how: Callable[[Path], T], path: Path) -> T | None:
        """What a file holds; None where there is none, or a damaged one."""
        if not path.exists():
            return None
        try:
            return how(path)
        except RetroError as error:
            log.warning("%s", error)
            self.damaged.append(str(error))
            return None


def _stage(files: _Files, directory: Path, name: str, work: str) -> StageView:
    manifest, problem = None, ""
    try:
        manifest = read_manifest(directory, name)
    except RetroError as error:
        begun = directory.exists() and any(directory.iterdir())
        problem = str(error) if (directory / "manifest.json").exists() else ("not finished" if begun else "not run")
    report = files.read(_object, directory / REPORT) or {}
    size = _size(directory, manifest)
    return StageView(name=name, work=work, manifest=manifest, report=report, problem=problem, size=size)


def _size(directory: Path, manifest: Manifest | None) -> int:
    if manifest is None:
        return 0
    if manifest.files:
        return sum(int(file["bytes"]) for file in manifest.files.values())
    # Checkpoints come and go while training, so the stages that train list no files.
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def _curves(files: _Files, directory: Path, alone: str = "") -> Iterator[Curve]:
    """One curve for each run in a stage's folder, named after its own folder; `alone` names a single one."""
    paths = sorted(directory.glob("*/log.jsonl"))
    for path in paths:
        lines = [line for line in files.read(_lines, path) or () if isinstance(line.get("step"), int)]
        speeds = sorted(float(line["tokens_per_second"]) for line in lines if line.get("tokens_per_second"))
        curve = Curve(
            name=alone if alone and len(paths) == 1 else path.parent.name,
            train=tuple((line["step"], line["loss"]) for line in lines if "loss" in line),
            valid=tuple((line["step"], line["valid_loss"]) for line in lines if "valid_loss" in line),
            tokens_per_second=speeds[len(speeds) // 2] if speeds else None,
        )
        if curve.train or curve.valid:
            yield curve


def _answers(
    files: _Files, folders: Mapping[str, Path], settings: Iterable[str]
) -> tuple[dict[str, tuple[Answer, ...]], dict[str, tuple[Mapping[str, Any], ...]]]:
    """Answers and each one's scores, by setting: only those that have both."""
    scored = files.read(_lines, folders["evaluate"] / "questions.jsonl")
    answers, values = {}, {}
    for name in settings:
        path = folders["generate"] / f"{name}.jsonl"
        given = files.read(read_answers, path)
        mine = [line["settings"][name] for line in scored or () if name in line.get("settings", {})]
        if given and scored and len(given) == len(mine) == len(scored):
            answers[name], values[name] = tuple(given), tuple(mine)
        elif given and scored:
            files.damaged.append(f"{path}: holds {len(given)} answers, {len(mine)} of {len(scored)} are scored.")
    return answers, values
