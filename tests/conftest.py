"""Shared set-up: deterministic, quiet, two threads."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

from retro.common.terminal import output

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# So `precision: auto` is float32 in tests and in the processes they start, whatever the CPU: their numbers are of that.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")

# No test asserts a time, on a busy machine least of all.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", choices=["cpu", "cuda"], help="where the model tests compute")


@pytest.fixture(autouse=True)
def width_of_the_terminal() -> Iterator[None]:
    """A test that sets the width of what commands print leaves the next one the usual 80."""
    yield
    output.width = None


@pytest.fixture(autouse=True)
def handlers_of_signals() -> Iterator[None]:
    """A test that runs the command line in this process leaves the next one the handlers that there were."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)
