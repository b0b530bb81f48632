"""A checkpoint written by several processes is exported by one, and has the loss that they measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from retro.interop.export import export
from tests.interop.test_modeling import load
from tests.parallel.launch import launch
from tests.training.fake import CycleSource

# No row pads a vocabulary of 50 over two processes.
MODEL = {"layers": 4, "vocabulary_multiple": 2}
LAYOUTS: dict[str, dict[str, Any]] = {
    "TP2 SP": {"tensor": 2, "sequence": True},
    "PP2 VPP2": {"pipeline": 2, "virtual_pipeline": 2},
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_one_process_exports_what_several_trained(layout: dict[str, Any], tmp_path: Path) -> None:
    settings = {"steps": 2, "global_batch": 4, "evaluate_every": 2, "evaluate_samples": 6, "save_every": 2}
    run = {"out": str(tmp_path / "run"), "layout": layout, "model": MODEL, "settings": settings}
    launch(2, [run], tmp_path / "launch")
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
    loss = functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(batch.labels_BS).flatten())
    assert loss.item() == pytest.approx(measured, rel=2e-5)
