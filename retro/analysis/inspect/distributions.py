"""How chunk lengths, scores and neighbors are spread over a run: arrays to histograms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retro.common.artifacts import REPORT
from retro.common.files import read_json
from retro.corpus.reader import SPLITS
from retro.db.reader import ChunkDatabase
from retro.neighbors.hubness import Hubness, counts_of, hubness, neighbor_counts
from retro.neighbors.reader import Neighbors

Int64 = NDArray[np.int64]
MOST_READ = 2_000_000
"""Rows and queries that are read for a histogram, evenly spread: seconds of work for a database of any size."""
HUBS = 10
_BINS = 40


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Counts of values between edges."""

    title: str
    unit: str
    edges: list[float]
    """One more than counts."""
    counts: list[int]
    read: int
    """Values that were counted."""
    of: int
    """Values there are."""
    labels: list[str] | None = None
    """Names of the bars, where they are not equally wide."""


@dataclass(frozen=True, kw_only=True)
class Hub:
    """A row that is often a neighbor."""

    row: int
    times: int


@dataclass(frozen=True, kw_only=True)
class Distributions:
    """Everything that the page draws."""

    histograms: list[Histogram]
    few: dict[str, int]
    """Queries with fewer neighbors than were to be saved, by reason, as the stage counted them."""
    queries: int
    """Of that split."""
    hubs: list[Hub]
    spread: Hubness | None


def distributions(db: ChunkDatabase, found: Neighbors, split: int, shown: int, most: int = MOST_READ) -> Distributions:
    """Read a database and the neighbors of one split.

    Args:
        db: The chunk database.
        found: Neighbors that were found in it.
        split: Whose queries: 0 train, 1 valid, 2 test.
        shown: K, neighbors that count.
        most: Rows, and queries, that are read at most.
    """
    ids_QK, scores_QK, queries = _read_neighbors(found, split, shown, most)
    counts = neighbor_counts(ids_QK, db.rows)
    may_be = counts_of(db.retrievable, counts)
    hubs = np.argsort(-counts, kind="stable")[:HUBS]
    report = read_json(found.directory / REPORT, "Run `retro neighbors` again")
    parts = [chunk_lengths(db, most), *_score_histograms(scores_QK, queries), times_found(may_be, len(ids_QK), queries)]
    return Distributions(
        histograms=[part for part in parts if part.read],
        few={str(name): int(times) for name, times in report["fewer_than_saved"].items()},
        queries=queries,
        hubs=[Hub(row=int(row), times=int(counts[row])) for row in hubs if counts[row]],
        spread=hubness(may_be) if len(may_be) else None,
    )


def chunk_lengths(db: ChunkDatabase, most: int = MOST_READ) -> Histogram:
    """How many tokens chunks have."""
    tokens = np.asarray(db.columns["token_count"][evenly(db.rows, most)], dtype=np.int64)
    counts = np.bincount(tokens, minlength=db.chunk_length + 1)[1:]
    edges = [float(length) + 0.5 for length in range(db.chunk_length + 1)]
    return Histogram(
        title="Chunk lengths", unit="tokens", edges=edges, counts=counts.tolist(), read=len(tokens), of=db.rows
    )


def times_found(may_be: Int64, read: int, queries: int) -> Histogram:
    """How often a row is a neighbor: never, once, 2 to 3 times, 4 to 7 …"""
    powers = np.where(may_be > 0, np.log2(np.maximum(may_be, 1)).astype(np.int64) + 1, 0)
    counts = np.bincount(powers)
    labels = ["never", "1", *(f"{1 << power}–{(2 << power) - 1}" for power in range(1, len(counts)))]
    return Histogram(
        title="How often a chunk is a neighbor", unit="times found", edges=[float(n) for n in range(len(counts) + 1)],
        counts=counts.tolist(), labels=labels[: len(counts)], read=read, of=queries,
    )  # fmt: skip


def evenly(total: int, most: int) -> Int64:
    """At most `most` numbers below `total`, evenly spread, ascending."""
    if total <= most:
        return np.arange(total, dtype=np.int64)
    return np.arange(most, dtype=np.int64) * total // most


def _read_neighbors(found: Neighbors, split: int, shown: int, most: int) -> tuple[Int64, NDArray[np.float32], int]:
    """Ids and scores of evenly spread queries of a split, over all sources, and how many queries there are."""
    totals = [found.chunks(split, source) for source in range(len(found.sources))]
    ids, scores = [np.empty((0, shown), dtype=np.int64)], [np.empty((0, shown), dtype=np.float32)]
    for source, total in enumerate(totals):
        asked = evenly(total, -(-most * total // max(sum(totals), 1)))
        ids.append(found.of(split, source, asked, shown))
        scores.append(found.scores(split, source, asked, shown))
    return np.concatenate(ids), np.concatenate(scores), sum(totals)


def _score_histograms(scores_QK: NDArray[np.float32], queries: int) -> list[Histogram]:
    """Scores of the first and of the last neighbor, over the same bins."""
    finite = scores_QK[np.isfinite(scores_QK)]
    if not len(finite):
        return []
    low, high = float(finite.min()), float(finite.max())
    edges = np.linspace(low, high if high > low else low + 1, _BINS + 1)
    histograms = []
    places = (0,) if scores_QK.shape[1] == 1 else (0, scores_QK.shape[1] - 1)
    for place in places:
        values = scores_QK[:, place][np.isfinite(scores_QK[:, place])]
        counts, _ = np.histogram(values, bins=edges)
        histograms.append(
            Histogram(
                title=f"Scores of neighbor {place + 1}",
                unit="inner product",
                edges=edges.tolist(),
                counts=counts.tolist(),
                read=len(values),
                of=queries,
            )
        )
    return histograms


@dataclass(frozen=True, kw_only=True)
class SourceRows:
    """Rows of one split and source."""

    split: str
    source: str
    chunks: int
    documents: int | None
    """None where not every row was read."""
    full: float
    """Share of the chunks that have all tokens."""
    mean_tokens: float


def rows_by_source(db: ChunkDatabase, most: int = MOST_READ) -> list[SourceRows]:
    """Chunks of each split and source; in a large split, shares of evenly spread rows and counts scaled up."""
    rows = []
    for split, name in [*enumerate(SPLITS), (len(SPLITS), "added")]:
        span = db.rows_of(split) if split < len(SPLITS) else db.added
        read = evenly(len(span), most) + span.start
        sources = np.asarray(db.columns["source"][read])
        tokens = np.asarray(db.columns["token_count"][read])
        keys = db.document_key(read)
        for source in np.unique(sources).tolist():
            here = sources == source
            scale = len(span) / max(len(read), 1)
            rows.append(
                SourceRows(
                    split=name,
                    source=db.corpus.sources[source],
                    chunks=round(int(here.sum()) * scale),
                    documents=len(np.unique(keys[here])) if len(read) == len(span) else None,
                    full=float((tokens[here] == db.chunk_length).mean()),
                    mean_tokens=float(tokens[here].mean()),
                )
            )
    return rows
