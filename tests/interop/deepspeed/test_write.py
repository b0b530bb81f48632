"""The DeepSpeed file of a run: complete, without null, and read back without a mismatch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from retro.common.errors import ArtifactError, ConfigError
from retro.interop.deepspeed.settings_file import SettingsFile
from retro.interop.deepspeed.write import matching_config, write_config
from tests.interop.deepspeed.runs import checked, file_of, matching, put, rows, run_of


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("warmup", [0, 1, 3])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_is_written_has_no_mismatch_whatever_the_run(
    tmp_path: Path, schedule: str, warmup: int, precision: str
) -> None:
    run = run_of(2, schedule=schedule, warmup_steps=warmup, precision=precision, clip=0.0, global_batch=48)
    config = matching_config(run)
    assert config["gradient_accumulation_steps"] == 3
    found = checked(config, tmp_path, run)
    assert (rows(found), found.filled, found.absent) == ({}, [], [])


def test_the_users_zero_and_other_sections_stay_and_what_is_wrong_goes(tmp_path: Path) -> None:
    data = put(matching(), "optimizer.params.lr", "auto")
    data |= {"wall_clock_breakdown": True, "train_micro_batch_size": 3, "steps_per_print": None}
    data["zero_optimization"] = {
        "stage": "2",
        "overlap_comm": True,
        "reduce_bucket_size": "auto",
        "offload_optimizer": {"device": "cpu", "nvme_path": None},
        "misspelled": 1,
    }
    config = matching_config(run_of(), file_of(data, tmp_path))
    assert config["zero_optimization"] == {"stage": "2", "overlap_comm": True, "offload_optimizer": {"device": "cpu"}}
    assert config["wall_clock_breakdown"] is True
    assert config["optimizer"] == matching()["optimizer"]
    assert config.keys() == {*matching(), "fp16", "wall_clock_breakdown"}
    assert rows(checked(config, tmp_path)) == {}


@pytest.mark.parametrize(("distributed", "stage"), [(False, 0), (True, 1)])
def test_without_a_file_zero_is_that_of_the_run(distributed: bool, stage: int) -> None:
    config = matching_config(run_of(layout={"distributed_optimizer": distributed}))
    assert config["zero_optimization"] == {"stage": stage}


def test_the_old_truth_value_becomes_a_stage(tmp_path: Path) -> None:
    theirs = file_of({"zero_optimization": True}, tmp_path)
    assert matching_config(run_of(), theirs)["zero_optimization"] == {"stage": 1}


def test_zero_3_beside_a_quantized_base_is_not_written(tmp_path: Path) -> None:
    theirs = file_of({"zero_optimization": {"stage": 3}}, tmp_path)
    with pytest.raises(ConfigError, match=r"zero_optimization\.stage = 3: cannot be written beside QLoRA"):
        matching_config(run_of(lora={}), theirs, quantized=True)
    assert matching_config(run_of(lora={}), theirs)["zero_optimization"] == {"stage": 3}


def test_a_file_is_written_whole_and_replaced_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "new" / "ds.json"
    write_config(path, matching_config(run_of()), force=False)
    first = path.read_bytes()
    assert json.loads(first) == matching_config(run_of())
    with pytest.raises(ArtifactError, match=r"is there already\. Give another --write, or --force"):
        write_config(path, matching_config(run_of(lr=1e-3)), force=False)
    assert path.read_bytes() == first
    write_config(path, matching_config(run_of(lr=1e-3)), force=True)
    assert SettingsFile.read(path, "DeepSpeed file").number("optimizer.params.lr") == 1e-3
    assert [one.name for one in path.parent.iterdir()] == ["ds.json"]


def nulls(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return int(value is None) + sum(map(nulls, inner))


def test_no_null_is_ever_written(tmp_path: Path) -> None:
    data = put(put(matching(), "zero_optimization.offload_param", None), "scheduler.params.warmup_min_lr", None)
    assert nulls(data) == 2
    assert nulls(matching_config(run_of(), file_of(data, tmp_path))) == 0
