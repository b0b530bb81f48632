"""Read the versions of an updated database: which there are, and what each is made of.

`<run>/versions/0001` … hold one version each, complete when their manifest.json stands. A version names all parts it
consists of (the run's own stages, and what versions added) by path relative to itself and by fingerprint, and holds
every row that is removed, so that it is opened without looking at the versions before it. Version 0 is what the
stages wrote; it has no folder.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retro.common.artifacts import MANIFEST, Manifest, is_complete, read_manifest
from retro.common.errors import ArtifactError
from retro.common.files import read_json
from retro.common.hdf5 import map_column
from retro.corpus.reader import Corpus
from retro.db.reader import ChunkDatabase

VERSION = "version"
"""The `stage` of a version's manifest."""
REMOVED_FILE, REMOVED = "removed.h5", "rows"
VERSIONS = "versions"
"""The folder of a run that holds them."""
REMEDY = "Put the files back from a copy, or delete this version and the later ones and make the changes again"


@dataclass(frozen=True, kw_only=True)
class Part:
    """The stage directories of one part of a database."""

    corpus: Path
    db: Path
    index: Path

    def relative_to(self, directory: Path) -> dict[str, str]:
        """The paths as a version in `directory` records them; a run directory may be moved as a whole."""
        return {name: Path(os.path.relpath(path, directory)).as_posix() for name, path in vars(self).items()}


def versions_in(directory: Path) -> dict[int, Path]:
    """Folders of the finished versions in `directory`, by number, ascending."""
    found = {int(path.name): path for path in directory.glob("[0-9]*") if path.name.isdecimal() and is_complete(path)}
    return dict(sorted(found.items()))


def is_version(directory: Path) -> bool:
    """Whether a directory holds a version of an updated database, and not what a stage wrote."""
    if not is_complete(directory):
        return False
    manifest = read_json(directory / MANIFEST, REMEDY)
    return isinstance(manifest, dict) and manifest.get("stage") == VERSION


def read_version(directory: Path) -> Manifest:
    """The manifest of a version, its files checked.

    Raises:
        ArtifactError: It did not finish, or a file is missing or damaged.
    """
    return read_manifest(directory, VERSION, remedy=REMEDY)


def version_identity(directory: Path, remedy: str = "Run `retro db` first") -> dict[str, int | str]:
    """Version and fingerprint of the database in a directory, as others record it; reads its manifest alone.

    `remedy` says what to do where there is none.

    Raises:
        ArtifactError: There is no database, or its manifest is damaged.
    """
    path = directory / MANIFEST
    data = read_json(path, remedy)
    try:
        return {"version": int(data["config"].get("version", 0)), "fingerprint": str(data["fingerprint"])}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(path, f"is not a manifest ({error})", REMEDY) from None


def parts_of(directory: Path, manifest: Manifest) -> tuple[Part, ...]:
    """Where the parts of a version are."""
    recorded = manifest.config["parts"]
    return tuple(
        Part(**{name: Path(os.path.normpath(directory / path)) for name, path in part["at"].items()})
        for part in recorded
    )


def removed_rows(directory: Path) -> NDArray[np.int64]:
    """All rows that a version holds and that must not be found, ascending."""
    return np.asarray(map_column(directory / REMOVED_FILE, REMOVED, REMEDY, dtype=np.int64, width=0), dtype=np.int64)


def open_database(directory: Path, corpus: Corpus) -> ChunkDatabase:
    """Open a database for a run whose corpus is `corpus`: its own, a version of it, or another run's.

    Args:
        directory: What the db stage wrote, or a version. Another run's has its own corpus beside it.
        corpus: The corpus of the run that reads; its tokenizer must have made the database's tokens.

    Raises:
        ArtifactError: Something is missing, damaged or does not fit, or was made with another tokenizer.
    """
    if is_version(directory):
        database = _open_version(directory, corpus)
    else:
        database = ChunkDatabase.open(directory, _corpus_of(directory, corpus))
    theirs, ours = database.corpus.tokenizer.fingerprint, corpus.tokenizer.fingerprint
    if theirs != ours:
        problem = f"holds tokens of tokenizer {theirs}; {corpus.directory} has tokenizer {ours}"
        remedy = "Make the other run's corpus with this run's tokenizer (corpus.tokenizer.path)"
        raise ArtifactError(directory, problem, remedy)
    return database


def _corpus_of(directory: Path, corpus: Corpus) -> Corpus:
    """The corpus that a db stage's artifact was made from: `corpus`, or the one that is beside it."""
    beside = directory.parent / corpus.directory.name
    if beside.resolve() == corpus.directory.resolve() or not is_complete(beside):
        return corpus
    return Corpus.open(beside)


def _open_version(directory: Path, corpus: Corpus) -> ChunkDatabase:
    manifest = read_version(directory)
    parts = parts_of(directory, manifest)
    databases = [_open_part(part, corpus) for part in parts]
    _require_parts(directory, manifest, databases)
    return ChunkDatabase.joined(manifest, databases, removed_rows(directory))


def _open_part(part: Part, corpus: Corpus) -> ChunkDatabase:
    same = part.corpus.resolve() == corpus.directory.resolve()
    return ChunkDatabase.open(part.db, corpus if same else Corpus.open(part.corpus))


def _require_parts(directory: Path, manifest: Manifest, databases: Sequence[ChunkDatabase]) -> None:
    """Raise ArtifactError when a part is not the one that the version was made of."""
    for recorded, database in zip(manifest.config["parts"], databases, strict=True):
        found = database.manifest.fingerprint
        if recorded["db"] != found:
            problem = f"was made of database {recorded['db']}, but {recorded['at']['db']} is {found} now"
            remedy = f"Bring that database back, or delete {directory.parent} to begin a new history"
            raise ArtifactError(directory / MANIFEST, problem, remedy)
