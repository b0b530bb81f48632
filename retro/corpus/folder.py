"""The files of a folder, in sorted order, and a count of what is passed over, by reason."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from retro.common.errors import DataError

HIDDEN = "hidden (a name that begins with a dot)"
BROKEN_LINK = "broken links"
LOOP = "links to a folder that they are in"
SEEN = "links to a folder that is read under another name"
SPECIAL = "pipes, sockets or devices"

FolderId = tuple[int, int]
"""Device and inode: equal for one folder under all its names."""


@dataclass(frozen=True)
class InputFile:
    """One file of a source."""

    name: str
    """Path below the source's folder, with `/`; the file's own name when the source is one file."""
    path: Path


@dataclass(frozen=True)
class Folder:
    """What is in a folder."""

    files: tuple[InputFile, ...]
    """Regular files, and links to such, in the order of their names."""
    passed_over: Counter[str]
    """What else there is, by reason."""


@dataclass(frozen=True)
class _Below:
    """A folder on the way down."""

    path: str
    name: str
    """Below the first folder, with a `/` behind it; empty for the first."""
    above: frozenset[FolderId]
    """The folders that it is in: on the way here, and on the disk."""


def list_folder(path: Path) -> Folder:
    """Every file below `path`, through links to folders too, each folder once.

    A folder that is reached both by its own name and by a link has its own name, of several links the first in the
    order of names: what the file system lists first decides nothing.

    Raises:
        DataError: A folder cannot be listed.
    """
    passed_over: Counter[str] = Counter()
    # Sorted by the names that the system has, which need not be UTF-8; documents are named by them, and must be.
    names = sorted(_walk(os.fspath(path), passed_over))
    return Folder(tuple(InputFile(printable(name), path / name) for name in names), passed_over)


def printable(name: str) -> str:
    """A file's name as UTF-8 can hold it: bytes that are none become `\\xe9`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _walk(top: str, passed_over: Counter[str]) -> Iterator[str]:
    """Names of the files below `top`. Links to folders wait until all that needs no link has been seen."""
    seen: set[FolderId] = set()
    waiting = [_Below(top, "", _parents(top))]
    links: list[_Below] = []
    while waiting or links:
        if not waiting:
            links.sort(key=lambda link: link.name, reverse=True)
            waiting.append(links.pop())
        folder = waiting.pop()
        entries, here = _listed(folder.path)
        if here in folder.above or here in seen:
            passed_over[LOOP if here in folder.above else SEEN] += 1
            continue
        seen.add(here)
        above = folder.above | {here}
        for entry in entries:
            name = f"{folder.name}{entry.name}"
            if entry.name.startswith("."):
                passed_over[HIDDEN] += 1
            elif entry.is_dir(follow_symlinks=False):
                waiting.append(_Below(entry.path, f"{name}/", above))
            elif entry.is_file(follow_symlinks=False):
                yield name
            elif (status := _status(entry.path)) is None:
                passed_over[BROKEN_LINK] += 1
            elif stat.S_ISREG(status.st_mode):
                yield name
            elif stat.S_ISDIR(status.st_mode):
                links.append(_Below(entry.path, f"{name}/", above | _parents(entry.path)))
            else:
                passed_over[SPECIAL] += 1


def _listed(folder: str) -> tuple[list[os.DirEntry[str]], FolderId]:
    # `Path.rglob` takes three times as long, and folders may hold millions of files.
    try:
        with os.scandir(folder) as entries:
            return list(entries), _id(Path(folder).stat())
    except OSError as error:
        raise DataError(printable(folder), f"cannot be listed ({error.strerror})", "Check its permissions") from None


def _status(path: str | Path) -> os.stat_result | None:
    """What a path leads to; None where that is nowhere, or round in a circle."""
    try:
        return Path(path).stat()
    except OSError:
        return None


def _id(status: os.stat_result) -> FolderId:
    return status.st_dev, status.st_ino


def _parents(folder: str) -> frozenset[FolderId]:
    """The folders that a folder is in, on the disk; those above one that may not be looked into are left out."""
    found = map(_status, Path(os.path.realpath(folder)).parents)
    return frozenset(_id(status) for status in found if status is not None)


def is_folder(path: Path) -> bool | None:
    """Whether a path is a folder (True) or a file (False); None where nothing is.

    Raises:
        DataError: It is a pipe, a socket or a device, whose end nobody knows; or nothing can have such a path.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise DataError(path, f"is a link to {path.readlink()}, which is not there", "Check the link") from None
        return None
    except OSError as error:
        raise DataError(path, f"cannot be read ({error.strerror})", "Check the source's path") from None
    except ValueError as error:
        raise DataError(repr(str(path)), f"is not a path ({error})", "Check the source's path") from None
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        kinds = ((stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
        kind = next((name for is_kind, name in kinds if is_kind(mode)), "a device")
        problem = f"is {kind}, which can be read only once and may never end"
        raise DataError(path, problem, "Write what comes out of it to a file, and give that")
    return stat.S_ISDIR(mode)
