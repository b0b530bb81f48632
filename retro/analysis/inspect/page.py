"""Samples, chunks and neighbors as one HTML file that needs nothing else. All text from files is escaped."""

from __future__ import annotations

from html import escape
from importlib import resources
from pathlib import Path

from retro.analysis.inspect.distributions import Distributions
from retro.analysis.inspect.histograms import histogram_chart
from retro.analysis.inspect.terminal import named
from retro.analysis.inspect.view import ChunkView, NeighborView, Piece, SampleView, SampleViewer
from retro.common.files import atomic_path
from retro.neighbors.text_overlap import END, LONGEST, SHARED, SHARED_TOKENS

_MARKS = {SHARED: "shared", LONGEST: "longest", END: "end"}
_REASONS = {
    "few_chunks": "the database has no more chunks of other documents",
    "few_found": "an approximate index found no more, or no more share a word with it",
    "filtered": "copies were filtered out, and nothing was left to take their place",
    "no_text": "the chunk has no text",
}


def write_page(looker: SampleViewer, numbers: list[int], spread: Distributions, path: Path) -> None:
    """Write a page of samples.

    Args:
        looker: The stream they are of.
        numbers: Which samples.
        spread: Distributions over the whole split.
        path: Where the page goes.
    """
    samples = (_sample(looker.sample(number)) for number in numbers)
    parts = [_head(looker, numbers), "".join(samples), _distributions(spread, looker), _foot()]
    with atomic_path(path) as temporary:
        temporary.write_text("".join(parts), encoding="utf-8")


def _head(looker: SampleViewer, numbers: list[int]) -> str:
    # The report of a run and this page share their colors and type.
    style = _resource("retro.report", "templates/style.css") + _resource("retro.analysis.inspect", "inspect.css")
    name = escape(looker.name)
    options = "".join(f'<option value="sample-{number}">sample {number}</option>' for number in numbers)
    facts = (
        f"{len(numbers)} of {looker.samples:,} samples, each of {looker.sample_chunks} chunks of "
        f"{looker.stream.chunk_length} tokens, with {looker.shown} neighbors a chunk"
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{name} · neighbors</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><style>{style}</style></head><body>'
        f'<header class="mast"><p class="eyebrow">What the model reads</p><h1>{name}</h1><p class="lede">{facts}.</p>'
        f'</header><nav><div><span class="turn" hidden><button id="before" aria-label="sample before">◀</button>'
        f'<select id="which" aria-label="sample">{options}</select>'
        f'<button id="after" aria-label="sample after">▶</button></span>'
        f'<a href="#spread">Distributions</a></div></nav><main>{_legend()}'
    )


def _legend() -> str:
    return (
        f'<p class="note keys"><mark class="longest">longest run of tokens shared</mark> '
        f'<mark class="shared">other shared runs of {SHARED_TOKENS} tokens or more</mark> '
        f'<span class="arrow">⟶</span> continuation, <mark class="end">∎</mark> end of a document. '
        f"Score: inner product of the two vectors; distance: between them. "
        f"<b>next</b>: the longest run shared with the chunk after, which the model predicts while it sees the "
        f"neighbor.</p>"
    )


def _sample(sample: SampleView) -> str:
    chunks = "".join(_chunk(chunk) for chunk in sample.chunks)
    return f'<section class="sample" id="sample-{sample.number}"><h2>Sample {sample.number}</h2>{chunks}</section>'


def _chunk(chunk: ChunkView) -> str:
    own = ", ".join(escape(named(origin)) for origin in chunk.own)
    neighbors = "".join(_neighbor(place, one) for place, one in enumerate(chunk.neighbors, start=1))
    return (
        f'<article class="panel chunk" id="chunk-{chunk.number}"><header><h3>Chunk {chunk.number}</h3>'
        f'<span class="small">own documents: {own}</span></header><p class="text query">{_text(chunk.text)}</p>'
        f'<ol class="neighbors">{neighbors}</ol></article>'
    )


def _neighbor(place: int, neighbor: NeighborView | None) -> str:
    if neighbor is None:
        return f'<li class="neighbor none"><b>{place}</b> none: masked in the model, nothing is read</li>'
    following = "" if neighbor.longest_next is None else f"<span>next {neighbor.longest_next}</span>"
    end = _text(neighbor.continuation) if neighbor.continuation else '<span class="small">the document ends</span>'
    return (
        f'<li class="neighbor"><div class="facts-line"><b>{place}</b>'
        f'<span class="from">{escape(named(neighbor.origin))}</span>'
        f"<span>row {neighbor.row}</span><span>score {neighbor.score:.3f}</span>"
        f"<span>distance {neighbor.distance:.3f}</span>"
        f"<span>shares {neighbor.longest} tokens ({neighbor.share:.0%})</span>{following}</div>"
        f'<p class="text">{_text(neighbor.chunk)}<span class="arrow"> ⟶ </span>{end}</p></li>'
    )


def _text(marked: list[Piece]) -> str:
    return "".join(
        f'<mark class="{_MARKS[piece.mark]}">{escape(piece.text)}</mark>' if piece.mark else escape(piece.text)
        for piece in marked
    )


def _distributions(spread: Distributions, looker: SampleViewer) -> str:
    charts = "".join(
        f'<figure class="panel"><h3>{escape(histogram.title)}</h3>{histogram_chart(histogram, number % 5)}'
        f'<figcaption class="small">{histogram.read:,} of {histogram.of:,} read</figcaption></figure>'
        for number, histogram in enumerate(spread.histograms)
    )
    return (
        f'<section id="spread"><h2>Distributions</h2><p class="note">Chunks of the whole database; scores and counts '
        f"of the {escape(looker.name.partition(' ')[0])} split over all sources.</p>"
        f'<div class="two">{charts}</div>{_few(spread)}{_hubs(spread, looker)}</section>'
    )


def _few(spread: Distributions) -> str:
    rows = "".join(
        f'<tr><td>{escape(_REASONS.get(name, name))}</td><td class="n">{times:,}</td></tr>'
        for name, times in spread.few.items()
    )
    return (
        f'<div class="panel scroll" id="few"><h3>Queries of all splits with fewer neighbors than were to be saved</h3>'
        f'<table><thead><tr><th>because</th><th class="n">queries</th></tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _hubs(spread: Distributions, looker: SampleViewer) -> str:
    rows = "".join(
        f'<tr><td class="n">{hub.times:,}</td><td>{escape(looker.db.document_id(hub.row))}</td>'
        f'<td class="n">{hub.row}</td><td class="hub">{escape(looker.db.text(hub.row))}</td></tr>'
        for hub in spread.hubs
    )
    said = ""
    if spread.spread is not None:
        said = (
            f"{spread.spread.never_found:.1%} of the chunks that may be neighbors are nobody's; Gini "
            f"{spread.spread.gini:.2f} (0: all equally often), skewness {spread.spread.skewness:.1f}."
        )
    return (
        f'<div class="panel scroll" id="hubs"><h3>Hubs: chunks that are most often a neighbor</h3>'
        f'<p class="small">{said}</p><table><thead><tr><th class="n">times</th><th>document</th><th class="n">row</th>'
        f"<th>text</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _foot() -> str:
    return (
        f"</main><footer>Written by retro inspect. Nothing on this page is loaded from elsewhere.</footer>"
        f"<script>{_resource('retro.analysis.inspect', 'inspect.js')}</script></body></html>\n"
    )


def _resource(package: str, name: str) -> str:
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")
