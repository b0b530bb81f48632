"""Learning curves: what training recorded, step by step, as numbers and as a picture that stands alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from retro.common.files import atomic_path
from retro.report import figures
from retro.report.figures import Series

Curves = dict[str, list[tuple[float, float]]]
_LEFT_OUT = ("step", "epoch")


def curves_of(rows: Sequence[Mapping[str, Any]]) -> Curves:
    """Steps and values by name, in the order in which the names appear; what is not a finite number is left out.

    Args:
        rows: Each with `step`, and whatever was recorded there.
    """
    found: Curves = {}
    for row in rows:
        for name, value in row.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if name not in _LEFT_OUT and number and math.isfinite(value):
                found.setdefault(name, []).append((float(row["step"]), float(value)))
    return found


def curve_words(name: str) -> str:
    """A curve's name in words: what the trainer calls `eval_` was measured on held-out pairs."""
    held_out = name.startswith("eval_")
    return f"{'held-out ' if held_out else ''}{name.removeprefix('eval_').replace('_', ' ')}"


def draw(curves: Mapping[str, Sequence[tuple[float, float]]], path: Path) -> None:
    """Draw a panel for each curve.

    Args:
        curves: By name; at least one.
        path: SVG or PNG by its suffix; the same bytes for the same curves.
    """
    across = min(3, len(curves))
    down = math.ceil(len(curves) / across)
    with figures.style("retriever curves", **{"font.size": 9}):
        figure = figures.new_figure(3.6 * across, 2.6 * down)
        panels = figure.subplots(down, across, squeeze=False).ravel()
        for number, (panel, (name, points)) in enumerate(zip(panels, curves.items(), strict=False)):
            series = Series(name=name, points=points, color=number % len(figures.FILE), kind="dots")
            figures.draw_lines(panel, [series], figures.FILE)
            panel.set_title(curve_words(name))
            panel.set_xlabel("step")
            panel.grid(alpha=0.25)
        for panel in panels[len(curves) :]:
            panel.set_axis_off()
        with atomic_path(path) as temporary:
            figures.save(figure, temporary, kind=path.suffix.removeprefix("."))
