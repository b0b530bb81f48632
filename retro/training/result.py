"""What a finished run of training leaves: `result.json`, written last, which names its other files by checksum.

    <run>/result.json                            steps, losses, rates, and size and SHA-256 of
    <run>/config.json, log.jsonl
    <run>/checkpoints/step_*/checkpoint.json     which in turn names the files of its checkpoint

The manifest of the stage repeats what a result has that is equal for equal runs. So every byte hangs on the manifest,
and a checkpoint or a whole run that was put in the place of another is found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from retro.common.artifacts import MANIFEST, Manifest, describe_files, parse_manifest, wrong_bytes
from retro.common.errors import ArtifactError
from retro.common.files import read_json, write_json

RESULT = "result.json"
CHECKPOINTS = "checkpoints"
INFO = "checkpoint.json"
"""In a checkpoint: what it is, and its files."""
_FILES = "files"


def write_result(run: Path, result: Mapping[str, Any]) -> None:
    """Say that a run has finished, and name the files that it leaves."""
    names = [name for name in ("config.json", "log.jsonl") if (run / name).exists()]
    names += [str(path.relative_to(run)) for path in run.glob(f"{CHECKPOINTS}/step_*/{INFO}")]
    write_json(run / RESULT, dict(result) | {_FILES: describe_files(run, names)})


def read_result(run: Path) -> dict[str, Any]:
    """What `write_result` was given.

    Raises:
        ArtifactError: It is missing or damaged.
    """
    return {name: value for name, value in _read(run).items() if name != _FILES}


def require_of_its_run(checkpoint: Path) -> None:
    """Check that a checkpoint is the one that the finished run around it names; one that it does not name came later.

    Raises:
        ArtifactError: It is another one.
    """
    run = checkpoint.parent.parent
    if checkpoint.parent.name != CHECKPOINTS or not (run / RESULT).exists():
        return
    known = _files(run).get(f"{CHECKPOINTS}/{checkpoint.name}/{INFO}")
    if known is not None and wrong_bytes(checkpoint / INFO, known):
        problem = f"is not the checkpoint that {run / RESULT} names"
        raise ArtifactError(checkpoint, problem, "Put the one back that was trained here, or train again with --redo")


def problems_of(run: Path) -> Iterator[tuple[Path, str]]:
    """Each file of a finished run that is not as its result says, and why; the files of checkpoints aside.

    Raises:
        ArtifactError: The result is missing or damaged.
    """
    newest = max((name for name in _files(run) if name.endswith(INFO)), default="")
    for name, known in _files(run).items():
        if name.endswith(INFO) and name != newest and not (run / name).parent.exists():
            continue  # an older one that somebody removed, to have its space
        if problem := wrong_bytes(run / name, known):
            yield run / name, problem


def runs_of(directory: Path, manifest: Manifest) -> dict[Path, dict[str, Any]]:
    """The runs that the manifest of a stage says were finished, each with what its result must say."""
    if manifest.stage == "pretrain":
        return {directory / name: values for name, values in manifest.counts["variants"].items()}
    if manifest.stage == "sft":
        return {directory / str(manifest.counts["name"]): manifest.counts["result"]}
    return {}


def require_result(run: Path, expected: Mapping[str, Any]) -> None:
    """Check that the result of a run is the one that the manifest of its stage has.

    Raises:
        ArtifactError: It is missing, damaged, or another one.
    """
    found = read_result(run)
    for name, value in expected.items():
        # As text: a loss may be NaN.
        if repr(found.get(name)) != repr(value):
            problem = f"says {name} = {found.get(name)!r}, the manifest of its stage {value!r}: it is another run's"
            raise ArtifactError(run / RESULT, problem, "Put the right one back, or run the stage with --redo")


def of_stage(path: Path) -> Path:
    """The directory with the checkpoints of a finished stage that trains; any other path as it is.

    Of a pretraining stage that trained both, it is Retro's.

    Raises:
        ArtifactError: The stage's manifest is damaged.
    """
    if not (path / MANIFEST).exists():
        return path
    manifest = parse_manifest(path / MANIFEST, "Give a checkpoint")
    if manifest.stage == "sft":
        return path / str(manifest.counts["name"])
    if manifest.stage == "pretrain":
        return path / ("retro" if "retro" in manifest.counts["variants"] else "gpt")
    return path


def _files(run: Path) -> dict[str, Any]:
    # A result that an older version wrote names none.
    files: dict[str, Any] = _read(run).get(_FILES, {})
    return files


def _read(run: Path) -> dict[str, Any]:
    path, remedy = run / RESULT, f"Delete {run / RESULT} and run its stage again"
    found = read_json(path, remedy)
    if not isinstance(found, dict):
        raise ArtifactError(path, "is not a result of a run", remedy)
    return found
