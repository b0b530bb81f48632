"""Clients for the load test: well-behaved ones, ones that leave half way, and ones that send nonsense.

Sockets are used directly: what is to be tested is among other things what happens when they are closed at a bad moment.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"

# Bodies that are refused, with the status that each must have.
MALFORMED: tuple[tuple[bytes, int], ...] = (
    (b"", 400),
    (b"{", 400),
    (b"[1, 2]", 400),
    (b"\xff\xfe\x00", 400),
    (b'{"prompt": NaN}', 400),
    (b'{"prompt": "\\ud800"}', 400),
    (b'{"prompt": "a", "max_tokens": -1}', 400),
    (b'{"prompt": "a", "temperature": 1e999}', 400),
    (b'{"prompt": "a", "n": ' + b"9" * 6000 + b"}", 400),
    (b'{"prompt": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", 400),
    (b'{"prompt": "a", "best_of": 4}', 400),
    (b'{"prompt": "a", "model": "another"}', 404),
    (b'{"prompt": "' + b"a" * 1_100_000 + b'"}', 413),
)


@dataclass(frozen=True)
class Question:
    """A request whose answer must be the same whoever asks beside it."""

    path: str
    body: dict[str, Any]

    def streamed(self, stream: bool) -> dict[str, Any]:
        """The body of a request for a whole answer, or a streamed one."""
        return self.body | ({"stream": True, "stream_options": {"include_usage": True}} if stream else {})


@dataclass(frozen=True)
class Outcome:
    """What a request came to."""

    status: int
    text: str = ""
    tokens: int = 0
    seconds: float = 0.0
    first_token: float | None = None
    """Seconds until the first text of a streamed answer."""


class Connection:
    """One request on one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.status = 0
        self._chunked = False
        self._length = 0

    @classmethod
    async def open(cls, port: int) -> Connection:
        """Connect to this machine."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def send(self, path: str, body: bytes, *, part: int | None = None) -> None:
        """Send a request, or only the first `part` bytes of its body."""
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nConnection: close\r\n"
        self._writer.write(head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body[:part])
        await self._writer.drain()

    async def read_head(self) -> int:
        """The status of the answer."""
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        self.status = int(head.split(" ", 2)[1])
        self._chunked = "transfer-encoding: chunked" in head
        length = [line for line in head.split("\r\n") if line.startswith("content-length:")]
        self._length = int(length[0].partition(":")[2]) if length else 0
        return self.status

    async def parts(self) -> AsyncIterator[bytes]:
        """The body, as it comes.

        Raises:
            IncompleteReadError: The connection ended before the body did.
        """
        if not self._chunked:
            yield await self._reader.readexactly(self._length)
            return
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            yield (await self._reader.readexactly(size + 2))[:-2]

    def close(self) -> None:
        """Leave, whatever was still to come."""
        self._writer.transport.abort()


async def ask(port: int, question: Question, *, stream: bool) -> Outcome:
    """Ask, and read the whole answer."""
    connection = await Connection.open(port)
    began, first = time.perf_counter(), None
    body = json.dumps(question.streamed(stream)).encode()
    try:
        await connection.send(question.path, body)
        status = await connection.read_head()
        read = bytearray()
        async for part in connection.parts():
            if first is None and stream and status == 200 and _has_text(part):
                first = time.perf_counter() - began
            read += part
    finally:
        connection.close()
    seconds = time.perf_counter() - began
    if status != 200:
        return Outcome(status, seconds=seconds)
    text, tokens = _streamed(bytes(read)) if stream else _whole(bytes(read))
    return Outcome(status, text, tokens, seconds, first)


async def leave(port: int, question: Question, *, after: int) -> None:
    """Ask for a stream and go away: 0, within the request; else after so many parts of the answer."""
    connection = await Connection.open(port)
    body = json.dumps(question.streamed(True)).encode()
    try:
        await connection.send(question.path, body, part=None if after else len(body) // 2)
        if after and await connection.read_head() == 200:
            async for _ in connection.parts():
                after -= 1
                if after <= 0:
                    break
    finally:
        connection.close()


async def send_nonsense(port: int, body: bytes) -> int:
    """Send what is not a request; the status of the answer, 0 where the connection was closed while it was sent."""
    connection = await Connection.open(port)
    try:
        await connection.send(COMPLETIONS, body)
        return await connection.read_head()
    except (ConnectionError, asyncio.IncompleteReadError):
        # A server that refuses a body by its length may close before it was sent.
        return 0
    finally:
        connection.close()


def _has_text(part: bytes) -> bool:
    return any(text for text, _ in map(_piece, _events(part)))


def _events(data: bytes) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in data.decode().split("\n\n") if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def _piece(event: Any) -> tuple[str, int]:
    if "error" in event:
        raise ValueError(f"an answer failed: {event['error']}")
    tokens = (event.get("usage") or {}).get("completion_tokens", 0)
    choices = event["choices"]
    if not choices:
        return "", tokens
    delta = choices[0].get("delta")
    return choices[0].get("text", "") if delta is None else delta.get("content", ""), tokens


def _streamed(data: bytes) -> tuple[str, int]:
    if not data.endswith(b"data: [DONE]\n\n"):
        raise ValueError("a stream ended without [DONE]")
    pieces = [_piece(event) for event in _events(data)]
    return "".join(text for text, _ in pieces), sum(tokens for _, tokens in pieces)


def _whole(data: bytes) -> tuple[str, int]:
    found = json.loads(data)
    choice = found["choices"][0]
    text = choice["text"] if "text" in choice else choice["message"]["content"]
    return text, found["usage"]["completion_tokens"]
