"""Runs are lengthened: the curve of the learning rate, what is said of it, what is refused, and the default warm-up."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import pytest

from retro.common.config import config_json
from retro.common.errors import ConfigError
from retro.training.config import TrainConfig
from retro.training.log import read_log
from retro.training.resume_rules import record_run, require_same_run, with_recorded_warmup
from tests.training.test_loop import SETTINGS, losses, run


def rates(out: Path) -> list[float]:
    return [line["lr"] for line in read_log(out / "log.jsonl") if "lr" in line]


def cosine(step: int, decay: int) -> float:
    """Peak 3e-3, a tenth of it left, two steps of warm-up: the schedule of SETTINGS."""
    if step > decay:
        return 3e-4
    return 3e-4 + 2.7e-3 * 0.5 * (1 + math.cos(math.pi * (step - 2) / (decay - 2)))


def test_a_lengthened_cosine_run_takes_the_longer_curve_from_there_on_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path)
    with caplog.at_level(logging.INFO):
        run(tmp_path, steps=20)
    found = rates(tmp_path)
    assert found[2:12] == pytest.approx([cosine(step, 12) for step in range(3, 13)])
    assert found[12:] == pytest.approx([cosine(step, 20) for step in range(13, 21)])
    assert (
        f"steps were 12, now 20: the learning rate goes from 0.0003 at step 12 to {cosine(13, 20):.3g} at step 13, for "
        "its cosine decay is over 20 steps now instead of 12; decay_steps=12 keeps the old curve"
    ) in caplog.text


def test_decay_steps_keeps_the_old_curve_and_then_equals_a_run_that_had_both_from_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path / "longer")
    with caplog.at_level(logging.INFO):
        longer = run(tmp_path / "longer", steps=16, decay_steps=12)
    assert "steps were 12, now 16: the learning rate still decays until step 12, 0.0003 now" in caplog.text
    at_once = run(tmp_path / "at_once", steps=16, decay_steps=12)
    assert rates(tmp_path / "longer")[12:] == pytest.approx([3e-4] * 4)
    assert losses(tmp_path / "longer") == losses(tmp_path / "at_once")
    assert longer.weights_sha256 == at_once.weights_sha256


def test_a_stopped_run_may_be_made_longer_or_shorter_than_planned(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path, steps=8, decay_steps=40, schedule="linear")
    with caplog.at_level(logging.INFO):
        run(tmp_path, steps=10, schedule="linear")
    # Step 8 of 40 was at 3e-3 - 2.7e-3 * 6 / 38, step 9 of 10 is at 3e-3 - 2.7e-3 * 7 / 8.
    assert "goes from 0.00257 at step 8 to 0.000638 at step 9, for its linear decay is over 10 steps now" in caplog.text


def test_fewer_steps_than_were_taken_are_refused_by_name(tmp_path: Path) -> None:
    config = TrainConfig(**SETTINGS)
    record_run(tmp_path, {"train": config_json(config)})
    run(tmp_path)
    fewer = TrainConfig(**(SETTINGS | {"steps": 11}))
    with pytest.raises(ConfigError, match=r"^sft\.train\.steps = 11: needs at least 12, the steps that .*--redo"):
        require_same_run(tmp_path, {"train": config_json(fewer)}, fewer, "sft.train")
    more = TrainConfig(**(SETTINGS | {"steps": 13, "decay_steps": 12}))
    require_same_run(tmp_path, {"train": config_json(more)}, more, "train")


@pytest.mark.parametrize(("steps", "warmup"), [(5, 0), (50, 5), (999, 99), (1000, 100), (50_000, 100)])
def test_the_warm_up_is_a_tenth_of_the_steps_and_at_most_100(steps: int, warmup: int) -> None:
    assert TrainConfig(steps=steps).warmup_steps == warmup
    assert config_json(TrainConfig(steps=steps))["warmup_steps"] == warmup


def test_a_warm_up_that_does_not_fit_is_refused_with_what_it_must_fit() -> None:
    with pytest.raises(ConfigError, match=r"warmup_steps = 50: needs fewer than steps = 50"):
        TrainConfig(steps=50, warmup_steps=50)
    with pytest.raises(ConfigError, match=r"warmup_steps = 20: needs fewer than decay_steps = 20"):
        TrainConfig(steps=50, decay_steps=20, warmup_steps=20)


def test_a_run_keeps_the_warm_up_that_it_began_with_unless_one_is_set(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert with_recorded_warmup(TrainConfig(steps=500), [first, second], "train").warmup_steps == 50
    # As an older version recorded it, whose default was 100 for any number of steps.
    record_run(second, {"train": {"steps": 200, "warmup_steps": 100}})
    assert (
        with_recorded_warmup(TrainConfig(steps=500), [first, second], "train").warmup_steps == 50
    )  # it has trained nothing
    run(second, steps=4)
    assert with_recorded_warmup(TrainConfig(steps=500), [first, second], "train").warmup_steps == 100
    assert with_recorded_warmup(TrainConfig(steps=500, warmup_steps=7), [first, second], "train").warmup_steps == 7
