"""The doctor's look at the machine: Python, processor, memory, disk."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from pathlib import Path

import psutil

from retro.common.precision import choose, find_hardware
from retro.doctor.finding import Finding

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
    """Free space where runs/ will lie."""
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
