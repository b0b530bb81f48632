"""Documents of a database: found by source and id, and read as the first ones were when they join."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retro.common.blocks import ranges
from retro.common.config import unknown_name
from retro.common.errors import ConfigError, DataError
from retro.corpus.config import CorpusConfig, SourceConfig, TokenizerConfig
from retro.corpus.reader import SPLITS
from retro.db.reader import ChunkDatabase
from retro.db.schema import DOCUMENT_BITS
from retro.tokenizers.tokenizer import tokenizer_kind

# Dims in this file. N rows looked at


Int64 = NDArray[np.int64]
_ROWS_AT_ONCE = 1 << 20
_COMPARED_IDS = 100_000
_SHOWN = 5


@dataclass(frozen=True)
class DatabaseDocuments:
    """Documents that a database holds."""

    ids: frozenset[str]
    """Those of the wanted ids that have a chunk in the database; an id may belong to several documents."""
    rows: Int64
    """Rows of all their chunks, ascending."""


def source_names(database: ChunkDatabase) -> list[str]:
    """The names of all sources, each once, in the order in which they came."""
    return list(dict.fromkeys(database.corpus.sources))


def choose_source(database: ChunkDatabase, given: str | None, *, new: bool) -> str:
    """The source that documents belong to.

    Args:
        database: Where they are, or are to go.
        given: What the user said; without it, the database's only source.
        new: Whether a name that the database does not have begins a new source.

    Raises:
        ConfigError: It has to be said, or there is no such source; the nearest is named.
    """
    known = source_names(database)
    if given is None and len(known) == 1:
        return known[0]
    if given is None:
        raise ConfigError("--source", None, f"needs the name of a source; the database has {', '.join(known)}")
    if given not in known and not new:
        raise ConfigError("--source", given, unknown_name(given, known).replace("a setting", "a source"))
    return given


def find_documents(database: ChunkDatabase, source: str, wanted: Set[str]) -> DatabaseDocuments:
    """The documents of a source that have one of the wanted ids. Reads all ids of the source, and all rows once."""
    ids = {
        (number << DOCUMENT_BITS) | document: identifier
        for number, name in enumerate(database.corpus.sources)
        if name == source
        for document, identifier in enumerate(database.corpus.document_ids(number))
        if identifier in wanted
    }
    keys = np.array(sorted(ids), dtype=np.int64)
    rows = [_rows_of(database, keys, part) for part in ranges(database.rows, _ROWS_AT_ONCE)] if ids else []
    rows_N = np.concatenate([np.empty(0, dtype=np.int64), *rows])
    found = np.unique(database.document_key(rows_N)).tolist()
    return DatabaseDocuments(frozenset(ids[key] for key in found), rows_N)


def _rows_of(database: ChunkDatabase, keys: Int64, part: range) -> Int64:
    rows_N = np.arange(part.start, part.stop)
    mine_N = np.isin(database.document_key(rows_N), keys) & database.all_rows.contains(rows_N)
    return rows_N[mine_N]


def require_known(database: ChunkDatabase, source: str, wanted: Iterable[str], found: DatabaseDocuments) -> None:
    """Raise DataError when the database lacks a wanted document; the nearest id is named."""
    unknown = sorted(set(wanted) - found.ids)
    if not unknown:
        return
    shown = ", ".join(map(repr, unknown[:_SHOWN])) + (f" and {len(unknown) - _SHOWN} more" if unknown[_SHOWN:] else "")
    near = _nearest(database, source, unknown[0])
    remedy = f"The nearest id is {near!r}" if near else "`retro db add` adds documents"
    raise DataError(f"source {source!r}", f"the database has no document {shown}", remedy)


def require_new(source: str, found: DatabaseDocuments) -> None:
    """Raise DataError when the database already has a document that is to be added."""
    if found.ids:
        first, count = min(found.ids), len(found.ids)
        problem = f"the database already has document {first!r}" + (f" and {count - 1} more" if count > 1 else "")
        raise DataError(f"source {source!r}", problem, "`retro db replace` replaces documents")


def _nearest(database: ChunkDatabase, source: str, identifier: str) -> str:
    """The live document's id that looks most like it, of the first hundred thousand; empty if none does."""
    numbers = [number for number, name in enumerate(database.corpus.sources) if name == source]
    ids = itertools.chain.from_iterable(map(database.corpus.document_ids, numbers))
    near = difflib.get_close_matches(identifier, itertools.islice(ids, _COMPARED_IDS), n=5, cutoff=0.5)
    live = find_documents(database, source, set(near)).ids if near else frozenset()
    return next((one for one in near if one in live), "")


_READ_AS = {"text_key", "id_key", "title_key"}


def corpus_config(databases: Sequence[ChunkDatabase], source: str, path: Path) -> CorpusConfig:
    """The settings of a corpus of added documents.

    Keys of JSON lines are those of the source they join. All documents are training documents: they may be neighbors.

    Args:
        databases: The parts of the database they join.
        source: Name of the source.
        path: Where the documents are; their layout follows from the files' endings.

    Raises:
        ConfigError: The name cannot be one of a source.
    """
    configs = [CorpusConfig(**part.corpus.manifest.config) for part in databases]
    same = [one for config in configs for one in config.sources if one.name == source]
    if same and same[-1].split in SPLITS[1:]:
        need = f"is held out whole (split: {same[-1].split}), and documents that are added train: needs another source"
        raise ConfigError("--source", source, need)
    keys = same[-1].model_dump(include=_READ_AS) if same else {}
    first = databases[0].corpus.directory / "tokenizer"
    kind = tokenizer_kind(first)
    tokenizer = TokenizerConfig(kind=kind, path=first.resolve(), eod_token=configs[0].tokenizer.eod_token)
    return configs[0].model_copy(
        update={
            "sources": (SourceConfig(name=source, path=path, **keys),),
            "tokenizer": tokenizer,
            "split": (1.0, 0.0, 0.0),
        }
    )
