"""One answer onto its connection: whole as JSON, or as server-sent events while it is generated."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from retro.serve.choices import ChoiceStream, Route, usage, whole_choice
from retro.serve.errors import ApiError
from retro.serve.generation import Generation
from retro.serve.model_info import ModelInfo
from retro.serve.responses import ChatChunk, ChatResponse, CompletionChunk, CompletionResponse, ResponseModel

log = logging.getLogger(__name__)

T = TypeVar("T")
_SECONDS_FOR_THE_ERROR = 5.0
"""How long a client has to read the error of an answer whose time is up; then its connection is closed."""


class AnswerResponse(Response):
    """Generates the answer while it is sent, and cancels it when the client leaves."""

    def __init__(self, generation: Generation, route: Route, model: ModelInfo) -> None:
        """Hold the request; nothing has begun yet.

        Args:
            generation: The request.
            route: The form of its answer.
            model: The served model.
        """
        super().__init__()
        self._generation, self._route, self._model = generation, route, model
        chat = route == "chat"
        self._body: type[CompletionResponse | ChatResponse] = ChatResponse if chat else CompletionResponse
        self._chunk: type[CompletionChunk | ChatChunk] = ChatChunk if chat else CompletionChunk
        self._head: dict[str, Any] = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{secrets.token_hex(12)}",
            "object": "text_completion" if not chat else f"chat.completion{self._stream * '.chunk'}",
            "created": int(time.time()),
            "model": model.name,
        }

    @property
    def _stream(self) -> bool:
        return self._generation.prepared.stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Generate and send."""
        with self._generation:
            try:
                async with asyncio.timeout_at(self._generation.deadline + _SECONDS_FOR_THE_ERROR):
                    await _unless_disconnected(receive, self._answer(scope, receive, send))
            except TimeoutError:
                log.warning("a client did not read its answer in time; its connection is closed")

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._generation.begin()
            response = None if self._stream else await self._whole()
        except ApiError as error:
            response = error.response()
        if response is not None:
            await response(scope, receive, send)
        else:
            await self._send_events(send)

    async def _whole(self) -> Response:
        prepared, completions = self._generation.prepared, await self._generation.completions()
        choices = [whole_choice(self._route, self._model, prepared, *one) for one in enumerate(completions)]
        counted = usage(prepared, sum(len(one.tokens) for one in completions))
        body = self._body.model_validate(self._head | {"choices": choices, "usage": counted})
        return Response(body.json_bytes(), media_type="application/json")

    async def _send_events(self, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async with aclosing(self._events()) as events:
            async for event in events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _events(self) -> AsyncGenerator[bytes, None]:
        """The events, `[DONE]` last; an answer that fails half way has its error before that."""
        try:
            async with aclosing(self._chunks()) as chunks:
                async for chunk in chunks:
                    yield _event(chunk)
        except ApiError as error:
            yield _event(error.body())
        yield b"data: [DONE]\n\n"

    async def _chunks(self) -> AsyncGenerator[CompletionChunk | ChatChunk, None]:
        prepared, new_tokens = self._generation.prepared, 0
        head = self._head | ({"usage": None} if prepared.include_usage else {})
        streams = [ChoiceStream(self._route, self._model, prepared, index) for index in range(len(prepared.requests))]
        for stream in streams:
            for choice in stream.first():
                yield self._chunk.model_validate(head | {"choices": [choice]})
        async for found in self._generation.events():
            for choice in streams[found.index].chunks(found.event):
                yield self._chunk.model_validate(head | {"choices": [choice]})
            if found.event.completion is not None:
                new_tokens += len(found.event.completion.tokens)
        if prepared.include_usage:
            yield self._chunk.model_validate(head | {"choices": [], "usage": usage(prepared, new_tokens)})


def _event(data: ResponseModel) -> bytes:
    return b"data: " + data.json_bytes() + b"\n\n"


async def _unless_disconnected(receive: Callable[[], Awaitable[Any]], work: Awaitable[T]) -> T | None:
    """Do `work`, and drop it as soon as the client is gone.

    Args:
        receive: ASGI's, after the body has been read.
        work: Cancelled when the client leaves.

    Returns:
        The result of `work`; None when there is nobody left to send it to.
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
