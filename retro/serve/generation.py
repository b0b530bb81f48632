"""From the scheduler's thread to the event loop: one request's events as they come, bounded in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from retro.common.errors import RetroError
from retro.generate.request import Completion, Event
from retro.serve.errors import ApiError
from retro.serve.job import Job, NoRoomError, NotTakingError
from retro.serve.metrics import Metrics
from retro.serve.prepare import PreparedRequest
from retro.serve.scheduler import Scheduler

T = TypeVar("T")
RETRY_SECONDS = 1
"""What `Retry-After` says of a full server: an answer ends every now and then."""


@dataclass(frozen=True)
class ChoiceEvent:
    """An event of one choice."""

    index: int
    event: Event


class _Mailbox:
    """Listens on the scheduler's thread, and passes on to the event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[ChoiceEvent | Exception | None] = asyncio.Queue()

    def accepted(self) -> None:
        self._pass_on(None)

    def heard(self, index: int, event: Event) -> None:
        self._pass_on(ChoiceEvent(index, event))

    def failed(self, error: Exception) -> None:
        self._pass_on(error)

    def _pass_on(self, item: ChoiceEvent | Exception | None) -> None:
        # A loop that has closed has nobody left who waits.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)

    async def next(self) -> ChoiceEvent | None:
        """The next event; None when the job was taken in.

        Raises:
            ApiError: The job failed, and with what words.
        """
        item = await self._queue.get()
        if isinstance(item, Exception):
            raise _refusal_of(item) from None
        return item


class Generation:
    """One request on its way: use as a context manager, so that it is cancelled when nobody waits any more."""

    def __init__(self, ask: PreparedRequest, scheduler: Scheduler, metrics: Metrics, deadline: float) -> None:
        """Hold what is asked.

        Args:
            ask: The request.
            scheduler: Answers it.
            metrics: ChoiceEvent of tokens and times.
            deadline: Of the event loop's clock; what is not answered by then is not.
        """
        self.ask, self._scheduler, self._metrics, self._deadline = ask, scheduler, metrics, deadline
        self._mailbox = _Mailbox()
        self._job = Job(ask.requests, self._mailbox, streams=ask.stream)
        self._began, self._left = time.monotonic(), len(ask.requests)
        self._any_token = False

    def __enter__(self) -> Generation:
        return self

    def __exit__(self, *_: object) -> None:
        if self._left:
            self._scheduler.cancel(self._job)
            self._metrics.cancelled.inc(self._left)

    async def begin(self) -> None:
        """Hand the request over, and wait until it is taken in.

        Raises:
            ApiError: There is no room, the server is stopping, or the request cannot be answered.
        """
        try:
            self._scheduler.offer(self._job)
        except NoRoomError:
            self._left = 0
            message = "too many requests are running and waiting; try again in a moment"
            raise ApiError(429, message, code="too_many_requests", retry_after=RETRY_SECONDS) from None
        except NotTakingError:
            self._left = 0
            raise stopping() from None
        self._metrics.prompt_tokens.inc(self.ask.prompt_tokens)
        await self._before_deadline(self._mailbox.next())

    async def events(self) -> AsyncIterator[ChoiceEvent]:
        """Events of all choices until all have ended.

        Raises:
            ApiError: The answer fails, or takes too long.
        """
        while self._left:
            told = await self._before_deadline(self._mailbox.next())
            if told is None:
                raise ValueError("a job was taken in twice")
            self._note(told.event)
            yield told

    async def completions(self) -> list[Completion]:
        """The finished choices, in order.

        Raises:
            ApiError: As `events`.
        """
        found: dict[int, Completion] = {}
        async for told in self.events():
            if told.event.completion is not None:
                found[told.index] = told.event.completion
        return [found[index] for index in sorted(found)]

    async def _before_deadline(self, step: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout_at(self._deadline):
                return await step
        except TimeoutError:
            raise too_late() from None

    def _note(self, event: Event) -> None:
        if not self._any_token and (event.text or event.tokens or event.completion):
            self._any_token = True
            if self.ask.stream:
                self._metrics.first_token.observe(time.monotonic() - self._began)
        if event.completion is not None:
            self._left -= 1
            self._metrics.new_tokens.inc(len(event.completion.tokens))
            self._metrics.ended.labels(event.completion.ended).inc()


def stopping() -> ApiError:
    """What is said of requests that come too late."""
    return ApiError(503, "the server is stopping", code="stopping", retry_after=5)


def too_late() -> ApiError:
    """What is said of an answer that took too long."""
    return ApiError(504, "the answer took longer than this server allows; ask for fewer tokens", code="timeout")


def _refusal_of(error: Exception) -> ApiError:
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RetroError):
        return ApiError(400, str(error), code="invalid_value")
    # What exactly failed stands in the server's log, and is nothing for a client.
    return ApiError(500, "the answer failed on the server; its log says why", code="engine_failed")


async def unless_gone(receive: Callable[[], Awaitable[Any]], work: Awaitable[T]) -> T | None:
    """Do `work`, and drop it as soon as the client is gone.

    Args:
        receive: ASGI's, after the body has been read.
        work: Cancelled when the client leaves.

    Returns:
        What `work` gives; None when there is nobody left to give it to.
    """
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        leaving.cancel()
        if not working.done():
            working.cancel()
        # Its clean-up must have been done before the connection is closed.
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnected(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
