"""Samples, chunks and neighbors as one HTML file that needs nothing else."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from retro.analysis.inspect.distributions import Distributions, Histogram
from retro.analysis.inspect.terminal import span_name
from retro.analysis.inspect.view import SampleViewer
from retro.common.terminal import Table
from retro.neighbors.text_overlap import END, LONGEST, SHARED, SHARED_TOKENS
from retro.report import figures
from retro.report.render import render, write_page
from retro.report.tables import new_table

_MARKS = {SHARED: "shared", LONGEST: "longest", END: "end"}
_REASONS = {
    "few_chunks": "the database has no more chunks of other documents",
    "few_found": "an approximate index found no more, or no more share a word with it",
    "filtered": "copies were filtered out, and nothing was left to take their place",
    "no_text": "the chunk has no text",
}


def write_samples(looker: SampleViewer, numbers: list[int], spread: Distributions, path: Path) -> None:
    """Write a page of samples.

    Args:
        looker: The stream they are of.
        numbers: Which samples.
        spread: Distributions over the whole split.
        path: Where the page goes.
    """
    facts = (
        f"{len(numbers)} of {looker.samples:,} samples, each of {looker.sample_chunks} chunks of "
        f"{looker.stream.chunk_length} tokens, with {looker.shown} neighbors a chunk."
    )
    page = render(
        "inspect",
        name=looker.name,
        lede=facts,
        numbers=numbers,
        samples=map(looker.sample, numbers),
        marks=_MARKS,
        shared_tokens=SHARED_TOKENS,
        split=looker.name.partition(" ")[0],
        charts=[(one, histogram_chart(one, number % 5)) for number, one in enumerate(spread.histograms)],
        few=_few(spread),
        hubs=_hubs(spread, looker),
    )
    write_page(path, page)


def histogram_chart(histogram: Histogram, color: int) -> Markup:
    """A histogram as a drawing; bars with labels are drawn equally wide."""
    return figures.histogram(
        histogram.edges,
        histogram.counts,
        names=[bar_name(histogram, place) for place in range(len(histogram.counts))],
        ticks=histogram.labels is not None,
        unit=histogram.unit,
        label=f"{histogram.title}, {histogram.unit}",
        color=color,
    )


def bar_name(histogram: Histogram, place: int) -> str:
    """What a bar counts."""
    if histogram.labels is not None:
        return histogram.labels[place]
    return span_name(histogram.edges[place], histogram.edges[place + 1])


def _few(spread: Distributions) -> Table:
    title = "Queries of all splits with fewer neighbors than were to be saved"
    table = new_table(title, "because", right=("queries",))
    for name, times in spread.few.items():
        table.add_row(_REASONS.get(name, name), f"{times:,}")
    return table


def _hubs(spread: Distributions, looker: SampleViewer) -> Table:
    table = Table(title="Hubs: chunks that are most often a neighbor")
    table.add_column("times", align="right")
    table.add_column("document")
    table.add_column("row", align="right")
    table.add_column("text")
    for hub in spread.hubs:
        table.add_row(f"{hub.times:,}", looker.db.document_id(hub.row), str(hub.row), looker.db.text(hub.row))
    if spread.spread is not None:
        table.caption = (
            f"{spread.spread.never_found:.1%} of the chunks that may be neighbors are found by no chunk; Gini "
            f"{spread.spread.gini:.2f} (0: all equally often), skewness {spread.spread.skewness:.1f}."
        )
    return table
