"""Requests whose body is still coming in: how long they may take, and that they end when the server does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from retro.serve.errors import ApiError
from retro.serve.generation import stopping

_BYTES_PER_SECOND = 10_000
"""A body that is large has longer: what a poor mobile line carries."""


class Arriving:
    """The bodies that are being read."""

    def __init__(self, seconds: float) -> None:
        """None is.

        Args:
            seconds: What a body may take, and one more for every 10,000 bytes that came.
        """
        self._seconds, self._stopping = seconds, False
        self._limits: set[asyncio.Timeout] = set()

    @asynccontextmanager
    async def limited(self, parts: AsyncIterator[bytes]) -> AsyncIterator[AsyncIterator[bytes]]:
        """The parts of a body, within the time that it may take.

        Raises:
            ApiError: It took longer, or the server is stopping.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout_at(began if self._stopping else began + self._seconds) as limit:
                self._limits.add(limit)
                try:
                    yield self._counted(parts, limit, began)
                finally:
                    self._limits.discard(limit)
        except TimeoutError:
            if self._stopping:
                raise stopping() from None
            raise ApiError(408, "the request did not arrive in time", code="timeout") from None

    async def _counted(self, parts: AsyncIterator[bytes], limit: asyncio.Timeout, began: float) -> AsyncIterator[bytes]:
        came = 0
        async for part in parts:
            came += len(part)
            if not self._stopping:
                limit.reschedule(began + self._seconds + came / _BYTES_PER_SECOND)
            yield part

    def stop(self) -> None:
        """End what has not arrived; nothing more may arrive slowly."""
        self._stopping = True
        now = asyncio.get_running_loop().time()
        for limit in self._limits:
            limit.reschedule(now)
