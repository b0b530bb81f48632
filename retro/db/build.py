"""The db stage: blocks of documents, then one database in the order train, valid, test."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from retro.common.artifacts import REPORT, Manifest, describe_files, fingerprint
from retro.common.block_stage import Advance, BlockWork, RowLocation, completed, fingerprints, remove_unlisted_files
from retro.common.blocks import Block, BlockStore, ranges
from retro.common.coordinator import Coordinator
from retro.common.errors import ConfigError, DataError
from retro.common.files import atomic_path, write_json
from retro.common.hdf5 import create_column, new_file
from retro.common.launcher import ALONE, Worker
from retro.corpus.reader import SPLITS, Corpus
from retro.db.chunking import Chunks, cut_documents, cut_windows, tokens_without_end_mark
from retro.db.config import DbConfig
from retro.db.schema import COLUMNS, FILE, STAGE, write_header

# Dims in this file. B blocks   T splits


Int64 = NDArray[np.int64]


def merge_blocks(store: BlockStore, out: Path, chunk_length: int, corpus: str) -> list[dict[str, int]]:
    """Write db.h5 into `out`; one block at a time is in memory.

    Args:
        store: Finished blocks, each sorted by split, with counts `rows_train`, `rows_valid`, `rows_test`.
        out: The stage's directory.
        chunk_length: Of the database.
        corpus: Fingerprint of the corpus that its chunks are of.

    Returns:
        The counts of every block.

    Raises:
        ArtifactError: A block is damaged, or the disk is full.
        DataError: There is no chunk at all.
    """
    counts = [store.counts(number) for number in range(len(store))]
    rows_BT = np.array([[count[f"rows_{name}"] for name in SPLITS] for count in counts], dtype=np.int64)
    rows = int(rows_BT.sum())
    if rows == 0:
        raise DataError(out / FILE, "would have no chunks: every document is empty", "Give a corpus with text")
    begin_BT = places_of(rows_BT.reshape(-1, len(SPLITS)))
    with atomic_path(out / FILE) as temporary, new_file(temporary) as file:
        for name, dtype in COLUMNS.items():
            create_column(file, name, (rows,), dtype)
        for number in range(len(store)):
            _copy_block(file, store.take(number), rows_BT[number], begin_BT[number])
        write_header(file, chunk_length, corpus)
    return counts


def places_of(rows_BT: Int64) -> Int64:
    """First row in the database of each block's share of each split.

    Args:
        rows_BT: [blocks, splits] rows.

    Returns:
        [blocks, splits]; rows are laid out split by split, and in a split block by block.
    """
    by_split = rows_BT.T.ravel()
    begin_BT: Int64 = (np.cumsum(by_split) - by_split).reshape(rows_BT.shape[::-1]).T
    return begin_BT


def _copy_block(file: h5py.File, block: Block, rows_T: Int64, begin_T: Int64) -> None:
    taken = 0
    for rows, begin in zip(rows_T.tolist(), begin_T.tolist(), strict=True):
        if rows:
            for name in COLUMNS:
                file[name][begin : begin + rows] = block.arrays[name][taken : taken + rows]
        taken += rows


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
    documents_cut: int
    """By the worker that joined the blocks; after a resume, or with others, fewer than there are."""
    seconds: float
    chunks_per_second: float

    @property
    def line(self) -> str:
        """What it did, for people."""
        cut = f", {self.documents_cut:,} cut" if self.documents_cut else ""
        empty = f", {self.empty_documents:,} empty" if self.empty_documents else ""
        return f"{self.chunks:,} chunks of {self.documents:,} documents{empty}{cut}; {self.tokens:,} tokens"


def run(config: DbConfig, corpus_dir: Path, out: Path, *, worker: Worker = ALONE) -> Manifest:
    """Build the chunk database in `out`.

    Args:
        config: The stage's settings.
        corpus_dir: A finished corpus.
        out: Where db.h5, manifest.json and report.json go.
        worker: This process's place among those that build it.

    Returns:
        The manifest, once the stage is complete, whoever completed it.

    Raises:
        ArtifactError: `out` was made from another corpus or under other settings, or the disk is full.
        DataError: The corpus has no text to cut.
    """
    corpus = Corpus.open(corpus_dir)
    parents = {"corpus": corpus.manifest}
    work = block_work(config, corpus, out)
    done = completed(out, STAGE, config.shaping, parents)
    if done is not None:
        work.store.remove()
        remove_unlisted_files(out, done)
        return done
    started = time.monotonic()
    coordinator = Coordinator(out, worker, stage=STAGE)
    built = coordinator.work(work)

    def join() -> Manifest:
        counts = merge_blocks(work.store, out, config.row_length, corpus.manifest.fingerprint)
        report = _report(corpus, _plan(corpus, config), counts, built, time.monotonic() - started)
        log.info("db: %s", report.line)
        write_json(out / REPORT, asdict(report))
        return Manifest(
            stage=STAGE,
            config=dict(config.shaping),
            parents=fingerprints(parents),
            counts=_counts(report),
            files=describe_files(out, [FILE]),
        )

    return coordinator.finish(join, work)


def open_work(config: DbConfig, corpus_dir: Path, out: Path) -> BlockWork:
    """The blocks of a finished database in `out`, to be made once more and compared.

    Raises:
        ArtifactError: A parent is damaged or missing.
    """
    return block_work(config, Corpus.open(corpus_dir), out)


def block_work(config: DbConfig, corpus: Corpus, out: Path) -> BlockWork:
    """The blocks of this stage."""
    plan = _plan(corpus, config)

    @cache
    def rows_and_begins() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        # Counted from the corpus, not read from the database, which may be what is damaged.
        rows_BT = np.stack([_rows_by_split(corpus, part, config) for part in plan])
        return rows_BT, places_of(rows_BT)

    def places(number: int) -> list[RowLocation]:
        rows_BT, begin_BT = rows_and_begins()
        return _places(rows_BT[number].tolist(), begin_BT[number].tolist())

    def make(number: int, advance: Advance) -> Block:
        block = _cut_block(corpus, plan[number], config)
        advance(len(plan[number].documents))
        return block

    return BlockWork(
        directory=out,
        store=_store(plan, corpus, config, out),
        sizes=tuple(len(part.documents) for part in plan),
        unit="documents",
        make=make,
        places=places,
        names=lambda number: (
            f"documents {plan[number].documents.start} to {plan[number].documents.stop - 1} "
            f"of {corpus.sources[plan[number].source]}"
        ),
    )


def _places(rows_T: list[int], begin_T: list[int]) -> list[RowLocation]:
    places, taken = [], 0
    for rows, begin in zip(rows_T, begin_T, strict=True):
        places += [RowLocation(FILE, name, name, range(taken, taken + rows), begin) for name in COLUMNS]
        taken += rows
    return places


def _rows_by_split(corpus: Corpus, part: DocumentRange, config: DbConfig) -> NDArray[np.int64]:
    counts = _cut_block(corpus, part, config).counts
    return np.array([counts[f"rows_{name}"] for name in SPLITS])


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


def _cut_block(corpus: Corpus, part: DocumentRange, config: DbConfig) -> Block:
    """The rows of one block, sorted by split; within a split by document and position."""
    file = corpus.token_file(part.source)
    first, last = part.documents.start, part.documents.stop
    starts_D = np.asarray(file.document_starts[first : last + 1], dtype=np.int64)
    tokens_D = tokens_without_end_mark(file.tokens, starts_D, corpus.tokenizer.eod)
    chunks = _cut(corpus, part, tokens_D, config)
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


def _cut(corpus: Corpus, part: DocumentRange, tokens_D: NDArray[np.int64], config: DbConfig) -> Chunks:
    if config.unit == "chunk":
        return cut_documents(tokens_D, config.chunk_length)
    if config.unit == "row" and len(tokens_D) and tokens_D.max() > config.window:
        document = int(tokens_D.argmax()) + part.documents.start
        name = corpus.document_id(part.source, document)
        need = f"at least {tokens_D.max()}, the tokens of document {name!r}; or db.unit = window, which cuts it"
        raise ConfigError("db.window", config.window, f"needs {need}")
    return cut_windows(tokens_D, config.row_length, config.stride)


def _report(
    corpus: Corpus, plan: list[DocumentRange], counts: list[dict[str, int]], documents_cut: int, seconds: float
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
        documents_cut=documents_cut,
        seconds=round(seconds, 3),
        chunks_per_second=round(chunks / max(seconds, 1e-9), 1),
    )


def _counts(report: DbReport) -> dict[str, int]:
    counts = {f"rows_{name}": chunks for name, chunks in report.chunks_by_split.items()}
    return counts | {"rows": report.chunks, "empty_documents": report.empty_documents, "tokens": report.tokens}
