"""Connections that send nothing, or too slowly: dropped before they cost others anything.

uvicorn waits for the head of a request for as long as its sender likes, so that connections that never finish one fill
the server without ever being asked for a key. Bodies have their own limit, in `arriving.py`.
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

_LINGER_SECONDS = 2.0
"""How long a client may still send a body after its answer; closing at once could cost it the answer."""


def bounded_connections(head_seconds: float, most: int) -> type[H11Protocol]:
    """uvicorn's HTTP connection, with a limit on the time that the head of a request takes, and on their number.

    Args:
        head_seconds: From the connection, or from a later request's first byte, to the end of the head.
        most: Connections at once. One more takes the place of the one that has waited longest for a whole head, or is
            closed itself where all others have one.
    """

    # In the order in which they began to wait.
    waiting: dict[Bounded, None] = {}

    class Bounded(H11Protocol):
        """One connection."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            """Begin to wait for a first head."""
            super().connection_made(transport)
            self._until: asyncio.TimerHandle | None = None
            self._wait(head_seconds)
            if len(self.connections) > most:
                next(iter(waiting)).drop()

        def connection_lost(self, exc: Exception | None) -> None:
            """Wait for nothing more."""
            self._stop_waiting()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            """Take bytes; those of a head not yet whole do not lengthen its time."""
            super().data_received(data)
            if self.conn.their_state is not h11.IDLE:
                if not self._lingers:
                    self._stop_waiting()
            elif self._until is None:
                self._wait(head_seconds)

        def on_response_complete(self) -> None:
            """Do not let a client send on for ever what is not read any more."""
            self._stop_waiting()
            super().on_response_complete()
            if self._lingers:
                self._unset_keepalive_if_required()
                self._wait(_LINGER_SECONDS)

        def send_400_response(self, msg: str) -> None:
            """Answer what is not HTTP, once, and have the application answer it no more.

            h11 raises for a second answer, which asyncio and uvicorn log with all its frames.
            """
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                super().send_400_response(msg)
            else:
                self.transport.close()
            if self.cycle is not None:
                self.cycle.disconnected = True
                self.cycle.message_event.set()

        @property
        def _lingers(self) -> bool:
            """Whether a body still comes in that has been answered."""
            return self.conn.their_state is h11.SEND_BODY and self.cycle is not None and self.cycle.response_complete

        def _wait(self, seconds: float) -> None:
            self._until = self.loop.call_later(seconds, self.drop)
            waiting[self] = None

        def _stop_waiting(self) -> None:
            if self._until is not None:
                self._until.cancel()
                self._until = None
                del waiting[self]

        def drop(self) -> None:
            """Close it without a word: there is no request to answer."""
            self._stop_waiting()
            self.transport.abort()

    return Bounded
