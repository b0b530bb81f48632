"""Blocks to one database: rows regrouped from block order into train, valid, test."""

# Dims in this file. B blocks   T splits

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from retro.common.blocks import Block, BlockStore
from retro.common.errors import DataError
from retro.common.files import atomic_path
from retro.common.hdf5 import create_column, new_file
from retro.corpus.reader import SPLITS
from retro.db.schema import COLUMNS, FILE, write_header

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
