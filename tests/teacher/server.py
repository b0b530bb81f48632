"""An OpenAI-compatible server on this machine that misbehaves as it is told."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-a-very-secret-key-4711"


@dataclass(frozen=True)
class Sent:
    """What the server sends: a status, a body, and headers."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    breaks_off: bool = False
    """Whether the connection ends in the middle of the body."""


def reply(text: str | None, **more: Any) -> Sent:
    """A reply in good order; `more` goes into the choice."""
    choice = {"index": 0, "finish_reason": "stop"} | more | {"message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    body = {"id": "x", "object": "chat.completion", "model": "teacher-2026", "choices": [choice], "usage": usage}
    return Sent(200, json.dumps(body).encode())


def error(status: int, message: str, *, retry_ms: int | None = 1) -> Sent:
    """An error in the form of OpenAI."""
    headers = {} if retry_ms is None else {"retry-after-ms": str(retry_ms)}
    return Sent(status, json.dumps({"error": {"message": message, "code": None}}).encode(), headers)


@dataclass
class Server:
    """What the tests see of it."""

    answer: Callable[[dict[str, Any], int], Sent]
    """Told the body of a request, and how often its last message has come before."""
    port: int = 0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)
    most_at_once: int = 0
    at_once: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)
    leaving: threading.Event = field(default_factory=threading.Event)
    """Set at the end: what hangs lets go."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def prompts(self) -> list[str]:
        """The last message of each request, in the order in which they came."""
        return [body["messages"][-1]["content"] for body in self.bodies]


@contextmanager
def serving(answer: Callable[[dict[str, Any], int], Sent]) -> Iterator[Server]:
    """Run a server until the block ends."""
    server = Server(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked = body["messages"][-1]["content"]
            with server.lock:
                server.bodies.append(body)
                server.authorizations.append(self.headers["Authorization"])
                before = server.seen[asked]
                server.seen[asked] += 1
                server.at_once += 1
                server.most_at_once = max(server.most_at_once, server.at_once)
            sent = server.answer(body, before)
            with server.lock:
                server.at_once -= 1
            self.send_response(sent.status)
            for name, value in {"Content-Type": "application/json", **sent.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(sent.body) + sent.breaks_off))
            self.close_connection = sent.breaks_off
            self.end_headers()
            self.wfile.write(sent.body)

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server.port = http.server_address[1]
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.leaving.set()
        http.shutdown()
        http.server_close()
        thread.join()
