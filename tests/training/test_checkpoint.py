"""Which checkpoint a path means, and whether it is of the size that its user names."""

from __future__ import annotations

from pathlib import Path

import pytest

from retro.common.config import config_json
from retro.common.errors import ArtifactError, TrainingError
from retro.common.files import write_json
from retro.training import checkpoint
from retro.training.result import INFO
from tests.model.tiny import tiny_shape


def write(directory: Path, step: int) -> Path:
    """A checkpoint that says what it is, and has no weights."""
    path = checkpoint.step_directory(directory, step)
    info = {"shape": config_json(tiny_shape()), "step": step, "config": {}, "files": {}}
    write_json(path / INFO, info)
    return path


def test_a_path_means_a_checkpoint_or_the_newest_below_it(tmp_path: Path) -> None:
    _, new = write(tmp_path / "run/checkpoints", 9), write(tmp_path / "run/checkpoints", 10)
    assert checkpoint.find(new) == new
    assert checkpoint.find(tmp_path / "run") == new
    assert checkpoint.find(tmp_path / "run/checkpoints") == new


def test_a_step_picks_its_checkpoint(tmp_path: Path) -> None:
    old, new = write(tmp_path / "run/checkpoints", 9), write(tmp_path / "run/checkpoints", 10)
    assert checkpoint.find(tmp_path / "run", 9) == old
    assert checkpoint.find(tmp_path / "run/checkpoints", 10) == new
    assert checkpoint.find(old, 9) == old


def test_a_copy_under_another_name_keeps_its_step(tmp_path: Path) -> None:
    copy = write(tmp_path, 9).rename(tmp_path / "best")
    assert checkpoint.find(copy, 9) == copy


def test_a_step_that_is_not_there_is_answered_with_those_that_are(tmp_path: Path) -> None:
    old = write(tmp_path, 9)
    write(tmp_path, 10)
    with pytest.raises(ArtifactError, match=r"holds no checkpoint of step 1, only of 9, 10\. Give one of these"):
        checkpoint.find(tmp_path, 1)
    with pytest.raises(ArtifactError, match=r"step_00000009: holds no checkpoint of step 10, only of 9"):
        checkpoint.find(old, 10)
    with pytest.raises(ArtifactError, match="holds no complete checkpoint"):
        checkpoint.find(tmp_path / "nothing", 9)


def test_a_size_that_the_checkpoint_does_not_have_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, 9)
    checkpoint.require_size(path, None)
    checkpoint.require_size(path, "tiny")
    with pytest.raises(TrainingError, match=r"step_00000009: is of size 'tiny', not '843m'\. Name its own size"):
        checkpoint.require_size(path, "843m")
