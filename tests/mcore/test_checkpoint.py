"""Checkpoints are loaded without executing code from them."""

from __future__ import annotations

import pickle
import queue
from pathlib import Path

import psutil
import pytest
import torch

from retro.common.errors import ArtifactError
from retro.mcore import checkpoint
from retro.mcore.sharded_tensors import StoredTensors
from retro.training.checkpoint_writer import CheckpointWriter
from retro.training.config import ParallelConfig, TrainConfig
from retro.training.loop import build_engine
from tests.mcore.hostile import Evil
from tests.model.tiny import tiny_model, tiny_shape


def test_saving_starts_no_other_process(tmp_path: Path) -> None:
    # megatron-core's own choice is a manager process that a killed run leaves behind.
    shape = tiny_shape()
    model = tiny_model(shape)
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    checkpoint.save({"model": model.sharded_state_dict(metadata={"non_homogeneous_layers": True})}, tmp_path)
    assert {child.pid for child in psutil.Process().children(recursive=True)} == before
    assert StoredTensors(tmp_path).sizes["output_layer.weight"] == (50, 16)


def test_a_full_disk_while_saving_names_the_checkpoint_and_frees_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: object, number: int, bucket: object, results: queue.Queue[object], *__: object) -> None:
        results.put((number, OSError(28, "No space left on device")))

    config = TrainConfig(precision="float32")
    engine = build_engine(tiny_shape(), config, ParallelConfig())
    monkeypatch.setattr("retro.mcore.checkpoint.FileSystemWriterAsync.write_preloaded_data", full)
    with pytest.raises(ArtifactError, match=r"step_00000007: the disk is full; .* run the same command again"):
        CheckpointWriter(engine, tiny_shape(), config, tmp_path).save(7, learned=False)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A checkpoint of a few tensors and of how far training had come."""
    state = tiny_model(tiny_shape()).sharded_state_dict(metadata={"non_homogeneous_layers": True})
    checkpoint.save({"weights": state, "progress": {"steps": 3}}, tmp_path)
    return tmp_path


def test_what_was_saved_is_loaded_again_bit_for_bit(saved: Path) -> None:
    model = tiny_model(tiny_shape(), seed=9)
    state = model.sharded_state_dict(metadata={"non_homogeneous_layers": True})
    loaded = checkpoint.load({"weights": state}, saved)
    assert loaded["progress"] == {"steps": 3}
    wanted = dict(tiny_model(tiny_shape()).named_parameters())
    assert all(torch.equal(loaded["weights"][name], weight) for name, weight in wanted.items())


def test_a_tensor_of_another_size_is_named_with_both_sizes(saved: Path) -> None:
    state = tiny_model(tiny_shape(ffn_hidden_size=48)).sharded_state_dict(metadata={"non_homogeneous_layers": True})
    with pytest.raises(ArtifactError, match=r"mlp\.linear_fc1\.weight is \[\d+, 16\] there, \[\d+, 16\] in the model"):
        checkpoint.load({"weights": state}, saved)


def test_a_missing_tensor_is_named(saved: Path) -> None:
    state = tiny_model(tiny_shape(layers=5)).sharded_state_dict(metadata={"non_homogeneous_layers": True})
    with pytest.raises(ArtifactError, match=r"cannot be loaded: decoder\.layers\.3\.\S+ is missing"):
        checkpoint.load({"weights": state}, saved)


def test_common_values_with_code_in_them_are_refused_and_do_not_run(saved: Path, tmp_path: Path) -> None:
    torch.save({"progress": Evil(tmp_path / "ran")}, saved / "common.pt")
    with pytest.raises(ArtifactError, match=r"common\.pt: cannot be read safely: it names posix\.system"):
        checkpoint.load({}, saved)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"garbage", pickle.dumps({"a": 1})])
def test_common_values_that_are_damaged_are_an_artifact_error(saved: Path, content: bytes) -> None:
    (saved / "common.pt").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"common\.pt: cannot be read safely: it is cut short or not a torch file"):
        checkpoint.load({}, saved)
    (saved / "common.pt").unlink()
    with pytest.raises(ArtifactError, match=r"common\.pt: is missing"):
        checkpoint.load({}, saved)
