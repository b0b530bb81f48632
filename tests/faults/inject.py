"""One failure at a time in each stage of a tiny run, and what comes of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retro.run.config import RunConfig
from retro.run.pipeline import STAGES, stage

KINDS = {"full": 1, "broken": 2, "short": 3}
"""The disk is full from the n-th call on; the n-th fails with an input/output error; the n-th write writes half."""
SHIM = Path(__file__).with_name("shim.c")
# Rates, times and inodes; an index that torch stamps with an identifier of its own, and what names its checksum.
NOT_COMPARED = {"report.json", "checkpoint.json", ".metadata", "log.jsonl", "result.json", ".lock", ".verified.json"}
_NEVER = ("Traceback", "Exception ignored", "HDF5-DIAG", "terminate called")


@dataclass
class Tried:
    """What came of the failures in one stage."""

    failures: int = 0
    one_line: int = 0
    """Ended with exit code 2 and one line that says why."""
    survived: int = 0
    """Ended well: the call was made again, or what failed was not needed."""
    identical: int = 0
    """Made the same bytes when it was run again."""
    wrong: list[str] = field(default_factory=list)

    def __add__(self, other: Tried) -> Tried:
        """Sums."""
        mine, theirs = vars(self), vars(other)
        return Tried(**{name: mine[name] + theirs[name] for name in mine})


def build_shim(folder: Path) -> Path | None:
    """Compile the shim; None where there is no compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return None
    library = folder / "shim.so"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(SHIM), "-ldl"], check=True)
    return library


class Server:
    """Runs stages with a failure in them."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def run(self, arguments: list[str], folder: Path, nth: int = 0, kind: int = 0) -> dict[str, Any]:
        """One stage; the n-th call below `folder` fails."""
        job = {"arguments": arguments, "folder": str(folder), "nth": nth, "kind": kind}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write((json.dumps(job) + "\n").encode())
        self.process.stdin.flush()
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        return found


@contextmanager
def serving(shim: Path) -> Iterator[Server]:
    """A server for the time of a block."""
    environment = os.environ | {"LD_PRELOAD": str(shim), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.faults.server"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=environment, cwd=SHIM.parents[2], **pipes) as process:  # type: ignore[call-overload]
        try:
            yield Server(process)
        finally:
            process.stdin.close()


def prepare(finished: Path, name: str, out: Path) -> Path:
    """A run in which everything before a stage is complete, and nothing of it and of what follows is there."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(finished, out, copy_function=os.link)
    names = [one.name for one in STAGES]
    for one in STAGES[names.index(name) :]:
        shutil.rmtree(one.path(RunConfig(run_dir=out)), ignore_errors=True)
    (out / ".lock").unlink(missing_ok=True)
    return out


def contents(directory: Path) -> dict[str, bytes]:
    """Every file of a stage that must not differ, by its path."""
    files = (path for path in sorted(directory.rglob("*")) if path.is_file() and path.name not in NOT_COMPARED)
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def complaint(found: dict[str, Any]) -> str:
    """What is wrong with how a stage ended; empty for exit code 0, or 2 with one line."""
    lines = found["errors"].splitlines()
    said = [line for line in lines if line.startswith("retro: ")]
    words = [
        word for word in ("Traceback", "Exception ignored", "HDF5-DIAG", "terminate called") if word in found["errors"]
    ]
    if found["code"] not in (0, 2) or words:
        return f"exit code {found['code']}, {words}: {' | '.join(lines[-4:])}"
    if found["code"] == 2 and (len(said) != 1 or lines[-1:] != said):
        return f"not one line: {' | '.join(lines[-4:])}"
    return ""


def inject(
    server: Server,
    finished: Path,
    config: Path,
    name: str,
    kind: str,
    work: Path,
    *,
    numbers: Iterable[int] | None,
    every: int = 1,
) -> Tried:
    """Make calls of a stage fail, one after the other.

    Args:
        server: Runs it.
        finished: A finished run.
        config: Its settings.
        name: The stage.
        kind: Of failure, one of KINDS.
        work: Scratch folder.
        numbers: Which calls; None: each `every`-th.
        every: Of all calls.
    """
    out = work / "run"
    arguments = [name, str(config), f"run_dir={out}"]
    truth = contents(stage(name).path(RunConfig(run_dir=finished)))
    calls = int(server.run(arguments, prepare(finished, name, out))["calls"])
    tried = Tried()
    for nth in range(1, calls + 1, every) if numbers is None else (1 + number % calls for number in numbers):
        where = f"{name}, {kind}, call {nth} of {calls}"
        prepare(finished, name, out)
        found = server.run(arguments, out, nth, KINDS[kind])
        tried.failures += 1
        tried.one_line += found["code"] == 2
        tried.survived += found["code"] == 0
        if problem := complaint(found):
            tried.wrong.append(f"{where}: {problem}")
        again = server.run(arguments, out)
        if again["code"]:
            tried.wrong.append(f"{where}: running again ends with {again['errors'].splitlines()[-2:]}")
            continue
        made = contents(stage(name).path(RunConfig(run_dir=out)))
        differing = sorted(path for path in truth | made if truth.get(path) != made.get(path))
        tried.identical += not differing
        if differing:
            tried.wrong.append(f"{where}: other bytes in {differing[:5]}")
    return tried
