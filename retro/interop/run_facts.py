"""What a run's files say about one checkpoint: only of stages that it was made from, or that measured it.

Manifests name what they were made from, and perplexity and answers name the weights they were made with. A stage that
is not there, or belongs to another checkpoint, has an entry in `absent` instead, so that a model card can say so. Large
files are not hashed: an index of terabytes need not be read to describe it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retro.common.artifacts import MANIFEST, REPORT
from retro.common.files import read_json
from retro.report.run_summary import stage_dir
from retro.training.checkpoint import CheckpointInfo, identity

DATA_STAGES = ("corpus", "db", "index", "neighbors")
_AGAIN = "Run the stage that wrote it again with --redo"
_OTHER = "the run's own belongs to other data or another checkpoint"


@dataclass(frozen=True, kw_only=True)
class StageFacts:
    """A finished stage, as its manifest and report say."""

    config: Mapping[str, Any]
    counts: Mapping[str, Any]
    report: Mapping[str, Any]
    parents: Mapping[str, str]
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class TrainingFacts:
    """The training run that a checkpoint is in."""

    name: str
    """Its directory's name: retro, gpt, gpt_equal, or the name of a tuned model."""
    settings: Mapping[str, Any]
    """Steps, batch and optimizer; empty for weights that were converted."""
    config: Mapping[str, Any]
    """All that shaped it, as its config.json says; empty where there is none."""
    result: Mapping[str, Any] | None
    """Losses and rates at its end; None for weights from before the end."""
    weights: str
    """Name of the weights."""

    @property
    def tuned_from(self) -> str | None:
        """Name of the weights that tuning started from; None for a pretrained model."""
        return str(self.config["checkpoint"][0]) if "sft" in self.config else None


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All that a model card is written from."""

    info: CheckpointInfo
    training: TrainingFacts
    run_name: str
    """Name of the run's directory; empty when no run was found above the checkpoint or named."""
    stages: Mapping[str, StageFacts]
    """Finished stages that belong to the checkpoint."""
    absent: Mapping[str, str]
    """Why a stage has no entry in `stages`."""
    perplexity: Mapping[str, Any]
    """The run's table; empty unless this model, or the one it was tuned from, is in it."""
    scores: Mapping[str, Mapping[str, Any]]
    """Scores of the answers that this checkpoint gave, by the name of the asking; "" is its usual name."""


def find_run(checkpoint: Path) -> Path | None:
    """The run directory above a checkpoint: the nearest folder that holds a finished corpus."""
    above = checkpoint.resolve().parents
    return next((path for path in above if (stage_dir(path, "corpus") / MANIFEST).exists()), None)


def gather(info: CheckpointInfo, run_dir: Path | None) -> Facts:
    """Read what a run says about a checkpoint; without a run, what the checkpoint says itself."""
    training = _training(info)
    stages: dict[str, StageFacts] = {}
    absent: dict[str, str] = {}
    for name in (*DATA_STAGES, "pretrain", "perplexity", "sft"):
        found = None if run_dir is None else _stage(stage_dir(run_dir, name))
        if found is not None and _belongs(name, found, info, training, stages):
            stages[name] = found
        else:
            absent[name] = "no run was found" if run_dir is None else "the run has none" if found is None else _OTHER
    perplexity, scores = {}, {}
    if run_dir is not None:
        if "perplexity" in stages:
            perplexity = read_json(stage_dir(run_dir, "perplexity") / "perplexity.json", _AGAIN)
        scores = _scores(run_dir, training.weights)
    name = "" if run_dir is None else run_dir.resolve().name
    return Facts(
        info=info,
        training=training,
        run_name=name,
        stages=stages,
        absent=absent,
        perplexity=perplexity,
        scores=scores,
    )


def _training(info: CheckpointInfo) -> TrainingFacts:
    weights, settings = identity(info.path), info.config.get("train", {})
    directory = info.path.resolve().parent.parent
    if (
        info.path.resolve().parent.name != "checkpoints"
    ):  # moved out of its run, or converted: what is above is not its own
        return TrainingFacts(name=info.path.name, settings=settings, config={}, result=None, weights=weights)
    result = _optional(directory / "result.json")
    at_the_end = str(result.get("weights_sha256", ""))[:16] == weights
    return TrainingFacts(
        name=directory.name,
        settings=settings,
        config=_optional(directory / "config.json"),
        result=result if at_the_end else None,
        weights=weights,
    )


def _stage(directory: Path) -> StageFacts | None:
    if not (directory / MANIFEST).exists():
        return None
    data = read_json(directory / MANIFEST, _AGAIN)
    names = ("config", "counts", "parents", "fingerprint")
    return StageFacts(report=_optional(directory / REPORT), **{name: data[name] for name in names})


def _optional(path: Path) -> dict[str, Any]:
    data = read_json(path, _AGAIN) if path.exists() else {}
    return data if isinstance(data, dict) else {}


def _belongs(
    name: str, stage: StageFacts, info: CheckpointInfo, training: TrainingFacts, kept: Mapping[str, StageFacts]
) -> bool:
    """Whether a finished stage is one that the checkpoint was made from, or measured by."""
    if any(parent not in kept or kept[parent].fingerprint != mark for parent, mark in stage.parents.items()):
        return False
    pretrained = training.tuned_from or training.weights
    if name == "corpus":
        return not info.shape.tokenizer or stage.counts["tokenizer"]["fingerprint"] == info.shape.tokenizer
    if name == "db":
        return not info.shape.database or stage.fingerprint == info.shape.database
    if name == "pretrain":
        results = stage.counts["variants"].values()
        return any(str(result["weights_sha256"])[:16] == pretrained for result in results)
    if name == "sft":
        return str(stage.counts["result"]["weights_sha256"])[:16] == training.weights
    if name == "perplexity":
        return any(weights == pretrained for weights, _ in stage.config["checkpoints"].values())
    return True


def _scores(run_dir: Path, weights: str) -> dict[str, Mapping[str, Any]]:
    """Scores of answers that were given with these weights, of every asking."""
    found: dict[str, Mapping[str, Any]] = {}
    usual = stage_dir(run_dir, "generate").name
    for directory in sorted(run_dir.glob(f"{usual}*")):
        asked = directory.name.removeprefix(usual).removeprefix("_")
        answers, scored = _stage(directory), _stage(stage_dir(run_dir, "evaluate", asked))
        if answers is None or scored is None or scored.parents.get("generate") != answers.fingerprint:
            continue
        if answers.config["identity"]["checkpoint"] == weights:
            scores = read_json(stage_dir(run_dir, "evaluate", asked) / "scores.json", _AGAIN)
            found[asked] = {"scores": scores, "generate": answers.config["generate"], "evaluate": scored.config}
    return found
