"""`retro doctor`: what is installed, what is missing or wrong, and what to do about it.

Every check looks without running: a wrong package is found by its files and its metadata, not by importing it.
Nothing here fails because something is missing, so it can be the first thing that runs on a new machine.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import psutil

from retro.common.precision import choose, find_hardware
from retro.common.terminal import Table, Terminal, output, styled
from retro.run import doctor_packages
from retro.run.doctor_packages import Finding

GIB = 2**30
CGROUP = Path("/sys/fs/cgroup")
# The quickstart's own needs on two cores; thresholds, not measurements of larger runs.
MEMORY_GIB = 4
DISK_GIB = 2


def python() -> Finding:
    """The interpreter, and the environment it runs from."""
    return Finding("Python", "ok", f"{platform.python_version()} in {sys.prefix}")


def cores() -> Finding:
    """The cores that this process may use, which in a container or a batch job is not all."""
    usable, threads = len(os.sched_getaffinity(0)), os.environ.get("OMP_NUM_THREADS")
    found = f"{usable} of {os.cpu_count()} usable"
    if threads is not None and threads.isdecimal() and int(threads) < usable:
        return Finding("cores", "note", f"{found}, but OMP_NUM_THREADS={threads}", "Unset it to use all of them")
    return Finding("cores", "ok", found)


def precision() -> Finding:
    """What `precision: auto` is here, and why."""
    choice, asked_for = choose("auto"), choose("bfloat16")
    found = f"auto is {choice.precision}, since {find_hardware().said}"
    advice = f"Leave it at auto: {asked_for.cost}" if asked_for.cost else ""
    return Finding("precision", "ok", found, advice)


def memory() -> Finding:
    """Free memory, within the limit that a container sets."""
    free = min(psutil.virtual_memory().available, _left_in_container())
    advice = f"Below {MEMORY_GIB} GiB expect trouble; stop other programs or use fewer train.micro_batch sequences"
    return _room("memory", free, MEMORY_GIB, advice)


def disk() -> Finding:
    """Free space where runs/ will be."""
    return _room("disk", shutil.disk_usage(Path.cwd()).free, DISK_GIB, "Free some, or set run_dir to a larger disk")


def _room(name: str, free: float, wanted_gib: int, advice: str) -> Finding:
    found = f"{free / GIB:.1f} GiB free"
    return Finding(name, "ok", found) if free >= wanted_gib * GIB else Finding(name, "note", found, advice)


def _left_in_container() -> float:
    try:
        limit = (CGROUP / "memory.max").read_text(encoding="ascii").strip()
        used = (CGROUP / "memory.current").read_text(encoding="ascii").strip()
        return float("inf") if limit == "max" else int(limit) - int(used)
    except (OSError, ValueError):
        return float("inf")


__all__ = ["Finding", "examine", "report", "run"]

CHECKS: tuple[Callable[[], Finding], ...] = (
    python,
    doctor_packages.torch_build,
    doctor_packages.cuda_devices,
    doctor_packages.megatron_core,
    doctor_packages.faiss,
    doctor_packages.transformer_engine,
    doctor_packages.apex,
    doctor_packages.retro_import,
    doctor_packages.embedder,
    cores,
    precision,
    memory,
    disk,
)

_COLORS = {"ok": "green", "note": "yellow", "problem": "bold red"}


def examine() -> list[Finding]:
    """All findings, in the order of `CHECKS`. Takes a second, and where there may be a GPU torch's import too."""
    return [check() for check in CHECKS]


def report(findings: Sequence[Finding]) -> Table:
    """The findings as a table; colors only stress what the words say."""
    table = Table(rules="ends")
    table.add_column("State", whole=True)
    table.add_column("What", whole=True)
    table.add_column("Found, and what to do", fold=True)
    for finding in findings:
        advice = (f"\n→ {finding.advice}", "bold") if finding.advice else ""
        table.add_row(styled((finding.state, _COLORS[finding.state])), finding.name, styled(finding.found, advice))
    return table


def run(terminal: Terminal = output, *, as_json: bool = False) -> int:
    """Print the table, or the findings for machines; 1 when a problem was found, else 0."""
    findings = examine()
    problems = sum(finding.state == "problem" for finding in findings)
    if as_json:
        terminal.json([asdict(finding) for finding in findings])
        return 1 if problems else 0
    terminal.table(report(findings))
    terminal.say(f"{problems} to fix, see above." if problems else "Nothing to fix.")
    return 1 if problems else 0
