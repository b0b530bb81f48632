"""Reads a JSON body within bounds: size, time, nesting, finite numbers, keys once, UTF-8 text."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar, get_type_hints

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from retro.common.json_files import DeepJsonError, JsonError, half_character, parse_json
from retro.serve.errors import ApiError, stopping, too_slow

T = TypeVar("T")
_BYTES_PER_SECOND = 10_000
"""A large body has longer: what a slow mobile connection carries."""


class BodyTimeouts:
    """How long bodies may take to arrive; they end when the server stops."""

    def __init__(self, seconds: float) -> None:
        """Begin without a body.

        Args:
            seconds: Time for a body, and one second more for every 10,000 bytes that have come.
        """
        self._seconds, self._stopping = seconds, False
        self._timeouts: set[asyncio.Timeout] = set()

    @asynccontextmanager
    async def limited(self, parts: AsyncIterator[bytes]) -> AsyncIterator[AsyncIterator[bytes]]:
        """The parts of a body, within its time.

        Raises:
            ApiError: It took longer, or the server is stopping.
        """
        start = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout_at(start if self._stopping else start + self._seconds) as timeout:
                self._timeouts.add(timeout)
                try:
                    yield self._extend(parts, timeout, start)
                finally:
                    self._timeouts.discard(timeout)
        except TimeoutError:
            if self._stopping:
                raise stopping() from None
            raise ApiError(408, "the request did not arrive in time", code="timeout") from None

    async def _extend(
        self, parts: AsyncIterator[bytes], timeout: asyncio.Timeout, start: float
    ) -> AsyncIterator[bytes]:
        received = 0
        async for part in parts:
            received += len(part)
            if not self._stopping:
                timeout.reschedule(start + self._seconds + received / _BYTES_PER_SECOND)
            yield part

    def stop(self) -> None:
        """End bodies that have not arrived; later ones must be there at once."""
        self._stopping = True
        now = asyncio.get_running_loop().time()
        for timeout in self._timeouts:
            timeout.reschedule(now)


async def read_body(headers: Mapping[str, str], parts: AsyncIterator[bytes], limit: int) -> bytes:
    """Read a body, and stop as soon as it is too long.

    Args:
        headers: Of the request; a wrong Content-Length does not help it.
        parts: The body as it comes in.
        limit: Most bytes.

    Raises:
        ApiError: It is longer, or its type is not JSON. A page of another origin can send other types without asking
            first, so the type is a protection.
    """
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise ApiError(415, f"Content-Type is {media_type or 'missing'!r}; send application/json")
    length = headers.get("content-length", "0")
    if not length.isdecimal() or len(length) > 18 or int(length) > limit:
        raise _too_large(limit)
    body = bytearray()
    async for part in parts:
        body += part
        if len(body) > limit:
            raise _too_large(limit)
    return bytes(body)


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"the body is larger than {limit:,} bytes, the limit of this server", code="body_too_large")


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a body.

    Raises:
        ApiError: It is not a JSON object; or has NaN, a number of thousands of digits, a key twice, brackets nested too
            deep, or half a surrogate pair.
    """
    try:
        data = parse_json(body, keys_once=True, finite=True)
    except DeepJsonError:
        raise _invalid_json("nests too deep") from None
    except JsonError as error:
        raise _invalid_json(f"is not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise _invalid_json(f"is a JSON {_json_type(data)}; send an object")
    if half_character(body.decode(), data) is not None:
        raise _invalid_json("holds half a surrogate pair (\\ud800 to \\udfff alone), which is not text")
    return data


def _invalid_json(problem: str) -> ApiError:
    return ApiError(400, f"the body {problem}", code="invalid_json")


def _json_type(value: object) -> str:
    names = {list: "list", str: "string", int: "number", float: "number", bool: "boolean", type(None): "null"}
    return names.get(type(value), "value")


async def run_in_thread(deadline: float, call: Callable[..., T], *arguments: Any) -> T:
    """Make a call that takes a while for a long prompt, so that other requests need not wait for it.

    Raises:
        ApiError: It is not done by the deadline, on the event loop's clock.
    """
    try:
        async with asyncio.timeout_at(deadline):
            return await asyncio.to_thread(call, *arguments)
    except TimeoutError:
        raise too_slow() from None


def _validate(content: bytes, model: type[BaseModel]) -> BaseModel:
    try:
        return model.model_validate(parse_object(content))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise RequestValidationError([{**first, "loc": ("body", *first["loc"])}]) from None


class _ValidatedRequest(Request):
    """A request whose body has been read and validated; FastAPI passes the model on to the endpoint."""

    def __init__(self, request: Request, content: bytes, body: BaseModel) -> None:
        super().__init__(request.scope, request.receive)
        self._content, self._validated = content, body

    async def body(self) -> bytes:
        return self._content

    async def json(self) -> Any:
        return self._validated


class BoundedBodyRoute(APIRoute):
    """A route whose JSON body is read within the bounds of the server, and validated beside the event loop.

    The endpoint's parameter `body` is the model. FastAPI alone would read a body of any size, accept NaN and double
    keys, and let every other request wait while it validates.
    `request.state.deadline` is when the answer must be there, on the event loop's clock.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler of the route, behind the bounds."""
        handle = super().get_route_handler()
        model: type[BaseModel] = get_type_hints(self.endpoint)["body"]

        async def handle_bounded(request: Request) -> Response:
            service = request.app.state.service
            request.state.deadline = deadline = asyncio.get_running_loop().time() + service.config.seconds_per_request
            try:
                async with service.body_timeouts.limited(request.stream()) as parts:
                    content = await read_body(request.headers, parts, service.config.max_body_bytes)
            except ClientDisconnect:
                return Response(status_code=499)
            body = await run_in_thread(deadline, _validate, content, model)
            return await handle(_ValidatedRequest(request, content, body))

        return handle_bounded
