"""Rows of NVIDIA's merged chunk database: read in slices, checked, and turned into our columns."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from retro.common.errors import DataError
from retro.common.hdf5 import open_file
from retro.db.schema import COLUMNS

# Dims in this file. N rows of a slice   D documents of a corpus


CHUNKS, WRITTEN = "chunks", "n_written"
SLICE = 1 << 20
"""Rows in memory at once: 40 MB."""
REBUILD = "Build the database again with the tools that made it"
_WIDTH = 5

Int64 = NDArray[np.int64]
Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Documents:
    """The documents of a corpus."""

    name: str
    starts: Int64
    """[D + 1] first token of each in the token file."""
    tokens: Int64
    """[D] tokens of each without the end mark."""
    train: int
    """The first so many are what the train database holds."""

    def of(self, split: str) -> range:
        """Those of a merged file."""
        return range(self.train) if split == "train" else range(self.train, len(self.tokens))


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """A file of theirs.

    Raises:
        DataError: It is missing, HDF5 cannot read it, or it leads to other files.
    """
    with open_file(path, REBUILD, error=DataError) as file:
        yield file


def table(path: Path, file: h5py.File, name: str, width: int, dtype: type[np.generic]) -> h5py.Dataset:
    """A two-dimensional dataset of that width and type.

    Raises:
        DataError: There is none, or it has another shape or type.
    """
    found = file.get(name)
    if not isinstance(found, h5py.Dataset):
        raise DataError(path, f"has no dataset {name!r}", REBUILD)
    if found.dtype != dtype or found.ndim != 2 or found.shape[1] != width:
        needed = f"needed are {np.dtype(dtype)} (rows, {width})"
        raise DataError(path, f"has {name!r} of type {found.dtype} and shape {found.shape}; {needed}", REBUILD)
    return found


def written_rows(path: Path) -> int:
    """Rows of a merged file.

    Raises:
        DataError: It is missing or unreadable, has another shape or type, or was not written to its end.
    """
    with opened(path) as file:
        rows = int(table(path, file, CHUNKS, _WIDTH, np.uint32).shape[0])
        written = file.get(WRITTEN)
        done = int(written[0]) if isinstance(written, h5py.Dataset) and written.shape == (1,) else None
    if done != rows:
        said = f"no {WRITTEN!r} of shape (1,)" if done is None else f"{done} of {rows} rows"
        raise DataError(path, f"was not written to its end: {said}", REBUILD)
    return rows


def read_rows(path: Path, split: str, corpora: Sequence[Documents], chunk_length: int) -> Iterator[Columns]:
    """Our columns for the rows of a merged file, a slice at a time.

    A row continues in the next one only where that one begins at its end in the same document: their tools leave
    chunks out whose text has no wordpiece, and never record where.

    Args:
        path: train.hdf5 or valid.hdf5.
        split: Which of the two.
        corpora: The documents of each corpus, in the order of their numbers.
        chunk_length: M.

    Raises:
        DataError: A row is not where a chunk of a document can be; file and row are named.
    """
    total = written_rows(path)
    before = np.array([[-1, -1, -1, -1]], dtype=np.int64)
    with opened(path) as file:
        for first in range(0, total, SLICE):
            # One row more, to know whether the last of the slice continues.
            read_NW = file[CHUNKS][first : min(first + SLICE + 1, total)].astype(np.int64)
            rows_NW = read_NW[:SLICE]
            columns = _checked(path, split, corpora, chunk_length, rows_NW, np.vstack([before, rows_NW[:, :4]]), first)
            columns["continues"][:] = _continues(read_NW)[: len(rows_NW)]
            yield columns
            before = rows_NW[-1:, :4]


def _continues(rows_NW: Int64) -> NDArray[np.uint8]:
    follows = np.zeros(len(rows_NW), dtype=np.uint8)
    same = (rows_NW[1:, :2] == rows_NW[:-1, :2]).all(axis=1)
    follows[:-1] = same & (rows_NW[1:, 2] == rows_NW[:-1, 3])
    return follows


def _checked(
    path: Path, split: str, corpora: Sequence[Documents], chunk_length: int, rows_NW: Int64, chain: Int64, first: int
) -> Columns:
    """The columns of a slice; `chain` is the row before it and its own rows."""
    source, document, start, end, _ = rows_NW.T
    _require(path, first, source < len(corpora), "is of corpus {}, and there are " + str(len(corpora)), source)
    token_start, tokens = np.zeros(len(source), dtype=np.int64), np.zeros(len(source), dtype=np.int64)
    allowed = np.zeros(len(source), dtype=np.bool_)
    for number, corpus in enumerate(corpora):
        here = source == number
        numbers = corpus.of(split)
        inside = here & (document >= numbers.start) & (document < numbers.stop)
        allowed |= inside
        tokens[inside] = corpus.tokens[document[inside]]
        token_start[inside] = corpus.starts[document[inside]]
    _require(path, first, allowed, f"is of document {{}}, which is not among the {split} documents", document)
    _require(path, first, start % chunk_length == 0, f"starts at token {{}}, no multiple of {chunk_length}", start)
    _require(path, first, (start < end) & (end <= tokens), "ends at token {}, outside its document", end)
    whole = (end - start == chunk_length) | ((end == tokens) & (end - start < chunk_length))
    short = f"ends at token {{}}: neither {chunk_length} tokens from its start nor at the end of its document"
    _require(path, first, whole, short + " (does another token end documents? Name it with --eod-token)", end)
    _require(path, first, _ascending(chain), "does not come after the row before it (document {})", document)
    return {
        "source": source.astype(COLUMNS["source"]),
        "document": document.astype(COLUMNS["document"]),
        "token_start": (token_start + start).astype(COLUMNS["token_start"]),
        "token_count": (end - start).astype(COLUMNS["token_count"]),
        "continues": np.zeros(len(source), dtype=COLUMNS["continues"]),
    }


def _ascending(chain: Int64) -> NDArray[np.bool_]:
    """Whether each row but the first comes after the one before it, by corpus, document and start."""
    later = np.zeros(len(chain) - 1, dtype=np.bool_)
    equal = np.ones(len(chain) - 1, dtype=np.bool_)
    for column in range(3):
        step = np.diff(chain[:, column])
        later |= equal & (step > 0)
        equal &= step == 0
    return later


def _require(path: Path, first: int, good: NDArray[np.bool_], problem: str, values: Int64) -> None:
    if not good.all():
        row = int(np.argmin(good))
        raise DataError(path, f"row {first + row} {problem.format(int(values[row]))}", REBUILD)


VALID, INVALID = "chunks_valid", "chunks_invalid"
_BLOCK_WIDTH = 4
_RANGE = re.compile(r"(\d+)-(\d+)$")


@dataclass
class BlockCounts:
    """Chunks of a corpus by what became of them."""

    kept: dict[str, int]
    """In the merged files, by split."""
    left_out: dict[str, int]
    """Without a wordpiece, by split."""


def count_blocks(folder: Path, documents: Documents) -> BlockCounts | None:
    """Count the chunks in the blocks of a corpus; None where the blocks were deleted.

    Raises:
        DataError: A block is missing or damaged, or has another shape or type; it is named.
    """
    files = sorted(folder.glob("*.hdf5"))
    if not files:
        return None
    found = BlockCounts(dict.fromkeys(("train", "valid"), 0), dict.fromkeys(("train", "valid"), 0))
    expected = 0
    for path in files:
        match = _RANGE.match(path.stem)
        if match is None or int(match[1]) != expected:
            raise DataError(path, f"is not the block that starts at document {expected}", REBUILD)
        expected = int(match[2])
        _count(path, documents, found)
    if expected != len(documents.tokens):
        problem = f"ends at document {expected}; the corpus has {len(documents.tokens)}"
        raise DataError(files[-1], problem, REBUILD)
    return found


def _count(path: Path, documents: Documents, found: BlockCounts) -> None:
    with opened(path) as file:
        for name, counts in ((VALID, found.kept), (INVALID, found.left_out)):
            # Without a single row of a kind their tools write an empty dataset of one dimension.
            empty = isinstance(file.get(name), h5py.Dataset) and file[name].shape == (0,)
            numbers = np.zeros(0) if empty else table(path, file, name, _BLOCK_WIDTH, np.uint32)[:, 0]
            train = int((numbers < documents.train).sum())
            counts["train"] += train
            counts["valid"] += len(numbers) - train
