"""The vectors of all shards in one file that is mapped from disk, made once and checked against the passages.

    vectors.npy   [N, D] float16, or float32 where a shard has it, in the order of the shards
    rows.npy      [N] the passage of each vector: its row in the table of passages, whose ids are its own

Nothing is written before every shard was read: which ids it has, and that there is one vector for each passage.
"""

# Dims in this file. N vectors   D dimension

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retro.common.checksum_cache import known_sha256
from retro.common.errors import DataError
from retro.common.files import require_space
from retro.common.progress import Progress
from retro.recipes.passages.passages import Passages
from retro.recipes.passages.shards import Shard, read_shard
from retro.recipes.passages.store import kept

log = logging.getLogger(__name__)

WHAT = "the vectors of passages"
FOLDER = "vectors"
"""Below the store."""
_AT_ONCE = 65_536
"""Vectors in memory at once: 200 MB of 768 values as float32."""


@dataclass(frozen=True)
class Vectors:
    """The embeddings of passages."""

    vectors_ND: NDArray[Any]
    """[N, D] float16 or float32, memory-mapped."""
    rows_N: NDArray[np.int64]
    """[N] the row of each vector's passage."""
    fingerprint: str

    def __len__(self) -> int:
        return len(self.rows_N)

    @property
    def dimension(self) -> int:
        """D."""
        return int(self.vectors_ND.shape[1])


def open_vectors(shards: Sequence[Path], passages: Passages, store: Path) -> Vectors:
    """The vectors of some shards; converted first, where `store` has none of these shards and passages.

    Args:
        shards: By their numbers; all there are.
        passages: The passages that they are of.
        store: Folder of what is derived.

    Raises:
        DataError: A shard is not one, has ids that the passages do not have, or a vector that is not finite; shards
            have different dimensions, or an id in common; or a passage has no vector.
        ArtifactError: What was converted is damaged, or the disk is full.
    """
    digests = {path.name: known_sha256(path, store) for path in shards}
    made_of = {"passages": passages.fingerprint, "shards": digests}
    manifest = kept(store / FOLDER, WHAT, made_of, lambda fresh: _convert(shards, passages, fresh))
    vectors_ND = np.load(store / FOLDER / "vectors.npy", mmap_mode="r")
    return Vectors(vectors_ND, np.load(store / FOLDER / "rows.npy", mmap_mode="r"), manifest.fingerprint)


@dataclass(frozen=True)
class _Matched:
    """A shard whose ids were looked up."""

    shard: Shard
    rows: NDArray[np.int64]


def _convert(paths: Sequence[Path], passages: Passages, fresh: Path) -> dict[str, Any]:
    """Write vectors and rows into `fresh`; gives the counts."""
    matched = _match(paths, passages)
    dimension = matched[0].shard.vectors.shape[1]
    total = sum(len(one.rows) for one in matched)
    dtype = np.result_type(*(one.shard.vectors.dtype for one in matched))
    path = fresh / "vectors.npy"
    require_space(path, total * (dimension * dtype.itemsize + 8) + 4096)
    np.save(fresh / "rows.npy", np.concatenate([one.rows for one in matched]))
    mapped: NDArray[Any] = np.lib.format.open_memmap(path, "w+", dtype, (total, dimension))
    start = 0
    with Progress(total, what="passages: converting shards", unit="vectors") as bar:
        for one in matched:
            _copy(one, mapped[start : start + len(one.rows)], passages, bar)
            start += len(one.rows)
    del mapped
    return {"vectors": total, "dimension": dimension, "dtype": dtype.name}


def _match(paths: Sequence[Path], passages: Passages) -> list[_Matched]:
    """Every shard with the rows of its ids.

    Raises:
        DataError: They do not fit each other, or the passages.
    """
    matched: list[_Matched] = []
    seen = np.zeros(len(passages), dtype=np.bool_)
    for path in paths:
        shard = read_shard(path)
        rows = passages.rows_of(shard.ids)
        _require_known(shard, rows, passages)
        if len(matched) and shard.vectors.shape[1] != (first := matched[0].shard).vectors.shape[1]:
            problem = f"has vectors of {shard.vectors.shape[1]} values, {first.path.name} of {first.vectors.shape[1]}"
            raise DataError(path, problem, "Give shards that one model embedded")
        if seen[rows].any():
            place = int(np.flatnonzero(seen[rows])[0])
            other = next(one.shard.path.name for one in matched if rows[place] in one.rows)
            problem = f"has the id {shard.ids[place][:80]!r}, which {other} has too"
            raise DataError(path, problem, "Give every passage's vector once")
        seen[rows] = True
        # The ids are in the table of passages: kept, they would take a hundred bytes each.
        matched.append(_Matched(Shard(path, (), shard.vectors), rows))
        log.debug("%s: %d vectors", path, len(rows))
    if not seen.all():
        (first_missing,) = passages.at([int(np.argmin(seen))])
        without = len(passages) - int(seen.sum())
        problem = f"has {without:,} of {len(passages):,} passages without a vector, {first_missing.id[:80]!r} first"
        remedy = f"Shards are missing after {paths[-1].name}, or they are of other passages: embed or fetch the rest"
        raise DataError(passages.file, problem, remedy)
    return matched


def _require_known(shard: Shard, rows: NDArray[np.int64], passages: Passages) -> None:
    unknown = np.flatnonzero(rows < 0)
    if len(unknown):
        first = shard.ids[int(unknown[0])]
        problem = f"has {len(unknown):,} of {len(rows):,} ids that {passages.file.name} has not, {first[:80]!r} first"
        raise DataError(shard.path, problem, "Give the passages that these shards were made of, or leave it out")


def _copy(one: _Matched, target: NDArray[Any], passages: Passages, bar: Progress) -> None:
    """Copy the vectors of a shard, some at a time.

    Raises:
        DataError: One of them is not finite.
    """
    vectors_ND = one.shard.vectors.map()
    for start in range(0, len(one.rows), _AT_ONCE):
        some = vectors_ND[start : start + _AT_ONCE]
        finite = np.isfinite(some).all(axis=1)
        if not finite.all():
            place = start + int(np.argmin(finite))
            (passage,) = passages.at([int(one.rows[place])])
            problem = f"has infinite values or NaN in the vector of {passage.id[:80]!r} (number {place})"
            raise DataError(one.shard.path, problem, "Embed its passages again, in float32 or bfloat16")
        target[start : start + len(some)] = some
        bar.advance(len(some))
