"""Arguments of HuggingFace's Trainer beside a run."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from retro.common.errors import DataError
from retro.interop.deepspeed.findings import Findings
from retro.interop.deepspeed.run_settings import RunSettings
from retro.interop.deepspeed.trainer_check import check_arguments, schedule_of
from retro.interop.deepspeed.trainer_names import ARGUMENTS, FORMER, NEVER_NULL
from retro.interop.deepspeed.trainer_steps import steps_of_epochs
from retro.mcore.engine import learning_rate
from tests.interop.deepspeed.runs import file_of, matching, put, rows, run_of


def arguments() -> dict[str, Any]:
    """Arguments that match `run_of()`, by hand."""
    return {
        "output_dir": "out",
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 2,
        "learning_rate": "5e-5",
        "weight_decay": 0.01,
        "adam_beta2": 0.98,
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": 0.1},
        "warmup_steps": 3,
        "max_steps": 100,
        "bf16": True,
    }


def compared(
    data: Any, folder: Path, run: RunSettings | None = None, samples: int | None = None, **options: Any
) -> Findings:
    return check_arguments(file_of(data, folder, "args.json"), run or run_of(), samples=samples, **options)


def test_arguments_with_the_runs_values_have_no_mismatch(tmp_path: Path) -> None:
    found = compared(arguments(), tmp_path)
    assert (rows(found), found.notes) == ({}, [])


def test_absent_arguments_count_with_their_defaults(tmp_path: Path) -> None:
    assert rows(compared({"output_dir": "out", "max_steps": 100}, tmp_path)) == {
        "weight_decay": ("0 (default)", "0.01"),
        "adam_beta2": ("0.999 (default)", "0.98"),
        "gradient_accumulation_steps": ("1: 8 x 1 x 1 ranks = 8 samples in a step", "16"),
        "lr_scheduler_type": ("linear (default)", "cosine_with_min_lr"),
        "warmup_steps": ("0 (default)", "3"),
        "bf16": ("false (default)", "true"),
    }


def test_the_mismatches_that_users_report_are_found_all_at_once(tmp_path: Path) -> None:
    data = arguments() | {
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 256,
        "learning_rate": 2.5e-5,
        "weight_decay": 0,
        "bf16": False,
        "warmup_steps": 400,
        "max_steps": 256,
    }
    assert rows(compared(data, tmp_path)) == {
        "per_device_train_batch_size": ("1", "8"),
        "gradient_accumulation_steps": ("256: 1 x 256 x 1 ranks = 256 samples in a step", "16"),
        "learning_rate": ("2.5e-05", "5e-05"),
        "weight_decay": ("0", "0.01"),
        "bf16": ("false", "true"),
        "warmup_steps": ("400", "3"),
        "max_steps": ("256", "100"),
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("adam_beta1", 0.8),
        ("adam_epsilon", 1e-6),
        ("max_grad_norm", 0.3),
        ("optim", "adafactor"),
        ("fp16", True),
        ("adafactor", True),
    ],
)
def test_each_other_value_is_compared(tmp_path: Path, name: str, value: Any) -> None:
    assert rows(compared(arguments() | {name: value}, tmp_path)).keys() == {name}


@pytest.mark.parametrize(("micro", "accumulation"), [(1, 4), (1, 16), (1, 2), (16, 1), (3, 5)])
def test_remedies_of_the_batch_leave_no_mismatch_when_all_are_followed(
    tmp_path: Path, micro: int, accumulation: int
) -> None:
    # The run has passes of 8 and steps of 16.
    data = arguments() | {"per_device_train_batch_size": micro, "gradient_accumulation_steps": accumulation}
    found = compared(data, tmp_path).mismatches
    assert found
    for one in found:
        number, other, beside = re.fullmatch(
            r"(?:Write|Keep) (\d+) beside (\w+) (\d+)(?:, or set .*)?", one.remedy
        ).groups()  # type: ignore[union-attr]
        assert {one.setting: int(number), other: int(beside)} == {
            "per_device_train_batch_size": 8,
            "gradient_accumulation_steps": 2,
        }
    offered = "or set sft.train.micro_batch" in found[0].remedy
    # Micro batches of 3 do not share a batch of 16.
    assert offered == (micro != 3)


def test_a_batch_by_the_former_argument_is_compared(tmp_path: Path) -> None:
    data = arguments() | {"per_gpu_train_batch_size": 4}
    assert rows(compared(data, tmp_path)) == {
        "per_gpu_train_batch_size": ("4", "8"),
        "gradient_accumulation_steps": ("2: 4 x 2 x 1 ranks = 8 samples in a step", "16"),
    }
    del data["per_device_train_batch_size"]
    assert "per_gpu_train_batch_size" in rows(compared(data, tmp_path))


@pytest.mark.parametrize("name", sorted(NEVER_NULL))
def test_a_null_is_a_mismatch_where_a_value_is_compared(tmp_path: Path, name: str) -> None:
    found = compared(arguments() | {name: None}, tmp_path, samples=800).mismatches
    assert (name, "null") in [(one.setting, one.found) for one in found]


def test_nulls_of_arguments_that_transformers_writes_as_null_are_none(tmp_path: Path) -> None:
    names = ("deepspeed", "fsdp_config", "lr_scheduler_kwargs", "per_gpu_train_batch_size", "run_name", "warmup_ratio")
    data = arguments() | {"lr_scheduler_type": "cosine"} | dict.fromkeys(names)
    assert rows(compared(data, tmp_path, run_of(min_lr_fraction=0.0))) == {}
    transformers = pytest.importorskip("transformers")
    theirs = {field.name: field.default for field in dataclasses.fields(transformers.TrainingArguments)}
    assert [name for name in NEVER_NULL & theirs.keys() if theirs[name] is None] == []


def test_the_steps_of_epochs_follow_from_the_samples() -> None:
    # 100 samples in passes of 8 on 2 ranks: 7 passes, two of them a step: 4 steps an epoch, the last one short.
    assert steps_of_epochs(3, 100, 8, 2, 2) == 12
    # A tenth of an epoch of 4 steps is part of a step.
    assert steps_of_epochs(0.1, 100, 8, 2, 2) == 1
    assert steps_of_epochs(1, 3, 8, 1, 4) == 1
    # 1,607 samples are 100 passes of 16 and 7 samples more.
    assert steps_of_epochs(1, 1607, 8, 2, 1) == 101
    assert steps_of_epochs(1, 1607, 8, 2, 1, drop_last=True) == 100
    assert steps_of_epochs(1, 3, 8, 1, 4, drop_last=True) == 1


def test_steps_are_counted_with_every_argument_that_shapes_them(tmp_path: Path) -> None:
    data = arguments() | {"max_steps": -1, "num_train_epochs": 2}
    del data["per_device_train_batch_size"]
    # 1,003 samples in steps of 4 x 2 ranks x 1: 126 an epoch.
    former = data | {"per_gpu_train_batch_size": 4, "gradient_accumulation_steps": 1}
    run = run_of(processes=2, micro_batch=4, global_batch=8, steps=252)
    assert rows(compared(former, tmp_path, run, samples=1003)) == {}
    # 1,607 samples in steps of 8 x 2: 100 whole ones, and one of 7 samples unless that is dropped.
    one = data | {"num_train_epochs": 1}
    assert rows(compared(one, tmp_path, samples=1607)) == {"num_train_epochs": ("1: 101 steps of 1607 samples", "100")}
    assert rows(compared(one | {"dataloader_drop_last": True}, tmp_path, samples=1607)) == {}
    none = compared(data | {"num_train_epochs": 0}, tmp_path, samples=1607)
    assert rows(none) == {"num_train_epochs": ("0: 0 steps of 1607 samples", "100")}


def test_epochs_are_compared_as_steps_and_need_the_samples(tmp_path: Path) -> None:
    data = arguments() | {"max_steps": -1, "num_train_epochs": 2}
    found = compared(data, tmp_path)
    assert rows(found) == {}
    assert found.notes == ["num_train_epochs: how many steps it is depends on the samples; give --samples"]
    # 800 samples in steps of 16: 50 steps an epoch.
    assert rows(compared(data, tmp_path, samples=800)) == {}
    assert rows(compared(data, tmp_path, samples=801)) == {"num_train_epochs": ("2: 102 steps of 801 samples", "100")}


def test_a_warm_up_by_share_is_compared_as_steps(tmp_path: Path) -> None:
    data = arguments()
    del data["warmup_steps"]
    assert rows(compared(data | {"warmup_ratio": 0.03}, tmp_path)) == {}
    assert rows(compared(data | {"warmup_steps": 0.03}, tmp_path)) == {}
    assert rows(compared(data | {"warmup_ratio": 0.031}, tmp_path)) == {"warmup_ratio": ("0.031: 4 steps", "3")}
    found = compared(data | {"warmup_ratio": 0.03, "max_steps": -1}, tmp_path)
    assert "warmup_ratio 0.03: how many steps it is depends on the samples; give --samples" in found.notes


@pytest.mark.parametrize(
    ("train", "kind", "options"),
    [
        ({}, "cosine_with_min_lr", {"min_lr_rate": 0.1}),
        ({"min_lr_fraction": 0.0}, "cosine", {}),
        ({"schedule": "linear", "min_lr_fraction": 0.0}, "linear", {}),
        ({"schedule": "linear"}, "polynomial", {"lr_end": 5e-6, "power": 1.0}),
        ({"schedule": "constant"}, "constant_with_warmup", {}),
    ],
)
def test_every_schedule_of_ours_is_one_of_theirs(
    tmp_path: Path, train: dict[str, Any], kind: str, options: dict[str, float]
) -> None:
    run = run_of(**train)
    found = schedule_of(run)
    assert found[0] == kind
    assert found[1] == pytest.approx(options)
    data = arguments() | {"lr_scheduler_type": kind, "lr_scheduler_kwargs": options}
    assert rows(compared(data, tmp_path, run)) == {}
    if options:
        wrong = data | {"lr_scheduler_kwargs": {name: value * 2 for name, value in options.items()}}
        assert rows(compared(wrong, tmp_path, run)).keys() == {"lr_scheduler_type"}


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("share", [0.0, 0.1])
def test_the_schedule_named_for_transformers_has_the_runs_rates(schedule: str, share: float) -> None:
    optimization = pytest.importorskip("transformers.optimization")
    run = run_of(schedule=schedule, min_lr_fraction=share, warmup_steps=10)
    kind, options = schedule_of(run)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=run.train.lr)
    theirs = optimization.get_scheduler(
        kind, optimizer, num_warmup_steps=10, num_training_steps=100, scheduler_specific_kwargs=options
    )
    # Theirs is at our step when it has stepped as often: the Trainer takes its first step at the rate of step 0.
    for step in range(1, 101):
        optimizer.step()
        theirs.step()
        found = optimizer.param_groups[0]["lr"]
        assert found == pytest.approx(learning_rate(run.train, step), rel=1e-9, abs=1e-18), step


def test_constant_without_warm_up_has_two_names(tmp_path: Path) -> None:
    data = arguments() | {"lr_scheduler_type": "constant", "warmup_steps": 0}
    assert rows(compared(data, tmp_path, run_of(schedule="constant", warmup_steps=0))) == {}
    assert rows(compared(data | {"warmup_steps": 3}, tmp_path, run_of(schedule="constant"))).keys() == {
        "lr_scheduler_type"
    }


def test_a_decay_that_ends_before_the_last_step_is_said(tmp_path: Path) -> None:
    found = compared(arguments(), tmp_path, run_of(decay_steps=70))
    assert found.notes == [
        "the Trainer's decay ends with the last step; that of the run ends at sft.train.decay_steps = 70"
    ]


def test_an_unknown_argument_is_named_with_the_nearest(tmp_path: Path) -> None:
    (one,) = compared(arguments() | {"learning_rte": 1}, tmp_path).mismatches
    assert (one.setting, one.remedy) == ("learning_rte", "Did you mean 'learning_rate'? Else leave it out")


def test_every_argument_of_the_installed_transformers_is_known() -> None:
    transformers = pytest.importorskip("transformers")
    names = {field.name for field in dataclasses.fields(transformers.TrainingArguments)}
    assert names - ARGUMENTS - FORMER == set()


FSDP = {"fsdp": "full_shard auto_wrap"}


def test_fsdp_with_adapters_is_refused_unless_weights_stay_as_they_are(tmp_path: Path) -> None:
    lora = run_of(lora={"rank": 8})
    (one,) = compared(arguments() | FSDP, tmp_path, lora).mismatches
    assert (one.setting, one.run) == ("fsdp", "LoRA: refused without use_orig_params")
    (one,) = compared(arguments() | FSDP | {"use_peft": True}, tmp_path).mismatches
    assert one.setting == "fsdp"
    for config in ({"use_orig_params": "true"}, {"fsdp_use_orig_params": True}, {"version": 2}):
        assert rows(compared(arguments() | FSDP | {"fsdp_config": config}, tmp_path, lora)) == {}
    assert rows(compared(arguments() | FSDP | {"fsdp_config": {"use_orig_params": False}}, tmp_path, lora)) != {}
    (tmp_path / "fsdp.json").write_text('{"use_orig_params": true}')
    assert rows(compared(arguments() | FSDP | {"fsdp_config": "fsdp.json"}, tmp_path, lora)) == {}
    with pytest.raises(DataError, match="no such file of FSDP's settings"):
        compared(arguments() | FSDP | {"fsdp_config": "absent.json"}, tmp_path, lora)
    assert rows(compared(arguments() | FSDP, tmp_path)) == {}
    assert rows(compared(arguments() | {"fsdp": ""}, tmp_path, lora)) == {}


def test_fsdp_beside_deepspeed_is_refused(tmp_path: Path) -> None:
    found = rows(compared(arguments() | FSDP | {"deepspeed": {"zero_optimization": {"stage": 2}}}, tmp_path))
    assert found == {"fsdp": ("full_shard auto_wrap", "refused beside deepspeed")}


@pytest.mark.parametrize(
    "quantized",
    [{"load_in_4bit": True}, {"load_in_8bit": "true"}, {"bits": 4}, {"quantization_config": {"load_in_4bit": True}}],
)
def test_qlora_with_zero_3_is_refused(tmp_path: Path, quantized: dict[str, Any]) -> None:
    zero = {"deepspeed": {"zero_optimization": {"stage": 3}}}
    found = rows(compared(arguments() | zero | quantized, tmp_path, run_of(lora={})))
    assert found == {"deepspeed": ("ZeRO-3", "QLoRA: refused")}
    assert rows(compared(arguments() | zero, tmp_path, run_of(lora={}))) == {}
    assert rows(compared(arguments() | zero, tmp_path, run_of(lora={}), quantized=True)) != {}


def test_a_deepspeed_file_that_is_named_is_compared_with_run_and_arguments(tmp_path: Path) -> None:
    put(data := matching(), "optimizer.params.lr", 1e-4)
    (tmp_path / "ds.json").write_text(json.dumps(data))
    found = rows(compared(arguments() | {"deepspeed": "ds.json"}, tmp_path))
    assert found == {
        "deepspeed: optimizer.params.lr": ("0.0001", "5e-05"),
        "learning_rate": ("5e-05", "optimizer.params.lr 0.0001"),
    }
    put(data, "optimizer.params.lr", "auto")
    (tmp_path / "ds.json").write_text(json.dumps(data))
    good = compared(arguments() | {"deepspeed": str(tmp_path / "ds.json")}, tmp_path)
    assert (rows(good), good.filled) == ({}, ["deepspeed: optimizer.params.lr"])
    with pytest.raises(DataError, match="no such DeepSpeed file"):
        compared(arguments() | {"deepspeed": "absent.json"}, tmp_path)


def test_gradient_checkpointing_with_adapters_is_told_what_keeps_the_gradient(tmp_path: Path) -> None:
    data = arguments() | {"gradient_checkpointing": True}
    assert compared(data, tmp_path).notes == []
    (note,) = compared(data, tmp_path, run_of(lora={})).notes
    assert "enable_input_require_grads" in note


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", "fast"),
        ("bf16", "maybe"),
        ("max_steps", 1.5),
        ("per_device_train_batch_size", 0),
        ("gradient_accumulation_steps", "auto"),
    ],
)
def test_a_value_that_cannot_be_read_is_named_with_line_and_key(tmp_path: Path, name: str, value: Any) -> None:
    with pytest.raises(DataError, match=rf"args\.json: line \d+: {name} = "):
        compared(arguments() | {name: value}, tmp_path)
