"""What the scheduler is given, what it tells, and how it says that it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from retro.generate.request import Event, Request

State = Literal["ok", "failing", "stalled", "stopping", "dead"]
"""Generation; failing again and again with nothing finished; too long in one step; taking no more; its thread ended."""


class Listener(Protocol):
    """Who offered a job. All is called on the scheduler's thread, and must return at once."""

    def accepted(self) -> None:
        """All requests of the job are in the engine."""

    def heard(self, index: int, event: Event) -> None:
        """A step of the job's request of that index."""

    def failed(self, error: Exception) -> None:
        """Nothing more will be heard. A RetroError says what is wrong with the request."""


class Job:
    """Requests that belong together; what the scheduler notes of them is its own."""

    def __init__(self, requests: Sequence[Request], listener: Listener, *, streams: bool) -> None:
        """Hold what is asked.

        Args:
            requests: At least one.
            listener: Hears of them.
            streams: Whether every step is heard, or only the last one of each request.
        """
        self.requests, self.listener, self.streams = tuple(requests), listener, streams
        self.finished: set[int] = set()
        self.told = self.accepted = self.tried = False


class NoRoomError(Exception):
    """Too much is running and waiting already."""


class NotTakingError(Exception):
    """The scheduler is stopping, or its engine is broken for good."""


@dataclass(frozen=True)
class Health:
    """How the scheduler is."""

    state: State
    running: int
    waiting: int
    failures: int
    """Steps that failed, since the start."""
