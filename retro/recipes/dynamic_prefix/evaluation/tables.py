"""The scores as tables: modes side by side, their differences, and the measures of hallucination."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from retro.common.terminal import Table
from retro.recipes.dynamic_prefix.evaluation.support import WRITTEN
from retro.report.format import metric_name, percent, span
from retro.report.tables import markdown, new_table

NONE = "–"
MODES: Mapping[str, str] = {"prefix": "prefix", "prompt": "documents in the prompt", "none": "no documents"}
MEASURES: Mapping[str, str] = {
    "accuracy": "token accuracy",
    "entropy": "entropy",
    "divergence": "KL from no documents",
    "gain": "gain of log-likelihood",
    "log_likelihood": "log-likelihood",
}
"""Of given answers, in words."""
_GIVEN = {"gold": "the gold answer", "written": "its own answer"}


def tables(found: Mapping[str, Any]) -> list[Table]:
    """All tables of a run.

    Args:
        found: What the step `evaluate` writes.
    """
    made = [_scores(found), _differences(found), _written(found), _forced(found)]
    return [one for one in made if one.rows]


def as_markdown(title: str, made: Iterable[Table]) -> str:
    """Tables in Markdown, with their titles and captions."""
    parts = [f"# {title}"]
    for one in made:
        parts += [f"## {one.title}", markdown(one), *([one.caption] if one.caption else [])]
    return "\n\n".join(parts) + "\n"


def _scores(found: Mapping[str, Any]) -> Table:
    metrics = found["metrics"]
    table = new_table("Answers, in %", "documents", right=[metric_name(one) for one in metrics])
    for mode, means in found["modes"].items():
        table.add_row(MODES[mode], *[span(means[metric]) for metric in metrics])
    for mode, means in found["published"]["modes"].items():
        cells = [percent(means[metric]).removesuffix(" %") if metric in means else NONE for metric in metrics]
        table.add_row(f"{MODES[mode]}, published", *cells)
    sure = percent(found["intervals"]["confidence"], 0)
    table.caption = (
        f"{found['questions']:,} questions, {sure} intervals from resampling them. Published: "
        f"{found['published']['source']}. Other questions, model and documents: its rows compare with each other alone."
    )
    return table


def _differences(found: Mapping[str, Any]) -> Table:
    metrics = found["metrics"]
    title = "Differences from no documents, in percentage points, and p"
    table = new_table(title, "documents", right=[metric_name(one) for one in metrics])
    for mode, differences in found["differences"].items():
        table.add_row(MODES[mode], *[_difference(differences[metric]) for metric in metrics])
    table.caption = "Paired by question: McNemar's exact test where answers are right or wrong, else random signs."
    return table


def _difference(one: Mapping[str, Any]) -> str:
    parts = [f"{100 * one['difference'][key]:+.1f}".replace("-", "−") for key in ("mean", "low", "high")]
    return f"{parts[0]} ({parts[1]} to {parts[2]}), {one['p']:.2g}"


def _written(found: Mapping[str, Any]) -> Table:
    table = new_table("Written answers, in %", "documents", right=WRITTEN.values())
    for mode, measures in found["written"].items():
        table.add_row(MODES[mode], *[_share(measures.get(name)) for name in WRITTEN])
    table.caption = (
        "Of answers with content words: those with one that is in none of the question's documents, and those none of "
        "whose is in any. Same: the answer without documents is the same. With Wilson's intervals and numbers."
    )
    return table


def _share(one: Mapping[str, Any] | None) -> str:
    if one is None or one["share"] is None:
        return NONE
    return f"{span({**one, 'mean': one['share']})} {one['count']}/{one['of']}"


def _forced(found: Mapping[str, Any]) -> Table:
    table = new_table("Given answers", "documents", "answer", right=(*MEASURES.values(), "answers"))
    for mode, given in found["forced"].items():
        for name, measures in given.items():
            cells = [_measure(key, measures[key]) for key in MEASURES]
            table.add_row(MODES[mode], _GIVEN[name], *cells, f"{measures['accuracy']['count']:,}")
    table.caption = (
        "The model reads the answer token by token; means over answers of the mean over their tokens. Token accuracy "
        "in %, others in nats. KL: of the next-token distribution with documents from that without."
    )
    return table


def _measure(name: str, one: Mapping[str, float]) -> str:
    if name == "accuracy":
        return span(one)
    mean, low, high = (f"{one[key]:.3f}".replace("-", "−") for key in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"
