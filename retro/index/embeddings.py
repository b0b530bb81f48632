"""Chunk embeddings: texts of chunks in batches of like length, and their vectors, in blocks joined to one file.

Database chunks, queries and passages all pass here: embedding the same tokens in another way (say, straight from
ids) changes one in ten of the two nearest neighbors.
"""

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
from retro.tokenizers.tokenizer import Tokenizer

# Dims in this file. N chunks   M tokens in a chunk


def texts_of(tokenizer: Tokenizer, tokens_NM: NDArray[np.int32], mask_NM: NDArray[np.bool_]) -> list[str]:
    """Decode chunks, without padding and without end-of-document tokens.

    Args:
        tokenizer: The corpus's tokenizer.
        tokens_NM: [N, M] tokens.
        mask_NM: [N, M] True on real tokens.

    Returns:
        N texts; empty where a chunk has nothing but end-of-document tokens.
    """
    kept_NM = mask_NM & (tokens_NM != tokenizer.eod)
    ends_N = np.cumsum(kept_NM.sum(axis=1))
    if not len(ends_N):
        return []
    rows = np.split(tokens_NM[kept_NM], ends_N[:-1])
    return [text.strip() for text in tokenizer.decode_batch(rows)]


Int64 = NDArray[np.int64]


def token_batches(lengths_N: Int64, batch_tokens: int) -> list[Int64]:
    """Group texts of like length so that no batch exceeds a budget of tokens, padding included.

    The groups depend on the lengths alone, so a block that is embedded again gives the same bytes.

    Args:
        lengths_N: [N] tokens of each text.
        batch_tokens: The budget: texts times longest text. A text longer than that is a batch of its own.

    Returns:
        Positions of texts, batch by batch, longest first: memory runs out at once or never.
    """
    order = np.argsort(-lengths_N, kind="stable").astype(np.int64)
    batches, start = [], 0
    while start < len(order):
        longest = max(int(lengths_N[order[start]]), 1)
        stop = start + max(batch_tokens // longest, 1)
        batches.append(order[start:stop])
        start = stop
    return batches


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
