"""Shared set-up: deterministic, quiet, two threads."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from retro.common.terminal import output

if TYPE_CHECKING:
    import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# So `precision: auto` is float32 in tests and in the processes they start, whatever the CPU: their numbers are of that.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")

# No test asserts a time, on a busy machine least of all.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


ON_DEVICE = ("generate", "mcore", "model", "training")
"""Folders of tests whose models compute where `--device` says. With cuda they alone are run: others need no GPU, or
compare with numbers of a CPU."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device",
        default="cpu",
        choices=["cpu", "cuda"],
        help="where the tests compute: cpu hides GPUs, cuda runs the tests of models on one",
    )


def pytest_configure(config: pytest.Config) -> None:
    """GPUs are hidden, from the processes that tests start too, or one is there. Ctrl-C is heard by all of them."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell starts what goes to the background so, and every process of a test would have it from this one.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.getoption("device") == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        return
    import torch

    if not torch.cuda.is_available():
        raise pytest.UsageError(
            f"--device cuda: torch {torch.__version__} sees no GPU; needs a GPU, torch built for CUDA and no "
            "CUDA_VISIBLE_DEVICES that hides it. `retro doctor` says what is missing; --device cpu needs none"
        )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Files with slow tests go first, so that no process is left with one of them at the end."""
    if config.getoption("device") == "cuda":
        left_out = [item for item in items if not is_on_device(item)]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if is_on_device(item)]
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def is_on_device(item: pytest.Item) -> bool:
    """Whether a test computes where `--device` says: by its folder, or because it is marked so."""
    folders = item.path.relative_to(Path(__file__).parent).parts
    return folders[0] in ON_DEVICE or item.get_closest_marker("on_device") is not None


@pytest.fixture
def device() -> torch.device:
    """Where models compute in this process: what a test makes by itself goes there."""
    from retro.mcore.cpu import device

    return device()


@pytest.fixture(autouse=True)
def process_as_it_was() -> Iterator[None]:
    """What the command line sets in the process that runs it is undone before and after a test.

    Before it too: a fixture of its module may have run a command.
    """
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    _quiet_log()
    yield
    _quiet_log()
    output.width = None
    for number, handler in signals.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)


def _quiet_log() -> None:
    log = logging.getLogger()
    log.handlers[:] = [handler for handler in log.handlers if type(handler).__module__.startswith("_pytest.")]
    log.setLevel(logging.WARNING)
