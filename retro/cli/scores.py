"""`retro tasks` and `retro compare` on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from retro.common.terminal import Table, Terminal
from retro.qa.task import all_tasks
from retro.report.format import metric_name, percent, signed_percent


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


def show_comparison(found: Mapping[str, Any], terminal: Terminal, *, questions: int) -> None:
    """Print what `retro.evaluate.compare.compare` found.

    Args:
        found: That.
        terminal: Where to.
        questions: Questions to list at most, of those on which the two part.
    """
    terminal.say(f"A  {found['a']['name']}", f"B  {found['b']['name']}")
    terminal.table(_metrics(found))
    if found["differ"] and questions:
        terminal.table(_differing(found, questions))


def _metrics(found: Mapping[str, Any]) -> Table:
    sure = percent(found["intervals"]["confidence"], 0)
    table = Table(title=f"{found['questions']:,} questions, in %")
    table.caption = (
        f"A−B with its {sure} interval. Right: {found['right_from']} and more. p: how often chance would part two "
        "equally good ones as far,\nby McNemar's exact test where answers are right or wrong, else by random signs."
    )
    table.add_column("metric")
    for heading in ("A", "B", "A−B", "right: both", "A", "B", "none", "p"):
        table.add_column(heading, align="right")
    for name, one in found["metrics"].items():
        means = [percent(one[side]).removesuffix(" %") for side in ("a", "b")]
        counts = [f"{one['right'][key]:,}" for key in ("both", "only_a", "only_b", "neither")]
        table.add_row(metric_name(name), *means, _difference(one), *counts, f"{one['p']:.2g}")
    return table


def _difference(one: Mapping[str, Any]) -> str:
    mean, low, high = (signed_percent(one["difference"][key]).removesuffix(" %") for key in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"


def _differing(found: Mapping[str, Any], most: int) -> Table:
    total = len(found["differ"])
    table = Table(title=f"One alone is right: {total:,}" + (f", {most} shown" if total > most else ""))
    for heading in ("right", "question", "gold", "A said", "B said"):
        table.add_column(heading, fold=True)
    for one in found["differ"][:most]:
        texts = (one["question"], " | ".join(one["answers"]), one["a"], one["b"])
        table.add_row(one["right"].upper(), *texts)
    return table
