"""Where a database and its versions are, and which version is the current one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from retro.common.artifacts import Manifest
from retro.common.errors import ConfigError
from retro.corpus.reader import Corpus
from retro.db.reader import ChunkDatabase
from retro.db.versions import Part, open_database, parts_of, read_version, versions_in


@dataclass(frozen=True, kw_only=True)
class VersionedDatabase:
    """A database that may change: what the stages of a run wrote, and the versions since."""

    base: Part
    """Version 0."""
    versions: Path
    """Holds the folders of the later ones."""

    def directory(self, number: int) -> Path:
        """The folder of version `number`, from 1 on."""
        return self.versions / f"{number:04d}"

    @property
    def latest(self) -> int:
        """Number of the last finished version."""
        return max(versions_in(self.versions), default=0)

    def number(self, wanted: int | str) -> int:
        """The version that was asked for, `latest` or a number.

        Raises:
            ConfigError: There is no such version.
        """
        known = [0, *versions_in(self.versions)]
        number = known[-1] if wanted == "latest" else wanted
        if number not in known:
            need = f"needs a version of the database in {self.base.db.parent}: {_listed(known)} (or latest)"
            raise ConfigError("database.version", wanted, need)
        return int(number)

    def place(self, number: int) -> tuple[Path, Path]:
        """What stages read as database and as index: the folders of the stages, or twice that of the version."""
        return (self.directory(number),) * 2 if number else (self.base.db, self.base.index)


@dataclass(frozen=True, kw_only=True)
class OpenVersion:
    """One version, opened."""

    number: int
    database: ChunkDatabase
    parts: tuple[Part, ...]

    @property
    def manifest(self) -> Manifest:
        """The version's, or the db stage's for version 0."""
        return self.database.manifest

    @property
    def databases(self) -> tuple[ChunkDatabase, ...]:
        """The database of each part."""
        return self.database.parts or (self.database,)


def open_latest(home: VersionedDatabase) -> OpenVersion:
    """The last version.

    Raises:
        ArtifactError: The stages did not finish, or something is damaged or does not fit.
    """
    number, corpus = home.latest, Corpus.open(home.base.corpus)
    if number == 0:
        return OpenVersion(number=0, database=open_database(home.base.db, corpus), parts=(home.base,))
    directory = home.directory(number)
    parts = parts_of(directory, read_version(directory))
    return OpenVersion(number=number, database=open_database(directory, corpus), parts=parts)


def _listed(numbers: list[int]) -> str:
    if numbers == list(range(len(numbers))) and len(numbers) > 2:
        return f"0 to {numbers[-1]}"
    return ", ".join(map(str, numbers))
