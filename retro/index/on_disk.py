"""Inverted lists in a file of their own, built and searched through a memory map, for lists larger than memory.

Faiss's own tool joins shards: indexes on disk with some of the vectors each. Only one shard at a time is in memory.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retro.common.files import atomic_path, require_space
from retro.index.codes import add_codes
from retro.index.faiss_loader import load_faiss

LISTS_FILE = "index.ivfdata"


SHARD_ROWS = 4_000_000
"""Vectors of a shard, at least: 1.6 GB of codes of 8 bits for 384 values."""


def merge_on_disk(
    new_index: Callable[[], Any], sizes: Sequence[int], read: Callable[[int], NDArray[np.uint8]], out: Path
) -> Any:
    """An index whose lists lie in index.ivfdata in `out`.

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
