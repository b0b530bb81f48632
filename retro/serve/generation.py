"""One request's generation: from the scheduler's thread to the event loop, event by event, bounded in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from typing import TypeVar

from retro.generate.request import Completion, Event
from retro.serve.errors import ApiError, stopping, too_slow
from retro.serve.middleware import Metrics
from retro.serve.prepare import PreparedRequest
from retro.serve.scheduler import Job, NotAcceptingError, QueueFullError, Scheduler, is_of_request

T = TypeVar("T")
RETRY_SECONDS = 1
"""`Retry-After` of a full server: an answer ends every now and then."""


@dataclass(frozen=True)
class ChoiceEvent:
    """An event of one choice."""

    index: int
    event: Event


class _Mailbox:
    """Listens on the scheduler's thread, and passes events on to the event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[ChoiceEvent | Exception | None] = asyncio.Queue()

    def on_accepted(self) -> None:
        self._put(None)

    def on_event(self, index: int, event: Event) -> None:
        self._put(ChoiceEvent(index, event))

    def on_error(self, error: Exception) -> None:
        self._put(error)

    def _put(self, item: ChoiceEvent | Exception | None) -> None:
        # On a loop that has closed nobody waits any more.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)

    async def next(self) -> ChoiceEvent | None:
        """The next event; None when the job was accepted.

        Raises:
            ApiError: The job failed.
        """
        item = await self._queue.get()
        if isinstance(item, Exception):
            raise _api_error(item) from None
        return item


class Generation:
    """One request in the scheduler: a context manager, so that it is cancelled when nobody waits any more."""

    def __init__(self, prepared: PreparedRequest, scheduler: Scheduler, metrics: Metrics, deadline: float) -> None:
        """Hold the request; nothing is submitted yet.

        Args:
            prepared: The request.
            scheduler: Generates the answers.
            metrics: Counts tokens and times.
            deadline: On the event loop's clock; what is not answered by then fails.
        """
        self.prepared, self._scheduler, self._metrics, self.deadline = prepared, scheduler, metrics, deadline
        self._mailbox = _Mailbox()
        self._job = Job(prepared.requests, self._mailbox, streams=prepared.stream)
        self._start, self._unfinished = time.monotonic(), len(prepared.requests)
        self._any_token = False

    def __enter__(self) -> Generation:
        return self

    def __exit__(self, *_: object) -> None:
        if self._unfinished:
            self._scheduler.cancel(self._job)
            self._metrics.cancelled.inc(self._unfinished)

    async def begin(self) -> None:
        """Submit the request, and wait until it is accepted.

        Raises:
            ApiError: The queue is full, the server is stopping, or the request cannot be answered.
        """
        try:
            self._scheduler.submit(self._job)
        except QueueFullError:
            self._unfinished = 0
            message = "too many requests are running and waiting; try again in a moment"
            raise ApiError(429, message, code="too_many_requests", retry_after=RETRY_SECONDS) from None
        except NotAcceptingError:
            self._unfinished = 0
            raise stopping() from None
        self._metrics.prompt_tokens.inc(self.prepared.prompt_tokens)
        await self._before_deadline(self._mailbox.next())

    async def events(self) -> AsyncIterator[ChoiceEvent]:
        """Events of all choices until all have ended.

        Raises:
            ApiError: The answer fails, or takes too long.
        """
        while self._unfinished:
            found = await self._before_deadline(self._mailbox.next())
            if found is None:
                raise ValueError("a job was accepted twice")
            self._count(found.event)
            yield found

    async def completions(self) -> list[Completion]:
        """The finished choices, in order.

        Raises:
            ApiError: As `events`.
        """
        found: dict[int, Completion] = {}
        async for one in self.events():
            if one.event.completion is not None:
                found[one.index] = one.event.completion
        return [found[index] for index in sorted(found)]

    async def _before_deadline(self, step: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout_at(self.deadline):
                return await step
        except TimeoutError:
            raise too_slow() from None

    def _count(self, event: Event) -> None:
        if not self._any_token and (event.text or event.tokens or event.completion):
            self._any_token = True
            if self.prepared.stream:
                self._metrics.first_token.observe(time.monotonic() - self._start)
        if event.completion is not None:
            self._unfinished -= 1
            self._metrics.new_tokens.inc(len(event.completion.tokens))
            self._metrics.ended.labels(event.completion.ended).inc()


def _api_error(error: Exception) -> ApiError:
    if isinstance(error, ApiError):
        return error
    if is_of_request(error):
        return ApiError(400, str(error), code="invalid_value")
    # The server's log has the cause, which is nothing for a client.
    return ApiError(500, "the answer failed on the server; its log says why", code="engine_failed")
