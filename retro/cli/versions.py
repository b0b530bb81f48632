"""The versions of a database as a table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from retro.common.artifacts import Manifest, read_manifest
from retro.common.terminal import Table
from retro.db.schema import STAGE
from retro.db.versions import read_version, versions_in
from retro.updates.state import VersionedDatabase

_DOCUMENTS = "documents_"


def table_of(home: VersionedDatabase) -> Table:
    """One line a version: what was done, how many documents and chunks, and the fingerprint that others record.

    Raises:
        ArtifactError: The db stage did not finish, or a version is damaged.
    """
    table = Table(title=f"Versions of {home.base.db}", rules="all")
    for name in ("version", "change", "documents", "live chunks", "removed", "parts", "fingerprint"):
        left = name in ("change", "fingerprint")
        # Whole, so that it can be compared with what others record.
        table.add_column(name, align="left" if left else "right", whole=left)
    for manifest in _manifests(home):
        table.add_row(*_line(manifest))
    return table


def numbers_of(home: VersionedDatabase) -> list[dict[str, Any]]:
    """The same for machines: of each version the counts that its manifest has.

    Raises:
        ArtifactError: As `table_of`.
    """
    return [
        {
            "version": manifest.config.get("version", 0),
            "change": manifest.config.get("change", "as built"),
            "counts": manifest.counts,
            "fingerprint": manifest.fingerprint,
        }
        for manifest in _manifests(home)
    ]


def _manifests(home: VersionedDatabase) -> Iterator[Manifest]:
    yield read_manifest(home.base.db, STAGE)
    yield from map(read_version, versions_in(home.versions).values())


def _line(manifest: Manifest) -> tuple[str, ...]:
    rows, removed = int(manifest.counts["rows"]), int(manifest.counts.get("rows_removed", 0))
    documents = [
        f"{count} {name.removeprefix(_DOCUMENTS)}"
        for name, count in manifest.counts.items()
        if name.startswith(_DOCUMENTS)
    ]
    return (
        str(manifest.config.get("version", 0)),
        str(manifest.config.get("change", "as built")),
        ", ".join(documents),
        str(rows - removed),
        str(removed),
        str(len(manifest.config.get("parts", [0]))),
        manifest.fingerprint,
    )
