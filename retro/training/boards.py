"""Curves for people to look at while a model trains, beside `log.jsonl`: TensorBoard's files, and Weights & Biases."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from retro.common.artifacts import fingerprint
from retro.common.config import config_json
from retro.common.errors import ConfigError
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
        step: The step that it goes on from, 0 for a new one.
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
                # The same run again when training goes on.
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
