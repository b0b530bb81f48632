"""Who may ask, under which name and from which page; and what everybody may see."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from retro.serve.config import ServeConfig
from retro.serve.errors import ApiError
from retro.serve.middleware import AccessMiddleware, Metrics, host_name, route_of
from tests.serve.fake_server import fake_service
from tests.serve.running import RunningServer, running

KEY = "sk-0123456789"


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with running(fake_service(ServeConfig(max_body_bytes=2000))) as found:
        yield found


@pytest.fixture(scope="module")
def locked() -> Iterator[RunningServer]:
    with running(fake_service(ServeConfig(api_key=KEY, allowed_origins=("https://app.example",)))) as found:
        yield found


def passes(config: ServeConfig, **headers: str) -> bool:
    async def nothing(*_: Any) -> None: ...

    try:
        AccessMiddleware(nothing, config=config, metrics=Metrics()).check("GET", "/v1/models", headers)
    except ApiError as error:
        assert error.status_code in (401, 403)
        return False
    return True


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("LocalHost:8000", "localhost"),
        ("127.0.0.1", "127.0.0.1"),
        ("[::1]:80", "::1"),
        ("[0:0:0:0:0:0:0:1]", "::1"),
        ("example.org:", "example.org"),
        ("localhost@evil.example", ""),
        ("evil.example#@localhost", ""),
        ("localhost:port", "localhost"),
        ("[::1", ""),
        ("", ""),
    ],
)
def test_the_name_in_a_host_header(host: str, name: str) -> None:
    assert host_name(host) == name


def test_on_this_machine_only_its_own_host_names_are_accepted() -> None:
    local = ServeConfig()
    assert all(passes(local, host=host) for host in ("127.0.0.1:8000", "localhost", "[::1]:8000"))
    assert not any(
        passes(local, host=host) for host in ("evil.example", "127.0.0.1.evil.example", "", "localhost@evil")
    )
    assert passes(ServeConfig(allowed_hosts=("Box.Lan",)), host="box.lan:8000")
    assert passes(ServeConfig(allowed_hosts=("*",)), host="evil.example")


def test_on_another_address_all_host_names_are_accepted_until_some_are_listed() -> None:
    anywhere = ServeConfig(host="0.0.0.0", open_to_all=True)
    assert passes(anywhere, host="box.lan")
    listed = anywhere.model_copy(update={"allowed_hosts": ("box.lan",)})
    assert passes(listed, host="box.lan")
    assert not passes(listed, host="evil.example")


def test_pages_of_other_origins_are_refused_unless_they_are_listed() -> None:
    config = ServeConfig(allowed_origins=("https://app.example",))
    assert passes(config, host="localhost:8000", origin="http://localhost:8000")
    assert passes(config, host="localhost:8000", origin="https://app.example")
    assert not passes(config, host="localhost:8000", origin="http://localhost:9000")
    assert not passes(config, host="localhost:8000", origin="null")
    assert not passes(config, host="localhost:8000", origin="http://[bad")


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer wrong",
        f"Basic {KEY}",
        KEY,
        f"Bearer {KEY}x",
        f"Bearer {KEY[:-1]}",
        "Bearer ключ",
        "Bearer \udcff",
    ],
)
def test_a_wrong_key_does_not_pass(authorization: str) -> None:
    assert not passes(ServeConfig(api_key=KEY), host="localhost", authorization=authorization)


def test_the_right_key_passes_and_pages_and_health_need_none(locked: RunningServer) -> None:
    for path in ("/v1/models", "/v1/models/fake", "/metrics", "/openapi.json"):
        missing = locked.get(path)
        assert (missing.status, missing.error["code"]) == (401, "invalid_api_key")
        assert missing.headers["www-authenticate"] == "Bearer"
        assert locked.get(path, Authorization=f"bearer {KEY}").status == 200
    assert locked.post("/v1/completions", {"prompt": "a"}).status == 401
    assert locked.post("/v1/completions", {"prompt": "a"}, Authorization=f"Bearer {KEY}").status == 200
    assert [locked.get(path).status for path in ("/", "/health", "/health/live")] == [200, 200, 200]


def test_cors_preflight_allows_a_listed_origin_and_no_other(locked: RunningServer) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    listed = locked.send("OPTIONS", "/v1/completions", None, asked | {"Origin": "https://app.example"})
    assert listed.headers["access-control-allow-origin"] == "https://app.example"
    other = locked.send("OPTIONS", "/v1/completions", None, asked | {"Origin": "https://evil.example"})
    assert other.status == 403
    assert "access-control-allow-origin" not in other.headers


def test_without_listed_origins_there_is_no_cors_header(server: RunningServer) -> None:
    assert "access-control-allow-origin" not in server.get("/v1/models").headers


def test_a_rebound_name_is_refused_on_every_path(server: RunningServer) -> None:
    for path in ("/", "/health", "/v1/models", "/metrics", "/nowhere"):
        found = server.get(path, Host="evil.example")
        assert (found.status, found.error["code"]) == (403, "host_not_allowed")


def test_every_response_has_safe_headers(server: RunningServer) -> None:
    for path in ("/v1/models", "/nowhere"):
        headers = server.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert "server" not in headers or "uvicorn" in headers["server"]


def test_paths_and_methods_that_are_not_there_are_answered_in_the_same_form(server: RunningServer) -> None:
    assert (server.get("/v1/embeddings").status, server.get("/v1/completions").status) == (404, 405)
    assert set(server.get("/docs").error) == {"message", "type", "param", "code"}
    assert server.get("/v1/models/other").error["code"] == "model_not_found"


def test_a_body_longer_than_its_content_length_is_refused(server: RunningServer) -> None:
    assert server.post("/v1/completions", {"prompt": "a" * 3000}).status == 413
    chunked = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    chunked += b"Transfer-Encoding: chunked\r\n\r\n" + b"3e8\r\n" + b"x" * 1000 + b"\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(chunked + b"5dc\r\n" + b"x" * 1500 + b"\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    ("authorization", "sent", "status"),
    [
        ("", b"zz\r\n{}\r\n", b"400"),
        (f"Authorization: Bearer {KEY}\r\n", b"zz\r\n{}\r\n", b"400"),
        ("", b"", b"401"),
    ],
)
def test_a_body_in_broken_chunks_is_one_line_in_the_log(
    locked: RunningServer, authorization: str, sent: bytes, status: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n{authorization}"
    head += "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", locked.port), timeout=20) as connection:
        connection.sendall(head.encode() + sent)
        found = connection.recv(4096)
        if not sent:
            # HttpAnswer before its body came, which is broken.
            connection.sendall(b"zz\r\n{}\r\n")
        while more := connection.recv(4096):
            found += more
    assert found.startswith(b"HTTP/1.1 " + status)
    assert found.count(b"HTTP/1.1") == 1
    assert locked.get("/health/live").status == 200
    assert [record.getMessage() for record in caplog.records] == ["Invalid HTTP request received."]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        (b'{"prompt": NaN}', 400),
        (b"\xff\xfe", 400),
        (b'{"prompt": "\\ud800"}', 400),
        (b"{}", 400),
    ],
)
def test_bad_bodies_are_answered_and_the_server_goes_on(server: RunningServer, body: bytes, status: int) -> None:
    assert server.post("/v1/completions", body).status == status
    assert server.post("/v1/chat/completions", body).status == status
    assert server.post("/v1/completions", {"prompt": "a"}).status == 200


def test_a_form_is_not_taken_for_json(server: RunningServer) -> None:
    found = server.send("POST", "/v1/completions", b'{"prompt": "a"}', {"Content-Type": "text/plain"})
    assert found.status == 415


def test_requests_tokens_and_answers_are_counted(server: RunningServer) -> None:
    body = {"prompt": "abcd", "max_tokens": 5, "stream": True, "retrieval": {"source": "live"}}
    before = numbers(server)
    assert server.post("/v1/completions", body).status == 200
    server.get("/any/path/at/all")
    now = numbers(server)
    grown = {name: now[name] - before.get(name, 0) for name in now if now[name] != before.get(name, 0)}
    assert grown['retro_requests_total{route="/v1/completions",status="200"}'] == 1
    assert grown['retro_requests_total{route="other",status="404"}'] == 1
    assert (grown["retro_prompt_tokens_total"], grown["retro_new_tokens_total"]) == (4, 5)
    assert grown['retro_answers_total{ended="length"}'] == 1
    assert grown["retro_first_token_seconds_count"] == 1
    assert (now["retro_running"], now["retro_waiting"]) == (0, 0)
    assert now["retro_searches_total"] == 0  # the fake engine searches by itself


def test_searches_are_counted_by_text() -> None:
    metrics = Metrics()
    assert metrics.counted(lambda texts: [[] for _ in texts])(["a", "b"]) == [[], []]
    assert b"retro_searches_total 2.0" in metrics.text()
    assert b"retro_search_seconds_count 1.0" in metrics.text()


def numbers(server: RunningServer) -> dict[str, float]:
    lines = [line.rpartition(" ") for line in server.get("/metrics").text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def test_a_path_is_counted_under_one_of_a_few_names() -> None:
    assert route_of("/v1/models/anything/at/all") == "/v1/models"
    assert [route_of(path) for path in ("/v1/completions", "/x", "/health/live")] == [
        "/v1/completions",
        "other",
        "/health/live",
    ]
