"""Charts as inline SVG: colors come from the page's style, values show on hovering, nothing is loaded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from retro.report.format import loss, percent

# A point every two pixels is all a screen shows; more only makes the page heavy.
_MOST_POINTS = 360
_HOVER_POINTS = 48


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line of a chart."""

    name: str
    points: Sequence[tuple[float, float]]
    color: int
    """Number of a color of the page's style."""
    kind: str = "line"
    """`line`, `faint` (behind the others, no hover) or `dots` (a line with its measured points)."""


@dataclass(frozen=True)
class Frame:
    """Where data lands on the drawing, in units of the view box."""

    left: float
    right: float
    top: float
    bottom: float
    x_from: float
    x_to: float
    y_from: float
    y_to: float

    def x(self, value: float) -> float:
        """Across."""
        return self.left + (value - self.x_from) / (self.x_to - self.x_from) * (self.right - self.left)

    def y(self, value: float) -> float:
        """Down."""
        return self.bottom - (value - self.y_from) / (self.y_to - self.y_from) * (self.bottom - self.top)


def smooth(points: Sequence[tuple[float, float]], reach: int) -> list[tuple[float, float]]:
    """Mean of each y with its neighbors, up to `reach` on either side; fewer at the two ends.

    Centered, unlike a running average: that one lags behind, and shows a falling loss higher than it was.
    """
    sums = [0.0]
    for _, y in points:
        sums.append(sums[-1] + y)
    result = []
    for place, (x, _) in enumerate(points):
        first, end = max(0, place - reach), min(len(points), place + reach + 1)
        result.append((x, (sums[end] - sums[first]) / (end - first)))
    return result


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers from `low` to `high`, steps of 1, 2, 2.5 or 5 times a power of ten."""
    raw = (high - low) / max(1, about)
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 10) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def line_chart(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    label: str,
    x_name: str = "step",
    width: int = 540,
    height: int = 300,
) -> str:
    """Lines over a common axis; empty when there is nothing to draw.

    The y axis is cut below the first tenth's values when those tower over the rest: a loss falls from 9 to 5
    in a few steps, and what matters is what comes after.
    """
    shown = [one for one in series if one.points]
    if not shown:
        return ""
    frame = _frame(shown, width, height)
    parts = [_axes(frame, x_label, y_label, width, height)]
    parts += [_path(frame, one) for one in sorted(shown, key=lambda one: one.kind != "faint")]
    parts += [_hover(frame, one, x_name) for one in shown if one.kind != "faint"]
    return (
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
        f'<clipPath id="{_identifier(label)}"><rect x="{frame.left}" y="{frame.top - 6}" '
        f'width="{frame.right - frame.left + 6}" height="{frame.bottom - frame.top + 8}"/></clipPath>'
        f'{parts[0]}<g clip-path="url(#{_identifier(label)})">{"".join(parts[1:])}</g></svg>'
    )


def _identifier(label: str) -> str:
    return "clip-" + "".join(letter if letter.isalnum() else "-" for letter in label.lower())


def _frame(series: Sequence[Series], width: int, height: int) -> Frame:
    xs = [x for one in series for x, _ in one.points]
    x_from, x_to = min(0.0, *xs), max(xs)
    later = [y for one in series if one.kind != "faint" for x, y in one.points if x >= x_from + 0.1 * (x_to - x_from)]
    ys = later or [y for one in series for _, y in one.points]
    low, high = min(ys), max(ys)
    margin = 0.08 * (high - low) or 0.5
    return Frame(66, width - 14, 12, height - 40, x_from, max(x_to, x_from + 1), low - margin, high + margin)


def _axes(frame: Frame, x_label: str, y_label: str, width: int, height: int) -> str:
    parts = []
    for value in ticks(frame.y_from, frame.y_to, 5):
        y = frame.y(value)
        parts.append(
            f'<line class="grid" x1="{frame.left}" x2="{frame.right}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="tick end" x="{frame.left - 8}" y="{y + 4:.1f}">{value:g}</text>'
        )
    for value in ticks(frame.x_from, frame.x_to, 6):
        x = frame.x(value)
        parts.append(f'<text class="tick mid" x="{x:.1f}" y="{frame.bottom + 18}">{value:,.10g}</text>')
    parts.append(f'<text class="axis end" x="{width - 14}" y="{height - 4}">{escape(x_label)}</text>')
    middle = (frame.top + frame.bottom) / 2
    turned = f'transform="rotate(-90 12 {middle:.0f})"'
    parts.append(f'<text class="axis mid" x="12" y="{middle:.0f}" {turned}>{escape(y_label)}</text>')
    return "".join(parts)


def _path(frame: Frame, one: Series) -> str:
    points = thin(one.points, _MOST_POINTS)
    line = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in points)
    return f'<polyline class="{one.kind} c{one.color}" points="{line}"/>'


def _hover(frame: Frame, one: Series, x_name: str) -> str:
    dots = one.kind == "dots"
    parts = []
    for x, y in thin(one.points, _HOVER_POINTS):
        place = f'cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}"'
        seen = f'<circle class="dot c{one.color}" {place} r="3"/>' if dots else ""
        title = f"<title>{escape(one.name)}, {x_name} {x:,.10g}: {loss(y)}</title>"
        parts.append(f'{seen}<circle class="hover c{one.color}" {place} r="9">{title}</circle>')
    return "".join(parts)


def thin(points: Sequence[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """At most `most` of the points, evenly spread, the first and the last among them."""
    if len(points) <= most:
        return list(points)
    step = (len(points) - 1) / (most - 1)
    return [points[round(number * step)] for number in range(most)]


def interval_bar(mean: float, low: float, high: float, limit: float, color: int, label: str) -> str:
    """A bar from 0 to `mean` with its interval as a whisker, on a scale from 0 to `limit`."""
    scale = 100 / limit if limit > 0 else 0.0
    start, middle, end = (min(100.0, max(0.0, value * scale)) for value in (low, mean, high))
    return (
        f'<svg class="bar" viewBox="0 0 100 14" preserveAspectRatio="none" role="img" aria-label="{escape(label)}">'
        f"<title>{escape(label)}: {percent(mean)}, interval {percent(low)} to {percent(high)}</title>"
        f'<rect class="track" x="0" y="2" width="100" height="10"/>'
        f'<rect class="fill c{color}" x="0" y="2" width="{middle:.2f}" height="10"/>'
        f'<line class="whisker" x1="{start:.2f}" x2="{end:.2f}" y1="7" y2="7"/>'
        f'<line class="whisker" x1="{start:.2f}" x2="{start:.2f}" y1="3.5" y2="10.5"/>'
        f'<line class="whisker" x1="{end:.2f}" x2="{end:.2f}" y1="3.5" y2="10.5"/></svg>'
    )
