"""The training log: one JSON object a line, shown on boards when asked for. A resumed run cuts off what it repeats."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TextIO

from retro.common import checksummed_json
from retro.common.artifacts import fingerprint
from retro.common.config import config_json
from retro.common.errors import ConfigError
from retro.common.files import atomic_path, failed_writes_are_artifact_errors, read_json_lines
from retro.common.optional import import_optional
from retro.training.config import TrainConfig


class Board(Protocol):
    """Something that shows numbers by step."""

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Show numbers of a step."""

    def close(self) -> None:
        """Everything was shown."""


def open_boards(config: TrainConfig, out: Path, step: int, what: str) -> list[Board]:
    """The boards that the settings ask for.

    Args:
        config: Of the training.
        out: The directory of the run: what boards write goes below it.
        step: The step that it continues from, 0 for a new one.
        what: The stage, which names the run for people.

    Raises:
        DependencyError: The package of one is not installed.
        ConfigError: Weights & Biases takes no run.
    """
    boards: list[Board] = []
    if config.tensorboard:
        boards.append(_TensorBoard(out / "tensorboard", step))
    if config.wandb:
        boards.append(_WeightsAndBiases(config, out, what))
    return boards


class _TensorBoard:
    def __init__(self, directory: Path, step: int) -> None:
        module = import_optional(
            "torch.utils.tensorboard", extra="track", use="writes TensorBoard's files", package="tensorboard",
            instead="set train.tensorboard=false",
        )  # fmt: skip
        self._writer: Any = module.SummaryWriter(str(directory), purge_step=step + 1)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases:
    """One run of a project. The key is wandb's own affair (`wandb login`, WANDB_API_KEY); it is never read here."""

    def __init__(self, config: TrainConfig, out: Path, what: str) -> None:
        wandb = import_optional(
            "wandb", extra="track", use="shows training on Weights & Biases", instead="set train.wandb=''"
        )
        out.mkdir(parents=True, exist_ok=True)
        settings = {"console": "off", "disable_git": True, "disable_code": True, "silent": True}
        try:
            self._run: Any = wandb.init(
                project=config.wandb,
                # The same run again when training continues.
                id=fingerprint(str(out.resolve())),
                resume="allow",
                name=f"{out.resolve().parent.parent.name} {what}",
                dir=str(out),
                config=config_json(config),
                settings=wandb.Settings(**settings),
            )
        except wandb.errors.Error as error:
            said = " ".join(str(error).split()).replace(os.environ.get("WANDB_API_KEY") or "\0", "…")
            need = f"needs wandb to take the run ({said}): `wandb login` first, or WANDB_MODE=offline for later"
            raise ConfigError("train.wandb", config.wandb, need) from None

    def add(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class TrainingLog:
    """Appends to `log.jsonl`; each line is on disk before the next step starts. `path` None keeps nothing."""

    def __init__(self, path: Path | None, *, resumed_step: int, boards: Sequence[Board] = ()) -> None:
        self._stream: TextIO | None = None
        if path is not None:
            keep_lines_up_to(path, resumed_step)
            self._stream = path.open("a", encoding="utf-8")
        self._boards = boards

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            self._stream.close()
        for board in self._boards:
            board.close()

    def write(self, **values: float | int | str) -> None:
        """Append one line; `step` must be among the values."""
        if self._stream is None:
            return
        with failed_writes_are_artifact_errors(Path(self._stream.name)):
            self._stream.write(checksummed_json.line(values))
            self._stream.flush()
            os.fsync(self._stream.fileno())
        numbers = {name: value for name, value in values.items() if name != "step" and not isinstance(value, str)}
        for board in self._boards:
            board.add(int(values["step"]), numbers)


def keep_lines_up_to(path: Path, step: int) -> None:
    """Drop lines after `step`, and a last line that a kill cut short."""
    kept = [checksummed_json.line(line) for line in read_log(path) if line["step"] <= step]
    with atomic_path(path) as temporary:
        temporary.write_text("".join(kept), encoding="utf-8")


def read_log(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a log; an absent file is an empty log.

    Raises:
        ArtifactError: A line was changed after it was written.
    """
    if not path.exists():
        return []
    return read_json_lines(path, f"Delete {path}: it only says how training went")
