"""What was written of a checkpoint is compared with what memory held."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync

from retro.common.errors import ArtifactError, TrainingError
from retro.mcore import checkpoint as sharded
from retro.mcore.engine import Engine
from retro.mcore.sharded_tensors import sums_of
from retro.model.model import RetroModel
from retro.training import checkpoint
from retro.training.checkpoint_writer import CheckpointWriter
from retro.training.config import ParallelConfig, TrainConfig
from retro.training.loop import build_engine
from tests.model.tiny import tiny_shape

CONFIG = TrainConfig(steps=4, global_batch=1, micro_batch=1, warmup_steps=0, precision="float32")


@pytest.fixture
def engine() -> Engine[RetroModel]:
    return build_engine(tiny_shape(), CONFIG, ParallelConfig())


def test_the_sum_follows_a_single_bit_and_is_taken_of_every_tensor(engine: Engine[RetroModel]) -> None:
    before = sums_of(engine.state())
    assert any(key.startswith("optimizer.state.exp_avg.") for key, _ in before)
    weight = next(engine.chunks[0].parameters())
    weight.data.view(-1).view(torch.int32)[3] ^= 1
    after = sums_of(engine.state())
    assert set(after) == set(before)
    assert len([place for place in before if before[place] != after[place]]) == 1


@pytest.mark.parametrize("background", [False, True])
def test_a_writer_that_saves_old_weights_is_found_out(
    engine: Engine[RetroModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, background: bool
) -> None:
    write = FileSystemWriterAsync.write_preloaded_data

    def stale(transforms: Any, number: int, bucket: Any, *rest: Any) -> None:
        path, key, (objects, tensors) = bucket
        item, tensor = tensors[-1]
        write(transforms, number, (path, key, (objects, [*tensors[:-1], (item, torch.zeros_like(tensor))])), *rest)

    monkeypatch.setattr(FileSystemWriterAsync, "write_preloaded_data", staticmethod(stale))
    engine.state()  # allocates what the optimizer keeps
    for chunk in engine.chunks:
        for weight in chunk.parameters():
            weight.data.add_(1.0)
    for state in engine.optimizer.optimizer.state.values():
        state["exp_avg"].fill_(1.0)
        state["exp_avg_sq"].fill_(1.0)
    config = CONFIG.model_copy(update={"async_save": background})
    with (
        pytest.raises(ArtifactError, match="is not what was written"),
        CheckpointWriter(engine, tiny_shape(), config, tmp_path) as saver,
    ):
        saver.save(1, learned=False)
    assert checkpoint.complete(tmp_path) == []


def test_copies_that_were_made_too_early_are_found_out(
    engine: Engine[RetroModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def zeros(bucket: Any) -> Any:
        path, key, (objects, tensors) = bucket
        return path, key, (objects, [(item, torch.full_like(tensor, 7.0)) for item, tensor in tensors])

    monkeypatch.setattr(sharded, "_copied", zeros)
    config = CONFIG.model_copy(update={"async_save": True})
    with (
        pytest.raises(ArtifactError, match="is not what memory held"),
        CheckpointWriter(engine, tiny_shape(), config, tmp_path) as saver,
    ):
        saver.save(1, learned=False)
    assert checkpoint.complete(tmp_path) == []


def test_two_saves_must_differ_where_training_went_on(engine: Engine[RetroModel], tmp_path: Path) -> None:
    saver = CheckpointWriter(engine, tiny_shape(), CONFIG, tmp_path)
    saver.save(1, learned=True)
    saver.save(2, learned=False)
    with pytest.raises(TrainingError, match=r"step 3: weights and optimizer state are those of step 2, bit for bit"):
        saver.save(3, learned=True)
    next(engine.chunks[0].parameters()).data.add_(1.0)
    saver.save(3, learned=True)
    assert [path.name for path in checkpoint.complete(tmp_path)] == ["step_00000002", "step_00000003"]


def test_a_checkpoint_that_is_removed_loses_its_name_first(
    engine: Engine[RetroModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CONFIG.model_copy(update={"keep_last": 1})
    saver = CheckpointWriter(engine, tiny_shape(), config, tmp_path)
    saver.save(1, learned=False)

    def killed(path: Path, **_: Any) -> None:
        if Path(path).exists():
            (Path(path) / "__0_0.distcp").unlink()
            raise KeyboardInterrupt

    monkeypatch.setattr("shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        saver.save(2, learned=False)
    monkeypatch.undo()
    assert [path.name for path in checkpoint.complete(tmp_path)] == ["step_00000002"]
    with CheckpointWriter(engine, tiny_shape(), config, tmp_path):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000002"]
