"""The page and the chart of `exact_and_ivf`."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.ivf_measure import pareto
from retro.index.config import EmbedderConfig
from retro.report import figures

METHODS = ("exact", "mapped", "ivf_100", "ivf_sqrt", "policy", "l2_mistake")
TARGET = 0.95
"""Recall that an index has to reach: what the index stage tunes to."""
KINDS = {"real": "real embeddings", "random": "random vectors"}

_CLOCKS = {True: "Processor milliseconds of a search alone", False: "Milliseconds of a search alone"}


def points(one: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Method and row of everything that was measured for a set, without the mistakes."""
    return [(name, row) for name in METHODS if name in one and name != "l2_mistake" for row in one[name]["rows"]]


def page(numbers: Mapping[str, Any]) -> str:
    """The Markdown page."""
    lines = [
        "# Exact search and IVF", "",
        f"Machine: {numbers['machine']}; Faiss on {numbers['threads']} threads, shared with other work.",
        f"Made by `benchmarks/exact_and_ivf.py`, which says how. {_CLOCKS[numbers['threads'] == 1]}, medians;",
        "recall@10 on queries that nothing was tuned on. **Bold**: no other row is both faster (one query) and",
        "better. *chosen*: the policy's own setting.", "", "```", numbers["command"], "```", "", *_not_run(numbers),
        "![Recall and latency](exact_and_ivf.svg)", "",
    ]  # fmt: skip
    for one in numbers["sets"]:
        lines += _section(one)
    return "\n".join(lines).rstrip() + "\n"


def _section(one: Mapping[str, Any]) -> Iterator[str]:
    about = one["vectors"]
    yield f"## {one['size']:,} {KINDS[one['kind']]} of {about['dimension']} values"
    yield ""
    yield from _origin(about)
    head = (
        "index",
        "nprobe",
        "recall@10",
        "1 query",
        "10, one by one",
        "10 in one call",
        "train s",
        "add s",
        "peak GB",
    )
    yield f"| {' | '.join(head)} |"
    yield f"|---|{'---:|' * (len(head) - 1)}"
    rows = points(one)
    front = {id(rows[place][1]) for place in pareto([(row["one_ms"], row["recall_reported"]) for _, row in rows])}
    for name, row in rows:
        yield _line(name, one[name], row, bold=id(row) in front)
    yield ""
    if "exact" in one:
        yield from _reached(one)
    yield from _mistakes(one, about)


def _not_run(numbers: Mapping[str, Any]) -> Iterator[str]:
    if numbers["not_run"]:
        yield f"Not run: {', '.join(f'{size:,}' for size in numbers['not_run'])} vectors."
        yield ""


def _origin(about: Mapping[str, Any]) -> Iterator[str]:
    """What the vectors are of, and how many of them are embeddings as they are."""
    lengths = f"Lengths {about['length_mean']:.3g} ± {about['length_deviation']:.2g}."
    if not about["real"]:
        yield f"Normally distributed values. {lengths}"
    elif about["multiplied"]:
        counts = f"None of these vectors is an embedding as it is: all {about['multiplied']:,} are derived from"
        moved = f"{about['real']:,} real ones, moved along the differences of near neighbors"
        tight = "which makes clusters tighter than those of text"
        yield from textwrap.wrap(f"{_source(about)} {counts} {moved}, {tight}. {lengths}", 120)
    else:
        counts = f"All {about['real']:,} are embeddings as they are, none is derived."
        yield from textwrap.wrap(f"{_source(about)} {counts} {lengths}", 120)
    yield ""


def _source(about: Mapping[str, Any]) -> str:
    """The file that was embedded, and by what."""
    source = about["source"]
    if "embedder" not in source:
        return f"{about['embedded']:,} embeddings of `{source['embeddings']}` ({source['bytes']:,} bytes)."
    default = EmbedderConfig(**{name: source["embedder"][name] for name in ("kind", "model")}).model_dump(mode="json")
    shown = {name: value for name, value in source["embedder"].items() if value != default[name]}
    settings = {name: source["embedder"][name] for name in ("kind", "model", "precision", "max_tokens")} | shown
    embedder = ", ".join(f"{name} {value}" for name, value in settings.items() if value is not None)
    return f"{about['embedded']:,} passages of `{source['passages']}` ({source['bytes']:,} bytes), by {embedder}."


def _line(name: str, method: Mapping[str, Any], row: Mapping[str, Any], *, bold: bool) -> str:
    shown = f"**{row['recall_reported']:.3f}**" if bold else f"{row['recall_reported']:.3f}"
    times = " | ".join(f"{row[one]:,.2f}" for one in ("one_ms", "ten_ms", "ten_batched_ms"))
    chosen = " *chosen*" if row.get("chosen") else ""
    built = f"{method['train_s']:,.0f} | {method['add_s']:,.0f} | {method['peak_rss_bytes'] / 1e9:.1f}"
    return f"| {name}: `{method['index']}` | {row['nprobe'] or ''}{chosen} | {shown} | {times} | {built} |"


def _reached(one: Mapping[str, Any]) -> Iterator[str]:
    """What it takes to find most of what exact search finds."""
    exact = one["exact"]["rows"][0]["one_ms"]
    parts = []
    for name in ("ivf_100", "ivf_sqrt", "policy"):
        good = [row for row in one.get(name, {}).get("rows", ()) if row["recall_reported"] >= TARGET and row["nprobe"]]
        if good:
            times = exact / good[0]["one_ms"]
            lists = f"{good[0]['nprobe']:,} of {one[name]['lists']:,} lists"
            parts.append(f"{name} searches {lists}, {times:.1f} times as fast as exact search")
    if parts:
        yield from textwrap.wrap(f"For recall {TARGET}: {'; '.join(parts)}.", 120)
        yield ""


def _mistakes(one: Mapping[str, Any], about: Mapping[str, Any]) -> Iterator[str]:
    """The original's, in numbers."""
    if "ivf_sqrt" not in one or "exact" not in one:
        return
    exact, ivf = one["exact"]["rows"][0], one["ivf_sqrt"]
    last = ivf["rows"][-1]
    yield "What the original measured, on the same vectors (ms for one query):"
    yield ""
    yield "| mistake | right | as the original did it |"
    yield "|---|---:|---:|"
    yield f"| every list searched: against exact search | {exact['one_ms']:,.2f} | {last['one_ms']:,.2f} |"
    trained = 1000 * ivf["train_s"] + last["one_ms"]
    yield f"| trained again for every batch | {last['one_ms']:,.2f} | {trained:,.0f} |"
    made = 1000 * about["random_matrix_s"] + exact["one_ms"]
    yield f"| a random matrix made within the time of exact search | {exact['one_ms']:,.2f} | {made:,.0f} |"
    if "l2_mistake" in one:
        by_l2 = one["l2_mistake"]["rows"][-1]["recall_reported"]
        yield f"| metric L2 by default: recall@10 with every list | {last['recall_reported']:.3f} | {by_l2:.3f} |"
    yield ""


def draw(numbers: Mapping[str, Any], path: Path) -> None:
    """Recall against milliseconds, a panel for each set; the line is the Pareto front."""
    sets = numbers["sets"]
    columns = min(len(sets), 2)
    with figures.style("exact_and_ivf"):
        figure = figures.new_figure(5.2 * columns, 3.6 * math.ceil(len(sets) / columns))
        for number, one in enumerate(sets, start=1):
            axes = figure.add_subplot(math.ceil(len(sets) / columns), columns, number)
            rows = points(one)
            places = [(row["one_ms"], row["recall_reported"]) for _, row in rows]
            front = [places[place] for place in pareto(places)]
            axes.plot(*zip(*front, strict=True), color="#9aa1ab", linewidth=1.2, label="front", drawstyle="steps-post")
            for color, name in zip(figures.FILE, METHODS, strict=False):
                own = [point for point, (method, _) in zip(places, rows, strict=True) if method == name]
                if own:
                    axes.plot(*zip(*own, strict=True), "o", color=color, markersize=4, label=name)
            axes.set(xscale="log", ylim=(-0.02, 1.04), xlabel="ms for one query", ylabel="recall@10")
            axes.set_title(f"{one['size']:,} {KINDS[one['kind']]}", loc="left")
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.legend(frameon=False, fontsize=8, loc="lower right")
        figures.save(figure, path, kind="svg")
