"""Curves on boards: TensorBoard, Weights & Biases without a network, and what is said where one cannot be had."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from retro.common.errors import ConfigError, DependencyError
from retro.training.config import TrainConfig
from retro.training.log import TrainingLog, open_boards

KEY = "0123456789abcdef0123456789abcdef01234567"


class FakeWandb(ModuleType):
    """What is used of the package."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.asked: dict[str, Any] = {}
        self.lines: list[tuple[int, dict[str, float]]] = []
        self.finished = False
        self.problem = ""
        self.errors = SimpleNamespace(Error=RuntimeError)
        self.Settings = dict

    def init(self, **asked: Any) -> FakeWandb:
        if self.problem:
            raise RuntimeError(self.problem)
        self.asked = asked
        return self

    def log(self, values: dict[str, float], *, step: int) -> None:
        self.lines.append((step, values))

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    found = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", found)
    return found


def write(out: Path, config: TrainConfig) -> None:
    boards = open_boards(config, out, 0, "pretrain retro")
    with TrainingLog(out / "log.jsonl", resumed_step=0, boards=boards) as log:
        log.write(step=1, loss=2.5, lr=1e-3)
        log.write(step=2, valid_loss=2.25)


def test_every_number_of_the_log_is_shown_under_its_step(tmp_path: Path, wandb: FakeWandb) -> None:
    out = tmp_path / "run/5_pretrain/retro"
    write(out, TrainConfig(wandb="mine", steps=7))
    assert wandb.lines == [(1, {"loss": 2.5, "lr": 1e-3}), (2, {"valid_loss": 2.25})]
    assert wandb.finished
    assert (wandb.asked["project"], wandb.asked["name"]) == ("mine", "run pretrain retro")
    assert (wandb.asked["config"]["steps"], wandb.asked["resume"]) == (7, "allow")
    first = wandb.asked["id"]
    write(out, TrainConfig(wandb="mine", steps=9))
    assert wandb.asked["id"] == first
    write(tmp_path / "run/5_pretrain/gpt", TrainConfig(wandb="mine"))
    assert wandb.asked["id"] != first


def test_a_refusal_is_one_line_without_the_key(
    tmp_path: Path, wandb: FakeWandb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    wandb.problem = f"user is not\nlogged in with {KEY}"
    with pytest.raises(ConfigError, match=r"train\.wandb = 'mine': needs .*not logged in with …\).*offline") as caught:
        open_boards(TrainConfig(wandb="mine"), tmp_path, 0, "sft")
    assert KEY not in str(caught.value)


def test_a_board_that_is_not_installed_is_named_with_what_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(DependencyError, match=r"wandb: shows training .*\[track\].*or set train\.wandb"):
        open_boards(TrainConfig(wandb="mine"), tmp_path, 0, "sft")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(DependencyError, match=r"tensorboard: writes .*train\.tensorboard=false"):
        open_boards(TrainConfig(tensorboard=True), tmp_path, 0, "sft")
    assert open_boards(TrainConfig(), tmp_path, 0, "sft") == []


def test_tensorboard_has_every_number_under_its_step(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    write(tmp_path, TrainConfig(tensorboard=True))
    found = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert {name: [(one.step, one.value) for one in found.Scalars(name)] for name in ("loss", "valid_loss")} == {
        "loss": [(1, 2.5)],
        "valid_loss": [(2, 2.25)],
    }


def test_the_real_package_writes_offline_and_never_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "cache"))
    out = tmp_path / "run/5_pretrain/retro"
    write(out, TrainConfig(wandb="mine"))
    (written,) = out.glob("wandb/offline-run-*/*.wandb")
    # Its service is a process of its own, which may write after the run has ended.
    waited_until = time.monotonic() + 60
    while b"valid_loss" not in (data := written.read_bytes()) and time.monotonic() < waited_until:
        time.sleep(0.1)
    assert b"valid_loss" in data
    assert b"pretrain retro" in data
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
