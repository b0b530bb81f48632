"""DeepSpeed files beside a run: each mismatch by itself and all at once, other spellings, what is the caller's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from retro.common.errors import ConfigError, DataError
from tests.interop.deepspeed.runs import checked, matching, put, rows, run_of


def test_a_file_with_the_runs_values_has_no_mismatch(tmp_path: Path) -> None:
    found = checked(matching(), tmp_path)
    assert (rows(found), found.filled, found.absent) == ({}, [], [])


def test_the_mismatches_that_users_report_are_found_all_at_once(tmp_path: Path) -> None:
    data = matching()
    del data["gradient_accumulation_steps"]
    for name, value in (
        ("train_micro_batch_size_per_gpu", 1),
        ("train_batch_size", 256),
        ("optimizer.params.lr", 2.5e-5),
        ("optimizer.params.weight_decay", 0.0),
        ("bf16.enabled", False),
    ):
        put(data, name, value)
    data["scheduler"] = {
        "type": "WarmupLR",
        "params": {"warmup_min_lr": 0, "warmup_max_lr": 2.5e-5, "warmup_num_steps": 400, "warmup_type": "linear"},
    }
    found = checked(data, tmp_path, run_of(schedule="constant"))
    assert rows(found) == {
        "train_micro_batch_size_per_gpu": ("1", "8"),
        "train_batch_size": ("256", "16"),
        "optimizer.params.lr": ("2.5e-05", "5e-05"),
        "optimizer.params.weight_decay": ("0", "0.01"),
        "scheduler.params.warmup_max_lr": ("2.5e-05", "5e-05"),
        "scheduler.params.warmup_num_steps": ("400", "3"),
        "bf16.enabled": ("false", "true"),
    }
    data["scheduler"] = put(matching()["scheduler"], "params.total_num_steps", 256)
    put(data, "scheduler.params.warmup_num_steps", 400)
    found = checked(data, tmp_path)
    assert rows(found)["scheduler.params.total_num_steps"] == ("256", "100")
    assert rows(found)["scheduler.params.warmup_num_steps"] == ("400", "3")
    assert len(found.mismatches) == 7
    lr = next(one for one in found.mismatches if one.setting == "optimizer.params.lr")
    assert lr.why == "the peak of the schedule"
    assert lr.remedy == "Write 5e-05, or set sft.train.lr=2.5e-05 in the run"
    text = (tmp_path / "ds.json").read_text().splitlines()
    assert '"lr"' in text[(lr.line or 0) - 1]


@pytest.mark.parametrize(
    ("name", "value", "run"),
    [
        ("optimizer.params.eps", 1e-6, "1e-08"),
        ("optimizer.params.betas", [0.9, 0.999], "[0.9, 0.98]"),
        ("gradient_clipping", 0.5, "1"),
        ("scheduler.params.cos_min_ratio", 0.0001, "0.1"),
        ("scheduler.params.warmup_min_ratio", 0.5, "0"),
        ("optimizer.type", "Lamb", "AdamW"),
        ("fp16", {"enabled": False}, None),
        ("optimizer.params.adam_w_mode", False, None),
        ("optimizer.params.bias_correction", False, "true"),
        ("optimizer.params.amsgrad", True, "false"),
    ],
)
def test_each_value_that_shapes_the_training_is_compared(
    tmp_path: Path, name: str, value: Any, run: str | None
) -> None:
    found = rows(checked(put(matching(), name, value), tmp_path))
    # AdamW decouples weight decay whatever adam_w_mode says; fp16 that is off agrees with every run.
    assert found.keys() == (set() if run is None else {name})
    assert run is None or found[name][1] == run


def test_adam_without_its_w_mode_is_another_optimizer(tmp_path: Path) -> None:
    data = put(put(matching(), "optimizer.type", "Adam"), "optimizer.params.adam_w_mode", False)
    assert rows(checked(data, tmp_path)) == {"optimizer.params.adam_w_mode": ("false", "true")}
    assert rows(checked(put(data, "optimizer.params.adam_w_mode", True), tmp_path)) == {}


def test_float16_is_never_the_runs(tmp_path: Path) -> None:
    data = put(put(matching(), "bf16.enabled", False), "fp16.enabled", True)
    found = checked(data, tmp_path, run_of(precision="float32"))
    assert rows(found) == {"fp16.enabled": ("true", "false")}
    both = checked(put(data, "bf16.enabled", True), tmp_path)
    assert [one.why for one in both.mismatches if one.setting == "fp16.enabled"] == [
        "this toolkit has no float16",
        "DeepSpeed refuses both at once",
    ]


def test_the_older_name_of_bf16_counts(tmp_path: Path) -> None:
    data = matching()
    data["bfloat16"] = data.pop("bf16")
    assert rows(checked(data, tmp_path)) == {}
    assert rows(checked(data, tmp_path, run_of(precision="float32"))) == {"bfloat16.enabled": ("true", "false")}


def test_values_in_other_types_are_read_as_they_are_meant(tmp_path: Path) -> None:
    data = matching()
    for name, value in (
        ("train_batch_size", "16"),
        ("train_micro_batch_size_per_gpu", 8.0),
        ("optimizer.params.lr", "5e-5"),
        ("optimizer.params.betas", ["0.9", 0.98]),
        ("optimizer.params.weight_decay", "1e-2"),
        ("gradient_clipping", 1),
        ("scheduler.params.warmup_num_steps", "3"),
        ("bf16.enabled", "true"),
        ("zero_optimization.stage", "2"),
    ):
        put(data, name, value)
    assert rows(checked(data, tmp_path)) == {}
    assert rows(checked(put(data, "optimizer.params.lr", "2e-5"), tmp_path)) == {
        "optimizer.params.lr": ("2e-05", "5e-05")
    }


def test_auto_is_filled_by_the_caller_and_no_mismatch(tmp_path: Path) -> None:
    data = matching()
    names = [
        *("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "optimizer.params.lr"),
        *("optimizer.params.betas", "optimizer.params.eps", "optimizer.params.weight_decay"),
        *("scheduler.params.total_num_steps", "scheduler.params.warmup_num_steps", "gradient_clipping"),
        "bf16.enabled",
    ]
    for name in names:
        put(data, name, "auto")
    found = checked(data, tmp_path)
    assert rows(found) == {}
    assert sorted(found.filled) == sorted(names)


def test_zero_alone_leaves_everything_to_the_command_line_and_says_what_the_run_has(tmp_path: Path) -> None:
    found = checked({"zero_optimization": {"stage": 2, "overlap_comm": True}}, tmp_path)
    assert rows(found) == {}
    assert found.absent == [
        "train_batch_size = 16",
        "train_micro_batch_size_per_gpu = 8",
        "gradient_accumulation_steps = 2",
        "optimizer.params.lr = 5e-05",
        "optimizer.params.betas = [0.9, 0.98]",
        "optimizer.params.eps = 1e-08",
        "optimizer.params.weight_decay = 0.01",
        "scheduler.type = WarmupCosineLR",
        "scheduler.params.warmup_num_steps = 3",
        "scheduler.params.warmup_type = linear",
        "scheduler.params.warmup_min_ratio = 0",
        "scheduler.params.cos_min_ratio = 0.1",
        "scheduler.params.total_num_steps = 100",
        "gradient_clipping = 1",
        "bf16.enabled = true",
    ]


def test_what_a_present_section_lacks_has_deepspeeds_default(tmp_path: Path) -> None:
    data = matching()
    data["optimizer"]["params"] = {}
    del data["gradient_clipping"]
    data["bf16"] = {}
    assert rows(checked(data, tmp_path)) == {
        "optimizer.params.lr": ("0.001 (default)", "5e-05"),
        "optimizer.params.weight_decay": ("0 (default)", "0.01"),
        "optimizer.params.betas": ("[0.9, 0.999] (default)", "[0.9, 0.98]"),
        "gradient_clipping": ("0 (default)", "1"),
        "bf16.enabled": ("false", "true"),
    }


def test_a_section_without_a_type_is_not_read_by_deepspeed(tmp_path: Path) -> None:
    data = matching()
    del data["optimizer"]["type"], data["scheduler"]["type"]
    found = rows(checked(data, tmp_path))
    assert found == {"optimizer.type": ("absent", "AdamW"), "scheduler.type": ("absent", "WarmupCosineLR")}


@pytest.mark.parametrize(
    ("batch", "wrong"),
    [
        # 8 x 2 x 1 rank is 16, and 4 x 2 is not; the product is compared within the file too.
        ({"train_batch_size": 16, "train_micro_batch_size_per_gpu": 8, "gradient_accumulation_steps": 2}, {}),
        (
            {"train_batch_size": 16, "train_micro_batch_size_per_gpu": 8, "gradient_accumulation_steps": 4},
            {"gradient_accumulation_steps": ("4", "2"), "train_batch_size": ("16", "8 x 4 x 1 ranks = 32")},
        ),
        # Two of the three: the third follows.
        ({"train_batch_size": 16, "train_micro_batch_size_per_gpu": 8}, {}),
        ({"train_batch_size": 16, "gradient_accumulation_steps": 2}, {}),
        # One alone: nothing is accumulated then.
        ({"train_batch_size": 16}, {"train_micro_batch_size_per_gpu": ("16 (default)", "8")}),
        ({"train_micro_batch_size_per_gpu": 8}, {"train_batch_size": ("8 (default)", "16")}),
        ({"train_batch_size": "auto"}, {}),
        ({"gradient_accumulation_steps": 2}, {}),
        (
            {"train_batch_size": 0, "train_micro_batch_size_per_gpu": 8},
            {"train_batch_size": ("0", "16")},
        ),
    ],
)
def test_the_numbers_of_a_batch_follow_from_one_another(
    tmp_path: Path, batch: dict[str, Any], wrong: dict[str, tuple[str, str]]
) -> None:
    rest = {name: one for name, one in matching().items() if "batch" not in name and "accumulation" not in name}
    found = rows(checked(rest | batch, tmp_path))
    assert {name: (given, run.partition(",")[0]) for name, (given, run) in found.items()} == wrong


def test_what_follows_from_several_settings_is_not_offered_as_one(tmp_path: Path) -> None:
    data = put(put(matching(), "gradient_accumulation_steps", 4), "scheduler.params.warmup_min_ratio", 0.5)
    found = {one.setting: one.remedy for one in checked(put(data, "train_batch_size", 32), tmp_path).mismatches}
    assert found == {
        "train_batch_size": "Write 16, or set sft.train.global_batch=32 in the run",
        "gradient_accumulation_steps": "Write 2",
        "scheduler.params.warmup_min_ratio": "Write 0",
    }


def test_processes_share_a_batch_and_model_parallel_ones_do_not(tmp_path: Path) -> None:
    four = run_of(4, global_batch=64)
    assert (four.ranks, four.accumulation) == (4, 2)
    assert rows(checked(put(matching(), "train_batch_size", 64), tmp_path, four)) == {}
    tensor = run_of(4, {"tensor": 2}, global_batch=32)
    assert (tensor.ranks, tensor.accumulation) == (2, 2)
    assert rows(checked(put(matching(), "train_batch_size", 32), tmp_path, tensor)) == {}
    with pytest.raises(ConfigError, match=r"needs a multiple of tensor x pipeline = 2 x 1 processes, 3"):
        run_of(3, {"tensor": 2})
    with pytest.raises(ConfigError, match=r"needs a multiple of train.micro_batch x data parallel ranks = 8 x 3"):
        run_of(3)


def test_unknown_keys_are_named_with_the_nearest_known_one(tmp_path: Path) -> None:
    data = matching()
    for name in (
        *("train_micro_batch_size", "zero_optimization.stage3_max_live_params", "optimizer.params.weigth_decay"),
        *("bf16.enable", "comment"),
    ):
        put(data, name, 1)
    remedies = {one.setting: one.remedy for one in checked(data, tmp_path).mismatches}
    assert remedies == {
        "train_micro_batch_size": "Did you mean 'train_micro_batch_size_per_gpu'? Else leave it out",
        "comment": "Did you mean 'comet'? Else leave it out",
        "zero_optimization.stage3_max_live_params": ("Did you mean 'stage3_max_live_parameters'? Else leave it out"),
        "bf16.enable": "Did you mean 'enabled'? Else leave it out",
        "optimizer.params.weigth_decay": "Did you mean 'weight_decay'? Else leave it out",
    }


def test_a_key_that_resembles_none_is_named_too(tmp_path: Path) -> None:
    (one,) = checked(matching() | {"qqq": {"x": 1}}, tmp_path).mismatches
    assert (one.setting, one.found, one.remedy) == ("qqq", "a section", "Leave it out")


def test_an_unknown_text_is_not_shown_for_it_may_be_a_secret(tmp_path: Path) -> None:
    (one,) = checked(matching() | {"api_tokn": "hf_secret"}, tmp_path).mismatches
    assert one.found == "a text"
    assert "hf_secret" not in str(one)


def test_the_optimizers_own_norm_is_refused_with_its_place(tmp_path: Path) -> None:
    (one,) = checked(put(matching(), "optimizer.params.max_grad_norm", 1.0), tmp_path).mismatches
    assert (one.setting, one.remedy) == ("optimizer.params.max_grad_norm", "Write gradient_clipping at the top")


def test_null_anywhere_is_an_error(tmp_path: Path) -> None:
    data = put(matching(), "scheduler.params.warmup_min_ratio", None)
    put(data, "zero_optimization.offload_param", None)
    found = {one.setting: one.found for one in checked(data, tmp_path).mismatches}
    assert found == {"scheduler.params.warmup_min_ratio": "null", "zero_optimization.offload_param": "null"}


def test_zero_3_with_a_quantized_base_is_refused(tmp_path: Path) -> None:
    data = put(matching(), "zero_optimization.stage", 3)
    lora = run_of(lora={"rank": 8})
    assert rows(checked(data, tmp_path, lora)) == {}
    (one,) = checked(data, tmp_path, lora, quantized=True).mismatches
    assert (one.setting, one.found, one.run) == ("zero_optimization.stage", "3", "QLoRA: refused")
    assert "stage 2 with QLoRA" in one.remedy
    assert rows(checked(matching(), tmp_path, lora, quantized=True)) == {}


@pytest.mark.parametrize(
    ("zero", "words"),
    [
        ({"stage": 0}, "no ZeRO"),
        ({"stage": 1}, "parallel.distributed_optimizer=true"),
        ({"stage": 2}, "the nearest here is parallel.distributed_optimizer=true"),
        ({"stage": 3}, "parallel.tensor and parallel.pipeline"),
        (True, "parallel.distributed_optimizer=true"),
    ],
)
def test_each_stage_of_zero_is_said_in_our_settings(tmp_path: Path, zero: Any, words: str) -> None:
    found = checked(matching() | {"zero_optimization": zero}, tmp_path)
    assert rows(found) == {}
    (note,) = found.notes
    assert words in note


def test_offload_is_said_to_have_no_counterpart(tmp_path: Path) -> None:
    data = put(matching(), "zero_optimization.offload_optimizer", {"device": "cpu"})
    assert any("offload has no counterpart" in note for note in checked(data, tmp_path).notes)
    data = put(data, "zero_optimization.offload_optimizer", {"device": "none"})
    assert not any("offload" in note for note in checked(data, tmp_path).notes)


def test_rates_of_their_own_are_said_to_have_no_place_in_a_file(tmp_path: Path) -> None:
    found = checked(matching(), tmp_path, run_of(retrieval_rates={"lr_factor": 2.0}))
    assert any("sft.train.retrieval_rates" in note for note in found.notes)


@pytest.mark.parametrize(
    ("name", "value", "need"),
    [
        ("optimizer.params.lr", "fast", 'a number or "auto"'),
        ("optimizer.params.lr", True, 'a number or "auto"'),
        ("optimizer.params.lr", "nan", 'a number or "auto"'),
        ("optimizer.params.betas", 0.9, "a list of two numbers"),
        ("optimizer.params.betas", [0.9, "x"], 'a number or "auto"'),
        ("train_batch_size", 1.5, 'a whole number or "auto"'),
        ("bf16.enabled", "maybe", 'true, false or "auto"'),
        ("optimizer", "AdamW", "an object"),
        ("optimizer.type", 3, "a text"),
        ("scheduler.params", [1], "an object"),
        ("zero_optimization.stage", 4, "0, 1, 2 or 3"),
    ],
)
def test_a_value_that_cannot_be_read_is_named_with_file_line_and_key(
    tmp_path: Path, name: str, value: Any, need: str
) -> None:
    with pytest.raises(DataError) as caught:
        checked(put(matching(), name, value), tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'ds.json'}: line ")
    assert name in message
    assert f"needed is {need}" in message
