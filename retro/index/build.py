"""The index stage: embed in blocks, join, train on a sample of train chunks, add every chunk, measure recall."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retro.common.artifacts import REPORT, Manifest, describe_files, fingerprint, write_json, write_manifest
from retro.common.blocks import BlockStore, ranges
from retro.common.progress import Progress
from retro.common.resume import completed, fingerprints, remove_temporary_files, remove_unlisted_files
from retro.corpus.reader import Corpus
from retro.db.reader import ChunkDatabase
from retro.index.config import STAGE, IndexConfig
from retro.index.embedders import Embedder, describe_embedder, make_embedder
from retro.index.embeddings import FILE as EMBEDDINGS_FILE
from retro.index.embeddings import embed_rows, merge_embeddings, sample_rows, texts_to_learn_from
from retro.index.faiss_index import INDEX_FILE, SearchSettings, fill_index, save_index
from retro.index.faiss_loader import load_faiss
from retro.index.policy import choose_index, create_index, is_exact
from retro.index.recall import measure_recall

log = logging.getLogger(__name__)

LEARNED_FROM = 100_000
"""Train chunks that the hashing embedder counts words in: enough for stable frequencies, half a minute of work."""


@dataclass(frozen=True, kw_only=True)
class IndexReport:
    """What the stage did."""

    chunks: int
    chunks_without_text: int
    dimension: int
    embedder: dict[str, str | int]
    faiss: str
    exact: bool
    training_vectors: int
    recall_at_10: float
    """Share of the ten true nearest train chunks that the index finds; 1 for an exact index, -1 if not measured."""
    index_bytes: int
    chunks_embedded: int
    """In this run; after a resume, fewer than there are."""
    chunks_per_second: float
    embed_seconds: float
    index_seconds: float


def run(
    config: IndexConfig,
    corpus_dir: Path,
    db_dir: Path,
    out: Path,
    *,
    rank: int = 0,
    world: int = 1,
    wait_s: float = 0.0,
) -> Manifest:
    """Embed and index all chunks of a database.

    Args:
        config: The stage's settings.
        corpus_dir: A finished corpus.
        db_dir: A finished chunk database.
        out: Where index.faiss, the embeddings and the embedder's files go.
        rank: This process's share of the blocks: rank, rank + world, …
        world: Processes that share the embedding. Rank 0 joins the blocks and builds the index.
        wait_s: How long rank 0 waits for the blocks of others, since the last one appeared.

    Returns:
        The manifest; for other ranks than 0 one that is not written and has no files.

    Raises:
        ConfigError: The Faiss string cannot work, or there are too few chunks to train it. Checked first.
        ArtifactError: A parent does not fit or is damaged, `out` was made from other parents or under other settings,
            blocks of other ranks are missing, or the disk is full.
        DataError, DependencyError: The embedding model cannot be used.
    """
    corpus = Corpus.open(corpus_dir)
    db = ChunkDatabase.open(db_dir, corpus)
    parents = {"corpus": corpus.manifest, "db": db.manifest}
    done = completed(out, STAGE, config.shaping, parents)
    if done is not None:
        _blocks(config, db, out, {}).remove()
        remove_unlisted_files(out, done)
        return done
    started = time.monotonic()
    embedder = make_embedder(config.embedder, out, partial(texts_to_learn_from, db, LEARNED_FROM, config.seed))
    # Made before anything is embedded, so that a string that cannot work is known at once.
    empty = _empty_index(config, db, embedder.dimension)
    store = _blocks(config, db, out, embedder.identity)
    embedded = _embed(store, config, db, embedder, rank, world)
    embed_seconds = time.monotonic() - started
    manifest = Manifest(stage=STAGE, config=config.shaping, parents=fingerprints(parents))
    if rank != 0:
        return manifest
    store.require_all(world, wait_s)
    remove_temporary_files(out)
    report = _index(config, db, embedder, store, empty, out)
    report |= {"chunks_embedded": embedded, "embed_seconds": round(embed_seconds, 3)}
    report |= {"chunks_per_second": round(embedded / max(embed_seconds, 1e-9), 1)}
    return _finish(manifest, IndexReport(**report), config, embedder, store, out)


class _EmptyIndex(NamedTuple):
    faiss_index: Any
    factory: str
    training_rows: NDArray[np.int64]


def _empty_index(config: IndexConfig, db: ChunkDatabase, dimension: int) -> _EmptyIndex:
    training_rows = sample_rows(db.rows_of(0), config.train_sample, config.seed)
    factory = choose_index(db.rows, len(training_rows)) if config.faiss == "auto" else config.faiss
    return _EmptyIndex(create_index(factory, dimension, len(training_rows)), factory, training_rows)


def _index(
    config: IndexConfig, db: ChunkDatabase, embedder: Embedder, store: BlockStore, empty: _EmptyIndex, out: Path
) -> dict[str, Any]:
    """Join the blocks, build and store the index; gives the report's fields about it."""
    started = time.monotonic()
    index, factory, training_rows = empty
    vectors = merge_embeddings(store, out, db.rows, embedder.dimension)
    fill_index(index, factory, vectors, training_rows, reproducible=config.reproducible)
    save_index(index, out / INDEX_FILE)
    exact = is_exact(load_faiss(), index)
    return {
        "chunks": db.rows,
        "chunks_without_text": sum(store.counts(number)["without_text"] for number in range(len(store))),
        "dimension": embedder.dimension,
        "embedder": embedder.identity,
        "faiss": factory,
        "exact": exact,
        "training_vectors": 0 if exact else len(training_rows),
        "recall_at_10": round(_recall(config, index, vectors, db, exact), 4),
        "index_bytes": (out / INDEX_FILE).stat().st_size,
        "index_seconds": round(time.monotonic() - started, 3),
    }


def _blocks(config: IndexConfig, db: ChunkDatabase, out: Path, identity: dict[str, str | int]) -> BlockStore:
    # Batches follow from the block's texts and the batch size, and their padding can move the last bit of a vector.
    base: dict[str, Any] = {"db": db.manifest.fingerprint, "embedder": identity, "batch": config.embedder.batch_tokens}
    parts = ranges(db.rows, config.chunks_per_block)
    return BlockStore(
        directory=out / "blocks",
        inputs=tuple(fingerprint(base | {"range": [part.start, part.stop]}) for part in parts),
        expected_rows=tuple(map(len, parts)),
        stage=STAGE,
    )


def _embed(store: BlockStore, config: IndexConfig, db: ChunkDatabase, embedder: Embedder, rank: int, world: int) -> int:
    """Build this rank's missing blocks; gives the number of chunks embedded."""
    parts = ranges(db.rows, config.chunks_per_block)
    pending = store.pending(rank, world)
    mine = sum(len(part) for part in parts[rank::world])
    left = sum(len(parts[number]) for number in pending)
    with Progress(mine, what="index: embedding", unit="chunks", done=mine - left) as bar:
        for number in pending:
            store.write(number, embed_rows(db, embedder, parts[number], bar.advance))
    return left


def _recall(config: IndexConfig, index: Any, vectors: Any, db: ChunkDatabase, exact: bool) -> float:
    if exact:
        return 1.0
    if not config.recall_queries:
        return -1.0
    recall = measure_recall(index, vectors, db, SearchSettings.of(config), config.recall_queries, config.seed)
    log.info("index: finds %.1f %% of the ten nearest train chunks", 100 * recall)
    return recall


def _finish(
    unfinished: Manifest, report: IndexReport, config: IndexConfig, embedder: Embedder, store: BlockStore, out: Path
) -> Manifest:
    """Report, then the manifest, then remove what is no longer needed: a kill between any two steps loses nothing."""
    log.info("index: %s", report)
    write_json(out / REPORT, asdict(report))
    files = [INDEX_FILE, *describe_embedder(config.embedder, embedder, out)]
    if config.keep_embeddings:
        files.append(EMBEDDINGS_FILE)
    counts = {"rows": report.chunks, "dimension": report.dimension, "faiss": report.faiss}
    manifest = replace(unfinished, counts=counts, files=describe_files(out, files))
    write_manifest(out, manifest)
    store.remove()
    remove_unlisted_files(out, manifest)
    return manifest
