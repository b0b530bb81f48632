"""`retro doctor` and its two comparisons, from the command line: exit codes, the table, JSON, what is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from retro.cli import main
from retro.common.errors import ConfigError, DataError
from retro.run import doctor, doctor_cuda
from retro.run.doctor_packages import Finding
from tests.interop.deepspeed.runs import TRAIN, matching, put
from tests.interop.deepspeed.test_trainer_check import arguments
from tests.test_house import NEVER, command_line, loaded_after


def call(*words: object, **environment: str) -> Result:
    return CliRunner().invoke(main.app, ["doctor", *map(str, words)], env={"COLUMNS": "100"} | environment)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run, a DeepSpeed file and arguments that match it, on a machine without CUDA."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(doctor_cuda, "torch_builds", dict)
    (tmp_path / "run.yaml").write_text(json.dumps({"run_dir": str(tmp_path / "run"), "sft": {"train": TRAIN}}))
    (tmp_path / "ds.json").write_text(json.dumps(matching(), indent=1))
    (tmp_path / "args.json").write_text(json.dumps(arguments(), indent=1))
    return tmp_path


def test_doctor_alone_is_the_installation_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "CHECKS", (lambda: Finding("faiss", "problem", "none", "Install it"),))
    plain, numbers, named = call(), call("--json"), call("installation", "--json")
    assert (plain.exit_code, numbers.exit_code) == (1, 1)
    assert "1 to fix, see above." in plain.output
    assert json.loads(numbers.output) == json.loads(named.output)
    assert json.loads(numbers.output)[0]["name"] == "faiss"


def test_without_a_mismatch_the_code_is_0_and_with_one_it_is_1(folder: Path) -> None:
    good = call("deepspeed", folder / "ds.json", folder / "run.yaml")
    assert (good.exit_code, "no mismatch with sft on 1 process." in good.output) == (0, True)
    bad = call("deepspeed", folder / "ds.json", folder / "run.yaml", "sft.train.lr=2e-5")
    assert bad.exit_code == 1
    assert "optimizer.params.lr" in bad.output
    assert "→ Write 2e-05, or set sft.train.lr=5e-05 in the run" in bad.output
    assert "1 mismatch with sft on 1 process." in bad.output
    trainer = call("trainer", folder / "args.json", folder / "run.yaml")
    assert (trainer.exit_code, "no mismatch" in trainer.output) == (0, True)


def test_cuda_versions_that_differ_are_a_problem_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "version.json").write_text('{"cuda": {"version": "11.8"}}')
    monkeypatch.setattr(doctor_cuda, "torch_builds", lambda: {"cuda": "12.4"})
    found = call("deepspeed", folder / "ds.json", folder / "run.yaml", CUDA_HOME=str(folder))
    assert found.exit_code == 1
    assert "Problem: CUDA: toolkit 11.8" in found.output


def test_json_has_all_that_the_table_has(folder: Path) -> None:
    (folder / "ds.json").write_text(json.dumps(put(matching(), "gradient_clipping", "auto"), indent=1))
    words = ("deepspeed", folder / "ds.json", folder / "run.yaml", "sft.train.lr=2e-5", "--json")
    found: dict[str, Any] = json.loads(call(*words).output)
    assert (found["stage"], found["processes"], found["auto"], found["written"]) == (
        *("sft", 1, ["gradient_clipping"], None),
    )
    (one,) = found["mismatches"]
    assert (one["setting"], one["found"], one["run"]) == ("optimizer.params.lr", "5e-05", "2e-05")
    assert one["line"] > 1
    assert found["cuda"]["state"] == "note"


def test_the_matching_file_is_written_beside_the_report_and_matches(folder: Path) -> None:
    words = (folder / "run.yaml", "sft.train.lr=2e-5")
    found = call("deepspeed", folder / "ds.json", *words, "--write", folder / "new.json")
    assert found.exit_code == 1
    assert f"The file that matches is {folder / 'new.json'}." in found.output.replace("\n", "")
    assert call("deepspeed", folder / "new.json", *words).exit_code == 0
    again = call("deepspeed", folder / "ds.json", *words, "--write", folder / "new.json")
    assert "is there already" in str(again.exception)
    assert call("deepspeed", folder / "ds.json", *words, "--write", folder / "new.json", "--force").exit_code == 1


def test_a_file_is_written_without_one_to_begin_with(folder: Path) -> None:
    made = call("deepspeed", folder / "run.yaml", "--write", folder / "new.json", "--processes", 2)
    assert (made.exit_code, "of sft on 2 processes" in made.output) == (0, True)
    assert call("deepspeed", folder / "new.json", folder / "run.yaml", WORLD_SIZE="2").exit_code == 0
    numbers = call("deepspeed", folder / "run.yaml", "--write", folder / "other.json", "--json")
    assert json.loads(numbers.output)["written"] == str(folder / "other.json")


def test_the_stage_is_sft_where_the_run_sets_it_and_may_be_named(folder: Path) -> None:
    found = json.loads(
        call("deepspeed", folder / "ds.json", folder / "run.yaml", "--stage", "pretrain", "--json").output
    )
    assert found["stage"] == "pretrain"
    assert {one["setting"]: one["run"] for one in found["mismatches"]}["optimizer.params.lr"] == "0.0006"
    (folder / "bare.yaml").write_text("run_dir: x\n")
    assert (
        json.loads(call("deepspeed", folder / "ds.json", folder / "bare.yaml", "--json").output)["stage"] == "pretrain"
    )


def test_what_cannot_be_read_is_an_error_of_the_input(folder: Path) -> None:
    # `main` turns these into one line and exit code 2.
    (folder / "ds.json").write_text('{"train_batch_size": "many"}')
    found = call("deepspeed", folder / "ds.json", folder / "run.yaml")
    assert isinstance(found.exception, DataError)
    assert "ds.json: line 1: train_batch_size = 'many'" in str(found.exception)
    assert isinstance(call("deepspeed", folder / "absent.json", folder / "run.yaml").exception, DataError)
    wrong = call("deepspeed", folder / "ds.json", folder / "run.yaml", WORLD_SIZE="two")
    assert isinstance(wrong.exception, ConfigError)
    assert "WORLD_SIZE = 'two'" in str(wrong.exception)


def test_a_run_must_be_named_and_come_second(folder: Path) -> None:
    nothing = call("deepspeed", folder / "ds.json")
    assert isinstance(nothing.exception, ConfigError)
    assert "as in `retro doctor deepspeed ds_config.json " in str(nothing.exception)
    assert isinstance(call("trainer", folder / "args.json").exception, ConfigError)
    swapped = call("deepspeed", folder / "run.yaml", folder / "ds.json")
    assert isinstance(swapped.exception, ConfigError)
    assert "needs a DeepSpeed file, in JSON, before the run's YAML file" in str(swapped.exception)


def test_samples_are_counted_from_the_questions_of_sft(folder: Path) -> None:
    questions = [{"question": f"q{number}?", "answers": ["a"]} for number in range(160)]
    (folder / "train.json").write_text(json.dumps(questions))
    (folder / "args.json").write_text(json.dumps(arguments() | {"max_steps": -1, "num_train_epochs": 10}))
    sets = f"sft.data.sets=[{{name: mine, path: {folder / 'train.json'}}}]"
    # 160 samples in steps of 16, ten times: the run's 100 steps.
    assert call("trainer", folder / "args.json", folder / "run.yaml", sets).exit_code == 0
    fewer = call("trainer", folder / "args.json", folder / "run.yaml", sets, "--samples", 32)
    assert (fewer.exit_code, "20 steps of 32 samples" in " ".join(fewer.output.split())) == (1, True)
    absent = " ".join(call("trainer", folder / "args.json", folder / "run.yaml").output.split())
    assert "cannot be counted here" in absent
    packed = " ".join(
        call("trainer", folder / "args.json", folder / "run.yaml", "sft.data.packing=true").output.split()
    )
    assert "--samples says how many sequences there are" in packed
    stage = call("trainer", folder / "args.json", folder / "run.yaml", "--stage", "pretrain")
    assert "--samples says them here" in " ".join(stage.output.split())


def test_nothing_heavy_is_loaded(folder: Path) -> None:
    words = ("doctor", "deepspeed", str(folder / "ds.json"), str(folder / "run.yaml"))
    assert loaded_after(command_line(*words), *NEVER).isdisjoint(NEVER)
