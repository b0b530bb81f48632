"""Tensor and data parallel training has the losses of one process, under gloo, in processes of their own.

Tolerance: sums over ranks are formed in another order, so float32 losses agree to 2e-5 relative, not to the bit.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

RELATIVE_TOLERANCE = 2e-5

WORKER = """
import sys
from pathlib import Path
from retro.training.config import ParallelConfig, TrainConfig
from retro.training.loop import Validation, train
from tests.model.tiny import tiny_shape
from tests.training.fake import CycleSource

def main():
    out, start, tensor, retrieval, steps = sys.argv[1:]
    config = TrainConfig(
        steps=int(steps), micro_batch=2, global_batch=8, lr=1e-3, warmup_steps=0, schedule="constant",
        log_every=1, evaluate_every=3, evaluate_samples=7, save_every=3,
    )
    train(
        out=Path(out), shape=tiny_shape(retrieval=retrieval == "retro"), config=config,
        layout=ParallelConfig(tensor=int(tensor)), source=CycleSource(),
        validation=Validation(source=CycleSource(), samples=7),
        start_from=Path(start) if start != "-" else None,
    )

if __name__ == "__main__":
    main()
"""


def launch(processes: int, *arguments: str, tmp_path: Path, worker: str = WORKER) -> None:
    """Run the worker under torch's launcher variables, one process a rank."""
    script = tmp_path / "worker.py"
    script.write_text(worker)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(processes),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    command = [sys.executable, str(script), *arguments]
    started = [
        subprocess.Popen(command, env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, stderr=subprocess.PIPE)
        for rank in range(processes)
    ]
    for process in started:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors.decode()[-2000:]


def curve(out: Path) -> dict[str, list[float]]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    names = ("loss", "grad_norm", "valid_loss")
    return {name: [line[name] for line in lines if name in line] for name in names}


@pytest.fixture(scope="module", params=["retro", "gpt"])
def one_process(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    """Weights to start from, and five steps on from them in one process."""
    kind = str(request.param)
    tmp_path = tmp_path_factory.mktemp(kind)
    launch(1, str(tmp_path / "start"), "-", "1", kind, "1", tmp_path=tmp_path)
    launch(1, str(tmp_path / "one"), str(tmp_path / "start"), "1", kind, "5", tmp_path=tmp_path)
    return kind, tmp_path / "start", tmp_path / "one"


@pytest.mark.parametrize(("processes", "tensor"), [(2, 2), (2, 1), (4, 2)], ids=["TP2", "DP2", "TP2 DP2"])
def test_losses_and_gradients_equal_one_process(
    one_process: tuple[str, Path, Path], processes: int, tensor: int, tmp_path: Path
) -> None:
    kind, start, truth = one_process
    launch(processes, str(tmp_path / "many"), str(start), str(tensor), kind, "5", tmp_path=tmp_path)
    expected, found = curve(truth), curve(tmp_path / "many")
    assert len(found["loss"]) == 5
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=RELATIVE_TOLERANCE, err_msg=name)
