"""Charts by matplotlib, as SVG to stand inside a page: its style colors them, a `<title>` names each value.

Matplotlib is imported when the first chart is drawn; it takes half a second. The same data gives the same bytes,
whatever style or configuration file the user has.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from markupsafe import Markup, escape

from retro.report.format import loss

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# A point every two pixels is all a screen shows; more only makes the page heavy.
_MOST_POINTS = 360
_MOST_TITLES = 48
_WIDTH = 420
"""Units of a chart's view box; a phone shows some 330 pixels, half a wide page 470."""

# Colors that the page's style gives: matplotlib draws with these stand-ins, which become names of the style's.
PAGE = tuple(f"#00c0d{number}" for number in range(7))
_SOFT, _LINE, _INK = "#00c0da", "#00c0db", "#00c0dc"
_NAMES = {
    **{stand_in: f"var(--c{number})" for number, stand_in in enumerate(PAGE)},
    _SOFT: "var(--soft)",
    _LINE: "var(--line)",
    _INK: "var(--ink)",
}
FILE = ("#2563a8", "#c2571a", "#3f8f6b", "#8a5fb0", "#6b7280", "#2f9aa8", "#b8862b")
"""The same colors, for pictures that stand alone."""

_PAGE_STYLE: Mapping[str, Any] = {
    "svg.fonttype": "none",
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _SOFT,
    "axes.titlecolor": _SOFT,
    "axes.titlesize": 11,
    "grid.color": _LINE,
    "text.color": _INK,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
}


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line of a chart."""

    name: str
    points: Sequence[tuple[float, float]]
    color: int
    """Number of a color of the page's style."""
    kind: str = "line"
    """`line`, `faint` (behind the others, without titles) or `dots` (a line with its measured points)."""


class Bar(NamedTuple):
    """One bar of a chart, with its interval where there is one."""

    name: str
    value: float
    shown: str
    """The value in words."""
    color: int
    interval: tuple[float, float] | None = None


@contextmanager
def style(salt: str, **more: Any) -> Iterator[None]:
    """Draw and save in one fixed style; element ids follow from `salt`, so that charts of one page share none."""
    import matplotlib.style

    fixed = {
        "svg.hashsalt": f"retro {salt}",
        "text.parse_math": False,
        "font.size": 11,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "figure.constrained_layout.use": True,
    }
    with matplotlib.style.context(["default", fixed | more]):
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches. Without pyplot: no window, no state shared with whoever calls."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def save(figure: Figure, path: Path, *, kind: str) -> None:
    """Write a figure as svg or png, without a date or a version, so that the same figure gives the same bytes."""
    unset = {"svg": ("Date",), "png": ("Software",)}[kind]
    figure.savefig(path, format=kind, dpi=120, metadata=dict.fromkeys(unset))


def thin(points: Sequence[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """At most `most` of the points, evenly spread, the first and the last among them."""
    if len(points) <= most:
        return list(points)
    step = (len(points) - 1) / (most - 1)
    return [points[round(number * step)] for number in range(most)]


def line_chart(
    series: Sequence[Series], *, x_label: str, y_label: str, label: str, x_name: str = "step", height: int = 250
) -> Markup:
    """Lines over a common axis; empty when there is nothing to draw.

    The y axis is cut below the first tenth's values when those tower over the rest: a loss falls from 9 to 5
    in a few steps, and what matters is what comes after.
    """
    shown = [one for one in series if one.points]
    if not shown:
        return Markup("")
    with _on_page(label, height) as (figure, axes):
        draw_lines(axes, shown, PAGE)
        _limit(axes, shown)
        axes.grid(axis="y")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")
        axes.locator_params(axis="x", nbins=5)
        axes.locator_params(axis="y", nbins=6)
        axes.set_title(y_label, loc="left")
        axes.set_xlabel(x_label, loc="right")
        titles: list[str] = []
        for one in shown:
            for x, y in thin(one.points, _MOST_TITLES) if one.kind != "faint" else ():
                axes.plot([x], [y], "o", color=PAGE[one.color], markersize=13, gid=f"value {len(titles)}")
                titles.append(f"{one.name}, {x_name} {x:,.10g}: {loss(y)}")
        return _inline(figure, label, titles)


def draw_lines(axes: Axes, series: Sequence[Series], colors: Sequence[str]) -> None:
    """Draw lines, the faint ones behind."""
    for one in series:
        faint = one.kind == "faint"
        axes.plot(
            *zip(*thin(one.points, _MOST_POINTS), strict=True),
            color=colors[one.color],
            linewidth=0.9 if faint else 1.8,
            alpha=0.25 if faint else None,
            marker="o" if one.kind == "dots" or len(one.points) == 1 else "",
            markersize=4,
            zorder=1.5 if faint else 2,
            label=one.name,
        )


def _limit(axes: Axes, series: Sequence[Series]) -> None:
    x_from = min(0.0, *(x for one in series for x, _ in one.points))
    x_to = max(x for one in series for x, _ in one.points)
    later = [y for one in series if one.kind != "faint" for x, y in one.points if x >= x_from + 0.1 * (x_to - x_from)]
    ys = later or [y for one in series for _, y in one.points]
    margin = 0.08 * (max(ys) - min(ys)) or 0.5
    x_to = max(x_to, x_from + 1)
    axes.set_xlim(x_from, x_to + 0.01 * (x_to - x_from))
    axes.set_ylim(min(ys) - margin, max(ys) + margin)


def interval_bars(bars: Sequence[Bar], *, label: str, start: float = 0.0) -> Markup:
    """A bar below each name and value, with its interval as a whisker; empty when there is nothing to draw.

    Args:
        bars: From top to bottom.
        label: What they measure.
        start: Where bars begin.
    """
    if not bars:
        return Markup("")
    end = max(value for one in bars for value in (one.value, *(one.interval or ())))
    end = end if end > start else start + 1
    with _on_page(label, 40 * len(bars)) as (figure, axes):
        axes.set_axis_off()
        axes.set(xlim=(start, start + 1.02 * (end - start)), ylim=(len(bars) - 0.75, -0.65))
        for place, one in enumerate(bars):
            axes.barh(place, end - start, left=start, height=0.3, color=_LINE, alpha=0.6)
            axes.barh(place, one.value - start, left=start, height=0.3, color=PAGE[one.color], gid=f"value {place}")
            if one.interval:
                axes.plot(one.interval, [place] * 2, color=_INK, linewidth=1.3, marker="|", markersize=7)
            axes.text(start, place - 0.26, one.name)
            axes.text(end, place - 0.26, one.shown, ha="right")
        return _inline(figure, label, [f"{label}, {one.name}: {one.shown}" for one in bars])


def histogram(
    edges: Sequence[float],
    counts: Sequence[int],
    *,
    names: Sequence[str],
    ticks: bool,
    unit: str,
    label: str,
    color: int,
) -> Markup:
    """Bars over an axis; the height of a bar is its count.

    Args:
        edges: Where bars begin and end, one more than there are bars.
        counts: Of each bar.
        names: What each bar counts.
        ticks: Whether the names stand below the bars; otherwise the axis has numbers.
        unit: Of the axis.
        label: What is counted.
        color: Number of a color of the page's style.
    """
    from matplotlib.ticker import EngFormatter

    total = sum(counts)
    with _on_page(label, 220) as (figure, axes):
        middles = [(low + high) / 2 for low, high in pairwise(edges)]
        widths = [0.94 * (high - low) for low, high in pairwise(edges)]
        for place, bar in enumerate(axes.bar(middles, counts, width=widths, color=PAGE[color])):
            bar.set_gid(f"value {place}")
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
        axes.locator_params(axis="y", nbins=4, integer=True)
        if ticks:
            step = max(math.ceil(len(names) / 7), 1)
            axes.set_xticks(middles[::step], names[::step])
        axes.grid(axis="y")
        axes.set_title("count", loc="left")
        axes.set_xlabel(unit, loc="right")
        reported = [
            f"{name}: {count:,} ({count / total:.1%})" for name, count in zip(names, counts, strict=True) if total
        ]
        return _inline(figure, label, reported)


@contextmanager
def _on_page(salt: str, height: float) -> Iterator[tuple[Figure, Axes]]:
    with style(salt, **_PAGE_STYLE):
        figure = new_figure(_WIDTH / 72, height / 72)
        axes = figure.subplots()
        figure.patch.set_visible(False)
        axes.patch.set_visible(False)
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)
        yield figure, axes


def _inline(figure: Figure, label: str, titles: Sequence[str]) -> Markup:
    """A figure as an `<svg>` element of the page; `<g id="value N">` gets the Nth title."""
    text = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    drawn = text.getvalue()
    body = drawn[drawn.index("</style>") :].partition("</defs>")[2].strip()
    body = re.sub(r"<[^>]*>", lambda tag: _of_page(tag[0], titles), body)
    view = " ".join(f"{72 * inches:.0f}" for inches in figure.get_size_inches())
    return Markup(f'<svg class="chart" viewBox="0 0 {view}" role="img" aria-label="{escape(label)}">{body}')


# The page gives font and colors; ids that nothing refers to would stand on it several times.
_CHANGES = (
    (r'(?<=<g) id="[^"]*"', ""),
    (r"font-family: [^;]*; ", ""),
    (r' transform="rotate\(-?0 [^)]*\)"', ""),
    (r"xlink:href", "href"),
    (r"(\.\d\d)\d+", r"\1"),
    (r"\n", ""),
    *_NAMES.items(),
)


def _of_page(tag: str, titles: Sequence[str]) -> str:
    named = re.fullmatch(r'<g id="value (\d+)">', tag)
    if named:
        return f'<g class="value"><title>{escape(titles[int(named[1])])}</title>'
    for pattern, instead in _CHANGES:
        tag = re.sub(pattern, instead, tag)
    return tag
