"""A run's schedule as DeepSpeed's: the curves are compared by DeepSpeed's published formulas, step by step."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from retro.interop.deepspeed.schedule import parameters_of
from retro.mcore.engine import learning_rate
from tests.interop.deepspeed.runs import checked, matching, put, rows, run_of


def deepspeed_rate(section: dict[str, Any], lr: float, iteration: int) -> float:
    """The rate at an iteration, counted from 0, as DeepSpeed's lr_schedules.py computes it."""
    kind, given = section["type"], section["params"]
    warmup = max(2, given["warmup_num_steps"])
    assert given["warmup_type"] == "linear"
    if kind == "WarmupCosineLR":
        if iteration < warmup:
            first = given["warmup_min_ratio"]
            return lr * (first + (1 - first) * iteration / warmup)
        progress = min(1.0, (iteration - warmup + 1) / max(1, given["total_num_steps"] - warmup))
        last = given["cos_min_ratio"]
        return lr * (last + (1 - last) * (1 + math.cos(math.pi * progress)) / 2)
    low, high = given["warmup_min_lr"], given["warmup_max_lr"]
    share = 1.0
    if iteration < warmup:
        share = iteration / warmup
    elif kind == "WarmupDecayLR":
        total = given["total_num_steps"]
        share = max(0.0, (total - iteration) / max(1.0, total - warmup))
    return float(low + (high - low) * share)


def test_cosine_is_deepspeeds_cosine_with_shares_for_rates() -> None:
    run = run_of(warmup_steps=10)
    section = parameters_of(run)
    assert section == {
        "type": "WarmupCosineLR",
        "params": {
            "warmup_num_steps": 10,
            "warmup_type": "linear",
            "warmup_min_ratio": 0.0,
            "cos_min_ratio": 0.1,
            "total_num_steps": 100,
        },
    }
    for iteration in range(99):
        step = iteration if iteration < 10 else iteration + 1
        ours = learning_rate(run.train, step) if step else 0.0
        assert deepspeed_rate(section, run.train.lr, iteration) == pytest.approx(ours, rel=1e-12), iteration


def test_linear_to_zero_is_warmup_decay() -> None:
    run = run_of(schedule="linear", min_lr_fraction=0.0, warmup_steps=10)
    section = parameters_of(run)
    for iteration in range(1, 101):
        ours = learning_rate(run.train, iteration)
        assert deepspeed_rate(section, run.train.lr, iteration) == pytest.approx(ours, rel=1e-12, abs=1e-18), iteration


def test_linear_to_a_share_decays_alike_and_the_other_warm_up_is_said(tmp_path: Path) -> None:
    run = run_of(schedule="linear", warmup_steps=10)
    section = parameters_of(run)
    for iteration in range(10, 101):
        ours = learning_rate(run.train, iteration)
        assert deepspeed_rate(section, run.train.lr, iteration) == pytest.approx(ours, rel=1e-12), iteration
    found = checked(matching() | {"scheduler": section}, tmp_path, run)
    assert rows(found) == {}
    assert any("the warm-up begins there" in note for note in found.notes)


@pytest.mark.parametrize("warmup", [0, 10])
def test_constant_is_warmup_alone(warmup: int) -> None:
    run = run_of(schedule="constant", warmup_steps=warmup)
    section = parameters_of(run)
    assert section["type"] == "WarmupLR"
    for iteration in range(1, 100):
        assert deepspeed_rate(section, run.train.lr, iteration) == pytest.approx(learning_rate(run.train, iteration))


def test_a_run_without_warm_up_never_writes_zero_steps_of_it(tmp_path: Path) -> None:
    run = run_of(warmup_steps=0)
    parameters = parameters_of(run)["params"]
    # DeepSpeed needs a positive number, and warms up over two steps at least: here from the peak to the peak.
    assert (parameters["warmup_num_steps"], parameters["warmup_min_ratio"]) == (1, 1.0)
    found = checked(matching() | {"scheduler": parameters_of(run)}, tmp_path, run)
    assert rows(found) == {}
    assert any("shortest warm-up has 2 steps" in note for note in found.notes)


def test_decay_steps_are_the_end_of_the_decay() -> None:
    assert parameters_of(run_of(decay_steps=70))["params"]["total_num_steps"] == 70


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("warmup", [0, 1, 2, 50])
def test_no_parameter_is_ever_none(schedule: str, warmup: int) -> None:
    values = parameters_of(run_of(schedule=schedule, warmup_steps=warmup))["params"].values()
    assert values
    assert None not in values


def test_warmup_cosine_refuses_rates_and_names_the_share_that_has_their_place(tmp_path: Path) -> None:
    data = put(put(matching(), "scheduler.params.warmup_min_lr", 0), "scheduler.params.warmup_max_lr", 5e-5)
    remedies = {one.setting: one.remedy for one in checked(data, tmp_path).mismatches}
    assert remedies == {
        "scheduler.params.warmup_min_lr": (
            "WarmupCosineLR takes shares of lr, no rates: leave it out; warmup_min_ratio has its place"
        ),
        "scheduler.params.warmup_max_lr": (
            "WarmupCosineLR takes shares of lr, no rates: leave it out; optimizer.params.lr has its place"
        ),
    }


def test_a_cosine_run_beside_another_type_is_told_the_right_one_with_its_values(tmp_path: Path) -> None:
    data = put(matching(), "scheduler.type", "WarmupDecayLR")
    data["scheduler"]["params"] = {"total_num_steps": 100, "warmup_num_steps": 3, "warmup_type": "linear"}
    (one,) = checked(data, tmp_path).mismatches
    assert (one.setting, one.found, one.run) == ("scheduler.type", "WarmupDecayLR", "WarmupCosineLR")
    assert "warmup_min_ratio 0, cos_min_ratio 0.1, total_num_steps 100" in one.remedy


def test_an_unknown_type_is_named_with_the_nearest(tmp_path: Path) -> None:
    (one,) = checked(put(matching(), "scheduler.type", "WarmupCosine"), tmp_path).mismatches
    assert one.why == "is not a schedule of DeepSpeed; did you mean 'WarmupCosineLR'?"


@pytest.mark.parametrize("kind", ["OneCycle", "LRRangeTest"])
def test_a_schedule_that_no_run_has_is_one_mismatch(tmp_path: Path, kind: str) -> None:
    data = matching() | {"scheduler": {"type": kind, "params": {"cycle_min_lr": 1e-5}}}
    assert rows(checked(data, tmp_path)) == {"scheduler.type": (kind, "WarmupCosineLR")}


def test_deepspeeds_own_warm_up_is_logarithmic_unless_said(tmp_path: Path) -> None:
    data = matching()
    del data["scheduler"]["params"]["warmup_type"]
    assert rows(checked(data, tmp_path)) == {"scheduler.params.warmup_type": ("log (default)", "linear")}
    # Without a warm-up there is nothing that could be logarithmic.
    run = run_of(warmup_steps=0)
    section = parameters_of(run)
    del section["params"]["warmup_type"]
    assert rows(checked(matching() | {"scheduler": section}, tmp_path, run)) == {}


def test_missing_and_impossible_numbers_of_steps_are_mismatches(tmp_path: Path) -> None:
    data = put(matching(), "scheduler.params.warmup_num_steps", 0)
    del data["scheduler"]["params"]["total_num_steps"]
    found = checked(data, tmp_path)
    assert {one.setting: (one.found, one.why) for one in found.mismatches} == {
        "scheduler.params.total_num_steps": ("absent", "WarmupCosineLR cannot do without it"),
        "scheduler.params.warmup_num_steps": ("0", "DeepSpeed needs at least 1"),
    }


def test_an_unknown_parameter_is_named_with_those_that_there_are(tmp_path: Path) -> None:
    (one,) = checked(put(matching(), "scheduler.params.warmup_steps", 3), tmp_path).mismatches
    assert one.setting == "scheduler.params.warmup_steps"
    assert "did you mean 'warmup_num_steps'?" in one.remedy
