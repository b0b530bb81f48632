"""Tables of what a run measured, as data: the terminal prints them, the page shows the same ones."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from retro.common.files import read_json
from retro.common.terminal import Align, Table, Terminal
from retro.report.format import count, loss, metric_name, model_name, percent, setting_name, signed_percent, span
from retro.report.remarks import perplexity_of
from retro.report.run_summary import summarize

_MODELS, _NEIGHBORS = ("gpt", "gpt_equal", "retro"), ("-", "real", "shuffled", "none")
_BEFORE = {
    "found": "passages found for it",
    "shuffled": "another text's passages",
    "none": "nothing",
    "more_text": "more of the text itself",
}
_TEXTS = {
    "distinct_1": "distinct 1-grams",
    "distinct_2": "distinct 2-grams",
    "repeated_4": "repeated 4-grams",
    "in_a_loop": "end in a loop",
}


def new_table(title: str, *left: str, right: Iterable[str] = ()) -> Table:
    """A table without rows; its last columns are numbers."""
    table = Table(title=title)
    for align, names in (("left", left), ("right", right)):
        for name in names:
            table.add_column(name, align=cast(Align, align))
    return table


def markdown(table: Table) -> str:
    """A table in Markdown, without its title and caption."""

    def line(cells: Iterable[object]) -> str:
        return "| " + " | ".join(str(cell).replace("|", r"\|") for cell in cells) + " |"

    heads = [heading for heading, _ in table.columns]
    return "\n".join([line(heads), line(["---"] * len(heads)), *(line(cells) for cells, _ in table.rows)])


def perplexity_rows(perplexity: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The rows of perplexity.json, GPTs first, then Retro with real, shuffled and no neighbors."""
    return sorted(
        perplexity.get("rows", []),
        key=lambda row: (_place(_MODELS, row["model"].lower()), _place(_NEIGHBORS, row.get("neighbors", "-"))),
    )


def _place(order: tuple[str, ...], name: str) -> int:
    return order.index(name) if name in order else len(order)


def perplexity_table(perplexity: Mapping[str, Any]) -> Table:
    """Perplexity of every model with every choice of neighbors, and against Retro with real ones."""
    real = perplexity_of(perplexity, "retro", "real")
    table = new_table(
        f"Perplexity, {perplexity.get('split', '?')} split",
        "model",
        "neighbors",
        right=("parameters", "perplexity", "vs Retro, real"),
    )
    for row in perplexity_rows(perplexity):
        value, neighbors = float(row["perplexity"]), str(row.get("neighbors", "-"))
        itself = str(row["model"]).lower() == "retro" and neighbors == "real"
        difference = "" if itself or real is None else signed_percent(value / real - 1)
        parameters = count(row["parameters"]) if row.get("parameters") else ""
        given = "" if neighbors == "-" else neighbors
        cells = (model_name(str(row["model"])), given, parameters, loss(value), difference)
        table.add_row(*cells, style="" if difference else "bold")
    return table


def in_context_table(measured: Mapping[str, Any]) -> Table:
    """Perplexity with passages in the prompt: each condition, and found passages against it."""
    against = {(one["model"], one["minus"]): one for one in measured["differences"]}
    table = new_table(
        f"Perplexity with passages in the prompt, {measured['split']} split",
        "model",
        "before the text",
        right=("perplexity", "interval", "found against it", "p"),
    )
    for row in measured["rows"]:
        found = against.get((row["model"], row["passages"]))
        table.add_row(
            model_name(str(row["model"])),
            _BEFORE.get(row["passages"], str(row["passages"])),
            loss(row["perplexity"]),
            "" if row["low"] is None else f"{loss(row['low'])}–{loss(row['high'])}",
            "" if found is None else signed_percent(math.expm1(found["mean"])),
            "" if found is None else f"{found['p_value']:.2g}",
        )
    row, settings = measured["rows"][0], measured["measured"]["settings"]
    lengths = next(iter(measured["prompts"].values()))
    table.caption = (
        f"{row['tokens']:,} tokens of {row['documents']:,} documents, the same everywhere: {lengths['stride']} after "
        f"each search, {settings['passages']} passages, up to {lengths['prefix']} tokens of preceding text; "
        f"{lengths['without_passages']:,} of {lengths['targets']:,} searches found nothing. "
        f"{percent(settings['confidence'], 0)} intervals and p are over whole documents"
    )
    return table


def answers_table(scores: Mapping[str, Any]) -> Table:
    """Scores of answers, in percent."""
    sure = percent(scores["intervals"]["confidence"], 0)
    table = Table(title=f"Answers to {scores['questions']} questions, in % ({sure} intervals)")
    table.add_column("setting", whole=True)
    for heading in (*map(metric_name, scores["metrics"]), "found", "held"):
        table.add_column(heading, align="right", whole=heading == "found")
    table.caption = "found: the right document is among the first passages; held: they contain a gold answer"
    for name, mine in scores["settings"].items():
        held = "" if mine["answer_in_passages"] is None else percent(mine["answer_in_passages"])
        shares = [share.removesuffix(" %") for share in (recall_text(mine).split(", ")[-1], held)]
        table.add_row(setting_name(name), *[span(mine[metric]) for metric in scores["metrics"]], *shares)
    return table


def passages_table(scores: Mapping[str, Any]) -> Table:
    """What each setting was given to read, and how many answers it failed to give."""
    right = ("right document found", "gold answer in passages", "empty answers", "did not fit")
    table = new_table("What it was given", "setting", right=right)
    for name, mine in scores["settings"].items():
        held = mine["answer_in_passages"]
        cells = (recall_text(mine), "" if held is None else percent(held), mine["unanswered"], mine["skipped"])
        table.add_row(setting_name(name), *[str(cell) if cell != "" else "–" for cell in cells])
    return table


def answer_texts_table(scores: Mapping[str, Any]) -> Table | None:
    """How long and how varied the answers are; None for scores from before this was counted."""
    table = new_table("How the answers read", "setting", right=("words", *_TEXTS.values()))
    table.caption = (
        "Of answers that are not empty. Distinct: the share of different ones among all n-grams of all answers. "
        "Repeated: 4-grams that are in the same answer earlier. A loop: the end is one phrase three times."
    )
    for name, mine in scores["settings"].items():
        found = mine.get("wording")
        if found is None:
            return None
        shares = [found[key] for key in _TEXTS]
        words = "–" if found["words"] is None else f"{found['words']:.1f}"
        table.add_row(setting_name(name), words, *["–" if share is None else percent(share) for share in shares])
    return table


def slices_table(scores: Mapping[str, Any]) -> Table | None:
    """The main metric of each kind of question, in percent; None where no slices were asked for."""
    if not scores.get("slices"):
        return None
    table = new_table(
        f"{metric_name(scores['metrics'][0])} of each kind of question, in %",
        "label",
        "value",
        right=("questions", *map(setting_name, scores["settings"])),
    )
    for label, value, part in slices(scores):
        cells = [span(part["settings"][name][scores["metrics"][0]]) for name in scores["settings"]]
        table.add_row(label, value, f"{part['questions']:,}", *cells)
    return table


def slices(scores: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Label, its value, and the scores of the questions that have it."""
    for label, parts in scores.get("slices", {}).items():
        for value, part in parts.items():
            yield label, value, part


def recall_text(mine: Mapping[str, Any]) -> str:
    """`@1 40.0 %, @2 55.0 %`; empty where no gold document is known."""
    if not mine.get("recall"):
        return ""
    shares = sorted(mine["recall"]["at"].items(), key=lambda item: int(item[0]))
    return ", ".join(f"@{k} {percent(share)}" for k, share in shares)


def table_numbers(run_dir: Path, asked: str = "") -> dict[str, Any]:
    """What `print_tables` prints, for machines; only what there is."""
    run = summarize(run_dir, asked)
    known = (("perplexity", run.perplexity), ("in_context", run.in_context), ("answers", run.scores))
    return {name: found for name, found in known if found}


def measured_numbers(directory: Path) -> dict[str, Any]:
    """Perplexities in a folder of their own, for machines: without passages in the prompt, and with, if measured."""
    paths = {name: directory / f"{name}.json" for name in ("perplexity", "in_context")}
    return {name: read_json(path, "Measure it again with --redo") for name, path in paths.items() if path.exists()}


def print_measured(directory: Path, terminal: Terminal) -> None:
    """Print the tables of perplexities in a folder of their own."""
    terminal.table(*_tables(measured_numbers(directory)))


def print_tables(run_dir: Path, terminal: Terminal, asked: str = "") -> None:
    """Print the tables of a run, as far as it got; `asked` is the `generate.name` of the answers."""
    found = table_numbers(run_dir, asked)
    terminal.table(*_tables(found))
    if not {"perplexity", "answers"} & set(found):
        terminal.say("Neither perplexity nor answers have been measured in this run yet.")


def _tables(found: Mapping[str, Any]) -> Iterator[Table]:
    made = {"perplexity": perplexity_table, "in_context": in_context_table, "answers": answers_table}
    yield from (make(found[name]) for name, make in made.items() if name in found)
    kinds = slices_table(found.get("answers", {}))
    if kinds is not None:
        yield kinds
