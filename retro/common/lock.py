"""Locks in a run directory: two processes would write the same files, or one remove what the other reads."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from retro.common.errors import ArtifactError, ConfigError
from retro.common.worker import COMPANION


@contextmanager
def run_lock(run_dir: Path, *, shared: bool = False, name: str = ".lock", what: str = "") -> Iterator[None]:
    """Hold the run directory. The processes of one launcher hold it together, through their first one, and so do the
    companions that a process started.

    Args:
        run_dir: What to hold.
        shared: Let others in who hold it shared too, such as slices of one stage, or workers on its blocks.
        name: File in `run_dir` that stands for what is held.
        what: The same for people, if not the whole run.

    Raises:
        ArtifactError: Another process works here. The system frees the lock when that process ends, however it ends.
    """
    if int(os.environ.get("RANK", "0")) or COMPANION in os.environ:
        yield
        return
    path = run_dir / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("a")
    except OSError as error:
        raise ConfigError(
            "run_dir", str(run_dir), f"needs a folder that can be written to ({error.strerror})"
        ) from None
    with stream:
        try:
            fcntl.flock(stream, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            problem = f"another process works in this run{f' on {what}' if what else ''}"
            raise ArtifactError(path, problem, "Wait for it, or use another run_dir") from None
        yield


def is_held(run_dir: Path, name: str = ".lock") -> bool:
    """Whether a process holds the run directory now."""
    path = run_dir / name
    if not path.exists():
        return False
    with path.open("rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
