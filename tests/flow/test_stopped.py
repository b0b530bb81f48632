"""Ctrl-C and SIGTERM sent to running stages: one line, the exit code of the signal, and the same command continues."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from retro.common.files import read_json
from retro.run.config import as_yaml
from retro.training.checkpoint import complete
from tests.tiny_road import run_stages, small_config


def begun(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    root = Path(__file__).parents[2]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    command = [sys.executable, "-m", "retro", *arguments]
    # In a group of its own, as a shell starts it, so that Ctrl-C reaches it and what it started.
    return subprocess.Popen(command, env=environment, cwd=folder, stderr=subprocess.PIPE, text=True, process_group=0)


def stopped(process: subprocess.Popen[str], number: int, at: str) -> tuple[int, list[str]]:
    """Exit code and last lines of a process that gets a signal once it has logged `at`."""
    assert process.stderr is not None
    for line in process.stderr:
        if at in line:
            break
    os.killpg(process.pid, number)
    _, rest = process.communicate(timeout=300)
    assert "Traceback" not in rest
    return process.returncode, [line for line in rest.splitlines() if line.startswith("retro: ")]


def test_workers_end_with_the_command_that_started_them_and_it_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(as_yaml(small_config(tmp_path)))
    command = ["corpus", "run.yaml", "--workers", "2"]
    line = "retro: stopped by Ctrl-C; what is finished is kept. Go on with: retro corpus run.yaml --workers 2"
    assert stopped(begun(tmp_path, *command), signal.SIGINT, "corpus: starting") == (130, [line])
    done = begun(tmp_path, *command)
    _, errors = done.communicate(timeout=300)
    assert done.returncode == 0, errors
    assert read_json(tmp_path / "run/1_corpus/manifest.json", "")["stage"] == "corpus"


@pytest.mark.slow
def test_training_ends_between_two_checkpoints_and_keeps_the_last(tmp_path: Path) -> None:
    config = small_config(tmp_path, "train.steps=100000", "train.save_every=1", "train.evaluate_every=100000")
    run_stages(config, "corpus", "db", "index", "neighbors")
    (tmp_path / "run.yaml").write_text(as_yaml(config))
    command = ["pretrain", "run.yaml", "train.log_every=1"]
    process = begun(tmp_path, *command)
    checkpoints = tmp_path / "run/5_pretrain/retro/checkpoints"
    while process.poll() is None and not (checkpoints.exists() and complete(checkpoints)):
        signal.sigtimedwait([], 0.05)
    line = f"retro: stopped by SIGTERM; what is finished is kept. Go on with: retro {' '.join(command)}"
    assert stopped(process, signal.SIGTERM, "built of") == (143, [line])
    assert complete(checkpoints)
