"""What a run directory holds, read for the report. Whatever is missing or damaged is said, never guessed."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from retro.common.artifacts import REPORT, Manifest, read_manifest
from retro.common.errors import ArtifactError, RetroError
from retro.common.files import read_json, read_json_lines
from retro.qa.answer_files import Answer, read_answers
from retro.report.format import in_order

log = logging.getLogger(__name__)

STAGES: tuple[tuple[str, str, str], ...] = (
    ("corpus", "1_corpus", "text to tokens"),
    ("db", "2_db", "tokens to chunks"),
    ("index", "3_index", "chunks to a search index"),
    ("neighbors", "4_neighbors", "chunks to their neighbors"),
    ("pretrain", "5_pretrain", "Retro and GPT from scratch"),
    ("perplexity", "5_pretrain/perplexity", "models against held-out text"),
    ("sft", "6_sft", "tuned on questions"),
    ("generate", "7_generate", "questions to answers"),
    ("evaluate", "8_evaluate", "answers to scores"),
)
"""Name, folder and work of each stage, in order; `retro.run.pipeline` states the order."""

_PACKAGES = ("instruct-retro", "torch", "megatron-core", "faiss-cpu", "faiss-gpu", "sentence-transformers", "numpy")


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
    machine: Mapping[str, str]
    versions: Mapping[str, str]

    def stage(self, name: str) -> StageView:
        """A stage by its name."""
        return next(stage for stage in self.stages if stage.name == name)


def is_number(value: object) -> bool:
    """Whether a value out of JSON is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def stage_dir(run_dir: Path, name: str, asked: str = "") -> Path:
    """The folder of a stage; `asked` names the answers, where a run was asked several times."""
    directory = next(directory for stage, directory, _ in STAGES if stage == name)
    return run_dir / (f"{directory}_{asked}" if asked and name in ("generate", "evaluate") else directory)


def summarize(run_dir: Path, asked: str = "") -> RunSummary:
    """Read a run directory, finished or not.

    Args:
        run_dir: The run's directory.
        asked: `generate.name` of the answers to show.
    """
    scores = _scores(stage_dir(run_dir, "evaluate", asked) / "scores.json")
    return RunSummary(
        run_dir=run_dir,
        asked=asked,
        stages=tuple(_stage(stage_dir(run_dir, name, asked), name, work) for name, _, work in STAGES),
        pretraining=tuple(_curves(stage_dir(run_dir, "pretrain"))),
        tuning=tuple(_curves(stage_dir(run_dir, "sft"), "tuning")),
        perplexity=_json(stage_dir(run_dir, "perplexity") / "perplexity.json"),
        in_context=_json(stage_dir(run_dir, "perplexity") / "in_context.json"),
        leakage=_json(run_dir / "leakage" / "leakage.json"),
        scores=scores,
        answers=_answers(stage_dir(run_dir, "generate", asked), scores),
        values=_values(stage_dir(run_dir, "evaluate", asked) / "questions.jsonl", scores),
        machine=machine(),
        versions=versions(),
    )


def _stage(directory: Path, name: str, work: str) -> StageView:
    manifest, problem = None, ""
    try:
        manifest = read_manifest(directory, name)
    except RetroError as error:
        begun = directory.exists() and any(directory.iterdir())
        problem = str(error) if (directory / "manifest.json").exists() else ("not finished" if begun else "not run")
    return StageView(
        name=name,
        work=work,
        manifest=manifest,
        report=_json(directory / REPORT) or {},
        problem=problem,
        size=_size(directory, manifest),
    )


def _size(directory: Path, manifest: Manifest | None) -> int:
    if manifest is None:
        return 0
    if manifest.files:
        return sum(int(file["bytes"]) for file in manifest.files.values())
    # Checkpoints come and go while training, so the stages that train list no files.
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def _json(path: Path) -> dict[str, Any] | None:
    """A file of the run; None where there is none, or a damaged one, which is named in the log."""
    if not path.exists():
        return None
    try:
        data = read_json(path, "The report leaves it out")
    except ArtifactError as error:
        log.warning("%s", error)
        return None
    return data if isinstance(data, dict) else None


def _scores(path: Path) -> dict[str, Any] | None:
    """The scores, settings in the order in which they are shown: JSON on disk is sorted by name."""
    scores = _json(path)
    if scores is None:
        return None
    return scores | {"settings": {name: scores["settings"][name] for name in in_order(scores["settings"])}}


def _curves(directory: Path, alone: str = "") -> Iterator[Curve]:
    """One curve for each run in a stage's folder, named after its own folder; `alone` names a single one."""
    paths = sorted(directory.glob("*/log.jsonl"))
    for path in paths:
        lines = _log_lines(path)
        speeds = sorted(float(line["tokens_per_second"]) for line in lines if line.get("tokens_per_second"))
        curve = Curve(
            name=alone if alone and len(paths) == 1 else path.parent.name,
            train=tuple((line["step"], line["loss"]) for line in lines if "loss" in line),
            valid=tuple((line["step"], line["valid_loss"]) for line in lines if "valid_loss" in line),
            tokens_per_second=speeds[len(speeds) // 2] if speeds else None,
        )
        if curve.train or curve.valid:
            yield curve


def _log_lines(path: Path) -> list[dict[str, Any]]:
    try:
        lines = read_json_lines(path, "The report leaves it out")
    except ArtifactError as error:
        log.warning("%s", error)
        return []
    return [line for line in lines if isinstance(line.get("step"), int)]


def _answers(directory: Path, scores: Mapping[str, Any] | None) -> dict[str, tuple[Answer, ...]]:
    found = {}
    for name in (scores or {}).get("settings", {}):
        try:
            found[name] = tuple(read_answers(directory / f"{name}.jsonl"))
        except RetroError:
            continue
    return found


def _values(path: Path, scores: Mapping[str, Any] | None) -> dict[str, tuple[Mapping[str, Any], ...]]:
    if scores is None:
        return {}
    try:
        lines = [line["settings"] for line in read_json_lines(path, "The report leaves it out")]
    except (ArtifactError, KeyError):
        return {}
    return {name: tuple(line.get(name, {}) for line in lines) for name in scores["settings"]}


def machine() -> dict[str, str]:
    """The machine that this process runs on."""
    memory = psutil.virtual_memory().total / 2**30
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": _processor(),
        "cores": f"{cores}",
        "memory": f"{memory:.0f} GiB",
        "system": f"{platform.system()} {platform.machine()}",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def versions() -> dict[str, str]:
    """Python and the packages that shape the numbers; without importing them."""
    found = {"python": sys.version.split()[0]}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
