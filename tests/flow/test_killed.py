"""`retro run` killed with SIGKILL in every stage and started again ends like an unbroken run, byte for byte."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from retro.common.artifacts import read_manifest
from retro.run.config import RunConfig, as_yaml
from retro.run.pipeline import STAGES
from retro.training.log import read_log
from tests.tiny_road import small_config

pytestmark = pytest.mark.slow

# The file whose appearance, anywhere below the stage's directory, says that the stage is at work but not done.
AT_WORK = {
    "corpus": "tokenizer/*",
    "db": "*",
    "index": "*",
    "neighbors": "*",
    "pretrain": "retro/checkpoints/step_00000002/checkpoint.json",
    "perplexity": "*",
    "sft": "*/checkpoints/step_00000002/checkpoint.json",
    "generate": "*.jsonl",
    "evaluate": "*",
}
# Files whose content is rates, times, inodes, or an index that torch stamps with an identifier of its own.
NOT_COMPARED = {
    "report.json",
    "checkpoint.json",
    ".metadata",
    "log.jsonl",
    "result.json",
    "report.html",
    ".lock",
    ".locks",
}
NOT_COMPARED |= {".verified.json"}


def start(config: RunConfig, folder: Path, name: str) -> subprocess.Popen[bytes]:
    path = folder / f"{name}.yaml"
    path.write_text(as_yaml(config.model_copy(update={"run_dir": folder / name})))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "retro", "run", str(path)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)


def finish(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()[-3000:]


def kill_at_work(process: subprocess.Popen[bytes], directory: Path, pattern: str) -> None:
    """Kill as soon as the stage has written something."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        if any(directory.glob(pattern)):
            break
        if process.poll() is not None:
            finish(process)
            raise AssertionError(f"the run ended before {directory} held {pattern}")
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)


def contents(run: Path) -> dict[str, bytes]:
    """Every file that must not differ, by its path in the run."""
    found = {}
    for path in sorted(run.rglob("*")):
        if path.is_file() and not NOT_COMPARED & set(path.parts) and "checkpoints" not in path.parts:
            found[str(path.relative_to(run))] = path.read_bytes()
    return found


def losses(run: Path) -> dict[str, list[float]]:
    return {
        str(path.relative_to(run)): [
            float(line[key]) for line in read_log(path) for key in ("loss", "valid_loss") if key in line
        ]
        for path in sorted(run.rglob("log.jsonl"))
    }


def test_a_run_killed_in_every_stage_ends_like_an_unbroken_one(tmp_path: Path) -> None:
    config = small_config(tmp_path, "evaluate.bootstrap_samples=50")
    finish(start(config, tmp_path, "unbroken"))
    broken = tmp_path / "broken"
    for one in STAGES:
        kill_at_work(start(config, tmp_path, "broken"), broken / one.directory, AT_WORK[one.name])
    finish(start(config, tmp_path, "broken"))
    truth, found = contents(tmp_path / "unbroken"), contents(broken)
    assert sorted(found) == sorted(truth)
    assert [name for name in truth if truth[name] != found[name]] == []
    assert losses(broken) == losses(tmp_path / "unbroken")
    assert not list(broken.rglob("*.tmp"))
    for one in STAGES:
        read_manifest(broken / one.directory, one.name)


def test_a_second_process_in_the_same_run_is_refused(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    first = start(config, tmp_path, "run")
    while not (tmp_path / "run/.lock").exists():
        time.sleep(0.01)
    second = start(config, tmp_path, "run")
    _, errors = second.communicate(timeout=120)
    first.kill()
    first.communicate()
    assert second.returncode == 2
    assert b"another process works in this run" in errors.splitlines()[-1]
    assert json.dumps(errors.decode().count("Traceback")) == "0"
