"""Who works on what: small files that say which process holds a piece of work, and whether it lives; locks of a run.

A claim only spares work that another does already. It is not a lock: should two workers hold one piece, both write the
same bytes under a temporary name and rename them, so the worst that can happen is work done twice. That is why a
file system without locks serves, and why a dead worker's claim may simply be taken over.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from typing_extensions import TypedDict

from retro.common.errors import ArtifactError, ConfigError
from retro.common.files import failed_writes_are_artifact_errors
from retro.common.input_files import open_regular
from retro.common.json_files import Count, JsonError, parse_json, wrong_type
from retro.common.launcher import SPAWNED

WORKERS = ".workers"
"""Below a stage's directory while it is being built: claims, and what is planned."""
HEARTBEAT_S = 10.0
"""A holder touches its claim this often."""
STALE_S = 90.0
"""A claim of another machine that was not touched for so long is a dead worker's. On the same machine the process
itself is looked for, so a kill shows at once."""

_LONGEST_CLAIM = 1 << 16


class _HolderData(TypedDict):
    machine: str
    pid: Count
    started: float
    token: str


@dataclass(frozen=True)
class Holder:
    """The process that holds a claim."""

    machine: str
    """Host name, boot and process namespace: process numbers mean something only where all three are equal."""
    pid: int
    started: float
    """When the process began, in seconds since the epoch: process numbers are used again."""
    token: str
    """Different for every claim."""

    @property
    def name(self) -> str:
        """`host:pid`, for people."""
        return f"{self.machine.split('/')[0]}:{self.pid}"

    @property
    def is_here(self) -> bool:
        """Whether it ran on this machine since its last boot, so that its process can be looked for."""
        return self.machine == this_machine()

    def lives(self) -> bool:
        """Whether the process still exists; only for one that `is_here`."""
        import psutil

        try:
            return abs(psutil.Process(self.pid).create_time() - self.started) < 1.0
        except psutil.NoSuchProcess:
            return False


@lru_cache(maxsize=1)
def this_machine() -> str:
    """A name for this machine, boot and process namespace."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    namespace = Path("/proc/self/ns/pid")
    parts = [
        socket.gethostname(),
        boot.read_text("ascii").strip() if boot.exists() else "",
        str(namespace.readlink()) if namespace.is_symlink() else "",
    ]
    return "/".join(parts)


def remove_leases(directory: Path) -> None:
    """Remove claims and plans of a stage that is complete."""
    shutil.rmtree(directory / WORKERS, ignore_errors=True)


class Leases:
    """The claims in one directory. One object per worker."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, name: str) -> Path:
        """File of the claim `name`."""
        return self.directory / f"{name}.claim"

    def holder(self, name: str) -> Holder | None:
        """Who holds `name` and lives, or None."""
        path = self.path(name)
        try:
            with open_regular(path) as stream:
                content = stream.read(_LONGEST_CLAIM)
            age_s = self._now() - path.stat().st_mtime
        except OSError:
            return None
        try:
            data = parse_json(content)
            found = Holder(**data) if wrong_type(data, _HolderData) is None else None
        except (JsonError, TypeError):
            found = None
        if found is None:
            # Created a moment ago and not written yet, or left so by a kill.
            return Holder("?", 0, 0.0, "") if age_s < STALE_S else None
        alive = found.lives() if found.is_here else age_s < STALE_S
        return found if alive else None

    def holders(self) -> dict[str, Holder]:
        """All claims whose holders live, by name."""
        names = sorted(path.stem for path in self.directory.glob("*.claim"))
        found = {name: self.holder(name) for name in names}
        return {name: holder for name, holder in found.items() if holder is not None}

    @contextmanager
    def claim(self, name: str) -> Iterator[bool]:
        """Hold `name` while the block runs; yields False, at once, when a running worker holds it."""
        token = self._take(name)
        if not token:
            yield False
            return
        stop = threading.Event()
        beat = threading.Thread(target=self._keep_alive, args=(name, stop), daemon=True, name=f"claim {name}")
        beat.start()
        try:
            yield True
        finally:
            stop.set()
            beat.join()
            self._release(name, token)

    def _take(self, name: str) -> str:
        path = self.path(name)
        self.directory.mkdir(parents=True, exist_ok=True)
        if path.exists():
            if self.holder(name) is not None:
                return ""
            path.unlink(missing_ok=True)  # a dead worker's
        import psutil

        me = Holder(this_machine(), os.getpid(), psutil.Process().create_time(), uuid.uuid4().hex)
        try:
            with failed_writes_are_artifact_errors(path), path.open("x", encoding="utf-8") as stream:
                stream.write(json.dumps(asdict(me)))
        except ArtifactError:
            path.unlink(missing_ok=True)  # else it would pass for one that is just being written
            raise
        except FileExistsError:
            return ""
        except FileNotFoundError:  # the stage was finished, and its claims removed, this very moment
            return ""
        return me.token

    def _release(self, name: str, token: str) -> None:
        holder = self.holder(name)
        if holder is not None and holder.token == token:
            self.path(name).unlink(missing_ok=True)

    def _keep_alive(self, name: str, stop: threading.Event) -> None:
        while not stop.wait(HEARTBEAT_S):
            try:
                os.utime(self.path(name))
            except FileNotFoundError:  # taken over, or the stage is complete: the work is harmless either way
                return

    def _now(self) -> float:
        """The time by the clock that stamps these files, which may be a file server's."""
        probe = self.directory / f".clock.{socket.gethostname()}.{os.getpid()}.{threading.get_ident()}"
        try:
            probe.touch()
            return probe.stat().st_mtime
        except FileNotFoundError:
            return time.time()
        finally:
            probe.unlink(missing_ok=True)


@contextmanager
def run_lock(run_dir: Path, *, shared: bool = False, name: str = ".lock", what: str = "") -> Iterator[None]:
    """Hold the run directory. The processes of one launcher hold it together, through their first one, and so do the
    workers that a process started.

    Args:
        run_dir: What to hold.
        shared: Let others in who hold it shared too, such as slices of one stage, or workers on its blocks.
        name: File in `run_dir` that stands for what is held.
        what: The same for people, if not the whole run.

    Raises:
        ArtifactError: Another process works here. The system frees the lock when that process ends, however it ends.
    """
    if int(os.environ.get("RANK", "0")) or SPAWNED in os.environ:
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
