"""Which files were read whole, and what their SHA-256 was: a file that did not change since is not read again.

Remembered beside the files, in `.verified.json`, by size, time of the last change, and inode. A file that changed in
the last seconds is not remembered, because a second change might carry the same time.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from functools import lru_cache
from pathlib import Path

from retro.common import checksummed_json
from retro.common.errors import ArtifactError
from retro.common.files import read_json, sha256_file

log = logging.getLogger(__name__)

VERIFIED = ".verified.json"
SETTLED_S = 2.0
"""File systems give times to some milliseconds, others to a second."""


def known_sha256(file: Path, memory: Path | None = None) -> str:
    """SHA-256 of a file, as hex; the file is read only if it changed since it was last read.

    Args:
        file: The file.
        memory: Folder in which it is remembered, for a file of the user's, whose own folder is not ours to write to;
            without it the file's own.

    Raises:
        FileNotFoundError: There is no such file.
    """
    return _sha256_of(file, memory, *_state(file.stat()))


def forget(directory: Path) -> None:
    """Have the files of a directory read again when they are asked for next.

    Raises:
        ArtifactError: There is a folder where is remembered what was read.
    """
    _sha256_of.cache_clear()
    try:
        (directory / VERIFIED).unlink(missing_ok=True)
    except IsADirectoryError:
        raise ArtifactError(directory / VERIFIED, "is a folder, not a file", "Remove it") from None


def _state(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ino


@lru_cache(maxsize=4096)
def _sha256_of(file: Path, folder: Path | None, size: int, changed_ns: int, inode: int) -> str:
    memory = (folder or file.parent) / VERIFIED
    name = file.name if folder is None else str(file.absolute())
    remembered = _read(memory).get(name)
    if remembered is not None and remembered[:3] == [size, changed_ns, inode] and len(remembered) == 4:
        return str(remembered[3])
    found = sha256_file(file)
    if abs(time.time() - changed_ns / 1e9) > SETTLED_S and os.access(memory.parent, os.W_OK):
        _write(memory, _read(memory) | {name: [size, changed_ns, inode, found]})
    return found


def _write(memory: Path, known: dict[str, list[int | str]]) -> None:
    # Renamed, but not forced to the disk: to lose it costs one reading.
    temporary = memory.with_name(f"{VERIFIED}.{socket.gethostname()}.{os.getpid()}-{threading.get_ident()}.tmp")
    temporary.write_text(checksummed_json.document(known), encoding="utf-8")
    try:
        temporary.rename(memory)
    except IsADirectoryError:  # said when it was read
        temporary.unlink()


def _read(memory: Path) -> dict[str, list[int | str]]:
    if not os.path.lexists(memory):
        return {}
    try:
        known: dict[str, list[int | str]] = read_json(memory, "Files are read again", dict[str, list[int | str]])
    except ArtifactError as error:
        log.warning("%s", error)
        return {}
    return known
