"""The two tables of a run, perplexity and answers, as rows of text: for the page and for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retro.common.files import read_json
from retro.common.terminal import Table, Terminal
from retro.report import in_context, slices
from retro.report.format import count, loss, metric_name, model_name, percent, setting_name, signed_percent
from retro.report.remarks import perplexity_of
from retro.report.run_summary import summarize


@dataclass(frozen=True, kw_only=True)
class PerplexityRow:
    """One model with one choice of neighbors."""

    model: str
    neighbors: str
    parameters: str
    perplexity: float
    shown: str
    difference: str
    """Against Retro with real neighbors; empty for that row itself and where there is none."""


def perplexity_rows(perplexity: Mapping[str, Any]) -> list[PerplexityRow]:
    """The rows of perplexity.json, GPTs first, then Retro with real, shuffled and no neighbors."""
    real = perplexity_of(perplexity, "retro", "real")
    order = ["gpt", "gpt_equal", "retro"]
    given = ["-", "real", "shuffled", "none"]
    rows = sorted(
        perplexity.get("rows", []),
        key=lambda row: (_place(order, str(row["model"]).lower()), _place(given, str(row.get("neighbors", "-")))),
    )
    return [_perplexity_row(row, real) for row in rows]


def _place(order: list[str], name: str) -> int:
    return order.index(name) if name in order else len(order)


def _perplexity_row(row: Mapping[str, Any], real: float | None) -> PerplexityRow:
    value, neighbors = float(row["perplexity"]), str(row.get("neighbors", "-"))
    itself = str(row["model"]).lower() == "retro" and neighbors == "real"
    return PerplexityRow(
        model=model_name(str(row["model"])),
        neighbors="" if neighbors == "-" else neighbors,
        parameters=count(row["parameters"]) if row.get("parameters") else "",
        perplexity=value,
        shown=loss(value),
        difference="" if itself or real is None else signed_percent(value / real - 1),
    )


def perplexity_table(perplexity: Mapping[str, Any]) -> Table:
    """Perplexity for the terminal."""
    table = Table(title=f"Perplexity, {perplexity.get('split', '?')} split")
    for name in ("model", "neighbors"):
        table.add_column(name)
    for name in ("parameters", "perplexity", "vs Retro, real"):
        table.add_column(name, align="right")
    for row in perplexity_rows(perplexity):
        style = "bold" if not row.difference else ""
        table.add_row(row.model, row.neighbors, row.parameters, row.shown, row.difference, style=style)
    return table


def answers_table(scores: Mapping[str, Any]) -> Table:
    """Scores of answers for the terminal, in percent."""
    sure = percent(scores["intervals"]["confidence"], 0)
    table = Table(title=f"Answers to {scores['questions']} questions, in % ({sure} intervals)")
    table.add_column("setting", whole=True)
    for metric in scores["metrics"]:
        table.add_column(metric_name(metric), align="right")
    table.add_column("found", align="right", whole=True)
    table.add_column("held", align="right")
    table.caption = "found: the right document is among the first passages; held: a gold answer stands in them"
    for name, mine in scores["settings"].items():
        held = mine["answer_in_passages"]
        table.add_row(
            setting_name(name),
            *[slices.span(mine[metric]) for metric in scores["metrics"]],
            recall_text(mine).split(", ")[-1].removesuffix(" %"),
            "" if held is None else _bare(held),
        )
    return table


def slices_table(scores: Mapping[str, Any]) -> Table | None:
    """The main metric of each kind of question for the terminal, in percent; None where no slices were asked for."""
    found = list(slices.rows(scores))
    if not found:
        return None
    table = Table(title=f"{metric_name(scores['metrics'][0])} of each kind of question, in %")
    table.add_column("label")
    table.add_column("value")
    table.add_column("questions", align="right")
    for name in scores["settings"]:
        table.add_column(setting_name(name), align="right")
    for label, value, questions, cells in found:
        table.add_row(label, value, f"{questions:,}", *cells)
    return table


def _bare(share: float) -> str:
    return percent(share).removesuffix(" %")


def recall_text(mine: Mapping[str, Any]) -> str:
    """`@1 40.0 %, @2 55.0 %`; empty where no gold document is known."""
    if not mine.get("recall"):
        return ""
    return ", ".join(f"@{k} {percent(share)}" for k, share in sorted(mine["recall"]["at"].items(), key=_by_k))


def _by_k(item: tuple[str, float]) -> int:
    return int(item[0])


def table_numbers(run_dir: Path, asked: str = "") -> dict[str, Any]:
    """What `print_tables` prints, for machines; only what there is."""
    run = summarize(run_dir, asked)
    known = (("perplexity", run.perplexity), ("in_context", run.in_context), ("answers", run.scores))
    return {name: found for name, found in known if found}


_REDO = "Measure it again with --redo"


def measured_numbers(directory: Path) -> dict[str, Any]:
    """Perplexities in a folder of their own, for machines: without passages in the prompt, and with, if measured."""
    names = {"perplexity": "perplexity.json", "in_context": "in_context.json"}
    paths = {name: directory / file for name, file in names.items()}
    return {name: read_json(path, _REDO) for name, path in paths.items() if path.exists()}


def print_measured(directory: Path, terminal: Terminal) -> None:
    """Print the tables of perplexities in a folder of their own."""
    found = measured_numbers(directory)
    terminal.table(perplexity_table(found["perplexity"]))
    if "in_context" in found:
        terminal.table(in_context.table(found["in_context"]))


def print_tables(run_dir: Path, terminal: Terminal, asked: str = "") -> None:
    """Print both tables of a run, as far as it got; `asked` is the `generate.name` of the answers."""
    run = summarize(run_dir, asked)
    if run.perplexity:
        terminal.table(perplexity_table(run.perplexity))
    if run.in_context:
        terminal.table(in_context.table(run.in_context))
    if run.scores:
        terminal.table(answers_table(run.scores))
        kinds = slices_table(run.scores)
        if kinds is not None:
            terminal.table(kinds)
    if not run.perplexity and not run.scores:
        terminal.say("Neither perplexity nor answers have been measured in this run yet.")
