"""`retro tasks`: the tasks that are shipped, as a table."""

from __future__ import annotations

from typing import Any

from retro.common.terminal import Table
from retro.qa.task import all_tasks


def tasks_table() -> Table:
    """Name, version, kind, metrics and description of every task."""
    table = Table(
        title="Tasks, for generate.task",
        caption="A task of your own is a YAML file given by its path; `extends: NAME` takes one of these over.",
    )
    for heading in ("task", "version", "kind", "metrics", "what it is"):
        table.add_column(heading, whole=heading == "task")
    for one in all_tasks():
        table.add_row(one.name, str(one.version), one.kind, ", ".join(one.metrics), one.description)
    return table


def tasks_numbers() -> list[dict[str, Any]]:
    """The same for machines."""
    names = ("name", "version", "kind", "metrics", "description", "official")
    return [{name: getattr(one, name) for name in names} for one in all_tasks()]


def tasks_markdown() -> str:
    """The table of docs/evaluation.md: what is scored, and how far that is what a data set's authors score."""
    lines = ["| task | version | metrics | the authors' scoring, and what differs |", "|---|---|---|---|"]
    for one in all_tasks():
        metrics = ", ".join(f"`{name}`" for name in one.metrics)
        lines.append(f"| `{one.name}` | {one.version} | {metrics} | {one.official or one.description} |")
    return "\n".join(lines) + "\n"
