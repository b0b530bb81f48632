"""Starts processes under gloo, as torchrun would, and reads what they logged."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def launch(processes: int, runs: list[dict[str, Any]], folder: Path) -> None:
    """Train, in so many processes, each of the runs in turn; see tests/parallel/worker.py for what a run says."""
    folder.mkdir(parents=True, exist_ok=True)
    plan = folder / f"runs_{processes}_{len(list(folder.iterdir()))}.json"
    plan.write_text(json.dumps(runs))
    launch_module(processes, "tests.parallel.worker", str(plan))


def launch_module(processes: int, *arguments: str) -> None:
    """Run a module in so many processes; a process that fails shows its last words."""
    common = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(processes),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    started = [
        subprocess.Popen(
            [sys.executable, "-m", *arguments],
            env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
        )
        for rank in range(processes)
    ]
    said = [process.communicate(timeout=600)[1].decode() for process in started]
    failed = [words[-3000:] for process, words in zip(started, said, strict=True) if process.returncode]
    assert not failed, "\n".join(failed)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def curve(out: Path) -> dict[str, list[float]]:
    """Losses, gradient norms and validation losses of a run."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    names = ("loss", "grad_norm", "valid_loss")
    return {name: [line[name] for line in lines if name in line] for name in names}
