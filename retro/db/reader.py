"""Read the chunk database: tokens of chunks, of neighbors with their continuations, and where they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from retro.common.artifacts import Manifest, read_manifest, require_parent
from retro.common.errors import ArtifactError, ConfigError
from retro.common.hdf5 import map_column
from retro.common.row_set import RowSet
from retro.corpus.reader import SPLITS, Corpus
from retro.db.config import DbConfig
from retro.db.schema import COLUMNS, DOCUMENT_BITS, FILE, STAGE

# Dims in this file. N rows asked for   P parts


Int64 = NDArray[np.int64]


class ChainedColumn:
    """Rows of the first part, then of the second, and so on; read like a one-dimensional array.

    Attributes:
        dtype: Of every value.
        shape: (rows,)
    """

    def __init__(self, parts: Sequence[NDArray[Any]], added: Sequence[int] | None = None) -> None:
        """Chain the parts.

        Args:
            parts: [rows] each, all of one type.
            added: For each part a number to add to its values, such as the first source number of its corpus.

        Raises:
            ValueError: No part, or parts of several types.
        """
        if len({part.dtype for part in parts}) != 1:
            raise ValueError(f"cannot chain parts of the types {[str(part.dtype) for part in parts]}")
        self._parts = tuple(parts)
        self._added = tuple(added) if added is not None else (0,) * len(parts)
        self._starts_P: Int64 = np.cumsum([0, *map(len, parts)])[:-1]
        self.dtype = parts[0].dtype
        self.shape = (sum(map(len, parts)),)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: ArrayLike | slice) -> NDArray[Any]:
        """Values of some rows: an array of row numbers in any shape, one number, or a slice.

        Raises:
            IndexError: There is no such row.
        """
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        rows = np.asarray(rows)
        rows_N = np.where(rows < 0, rows + len(self), rows).ravel()
        if rows_N.size and (rows_N.min() < 0 or rows_N.max() >= len(self)):
            raise IndexError(f"rows {rows_N.min()} to {rows_N.max()} of a column of {len(self)}")
        return self._gather(rows_N).reshape(rows.shape)[()]

    def _gather(self, rows_N: Int64) -> NDArray[Any]:
        part_N = np.searchsorted(self._starts_P, rows_N, side="right") - 1
        values_N = np.empty(len(rows_N), dtype=self.dtype)
        for number in np.unique(part_N).tolist():
            here = part_N == number
            found = self._parts[number][rows_N[here] - self._starts_P[number]]
            values_N[here] = found + self.dtype.type(self._added[number])
        return values_N

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """All rows in memory, for whoever wants the whole column."""
        return np.asarray(self[:], dtype=dtype)


# Dims in this file. N chunks asked for   M tokens in a chunk   R tokens of a neighbor, 2 M


Column = NDArray[Any] | ChainedColumn
TokensAndMask = tuple[NDArray[np.int32], NDArray[np.bool_]]


@dataclass(frozen=True)
class ChunkDatabase:
    """Chunks by row number; rows are train first, then valid, then test, then those that were added later."""

    manifest: Manifest
    """The db stage's manifest, or that of a version of an updated database."""
    corpus: Corpus
    """The corpus that holds the tokens."""
    columns: Mapping[str, Any]
    """The columns of `schema.COLUMNS`, each [rows]: memory-mapped arrays, chained where the database has parts."""
    removed: Int64 = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    """Rows that must not be found, ascending: their documents were removed, their places stay."""
    parts: tuple[ChunkDatabase, ...] = ()
    """What it was joined from, in the order of their rows; nothing for what the db stage wrote."""
    directory: Path = Path()
    """Where it was opened, to name it in errors; of one that was joined, no folder."""

    @classmethod
    def open(cls, directory: Path, corpus: Corpus) -> ChunkDatabase:
        """Open the database in `directory`, made from `corpus`.

        Raises:
            ArtifactError: The stage did not finish, its file is damaged, or it was made from another corpus.
        """
        manifest = read_manifest(directory, STAGE)
        require_parent(directory, manifest, "corpus", corpus.manifest)
        path = directory / FILE
        remedy = f"Delete {directory} and run `retro {STAGE}` again"
        columns = {name: map_column(path, name, remedy) for name in COLUMNS}
        for name, dtype in COLUMNS.items():
            if columns[name].shape != (manifest.counts["rows"],) or columns[name].dtype != dtype:
                found = f"{columns[name].dtype} {columns[name].shape}"
                raise ArtifactError(
                    path, f"column {name!r} is {found}, needed {dtype} ({manifest.counts['rows']},)", remedy
                )
        return cls(manifest, corpus, columns, directory=directory)

    @classmethod
    def joined(cls, manifest: Manifest, parts: Sequence[ChunkDatabase], removed: Int64) -> ChunkDatabase:
        """Several databases of one chunk length and tokenizer as one.

        Sources are numbered part after part, and so are rows. Splits are the first part's; rows of the others were
        added later and may be neighbors, as train rows may.

        Args:
            manifest: Its counts hold `rows` of all parts, and `rows_train` … of the first.
            parts: At least one.
            removed: Rows that must not be found, in any order.
        """
        corpora = [part.corpus for part in parts]
        first_source = np.cumsum([0, *(len(corpus.sources) for corpus in corpora)])[:-1].tolist()
        columns: dict[str, Column] = {
            name: ChainedColumn([part.columns[name] for part in parts], first_source if name == "source" else None)
            for name in COLUMNS
        }
        return cls(manifest, Corpus.joined(corpora), columns, np.unique(removed), tuple(parts))

    @property
    def version(self) -> int:
        """How often it was changed since the db stage made it; 0 is what the stage wrote."""
        return int(self.manifest.config.get("version", 0))

    @property
    def added(self) -> range:
        """Rows that came after the first part was made."""
        return range(sum(len(self.rows_of(split)) for split in range(len(SPLITS))), self.rows)

    @property
    def rows(self) -> int:
        """Chunks of all splits, removed ones included."""
        return int(self.manifest.counts["rows"])

    @property
    def chunk_length(self) -> int:
        """M, tokens per chunk; of a database of passages, the most that one has."""
        return int(self.manifest.config["chunk_length"])

    @property
    def config(self) -> DbConfig:
        """The settings that it was cut under."""
        return DbConfig.of(self.manifest.config)

    def require_chunks(self, what: str) -> None:
        """Check that rows are consecutive chunks.

        Args:
            what: What needs them, for the message.

        Raises:
            ConfigError: They are passages.
        """
        unit = self.config.unit
        if unit != "chunk":
            need = f"needs 'chunk': {what} reads a chunk and the one after it, and {self.directory} holds passages"
            raise ConfigError("db.unit", unit, need)

    @property
    def retrieved_length(self) -> int:
        """R, tokens of a neighbor: the chunk and its continuation."""
        return 2 * self.chunk_length

    def rows_of(self, split: int) -> range:
        """Rows of a split: 0 train, 1 valid, 2 test."""
        counts = [int(self.manifest.counts[f"rows_{name}"]) for name in SPLITS]
        start = sum(counts[:split])
        return range(start, start + counts[split])

    @cached_property
    def retrievable(self) -> RowSet:
        """What neighbors may be when a model trains or is evaluated: the train split and what was added later."""
        return RowSet.of(self.rows_of(0), self.added, removed=self.removed)

    @cached_property
    def all_rows(self) -> RowSet:
        """What answers may come from: the rows of all splits."""
        return RowSet.of(range(self.rows), removed=self.removed)

    def document_key(self, rows: Int64) -> Int64:
        """A number for the document of each row, unique over all sources; same shape as `rows`."""
        source = self.columns["source"][rows].astype(np.int64)
        key: Int64 = (source << DOCUMENT_BITS) | self.columns["document"][rows]
        return key

    def chunk_tokens(self, rows: Int64) -> TokensAndMask:
        """Tokens of chunks.

        Args:
            rows: [N] row numbers.

        Returns:
            tokens int32 [N, M], padded on the right with the end-of-document token; mask bool [N, M], True on tokens.
        """
        rows = self._checked(rows, lowest=0)
        count_N = self.columns["token_count"][rows]
        return self._gather(rows, count_N, self.chunk_length)

    def neighbor_tokens(self, neighbor_ids: Int64) -> TokensAndMask:
        """Tokens of chunks, each followed by its continuation in the same document.

        Args:
            neighbor_ids: [...] row numbers; -1 is not a neighbor and gives no token.

        Returns:
            tokens int32 [..., R], padded on the right with the end-of-document token; mask bool [..., R], True on
            tokens, all False for -1 and beyond the end of the document.
        """
        ids_N = self._checked(neighbor_ids, lowest=-1).ravel()
        rows_N = np.maximum(ids_N, 0)
        continues_N = self.columns["continues"][rows_N].astype(bool)
        # A chunk that continues is full, so its continuation is right behind it in the token file: one read.
        next_N = rows_N + continues_N
        if next_N.size and next_N.max() >= self.rows:
            raise self._damaged(f"row {self.rows - 1}, the last one, is said to continue")
        count_N = continues_N * self.chunk_length + self.columns["token_count"][next_N]
        tokens_NR, mask_NR = self._gather(rows_N, np.where(ids_N < 0, 0, count_N), self.retrieved_length)
        shape = (*neighbor_ids.shape, self.retrieved_length)
        return tokens_NR.reshape(shape), mask_NR.reshape(shape)

    def text(self, row: int) -> str:
        """The chunk as text."""
        tokens_1M, mask_1M = self.chunk_tokens(np.array([row]))
        return self.corpus.tokenizer.decode(tokens_1M[mask_1M].tolist())

    def document_id(self, row: int) -> str:
        """The id of the chunk's document, as the corpus records it."""
        return self.corpus.document_id(*self._document(row))

    def document_title(self, row: int) -> str:
        """The title of the chunk's document."""
        return self.corpus.document_title(*self._document(row))

    def _document(self, row: int) -> tuple[int, int]:
        rows = self._checked(np.array([row]), lowest=0)
        return int(self.columns["source"][rows][0]), int(self.columns["document"][rows][0])

    def _gather(self, rows_N: Int64, count_N: NDArray[np.integer], width: int) -> TokensAndMask:
        # With one source there is nothing to look up, and a look-up misses the cache for every row.
        one = len(self.corpus.sources) == 1
        source_N = np.zeros(len(rows_N), dtype=np.int64) if one else self.columns["source"][rows_N].astype(np.int64)
        try:
            return self.corpus.gather(source_N, self.columns["token_start"][rows_N], count_N, width)
        except (ValueError, IndexError) as error:  # the rows are there: it is what they say that is wrong
            raise self._damaged(f"its rows do not fit its corpus ({error})") from None

    def _damaged(self, problem: str) -> ArtifactError:
        return ArtifactError(self.directory / FILE, problem, f"Run `retro {STAGE}` with --redo")

    def _checked(self, rows: Int64, lowest: int) -> Int64:
        rows = np.asarray(rows, dtype=np.int64)
        if rows.size and (rows.min() < lowest or rows.max() >= self.rows):
            raise ValueError(f"rows {rows.min()} to {rows.max()} are outside the {self.rows} rows of the database")
        return rows
