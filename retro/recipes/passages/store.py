"""What is derived from passages and shards once, and kept: each part in a folder of its own, with a manifest.

A part is made under another name and renamed when it is whole, so a kill leaves nothing that looks like one. It is
valid as long as what it was made of is the same; otherwise it is made again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from retro.common.artifacts import (
    MANIFEST,
    Manifest,
    describe_files,
    fingerprint,
    is_complete,
    parse_manifest,
    read_manifest,
    write_manifest,
)
from retro.common.coordinator import Coordinator
from retro.common.errors import ArtifactError
from retro.common.files import discard, failed_writes_are_artifact_errors, fsync

log = logging.getLogger(__name__)

STORE = ".retro"
"""The store's folder beside shards. Hidden, so that a pattern such as `wikipedia_embeddings/*` does not match it."""


def kept(
    directory: Path, what: str, made_of: Mapping[str, Any], build: Callable[[Path], Mapping[str, Any]]
) -> Manifest:
    """The manifest of a part of the store, its files checked; made first where it is missing or is of something else.

    Args:
        directory: The part's folder.
        what: The part, for people: `the index of passages`.
        made_of: Settings and fingerprints that decide every byte of it.
        build: Writes the part's files into an empty folder; gives its counts.

    Raises:
        ArtifactError: A file of it is damaged or missing, a file stands there that nobody says what it was made of, or
            the disk is full.
    """
    remedy = f"Delete {directory}; it is made again"
    wanted = fingerprint(made_of)

    def is_there() -> bool:
        found = _manifest(directory, what, remedy)
        return found is not None and fingerprint(found.config) == wanted

    def make() -> None:
        if is_complete(directory):
            log.info("%s in %s was made of other files or settings; it is made again", what, directory)
        _make(directory, what, made_of, build)

    # Several processes may embed shards of one folder: one of them makes what all need.
    Coordinator(directory.parent, stage=what).once(directory.name, is_there, make)
    return read_manifest(directory, what, remedy=remedy)


def _manifest(directory: Path, what: str, remedy: str) -> Manifest | None:
    if is_complete(directory):
        return parse_manifest(directory / MANIFEST, remedy, what)
    # Hidden files are what was remembered of a part that was deleted by hand.
    foreign = sorted(path for path in directory.glob("*") if not path.name.startswith("."))
    if foreign:
        problem = f"stands where {what} goes, and no {MANIFEST} beside it says what it was made of"
        raise ArtifactError(foreign[0], problem, "Move it away; ours is made in its place")
    return None


def _make(directory: Path, what: str, made_of: Mapping[str, Any], build: Callable[[Path], Mapping[str, Any]]) -> None:
    fresh = directory.with_name(f".{directory.name}.tmp")
    discard(fresh)
    try:
        with failed_writes_are_artifact_errors(directory):
            fresh.mkdir(parents=True)
            counts = build(fresh)
            files = _described(fresh)
            made = Manifest(stage=what, config=dict(made_of), parents={}, counts=dict(counts), files=files)
            write_manifest(fresh, made)
            discard(directory)
            fresh.rename(directory)
            fsync(directory.parent)
    finally:
        discard(fresh)


def _described(fresh: Path) -> dict[str, dict[str, Any]]:
    """Size and checksum of every file, each on the disk."""
    names = [path.name for path in fresh.iterdir() if not path.name.startswith(".")]
    for name in names:
        fsync(fresh / name)
    return describe_files(fresh, names)
