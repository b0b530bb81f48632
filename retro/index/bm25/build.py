"""Build the BM25 index of a database: count words in blocks, then put the counts together and score them."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retro.common.artifacts import REPORT, Manifest, describe_files, fingerprint
from retro.common.block_stage import Advance, completed, fingerprints, remove_unlisted_files
from retro.common.blocks import Block, BlockStore, ranges
from retro.common.coordinator import Coordinator
from retro.common.errors import DataError
from retro.common.files import write_json
from retro.common.launcher import ALONE, Worker
from retro.corpus.reader import Corpus
from retro.db.reader import ChunkDatabase
from retro.db.versions import open_database
from retro.index.bm25.postings import Occurrences, load_bm25s, occurrences, total, write_index
from retro.index.bm25.reader import counted_before
from retro.index.config import STAGE, Bm25Config
from retro.index.embeddings import texts_of

log = logging.getLogger(__name__)

_TEXTS_AT_ONCE = 1_000
_MOST_CHUNKS = np.iinfo(np.int32).max


@dataclass(frozen=True, kw_only=True)
class Bm25Report:
    """What was built."""

    chunks: int
    chunks_without_words: int
    words: int
    """Distinct ones."""
    pairs: int
    """Of a chunk and a word in it."""
    mean_length: float
    """Words of a chunk."""
    bytes: int
    chunks_counted: int
    """By the worker that put the blocks together; after a resume, or with others, fewer than there are."""
    seconds: float


def run(
    config: Bm25Config,
    corpus_dir: Path,
    db_dir: Path,
    out: Path,
    *,
    worker: Worker = ALONE,
    grown_from: Path | None = None,
) -> Manifest:
    """Count and score the words of all chunks of a database.

    Args:
        config: The method and its constants.
        corpus_dir: The corpus of the run.
        db_dir: A finished chunk database, or a version of one.
        out: Where the index goes.
        worker: This process's place among those that count.
        grown_from: The index of a database that this one begins with: only the chunks behind are counted.

    Returns:
        The manifest, once the index is complete, whoever completed it.

    Raises:
        DependencyError: bm25s is missing.
        DataError: No chunk has a word, or there are more chunks than can be numbered.
        ArtifactError: A parent is damaged, `out` was made from other parents or under other settings, or the disk is
            full.
    """
    db = open_database(db_dir, Corpus.open(corpus_dir))
    parents = {"db": db.manifest}
    done = completed(out, STAGE, config.shaping, parents)
    if done is not None:
        _blocks(db, [], out).remove()
        remove_unlisted_files(out, done)
        return done
    load_bm25s()
    if db.rows > _MOST_CHUNKS:
        raise DataError(db_dir, f"has {db.rows} chunks; BM25 numbers up to {_MOST_CHUNKS}", "Search by vectors alone")
    started, coordinator = time.monotonic(), Coordinator(out, worker, stage=STAGE)
    before, first = counted_before(grown_from)
    parts = [range(part.start + first, part.stop + first) for part in ranges(db.rows - first, config.chunks_per_block)]
    store = _blocks(db, parts, out)
    counted = coordinator.build(
        store,
        lambda number, advance: _count(db, parts[number], advance),
        sizes=tuple(map(len, parts)),
        unit="chunks",
        what=f"{STAGE}: words",
    )

    def pieces() -> Iterator[Occurrences]:
        yield from before()
        for number in range(len(store)):
            yield Occurrences(**store.take(number).arrays)

    def join() -> Manifest:
        totals = total(pieces(), db.rows)
        if not len(totals.word_W):
            raise DataError(db_dir, "has no chunk with a word in it", "Search by vectors alone")
        names = write_index(pieces, totals, config, out)
        report = Bm25Report(
            chunks=db.rows,
            chunks_without_words=int((totals.length_N == 0).sum()),
            words=len(totals.word_W),
            pairs=int(totals.chunks_W.sum()),
            mean_length=round(totals.mean_length, 2),
            bytes=sum((out / name).stat().st_size for name in names),
            chunks_counted=counted,
            seconds=round(time.monotonic() - started, 3),
        )
        log.info("%s: BM25 over %d chunks, %d words, %.1f MB", STAGE, db.rows, report.words, report.bytes / 1e6)
        write_json(out / REPORT, asdict(report))
        counts: dict[str, Any] = {"rows": db.rows, "words": report.words, "pairs": report.pairs}
        files = describe_files(out, names)
        return Manifest(stage=STAGE, config=config.shaping, parents=fingerprints(parents), counts=counts, files=files)

    return coordinator.finish(join, scratch=store.directory)


def _count(db: ChunkDatabase, rows: range, advance: Advance) -> Block:
    """The words of consecutive chunks, ordered by word and then by chunk."""
    found = []
    for start in range(rows.start, rows.stop, _TEXTS_AT_ONCE):
        row_N = np.arange(start, min(start + _TEXTS_AT_ONCE, rows.stop), dtype=np.int64)
        found.append(occurrences(texts_of(db.corpus.tokenizer, *db.chunk_tokens(row_N)), start))
        advance(len(row_N))
    whole = Occurrences(*(np.concatenate(columns) for columns in zip(*found, strict=True)))
    order_P = np.argsort(whole.word_P, kind="stable")
    return Block({name: column[order_P] for name, column in whole._asdict().items()})


def _blocks(db: ChunkDatabase, parts: list[range], out: Path) -> BlockStore:
    base = {"db": db.manifest.fingerprint, "words": 1}
    return BlockStore(
        directory=out / "blocks",
        inputs=tuple(fingerprint(base | {"range": [part.start, part.stop]}) for part in parts),
        stage=STAGE,
    )
