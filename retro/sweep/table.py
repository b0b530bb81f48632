"""Results of a sweep as one table, on a page, in Markdown and on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from retro.common.terminal import Table
from retro.report.format import in_order, metric_name, setting_name, span
from retro.report.render import render
from retro.report.tables import markdown, new_table, slices

FAILED, MISSING = "failed", "–"


@dataclass(frozen=True)
class CellResult:
    """What came of a cell: scores, or an error, or nothing yet."""

    checkpoint: str
    task: str
    directory: str = ""
    scores: Mapping[str, Any] | None = None
    error: str = ""


def as_json(name: str, results: Sequence[CellResult]) -> dict[str, Any]:
    """Everything, for machines."""
    return {"name": name, "cells": [asdict(result) for result in results]}


def cells_table(results: Sequence[CellResult]) -> Table:
    """Each model with each setting: the main metric of every task with its interval, in percent."""
    tasks = list(dict.fromkeys(one.task for one in results))
    settings = in_order({name for one in results if one.scores for name in one.scores["settings"]})
    table = new_table("All cells", "model", "reads", right=[_heading(results, task) for task in tasks])
    for checkpoint in dict.fromkeys(one.checkpoint for one in results):
        mine = {one.task: one for one in results if one.checkpoint == checkpoint}
        for setting in settings or [""]:
            cells = [_cell(mine.get(task), setting) for task in tasks]
            if not setting or any(cell != MISSING for cell in cells):
                table.add_row(checkpoint, setting_name(setting), *cells)
    return table


def _heading(results: Sequence[CellResult], task: str) -> str:
    """A task with its main metric."""
    scored = next((one.scores for one in results if one.task == task and one.scores), None)
    return f"{task}, {metric_name(scored['metrics'][0])}" if scored else task


def _cell(result: CellResult | None, setting: str) -> str:
    if result is None or (not result.error and result.scores is None):
        return MISSING
    if result.scores is None:
        return FAILED
    found = result.scores["settings"].get(setting)
    return MISSING if found is None else span(found[result.scores["metrics"][0]])


def kinds_table(results: Sequence[CellResult]) -> Table:
    """Each kind of question: its label and value, how many questions, the main metric; empty without slices."""
    left = ("model", "reads", "task", "label", "value")
    table = new_table("Kinds of questions", *left, right=("questions", "main metric"))
    for result in results:
        scores = result.scores or {}
        for label, value, part in slices(scores):
            for setting in in_order(part["settings"]):
                found = span(part["settings"][setting][scores["metrics"][0]])
                who = (result.checkpoint, setting_name(setting), result.task)
                table.add_row(*who, label, value, f"{part['questions']:,}", found)
    return table


def errors(results: Sequence[CellResult]) -> list[CellResult]:
    """The cells that failed."""
    return [one for one in results if one.error]


def as_markdown(name: str, results: Sequence[CellResult]) -> str:
    """The tables as Markdown."""
    parts = [f"# {name}", note(results), markdown(cells_table(results))]
    kinds = kinds_table(results)
    if kinds.rows:
        parts += [f"## {kinds.title}", markdown(kinds)]
    if errors(results):
        failed = [f"* {one.checkpoint} × {one.task}: {' '.join(one.error.split())}" for one in errors(results)]
        parts += ["## Failed", "\n".join(failed)]
    return "\n\n".join(parts) + "\n"


def note(results: Sequence[CellResult]) -> str:
    """What the numbers are, in a sentence."""
    # One, unless cells differ.
    shares = sorted({one.scores["intervals"]["confidence"] for one in results if one.scores})
    sure = " or ".join(f"{100 * share:g} %" for share in shares) or "no"
    return f"Main metric of each task in percent, with {sure} intervals from resampling the questions."


def page(name: str, results: Sequence[CellResult]) -> str:
    """The page as HTML."""
    tables = [table for table in (cells_table(results), kinds_table(results)) if table.rows]
    return render("sweep", name=name, lede=note(results), tables=tables, failed=errors(results))
