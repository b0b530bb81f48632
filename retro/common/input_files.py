"""Opening a file that anybody may have put there: a regular file of a bounded size, or one error.

A device gives bytes for ever, a named pipe makes its reader wait for a writer that never comes, and a link may lead to
itself. None of them is read.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path, PurePosixPath

from retro.common.errors import ArtifactError, RetroError

ErrorClass = Callable[[Path, str, str], RetroError]
"""ArtifactError for what a stage wrote, DataError for what a user brought: path, problem, remedy."""
MAX_BYTES = 1 << 28
"""No file that is read whole is larger, unless its reader says otherwise."""

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file, or a link to one, for reading its bytes.

    Raises:
        OSError: It is missing, is something else, or cannot be opened.
    """
    # Without waiting: opening a named pipe would, until somebody writes to it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"it is {_KINDS.get(stat.S_IFMT(mode), 'something else')}, not a file")
    return os.fdopen(descriptor, "rb")


def kind_of(path: Path) -> str:
    """What is at a path, or where its link leads: "a file", "a folder", "a named pipe"; empty where nothing is."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return ""
    return "a file" if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "something else")


def require_regular(path: Path, remedy: str, *, error: ErrorClass = ArtifactError, missing: str = "is missing") -> None:
    """Raise `error` unless `path` is a regular file that can be opened; for libraries that open files by name."""
    try:
        open_regular(path).close()
    except FileNotFoundError:
        raise error(path, missing, remedy) from None
    except (OSError, ValueError) as cause:
        raise error(path, f"cannot be read ({reason(cause)})", remedy) from None


def read_bytes(
    path: Path, remedy: str, *, limit: int = MAX_BYTES, error: ErrorClass = ArtifactError, missing: str = "is missing"
) -> bytes:
    """The bytes of a regular file.

    Args:
        path: The file.
        remedy: What to do if it cannot be used.
        limit: Bytes that it may have at most.
        error: The class of what is raised.
        missing: What to say of a file that is not there.

    Raises:
        ArtifactError, DataError: It is missing, is not a regular file, is too large, or cannot be read.
    """
    try:
        with open_regular(path) as stream:
            # Not read(limit): it would take the memory first.
            content = stream.read() if os.fstat(stream.fileno()).st_size <= limit else None
    except FileNotFoundError:
        raise error(path, missing, remedy) from None
    except (OSError, ValueError) as cause:
        raise error(path, f"cannot be read ({reason(cause)})", remedy) from None
    if content is None or len(content) > limit:
        raise error(path, f"has more than {limit:,} bytes, the most that is read of such a file", remedy)
    return content


def read_text(
    path: Path, remedy: str, *, limit: int = MAX_BYTES, error: ErrorClass = ArtifactError, missing: str = "is missing"
) -> str:
    """The text of a UTF-8 file, without a byte order mark; see `read_bytes`.

    Raises:
        ArtifactError, DataError: It cannot be read, or is not UTF-8.
    """
    content = read_bytes(path, remedy, limit=limit, error=error, missing=missing)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as cause:
        raise error(path, f"cannot be read ({cause})", remedy) from None


def is_below(name: str) -> bool:
    """Whether a recorded name can only be of a file below the folder that it is looked for in."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\0" not in name


def reason(cause: Exception) -> str:
    """Why a file could not be opened, in the system's words."""
    return str((cause.strerror if isinstance(cause, OSError) else None) or cause)
