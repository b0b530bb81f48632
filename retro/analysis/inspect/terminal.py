"""Chunks, neighbors and the database as tables for a terminal of any width."""

from __future__ import annotations

from retro.analysis.inspect.distributions import Histogram, Hub, SourceRows
from retro.analysis.inspect.tuning import TuningSample
from retro.analysis.inspect.view import ChunkView, NeighborView, Origin, Piece
from retro.common.terminal import Styled, Table, output, styled
from retro.db.reader import ChunkDatabase
from retro.neighbors.hubness import Hubness
from retro.neighbors.text_overlap import END, LONGEST, SHARED, SHARED_TOKENS

_STYLES = {SHARED: "underline", LONGEST: "reverse", END: "bold cyan"}
_BAR = 40


def show_row(database: ChunkDatabase, row: int, text: str, continuation: str | None) -> None:
    """Print one row of the database."""
    head = f"chunk: row {row}, {Origin(database.document_id(row), database.document_title(row)).name}"
    foot = f"{int(database.columns['token_count'][row])} tokens"
    output.panel(text, title=head, foot=foot)
    if continuation is None:
        output.say(styled(("the document ends here", "dim")))
    else:
        output.panel(continuation, title="continuation", style="dim")


def show_chunk(chunk: ChunkView, stream: str) -> None:
    """Print a chunk of a stream and its neighbors."""
    own = ", ".join(origin.name for origin in chunk.own)
    output.rule(f"chunk {chunk.number} of the {stream}")
    output.wrap(f"own documents: {own}", style="dim")
    output.wrap(_text(chunk.text))
    table = Table(rules="all", wide=True)
    table.add_column("neighbor", width=21, fold=True)
    table.add_column("text ⟶ continuation", share=1, fold=True)
    for place, neighbor in enumerate(chunk.neighbors, start=1):
        if neighbor is None:
            table.add_row(f"neighbor {place}: none", styled(("masked in the model: nothing is read", "dim")))
        else:
            table.add_row(_facts(place, neighbor), _neighbor_text(neighbor))
    output.table(table)


def show_tuning(sample: TuningSample) -> None:
    """Print a question as it is tuned on, with what is learned of it."""
    output.rule(f"{sample.part} question of the set {sample.set}")
    output.wrap(sample.place, style="dim")
    table = Table(rules="all", wide=True)
    table.add_column("part")
    table.add_column("learned")
    table.add_column("tokens", align="right")
    table.add_column("text", share=1, fold=True)
    for part in sample.parts:
        style = "bold green" if part.learned else ""
        table.add_row(part.name, "yes" if part.learned else "no", f"{part.tokens:,}", styled((part.text, style)))
    output.table(table)
    if sample.left_out is not None:
        output.say(f"cannot be tuned on: {sample.left_out}; sft.data.skip_unusable=true leaves it out and counts it")
        return
    learned = sum(part.tokens for part in sample.parts if part.learned)
    output.say(f"learned: {learned:,} of {sum(part.tokens for part in sample.parts):,} tokens")
    if sample.lost_context:
        output.say(f"cut: {sample.lost_context:,} tokens of passages in the prompt do not fit")


def legend() -> None:
    """Print what the marks mean."""
    marks = styled(
        ("longest run of tokens shared", _STYLES[LONGEST]), ", ",
        (f"other shared runs of {SHARED_TOKENS} tokens or more", _STYLES[SHARED]),
        "; score: inner product of the vectors, distance: between them",
    )  # fmt: skip
    output.wrap(marks, style="dim")


def _facts(place: int, neighbor: NeighborView) -> Styled:
    longest = f"{neighbor.longest} tokens ({neighbor.share:.0%})"
    following = "" if neighbor.longest_next is None else f"\nnext chunk {neighbor.longest_next} tokens"
    return styled(
        (f"neighbor {place}", "bold"), f"\nrow {neighbor.row}\n{neighbor.origin.name}\n",
        f"score {neighbor.score:.3f}\ndistance {neighbor.distance:.3f}\nshares {longest}{following}",
    )  # fmt: skip


def _neighbor_text(neighbor: NeighborView) -> Styled:
    end = _text(neighbor.continuation) if neighbor.continuation else ("the document ends", "dim italic")
    return styled(_text(neighbor.chunk), (" ⟶ ", "bold cyan"), end)


def _text(marked: list[Piece]) -> Styled:
    return styled(*((piece.text, _STYLES.get(piece.mark, "")) for piece in marked))


def show_sources(rows: list[SourceRows], database: ChunkDatabase) -> None:
    """Print the database by split and source."""
    removed = f", {len(database.removed):,} removed" if len(database.removed) else ""
    title = f"{database.rows:,} chunks of up to {database.chunk_length} tokens{removed}"
    table = Table(title=title, rules="all")
    for name in ("split", "source"):
        table.add_column(name)
    for name in ("chunks", "documents", "full", "mean tokens"):
        table.add_column(name, align="right")
    for row in rows:
        documents = "-" if row.documents is None else f"{row.documents:,}"
        table.add_row(row.split, row.source, f"{row.chunks:,}", documents, f"{row.full:.1%}", f"{row.mean_tokens:.1f}")
    output.table(table)


def show_histogram(histogram: Histogram) -> None:
    """Print a histogram as bars, neighboring bars joined to at most 16."""
    title = f"{histogram.title} ({histogram.unit}; {histogram.read:,} of {histogram.of:,} read)"
    output.say("", styled((title, "bold")))
    bars = joined_bars(histogram)
    most = max((count for _, count in bars), default=0)
    width = max((len(name) for name, _ in bars), default=0)
    for name, count in bars:
        bar = "█" * round(_BAR * count / most) if most else ""
        output.say(f"{name:>{width}}  {bar} {count:,}")


def joined_bars(histogram: Histogram, most: int = 16) -> list[tuple[str, int]]:
    """Names and counts of at most `most` bars."""
    counts, edges = histogram.counts, histogram.edges
    if histogram.labels is not None:
        return list(zip(histogram.labels, counts, strict=True))
    step = -(-len(counts) // most)
    spans = [(start, min(start + step, len(counts))) for start in range(0, len(counts), step)]
    return [(span_name(edges[first], edges[last]), sum(counts[first:last])) for first, last in spans]


def span_name(low: float, high: float) -> str:
    """What is between two edges; of whole numbers, whose edges are halves, the first and the last."""
    if (low % 1, high % 1) == (0.5, 0.5):
        return f"{low + 0.5:g} to {high - 0.5:g}" if high - low > 1 else f"{low + 0.5:g}"
    return f"{low:.3f} to {high:.3f}"


def show_hubs(hubs: list[Hub], spread: Hubness | None, few: dict[str, int], database: ChunkDatabase) -> None:
    """Print the rows that are most often a neighbor, and why queries have too few."""
    table = Table(title="Most often a neighbor", rules="all")
    table.add_column("row")
    table.add_column("times", align="right")
    table.add_column("document", fold=True)
    table.add_column("text", cut=True)
    # What row, times, document and the lines between them leave of the width.
    room = max(output.columns - 60, 16)
    for hub in hubs:
        origin = Origin(database.document_id(hub.row), database.document_title(hub.row))
        text = " ".join(database.text(hub.row).split())
        table.add_row(str(hub.row), f"{hub.times:,}", origin.name, text if len(text) <= room else f"{text[:room]}…")
    output.say()
    output.table(table)
    if spread is not None:
        uneven = f"Gini {spread.gini:.2f}, skewness {spread.skewness:.1f}"
        output.say(f"never a neighbor: {spread.never_found:.1%} of the chunks; {uneven}")
    reasons = ", ".join(f"{name} {times:,}" for name, times in few.items() if times) or "none"
    output.say(f"queries of all splits with fewer neighbors than were to be saved: {reasons}")
