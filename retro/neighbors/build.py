"""The neighbors stage: blocks of stream chunks, then one file per split."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from retro.common.artifacts import REPORT, Manifest, describe_files, fingerprint
from retro.common.block_stage import Advance, BlockWork, RowLocation, completed, fingerprints, remove_unlisted_files
from retro.common.blocks import Block, BlockStore, ranges
from retro.common.coordinator import Coordinator
from retro.common.errors import DataError
from retro.common.files import write_json
from retro.common.launcher import ALONE, Worker
from retro.common.row_set import RowSet
from retro.corpus.reader import SPLITS, Corpus, TokenStream
from retro.db.versions import open_database
from retro.index.search import DenseSearch, TextSearch, open_search
from retro.neighbors.config import STAGE, NeighborsConfig
from retro.neighbors.dedup import REASONS
from retro.neighbors.hubness import Hubness, counts_of, hubness
from retro.neighbors.query import FEW, FOUND_BY, NEIGHBORS, SCORES, StreamQueries
from retro.neighbors.reader import ChunkRange, Totals, file_name, merge_blocks
from retro.neighbors.sharded_search import EXCHANGE, QueryBlock, ShardExchange, remove_exchange

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class NeighborsReport:
    """What the stage did."""

    queries: dict[str, int]
    """By split."""
    fewer_than_saved: dict[str, int]
    """Queries with fewer than `saved` neighbors, by reason."""
    without_neighbors: int
    searched_deeper: int
    """Queries whose first candidates were too few once the filters had gone over them."""
    own_document_share: float
    """Share of the first candidates that came from the query's own documents and were dropped."""
    copies_share: dict[str, float]
    """Share of the candidates whose tokens were compared that were dropped, by reason; empty without such filters."""
    hubness: dict[str, Hubness]
    """By split: how evenly neighbors are spread over the rows that may be neighbors."""
    found_by: dict[str, int]
    """Neighbors that vectors, words, or both put among the candidates."""
    mean_score: float
    """Mean score of all neighbors."""
    mean_best_score: float
    """Mean score of each query's first neighbor."""
    queries_done: int
    """By the worker that joined the blocks; after a resume, or with others, fewer than there are."""
    seconds: float
    queries_per_second: float

    @property
    def line(self) -> str:
        """What it did, for people."""
        queries = ", ".join(f"{count:,} {split}" for split, count in self.queries.items())
        few = ", ".join(f"{count:,} {reason}" for reason, count in self.fewer_than_saved.items() if count)
        said = f"; fewer than asked for: {few}" if few else ""
        by = ", ".join(f"{count:,} {what}" for what, count in self.found_by.items() if count)
        found = f"; neighbors by {by}" if self.found_by["bm25"] else ""
        return f"{queries} chunks searched, mean score of the nearest {self.mean_best_score:.2f}{found}{said}"


def run(
    config: NeighborsConfig, corpus_dir: Path, db_dir: Path, index_dir: Path, out: Path, *, worker: Worker = ALONE
) -> Manifest:
    """Find the neighbors of every chunk of every stream.

    Args:
        config: The stage's settings.
        corpus_dir: A finished corpus.
        db_dir: A finished chunk database.
        index_dir: A finished index; its embedder embeds the queries. Below it the one of words, where these are
            searched by.
        out: Where train.h5, valid.h5 and test.h5 go.
        worker: This process's place among those that search.

    Returns:
        The manifest, once the stage is complete, whoever completed it.

    Raises:
        ArtifactError: A parent is damaged or does not fit, `out` was made from other parents or under other settings,
            or the disk is full.
        DataError, DependencyError: The embedding model cannot be used, or bm25s is missing.
    """
    corpus = Corpus.open(corpus_dir)
    db = open_database(db_dir, corpus)
    db.require_chunks("a Retro model")
    searcher = open_search(config, index_dir, db)
    parents = {"corpus": corpus.manifest, "db": db.manifest, **searcher.parents}
    blocks = _query_blocks(config, corpus, searcher)
    exchange = None
    # Searches that read words go through whole files, which are mapped: what is found is the same.
    if worker.world > 1 and isinstance(searcher, DenseSearch):
        exchange = ShardExchange.of(searcher.searcher, blocks, config.searched, fingerprints(parents), out)
    work = block_work(config, corpus, searcher, out, exchange)
    done = completed(out, STAGE, config.shaping, parents)
    if done is not None:
        work.store.remove()
        remove_exchange(out)
        remove_unlisted_files(out, done)
        return done
    if not work.sizes:
        problem = f"has no stream of {db.chunk_length} tokens, the length of one chunk"
        raise DataError(corpus_dir, problem, "Give more text, or a smaller db.chunk_length")
    started = time.monotonic()
    coordinator = Coordinator(out, worker, stage=STAGE)
    if exchange is not None:
        exchange.run(coordinator)
    asked = coordinator.work(work)

    def join() -> Manifest:
        totals = merge_blocks(work.store, _plan(corpus, config, db.chunk_length), out, corpus.sources, config)
        report = _report(totals, config, db.retrievable, asked, time.monotonic() - started)
        log.info("neighbors: %s", report.line)
        _warn_of_missing(totals, report)
        write_json(out / REPORT, asdict(report))
        return Manifest(
            stage=STAGE,
            config=config.shaping,
            parents=fingerprints(parents),
            counts={"database_version": db.version} | _counts(report),
            files=describe_files(out, [file_name(split) for split in report.queries]),
        )

    return coordinator.finish(join, work, scratch=out / EXCHANGE)


def open_work(config: NeighborsConfig, corpus_dir: Path, db_dir: Path, index_dir: Path, out: Path) -> BlockWork:
    """The blocks of finished neighbors in `out`, to be made once more and compared.

    Raises:
        ArtifactError: A parent is damaged or missing.
        DataError, DependencyError: The embedding model cannot be used.
    """
    corpus = Corpus.open(corpus_dir)
    return block_work(config, corpus, open_search(config, index_dir, open_database(db_dir, corpus)), out)


def _query_blocks(config: NeighborsConfig, corpus: Corpus, searcher: TextSearch) -> list[QueryBlock]:
    chunk_length = searcher.db.chunk_length
    queries: dict[tuple[str, int], StreamQueries] = {
        (split, source): StreamQueries(
            searcher, TokenStream(corpus, source, SPLITS.index(split), chunk_length), config.filters
        )
        for split in config.splits
        for source in range(len(corpus.sources))
    }
    return [QueryBlock(queries[part.split, part.source], part) for part in _plan(corpus, config, chunk_length)]


def block_work(
    config: NeighborsConfig, corpus: Corpus, searcher: TextSearch, out: Path, exchange: ShardExchange | None = None
) -> BlockWork:
    """The blocks of this stage: the streams are those of `corpus`, which need not be the searched database's.

    With `exchange`, first searches are taken from there.
    """
    db = searcher.db
    blocks = _query_blocks(config, corpus, searcher)
    plan = [block.part for block in blocks]

    def make(number: int, advance: Advance) -> Block:
        first = None if exchange is None else exchange.first(number)
        block = blocks[number]
        return block.queries.block(block.part.chunks, config.saved, config.searched, advance, first)

    def places(number: int) -> list[RowLocation]:
        split, source, chunks = plan[number]
        file, group = file_name(split), corpus.sources[source]
        whole = range(len(chunks))
        return [RowLocation(file, f"{group}/{name}", name, whole, chunks.start) for name in (NEIGHBORS, SCORES)]

    return BlockWork(
        directory=out,
        store=_store(plan, config, {"corpus": corpus.manifest, "db": db.manifest, **searcher.parents}, out),
        sizes=tuple(len(part.chunks) for part in plan),
        unit="queries",
        make=make,
        places=places,
        names=lambda number: (
            f"chunks {plan[number].chunks.start} to {plan[number].chunks.stop - 1} of the "
            f"{plan[number].split} stream of {corpus.sources[plan[number].source]}"
        ),
    )


def _plan(corpus: Corpus, config: NeighborsConfig, chunk_length: int) -> list[ChunkRange]:
    return [
        ChunkRange(split, source, chunks)
        for split in config.splits
        for source in range(len(corpus.sources))
        for chunks in ranges(
            TokenStream(corpus, source, SPLITS.index(split), chunk_length).chunks, config.queries_per_block
        )
    ]


def _store(plan: list[ChunkRange], config: NeighborsConfig, parents: Mapping[str, Manifest], out: Path) -> BlockStore:
    settings = {name: config.shaping[name] for name in ("saved", "searched", "filters") if name in config.shaping}
    base: dict[str, Any] = fingerprints(parents) | settings | config.search_settings
    inputs = [base | part._asdict() | {"chunks": [part.chunks.start, part.chunks.stop]} for part in plan]
    return BlockStore(
        directory=out / "blocks",
        inputs=tuple(map(fingerprint, inputs)),
        expected_rows=tuple(len(part.chunks) for part in plan),
        stage=STAGE,
    )


def _report(totals: Totals, config: NeighborsConfig, rows: RowSet, asked: int, seconds: float) -> NeighborsReport:
    counts = totals.counts
    few = [reason for reason in FEW if reason != "filtered" or config.filters.compare_tokens]
    copies = [reason for reason in REASONS if reason != "own_document"] if config.filters.compare_tokens else []
    return NeighborsReport(
        queries=totals.queries,
        fewer_than_saved={reason: counts[reason] for reason in few},
        without_neighbors=totals.without_neighbors,
        searched_deeper=counts["searched_deeper"],
        own_document_share=round(counts["own_document"] / max(counts["candidates"], 1), 4),
        copies_share={reason: round(counts[reason] / max(counts["looked_at"], 1), 4) for reason in copies},
        hubness={split: hubness(counts_of(rows, found)) for split, found in totals.found.items() if len(rows)},
        found_by={name: counts[name] for name in FOUND_BY},
        mean_score=round(totals.score_sum / max(totals.neighbors, 1), 4),
        mean_best_score=round(totals.best_score_sum / max(counts["queries"] - totals.without_neighbors, 1), 4),
        queries_done=asked,
        seconds=round(seconds, 3),
        queries_per_second=round(asked / max(seconds, 1e-9), 1),
    )


def _warn_of_missing(totals: Totals, report: NeighborsReport) -> None:
    """Say it when queries that have text have no neighbor."""
    missing = report.without_neighbors - totals.counts["no_text"]
    if missing > 0:
        reasons = ", ".join(f"{reason} {count}" for reason, count in report.fewer_than_saved.items() if count)
        log.warning(
            "neighbors: %d of %d chunks with text have no neighbor (fewer than saved: %s)",
            *(missing, totals.counts["queries"] - totals.counts["no_text"], reasons),
        )


def _counts(report: NeighborsReport) -> dict[str, Any]:
    queries = {f"queries_{split}": queries for split, queries in report.queries.items()}
    return queries | {"fewer_than_saved": report.fewer_than_saved}
