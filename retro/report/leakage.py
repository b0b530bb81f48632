"""Leakage as tables for terminal and page, sentences, and curves over alpha."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from markupsafe import Markup

from retro.common.files import atomic_path
from retro.common.terminal import Table, Terminal
from retro.report import figures
from retro.report.figures import Series
from retro.report.format import model_name, percent
from retro.report.tables import new_table

WHERE = {
    "training": "the training text",
    "neighbors": "the chunk's own neighbors",
    "read": "the neighbors read while it is predicted",
}
"""What each measure looks at, in words; the order in which they are shown."""
DRAWN = ("training", "neighbors")
_SHORT = {"training": "training text", "neighbors": "own neighbors", "read": "neighbors read"}
_MODELS = {"retro": "Retro", "gpt": "GPT", "gpt_equal": "GPT, equal"}
_SCORES = {"bits_per_byte": "Bits per byte", "perplexity": "Perplexity"}
_COLORS = {("retro", "real"): 0, ("gpt", "-"): 1, ("gpt_equal", "-"): 2, ("retro", "none"): 3, ("retro", "shuffled"): 4}


def share_table(result: Mapping[str, Any]) -> Table:
    """How many chunks have how much of their text in one piece in what each measure looks at."""
    table = Table(title=f"Leakage of the {result['split']} split: chunks by share found in one piece")
    table.add_column("share", whole=True)
    for name in WHERE:
        table.add_column(_SHORT[name], align="right")
    for place, (before, alpha) in enumerate(pairwise([0.0, *result["alphas"]])):
        counts = [result["measures"][name]["histogram"][place] for name in WHERE]
        cells = [f"{count:,} ({percent(count / max(result['chunks'], 1))})" for count in counts]
        table.add_row(f"{before:g} to {alpha:g}", *cells)
    table.caption = (
        f"longest common token substring with the training text; with {result['neighbors_saved']} neighbors and their "
        f"continuations; with the {result['neighbors_read']} of the chunk before"
    )
    return table


def score_table(result: Mapping[str, Any], measure: str, score: str) -> Table:
    """What every model scores on the chunks up to each alpha.

    Args:
        result: As `analysis.leakage.measure.measure` gives it.
        measure: What decides which chunks these are.
        score: bits_per_byte or perplexity.
    """
    rows = result["measures"][measure]["rows"]
    models = [(_MODELS.get(row["model"], row["model"]), row["neighbors"].removeprefix("-")) for row in rows]
    right = ("up to", "chunks", *("\n".join(filter(None, words)) for words in models))
    table = new_table(f"{_SCORES[score]} by the share found in {_SHORT[measure]}", right=right)
    for place, alpha in enumerate(result["alphas"]):
        points = [row["points"][place] for row in rows]
        table.add_row(f"{alpha:g}", f"{points[0]['chunks']:,}", *(_shown(point[score]) for point in points))
    return table


def _shown(score: float | None) -> str:
    return "-" if score is None else f"{score:.4f}" if score < 10 else f"{score:,.2f}"


def sentences(result: Mapping[str, Any]) -> list[str]:
    """What the numbers say, and which chunks do not count."""
    left_out = f"{result['chunks_left_out']:,} chunks were not predicted whole (perplexity.samples) and do not count."
    return [*result["sentences"], *([left_out] if result["chunks_left_out"] else [])]


def print_leakage(result: Mapping[str, Any], terminal: Terminal) -> None:
    """Print the tables and what they say."""
    terminal.table(share_table(result))
    shown = [("training", "bits_per_byte"), ("training", "perplexity"), ("neighbors", "bits_per_byte")]
    for measure, score in shown if result["measures"]["training"]["rows"] else []:
        terminal.table(score_table(result, measure, score))
    for sentence in sentences(result):
        terminal.wrap(f"* {sentence}")


def curves(result: Mapping[str, Any], measure: str) -> list[Series]:
    """Bits per byte over alpha, a line for each model and choice of neighbors."""
    return [
        Series(
            name=model_name(row["model"], row["neighbors"]),
            points=[(one["alpha"], one["bits_per_byte"]) for one in row["points"] if one["bits_per_byte"] is not None],
            color=_COLORS.get((row["model"], row["neighbors"]), 3),
            kind="dots",
        )
        for row in result["measures"][measure]["rows"]
    ]


def chart(series: Sequence[Series], measure: str) -> Markup:
    """The curves of a measure, for the page."""
    return figures.line_chart(series, x_label="α", y_label="bits per byte", label=f"leakage {measure}", x_name="α")


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Draw curves, and below them how many chunks there are up to each alpha, into a picture that stands alone.

    Args:
        result: As `analysis.leakage.measure.measure` gives it, with scores.
        path: Where it goes: SVG or PNG by its suffix; the same bytes for the same result.
    """
    with figures.style("leakage", **{"font.size": 9}):
        figure = figures.new_figure(9.6, 5.0)
        axes = figure.subplots(2, len(DRAWN), sharex=True, sharey="row", height_ratios=(3, 1))
        edges = [0.0, *result["alphas"]]
        for (upper, lower), measure in zip(axes.T, DRAWN, strict=True):
            figures.draw_lines(upper, curves(result, measure), figures.FILE)
            upper.set_title(f"at most alpha of a chunk is in\n{WHERE[measure]}")
            upper.grid(alpha=0.25)
            middles, widths = zip(
                *(((low + high) / 2, 0.92 * (high - low)) for low, high in pairwise(edges)), strict=True
            )
            lower.bar(middles, result["measures"][measure]["histogram"], width=widths, color="#9ca3af")
            lower.set_xlabel("alpha; below: the share of a chunk that was found")
            lower.set_xlim(0, 1.02)
        axes[0][0].set_ylabel("bits per byte")
        axes[1][0].set_ylabel("chunks")
        axes[0][0].legend(frameon=False)
        with atomic_path(path) as temporary:
            figures.save(figure, temporary, kind=path.suffix.removeprefix("."))
