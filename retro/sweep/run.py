"""`retro sweep`: answer and score every cell through the stages, one after another, and keep the table up to date."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retro.common.config import config_json
from retro.common.errors import ConfigError, DataError, RetroError
from retro.common.files import atomic_path, read_json, write_plain_json
from retro.common.yaml_files import read_yaml
from retro.generate.config import GenerateConfig
from retro.run.config import RunConfig, load_run_config
from retro.run.pipeline import stage, stage_lock
from retro.sweep.config import SweepConfig
from retro.sweep.table import CellResult, as_json, as_markdown, page

log = logging.getLogger(__name__)


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


_FORMER_NAME = "matrix"
"""The default of `name` when the command was `retro matrix`."""


def load_sweep(path: Path) -> SweepConfig:
    """Read a sweep; one that `retro matrix` began keeps the name that its cells have.

    Raises:
        DataError: The file is missing, is not YAML, or a setting in it is wrong.
    """
    try:
        sweep = SweepConfig(**read_yaml(path))
    except ConfigError as error:
        raise DataError(path, str(error), "Fix that setting; docs/evaluation.md has an example") from None
    table = sweep.out / f"{_FORMER_NAME}.json"
    if "name" in sweep.model_fields_set or not table.exists():
        return sweep
    log.warning("%s: `name` was %r by default, so its cells keep that; `name: sweep` starts again", table, _FORMER_NAME)
    return sweep.model_copy(update={"name": _FORMER_NAME})


def cells_of(sweep: SweepConfig) -> list[Cell]:
    """All cells, checkpoint by checkpoint; every setting is checked before any work is done.

    Raises:
        ConfigError: A cell's settings cannot work.
        DataError: A run's file is missing or broken.
    """
    return [_cell(sweep, checkpoint, task) for checkpoint in sweep.checkpoints for task in sweep.tasks]


def _cell(sweep: SweepConfig, checkpoint: str, task: str) -> Cell:
    model, asked = sweep.checkpoints[checkpoint], sweep.tasks[task]
    given = dict(sweep.set)
    if sweep.settings:
        given["generate.settings"] = list(sweep.settings)
    if sweep.slices:
        given["evaluate.slices"] = list(sweep.slices)
    given |= model.set | {"generate.task": task} | asked.set
    given["generate.name"] = f"{sweep.name}-{checkpoint}-{task}"
    base = load_run_config(model.run or sweep.run, [])
    try:
        config = RunConfig(**_laid_over(config_json(base), given))
    except ConfigError as error:
        raise ConfigError(f"{checkpoint} × {task}: {error.setting}", error.value, error.need) from None
    _require_whole(f"{checkpoint} × {task}", config.generate)
    return Cell(checkpoint=checkpoint, task=task, config=config)


def _require_whole(label: str, config: GenerateConfig) -> None:
    """A cell is scored at once, and a slice is not a complete stage before the others are answered."""
    for name in ("start", "count"):
        value = getattr(config, name)
        if value:
            need = "needs to be absent, for a cell asks all questions; generate.limit asks the first so many"
            raise ConfigError(f"{label}: generate.{name}", value, need)


def _laid_over(data: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A run's settings with others merged over them, by dotted names. Values stay as they are."""
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


STAGES = ("generate", "evaluate")


def run_cell(cell: Cell) -> Path:
    """Answer and score one cell, as far as it is not done; the folder of its scores.

    Raises:
        RetroError: A stage cannot be run.
    """
    for name in STAGES:
        with stage_lock(cell.config, name):
            stage(name).run(cell.config)
    return stage("evaluate").path(cell.config)


def run_sweep(sweep: SweepConfig, cells: Sequence[Cell], run: Callable[[Cell], Path] = run_cell) -> list[CellResult]:
    """Run all cells, those that fail too, and write the table after each.

    Args:
        sweep: Its settings.
        cells: All of them, from `cells_of`.
        run: Answers and scores a cell.

    Returns:
        One result for each cell; those that failed say why.
    """
    results = [CellResult(cell.checkpoint, cell.task) for cell in cells]
    for number, cell in enumerate(cells):
        log.info("[%d/%d] %s", number + 1, len(cells), cell.label)
        try:
            directory = run(cell)
            scores = read_json(directory / "scores.json", "Run `retro evaluate` with --redo")
            results[number] = CellResult(cell.checkpoint, cell.task, str(directory), scores)
        # What a model or a machine can do to one cell, too little memory among it, says nothing about the next.
        except (RetroError, RuntimeError, MemoryError, OSError) as error:
            log.error("%s: %s", cell.label, error)
            results[number] = CellResult(cell.checkpoint, cell.task, error=f"{type(error).__name__}: {error}")
        write_table(sweep, results)
    return results


def write_table(sweep: SweepConfig, results: Sequence[CellResult]) -> None:
    """Write sweep.json, sweep.md and sweep.html, as far as the results go."""
    write_plain_json(sweep.out / "sweep.json", as_json(sweep.name, results))
    for name, text in (("sweep.md", as_markdown(sweep.name, results)), ("sweep.html", page(sweep.name, results))):
        with atomic_path(sweep.out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
