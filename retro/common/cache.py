"""Files that can be made or fetched again: in our own cache, and in that of the HuggingFace Hub.

A folder takes its name when everything in it was written, so one that is there is whole.
"""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from retro.common.errors import ArtifactError, ConfigError, DataError, short_reason
from retro.common.files import failed_writes_are_artifact_errors, fsync
from retro.common.optional import import_optional

_STALE_S = 3600.0


def cache_directory() -> Path:
    """Where kept files are; made where it is not there yet.

    Raises:
        ConfigError: It cannot be made.
    """
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "instruct-retro"
    place = Path(os.environ.get("RETRO_CACHE") or default)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        need = f"needs a folder that can be written ({error.strerror}); set it to one"
        raise ConfigError("RETRO_CACHE", str(place), need) from None
    return place


def cached_folder(kind: str, key: str, make: Callable[[Path], object]) -> Path:
    """The folder of a key; made where it is not there. Several processes may ask at once: one of theirs stays.

    Args:
        kind: What it is: the name of the folder that holds all of its kind.
        key: Names everything that its content depends on.
        make: Fills an empty folder.

    Raises:
        ArtifactError: The disk is full.
    """
    final = cache_directory() / kind / key
    if final.is_dir():
        return final
    with failed_writes_are_artifact_errors(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        _discard_left_over(final)
        temporary = Path(tempfile.mkdtemp(prefix=f".{key}.", suffix=".tmp", dir=final.parent))
        try:
            make(temporary)
            for file in temporary.iterdir():
                fsync(file)
            temporary.chmod(0o755)
            _rename(temporary, final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return final


def _discard_left_over(final: Path) -> None:
    """Remove what a killed process left of the same folder; whoever still writes one touches it within the hour."""
    for other in final.parent.glob(f".{glob.escape(final.name)}.*.tmp"):
        if time.time() - other.stat().st_mtime > _STALE_S:
            shutil.rmtree(other, ignore_errors=True)


def _rename(temporary: Path, final: Path) -> None:
    try:
        temporary.rename(final)
    except OSError:
        # Another process was faster: what it made is the same.
        if not final.is_dir():
            raise ArtifactError(final, "cannot be made", "Set RETRO_CACHE to a folder that can be written") from None


def fetch(
    repository: str,
    patterns: Sequence[str],
    *,
    kind: str,
    extra: str,
    name: str,
    remedy: str,
    revision: str | None = None,
    cached: bool = False,
) -> Path:
    """The folder of a repository's files in the cache; those that are not there are fetched.

    Args:
        repository: `ORG/NAME`.
        patterns: Which files, as the Hub's client takes them.
        kind: `model` or `dataset`.
        extra: The extra of ours that brings the client, for who does not have it.
        name: What the user called it, for errors.
        remedy: What to do if it cannot be had.
        revision: Branch, tag or commit; None: the main branch.
        cached: Look at the cache alone.

    Raises:
        DataError: The Hub does not give it.
        DependencyError: The client is missing.
    """
    client = import_optional("huggingface_hub", extra=extra, use="fetches from the HuggingFace Hub")
    try:
        return Path(
            client.snapshot_download(
                repository,
                repo_type=kind,
                revision=revision,
                allow_patterns=list(patterns),
                local_files_only=cached,
            )
        )
    # The client raises its own, httpx's and the system's errors; to the user all mean the same.
    except Exception as error:  # noqa: BLE001
        reason = short_reason(error)
        raise DataError(name, f"the HuggingFace Hub does not give it ({reason})", remedy) from None
