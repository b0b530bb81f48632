"""Close connections that send nothing, or too slowly, before they take room from others.

uvicorn waits for the head of a request without limit, so that connections which never finish one fill the server
before any key is checked. Bodies have their own limit, in `request_body.py`.
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

_LINGER_SECONDS = 2.0
"""How long a client may still send a body after its response; closing at once could lose the response."""


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
            """Start the time limit of the first head."""
            super().connection_made(transport)
            self._until: asyncio.TimerHandle | None = None
            self._wait(head_seconds)
            if len(self.connections) > most:
                next(iter(waiting)).drop()

        def connection_lost(self, exc: Exception | None) -> None:
            """Stop the time limit."""
            self._stop_waiting()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            """Read bytes; those of an incomplete head do not extend its time."""
            super().data_received(data)
            if self.conn.their_state is not h11.IDLE:
                if not self._lingers:
                    self._stop_waiting()
            elif self._until is None:
                self._wait(head_seconds)

        def on_response_complete(self) -> None:
            """Limit the time for a rest of the body that nobody reads."""
            self._stop_waiting()
            super().on_response_complete()
            if self._lingers:
                self._unset_keepalive_if_required()
                self._wait(_LINGER_SECONDS)

        def send_400_response(self, msg: str) -> None:
            """Answer invalid HTTP once, and keep the application from answering it again.

            h11 raises for a second response, which asyncio and uvicorn log with a traceback.
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
            """Whether a body still comes in after its response."""
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
            """Close it without a response: there is no request."""
            self._stop_waiting()
            self.transport.abort()

    return Bounded
