"""Whether an artifact was made from what is in the run now."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from retro.common.artifacts import MANIFEST, Manifest, is_complete, parse_manifest, require_parent
from retro.common.errors import ArtifactError
from retro.common.files import read_json
from retro.index.config import DIRECTORY
from retro.run.config import RunConfig
from retro.run.pipeline import STAGES, database_dirs, stage

RESULT = "result.json"
"""What a run of training leaves when it has finished."""
_MAKES_THE_DATABASE = ("corpus", "db", "index")


def require_parents(directory: Path, manifest: Manifest, config: RunConfig) -> None:
    """Compare the parents that a manifest names with those that stand in the run, or in the database that it reads.

    Raises:
        ArtifactError: One is missing, damaged, or another one; the stage to run is named.
    """
    for name in manifest.parents:
        above = _directory_of(name, manifest.stage, config)
        if above is None:
            continue
        path = above / MANIFEST
        if not path.exists():
            raise _missing(path, directory, name)
        require_parent(directory, manifest, name, parse_manifest(path, f"Run `retro {name}` with --redo"))
    for run, made_from in _weights_read(directory, manifest, config):
        result = run / RESULT
        if not run.exists():
            raise _missing(run, directory, "sft" if manifest.stage == "generate" else "pretrain")
        found = read_json(result, f"Delete {result}")["weights_sha256"][:16] if result.exists() else None
        if found != made_from:
            now = "have steps left to take" if found is None else f"are {found} now"
            problem = f"was made from the weights {made_from}, and those in {run} {now}"
            remedy = "makes it again" if manifest.stage == "perplexity" else "with --redo makes it again"
            raise ArtifactError(directory / MANIFEST, problem, f"`retro {manifest.stage}` {remedy}")


def _missing(path: Path, directory: Path, name: str) -> ArtifactError:
    remedy = f"Put it back, or run `retro {name}` and the stages after it again"
    return ArtifactError(path, f"is missing, and {directory} was made from it", remedy)


def _weights_read(directory: Path, manifest: Manifest, config: RunConfig) -> Iterator[tuple[Path, str]]:
    """Models of this run that a stage read: where one was trained, and the name of the weights that were read."""
    made = manifest.config
    if manifest.stage == "perplexity":
        for name, (weights, _) in made.get("checkpoints", {}).items():
            yield stage("pretrain").path(config) / name, weights
    elif manifest.stage == "sft" and made["sft"].get("start_from") is None:
        weights, shape = made["checkpoint"]
        yield stage("pretrain").path(config) / ("retro" if shape["model"]["retrieval"] else "gpt"), weights
    elif manifest.stage == "generate" and not (made["generate"].get("checkpoint") or made["generate"].get("step")):
        tuned = stage("sft").path(config)
        if not is_complete(tuned):
            raise _missing(tuned / MANIFEST, directory, "sft")
        name = parse_manifest(tuned / MANIFEST, "Run `retro sft` with --redo", "sft").counts["name"]
        yield tuned / name, made["identity"]["checkpoint"]


def _directory_of(name: str, child: str, config: RunConfig) -> Path | None:
    """Where a parent is; None for what is not a stage's, and for the index of a version, which has no manifest."""
    if name == DIRECTORY:
        return database_dirs(config)[1] / DIRECTORY
    if not any(one.name == name for one in STAGES):
        return None
    if name in ("db", "index") and child not in _MAKES_THE_DATABASE:
        db, index = database_dirs(config)
        if name == "db":
            return db
        return None if index == db else index
    return stage(name).path(config)
