"""Chunk embeddings: made in blocks, joined to one file that is memory-mapped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retro.common.blocks import Block, BlockStore
from retro.common.errors import DataError
from retro.common.files import atomic_path
from retro.common.hdf5 import create_column, map_column, new_file
from retro.db.reader import ChunkDatabase
from retro.index.embedder import Embedder, require_vectors
from retro.index.texts import texts_of

FILE = "embeddings.h5"
DATASET = "embeddings"
EmbedRows = Callable[[ChunkDatabase, Embedder, range, Callable[[int], None]], Block]
"""Makes the block of embeddings of consecutive chunks; gets a callback to report how many are done."""
_TEXTS_AT_ONCE = 10_000


def chunk_texts(db: ChunkDatabase, rows: NDArray[np.int64]) -> list[str]:
    """The texts of chunks, as embedders get them."""
    return texts_of(db.corpus.tokenizer, *db.chunk_tokens(rows))


def texts_to_learn_from(db: ChunkDatabase, sample: int, seed: int) -> Iterator[list[str]]:
    """Texts of a uniform sample of train chunks, some at a time."""
    rows = sample_rows(db.rows_of(0), sample, seed)
    for start in range(0, len(rows), _TEXTS_AT_ONCE):
        yield chunk_texts(db, rows[start : start + _TEXTS_AT_ONCE])


def sample_rows(rows: range, size: int, seed: int) -> NDArray[np.int64]:
    """At most `size` of `rows`, drawn uniformly without replacement, in ascending order."""
    if len(rows) <= size:
        return np.arange(rows.start, rows.stop, dtype=np.int64)
    drawn = np.random.default_rng(seed).choice(len(rows), size=size, replace=False, shuffle=False)
    return np.sort(drawn.astype(np.int64)) + rows.start


def embed_rows(db: ChunkDatabase, embedder: Embedder, rows: range, advance: Callable[[int], None]) -> Block:
    """The block of embeddings of consecutive chunks: float16, 2 bytes per value instead of 4, same neighbors."""
    texts = chunk_texts(db, np.arange(rows.start, rows.stop))
    vectors_ND = require_vectors(embedder, embedder.embed_passages(texts, advance), len(texts))
    without_text = int((~vectors_ND.any(axis=1)).sum())
    return Block({DATASET: _half(embedder, vectors_ND)}, {"without_text": without_text})


def _half(embedder: Embedder, vectors_ND: NDArray[np.float32]) -> NDArray[np.float16]:
    most = float(np.abs(vectors_ND).max(initial=0))
    if most > np.finfo(np.float16).max:
        problem = f"gave a vector with a value of {most:g}, and chunks are kept in 2 bytes a value, up to 65,504"
        raise DataError(type(embedder).__name__, problem, "Bring its vectors to length 1, or make them smaller")
    return vectors_ND.astype(np.float16)


def merge_embeddings(store: BlockStore, out: Path, rows: int, dimension: int) -> NDArray[Any]:
    """Join the blocks to embeddings.h5 in `out`.

    Returns:
        float16 [rows, D], memory-mapped.

    Raises:
        ArtifactError: A block is damaged, or the disk is full.
    """
    path = out / FILE
    with atomic_path(path) as temporary, new_file(temporary) as file:
        column = create_column(file, DATASET, (rows, dimension), np.float16)
        start = 0
        for number in range(len(store)):
            vectors = store.take(number).arrays[DATASET]
            column[start : start + len(vectors)] = vectors
            start += len(vectors)
    return map_column(path, DATASET, "Run `retro index` again")
