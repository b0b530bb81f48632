"""Checkpoints in the background: what they hold, when they are complete, and what a cut-short one leaves."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from retro.mcore import checkpoint as sharded
from retro.training import checkpoint
from retro.training.batch import Batch
from retro.training.checkpoint_writer import superseded
from retro.training.config import ParallelConfig, TrainConfig
from retro.training.loop import train
from tests.model.tiny import tiny_shape
from tests.training.fake import CycleSource


class LateSource(CycleSource):
    """Runs something before sample `late` is given."""

    def __init__(self, late: int, act: Any) -> None:
        super().__init__()
        self.late, self.act = late, act

    def fetch(self, sample_numbers: NDArray[np.int64]) -> Batch:
        """Samples by number."""
        if self.late in sample_numbers:
            self.act()
        return super().fetch(sample_numbers)


def run(out: Path, source: CycleSource | None = None, **settings: Any) -> None:
    usual = {"steps": 6, "global_batch": 4, "micro_batch": 4, "lr": 3e-3, "warmup_steps": 0, "save_every": 2}
    config = TrainConfig(**(usual | {"precision": "float32"} | settings))
    train(
        out=out,
        shape=tiny_shape(),
        config=config,
        layout=ParallelConfig(),
        source=source or CycleSource(),
        validation=None,
    )


def weights(path: Path) -> dict[str, torch.Tensor]:
    return dict(checkpoint.load_model(path)[0].named_parameters())


def test_training_goes_on_while_a_checkpoint_is_written_and_does_not_change_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_write, seen = threading.Event(), []
    write = sharded.AsyncSave._write

    def late(self: sharded.AsyncSave, buckets: list[Any]) -> None:
        assert may_write.wait(60)
        write(self, buckets)

    def look() -> None:
        # Samples 12 to 15 are those of step 4: steps 3 and 4 began before the checkpoint of step 2 was written.
        seen.append([path.name for path in checkpoint.complete(tmp_path / "late/checkpoints")])
        may_write.set()

    run(tmp_path / "plain", keep_last=9)
    monkeypatch.setattr(sharded.AsyncSave, "_write", late)
    run(tmp_path / "late", LateSource(12, look), keep_last=9, async_save=True)
    assert seen == [[]]
    for one in ("step_00000002", "step_00000004", "step_00000006"):
        expected, found = (weights(tmp_path / name / "checkpoints" / one) for name in ("plain", "late"))
        assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_run_that_ends_while_a_checkpoint_is_written_goes_on_from_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    run(tmp_path / "unbroken")
    monkeypatch.setattr(sharded.AsyncSave, "written", lambda self: False)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", LateSource(20, stop), async_save=True)
    assert [path.name for path in checkpoint.complete(tmp_path / "broken/checkpoints")] == ["step_00000002"]
    monkeypatch.undo()
    run(tmp_path / "broken", async_save=True)
    expected, found = (weights(tmp_path / name) for name in ("unbroken", "broken"))
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert not list(tmp_path.rglob("*.tmp"))


def test_what_need_not_be_kept() -> None:
    steps = [checkpoint.step_directory(Path(), step) for step in (10, 20, 30, 40, 50)]
    assert superseded(steps, keep_last=2, keep_every=0) == steps[:3]
    assert superseded(steps, keep_last=1, keep_every=20) == [steps[0], steps[2]]
    assert superseded(steps, keep_last=9, keep_every=0) == []


def test_what_a_kill_left_of_another_step_is_removed(tmp_path: Path) -> None:
    left = tmp_path / "checkpoints/.step_00000003.tmp"
    left.mkdir(parents=True)
    (left / "__0_0.distcp").write_bytes(b"half")
    run(tmp_path)
    assert not left.exists()
