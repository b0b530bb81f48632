"""Files that survive a kill: written to a temporary name, forced to the disk, renamed."""

from __future__ import annotations

import errno
import glob
import hashlib
import logging
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from retro.common import checksummed_json
from retro.common.errors import ArtifactError, ConfigError
from retro.common.input_files import MAX_BYTES, ErrorClass, kind_of, open_regular, read_text
from retro.common.json_files import JsonError, half_character, parse_json, wrong_type

log = logging.getLogger(__name__)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success fsync it and rename it to `path`.

    A kill leaves at most a `*.tmp` file, never a half-written `path`. A full disk is an ArtifactError, and what was
    complete before stays as it was.
    """
    require_place(path)
    temporary = temporary_path(path)
    try:
        with failed_writes_are_artifact_errors(path):
            yield temporary
            fsync(temporary)
            temporary.replace(path)
            fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def require_place(path: Path) -> None:
    """Raise ArtifactError where something stands that a written file must not take the place of.

    Renaming would put the file in the place of a device as readily as of a file.
    """
    what = kind_of(path)
    if what not in ("", "a file"):
        problem = f"is {what}, and a file is to be written there"
        raise ArtifactError(path, problem, "Move it away, or name another place")


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
        if pid.isdecimal() and not _is_alive(int(pid)):
            leftover.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    import psutil

    return bool(psutil.pid_exists(pid))


@contextmanager
def failed_writes_are_artifact_errors(path: Path) -> Iterator[None]:
    """Turn a write that the system refused into an ArtifactError that names `path`."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        why = failed_write(error)
        if not why:
            raise
        full = "the disk is full; this file was not written, everything complete before it is kept"
        problem = full if why == FULL else f"could not be written ({why}); everything complete before it is kept"
        remedy = "Free some space" if why == FULL else "Check the disk"
        raise ArtifactError(path, problem, f"{remedy} and run the same command again") from None


FULL = "no space left"
_ERRNO = {
    errno.ENOSPC: FULL,
    errno.EDQUOT: FULL,
    errno.EIO: "input/output error",
    errno.EROFS: "the file system is read-only",
    errno.EFBIG: "the file is larger than the file system allows",
}
# h5py, faiss and torch wrap the system's error in exceptions of their own, with its words or without.
_WORDS = {
    "No space left": FULL,
    "Disk quota exceeded": FULL,
    "Input/output error": "input/output error",
    "Read-only file system": "the file system is read-only",
    "File too large": "the file is larger than the file system allows",
    "unexpected pos": "the disk is full or fails",
    "PytorchStreamWriter failed": "the disk is full or fails",
}


def failed_write(error: BaseException) -> str:
    """Why the system refused a write, as far as an exception or one that it followed tells; empty for any other."""
    found = ""
    seen: BaseException | None = error
    while seen is not None:
        text = str(seen)
        words = next((why for word, why in _WORDS.items() if word in text), "")
        found = _ERRNO.get(getattr(seen, "errno", None) or 0, words) or found
        seen = seen.__cause__ or seen.__context__
    return found


def make_writable(folder: Path, setting: str, value: Path) -> None:
    """Make a folder and see that files can be written there, before anything that takes long.

    Args:
        folder: The folder.
        setting: What named it, for the message.
        value: As it was given.

    Raises:
        ConfigError: It cannot be made, or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(setting, str(value), f"needs a place where files can be written ({error.strerror})") from None


def require_space(path: Path, needed: int) -> None:
    """Check that a file can grow to `needed` bytes, before something writes it through a memory map: what the system
    does there when the disk is full is to end the process.

    Raises:
        ArtifactError: There is not so much space.
    """
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        problem = f"needs {needed / 1e9:,.2f} GB, and the disk has {free / 1e9:,.2f} GB left: the disk is full"
        raise ArtifactError(path, problem, "Free some space and run the same command again")


def discard(directory: Path) -> None:
    """Remove a folder, so that a kill leaves nothing that looks whole: it loses its name before its files.

    What such a kill left of the same folder is removed too.
    """
    nameless = directory.with_name(f".{directory.name}.removed.tmp")
    shutil.rmtree(nameless, ignore_errors=True)
    try:
        directory.rename(nameless)
    except FileNotFoundError:
        return
    shutil.rmtree(nameless, ignore_errors=True)


def fsync(path: Path) -> None:
    """Force a file's bytes, or a directory's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write `data` as sorted, indented JSON with a checksum of its own, atomically."""
    _write_text(path, checksummed_json.document(data))


def write_plain_json(path: Path, data: object) -> None:
    """Write JSON for other programs: without a checksum, which is not part of their formats."""
    _write_text(path, checksummed_json.plain_document(data))


def read_json(
    path: Path,
    remedy: str,
    expect: Any = dict[str, Any],
    *,
    error: ErrorClass = ArtifactError,
    limit: int = MAX_BYTES,
    keys_once: bool = True,
) -> Any:
    """Read a JSON file, whatever it holds. The checksum of its own that it may carry is checked, and left out.

    Args:
        path: The file.
        remedy: What to do if it cannot be used.
        expect: What it must hold, an object unless given; see `json_text.wrong_type`. Name there what is relied on.
        error: The class of what is raised.
        limit: Bytes that it may have.
        keys_once: Whether a key twice in one object is an error.

    Raises:
        ArtifactError, DataError: The file is missing, is not a file, is too large, is not JSON, nests too deep, was
            changed after it was written, or holds something else than `expect`.
    """
    text = read_text(path, remedy, limit=limit, error=error)
    try:
        value = parse_json(text, keys_once=keys_once)
    except JsonError as cause:
        raise error(path, f"is not valid JSON ({cause})", remedy) from None
    half = half_character(text, value)
    if half is not None:
        raise error(path, f"holds half a character, {half!r}, which no UTF-8 file can", remedy)
    value, damage = checksummed_json.check_document(value, text)
    problem = damage or wrong_type(value, expect)
    if problem:
        raise error(path, problem, remedy)
    return value


def read_kept_json(path: Path, instead: str) -> dict[str, Any] | None:
    """What a file holds that only saves work: an object; None where there is none, or a damaged one, named in the log.

    Args:
        path: The file.
        instead: What is done without it, for the log: `the source is made again`.
    """
    if not path.exists():
        return None
    try:
        found: dict[str, Any] = read_json(path, "")
    except ArtifactError as error:
        log.warning("%s: %s; %s", path, error.problem, instead)
        return None
    return found


def read_json_lines(path: Path, remedy: str) -> list[dict[str, Any]]:
    """Read a file of one JSON object a line that a stage appended to, each line with a checksum of its own.

    A last line that a kill cut short, which shows by its missing line end, is left out.

    Raises:
        ArtifactError: The file cannot be read, or a whole line is not a JSON object or was changed later.
    """
    found: list[dict[str, Any]] = []
    for number, line in enumerate(read_text(path, remedy).split("\n")[:-1], start=1):
        try:
            data, problem = checksummed_json.parse_line(f"{line}\n")
        except JsonError as error:
            raise ArtifactError(path, f"line {number} is {error}", remedy) from None
        if problem or not isinstance(data, dict):
            raise ArtifactError(path, f"line {number} {problem or 'is not a JSON object'}", remedy)
        found.append(data)
    return found


def _write_text(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sampled_sha256(path: Path, blocks: int = 64, block_bytes: int = 1 << 16) -> str:
    """SHA-256 of a file's size and of evenly spaced blocks of it, its first and last bytes among them.

    Tells files of weights apart in a moment, whatever their size; it does not verify them.
    """
    size, digest = path.stat().st_size, hashlib.sha256()
    digest.update(str(size).encode())
    last = max(size - block_bytes, 0)
    with path.open("rb") as file:
        for number in range(blocks):
            file.seek(last * number // (blocks - 1))
            digest.update(file.read(block_bytes))
    return digest.hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex.

    Raises:
        OSError: It is missing, is not a regular file, or cannot be read.
    """
    with open_regular(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
