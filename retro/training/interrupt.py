"""A stop by signal, once: what ends a run in order must not be broken off by the next signal."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from retro.mcore import parallel

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def first_signal_only() -> Iterator[Callable[[], None]]:
    """Let the first SIGINT or SIGTERM do what it did before, and ignore those after it; for one of several processes.

    torchrun passes on the Ctrl-C that the terminal has sent to its processes already, so each has two. A process that
    trains alone keeps its second Ctrl-C: its user may mean it.

    Yields:
        A function to be called between steps. What a signal raises while a destructor runs is lost, and no second one
        would come: it raises it again. So does any failure after a signal, such as of a process that the others left.
    """
    if parallel.world_size() == 1 or threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    came: list[int] = []

    def once(number: int, frame: FrameType | None) -> None:
        came.append(number)
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        stop(number, frame)

    def stop(number: int, frame: FrameType | None) -> None:
        handler = before[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)
        else:
            raise SystemExit(128 + number)

    def again() -> None:
        if came:
            stop(came[0], None)

    for number in _SIGNALS:
        signal.signal(number, once)
    try:
        yield again
    except Exception:
        # Not the signal itself, which is no Exception: what failed because of it. Without a signal it goes on as it is.
        again()
        raise
    finally:
        if not came:
            for number, handler in before.items():
                signal.signal(number, handler)
