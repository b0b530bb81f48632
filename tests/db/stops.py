"""Ways to stop a stage half way."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import pytest

from retro.common import files


class Stopped(BaseException):
    """Thrown where a kill would strike; nothing in the product catches it."""


@contextmanager
def stopped_at_rename(number: int) -> Iterator[None]:
    """Stop just before (odd) or just after (even) a file gets its name, counting both."""
    renames = 0
    rename = Path.replace

    def replace(self: Path, target: Path) -> Path:
        nonlocal renames
        renames += 1
        if renames == (number + 1) // 2 and number % 2:
            raise Stopped
        moved = rename(self, target)
        if renames == number // 2 and number % 2 == 0:
            raise Stopped
        return moved

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        # The machine continues, so that nothing written is lost.
        patch.setattr(files, "fsync", lambda path: None)
        yield


def stops_everywhere(work: Callable[[Path], Any], out: Path) -> Iterator[Path]:
    """Directories in which `work` was stopped, at each rename in turn."""
    for number in range(1, 1000):
        stopped = out / f"stopped{number}"
        try:
            with stopped_at_rename(number):
                work(stopped)
        except Stopped:
            yield stopped
            continue
        return


def killed(code: str, *arguments: object) -> int:
    """Run Python code in a process of its own; gives its exit status, -9 after a SIGKILL."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, timeout=120, check=False).returncode


def flip_byte(path: Path, dataset: str = "") -> None:
    """Change one bit: in the middle of the file, or in the first value of one of its HDF5 datasets."""
    content = bytearray(path.read_bytes())
    place = len(content) // 2
    if dataset:
        with h5py.File(path, "r") as file:
            place = file[dataset].id.get_offset()
    content[place] ^= 1
    path.write_bytes(content)


@contextmanager
def full_disk(after: int) -> Iterator[None]:
    """The disk is full from the file number `after` + 1 on."""
    written = 0
    sync = files.fsync

    def fsync(path: Path) -> None:
        nonlocal written
        written += path.is_file()
        if written > after:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "fsync", fsync)
        yield
