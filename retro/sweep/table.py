"""Results of a sweep as one table, on a page, in Markdown and on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from importlib import resources
from typing import Any

from retro.report.format import in_order, metric_name, setting_name
from retro.report.slices import span

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
        for label, parts in scores.get("slices", {}).items():
            for value, part in parts.items():
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


def as_markdown(name: str, results: Sequence[CellResult]) -> str:
    """The tables as Markdown."""
    parts = [f"# {name}", note(results), _markdown(headings(results), rows(results))]
    kinds = list(slice_rows(results))
    if kinds:
        parts += ["## Kinds of questions", _markdown(SLICE_HEADINGS, kinds)]
    if errors(results):
        failed = [f"* {one.checkpoint} × {one.task}: {' '.join(one.error.split())}" for one in errors(results)]
        parts += ["## Failed", "\n".join(failed)]
    return "\n\n".join(parts) + "\n"


def note(results: Sequence[CellResult]) -> str:
    """What the numbers are, in a sentence."""
    sure = " or ".join(f"{100 * share:g} %" for share in confidences(results)) or "no"
    return f"Main metric of each task in percent, with {sure} intervals from resampling the questions."


def _markdown(heads: Sequence[str], lines: Iterator[list[str]] | Sequence[list[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"

    return "\n".join([line(heads), line(["---"] * len(heads)), *map(line, lines)])


def page(name: str, results: Sequence[CellResult]) -> str:
    """The page as HTML. Every text that comes from files is escaped."""
    style = resources.files("retro.report").joinpath("templates/style.css").read_text(encoding="utf-8")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(name)} · Retro sweep</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><style>{style}</style></head><body>'
        f'<header class="mast"><p class="eyebrow">Retro evaluation sweep</p><h1>{escape(name)}</h1>'
        f'<p class="lede">{escape(note(results))}</p></header><main>{section(results)}</main></body></html>\n'
    )


def section(results: Sequence[CellResult]) -> str:
    """The tables alone."""
    parts = [f"<h2>All cells</h2>{_table(headings(results), rows(results), numbers=2)}"]
    kinds = list(slice_rows(results))
    if kinds:
        parts.append(f"<h2>Kinds of questions</h2>{_table(SLICE_HEADINGS, kinds, numbers=5)}")
    failed = "".join(
        f'<li class="bad"><strong data-sign="▼">{escape(one.checkpoint)} × {escape(one.task)}</strong>'
        f"{escape(one.error)}</li>"
        for one in errors(results)
    )
    if failed:
        parts.append(f'<h2>Failed</h2><ul class="remarks">{failed}</ul>')
    return f'<section id="sweep">{"".join(parts)}</section>'


def _table(heads: Sequence[str], lines: Iterable[Sequence[str]], *, numbers: int) -> str:
    """A table whose columns are numbers from that one on."""

    def cells(line: Sequence[str], tag: str) -> str:
        kinds = ("" if place < numbers else ' class="n"' for place in range(len(line)))
        return "".join(f"<{tag}{kind}>{escape(cell)}</{tag}>" for cell, kind in zip(line, kinds, strict=True))

    body = "".join(f"<tr>{cells(line, 'td')}</tr>" for line in lines)
    return (
        f'<div class="panel"><div class="scroll"><table><thead><tr>{cells(heads, "th")}</tr></thead>'
        f"<tbody>{body}</tbody></table></div></div>"
    )
