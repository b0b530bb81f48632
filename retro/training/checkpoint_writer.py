"""Checkpoints are written beside, described, and renamed when whole; `checkpoint.py` finds and loads them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from retro.common.artifacts import describe_files
from retro.common.config import config_json
from retro.common.errors import ArtifactError, TrainingError
from retro.common.files import discard, failed_writes_are_artifact_errors, fsync, write_json
from retro.mcore import checkpoint as sharded
from retro.mcore import parallel
from retro.mcore.engine import Engine, sharded_weights
from retro.mcore.lora import is_adapter
from retro.mcore.sharded_tensors import Sums, sums_of
from retro.model.config import ModelShape
from retro.model.model import RetroModel
from retro.tokenizers.tokenizer import copy_tokenizer_files
from retro.training.checkpoint import (
    TOKENIZER,
    complete,
    describe_adapters,
    describe_modules,
    step_directory,
    step_of,
)
from retro.training.config import TrainConfig
from retro.training.result import INFO


class CheckpointWriter:
    """Writes the checkpoints of a run, at once or in the background, and drops the oldest ones.

    As a context manager it completes what is under way when the run ends; when the run fails, what was under way is
    left incomplete under its temporary name, and the next run removes it. Every rank owns one and calls its methods
    alike.
    """

    def __init__(
        self,
        engine: Engine[RetroModel],
        shape: ModelShape,
        config: TrainConfig,
        directory: Path,
        base: Path | None = None,
        tokenizer: Path | None = None,
    ) -> None:
        """Nothing is written yet.

        Args:
            engine: What is saved.
            shape: Its model, recorded in each checkpoint.
            config: Its settings, recorded too; says which checkpoints to keep and whether to write in the background.
            directory: Where the checkpoints of the run are.
            base: The checkpoint that adapters, or modules beside a frozen network, are trained on; None where a whole
                model is saved.
            tokenizer: The directory of the model's tokenizer, which goes into each checkpoint.
        """
        self._tokenizer = tokenizer
        self.engine, self.shape, self.config, self.directory = engine, shape, config, directory
        self._under_way: tuple[int, sharded.AsyncSave] | None = None
        self._before: tuple[int, Sums] | None = None
        self._said: dict[str, Any] = {}
        # Seen from any checkpoint of the run, the base is at the same place.
        place = step_directory(directory, 0)
        if base is not None and config.lora is not None:
            self._said["adapters"] = describe_adapters(config.lora, base, place)
        elif base is not None:
            self._said["modules"] = describe_modules(base, place)

    def __enter__(self) -> CheckpointWriter:
        if parallel.is_main():
            for cut_short in self.directory.glob(".step_*.tmp"):
                shutil.rmtree(cut_short)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.finish()

    def save(self, step: int, *, learned: bool) -> None:
        """Begin a checkpoint of this step, after the one under way.

        Args:
            step: How far the model is.
            learned: Whether it took a step since the last checkpoint that must have changed something.

        Raises:
            ArtifactError: The disk is full or fails.
            TrainingError: Nothing has changed in memory since the last checkpoint, though it learned.
        """
        self.finish()
        state = self.engine.state()
        sums = sums_of(state)
        if self._before is not None and learned and not parallel.any_rank(sums != self._before[1]):
            raise TrainingError(
                f"step {step}: weights and optimizer state are those of step {self._before[0]}, bit for bit, though "
                "steps with a gradient were taken since. The checkpoint of that step is kept; check this machine's "
                "memory and drivers, and run again"
            )
        self._before = (step, sums)
        final = step_directory(self.directory, step)
        if parallel.is_main():
            _make_empty(_temporary(final))
        parallel.barrier()
        with _tidying(final):
            saving = sharded.AsyncSave(state, _temporary(final), sums=sums, background=self.config.async_save)
        self._under_way = (step, saving)
        if not self.config.async_save:
            self.finish()

    def poll(self) -> None:
        """Complete the checkpoint under way if every rank has written its part."""
        if self._under_way is not None and not parallel.any_rank(not self._under_way[1].written()):
            self.finish()

    def finish(self) -> None:
        """Wait for the checkpoint under way and complete it.

        Raises:
            ArtifactError: The disk is full.
        """
        if self._under_way is None:
            return
        step, saving = self._under_way
        self._under_way = None
        final = step_directory(self.directory, step)
        with _tidying(final):
            files = saving.finish()
        if parallel.is_main():
            with _tidying(final):
                _complete(
                    final, self.shape, {"train": config_json(self.config)}, step, files, self._said, self._tokenizer
                )
            for old in superseded(complete(self.directory), self.config.keep_last, self.config.keep_every):
                discard(old)
        parallel.barrier()


def superseded(found: list[Path], keep_last: int, keep_every: int) -> list[Path]:
    """Which of a run's checkpoints need not be kept.

    Args:
        found: Checkpoints of `step_directory`, oldest first.
        keep_last: So many of the newest stay.
        keep_every: Those of a multiple of so many steps stay too; 0: none.
    """
    return [path for path in found[:-keep_last] if not keep_every or step_of(path) % keep_every]


def save_weights(
    model: RetroModel,
    shape: ModelShape,
    config: dict[str, Any],
    final: Path,
    step: int = 0,
    tokenizer: Path | None = None,
    adapters: dict[str, Any] | None = None,
) -> None:
    """Write a checkpoint of weights alone, for another run to start from. For one process.

    Args:
        model: A whole model.
        shape: Its shape.
        config: What is recorded about where it comes from.
        final: The checkpoint; what is there is replaced.
        step: How long it was trained, as far as is known.
        tokenizer: The directory of the model's tokenizer, if it is known.
        adapters: What `describe_adapters` says; then adapters alone are written. None: all weights.

    Raises:
        ArtifactError: The disk is full.
    """
    weights = sharded_weights([model])
    if adapters is not None:
        weights = {
            number: {name: one for name, one in mine.items() if is_adapter(name)} for number, mine in weights.items()
        }
    said = {} if adapters is None else {"adapters": adapters}
    _make_empty(_temporary(final))
    with _tidying(final):
        files = sharded.save({"weights": weights}, _temporary(final))
        _complete(final, shape, config, step, files, said, tokenizer)


def _complete(
    final: Path,
    shape: ModelShape,
    config: dict[str, Any],
    step: int,
    files: dict[str, Any],
    more: dict[str, Any] | None = None,
    tokenizer: Path | None = None,
) -> None:
    """Say what a checkpoint is, and `more`, and give it its final name. `files` are described already."""
    temporary = _temporary(final)
    if tokenizer is not None:
        copy_tokenizer_files(tokenizer, temporary / TOKENIZER)
    found = (str(path.relative_to(temporary)) for path in temporary.rglob("*") if path.is_file())
    rest = [name for name in found if name not in files]
    described = dict(sorted((files | describe_files(temporary, rest)).items()))
    said = {"shape": config_json(shape), "step": step, "config": config, "files": described}
    write_json(temporary / INFO, said | (more or {}))
    discard(final)
    temporary.rename(final)
    fsync(final.parent)


def _temporary(final: Path) -> Path:
    return final.parent / f".{final.name}.tmp"


def _make_empty(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)


@contextmanager
def _tidying(final: Path) -> Iterator[None]:
    try:
        with failed_writes_are_artifact_errors(final):
            yield
    except ArtifactError:
        # What was written of it would keep the disk full.
        shutil.rmtree(_temporary(final), ignore_errors=True)
        raise
