"""Change an updated database: each change makes the next version, and leaves the versions before it as they are.

    versions/0003/request.json      what was asked for; written first
    versions/0003/corpus db index   what the ordinary stages make of the added documents alone
    versions/0003/removed.h5        every row of this version that must not be found
    versions/0003/changes.jsonl     which documents came and went
    versions/0003/manifest.json     written last: without it, the version does not exist

Added documents are tokenized and embedded as the first ones were. A change that was stopped continues where it was
when the same is asked for again, and is started over when something else is.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retro.common.artifacts import Manifest, describe_files, is_complete, read_manifest, write_manifest
from retro.common.errors import ConfigError, DataError
from retro.common.files import atomic_path, read_json, write_json
from retro.common.hdf5 import new_file, write_columns
from retro.common.leases import run_lock
from retro.corpus import build as corpus_build
from retro.corpus.files import resolve
from retro.corpus.manifest import identify
from retro.corpus.reader import SPLITS, Corpus
from retro.db import build as db_build
from retro.db.schema import STAGE as DB
from retro.db.versions import REMOVED, REMOVED_FILE, VERSION, Part, read_version
from retro.index import build as index_build
from retro.index.bm25 import build as bm25_build
from retro.index.config import DIRECTORY as BM25
from retro.index.config import STAGE as INDEX
from retro.index.config import Bm25Config, IndexConfig
from retro.updates.documents import (
    DatabaseDocuments,
    choose_source,
    corpus_config,
    find_documents,
    require_known,
    require_new,
)
from retro.updates.state import OpenVersion, VersionedDatabase, open_latest

log = logging.getLogger(__name__)

Int64 = NDArray[np.int64]
Request = dict[str, Any]
# Whatever holds the base's vectors, what is added is small: one Faiss file, chosen by its own size.
_INDEX_OF_A_PART = {"faiss": "auto", "shards": 1, "backend": "faiss"}
REQUEST, CHANGES = "request.json", "changes.jsonl"


@dataclass(frozen=True, kw_only=True)
class Change:
    """What a version does to the one before it."""

    parts: tuple[Part, ...]
    """All parts of the new version."""
    removed: Int64
    """Rows of these parts that must not be found."""
    documents: Mapping[str, Sequence[str]]
    """Ids that were added, removed or replaced."""


def add(home: VersionedDatabase, path: Path, source: str | None = None) -> Manifest:
    """Add the documents of a file or folder.

    Args:
        home: The database.
        path: Texts, laid out in any way that a source of the corpus stage may be.
        source: The source they join, or a new one; without it, the database's only one.

    Returns:
        The manifest of the new version.

    Raises:
        ConfigError: The source has to be named.
        DataError: There is nothing in `path` that can be read, or the database has one of the documents already.
        ArtifactError: Another change is under way, or something is damaged.
    """
    return _with_documents(home, path, source, "add")


def replace_documents(home: VersionedDatabase, path: Path, source: str | None = None) -> Manifest:
    """Replace documents by those of the same ids in a file or folder.

    Raises:
        DataError: The database has not all of them; the nearest id is named.
        ConfigError, ArtifactError: As for `add`.
    """
    return _with_documents(home, path, source, "replace")


def remove(home: VersionedDatabase, ids: Iterable[str], source: str | None = None) -> Manifest:
    """Remove documents, each whole.

    Args:
        home: The database.
        ids: Their ids.
        source: The source they belong to; without it, the database's only one.

    Raises:
        DataError: The database has not all of them; the nearest id is named.
        ConfigError, ArtifactError: As for `add`.
    """
    wanted = sorted(set(ids))

    def ask(current: OpenVersion) -> Request:
        return {"change": "remove", "source": choose_source(current.database, source, new=False), "ids": wanted}

    def make(current: OpenVersion, request: Request, out: Path) -> Change:
        found = find_documents(current.database, request["source"], set(wanted))
        require_known(current.database, request["source"], wanted, found)
        removed = np.union1d(current.database.removed, found.rows)
        return Change(parts=current.parts, removed=removed, documents={"removed": wanted})

    return change(home, ask, make)


def _with_documents(home: VersionedDatabase, path: Path, source: str | None, kind: str) -> Manifest:
    path = path.expanduser().resolve()

    def ask(current: OpenVersion) -> Request:
        name = choose_source(current.database, source, new=kind == "add")
        config = corpus_config(current.databases, name, path)
        inputs = identify(resolve(config.sources[0], path), {})
        return {"change": kind, "source": name, "path": str(path), "inputs": inputs}

    def make(current: OpenVersion, request: Request, out: Path) -> Change:
        part = Part(corpus=out / "corpus", db=out / "db", index=out / "index")
        name = request["source"]
        corpus_build.run(corpus_config(current.databases, name, path), part.corpus)
        ids = sorted(set(Corpus.open(part.corpus).document_ids(0)))
        found = find_documents(current.database, name, set(ids))
        _require_fit(current, kind, name, ids, found)
        _build_part(current, part)
        removed = np.union1d(current.database.removed, found.rows)
        documents = {"added" if kind == "add" else "replaced": ids}
        return Change(parts=(*current.parts, part), removed=removed, documents=documents)

    return change(home, ask, make)


def _require_fit(current: OpenVersion, kind: str, source: str, ids: Sequence[str], found: DatabaseDocuments) -> None:
    if kind == "add":
        require_new(source, found)
    else:
        require_known(current.database, source, ids, found)


def _build_part(current: OpenVersion, part: Part) -> None:
    """Chunks and index of added documents, made as the first part's were; small ones get an exact index."""
    db_build.run(current.database.config, part.corpus, part.db)
    first = current.parts[0].index
    config = IndexConfig(**(read_manifest(first, INDEX).config | _INDEX_OF_A_PART))
    index_build.run(config, part.corpus, part.db, part.index, like=first)


def change(
    home: VersionedDatabase, ask: Callable[[OpenVersion], Request], make: Callable[[OpenVersion, Request, Path], Change]
) -> Manifest:
    """Make the next version, or continue where a stopped change left off.

    Args:
        home: The database.
        ask: Says what is wanted, as plain JSON values; equal values are the same change.
        make: Makes it in the folder of the new version.

    Raises:
        ArtifactError: Another process changes this database.
    """
    with run_lock(home.versions):
        current = open_latest(home)
        request = ask(current)
        if current.number and read_json(home.directory(current.number) / REQUEST, "") == request:
            log.info("db: version %d is this very change", current.number)
            index_words(home, current.number)
            return current.manifest
        out = home.directory(current.number + 1)
        with _begun(out, request):
            manifest = _finish(current, make(current, request, out), request, out)
        index_words(home, current.number + 1)
        return manifest


def index_words(home: VersionedDatabase, number: int) -> None:
    """Build the BM25 index of a version, where the database it was made of has one.

    What a word weighs follows from all chunks, so every version has an index of its own; but only chunks that came
    last are tokenized, as long as the rows before them are the same.
    """
    before, out = home.place(number - 1)[1] / BM25, home.directory(number) / BM25
    if not is_complete(before):
        return
    config = Bm25Config(**read_manifest(before, INDEX).config)
    old, new = (_databases(home, one) for one in (number - 1, number))
    grown_from = before if new[: len(old)] == old else None
    bm25_build.run(config, home.base.corpus, home.directory(number), out, grown_from=grown_from)


def _databases(home: VersionedDatabase, number: int) -> list[str]:
    """Fingerprints of the parts of a version."""
    if number == 0:
        return [read_manifest(home.base.db, DB).fingerprint]
    return [part["db"] for part in read_version(home.directory(number)).config["parts"]]


@contextmanager
def _begun(out: Path, request: Request) -> Iterator[None]:
    """The folder of a new version, empty unless the same change was begun there.

    A change that is refused leaves things as they were: its folder goes, and another change that was stopped there,
    which it would have replaced, comes back.
    """
    path, aside = out / REQUEST, out.with_name(f".{out.name}.stopped")
    same = path.exists() and read_json(path, f"Delete {out}") == request
    if aside.exists() and not same:  # a kill came while it was aside
        shutil.rmtree(out, ignore_errors=True)
        aside.rename(out)
        same = path.exists() and read_json(path, f"Delete {out}") == request
    if out.exists() and not same:
        out.rename(aside)
    if not path.exists():
        write_json(path, request)
    try:
        yield
    except (ConfigError, DataError):
        shutil.rmtree(out)
        if aside.exists():
            aside.rename(out)
        raise
    if aside.exists():
        log.warning("%s held another change, which was stopped; it is removed", out)
        shutil.rmtree(aside)


def _finish(current: OpenVersion, made: Change, request: Request, out: Path) -> Manifest:
    with atomic_path(out / REMOVED_FILE) as temporary, new_file(temporary) as file:
        write_columns(file, {REMOVED: made.removed})
    with atomic_path(out / CHANGES) as temporary:
        temporary.write_text("".join(_lines(made, request["source"])), encoding="utf-8")
    manifest = _manifest(current, made, request, out)
    write_manifest(out, replace(manifest, files=describe_files(out, [REQUEST, REMOVED_FILE, CHANGES])))
    manifest = read_version(out)
    log.info("db: version %d: %s", manifest.config["version"], manifest.counts)
    return manifest


def _lines(made: Change, source: str) -> Iterable[str]:
    for what, ids in made.documents.items():
        for identifier in ids:
            yield json.dumps({"change": what, "source": source, "id": identifier}, ensure_ascii=False) + "\n"


def _manifest(current: OpenVersion, made: Change, request: Request, out: Path) -> Manifest:
    stages = [{name: read_manifest(path, name) for name, path in vars(part).items()} for part in made.parts]
    rows = [int(part["db"].counts["rows"]) for part in stages]
    first = stages[0]["db"].counts
    counts = {f"rows_{name}": int(first[f"rows_{name}"]) for name in SPLITS}
    counts |= {"rows": sum(rows), "rows_removed": len(made.removed)}
    counts |= {f"documents_{what}": len(ids) for what, ids in made.documents.items()}
    parts = [
        {"at": part.relative_to(out)} | {name: manifest.fingerprint for name, manifest in of.items()}
        for part, of in zip(made.parts, stages, strict=True)
    ]
    config = {
        "version": current.number + 1,
        "change": request["change"],
        **current.database.config.shaping,
        "parts": parts,
    }
    return Manifest(stage=VERSION, config=config, parents={"version": current.manifest.fingerprint}, counts=counts)
