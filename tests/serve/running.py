"""A server on a thread of the test, and the plainest client."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any

import uvicorn

from retro.serve.run import listen, server_config
from retro.serve.served import Served


@dataclass(frozen=True)
class HttpAnswer:
    """One HTTP answer."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = self.json["error"]
        return found

    @property
    def events(self) -> list[Any]:
        """Data of server-sent events; `[DONE]` must be the last, and is left out."""
        lines = [line for line in self.text.split("\n\n") if line]
        assert all(line.startswith("data: ") for line in lines)
        assert lines[-1] == "data: [DONE]"
        return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


@dataclass(frozen=True)
class RunningServer:
    """A server that answers."""

    service: Served
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str, **headers: str) -> HttpAnswer:
        return self.send("GET", path, None, headers)

    def post(self, path: str, body: Any, **headers: str) -> HttpAnswer:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.send("POST", path, data, {"Content-Type": "application/json"} | headers)

    def send(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> HttpAnswer:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, dict(headers))
            found = connection.getresponse()
            return HttpAnswer(found.status, dict(found.getheaders()), found.read().decode())
        finally:
            connection.close()


@contextmanager
def running(service: Served) -> Iterator[RunningServer]:
    """Serve on a free port until the block ends."""
    listener = listen(service.config.model_copy(update={"port": 0}))
    server = uvicorn.Server(server_config(service))
    service.work.start()
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True)
    thread.start()
    try:
        yield RunningServer(service, listener.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(timeout=20)
        service.work.close()
