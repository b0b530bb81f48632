"""The tasks that are shipped, one YAML file each in this folder, and those of a user's own files."""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from retro.common.config import unknown_name
from retro.common.errors import ConfigError, DataError
from retro.common.tasks.task import Task
from retro.common.yaml_files import read_yaml

SUFFIXES = (".yaml", ".yml")


@cache
def task_names() -> tuple[str, ...]:
    """The shipped tasks, by name."""
    names = (entry.name for entry in resources.files("retro.common.tasks").iterdir())
    return tuple(sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml")))


def load_task(name_or_path: str | Path) -> Task:
    """The shipped task of that name, or the one in a user's file.

    A file may say `extends: NAME` of a shipped task, and then gives only what differs.

    Args:
        name_or_path: A name, or a path that ends in .yaml.

    Raises:
        ConfigError: There is no such task; the nearest is named.
        DataError: The file is missing, or is no task.
    """
    if str(name_or_path).endswith(SUFFIXES):
        return _from_file(Path(name_or_path))
    return _shipped(str(name_or_path))


def all_tasks() -> list[Task]:
    """Every shipped task, by name."""
    return [_shipped(name) for name in task_names()]


@cache
def _shipped(name: str) -> Task:
    return Task(**_shipped_data(name))


def _shipped_data(name: str) -> dict[str, Any]:
    if name not in task_names():
        need = unknown_name(name, task_names()).replace("a setting", "a task")
        raise ConfigError("task", name, f"{need}; a task of your own is a path that ends in .yaml")
    with resources.as_file(resources.files("retro.common.tasks") / f"{name}.yaml") as path:
        return read_yaml(path)


def _from_file(path: Path) -> Task:
    data = read_yaml(path)
    base = data.pop("extends", None)
    try:
        task = Task(**((_shipped_data(str(base)) if base is not None else {}) | data))
    except ConfigError as error:
        raise DataError(path, str(error), "A task has the fields of docs/evaluation.md") from None
    few = task.few_shot
    if few.file is None:
        return task
    # Beside the task's file, wherever the command was started.
    return task.model_copy(update={"few_shot": few.model_copy(update={"file": path.parent / few.file})})
