"""Stored codes: workers turn vectors into codes, block by block; one puts them into the index, in memory or on disk.

Encoding is what adding to an index costs: finding the list of a vector among all centroids, and quantizing it. An empty
trained index does it for any rows without the others, so blocks of codes are made side by side; putting them into lists
is a copy. The index has the same bytes as if one process had added all vectors in order: both ways turn each vector
into its code by itself, whatever is beside it.

Faiss's own tool joins shards: indexes on disk with some of the vectors each. Only one shard at a time is in memory.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retro.common.blocks import Block
from retro.common.files import atomic_path, require_space
from retro.common.progress import Progress
from retro.index.faiss_loader import load_faiss, side_by_side, transformed, vector_by_vector

# Dims in this file. N vectors   D dimension   W bytes of a code, its list number included


CODES = "codes"
_ENCODED_AT_ONCE = 4096
_PART = 512
_KINDS = ("IndexIVFFlat", "IndexIVFScalarQuantizer", "IndexIVFPQ", "IndexIVFRaBitQ")
"""Exactly these; FastScan indexes derive from some of them, and their lists hold codes of several vectors in one."""


def lists_of(index: Any) -> Any | None:
    """The IVF index within `index` whose codes can be made apart from it, or None: graphs, flat codes, FastScan codes
    and strings with a refine step of their own are filled by adding vectors in order.

    The result is valid as long as `index` is.
    """
    faiss = load_faiss()
    part = faiss.downcast_index(index)
    if isinstance(part, faiss.IndexPreTransform):
        return lists_of(part.index)
    return part if type(part).__name__ in _KINDS else None


def encode(index: Any, vectors_ND: NDArray[Any], advance: Callable[[int], None]) -> Block:
    """The codes of some vectors.

    Args:
        index: Trained, with `lists_of` it.
        vectors_ND: Vectors of any float type.
        advance: Called with how many are done.

    Returns:
        A block with uint8 [N, W] `codes`.
    """
    faiss = load_faiss()
    codes_NW = np.empty((len(vectors_ND), index.sa_code_size()), dtype=np.uint8)

    def encode_from(first: int, part: slice) -> None:
        part = slice(first + part.start, first + part.stop)
        some = np.ascontiguousarray(vectors_ND[part], dtype=np.float32)
        lists, ready = transformed(faiss, index, some)
        codes_NW[part] = lists.sa_encode(ready)

    with vector_by_vector(faiss):
        for start in range(0, len(vectors_ND), _ENCODED_AT_ONCE):
            count = min(_ENCODED_AT_ONCE, len(vectors_ND) - start)
            side_by_side(faiss, partial(encode_from, start), count, _PART)
            advance(count)
    return Block({CODES: codes_NW})


def add_codes(index: Any, blocks: Iterable[NDArray[np.uint8]], first_row: int, total: int) -> None:
    """Put blocks of codes into the lists, in row order, so that ids are rows.

    Args:
        index: Trained, as the codes were made with.
        blocks: Codes, uint8 [rows, W] each.
        first_row: Id of the first code.
        total: Codes in all blocks, for the progress.
    """
    lists, row = lists_of(index), first_row
    if lists is None:
        raise ValueError(f"{type(index).__name__} cannot be filled with codes")
    with Progress(total, what="index: adding codes", unit="vectors") as bar:
        for codes_NW in blocks:
            lists.add_sa_codes(codes_NW, np.arange(row, row + len(codes_NW), dtype=np.int64))
            row += len(codes_NW)
            bar.advance(len(codes_NW))
    index.ntotal = lists.ntotal


LISTS_FILE = "index.ivfdata"


SHARD_ROWS = 4_000_000
"""Vectors of a shard, at least: 1.6 GB of codes of 8 bits for 384 values."""


def merge_on_disk(
    new_index: Callable[[], Any], sizes: Sequence[int], read: Callable[[int], NDArray[np.uint8]], out: Path
) -> Any:
    """An index whose lists are in index.ivfdata in `out`.

    Args:
        new_index: Gives the trained index, empty.
        sizes: Codes in each block.
        read: The codes of a block, in row order.
        out: Where the lists, and shards for a while, are written.

    Returns:
        The index, to be written beside the lists. It knows their file by name alone, so that the directory can move;
        `faiss_index.load_index` looks beside the index.

    Raises:
        ArtifactError: The disk is full.
    """
    from faiss.contrib.ondisk import merge_ondisk

    faiss = load_faiss()
    with _scratch(out / "shards") as scratch, atomic_path(out / LISTS_FILE) as temporary:
        files = [_write_shard(new_index(), blocks, sizes, read, scratch) for blocks in _shards(sizes)]
        index = new_index()
        # A vector's code and its number.
        require_space(temporary, sum(sizes) * (int(faiss.extract_index_ivf(index).code_size) + 8))
        merge_ondisk(index, [str(path) for path in files], str(temporary))
        faiss.downcast_InvertedLists(faiss.extract_index_ivf(index).invlists).filename = LISTS_FILE
    return index


def _shards(sizes: Sequence[int]) -> Iterator[range]:
    """Runs of consecutive blocks that make a shard each."""
    first, rows = 0, 0
    for number, size in enumerate(sizes):
        rows += size
        if rows >= SHARD_ROWS or number == len(sizes) - 1:
            yield range(first, number + 1)
            first, rows = number + 1, 0


def _write_shard(
    shard: Any, blocks: range, sizes: Sequence[int], read: Callable[[int], NDArray[np.uint8]], scratch: Path
) -> Path:
    total = sum(sizes[blocks.start : blocks.stop])
    add_codes(shard, (read(number) for number in blocks), first_row=sum(sizes[: blocks.start]), total=total)
    path = scratch / f"{blocks.start:06d}.faiss"
    load_faiss().write_index(shard, str(path))
    return path


@contextmanager
def _scratch(directory: Path) -> Iterator[Path]:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
