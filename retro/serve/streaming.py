"""One answer onto its connection: whole as JSON, or as server-sent events while it is generated."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from retro.serve.bodies import usage, usage_of
from retro.serve.choices import ChoiceStream, Form, whole_choice
from retro.serve.errors import ApiError
from retro.serve.generation import Generation, unless_gone
from retro.serve.model_info import ModelInfo

log = logging.getLogger(__name__)

_SECONDS_TO_SAY_SO = 5.0
"""How long a connection may take to have the end of an answer whose time is up; then it is closed."""


def refused(refusal: ApiError) -> JSONResponse:
    """A refusal as a response."""
    return JSONResponse(refusal.body(), status_code=refusal.status, headers=refusal.headers())


class AnswerResponse(Response):
    """Generates the answer while it is sent, and cancels it when the client leaves."""

    def __init__(self, answering: Generation, form: Form, served: ModelInfo, deadline: float) -> None:
        """Hold what is asked; nothing has begun yet.

        Args:
            answering: The request.
            form: How its answer looks.
            served: The model.
            deadline: Of the event loop's clock.
        """
        super().__init__()
        self._answering, self._form, self._served, self._deadline = answering, form, served, deadline
        self._head = {
            "id": form.id_prefix + secrets.token_hex(12),
            "object": form.piece if answering.ask.stream else form.whole,
            "created": int(time.time()),
            "model": served.name,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        with self._answering:
            try:
                async with asyncio.timeout_at(self._deadline + _SECONDS_TO_SAY_SO):
                    await unless_gone(receive, self._answer(scope, receive, send))
            except TimeoutError:
                log.warning("a client did not read its answer in time; its connection is closed")

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._answering.begin()
            response = None if self._answering.ask.stream else await self._whole()
        except ApiError as refusal:
            response = refused(refusal)
        if response is not None:
            await response(scope, receive, send)
        else:
            await self._stream(send)

    async def _whole(self) -> Response:
        ask, served = self._answering.ask, self._served
        completions = await self._answering.completions()
        choices = [whole_choice(self._form, served, ask, *one) for one in enumerate(completions)]
        return JSONResponse(self._head | {"choices": choices, "usage": usage_of(ask, completions)})

    async def _stream(self, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async with aclosing(self._lines()) as lines:
            async for line in lines:
                await send({"type": "http.response.body", "body": line, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _lines(self) -> AsyncGenerator[bytes, None]:
        """The events, `[DONE]` last; an answer that fails half way says so before."""
        try:
            async with aclosing(self._pieces()) as pieces:
                async for piece in pieces:
                    yield _line(self._head | piece)
        except ApiError as refusal:
            yield _line(refusal.body())
        yield b"data: [DONE]\n\n"

    async def _pieces(self) -> AsyncGenerator[dict[str, Any], None]:
        ask, new_tokens = self._answering.ask, 0
        none = {"usage": None} if ask.include_usage else {}
        streams = [ChoiceStream(self._form, self._served, ask, index) for index in range(len(ask.requests))]
        for stream in streams:
            for choice in stream.first():
                yield {"choices": [choice]} | none
        async for told in self._answering.events():
            for choice in streams[told.index].pieces(told.event):
                yield {"choices": [choice]} | none
            if told.event.completion is not None:
                new_tokens += len(told.event.completion.tokens)
        if ask.include_usage:
            yield {"choices": [], "usage": usage(ask.prompt_tokens, new_tokens)}


def _line(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n\n"
