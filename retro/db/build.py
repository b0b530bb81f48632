"""The db stage: blocks of documents, then one database in the order train, valid, test."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from retro.common.artifacts import (
    REPORT,
    Manifest,
    describe_files,
    fingerprint,
    write_json,
    write_manifest,
)
from retro.common.blocks import Block, BlockStore, ranges
from retro.common.progress import progress
from retro.common.resume import completed, fingerprints, remove_temporary_files, remove_unlisted_files
from retro.corpus.reader import SPLITS, Corpus
from retro.db.chunking import cut_documents, tokens_without_end_mark
from retro.db.config import DbConfig
from retro.db.merge import merge_blocks
from retro.db.schema import COLUMNS, FILE, STAGE

log = logging.getLogger(__name__)


class DocumentRange(NamedTuple):
    """The documents of one block."""

    source: int
    documents: range


@dataclass(frozen=True, kw_only=True)
class DbReport:
    """What the stage did."""

    documents: int
    empty_documents: int
    chunks: int
    tokens: int
    chunks_by_split: dict[str, int]
    chunks_by_source: dict[str, int]
    blocks_built: int
    seconds: float
    chunks_per_second: float


def run(
    config: DbConfig, corpus_dir: Path, out: Path, *, rank: int = 0, world: int = 1, wait_s: float = 0.0
) -> Manifest:
    """Build the chunk database in `out`.

    Args:
        config: The stage's settings.
        corpus_dir: A finished corpus.
        out: Where db.h5, manifest.json and report.json go.
        rank: This process's share: blocks rank, rank + world, …
        world: Processes that share the work. Rank 0 merges.
        wait_s: How long rank 0 waits for the blocks of others, since the last one appeared.

    Returns:
        The manifest; for other ranks than 0, which do not merge, one that is not written and has no files.

    Raises:
        ArtifactError: `out` was made from another corpus or under other settings, blocks of other ranks are missing,
            or the disk is full.
        DataError: The corpus has no text to cut.
    """
    corpus = Corpus.open(corpus_dir)
    parents = {"corpus": corpus.manifest}
    plan = _plan(corpus, config)
    store = _store(plan, corpus, config, out)
    done = completed(out, STAGE, config.shaping, parents)
    if done is not None:
        store.remove()
        remove_unlisted_files(out, done)
        return done
    started = time.monotonic()
    pending = store.pending(rank, world)
    for number in progress(pending, total=len(pending), what=STAGE, unit="blocks"):
        store.write(number, _cut_block(corpus, plan[number], config.chunk_length))
    manifest = Manifest(stage=STAGE, config=dict(config.shaping), parents=fingerprints(parents))
    if rank != 0:
        return manifest
    store.require_all(world, wait_s)
    remove_temporary_files(out)
    counts = merge_blocks(store, out, {"chunk_length": config.chunk_length, **manifest.parents})
    report = _report(corpus, plan, counts, len(pending), time.monotonic() - started)
    return _finish(manifest, report, store, out)


def _plan(corpus: Corpus, config: DbConfig) -> list[DocumentRange]:
    return [
        DocumentRange(source, documents)
        for source in range(len(corpus.sources))
        for documents in ranges(corpus.token_file(source).documents, config.documents_per_block)
    ]


def _store(plan: list[DocumentRange], corpus: Corpus, config: DbConfig, out: Path) -> BlockStore:
    base = {"corpus": corpus.manifest.fingerprint, "config": config.shaping}
    inputs = [base | {"source": part.source, "range": [part.documents.start, part.documents.stop]} for part in plan]
    return BlockStore(directory=out / "blocks", inputs=tuple(map(fingerprint, inputs)), stage=STAGE)


def _cut_block(corpus: Corpus, part: DocumentRange, chunk_length: int) -> Block:
    """The rows of one block, sorted by split; within a split by document and position."""
    file = corpus.token_file(part.source)
    first, last = part.documents.start, part.documents.stop
    starts_D = np.asarray(file.document_starts[first : last + 1], dtype=np.int64)
    tokens_D = tokens_without_end_mark(file.tokens, starts_D, corpus.tokenizer.eod)
    chunks = cut_documents(tokens_D, chunk_length)
    split_D = np.asarray(corpus.split_of(part.source)[first:last])
    # Stable, so documents stay whole and in order inside their split.
    order_N = np.argsort(split_D[chunks.document], kind="stable")
    columns: dict[str, NDArray[np.generic]] = {
        "source": np.full(len(order_N), part.source),
        "document": chunks.document[order_N] + first,
        "token_start": (starts_D[chunks.document] + chunks.start)[order_N],
        "token_count": chunks.tokens[order_N],
        "continues": chunks.continues[order_N],
    }
    rows_by_split = np.bincount(split_D[chunks.document], minlength=len(SPLITS))
    counts = {f"rows_{name}": int(rows) for name, rows in zip(SPLITS, rows_by_split, strict=True)}
    counts |= {"empty_documents": int((tokens_D == 0).sum()), "tokens": int(tokens_D.sum())}
    return Block({name: columns[name].astype(dtype) for name, dtype in COLUMNS.items()}, counts)


def _report(
    corpus: Corpus, plan: list[DocumentRange], counts: list[dict[str, int]], blocks_built: int, seconds: float
) -> DbReport:
    totals = {name: sum(count[name] for count in counts) for name in counts[0]}
    by_source = dict.fromkeys(corpus.sources, 0)
    for part, count in zip(plan, counts, strict=True):
        by_source[corpus.sources[part.source]] += sum(count[f"rows_{name}"] for name in SPLITS)
    chunks = sum(by_source.values())
    return DbReport(
        documents=sum(len(part.documents) for part in plan),
        empty_documents=totals["empty_documents"],
        chunks=chunks,
        tokens=totals["tokens"],
        chunks_by_split={name: totals[f"rows_{name}"] for name in SPLITS},
        chunks_by_source=by_source,
        blocks_built=blocks_built,
        seconds=round(seconds, 3),
        chunks_per_second=round(chunks / max(seconds, 1e-9), 1),
    )


def _finish(unfinished: Manifest, report: DbReport, store: BlockStore, out: Path) -> Manifest:
    """Report, then the manifest, then remove the blocks: a kill between any two steps loses nothing."""
    log.info("db: %s", report)
    write_json(out / REPORT, asdict(report))
    counts = {f"rows_{name}": chunks for name, chunks in report.chunks_by_split.items()}
    counts |= {"rows": report.chunks, "empty_documents": report.empty_documents, "tokens": report.tokens}
    manifest = replace(unfinished, counts=counts, files=describe_files(out, [FILE]))
    write_manifest(out, manifest)
    store.remove()
    return manifest
