"""Results of a sweep as one table, on a page, in Markdown and on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from retro.common.terminal import Table
from retro.report.format import in_order, metric_name, setting_name, span
from retro.report.render import render
from retro.report.tables import new_table, slices

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


def headings(results: Sequence[CellResult]) -> list[str]:
    """Of the columns: each task with its main metric."""
    names = []
    for task in _tasks(results):
        scored = next((one.scores for one in results if one.task == task and one.scores), None)
        names.append(f"{task}, {metric_name(scored['metrics'][0])}" if scored else task)
    return ["model", "reads", *names]


def rows(results: Sequence[CellResult]) -> Iterator[list[str]]:
    """Each model with each setting: the main metric of every task with its interval, in percent."""
    settings = in_order({name for one in results if one.scores for name in one.scores["settings"]})
    for checkpoint in dict.fromkeys(one.checkpoint for one in results):
        mine = {one.task: one for one in results if one.checkpoint == checkpoint}
        for setting in settings or [""]:
            cells = [_cell(mine.get(task), setting) for task in _tasks(results)]
            if setting and all(cell == MISSING for cell in cells):
                continue
            yield [checkpoint, setting_name(setting), *cells]


def _tasks(results: Sequence[CellResult]) -> list[str]:
    return list(dict.fromkeys(one.task for one in results))


def _cell(result: CellResult | None, setting: str) -> str:
    if result is None or (not result.error and result.scores is None):
        return MISSING
    if result.scores is None:
        return FAILED
    found = result.scores["settings"].get(setting)
    return MISSING if found is None else span(found[result.scores["metrics"][0]])


def slice_rows(results: Sequence[CellResult]) -> Iterator[list[str]]:
    """Each kind of question: model, setting, task, label, value, how many questions, main metric."""
    for result in results:
        scores = result.scores or {}
        for label, value, part in slices(scores):
            for setting in in_order(part["settings"]):
                found = span(part["settings"][setting][scores["metrics"][0]])
                who = [result.checkpoint, setting_name(setting), result.task]
                yield [*who, label, value, f"{part['questions']:,}", found]


SLICE_HEADINGS = ("model", "reads", "task", "label", "value", "questions", "main metric")


def confidences(results: Sequence[CellResult]) -> list[float]:
    """The shares that the intervals hold; one, unless cells differ."""
    return sorted({one.scores["intervals"]["confidence"] for one in results if one.scores})


def errors(results: Sequence[CellResult]) -> list[CellResult]:
    """The cells that failed."""
    return [one for one in results if one.error]


def tables(results: Sequence[CellResult]) -> list[Table]:
    """All cells; and each kind of question, where they were scored apart."""
    heads = headings(results)
    kinds = list(slice_rows(results))
    cells = new_table("All cells", *heads[:2], right=heads[2:])
    apart = new_table("Kinds of questions", *SLICE_HEADINGS[:5], right=SLICE_HEADINGS[5:])
    for table, lines in ((cells, rows(results)), (apart, kinds)):
        for line in lines:
            table.add_row(*line)
    return [cells, apart] if kinds else [cells]


def as_markdown(name: str, results: Sequence[CellResult]) -> str:
    """The tables as Markdown."""
    cells, *apart = map(_markdown, tables(results))
    parts = [f"# {name}", note(results), cells]
    if apart:
        parts += ["## Kinds of questions", *apart]
    if errors(results):
        failed = [f"* {one.checkpoint} × {one.task}: {' '.join(one.error.split())}" for one in errors(results)]
        parts += ["## Failed", "\n".join(failed)]
    return "\n\n".join(parts) + "\n"


def note(results: Sequence[CellResult]) -> str:
    """What the numbers are, in a sentence."""
    sure = " or ".join(f"{100 * share:g} %" for share in confidences(results)) or "no"
    return f"Main metric of each task in percent, with {sure} intervals from resampling the questions."


def _markdown(table: Table) -> str:
    def line(cells: Iterable[object]) -> str:
        return "| " + " | ".join(str(cell).replace("|", r"\|") for cell in cells) + " |"

    heads = [heading for heading, _ in table.columns]
    return "\n".join([line(heads), line(["---"] * len(heads)), *(line(cells) for cells, _ in table.rows)])


def page(name: str, results: Sequence[CellResult]) -> str:
    """The page as HTML."""
    return render("sweep", name=name, lede=note(results), tables=tables(results), failed=errors(results))
