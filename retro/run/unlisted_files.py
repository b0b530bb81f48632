"""What no manifest of blocks covers: checkpoints, results of training, and files that carry a checksum of their own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from retro.common.artifacts import MANIFEST, REPORT, Manifest
from retro.common.block_stage import BLOCKS_FILE
from retro.common.checksum_cache import VERIFIED
from retro.common.checksummed_json import is_covered, page_problem
from retro.common.errors import ArtifactError, RetroError
from retro.common.files import read_json, read_json_lines
from retro.common.input_files import read_bytes
from retro.run.config import RunConfig
from retro.run.pipeline import STAGES, require_folder
from retro.training.result import CHECKPOINTS, INFO, RESULT, problems_of, require_result, runs_of

_LOG, _SETTINGS = "log.jsonl", "config.json"
_REMEDY = "Put it back, or run its stage with --redo"


def below(run_dir: Path, pattern: str) -> list[Path]:
    """What bears a name in a run; not what was being written, or removed, when a process was killed."""
    found = (path for path in run_dir.rglob(pattern) if not any(part.endswith(".tmp") for part in path.parts))
    return sorted(path for path in found if path.name != VERIFIED)


def checkpoints_in(run_dir: Path) -> list[Path]:
    """The folders of checkpoints, whole or not."""
    said = {path.parent for path in below(run_dir, INFO)}
    return sorted(said | {path for path in below(run_dir, f"{CHECKPOINTS}/step_*") if path.is_dir()})


def training_problems(directory: Path, manifest: Manifest) -> Iterator[str]:
    """What is wrong with the results of a stage that trains, compared with its manifest."""
    for run, result in runs_of(directory, manifest).items():
        try:
            require_result(run, result)
        except RetroError as error:
            yield str(error)


def result_problems(run_dir: Path) -> Iterator[str]:
    """What is wrong with the files that the results of training name."""
    for path in below(run_dir, RESULT):
        try:
            yield from (
                f"{file}: {why}. Put it back, or run the stage with --redo" for file, why in problems_of(path.parent)
            )
        except RetroError as error:
            yield str(error)


def own_checksums(run_dir: Path, listed: Iterable[Path]) -> list[Path]:
    """The files that may carry a checksum of their own, those that something else lists aside."""
    others = set(listed)
    lines = [
        path for path in below(run_dir, "*.jsonl") if path.name == _LOG or path.with_suffix(".header.json").exists()
    ]
    pages = sorted(run_dir.glob("report*.html"))
    return [path for path in (*below(run_dir, "*.json"), *lines, *pages) if path not in others]


def own_problem(path: Path) -> str:
    """What is wrong with a file by its own checksum; empty if nothing, or if it has none."""
    try:
        if path.suffix == ".html":
            problem = page_problem(read_bytes(path, "Run `retro evaluate` again").decode("utf-8", "replace"))
            return problem and f"{path}: {problem}. Run `retro evaluate` again"
        if path.suffix == ".jsonl":
            read_json_lines(path, _REMEDY)
        else:
            read_json(path, _REMEDY, Any)
    except RetroError as error:
        return str(error)
    return ""


def has_no_checksum(path: Path) -> bool:
    """Whether a sound file is one that today's version would have given a checksum: an older one wrote it."""
    of_training = path.name in (_LOG, _SETTINGS) and (path.parent / CHECKPOINTS).exists()
    if not of_training and path.name not in (MANIFEST, REPORT, BLOCKS_FILE, INFO, RESULT):
        return False
    text = path.read_text("utf-8")
    return not all(map(is_covered, text.split("\n")[:-1] if path.name == _LOG else [text]))


def unfinished(config: RunConfig) -> Iterator[str]:
    """Stages whose folder or manifest is gone, or that were stopped right before they wrote it."""
    for one in STAGES:
        directory = one.path(config)
        try:
            require_folder(directory)
        except ArtifactError as error:
            yield str(error)
        if (directory / REPORT).exists() and not (directory / MANIFEST).exists():
            said = f"is missing, and {REPORT} beside it says that the stage was done"
            yield f"{directory / MANIFEST}: {said}. Put it back, or run `retro {one.name}` again"
