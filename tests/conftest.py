"""Shared set-up: deterministic, quiet, two threads."""

from __future__ import annotations

import logging
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests go first, so that no process is left with one of them at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", choices=["cpu", "cuda"], help="where the model tests compute")


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
