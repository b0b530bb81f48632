"""Settings of a sweep: which checkpoints are asked which tasks, and how."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, model_validator

from retro.common.config import StageConfig
from retro.common.errors import require

_NAME = r"^[A-Za-z0-9_.-]+$"


class CheckpointEntry(StageConfig):
    """One row of the sweep: a model, by the run that it belongs to and by settings of that run."""

    run: Path | None = None
    """The run's YAML file; None: the sweep's own."""

    set: dict[str, Any] = Field(default_factory=dict)
    """Settings by their dotted names, such as generate.checkpoint and generate.encoder."""


class TaskEntry(StageConfig):
    """One column of the sweep: a task, by its name or by `generate.task`."""

    set: dict[str, Any] = Field(default_factory=dict)
    """Settings by their dotted names, such as generate.questions."""


class SweepConfig(StageConfig):
    """Checkpoints × tasks. Of settings the later ones win: those for all cells, the checkpoint's, the task's."""

    whole_file: ClassVar[bool] = True

    name: str = Field(default="sweep", pattern=_NAME)
    """Part of the name of every cell's answers: `generate.name` is `<name>-<checkpoint>-<task>`."""

    run: Path | None = None
    """The run's YAML file, of checkpoints that name none."""

    out: Path
    """Folder of the table: sweep.json, sweep.md and sweep.html."""

    checkpoints: dict[str, CheckpointEntry] = Field(min_length=1)
    """By the name that they have in the table."""

    tasks: dict[str, TaskEntry] = Field(min_length=1)
    """By the name that they have in the table."""

    settings: tuple[str, ...] = ()
    """What is read beside the question: `generate.settings` of all cells; empty: as the run says."""

    slices: tuple[str, ...] = ()
    """Labels of questions whose kinds are scored apart: `evaluate.slices` of all cells."""

    set: dict[str, Any] = Field(default_factory=dict)
    """Settings for all cells, by their dotted names."""

    @model_validator(mode="after")
    def _names_make_folders(self) -> SweepConfig:
        for field in ("checkpoints", "tasks"):
            named = all(
                key.replace("_", "").replace(".", "").replace("-", "").isalnum() for key in getattr(self, field)
            )
            require(self, field, named, "names of letters, digits, dots, dashes and underscores: they name folders")
        return self
