"""Run a target over many inputs in processes of their own, so that the death or the hang of one is counted."""

from __future__ import annotations

import logging
import os
import resource
import signal
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from retro.common.errors import RetroError
from tests.fuzz.mutate import mutated
from tests.fuzz.targets import TARGETS

SECONDS = 60
"""After so long without an answer an input is taken as a hang."""
MEMORY = 6 << 30
"""Bytes of address space: an input that makes its reader take more is a failure."""
_PLACE, _RESULT = "place", "result"


@dataclass
class Outcome:
    """What came of a run."""

    inputs: int = 0
    values: int = 0
    """Inputs that gave a value."""
    errors: int = 0
    """Inputs that gave one error of ours."""
    failures: dict[str, int] = field(default_factory=dict)
    """Everything else: what it was, with the number of the first input that did it."""
    counts: Counter[str] = field(default_factory=Counter)
    """How often."""


def input_of(target: str, number: int, seed: int) -> bytes:
    """Input `number` of a run: a seed itself for the first ones, so that what a reader should read is read."""
    seeds = TARGETS[target].seeds()
    return seeds[number] if number < len(seeds) else mutated(seeds, f"{target}/{seed}/{number}")


def read_one(target: str, content: bytes, folder: Path) -> bool:
    """Whether a reader gives a value; False: one error of ours, which can be printed as UTF-8."""
    path = folder / TARGETS[target].file
    path.write_bytes(content)
    try:
        TARGETS[target].read(path)
    except RetroError as error:
        str(error).encode("utf-8", "backslashreplace")
        return False
    return True


def run(target: str, inputs: int, seed: int) -> Outcome:
    """Read inputs 0 to `inputs` - 1; a process that dies is followed by another one that continues behind its input."""
    outcome, first = Outcome(), 0
    TARGETS[target].seeds()  # what fails here is not a finding
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as name:  # noqa: PTH112
        folder = Path(name)
        while first < inputs:
            (folder / _PLACE).write_text(str(first))
            command = [sys.executable, "-m", "tests.fuzz", target, "--child", name, str(first), str(inputs), str(seed)]
            done = subprocess.run(command, capture_output=True, check=False)
            _collect(folder, outcome)
            last = int((folder / _PLACE).read_text())
            if done.returncode == 0:
                break
            tail = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
            _failed(outcome, last, f"exit {done.returncode} {' '.join(tail)[:200]}")
            outcome.inputs += 1
            first = last + 1
    return outcome


def child(target: str, folder: Path, first: int, stop: int, seed: int) -> None:
    """Read inputs `first` to `stop` - 1 in this process; the place and what came of them are left in `folder`."""
    logging.disable(logging.CRITICAL)
    seeds = TARGETS[target].seeds()
    home = folder / "home"
    home.mkdir(exist_ok=True)
    read_one(target, seeds[0], home)  # loads what has to be loaded
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with (folder / _PLACE).open("r+b") as place, (folder / _RESULT).open("w") as results:
        for number in range(first, stop):
            os.pwrite(place.fileno(), f"{number:<20}".encode(), 0)
            signal.alarm(SECONDS)
            content = seeds[number] if number < len(seeds) else mutated(seeds, f"{target}/{seed}/{number}")
            try:
                line = "value" if read_one(target, content, home) else "error"
            except Exception:  # noqa: BLE001 - this is what is looked for
                line = f"{number} {_last_line(traceback.format_exc())}"
            results.write(line + "\n")
            results.flush()
            signal.alarm(0)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.strip().splitlines()]
    where = [line for line in lines if line.startswith("File ")][-1:]
    return f"{lines[-1][:150]} at {' '.join(where)[:150]}"


def _collect(folder: Path, outcome: Outcome) -> None:
    for line in (folder / _RESULT).read_text(errors="replace").splitlines() if (folder / _RESULT).exists() else ():
        outcome.inputs += 1
        if line == "value":
            outcome.values += 1
        elif line == "error":
            outcome.errors += 1
        else:
            number, _, what = line.partition(" ")
            _failed(outcome, int(number), what)
    (folder / _RESULT).unlink(missing_ok=True)


def _failed(outcome: Outcome, number: int, what: str) -> None:
    outcome.failures.setdefault(what, number)
    outcome.counts[what] += 1
