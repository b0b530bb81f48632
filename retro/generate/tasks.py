"""Tasks: how a kind of question is asked, and what its answers are scored by."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from retro.common.config import unknown_name
from retro.common.errors import ConfigError
from retro.sft.prompts import require_kind


@dataclass(frozen=True, kw_only=True)
class Task:
    """One entry of tasks.yaml."""

    name: str
    version: int
    """Rises whenever the kind or a metric changes, so that scores of two versions are never compared
    unawares."""
    kind: str
    metrics: tuple[str, ...]


@cache
def _table() -> dict[str, dict[str, Any]]:
    text = resources.files("retro.generate").joinpath("tasks.yaml").read_text(encoding="utf-8")
    table: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return table


def task_names() -> tuple[str, ...]:
    """All tasks, in the file's order."""
    return tuple(_table())


def load_task(name: str) -> Task:
    """The task of that name.

    Raises:
        ConfigError: There is none; the nearest is named.
    """
    if name not in _table():
        need = unknown_name(name, task_names()).replace("a setting", "a task")
        raise ConfigError("GenerateConfig.task", name, need)
    entry = _table()[name]
    return Task(
        name=name,
        version=int(entry["version"]),
        kind=require_kind(f"{name}.kind", entry["kind"]),
        metrics=tuple(entry["metrics"]),
    )
