"""Vectors for `exact_and_ivf`, as float16 in a mapped file: real embeddings, real ones multiplied, and random ones."""

# Dims in this file. N vectors   D dimension   R real vectors

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.ten_million import near_pairs
from retro.index.config import EmbedderConfig
from retro.index.embeddings import sample_rows
from retro.recipes.passages.config import PassagesConfig
from retro.recipes.passages.embed import embed_shard
from retro.recipes.passages.passages import Passages
from retro.recipes.passages.store import STORE
from retro.recipes.passages.vectors import open_vectors

AT_ONCE = 100_000
_MOST_REAL = 500_000
"""Real vectors that are multiplied, at most: they are in memory as float32."""
_STRENGTH = 0.7
"""Share of a pair's difference that a vector is moved by: nearest neighbors are then about as near as real ones."""


def embed(passages: Path, embedder: dict[str, Any], folder: Path) -> NDArray[Any]:
    """[R, D] embeddings of a file of passages, mapped; made once, a block at a time."""
    settings = PassagesConfig(passages=passages, embedder=EmbedderConfig(**embedder))
    report = embed_shard(settings, folder / "embeddings")
    store = folder / "embeddings" / STORE
    return open_vectors([report.path], Passages.open(passages, store), store).vectors_ND


def write_real(real_RD: NDArray[Any], vectors: int, queries: int, seed: int, folder: Path) -> dict[str, Any]:
    """Write `vectors.npy` and `queries.npy` of real embeddings: queries are drawn and held out.

    Where there are fewer real ones than wanted, each of the others is a real one moved along the differences of two
    pairs of near neighbors, its length kept; queries are made alike, so that they are of the same kind.
    """
    random = np.random.default_rng(seed)
    held_out = sample_rows(range(len(real_RD)), queries, seed)
    kept = np.setdiff1d(np.arange(len(real_RD)), held_out)
    if len(kept) >= vectors:
        _write(folder / "queries.npy", real_RD, held_out)
        _write(folder / "vectors.npy", real_RD, kept[:vectors])
        return {"real": vectors, "multiplied": 0}
    some = np.asarray(real_RD[sample_rows(range(len(real_RD)), _MOST_REAL, seed)], dtype=np.float32)
    moves = near_pairs(some, random)
    for name, count in (("queries.npy", queries), ("vectors.npy", vectors)):
        held = _open(folder / f"{name}.tmp", count, some.shape[1])
        for start in range(0, count, AT_ONCE):
            held[start : start + AT_ONCE] = _moved(some, moves, min(AT_ONCE, count - start), random)
        _finish(held, folder / name)
    return {"real": len(some), "multiplied": vectors}


def write_random(vectors: int, queries: int, dimension: int, seed: int, folder: Path) -> dict[str, Any]:
    """Write `vectors.npy` and `queries.npy` of normally distributed numbers, as the original had them: no structure."""
    random = np.random.default_rng(seed)
    for name, count in (("queries.npy", queries), ("vectors.npy", vectors)):
        held = _open(folder / f"{name}.tmp", count, dimension)
        for start in range(0, count, AT_ONCE):
            held[start : start + AT_ONCE] = random.standard_normal((min(AT_ONCE, count - start), dimension), np.float32)
        _finish(held, folder / name)
    return {"real": 0, "multiplied": 0}


def _moved(
    real_RD: NDArray[np.float32], moves: NDArray[np.float32], count: int, random: np.random.Generator
) -> NDArray[np.float32]:
    some = real_RD[random.integers(0, len(real_RD), count)]
    lengths = np.linalg.norm(some, axis=1, keepdims=True)
    for _ in range(2):
        some += _STRENGTH * moves[random.integers(0, len(moves), count)]
    some *= lengths / np.linalg.norm(some, axis=1, keepdims=True)
    return some


def _write(path: Path, real_RD: NDArray[Any], rows: NDArray[np.int64]) -> None:
    held = _open(path.with_name(f"{path.name}.tmp"), len(rows), real_RD.shape[1])
    for start in range(0, len(rows), AT_ONCE):
        held[start : start + AT_ONCE] = real_RD[rows[start : start + AT_ONCE]]
    _finish(held, path)


def _open(path: Path, rows: int, dimension: int) -> Any:
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(rows, dimension))


def _finish(held: Any, path: Path) -> None:
    held.flush()
    Path(held.filename).rename(path)
