"""A corpus, a chunk database and neighbors of random tokens, for benchmarks of reading: real files, no real text.

Document lengths are log-normal around 600 tokens, so that short last chunks and neighbors without a continuation are as
common as in an encyclopedia. Neighbors are drawn uniformly, which is the worst that a cache can be given.
"""

# Dims in this file. N documents   Q chunks of the stream   K neighbors

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from retro.common.artifacts import Manifest, describe_files, write_manifest
from retro.common.hdf5 import new_file, write_columns
from retro.corpus.reader import SPLITS, Corpus, TokenStream
from retro.corpus.token_files import TokenFileWriter
from retro.corpus.train_tokenizer import train_sentencepiece
from retro.db import build as db_build
from retro.db.config import DbConfig
from retro.db.reader import ChunkDatabase
from retro.neighbors.reader import Neighbors
from retro.tokenizers.tokenizer import save_tokenizer

SOURCE = "synthetic"
CHUNK = 64
SAVED = 10
VOCABULARY = 256_000
MEDIAN_TOKENS = 600


class Run(NamedTuple):
    """What a training loader reads."""

    corpus: Corpus
    db: ChunkDatabase
    neighbors: Neighbors


def open_or_make(directory: Path, tokens: int, seed: int = 0) -> Run:
    """The run in `directory`; made when it is not there. `tokens` int32 tokens need 4 bytes each."""
    corpus_dir, db_dir, neighbors_dir = (directory / name for name in ("1_corpus", "2_db", "4_neighbors"))
    if not (neighbors_dir / "manifest.json").exists():
        _make_corpus(corpus_dir, tokens, seed)
        corpus = Corpus.open(corpus_dir)
        db_build.run(DbConfig(chunk_length=CHUNK), corpus_dir, db_dir)
        _make_neighbors(neighbors_dir, corpus, ChunkDatabase.open(db_dir, corpus), seed)
    corpus = Corpus.open(corpus_dir)
    db = ChunkDatabase.open(db_dir, corpus)
    return Run(corpus, db, Neighbors.open(neighbors_dir, db, corpus))


def _make_corpus(out: Path, tokens: int, seed: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    lengths_N = np.maximum(random.lognormal(np.log(MEDIAN_TOKENS), 1.0, tokens // MEDIAN_TOKENS), 8).astype(np.int64)
    lengths_N = lengths_N[: np.searchsorted(np.cumsum(lengths_N), tokens) + 1]
    with TokenFileWriter(out / SOURCE, VOCABULARY) as writer:
        for length in lengths_N.tolist():
            writer.add_document(random.integers(3, VOCABULARY, length, dtype=np.int32))
        writer.finish()
    (out / "tokenizer").mkdir(exist_ok=True)
    model = out / "tokenizer" / "tokenizer.model"
    model.write_bytes(train_sentencepiece(["the quick brown fox jumps over a lazy dog"], 300))
    tokenizer = save_tokenizer(model, "sentencepiece", out / "tokenizer")
    split_N = np.zeros(len(lengths_N), dtype=np.uint8)
    with new_file(out / "documents.h5") as file:
        write_columns(file.create_group(SOURCE), {"split": split_N})
        empty = np.zeros(0, dtype=np.int64)
        order: NDArray[np.int64] = random.permutation(len(lengths_N))
        orders = {name: order if name == "train" else empty for name in SPLITS}
        write_columns(file[SOURCE].create_group("stream_order"), orders)
    names = [f"{SOURCE}.bin", f"{SOURCE}.idx", "documents.h5"]
    counts = {
        "sources": {SOURCE: {"documents": len(lengths_N), "tokens": int(lengths_N.sum())}},
        "tokenizer": {"fingerprint": tokenizer.fingerprint},
    }
    config = {"sources": [{"name": SOURCE, "weight": 1.0}]}
    files = describe_files(out, names)
    write_manifest(out, Manifest(stage="corpus", config=config, parents={}, counts=counts, files=files))


def _make_neighbors(out: Path, corpus: Corpus, db: ChunkDatabase, seed: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    chunks = TokenStream(corpus, 0, 0, CHUNK).chunks
    random = np.random.default_rng(seed + 1)
    ids_QK = random.integers(0, db.rows, (chunks, SAVED))
    with new_file(out / "train.h5") as file:
        scores_QK = np.zeros(ids_QK.shape, dtype=np.float32)
        write_columns(file.create_group(SOURCE), {"neighbors": ids_QK, "scores": scores_QK})
    parents = {"corpus": corpus.manifest.fingerprint, "db": db.manifest.fingerprint}
    config = {"saved": SAVED, "splits": ["train"]}
    files = describe_files(out, ["train.h5"])
    write_manifest(out, Manifest(stage="neighbors", config=config, parents=parents, counts={}, files=files))
