"""Clients as they are: the official OpenAI client, curl, and some that leave or never finish."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

import openai
import pytest

from retro.serve.config import ServeConfig
from tests.serve.fake_engine import FakeEngine, fake_answer
from tests.serve.fake_server import fake_service
from tests.serve.running import RunningServer, running

KEY = "sk-0123456789"


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with running(fake_service(ServeConfig(api_key=KEY))) as found:
        yield found


@pytest.fixture(scope="module")
def client(server: RunningServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0)


def answer(prompt: str, seed: int, tokens: int) -> str:
    return fake_answer(tuple(prompt.encode()), seed).encode()[:tokens].decode(errors="ignore")


PLAIN = "question: Who?\nanswer:"


def test_the_openai_client_lists_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["fake"]
    assert client.models.retrieve("fake").owned_by == "retro"
    with pytest.raises(openai.NotFoundError, match=r"is not served here"):
        client.models.retrieve("gpt-4")


def test_the_openai_client_completes(client: openai.OpenAI) -> None:
    found = client.completions.create(model="fake", prompt="Once", max_tokens=20, seed=3, n=2, logprobs=1)
    assert [choice.text for choice in found.choices] == [answer("Once", 3, 20), answer("Once", 4, 20)]
    assert found.usage is not None
    assert found.usage.completion_tokens == 40
    assert found.choices[0].logprobs is not None
    assert found.choices[0].logprobs.token_logprobs == [-0.5] * 20
    assert found.choices[0].to_dict()["retrieval"]["source"] == "live"  # type: ignore[index]


def test_the_openai_client_streams_a_completion(client: openai.OpenAI) -> None:
    pieces = client.completions.create(model="fake", prompt="Once", max_tokens=20, seed=3, stream=True)
    assert "".join(piece.choices[0].text for piece in pieces) == answer("Once", 3, 20)


def test_the_openai_client_chats_and_reads_what_was_retrieved(client: openai.OpenAI) -> None:
    found = client.chat.completions.create(
        model="fake",
        messages=[{"role": "user", "content": "Who?"}],
        max_completion_tokens=20,
        seed=3,
        extra_body={"retrieval": {"source": "given", "passages": [{"title": "T", "text": "told"}]}},
    )
    choice = found.choices[0]
    assert (choice.message.content, choice.finish_reason) == (answer(PLAIN, 3, 20)[1:], "length")
    retrieval = choice.to_dict()["retrieval"]
    assert [chunk["passages"][0]["text"] for chunk in retrieval["chunks"]] == ["told", "told"]  # type: ignore[index]


def test_the_openai_client_streams_a_chat_with_usage(client: openai.OpenAI) -> None:
    pieces = list(
        client.chat.completions.create(
            model="fake",
            messages=[{"role": "user", "content": "Who?"}],
            max_tokens=20,
            seed=3,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert pieces[0].choices[0].delta.role == "assistant"
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert text == answer(PLAIN, 3, 20)[1:]
    assert pieces[-1].usage is not None
    assert pieces[-1].usage.completion_tokens == 20


def test_the_openai_client_s_answer_can_be_sent_back_as_a_message(client: openai.OpenAI) -> None:
    asked: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "Who?"}]
    first = client.chat.completions.create(model="fake", messages=asked, max_tokens=4, seed=3).choices[0].message
    dumped = first.model_dump()
    again = client.chat.completions.create(
        model="fake",
        messages=[*asked, dumped, {"role": "user", "content": "Why?"}],  # type: ignore[list-item]
        max_tokens=4,
        seed=3,
    )
    prompt = f"question: Who?\nanswer: {first.content}\nquestion: Why?\nanswer:"
    assert again.choices[0].message.content == answer(prompt, 3, 4)[1:]


def test_the_openai_client_raises_its_own_errors(client: openai.OpenAI, server: RunningServer) -> None:
    with pytest.raises(openai.BadRequestError, match=r"best_of: is not supported") as refused:
        client.completions.create(model="fake", prompt="a", best_of=3)
    assert (refused.value.param, refused.value.code) == ("best_of", "unsupported_parameter")
    with pytest.raises(openai.AuthenticationError, match=r"the API key is wrong"):
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0).models.list()
    with pytest.raises(openai.InternalServerError, match=r"failed on the server"):
        client.completions.create(model="fake", prompt="break the step")
    with pytest.raises(openai.APIError, match=r"failed on the server"):
        list(client.completions.create(model="fake", prompt="break the step", stream=True))


def curl(*arguments: str) -> str:
    command = ["curl", "--silent", "--show-error", "--no-buffer", "--max-time", "30", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_curl_gets_whole_and_streamed_answers(server: RunningServer) -> None:
    head = ["-H", "Content-Type: application/json", "-H", f"Authorization: Bearer {KEY}"]
    body = {"model": "fake", "prompt": "Once", "max_tokens": 8, "seed": 3}
    found = json.loads(curl(f"{server.url}/v1/completions", *head, "-d", json.dumps(body)))
    assert found["choices"][0]["text"] == answer("Once", 3, 8)
    streamed = curl(f"{server.url}/v1/completions", *head, "-d", json.dumps(body | {"stream": True}))
    assert streamed.endswith("data: [DONE]\n\n")
    status = curl("-o", "/dev/null", "-w", "%{http_code}", f"{server.url}/v1/completions", *head[:2], "-d", "{}")
    assert status == "401"


def wait_until(happened: Callable[[], bool]) -> None:
    for _ in range(2000):
        if happened():
            return
        time.sleep(0.01)
    raise TimeoutError("it did not happen in 20 s")


def request_bytes(**body: object) -> bytes:
    data = json.dumps(body).encode()
    head = ["POST /v1/completions HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
    return "\r\n".join([*head, f"Content-Length: {len(data)}", "", ""]).encode() + data


@pytest.mark.parametrize("stream", [True, False])
def test_when_a_client_leaves_its_answer_is_cancelled(stream: bool) -> None:
    gate = threading.Event()
    engine = FakeEngine(gate=gate)
    with running(fake_service(open_engine=lambda: engine)) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            connection.sendall(request_bytes(prompt="a", max_tokens=300, stream=stream))
            wait_until(lambda: engine.waiting == 1)
        # The client is gone while the first step is still running.
        wait_until(lambda: server.service.metrics.cancelled._value.get() == 1)
        gate.set()
        wait_until(lambda: server.service.work.unfinished == engine.running == 0)
        assert engine.steps < 100
        assert server.post("/v1/completions", {"prompt": "Once", "seed": 3}).json["choices"][0]["text"] == answer(
            "Once", 3, 16
        )


def test_a_full_server_says_when_to_retry() -> None:
    gate = threading.Event()
    engine = FakeEngine(gate=gate, max_running=1)
    config = ServeConfig(max_running=1, max_queued=1)
    with running(fake_service(config, open_engine=lambda: engine)) as server:
        answers: list[int] = []
        asking = [
            threading.Thread(target=lambda: answers.append(server.post("/v1/completions", {"prompt": "a"}).status))
            for _ in range(2)
        ]
        for thread in asking:
            thread.start()
        wait_until(lambda: server.service.work.unfinished == 2)
        refused = server.post("/v1/completions", {"prompt": "a"})
        assert (refused.status, refused.headers["retry-after"]) == (429, "1")
        assert refused.error["type"] == "rate_limit_error"
        gate.set()
        for thread in asking:
            thread.join(timeout=20)
        assert answers == [200, 200]


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_that_takes_too_long_ends_in_an_error_and_is_cancelled(stream: bool) -> None:
    engine = FakeEngine(step_seconds=0.02)
    config = ServeConfig(seconds_per_request=0.5)
    with running(fake_service(config, open_engine=lambda: engine)) as server:
        found = server.post("/v1/completions", {"prompt": "a", "max_tokens": 300, "stream": stream})
        error = found.events[-1]["error"] if stream else found.error
        assert found.status == (200 if stream else 504)
        assert (error["type"], error["code"]) == ("timeout_error", "timeout")
        wait_until(lambda: engine.running == 0)


def test_a_body_that_never_arrives_times_out() -> None:
    with running(fake_service(ServeConfig(arrival_seconds=0.3))) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            connection.sendall(request_bytes(prompt="a")[:-5])
            assert connection.recv(4096).startswith(b"HTTP/1.1 408")
        assert server.get("/health").status == 200


def test_health_says_when_the_engine_fails_and_a_dead_one_is_not_live() -> None:
    engines = iter([FakeEngine()])
    with running(fake_service(open_engine=lambda: next(engines))) as server:
        assert server.get("/health").json["status"] == "ok"
        assert server.post("/v1/completions", {"prompt": "break the step"}).status == 500
        wait_until(lambda: server.get("/health").json["status"] == "dead")
        assert (server.get("/health").status, server.get("/health/live").status) == (503, 503)
        assert server.get("/health").json["failed_steps"] == 1
        refused = server.post("/v1/completions", {"prompt": "a"})
        assert (refused.status, refused.headers["retry-after"]) == (503, "5")


def test_while_stopping_it_is_live_and_not_ready() -> None:
    with running(fake_service()) as server:
        server.service.work.stop_accepting()
        assert (server.get("/health").status, server.get("/health/live").status) == (503, 200)
        assert server.post("/v1/completions", {"prompt": "a"}).error["code"] == "stopping"
