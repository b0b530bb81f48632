"""Bring an updated database back to one part: removed documents are gone, and one index is searched.

Tokens and embeddings are copied; nothing is tokenized or embedded again. Row numbers change, and with them the
fingerprint, so that whoever recorded the old rows notices.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retro.common.artifacts import Manifest, describe_files, is_complete, read_manifest, write_manifest
from retro.common.blocks import Block, ranges
from retro.common.errors import DataError
from retro.common.files import atomic_path
from retro.common.hdf5 import map_column, new_file, write_columns
from retro.corpus.document_names import document_line
from retro.corpus.reader import DOCUMENTS_FILE, SPLITS, STAGE
from retro.corpus.split import stream_orders
from retro.corpus.token_files import TokenFileWriter
from retro.db import build as db_build
from retro.db.reader import ChunkDatabase
from retro.db.versions import Part
from retro.index import build as index_build
from retro.index.config import STAGE as INDEX
from retro.index.config import IndexConfig
from retro.index.embedder import Embedder
from retro.index.embeddings import DATASET, FILE, EmbedRows, embed_rows
from retro.tokenizers.tokenizer import FILE_NAMES, META, tokenizer_kind
from retro.updates.change import Change, Request, change
from retro.updates.documents import source_names
from retro.updates.state import OpenVersion, VersionedDatabase

# Dims in this file. N rows   D documents of a source


log = logging.getLogger(__name__)

Int64 = NDArray[np.int64]
_ROWS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class RemainingSource:
    """The documents of one source that live, in the order in which they came."""

    name: str
    numbers: tuple[int, ...]
    """Numbers of the sources of that name in the database."""
    first_rows: tuple[Int64, ...]
    """For each of these, [D] the first row of each document; -1 for documents that do not live or have no chunk."""

    @property
    def first_row(self) -> Int64:
        """[live documents] first rows, over all of `numbers`."""
        return np.concatenate([rows_D[rows_D >= 0] for rows_D in self.first_rows])


def remaining_sources(database: ChunkDatabase) -> tuple[RemainingSource, ...]:
    """Every source with a document that lives.

    Raises:
        DataError: There is none.
    """
    corpus = database.corpus
    first_rows = [np.full(corpus.token_file(n).documents, -1, dtype=np.int64) for n in range(len(corpus.sources))]
    for part in reversed(ranges(database.rows, _ROWS_AT_ONCE)):
        # Backwards, so that what is in the end is a document's first row.
        rows_N = np.arange(part.start, part.stop)[::-1]
        rows_N = rows_N[database.all_rows.contains(rows_N)]
        source_N, document_N = database.columns["source"][rows_N], database.columns["document"][rows_N]
        for number in np.unique(source_N).tolist():
            here_N = source_N == number
            first_rows[number][document_N[here_N]] = rows_N[here_N]
    found = []
    for name in source_names(database):
        numbers = tuple(number for number, other in enumerate(corpus.sources) if other == name)
        found.append(RemainingSource(name, numbers, tuple(first_rows[number] for number in numbers)))
    living = tuple(source for source in found if len(source.first_row))
    if not living:
        raise DataError(corpus.directory, "every document of the database was removed", "Add some before")
    return living


def write_remaining_corpus(database: ChunkDatabase, sources: Sequence[RemainingSource], out: Path) -> None:
    """Write a corpus of the documents that live into `out`, or find it done. Each keeps its split.

    Raises:
        ArtifactError: The disk is full, or a file of the database is damaged.
    """
    if is_complete(out):
        read_manifest(out, STAGE)
        return
    files = [name for source in sources for name in _write_source(database, source, out)]
    files += _copy_tokenizer(database.corpus.directory / "tokenizer", out)
    config = _config(database, sources)
    with atomic_path(out / DOCUMENTS_FILE) as temporary, new_file(temporary) as file:
        for source in sources:
            split_D = _split_of(database, source)
            group = file.create_group(source.name)
            write_columns(group, {"split": split_D})
            seed = int(config["seed"])
            orders = stream_orders(split_D, len(SPLITS), seed, source.name)
            write_columns(group.create_group("stream_order"), dict(zip(SPLITS, orders, strict=True)))
    counts = _counts(database, sources)
    parents = {"version": database.manifest.fingerprint}
    described = describe_files(out, [*files, DOCUMENTS_FILE])
    write_manifest(out, Manifest(stage=STAGE, config=config, parents=parents, counts=counts, files=described))


def _write_source(database: ChunkDatabase, source: RemainingSource, out: Path) -> list[str]:
    """Token file and names of one source; gives the files' names."""
    names = f"{source.name}.documents.jsonl"
    with ExitStack() as stack:
        lines = stack.enter_context(
            stack.enter_context(atomic_path(out / names)).open("w", encoding="utf-8", newline="\n")
        )
        writer = stack.enter_context(TokenFileWriter(out / source.name, database.corpus.tokenizer.vocab_size))
        for number, rows_D in zip(source.numbers, source.first_rows, strict=True):
            lines.writelines(_lines(database, number, rows_D))
            file = database.corpus.token_file(number)
            for document in np.flatnonzero(rows_D >= 0).tolist():
                writer.add_document(file.tokens[file.document_starts[document] : file.document_starts[document + 1]])
        writer.finish()
    return [names, f"{source.name}.bin", f"{source.name}.idx"]


def _lines(database: ChunkDatabase, number: int, rows_D: Int64) -> Iterator[str]:
    for name in compress(database.corpus.document_names(number), (rows_D >= 0).tolist()):
        yield document_line(name["id"], name["title"])


def _split_of(database: ChunkDatabase, source: RemainingSource) -> NDArray[np.uint8]:
    parts = zip(source.numbers, source.first_rows, strict=True)
    return np.concatenate([database.corpus.split_of(number)[rows_D >= 0] for number, rows_D in parts])


def _copy_tokenizer(directory: Path, out: Path) -> list[str]:
    names = [META, FILE_NAMES[tokenizer_kind(directory)]]
    for name in names:
        with atomic_path(out / "tokenizer" / name) as temporary:
            shutil.copyfile(directory / name, temporary)
    return [f"tokenizer/{name}" for name in names]


def _config(database: ChunkDatabase, sources: Sequence[RemainingSource]) -> dict[str, Any]:
    """The first part's settings, with the sources there are now, each as it was first set."""
    parts = [part.corpus.manifest.config for part in database.parts or (database,)]
    known = {source["name"]: source for config in reversed(parts) for source in config["sources"]}
    return parts[0] | {"sources": [known[source.name] for source in sources]}


def _counts(database: ChunkDatabase, sources: Sequence[RemainingSource]) -> dict[str, Any]:
    counts = {}
    for source in sources:
        lengths = [
            np.diff(database.corpus.token_file(number).document_starts)[rows_D >= 0]
            for number, rows_D in zip(source.numbers, source.first_rows, strict=True)
        ]
        lengths_D = np.concatenate(lengths)
        counts[source.name] = {"documents": len(lengths_D), "tokens": int(lengths_D.sum())}
    totals = {what: sum(count[what] for count in counts.values()) for what in ("documents", "tokens")}
    return totals | {"sources": counts, "tokenizer": database.corpus.manifest.counts["tokenizer"]}


# Dims in this file. N rows   V dimension of the vectors   D documents of a source


def compact(home: VersionedDatabase) -> Manifest:
    """Write all documents that live into one corpus, database and index: the next version.

    Raises:
        ArtifactError: Another change is under way, something is damaged, or the disk is full.
        DataError: Every document was removed.
    """
    return change(home, lambda current: {"change": "compact", "source": ""}, _make)


def _make(current: OpenVersion, request: Request, out: Path) -> Change:
    part = Part(corpus=out / "corpus", db=out / "db", index=out / "index")
    sources = remaining_sources(current.database)
    write_remaining_corpus(current.database, sources, part.corpus)
    db_build.run(current.database.config, part.corpus, part.db)
    first = current.parts[0].index
    config = IndexConfig(**read_manifest(first, INDEX).config)
    index_build.run(config, part.corpus, part.db, part.index, like=first, embed=_copying(current, sources))
    return Change(parts=(part,), removed=np.empty(0, dtype=np.int64), documents={})


def _copying(current: OpenVersion, sources: Sequence[RemainingSource]) -> EmbedRows:
    """What makes the vectors of the new rows: a copy of the old ones, unless a part has dropped its embeddings."""
    if all(FILE in read_manifest(part.index, INDEX).files for part in current.parts):
        vectors = [map_column(part.index / FILE, DATASET, "Run `retro index` again") for part in current.parts]
        return partial(_copy, [source.first_row for source in sources], vectors)
    log.warning("db: a part has no embeddings (index.keep_embeddings), so all chunks are embedded again")
    return embed_rows


def _copy(
    first_rows: Sequence[Int64],
    vectors: Sequence[NDArray[Any]],
    db: ChunkDatabase,
    embedder: Embedder,
    rows: range,
    advance: Callable[[int], None],
) -> Block:
    """The block of embeddings of consecutive rows of the new database."""
    found_NV = gather(vectors, old_rows(db, first_rows, np.arange(rows.start, rows.stop)))
    advance(len(rows))
    return Block({DATASET: found_NV}, {"without_text": int((~found_NV.any(axis=1)).sum())})


def old_rows(db: ChunkDatabase, first_rows: Sequence[Int64], rows_N: Int64) -> Int64:
    """Where the chunks of a compacted database were before.

    Args:
        db: The new database.
        first_rows: For each of its sources, [D] the row that held the document's first chunk before.
        rows_N: [N] new rows.

    Returns:
        [N] old rows. The chunks of a document are in consecutive rows, before and after.
    """
    source_N, document_N = db.columns["source"][rows_N], db.columns["document"][rows_N]
    old_N = np.empty(len(rows_N), dtype=np.int64)
    for source in np.unique(source_N).tolist():
        here_N = source_N == source
        documents = document_N[here_N]
        starts = db.corpus.token_file(source).document_starts[documents]
        place = (db.columns["token_start"][rows_N[here_N]] - starts) // db.config.stride
        old_N[here_N] = first_rows[source][documents] + place
    return old_N


def gather(parts: Sequence[NDArray[Any]], rows_N: Int64) -> NDArray[Any]:
    """[N, V] rows of several arrays that are numbered one after the other."""
    starts = np.cumsum([0, *map(len, parts)])[:-1]
    part_N = np.searchsorted(starts, rows_N, side="right") - 1
    found_NV = np.empty((len(rows_N), parts[0].shape[1]), dtype=parts[0].dtype)
    for number in np.unique(part_N).tolist():
        here_N = part_N == number
        found_NV[here_N] = parts[number][rows_N[here_N] - starts[number]]
    return found_NV
