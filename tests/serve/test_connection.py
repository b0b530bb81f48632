"""Connections that say nothing and bodies that drip: dropped in time, and no trouble for others meanwhile."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from pydantic import SecretStr

from retro.serve.config import ServeConfig
from tests.serve.fake_server import fake_service
from tests.serve.running import running
from tests.serve.test_stopping import process

BODY = json.dumps({"prompt": "a", "max_tokens": 3}).encode()


def head(length: int, key: str = "") -> bytes:
    """The head of a request whose body is to have that length."""
    lines = ["POST /v1/completions HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
    lines += [f"Content-Length: {length}", *([f"Authorization: Bearer {key}"] if key else [])]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def connect(port: int, data: bytes = b"") -> socket.socket:
    found = socket.create_connection(("127.0.0.1", port), timeout=30)
    found.sendall(data)
    return found


def answer(connection: socket.socket) -> bytes:
    """A whole answer."""
    found = b""
    while (parts := found.partition(b"\r\n\r\n"))[1] == b"" or len(parts[2]) < _length(parts[0]):
        more = connection.recv(4096)
        assert more, found
        found += more
    return found


def _length(head: bytes) -> int:
    return next(int(line[15:]) for line in head.lower().splitlines() if line.startswith(b"content-length:"))


def is_dropped(connection: socket.socket) -> bool:
    """Wait for the other side to close without having said anything."""
    try:
        return connection.recv(100) == b""
    except ConnectionResetError:
        return True


@contextmanager
def dripping(connections: list[socket.socket]) -> Iterator[None]:
    """Send a byte on each every now and then, while the block runs."""
    ended = threading.Event()

    def drip() -> None:
        while not ended.wait(0.1):
            for one in connections:
                try:
                    one.sendall(b"x")
                except OSError:
                    continue

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_half_open_connections_are_dropped_and_others_are_answered_meanwhile() -> None:
    config = ServeConfig(arrival_seconds=1.5, api_key=SecretStr("long-enough"))
    with running(fake_service(config)) as server, ExitStack() as stack:
        part = b"POST /v1/completions HTTP/1.1\r\nHost: loc"
        held = [stack.enter_context(connect(server.port, part if number % 2 else b"")) for number in range(200)]
        # Bytes that come later do not lengthen the time of a head.
        with dripping(held[1:20:2]):
            assert server.get("/health").status == 200
            assert all(is_dropped(one) for one in held)
        assert server.get("/health").status == 200


def test_a_later_request_on_a_connection_has_as_little_time_for_its_head() -> None:
    with running(fake_service(ServeConfig(arrival_seconds=0.5))) as server:
        with connect(server.port, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n") as connection:
            assert answer(connection).startswith(b"HTTP/1.1 200")
            connection.sendall(b"GET /hea")
            assert is_dropped(connection)
        assert server.post("/v1/completions", {"prompt": "a", "max_tokens": 2}).status == 200


def test_the_connection_that_waits_longest_makes_room_for_one_more() -> None:
    config = ServeConfig(arrival_seconds=60, max_connections=3)
    with running(fake_service(config)) as server, ExitStack() as stack:
        first = stack.enter_context(connect(server.port))
        assert server.get("/health").status == 200
        held = [stack.enter_context(connect(server.port, b"GET ")) for _ in range(2)]
        assert server.get("/health").status == 200
        assert is_dropped(first)
        held[1].sendall(b"/health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert answer(held[1]).startswith(b"HTTP/1.1 200")


def test_slow_bodies_take_no_place_from_others_and_end_in_408() -> None:
    # Three may be answered or wait, and eight more be on their way.
    config = ServeConfig(arrival_seconds=2.0, max_running=1, max_queued=2)
    with running(fake_service(config)) as server, ExitStack() as stack:
        slow = [stack.enter_context(connect(server.port, head(1000) + b"{")) for _ in range(30)]
        with dripping(slow):
            assert server.post("/v1/completions", json.loads(BODY)).status == 200
            answers = [answer(one) for one in slow]
        assert {one[:12] for one in answers} == {b"HTTP/1.1 408"}


def test_a_body_that_comes_steadily_has_the_time_that_its_size_needs() -> None:
    body = json.dumps({"prompt": "a", "max_tokens": 2, "user": "u" * 20_000}).encode()
    slow = fake_service(ServeConfig(arrival_seconds=0.6))
    with running(slow) as server, connect(server.port, head(len(body)) + body[:-20]) as connection:
        time.sleep(1.2)
        connection.sendall(body[-20:])
        assert answer(connection).startswith(b"HTTP/1.1 200")


def test_a_client_without_the_key_cannot_go_on_sending() -> None:
    config = ServeConfig(api_key=SecretStr("long-enough"))
    with running(fake_service(config)) as server, connect(server.port, head(900_000, "wrong-key")) as connection:
        assert answer(connection).startswith(b"HTTP/1.1 401")
        with dripping([connection]):
            assert is_dropped(connection)


def test_a_request_that_is_still_arriving_when_the_server_stops_gets_503() -> None:
    with process("arrival_seconds=60") as server, connect(server.port, head(1000) + b"{") as connection:
        with connect(server.port, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n") as other:
            assert answer(other).startswith(b"HTTP/1.1 200")  # so it has the bytes of the first connection too
        server.stop(signal.SIGTERM)
        found = answer(connection)
        assert found.startswith(b"HTTP/1.1 503")
        assert b'"stopping"' in found
        assert server.ended() == 0
