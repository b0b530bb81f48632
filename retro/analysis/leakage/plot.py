"""Bits per byte over alpha, and how many chunks there are up to each: one picture."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from retro.analysis.leakage.tables import MODELS, WHERE
from retro.common.files import atomic_path

# The same color for a model here and on the run's page.
_COLORS = {"retro": "#2563a8", "gpt": "#c2571a", "gpt_equal": "#6b7280"}
_DASHES = {"shuffled": (4, 2), "none": (1, 1.5)}
_GIVEN = {"-": "", "none": ", no neighbors"}
_SHOWN = ("training", "neighbors")


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Draw the scores of all models, as SVG or PNG by the path's suffix; the same bytes for the same result.

    Args:
        result: As `measure.measure` gives it, with scores.
        path: Where it goes.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": "retro", "font.size": 9}):
        figure = Figure(figsize=(9.6, 5.0), layout="constrained")
        axes = figure.subplots(2, len(_SHOWN), sharex=True, sharey="row", height_ratios=(3, 1))
        for column, measure in enumerate(_SHOWN):
            _scores(axes[0][column], result, measure)
            _chunks(axes[1][column], result, measure)
        axes[0][0].set_ylabel("bits per byte")
        axes[1][0].set_ylabel("chunks")
        axes[0][0].legend(frameon=False)
        with atomic_path(path) as temporary:
            kind = path.suffix.removeprefix(".")
            figure.savefig(
                temporary, format=kind, dpi=120, metadata={"Date": None} if kind == "svg" else {"Software": None}
            )


def _scores(axes: Any, result: Mapping[str, Any], measure: str) -> None:
    axes.set_title(f"at most alpha of a chunk stands in\n{WHERE[measure]}")
    for row in result["measures"][measure]["rows"]:
        points = [(one["alpha"], one["bits_per_byte"]) for one in row["points"] if one["bits_per_byte"] is not None]
        given = _GIVEN.get(row["neighbors"], f", {row['neighbors']} neighbors")
        (line,) = axes.plot(
            *zip(*points, strict=True), marker="o", markersize=3, linewidth=1.4,
            label=MODELS.get(row["model"], row["model"]) + given, color=_COLORS.get(row["model"], "#111827"),
        )  # fmt: skip
        if row["neighbors"] in _DASHES:
            line.set_dashes(_DASHES[row["neighbors"]])
    axes.grid(alpha=0.25)


def _chunks(axes: Any, result: Mapping[str, Any], measure: str) -> None:
    edges = [0.0, *result["alphas"]]
    middles = [(low + high) / 2 for low, high in pairwise(edges)]
    widths = [0.92 * (high - low) for low, high in pairwise(edges)]
    axes.bar(middles, result["measures"][measure]["histogram"], width=widths, color="#9ca3af")
    axes.set_xlabel("alpha; below: the share of a chunk that was found")
    axes.set_xlim(0, 1.02)
