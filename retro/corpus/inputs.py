"""What a source was made from: name, size and SHA-256 of each file, so that changed input is noticed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from retro.common.errors import ArtifactError, DataError
from retro.common.files import sha256_file
from retro.common.progress import Progress
from retro.corpus.files import Source
from retro.corpus.folder import printable

Checksums = dict[str, str]
Identity = list[dict[str, Any]]
"""`{"name", "bytes", "sha256"}` of each file, in reading order."""


def identify(source: Source, remembered: Checksums) -> Identity:
    """Name, size and SHA-256 of each input file.

    Args:
        source: Whose files.
        remembered: Checksums by stamp, so that a terabyte is read once and not at every start; new ones are added.
    """
    found: Identity = []
    with Progress(len(source.files), what=f"corpus: checksums of {source.name}", unit="files") as bar:
        for file in source.files:
            stamp, size = stamp_of(file.path)
            if stamp not in remembered:
                remembered[stamp] = sha256_file(file.path)
            found.append({"name": file.name, "bytes": size, "sha256": remembered[stamp]})
            bar.advance()
    return found


def stamp_of(path: Path) -> tuple[str, int]:
    """What changes when a file is written to or replaced; and its size in bytes.

    Raises:
        DataError: It is there no more.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(path, f"cannot be read ({error.strerror})", "Check the file and its permissions") from None
    # The inode stands for the file that a link leads to: of many small files, following links took most of the time.
    return f"{printable(str(path.absolute()))} {status.st_size} {status.st_mtime_ns} {status.st_ino}", status.st_size


def require_unchanged(artifact: Path, source: str, made_from: Identity, now: Identity) -> None:
    """Raise ArtifactError when a finished corpus was made from other input; the first difference is named."""
    difference = first_difference(made_from, now)
    if difference:
        raise ArtifactError(
            artifact,
            f"source {source!r} was made from other input: {difference}",
            "Put the old input back, or add --redo to run `retro corpus` and what follows it again",
        )


def first_difference(before: Identity, now: Identity) -> str:
    """Which file changed, came or went, in words; empty when none did."""
    old, new = _by_name(before), _by_name(now)
    for name in sorted(set(old) | set(new)):
        was, is_ = old.get(name), new.get(name)
        if was is None:
            return f"{name} is new"
        if is_ is None:
            return f"{name} is gone"
        if was != is_:
            return f"{name} had {_shape(was)}, now {_shape(is_)}"
    return ""


def _by_name(identity: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {str(entry["name"]): entry for entry in identity}


def _shape(entry: Mapping[str, Any]) -> str:
    return f"{entry['bytes']} bytes (SHA-256 {entry['sha256'][:12]}…)"
