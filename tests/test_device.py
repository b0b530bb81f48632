"""`pytest --device`: GPUs are hidden by default, asked for by name, and decide where models compute."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from retro.mcore import cpu
from tests import conftest

TESTS = Path(__file__).parent


def config(device: str) -> Any:
    """As pytest gives it; `left_out` are the tests that were said to be left out."""
    left_out: list[Any] = []
    hook = SimpleNamespace(pytest_deselected=lambda items: left_out.extend(items))
    return SimpleNamespace(getoption={"device": device}.__getitem__, hook=hook, left_out=left_out)


def item(path: str, *marks: str) -> Any:
    return SimpleNamespace(path=TESTS / path, get_closest_marker=lambda name: name if name in marks else None)


def test_on_the_cpu_gpus_are_hidden_from_this_process_and_from_those_it_starts() -> None:
    show = "import os; print(repr(os.environ['CUDA_VISIBLE_DEVICES']))"
    started = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True)
    assert (os.environ["CUDA_VISIBLE_DEVICES"], started.stdout) == ("", "''\n")


@pytest.mark.parametrize("hidden_before", ["0,1", None])
def test_what_was_visible_before_is_hidden_on_the_cpu(
    hidden_before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if hidden_before is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden_before)
    conftest.pytest_configure(config("cpu"))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_models_compute_on_a_gpu_exactly_where_torch_sees_one(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (device, cpu.on_cpu()) == (torch.device("cpu"), True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert (cpu.device(), cpu.on_cpu()) == (torch.device("cuda", 1), False)


def test_cuda_without_a_gpu_says_what_it_needs() -> None:
    with pytest.raises(pytest.UsageError, match=r"--device cuda: torch .* sees no GPU; needs a GPU, torch built for"):
        conftest.pytest_configure(config("cuda"))


def test_cuda_with_a_gpu_hides_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    conftest.pytest_configure(config("cuda"))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"


def test_on_cuda_only_what_computes_there_is_run() -> None:
    names = ["db/test_build.py", "model/convert/test_writer.py", "test_house.py", "mcore/test_kernels.py"]
    tests = [item(name) for name in names] + [item("pretrain/test_run.py", "on_device", "slow")]
    chosen, asked = list(tests), config("cuda")
    conftest.pytest_collection_modifyitems(asked, chosen)
    assert chosen == [tests[4], tests[1], tests[3]]
    assert asked.left_out == [tests[0], tests[2]]


def test_on_the_cpu_all_are_run() -> None:
    tests = [item("db/test_build.py"), item("model/test_count.py", "slow")]
    chosen, asked = list(tests), config("cpu")
    conftest.pytest_collection_modifyitems(asked, chosen)
    assert (chosen, asked.left_out) == ([tests[1], tests[0]], [])


def test_every_folder_that_computes_there_is_one() -> None:
    assert [name for name in conftest.ON_DEVICE if not (TESTS / name).is_dir()] == []
