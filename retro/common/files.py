"""Files that survive a kill: written to a temporary name, forced to the disk, renamed."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from retro.common.errors import ArtifactError
from retro.common.input_files import MAX_BYTES, ErrorClass, open_regular, read_text
from retro.common.json_text import JsonError, half_character, parse_json, wrong_type


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success fsync it and rename it to `path`.

    A kill leaves at most a `*.tmp` file, never a half-written `path`. A full disk is an ArtifactError, and what was
    complete before stays as it was.
    """
    temporary = temporary_path(path)
    try:
        with no_space_is_an_artifact_error(path):
            yield temporary
            fsync(temporary)
            temporary.replace(path)
            fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_path(path: Path) -> Path:
    """The name under which this thread writes what becomes `path`; makes the folder, and removes dead leftovers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    writer = f"{socket.gethostname()}.{os.getpid()}-{threading.get_ident()}"
    return path.with_name(f".{path.name}.{writer}.tmp")


def _remove_leftovers(path: Path) -> None:
    """Remove temporary files that killed processes of this machine left for the same target."""
    beginning = f".{path.name}.{socket.gethostname()}."
    for leftover in path.parent.glob(f"{glob.escape(beginning)}*.tmp"):
        pid = leftover.name.removeprefix(beginning).removesuffix(".tmp").partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            leftover.unlink(missing_ok=True)


@contextmanager
def no_space_is_an_artifact_error(path: Path) -> Iterator[None]:
    """Turn "no space left on device" into an ArtifactError that names `path`.

    h5py and faiss wrap the system's error in exceptions of their own, so the text is looked at as well.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
        if not full:
            raise
        raise ArtifactError(
            path,
            "the disk is full; this file was not written, everything complete before it is kept",
            "Free some space and run the same command again",
        ) from None


def fsync(path: Path) -> None:
    """Force a file's bytes, or a directory's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, data: object) -> None:
    """Write `data` as sorted, indented JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(
    path: Path,
    remedy: str,
    expect: Any = dict[str, Any],
    *,
    error: ErrorClass = ArtifactError,
    limit: int = MAX_BYTES,
    keys_once: bool = True,
) -> Any:
    """Read a JSON file, whatever it holds.

    Args:
        path: The file.
        remedy: What to do if it cannot be used.
        expect: What it must hold, an object unless given; see `json_text.wrong_type`. Name there what is relied on.
        error: The class of what is raised.
        limit: Bytes that it may have.
        keys_once: Whether a key twice in one object is an error.

    Raises:
        ArtifactError, DataError: The file is missing, is no file, is too large, is not JSON, nests too deep, or holds
            something else than `expect`.
    """
    text = read_text(path, remedy, limit=limit, error=error)
    try:
        value = parse_json(text, keys_once=keys_once)
    except JsonError as cause:
        raise error(path, f"is not valid JSON ({cause})", remedy) from None
    half = half_character(text, value)
    if half is not None:
        raise error(path, f"holds half a character, {half!r}, which no UTF-8 file can", remedy)
    problem = wrong_type(value, expect)
    if problem is not None:
        raise error(path, problem, remedy)
    return value


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex.

    Raises:
        OSError: It is missing, is no regular file, or cannot be read.
    """
    with open_regular(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
