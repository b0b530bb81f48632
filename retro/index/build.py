"""The index stage: embed in blocks, train on a sample of train chunks, encode in blocks, join, measure recall."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from retro.common.artifacts import REPORT, Manifest, describe_files, fingerprint
from retro.common.block_stage import Advance, BlockWork, RowLocation, completed, fingerprints, remove_unlisted_files
from retro.common.blocks import Block, BlockStore, ranges
from retro.common.coordinator import Coordinator
from retro.common.files import sha256_file, write_json
from retro.common.launcher import ALONE, Worker
from retro.common.precision import choose
from retro.corpus.reader import Corpus
from retro.db.reader import ChunkDatabase
from retro.index.codes import LISTS_FILE
from retro.index.config import STAGE, IndexConfig
from retro.index.embedder import Embedder
from retro.index.embedders import (
    adopt_embedder,
    describe_embedder,
    make_embedder,
    open_embedder,
    require_learned,
)
from retro.index.embeddings import DATASET, EmbedRows, embed_rows, merge_embeddings, texts_to_learn_from
from retro.index.embeddings import FILE as EMBEDDINGS_FILE
from retro.index.faiss_build import Assembly, plan_index, remove_assembly
from retro.index.faiss_index import INDEX_FILE, SearchSettings, save_index
from retro.index.measure import measure
from retro.index.milvus import MilvusCollection, fill_again
from retro.index.recall import RECALL_AT, recall_samples
from retro.index.rerank import map_vectors
from retro.index.shards import index_files, require_shardable, shard_index
from retro.index.vector_index import SEARCH_FILE, VectorIndex

log = logging.getLogger(__name__)

LEARNED_FROM = 100_000
"""Train chunks that hashing counts words in, and others learn from: enough for stable frequencies, half a minute."""


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
    recall_at_2: float
    """Share of the two true nearest train chunks that the index finds; 1 for an exact index, -1 if not measured."""
    recall_at_10: float
    recall_at_20: float
    search: dict[str, int]
    """How hard the index is searched: nprobe, ef_search, refine_factor, as far as it reads them."""
    index_bytes: int
    bytes_per_vector: float
    """In memory: codes, ids, centroids; without lists that stay on disk."""
    chunks_embedded: int
    """By the worker that joined the blocks; after a resume, or with others, fewer than there are."""
    chunks_per_second: float
    embed_seconds: float
    index_seconds: float

    @property
    def line(self) -> str:
        """What it did, for people."""
        return f"{self.chunks:,} chunks as {self.dimension} values in {self.faiss}, {self.index_bytes / 1e6:,.1f} MB"


def run(
    config: IndexConfig,
    corpus_dir: Path,
    db_dir: Path,
    out: Path,
    *,
    worker: Worker = ALONE,
    like: Path | None = None,
    embed: EmbedRows = embed_rows,
) -> Manifest:
    """Embed and index all chunks of a database.

    Args:
        config: The stage's settings.
        corpus_dir: A finished corpus.
        db_dir: A finished chunk database.
        out: Where index.faiss, the embeddings and the embedder's files go.
        worker: This process's place among those that embed.
        like: An index whose embedder is taken over, so that its vectors and these may be searched together.
        embed: Makes the vectors of consecutive chunks; for whoever has them already.

    Returns:
        The manifest, once the stage is complete, whoever completed it.

    Raises:
        ConfigError: The Faiss string cannot work, or there are too few chunks to train it. Checked first.
        ArtifactError: A parent does not fit or is damaged, `out` was made from other parents or under other settings,
            or the disk is full.
        DataError, DependencyError: The embedding model cannot be used.
    """
    corpus = Corpus.open(corpus_dir)
    db = ChunkDatabase.open(db_dir, corpus)
    parents = {"corpus": corpus.manifest, "db": db.manifest}
    done = completed(out, STAGE, config.shaping, parents, compared=config.filled)
    if done is not None:
        _blocks(config, db, out, {}).remove()
        remove_assembly(out)
        remove_unlisted_files(out, done)
        if config.backend == "milvus":
            fill_again(out, done)
        return done
    started = time.monotonic()
    coordinator = Coordinator(out, worker, stage=STAGE)
    if not config.embedder.makes_vectors:
        return coordinator.finish(lambda: _without_vectors(config, parents, db.rows))
    embedder = _embedder(config, db, out, coordinator) if like is None else adopt_embedder(like, out, coordinator)
    # Made before anything is embedded, so that a string that cannot work is known at once.
    plan = plan_index(config, db, embedder.dimension)
    require_shardable(plan.empty, db.rows, config.shards, plan.factory)
    work = block_work(config, db, embedder, out, embed)
    embedded = coordinator.work(work, "index: embedding")
    embed_seconds = time.monotonic() - started
    assembly = Assembly(plan, work.store, out)
    if config.backend == "faiss":
        assembly.encode_all(coordinator)

    def join() -> Manifest:
        report = (_index if config.backend == "faiss" else _milvus)(assembly, db, embedder)
        report |= {"chunks_embedded": embedded, "embed_seconds": round(embed_seconds, 3)}
        report |= {"chunks_per_second": round(embedded / max(embed_seconds, 1e-9), 1)}
        log.info("index: %s", IndexReport(**report).line)
        write_json(out / REPORT, report | _precision(config, embedder))
        files = describe_files(out, _files(config, embedder, out))
        if like is None:
            # After the checksums were taken: damage before them would be described, damage after them is found.
            require_learned(config.embedder, out)
        return Manifest(
            stage=STAGE,
            config=_with_precision(config, embedder).shaping,
            parents=fingerprints(parents),
            counts={"rows": report["chunks"], "dimension": report["dimension"], "faiss": report["faiss"]},
            files=files,
        )

    manifest = coordinator.finish(join, work)
    remove_assembly(out)
    return manifest


def _without_vectors(config: IndexConfig, parents: Mapping[str, Manifest], rows: int) -> Manifest:
    """The stage of a run that searches by words alone: it says so, and holds nothing."""
    counts = {"rows": rows, "dimension": 0, "faiss": ""}
    return Manifest(stage=STAGE, config=config.shaping, parents=fingerprints(parents), counts=counts)


def _with_precision(config: IndexConfig, embedder: Embedder) -> IndexConfig:
    """The settings with what `auto` meant; an embedder without weights has no precision, so its setting stays."""
    computed = embedder.identity.get("dtype", config.embedder.precision)
    return config.model_copy(update={"embedder": config.embedder.model_copy(update={"precision": computed})})


def _precision(config: IndexConfig, embedder: Embedder) -> dict[str, str]:
    """What the report says of it."""
    computed = embedder.identity.get("dtype")
    if computed is None:
        return {}
    here = choose(config.embedder.precision)
    return (here if here.precision == computed else choose("auto", begun=str(computed))).report


def _embedder(config: IndexConfig, db: ChunkDatabase, out: Path, coordinator: Coordinator) -> Embedder:
    texts = partial(texts_to_learn_from, db, LEARNED_FROM, config.seed)
    learned_from = fingerprint({"db": db.manifest.fingerprint, "texts": LEARNED_FROM, "seed": config.seed})
    return make_embedder(config.embedder, out, texts, learned_from=learned_from, coordinator=coordinator)


def open_work(config: IndexConfig, corpus_dir: Path, db_dir: Path, out: Path) -> BlockWork:
    """The embeddings of a finished index in `out`, to be made once more and compared.

    Raises:
        ArtifactError: A parent, or the embedder's description, is damaged or missing.
        DataError, DependencyError: The embedding model cannot be used.
    """
    db = ChunkDatabase.open(db_dir, Corpus.open(corpus_dir))
    if not config.embedder.makes_vectors:
        store = BlockStore(directory=out / "blocks", inputs=(), stage=STAGE)
        return BlockWork(directory=out, store=store, sizes=(), unit="chunks", make=_nothing, places=lambda number: ())
    return block_work(config, db, open_embedder(out), out)


def _nothing(number: int, advance: Advance) -> Block:
    raise ValueError(f"an index without vectors has no block {number}")


def block_work(
    config: IndexConfig, db: ChunkDatabase, embedder: Embedder, out: Path, embed: EmbedRows = embed_rows
) -> BlockWork:
    """The blocks of embeddings."""
    parts = ranges(db.rows, config.chunks_per_block)
    return BlockWork(
        directory=out,
        store=_blocks(config, db, out, embedder.identity),
        sizes=tuple(map(len, parts)),
        unit="chunks",
        make=lambda number, advance: embed(db, embedder, parts[number], advance),
        places=lambda number: [
            RowLocation(EMBEDDINGS_FILE, DATASET, DATASET, range(len(parts[number])), parts[number].start)
        ],
        names=lambda number: f"rows {parts[number].start} to {parts[number].stop - 1}",
    )


def _index(assembly: Assembly, db: ChunkDatabase, embedder: Embedder) -> dict[str, Any]:
    """Join the blocks, store and measure the index; gives the report's fields about it."""
    started = time.monotonic()
    plan, store, out = assembly.plan, assembly.embedded, assembly.out
    vectors = merge_embeddings(store, out, db.rows, embedder.dimension)
    filled = assembly.fill(vectors)
    save_index(filled, out / INDEX_FILE)
    # A map of its own: this one is read in order, and wants the read-ahead that single rows are better without.
    ranked_by = map_vectors(out / EMBEDDINGS_FILE) if plan.ranks_again else None
    index = VectorIndex(filled, SearchSettings.of(plan.config), ranked_by)
    measured = measure(index, plan.factory, vectors, db, plan.config, out, embedder)
    recall = {f"recall_at_{k}": measured.recall.get(k, -1.0) for k in RECALL_AT}
    size = (out / INDEX_FILE).stat().st_size
    if plan.config.shards > 1:
        shard_index(out / INDEX_FILE, db.rows, embedder.dimension, plan.config.shards)
    return recall | {
        "chunks": db.rows,
        "chunks_without_text": sum(store.counts(number)["without_text"] for number in range(len(store))),
        "dimension": embedder.dimension,
        "embedder": embedder.identity,
        "faiss": plan.factory,
        "exact": plan.exact,
        "training_vectors": 0 if plan.exact else len(plan.training_rows),
        "search": measured.settings,
        "index_bytes": size,
        "bytes_per_vector": measured.bytes_per_vector,
        "index_seconds": round(time.monotonic() - started, 3),
    }


def _milvus(assembly: Assembly, db: ChunkDatabase, embedder: Embedder) -> dict[str, Any]:
    """Join the blocks and fill a collection of Milvus; gives the report's fields about it."""
    started = time.monotonic()
    store, out = assembly.embedded, assembly.out
    vectors = merge_embeddings(store, out, db.rows, embedder.dimension)
    sha256 = sha256_file(out / EMBEDDINGS_FILE)
    collection = MilvusCollection.of(out, assembly.plan.config, sha256, db.rows, embedder.dimension)
    collection.fill(vectors)
    recall = _recall(collection, vectors, db, assembly.plan.config, embedder)
    return recall | {
        "chunks": db.rows,
        "chunks_without_text": sum(store.counts(number)["without_text"] for number in range(len(store))),
        "dimension": embedder.dimension,
        "embedder": embedder.identity,
        "faiss": "",
        "exact": collection.exact,
        "training_vectors": 0,
        "search": {},
        "index_bytes": 0,
        "bytes_per_vector": 0.0,
        "index_seconds": round(time.monotonic() - started, 3),
    }


def _recall(
    collection: MilvusCollection, vectors: NDArray[Any], db: ChunkDatabase, config: IndexConfig, embedder: Embedder
) -> dict[str, float]:
    """Recall of a collection at each of RECALL_AT; -1 where it is not to be measured."""
    if collection.exact or not config.recall_queries:
        return {f"recall_at_{k}": 1.0 if collection.exact else -1.0 for k in RECALL_AT}
    sample = recall_samples(db, vectors, config.recall_queries, config.seed, embedder).reported
    recall = {f"recall_at_{k}": round(sample.found_by(collection, k).mean, 4) for k in RECALL_AT}
    log.info("index: Milvus %s finds %.1f %% of the ten nearest", collection.kind, 100 * recall["recall_at_10"])
    return recall


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


def _files(config: IndexConfig, embedder: Embedder, out: Path) -> list[str]:
    lists = [LISTS_FILE] if config.on_disk else []
    kept = [EMBEDDINGS_FILE] if config.keep_embeddings else []
    described = [SEARCH_FILE] if config.backend == "faiss" else []
    described += describe_embedder(config.embedder, embedder, out)
    return [*index_files(config), *lists, *described, *kept]
