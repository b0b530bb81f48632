"""The ablation as one table, on the terminal and in Markdown, and the main metric over the length of the prefix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from retro.common.files import atomic_path, write_plain_json
from retro.common.terminal import Table
from retro.evaluate.scores import BERT_SCORE
from retro.recipes.dynamic_prefix.ablation.run import Row, as_json
from retro.recipes.dynamic_prefix.evaluation.tables import as_markdown
from retro.report.format import count, metric_name, seconds, span
from retro.report.tables import new_table

JSON, MARKDOWN, PLOT = "ablation.json", "ablation.md", "ablation.svg"
NONE, FAILED = "–", "failed"


def main_metric(rows: Sequence[Row]) -> str:
    """The metric that rows are compared by; exact_match before there is a row."""
    return next((name for one in rows for name in one.metrics), "exact_match")


def shown_metrics(rows: Sequence[Row]) -> list[str]:
    """The main metric, the second, and BERTScore where it was computed; all are in the JSON file."""
    found = list(dict.fromkeys(name for one in rows for name in one.metrics)) or [main_metric(rows)]
    return [name for place, name in enumerate(found) if place < 2 or name == BERT_SCORE]


def ablation_table(rows: Sequence[Row]) -> Table:
    """A row for each variant."""
    metrics = shown_metrics(rows)
    right = ("trained parameters", "vectors per document", *map(metric_name, metrics), "token accuracy", "training")
    table = new_table("Ablation", "varied", "variant", right=right)
    for one in rows:
        cells = [span(one.metrics[name]) if name in one.metrics else NONE for name in metrics]
        if one.error:
            cells = [FAILED, *cells[1:]]
        table.add_row(
            one.group, one.name,
            NONE if one.trained is None else count(one.trained),
            NONE if one.vectors is None else f"{one.vectors:.4g}",
            *cells,
            NONE if one.token_accuracy is None else span(one.token_accuracy),
            seconds(one.seconds["train"]) if "train" in one.seconds and one.trained else NONE,
        )  # fmt: skip
    table.caption = (
        "Metrics in %, with intervals from resampling the questions. Token accuracy: of the gold answer, read token by "
        "token. Training: seconds of the step `train`, on this machine."
    )
    return table


def failures_table(rows: Sequence[Row]) -> Table:
    """Variants that failed, and why."""
    table = new_table("Failed", "variant", "why")
    for one in rows:
        if one.error:
            table.add_row(one.name, " ".join(one.error.split()))
    return table


def write_tables(directory: Path, rows: Sequence[Row]) -> None:
    """Write all rows that there are as JSON, Markdown and a plot.

    Raises:
        ArtifactError: The disk is full.
    """
    write_plain_json(directory / JSON, {"metric": main_metric(rows), "rows": as_json(rows)})
    made = [one for one in (ablation_table(rows), failures_table(rows)) if one.rows]
    with atomic_path(directory / MARKDOWN) as temporary:
        temporary.write_text(as_markdown("Ablation of the dynamic prefix", made), encoding="utf-8")
    draw(directory / PLOT, rows)


def draw(path: Path, rows: Sequence[Row]) -> None:
    """Draw the main metric of rows with a fixed length over it, and as lines those without documents, with documents in
    the prompt and uncompressed; nothing where fewer than two lengths are there."""
    metric = main_metric(rows)
    lengths = {one.length: one for one in rows if one.length is not None and metric in one.metrics}
    if len(lengths) < 2:
        return
    from retro.report.figures import FILE, new_figure, save, style

    points = [lengths[one] for one in sorted(lengths)]
    xs, means = [float(one.length or 0) for one in points], [100 * one.metrics[metric]["mean"] for one in points]
    low, high = ([100 * one.metrics[metric][key] for one in points] for key in ("low", "high"))
    with style("ablation"):
        figure = new_figure(6.0, 3.6)
        axes = figure.subplots()
        axes.fill_between(xs, low, high, color=FILE[0], alpha=0.15, linewidth=0)
        axes.plot(xs, means, color=FILE[0], marker="o")
        for color, (level, names) in zip(FILE[1:], _levels(rows, metric).items(), strict=False):
            axes.axhline(level, color=color, linewidth=1.2, linestyle="--")
            axes.annotate(", ".join(names), (xs[-1], level), ha="right", va="bottom", color=color)
        axes.set_xscale("log", base=2)
        axes.set_xticks(xs, [f"{one:g}" for one in xs])
        axes.set_ylim(0, max(100.0 * any(one > 60 for one in high), 1.15 * max(high), 1.0))
        axes.set_xlabel("vectors per document")
        axes.set_ylabel(f"{metric_name(metric)}, %")
        with atomic_path(path) as temporary:
            save(figure, temporary, kind="svg")


def _levels(rows: Sequence[Row], metric: str) -> dict[float, list[str]]:
    """Names of the rows that are lines, by the metric in whole percents: rows that are alike share a line."""
    levels: dict[float, list[str]] = {}
    for one in rows:
        if metric in one.metrics and (one.mode != "prefix" or one.name in ("uncompressed", "cross-attention")):
            levels.setdefault(float(round(100 * one.metrics[metric]["mean"])), []).append(one.name)
    return levels
