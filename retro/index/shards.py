"""An index in several files, each over consecutive rows: written from one, and searched.

One index is built, tuned and measured, and then divided: a vector keeps its list and its code. Divided, it can be
larger than the memory of any one machine that searches it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retro.common.errors import ConfigError
from retro.common.row_set import RowSet
from retro.index.config import IndexConfig
from retro.index.faiss_index import INDEX_FILE, load_index, save_index
from retro.index.faiss_loader import load_faiss
from retro.index.rerank import Hits, best_hits
from retro.index.vector_index import FaissFile

# Dims in this file. Q queries   D dimension   K neighbors


def index_files(config: IndexConfig) -> list[str]:
    """Names of the Faiss files of an index, in the order of their rows; none where Milvus holds the vectors."""
    if config.backend != "faiss":
        return []
    return (
        [INDEX_FILE] if config.shards == 1 else [shard_file(number, config.shards) for number in range(config.shards)]
    )


def shard_rows(rows: int, shards: int) -> list[range]:
    """The rows of each shard: consecutive, and as even as can be; the first ones are larger by one.

    Raises:
        ValueError: There are fewer rows than shards.
    """
    if not 1 <= shards <= rows:
        raise ValueError(f"cannot divide {rows} rows into {shards} shards")
    size, more = divmod(rows, shards)
    starts = [number * size + min(number, more) for number in range(shards + 1)]
    return [range(start, stop) for start, stop in pairwise(starts)]


def shard_file(number: int, shards: int) -> str:
    """Name of the file of shard `number`."""
    return f"index-{number:05d}-of-{shards:05d}.faiss"


class ShardedFiles:
    """Several Faiss files as one backend. Each is opened when it is first searched."""

    def __init__(self, files: Sequence[FaissFile]) -> None:
        """Put files together, in the order of their rows."""
        self.files = tuple(files)
        # Kept, so that a file sees the same rows again and keeps the bitmap that it made of them.
        self._within = lru_cache(maxsize=4 * len(files))(self._rows_within)

    def search(self, vectors_QD: NDArray[np.float32], k: int, rows: RowSet) -> Hits:
        """The `k` of `rows` most like each query, best first; see `ranking.settle`."""
        numbers = [number for number in range(len(self.files)) if self.rows_in(number, rows)]
        return best_hits([self.search_one(number, vectors_QD, k, rows) for number in numbers], k)

    def search_one(self, number: int, vectors_QD: NDArray[np.float32], k: int, rows: RowSet) -> Hits:
        """What one shard would add to `search`: its own `k` best of `rows`, or as many as it has, at least one."""
        inside = self._within(number, rows)
        ids_QK, scores_QK = self.files[number].search(vectors_QD, min(k, len(inside)), inside)
        return np.where(ids_QK < 0, -1, ids_QK + self.files[number].rows.start), scores_QK

    def rows_in(self, number: int, rows: RowSet) -> int:
        """How many of `rows` a shard holds."""
        return len(self._within(number, rows))

    def _rows_within(self, number: int, rows: RowSet) -> RowSet:
        part = self.files[number].rows
        return rows.within(part).shifted(-part.start)


def require_shardable(index: Any, rows: int, shards: int, factory: str) -> None:
    """Check, before anything is built, that an index can be divided.

    Args:
        index: The index, filled or not.
        rows: Vectors that it has or will have.
        shards: Files to divide it into.
        factory: Its factory string.

    Raises:
        ConfigError: There are fewer rows than files, or vectors are not stored row by row in such an index.
    """
    if shards > rows:
        raise ConfigError("index.shards", shards, f"needs to be at most the number of chunks, {rows}")
    if shards > 1 and _codes_of(index) is None and _lists_of(index) is None:
        need = f"needs an index of flat codes or of inverted lists without FastScan; index.faiss is {factory!r}"
        raise ConfigError("index.shards", shards, need)


def shard_index(path: Path, rows: int, dimension: int, shards: int) -> list[str]:
    """Divide a stored index into files beside it, and remove it.

    Args:
        path: The index.
        rows: Vectors that it has.
        dimension: Their length.
        shards: Files, at most `rows`.

    Returns:
        The names of the files.

    Raises:
        ArtifactError: The index cannot be read, or the disk is full.
    """
    whole = load_index(path, rows, dimension, mapped=True)
    copy_part = _copy_codes if _lists_of(whole) is None else _copy_lists
    names = [shard_file(number, shards) for number in range(shards)]
    for name, part in zip(names, shard_rows(rows, shards), strict=True):
        save_index(copy_part(whole, path, part), path.with_name(name))
    path.unlink()
    return names


def _copy_lists(whole: Any, path: Path, part: range) -> Any:
    faiss = load_faiss()
    # All of the index but its lists stays in the file that it is mapped from.
    index = load_index(path, int(whole.ntotal), int(whole.d), mapped=True)
    source, target = _lists_of(whole), _lists_of(index)
    lists = faiss.ArrayInvertedLists(source.nlist, source.code_size)
    # The index owns them from here on.
    target.replace_invlists(lists, True)
    lists.this.disown()
    target.ntotal = 0
    source.copy_subset_to(target, faiss.InvertedLists.SUBSET_TYPE_ID_RANGE, part.start, part.stop)
    for number in range(source.nlist):
        size = lists.list_size(number)
        if size:
            ids = faiss.rev_swig_ptr(lists.get_ids(number), size)
            ids -= part.start
    index.ntotal = target.ntotal
    return index


def _copy_codes(whole: Any, path: Path, part: range) -> Any:
    index = load_index(path, int(whole.ntotal), int(whole.d))
    source, target = _codes_of(whole), _codes_of(index)
    codes = load_faiss().rev_swig_ptr(source.codes.data(), source.ntotal * source.code_size)
    target.reset()
    target.add_sa_codes(codes.reshape(source.ntotal, source.code_size)[part.start : part.stop].copy())
    index.ntotal = target.ntotal
    return index


def _codes_of(index: Any) -> Any:
    """The part of an index that holds one code after the other, or None."""
    faiss = load_faiss()
    part = faiss.downcast_index(index)
    if isinstance(part, faiss.IndexPreTransform):
        return _codes_of(part.index)
    return part if isinstance(part, faiss.IndexFlatCodes) and "FastScan" not in type(part).__name__ else None


def _lists_of(index: Any) -> Any:
    """The part of an index that holds inverted lists of codes, or None."""
    faiss = load_faiss()
    part = faiss.downcast_index(index)
    if isinstance(part, faiss.IndexPreTransform):
        return _lists_of(part.index)
    return part if isinstance(part, faiss.IndexIVF) and "FastScan" not in type(part).__name__ else None
