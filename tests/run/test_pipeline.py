from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from retro.common.errors import ArtifactError
from retro.run.config import RunConfig, load_run_config
from retro.run.pipeline import is_being_made, stage, stage_lock


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return RunConfig(run_dir=tmp_path)


def refused(lock: AbstractContextManager[None]) -> str:
    """What a lock that cannot be had says."""
    with pytest.raises(ArtifactError, match="another process works in this run on") as caught, lock:
        pass
    return str(caught.value).partition(" on ")[2].partition(".")[0]


def test_stages_that_do_not_touch_each_others_files_run_side_by_side(config: RunConfig) -> None:
    with stage_lock(config, "pretrain"), stage_lock(config, "generate"), stage_lock(config, "evaluate"):
        assert is_being_made(config, stage("pretrain"))
        assert not is_being_made(config, stage("sft"))
        with stage_lock(config, "corpus", together=True):
            pass


def test_a_stage_is_made_by_one_process_unless_by_workers_together(config: RunConfig) -> None:
    with stage_lock(config, "sft"):
        assert refused(stage_lock(config, "sft")) == "sft"
    with stage_lock(config, "db", together=True), stage_lock(config, "db", together=True):
        assert refused(stage_lock(config, "db")) == "db"


def test_what_somebody_reads_or_makes_is_not_removed(config: RunConfig) -> None:
    with stage_lock(config, "pretrain"):
        assert refused(stage_lock(config, "corpus", redo=True)) == "corpus"
        assert refused(stage_lock(config, "pretrain", redo=True)) == "pretrain"
        with stage_lock(config, "sft", redo=True):
            assert refused(stage_lock(config, "generate")) == "sft"
    with stage_lock(config, "generate"):
        # Its own answers come after what is made again.
        assert refused(stage_lock(config, "sft", redo=True)) == "sft"


def test_answers_under_two_names_are_two_stages(tmp_path: Path) -> None:
    one, two = (load_run_config(None, [f"run_dir={tmp_path}", f"generate.name={name}"]) for name in ("a", "b"))
    with stage_lock(one, "generate"), stage_lock(two, "generate"):
        assert refused(stage_lock(two, "generate")) == "generate"


def test_a_stage_whose_path_is_no_folder_does_not_begin(config: RunConfig) -> None:
    path = stage("index").path(config)
    path.write_text("no folder")
    for name, redo in (("index", False), ("db", True)):
        with pytest.raises(ArtifactError, match="3_index: is not a folder"), stage_lock(config, name, redo=redo):
            pass
    with stage_lock(config, "evaluate"):
        assert path.exists()
