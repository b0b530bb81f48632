"""The cells of a matrix: each a run config whose generate and evaluate stages have folders of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retro.common.config import config_json
from retro.common.errors import ConfigError, DataError
from retro.common.yaml_files import read_yaml
from retro.generate.config import GenerateConfig
from retro.matrix.config import MatrixConfig
from retro.run_config import RunConfig, load_run_config


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One checkpoint asked one task."""

    checkpoint: str
    task: str
    config: RunConfig

    @property
    def label(self) -> str:
        """In messages."""
        return f"{self.checkpoint} × {self.task}"


def load_matrix(path: Path) -> MatrixConfig:
    """Read a matrix.

    Raises:
        DataError: The file is missing, is not YAML, or a setting in it is wrong.
    """
    try:
        return MatrixConfig(**read_yaml(path))
    except ConfigError as error:
        raise DataError(path, str(error), "Mend that setting; docs/evaluation.md has an example") from None


def cells_of(matrix: MatrixConfig) -> list[Cell]:
    """All cells, checkpoint by checkpoint; every setting is checked before any work is done.

    Raises:
        ConfigError: A cell's settings cannot work.
        DataError: A run's file is missing or broken.
    """
    return [_cell(matrix, checkpoint, task) for checkpoint in matrix.checkpoints for task in matrix.tasks]


def _cell(matrix: MatrixConfig, checkpoint: str, task: str) -> Cell:
    model, asked = matrix.checkpoints[checkpoint], matrix.tasks[task]
    given = dict(matrix.set)
    if matrix.settings:
        given["generate.settings"] = list(matrix.settings)
    if matrix.slices:
        given["evaluate.slices"] = list(matrix.slices)
    given |= model.set | {"generate.task": task} | asked.set
    given["generate.name"] = f"{matrix.name}-{checkpoint}-{task}"
    base = load_run_config(model.run or matrix.run, [])
    try:
        config = RunConfig(**_laid_over(config_json(base), given))
    except ConfigError as error:
        raise ConfigError(f"{checkpoint} × {task}: {error.setting}", error.value, error.need) from None
    _require_whole(f"{checkpoint} × {task}", config.generate)
    return Cell(checkpoint=checkpoint, task=task, config=config)


def _require_whole(label: str, config: GenerateConfig) -> None:
    """A cell is scored at once, and a slice is no complete stage before the others are answered."""
    for name in ("start", "count"):
        value = getattr(config, name)
        if value:
            need = "needs to be absent, for a cell asks all questions; generate.limit asks the first so many"
            raise ConfigError(f"{label}: generate.{name}", value, need)


def _laid_over(data: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A run's settings with others laid over them, by dotted names. Values are YAML's already, and stay as they are."""
    for name, value in given.items():
        *sections, last = name.split(".")
        target = data
        for section in sections:
            inner = target.get(section)
            if not isinstance(inner, dict):
                raise ConfigError(name, value, f"needs {section!r} to be a section of a run's settings")
            target = inner
        target[last] = value
    return data
