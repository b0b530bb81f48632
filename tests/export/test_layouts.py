"""A checkpoint written by several processes is exported by one, and has the loss that they measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from retro.export.run import export
from tests.export.test_modeling import load
from tests.training.fake import CycleSource

ROOT = Path(__file__).parents[2]
LAYOUTS: dict[str, dict[str, Any]] = {"TP2": {"tensor": 2}}
WORKER = """
import json, sys
from pathlib import Path
from retro.mcore import parallel
from retro.training.config import ParallelConfig, TrainConfig
from retro.training.loop import Validation, train
from tests.model.tiny import tiny_shape
from tests.training.fake import CycleSource

train(
    out=Path(sys.argv[1]), shape=tiny_shape(vocabulary_multiple=2),
    config=TrainConfig(steps=2, micro_batch=2, global_batch=4, lr=1e-2, warmup_steps=0, evaluate_every=2,
                       evaluate_samples=6, save_every=2),
    layout=ParallelConfig(**json.loads(sys.argv[2])), source=CycleSource(),
    validation=Validation(source=CycleSource(), samples=6),
)
parallel.stop()
"""


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_one_process_exports_what_several_trained(layout: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text(WORKER)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, str(tmp_path / "worker.py"), str(tmp_path / "run"), json.dumps(layout)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=300,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    measured = next(line["valid_loss"] for line in lines if "valid_loss" in line)

    found = load(export(tmp_path / "run", tmp_path / "out"))
    batch = CycleSource().fetch(np.arange(6))
    assert batch.neighbors_BLKR is not None
    assert batch.neighbor_mask_BLKR is not None
    logits = found(
        torch.from_numpy(batch.tokens_BS),
        torch.from_numpy(batch.neighbors_BLKR),
        torch.from_numpy(batch.neighbor_mask_BLKR),
    ).logits
    # No row pads a vocabulary of 50 over two processes, so the softmax runs over the same rows.
    loss = functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(batch.labels_BS).flatten())
    assert loss.item() == pytest.approx(measured, rel=2e-5)
