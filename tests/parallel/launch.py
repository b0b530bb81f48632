"""Starts processes under gloo, as torchrun would, and reads what they logged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch.distributed as dist

from tests.parallel.worker import do_all

ROOT = Path(__file__).parents[2]


def launch(processes: int, runs: list[dict[str, Any]], folder: Path) -> None:
    """Train, in so many processes, each of the runs in turn; see tests/parallel/worker.py for what a run says.

    One process is this one, which has imported everything already.
    """
    if processes == 1:
        do_all(runs)
        return
    folder.mkdir(parents=True, exist_ok=True)
    plan = folder / f"runs_{processes}_{len(list(folder.iterdir()))}.json"
    plan.write_text(json.dumps(runs))
    launch_module(processes, "tests.parallel.worker", str(plan))


def launch_module(processes: int, *arguments: str) -> None:
    """Run a module's `main` in so many processes; what they said is shown when one of them fails."""
    store = meeting_point()
    environment = os.environ | {**store_variables(store), "WORLD_SIZE": str(processes)}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.parallel.forked", *arguments]
    ended = subprocess.run(command, env=environment, stderr=subprocess.PIPE, timeout=600, check=False)
    assert not ended.returncode, ended.stderr.decode()[-6000:]


def meeting_point() -> Any:
    """A store that this process keeps for those that it starts; it lives as long as this object.

    A port that is looked for here and opened by a process that first imports torch may be taken in between.
    """
    return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]


def store_variables(store: Any) -> dict[str, str]:
    """The variables by which torchrun tells its processes of a store that it keeps itself."""
    return {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }


def curve(out: Path) -> dict[str, list[float]]:
    """Losses, gradient norms and validation losses of a run."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    names = ("loss", "grad_norm", "valid_loss")
    return {name: [line[name] for line in lines if name in line] for name in names}
