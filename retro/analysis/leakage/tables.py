"""The leakage of a run as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from retro.common.terminal import Table, Terminal

WHERE = {
    "training": "the training text",
    "neighbors": "the chunk's own neighbors",
    "read": "the neighbors read while it is predicted",
}
"""What each measure looks at, in words; the order in which they are shown."""
MODELS = {"retro": "Retro", "gpt": "GPT", "gpt_equal": "GPT, equal"}
_SHORT = {"training": "training text", "neighbors": "own neighbors", "read": "neighbors read"}
_SCORES = {"bits_per_byte": "Bits per byte", "perplexity": "Perplexity"}


def share_table(result: Mapping[str, Any]) -> Table:
    """How many chunks have how much of their text in one piece in what each measure looks at."""
    table = _table(f"Leakage of the {result['split']} split: chunks by share found in one piece")
    table.add_column("share", whole=True)
    for name in WHERE:
        table.add_column(_SHORT[name], align="right")
    before = None
    for place, alpha in enumerate(result["alphas"]):
        counts = [result["measures"][name]["histogram"][place] for name in WHERE]
        cells = [f"{count:,} ({count / max(result['chunks'], 1):.1%})" for count in counts]
        table.add_row(f"up to {alpha:g}" if before is None else f"{before:g} to {alpha:g}", *cells)
        before = alpha
    table.caption = (
        f"longest common token substring with the training text; with {result['neighbors_saved']} neighbors and their "
        f"continuations; with the {result['neighbors_read']} of the chunk before"
    )
    return table


def score_table(result: Mapping[str, Any], measure: str, score: str) -> Table:
    """What every model scores on the chunks up to each alpha.

    Args:
        result: As `measure.measure` gives it.
        measure: What decides which chunks these are.
        score: bits_per_byte or perplexity.
    """
    table = _table(f"{_SCORES[score]} by the share found in {_SHORT[measure]}")
    table.add_column("up to", align="right")
    table.add_column("chunks", align="right")
    rows = result["measures"][measure]["rows"]
    for row in rows:
        given = "" if row["neighbors"] == "-" else row["neighbors"]
        table.add_column("\n".join(filter(None, [MODELS.get(row["model"], row["model"]), given])), align="right")
    for place, alpha in enumerate(result["alphas"]):
        points = [row["points"][place] for row in rows]
        table.add_row(f"{alpha:g}", f"{points[0]['chunks']:,}", *(_shown(point[score]) for point in points))
    return table


def print_leakage(result: Mapping[str, Any], terminal: Terminal) -> None:
    """Print the tables and what they say."""
    terminal.table(share_table(result))
    shown = [("training", "bits_per_byte"), ("training", "perplexity"), ("neighbors", "bits_per_byte")]
    for measure, score in shown if result["measures"]["training"]["rows"] else []:
        terminal.table(score_table(result, measure, score))
    for sentence in result["sentences"]:
        terminal.wrap(f"* {sentence}")
    if result["chunks_left_out"]:
        left_out = (
            f"{result['chunks_left_out']:,} chunks were not predicted whole (perplexity.samples) and do not count."
        )
        terminal.wrap(f"* {left_out}")


def _shown(score: float | None) -> str:
    return "-" if score is None else f"{score:.4f}" if score < 10 else f"{score:,.2f}"


def _table(title: str) -> Table:
    return Table(title=title)
