"""Ctrl-C and SIGTERM: a command ends within seconds, with a line that says how to continue.

Whatever a stage writes becomes valid by a rename, so it may be stopped at any moment, as by a kill. What is under way
gets a moment to leave its files tidy; code of a library that does not return does not hold the end up.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

GRACE_S = 1.5
"""From the signal until the process ends, whatever it does."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_ending = threading.Lock()


class Stopped(BaseException):
    """A signal asks this process to end. Nothing that handles errors may take it for one."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def handle_signals(announce: Callable[[int], None]) -> None:
    """Raise `Stopped` in the main thread at the first signal, and end the process soon after it.

    A signal that the parent had us ignore, as of a job in the background, stays ignored. Who sets other handlers, as
    the server does, has them to himself.

    Args:
        announce: Says why the process ends; called with the signal's number. Called once at most.
    """
    if any(signal.getsignal(number) is _stop for number in _SIGNALS):
        return
    handled = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    # Written to by the interpreter's own handler, at once; ours has to wait until a call into a library returns.
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in handled:
        signal.signal(number, _stop)
    sys.unraisablehook = _quietly(sys.unraisablehook)
    threading.Thread(target=_watch, args=(reader, announce), daemon=True, name="signals").start()


def end(number: int, announce: Callable[[int], None]) -> NoReturn:
    """End the process as a shell expects of one that a signal ended: with 128 and its number.

    At once, so that no thread is waited for, and no destructor of a library finds its threads still running.
    """
    with _ending:
        announce(number)
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:  # nobody reads it any more
                continue
        os._exit(128 + number)


def _stop(number: int, frame: FrameType | None) -> None:
    for one in _SIGNALS:
        # A second one must not break into the tidying up that the first began; the watcher handles it.
        if signal.getsignal(one) is _stop:
            signal.signal(one, _tidying_up)
    raise Stopped(number)


def _quietly(otherwise: Callable[[sys.UnraisableHookArgs], object]) -> Callable[[sys.UnraisableHookArgs], object]:
    """Where nothing can be raised, in a destructor for one, a signal is left to the watcher without a trace."""

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if not isinstance(unraisable.exc_value, Stopped):
            otherwise(unraisable)

    return hook


def _tidying_up(number: int, frame: FrameType | None) -> None:
    """The first signal is being handled."""


def _watch(reader: int, announce: Callable[[int], None]) -> None:
    first = 0
    while not first:
        (number,) = os.read(reader, 1)
        if number in _SIGNALS and signal.getsignal(number) in (_stop, _tidying_up):
            first = number
    until = time.monotonic() + GRACE_S
    os.set_blocking(reader, False)
    while time.monotonic() < until and not _again(reader):
        time.sleep(0.02)
    end(first, announce)


def _again(reader: int) -> bool:
    """Whether Ctrl-C was pressed once more."""
    try:
        return signal.SIGINT in os.read(reader, 16)
    except BlockingIOError:
        return False
