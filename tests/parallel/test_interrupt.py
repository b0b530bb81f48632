"""Several processes that are stopped by a signal end in order, however often the signal comes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from retro.training import checkpoint
from retro.training.interrupt import first_signal_only
from tests.parallel.launch import ROOT, meeting_point, store_variables


@pytest.fixture
def handlers() -> Iterator[None]:
    """Handlers of signals as they were, after the test."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def raise_all(*numbers: signal.Signals) -> None:
    for number in numbers:
        signal.raise_signal(number)


@pytest.mark.usefixtures("handlers")
def test_of_several_signals_the_first_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    ended_in_order = False
    with pytest.raises(KeyboardInterrupt), first_signal_only():
        try:
            raise_all(signal.SIGINT)
        finally:
            raise_all(signal.SIGINT, signal.SIGTERM)
            ended_in_order = True
    assert ended_in_order
    raise_all(signal.SIGINT)  # nor is what comes after the training broken off


@pytest.mark.usefixtures("handlers")
def test_a_request_to_terminate_ends_the_process_in_order_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with pytest.raises(SystemExit) as caught, first_signal_only():
        raise_all(signal.SIGTERM)
    assert caught.value.code == 143


def test_without_a_signal_and_alone_everything_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGINT)
    with first_signal_only():
        assert signal.getsignal(signal.SIGINT) is before
    monkeypatch.setenv("WORLD_SIZE", "2")
    with first_signal_only():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


class KilledWhileItIsForgotten:
    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_came_while_nothing_could_be_raised_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(KeyboardInterrupt), first_signal_only() as stop_again:
        stop_again()
        KilledWhileItIsForgotten()
        stop_again()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # The others have left meanwhile.
    with pytest.raises(KeyboardInterrupt), first_signal_only():
        KilledWhileItIsForgotten()
        raise RuntimeError("connection closed by peer")
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_two_processes_that_are_interrupted_twice_end_with_130_and_leave_their_checkpoints(tmp_path: Path) -> None:
    store = meeting_point()
    common = os.environ | {**store_variables(store), "WORLD_SIZE": "2"}
    common |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.parallel.interrupted_worker", str(tmp_path)]
    started = [
        subprocess.Popen(command, env=common | {"RANK": rank, "LOCAL_RANK": rank}, stderr=subprocess.PIPE)
        for rank in ("0", "1")
    ]
    try:
        until = time.monotonic() + 300
        while not checkpoint.complete(tmp_path / "checkpoints") and time.monotonic() < until:
            time.sleep(0.1)
        for _ in range(2):
            for one in started:
                one.send_signal(signal.SIGINT)
        said = [one.communicate(timeout=120)[1].decode() for one in started]
    finally:
        for one in started:
            one.kill()
    assert [one.returncode for one in started] == [130, 130], said
    assert not any("terminate called" in words for words in said)
    checkpoint.verify(checkpoint.find(tmp_path))
