"""Histograms as inline SVG: colors come from the page's style, counts show on hovering, nothing is loaded."""

from __future__ import annotations

from html import escape

from retro.analysis.inspect.distributions import Histogram
from retro.analysis.inspect.terminal import span_name

_WIDTH, _HEIGHT = 540, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 14, 46


def histogram_chart(histogram: Histogram, color: int) -> str:
    """Bars over an axis; the height of a bar is its count.

    Args:
        histogram: What to draw; bars with labels are drawn equally wide.
        color: Number of a color of the page's style.
    """
    most = max(histogram.counts, default=0) or 1
    across, down = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    bars = []
    foot = _TOP + down
    total = sum(histogram.counts)
    for place, count in enumerate(histogram.counts):
        low, high = (_share(histogram, edge) for edge in histogram.edges[place : place + 2])
        height = down * count / most
        x, width = _LEFT + across * low, max(across * (high - low) - 1, 0.6)
        title = f"{escape(bar_name(histogram, place))}: {count:,} ({count / total:.1%})" if total else ""
        bars.append(
            f'<g class="bar-hover c{color}"><title>{title}</title>'
            f'<rect class="reach" x="{x:.1f}" y="{_TOP}" width="{width:.1f}" height="{down}"/>'
            f'<rect class="fill" x="{x:.1f}" y="{foot - height:.1f}" width="{width:.1f}" height="{height:.1f}"/></g>'
        )
    label = escape(f"{histogram.title}, {histogram.unit}")
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">'
        f"{_grid(most)}{''.join(bars)}{_axis(histogram)}</svg>"
    )


def bar_name(histogram: Histogram, place: int) -> str:
    """What a bar counts."""
    if histogram.labels is not None:
        return histogram.labels[place]
    return span_name(histogram.edges[place], histogram.edges[place + 1])


def _share(histogram: Histogram, edge: float) -> float:
    first, last = histogram.edges[0], histogram.edges[-1]
    return (edge - first) / (last - first) if last > first else 0.0


def _grid(most: int) -> str:
    parts = []
    for share in (0.0, 0.5, 1.0):
        y = _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="tick end" x="{_LEFT - 8}" y="{y + 4:.1f}">{_short(most * share)}</text>'
        )
    return "".join(parts)


def _axis(histogram: Histogram) -> str:
    across = _WIDTH - _LEFT - _RIGHT
    ticks = []
    if histogram.labels is not None:
        step = across / max(len(histogram.labels), 1)
        ticks = [(_LEFT + step * (place + 0.5), name) for place, name in enumerate(histogram.labels)]
    else:
        first, last = histogram.edges[0], histogram.edges[-1]
        values = [first + (last - first) * share for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
        if first % 1 == 0.5:  # whole numbers, each in the middle of its bar
            values = [float(round(min(max(value, first + 0.5), last - 0.5))) for value in values]
        ticks = [(_LEFT + across * _share(histogram, value), f"{value:.3g}") for value in values]
    names = [
        f'<text class="tick mid" x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 17}">{escape(name)}</text>' for x, name in ticks
    ]
    unit = f'<text class="axis end" x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 6}">{escape(histogram.unit)}</text>'
    return "".join(names) + unit


def _short(count: float) -> str:
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= limit:
            return f"{count / limit:.3g}{unit}"
    return f"{count:.3g}"
